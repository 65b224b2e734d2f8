"""How sure the model was of a box."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlmchat.tasks import Detection

PLACES = 4 * len("<loc0000>")  # characters that write a box


def confidence(found: Detection, pieces: Sequence[str], logprobs: Sequence[float]) -> float | None:
    """The geometric mean of the probabilities (0 to 1) of the tokens that wrote the box.

    `pieces` are the texts of the answer's tokens, `logprobs` their log-probabilities. The four
    places of a box come one after the other, so that their product is the probability of the box;
    its fourth root does not shrink with their number and can be read as "how sure of each side".
    The label has no part in it: it repeats the question. None where the tokens are not known.
    """
    written = [
        logprob
        for (begin, end), logprob in zip(spans(pieces), logprobs, strict=False)
        if begin < found.at + PLACES and end > found.at
    ]
    return math.exp(sum(written) / len(written)) if written else None


def spans(pieces: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Where each piece begins and ends in the text that they make together."""
    end = 0
    for piece in pieces:
        begin, end = end, end + len(piece)
        yield begin, end

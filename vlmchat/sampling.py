"""From scores to a token: greedy, or drawn with temperature, top-k and top-p.

PyTorch is imported by what uses it: the settings alone are wanted before a model is loaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmchat.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Beyond these a temperature changes nothing more, and dividing by it would leave float32's range.
COLDEST, HOTTEST = 1e-6, 1e9


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. Temperature 0 takes the likeliest; the next three apply above it.

    `top_k` keeps that many of the likeliest tokens (0: all), `top_p` the fewest whose probability
    adds up to it; `seed` makes the draw repeatable (None: another each time). `max_tokens` ends an
    answer. Raises UserError for values out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    max_tokens: int = 256
    seed: int | None = None

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, "0 or more", 0 <= self.temperature < math.inf)
        _check("top-k", self.top_k, "0 (off) or more", self.top_k >= 0)
        _check("top-p", self.top_p, "above 0 and up to 1", 0 < self.top_p <= 1)
        _check("max-tokens", self.max_tokens, "1 or more", self.max_tokens >= 1)
        if self.seed is not None:
            _check("seed", self.seed, "from 0 to 2**63 - 1", 0 <= self.seed < 2**63)


def _check(name: str, value: float, wanted: str, is_right: bool) -> None:
    if not is_right:
        raise UserError(f"{name} {value}: it must be {wanted}")


class Sampler:
    """Chooses the tokens of one answer, and holds the random state of its draws."""

    def __init__(self, sampling: Sampling, device: torch.device | str = "cpu") -> None:
        import torch

        self.sampling = sampling
        self._generator = torch.Generator(device)
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def pick(self, logits: Tensor) -> tuple[int, float]:
        """Choose from logits (V,): the token, and its log-probability in the model's own terms.

        That is before temperature, top-k and top-p: how likely the model found it. Raises UserError
        where the scores are no numbers.
        """
        import torch

        if self.sampling.temperature == 0:
            token, logprob = likeliest(logits)
            refuse_useless(float(logprob))
            return int(token), float(logprob)
        logits = logits.float()
        logprobs = logits.log_softmax(-1)
        refuse_useless(float(logprobs.max()))
        temperature = min(max(self.sampling.temperature, COLDEST), HOTTEST)
        kept = restrict((logits - logits.max()) / temperature, self.sampling)
        drawn = int(torch.multinomial(kept.softmax(-1), 1, generator=self._generator))
        return drawn, float(logprobs[drawn])


def likeliest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The greedy choice from logits (V,): token (1,) and log-probability (1,), on the device."""
    logits = logits.float()  # its largest is found in a third of the time that bfloat16 takes
    token = logits.argmax(-1, keepdim=True)
    return token, logits.log_softmax(-1).gather(-1, token)


def refuse_useless(logprob: float) -> None:
    """Raise UserError unless it is a number: one NaN among the scores makes every one NaN."""
    if not math.isfinite(logprob):
        raise UserError(
            "the model's scores are no numbers: its weights are damaged, or float16 is too narrow "
            "for them: download them again, or use --dtype bfloat16 or float32"
        )


def restrict(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits (V,) with -inf for all tokens that top-k and then top-p leave out.

    Nucleus sampling after Holtzman et al. 2020 (arXiv 1904.09751): the likeliest tokens up to and
    with the one whose probability reaches top-p, so that there is always one.
    """
    import torch

    if 0 < sampling.top_k < logits.numel():
        best = logits.topk(sampling.top_k)  # by place, since half-precision scores often tie
        logits = torch.full_like(logits, -torch.inf).index_copy(0, best.indices, best.values)
    if sampling.top_p < 1:
        probabilities, order = logits.softmax(-1).sort(descending=True)
        before = probabilities.cumsum(-1) - probabilities
        logits = logits.index_fill(0, order[before >= sampling.top_p], -torch.inf)
    return logits

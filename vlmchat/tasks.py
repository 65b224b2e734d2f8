"""PaliGemma's task language: prompts that ask for something, and answers that point at it.

A prompt begins with a task word (`answer en …`, `caption en`, `detect cat ; dog`); an answer may
hold places, written as tokens: `<loc0051><loc0309><loc0708><loc0646> shoe` is a box, top, left,
bottom, right, each a 1024th of the image's side, and sixteen `<segNNN>` behind it are a mask.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from vlmchat.errors import UserError

TASK_WORDS = ("answer", "cap", "caption", "describe", "detect", "ocr", "question", "segment")
PLACEHOLDER = "{question}"
LAST_BIN = 1023  # big_vision writes round(coordinate * 1023)
MASK_CODES = 16
CODEBOOK = 128  # codes that there are

_FIRST_WORD = re.compile(r"(\w+)(?!\S)")
_LANGUAGE = re.compile(r"(?:answer|cap|caption|describe|question) [a-z]{2}(?!\S)")
_ITEM = re.compile(
    r"(?<!<loc\d{4}>)((?:<loc\d{4}>){4})(?!<loc\d{4}>)"  # four places, no fifth on either side
    r"(?:\s*((?:<seg\d{3}>)+))?"
    r"(.*?)(?=\s;|;\s|<loc\d{4}>|<seg\d{3}>|\n|$)",  # the label, which may hold a ";" within a word
    re.ASCII,
)


@dataclass(frozen=True)
class Detection:
    """Something found: its label and box (y0, x0, y1, x1), 0 to 1, as the model writes it.

    `mask_codes` are the sixteen codes of a mask within the box, where there is one. `at` is where
    in the answer's text its first place stands.
    """

    label: str
    box: tuple[float, float, float, float]
    mask_codes: tuple[int, ...] | None = None
    at: int = field(default=0, compare=False)

    def pixel_box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """(x0, y0, x1, y1) in pixels of an image of that size (width, height)."""
        width, height = size
        y0, x0, y1, x1 = self.box
        return (x0 * width, y0 * height, x1 * width, y1 * height)


def is_task(text: str) -> bool:
    """Whether `text` begins with one of PaliGemma's task words, in lower case, as a whole word."""
    first = _FIRST_WORD.match(text.lstrip())
    return first is not None and first[1] in TASK_WORDS


def wrap(question: str, template: str) -> str:
    """`question` put where the template says; raises UserError where it says nothing."""
    if PLACEHOLDER not in template:
        raise UserError(
            f"the template {template!r} has no {PLACEHOLDER}: write it where the question goes"
        )
    return template.replace(PLACEHOLDER, question)


def leading_words(prompt: str) -> str:
    """The fixed words that a task's prompts have in common, `""` where there are none.

    `answer en what is it` -> `answer en`; `detect cat` -> `detect`; `caption en` -> `caption en`.
    """
    prompt = prompt.strip()
    if not is_task(prompt):
        return ""
    with_language = _LANGUAGE.match(prompt)
    return with_language[0] if with_language else prompt.split(maxsplit=1)[0]


def is_fixed(prompt: str) -> bool:
    """Whether a prompt is complete without variable words: `ocr`, `caption en`, not `detect`."""
    words = prompt.split()
    return prompt.strip() == "ocr" or (
        len(words) == 2 and words[0] in ("cap", "caption", "describe") and _is_language(prompt)
    )


def _is_language(prompt: str) -> bool:
    return _LANGUAGE.fullmatch(prompt.strip()) is not None


def caption(language: str = "en") -> str:
    """Ask for a caption in a language, by its two letters."""
    return f"caption {language}"


def ocr() -> str:
    """Ask for the text in the image."""
    return "ocr"


def detect(labels: Sequence[str]) -> str:
    """Ask for a box around each thing of these names."""
    return "detect " + " ; ".join(labels)


def segment(labels: Sequence[str]) -> str:
    """Ask for a box and a mask for each thing of these names."""
    return "segment " + " ; ".join(labels)


def parse_detections(text: str) -> list[Detection]:
    """The boxes in an answer, in its order; whatever is no whole item is skipped.

    An item is exactly four places, perhaps mask codes, and a label up to a `;` beside a space, a
    line's end or the next token. The corners of a box are put in order, since a box has no
    direction; a mask has one, and is kept only where it is whole and its corners are in order.
    """
    found = []
    for item in _ITEM.finditer(text):
        places, codes, label = item.groups(default="")
        y0, x0, y1, x1 = (min(int(n), LAST_BIN) / LAST_BIN for n in re.findall(r"\d{4}", places))
        box = (min(y0, y1), min(x0, x1), max(y0, y1), max(x0, x1))
        mask = tuple(int(n) for n in re.findall(r"\d{3}", codes))
        is_whole = len(mask) == MASK_CODES and max(mask) < CODEBOOK and y0 < y1 and x0 < x1
        name = label.strip().rstrip(";").rstrip()
        found.append(Detection(name, box, mask if is_whole else None, item.start()))
    return found

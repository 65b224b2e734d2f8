"""Printed words and numbers: what they say, in which font, and where each letter is.

The fonts are those that come with Pillow and with matplotlib, where that is installed. What is
printed can be read by whoever sees it: a lone `O`, which might be a zero, or `sos`, which might be
`SOS`, is never printed.
"""

import random
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
LONGEST = 8
FONT_FILES = (
    *("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans-Oblique.ttf", "DejaVuSansMono.ttf"),
    *("DejaVuSansMono-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf"),
    *("DejaVuSerif-Italic.ttf", "STIXGeneral.ttf", "cmss10.ttf", "cmr10.ttf", "cmtt10.ttf"),
)
# Letters that look the same, or nearly, in upper and lower case.
ALIKE = set("cosuvwxzkp")
_WORDS = """
    open closed exit stop go sale shop cafe hotel taxi bus park zoo bank post menu bread milk
    tea coffee sugar water juice apple lemon salt rice fish north south east west left right up
    down push pull hello yes no welcome thanks free new old hot cold red blue green gold silver
    moon sun star sky sea river lake hill road street bridge tower gate house garden school
    music radio photo film book paper pen table chair door window lamp clock time day night week
    month year monday friday june july summer winter happy lucky magic super mega ultra best
    first last next start end play pause home mail code data file help info test demo beta model
    vision token gemma image pixel word chat paris london tokyo berlin roma oslo lima cairo dog
    cat bird horse lion tiger bear wolf fox duck one two three four five six seven eight nine
    ten zero alpha omega delta sigma love peace hope light dark fast slow north quiet loud
    danger warning notice private staff only keep out clear please wait here there
"""
WORDS = tuple(_WORDS.split())
CONSONANTS, VOWELS = "bcdfghjklmnpqrstvwxyz", "aeiou"


@dataclass(frozen=True)
class Printed:
    """A text as two pictures of one size: the ink, and whose each pixel is.

    `letters` holds 1 + the place in LETTERS of the letter whose room a pixel is in, 0 elsewhere.
    """

    ink: Image.Image
    letters: Image.Image


def font_folder() -> Path | None:
    """Where matplotlib keeps its fonts; None where it is not installed."""
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"


@lru_cache(maxsize=512)
def load_font(name: str | None, size: int) -> Font:
    """The font file of that name at so many pixels; None is the font inside Pillow."""
    folder = font_folder()
    if name is None or folder is None:
        return ImageFont.load_default(size)
    return ImageFont.truetype(folder / name, size)


def draw_words(rng: random.Random) -> str:
    """Something to print: a word, letters that might be one, a number, or a code like `B52`."""
    while True:
        kind = rng.choices(("word", "letters", "number", "code"), weights=(30, 32, 28, 10))[0]
        if kind == "number":
            text = "".join(rng.choices("0123456789", k=rng.choice((1, 1, 2, 2, 3, 3, 4, 5, 6, 8))))
        elif kind == "code":
            text = "".join(rng.choices("ABCDEFGHJKLMNPQRSTUVWXYZ", k=rng.randint(1, 2)))
            text += "".join(rng.choices("23456789", k=rng.randint(1, 3)))
        else:
            word = rng.choice(WORDS) if kind == "word" else _might_be_a_word(rng)
            text = rng.choice((str.upper, str.upper, str.lower, str.title))(word)
        if is_readable(text):
            return text


def _might_be_a_word(rng: random.Random) -> str:
    """Letters in no order that a dictionary knows, of any length that a text may have."""
    length, word = rng.randint(1, LONGEST), ""
    while len(word) < length:
        letters = VOWELS if word and word[-1] in CONSONANTS and rng.random() < 0.7 else CONSONANTS
        word += rng.choice(letters if rng.random() < 0.85 else VOWELS)
    return word


def is_readable(text: str) -> bool:
    """Whether the text, seen alone, can be nothing else."""
    low = set(text.lower())
    if len(text) > LONGEST or low <= set("oil01"):
        return False
    if text.isalpha() and (text.isupper() or text.islower()) and low <= ALIKE | set("il"):
        return False
    if len(text) == 1 and text.islower():
        return False
    # `Ill` and `lll`, `Ol` and `0l`: a capital I beside small letters is anybody's guess.
    return not (text[0] == "I" and text[1:].islower())


def print_text(text: str, font: Font, turn: float) -> Printed:
    """Print in white on black, turned by so many degrees."""
    left, top, right, bottom = (round(edge) for edge in font.getbbox(text))
    size = (right - left, bottom - top)
    ink, letters = Image.new("L", size, 0), Image.new("L", size, 0)
    ImageDraw.Draw(ink).text((-left, -top), text, fill=255, font=font)
    pen = ImageDraw.Draw(letters)
    edges = [font.getlength(text[:count]) - left for count in range(len(text) + 1)]
    for letter, start, end in zip(text, edges, edges[1:], strict=False):
        pen.rectangle([start, 0, end - 1, size[1]], fill=1 + LETTERS.index(letter))
    if turn:
        ink = ink.rotate(turn, Image.Resampling.BILINEAR, expand=True)
        letters = letters.rotate(turn, Image.Resampling.NEAREST, expand=True)
    return Printed(ink, letters)

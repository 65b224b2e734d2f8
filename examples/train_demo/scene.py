"""Draw a scene: a few coloured shapes, perhaps a printed word, and remember what is where.

Nothing is downloaded and nobody labels anything: whoever draws a picture knows what is in it.
What makes it worth looking at is variety: outlines, sizes, tilts, shades, borders, backgrounds,
blur, JPEG noise and the picture's own proportions all change, so that only what has a name stays
the same.

Coordinates: x to the right, y down, the origin in the top left corner.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from examples.train_demo.backdrops import draw_backdrop, photograph
from examples.train_demo.canvas import FORM_SIDE, Box, Canvas, Colour
from examples.train_demo.lettering import FONT_FILES, draw_words, load_font, print_text
from examples.train_demo.outlines import SHAPES, UPRIGHT, Point, draw_outline

# Three shades of each; whatever lies between them has the same name.
COLOURS: dict[str, tuple[Colour, Colour, Colour]] = {
    "red": ((215, 35, 40), (165, 18, 30), (248, 50, 45)),
    "green": ((45, 160, 60), (25, 110, 40), (75, 205, 70)),
    "blue": ((40, 80, 215), (20, 35, 160), (60, 130, 245)),
    "yellow": ((240, 215, 40), (255, 242, 70), (228, 192, 15)),
    "orange": ((240, 135, 30), (255, 162, 35), (230, 105, 15)),
    "purple": ((130, 50, 170), (92, 22, 130), (160, 75, 212)),
    "pink": ((245, 130, 185), (255, 180, 203), (240, 90, 165)),
    "brown": ((125, 75, 40), (92, 52, 25), (155, 95, 52)),
    "black": ((20, 20, 20), (8, 8, 8), (42, 42, 42)),
    "white": ((245, 245, 245), (255, 255, 255), (226, 226, 226)),
}
DIAMETERS = ((0.13, 0.18), (0.18, 0.27), (0.28, 0.42))  # small, medium, large; 1 = mean side
DIAMETER_WEIGHTS = (2, 3, 3)
LEAST_DIAMETER = 12  # pixels
COUNTS = (1, 1, 2, 3, 4, 5, 6)  # how many things a scene has; one thing is asked about most
MOST_THINGS = max(COUNTS)
TEXT_SHARE, ONLY_TEXT_SHARE = 0.33, 0.03  # scenes with a text; with nothing else
SIDES = (64, 300)  # pixels; the mean side of a picture, each doubling as likely as any other
LARGEST_ASPECT = 2.0
# Sums of channel differences that keep things, and letters, visible on their background.
VISIBLE, LEGIBLE = 100, 150
CLEARANCE = 0.82  # centres are at least this share of both radii apart
TRIES = 30  # to find room for one more thing
OVERSAMPLING = (1, 2, 2, 2, 3)  # drawn so much larger, then shrunk; 1 leaves edges jagged
# Letters have to be seen by a model that squashes all to a small square: shares of the picture.
LETTER_WIDTHS, LEAST_LETTER_HEIGHT = (0.04, 0.12), 0.065
LEAST_LETTER = (5, 10)  # pixels across and down
WIDEST_TEXT = 0.88


@dataclass(frozen=True)
class Thing:
    """One shape in a scene; its box is in shares of the picture's width and height, 0 to 1."""

    shape: str
    colour: str
    box: Box

    @property
    def name(self) -> str:
        """What a person would call it: `red star`."""
        return f"{self.colour} {self.shape}"

    @property
    def centre(self) -> Point:
        """The middle of its box."""
        x0, y0, x1, y1 = self.box
        return ((x0 + x1) / 2, (y0 + y1) / 2)

    @property
    def area(self) -> float:
        """The area of its box, as a share of the picture."""
        x0, y0, x1, y1 = self.box
        return (x1 - x0) * (y1 - y0)


@dataclass(frozen=True)
class Text:
    """What is printed in a scene, and in which colour."""

    content: str
    colour: str


@dataclass(frozen=True)
class Contents:
    """What is in a picture: all that can be asked about."""

    things: tuple[Thing, ...]
    text: Text | None = None


@dataclass(frozen=True)
class Scene:
    """A picture, what is in it, and whose each part of it is.

    `owners` and `letters` (64, 64) cover the whole picture. In `owners` 0 is background, 1 the
    first of the things, and so on; in `letters` it is 1 + the place in `lettering.LETTERS`.
    `forms` (N, 8, 8) is each thing alone: how much of each part of its box it covers, 0 to 255.
    """

    image: Image.Image
    contents: Contents
    owners: np.ndarray
    letters: np.ndarray
    forms: np.ndarray

    @property
    def things(self) -> tuple[Thing, ...]:
        """The shapes."""
        return self.contents.things


@dataclass
class Room:
    """What is taken of a picture: circles (x, y, radius) and rectangles, in its pixels."""

    width: int
    height: int
    circles: list[tuple[float, float, float]] = field(default_factory=list)
    rectangles: list[Box] = field(default_factory=list)

    def has_circle(self, x: float, y: float, radius: float) -> bool:
        """Whether a thing may lie there: it may overlap others a little, and letters never."""
        for left, top, right, bottom in self.rectangles:
            away = math.hypot(
                max(left - x, 0, x - right), max(top - y, 0, y - bottom)
            )  # from the nearest point of the rectangle
            if away < 1.05 * radius:
                return False
        return all(
            math.hypot(x - other_x, y - other_y) > CLEARANCE * (radius + other)
            for other_x, other_y, other in self.circles
        )


def draw_scene(
    rng: random.Random,
    count: int | None = None,
    side: float | None = None,
    text: bool | None = None,
) -> Scene:
    """Draw `count` things (None: one to six) in a picture of mean side `side` pixels.

    There may be fewer things where there is no room. `text` says whether something is printed too;
    None is as it comes.
    """
    while True:
        with_text = rng.random() < TEXT_SHARE if text is None else text
        only_text = count is None and text is None and rng.random() < ONLY_TEXT_SHARE
        wanted = 0 if only_text else rng.choice(COUNTS) if count is None else count
        scene = _attempt(rng, wanted, side, with_text or only_text)
        if scene.things or (only_text and scene.contents.text):
            return scene


def _attempt(rng: random.Random, count: int, side: float | None, with_text: bool) -> Scene:
    """One scene; it may turn out empty, since a large thing does not fit a narrow picture."""
    width, height = _picture_size(rng, side)
    backdrop, papers = draw_backdrop(rng, width, height)
    canvas = Canvas(backdrop, rng.choice(OVERSAMPLING) if max(width, height) < 600 else 1)
    room = Room(width, height)
    inks, colours = _visible_on(papers, LEGIBLE), _visible_on(papers, VISIBLE)
    text = _print(rng, canvas, room, rng.choice(inks)) if with_text else None
    things = [_place(rng, canvas, room, colours) for _ in range(count)]
    return Scene(
        image=photograph(rng, canvas.image, canvas.scale),
        contents=Contents(tuple(thing for thing in things if thing), text),
        owners=canvas.small(canvas.owners),
        letters=canvas.small(canvas.letters),
        forms=np.array(canvas.forms, dtype=np.uint8).reshape(-1, FORM_SIDE, FORM_SIDE),
    )


def _picture_size(rng: random.Random, side: float | None) -> tuple[int, int]:
    """Width and height: square in four of ten cases, else up to twice as long as wide."""
    spread = math.log(LARGEST_ASPECT)
    aspect = math.exp(rng.uniform(-spread, spread)) if rng.random() < 0.6 else 1.0
    if side is None:
        side = math.exp(rng.uniform(*map(math.log, SIDES)))
    return int(side * math.sqrt(aspect)), int(side / math.sqrt(aspect))


def _visible_on(papers: Sequence[np.ndarray], least: float) -> list[str]:
    """Names of the colours that stand out from all of these, by at least so much."""
    return [
        name
        for name, shades in COLOURS.items()
        if all(np.abs(one - paper).sum() > least for one in shades for paper in papers)
    ] or list(COLOURS)


def _place(rng: random.Random, canvas: Canvas, room: Room, colours: Sequence[str]) -> Thing | None:
    """Put one thing where there is room for it; None where none is found."""
    for _ in range(TRIES):
        (diameters,) = rng.choices(DIAMETERS, DIAMETER_WEIGHTS)
        radius = rng.uniform(*diameters) * math.sqrt(room.width * room.height) / 2
        radius = max(radius, LEAST_DIAMETER / 2)
        inset = 0.9 * radius  # it may reach a little over the edge
        x, y = rng.uniform(inset, room.width - inset), rng.uniform(inset, room.height - inset)
        if 2 * radius <= min(room.width, room.height) and room.has_circle(x, y, radius):
            room.circles.append((x, y, radius))
            return _paint(rng, canvas, (x, y, radius), rng.choice(SHAPES), rng.choice(colours))
    return None


def _paint(
    rng: random.Random,
    canvas: Canvas,
    spot: tuple[float, float, float],
    shape: str,
    colour: str,
) -> Thing:
    """Put one thing on the canvas: turned, stretched a little, its colour a little off."""
    turn, stretch, outline = _turn(rng, shape), rng.uniform(0.86, 1.16), draw_outline(rng, shape)
    cos, sin = spot[2] * math.cos(turn), spot[2] * math.sin(turn)

    def placed(points: Sequence[Point]) -> list[Point]:
        return [
            (spot[0] + stretch * x * cos - y * sin, spot[1] + stretch * x * sin + y * cos)
            for x, y in points
        ]

    points, hole = placed(outline.points), placed(outline.hole or [])
    fill = shade(rng, colour)
    if rng.random() < 0.1:
        canvas.shadow(points, hole, 0.12 * spot[2])
    box = canvas.fill(points, hole, fill, rng.uniform(0.75, 1.0) if rng.random() < 0.2 else 1.0)
    if rng.random() < 0.35:
        width = max(1.0, rng.uniform(0.5, 2.5) * min(1.0, spot[2] / 15))
        for line in (points, hole) if hole else (points,):
            canvas.trace(line, _border(rng, fill), width)
    return Thing(shape, colour, box)


def _border(rng: random.Random, fill: Colour) -> Colour:
    """A colour for the line around a thing: darker, nearly black, or nearly white."""
    kind = rng.random()
    if kind < 0.5:
        return (int(0.45 * fill[0]), int(0.45 * fill[1]), int(0.45 * fill[2]))
    return shade(rng, "black" if kind < 0.8 else "white")


def _turn(rng: random.Random, shape: str) -> float:
    """By how much to turn a shape, in radians."""
    if shape in UPRIGHT:
        return rng.uniform(-0.3, 0.3)
    return rng.uniform(-0.4, 0.4) if rng.random() < 0.65 else rng.uniform(0, 2 * math.pi)


def shade(rng: random.Random, colour: str, spread: int = 12) -> Colour:
    """A shade between the three of that name, or a little beside them."""
    weights = np.array([rng.expovariate(1) for _ in range(3)])
    mixed = weights @ np.array(COLOURS[colour]) / weights.sum()
    red, green, blue = (max(0, min(255, round(c) + rng.randint(-spread, spread))) for c in mixed)
    return (red, green, blue)


def _print(rng: random.Random, canvas: Canvas, room: Room, colour: str) -> Text | None:
    """Print something where it can be read; None where it cannot."""
    for _ in range(TRIES):
        content, name = draw_words(rng), rng.choice((*FONT_FILES, None))
        size = _letter_size(rng, room, len(content))
        font = load_font(name, max(8, round(size * canvas.scale)))
        turn = rng.uniform(-7, 7) if rng.random() < 0.35 else 0.0
        printed = print_text(content, font, turn)
        width, height = (side / canvas.scale for side in printed.ink.size)
        if not (width < WIDEST_TEXT * room.width and height < 0.6 * room.height):
            continue
        if width < LEAST_LETTER[0] * len(content):
            continue
        x, y = rng.uniform(0, room.width - width), rng.uniform(0, room.height - height)
        canvas.stamp(printed, (x, y), shade(rng, colour))
        room.rectangles.append((x, y, x + width, y + height))
        return Text(content, colour)
    return None


def _letter_size(rng: random.Random, room: Room, letters: int) -> float:
    """A font size in pixels: letters wide and high enough, the text not wider than the picture."""
    widest = min(LETTER_WIDTHS[1], WIDEST_TEXT / letters)
    width = rng.uniform(LETTER_WIDTHS[0], max(LETTER_WIDTHS[0], widest)) * room.width
    height = max(LEAST_LETTER_HEIGHT * room.height, LEAST_LETTER[1])
    return max(width / 0.6, height / 0.72)

"""Draw a scene: a few coloured shapes on a background, and remember what is where.

Nothing is downloaded and nobody labels anything: whoever draws a picture knows what is in it.
What makes it worth looking at is variety: sizes, tilts, backgrounds, blur, JPEG noise and the
picture's own proportions all change, so that only colour and shape stay the same.

Coordinates: x to the right, y down, the origin in the top left corner.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from examples.train_demo.backdrops import draw_backdrop, photograph
from examples.train_demo.outlines import HOLES, OUTLINES, SHAPES, UPRIGHT, Point

Box = tuple[float, float, float, float]  # x0, y0, x1, y1
Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "red": (215, 35, 40),
    "green": (45, 160, 60),
    "blue": (40, 80, 215),
    "yellow": (240, 215, 40),
    "orange": (240, 135, 30),
    "purple": (130, 50, 170),
    "pink": (245, 130, 185),
    "brown": (125, 75, 40),
    "black": (20, 20, 20),
    "white": (245, 245, 245),
}
DIAMETERS = ((0.13, 0.18), (0.18, 0.26), (0.29, 0.42))  # small, medium, large; 1 = mean side
DIAMETER_WEIGHTS = (2, 3, 3)
COUNTS = (1, 1, 2, 3, 4, 5, 6)  # how many things a scene has; one thing is asked about most
SIDES = (96, 128, 160, 220)  # pixels; the mean side of a picture
LARGEST_ASPECT = 2.0
OVERSAMPLING = 2  # drawn so much larger, then shrunk: that makes edges smooth
VISIBLE = 110  # sum of channel differences that keeps a thing visible on its background
CLEARANCE = 0.82  # centres are at least this share of both radii apart
TRIES = 30  # to find room for one more thing
OWNERS_SIDE = 64  # cells a side of the map of whose pixel is whose
FORM_SIDE = 8  # cells a side of the map of one thing


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
class Scene:
    """A picture, what is in it, and whose each part of it is.

    `owners` (64, 64) covers the whole picture: 0 is background, 1 the first of `things`, and so on.
    `forms` (N, 8, 8) is each thing alone: how much of each part of its box it covers, 0 to 1.
    """

    image: Image.Image
    things: tuple[Thing, ...]
    owners: np.ndarray
    forms: np.ndarray


@dataclass(frozen=True)
class Spot:
    """Where a thing goes: centre and radius in pixels of the picture."""

    x: float
    y: float
    radius: float


def draw_scene(rng: random.Random, count: int | None = None) -> Scene:
    """Draw `count` things (None: one to six). There may be fewer where there is no room."""
    while True:
        scene = _attempt(rng, rng.choice(COUNTS) if count is None else count)
        if scene.things:
            return scene


def _attempt(rng: random.Random, count: int) -> Scene:
    """One scene; it may turn out empty, since a large thing does not fit a narrow picture."""
    width, height = _picture_size(rng)
    backdrop, paper = draw_backdrop(rng, width, height)
    canvas = Canvas(backdrop)
    colours = _visible_on(paper)
    spots: list[Spot] = []
    things: list[Thing] = []
    for _ in range(count):
        spot = _free_spot(rng, width, height, spots)
        if spot is not None:
            spots.append(spot)
            things.append(_paint(rng, canvas, spot, rng.choice(SHAPES), rng.choice(colours)))
    owners = canvas.owners.resize((OWNERS_SIDE, OWNERS_SIDE), Image.Resampling.NEAREST)
    forms = [canvas.form(number, thing.box) for number, thing in enumerate(things, start=1)]
    return Scene(
        image=photograph(rng, canvas.image, OVERSAMPLING),
        things=tuple(things),
        owners=np.asarray(owners),
        forms=np.array(forms),
    )


def _picture_size(rng: random.Random) -> tuple[int, int]:
    """Width and height: square in four of ten cases, else up to twice as long as wide."""
    spread = math.log(LARGEST_ASPECT)
    aspect = math.exp(rng.uniform(-spread, spread)) if rng.random() < 0.6 else 1.0
    side = rng.choice(SIDES)
    return int(side * math.sqrt(aspect)), int(side / math.sqrt(aspect))


def _visible_on(paper: Sequence[float]) -> list[str]:
    """Names of the colours that stand out from `paper`."""

    def difference(colour: Colour) -> float:
        return sum(abs(a - b) for a, b in zip(colour, paper, strict=True))

    return [name for name, rgb in COLOURS.items() if difference(rgb) > VISIBLE] or list(COLOURS)


def _free_spot(rng: random.Random, width: int, height: int, taken: Sequence[Spot]) -> Spot | None:
    """Room for one more thing, which may reach a little over the edge; None where none is found."""
    for _ in range(TRIES):
        (diameters,) = rng.choices(DIAMETERS, DIAMETER_WEIGHTS)
        radius = rng.uniform(*diameters) * math.sqrt(width * height) / 2
        inset = 0.9 * radius
        x, y = rng.uniform(inset, width - inset), rng.uniform(inset, height - inset)
        fits = 2 * radius <= min(width, height)
        if fits and all(
            math.hypot(x - other.x, y - other.y) > CLEARANCE * (radius + other.radius)
            for other in taken
        ):
            return Spot(x, y, radius)
    return None


class Canvas:
    """A picture being drawn, larger than it will be, with a map of whose each pixel is."""

    def __init__(self, backdrop: Image.Image) -> None:
        size = (backdrop.width * OVERSAMPLING, backdrop.height * OVERSAMPLING)
        self.image = backdrop.resize(size, Image.Resampling.BILINEAR)
        self.owners = Image.new("L", size, 0)
        self.painted = 0

    def fill(self, outline: list[Point], hole: list[Point] | None, colour: Colour) -> Box:
        """Paint a polygon, perhaps with a hole; its box as shares of the picture."""
        stencil = Image.new("L", self.image.size, 0)
        pen = ImageDraw.Draw(stencil)
        pen.polygon(outline, fill=255)
        if hole is not None:
            pen.polygon(hole, fill=0)
        self.painted += 1
        self.image.paste(colour, (0, 0), stencil)
        self.owners.paste(self.painted, (0, 0), stencil)
        x0, y0, x1, y1 = stencil.getbbox() or (0, 0, 0, 0)
        width, height = self.image.size
        return (x0 / width, y0 / height, x1 / width, y1 / height)

    def trace(self, outline: list[Point], colour: Colour, width: int) -> None:
        """Draw a line around a polygon."""
        pen = ImageDraw.Draw(self.image)
        pen.line(outline + outline[:2], fill=colour, width=width, joint="curve")

    def form(self, number: int, box: Box) -> np.ndarray:
        """How much of each part (8, 8) of its box the thing of that number covers, 0 to 1."""
        width, height = self.image.size
        left, top = int(box[0] * width), int(box[1] * height)
        part = self.owners.crop((left, top, math.ceil(box[2] * width), math.ceil(box[3] * height)))
        alone = part.point([255 * (owner == number) for owner in range(256)])
        small = alone.resize((FORM_SIDE, FORM_SIDE), Image.Resampling.BOX)
        return np.asarray(small, dtype=np.float32) / 255


def _paint(rng: random.Random, canvas: Canvas, spot: Spot, shape: str, colour: str) -> Thing:
    """Put one thing on the canvas: turned, stretched a little, its colour a little off."""
    turn, stretch = _turn(rng, shape), rng.uniform(0.88, 1.12)

    def placed(points: Sequence[Point]) -> list[Point]:
        return [_to_canvas(point, spot, turn, stretch) for point in points]

    outline = placed(OUTLINES[shape])
    fill = _shade(rng, COLOURS[colour])
    if shape in HOLES:
        size = rng.uniform(*HOLES[shape])
        hole = placed([(size * x, size * y) for x, y in OUTLINES[shape]])
        return Thing(shape, colour, canvas.fill(outline, hole, fill))
    box = canvas.fill(outline, None, fill)
    if rng.random() < 0.35:
        dark = _darker(fill) if rng.random() < 0.6 else _shade(rng, (30, 30, 30))
        canvas.trace(outline, dark, max(1, int(rng.uniform(0.5, 2.5) * OVERSAMPLING)))
    return Thing(shape, colour, box)


def _turn(rng: random.Random, shape: str) -> float:
    """By how much to turn a shape, in radians."""
    if shape in UPRIGHT:
        return rng.uniform(-0.3, 0.3)
    return rng.uniform(-0.35, 0.35) if rng.random() < 0.8 else rng.uniform(0, 2 * math.pi)


def _to_canvas(point: Point, spot: Spot, turn: float, stretch: float) -> Point:
    """A point of an outline -> pixels of the canvas."""
    x, y = point[0] * stretch, point[1]
    cos, sin = spot.radius * math.cos(turn), spot.radius * math.sin(turn)
    return (
        (spot.x + x * cos - y * sin) * OVERSAMPLING,
        (spot.y + x * sin + y * cos) * OVERSAMPLING,
    )


def _shade(rng: random.Random, colour: Colour, spread: int = 22) -> Colour:
    """Nearly the same colour: what a person would still call by the same name."""
    red, green, blue = (max(0, min(255, c + rng.randint(-spread, spread))) for c in colour)
    return (red, green, blue)


def _darker(colour: Colour) -> Colour:
    red, green, blue = (int(0.45 * c) for c in colour)
    return (red, green, blue)

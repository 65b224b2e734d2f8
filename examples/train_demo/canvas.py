"""A picture in the making, and two maps that remember whose each of its pixels is."""

import math

import numpy as np
from PIL import Image, ImageDraw

from examples.train_demo.lettering import Printed
from examples.train_demo.outlines import Point

Box = tuple[float, float, float, float]  # x0, y0, x1, y1
Colour = tuple[int, int, int]

OWNERS_SIDE = 64  # cells a side of the maps of a whole picture
FORM_SIDE = 8  # cells a side of the map of one thing


class Canvas:
    """A picture being drawn, `scale` times larger than it will be.

    Where things go is said in pixels of the picture as it will be.
    """

    def __init__(self, backdrop: Image.Image, scale: int) -> None:
        self.scale = scale
        size = (backdrop.width * scale, backdrop.height * scale)
        self.image = backdrop.resize(size, Image.Resampling.BILINEAR) if scale > 1 else backdrop
        self.owners = Image.new("L", size, 0)
        self.letters = Image.new("L", size, 0)
        self.forms: list[np.ndarray] = []

    def fill(self, points: list[Point], hole: list[Point], colour: Colour, dim: float) -> Box:
        """Paint a polygon, perhaps with a hole; its box as shares of the picture.

        Towards its lower edge the colour falls to the share `dim` of its brightness.
        """
        stencil, place = self._stencil(points, hole)
        paint = Image.new("RGB", stencil.size, colour)
        if dim < 1:
            ramp = np.linspace(1, dim, stencil.height)[:, None, None]
            paint = Image.fromarray((np.asarray(paint) * ramp).astype(np.uint8))
        self.image.paste(paint, place, stencil)
        self.owners.paste(len(self.forms) + 1, place, stencil)
        form = stencil.resize((FORM_SIDE, FORM_SIDE), Image.Resampling.BOX)
        self.forms.append(np.asarray(form))
        return self._seen(place, stencil.size)

    def shadow(self, points: list[Point], hole: list[Point], offset: float) -> None:
        """Darken what a thing hides from the light, down and to the right of it."""
        moved = [[(x + offset, y + offset) for x, y in line] for line in (points, hole)]
        stencil, place = self._stencil(*moved)
        self.image.paste((0, 0, 0), place, stencil.point(lambda ink: ink * 2 // 5))

    def trace(self, points: list[Point], colour: Colour, width: float) -> None:
        """Draw a line around a polygon."""
        line = self._scaled(points)
        pen = ImageDraw.Draw(self.image)
        width = max(1, round(width * self.scale))
        pen.line(line + line[:2], fill=colour, width=width, joint="curve")

    def stamp(self, printed: Printed, place: Point, colour: Colour) -> None:
        """Print a text with its top left corner there."""
        x, y = (int(edge * self.scale) for edge in place)
        self.image.paste(colour, (x, y), printed.ink)
        self.letters.paste(printed.letters, (x, y))

    @staticmethod
    def small(whose: Image.Image) -> np.ndarray:
        """One of the maps (64, 64), squashed to a square as the model's picture will be."""
        return np.asarray(whose.resize((OWNERS_SIDE, OWNERS_SIDE), Image.Resampling.NEAREST))

    def _stencil(
        self, points: list[Point], hole: list[Point]
    ) -> tuple[Image.Image, tuple[int, int]]:
        """The polygon in white on black, as large as needed, and where its corner lies."""
        outer = self._scaled(points)
        left, top = (math.floor(min(axis)) for axis in zip(*outer, strict=True))
        right, bottom = (math.ceil(max(axis)) for axis in zip(*outer, strict=True))
        left, top = max(left, 0), max(top, 0)
        right, bottom = min(right + 1, self.image.width), min(bottom + 1, self.image.height)
        stencil = Image.new("L", (max(1, right - left), max(1, bottom - top)), 0)
        pen = ImageDraw.Draw(stencil)
        pen.polygon([(x - left, y - top) for x, y in outer], fill=255)
        if hole:
            pen.polygon([(x - left, y - top) for x, y in self._scaled(hole)], fill=0)
        return stencil, (left, top)

    def _scaled(self, points: list[Point]) -> list[Point]:
        return [(x * self.scale, y * self.scale) for x, y in points]

    def _seen(self, place: tuple[int, int], size: tuple[int, int]) -> Box:
        width, height = self.image.size
        left, top = place
        return (left / width, top / height, (left + size[0]) / width, (top + size[1]) / height)

"""The eight shapes, as polygons of about radius 1 around (0, 0); x to the right, y down.

No two people draw the same star. Whatever may vary without changing a shape's name does: how deep a
star is cut, how thick a cross is, how wide a diamond, how round the corners.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

Point = tuple[float, float]

ROUNDED_SHARE = 0.2  # of all shapes with corners, how many have them rounded
# Turned further, a square would be a diamond and a plus an x: these stay nearly upright.
UPRIGHT = ("square", "diamond", "cross")


@dataclass(frozen=True)
class Outline:
    """A polygon, and the polygon of a hole in it if there is one."""

    points: list[Point]
    hole: list[Point] | None = None


def draw_outline(rng: random.Random, shape: str) -> Outline:
    """One of the many outlines that people call by this name."""
    points = _OUTLINES[shape](rng)
    if shape == "ring":
        size = rng.uniform(0.45, 0.74)
        return Outline(points, [(size * x, size * y) for x, y in points])
    if shape not in ("circle", "heart") and rng.random() < ROUNDED_SHARE:
        points = _round_corners(points, rng.uniform(0.04, 0.12))
    return Outline(points)


def _regular(corners: int, start: float = -math.pi / 2) -> list[Point]:
    """A regular polygon of radius 1, its first corner in direction `start` (default: up)."""
    angles = [start + 2 * math.pi * i / corners for i in range(corners)]
    return [(math.cos(angle), math.sin(angle)) for angle in angles]


def _round(rng: random.Random) -> list[Point]:
    return _regular(48)


def _square(rng: random.Random) -> list[Point]:
    return _regular(4, start=math.pi / 4)


def _triangle(rng: random.Random) -> list[Point]:
    half, height = rng.uniform(0.72, 0.95), rng.uniform(0.85, 1.0)
    return [(0.0, -height), (half, 0.6 * height), (-half, 0.6 * height)]


def _star(rng: random.Random) -> list[Point]:
    """Five points: every second corner of a ten-sided polygon is pulled inwards."""
    inner = rng.uniform(0.34, 0.54)
    return [
        (x, y) if i % 2 == 0 else (inner * x, inner * y) for i, (x, y) in enumerate(_regular(10))
    ]


def _cross(rng: random.Random) -> list[Point]:
    """A plus sign with arms `2 * half` wide: one quarter of it, turned four times."""
    half = rng.uniform(0.2, 0.4)
    quarter = [(-half, -1.0), (half, -1.0), (half, -half)]
    turns = [(1, 0), (0, 1), (-1, 0), (0, -1)]  # cosine and sine of 0, 90, 180, 270 degrees
    return [(x * c - y * s, x * s + y * c) for c, s in turns for x, y in quarter]


def _heart(rng: random.Random) -> list[Point]:
    """The well-known heart curve, x = 16 sin^3 t, shrunk to radius 1; its notch more or less deep.

    The second cosine makes the notch.
    """
    notch, corners = rng.uniform(4.2, 6.0), 48
    points = []
    for i in range(corners):
        t = 2 * math.pi * i / corners
        y = 13 * math.cos(t) - notch * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((16 * math.sin(t) ** 3 / 17, -y / 17))
    return points


def _diamond(rng: random.Random) -> list[Point]:
    half = rng.uniform(0.5, 0.78)
    return [(0.0, -1.0), (half, 0.0), (0.0, 1.0), (-half, 0.0)]


def _round_corners(points: list[Point], share: float) -> list[Point]:
    """Cut each corner off, `share` of its sides away, and the two new corners once more."""
    for part in (share, 0.3):
        points = [
            cut
            for i, (x, y) in enumerate(points)
            for other in (points[i - 1], points[(i + 1) % len(points)])
            for cut in [(x + part * (other[0] - x), y + part * (other[1] - y))]
        ]
    return points


_OUTLINES: dict[str, Callable[[random.Random], list[Point]]] = {
    "circle": _round,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
    "diamond": _diamond,
    "ring": _round,
}
SHAPES = tuple(_OUTLINES)

"""The eight shapes, as polygons of radius 1 around (0, 0); x to the right, y down."""

import math

Point = tuple[float, float]


def _regular(corners: int, start: float = -math.pi / 2) -> list[Point]:
    """A regular polygon of radius 1, its first corner in direction `start` (default: up)."""
    angles = [start + 2 * math.pi * i / corners for i in range(corners)]
    return [(math.cos(angle), math.sin(angle)) for angle in angles]


def _star(inner: float = 0.42) -> list[Point]:
    """Five points: every second corner of a ten-sided polygon is pulled inwards."""
    return [
        (x, y) if i % 2 == 0 else (inner * x, inner * y) for i, (x, y) in enumerate(_regular(10))
    ]


def _cross(half: float = 0.32) -> list[Point]:
    """A plus sign with arms `2 * half` wide: one quarter of it, turned four times."""
    quarter = [(-half, -1.0), (half, -1.0), (half, -half)]
    turns = [(1, 0), (0, 1), (-1, 0), (0, -1)]  # cosine and sine of 0, 90, 180, 270 degrees
    return [(x * c - y * s, x * s + y * c) for c, s in turns for x, y in quarter]


def _heart(corners: int = 48) -> list[Point]:
    """The well-known heart curve, x = 16 sin^3 t, shrunk to radius 1."""
    points = []
    for i in range(corners):
        t = 2 * math.pi * i / corners
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((16 * math.sin(t) ** 3 / 17, -y / 17))
    return points


OUTLINES: dict[str, list[Point]] = {
    "circle": _regular(48),
    "square": _regular(4, start=math.pi / 4),
    "triangle": _regular(3),
    "star": _star(),
    "cross": _cross(),
    "heart": _heart(),
    "diamond": [(0, -1), (0.62, 0), (0, 1), (-0.62, 0)],
    "ring": _regular(48),
}
SHAPES = tuple(OUTLINES)
HOLES = {"ring": (0.50, 0.66)}  # a smaller copy of the outline: how small, at least and at most
# Turned further, a square would be a diamond and a plus an x: these stay nearly upright.
UPRIGHT = ("square", "diamond", "cross")

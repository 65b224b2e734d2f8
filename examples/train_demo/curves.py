"""The learning curves of a run as a picture: what was lost, and what was right."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from examples.train_demo.learner import Moment

WIDTH, HEIGHT, MARGIN = 720, 260, 46
INK, GRID = (40, 40, 40), (215, 215, 215)


@dataclass(frozen=True)
class Curve:
    """One line of a chart: its name, its colour, and where its values come from."""

    name: str
    colour: tuple[int, int, int]
    value: Callable[[Moment], float]


LOST = (
    Curve("answers: cross-entropy, nats a token", (200, 60, 40), lambda moment: moment.answers),
    Curve("patches: weighed loss", (60, 110, 190), lambda moment: moment.patches),
)
RIGHT = (
    Curve("words right", (200, 60, 40), lambda moment: moment.tokens_right),
    Curve("patches' shapes right", (60, 110, 190), lambda moment: moment.shapes_right),
    Curve("patches' letters right", (50, 150, 80), lambda moment: moment.letters_right),
)


def draw_curves(history: Sequence[Moment]) -> Image.Image:
    """Two charts over the minutes of training: losses above, shares of right answers below."""
    picture = Image.new("RGB", (WIDTH, 2 * HEIGHT), "white")
    highest = max(max(curve.value(moment) for moment in history) for curve in LOST)
    picture.paste(_chart(history, LOST, highest), (0, 0))
    picture.paste(_chart(history, RIGHT, 1.0), (0, HEIGHT))
    return picture


def _chart(history: Sequence[Moment], curves: Sequence[Curve], highest: float) -> Image.Image:
    chart = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(chart)
    minutes = max(history[-1].minutes, 1e-9)

    def point(minute: float, value: float) -> tuple[float, float]:
        across = MARGIN + (WIDTH - 2 * MARGIN) * minute / minutes
        return across, HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * value / max(highest, 1e-9)

    for quarter in range(5):
        value = highest * quarter / 4
        pen.line([point(0, value), point(minutes, value)], fill=GRID)
        pen.text((6, point(0, value)[1] - 6), f"{value:.2f}", fill=INK)
        across = point(minutes * quarter / 4, 0)[0]
        pen.text((across - 8, HEIGHT - MARGIN + 6), f"{minutes * quarter / 4:.0f} min", fill=INK)
    for row, curve in enumerate(curves):
        # A value of zero means that nothing was measured: no answers while the model only looks.
        points = [point(m.minutes, curve.value(m)) for m in history if curve.value(m) > 0]
        if len(points) > 1:
            pen.line(points, fill=curve.colour, width=2)
        pen.text((MARGIN + 640 // len(curves) * row, 12), curve.name, fill=curve.colour)
    return chart

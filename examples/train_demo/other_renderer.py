"""A second renderer, to see whether the model learnt shapes and colours or one program's drawings.

It shares no drawing code with `scene`: matplotlib draws, the outlines are matplotlib's own or made
here, the colours are CSS colours, the backgrounds matplotlib's colour maps, and the words are set
in fonts that training never used. Only what can be asked (the names) is common. Never trained on.
"""

import io
import math
import random

import numpy as np
from PIL import Image

from examples.train_demo.scene import Contents, Text, Thing

CSS: dict[str, tuple[str, ...]] = {
    "red": ("red", "crimson"),
    "green": ("green", "forestgreen", "limegreen"),
    "blue": ("blue", "royalblue", "mediumblue"),
    "yellow": ("yellow", "gold"),
    "orange": ("orange", "darkorange"),
    "purple": ("purple", "darkviolet", "darkorchid"),
    "pink": ("hotpink", "lightpink", "pink"),
    "brown": ("saddlebrown", "sienna"),
    "black": ("black",),
    "white": ("white", "whitesmoke"),
}
PAPERS = (
    *("lightgrey", "ivory", "lightblue", "khaki", "palegreen", "thistle", "tan", "slategrey"),
    *("teal", "midnightblue", "dimgrey", "darkolivegreen", "lavender", "wheat", "darkslategrey"),
)
MAPS = ("Greys", "bone", "summer", "winter", "copper", "Pastel1", "cividis")
FONTS = (
    *("DejaVuSans-BoldOblique.ttf", "DejaVuSansMono-Oblique.ttf", "STIXGeneralBol.ttf"),
    "DejaVuSerif-BoldItalic.ttf",
)
WORDS = (
    *("Apple", "BEACH", "cloud", "Dream", "EAGLE", "forest", "Grape", "HONEY", "island", "Jungle"),
    *("KEYS", "lemon", "Melon", "NIGHT", "orbit", "Piano", "QUEEN", "robot", "SOLAR", "train"),
    *("42", "7", "305", "1984", "66", "90210", "128", "2026", "5", "31415", "K9", "B12", "X7"),
)
TEXT_SHARE = 0.4
DPI = 100
VISIBLE = 0.65  # summed difference of channels from 0 to 1
GAP = 1.05  # of both radii: these things do not overlap


def draw_other(rng: random.Random) -> tuple[Image.Image, Contents]:
    """A picture of one to six things, perhaps with a word, and what is in it."""
    from matplotlib.figure import Figure

    width, height = _size(rng)
    figure = Figure((width / DPI, height / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    papers = _backdrop(rng, figure, axes, width, height)
    text, taken = None, []
    if rng.random() < TEXT_SHARE:
        text = _write(rng, axes, width, height, papers, taken)
    things = []
    for _ in range(rng.randint(1, 6)):
        spot = _spot(rng, width, height, taken)
        if spot is not None:
            taken.append(spot)
            things.append(_draw(rng, axes, spot, papers, (width, height)))
    stored = io.BytesIO()
    figure.savefig(stored, dpi=DPI)
    image = Image.open(stored).convert("RGB")
    return (image, Contents(tuple(things), text)) if things else draw_other(rng)


def _size(rng: random.Random) -> tuple[int, int]:
    area, aspect = (
        rng.choice((200, 320, 480, 640)),
        rng.choice((1, 1, 4 / 3, 3 / 4, 16 / 9, 9 / 16)),
    )
    return round(area * math.sqrt(aspect)), round(area / math.sqrt(aspect))


def _backdrop(rng, figure, axes, width, height):  # type: ignore[no-untyped-def]
    """Paint the background; the colours (3,) that things have to stand out from."""
    from matplotlib import colormaps, colors

    if rng.random() < 0.7:
        paper = rng.choice(PAPERS)
        figure.patch.set_facecolor(paper)
        return [np.array(colors.to_rgb(paper))]
    low = rng.uniform(0, 0.6)
    part = colormaps[rng.choice(MAPS)](np.linspace(low, low + 0.35, 32))[:, :3]
    part = 0.75 * part + 0.25  # paler than most things
    ramp = part[:, None] if rng.random() < 0.5 else part[None]
    axes.imshow(ramp, extent=(0, width, height, 0), aspect="auto", interpolation="bicubic")
    return [part[0], part[-1]]


def _colour(rng, papers):  # type: ignore[no-untyped-def]
    """A colour's name and its CSS name, visible on these papers."""
    from matplotlib import colors

    while True:
        name = rng.choice(list(CSS))
        css = rng.choice(CSS[name])
        rgb = np.array(colors.to_rgb(css))
        if all(np.abs(rgb - paper).sum() > VISIBLE for paper in papers):
            return name, css


def _spot(rng, width, height, taken):  # type: ignore[no-untyped-def]
    """Centre and radius of a free circle, if one is found."""
    for _ in range(40):
        radius = rng.uniform(0.075, 0.2) * min(width, height) * 1.1
        x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
        if all(math.hypot(x - a, y - b) > GAP * (radius + r) for a, b, r in taken):
            return x, y, radius
    return None


def _write(rng, axes, width, height, papers, taken):  # type: ignore[no-untyped-def]
    """Set a word; the circles along it are taken."""
    from matplotlib.font_manager import FontProperties

    from examples.train_demo.lettering import font_folder

    word = rng.choice(WORDS)
    name, css = _colour(rng, papers)
    size = min(0.8 * width / len(word) / 0.65, rng.uniform(0.1, 0.16) * height / 0.72)
    size = min(max(size, 0.075 * width, 0.09 * height), 0.9 * width / len(word) / 0.68)  # pixels
    half = 0.34 * size * len(word)
    x = rng.uniform(half, width - half) if width > 2 * half else width / 2
    y = rng.uniform(0.6 * size, height - 0.6 * size)
    font = FontProperties(fname=str(font_folder() / rng.choice(FONTS)))
    axes.text(
        x,
        y,
        word,
        color=css,
        ha="center",
        va="center",
        fontproperties=font,
        fontsize=size * 72 / DPI,
    )
    steps = max(2, len(word))
    taken.extend((x + half * (2 * i / (steps - 1) - 1), y, 0.7 * size) for i in range(steps))
    return Text(word, name)


def _draw(rng, axes, spot, papers, size):  # type: ignore[no-untyped-def]
    """Draw one thing."""
    from matplotlib.patches import PathPatch
    from matplotlib.transforms import Affine2D

    shape = rng.choice(list(_PATHS))
    turn = rng.uniform(-15, 15) if shape in ("square", "diamond", "cross") else rng.uniform(-40, 40)
    name, css = _colour(rng, papers)
    # y points down here, so a picture that was thought of with y up is turned over.
    move = Affine2D().scale(spot[2], -spot[2]).rotate_deg(turn).translate(spot[0], spot[1])
    path = _PATHS[shape](rng).transformed(move)
    edge = rng.choice(("none", "none", "none", "black", "dimgrey", "white"))
    line = max(0.5, 0.05 * spot[2]) * 72 / DPI
    axes.add_patch(PathPatch(path, facecolor=css, edgecolor=edge, linewidth=line))
    box = path.get_extents()
    x0, y0, x1, y1 = (
        float(np.clip(side, 0, 1))
        for side in (box.x0 / size[0], box.y0 / size[1], box.x1 / size[0], box.y1 / size[1])
    )
    return Thing(shape, name, (x0, y0, x1, y1))


def _circle(rng):  # type: ignore[no-untyped-def]
    from matplotlib.path import Path

    return Path.unit_circle()


def _square(rng):  # type: ignore[no-untyped-def]
    from matplotlib.patches import BoxStyle

    style = (
        BoxStyle.Round(pad=0, rounding_size=0.2) if rng.random() < 0.4 else BoxStyle.Square(pad=0)
    )
    return style(-0.75, -0.75, 1.5, 1.5, mutation_size=1)


def _triangle(rng):  # type: ignore[no-untyped-def]
    from matplotlib.path import Path

    return Path.unit_regular_polygon(3)


def _star(rng):  # type: ignore[no-untyped-def]
    from matplotlib.path import Path

    return Path.unit_regular_star(5, innerCircle=0.381966)  # the pentagram's


def _cross(rng):  # type: ignore[no-untyped-def]
    from matplotlib.path import Path

    a = rng.choice((0.26, 0.33))
    corners = [(-a, 1), (a, 1), (a, a), (1, a), (1, -a), (a, -a)]
    return Path([*corners, *((-x, -y) for x, y in corners), (-a, 1)], closed=True)


def _heart(rng):  # type: ignore[no-untyped-def]
    """Two arcs above, two curves that meet below."""
    from matplotlib.path import Path

    curve = Path.CURVE4
    points = [(0, 0.45), (0, 1.05), (-1, 1.1), (-1, 0.35), (-1, -0.2), (-0.3, -0.5), (0, -1)]
    points += [(0.3, -0.5), (1, -0.2), (1, 0.35), (1, 1.1), (0, 1.05), (0, 0.45)]
    return Path(points, [Path.MOVETO, *[curve] * 12])


def _diamond(rng):  # type: ignore[no-untyped-def]
    from matplotlib.path import Path

    half = rng.choice((0.55, 0.7))
    return Path([(0, 1), (half, 0), (0, -1), (-half, 0), (0, 1)], closed=True)


def _ring(rng):  # type: ignore[no-untyped-def]
    from matplotlib.path import Path
    from matplotlib.transforms import Affine2D

    outer = Path.unit_circle()
    inner = outer.transformed(Affine2D().scale(rng.choice((0.5, 0.65, 0.7))))
    # The inner circle runs the other way round, which makes it a hole.
    return Path.make_compound_path(outer, Path(inner.vertices[::-1], inner.codes))


_PATHS = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
    "diamond": _diamond,
    "ring": _ring,
}

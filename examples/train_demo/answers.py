"""What is true of a scene: the answers, for whoever knows what was drawn.

Where a person would hesitate there is no answer (None), and such a question is never asked: whether
something is `left` or in the `middle` when it lies on the line between them, or which of two
objects is the largest when they are nearly of one size.
"""

from collections.abc import Sequence

from examples.train_demo.outlines import SHAPES
from examples.train_demo.scene import COLOURS, Thing
from vlmchat.tasks import LAST_BIN

UNANSWERABLE = "unanswerable"  # what PaliGemma's own VQA mixtures say to a question without answer
NOTHING = "nothing"  # where no object lies on the side that is asked about
PLURALS = {shape: shape + "s" for shape in SHAPES} | {"cross": "crosses"}
NOUNS = ("object", "shape", "thing")
CLEARLY_LARGER = 1.35  # times the area of the next
UNSURE = 0.02  # shares of the picture's side: so near a line, nobody says on which side of it
CLEARLY_NEARER = 1.25  # times the distance of the next
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}

Things = Sequence[Thing]


def place(thing: Thing) -> str | None:
    """The ninth of the picture that a thing's centre is in: `top left`, `left`, `middle`."""
    x, y = thing.centre
    if any(abs(part - line) < UNSURE for part in (x, y) for line in (1 / 3, 2 / 3)):
        return None
    across = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
    down = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else ""
    return f"{down} {across}".strip() or "middle"


def listing(things: Things) -> str:
    """`red star, blue ring`: the things by name, from left to right; `text` where there is none."""
    return ", ".join(thing.name for thing in left_to_right(things)) or "text"


def boxes(things: Things, labels: Sequence[str]) -> str:
    """The answer to `detect`: `<locTTTT><locLLLL><locBBBB><locRRRR> label ; …`.

    Label after label, and for each from left to right.
    """
    items = [
        _box(thing) + f" {label}"
        for label in labels
        for thing in left_to_right(called(label, things))
    ]
    return " ; ".join(items) or UNANSWERABLE


def _box(thing: Thing) -> str:
    x0, y0, x1, y1 = thing.box
    return "".join(f"<loc{round(side * LAST_BIN):04}>" for side in (y0, x0, y1, x1))


def called(label: str, things: Things) -> list[Thing]:
    """The things that `star`, `red star`, `red object` or `object` is a name of."""
    return [
        thing
        for thing in things
        if label in (thing.shape, thing.name, *NOUNS, *(f"{thing.colour} {n}" for n in NOUNS))
    ]


def largest(things: Things, smallest: bool = False) -> Thing | None:
    """The largest or smallest, where one clearly is."""
    first, *rest = sorted(things, key=lambda thing: thing.area, reverse=not smallest)
    if rest:
        areas = sorted((first.area, rest[0].area))
        if areas[1] < CLEARLY_LARGER * areas[0]:
            return None
    return first


def beside(thing: Thing, side: str, things: Things) -> str | None:
    """The name of the nearest thing whose centre lies on that side; NOTHING where none does."""
    towards = DIRECTIONS[side]
    near: list[tuple[float, Thing]] = []
    for other in things:
        if other is thing:
            continue
        away = [b - a for a, b in zip(thing.centre, other.centre, strict=True)]
        along = away[0] * towards[0] + away[1] * towards[1]
        across = abs(away[0] * towards[1]) + abs(away[1] * towards[0])
        if abs(along) < 2 * UNSURE:
            return None
        if along > 0:
            near.append(((along**2 + across**2) ** 0.5, other))
            if across > 3 * along:  # rather above than left
                return None
    near.sort(key=lambda pair: pair[0])
    if not near:
        return NOTHING
    if len(near) > 1 and near[1][0] < CLEARLY_NEARER * near[0][0]:
        return None
    return near[0][1].name


def left_to_right(things: Things) -> list[Thing]:
    """One fixed order, so that a list of things has one right form."""
    return sorted(things, key=lambda thing: thing.centre[0])


def singled_out(things: Things, word: str) -> list[Thing]:
    """The things that no other shares its `shape`, `colour` or `name` with."""
    words = [getattr(thing, word) for thing in things]
    return [thing for thing, own in zip(things, words, strict=True) if words.count(own) == 1]


def absent_shapes(things: Things) -> list[str]:
    """Shapes that the scene does not have."""
    return [shape for shape in SHAPES if all(thing.shape != shape for thing in things)]


def absent_colours(things: Things) -> list[str]:
    """Colours that nothing in the scene has."""
    return [colour for colour in COLOURS if all(thing.colour != colour for thing in things)]

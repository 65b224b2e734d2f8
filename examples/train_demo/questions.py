"""Questions about a scene, and the answers that whoever drew it knows.

A kind of question is one function: it takes the things of a scene and gives a question, or None
where that scene has no such question (nothing can be asked about *the* star where there are two).
Answers are short and always of the same form, as in the mixtures that PaliGemma was tuned on.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from examples.train_demo import wordings
from examples.train_demo.outlines import SHAPES
from examples.train_demo.scene import COLOURS, Thing
from vlmchat.tasks import LAST_BIN, caption, detect

UNANSWERABLE = "unanswerable"  # what PaliGemma's own VQA mixtures say to a question without answer
PLURALS = {shape: shape + "s" for shape in SHAPES} | {"cross": "crosses"}
NOUNS = ("object", "shape", "thing")
ABSENT_SHARE = 0.1  # of the questions about something, how many are about something not there
NONSENSE_SHARE = 0.03  # of all questions, how many no scene of ours can answer


@dataclass(frozen=True)
class Question:
    """A prompt as the model gets it, the one right answer, and what kind of question it is."""

    kind: str
    prompt: str
    answer: str


Things = Sequence[Thing]
Maker = Callable[[random.Random, Things], Question | None]


def ask(rng: random.Random, things: Things) -> Question:
    """Any question about these things; the caption where the kind drawn does not apply."""
    if rng.random() < NONSENSE_SHARE:
        return Question(UNANSWERABLE, as_typed(rng, rng.choice(wordings.NONSENSE)), UNANSWERABLE)
    makers = [maker for maker, _ in KINDS]
    (maker,) = rng.choices(makers, weights=[weight for _, weight in KINDS])
    return maker(rng, things) or about_all(rng, things)


def as_typed(rng: random.Random, question: str) -> str:
    """The question as one person or another types it, behind PaliGemma's task words."""
    if rng.random() < 0.5:
        question = question[0].upper() + question[1:]
    if rng.random() < 0.5:
        question += rng.choice(("?", "?", " ?"))
    return f"answer en {question}"


def about_colour(rng: random.Random, things: Things) -> Question | None:
    """What colour is it, or is the star."""
    spelling = rng.choice(("colour", "color"))
    if len(things) == 1 and rng.random() < 0.6:
        question = rng.choice(wordings.COLOUR_OF_IT).format(c=spelling)
        return Question("colour", as_typed(rng, question), things[0].colour)
    if rng.random() < ABSENT_SHARE:
        question = f"what {spelling} is the {rng.choice(absent_shapes(things))}"
        return Question(UNANSWERABLE, as_typed(rng, question), UNANSWERABLE)
    if not (clear := singled_out(things, "shape")):
        return None
    thing = rng.choice(clear)
    question = rng.choice(wordings.COLOUR_OF).format(c=spelling, x=thing.shape)
    return Question("colour", as_typed(rng, question), thing.colour)


def about_shape(rng: random.Random, things: Things) -> Question | None:
    """What shape is it, or is the red one."""
    if len(things) == 1 and rng.random() < 0.6:
        return Question("shape", as_typed(rng, rng.choice(wordings.SHAPE_OF_IT)), things[0].shape)
    if rng.random() < ABSENT_SHARE:
        question = f"what shape is the {rng.choice(absent_colours(things))} object"
        return Question(UNANSWERABLE, as_typed(rng, question), UNANSWERABLE)
    if not (clear := singled_out(things, "colour")):
        return None
    thing = rng.choice(clear)
    question = rng.choice(wordings.SHAPE_OF).format(x=thing.colour)
    return Question("shape", as_typed(rng, question), thing.shape)


def about_number(rng: random.Random, things: Things) -> Question:
    """How many things, red things, stars or red stars there are."""
    noun, number = _countable(rng, things)
    return Question(
        "count", as_typed(rng, rng.choice(wordings.HOW_MANY).format(x=noun)), str(number)
    )


def _countable(rng: random.Random, things: Things) -> tuple[str, int]:
    """Something to count and how many there are; now and then there are none."""
    by = rng.choices(("all", "colour", "shape", "name"), weights=(35, 25, 25, 15))[0]
    there = rng.random() < 0.75
    noun = rng.choice(NOUNS) + "s"
    if by == "all":
        return noun, len(things)
    if by == "colour":
        colours = [thing.colour for thing in things]
        colour = rng.choice(colours if there else list(COLOURS))
        return f"{colour} {noun}", colours.count(colour)
    if by == "shape":
        shapes = [thing.shape for thing in things]
        shape = rng.choice(shapes if there else SHAPES)
        return PLURALS[shape], shapes.count(shape)
    thing = rng.choice(things)
    return f"{thing.colour} {PLURALS[thing.shape]}", [t.name for t in things].count(thing.name)


def about_place(rng: random.Random, things: Things) -> Question | None:
    """Where in the picture something is."""
    if len(things) == 1 and rng.random() < 0.4:
        return Question("where", as_typed(rng, rng.choice(wordings.WHERE_IS_IT)), place(things[0]))
    if rng.random() < ABSENT_SHARE:
        question = f"where is the {rng.choice(absent_shapes(things))}"
        return Question(UNANSWERABLE, as_typed(rng, question), UNANSWERABLE)
    if not (clear := singled_out(things, "name")):
        return None
    thing = rng.choice(clear)
    by_shape = thing in singled_out(things, "shape") and rng.random() < 0.6
    question = rng.choice(wordings.WHERE_IS).format(x=thing.shape if by_shape else thing.name)
    return Question("where", as_typed(rng, question), place(thing))


def place(thing: Thing) -> str:
    """The ninth of the picture that a thing's centre is in: `top left`, `left`, `middle`."""
    x, y = thing.centre
    across = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
    down = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else ""
    return f"{down} {across}".strip() or "middle"


def about_presence(rng: random.Random, things: Things) -> Question:
    """Whether something is there, yes or no in equal numbers."""
    if rng.random() < 0.12:
        named = rng.choice(wordings.REAL_THINGS)
    elif rng.random() < 0.5:
        thing = rng.choice(things)
        named = rng.choice(
            (thing.shape, thing.name, f"{thing.colour} object", f"{thing.colour} {_noun(rng)}")
        )
    else:
        named = _probably_absent(rng, things)
    article = "an" if named[0] in "aeio" else "a"
    question = rng.choice(wordings.IS_THERE).format(a=article, x=named)
    return Question("is", as_typed(rng, question), "yes" if is_there(named, things) else "no")


def _noun(rng: random.Random) -> str:
    return rng.choice(NOUNS)


def _probably_absent(rng: random.Random, things: Things) -> str:
    """Something that is not there, or nearly what is there: the right colour, another shape."""
    thing = rng.choice(things)
    kind = rng.choices(("shape", "colour", "both"), weights=(35, 25, 40))[0]
    if kind == "shape":
        return rng.choice(absent_shapes(things))
    if kind == "colour":
        return f"{rng.choice(absent_colours(things))} {_noun(rng)}"
    if rng.random() < 0.5:
        return f"{thing.colour} {rng.choice(SHAPES)}"
    return f"{rng.choice(list(COLOURS))} {thing.shape}"


def is_there(named: str, things: Things) -> bool:
    """Whether `star`, `red star` or `red object` names something among the things."""
    return any(
        named in (thing.shape, thing.name, *(f"{thing.colour} {noun}" for noun in NOUNS))
        for thing in things
    )


def about_all(rng: random.Random, things: Things) -> Question:
    """The caption: everything by name, from left to right."""
    return Question("caption", caption("en"), listing(things))


def listing(things: Things) -> str:
    """`red star, blue ring`: the things by name, from left to right."""
    return ", ".join(thing.name for thing in left_to_right(things))


def about_what(rng: random.Random, things: Things) -> Question:
    """What is this: the same as the caption, asked as a person would."""
    ways = wordings.WHAT_IS_IT if len(things) == 1 else wordings.WHAT_ARE_THEY
    return Question("what", as_typed(rng, rng.choice(ways)), listing(things))


def about_size(rng: random.Random, things: Things) -> Question | None:
    """Which is the largest or smallest, where one clearly is."""
    if len(things) < 2:
        return None
    largest = rng.random() < 0.5
    first, second = sorted(things, key=lambda thing: thing.area, reverse=largest)[:2]
    if max(first.area, second.area) <= 1.35 * min(first.area, second.area):
        return None
    word = rng.choice(wordings.LARGEST if largest else wordings.SMALLEST)
    return Question(
        "size", as_typed(rng, rng.choice(wordings.WHICH_SIZE).format(x=word)), first.name
    )


def about_boxes(rng: random.Random, things: Things) -> Question:
    """Find something in the picture: all objects, red stars, or stars."""
    kind = rng.choices(("all", "name", "shape"), weights=(25, 35, 40))[0]
    if kind == "all":
        return Question("detect", detect(["object"]), boxes(things, "object"))
    thing = rng.choice(things)
    label = thing.name if kind == "name" else thing.shape
    found = [other for other in things if label in (other.name, other.shape)]
    return Question("detect", detect([label]), boxes(found, label))


def boxes(things: Things, label: str) -> str:
    """The answer to `detect`: `<locTTTT><locLLLL><locBBBB><locRRRR> label ; …`, left to right."""
    items = []
    for thing in left_to_right(things):
        x0, y0, x1, y1 = thing.box
        codes = (f"<loc{round(side * LAST_BIN):04}>" for side in (y0, x0, y1, x1))
        items.append("".join(codes) + f" {label}")
    return " ; ".join(items)


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


# How often each kind is asked, against the others.
KINDS: tuple[tuple[Maker, float], ...] = (
    (about_colour, 3),
    (about_shape, 3),
    (about_number, 2),
    (about_place, 2),
    (about_presence, 2),
    (about_all, 2),
    (about_boxes, 1.5),
    (about_what, 1),
    (about_size, 0.7),
)

"""Sample images for the README: ordinary scenes with unseen seeds that the model answers rightly.

They show what the model can do when it does well; how often it does is in the card.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import vlmchat
from examples.train_demo.evaluate import show
from examples.train_demo.questions import listing, singled_out
from examples.train_demo.scene import Scene, Thing, draw_scene
from vlmchat.session import Session

FIRST_SAMPLE_SEED = 5_000_000
MOST_TRIES = 2000
SMALLEST = 150  # pixels; smaller pictures make no sample

Wanted = Callable[[Sequence[Thing]], bool]


def _single_star(things: Sequence[Thing]) -> bool:
    return [thing.shape for thing in things] == ["star"]


def _few(things: Sequence[Thing]) -> bool:
    """Three or four things, each with a colour and a shape of its own."""
    distinct = len(singled_out(things, "colour")) == len(singled_out(things, "shape"))
    return len(things) in (3, 4) and distinct and len(singled_out(things, "shape")) == len(things)


def _pair(things: Sequence[Thing]) -> bool:
    return len(things) == 2 and len(singled_out(things, "shape")) == 2


SAMPLES: dict[str, Wanted] = {"star": _single_star, "shapes": _few, "pair": _pair}


def write_samples(model: Path, folder: Path) -> Iterator[str]:
    """Write one image for each name in SAMPLES; yield a line on each."""
    session = vlmchat.load(model)
    folder.mkdir(parents=True, exist_ok=True)
    for name, wanted in SAMPLES.items():
        scene = find(session, wanted)
        path = folder / f"{name}.png"
        scene.image.save(path, optimize=True)
        yield f"{path}: {listing(scene.things)}"


def find(session: Session, wanted: Wanted) -> Scene:
    """The first scene of the wanted kind about which every plain question is answered rightly."""
    for seed in range(FIRST_SAMPLE_SEED, FIRST_SAMPLE_SEED + MOST_TRIES):
        scene = draw_scene(random.Random(seed))
        if wanted(scene.things) and min(scene.image.size) >= SMALLEST and _knows(session, scene):
            return scene
    raise LookupError(f"no such scene in {MOST_TRIES} that the model knows all about")


def _knows(session: Session, scene: Scene) -> bool:
    """Whether the model captions the scene rightly, and names each thing's colour and shape."""
    show(session, scene)
    questions = {"caption en": listing(scene.things)}
    for thing in scene.things:
        questions[f"What colour is the {thing.shape}?"] = thing.colour
        questions[f"What shape is the {thing.colour} object?"] = thing.shape
    if len(scene.things) == 1:
        questions |= {"What colour is it?": scene.things[0].colour}
        questions |= {"What shape is it?": scene.things[0].shape}
    questions["How many objects are there?"] = str(len(scene.things))
    return all(session.answer(text).text == right for text, right in questions.items())

"""Sample images for the README: ordinary scenes with unseen seeds that the model answers rightly.

They show what the model can do when it does well; how often it does is in the card.
"""

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import vlmchat
from examples.train_demo.answers import listing, singled_out
from examples.train_demo.evaluate import LONGEST_ANSWER, show
from examples.train_demo.scene import Contents, Scene, Thing, draw_scene
from vlmchat.sampling import Sampling
from vlmchat.session import Session

FIRST_SAMPLE_SEED = 5_000_000
CANDIDATES = 30  # of each kind
SMALLEST = 150  # pixels; smaller pictures make no sample

Wanted = Callable[[Contents], bool]


def _single_star(contents: Contents) -> bool:
    return [thing.shape for thing in contents.things] == ["star"] and contents.text is None


def _pair(contents: Contents) -> bool:
    return len(contents.things) == 2 and _all_distinct(contents.things) and contents.text is None


def _few(contents: Contents) -> bool:
    """Something of everything."""
    some, text = contents.things, contents.text
    return len(some) in (4, 5) and _all_distinct(some) and text is not None


def _all_distinct(things: Sequence[Thing]) -> bool:
    """Whether each thing has a colour and a shape of its own."""
    return all(len(singled_out(things, word)) == len(things) for word in ("colour", "shape"))


SAMPLES: dict[str, Wanted] = {"star": _single_star, "pair": _pair, "shapes": _few}
FIRST_SIGHT = "shapes"  # what the chat shows whoever starts it for the first time


def write_samples(model: Path, folder: Path, candidates: int = CANDIDATES) -> Iterator[str]:
    """Write one image for each name in SAMPLES, out of so many; yield a line on each.

    The one of FIRST_SIGHT goes into the model's folder too, as `sample.png`.
    """
    session = vlmchat.load(model, sampling=Sampling(max_tokens=LONGEST_ANSWER))
    folder.mkdir(parents=True, exist_ok=True)
    for name, wanted in SAMPLES.items():
        scene, share = best(session, itertools.islice(_scenes(wanted), candidates))
        path = folder / f"{name}.png"
        scene.image.save(path, optimize=True)
        if name == FIRST_SIGHT:
            scene.image.save(model / "sample.png", optimize=True)
        yield f"{path}: {listing(scene.things)} ({share:.0%} of the plain questions right)"


def best(session: Session, scenes: Iterable[Scene]) -> tuple[Scene, float]:
    """Of some scenes, the first that the model knows best, and how well."""
    best_scene, best_share = None, -1.0
    for scene in scenes:
        share = known_share(session, scene)
        if share > best_share:
            best_scene, best_share = scene, share
        if share == 1.0:
            break
    assert best_scene is not None
    return best_scene, best_share


def _scenes(wanted: Wanted) -> Iterator[Scene]:
    """Scenes of the wanted kind without end, large enough to look at."""
    for seed in itertools.count(FIRST_SAMPLE_SEED):
        scene = draw_scene(random.Random(seed))
        if wanted(scene.contents) and min(scene.image.size) >= SMALLEST:
            yield scene


def known_share(session: Session, scene: Scene) -> float:
    """The share of plain questions (caption, number, each colour and shape) answered rightly."""
    show(session, scene.image)
    questions = {
        "caption en": listing(scene.things),
        "How many objects are there?": str(len(scene.things)),
    }
    for thing in scene.things:
        questions[f"What colour is the {thing.shape}?"] = thing.colour
        questions[f"What shape is the {thing.colour} object?"] = thing.shape
    if scene.contents.text is not None:
        questions["What does it say?"] = questions["ocr"] = scene.contents.text.content
    if len(scene.things) == 1:
        questions["What colour is it?"] = scene.things[0].colour
        questions["What shape is it?"] = scene.things[0].shape
    right = [session.answer(text).text == answer for text, answer in questions.items()]
    return sum(right) / len(right)

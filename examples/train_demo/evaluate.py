"""Measure a checkpoint folder on scenes it has never seen, through the door that everybody uses.

Images go in as PNG files, questions through `Session.answer`, answers come out as text. Seeds are
those below the training's first one.
"""

import io
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import vlmchat
from examples.train_demo import wordings
from examples.train_demo.questions import UNANSWERABLE, Question, as_typed, ask
from examples.train_demo.scene import Scene, draw_scene
from vlmchat.sampling import Sampling
from vlmchat.session import Session
from vlmchat.tasks import Detection, parse_detections

FIRST_SINGLE_SEED = 0  # scenes with one thing
FIRST_MIXED_SEED = 1_000_000  # scenes as they come
QUESTIONS_A_SCENE = 10
ENOUGH_OVERLAP = 0.5  # of two boxes, to count as the same
LONGEST_ANSWER = 64  # tokens; six boxes take 36 and more

# What a row of the table is called, in the order of the table.
SINGLE_COLOUR, SINGLE_SHAPE = "colour of a single object", "shape of a single object"
UNHEARD = ", in words it was never asked with"
NAMES = {
    "colour": "colour of an object, any scene",
    "shape": "shape of an object, any scene",
    "what": "what is in the picture, all of it",
    "caption": "caption, all of it",
    "count": "how many",
    "where": "where",
    "is": "is there a …",
    "size": "largest or smallest object",
    UNANSWERABLE: "questions without an answer, refused",
    "detect": "detect: same objects, boxes overlap by half",
}


@dataclass
class Row:
    """How many questions of one kind were asked, and how many were answered rightly."""

    name: str
    asked: int = 0
    right: int = 0

    @property
    def share(self) -> float:
        """The part that was right."""
        return self.right / self.asked if self.asked else 0.0

    def count(self, right: bool) -> None:
        """One more question."""
        self.asked += 1
        self.right += right


@dataclass
class Boxes:
    """Boxes wanted, given, and matched with an overlap; the sum of those overlaps."""

    wanted: int = 0
    given: int = 0
    matched: int = 0
    overlap: float = 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        return 2 * self.matched / max(1, self.wanted + self.given)

    @property
    def mean_overlap(self) -> float:
        """Of the matched boxes: intersection over union."""
        return self.overlap / max(1, self.matched)

    def count(self, wanted: Sequence[Detection], given: Sequence[Detection]) -> bool:
        """Match the boxes of one answer, best first; whether all found their counterpart."""
        self.wanted += len(wanted)
        self.given += len(given)
        pairs = sorted(
            (
                (overlap(a, b), i, j)
                for i, a in enumerate(wanted)
                for j, b in enumerate(given)
                if a.label == b.label
            ),
            reverse=True,
        )
        used: tuple[set[int], set[int]] = (set(), set())
        for share, i, j in pairs:
            if share >= ENOUGH_OVERLAP and i not in used[0] and j not in used[1]:
                used[0].add(i)
                used[1].add(j)
                self.overlap += share
        self.matched += len(used[0])
        return len(wanted) == len(given) == len(used[0])


@dataclass
class Report:
    """What an evaluation found."""

    single_images: int
    mixed_images: int
    rows: dict[str, Row] = field(default_factory=dict)
    boxes: Boxes = field(default_factory=Boxes)

    def row(self, name: str) -> Row:
        """The row of that name, made where it is not there yet."""
        return self.rows.setdefault(name, Row(name))

    def markdown(self) -> str:
        """The table for the card."""
        lines = ["| question | right | asked | share |", "|---|---:|---:|---:|"]
        lines += [
            f"| {r.name} | {r.right} | {r.asked} | {r.share:.1%} |" for r in self.rows.values()
        ]
        return "\n".join(
            [
                *lines,
                "",
                f"Boxes: F1 {self.boxes.f1:.1%} at an overlap (intersection over union) of "
                f"{ENOUGH_OVERLAP} or more; mean overlap of those {self.boxes.mean_overlap:.2f} "
                f"({self.boxes.wanted} boxes wanted, {self.boxes.given} given).",
            ]
        )


def overlap(one: Detection, other: Detection) -> float:
    """Intersection over union of two boxes."""
    top, left = max(one.box[0], other.box[0]), max(one.box[1], other.box[1])
    bottom, right = min(one.box[2], other.box[2]), min(one.box[3], other.box[3])
    shared = max(0.0, bottom - top) * max(0.0, right - left)
    areas = sum((d.box[2] - d.box[0]) * (d.box[3] - d.box[1]) for d in (one, other))
    return shared / (areas - shared) if areas > shared else 0.0


def evaluate(
    folder: Path, images: int, report: Callable[[str], None] = lambda line: None
) -> Report:
    """Ask the model in `folder` about `images` single things and as many mixed scenes."""
    found = Report(single_images=images, mixed_images=images)
    for name in (SINGLE_COLOUR, SINGLE_SHAPE):
        found.row(name)
        found.row(name + UNHEARD)
    for name in NAMES.values():
        found.row(name)
    session = vlmchat.load(folder, sampling=Sampling(max_tokens=LONGEST_ANSWER))
    for number, (scene, questions) in enumerate(_trials(images), start=1):
        show(session, scene)
        for name, question in questions:
            answer = session.answer(question.prompt).text
            found.row(name).count(is_right(question, answer, found.boxes))
        session.pictures.clear()
        session.clear()
        if number % 100 == 0:
            report(f"evaluated {number} of {2 * images} images")
    return found


def show(session: Session, scene: Scene) -> None:
    """Give the session the scene as the file that a person would have."""
    stored = io.BytesIO()
    scene.image.save(stored, "PNG")
    session.add_image(stored.getvalue(), "scene.png")


def is_right(question: Question, answer: str, boxes: Boxes) -> bool:
    """Whether the answer is the one; boxes may be a little off and are counted."""
    if question.kind != "detect":
        return answer == question.answer
    return boxes.count(parse_detections(question.answer), parse_detections(answer))


def _trials(images: int) -> Iterator[tuple[Scene, list[tuple[str, Question]]]]:
    """Scenes with questions, each under the name of its row."""
    for seed in range(FIRST_SINGLE_SEED, FIRST_SINGLE_SEED + images):
        rng = random.Random(seed)
        scene = draw_scene(rng, count=1)
        yield scene, single_questions(rng, scene)
    for seed in range(FIRST_MIXED_SEED, FIRST_MIXED_SEED + images):
        rng = random.Random(seed)
        scene = draw_scene(rng)
        questions = [ask(rng, scene.things) for _ in range(QUESTIONS_A_SCENE)]
        yield scene, [(NAMES[question.kind], question) for question in questions]


def single_questions(rng: random.Random, scene: Scene) -> list[tuple[str, Question]]:
    """Colour and shape of the one thing there is, in familiar words and in others."""
    (thing,) = scene.things
    kinds = (
        (SINGLE_COLOUR, wordings.COLOUR_OF_IT, thing.colour),
        (SINGLE_COLOUR + UNHEARD, wordings.COLOUR_UNHEARD, thing.colour),
        (SINGLE_SHAPE, wordings.SHAPE_OF_IT, thing.shape),
        (SINGLE_SHAPE + UNHEARD, wordings.SHAPE_UNHEARD, thing.shape),
    )
    spelling = rng.choice(("colour", "color"))
    return [
        (name, Question("single", as_typed(rng, rng.choice(ways).format(c=spelling)), answer))
        for name, ways, answer in kinds
    ]

"""Measure a checkpoint folder on scenes it has never seen, through the door that everybody uses.

Images go in as PNG files, questions through `Session.answer`, answers come out as text. Three
trials: scenes as in training with seeds below the training's first one, the same in wordings that
training never used, and scenes by a renderer that training never used.
"""

import io
import math
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import torch
from PIL import Image

import vlmchat
from examples.train_demo.answers import UNANSWERABLE, UNSURE, left_to_right
from examples.train_demo.other_renderer import draw_other
from examples.train_demo.questions import KINDS, Asker, Question
from examples.train_demo.scene import Contents, draw_scene
from vlmchat.packing import Quantize
from vlmchat.sampling import Sampling
from vlmchat.session import Session
from vlmchat.tasks import Detection, parse_detections

FIRST_SEED, FIRST_OTHER_SEED = 0, 1_000_000
SIDES = (64, 2000)  # pixels; the mean side of a picture
ENOUGH_OVERLAP = 0.5  # of two boxes, to count as the same
LONGEST_ANSWER = 96  # tokens; six boxes with two words each take 60
MOST_SCENES = 20  # times the questions wanted of each kind
TASKS = ("caption", "detect", "ocr")  # the kinds that have a task word of their own


@dataclass
class Row:
    """How many questions of one kind were asked, and how many were answered rightly."""

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

    def __add__(self, other: "Row") -> "Row":
        return Row(self.asked + other.asked, self.right + other.right)


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
class Trial:
    """What one trial found: a row for each kind, the boxes, and the refusals of good questions."""

    name: str
    unheard: bool = False
    other: bool = False
    rows: dict[str, Row] = field(default_factory=dict)
    boxes: Boxes = field(default_factory=Boxes)
    refused: Row = field(default_factory=Row)

    @property
    def questions(self) -> Row:
        """All that was asked in words."""
        return sum((row for kind, row in self.rows.items() if kind not in TASKS), Row())

    @property
    def worst(self) -> tuple[str, Row]:
        """The kind of question that was answered worst."""
        in_words = [pair for pair in self.rows.items() if pair[0] not in TASKS]
        return min(in_words, key=lambda pair: pair[1].share, default=("none", Row()))

    def count(self, question: Question, contents: Contents, answer: str) -> None:
        """Grade one answer."""
        row = self.rows.setdefault(question.kind, Row())
        row.count(is_right(question, contents, answer, self.boxes))
        if question.answer != UNANSWERABLE:
            self.refused.count(answer == UNANSWERABLE)


@dataclass(frozen=True)
class Report:
    """What an evaluation found: as in training, in words never heard, by another renderer."""

    trials: tuple[Trial, ...]

    def markdown(self) -> str:
        """The tables for the card: what was aimed at, and each kind of question."""
        lines = ["| measure | aim | " + " | ".join(trial.name for trial in self.trials) + " |"]
        lines.append("|---|---:|" + "---:|" * len(self.trials))
        for name, aim, value in MEASURES:
            cells = " | ".join(value(trial) for trial in self.trials)
            lines.append(f"| {name} | {aim} | {cells} |")
        kinds = dict.fromkeys(kind for trial in self.trials for kind in trial.rows)
        lines += ["", "| kind of question | " + " | ".join(t.name for t in self.trials) + " |"]
        lines.append("|---|" + "---:|" * len(self.trials))
        for kind in kinds:
            rows = [trial.rows.get(kind, Row()) for trial in self.trials]
            cells = " | ".join(f"{row.share:.1%} of {row.asked}" for row in rows)
            lines.append(f"| {kind} | {cells} |")
        return "\n".join(lines)


def _of(kind: str) -> Callable[[Trial], str]:
    return lambda trial: f"{trial.rows.get(kind, Row()).share:.1%}"


MEASURES: tuple[tuple[str, str, Callable[[Trial], str]], ...] = (
    ("questions, all kinds together, exact", "96 %", lambda t: f"{t.questions.share:.1%}"),
    ("the worst kind", "90 %", lambda t: f"{t.worst[1].share:.1%} ({t.worst[0]})"),
    ("caption, every object right", "90 %", _of("caption")),
    ("detect, F1 at an overlap of 0.5", "0.95", lambda t: f"{t.boxes.f1:.3f}"),
    ("detect, mean overlap of the matches", "0.80", lambda t: f"{t.boxes.mean_overlap:.3f}"),
    ("ocr, exact", "90 %", _of("ocr")),
    ("`unanswerable` where it should be", "95 %", _of(UNANSWERABLE)),
    ("`unanswerable` where it should not", "< 2 %", lambda t: f"{t.refused.share:.1%}"),
)


def overlap(one: Detection, other: Detection) -> float:
    """Intersection over union of two boxes."""
    top, left = max(one.box[0], other.box[0]), max(one.box[1], other.box[1])
    bottom, right = min(one.box[2], other.box[2]), min(one.box[3], other.box[3])
    shared = max(0.0, bottom - top) * max(0.0, right - left)
    areas = sum((d.box[2] - d.box[0]) * (d.box[3] - d.box[1]) for d in (one, other))
    return shared / (areas - shared) if areas > shared else 0.0


def is_right(question: Question, contents: Contents, answer: str, boxes: Boxes) -> bool:
    """Whether the answer is the one, to the letter.

    Boxes may be a little off, and are counted; of two objects that lie equally far to the left,
    either may be named first.
    """
    if question.kind == "detect":
        return boxes.count(parse_detections(question.answer), parse_detections(answer))
    if question.kind in ("caption", "what") and answer != question.answer:
        return is_listing(answer, contents)
    return answer == question.answer


def is_listing(answer: str, contents: Contents) -> bool:
    """Whether these are the scene's things by name, each about as far left as all behind it."""
    left = left_to_right(contents.things)
    for name in answer.split(", "):
        near = [thing for thing in left if thing.centre[0] <= left[0].centre[0] + UNSURE]
        found = next((thing for thing in near if thing.name == name), None)
        if found is None:
            return False
        left.remove(found)
    return not left


def evaluate(
    folder: Path,
    questions: int,
    report: Callable[[str], None] = lambda line: None,
    processes: int = 2,
    quantize: Quantize = "none",
) -> Report:
    """Ask the model in `folder` that many questions of each kind in each of the three trials."""
    trials = (
        Trial("unseen scenes"),
        Trial("in words never heard", unheard=True),
        Trial("another renderer", other=True),
    )
    if processes < 2:
        return Report(tuple(run(folder, trial, questions, quantize) for trial in trials))
    done = []
    jobs = [(folder, trial, questions, quantize) for trial in trials]
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        for trial in pool.map(_run_alone, jobs):
            report(f"evaluated {trial.name}: {trial.questions.share:.1%} of the questions right")
            done.append(trial)
    return Report(tuple(done))


def _run_alone(job: tuple[Path, Trial, int, Quantize]) -> Trial:
    torch.set_num_threads(1)  # one for each process
    return run(*job)


def run(folder: Path, trial: Trial, wanted: int, quantize: Quantize = "none") -> Trial:
    """Fill in one trial: of every kind as many questions as wanted, over as many scenes as needed.

    A kind that is too rare for that ends with as many as there were.
    """
    sampling = Sampling(max_tokens=LONGEST_ANSWER)
    session = vlmchat.load(folder, sampling=sampling, quantize=quantize)
    for rng, image, contents in _scenes(trial, MOST_SCENES * wanted):
        missing = [kind for kind in KINDS if trial.rows.setdefault(kind, Row()).asked < wanted]
        if not missing:
            break
        asker = Asker(rng, contents, trial.unheard)
        questions = [question for kind in missing if (question := KINDS[kind][0](asker))]
        show(session, image)
        replies = session.answers([question.prompt for question in questions])
        for question, reply in zip(questions, replies, strict=True):
            trial.count(question, contents, reply.text)
        session.pictures.clear()
        session.clear()
    return trial


def _scenes(trial: Trial, most: int) -> Iterator[tuple[random.Random, Image.Image, Contents]]:
    """Scenes of a trial, and the chance that goes on to ask about them."""
    first = FIRST_OTHER_SEED if trial.other else FIRST_SEED
    for seed in range(first, first + most):
        rng = random.Random(seed)
        if trial.other:
            yield rng, *draw_other(rng)
        else:
            # A text in every second scene, so that there is enough to read.
            side = math.exp(rng.uniform(*map(math.log, SIDES)))
            scene = draw_scene(rng, side=side, text=True if seed % 2 else None)
            yield rng, scene.image, scene.contents


def show(session: Session, image: Image.Image) -> None:
    """Give the session the scene as the file that a person would have."""
    stored = io.BytesIO()
    image.save(stored, "PNG")
    session.add_image(stored.getvalue(), "scene.png")

"""The training loop: first only look, then look and answer, and learn ever less at the end.

One run has three phases, by the share of its time that has passed:

    0 …  42 %    the tower learns from patches alone: no text is computed, so images go by fast
    …   75 %     answers and patches together
    … 100 %      the same, while the learning rate falls to nearly nothing

The last phase is where much of the accuracy comes from: steps that are too large to settle
anywhere become small.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from examples.train_demo.batches import (
    NO_TARGET,
    QUESTIONS_AN_IMAGE,
    Batch,
    SceneBatches,
    reading_mask,
)
from examples.train_demo.curves import draw_curves
from examples.train_demo.learner import Learner, Moment
from examples.train_demo.patches import PatchLosses
from vlmchat.model.paligemma import PaliGemma

PATCH_WEIGHT = 0.5  # of the patches' loss against the answers'
LARGEST_GRADIENT = 1.0
WARM_UP = 0.02  # share of the time in which the learning rate grows to its full size
LEAST_RATE = 0.02  # share of the learning rate that is left at the very end


@dataclass(frozen=True)
class Plan:
    """How to train: minutes for this call, and the shares of all minutes so far and now."""

    minutes: float
    batch: int = 8
    learning_rate: float = 1e-3
    looking: float = 0.42  # the first part, without answers
    falling: float = 0.25  # the last part, in which the learning rate falls
    most_things: int | None = None  # in a scene
    report_every: int = 100  # steps
    save_every: int = 500  # steps
    bfloat16: bool = True  # half the memory traffic, where the processor knows it
    workers: int = 1  # processes that draw scenes

    def rate(self, done: float) -> float:
        """The learning rate when the share `done` of the time has passed."""
        left = (1 - done) / self.falling if self.falling else 1.0
        return self.learning_rate * min(1.0, done / WARM_UP, max(left, LEAST_RATE))


@dataclass(frozen=True)
class Losses:
    """What one step is graded by; `answers` is None while the model only looks."""

    patches: PatchLosses
    answers: Tensor | None
    tokens_right: float

    @property
    def total(self) -> Tensor:
        """Answers and patches together."""
        patches = PATCH_WEIGHT * self.patches.total
        return patches if self.answers is None else self.answers + patches


def answer_scores(model: PaliGemma, features: Tensor, batch: Batch) -> Tensor:
    """Scores (N, V) at the N places of a batch where a token of an answer is to be said.

    `features` (B, P, Dv) are the tower's. Where nothing is to be said no scores are computed.
    """
    images = model.projector(features)
    x = torch.cat([images, model.text.embed(batch.ids).to(images.dtype)], dim=1)
    places = torch.arange(images.shape[1]).expand(images.shape[:2])
    positions = torch.cat([places, batch.positions], dim=1)
    mask = reading_mask(batch.question, batch.rank, images.shape[1])
    hidden = model.text(x, positions, mask)[:, images.shape[1] :]
    return model.text.logits(hidden[batch.targets != NO_TARGET]).float()


def losses(learner: Learner, batch: Batch, answering: bool) -> Losses:
    """Grade the learner on a batch."""
    features = learner.model.vision(batch.pixels)
    patches = learner.head.losses(features, batch.patches)
    if not answering:
        return Losses(patches, None, 0.0)
    scores = answer_scores(learner.model, features, batch)
    wanted = batch.targets[batch.targets != NO_TARGET]
    right = (scores.argmax(-1) == wanted).float().mean()
    return Losses(patches, F.cross_entropy(scores, wanted), float(right))


@dataclass(frozen=True)
class Marks:
    """What a step was graded, as plain numbers."""

    answers: float | None
    tokens_right: float
    patches: float
    shapes_right: float


def step(learner: Learner, batch: Batch, rate: float, answering: bool, bfloat16: bool) -> Marks:
    """Learn from one batch."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        graded = losses(learner, batch, answering)
    graded.total.backward()
    nn.utils.clip_grad_norm_(learner.parameters(), LARGEST_GRADIENT)
    learner.optimizers.step(rate)
    learner.images += len(batch.ids)
    learner.questions += len(batch.ids) * QUESTIONS_AN_IMAGE if answering else 0
    return Marks(
        answers=None if graded.answers is None else graded.answers.item(),
        tokens_right=graded.tokens_right,
        patches=graded.patches.total.item(),
        shapes_right=graded.patches.shapes_right.item(),
    )


def train(folder: Path, plan: Plan, report: Callable[[str], None] = print) -> Learner:
    """Train for `plan.minutes` in a prepared folder, from where the last call ended."""
    learner = Learner.resume(folder)
    scenes = SceneBatches(folder, plan.batch, learner.images, plan.most_things)
    ahead = 4 if plan.workers else None
    loader = DataLoader(scenes, batch_size=None, num_workers=plan.workers, prefetch_factor=ahead)
    before, started = learner.seconds, time.monotonic()
    all_seconds = before + 60 * plan.minutes
    recent: list[Marks] = []
    for number, batch in enumerate(loader, start=1):
        done = learner.seconds / all_seconds
        if done >= 1:
            break
        answering = done >= plan.looking
        recent.append(step(learner, batch, plan.rate(done), answering, plan.bfloat16))
        learner.seconds = before + time.monotonic() - started
        if number % plan.report_every == 0:
            learner.history.append(moment(learner, recent))
            recent.clear()
            report(progress_line(learner, done, plan))
        if number % plan.save_every == 0:
            learner.save(folder)
    learner.save(folder)
    if learner.history:
        draw_curves(learner.history).save(folder / "curves.png")
    return learner


def moment(learner: Learner, recent: list[Marks]) -> Moment:
    """A point of the curves: the means of the recent steps."""

    def mean(values: list[float]) -> float:
        return sum(values) / len(values) if values else 0.0

    return Moment(
        minutes=learner.seconds / 60,
        images=learner.images,
        answers=mean([one.answers for one in recent if one.answers is not None]),
        tokens_right=mean([one.tokens_right for one in recent]),
        patches=mean([one.patches for one in recent]),
        shapes_right=mean([one.shapes_right for one in recent]),
    )


def progress_line(learner: Learner, done: float, plan: Plan) -> str:
    """One line on how it goes."""
    now = learner.history[-1]
    return (
        f"{done:6.1%}  {now.minutes:5.1f} min  {now.images:7} images"
        f"  answers {now.answers:.3f} ({now.tokens_right:.1%} of tokens)"
        f"  patches {now.patches:.3f} ({now.shapes_right:.1%} of shapes)"
        f"  rate {plan.rate(done):.1e}"
    )

"""The training loop: first only look, then look and answer, and learn ever less at the end.

One run has three phases, by the share of its time that has passed:

    0 …  12 %    the tower learns from patches alone: no text is computed, so images go by fast
    …   50 %     answers and patches together
    … 100 %      the same, while the learning rate falls to nearly nothing

The last phase is where much of the accuracy comes from: steps that are too large to settle
anywhere become small.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.train_demo.batches import (
    NO_TARGET,
    QUESTIONS_AN_IMAGE,
    Batch,
    Texts,
    normalised,
    reading_mask,
)
from examples.train_demo.curves import draw_curves
from examples.train_demo.learner import Learner, Moment
from examples.train_demo.patches import PatchLosses, patch_targets
from examples.train_demo.pool import Pool
from examples.train_demo.tokenizer import CODES
from vlmchat.model.paligemma import PaliGemma

PATCH_WEIGHT = 0.4  # of the patches' loss against the answers'
# A box is four tokens out of a thousand each, of which nobody can know the last digit: at full
# weight that noise would drown all other words.
PLACE_WEIGHT = 0.25
LARGEST_GRADIENT = 1.0
WARM_UP = 0.02  # share of the time in which the learning rate grows to its full size
LEAST_RATE = 0.02  # share of the learning rate that is left at the very end
BRIGHTER, LIGHTER = 0.08, 10.0  # by how much a picture is relit: a share, and levels of 255


@dataclass(frozen=True)
class Plan:
    """How to train: minutes for this call, and the shares of all minutes so far and now."""

    minutes: float
    batch: int = 8
    learning_rate: float = 1e-3
    looking: float = 0.12  # the first part, without answers
    falling: float = 0.5  # the last part, in which the learning rate falls
    most_things: int | None = None  # in a scene
    report_every: int = 100  # steps
    save_every: int = 500  # steps
    bfloat16: bool = True  # half the memory traffic, where the processor knows it
    workers: int = 1  # processes that draw scenes
    showings: int = 1  # how often an image is shown at most, each time with other questions
    device: str = "cpu"
    compile: bool = False  # costs a minute at the start; needs a compiler

    def rate(self, done: float) -> float:
        """The learning rate when the share `done` of the time has passed."""
        left = (1 - done) / self.falling if self.falling else 1.0
        return self.learning_rate * min(1.0, done / WARM_UP, max(left, LEAST_RATE))


@dataclass(frozen=True)
class Marks:
    """What a step was graded, each a scalar tensor; `answers` is None while it only looks."""

    answers: Tensor | None
    tokens_right: Tensor | None
    patches: PatchLosses

    @property
    def total(self) -> Tensor:
        """Answers and patches together."""
        patches = PATCH_WEIGHT * self.patches.total
        return patches if self.answers is None else self.answers + patches

    def detached(self) -> "Marks":
        """The same without what it was computed from."""
        answers = None if self.answers is None else self.answers.detach()
        patches = replace(self.patches, total=self.patches.total.detach())
        return Marks(answers, self.tokens_right, patches)


def answer_scores(model: PaliGemma, features: Tensor, texts: Texts) -> Tensor:
    """Scores (N, V) at the N places of a batch where a token of an answer is to be said.

    `features` (B, P, Dv) are the tower's. Where nothing is to be said no scores are computed.
    """
    images = model.projector(features)
    x = torch.cat([images.float(), model.text.embed(texts.ids)], dim=1)
    places = torch.arange(images.shape[1], device=x.device).expand(images.shape[:2])
    positions = torch.cat([places, texts.positions], dim=1)
    mask = reading_mask(texts.question, texts.rank, images.shape[1])
    hidden = model.text(x, positions, mask)[:, images.shape[1] :]
    return model.text.logits(hidden[texts.targets != NO_TARGET]).float()


def grade(learner: Learner, batch: Batch, texts: Texts | None) -> Marks:
    """Grade the learner on a batch, with one set of questions or (None) on its patches alone."""
    config = learner.model.config
    features = learner.model.vision(relit(normalised(batch.pixels)))
    patches = learner.head.losses(features, patch_targets(batch.truth, config.vision))
    if texts is None:
        return Marks(None, None, patches)
    scores = answer_scores(learner.model, features, texts)
    wanted = texts.targets[texts.targets != NO_TARGET]
    is_place = (wanted >= config.image_token_id - len(CODES)) & (wanted < config.image_token_id)
    weights = torch.where(is_place, PLACE_WEIGHT, 1.0)
    losses = weights * F.cross_entropy(scores, wanted, reduction="none")
    right = (scores.argmax(-1) == wanted) & ~is_place
    return Marks(losses.sum() / weights.sum(), right.sum() / (~is_place).sum(), patches)


def relit(pixels: Tensor) -> Tensor:
    """Pictures (B, 3, S, S) in a little more or less light, each in its own."""
    shape = (len(pixels), 1, 1, 1)
    gain = 1 + BRIGHTER * (2 * torch.rand(shape, device=pixels.device) - 1)
    lift = LIGHTER / 127.5 * (2 * torch.rand(shape, device=pixels.device) - 1)
    return (pixels * gain + lift).clamp(-1, 1)


def step(learner: Learner, batch: Batch, texts: Texts | None, rate: float, bfloat16: bool) -> Marks:
    """Learn from one batch."""
    with torch.autocast(batch.pixels.device.type, torch.bfloat16, enabled=bfloat16):
        marks = grade(learner, batch, texts)
    marks.total.backward()
    nn.utils.clip_grad_norm_(learner.parameters(), LARGEST_GRADIENT)
    learner.optimizers.step(rate)
    learner.progress.showings += len(batch.pixels)
    learner.progress.questions += len(batch.pixels) * QUESTIONS_AN_IMAGE if texts is not None else 0
    return marks.detached()


def train(
    folder: Path,
    plan: Plan,
    report: Callable[[str], None] = print,
    advance: Callable[[float], None] = lambda done: None,
) -> Learner:
    """Train for `plan.minutes` in a prepared folder, from where the last call ended.

    `report` is given a line now and then, `advance` the share of the time that is done.
    """
    learner = Learner.resume(folder, plan.device)
    if plan.compile:
        learner.model.vision.compile()
        learner.model.text.compile(dynamic=True)
    pool = Pool(folder, learner.progress.images, plan)
    before, started = learner.progress.seconds, time.monotonic()
    all_seconds = before + 60 * plan.minutes
    recent: list[Marks] = []
    number = 0
    while (done := learner.progress.seconds / all_seconds) < 1:
        batch, texts, is_new = pool.next()
        learner.progress.images += len(batch.pixels) if is_new else 0
        answering = done >= plan.looking
        rate = plan.rate(done)
        recent.append(step(learner, batch, texts if answering else None, rate, plan.bfloat16))
        learner.progress.seconds = before + time.monotonic() - started
        advance(done)
        number += 1
        if number % plan.report_every == 0:
            learner.progress.history.append(moment(learner, recent))
            recent.clear()
            report(progress_line(learner, done, plan))
        if number % plan.save_every == 0:
            learner.save(folder)
    pool.close()
    learner.save(folder)
    if learner.progress.history:
        draw_curves(learner.progress.history).save(folder / "curves.png")
    return learner


def moment(learner: Learner, recent: list[Marks]) -> Moment:
    """A point of the curves: the means of the recent steps."""

    def mean(values: list[Tensor | None]) -> float:
        there = [value for value in values if value is not None]
        return float(torch.stack(there).mean()) if there else 0.0

    return Moment(
        minutes=learner.progress.seconds / 60,
        images=learner.progress.images,
        answers=mean([one.answers for one in recent]),
        tokens_right=mean([one.tokens_right for one in recent]),
        patches=mean([one.patches.total for one in recent]),
        shapes_right=mean([one.patches.shapes_right for one in recent]),
        letters_right=mean([one.patches.letters_right for one in recent]),
    )


def progress_line(learner: Learner, done: float, plan: Plan) -> str:
    """One line on how it goes."""
    now = learner.progress.history[-1]
    return (
        f"{done:6.1%}  {now.minutes:5.1f} min  {now.images:7} images"
        f"  {learner.progress.showings:8} showings"
        f"  answers {now.answers:.3f} ({now.tokens_right:.2%} of words)"
        f"  patches {now.patches:.3f} ({now.shapes_right:.1%} of shapes,"
        f" {now.letters_right:.1%} of letters)  rate {plan.rate(done):.1e}"
    )

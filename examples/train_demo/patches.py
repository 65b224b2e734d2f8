"""What every patch of an image holds: a second, denser lesson for the vision tower.

Answers alone teach a tower slowly: one word a question has to tell it what to look for and where.
But whoever drew the picture knows what is in each patch. A linear layer on top of the tower, thrown
away after the training, has to say for each patch: the colour of the thing that it shows (or none),
that thing's shape, box and form, which of its cells are covered by anything, and which letters its
left and its right half hold. The form, a small picture of the thing alone, is what breaks the ice:
a shape's name depends on all of its outline at once, which is hard to find by chance, while each
cell of its form is a small step.

Axes: B images, P patches, C cells of a patch, N things (the most that a scene has), K letters.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.train_demo.canvas import FORM_SIDE, OWNERS_SIDE
from examples.train_demo.lettering import LETTERS
from examples.train_demo.outlines import SHAPES
from examples.train_demo.scene import COLOURS, MOST_THINGS, Scene
from vlmchat.config import VisionConfig

COVERED_SHARE = 0.12  # of a patch, for a thing to count as what the patch shows
NOTHING = 0  # colours, shapes and letters are numbered from 1
BOX_BETA = 0.05  # distances smaller than this count squared, larger ones as they are
# How much each lesson weighs, so that all are of about the same size.
CELL_WEIGHT, BOX_WEIGHT, FORM_WEIGHT, EMPTY_LETTER_WEIGHT = 2.0, 4.0, 2.0, 3.0
_COLOURS, _SHAPES = list(COLOURS), list(SHAPES)


@dataclass(frozen=True)
class Truth:
    """What is known of pictures, in bytes (B, …): see `Scene`. Things are numbered from 1.

    `owners` and `letters` (64, 64), `colours` and `shapes` (1 + N), `forms` (1 + N, 64), and as
    floats `boxes` (1 + N, 4). Thing 0 is the background.
    """

    owners: Tensor
    letters: Tensor
    colours: Tensor
    shapes: Tensor
    forms: Tensor
    boxes: Tensor

    @classmethod
    def of(cls, scene: Scene) -> "Truth":
        """That of one scene, with a batch axis in front."""
        things = scene.things
        colours, shapes = np.zeros(MOST_THINGS + 1, np.uint8), np.zeros(MOST_THINGS + 1, np.uint8)
        forms = np.zeros((MOST_THINGS + 1, FORM_SIDE**2), np.uint8)
        boxes = np.zeros((MOST_THINGS + 1, 4), np.float32)
        for number, thing in enumerate(things, start=1):
            colours[number] = _COLOURS.index(thing.colour) + 1
            shapes[number] = _SHAPES.index(thing.shape) + 1
            forms[number] = scene.forms[number - 1].ravel()
            boxes[number] = thing.box
        parts = (scene.owners, scene.letters, colours, shapes, forms, boxes)
        return cls(*(torch.from_numpy(np.array(part)).unsqueeze(0) for part in parts))

    @classmethod
    def join(cls, parts: list["Truth"]) -> "Truth":
        """Those of several batches behind one another."""
        return cls(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def to(self, device: torch.device | str) -> "Truth":
        """The same on another device."""
        return Truth(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))


@dataclass(frozen=True)
class PatchTargets:
    """Colour and shape numbers (B, P), cells (B, P, C), boxes (B, P, 4), forms (B, P, 64), letters
    (B, P, 2).

    All but the numbers are shares from 0 to 1.
    """

    colours: Tensor
    shapes: Tensor
    cells: Tensor
    boxes: Tensor
    forms: Tensor
    letters: Tensor


@dataclass(frozen=True)
class PatchLosses:
    """All lessons' losses together, weighed, and the shares of shapes and letters named rightly."""

    total: Tensor
    shapes_right: Tensor
    letters_right: Tensor


def patch_targets(truth: Truth, config: VisionConfig) -> PatchTargets:
    """What each patch of the pictures holds once they are squashed to the model's square."""
    owners = _patches(truth.owners.long(), config)  # (B, P, C)
    covered = F.one_hot(owners, MOST_THINGS + 1).float().mean(2)  # (B, P, 1 + N)
    covered[..., 0] = 0
    share, shown = covered.max(-1)
    shown = torch.where(share >= COVERED_SHARE, shown, 0)  # (B, P)
    rows = torch.arange(len(shown), device=shown.device).unsqueeze(1)
    return PatchTargets(
        colours=truth.colours.long()[rows, shown],
        shapes=truth.shapes.long()[rows, shown],
        cells=(owners > 0).float(),
        boxes=truth.boxes[rows, shown],
        forms=truth.forms[rows, shown].float() / 255,
        letters=_halves(_patches(truth.letters.long(), config)),
    )


def _patches(cells: Tensor, config: VisionConfig) -> Tensor:
    """(B, 64, 64) -> (B, P, C), patch by patch."""
    grid = config.image_size // config.patch_size
    side = OWNERS_SIDE // grid  # cells along one side of a patch
    cells = cells.unflatten(2, (grid, side)).unflatten(1, (grid, side))
    return cells.transpose(2, 3).flatten(3).flatten(1, 2)


def _halves(cells: Tensor) -> Tensor:
    """Letters of cells (B, P, C) -> of the left and the right half (B, P, 2): most of its letters.

    A half of which less than a quarter is within letters holds none.
    """
    side = round(cells.shape[2] ** 0.5)
    halves = cells.unflatten(2, (side, 2, side // 2)).transpose(2, 3).flatten(3)  # (B, P, 2, C/2)
    letter = halves.masked_fill(halves == NOTHING, -1).mode(-1).values
    most = halves.max(-1).values
    letter = torch.where(letter < 0, most, letter)
    enough = (halves > NOTHING).float().mean(-1) >= 0.25
    return torch.where(enough, letter, NOTHING)


class PatchHead(nn.Linear):
    """Tower features (B, P, D) -> scores of colours, shapes, cells, a box, a form, two letters."""

    def __init__(self, config: VisionConfig) -> None:
        cells = (OWNERS_SIDE * config.patch_size // config.image_size) ** 2
        letters = 2 * (len(LETTERS) + 1)
        self.parts = [len(COLOURS) + 1, len(SHAPES) + 1, cells, 4, FORM_SIDE**2, letters]
        super().__init__(config.hidden_size, sum(self.parts))

    def losses(self, features: Tensor, targets: PatchTargets) -> PatchLosses:
        """How wrong it is. Shapes, boxes and forms count only where there is a thing."""
        scores = self(features).float()
        colours, shapes, cells, boxes, forms, letters = scores.split(self.parts, dim=-1)
        there = targets.colours != NOTHING
        wanted = targets.shapes[there]
        of_letters, letters_right = _letter_loss(letters.unflatten(-1, (2, -1)), targets.letters)
        box_errors = (boxes[there] - targets.boxes[there]).abs()
        form_bits = F.binary_cross_entropy_with_logits(
            forms[there], targets.forms[there], reduction="none"
        )
        total = (
            F.cross_entropy(colours.flatten(0, 1), targets.colours.flatten())
            + _mean(F.cross_entropy(shapes[there], wanted, reduction="none"))
            + CELL_WEIGHT * F.binary_cross_entropy_with_logits(cells, targets.cells)
            + BOX_WEIGHT * _mean(_huber(box_errors))
            + FORM_WEIGHT * _mean(form_bits)
            + of_letters
        )
        right = _mean((shapes[there].argmax(-1) == wanted).float())
        return PatchLosses(total, right.detach(), letters_right.detach())


def _letter_loss(scores: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of letters (B, P, 2, 1 + K), and the share right of those that are there.

    Few patches hold letters; the others together count EMPTY_LETTER_WEIGHT times their mean.
    """
    losses = F.cross_entropy(scores.flatten(0, 2), wanted.flatten(), reduction="none")
    there = wanted.flatten() != NOTHING
    right = scores.flatten(0, 2).argmax(-1) == wanted.flatten()
    total = _mean(losses[there]) + EMPTY_LETTER_WEIGHT * _mean(losses[~there])
    return total, _mean(right[there].float())


def _huber(errors: Tensor) -> Tensor:
    """Squared up to BOX_BETA, as they are above it."""
    return torch.where(errors < BOX_BETA, errors**2 / (2 * BOX_BETA), errors - BOX_BETA / 2)


def _mean(values: Tensor) -> Tensor:
    """The mean, 0 where there is nothing."""
    return values.sum() / max(1, values.numel())

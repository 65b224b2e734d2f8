"""What every patch of an image holds: a second, denser lesson for the vision tower.

Answers alone teach a tower slowly: one word a question has to tell it what to look for and where.
But whoever drew the picture knows what is in each patch. A linear layer on top of the tower, thrown
away after the training, has to say for each patch: the colour of the thing that it shows (or none),
that thing's shape, box and form, and which of its cells are covered by anything. The form, a small
picture of the thing alone, is what breaks the ice: a shape's name depends on all of its outline at
once, which is hard to find by chance, while each cell of its form is a small step.

Axes: B images, P patches, C cells of a patch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.train_demo.outlines import SHAPES
from examples.train_demo.scene import COLOURS, FORM_SIDE, OWNERS_SIDE, Scene
from vlmchat.config import VisionConfig

COVERED_SHARE = 0.12  # of a patch, for a thing to count as what the patch shows
NOTHING = 0  # colours and shapes are numbered from 1
BOX_BETA = 0.05  # distances smaller than this count squared, larger ones as they are
# How much each lesson weighs, so that all are of about the same size.
CELL_WEIGHT, BOX_WEIGHT, FORM_WEIGHT = 2.0, 4.0, 2.0


@dataclass(frozen=True)
class PatchTargets:
    """Colour and shape numbers (…, P), cells (…, P, C), boxes (…, P, 4), forms (…, P, 64).

    All but the numbers are shares from 0 to 1.
    """

    colours: Tensor
    shapes: Tensor
    cells: Tensor
    boxes: Tensor
    forms: Tensor

    @classmethod
    def stack(cls, parts: Sequence["PatchTargets"]) -> "PatchTargets":
        """Those of several images, with a batch axis in front."""
        return cls(
            torch.stack([part.colours for part in parts]),
            torch.stack([part.shapes for part in parts]),
            torch.stack([part.cells for part in parts]),
            torch.stack([part.boxes for part in parts]),
            torch.stack([part.forms for part in parts]),
        )


@dataclass(frozen=True)
class PatchLosses:
    """The five lessons' losses, and the share of patches whose shape is named rightly."""

    colour: Tensor
    shape: Tensor
    cells: Tensor
    box: Tensor
    form: Tensor
    shapes_right: Tensor

    @property
    def total(self) -> Tensor:
        """All of them, weighed."""
        return (
            self.colour
            + self.shape
            + CELL_WEIGHT * self.cells
            + BOX_WEIGHT * self.box
            + FORM_WEIGHT * self.form
        )


def patch_targets(scene: Scene, config: VisionConfig) -> PatchTargets:
    """What each patch of the picture holds once it is squashed to the model's square."""
    grid = config.image_size // config.patch_size
    side = OWNERS_SIDE // grid  # cells along one side of a patch
    cells = scene.owners.reshape(grid, side, grid, side).transpose(0, 2, 1, 3)
    cells = cells.reshape(grid * grid, side * side)
    shown = [_shown(patch) for patch in cells]
    things = [scene.things[owner - 1] if owner else None for owner in shown]
    colours, shapes = list(COLOURS), list(SHAPES)
    forms = np.concatenate([np.zeros((1, FORM_SIDE**2)), scene.forms.reshape(-1, FORM_SIDE**2)])
    return PatchTargets(
        torch.tensor([colours.index(t.colour) + 1 if t else NOTHING for t in things]),
        torch.tensor([shapes.index(t.shape) + 1 if t else NOTHING for t in things]),
        torch.from_numpy((cells > 0).astype(np.float32)),
        torch.tensor([t.box if t else (0.0, 0.0, 0.0, 0.0) for t in things]),
        torch.from_numpy(forms[shown].astype(np.float32)),
    )


def _shown(cells: np.ndarray) -> int:
    """The owner of most of a patch's cells (C,), if it has enough of them; else 0."""
    shares = np.bincount(cells, minlength=2)[1:] / len(cells)
    return int(shares.argmax()) + 1 if shares.max() >= COVERED_SHARE else 0


class PatchHead(nn.Linear):
    """Tower features (B, P, D) -> scores of colours, shapes, cells, a box, a form, in one row."""

    def __init__(self, config: VisionConfig) -> None:
        cells = (OWNERS_SIDE * config.patch_size // config.image_size) ** 2
        self.parts = [len(COLOURS) + 1, len(SHAPES) + 1, cells, 4, FORM_SIDE**2]
        super().__init__(config.hidden_size, sum(self.parts))

    def losses(self, features: Tensor, targets: PatchTargets) -> PatchLosses:
        """How wrong it is. Shapes, boxes and forms count only where there is a thing."""
        scores = self(features).float()
        colours, shapes, cells, boxes, forms = scores.split(self.parts, dim=-1)
        there = targets.colours != NOTHING
        wanted = targets.shapes[there]
        return PatchLosses(
            F.cross_entropy(colours.flatten(0, 1), targets.colours.flatten()),
            F.cross_entropy(shapes[there], wanted),
            F.binary_cross_entropy_with_logits(cells, targets.cells),
            F.smooth_l1_loss(boxes[there], targets.boxes[there], beta=BOX_BETA),
            F.binary_cross_entropy_with_logits(forms[there], targets.forms[there]),
            (shapes[there].argmax(-1) == wanted).float().mean(),
        )

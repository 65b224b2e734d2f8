"""How the weights begin, before anything is learnt.

Axes: P patches, D width.
"""

import numpy as np
import torch
from torch import Tensor, nn

from vlmchat.model.paligemma import PaliGemma

TABLE_STD = 0.02
GAIN = 0.8  # of a linear layer at the start: rather too quiet than too loud
RESIDUAL_GAIN = 0.4  # of the layers that add to the residual path, times GAIN
RESIDUAL_ENDS = ("o_proj.weight", "out_proj.weight", "down_proj.weight", "fc2.weight")
POSITION_SCALE = 0.5


@torch.no_grad()
def initialise(model: PaliGemma) -> None:
    """Random weights of a size that keeps activations about as large as they come in."""
    for name, parameter in model.named_parameters():
        if "embed_tokens" in name:
            nn.init.normal_(parameter, std=TABLE_STD)
        elif parameter.dim() >= 2:
            gain = GAIN * (RESIDUAL_GAIN if name.endswith(RESIDUAL_ENDS) else 1.0)
            nn.init.normal_(parameter, std=gain * parameter[0].numel() ** -0.5)
        elif name.startswith("vision.") and "norm" in name and name.endswith("weight"):
            nn.init.ones_(parameter)  # LayerNorm multiplies by its weight
        else:
            nn.init.zeros_(parameter)  # biases; Gemma's norms multiply by one plus their weight
    places = model.vision.embeddings.position_embedding.weight
    places.copy_(POSITION_SCALE * grid_waves(*places.shape))


def grid_waves(patches: int, width: int) -> Tensor:
    """Sines and cosines (P, D) of each patch's row and column: a start that knows the grid.

    Learnt positions begin with no idea which patches are neighbours; these do (the two-dimensional
    form of Vaswani et al. 2017, 1706.03762). Training may change them.
    """
    grid = int(patches**0.5)
    row, column = (axis.reshape(-1, 1) for axis in np.mgrid[0:grid, 0:grid])
    waves = width // 4
    frequencies = 100.0 ** -(np.arange(waves) / waves)
    angles = [row * frequencies, column * frequencies]
    parts = [turn(angle) for angle in angles for turn in (np.sin, np.cos)]
    return torch.tensor(np.concatenate(parts, axis=1), dtype=torch.float32)

"""How the weights begin, before anything is learnt.

Axes: P patches, D width, N places (the tokens `<loc0000>` to `<loc1023>`).
"""

import numpy as np
import torch
from torch import Tensor, nn

from examples.train_demo.tokenizer import CODES, PLACES
from vlmchat.model.paligemma import PaliGemma

TABLE_STD = 0.02
GAIN = 0.8  # of a linear layer at the start: rather too quiet than too loud
RESIDUAL_GAIN = 0.4  # of the layers that add to the residual path, times GAIN
RESIDUAL_ENDS = ("o_proj.weight", "out_proj.weight", "down_proj.weight", "fc2.weight")
POSITION_SCALE = 0.5
FINEST_PLACE_WAVE = 64.0  # waves across the picture; the coarsest is half a wave


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
    positions = model.vision.embeddings.position_embedding.weight
    positions.copy_(POSITION_SCALE * grid_waves(*positions.shape))
    table = model.text.embed_tokens.weight
    first = model.config.image_token_id - len(CODES)
    table[first : first + PLACES] = TABLE_STD * place_waves(PLACES, table.shape[1])


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


def place_waves(places: int, width: int) -> Tensor:
    """Rows (N, D) of unit size for the place tokens, so that neighbours are alike.

    With random rows the model would have to find out of a thousand tokens, one by one, that they
    are points on a line. With these, whoever says `<loc0500>` nearly says `<loc0501>` too.
    """
    place = np.arange(places).reshape(-1, 1) / places
    angles = 2 * np.pi * place * np.geomspace(0.5, FINEST_PLACE_WAVE, width // 2)
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    return torch.tensor(np.sqrt(2) * waves, dtype=torch.float32)

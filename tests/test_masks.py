"""Masks equal the pictures in the module's docstring."""

import pytest
import torch

from vlmchat.model import masks
from vlmchat.model.masks import block_mask


def drawn(column: int, picture: int) -> torch.Tensor:
    """A mask that the docstring draws: which picture, and which column of it."""
    lines = [line for line in masks.__doc__.splitlines() if line.startswith("    ")]
    lines = [line for line in lines if line.split()[0] in "ipakr"]
    starts = [i for i, line in enumerate(lines) if line.split()[:2] in (["i", "i"], ["k", "k"])]
    rows = lines[starts[picture] + 1 : starts[picture] + 8]
    digits = [[int(c) for c in row.split() if c in "01"] for row in rows]
    return torch.tensor([row[7 * column : 7 * column + 7] for row in digits], dtype=torch.bool)


@pytest.mark.parametrize(
    ("blocks", "causal", "column", "picture"),
    [([5], 2, 0, 0), ([2, 3], 2, 1, 0), ([], 7, 2, 0), ([3, 2], 2, 0, 1)],
)
def test_masks_are_as_drawn(blocks, causal, column, picture):
    assert torch.equal(block_mask(blocks, causal), drawn(column, picture))

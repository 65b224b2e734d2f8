"""A table of rows that costs nothing before its numbers come from a file."""

from torch import nn


class Embedding(nn.Embedding):
    """`nn.Embedding` that draws no first numbers on the meta device.

    There they would be drawn into nothing, and PyTorch imports its whole compiler to do so: a
    second of every start.
    """

    def reset_parameters(self) -> None:
        """Draw first numbers where there is room for them."""
        if not self.weight.is_meta:
            super().reset_parameters()

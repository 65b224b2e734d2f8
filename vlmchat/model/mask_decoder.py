"""PaliGemma's mask decoder: sixteen codes in, a picture of a mask out.

Axes: B masks, C channels, K codes in the book.
Source: the VQ-VAE of Ning et al. 2023 (arXiv 2301.02229), as big_vision uses it.

`segment` answers hold sixteen `<segNNN>` tokens an object. Each is a row of a code book; the rows,
laid out four by four, are grown to 64 x 64 by transposed convolutions. Module names repeat those of
the published file (`decoder.0.weight`, …), where the even places between are ReLUs.
"""

from torch import Tensor, nn

SIDE = 4  # of the square of codes
CODES, CODE_WIDTH = 128, 512
WIDTHS = (128, 128, 64, 32, 16)  # channels at 4, 8, 16, 32 and 64 pixels a side


class Residual(nn.Module):
    """Two 3 x 3 convolutions and one of 1 x 1 beside a straight path, with no ReLU behind it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x)


class MaskDecoder(nn.Module):
    """Codes (B, 16) -> masks (B, 64, 64), about -1 outside and 1 inside."""

    def __init__(self) -> None:
        super().__init__()
        self.codebook = nn.Embedding(CODES, CODE_WIDTH)
        layers: list[nn.Module] = [nn.Conv2d(CODE_WIDTH, WIDTHS[0], 1), nn.ReLU()]
        layers += [Residual(WIDTHS[0]), Residual(WIDTHS[0])]
        for narrow, wide in zip(WIDTHS[1:], WIDTHS[:-1], strict=True):
            layers += [nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1), nn.ReLU()]
        layers.append(nn.Conv2d(WIDTHS[-1], 1, 1))
        self.decoder = nn.Sequential(*layers)

    def forward(self, codes: Tensor) -> Tensor:
        rows = self.codebook(codes)  # (B, 16, C)
        square = rows.transpose(1, 2).unflatten(2, (SIDE, SIDE))  # (B, C, 4, 4), row by row
        return self.decoder(square).squeeze(1)

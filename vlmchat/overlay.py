"""What is drawn over a picture: boxes, masks, and where the model looked.

Axes: H and W pixels of the picture, S patches along a side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

    from vlmchat.tasks import Detection

    Color = tuple[int, int, int]
    Mask = np.ndarray[tuple[int, int], np.dtype[np.float32]]

# Okabe and Ito's colours (jfly.uni-koeln.de/color), which most colour-blind people can tell apart.
PALETTE = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (204, 121, 167),
    (213, 94, 0),
    (0, 114, 178),
)
SHADE = 0.45  # of a mask's colour over the picture
LABELLED = 160  # pixels of the shorter side from which letters can be read
DARK = 0.25  # what stays of the brightness where the model did not look
GLOW = (255, 170, 40)
BRIGHTEST = 0.98  # share of patches below full brightness: a few draw attention whatever they show


@dataclass(frozen=True)
class Mark:
    """A short text at a place (x, y: 0 to 1) for pictures too coarse to hold letters."""

    text: str
    x: float
    y: float
    color: Color


@dataclass(frozen=True)
class Scene:
    """A picture and what belongs over it, which can be painted at any size.

    `paint` takes the RGB picture at some size and gives a new image of that size.
    """

    image: Image
    paint: Callable[[Image], Image]
    marks: tuple[Mark, ...] = ()

    def full(self) -> Image:
        """The painted picture at its own size."""
        return self.paint(self.image)


def plain(image: Image) -> Scene:
    """A picture with nothing over it."""
    return Scene(image, lambda shown: shown)


def boxes(
    image: Image, detections: Sequence[Detection], masks: Sequence[Mask | None] = ()
) -> Scene:
    """A picture with its detections over it, numbered from 1."""
    marks = tuple(
        Mark(str(number), found.box[1], found.box[0], color_of(number))
        for number, found in enumerate(detections, 1)
    )
    return Scene(image, lambda shown: draw_detections(shown, detections, masks), marks)


def color_of(number: int) -> Color:
    """The colour of detection `number`, from 1."""
    return PALETTE[(number - 1) % len(PALETTE)]


def draw_detections(
    image: Image, detections: Sequence[Detection], masks: Sequence[Mask | None] = ()
) -> Image:
    """A copy of an RGB image with a numbered, labelled box around each detection.

    `masks` are those of the detections, in their order: (64, 64) within the box, above 0 inside.
    """
    from PIL import ImageDraw

    drawn = image.copy()
    for number, (found, mask) in enumerate(zip(detections, masks, strict=False), 1):
        if mask is not None:
            _shade(drawn, _pixels(found, drawn), mask, color_of(number))
    pen = ImageDraw.Draw(drawn)
    for number, found in enumerate(detections, 1):
        _outline(pen, _pixels(found, drawn), color_of(number), _line_width(drawn))
    if min(drawn.size) >= LABELLED:
        for number, found in enumerate(detections, 1):
            corner = _pixels(found, drawn)[:2]
            _label(pen, corner, f"{number} {found.label}".rstrip(), color_of(number), drawn.size)
    return drawn


def _pixels(found: Detection, image: Image) -> tuple[int, int, int, int]:
    """The box in pixels that exist: x0, y0, x1, y1, the last ones inside."""
    x0, y0, x1, y1 = found.pixel_box(image.size)
    right, bottom = image.width - 1, image.height - 1
    left, top = min(max(int(x0), 0), right), min(max(int(y0), 0), bottom)
    return left, top, min(max(int(x1), left), right), min(max(int(y1), top), bottom)


def _line_width(image: Image) -> int:
    return max(1, round(min(image.size) / 150))


def _outline(pen: ImageDraw, box: tuple[int, int, int, int], color: Color, width: int) -> None:
    """A rectangle in colour, between dark lines where there is room for them."""
    if width > 1:
        x0, y0, x1, y1 = box
        pen.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline="black", width=width + 2)
    pen.rectangle(box, outline=color, width=width)


def _label(
    pen: ImageDraw, corner: tuple[int, int], text: str, color: Color, size: tuple[int, int]
) -> None:
    """Black letters on the box's colour, at its upper left corner, inside the picture."""
    from PIL import ImageFont

    font = ImageFont.load_default(max(11, min(size) // 24))
    _, _, width, height = pen.textbbox((0, 0), text, font=font)
    x = max(0, min(corner[0], size[0] - int(width) - 4))
    y = max(0, min(corner[1], size[1] - int(height) - 4))
    pen.rectangle((x, y, x + width + 4, y + height + 4), fill=color)
    pen.text((x + 2, y + 1), text, fill="black", font=font)


def _shade(image: Image, box: tuple[int, int, int, int], mask: Mask, color: Color) -> None:
    """Lay colour over the part of the box that the mask covers, in place."""
    import numpy as np
    from PIL import Image

    x0, y0, x1, y1 = box
    wide = Image.fromarray(mask).resize((x1 - x0 + 1, y1 - y0 + 1), Image.Resampling.BILINEAR)
    cover = np.where(np.asarray(wide) > 0, round(255 * SHADE), 0).astype(np.uint8)
    image.paste(color, (x0, y0), Image.fromarray(cover))


def attention(image: Image, weights: Mask) -> Scene:
    """A picture lit where `weights` (S, S), from 0 up, are high, and dark elsewhere."""
    return Scene(image, lambda shown: draw_attention(shown, weights))


def draw_attention(image: Image, weights: Mask) -> Image:
    """A copy of an RGB image: dark where little attention went, with a warm glow where much did.

    Brightness is relative to the strongest patches, a few outliers left aside.
    """
    import numpy as np
    from PIL import Image

    top = max(float(np.quantile(weights, BRIGHTEST)), 1e-12)
    level = np.clip(weights / top, 0, 1).astype(np.float32)
    light = Image.fromarray((255 * level).astype(np.uint8)).resize(
        image.size, Image.Resampling.BICUBIC
    )
    dark = image.point(lambda value: round(value * DARK))
    glowing = Image.blend(image, Image.new("RGB", image.size, GLOW), 0.35)
    return Image.composite(glowing, dark, light)

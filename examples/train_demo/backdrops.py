"""What is behind the things, and what happens to a picture after it was made."""

import io
import math
import random

import numpy as np
from PIL import Image, ImageFilter

KINDS = ("plain", "plain", "gradient", "noise", "texture")


def draw_backdrop(
    rng: random.Random, width: int, height: int
) -> tuple[Image.Image, list[np.ndarray]]:
    """A backdrop and the one or two colours (3,) it is based on."""
    paper = np.array([rng.randint(0, 255) for _ in range(3)], dtype=np.float32)
    if rng.random() < 0.5:  # half of them are pale, grey or dark rather than gaudy
        paper = 0.3 * paper + 0.7 * rng.choice((200, 128, 60))
    kind = rng.choice(KINDS)
    noise = np.random.default_rng(rng.getrandbits(32))
    flat, papers = np.broadcast_to(paper, (height, width, 3)), [paper]
    if kind == "gradient":
        other = np.clip(paper + noise.integers(-90, 90, 3), 0, 255)
        slope = _slope(rng, width, height)
        flat, papers = flat * (1 - slope) + other * slope, [paper, other]
    elif kind == "noise":
        channels = rng.choice((1, 3))  # grey or coloured grain
        grain = noise.standard_normal((height, width, channels), np.float32)
        flat = flat + rng.uniform(4, 22) * grain
    elif kind == "texture":
        flat = flat + rng.uniform(6, 28) * _weave(rng, width, height)
    return Image.fromarray(np.clip(flat, 0, 255).astype(np.uint8)), papers


def _slope(rng: random.Random, width: int, height: int) -> np.ndarray:
    """A ramp (height, width, 1) from 0 to 1 in some direction."""
    y, x = np.mgrid[0:height, 0:width]
    angle = rng.uniform(0, 2 * math.pi)
    along = x / width * math.cos(angle) + y / height * math.sin(angle)
    return ((along - along.min()) / (np.ptp(along) + 1e-6))[..., None]


def _weave(rng: random.Random, width: int, height: int) -> np.ndarray:
    """Stripes or a weave (height, width, 1), from -1 to 1."""
    y, x = np.mgrid[0:height, 0:width]
    angle, wave = rng.uniform(0, math.pi), 2 * math.pi / rng.uniform(4, 20)
    pattern = np.sin((x * math.cos(angle) + y * math.sin(angle)) * wave)
    if rng.random() < 0.4:
        pattern = pattern * np.sin((y * math.cos(angle) - x * math.sin(angle)) * wave)
    return pattern[..., None]


def photograph(rng: random.Random, image: Image.Image, shrink: int) -> Image.Image:
    """Shrink a drawing `shrink` times, and treat it as a picture in the wild would have been."""
    size = (image.width // shrink, image.height // shrink)
    filters = (Image.Resampling.LANCZOS, Image.Resampling.BILINEAR, Image.Resampling.BOX)
    image = image.resize(size, rng.choice(filters))
    if rng.random() < 0.2:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.8)))
    if rng.random() < 0.35:
        stored = io.BytesIO()
        image.save(stored, "JPEG", quality=rng.randint(35, 92))
        image = Image.open(stored).convert("RGB")
    return image

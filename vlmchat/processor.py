"""What goes into the model: an image as pixels, a prompt as ids."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vlmchat.config import ConfigError, ModelConfig
from vlmchat.tasks import is_fixed, leading_words
from vlmchat.tokenizer import Tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image

SETTINGS_NAME = "preprocessor_config.json"
BILINEAR, BICUBIC = 2, 3  # Pillow's numbers, which the published file uses
MAX_SETTINGS_BYTES = 100_000
STEPS = ("do_resize", "do_rescale", "do_normalize")


@dataclass(frozen=True)
class ImageSettings:
    """How a checkpoint wants its images; the defaults are PaliGemma's."""

    resample: int = BICUBIC
    rescale_factor: float = 1 / 255
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @classmethod
    def from_folder(cls, folder: Path, image_size: int) -> "ImageSettings":
        """Read `preprocessor_config.json`, where there is one; raise ConfigError if it is wrong."""
        path = folder / SETTINGS_NAME
        if not path.is_file():
            return cls()
        try:
            if path.stat().st_size > MAX_SETTINGS_BYTES:
                raise ValueError("it is too large")
            raw = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(raw, dict):
                raise ValueError("it is no JSON object")
            given = {key: value for key, value in raw.items() if value is not None}
            settings, sides = cls._from_json(given), _sides(given.get("size", image_size))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise ConfigError(
                f"{path}: cannot be used ({error}): download the file again"
            ) from error
        if sides != (image_size, image_size):
            raise ConfigError(
                f"{path}: images of {sides[0]} x {sides[1]} pixels where the model takes "
                f"{image_size} x {image_size}: the two do not belong together"
            )
        return settings

    @classmethod
    def _from_json(cls, raw: Mapping[str, Any]) -> "ImageSettings":
        """What the parsed file says; raises ValueError or TypeError."""
        off = [step for step in STEPS if raw.get(step, True) is not True]
        if off:
            raise ValueError(f"{off[0]} is {raw[off[0]]}, and a PaliGemma needs it")
        settings = cls(
            resample=int(raw.get("resample", BICUBIC)),
            rescale_factor=float(raw.get("rescale_factor", 1 / 255)),
            mean=_three(raw.get("image_mean", cls.mean)),
            std=_three(raw.get("image_std", cls.std)),
        )
        if settings.resample not in (BILINEAR, BICUBIC):
            raise ValueError(f"resample is {settings.resample}, not {BILINEAR} or {BICUBIC}")
        if not all(map(math.isfinite, (settings.rescale_factor, *settings.mean, *settings.std))):
            raise ValueError("a number in it is infinite or none")
        if not all(settings.std):
            raise ValueError("image_std is 0, and pixels are divided by it")
        return settings


def _sides(size: Any) -> tuple[int, int]:
    """Height and width, which older files give as one number."""
    if type(size) is int:
        return size, size
    if not isinstance(size, dict) or not {"height", "width"} <= size.keys():
        raise ValueError("its size is no height and width")
    return int(size["height"]), int(size["width"])


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = values
    return (float(red), float(green), float(blue))


class Processor:
    """A checkpoint's tokenizer and image settings."""

    def __init__(
        self, tokenizer: Tokenizer, config: ModelConfig, settings: ImageSettings | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.config = config
        self.settings = settings or ImageSettings()

    @classmethod
    def from_folder(cls, folder: Path, config: ModelConfig) -> "Processor":
        """Read what the folder has; raise TokenizerError or ConfigError."""
        settings = ImageSettings.from_folder(folder, config.vision.image_size)
        return cls(Tokenizer.from_folder(folder, config), config, settings)

    def pixels(self, image: "Image") -> Tensor:
        """An RGB image -> (1, 3, S, S) float32, squashed to the square and normalised.

        Bit for bit what the reference's image processor makes with Pillow: resized on bytes,
        rescaled in float64 and rounded to float32, then normalised in float32.
        """
        side = self.config.vision.image_size
        resized = image.resize((side, side), resample=self.settings.resample, reducing_gap=None)
        scaled = np.asarray(resized).astype(np.float64) * self.settings.rescale_factor
        mean, std = (np.array(v, dtype=np.float32) for v in (self.settings.mean, self.settings.std))
        normalised = (scaled.astype(np.float32) - mean) / std  # (S, S, 3)
        return torch.from_numpy(normalised.transpose(2, 0, 1).copy()).unsqueeze(0)

    def prompt_ids(self, prompt: str) -> list[int]:
        """`<bos>`, the prompt, one newline: what stands behind the image tokens.

        Built from ids, so that nothing in the prompt can be a control token. Newlines at its end
        are dropped, since they would merge with the one that ends every prompt.
        """
        body = self.tokenizer.encode(prompt.rstrip("\n"))
        return [self.config.bos_id, *body, self.tokenizer.newline_id]

    def lead_ids(self, prompt: str) -> list[int]:
        """The beginning of `prompt_ids` that all prompts of the same task share.

        `<bos>` and the task's fixed words, and the whole of a prompt that has nothing variable.
        """
        whole = self.prompt_ids(prompt)
        if is_fixed(prompt):
            return whole
        lead = [self.config.bos_id, *self.tokenizer.encode(leading_words(prompt))]
        same = [a == b for a, b in zip(lead, whole, strict=False)]
        return whole[: same.index(False) if False in same else len(same)]

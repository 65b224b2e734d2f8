"""transformers doing the same work: greedy answers to an image and a prompt, token times noted."""

from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor
from transformers import PaliGemmaForConditionalGeneration

from vlmchat.config import ModelConfig


@dataclass(frozen=True)
class Pace:
    """Seconds until the first token of an answer, and tokens a second after it."""

    first_token_s: float
    tokens_per_s: float


class Stamps:
    """A streamer for `generate` that notes when each token arrives."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, ids: Tensor) -> None:
        """Called with the prompt first, then with each token on the host."""
        self.times.append(perf_counter())

    def end(self) -> None:
        """Called when the answer is over."""


def answer(
    model: PaliGemmaForConditionalGeneration, pixels: Tensor, input_ids: list[int], tokens: int
) -> tuple[Pace, list[int]]:
    """Answer with exactly so many tokens; the pace, and their ids.

    `pixels` is (1, 3, S, S); `input_ids` are image tokens, `<bos>` and prompt, as ours read them.
    """
    row = torch.tensor([input_ids], device=model.device)
    model.generation_config.eos_token_id = None
    stamps = Stamps()
    started = perf_counter()
    with torch.inference_mode():
        out = model.generate(
            input_ids=row,
            pixel_values=pixels.to(model.device, model.dtype),
            attention_mask=torch.ones_like(row),
            token_type_ids=torch.zeros_like(row),
            max_new_tokens=tokens,
            do_sample=False,
            streamer=stamps,
        )
    arrived = stamps.times[1:]
    rate = (tokens - 1) / (arrived[-1] - arrived[0]) if tokens > 1 else 0.0
    return Pace(arrived[0] - started, rate), out[0, len(input_ids) :].tolist()


def input_ids(config: ModelConfig, prompt_ids: list[int]) -> list[int]:
    """Image tokens in front of `<bos>` and the prompt."""
    return [config.image_token_id] * config.image_tokens + prompt_ids

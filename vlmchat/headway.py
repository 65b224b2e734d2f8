"""How far a model has come in reading an image and a prompt, for a person who waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

from torch import nn

from vlmchat.model.linear import FastLinear
from vlmchat.model.paligemma import PaliGemma


@contextmanager
def watched(model: PaliGemma, report: Callable[[float], None]) -> Iterator[None]:
    """While the block runs, tell `report` after each layer how much is done, up to 1.

    Tower and decoder read about the same number of tokens, so that the work of a layer is taken
    for its size. A tower that need not run is left out: the share then begins where it ends.
    """
    layers = [*model.vision.encoder.layers, *model.text.layers]
    done = list(accumulate(_size(layer) for layer in layers))
    hooks = [
        layer.register_forward_hook(_reporter(report, so_far / done[-1]))
        for layer, so_far in zip(layers, done, strict=True)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _reporter(report: Callable[[float], None], share: float) -> Callable[..., None]:
    def after(*_: Any) -> None:
        report(share)

    return after


def _size(layer: nn.Module) -> int:
    """Numbers that a layer holds, in whatever form."""
    fast = (each for each in layer.modules() if isinstance(each, FastLinear))
    numbers = sum(each.inputs * each.outputs for each in fast)
    return numbers + sum(each.numel() for each in layer.parameters())

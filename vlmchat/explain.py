"""Why an answer came out as it did: how sure the model was, and where it looked.

Nothing is kept for this while an answer is written. The last answer is computed once more, prompt
and answer together in one pass under the mask that the engine drew, and looked into on the way.

Axes: T answer tokens, S all tokens that came before them, P image tokens, L layers, N heads,
K key-value heads, G query heads per key-value head, H head width, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vlmchat.confidence import spans
from vlmchat.errors import UserError
from vlmchat.model.gemma import Attention, Rotation, rotate
from vlmchat.model.masks import block_mask

if TYPE_CHECKING:
    from vlmchat.engine import Engine, Reply
    from vlmchat.images import Picture

RUNNERS_UP = 3


@dataclass(frozen=True)
class Choice:
    """A token that could have come, and how likely the model found it (0 to 1)."""

    token_id: int
    text: str
    probability: float


@dataclass(frozen=True)
class Step:
    """One token of an answer, and the likeliest others in its place."""

    chosen: Choice
    others: tuple[Choice, ...]


@torch.inference_mode()
def choices(
    engine: Engine, picture: Picture | None, reply: Reply, count: int = RUNNERS_UP
) -> list[Step]:
    """For each token of the answer its probability, and the `count` likeliest others."""
    hidden = _replay(engine, picture, reply)
    steps = []
    for token_id, row in zip(reply.token_ids, hidden, strict=True):
        probabilities = engine.scores(row).float().softmax(-1)
        best = probabilities.topk(count + 1).indices.tolist()
        others = [other for other in best if other != token_id][:count]
        chosen, *runners_up = (
            Choice(each, _text(engine, each), float(probabilities[each]))
            for each in (token_id, *others)
        )
        steps.append(Step(chosen, tuple(runners_up)))
    return steps


def _text(engine: Engine, token_id: int) -> str:
    """What a person can read of a token."""
    if token_id == engine.config.eos_id:
        return "(end)"
    return engine.processor.tokenizer.decode([token_id])


def attention(engine: Engine, picture: Picture, reply: Reply) -> Tensor:
    """How much of each head's attention went to each patch while each token was written.

    (L, T, P) on the CPU, averaged over heads. A row sums to at most 1; the rest went to the words.
    """
    seen: list[Tensor] = []
    images = engine.config.image_tokens

    def record(weights: Tensor) -> None:
        seen.append(weights[:, :, :images].mean(0).float().cpu())

    _replay(engine, picture, reply, record)
    return torch.stack(seen)


@torch.inference_mode()
def _replay(
    engine: Engine,
    picture: Picture | None,
    reply: Reply,
    record: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """The hidden states (T, D) from which the answer's tokens were chosen.

    `record` gets each layer's attention (N, T, S) of those very positions: the one that chooses a
    token is the one before it.
    """
    if not reply.token_ids:
        raise UserError("the last answer has no tokens: ask something first")
    row = torch.tensor([[*reply.input_ids, *reply.token_ids[:-1]]], device=engine.device)
    features = None if picture is None else engine.prefill.features(picture)
    start = len(reply.input_ids) - 1
    mask = block_mask(_blocks(engine, reply), len(reply.token_ids) - 1, engine.device)
    with _watching(engine.model.text.layers, start, record):
        positions = torch.arange(row.shape[1], device=engine.device)
        hidden: Tensor = engine.model.text(engine.model.embed(row, features), positions, mask)
    return hidden[0, start:]


def _blocks(engine: Engine, reply: Reply) -> list[int]:
    """Lengths of the blocks that the engine's mask drew before the answer."""
    whole = len(reply.input_ids)
    images = reply.input_ids.count(engine.config.image_token_id)
    if not images or (reply.prefix_mode == "exact" and engine.config.image_attends_to_text):
        return [whole]
    lead = 0
    if engine.config.image_attends_to_text:
        lead = len(engine.processor.lead_ids(reply.prompt))
    return [images + lead, whole - images - lead]


@contextmanager
def _watching(
    layers: nn.ModuleList, start: int, record: Callable[[Tensor], None] | None
) -> Iterator[None]:
    """While the block runs, give `record` each layer's attention from position `start` on."""

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(module, Attention)
        assert record is not None
        x, rotation, mask, *_ = inputs
        record(attention_weights(module, x, rotation, mask, start))

    hooks = []
    if record is not None:
        attentions = [module for module in layers.modules() if isinstance(module, Attention)]
        hooks = [each.register_forward_pre_hook(before) for each in attentions]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def attention_weights(
    layer: Attention, x: Tensor, rotation: Rotation, mask: Tensor, start: int
) -> Tensor:
    """softmax(q k / sqrt(H)) itself, which fast attention never writes down: (N, T, S).

    x (1, S, D) is what the layer reads; rows are the positions from `start` on. In float32.
    """
    config = layer.config
    cos, sin = (table[..., start:, :] for table in rotation)
    q, k, _ = (_heads(product, config.head_dim) for product in layer.qkv(x))
    q = rotate(q[:, :, start:], (cos, sin))[0]  # (N, T, H)
    k = rotate(k, rotation)[0]  # (K, S, H)
    k = k.repeat_interleave(config.num_heads // config.num_kv_heads, dim=0)  # (N, S, H)
    products = (q.float() @ k.float().transpose(1, 2)) * config.attention_scale
    weights: Tensor = products.masked_fill(~mask[start:], -torch.inf).softmax(-1)
    return weights


def _heads(x: Tensor, width: int) -> Tensor:
    return x.view(*x.shape[:2], -1, width).transpose(1, 2)


def tokens_of(word: str, pieces: Sequence[str]) -> list[int]:
    """Which of an answer's pieces wrote part of `word`, wherever it stands; raises UserError.

    Upper and lower case are the same here.
    """
    text, wanted = "".join(pieces).lower(), word.lower()
    found: set[int] = set()
    at = text.find(wanted) if wanted else -1
    while at >= 0:
        found |= {
            index
            for index, (begin, end) in enumerate(spans(pieces))
            if begin < at + len(wanted) and end > at
        }
        at = text.find(wanted, at + 1)
    if not found:
        raise UserError(f"{word} is not in the last answer: use one of its words, or /look alone")
    return sorted(found)

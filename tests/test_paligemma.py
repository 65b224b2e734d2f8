"""The model equals transformers' (eager attention) on tiny random checkpoints, in float32."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.reference import (
    IMAGE_ID,
    our_model,
    reference_logits,
    reference_model,
    tiny_config,
)
from vlmchat.model.cache import KVCache
from vlmchat.model.masks import block_mask
from vlmchat.model.paligemma import PaliGemma

PROMPT = [2, 17, 205, 33, 108]
SHAPES = [
    {"kv_heads": 1},
    {"kv_heads": 4},
    {"heads": 6, "kv_heads": 2, "head_dim": 24},  # heads x head_dim is not the width
    {"image_size": 56},
    {"rows": 300},  # no row for the image token
]


def prompt_ids(model: PaliGemma, images: int = 1) -> Tensor:
    return torch.tensor([[IMAGE_ID] * model.config.image_tokens * images + PROMPT])


def draw_pixels(model: PaliGemma, images: int = 1) -> Tensor:
    side = model.config.vision.image_size
    return torch.rand(images, 3, side, side, generator=torch.Generator().manual_seed(5)) * 2 - 1


@torch.inference_mode()
def cached_logits(model: PaliGemma, ids: Tensor, pixels: Tensor, answer: list[int]) -> Tensor:
    """Logits of the prompt's last position and of each answer token, decoded one by one."""
    cache = KVCache(model.config.text, ids.shape[1] + len(answer), dtype=model.dtype)
    features = model.encode_image(pixels).flatten(0, 1).unsqueeze(0)
    rows = [model.extend(model.embed(ids, features), cache)]
    rows += [model.extend(model.embed(torch.tensor([[token]])), cache) for token in answer]
    return model.text.logits(torch.cat(rows)).float()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_prefill_and_every_decode_step_equal_the_reference(tmp_path, shape):
    reference = reference_model(tiny_config(**shape))
    reference.save_pretrained(tmp_path)
    model = our_model(tmp_path)
    ids, pixels = prompt_ids(model), draw_pixels(model)
    answer = [7, 299, 41, 41, 12, 180]

    theirs = reference_logits(reference, ids, pixels, answer)
    whole = model(ids, pixels)[0]
    stepwise = cached_logits(model, ids, pixels, answer)

    assert theirs.std() > 0.5  # the comparison means something
    assert (whole - theirs[: ids.shape[1]]).abs().max() < 1e-4
    assert (stepwise - theirs[ids.shape[1] - 1 :]).abs().max() < 1e-4


def test_two_images_equal_the_reference(tmp_path):
    reference = reference_model(tiny_config(kv_heads=2))
    reference.save_pretrained(tmp_path)
    model = our_model(tmp_path)
    ids, pixels = prompt_ids(model, images=2), draw_pixels(model, images=2)
    theirs = reference_logits(reference, ids, pixels)
    assert (model(ids, pixels)[0] - theirs).abs().max() < 1e-4
    swapped = reference_logits(reference, ids, pixels.flip(0))
    assert (theirs - swapped).abs().max() > 1e-2  # their order matters


@pytest.mark.parametrize("seed", range(3))
def test_greedy_tokens_equal_the_reference_over_32_steps(tmp_path, seed):
    reference = reference_model(tiny_config(), seed=seed)
    reference.save_pretrained(tmp_path)
    model = our_model(tmp_path)
    ids, pixels = prompt_ids(model), draw_pixels(model)
    answer: list[int] = []
    for _ in range(32):
        answer.append(int(reference_logits(reference, ids, pixels, answer)[-1].argmax()))
    ours = cached_logits(model, ids, pixels, answer)[:-1].argmax(-1)
    assert ours.tolist() == answer
    assert len(set(answer)) > 3  # not one token over and over


def test_bfloat16_argmax_differs_from_the_reference_only_at_near_ties(tmp_path):
    reference = reference_model(tiny_config()).to(torch.bfloat16)
    reference.save_pretrained(tmp_path)
    model = our_model(tmp_path)
    assert model.dtype == torch.bfloat16
    ids, pixels = prompt_ids(model), draw_pixels(model)
    answer = torch.randint(3, 299, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    theirs = reference_logits(reference, ids, pixels.bfloat16(), answer)[ids.shape[1] - 1 :]
    ours = cached_logits(model, ids, pixels, answer)
    agree = ours.argmax(-1) == theirs.argmax(-1)
    best = theirs.max(-1).values
    gap = best - theirs.gather(-1, ours.argmax(-1, keepdim=True)).squeeze(-1)
    tie = 8 * torch.finfo(torch.bfloat16).eps * best.abs()  # a few roundings of the last bit
    assert agree.float().mean() > 0.9
    assert bool((agree | (gap <= tie)).all())


@pytest.mark.parametrize("blocks", [[9], [4, 5], [6, 3]], ids=str)
def test_cached_decoding_equals_one_forward_under_the_drawn_mask(tmp_path, blocks):
    """Block after block through the cache, against the mask drawn in full."""
    reference_model(tiny_config(kv_heads=2)).save_pretrained(tmp_path)
    model = our_model(tmp_path)
    ids, answer = prompt_ids(model), [7, 8, 9]
    x = model.embed(ids, model.encode_image(draw_pixels(model)))
    x = torch.cat([x, model.embed(torch.tensor([answer]))], dim=1)
    drawn = model.text(x, torch.arange(12), block_mask(blocks, len(answer)))[0]

    cache = KVCache(model.config.text, 12)
    ends = torch.tensor([0, *blocks, 1, 1, 1]).cumsum(0).tolist()
    rows = [model.extend(x[:, a:b], cache) for a, b in pairwise(ends)]
    last_of_blocks = [end - 1 for end in ends[1:]]
    assert (torch.cat(rows) - drawn[last_of_blocks]).abs().max() < 1e-5


@pytest.mark.parametrize("blocks", [[9], [4, 5]], ids=str)
def test_rows_that_are_wanted_are_what_they_are_among_all(tmp_path, blocks):
    """The last layer is spared the rest, and keeps the same keys and values of all."""
    reference_model(tiny_config(kv_heads=2)).save_pretrained(tmp_path)
    model = our_model(tmp_path)
    ids = prompt_ids(model)
    x = model.embed(ids, model.encode_image(draw_pixels(model)))
    mask, positions = block_mask(blocks), torch.arange(x.shape[1])
    whole, some = (KVCache(model.config.text, x.shape[1]) for _ in range(2))
    layer = model.text.layers[-1]
    seen = []
    with torch.inference_mode():
        drawn = model.text(x, positions, mask, whole)
        hook = layer.mlp.register_forward_hook(lambda _, args, out: seen.append(out.shape[1]))
        wanted = model.text(x, positions, mask, some, rows=[3, x.shape[1] - 1])
        hook.remove()
    assert (wanted - drawn[:, [3, -1]]).abs().max() < 1e-5
    assert seen == [2]
    assert some.length == whole.length == x.shape[1]
    for ours, theirs in zip(some.keys + some.values, whole.keys + whole.values, strict=True):
        assert torch.equal(ours, theirs)


def test_changing_the_last_prompt_word_changes_image_keys_only_if_images_read_text(tmp_path):
    reference_model(tiny_config()).save_pretrained(tmp_path)
    model = our_model(tmp_path)
    features = model.encode_image(draw_pixels(model))
    images = model.config.image_tokens

    def image_keys(word: int, blocks: list[int]) -> Tensor:
        ids = prompt_ids(model)
        ids[0, -2] = word
        cache = KVCache(model.config.text, ids.shape[1])
        model.extend(model.embed(ids, features), cache, block_mask(blocks))
        return cache.keys[-1][:, :, :images].clone()

    together, apart = [images + 5], [images, 5]
    assert not torch.allclose(image_keys(33, together), image_keys(34, together), atol=1e-3)
    assert torch.equal(image_keys(33, apart), image_keys(34, apart))


def test_image_tokens_and_features_must_be_as_many(tmp_path):
    reference_model(tiny_config()).save_pretrained(tmp_path)
    model = our_model(tmp_path)
    features = model.encode_image(draw_pixels(model))
    with pytest.raises(ValueError, match="8 image tokens for 1 x 4"):
        model.embed(prompt_ids(model, images=2), features)

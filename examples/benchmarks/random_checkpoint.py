"""Write a checkpoint of PaliGemma 3B's shape, layout and size with random weights.

    python -m examples.benchmarks.random_checkpoint FOLDER [--size 3b-224] [--dtype bfloat16]

It has the published names, `config.json` and shards with their index, and a tokenizer of Gemma's
construction with the published ids of everything but words, of which it knows those that the
benchmark asks with. It answers nonsense at true speed and in true memory: 5.8 GB in bfloat16.
`small` is the same with few and narrow layers, to try things.
"""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor

from examples.benchmarks.questions import QUESTIONS
from vlmchat.config import ModelConfig
from vlmchat.model.paligemma import PaliGemma
from vlmchat.weights import published_name

WORDS = 256_000  # ids below this are text; then 1024 places, 128 mask codes, and the image
SHARDS = 3
SIZES = ("3b-224", "3b-448", "3b-896", "small")

# Of the sixteen bits of a bfloat16: what is drawn, what is set, and the spread of what that gives.
SIGN_OCTAVE_MANTISSA, OCTAVES, SPREAD = 0x81FF - 2**16, 120 << 7, 0.0548


def published_config(size: str, dtype: str) -> dict:
    """`config.json` as Google published it: what the library's defaults said is left out."""
    image_size = 224 if size == "small" else int(size.removeprefix("3b-"))
    raw = _published_3b(image_size, dtype)
    if size == "small":
        raw |= {"hidden_size": 512, "projection_dim": 512}
        raw["text_config"] |= {"hidden_size": 512, "intermediate_size": 2048}
        raw["text_config"] |= {"num_hidden_layers": 6, "num_attention_heads": 4}
        raw["vision_config"] |= {"hidden_size": 288, "intermediate_size": 1024}
        raw["vision_config"] |= {"num_hidden_layers": 4, "num_attention_heads": 4}
        raw["vision_config"] |= {"projection_dim": 512}
    return raw


def _published_3b(image_size: int, dtype: str) -> dict:
    text = {
        "hidden_size": 2048,
        "intermediate_size": 16384,
        "model_type": "gemma",
        "num_attention_heads": 8,
        "num_hidden_layers": 18,
        "num_image_tokens": (image_size // 14) ** 2,
        "num_key_value_heads": 1,
        "vocab_size": 257216,
    }
    vision = {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
        "projection_dim": 2048,
        "vision_use_head": False,
    } | ({"image_size": image_size} if image_size != 224 else {})
    return {
        "architectures": ["PaliGemmaForConditionalGeneration"],
        "bos_token_id": 2,
        "eos_token_id": 1,
        "hidden_size": 2048,
        "image_token_index": 257152,
        "model_type": "paligemma",
        "pad_token_id": 0,
        "projection_dim": 2048,
        "text_config": text,
        "torch_dtype": dtype,
        "vision_config": vision,
        "vocab_size": 257216,
    }


def spread(name: str, shape: tuple[int, ...]) -> float:
    """Standard deviation of a parameter: wide enough that answers do not repeat one token."""
    if len(shape) == 1:
        return 0.02
    gain = 0.57 if "embed_tokens" in name else 1.8
    return gain / math.sqrt(math.prod(shape[1:]))


def random_bfloat16(shape: tuple[int, ...], std: float, generator: torch.Generator) -> Tensor:
    """Numbers of both signs and about this spread, on the generator's device, as fast as bits come.

    A sign, two bits of the exponent and the mantissa are random: uniform within each of four
    octaves, in place of a bell. Nothing here depends on the difference.
    """
    count = math.prod(shape)
    words = torch.empty(-(-count // 4), dtype=torch.int64, device=generator.device)
    bits = words.random_(-(2**63), None, generator=generator).view(torch.int16)[:count]
    bits.bitwise_and_(SIGN_OCTAVE_MANTISSA).bitwise_or_(OCTAVES)
    return bits.view(torch.bfloat16).mul_(std / SPREAD).reshape(shape)


def random_tensors(
    config: ModelConfig, dtype: torch.dtype, device: str = "cpu"
) -> Iterator[tuple[str, Tensor]]:
    """Every parameter under the model's own name, in the order of the published ones."""
    generator = torch.Generator(device).manual_seed(0)
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in PaliGemma(config).state_dict().items()}
    for name, shape in sorted(shapes.items(), key=lambda item: published_name(item[0])):
        yield name, random_bfloat16(shape, spread(name, shape), generator).to(dtype)


def write_weights(folder: Path, config: ModelConfig, dtype: torch.dtype) -> None:
    """Three shards of about one size, and the index that says what is where."""
    with torch.device("meta"):
        total = sum(p.numel() for p in PaliGemma(config).parameters()) * dtype.itemsize
    weight_map: dict[str, str] = {}
    shard: dict[str, Tensor] = {}
    number, written = 1, 0

    def flush() -> None:
        nonlocal number
        file = f"model-{number:05}-of-{SHARDS:05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, file))
        shard.clear()
        number += 1

    for name, tensor in random_tensors(config, dtype):
        shard[published_name(name)] = tensor
        written += tensor.nbytes
        if written >= total * number / SHARDS:
            flush()
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def beginnings() -> list[str]:
    """What the words of the questions begin with, two letters first, as BPE puts them together.

    A word in front of which there is no space comes last, or its parts would be found in others.
    """
    words = sorted({f"▁{word}" for question in QUESTIONS for word in question.split()[1:]})
    words += sorted({question.split()[0] for question in QUESTIONS})
    return list(dict.fromkeys(word[:end] for word in words for end in range(2, len(word) + 1)))


def gemma_like_tokenizer() -> Tokenizer:
    """Byte-fallback BPE with the published ids of control tokens, bytes, places and mask codes."""
    vocab = {piece: i for i, piece in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"])}
    vocab |= {f"<unused{i}>": 5 + i for i in range(103)}  # 106 and 107 are the turn markers
    vocab["\n"] = 108
    vocab |= {f"<0x{byte:02X}>": 217 + byte for byte in range(256)}
    merges = [(piece[:-1], piece[-1]) for piece in beginnings()]
    for piece in ["▁", *map(chr, range(33, 127)), *beginnings()]:
        vocab[piece] = len(vocab) + 108
    taken = set(vocab.values())
    vocab |= {f"<filler{i}>": i for i in range(WORDS) if i not in taken}
    tokenizer = Tokenizer(
        models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"])
    codes = [f"<loc{i:04}>" for i in range(1024)] + [f"<seg{i:03}>" for i in range(128)]
    tokenizer.add_tokens([AddedToken(code, normalized=False, special=False) for code in codes])
    tokenizer.add_special_tokens(["<image>"])
    return tokenizer


def write_checkpoint(folder: Path, size: str = "3b-224", dtype: str = "bfloat16") -> None:
    """Write the whole folder; one that is there already is left as it is."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    raw = published_config(size, dtype)
    (folder / "config.json").write_text(json.dumps(raw, indent=1))
    gemma_like_tokenizer().save(str(folder / "tokenizer.json"))
    write_weights(folder, ModelConfig.from_dict(raw), getattr(torch, dtype))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", default=SIZES[0], choices=SIZES)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    arguments = parser.parse_args()
    write_checkpoint(arguments.folder, arguments.size, arguments.dtype)


if __name__ == "__main__":
    main()

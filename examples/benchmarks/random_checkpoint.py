"""Write a checkpoint of PaliGemma 3B's shape, layout and size with random weights.

    python -m examples.benchmarks.random_checkpoint FOLDER [--image-size 224] [--dtype bfloat16]

It has the published names, `config.json` and shards with their index, and a tokenizer of Gemma's
construction with the published ids of everything but words. It answers nonsense at true speed and
in true memory: 5.8 GB in bfloat16, written in about a minute.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from vlmchat.config import ModelConfig
from vlmchat.model.paligemma import PaliGemma
from vlmchat.weights import published_name

WORDS = 256_000  # ids below this are text; then 1024 places, 128 mask codes, and the image
SHARDS = 3


def published_config(image_size: int, dtype: str) -> dict:
    """`config.json` as Google published it: what the library's defaults said is left out."""
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


def random_tensors(config: ModelConfig, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter under its published name, drawn as such models are initialised."""
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in PaliGemma(config).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    for name, shape in sorted(shapes.items(), key=lambda item: published_name(item[0])):
        yield published_name(name), torch.randn(shape, generator=generator).mul_(0.02).to(dtype)


def write_weights(folder: Path, config: ModelConfig, dtype: torch.dtype) -> None:
    """Three shards of about one size, and the index that says what is where."""
    with torch.device("meta"):
        total = sum(p.numel() for p in PaliGemma(config).parameters()) * dtype.itemsize
    weight_map: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    number, written = 1, 0

    def flush() -> None:
        nonlocal number
        file = f"model-{number:05}-of-{SHARDS:05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, file))
        shard.clear()
        number += 1

    for name, tensor in random_tensors(config, dtype):
        shard[name] = tensor
        written += tensor.nbytes
        if written >= total * number / SHARDS:
            flush()
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def gemma_like_tokenizer() -> Tokenizer:
    """Byte-fallback BPE with the published ids of control tokens, bytes, places and mask codes."""
    vocab = {piece: i for i, piece in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"])}
    vocab |= {f"<unused{i}>": 5 + i for i in range(103)}  # 106 and 107 are the turn markers
    vocab["\n"] = 108
    vocab |= {f"<0x{byte:02X}>": 217 + byte for byte in range(256)}
    for piece in ["▁", *map(chr, range(33, 127))]:
        vocab[piece] = len(vocab) + 108
    taken = set(vocab.values())
    vocab |= {f"<filler{i}>": i for i in range(WORDS) if i not in taken}
    tokenizer = Tokenizer(
        models.BPE(vocab, [], byte_fallback=True, unk_token="<unk>", fuse_unk=True)
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


def write_checkpoint(folder: Path, image_size: int = 224, dtype: str = "bfloat16") -> None:
    """Write the whole folder; one that is there already is left as it is."""
    if (folder / "model.safetensors.index.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    raw = published_config(image_size, dtype)
    (folder / "config.json").write_text(json.dumps(raw, indent=1))
    gemma_like_tokenizer().save(str(folder / "tokenizer.json"))
    write_weights(folder, ModelConfig.from_dict(raw), getattr(torch, dtype))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--image-size", type=int, default=224, choices=(224, 448, 896))
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    arguments = parser.parse_args()
    write_checkpoint(arguments.folder, arguments.image_size, arguments.dtype)


if __name__ == "__main__":
    main()

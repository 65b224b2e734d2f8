"""A small tokenizer of Gemma's construction: byte-fallback BPE, control tokens first."""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

WORDS = [
    *("answer", "caption", "detect", "segment", "ocr", "describe", "question", "en"),
    *("what", "is", "this", "the", "a", "red", "blue", "circle", "square", "of", "colour"),
    *("which", "how", "many", "are", "there", "cat", "hello", "world", "test"),
]
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
TURNS = ["<start_of_turn>", "<end_of_turn>"]


def build_tokenizer() -> Tokenizer:
    """Ids: 0-4 control, turn markers, newline and space runs, bytes, characters, words, codes."""
    pieces = SPECIAL + TURNS + ["\n" * n for n in range(1, 5)]
    pieces += ["▁" * n for n in range(2, 5)]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += ["▁", *map(chr, range(33, 127)), "é", "生"]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        for text in (word, "▁" + word):
            left = text[0]
            for right in text[1:]:
                if left + right not in pieces:
                    pieces.append(left + right)
                if (left, right) not in merges:
                    merges.append((left, right))
                left += right
    merges += [("\n" * n, "\n") for n in range(1, 4)] + [("▁" * n, "▁") for n in range(1, 4)]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    bpe = models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(SPECIAL + TURNS)
    codes = [f"<loc{i:04}>" for i in range(1024)] + [f"<seg{i:03}>" for i in range(128)]
    tokenizer.add_tokens([AddedToken(code, normalized=False, special=False) for code in codes])
    tokenizer.add_special_tokens(["<image>"])
    return tokenizer


def save_tokenizer(folder: Path) -> Tokenizer:
    """Write `tokenizer.json` and return the tokenizer."""
    tokenizer = build_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer

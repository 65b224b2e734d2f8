"""Build the demo model's tokenizer: Gemma's construction, with a few hundred words of our own.

Byte-fallback BPE with U+2581 for a space, so that every text can be written and read back. Ids, in
the order of the published tokenizer:

    0 1 2 3 4         <pad> <eos> <bos> <unk> <mask>
    5 …               runs of newlines, the 256 bytes, the characters and words learnt here
    … then            <loc0000> … <loc1023>, <seg000> … <seg127>: ordinary tokens of answers
    last              <image>, which no text can produce
"""

import json
import random
from collections.abc import Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers as splitters
from tokenizers.trainers import BpeTrainer

from examples.train_demo.outlines import SHAPES
from examples.train_demo.questions import Asker
from examples.train_demo.scene import COLOURS, Contents, Thing

CONTROL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
NEWLINES = ["\n" * count for count in range(1, 9)]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PLACES = 1024
CODES = [f"<loc{i:04}>" for i in range(PLACES)] + [f"<seg{i:03}>" for i in range(128)]
IMAGE = "<image>"
CHARACTERS = [chr(code) for code in range(33, 127)] + ["▁"]
LEARNT = 900  # pieces beside the control tokens, characters included
CORPUS_QUESTIONS = 12_000
CORPUS_SEED = 0
# Words that people may type although no scene needs them.
OTHER_WORDS = (
    "segment ocr cap describe question answer detect caption picture image photo drawing sign "
    "unanswerable nothing "
)


def build_tokenizer() -> Tokenizer:
    """Learn the pieces from our own questions, and lay them out as Gemma does."""
    learnt, merges = _learn()
    pieces = dict.fromkeys([*CONTROL, *NEWLINES, *BYTES, *learnt])  # each piece once, in order
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    merges += [("\n" * count, "\n") for count in range(1, len(NEWLINES))]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = splitters.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(CONTROL)
    tokenizer.add_tokens([AddedToken(code, normalized=False, special=False) for code in CODES])
    tokenizer.add_special_tokens([IMAGE])
    return tokenizer


def _learn() -> tuple[list[str], list[tuple[str, str]]]:
    """Pieces and merges of an ordinary BPE over the corpus, words and punctuation apart."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = splitters.Sequence(
        [
            splitters.Split("▁", "merged_with_next"),
            splitters.Split(Regex("[?,.;:!<>']"), "isolated"),
        ]
    )
    trainer = BpeTrainer(
        vocab_size=len(CONTROL) + LEARNT,
        special_tokens=CONTROL,
        initial_alphabet=CHARACTERS,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    learnt = [piece for piece in model["vocab"] if piece not in CONTROL]
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    return learnt, merges


def _corpus() -> Iterator[str]:
    """Questions and answers about things that nobody drew; of boxes only their labels."""
    rng = random.Random(CORPUS_SEED)
    for _ in range(CORPUS_QUESTIONS):
        things = tuple(_anything(rng) for _ in range(rng.randint(1, 5)))
        question = Asker(rng, Contents(things)).any()
        yield question.prompt
        yield question.answer.split(">")[-1]
    for _ in range(50):
        yield OTHER_WORDS


def _anything(rng: random.Random) -> Thing:
    left, top = rng.uniform(0, 0.5), rng.uniform(0, 0.5)
    return Thing(rng.choice(SHAPES), rng.choice(list(COLOURS)), (left, top, 0.9, 0.9))

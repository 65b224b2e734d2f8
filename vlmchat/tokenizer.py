"""Text to token ids and back, with a tokenizer of Gemma's construction.

Ids are the border between what a person typed and what controls the model: text never becomes a
control token here, however it is written, while places (`<loc0051>`) and mask codes stay tokens.
"""

import codecs
import re
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import TypeVar

from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as FastTokenizer

from vlmchat.config import ModelConfig
from vlmchat.errors import UserError

IMAGE = "<image>"
CONTROL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>", IMAGE)
MAX_CHARACTERS = 100_000
MAX_REASON = 200  # characters of a message from the library
PROBE = "answer en What is this? Ünïcödé 🤗\n"

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
T = TypeVar("T")


class TokenizerError(UserError):
    """A tokenizer file that is missing, damaged or not this model's, or a text it cannot take."""


class Tokenizer:
    """The vocabulary of one checkpoint. `size` counts its ids, `<image>` among them."""

    def __init__(self, fast: FastTokenizer, config: ModelConfig) -> None:
        fast.no_truncation()
        fast.no_padding()
        fast.post_processor = processors.Sequence([])  # nothing is added to a text
        fast.encode_special_tokens = True  # "<eos>" in a text is five characters
        self._fast = fast
        self.size = fast.get_vocab_size()
        ids = ((piece, fast.token_to_id(piece)) for piece in CONTROL)
        known = {piece: token_id for piece, token_id in ids if token_id is not None}
        fast.add_special_tokens(list(known))  # some files call a few of them ordinary
        self._control = set(known.values())
        self._check(config)
        self.newline_id = self._one("\n")
        if self.decode(self.encode(PROBE)) != PROBE:
            raise TokenizerError(
                "the tokenizer changes a plain text, which Gemma's never does: use PaliGemma's own"
            )

    @classmethod
    def from_folder(cls, folder: Path, config: ModelConfig) -> "Tokenizer":
        """Read `tokenizer.json`, or `tokenizer.model` where it is alone; raise TokenizerError."""
        path = folder / "tokenizer.json"
        if path.is_file():
            return cls(_guarded(lambda: FastTokenizer.from_file(str(path)), str(path)), config)
        path = folder / "tokenizer.model"
        if path.is_file():
            return cls(_guarded(lambda: _from_sentencepiece(folder), str(path)), config)
        raise TokenizerError(
            f"{folder}: no tokenizer.json and no tokenizer.model: download the checkpoint again"
        )

    def encode(self, text: str) -> list[int]:
        """Ids of a person's text; raises TokenizerError where it cannot be the model's input."""
        if len(text) > MAX_CHARACTERS:
            raise TokenizerError(
                f"the text is {len(text)} characters long: {MAX_CHARACTERS} are the most"
            )
        text = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates
        ids = _guarded(
            lambda: self._fast.encode(text, add_special_tokens=False).ids,
            "the text fails to encode",
        )
        if held := self._control.intersection(ids):
            piece = self._fast.id_to_token(min(held))
            raise TokenizerError(
                f"the text holds {piece}, which controls this model: ask without it"
            )
        return list(ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, control tokens left out: all that a stream of them would print."""
        detokenizer = self.detokenizer()
        return "".join([detokenizer.push(token_id) for token_id in ids]) + detokenizer.flush()

    def detokenizer(self) -> "Detokenizer":
        """What turns the ids of one answer into text as they come."""
        return Detokenizer(self._piece)

    def _piece(self, token_id: int) -> str:
        """A token's own text, `""` for control tokens and ids that there are not."""
        if token_id in self._control or not 0 <= token_id < self.size:
            return ""
        return self._fast.id_to_token(token_id) or ""

    def _one(self, text: str) -> int:
        """The id of a text that must be one token."""
        token_id = self._fast.token_to_id(text)
        if token_id is None:
            raise TokenizerError(f"the tokenizer has no token for {text!r}: use PaliGemma's own")
        return int(token_id)

    def _check(self, config: ModelConfig) -> None:
        """Compare the ids that `config.json` names with those of the pieces."""
        named = {"<bos>": config.bos_id, "<eos>": config.eos_id, "<pad>": config.pad_id}
        named[IMAGE] = config.image_token_id
        if self._fast.token_to_id(IMAGE) is None and config.image_token_id == self.size:
            self._fast.add_special_tokens([IMAGE])  # some files end just before it
            self._control.add(config.image_token_id)
            self.size += 1
        for piece, token_id in named.items():
            found = self._fast.token_to_id(piece)
            if found != token_id:
                raise TokenizerError(
                    f"{piece} is token {found} in the tokenizer and {token_id} in config.json: "
                    "the two files do not belong together"
                )


class Detokenizer:
    """Text of one answer as its tokens come, and never half a character.

    A piece is its text, with U+2581 for a space, and nothing is stripped. Bytes are gathered until
    they are a character; a part that never becomes one is U+FFFD, and the good ones around it stay.
    (Decoding a whole answer, the library marks every byte of a run that has a bad one. A stream
    cannot: it has shown the good ones.)
    """

    def __init__(self, piece_of: Callable[[int], str]) -> None:
        self._piece_of = piece_of
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The text that this token completes."""
        piece = self._piece_of(token_id)
        byte = _BYTE.fullmatch(piece)
        if byte:
            return self._utf8.decode(bytes.fromhex(byte[1]))
        return (self.flush() if piece else "") + piece.replace("▁", " ")

    def flush(self) -> str:
        """What stands for an unfinished character, at the end of an answer."""
        return self._utf8.decode(b"", final=True)


def _from_sentencepiece(folder: Path) -> FastTokenizer:
    """The same kind of tokenizer from a `tokenizer.model`, which transformers knows how to read.

    The plain Gemma file lacks PaliGemma's places, mask codes and image token; they follow its last
    piece in that order.
    """
    try:
        for name in ("sentencepiece", "google.protobuf"):
            import_module(name)
    except ImportError as error:
        raise TokenizerError(
            f"{folder}: only a tokenizer.model here: install what reads it with "
            "pip install 'vlmchat[sentencepiece]', or add the checkpoint's tokenizer.json"
        ) from error
    from transformers import GemmaTokenizerFast

    fast: FastTokenizer = GemmaTokenizerFast.from_pretrained(folder).backend_tokenizer
    codes = [f"<loc{i:04}>" for i in range(1024)] + [f"<seg{i:03}>" for i in range(128)]
    fast.add_tokens([AddedToken(code, normalized=False, special=False) for code in codes])
    fast.add_special_tokens([IMAGE])
    return fast


def _guarded(action: Callable[[], T], problem: str) -> T:
    """Run `action`; whatever a tokenizer file makes it raise becomes one line.

    The library's Rust panics derive from BaseException, so that catching Exception misses them.
    """
    try:
        return action()
    except (KeyboardInterrupt, SystemExit, UserError):
        raise
    except BaseException as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:MAX_REASON]
        raise TokenizerError(
            f"the tokenizer does not work ({problem}: {first}): download its file again"
        ) from error

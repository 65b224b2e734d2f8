"""Text to ids and back: equal to the library's decoding, and no way to write a control token."""

import json
import random
import sys
from dataclasses import replace
from functools import cache
from io import BytesIO

import pytest
import sentencepiece
from tokenizers import Tokenizer as FastTokenizer

from tests.published import published
from tests.tiny import SPECIAL, TURNS, build_tokenizer, save_tokenizer
from vlmchat import tokenizer as module
from vlmchat.config import ModelConfig
from vlmchat.tokenizer import CONTROL, MAX_CHARACTERS, Tokenizer, TokenizerError


def config_with(image_id: int) -> ModelConfig:
    return replace(ModelConfig.from_dict(published()), image_token_id=image_id)


@cache
def reference() -> FastTokenizer:
    """The library's tokenizer, as the file describes it."""
    return build_tokenizer()


@cache
def ours() -> Tokenizer:
    return Tokenizer(build_tokenizer(), config_with(reference().token_to_id("<image>")))


def refusal(action, *arguments) -> str:
    with pytest.raises(TokenizerError) as caught:
        action(*arguments)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


TEXTS = [
    "",
    "hello world",
    " hello",
    "two  three   four    spaces ",
    "answer en what is the colour of the circle",
    "tabs\tand\r\nreturns",
    "one\ntwo\n\nthree\n\n\n\n\n\n",
    "é è 生活的真谛是",
    "emoji 🤗, a family 👩\u200d👩\u200d👧 and a flag 🇫🇷",
    "combining e\u0301 and n\u0303",
    "ird ปี and \u0000 and \x1b[31m",
    "<loc0051><loc0309><loc0708><loc0646> shoe ; <seg000><seg127>cat",
    "\ufffd and \ufeff",
]


@pytest.mark.parametrize("text", TEXTS)
def test_encoding_equals_the_library_and_decoding_gives_the_text_back(text):
    ids = ours().encode(text)
    assert ids == reference().encode(text, add_special_tokens=False).ids
    assert ours().decode(ids) == text


@pytest.mark.parametrize("text", TEXTS)
def test_a_stream_equals_the_whole_and_never_shows_half_a_character(text):
    detokenizer, shown = ours().detokenizer(), ""
    ids = ours().encode(text)
    for token_id in ids:
        shown += detokenizer.push(token_id)
        assert text.startswith(shown)
    assert detokenizer.flush() == ""
    assert shown == reference().decode(ids, skip_special_tokens=True)


def test_random_tokens_decode_as_the_library_does():
    """All ids but bytes, whose bad sequences are read otherwise on purpose (see below)."""
    usable = [token_id for piece, token_id in reference().get_vocab().items() if "<0x" not in piece]
    generator = random.Random(0)
    for length in range(60):
        ids = generator.choices(sorted(usable), k=length)
        assert ours().decode(ids) == reference().decode(ids, skip_special_tokens=True)


def test_control_tokens_are_silent_even_within_a_character():
    ids = ours().encode("🤗")
    assert len(ids) == 4
    for piece in CONTROL:
        control = reference().token_to_id(piece)
        mixed = [control, ids[0], control, *ids[1:], control]
        assert ours().decode(mixed) == "🤗" == reference().decode(mixed, skip_special_tokens=True)


def test_ids_that_there_are_not_are_silent():
    assert ours().decode([-1, ours().size, 10**9]) == ""


def byte_ids(*values: int) -> list[int]:
    return [reference().token_to_id(f"<0x{value:02X}>") for value in values]


INVALID = [
    ("a lone byte", (0xFF,), "\ufffd"),
    ("two lone bytes", (0xFF, 0xFE), "\ufffd\ufffd"),
    ("good characters beside it", (0x41, 0xFF, 0xC3, 0xA9), "A\ufffdé"),
    ("an unfinished character", (0xF0, 0x9F, 0xA4), "\ufffd"),
    ("an unfinished one before another", (0xF0, 0x9F, 0xC3, 0xA9), "\ufffdé"),
    ("a surrogate", (0xED, 0xA0, 0x80), "\ufffd\ufffd\ufffd"),
]


@pytest.mark.parametrize(("values", "text"), [r[1:] for r in INVALID], ids=[r[0] for r in INVALID])
def test_bytes_that_are_no_character(values, text):
    """A mark for each part that is none, and what is good stays: printed text cannot be taken back.

    The library's decoder writes one mark for each byte of a run, its good ones too.
    """
    assert ours().decode(byte_ids(*values)) == text
    word = reference().token_to_id("▁cat")
    assert ours().decode([*byte_ids(*values), word]) == text + " cat"


def test_a_detokenizer_starts_afresh_after_a_flush():
    detokenizer = ours().detokenizer()
    assert [detokenizer.push(token_id) for token_id in byte_ids(0xF0, 0x9F)] == ["", ""]
    assert detokenizer.flush() == "\ufffd"
    assert detokenizer.flush() == ""
    assert detokenizer.push(byte_ids(0x41)[0]) == "A"


@pytest.mark.parametrize("piece", CONTROL)
def test_no_text_becomes_a_control_token(piece):
    for text in (piece, f"what {piece} is {piece}\n", f"{piece}{piece}", f"<{piece}>"):
        ids = ours().encode(text)
        assert not set(ids) & {reference().token_to_id(each) for each in CONTROL}
        assert ours().decode(ids) == text


def test_a_control_token_that_the_file_calls_ordinary_is_plain_text_too(tmp_path):
    raw = json.loads(build_tokenizer().to_str())
    for token in raw["added_tokens"]:
        token["special"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    config = config_with(reference().token_to_id("<image>"))
    loaded = Tokenizer.from_folder(tmp_path, config)
    for piece in CONTROL:
        assert loaded.encode(f"a {piece}") == ours().encode(f"a {piece}")


@pytest.mark.parametrize("piece", ["<loc0000>", "<loc1023>", "<seg000>", "<seg127>"])
def test_places_and_mask_codes_are_one_token(piece):
    assert ours().encode(piece) == [reference().token_to_id(piece)]


def test_newline_id():
    assert ours().encode("\n") == [ours().newline_id]
    assert ours().encode("\n\n") != [ours().newline_id] * 2  # runs are tokens of their own


def test_lone_surrogates_are_question_marks():
    assert ours().decode(ours().encode("a\udcff\ud800b")) == "a??b"


def test_a_text_that_is_too_long():
    assert "100000" in refusal(ours().encode, "a" * (MAX_CHARACTERS + 1))
    longest = "a " * (MAX_CHARACTERS // 2)
    assert ours().decode(ours().encode(longest)) == longest


# Files.


def test_a_file_gives_the_same_tokenizer(tmp_path):
    fast = save_tokenizer(tmp_path)
    loaded = Tokenizer.from_folder(tmp_path, config_with(fast.token_to_id("<image>")))
    assert loaded.size == ours().size == fast.get_vocab_size()
    assert [loaded.encode(text) for text in TEXTS] == [ours().encode(text) for text in TEXTS]


def test_an_image_token_that_is_missing_at_the_end_is_added():
    fast = without(build_tokenizer(), "<image>")
    loaded = Tokenizer(fast, config_with(fast.get_vocab_size()))
    assert loaded.size == ours().size
    assert loaded.decode([loaded.size - 1]) == ""
    assert loaded.decode(loaded.encode("an <image>")) == "an <image>"


def without(fast: FastTokenizer, piece: str) -> FastTokenizer:
    raw = json.loads(fast.to_str())
    raw["added_tokens"] = [token for token in raw["added_tokens"] if token["content"] != piece]
    raw["model"]["vocab"].pop(piece, None)
    return FastTokenizer.from_str(json.dumps(raw))


MISMATCHES = [
    {"bos_id": 3},
    {"eos_id": 2},
    {"pad_id": 1},
    {"image_token_id": 5},
    {"image_token_id": 10**6},
]


@pytest.mark.parametrize("changed", MISMATCHES, ids=str)
def test_ids_that_differ_from_the_config(changed):
    config = replace(config_with(reference().token_to_id("<image>")), **changed)
    assert "do not belong together" in refusal(Tokenizer, build_tokenizer(), config)


def test_a_folder_without_a_tokenizer(tmp_path):
    assert "no tokenizer.json" in refusal(Tokenizer.from_folder, tmp_path, config_with(5))


def changed(**parts) -> str:
    """The file of the small tokenizer with some of its parts replaced."""
    return json.dumps({**json.loads(build_tokenizer().to_str()), **parts})


def changed_model(**parts) -> str:
    return changed(model={**json.loads(build_tokenizer().to_str())["model"], **parts})


TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<gone>", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {},
}

DAMAGED = {
    "empty": "",
    "not JSON": "{",
    "a list": "[]",
    "no parts": "{}",
    "no model": changed(model=None),
    "unknown model": changed(model={"type": "Mystery"}),
    "merges of unknown pieces": changed_model(merges=[["no", "where"]]),
    "merge that is longer than any piece": changed_model(merges=[["x" * 500, "y"]]),
    "no vocabulary": changed_model(vocab={}, merges=[]),
    "no bytes": changed_model(byte_fallback=False),
    "lower case": changed(normalizer={"type": "Lowercase"}),
    "bad character map": changed(
        normalizer={"type": "Precompiled", "precompiled_charsmap": "AA=="}
    ),
    "pieces of length 0": changed(pre_tokenizer={"type": "FixedLength", "length": 0}),
    "bad expression": changed(
        pre_tokenizer={
            "type": "Split",
            "pattern": {"Regex": "("},
            "behavior": "Removed",
            "invert": False,
        }
    ),
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_damaged_files_are_one_line(text, tmp_path):
    (tmp_path / "tokenizer.json").write_text(text)
    config = config_with(reference().token_to_id("<image>"))
    message = refusal(Tokenizer.from_folder, tmp_path, config)
    assert len(message) < 500


HARMLESS = {
    "truncation": changed(
        truncation={
            "direction": "Right",
            "max_length": 2,
            "strategy": "LongestFirst",
            "stride": 2,
        }
    ),
    "padding": changed(
        padding={
            "strategy": {"Fixed": 0},
            "direction": "Right",
            "pad_to_multiple_of": 7,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<pad>",
        }
    ),
    "decoder that strips": changed(
        decoder={"type": "Strip", "content": " ", "start": 9, "stop": 9}
    ),
    "template of an unknown token": changed(post_processor=TEMPLATE),
}


@pytest.mark.parametrize("text", HARMLESS.values(), ids=HARMLESS)
def test_parts_that_a_prompt_has_no_use_for_do_not_matter(text, tmp_path):
    (tmp_path / "tokenizer.json").write_text(text)
    loaded = Tokenizer.from_folder(tmp_path, config_with(reference().token_to_id("<image>")))
    assert loaded.encode("hello world") == ours().encode("hello world")


def test_ctrl_c_is_no_damage():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        module._guarded(interrupted, "reading")


# tokenizer.model.

NEWLINES = ["\n" * n for n in range(1, 5)]
SPACES = ["▁" * n for n in range(2, 5)]


@cache
def sentencepiece_model() -> bytes:
    """A small model of Gemma's construction, trained on a few sentences."""
    model = BytesIO()
    sentences = ["what is this", "this is a red circle", "answer en what is the cat"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        model_type="bpe",
        vocab_size=330,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        eos_piece="<eos>",
        bos_piece="<bos>",
        user_defined_symbols=["<mask>", *TURNS, *NEWLINES, *SPACES],
        byte_fallback=True,
        split_digits=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    return model.getvalue()


@pytest.fixture
def model_folder(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model())
    return tmp_path


@cache
def processor() -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())


def test_a_sentencepiece_model_gives_its_own_ids(model_folder):
    first = processor().get_piece_size()
    loaded = Tokenizer.from_folder(model_folder, config_with(first + 1024 + 128))
    for text in TEXTS:
        if "<loc" not in text and "\0" not in text:
            assert loaded.encode(text) == processor().encode(text), text
        assert loaded.decode(loaded.encode(text)) == text
    assert loaded.newline_id == processor().piece_to_id("\n")


def test_places_codes_and_the_image_follow_in_that_order(model_folder):
    first = processor().get_piece_size()
    loaded = Tokenizer.from_folder(model_folder, config_with(first + 1024 + 128))
    assert loaded.encode("<loc0000><loc1023>") == [first, first + 1023]
    assert loaded.encode("<seg000><seg127>") == [first + 1024, first + 1024 + 127]
    assert loaded.size == first + 1024 + 128 + 1
    assert loaded.decode([loaded.size - 1, *range(3)]) == ""
    for piece in [*SPECIAL, *TURNS, "<image>"]:
        assert loaded.decode(loaded.encode(f"a {piece}")) == f"a {piece}"


def test_a_damaged_sentencepiece_model(tmp_path):
    for data in (b"", b"not a model", sentencepiece_model()[:500]):
        (tmp_path / "tokenizer.model").write_bytes(data)
        refusal(Tokenizer.from_folder, tmp_path, config_with(5))


@pytest.mark.parametrize("missing", ["sentencepiece", "google", "google.protobuf"])
def test_a_sentencepiece_model_without_what_reads_it(missing, model_folder, monkeypatch):
    for name in list(sys.modules):
        if name == missing or name.startswith(missing + "."):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)  # importing it fails
    message = refusal(Tokenizer.from_folder, model_folder, config_with(5))
    assert "pip install 'vlmchat[sentencepiece]'" in message

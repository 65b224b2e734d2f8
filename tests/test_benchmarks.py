"""The benchmark program: its limits, its random checkpoint, both engines, and its table."""

import argparse

import pytest
import torch
from safetensors import safe_open

from examples.benchmarks.limits import PROMPT_TOKENS, Limits, limits
from examples.benchmarks.machine import Machine
from examples.benchmarks.measure import ENGINES, Figures, peak_bytes
from examples.benchmarks.questions import QUESTIONS
from examples.benchmarks.random_checkpoint import (
    gemma_like_tokenizer,
    published_config,
    random_bfloat16,
    write_weights,
)
from examples.benchmarks.table import Column, markdown
from tests.published import published
from tests.test_engine import folder
from vlmchat.config import ModelConfig
from vlmchat.processor import Processor
from vlmchat.weights import open_checkpoint

__all__ = ["folder"]  # the fixture


def test_the_limits_of_the_published_shape():
    config = ModelConfig.from_dict(published())
    plain = limits(config, torch.bfloat16)
    assert plain.token_bytes == pytest.approx(5.01e9, rel=0.01)
    assert plain.first_flops == pytest.approx(1.26e12, rel=0.03)
    assert limits(config, torch.bfloat16, "int8").token_bytes * 2 == plain.token_bytes
    assert limits(config, torch.bfloat16, "int4").token_bytes * 4 == plain.token_bytes


def test_random_numbers_have_the_spread_and_both_signs():
    numbers = random_bfloat16((300, 7), 0.03, torch.Generator().manual_seed(1)).float()
    assert numbers.std().item() == pytest.approx(0.03, rel=0.05)
    assert abs(numbers.mean().item()) < 0.003
    assert len(numbers.unique()) > 200


def test_a_random_checkpoint_is_one_that_we_load(tmp_path):
    raw = published_config("small", "bfloat16")
    raw |= {"hidden_size": 16, "projection_dim": 16, "vocab_size": 1000}
    raw["text_config"] |= {"vocab_size": 1000}
    raw["text_config"] |= {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    raw["vision_config"] |= {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config = ModelConfig.from_dict(raw)
    write_weights(tmp_path, config, torch.bfloat16)
    checkpoint = open_checkpoint(tmp_path, config)
    assert (checkpoint.notices, checkpoint.dtype) == ((), torch.bfloat16)
    names = []
    for path in tmp_path.glob("model-*-of-00003.safetensors"):
        with safe_open(path, "pt") as file:
            names += list(file.keys())
    assert len(names) == len(checkpoint.entries)
    assert "language_model.model.embed_tokens.weight" in names


def test_the_questions_are_as_long_as_they_are_in_gemmas_tokens(tmp_path):
    gemma_like_tokenizer().save(str(tmp_path / "tokenizer.json"))
    config = ModelConfig.from_dict(published())
    processor = Processor.from_folder(tmp_path, config)
    lengths = [len(processor.prompt_ids(question)) for question in QUESTIONS]
    assert lengths == [len(question.split()) + 2 for question in QUESTIONS]
    assert lengths[0] == PROMPT_TOKENS
    assert lengths[1] - len(processor.lead_ids(QUESTIONS[1])) == 13


@pytest.mark.parametrize("engine", ENGINES)
def test_both_engines_are_measured_on_the_same_work(folder, engine):
    options = argparse.Namespace(
        device="cpu", dtype="float32", quantize="none", compile=False, tokens=4, batch=True
    )
    figures = ENGINES[engine](folder, options)
    for name in ("load_s", "first_s", "next_kv_s", "next_exact_s", "decode", "one_by_one"):
        assert getattr(figures, name) > 0
    assert (figures.together or 0) > 0 or engine == "transformers"
    assert peak_bytes("cpu") > 2**26


def test_the_table_compares_with_the_first_column_and_with_the_limit():
    machine = Machine("a machine", bytes_per_s=40e9, flops=300e9)
    cost = Limits(token_bytes=5 * 10**9, first_flops=12 * 10**11, next_flops=11 * 10**11)
    theirs = [Figures(first_s=4.0, decode=rate, peak_bytes=6e9) for rate in (2.0, 2.5, 4.0)]
    ours = [Figures(first_s=5.0, decode=5.0, next_kv_s=0.25, together=20.0)]
    columns = [Column("theirs", theirs, cost), Column("ours", ours, cost), Column("none", [], cost)]
    assert markdown(columns, machine).splitlines() == [
        "| | theirs | ours | none |",
        "|---|---|---|---|",
        "| image and question to first token | 4 s (4 to 4), 100% | 5 s, **0.80 x**, 80% | - |",
        "| next question, `kv` | - | 0.25 s, 50% | - |",
        "| decode | 2.5 tok/s (2 to 4), 31% | 5 tok/s, **2.00 x**, 62% | - |",
        "| 8 questions together | - | 20 tok/s | - |",
        "| peak memory | 6 GB (6 to 6) | - | - |",
    ]

"""Write what was learnt as a checkpoint folder: the published names, bfloat16, and a card."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from examples.train_demo.card import card
from examples.train_demo.evaluate import Report
from examples.train_demo.learner import Learner, Progress
from vlmchat.config import ModelConfig
from vlmchat.weights import published_name

MOST_BYTES = 16_000_000  # of the weights: the package carries them
COPIED = ("config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")


def export(run: Path, learner: Learner, folder: Path) -> None:
    """Write the checkpoint of a run into `folder`; its card comes after the evaluation."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        shutil.copyfile(run / name, folder / name)
    weights = {
        published_name(name): tensor.to("cpu", torch.bfloat16).contiguous()
        for name, tensor in learner.model.state_dict().items()
    }
    path = folder / "model.safetensors"
    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(0o644)  # written for its owner alone
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} takes {path.stat().st_size} bytes, more than {MOST_BYTES}")


def write_card(run: Path, folder: Path, report: Report) -> None:
    """Write what the model of a run is and what was measured."""
    text = card(ModelConfig.from_folder(folder), Progress.read(run), report)
    (folder / "README.md").write_text(text, encoding="utf-8")

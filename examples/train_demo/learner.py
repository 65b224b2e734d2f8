"""What learns: the model, the head that is thrown away, the optimizers, and how far they have come.

A run's folder is a checkpoint folder in the making: `config.json`, `tokenizer.json` and
`preprocessor_config.json` lie there from the first minute, beside `training.pt`, which holds all
that is needed to go on another day.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from examples.train_demo.beginnings import initialise
from examples.train_demo.optimizers import Optimizers
from examples.train_demo.patches import PatchHead
from examples.train_demo.sizes import Size
from examples.train_demo.tokenizer import IMAGE, build_tokenizer
from vlmchat.config import ModelConfig
from vlmchat.model.paligemma import PaliGemma

TRAINING_FILE = "training.pt"
PREPROCESSOR = {
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "SiglipImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "PaliGemmaProcessor",
    "resample": 3,
    "rescale_factor": 1 / 255,
}
TOKENIZER = {
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "extra_special_tokens": {"image_token": "<image>"},
    "pad_token": "<pad>",
    "processor_class": "PaliGemmaProcessor",
    "tokenizer_class": "PreTrainedTokenizerFast",
    "unk_token": "<unk>",
}


@dataclass(frozen=True)
class Moment:
    """One point of the learning curves: means over the steps since the one before it."""

    minutes: float
    images: int
    answers: float  # cross-entropy of an answer's token, in nats
    tokens_right: float  # share of them that the model would have said
    patches: float  # the weighed loss of the patches
    shapes_right: float  # share of patches whose shape is named rightly


class Learner:
    """Everything that changes while training."""

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = PaliGemma(config)
        initialise(self.model)
        self.head = PatchHead(config.vision)
        self.optimizers = Optimizers(self.model, self.head)
        self.images = 0
        self.questions = 0
        self.seconds = 0.0
        self.history: list[Moment] = []

    def parameters(self) -> list[nn.Parameter]:
        """Of the model and of the head."""
        return [*self.model.parameters(), *self.head.parameters()]

    @classmethod
    def resume(cls, folder: Path) -> "Learner":
        """Continue from `training.pt` where there is one, else begin."""
        learner = cls(ModelConfig.from_folder(folder))
        path = folder / TRAINING_FILE
        if path.exists():
            state = torch.load(path, weights_only=True)
            learner.model.load_state_dict(state["model"])
            learner.head.load_state_dict(state["head"])
            learner.optimizers.load_state_dict(state["optimizers"])
            learner.images = state["images"]
            learner.questions = state["questions"]
            learner.seconds = state["seconds"]
            learner.history = [Moment(**moment) for moment in state["history"]]
        return learner

    def save(self, folder: Path) -> None:
        """Write `training.pt`; the old one is there until the new one is whole."""
        state = {
            "model": self.model.state_dict(),
            "head": self.head.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "images": self.images,
            "questions": self.questions,
            "seconds": self.seconds,
            "history": [asdict(moment) for moment in self.history],
        }
        unfinished = folder / (TRAINING_FILE + ".new")
        torch.save(state, unfinished)
        os.replace(unfinished, folder / TRAINING_FILE)


def prepare(folder: Path, size: Size) -> None:
    """Write a run's config, tokenizer and preprocessor files, where they are not there yet."""
    if (folder / "config.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = size.config(tokenizer.get_vocab_size(), tokenizer.token_to_id(IMAGE))
    images = PREPROCESSOR | {
        "image_seq_length": config["text_config"]["num_image_tokens"],
        "size": {"height": size.image, "width": size.image},
    }
    _write_json(folder / "preprocessor_config.json", images)
    _write_json(folder / "tokenizer_config.json", TOKENIZER)
    # config.json comes last: where it is, the others are.
    _write_json(folder / "config.json", config)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

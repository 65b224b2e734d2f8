"""What learns: the model, the head that is thrown away, the optimizers, and how far they have come.

A run's folder is a checkpoint folder in the making: `config.json`, `tokenizer.json` and
`preprocessor_config.json` lie there from the first minute, beside `training.pt` and
`progress.json`, which hold all that is needed to go on another day.
"""

import json
import os
from dataclasses import asdict, dataclass, field
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

TRAINING_FILE, PROGRESS_FILE = "training.pt", "progress.json"
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
    tokens_right: float  # share of words that the model would have said
    patches: float  # the weighed loss of the patches
    shapes_right: float  # share of patches whose shape is named rightly
    letters_right: float  # share of half patches whose letter is


@dataclass
class Progress:
    """How far a run has come: what the card tells, and the curves show."""

    machine: str
    images: int = 0  # different ones
    showings: int = 0  # of images, the second and later ones too
    questions: int = 0
    seconds: float = 0.0
    history: list[Moment] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> "Progress":
        """What `write` wrote."""
        state = json.loads((folder / PROGRESS_FILE).read_text(encoding="utf-8"))
        return cls(**state | {"history": [Moment(**moment) for moment in state["history"]]})

    def write(self, folder: Path) -> None:
        """Keep it in the run's folder."""
        _write_json(folder / PROGRESS_FILE, asdict(self))


class Learner:
    """Everything that changes while training."""

    def __init__(self, config: ModelConfig, device: str = "cpu", seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = PaliGemma(config)
        initialise(self.model)
        self.model.to(device)
        self.head = PatchHead(config.vision).to(device)
        self.optimizers = Optimizers(self.model, self.head)
        self.progress = Progress(machine(device))

    def parameters(self) -> list[nn.Parameter]:
        """Of the model and of the head."""
        return [*self.model.parameters(), *self.head.parameters()]

    @classmethod
    def resume(cls, folder: Path, device: str = "cpu") -> "Learner":
        """Continue from `training.pt` where there is one, else begin."""
        learner = cls(ModelConfig.from_folder(folder), device)
        path = folder / TRAINING_FILE
        if path.exists():
            state = torch.load(path, map_location=device, weights_only=True)
            learner.model.load_state_dict(state["model"])
            learner.head.load_state_dict(state["head"])
            learner.optimizers.load_state_dict(state["optimizers"])
            learner.progress = Progress.read(folder)
        return learner

    def save(self, folder: Path) -> None:
        """Write `training.pt` and the progress; the old one stays until the new one is whole."""
        state = {
            "model": self.model.state_dict(),
            "head": self.head.state_dict(),
            "optimizers": self.optimizers.state_dict(),
        }
        unfinished = folder / (TRAINING_FILE + ".new")
        torch.save(state, unfinished)
        os.replace(unfinished, folder / TRAINING_FILE)
        self.progress.write(folder)


def machine(device: str) -> str:
    """What trains, for the card: `an NVIDIA H100` or `2 CPU cores`."""
    cores = f"{os.cpu_count()} CPU cores"
    return f"an {torch.cuda.get_device_name()} and {cores}" if device == "cuda" else cores


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

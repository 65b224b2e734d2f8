"""What learns: the model, the head that is thrown away, the optimizer, and how far they have come.

A run's folder is a checkpoint folder in the making: `config.json`, `tokenizer.json` and
`preprocessor_config.json` lie there from the first minute, beside `training.pt`, which holds all
that is needed to go on another day.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from examples.train_demo.patches import PatchHead
from examples.train_demo.sizes import Size
from examples.train_demo.tokenizer import IMAGE, build_tokenizer
from vlmchat.config import ModelConfig
from vlmchat.model.paligemma import PaliGemma

TRAINING_FILE = "training.pt"
WEIGHT_DECAY = 0.05
BETAS = (0.9, 0.98)
TABLE_STD = 0.02
GAIN = 0.8  # of a linear layer at the start: rather too quiet than too loud
RESIDUAL_GAIN = 0.4  # of the layers that add to the residual path, times GAIN
RESIDUAL_ENDS = ("o_proj.weight", "out_proj.weight", "down_proj.weight", "fc2.weight")
POSITION_SCALE = 0.5
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
        self.optimizer = make_optimizer(self.parameters())
        self.images = 0
        self.questions = 0
        self.seconds = 0.0
        self.history: list[Moment] = []

    def parameters(self) -> list[nn.Parameter]:
        """Of the model and of the head, in this order, which the saved optimizer relies on."""
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
            learner.optimizer.load_state_dict(state["optimizer"])
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
            "optimizer": self.optimizer.state_dict(),
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
    # config.json comes last: where it is, the others are.
    _write_json(folder / "config.json", config)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def make_optimizer(parameters: list[nn.Parameter]) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019, 1711.05101): matrices decay, norms and biases do not."""
    matrices = [p for p in parameters if p.dim() >= 2]
    vectors = [p for p in parameters if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": WEIGHT_DECAY},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=BETAS)


@torch.no_grad()
def initialise(model: PaliGemma) -> None:
    """Random weights of a size that keeps activations about as large as they come in."""
    for name, parameter in model.named_parameters():
        if "embed_tokens" in name:
            nn.init.normal_(parameter, std=TABLE_STD)
        elif parameter.dim() >= 2:
            gain = GAIN * (RESIDUAL_GAIN if name.endswith(RESIDUAL_ENDS) else 1.0)
            nn.init.normal_(parameter, std=gain * parameter[0].numel() ** -0.5)
        elif name.startswith("vision.") and "norm" in name and name.endswith("weight"):
            nn.init.ones_(parameter)  # LayerNorm multiplies by its weight
        else:
            nn.init.zeros_(parameter)  # biases; Gemma's norms multiply by one plus their weight
    places = model.vision.embeddings.position_embedding.weight
    places.copy_(POSITION_SCALE * grid_waves(*places.shape))


def grid_waves(patches: int, width: int) -> Tensor:
    """Sines and cosines (P, D) of each patch's row and column: a start that knows the grid.

    Learnt positions begin with no idea which patches are neighbours; these do (the two-dimensional
    form of Vaswani et al. 2017, 1706.03762). Training may change them.
    """
    grid = int(patches**0.5)
    row, column = (axis.reshape(-1, 1) for axis in np.mgrid[0:grid, 0:grid])
    waves = width // 4
    frequencies = 100.0 ** -(np.arange(waves) / waves)
    angles = [row * frequencies, column * frequencies]
    parts = [turn(angle) for angle in angles for turn in (np.sin, np.cos)]
    return torch.tensor(np.concatenate(parts, axis=1), dtype=torch.float32)

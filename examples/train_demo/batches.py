"""Many questions about one image in one sequence, each as if it were alone.

Seeing the image costs far more than reading a question, and image tokens never read text here
(`image_attends_to_text` is False). So the image stands once, and all its questions behind it; what
keeps them apart is the mask, and what makes each of them stand directly behind the image are its
positions. Two image tokens (i), a prompt of two tokens (p) with an answer of two (a), then a second
question (q) with its answer (b); rows read columns, `1` may read:

                 i i p p a a q q b
    position     0 1 2 3 4 5 2 3 4
    rank         - - 0 0 1 2 0 0 1
             i   1 1 0 0 0 0 0 0 0
             i   1 1 0 0 0 0 0 0 0
             p   1 1 1 1 0 0 0 0 0
             p   1 1 1 1 0 0 0 0 0      the last prompt token must say the first a
             a   1 1 1 1 1 0 0 0 0
             a   1 1 1 1 1 1 0 0 0      the last a must say <eos>
             q   1 1 0 0 0 0 1 1 0
             q   1 1 0 0 0 0 1 1 0
             b   1 1 0 0 0 0 1 1 1

A text token reads the image, and what belongs to its own question and does not rank above it:
rank 0 is the prompt, which reads all of itself, and the answer's tokens count up from 1. For each
question alone this is the middle picture in `vlmchat.model.masks`.

Axes: B images, T text tokens, P image tokens, S image side in pixels.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from examples.train_demo.patches import Truth
from examples.train_demo.questions import Asker, Question
from examples.train_demo.scene import draw_scene
from vlmchat.config import ModelConfig
from vlmchat.processor import Processor

QUESTIONS_AN_IMAGE = 8
NO_TARGET = -100  # what cross_entropy leaves out
NO_QUESTION = -1
LENGTH_STEP = 16  # texts are padded to a multiple of it: few sizes, and even ones
# Scene i of the training has seed FIRST_TRAINING_SEED + i; evaluation stays below that number.
FIRST_TRAINING_SEED = 10_000_000
PRINTED_KINDS = ("ocr", "says")


@dataclass(frozen=True)
class Text:
    """The questions about one image, one behind the other: five lists (T,).

    `targets` says what comes next, `question` which question a token belongs to.
    """

    ids: list[int]
    targets: list[int]
    positions: list[int]
    question: list[int]
    rank: list[int]


@dataclass(frozen=True)
class Texts:
    """The texts of several images: tensors (B, T)."""

    ids: Tensor
    targets: Tensor
    positions: Tensor
    question: Tensor
    rank: Tensor

    def to(self, device: torch.device | str) -> "Texts":
        """The same on another device, as the model wants them."""
        parts = (self.ids, self.targets, self.positions, self.question, self.rank)
        return Texts(*(part.to(device, non_blocking=True).long() for part in parts))


@dataclass(frozen=True)
class Batch:
    """Images as bytes (B, 3, S, S), what is known of them, and questions about them.

    There are several sets of questions, so that an image that is shown again is asked other ones.
    """

    pixels: Tensor
    truth: Truth
    texts: tuple[Texts, ...]

    def to(self, device: torch.device | str) -> "Batch":
        """The same on another device; texts stay, being small."""
        return Batch(self.pixels.to(device, non_blocking=True), self.truth.to(device), self.texts)


def normalised(pixels: Tensor) -> Tensor:
    """Bytes -> what the processor gives a PaliGemma: -1 to 1."""
    return pixels.float() / 127.5 - 1


def lay_out(questions: Sequence[Question], processor: Processor) -> Text:
    """Put the questions behind one another, with the ids that the chat would give them."""
    text = Text([], [], [], [], [])
    image_tokens = processor.config.image_tokens
    for number, question in enumerate(questions):
        prompt = processor.prompt_ids(question.prompt)
        answer = [*_answer_ids(question, processor), processor.config.eos_id]
        ids = prompt + answer[:-1]  # nothing has to be said after the end token
        text.ids.extend(ids)
        text.targets.extend([NO_TARGET] * (len(prompt) - 1) + answer)
        text.positions.extend(range(image_tokens, image_tokens + len(ids)))
        text.question.extend([number] * len(ids))
        text.rank.extend([0] * len(prompt) + list(range(1, len(answer))))
    return text


def _answer_ids(question: Question, processor: Processor) -> list[int]:
    """The ids of the answer; what is printed is spelt letter by letter, as it is seen."""
    parts = question.answer if question.kind in PRINTED_KINDS else [question.answer]
    return [id for part in parts for id in processor.tokenizer.encode(part)]


def reading_mask(question: Tensor, rank: Tensor, image_tokens: int) -> Tensor:
    """The picture above for `question` and `rank` (B, T): (B, 1, P + T, P + T), True may read."""
    batch, length = question.shape
    same = question.unsqueeze(2) == question.unsqueeze(1)
    not_above = rank.unsqueeze(1) <= rank.unsqueeze(2)
    size = image_tokens + length
    mask = torch.zeros(batch, 1, size, size, dtype=torch.bool, device=question.device)
    mask[..., :image_tokens] = True
    mask[:, 0, image_tokens:, image_tokens:] = same & not_above
    return mask


def stack(texts: Sequence[Text]) -> Texts:
    """The texts of several images, the shorter ones padded with tokens that nobody reads."""
    longest = max(len(text.ids) for text in texts)
    length = -(-longest // LENGTH_STEP) * LENGTH_STEP

    def padded(rows: Sequence[list[int]], filler: int) -> Tensor:
        return torch.tensor(
            [row + [filler] * (length - len(row)) for row in rows], dtype=torch.int16
        )

    return Texts(
        ids=padded([text.ids for text in texts], 0),
        targets=padded([text.targets for text in texts], NO_TARGET),
        positions=padded([text.positions for text in texts], 0),
        question=padded([text.question for text in texts], NO_QUESTION),
        rank=padded([text.rank for text in texts], 0),
    )


def as_bytes(image: Image.Image, side: int) -> Tensor:
    """The picture squashed to the model's square (1, 3, S, S), as the processor does it."""
    small = image.resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).unsqueeze(0).contiguous()


class SceneBatches(IterableDataset[Batch]):
    """Batches without end, drawn as they are needed; scene `first` of the training comes first.

    `folder` has the config and the tokenizer. `sets` is how many sets of questions each image
    gets, and `most` the largest number of things in a scene (None: as scenes come). Several workers
    take turns.
    """

    def __init__(
        self, folder: Path, batch: int, first: int = 0, sets: int = 1, most: int | None = None
    ) -> None:
        super().__init__()
        self.folder = folder
        self.batch = batch
        self.first = first
        self.sets = sets
        self.most = most

    def __iter__(self) -> Iterator[Batch]:
        processor = Processor.from_folder(self.folder, ModelConfig.from_folder(self.folder))
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        seed = FIRST_TRAINING_SEED + self.first + number * self.batch
        while True:
            yield self.draw(range(seed, seed + self.batch), processor)
            seed += workers * self.batch

    def draw(self, seeds: Sequence[int], processor: Processor) -> Batch:
        """The batch of these seeds: a scene each, and questions about it."""
        side = processor.config.vision.image_size
        pixels, truths, texts = [], [], []
        for seed in seeds:
            rng = random.Random(seed)
            count = None if self.most is None else rng.randint(1, self.most)
            scene = draw_scene(rng, count)
            asker = Asker(rng, scene.contents)
            pixels.append(as_bytes(scene.image, side))
            truths.append(Truth.of(scene))
            asked = [[asker.any() for _ in range(QUESTIONS_AN_IMAGE)] for _ in range(self.sets)]
            texts.append([lay_out(questions, processor) for questions in asked])
        return Batch(
            torch.cat(pixels),
            Truth.join(truths),
            tuple(stack(one_set) for one_set in zip(*texts, strict=True)),
        )

"""The card of the demo model: what it is, what it knows, how it was made, how good it is."""

import torch

from examples.train_demo.batches import FIRST_TRAINING_SEED
from examples.train_demo.evaluate import SIDES, Report
from examples.train_demo.learner import Progress
from examples.train_demo.outlines import SHAPES
from examples.train_demo.scene import COLOURS, MOST_THINGS
from vlmchat.config import ModelConfig
from vlmchat.model.paligemma import PaliGemma

TEMPLATE = """\
# The demo model

A PaliGemma in miniature ({parameters:.1f} million parameters, {megabytes:.1f} MB in bfloat16) that
ships with vlmchat, so that the chat can be tried at once, without a download and without a GPU. It
has the parts of the real one: a SigLIP tower ({vision_layers} layers, images of {side} x {side}
pixels in {patches} patches), a linear projector and a Gemma decoder ({text_layers} layers).

It is a toy with honest manners: it knows drawn scenes, and nothing else of the world. Photographs
want a PaliGemma checkpoint.

## What it knows

- Pictures of one to {most} plain shapes on a background, perhaps with a printed word or number:
  {shapes}.
- Their colours: {colours}.
- Questions in English about them, in many wordings: `what colour is it?`, `what shape is the red
  object?`, `how many stars are there?`, `where is the ring?`, `is there a blue heart?`, `what is
  left of the star?`, `what is the largest object?`, `what does it say?`, `what is this?`
- The task prompts `caption en`, `ocr`, and `detect star` (also `detect red star`, `detect object`,
  `detect star ; ring`).
- When to say `unanswerable`: to a question about something that is not there, or from outside its
  world.

## What it does not know

- Photographs, people, animals, and every shape and colour not named above. To an image that is no
  drawn scene it will answer anything.
- Conversation: each question stands alone. `segment` is a word it never heard.
- Words of more than eight letters, several words, and letters that are low, thin or turned far.
- Very small shapes, shapes that cover each other, and colours between two names are where it errs
  most.

## How it was made

By the program `examples/train_demo` in vlmchat's repository, from random weights: {images:,} drawn
scenes, shown {showings:,} times, with {questions:,} questions about them; {minutes:.0f} minutes on
{machine}. Nobody's pictures or texts were used. Unlike in a published PaliGemma, image tokens do
not read the prompt (`image_attends_to_text` is false in `config.json`), so that an image's keys and
values can be kept for the next question without any approximation.

## How good it is

On scenes that the training never drew (seeds below {first_seed:,}, where training starts), with
pictures of {least} to {largest} pixels a side. Greedy decoding, in bfloat16, through `vlmchat.load`
as the chat does it. Except for boxes, an answer counts only when it is right to the letter. The
second column uses wordings, and the third a renderer (matplotlib, other outlines, colours and
fonts), that were kept out of training.

{table}
"""


def card(config: ModelConfig, progress: Progress, report: Report) -> str:
    """The card's Markdown, from what was really trained and measured."""
    with torch.device("meta"):
        numbers = sum(p.numel() for p in PaliGemma(config).parameters())
    return TEMPLATE.format(
        parameters=numbers / 1e6,
        megabytes=2 * numbers / 1e6,
        vision_layers=config.vision.num_layers,
        text_layers=len(config.text.layers),
        side=config.vision.image_size,
        patches=config.image_tokens,
        most=MOST_THINGS,
        shapes=", ".join(SHAPES),
        colours=", ".join(COLOURS),
        images=progress.images,
        showings=progress.showings,
        questions=progress.questions,
        minutes=progress.seconds / 60,
        machine=progress.machine,
        first_seed=FIRST_TRAINING_SEED,
        least=SIDES[0],
        largest=SIDES[1],
        table=report.markdown(),
    )

"""The card of the demo model: what it is, what it knows, how it was made, how good it is."""

from examples.train_demo.batches import FIRST_TRAINING_SEED
from examples.train_demo.evaluate import QUESTIONS_A_SCENE, Report
from examples.train_demo.learner import Learner
from examples.train_demo.outlines import SHAPES
from examples.train_demo.scene import COLOURS, COUNTS

TEMPLATE = """\
# The demo model

A PaliGemma in miniature ({parameters:.1f} million parameters, {megabytes:.0f} MB in bfloat16) that
ships with vlmchat, so that the chat can be tried at once, without a download and without a GPU. It
has the parts of the real one: a SigLIP tower ({vision_layers} layers, images of {side} x {side}
pixels in {patches} patches), a linear projector and a Gemma decoder ({text_layers} layers).

It is a toy with honest manners: it knows drawn shapes, and nothing else of the world.

## What it knows

- Pictures of one to {most} plain shapes on a background: {shapes}.
- Their colours: {colours}.
- Questions in English about them: `what colour is it?`, `what shape is the red object?`,
  `how many stars are there?`, `where is the ring?`, `is there a blue heart?`,
  `what is the largest object?`, `what is this?`
- The task prompts `caption en` and `detect star` (also `detect red star`, `detect object`).

## What it does not know

- Photographs, text in images, people, animals, and every shape and colour not named above. To a
  question that no scene answers it was taught to say `unanswerable`; to an image that is no drawn
  scene it will answer anything.
- Conversation: each question stands alone. `ocr` and `segment` are words it never heard.
- Very small shapes, shapes that touch, and colours between two names are where it errs most.

## How it was made

By the program `examples/train_demo` in vlmchat's repository, from random weights: {images:,} drawn
scenes, {questions:,} questions about them, {hours:.1f} hours on two CPU cores. Nobody's pictures or
texts were used. Unlike a published PaliGemma, image tokens do not read the
prompt (`image_attends_to_text` is false in `config.json`), so that an image's keys and values can
be kept for the next question without any approximation.

## How good it is

On {single} scenes with one object and {mixed} scenes as they come (one to {most} objects,
{per_scene} random questions each), drawn with seeds that the training never used (below
{first_seed:,}; training starts there). Greedy decoding, in bfloat16, through `vlmchat.load` as the
chat does it. Except for `detect`, an answer counts only when it is right to the letter.

{table}
"""


def card(learner: Learner, report: Report) -> str:
    """The card's Markdown, from what was really trained and measured."""
    config = learner.model.config
    numbers = sum(p.numel() for p in learner.model.parameters())
    return TEMPLATE.format(
        parameters=numbers / 1e6,
        megabytes=2 * numbers / 1e6,
        vision_layers=config.vision.num_layers,
        text_layers=len(config.text.layers),
        side=config.vision.image_size,
        patches=config.image_tokens,
        most=max(COUNTS),
        shapes=", ".join(SHAPES),
        colours=", ".join(COLOURS),
        images=learner.images,
        questions=learner.questions,
        hours=learner.seconds / 3600,
        single=report.single_images,
        mixed=report.mixed_images,
        per_scene=QUESTIONS_A_SCENE,
        first_seed=FIRST_TRAINING_SEED,
        table=report.markdown(),
    )

"""Make the demo model: draw, train, export, evaluate, and write its card.

    python -m examples.train_demo --toy                          a minute, to see it work
    python -m examples.train_demo --minutes 9.3 --rate 1.5e-3 --compile
                                            the model that ships, on an H200 with 16 cores
    python -m examples.train_demo --run runs/demo --minutes 30   half an hour more of the same run
    python -m examples.train_demo --run runs/demo --minutes 0    only evaluate

A run's folder can be continued at any time: `training.pt` has all it takes. Stopping the program
loses what was learnt since it was last written, a minute or less.
"""

import argparse
import os
import random
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from examples.train_demo.evaluate import evaluate
from examples.train_demo.export import export, write_card
from examples.train_demo.learner import prepare
from examples.train_demo.samples import write_samples
from examples.train_demo.scene import draw_scene
from examples.train_demo.sizes import DEMO, TOY
from examples.train_demo.train import Plan, train

# The toy sees one thing at a time; it has learnt its colours before anybody is bored.
TOY_PLAN = Plan(
    minutes=1.0, batch=8, learning_rate=4e-3, looking=0.15, most_things=1, report_every=50
)
DEMO_PLAN = Plan(minutes=90.0)
# A GPU sees a batch in the time that it takes to draw a tenth of it.
GPU_PLAN = Plan(
    minutes=10.0, batch=256, workers=max(1, (os.cpu_count() or 2) - 1), showings=3, device="cuda"
)
SHEET = (8, 5)  # pictures across and down
SHEET_CELL = 136  # pixels


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", maxsplit=1)[0],
        epilog="See the docstring of examples/train_demo/__main__.py for examples.",
    )
    parser.add_argument("--run", type=Path, help="folder to train in (default: runs/demo or toy)")
    parser.add_argument("--minutes", type=float, help="how long to train now; 0: not at all")
    parser.add_argument("--toy", action="store_true", help="a model that learns in a minute")
    parser.add_argument("--export", type=Path, help="checkpoint folder (default: RUN/export)")
    parser.add_argument("--batch", type=int, help="images a step (default: the plan's)")
    parser.add_argument("--rate", type=float, help="learning rate (default: the plan's)")
    parser.add_argument("--looking", type=float, help="share of all minutes without answers")
    parser.add_argument("--cpu", action="store_true", help="train without the GPU that is there")
    parser.add_argument("--compile", action="store_true", help="let PyTorch compile the model")
    parser.add_argument(
        "--questions", type=int, default=500, help="of each kind to evaluate with; 0: none"
    )
    parser.add_argument(
        "--quantize",
        default="none",
        choices=("none", "int8", "int4"),
        help="evaluate with these weights; the card, which is of bfloat16, stays as it is",
    )
    parser.add_argument("--samples", type=Path, help="also write sample images into this folder")
    parser.add_argument("--threads", type=int, help="for the arithmetic (default: PyTorch's)")
    parser.add_argument("--float32", action="store_true", help="train without bfloat16")
    return parser.parse_args()


def choose_plan(chosen: argparse.Namespace) -> Plan:
    """How to train: the plan for this machine, changed as the command line says."""
    on_gpu = torch.cuda.is_available() and not chosen.cpu
    plan = TOY_PLAN if chosen.toy else GPU_PLAN if on_gpu else DEMO_PLAN
    return replace(
        plan,
        minutes=plan.minutes if chosen.minutes is None else chosen.minutes,
        batch=chosen.batch or plan.batch,
        learning_rate=chosen.rate or plan.learning_rate,
        looking=plan.looking if chosen.looking is None else chosen.looking,
        bfloat16=not chosen.float32,
        compile=chosen.compile,
    )


def draw_sheet() -> Image.Image:
    """A sheet of unseen scenes, to see what the model is going to see."""
    across, down = SHEET
    sheet = Image.new("RGB", (across * SHEET_CELL, down * SHEET_CELL), "white")
    for number in range(across * down):
        image = draw_scene(random.Random(number)).image
        image.thumbnail((SHEET_CELL - 8, SHEET_CELL - 8))
        sheet.paste(image, (number % across * SHEET_CELL + 4, number // across * SHEET_CELL + 4))
    return sheet


def main() -> None:
    """Do it all."""
    chosen = options()
    run = chosen.run or Path("runs/toy" if chosen.toy else "runs/demo")
    folder = chosen.export or run / "export"
    plan = choose_plan(chosen)
    if chosen.threads:
        torch.set_num_threads(chosen.threads)

    prepare(run, TOY if chosen.toy else DEMO)
    draw_sheet().save(run / "scenes.png")
    print(f"training in {run}; {run / 'scenes.png'} shows what it will see", flush=True)
    if plan.minutes > 0:
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("training", total=1.0)
            learner = train(run, plan, _say, lambda done: bar.update(task, completed=done))
        export(run, learner, folder)
    if chosen.questions:
        report = evaluate(folder, chosen.questions, _say, quantize=chosen.quantize)
        if chosen.quantize == "none":
            write_card(run, folder, report)
        print(report.markdown())
    for line in write_samples(folder, chosen.samples) if chosen.samples else ():
        print(line)
    print(f"chat with it: vlmchat --model-path {folder}")


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()

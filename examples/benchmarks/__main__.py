"""Measure vlmchat and transformers in turn on random weights, and print a Markdown table.

    python -m examples.benchmarks [--size 3b-224] [--quantize int8 --quantize int4] [--compile] …

Each engine runs in a process of its own, one after another, several rounds. The checkpoint is
written once, to a folder for temporary files; `--size small` tries all of it in two minutes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from examples.benchmarks.limits import BITS, limits
from examples.benchmarks.machine import measure_machine
from examples.benchmarks.measure import Figures
from examples.benchmarks.random_checkpoint import SIZES, write_checkpoint
from examples.benchmarks.table import Column, markdown
from vlmchat.config import ModelConfig

LEGEND = """\
Medians (lowest to highest); bold: how many times as good as transformers; per cent: of what this
machine allows ({bandwidth:.0f} GB/s of memory, {flops:.0f} GFLOP/s in products of 266 rows).
"""


def run(engine: str, folder: Path, options: argparse.Namespace, *more: str) -> Figures | None:
    """One engine in a child process; None, and its last words on stderr, where it fails."""
    command = [sys.executable, "-m", "examples.benchmarks.measure", engine, str(folder), *more]
    command += ["--device", options.device, "--dtype", options.dtype]
    command += ["--tokens", str(options.tokens)] + (["--batch"] if options.batch else [])
    quiet = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(command, capture_output=True, text=True, env=quiet)
    if done.returncode:
        words = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        print(f"{engine} {' '.join(more)}: {words[0]}", file=sys.stderr)
        return None
    return Figures(**json.loads(done.stdout.splitlines()[-1]))


def engines(options: argparse.Namespace) -> dict[str, tuple[str, str, list[str]]]:
    """By the name of its column: the engine, how it is quantised, and more arguments."""
    columns = {f"transformers {options.dtype}": ("transformers", "none", [])}
    for more in ([], ["--compile"]) if options.compile else ([],):
        for name in ("none", *options.quantize):
            title = " ".join(["vlmchat", options.dtype if name == "none" else name, *more])
            columns[title] = ("vlmchat", name, ["--quantize", name, *more])
    return columns


def measure(folder: Path, options: argparse.Namespace) -> list[Column]:
    """All engines in turn, as many rounds as asked for."""
    config = ModelConfig.from_folder(folder)
    columns = []
    for name, (_, quantize, _) in engines(options).items():
        columns.append(Column(name, [], limits(config, getattr(torch, options.dtype), quantize)))
    for number in range(options.rounds):
        for column, (engine, _, more) in zip(columns, engines(options).values(), strict=True):
            print(f"round {number + 1}: {column.name}", file=sys.stderr, flush=True)
            figures = run(engine, folder, options, *more)
            column.rounds.extend([figures] if figures else [])
    return columns


def report(columns: list[Column], options: argparse.Namespace) -> str:
    """The table, with the machine above it."""
    machine = measure_machine(options.device, options.dtype)
    legend = LEGEND.format(bandwidth=machine.bytes_per_s / 1e9, flops=machine.flops / 1e9)
    title = f"PaliGemma {options.size}, random weights; {machine.name}; PyTorch {torch.__version__}"
    return f"{title}\n\n{markdown(columns, machine)}\n\n{legend}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default=SIZES[0], choices=SIZES)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument(
        "--quantize", action="append", default=[], choices=[b for b in BITS if b != "none"]
    )
    parser.add_argument("--compile", action="store_true", help="each column with --compile too")
    parser.add_argument("--batch", action="store_true", help="eight questions together too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32, help="new tokens in a timed answer")
    parser.add_argument("--folder", type=Path, help="where the random checkpoint is or goes")
    parser.add_argument("--out", type=Path, help="a file for the table, besides stdout")
    options = parser.parse_args()
    temporary = Path(tempfile.gettempdir()) / f"vlmchat-random-{options.size}-{options.dtype}"
    folder = options.folder or temporary
    write_checkpoint(folder, options.size, options.dtype)
    text = report(measure(folder, options), options)
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()

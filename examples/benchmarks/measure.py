"""Measure one engine once, in a process of its own: figures as one line of JSON.

    python -m examples.benchmarks.measure vlmchat FOLDER [--quantize int8] [--device cpu] …

`python -m examples.benchmarks` starts one of these for each engine and round.
"""

import argparse
import inspect
import json
import re
import resource
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from PIL import Image

from examples.benchmarks.questions import QUESTIONS
from vlmchat.config import ModelConfig
from vlmchat.engine import PrefixMode, Reply
from vlmchat.images import load_picture
from vlmchat.processor import Processor
from vlmchat.sampling import Sampling
from vlmchat.session import Session, Settings


@dataclass
class Figures:
    """What was seen; None where an engine cannot do it. Seconds, tokens a second, bytes.

    `first_s`: a new image and a question until the first token. `next_kv_s` and `next_exact_s`:
    another question about the same image. `one_by_one` and `together`: eight questions.
    """

    load_s: float | None = None
    first_s: float | None = None
    next_kv_s: float | None = None
    next_exact_s: float | None = None
    decode: float | None = None
    one_by_one: float | None = None
    together: float | None = None
    peak_bytes: float | None = None


def noise(seed: int) -> bytes:
    """An image file that nobody has seen before."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (240, 320, 3), dtype=torch.uint8, generator=generator)
    file = BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "PNG")
    return file.getvalue()


def measure_vlmchat(folder: Path, options: argparse.Namespace) -> Figures:
    """Our own figures, through what a program that uses the library would call."""
    import vlmchat

    started = perf_counter()
    session = vlmchat.load(
        folder, device=options.device, dtype=options.dtype, **_extra(vlmchat.load, options)
    )
    figures = Figures(load_s=perf_counter() - started)
    model = session.engine.model
    model.config = replace(model.config, eos_id=-1)  # answers have their full length
    for seed in (0, 1):  # the first image warms everything up
        session.add_image(noise(seed))
        figures.first_s = _ask(session, QUESTIONS[0], 2).timing.first_token_s
        figures.next_kv_s = _ask(session, QUESTIONS[1], 2).timing.first_token_s
        figures.next_exact_s = _ask(session, QUESTIONS[1], 2, "exact").timing.first_token_s
    figures.decode = _ask(session, QUESTIONS[0], options.tokens).timing.tokens_per_s
    if options.batch:
        _measure_batch(session, options.tokens, figures)
    return figures


def _extra(load: Callable[..., Session], options: argparse.Namespace) -> dict[str, Any]:
    """Arguments that not every version of `load` has; SystemExit where one is asked for in vain."""
    wanted = {"quantize": options.quantize} if options.quantize != "none" else {}
    wanted |= {"compile": True} if options.compile else {}
    if unknown := wanted.keys() - inspect.signature(load).parameters.keys():
        raise SystemExit(f"vlmchat.load has no {' and no '.join(unknown)} here")
    return wanted


def _ask(session: Session, prompt: str, tokens: int, mode: PrefixMode = "kv") -> Reply:
    session.settings = Settings(Sampling(max_tokens=tokens), prefix_cache=mode)
    for _ in session.ask(prompt):
        pass
    return session.turns[-1].reply


def _measure_batch(session: Session, tokens: int, figures: Figures) -> None:
    """All the questions one by one and together; tokens a second over the whole of it."""
    started = perf_counter()
    for question in QUESTIONS:
        _ask(session, question, tokens)
    one_by_one = perf_counter() - started
    figures.one_by_one = tokens * len(QUESTIONS) / one_by_one
    if not hasattr(session, "answers"):
        return
    started = perf_counter()
    replies = session.answers(QUESTIONS)
    figures.together = sum(len(r.token_ids) for r in replies) / (perf_counter() - started)


def measure_transformers(folder: Path, options: argparse.Namespace) -> Figures:
    """The reference implementation, given the same ids and pixels ready-made."""
    from transformers import PaliGemmaForConditionalGeneration

    from examples.benchmarks import peer

    started = perf_counter()
    dtype = getattr(torch, options.dtype)
    model = PaliGemmaForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    model = model.to(options.device).eval()
    figures = Figures(load_s=perf_counter() - started)
    config = ModelConfig.from_folder(folder)
    processor = Processor.from_folder(folder, config)

    def ask(seed: int, question: str, tokens: int) -> peer.Pace:
        pixels = processor.pixels(load_picture(noise(seed)).image)
        ids = peer.input_ids(config, processor.prompt_ids(question))
        return peer.answer(model, pixels, ids, tokens)[0]

    for seed in (0, 1):
        figures.first_s = ask(seed, QUESTIONS[0], 2).first_token_s
        figures.next_kv_s = ask(seed, QUESTIONS[1], 2).first_token_s
    figures.next_exact_s = figures.next_kv_s  # it knows one way: everything again
    figures.decode = ask(1, QUESTIONS[0], options.tokens).tokens_per_s
    if options.batch:
        started = perf_counter()
        for question in QUESTIONS:
            ask(1, question, options.tokens)
        figures.one_by_one = options.tokens * len(QUESTIONS) / (perf_counter() - started)
    return figures


ENGINES = {"vlmchat": measure_vlmchat, "transformers": measure_transformers}


def peak_bytes(device: str) -> int:
    """The most memory this process has held: on the device, or resident on the host."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # unlike getrusage, it forgets what the parent held
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        if found:
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--quantize", default="none")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--batch", action="store_true")
    options = parser.parse_args()
    figures = ENGINES[options.engine](options.folder, options)
    figures.peak_bytes = peak_bytes(options.device)
    print(json.dumps(asdict(figures)))


if __name__ == "__main__":
    main()

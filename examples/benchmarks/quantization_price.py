"""What int8 and int4 cost: how far a model's answers move from those of its own dtype.

    python -m examples.benchmarks.quantization_price FOLDER
    python -m examples.benchmarks.quantization_price FOLDER --images samples --ask "caption en"

First on random inputs (a random picture, random tokens): the KL divergence of the next token's
distribution, how often the likeliest token is the same, and perplexity on tokens drawn from the
unquantised model itself. Then, with --images, how many greedy answers stay the same to the letter.
Only one model is in memory at a time. Prints Markdown.
"""

import argparse
import gc
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

import vlmchat
from vlmchat.model.masks import block_mask
from vlmchat.session import Session

KINDS = ("none", "int8", "int4")
TOKENS = 24  # of each random prompt


@torch.inference_mode()
def random_scores(session: Session, rounds: int) -> Iterator[Tensor]:
    """Log-probabilities (TOKENS, V) for a random picture and causal random tokens behind it."""
    model = session.engine.model
    generator = torch.Generator().manual_seed(0)
    size, images = model.config.vision.image_size, model.config.image_tokens
    for _ in range(rounds):
        pixels = torch.rand(1, 3, size, size, generator=generator) * 2 - 1
        words = session.engine.processor.tokenizer.size
        words = min(words, model.config.image_token_id)
        ids = torch.randint(5, words, (1, TOKENS), generator=generator)
        row = torch.cat((torch.full((1, images), model.config.image_token_id), ids), dim=1)
        x = model.embed(row.to(model.device), model.encode_image(pixels))
        mask = block_mask([images], TOKENS, device=model.device)
        hidden = model.text(x, torch.arange(row.shape[1], device=model.device), mask)
        yield model.text.logits(hidden[0, images:]).float().log_softmax(-1).cpu()


def compare(reference: list[Tensor], other: list[Tensor]) -> dict[str, float]:
    """Mean and worst KL divergence, agreement of the likeliest token, and both perplexities."""
    generator = torch.Generator().manual_seed(1)
    p, q = torch.cat(reference), torch.cat(other)
    kl = (p.exp() * (p - q)).sum(-1)
    drawn = torch.multinomial(p.exp(), 16, replacement=True, generator=generator)
    return {
        "kl": float(kl.mean()),
        "worst": float(kl.max()),
        "same": float((p.argmax(-1) == q.argmax(-1)).float().mean()),
        "own": float((-p.gather(1, drawn).mean()).exp()),
        "perplexity": float((-q.gather(1, drawn).mean()).exp()),
    }


def answers(session: Session, images: list[Path], questions: list[str]) -> list[str]:
    """The greedy answer to every question about every image."""
    found = []
    for image in images:
        session.add_image(image)
        found += [session.answer(question).text for question in questions]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", help="a checkpoint folder; the demo model without")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--compile", action="store_true", help="with our own kernels too")
    parser.add_argument("--rounds", type=int, default=4, help="random prompts")
    parser.add_argument("--images", type=Path, help="folder of pictures to ask about")
    parser.add_argument("--ask", action="append", default=[], help="question; repeatable")
    given = parser.parse_args()
    images = (
        sorted(p for p in given.images.iterdir() if p.suffix in (".png", ".jpg"))
        if given.images
        else []
    )
    questions = given.ask or ["caption en", "what is this?"]
    scores: dict[str, list[Tensor]] = {}
    said: dict[str, list[str]] = {}
    print("| weights | KL, mean | KL, worst | same likeliest token | perplexity | same answers |")
    print("|---|---|---|---|---|---|")
    for name in (*KINDS, *(f"{kind} --compile" for kind in KINDS if given.compile)):
        kind, _, flag = name.partition(" ")
        session = vlmchat.load(given.folder, dtype=given.dtype, quantize=kind, compile=bool(flag))
        scores[name] = list(random_scores(session, given.rounds))
        said[name] = answers(session, images, questions)
        del session
        gc.collect()
        it = compare(scores["none"], scores[name])
        pairs = list(zip(said["none"], said[name], strict=True))
        same = f"{sum(a == b for a, b in pairs)} of {len(pairs)}" if pairs else "-"
        print(
            f"| {name} | {it['kl']:.2e} | {it['worst']:.2e} | {it['same']:.1%} "
            f"| {it['perplexity']:.4g} ({it['perplexity'] / it['own'] - 1:+.2%}) | {same} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

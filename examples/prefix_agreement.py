"""How close `kv` is to `exact` on your own checkpoint, images and questions.

    python -m examples.prefix_agreement --model-path google/paligemma-3b-mix-224 \
        --image cat.jpg --image dog.jpg --ask "what is this?" --ask "caption en"

For every image and question it prints whether both modes give the same greedy answer, how many
tokens they share before they part, and KL(exact || kv) of the first token in nats: 0 where the
modes are equal, and about the chance of another first word where it is small.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

import vlmchat
from vlmchat.engine import Engine, PrefixMode, Reply
from vlmchat.images import Picture, load_picture
from vlmchat.sampling import Sampling


@dataclass(frozen=True)
class Row:
    """One image and prompt under both modes."""

    image: str
    prompt: str
    exact: str
    kv: str
    shared_tokens: int
    first_token_kl: float


def answer(engine: Engine, picture: Picture, prompt: str, mode: PrefixMode, tokens: int) -> Reply:
    """The greedy answer in one mode."""
    *_, reply = engine.stream(prompt, picture, Sampling(max_tokens=tokens), mode)
    assert isinstance(reply, Reply)
    return reply


def first_token_kl(engine: Engine, picture: Picture, prompt: str) -> float:
    """KL(exact || kv) of the first token's distribution, in nats."""
    exact = F.log_softmax(engine.first_logits(prompt, picture, "exact").double(), dim=-1)
    kv = F.log_softmax(engine.first_logits(prompt, picture, "kv").double(), dim=-1)
    possible = exact > -torch.inf
    return float((exact.exp() * (exact - kv))[possible].sum())


def compare(engine: Engine, picture: Picture, prompt: str, tokens: int) -> Row:
    """Ask the same in both modes."""
    exact = answer(engine, picture, prompt, "exact", tokens)
    kv = answer(engine, picture, prompt, "kv", tokens)
    same = [a == b for a, b in zip(exact.token_ids, kv.token_ids, strict=False)]
    shared = same.index(False) if False in same else len(same)
    kl = first_token_kl(engine, picture, prompt)
    return Row(picture.name, prompt, exact.text, kv.text, shared, kl)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model-path", help="checkpoint folder or hub id (default: the demo)")
    parser.add_argument("--image", action="append", required=True, type=Path)
    parser.add_argument("--ask", action="append", required=True, help="a question or task prompt")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--dtype", default="auto")
    arguments = parser.parse_args()

    session = vlmchat.load(arguments.model_path, dtype=arguments.dtype)
    prompts = [session.prompt_for(question) for question in arguments.ask]
    rows = [
        compare(session.engine, picture, prompt, arguments.max_tokens)
        for picture in map(load_picture, arguments.image)
        for prompt in prompts
    ]
    for row in rows:
        verdict = "same" if row.exact == row.kv else f"differ after {row.shared_tokens} tokens"
        print(f"{row.image} | {row.prompt} | {verdict} | KL {row.first_token_kl:.2e}")
        if row.exact != row.kv:
            print(f"    exact: {row.exact!r}\n    kv:    {row.kv!r}")
    same = sum(row.exact == row.kv for row in rows)
    mean = sum(row.first_token_kl for row in rows) / len(rows)
    print(
        f"{same} of {len(rows)} greedy answers are the same; mean KL of the first token {mean:.2e}"
    )


if __name__ == "__main__":
    main()

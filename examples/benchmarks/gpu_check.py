"""One quick run on a machine with a GPU: are the graphs right, and where does the time go?

    python -m examples.benchmarks.gpu_check [--device cuda] [--size 3b-224] [--seconds 85]

Needs no files and no network: the weights are drawn on the device. Every section prints its
result at once, and one that fails or runs out of time leaves the others alone. `--device cpu
--size small` tries the program itself, with steps of fixed shapes in place of graphs.
"""

import argparse
import platform
import shutil
import signal
import statistics
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from examples.benchmarks.random_checkpoint import (
    SIZES,
    gemma_like_tokenizer,
    published_config,
    random_tensors,
)
from vlmchat.config import ModelConfig
from vlmchat.decode import FixedDecoder, FixedStep, capture, capture_compiled, compile_step
from vlmchat.engine import Engine, Reply
from vlmchat.images import Picture
from vlmchat.model.cache import KVCache
from vlmchat.model.gemma import RMSNorm, attend, rope_table, rotate
from vlmchat.model.paligemma import PaliGemma
from vlmchat.packing import settle
from vlmchat.processor import Processor
from vlmchat.sampling import Sampling, likeliest
from vlmchat.tokenizer import Tokenizer

STEPS = 64
QUESTION, NEXT_QUESTION = "answer en what is this", "answer en which colour has it"
STARTED = perf_counter()


class OutOfTimeError(Exception):
    """A section took more than was left."""


def say(text: str) -> None:
    print(f"[{perf_counter() - STARTED:5.1f} s] {text}", flush=True)


def verdict(right: bool, what: str) -> None:
    say(f"{'OK    ' if right else 'FAILED'} {what}")


def attempt(name: str, work: Callable[[], None], until: float) -> None:
    """Do `work`, at the latest until so many seconds after the start; report what goes wrong."""
    left = until - (perf_counter() - STARTED)
    if left < 2:
        return say(f"SKIPPED {name}: no time left")
    say(f"== {name}")
    signal.setitimer(signal.ITIMER_REAL, left)
    try:
        work()
    except Exception as error:
        say(f"FAILED {name}: {type(error).__name__}: {str(error)[:300]}")
        traceback.print_exc(limit=-5, file=sys.stdout)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return None


def stop(*_: object) -> None:
    raise OutOfTimeError("the time is up")


def random_model(size: str, dtype: torch.dtype, device: str) -> PaliGemma:
    """A model drawn on the device, which takes a second or two for 3B."""
    config = ModelConfig.from_dict(published_config(size, "bfloat16"))
    with torch.device("meta"):
        model = PaliGemma(config)
    state = dict(random_tensors(config, dtype, device))
    model.load_state_dict(state, strict=True, assign=True)
    model.eval().requires_grad_(False)
    settle(model)
    return model


def weights(module: nn.Module) -> list[Tensor]:
    """Those of all linear layers in it."""
    return [each.weight for each in module.modules() if isinstance(each, nn.Linear)]


def plain(step: FixedStep) -> Callable[[], None]:
    """A step of fixed shapes, not recorded."""
    return step.run


class Check:
    """The sections, and what they share."""

    def __init__(self, device: str, size: str) -> None:
        self.device, self.size = device, size
        self.on_cuda = device.startswith("cuda")
        self.record = capture if self.on_cuda else plain
        self.bandwidth = float("nan")  # bytes a second
        self.picture = Picture("noise", Image.effect_noise((300, 200), 80).convert("RGB"), "noise")
        self.tokenizer = gemma_like_tokenizer()

    def engine(self, model: PaliGemma, record: Callable | None = None, **options: bool) -> Engine:
        """An engine that decodes as it is written, or with steps recorded by `record`."""
        tokenizer = Tokenizer(self.tokenizer, replace(model.config, eos_id=1))
        engine = Engine(model, Processor(tokenizer, model.config))
        model.config = replace(model.config, eos_id=-1)  # every answer has its full length
        if record is not None:
            engine.decoder = FixedDecoder(model, engine.scores, record, **options)
        return engine

    def answer(
        self, engine: Engine, prompt: str = QUESTION, tokens: int = STEPS, **how: float
    ) -> Reply:
        """One answer of exactly `tokens`."""
        *_, reply = engine.stream(prompt, self.picture, Sampling(max_tokens=tokens, **how))
        assert isinstance(reply, Reply)
        return reply

    def answers(self, engine: Engine, count: int) -> list[Reply]:
        """Answers behind the kept image; a first one is not counted, as its bits may differ."""
        return [self.answer(engine) for _ in range(count + 1)][1:]

    def wait(self) -> None:
        if self.on_cuda:
            torch.cuda.synchronize()

    def timed(self, work: Callable[[], object], rounds: int = 5) -> float:
        """Median seconds of `work`, waited for."""
        seconds = []
        for _ in range(rounds + 1):
            self.wait()
            started = perf_counter()
            work()
            self.wait()
            seconds.append(perf_counter() - started)
        return statistics.median(seconds[1:])

    def replayed(self, work: Callable[[], object]) -> float:
        """Seconds of `work` inside a graph, where launches cost nothing (CPU: as it is)."""
        with torch.inference_mode():
            if not self.on_cuda:
                return self.timed(work, 1)
            work()
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                work()
            return self.timed(lambda: [graph.replay() for _ in range(10)]) / 10

    def machine(self) -> None:
        say(f"python {platform.python_version()}, torch {torch.__version__}")
        say(f"C compiler: {shutil.which('gcc') or shutil.which('cc')}, C++: {shutil.which('g++')}")
        if self.on_cuda:
            properties = torch.cuda.get_device_properties(self.device)
            say(
                f"{properties.name}, {properties.total_memory >> 30} GiB, CUDA {torch.version.cuda}"
            )
        size = 2**31 if self.on_cuda else 2**28
        source = torch.zeros(size, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        self.bandwidth = 2 * size / self.timed(lambda: target.copy_(source))
        words = source.view(torch.float32)
        read = size / self.timed(lambda: words.amax())
        say(f"bandwidth: copy {self.bandwidth / 1e9:.0f} GB/s, read alone {read / 1e9:.0f} GB/s")

    def small(self) -> None:
        """The small model in float32 and bfloat16, greedy and sampled."""
        for dtype in (torch.float32, torch.bfloat16):
            self.equal(random_model("small", dtype, self.device), f"small {dtype}")

    def equal(self, model: PaliGemma, name: str) -> None:
        """Recorded steps against the same unrecorded, and against the model as it is written."""
        eager, *_ = self.answers(self.engine(model), 1)
        fixed, *_ = self.answers(self.engine(model, plain), 1)
        for run_ahead in (False, True):
            graphed = self.answers(self.engine(model, self.record, run_ahead=run_ahead), 2)
            same = [
                fixed.token_ids == g.token_ids and fixed.logprobs == g.logprobs for g in graphed
            ]
            verdict(all(same), f"{name}: graph = unrecorded step, bit for bit, ahead={run_ahead}")
        distinct = len(set(eager.token_ids))
        same = [a == b for a, b in zip(eager.token_ids, fixed.token_ids, strict=True)]
        agreed = same.index(False) if False in same else STEPS
        say(f"       {name}: {agreed} of {STEPS} tokens as eager, {distinct} distinct ones")
        if model.dtype == torch.float32:
            verdict(agreed == STEPS, f"{name}: graph = eager, token ids")
        self.forced(model, name, eager)
        draw = {"temperature": 1.0, "top_p": 0.9, "seed": 7, "tokens": 16}
        drawn = [self.answer(self.engine(model, r), **draw).token_ids for r in (plain, self.record)]
        verdict(drawn[0] == drawn[1], f"{name}: sampled with a seed, graph = unrecorded step")

    def room(self, model: PaliGemma) -> KVCache:
        return KVCache(model.config.text, 512, 1, model.dtype, self.device)

    @torch.inference_mode()
    def forced(self, model: PaliGemma, name: str, reply: Reply) -> None:
        """The scores of both ways along one and the same answer."""
        engine = self.engine(model, self.record)
        decoder = engine.decoder
        assert isinstance(decoder, FixedDecoder)
        rooms = [self.room(model), self.room(model)]
        features = engine.prefill.features(self.picture)
        row = torch.tensor([reply.input_ids], device=self.device)
        for room in rooms:
            model.extend(model.embed(row, features), room)
        step = decoder.step(rooms[1], 512)
        worst, spread = 0.0, 1.0
        for token in reply.token_ids[:32]:
            decoder.feed.write(token, rooms[0].length)
            step()
            row = torch.tensor([[token]], device=self.device)
            wanted = engine.scores(model.extend(model.embed(row), rooms[0])[0]).float()
            real = wanted > -torch.inf
            worst = max(worst, float((decoder.feed.logits.float() - wanted)[real].abs().max()))
            spread = float(wanted[real].std())
        limit = 1e-3 if model.dtype == torch.float32 else 0.25
        share = worst / spread
        verdict(share < limit, f"{name}: scores as eager, within {share:.2g} of their spread")

    def build(self) -> None:
        self.model = random_model(self.size, torch.bfloat16, self.device)
        text = self.model.text
        self.read = sum(p.nbytes for p in text.parameters())
        self.wait()
        say(f"{self.size}: {self.read / 1e9:.2f} GB are read for each token")

    def large(self) -> None:
        self.equal(self.model, f"{self.size} bfloat16")

    def share(self, seconds: float) -> str:
        return f"{self.read / seconds / self.bandwidth:.0%} of bandwidth"

    def speed(self) -> None:
        """Eager, graphs, graphs that run ahead; the first token and the next question's."""
        ways: dict[str, Engine] = {
            "eager": self.engine(self.model),
            "graph": self.engine(self.model, self.record),
            "graph, run ahead": self.engine(self.model, self.record, run_ahead=True),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(4):
            for name, engine in ways.items():
                rate = self.answer(engine, tokens=128).timing.tokens_per_s
                rates[name] += [rate] if number else []
        for name, seen in rates.items():
            rate = statistics.median(seen)
            span = f"{min(seen):.1f} to {max(seen):.1f}"
            say(f"decode, {name}: {rate:.1f} tok/s ({span}), {self.share(1 / rate)}")
        self.first_tokens(ways["graph, run ahead"])

    def first_tokens(self, engine: Engine) -> None:
        fresh, following = [], []
        for number in range(4):
            self.picture = replace(self.picture, key=f"noise {number}")
            fresh.append(self.answer(engine, tokens=2).timing.first_token_s)
            following.append(self.answer(engine, NEXT_QUESTION, 2).timing.first_token_s)
        say(f"first token, new image: {statistics.median(fresh[1:]) * 1e3:.1f} ms")
        say(f"first token, next question: {statistics.median(following[1:]) * 1e3:.1f} ms")

    def peer(self) -> None:
        """The reference implementation with the very same weights."""
        from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

        from examples.benchmarks import peer
        from vlmchat.weights import HEAD, model_name

        config = PaliGemmaConfig(**published_config(self.size, "bfloat16"))
        torch.set_default_dtype(torch.bfloat16)
        with torch.device(self.device):
            theirs = PaliGemmaForConditionalGeneration(config).eval()
        torch.set_default_dtype(torch.float32)
        ours = self.model.state_dict()
        for name, parameter in theirs.named_parameters():
            known = model_name(name)
            if known is not None and known != HEAD:
                parameter.data = ours[known]
        theirs.tie_weights()
        engine = self.engine(self.model)
        ids = peer.input_ids(self.model.config, engine.processor.prompt_ids(QUESTION))
        pixels = engine.processor.pixels(self.picture.image)
        paces = [peer.answer(theirs, pixels, ids, 48) for _ in range(4)]
        rate = statistics.median(pace.tokens_per_s for pace, _ in paces[1:])
        first = statistics.median(pace.first_token_s for pace, _ in paces[1:])
        say(f"transformers: {rate:.1f} tok/s, {self.share(1 / rate)}; first {first * 1e3:.1f} ms")
        exact = self.engine(self.model)
        *_, reply = exact.stream(QUESTION, self.picture, Sampling(max_tokens=48), "exact")
        same = [a == b for a, b in zip(paces[0][1], reply.token_ids, strict=True)]
        agreed = same.index(False) if False in same else len(same)
        say(f"       the first {agreed} of 48 tokens are the same (bfloat16, random weights)")

    @torch.inference_mode()
    def parts(self) -> None:
        """Where a step's time goes: each kind of work alone, as often as a step does it."""
        text, device = self.model.text, self.device
        layers = list(text.layers)
        within = [weights(each.self_attn) for each in layers], [weights(a.mlp) for a in layers]
        linear = [*weights(text), text.embed_tokens.weight]
        rows = {w.shape[1]: torch.randn(1, 1, w.shape[1]).to(w) for w in linear}
        x = rows[self.model.config.text.hidden_size]
        layer = layers[0].config
        q = torch.randn(1, layer.num_heads, 1, layer.head_dim).to(x)
        k = torch.randn(1, layer.num_kv_heads, 512, layer.head_dim).to(x)
        mask = torch.zeros(1, 512).to(x)
        rotation = rope_table(torch.zeros(1, device=device), layer.head_dim, 1e4, x.dtype)
        norms = [m for m in text.modules() if isinstance(m, RMSNorm)]
        gate = torch.randn(1, 1, layer.intermediate_size).to(x)
        logits = torch.randn(self.model.config.text.vocab_size).to(x)

        def products(all_weights: list[list[Tensor]]) -> list[Tensor]:
            return [F.linear(rows[w.shape[1]], w) for some in all_weights for w in some]

        work: dict[str, Callable[[], object]] = {
            "all linear layers and the head": lambda: products([linear]),
            "  the head alone": lambda: F.linear(x, text.embed_tokens.weight),
            "  q, k, v, o": lambda: products(within[0]),
            "  gate, up, down": lambda: products(within[1]),
            "attention, 512 positions, masked": lambda: [
                attend(q, k, k, 0.1, mask) for _ in layers
            ],
            "attention, 512 positions, no mask": lambda: [
                attend(q, k, k, 0.1, None) for _ in layers
            ],
            "linear layers by torch.mv": lambda: [
                torch.mv(w, rows[w.shape[1]][0, 0]) for w in linear
            ],
            "attention by hand": lambda: [
                torch.softmax(q.transpose(1, 2) @ k.mT * 0.1 + mask, -1) @ k for _ in layers
            ],
            "norms": lambda: [n(x) for n in norms],
            "rotations of q and k": lambda: [
                (rotate(q, rotation), rotate(k[:, :, :1], rotation)) for _ in layers
            ],
            "gelu and product": lambda: [F.gelu(gate, approximate="tanh") * gate for _ in layers],
            "choosing the token": lambda: likeliest(logits),
        }
        for name, each in work.items():
            try:
                say(f"{name}: {self.replayed(each) * 1e6:.0f} us")
            except RuntimeError as error:
                say(f"FAILED {name}: {error}")

    def kernels(self) -> None:
        """The kernels of one step, by the time they take."""
        decoder = self.engine(self.model, self.record).decoder
        assert isinstance(decoder, FixedDecoder)
        step = decoder.step(self.room(self.model), 512)
        decoder.feed.write(5, 300)
        kinds = [torch.profiler.ProfilerActivity.CPU]
        kinds += [torch.profiler.ProfilerActivity.CUDA] if self.on_cuda else []
        with torch.profiler.profile(activities=kinds) as profile:
            step()
            self.wait()
        key = "device_time_total" if self.on_cuda else "cpu_time_total"
        found = sorted(profile.key_averages(), key=lambda e: -getattr(e, key))
        for event in found[:18]:
            say(f"{event.count:5} x {getattr(event, key) / 1e3:7.3f} ms  {event.key[:90]}")

    def wide(self) -> None:
        """The large model in float32, where graph and eager must agree token for token."""
        self.equal(self.model.float(), f"{self.size} float32")
        self.model = self.model.bfloat16()

    def compiled(self) -> None:
        """What torch.compile adds: how long it takes, and what it gives."""
        record = capture_compiled if self.on_cuda else compile_step
        engine = self.engine(self.model, record, run_ahead=True)
        started = perf_counter()
        reply = self.answer(engine)
        say(f"compiled in {perf_counter() - started:.1f} s")
        rates = [self.answer(engine, tokens=128).timing.tokens_per_s for _ in range(3)]
        rate = statistics.median(rates)
        say(f"decode, compiled: {rate:.1f} tok/s, {self.share(1 / rate)}")
        self.forced(self.model, "bfloat16 graph again", reply)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", default=SIZES[0], choices=SIZES)
    parser.add_argument("--seconds", type=float, default=85)
    parser.add_argument("--only", action="append", metavar="SECTION", help="repeatable; all")
    arguments = parser.parse_args()
    signal.signal(signal.SIGALRM, stop)
    check = Check(arguments.device, arguments.size)
    sections = (
        check.machine,
        check.small,
        check.build,
        check.large,
        check.speed,
        check.parts,
        check.kernels,
        check.peer,
        check.wide,
        check.compiled,
    )
    wanted = [w for w in sections if not arguments.only or w.__name__ in arguments.only]
    for work in wanted:
        attempt(work.__name__, work, arguments.seconds)
    say("done")


if __name__ == "__main__":
    main()

"""One step of decoding, run in ways that choose the same tokens.

`EagerDecoder` runs the model as it is written, over what the cache holds. `FixedDecoder` runs a
step in which no shape and no address ever changes: token and position live on the device, keys and
values are written where the position says, and attention reads a whole bucket of the cache under a
mask. Such a step can be recorded once as a CUDA graph, and replayed without Python and without a
launch for each of its hundreds of kernels; it can also be compiled once.

Axes: S positions of a bucket, D decoder width, V vocabulary rows.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from vlmchat.model.cache import CacheSlot, KVCache
from vlmchat.model.linear import FastLinear
from vlmchat.model.paligemma import PaliGemma
from vlmchat.sampling import Sampler, likeliest, refuse_useless

BUCKET = 256  # positions; attention reads the cache up to a multiple of it

Scores = Callable[[Tensor], Tensor]  # hidden state (D,) -> scores (V,)
Choice = tuple[int, float]  # a token and its log-probability


class Decoder(Protocol):
    """Whatever can put one token behind a cache and choose the one after it."""

    def next(self, room: KVCache, token_id: int, sampler: Sampler) -> Choice:
        """Put `token_id` behind what `room` holds; the token that `sampler` takes after it."""


class EagerDecoder:
    """The model as it is written, one launch after another."""

    def __init__(self, model: PaliGemma, scores: Scores) -> None:
        self.model = model
        self.scores = scores

    @torch.inference_mode()
    def next(self, room: KVCache, token_id: int, sampler: Sampler) -> Choice:
        """See `Decoder.next`."""
        row = torch.tensor([[token_id]], device=self.model.device)
        return sampler.pick(self.scores(self.model.extend(self.model.embed(row), room)[0]))


class Feed:
    """What goes into a step and comes out of it, at addresses that stay.

    A step puts its likeliest token where the next one reads its input, so that greedy decoding
    need not wait for the host. `choice` is that token and its log-probability, as two float64.
    """

    def __init__(self, rows: int, dtype: torch.dtype, device: torch.device) -> None:
        self.token = torch.zeros(1, 1, dtype=torch.long, device=device)
        self.position = torch.zeros(1, dtype=torch.long, device=device)
        self.logits = torch.zeros(rows, dtype=dtype, device=device)
        self.choice = torch.zeros(2, dtype=torch.float64, device=device)
        self._host = torch.zeros(2, dtype=torch.float64, pin_memory=device.type == "cuda")
        self._arrived = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def write(self, token_id: int, position: int) -> None:
        """Set the next step's input."""
        self.token.fill_(token_id)
        self.position.fill_(position)

    def send(self) -> None:
        """Start to copy `choice` to the host, behind the steps that were started before."""
        self._host.copy_(self.choice, non_blocking=True)
        if self._arrived is not None:
            self._arrived.record(torch.cuda.current_stream(self.choice.device))

    def receive(self) -> Choice:
        """Wait for what was sent last, and for nothing that was started after it."""
        if self._arrived is not None:
            self._arrived.synchronize()
        token_id, logprob = self._host.tolist()
        refuse_useless(logprob)
        return int(token_id), logprob


class FixedStep:
    """Reads `feed`, decodes one token over the first `span` positions of `room`, fills `feed`."""

    def __init__(
        self, model: PaliGemma, scores: Scores, room: KVCache, span: int, feed: Feed
    ) -> None:
        self.model = model
        self.scores = scores
        self.feed = feed
        self.slot = CacheSlot(room, feed.position, span)
        self.places = torch.arange(span, device=model.device)
        self.compute = self.logits

    def logits(self, token: Tensor, position: Tensor) -> Tensor:
        """Token (1, 1) at position (1,) -> scores (V,): the part that is worth compiling."""
        ahead = self.places.unsqueeze(0) > position  # (1, S)
        mask = torch.zeros(ahead.shape, dtype=self.model.dtype, device=ahead.device)
        mask = mask.masked_fill(ahead, -torch.inf)
        hidden = self.model.text(self.model.embed(token), position, mask, self.slot)
        return self.scores(hidden[0, -1])

    def rehearse(self) -> None:
        """Run once, so that whatever is set up at the first run is; the input is lost.

        It writes the last position of the bucket, which no answer has filled when its step is
        recorded, or fills with this very step.
        """
        self.feed.write(0, self.slot.span - 1)
        self.run()

    @torch.inference_mode()
    def run(self) -> None:
        """The whole step; nothing in it waits for the device."""
        feed = self.feed
        feed.logits.copy_(self.compute(feed.token, feed.position))
        token, logprob = likeliest(feed.logits)
        feed.choice.copy_(torch.cat((token.double(), logprob.double())))
        feed.token.copy_(token)
        feed.position.add_(1)


Recorder = Callable[[FixedStep], Callable[[], None]]  # a step -> what runs it again


class FixedDecoder:
    """Decodes with recorded steps, one for each bucket of the cache that answers reach.

    With `run_ahead` a greedy answer's next step is started before this one's token is read, so
    that the device never waits for the host; the one step too many at an answer's end writes
    behind the filled part of the cache, where it harms nothing.
    """

    def __init__(
        self,
        model: PaliGemma,
        scores: Scores,
        record: Recorder,
        *,
        run_ahead: bool = False,
        bucket: int = BUCKET,
    ) -> None:
        self.model = model
        self.scores = scores
        self.record = record
        self.run_ahead = run_ahead
        self.bucket = bucket
        self.feed = Feed(model.config.text.vocab_size, model.dtype, model.device)
        self._room: KVCache | None = None
        self._steps: dict[int, Callable[[], None]] = {}
        self._started: tuple[Sampler, int, int] | None = None  # of whom, where, with which token

    def next(self, room: KVCache, token_id: int, sampler: Sampler) -> Choice:
        """See `Decoder.next`."""
        span = min(-(-(room.length + 1) // self.bucket) * self.bucket, room.capacity)
        step = self.step(room, span)
        if self._started != (sampler, room.length, token_id):
            self.feed.write(token_id, room.length)
            step()
        self._started = None
        room.advance(1)
        if sampler.sampling.temperature > 0:
            return sampler.pick(self.feed.logits)
        self.feed.send()
        if self.run_ahead and room.length < span:
            step()
        choice = self.feed.receive()
        if self.run_ahead and room.length < span:
            self._started = (sampler, room.length, choice[0])
        return choice

    def step(self, room: KVCache, span: int) -> Callable[[], None]:
        """The recorded step over the first `span` positions of `room`.

        Recording may run the step: write the input anew afterwards.
        """
        if room is not self._room:
            self._room, self._started = room, None
            self._steps.clear()
        if span not in self._steps:
            step = FixedStep(self.model, self.scores, room, span, self.feed)
            self._steps[span] = self.record(step)
        return self._steps[span]


def fastest(
    model: PaliGemma, scores: Scores, room: KVCache, compiled: bool = False
) -> tuple[Decoder, tuple[str, ...]]:
    """The best decoder that works here, tried out on `room`, and what had to be left out.

    On CUDA steps are recorded as graphs; `compiled` has them compiled on any device. Nobody needs
    either, so whatever goes wrong there becomes a line to show, and decoding goes on without it.
    """
    on_cuda = model.device.type == "cuda"
    span = min(BUCKET * (1 + model.config.image_tokens // BUCKET), room.capacity)
    notices = []
    if compiled:
        record = capture_compiled if on_cuda else compile_step
        decoder = FixedDecoder(model, scores, record, run_ahead=on_cuda, bucket=room.capacity)
        try:
            _leave_alone(model.modules())
            decoder.step(room, room.capacity)
            return decoder, ()
        except Exception as error:
            notices.append(f"--compile: {_reason(error)}: decoding goes on without it")
    if on_cuda:
        decoder = FixedDecoder(model, scores, capture, run_ahead=True)
        try:
            decoder.step(room, span)
            return decoder, tuple(notices)
        except RuntimeError as error:
            notices.append(f"no CUDA graphs: {_reason(error)}: decoding goes on without them")
    return EagerDecoder(model, scores), tuple(notices)


def _leave_alone(layers: Iterable[nn.Module]) -> None:
    """Keep the compiler out of layers whose weights have a layout of their own."""
    for layer in layers:
        if isinstance(layer, FastLinear):
            disabled = torch.compiler.disable(layer.forward)  # type: ignore[no-untyped-call]
            layer.forward = disabled


def _reason(error: BaseException) -> str:
    """The innermost cause in one line."""
    while inner := getattr(error, "inner_exception", None) or error.__cause__:
        error = inner
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].partition(" in torch._")[0].rstrip(".:")  # no inner names of PyTorch's


def compile_step(step: FixedStep) -> Callable[[], None]:
    """Compile a step's arithmetic, which needs a C++ compiler; it is run once to see that it can.

    Raises whatever `torch.compile` does.
    """
    step.compute = torch.compile(step.logits)
    step.rehearse()
    return step.run


def capture_compiled(step: FixedStep) -> Callable[[], None]:
    """Compile a step for a CUDA device, and record what that gives as a graph."""
    compile_step(step)
    return capture(step)


def capture(step: FixedStep) -> Callable[[], None]:
    """Record a step on a CUDA device as a graph; the result replays it.

    It is rehearsed on another stream, as CUDA asks for, so that nothing is set up in the graph.
    """
    device = step.model.device
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device):
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step.rehearse()
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            step.run()
    return graph.replay

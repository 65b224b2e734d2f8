"""The machine's own limits: how fast it reads memory and multiplies matrices."""

import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

ROWS, OUTPUTS, INPUTS = 266, 16384, 2048  # a first question against one matrix of the 3B decoder


@dataclass(frozen=True)
class Machine:
    """What it is called, bytes read a second, operations a second in products of many rows."""

    name: str
    bytes_per_s: float
    flops: float


def measure_machine(device: str, dtype: str) -> Machine:
    """Measure for a few seconds; on the CPU with as many threads as PyTorch uses."""
    return Machine(_name(device), _bandwidth(device), _flops(device, getattr(torch, dtype)))


def _name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.processor() or platform.machine()
    return f"{model}, {torch.get_num_threads()} threads"


def _bandwidth(device: str) -> float:
    """A copy on the device, counting what is read and written; on the CPU a loop that only reads.

    The best of several passes over whole numbers, whose largest is found as fast as they arrive:
    this is the limit that others are held against.
    """
    source = torch.ones(2**28, dtype=torch.int32, device=device)
    if device.startswith("cuda"):
        target = torch.empty_like(source)
        return 2 * source.nbytes / min(_seconds(lambda: target.copy_(source), device))
    return source.nbytes / min(_seconds(lambda: source.amax(), device))


def _flops(device: str, dtype: torch.dtype) -> float:
    x = torch.randn(ROWS, INPUTS, device=device).to(dtype)
    weights = [torch.randn(OUTPUTS, INPUTS, device=device).to(dtype) for _ in range(4)]

    def multiply() -> None:
        for weight in weights:
            torch.nn.functional.linear(x, weight)

    work = 2 * ROWS * OUTPUTS * INPUTS * len(weights)
    return work / statistics.median(_seconds(multiply, device))


def _seconds(work: Callable[[], object], device: str, rounds: int = 7) -> list[float]:
    taken = []
    for _ in range(rounds + 1):
        started = perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        taken.append(perf_counter() - started)
    return taken[1:]

"""Figures of several engines and rounds as one Markdown table."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from examples.benchmarks.limits import Limits
from examples.benchmarks.machine import Machine
from examples.benchmarks.measure import Figures


@dataclass(frozen=True)
class Column:
    """One engine: its name, its rounds (none where it failed), and what would be the best."""

    name: str
    rounds: Sequence[Figures]
    limits: Limits


@dataclass(frozen=True)
class Measure:
    """One row. `unit` is s, tok/s or GB; `limit` gives the best value that the machine allows."""

    title: str
    field: str
    unit: str
    limit: Callable[[Limits, Machine], float] | None = None


def _one_pass(limits: Limits, machine: Machine) -> float:
    return limits.token_bytes / machine.bytes_per_s


MEASURES = (
    Measure("load", "load_s", "s"),
    Measure(
        "image and question to first token",
        "first_s",
        "s",
        lambda limits, machine: limits.first_flops / machine.flops,
    ),
    Measure("next question, `kv`", "next_kv_s", "s", _one_pass),
    Measure(
        "next question, `exact`",
        "next_exact_s",
        "s",
        lambda limits, machine: limits.next_flops / machine.flops,
    ),
    Measure("decode", "decode", "tok/s", lambda *given: 1 / _one_pass(*given)),
    Measure("8 questions one by one", "one_by_one", "tok/s"),
    Measure("8 questions together", "together", "tok/s"),
    Measure("peak memory", "peak_bytes", "GB"),
)


def markdown(columns: Sequence[Column], machine: Machine) -> str:
    """The table; the first column is the one that the others are compared with."""
    lines = ["| | " + " | ".join(column.name for column in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for measure in MEASURES:
        cells = [_cell(measure, column, columns[0], machine) for column in columns]
        if any(cell != "-" for cell in cells):
            lines.append(f"| {measure.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(measure: Measure, column: Column, first: Column, machine: Machine) -> str:
    """Median, lowest to highest, ratio to the first column, share of the limit."""
    seen, theirs = _values(measure, column), _values(measure, first)
    if not seen:
        return "-"
    middle = statistics.median(seen)
    text = f"{_number(middle)} {measure.unit}"
    if len(seen) > 1:
        text += f" ({_number(min(seen))} to {_number(max(seen))})"
    if theirs and column is not first:
        ratio = statistics.median(theirs) / middle
        text += f", **{1 / ratio if measure.unit == 'tok/s' else ratio:.2f} x**"
    if measure.limit is not None:
        share = measure.limit(column.limits, machine) / middle
        text += f", {1 / share if measure.unit == 'tok/s' else share:.0%}"
    return text


def _values(measure: Measure, column: Column) -> list[float]:
    """The rounds in which it was measured, in the unit of the row."""
    scale = 1e-9 if measure.unit == "GB" else 1.0
    found = (getattr(figures, measure.field) for figures in column.rounds)
    return [value * scale for value in found if value is not None]


def _number(value: float) -> str:
    """Three digits, which is more than the spread allows."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"

"""The settings that `/set` shows and changes, in one table: name, help, reader, changer."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vlmchat.errors import UserError

if TYPE_CHECKING:
    from vlmchat.session import Settings


@dataclass(frozen=True)
class Setting:
    """One name of `/set`; `change` raises ValueError with what the value must be.

    `values` are those that have a name or a meaning of their own, for completion.
    """

    name: str
    help: str
    read: Callable[[Settings], str]
    change: Callable[[Settings, str], Settings]
    values: tuple[str, ...] = ()


def change(setting: Setting, settings: Settings, text: str) -> Settings:
    """The settings with one of them set from text; UserError says which values it takes."""
    text = _unquoted(text)
    try:
        return setting.change(settings, text)
    except ValueError as error:
        raise UserError(f"{setting.name} cannot be {text or 'empty'}: it must be {error}") from None


def _unquoted(text: str) -> str:
    """Text without the pair of quotes that a shell-trained hand puts around it."""
    quoted = re.fullmatch(r"""(['"])(.*)\1""", text, re.DOTALL)
    return quoted[2] if quoted else text


def _real(text: str, accepts: Callable[[float], bool], wanted: str) -> float:
    """A finite number that `accepts` allows; `wanted` describes those."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and accepts(value)):
        raise ValueError(wanted)
    return value


def _whole(text: str, least: int, wanted: str) -> int:
    """A whole number from `least` to the largest seed, 2**63 - 1."""
    if not re.fullmatch("[0-9]{1,19}", text) or not least <= int(text) < 2**63:
        raise ValueError(wanted)
    return int(text)


def _temperature(text: str) -> float:
    return _real(text, lambda value: value >= 0, "a number from 0 (greedy) up")


def _top_p(text: str) -> float:
    return _real(text, lambda value: 0 < value <= 1, "a number above 0, at most 1 (off)")


def _top_k(text: str) -> int:
    return _whole(text, 0, "a whole number from 0 (off) up")


def _max_tokens(text: str) -> int:
    return _whole(text, 1, "a whole number from 1 up")


def _seed(text: str) -> int | None:
    return None if text.lower() == "random" else _whole(text, 0, "a whole number or random")


def _prefix_cache(settings: Settings, text: str) -> Settings:
    if text.lower() == "kv":
        return replace(settings, prefix_cache="kv")
    if text.lower() == "exact":
        return replace(settings, prefix_cache="exact")
    raise ValueError("kv or exact")


def _template(settings: Settings, text: str) -> Settings:
    if "{question}" not in text:
        raise ValueError("a text that holds {question}, such as answer en {question}")
    return replace(settings, template=text)


def _track(settings: Settings, text: str) -> Settings:
    if text.lower() not in ("on", "off"):
        raise ValueError("on or off")
    return replace(settings, track=text.lower() == "on")


def _sampled(
    name: str, help: str, field: str, parse: Callable[[str], Any], *values: str
) -> Setting:
    """A setting that is a field of Sampling."""

    def read(settings: Settings) -> str:
        value = getattr(settings.sampling, field)
        return "random" if value is None else str(value)

    def set_field(settings: Settings, text: str) -> Settings:
        return replace(settings, sampling=replace(settings.sampling, **{field: parse(text)}))

    return Setting(name, help, read, set_field, values)


SETTINGS: tuple[Setting, ...] = (
    _sampled("temperature", "0 takes the likeliest token, more is freer", "temperature",
             _temperature, "0"),
    _sampled("top-p", "draw from the likeliest tokens of this share; 1 is off", "top_p", _top_p,
             "1"),
    _sampled("top-k", "draw from this many likeliest tokens; 0 is off", "top_k", _top_k, "0"),
    _sampled("max-tokens", "an answer ends after this many tokens", "max_tokens", _max_tokens),
    _sampled("seed", "the same number draws the same answer again", "seed", _seed, "random"),
    Setting("prefix-cache", "kv keeps the work on the image, exact redoes it",
            lambda settings: settings.prefix_cache, _prefix_cache, ("kv", "exact")),
    Setting("template", "what goes around a plain question",
            lambda settings: settings.template, _template, ("answer en {question}", "{question}")),
    Setting("track", "answers are recorded with Comet",
            lambda settings: "on" if settings.track else "off", _track, ("on", "off")),
)  # fmt: skip

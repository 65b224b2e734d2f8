"""What is recorded of a chat, as plain JSON objects: one of the run, one an image, one a turn.

They are the lines of the journal and all that an experiment is made of. Nothing else is looked up:
no source code, no environment, no host.
"""

from __future__ import annotations

import base64
import io
import json
import platform
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from vlmchat.transcript import record as answer_record

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlmchat.engine import Engine, Reply
    from vlmchat.images import Picture
    from vlmchat.session import Session, Settings, Turn

Record = dict[str, Any]
SCHEMA = 1
PACKAGES = ("vlmchat", "torch", "transformers", "tokenizers", "safetensors", "Pillow", "numpy",
            "comet_ml")  # fmt: skip
LONGEST_SIDE = 1024  # of a recorded image in pixels: larger than any of these models sees


def run_record(session: Session, quantize: str = "none") -> Record:
    """The model, the versions and the settings: what a run begins with."""
    engine = session.engine
    return {
        "kind": "run",
        "schema": SCHEMA,
        "started": _now(),
        "model": {
            "name": session.model_name,
            "parameters": engine.parameters,
            "weight_bytes": engine.weight_bytes,
            "dtype": str(engine.dtype).removeprefix("torch."),
            "device": str(engine.device),
            "quantize": quantize,
            "image_tokens": engine.config.image_tokens,
            "config": json.loads(json.dumps(engine.config, default=vars)),
        },
        "versions": {"python": platform.python_version(), **_versions()},
        "settings": _settings(session.settings),
    }


def image_record(picture: Picture) -> Record:
    """An image as a PNG in base 64; one with a side above LONGEST_SIDE is made smaller."""
    return {
        "kind": "image",
        "key": picture.key,
        "name": picture.name,
        "size": list(picture.size),
        "png": base64.b64encode(_png(picture.image)).decode("ascii"),
    }


def turn_record(session: Session, turn: Turn, step: int) -> Record:
    """One question and its answer: the object of `--json`, and what explains it."""
    reply = turn.reply
    return {
        **answer_record(turn),
        "kind": "turn",
        "step": step,
        "time": _now(),
        "line": turn.line,
        "image_key": turn.picture.key if turn.picture else None,
        "input_ids": list(reply.input_ids),
        "attention_mask_shape": mask_shape(reply),
        "settings": _settings(session.settings),
        "memory": peak_memory(session.engine),
        "boxes": [
            {"label": each.label, "box": each.box, "mask_codes": each.mask_codes}
            for each in turn.detections
        ],
    }


def end_record() -> Record:
    """That the chat has ended, and nothing follows."""
    return {"kind": "end", "time": _now()}


def mask_shape(reply: Reply) -> list[int]:
    """The prefix's attention mask: (batch, heads alike, computed positions, positions read)."""
    computed = reply.computed_tokens
    return [1, 1, computed, reply.reused_tokens + computed]


def peak_memory(engine: Engine) -> dict[str, int]:
    """The most memory that the process has held so far, in bytes; of the GPU too, if it is used."""
    peak = {}
    if sys.platform != "win32":
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak["process_bytes"] = most if sys.platform == "darwin" else most * 1024
    if str(engine.device).startswith("cuda"):
        import torch

        peak["gpu_bytes"] = torch.cuda.max_memory_allocated(engine.device)
    return peak


def _settings(settings: Settings) -> Record:
    """The settings of an answer; seed None is a random one."""
    return {
        **vars(settings.sampling),
        "prefix_cache": settings.prefix_cache,
        "template": settings.template,
    }


def _versions() -> dict[str, str]:
    """The installed versions of PACKAGES."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _png(image: Image) -> bytes:
    """The bytes of an RGB image as a PNG file, written fast rather than small."""
    if max(image.size) > LONGEST_SIDE:
        image = image.copy()
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    data = io.BytesIO()
    image.save(data, "PNG", compress_level=1)
    return data.getvalue()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")

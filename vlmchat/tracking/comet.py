"""Comet: an experiment made of the records of a run. Only here is comet_ml imported.

It is imported in the filer's process, never in the chat's: the import alone replaces
`sys.excepthook`, starts error reports and hooks the imports of other libraries.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmchat.errors import UserError
from vlmchat.tracking.destination import Destination, api_key
from vlmchat.tracking.records import Record

if TYPE_CHECKING:
    from vlmchat.tasks import Detection

COLUMNS = ("step", "image", "line", "prompt", "answer", "finish_reason", "tokens",
           "first_token_s", "total_s")  # fmt: skip

LONGEST_REASON = 200  # characters

# Everything that Comet would record by itself.
CAPTURES_OFF: dict[str, Any] = dict.fromkeys(
    (
        "log_code",
        "log_graph",
        "parse_args",
        "log_git_metadata",
        "log_git_patch",
        "log_env_details",
        "log_env_gpu",
        "log_env_host",
        "log_env_cpu",
        "log_env_network",
        "log_env_disk",
        "auto_output_logging",
        "auto_param_logging",
        "auto_metric_logging",
        "auto_log_co2",
        "auto_histogram_tensorboard_logging",
        "auto_histogram_weight_logging",
        "auto_histogram_gradient_logging",
        "auto_histogram_activation_logging",
    ),
    False,
)


class CometError(UserError):
    """Comet did not take the record."""


class _Errors(logging.Handler):
    """Keeps what comet_ml reports in place of an exception."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(" ".join(record.getMessage().split()))


class CometExperiment:
    """One experiment, which begins with the record of a run. Raises CometError."""

    def __init__(self, run: Record, destination: Destination) -> None:
        self._folder = destination.offline_folder
        self._errors = _Errors()
        self._images: dict[str, Record] = {}
        self._turns: list[Record] = []
        self._experiment = self._checked(lambda: self._start(run, destination))
        if not self._experiment.alive:
            raise CometError(self._why("it cannot be reached, or refuses the key"))
        self._checked(lambda: self._run(run))

    @property
    def url(self) -> str | None:
        """Where to look at it; None while it is offline."""
        return self._experiment.url if self._experiment.url else None

    def log(self, record: Record) -> None:
        """Send an image or a turn; other kinds say nothing to Comet."""
        if record["kind"] == "image":
            self._checked(lambda: self._image(record))
        elif record["kind"] == "turn":
            self._checked(lambda: self._turn(record))

    def end(self) -> Path | None:
        """Send what is left and end; the archive, where one was written."""
        self._checked(self._conversation)
        self._checked(self._experiment.end)
        archive = next(self._folder.glob(f"{self._experiment.get_key()}*.zip"), None)
        if archive is not None:
            archive.chmod(0o600)
        elif self.url is None:
            raise CometError(self._why(f"no archive was written in {self._folder}"))
        if self._errors.lines:
            raise CometError(self._why("it reported an error"))
        return archive

    def _checked(self, step: Callable[[], Any]) -> Any:
        """What a step gives; whatever comet_ml raises (it has no class for it) in one line."""
        try:
            return step()
        except Exception as error:
            raise CometError(self._why(str(error) or type(error).__name__)) from error

    def _why(self, otherwise: str) -> str:
        """The first error that comet_ml reported, else what we know ourselves: one sentence.

        It likes to show the API key, and in later sentences all arguments.
        """
        reason = self._errors.lines[0] if self._errors.lines else otherwise
        key = api_key()
        return (reason.replace(key, "...") if key else reason).split(". ")[0][:LONGEST_REASON]

    def _start(self, run: Record, destination: Destination) -> Any:
        comet_ml = _import(self._errors)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        config = comet_ml.ExperimentConfig(
            **CAPTURES_OFF,
            display_summary_level=0,
            offline_directory=str(self._folder),
            name=f"{run['model']['name']} {run['started']}",
        )
        experiment = comet_ml.start(
            workspace=destination.workspace,
            project_name=destination.project,
            online=destination.online,
            experiment_config=config,
        )
        experiment.send_notification = _say_nothing  # its end mails a summary with the login name
        return experiment

    def _run(self, run: Record) -> None:
        model = dict(run["model"])
        config = model.pop("config")
        named = {"model": model.pop("name"), **model, **run["settings"]}
        self._experiment.log_parameters(
            {name: "random" if value is None else value for name, value in named.items()}
        )
        self._experiment.log_others(
            {"started": run["started"]}
            | {f"version of {name}": number for name, number in run["versions"].items()}
        )
        self._asset(config, "model_config.json", None)

    def _image(self, record: Record) -> None:
        """Keep an image until the first turn about it, as whose step it is logged."""
        self._images[record["key"]] = {**record, "logged": False}

    def _turn(self, turn: Record) -> None:
        step = turn["step"]
        self._turns.append(turn)
        self._experiment.log_metrics(_metrics(turn), step=step)
        self._experiment.log_text(
            turn["text"],
            step=step,
            metadata={name: turn[name] for name in ("prompt", "image", "finish_reason")},
        )
        self._asset(turn, f"turn-{step:04}.json", step)
        image = self._images.get(turn["image_key"])
        if image is not None:
            self._pictures(image, turn)

    def _pictures(self, image: Record, turn: Record) -> None:
        """The image of a turn, if it is new, and what was found on it."""
        picture = _decode(image["png"])
        if not image["logged"]:
            self._experiment.log_image(picture, name=image["name"], step=turn["step"])
            image["logged"] = True
        if turn["boxes"]:
            from vlmchat.overlay import draw_detections

            drawn = draw_detections(picture.convert("RGB"), _detections(turn))
            name = f"{image['name']} with the boxes of turn {turn['step']}"
            self._experiment.log_image(drawn, name=name, step=turn["step"])

    def _asset(self, value: Any, name: str, step: int | None) -> None:
        self._experiment.log_asset_data(json.dumps(value, indent=1), name=name, step=step)

    def _conversation(self) -> None:
        """All turns as a table, and as a text to read."""
        rows = [[_cell(turn, column) for column in COLUMNS] for turn in self._turns]
        self._experiment.log_table("conversation.csv", rows, headers=list(COLUMNS))
        text = "\n\n".join(_readable(turn) for turn in self._turns)
        self._experiment.log_asset_data(text + "\n", name="conversation.txt")


def _import(errors: logging.Handler) -> Any:
    """comet_ml, told before its import to hook and report nothing, and to log to us alone."""
    os.environ.update(
        COMET_ERROR_TRACKING_ENABLE="false",
        COMET_DISABLE_AUTO_LOGGING="1",
        COMET_DISABLE_ANNOUNCEMENT="1",
        COMET_INTERNAL_REPORTING="false",
    )
    # The filer is in nobody's way, and the journal keeps the record: fail in seconds, not in 30.
    os.environ.setdefault("COMET_HTTP_SESSION_RETRY_TOTAL", "2")
    os.environ.setdefault("COMET_GET_OR_ADD_EXPERIMENT_RETRY_TOTAL", "2")
    import comet_ml

    logger = logging.getLogger("comet_ml")
    logger.handlers[:] = [errors]
    logger.setLevel(logging.ERROR)
    return comet_ml


def _say_nothing(*_: Any, **__: Any) -> None:
    """What stands in place of a method that would tell what nobody asked for."""


def _metrics(turn: Record) -> dict[str, float]:
    """The numbers of a turn; what is not known is left out."""
    logprobs = [value for value in turn["logprobs"] if value is not None]
    numbers = {
        **turn["timing"],
        "reused_tokens": turn["prefix"]["reused_tokens"],
        "computed_tokens": turn["prefix"]["computed_tokens"],
        "answer_tokens": len(turn["token_ids"]),
        "mean_logprob": sum(logprobs) / len(logprobs) if logprobs else None,
        **{f"peak_memory_{name}": value for name, value in turn["memory"].items()},
    }
    return {name: value for name, value in numbers.items() if value is not None}


def _cell(turn: Record, column: str) -> Any:
    """One entry of the table."""
    if column == "answer":
        return turn["text"]
    if column == "tokens":
        return len(turn["token_ids"])
    return turn["timing"][column] if column.endswith("_s") else turn[column]


def _readable(turn: Record) -> str:
    """One turn as a person reads it."""
    about = f"  ({turn['image']})" if turn["image"] else ""
    return f"{turn['step']}. {turn['line']}{about}\n{turn['text']}"


def _detections(turn: Record) -> list[Detection]:
    """What was found in a turn."""
    from vlmchat.tasks import Detection

    return [Detection(each["label"], tuple(each["box"])) for each in turn["boxes"]]


def _decode(png: str) -> Any:
    """The picture of an image record."""
    from PIL import Image

    return Image.open(io.BytesIO(base64.b64decode(png)), formats=("PNG",))

"""Where the record of a chat goes, read from the environment and Comet's config files.

comet_ml is not imported to find out: whoever has not configured Comet need not have it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

DEFAULT_PROJECT = "vlmchat"
OFF = ("0", "false", "no", "off")


def state_folder() -> Path:
    """The folder for what a program remembers between runs."""
    from platformdirs import user_state_path

    return user_state_path("vlmchat", appauthor=False)


def api_key(environ: Mapping[str, str] = os.environ) -> str | None:
    """The key that Comet is asked with; where there is one, Comet counts as configured."""
    return _Settings(environ).find("api_key")


@dataclass(frozen=True)
class Destination:
    """A Comet project, online or as archives in a folder.

    `config_file` is the config file that was found first; `workspace` None is the owner's default.
    """

    project: str
    workspace: str | None
    online: bool
    offline_folder: Path
    config_file: Path | None = None

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> Destination:
        """What the environment says, and behind it the config files, in Comet's own order.

        It is online where Comet is configured, unless COMET_START_ONLINE is off or, that being
        unset, COMET_OFFLINE_DIRECTORY is given.
        """
        settings = _Settings(environ)
        folder = environ.get("COMET_OFFLINE_DIRECTORY")
        start_online = environ.get("COMET_START_ONLINE", "")
        wanted = start_online.lower() not in OFF if start_online else not folder
        return cls(
            project=settings.find("project_name") or DEFAULT_PROJECT,
            workspace=settings.find("workspace"),
            online=wanted and api_key(environ) is not None,
            offline_folder=_expanded(folder).absolute() if folder else state_folder() / "comet",
            config_file=settings.files[0].absolute() if settings.files else None,
        )

    @property
    def environment(self) -> dict[str, str]:
        """The variables that tell another process, in any working folder, the same."""
        told = {
            "COMET_PROJECT_NAME": self.project,
            "COMET_WORKSPACE": self.workspace,
            "COMET_START_ONLINE": "1" if self.online else "0",
            "COMET_OFFLINE_DIRECTORY": str(self.offline_folder),
            "COMET_CONFIG": str(self.config_file) if self.config_file else None,
        }
        return {name: value for name, value in told.items() if value}


class _Settings:
    """Comet's settings: the environment's, and behind them those of the config files."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.files = [path for path in _config_files(environ) if os.path.isfile(path)]
        self._sections = [_comet_section(path) for path in self.files]

    def find(self, name: str) -> str | None:
        """The setting of that name; an empty one counts as none."""
        given = self._environ.get(f"COMET_{name.upper()}")
        return given or next((each[name] for each in self._sections if each.get(name)), None)


def _config_files(environ: Mapping[str, str]) -> list[Path]:
    """Where Comet looks for a config file, first to last.

    Everybody's start comes by here, so os.path asks: it takes a home that may not be entered, or
    that nobody knows, for one without the file, where pathlib raises.
    """
    home, here = _expanded("~/.comet.config"), Path(".comet.config")
    named = environ.get("COMET_CONFIG")
    if not named:
        return [here, home]
    path = _expanded(named)
    return [path / ".comet.config" if os.path.isdir(path) else path, here, home]


def _expanded(path: str) -> Path:
    return Path(os.path.expanduser(path))


def _comet_section(path: Path) -> dict[str, str]:
    """The settings of one config file; a file that cannot be read has none."""
    import configparser  # only where there is a file

    parser = configparser.ConfigParser(interpolation=None)
    with suppress(OSError, UnicodeDecodeError, configparser.Error):
        parser.read(path, encoding="utf-8")
    return dict(parser["comet"]) if parser.has_section("comet") else {}

"""Where the record of a chat goes, read from the environment and Comet's config files.

comet_ml is not imported to find out: whoever has not configured Comet need not have it.
"""

from __future__ import annotations

import configparser
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


@dataclass(frozen=True)
class Destination:
    """A Comet project, online or as archives in a folder.

    `config_file` is the config file that was found first; `workspace` None is the owner's default.
    """

    project: str
    workspace: str | None
    online: bool
    configured: bool
    offline_folder: Path
    config_file: Path | None = None

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> Destination:
        """What the environment says, and behind it the config files, in Comet's own order.

        Comet counts as configured where there is an API key. It is online then, unless
        COMET_START_ONLINE is off or, that being unset, COMET_OFFLINE_DIRECTORY is given.
        """
        files = [path for path in _config_files(environ) if path.is_file()]
        sections = [_comet_section(path) for path in files]

        def find(name: str) -> str | None:
            given = environ.get(f"COMET_{name.upper()}")
            return given or next((each[name] for each in sections if each.get(name)), None)

        folder = environ.get("COMET_OFFLINE_DIRECTORY")
        start_online = environ.get("COMET_START_ONLINE", "")
        wanted = start_online.lower() not in OFF if start_online else not folder
        configured = find("api_key") is not None
        return cls(
            project=find("project_name") or DEFAULT_PROJECT,
            workspace=find("workspace"),
            online=configured and wanted,
            configured=configured,
            offline_folder=Path(folder).expanduser().absolute()
            if folder
            else state_folder() / "comet",
            config_file=files[0].absolute() if files else None,
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


def _config_files(environ: Mapping[str, str]) -> list[Path]:
    """Where Comet looks for a config file, first to last."""
    home, here = Path("~/.comet.config").expanduser(), Path(".comet.config")
    named = environ.get("COMET_CONFIG")
    if not named:
        return [here, home]
    path = Path(named).expanduser()
    return [path / ".comet.config" if path.is_dir() else path, here, home]


def _comet_section(path: Path) -> dict[str, str]:
    """The settings of one config file; a file that cannot be read has none."""
    parser = configparser.ConfigParser(interpolation=None)
    with suppress(OSError, UnicodeDecodeError, configparser.Error):
        parser.read(path, encoding="utf-8")
    return dict(parser["comet"]) if parser.has_section("comet") else {}

"""Where the record goes: a table of environments and config files."""

from pathlib import Path

import pytest

from vlmchat.tracking.destination import Destination, api_key

KEY = {"COMET_API_KEY": "k"}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty home and working folder."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("environ", "configured", "online"),
    [
        ({}, False, False),
        (KEY, True, True),
        ({"COMET_API_KEY": ""}, False, False),
        ({"COMET_PROJECT_NAME": "p", "COMET_WORKSPACE": "w"}, False, False),
        ({"COMET_OFFLINE_DIRECTORY": "/d"}, False, False),
        ({"COMET_START_ONLINE": "1"}, False, False),
        ({**KEY, "COMET_START_ONLINE": "0"}, True, False),
        ({**KEY, "COMET_START_ONLINE": "False"}, True, False),
        ({**KEY, "COMET_START_ONLINE": "1"}, True, True),
        ({**KEY, "COMET_OFFLINE_DIRECTORY": "/d"}, True, False),
        ({**KEY, "COMET_OFFLINE_DIRECTORY": "/d", "COMET_START_ONLINE": "true"}, True, True),
    ],
)
def test_configured_and_online(environ, configured, online):
    assert (api_key(environ) is not None) == configured
    assert Destination.read(environ).online == online


def test_project_workspace_and_folder(tmp_path):
    assert Destination.read({}).project == "vlmchat"
    assert Destination.read({}).workspace is None
    assert Destination.read({}).offline_folder == tmp_path / "state" / "vlmchat" / "comet"
    found = Destination.read(
        {"COMET_PROJECT_NAME": "p", "COMET_WORKSPACE": "w", "COMET_OFFLINE_DIRECTORY": "sub"}
    )
    assert (found.project, found.workspace) == ("p", "w")
    assert found.offline_folder == Path.cwd() / "sub"


def test_config_files_stand_behind_the_environment_and_each_other(home, tmp_path):
    (home / ".comet.config").write_text("[comet]\napi_key = k%y\nproject_name=home\nworkspace=w\n")
    assert api_key({}) == "k%y"
    assert Destination.read({}).project == "home"
    Path(".comet.config").write_text("[comet]\nproject_name=here\n")
    assert (Destination.read({}).project, Destination.read({}).workspace) == ("here", "w")
    named = tmp_path / "folder"
    named.mkdir()
    (named / ".comet.config").write_text("[comet]\nproject_name=named\n")
    environ = {"COMET_CONFIG": str(named)}
    assert Destination.read(environ).project == "named"
    assert Destination.read(environ).config_file == named / ".comet.config"
    assert Destination.read({**environ, "COMET_PROJECT_NAME": "p"}).project == "p"


@pytest.mark.parametrize("text", ["no section", "[comet]\n= =\n[", "[other]\napi_key=k\n"])
def test_a_config_file_that_says_nothing_configures_nothing(home, text):
    (home / ".comet.config").write_text(text)
    assert api_key({}) is None


@pytest.mark.parametrize("unusable", ["x" * 300, "loop", "~nobody-of-that-name"])
def test_a_home_that_cannot_be_looked_into_configures_nothing(monkeypatch, unusable):
    Path("loop").symlink_to("loop")
    monkeypatch.setenv("HOME", unusable)
    assert api_key({"COMET_CONFIG": unusable}) is None
    assert not Destination.read({"COMET_CONFIG": unusable}).online


def test_another_process_elsewhere_is_told_the_same(home, tmp_path, monkeypatch):
    Path(".comet.config").write_text("[comet]\napi_key=k\nproject_name=p\nworkspace=w\n")
    (home / ".comet.config").write_text("[comet]\nproject_name=other\n")
    there = Destination.read({"COMET_OFFLINE_DIRECTORY": "archives"})
    monkeypatch.chdir("/")
    assert Destination.read(there.environment) == there

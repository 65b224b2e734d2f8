"""The settings of /set: what each accepts, what it refuses, and how it reads."""

import pytest

from vlmchat.errors import UserError
from vlmchat.session import Settings
from vlmchat.terminal.settings import SETTINGS, change

BY_NAME = {setting.name: setting for setting in SETTINGS}

ACCEPTED = [
    ("temperature", "0.7", "0.7"),
    ("temperature", "0", "0.0"),
    ("top-p", "1", "1.0"),
    ("top-p", ".5", "0.5"),
    ("top-k", "40", "40"),
    ("max-tokens", "1", "1"),
    ("seed", "7", "7"),
    ("seed", str(2**63 - 1), str(2**63 - 1)),
    ("seed", "random", "random"),
    ("seed", "RANDOM", "random"),
    ("prefix-cache", "exact", "exact"),
    ("prefix-cache", "KV", "kv"),
    ("template", "{question}", "{question}"),
    ("template", "'answer de {question}'", "answer de {question}"),
    ("track", "on", "on"),
    ("track", "OFF", "off"),
]

REFUSED = [
    ("temperature", "-1", "a number from 0"),
    ("temperature", "nan", "a number from 0"),
    ("temperature", "inf", "a number from 0"),
    ("temperature", "warm", "a number from 0"),
    ("temperature", "", "temperature cannot be empty"),
    ("top-p", "0", "above 0"),
    ("top-p", "1.5", "at most 1"),
    ("top-k", "-1", "a whole number"),
    ("top-k", "2.5", "a whole number"),
    ("max-tokens", "0", "from 1 up"),
    ("max-tokens", "9" * 5000, "from 1 up"),
    ("seed", "-3", "a whole number or random"),
    ("seed", str(2**63), "a whole number or random"),
    ("prefix-cache", "off", "kv or exact"),
    ("template", "answer en", "{question}"),
    ("track", "maybe", "on or off"),
]


@pytest.mark.parametrize(("name", "text", "shown"), ACCEPTED)
def test_accepted(name, text, shown):
    setting = BY_NAME[name]
    before = Settings()
    after = change(setting, before, text)
    assert setting.read(after) == shown
    others = [each for each in SETTINGS if each is not setting]
    assert [each.read(after) for each in others] == [each.read(before) for each in others]


@pytest.mark.parametrize(("name", "text", "message"), REFUSED)
def test_refused_in_one_line_that_says_what_is_wanted(name, text, message):
    with pytest.raises(UserError) as caught:
        change(BY_NAME[name], Settings(), text)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{name} cannot be ")
    assert "\n" not in str(caught.value)


def test_the_names_are_those_of_the_command_line():
    assert list(BY_NAME) == [
        "temperature",
        "top-p",
        "top-k",
        "max-tokens",
        "seed",
        "prefix-cache",
        "template",
        "track",
    ]

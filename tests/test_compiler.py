"""C code is compiled and loaded, or one line says why not."""

import shutil

import pytest

from vlmchat import compiler
from vlmchat.compiler import NotCompiledError, compiled

needed = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "code with a space.c"
    file.write_text("long twice(long number) { return 2 * number; }\n")
    return file


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Where the compiler works; it has to be empty in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(compiler.tempfile, "tempdir", str(folder))
    monkeypatch.delenv("CC", raising=False)
    yield folder
    assert list(folder.iterdir()) == []


def reason(source):
    with pytest.raises(NotCompiledError) as caught:
        compiled(source)
    return str(caught.value)


@needed
def test_a_library_stays_usable_when_its_file_is_gone(source):
    assert compiled(source).twice(21) == 42


@needed
def test_the_variable_cc_may_hold_flags_too(source, monkeypatch):
    source.write_text("long twice(long number) { return FACTOR * number; }\n")
    monkeypatch.setenv("CC", "cc -DFACTOR=3")
    assert compiled(source).twice(2) == 6


def test_where_there_is_no_compiler_it_says_so(source, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert reason(source) == "no C compiler found"


def test_a_compiler_that_is_not_there_is_named(source, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler -O2")
    assert reason(source) == "no-such-compiler cannot be run (No such file or directory)"


def test_a_compiler_that_fails_in_silence_is_named(source, monkeypatch):
    monkeypatch.setenv("CC", "false")
    assert reason(source) == "false failed (no reason given)"


def test_a_compiler_that_never_ends_is_stopped(source, monkeypatch, tmp_path):
    script = tmp_path / "slow"
    script.write_text("#!/bin/sh\nexec sleep 30\n")
    script.chmod(0o700)
    monkeypatch.setenv("CC", str(script))
    monkeypatch.setattr(compiler, "PATIENCE_S", 0.1)
    assert reason(source) == f"{script} took over 0.1 s"


@needed
def test_the_first_complaint_is_the_reason(source):
    source.write_text("#error not for this processor\nlong two(void) { return nothing; }\n")
    assert reason(source).endswith("cc failed (not for this processor)")


@needed
def test_a_library_that_lacks_a_function_is_refused(source):
    source.write_text("long lost(void);\nlong two(void) { return lost(); }\n")
    assert reason(source) == "what was compiled cannot be loaded (undefined symbol: lost)"


def test_a_variable_cc_that_is_no_command_is_refused(source, monkeypatch):
    monkeypatch.setenv("CC", "gcc -D'")
    assert reason(source) == "CC is no command (No closing quotation)"


def test_where_there_is_no_room_to_compile_it_says_so(source, monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr(compiler.tempfile, "tempdir", str(tmp_path / "nowhere"))
    assert reason(source) == "no folder to compile in (No such file or directory)"

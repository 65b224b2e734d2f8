"""A model that loads in a thread: what is had of it when, and how it ends."""

import threading

import pytest

from tests.scripted import ScriptedEngine
from vlmchat.background import LoadError, Loading, end
from vlmchat.errors import UserError
from vlmchat.session import Session


def begun(load):
    loading = Loading(load)
    loading.start()
    return loading


def test_a_session_takes_over_what_was_loaded():
    go = threading.Event()

    def load(progress):
        progress(3, 4)
        assert go.wait(30)
        loaded = Session(ScriptedEngine("a cat"), notices=("old file",))
        loaded.mask_decoder = "decoder"
        return loaded

    loading = begun(load)
    session = Session(loading, model_name="ours")
    assert session.loading is loading
    assert (loading.is_over, loading.has_failed) == (False, False)
    go.set()
    assert session.answer("what is it").text == "a cat"
    assert session.loading is None
    assert loading.progress == (3, 4)
    assert (session.notices, session.mask_decoder) == (("old file",), "decoder")
    assert session.model_name == "ours"


def test_what_goes_wrong_is_raised_to_whoever_needs_the_model():
    error = UserError("model: damaged: download it again")

    def load(progress):
        raise error

    session, called = Session(begun(load)), threading.Event()
    session.loading.when_failed(called.set)
    for _ in range(2):
        with pytest.raises(LoadError, match="damaged") as caught:
            session.ask("what is it")
        assert caught.value.reason is error
    assert called.is_set()
    assert session.loading.has_failed
    assert session.turns == []


def test_a_load_that_goes_well_is_not_called_failed():
    loading, called = begun(lambda progress: Session(ScriptedEngine())), []
    loading.result()
    loading.when_failed(lambda: called.append(1))
    assert (called, loading.has_failed) == ([], False)


def test_a_load_can_be_stopped():
    at_work = threading.Event()

    def load(progress):
        at_work.set()
        while True:
            pass

    loading = begun(load)
    assert at_work.wait(30)
    loading.stop()
    assert loading.has_failed
    with pytest.raises(SystemExit):
        loading.result()
    loading.stop()


def test_a_load_that_never_began_has_nothing_to_stop():
    loading = Loading(lambda progress: None)
    loading.stop()
    assert not loading.is_over


def test_a_thread_that_is_over_is_left_alone():
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    end(thread)

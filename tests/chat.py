"""`python -m tests.chat` is `vlmchat` with a scripted engine, for tests that need a real process.

Each prompt is answered with five words; one with `wait` in it stops behind the second of them
until it is cancelled. Where `CHAT_GATE` names a file, the model is loaded once that is there, or
fails to if it says so.
"""

import os
import sys
import time
from pathlib import Path

import vlmchat
from tests.scripted import ScriptedEngine
from vlmchat.cli import main
from vlmchat.errors import UserError
from vlmchat.session import Session, Settings
from vlmchat.terminal import repl


class Echo(ScriptedEngine):
    def stream(self, prompt, *rest):
        self.enqueue(f"you asked: {prompt} !")
        if "wait" in prompt:
            self.pause_after = 2
        return super().stream(prompt, *rest)


def load(model_path, *, sampling, **_):
    gate = Path(os.environ.get("CHAT_GATE", __file__))
    while not gate.exists():
        time.sleep(0.01)
    if gate.read_text() == "fail":
        raise UserError("model: damaged: download it again")
    return Session(Echo(), Settings(sampling=sampling), model_name=model_path or "demo")


if __name__ == "__main__":
    vlmchat.load = load
    repl.SAMPLE = Path("none.png")
    sys.exit(main())

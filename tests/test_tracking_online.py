"""The filer online: what it sends to a server that takes everything, and one that refuses the key.

The server is a part of what comet_ml needs of Comet, and stands in this process.
"""

import gzip
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.test_tracking_filer import file, needs_comet, says, write_journal
from vlmchat.tracking import filer

KEY = "the-secret-key"
ADDRESSES = {
    "/clientlib/isAlive/ver",
    "/clientlib/health/ping",
    "/clientlib/logger/add/run",
    "/clientlib/status-report/update",
    "/clientlib/asset/3d-limits",
    "/clientlib/asset/upload",
    "/clientlib/visualizations/upload",
    "/clientlib/batch/logger/experiment/parameter",
    "/clientlib/batch/logger/experiment/metric",
    "/api/rest/v2/experiment/metadata",
    "/api/rest/v2/write/experiment/log-other",
}
BEATS = ("is_alive_beat_duration_millis", "gpu_monitor_interval_millis")


class FakeComet(ThreadingHTTPServer):
    """`asked` is (path, query, body) of each request; with `refuses` no key is good."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}/"
        self.refuses = False
        self.asked = []

    def reply(self, path):
        if self.refuses:
            return 400, {"msg": "no such key", "sdk_error_code": 90212}
        if path.endswith("/add/run"):
            return 200, {"runId": "r", "project_id": "p", "focusUrl": f"{self.address}w/p/"}
        return 200, dict.fromkeys(BEATS, 10_000)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        url = urlsplit(self.path)
        self.server.asked.append((url.path, parse_qs(url.query), body))
        code, reply = self.server.reply(url.path)
        data = json.dumps(reply).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_):
        """Nothing: pytest has the terminal."""


@pytest.fixture
def comet():
    with FakeComet() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def send(journal, folder, comet, *flags):
    return file(
        journal,
        folder,
        *flags,
        COMET_API_KEY=KEY,
        COMET_URL_OVERRIDE=f"{comet.address}clientlib/",
        COMET_PROJECT_NAME="proj",
        LOGNAME="login-name",
    )


def uploads(comet, kind):
    """The names under which files came in, in the order of their names."""
    asked = [query for path, query, _ in comet.asked if path == f"/clientlib/{kind}/upload"]
    return sorted(query.get("fileName", query.get("figName"))[0] for query in asked)


def values(comet, kind, name):
    """What came in at a batch address, under the key that names each."""
    bodies = [body for path, _, body in comet.asked if path.endswith(f"/experiment/{kind}")]
    return [each[name] for body in bodies for each in json.loads(body)["values"]]


@needs_comet
def test_what_is_sent_is_the_record_and_nothing_else(tmp_path, comet):
    journal = write_journal(tmp_path)
    run, *_ = (json.loads(line) for line in journal.read_text().splitlines())
    done = send(journal, tmp_path, comet)
    assert (done.returncode, done.stderr) == (filer.FILED, "")
    assert done.stdout.startswith(f"Comet experiment: {comet.address}w/p/")
    assert not journal.exists()
    assert {path for path, *_ in comet.asked} <= ADDRESSES
    assert uploads(comet, "visualizations") == [
        "cat.png",
        "cat.png with the boxes of turn 2",
        "dog.png",
    ]
    assert uploads(comet, "asset") == [
        *["auto-generated-in-the-backend"] * 4,  # the answers' texts
        "conversation.csv",
        "conversation.txt",
        "model_config.json",
        *(f"turn-{n:04}.json" for n in range(1, 5)),
    ]
    others = [json.loads(body)["key"] for path, _, body in comet.asked if "log-other" in path]
    versions = [f"version of {name}" for name in run["versions"]]
    assert sorted(others) == sorted(["Name", "started", *versions])
    parameters = {"model", *run["model"], *run["settings"], "curr_step"} - {"name", "config"}
    assert set(values(comet, "parameter", "parameterName")) == parameters
    texts = [body for path, _, body in comet.asked if "visualizations" not in path]
    for secret in (os.uname().nodename, "login-name", str(tmp_path)):
        assert not any(says(body, secret) for body in texts)


@needs_comet
def test_a_chat_that_was_killed_is_whole_online_and_not_filed_again(tmp_path, comet):
    journal = write_journal(tmp_path, "run", "image", "turn")
    done = send(journal, tmp_path, comet, "--follow")
    assert done.returncode == filer.FILED
    assert "turn-0004.json" in uploads(comet, "asset")
    assert not journal.exists()


@needs_comet
def test_a_refused_key_is_one_line_that_does_not_show_it(tmp_path, comet):
    comet.refuses = True
    journal = write_journal(tmp_path)
    done = send(journal, tmp_path, comet)
    assert (done.returncode, done.stderr) == (filer.SAID_WHY, "")
    assert done.stdout.startswith("Comet did not take the record (The given API key '...' is inv")
    assert done.stdout.endswith(f"vlmchat --track-import {journal} files it\n")
    assert KEY not in done.stdout
    assert journal.exists()

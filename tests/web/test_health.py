"""Whether the web process answers: what `up` and a container's health check go by."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from syncworker import settings as settings_module
from syncworker.cli import liveness
from syncworker.processes import host_name
from syncworker.schedule.health import Finding, Verdict
from syncworker.settings import Settings

pytestmark = pytest.mark.unit


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a web process whose port is free."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(liveness, "WEB_ANSWER_S", 0.05)
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    return settings_module.load(data_dir=tmp_path, web={"host": "0.0.0.0", "port": port})


class Busy(BaseHTTPRequestHandler):
    """Answers, and not well."""

    def do_GET(self) -> None:
        self.send_response(503)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def busy(config: Settings) -> Iterator[None]:
    """Something that answers at the port."""
    with HTTPServer(("127.0.0.1", config.web.port), Busy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield
        server.shutdown()
        thread.join()


def test_one_that_takes_connections_and_does_not_answer_hangs(config: Settings) -> None:
    """As one whose loop stands still: the kernel takes connections for it."""
    with closing(socket.create_server(("127.0.0.1", config.web.port))):
        found = liveness.judge_web(config, 7)

    assert found == Finding(f"{host_name()}/7", Verdict.HANGS, "/healthz was asked 3 times and gave no answer")


@pytest.mark.usefixtures("busy")
def test_one_that_answers_lives_whatever_it_says(config: Settings) -> None:
    """Too many connections are no reason to start it again."""
    assert liveness.judge_web(config, 7) == Finding(f"{host_name()}/7", Verdict.ALIVE, "/healthz answers 503")


def test_one_that_does_not_listen_is_absent(config: Settings) -> None:
    """Whether it runs or not; who never began has no process id."""
    found = [liveness.judge_web(config, pid).verdict for pid in (7, None)]

    assert (found, liveness.web_pid(config)) == ([Verdict.ABSENT] * 2, None)


def test_where_it_listens_may_be_unknown(config: Settings) -> None:
    """With port 0 there is no address to look at."""
    anywhere = config.with_values(web=config.web.model_copy(update={"port": 0}))

    assert liveness.judge_web(anywhere, 7).verdict is Verdict.UNKNOWN

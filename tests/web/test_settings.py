"""`[web]`: what cannot be used is named with its fix, before anything listens."""

import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from syncworker import settings as settings_module
from syncworker.cli.web import listening, tls
from syncworker.errors import SettingsError

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without settings."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("no PEM")


@pytest.mark.parametrize(
    ("web", "words"),
    [
        ({"certificate": "a.pem"}, "web: certificate and key: give both"),
        ({"url": "http://tpp.example"}, "web.url: must be an https:// URL"),
        ({"url": "https://tpp.example/path"}, "web.url: must end after host and port"),
        ({"url": "https://user@tpp.example"}, "web.url: must be an https:// URL without user name"),
        ({"return_urls": ["https://a.example/?x=1"]}, "web.return_urls.0: must have neither query nor fragment"),
        ({"return_urls": ["http://a.example/"]}, "web.return_urls.0: must be an https:// URL"),
        ({"port": 70_000}, "web.port: "),
        ({"ports": 1}, "web.ports: is no setting"),
    ],
)
def test_what_no_web_process_could_use(web: dict[str, Any], words: str) -> None:
    """Field and fault."""
    with pytest.raises(SettingsError) as caught:
        settings_module.load(web=web)

    assert str(caught.value).startswith(words)


def test_a_port_that_is_taken() -> None:
    """Another process listens there."""
    with closing(listening(settings_module.load(web={"port": 0}))) as first:
        assert isinstance(first, socket.socket)
        with pytest.raises(SettingsError, match=r"^web.port: cannot listen at 127.0.0.1:\d+ .*; set another port$"):
            listening(settings_module.load(web={"port": first.getsockname()[1]}))


@pytest.mark.parametrize("name", ["none", "text"])
def test_a_certificate_that_cannot_be_used(name: str) -> None:
    """It is not there, or no PEM."""
    with pytest.raises(SettingsError, match=r"^web.certificate: certificate and key cannot be used"):
        tls(settings_module.load(web={"certificate": name, "key": name}))

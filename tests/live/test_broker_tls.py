"""TLS to the broker: certificate and host are verified unless a setting says otherwise, and no check waits for ever."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from syncworker import broker, settings
from syncworker.broker import Broker
from syncworker.errors import SettingsError, SyncWorkerError
from syncworker.schedule.limits import LedgerAwayError, RedisLedger
from syncworker.standard.values import Slug
from tests.ground.tls import TLSFront
from tests.ground.valkey import ValkeyServer
from tests.lfi.raw_bank import Identities, issue, new_key, write_key

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return Identities(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def front(identities: Identities, valkey: ValkeyServer) -> Iterator[TLSFront]:
    """The broker behind a certificate for 127.0.0.1 that `identities` certified."""
    with TLSFront(identities.server_certificate, identities.server_key, target_port=valkey.port) as running:
        yield running


def fault(found: Broker, **options: Any) -> str:
    with pytest.raises(SyncWorkerError) as caught:
        broker.check(found, **options)
    return str(caught.value)


def test_a_certificate_that_is_trusted_is_enough(front: TLSFront, identities: Identities) -> None:
    """The right authority, the right host."""
    broker.check(Broker(url=f"rediss://127.0.0.1:{front.port}/0", ca=identities.ca_bundle))


def test_a_foreign_certificate_is_refused(front: TLSFront, tmp_path: Path) -> None:
    """Certified by an authority that no setting names: by default nothing is sent."""
    other = Identities(tmp_path)

    said = fault(Broker(url=f"rediss://127.0.0.1:{front.port}/0", ca=other.ca_bundle))

    assert said.startswith("broker_url: TLS failed (rediss): ")
    assert "broker_ca" in said


def test_a_certificate_of_another_host_is_refused(identities: Identities, valkey: ValkeyServer, tmp_path: Path) -> None:
    """The authority is right, the name is not."""
    key = new_key()
    elsewhere = issue(
        tmp_path / "elsewhere.pem", "elsewhere.example", key, signer=identities.root_key, host="elsewhere.example"
    )
    with TLSFront(elsewhere, write_key(tmp_path / "elsewhere.key", key), target_port=valkey.port) as front:
        said = fault(Broker(url=f"rediss://127.0.0.1:{front.port}/0", ca=identities.ca_bundle))

    assert said.startswith("broker_url: TLS failed (rediss): ")


def test_verification_ends_only_when_a_setting_says_so(front: TLSFront, tmp_path: Path) -> None:
    """`broker_verify = false` connects, and the log warns."""
    found = Broker(url=f"rediss://127.0.0.1:{front.port}/0", verify=False)

    broker.check(found)
    before = {
        name: broker.app.conf[name] for name in ("broker_url", "broker_use_ssl", "broker_read_url", "broker_write_url")
    }
    try:
        with capture_logs() as said:
            broker.configure(found, 5, tmp_path / "data", threads=8)
    finally:
        broker.app.conf.update(before)

    assert [one["event"] for one in said] == ["broker not verified"]


async def test_the_counts_of_calls_are_verified_too(front: TLSFront, identities: Identities, tmp_path: Path) -> None:
    """The rate counter's own client takes the same settings: the right authority works, a foreign one does not."""
    trusted = Broker(url=f"rediss://127.0.0.1:{front.port}/0", ca=identities.ca_bundle)
    foreign = Broker(url=trusted.url, ca=Identities(tmp_path).ca_bundle)
    good, bad = (RedisLedger(one.url, tls=one.redis_options()) for one in (trusted, foreign))
    try:
        assert await good.reserve(Slug("noor"), rate=10, calls=1, patience=1) == 0
        with pytest.raises(LedgerAwayError):
            await bad.reserve(Slug("noor"), rate=10, calls=1, patience=1)
    finally:
        await good.close()
        await bad.close()


def test_tls_on_a_plain_port_says_so(valkey: ValkeyServer, identities: Identities) -> None:
    """The other side speaks no TLS: an answer within the deadline, with the fix."""
    begun = time.monotonic()

    said = fault(Broker(url=f"rediss://127.0.0.1:{valkey.port}/0", ca=identities.ca_bundle))

    assert "broker_url" in said
    assert time.monotonic() - begun < broker.CHECK_S + 1


@pytest.mark.parametrize("scheme", ["redis", "rediss", "amqp", "amqps"])
def test_a_silent_listener_is_given_up(scheme: str) -> None:
    """It takes the connection and says nothing: the check has a deadline of its own."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        said = fault(Broker(url=f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/"), within=2)

    assert said.startswith("broker_url: no")


@pytest.mark.unit
def test_tls_options_in_the_url_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """`?ssl_cert_reqs=none` would switch verification off unseen; the message names the settings."""
    monkeypatch.setenv("SYNCWORKER_BROKER_URL", "rediss://broker:6379/0?ssl_cert_reqs=none")

    with pytest.raises(SettingsError, match=r"broker_url: ssl_cert_reqs in the URL is not read.*broker_ca"):
        broker.broker_of(settings.load())


@pytest.mark.unit
def test_a_missing_authority_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before anything connects."""
    monkeypatch.setenv("SYNCWORKER_BROKER_URL", "rediss://broker:6379/0")
    monkeypatch.setenv("SYNCWORKER_BROKER_CA", str(tmp_path / "none.pem"))

    with pytest.raises(SettingsError, match="broker_ca: no such file"):
        broker.broker_of(settings.load())

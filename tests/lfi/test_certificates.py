"""A transport certificate gives way to the next one while calls are under way, over real mTLS."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from pydantic import SecretStr

from syncworker.errors import LFIUnavailableError, SettingsError
from syncworker.lfi.api import LFIClient
from syncworker.lfi.directory import LFIConfig
from syncworker.lfi.keys import TransportCertificate, certificate_end, days_announced
from syncworker.lfi.transport import Call, mtls_context
from syncworker.standard.resources import BY_NAME, ResourceName
from syncworker.standard.values import ConsentId
from syncworker.standard.versions import Version
from tests.lfi.conftest import MovableClock
from tests.lfi.raw_bank import BASE_PATH, Identities, RawBank, Request, http, issue, json_of, new_key, says, write_key

pytestmark = pytest.mark.live

ACCOUNTS = f"{BASE_PATH}/accounts"
PAGE = http(body=json_of({"Data": {"Account": []}}))
TOLD = "new transport certificate not taken, the old one stays"


class Files:
    """Our certificate and its key in files of their own, to be written over."""

    def __init__(self, folder: Path, identities: Identities) -> None:
        self.certificate, self.key = folder / "transport.pem", folder / "transport.key"
        self._root = identities.root_key
        self._next = folder / "next.pem", folder / "next.key"
        self.renew()

    def renew(self, *, certificate: bool = True, key: bool = True, trusted: bool = True) -> None:
        """Put another pair in place, or the half of it."""
        fresh = new_key()
        issue(self._next[0], "tpp", fresh, signer=self._root if trusted else new_key())
        write_key(self._next[1], fresh)
        if certificate:
            self._next[0].replace(self.certificate)
        if key:
            self._next[1].replace(self.key)

    def complete(self) -> None:
        """Put the other half in place."""
        self._next[1].replace(self.key)

    def load(self) -> TransportCertificate:
        return TransportCertificate.load(self.certificate, self.key, now=datetime.now(UTC))


@pytest.fixture
def files(tmp_path: Path, identities: Identities) -> Files:
    return Files(tmp_path, identities)


@pytest.fixture
async def rolling(files: Files, config: LFIConfig, clock: MovableClock, calls: list[Call]) -> AsyncIterator[LFIClient]:
    """A client whose certificate lies in `files`."""

    async def no_wait(_seconds: float) -> None:
        await asyncio.sleep(0)

    client = LFIClient(
        dataclasses.replace(config, transport=files.load()), clock=clock, log=calls.append, sleep=no_wait
    )
    yield client
    await client.close()


async def _read(client: LFIClient, calls: list[Call]) -> None:
    async def token(*, rejected: SecretStr | None = None) -> SecretStr:
        return SecretStr("t")

    walk = client.pages(
        BY_NAME[ResourceName.ACCOUNTS], None, version=Version.V2_1, params={}, token=token, calls=calls.append
    )
    assert [page.number async for page in walk] == [1]


def _shown(bank: RawBank) -> list[str]:
    """The certificates of the data calls, in the order of the calls."""
    return [request.certificate for request in bank.heard(ACCOUNTS)]


async def test_a_new_certificate_is_used_without_a_restart(
    bank: RawBank, rolling: LFIClient, files: Files, clock: MovableClock, calls: list[Call]
) -> None:
    """For data and for tokens; the client tells which one, since access tokens are bound to it."""
    bank.replies[ACCOUNTS] = says(PAGE)
    bank.replies["/token"] = says(http(body=json_of({"access_token": "at", "expires_in": 600})))
    first = rolling.certificate.thumbprint
    before = await rolling.refresh(SecretStr("rt"), calls=calls.append)
    await _read(rolling, calls)
    files.renew()
    clock.advance(seconds=61)
    await _read(rolling, calls)
    after = await rolling.refresh(SecretStr("rt"), calls=calls.append)

    second = files.load().thumbprint
    assert first != second
    assert (_shown(bank), before.certificate, after.certificate, rolling.certificate.thumbprint) == (
        [first, second],
        first,
        second,
        second,
    )
    assert [request.certificate for request in bank.heard("/token")] == [first, second]


async def test_the_files_are_looked_at_once_a_minute(
    bank: RawBank, rolling: LFIClient, files: Files, clock: MovableClock, calls: list[Call]
) -> None:
    """Not before each of a thousand pages."""
    bank.replies[ACCOUNTS] = says(PAGE)
    await _read(rolling, calls)
    files.renew()
    clock.advance(seconds=58)
    await _read(rolling, calls)
    clock.advance(seconds=3)
    await _read(rolling, calls)

    assert [one == files.load().thumbprint for one in _shown(bank)] == [False, False, True]


async def test_calls_under_way_end_on_the_old_connections(
    bank: RawBank, rolling: LFIClient, files: Files, clock: MovableClock, calls: list[Call]
) -> None:
    """One call hangs at the bank while the next ones already go over the new certificate; none is lost."""
    goes_on, arrived = asyncio.Event(), asyncio.Event()

    async def slow_at_first(_request: Request, writer: asyncio.StreamWriter) -> None:
        if not arrived.is_set():
            arrived.set()
            await goes_on.wait()
        writer.write(PAGE)

    bank.replies[ACCOUNTS] = slow_at_first
    old = rolling.certificate.thumbprint
    first = asyncio.create_task(_read(rolling, calls))
    await arrived.wait()
    files.renew()
    clock.advance(seconds=61)
    await _read(rolling, calls)
    goes_on.set()
    await first

    assert _shown(bank) == [old, files.load().thumbprint]
    assert [call.status for call in calls] == [200, 200]


@pytest.mark.parametrize("half", ["certificate", "key"])
async def test_half_of_a_new_pair_leaves_the_old_one_in_use_and_says_so_once(
    half: str, bank: RawBank, rolling: LFIClient, files: Files, clock: MovableClock, calls: list[Call]
) -> None:
    """The other half may come minutes later; a mismatch for good is told in the log and by `doctor`."""
    bank.replies[ACCOUNTS] = says(PAGE)
    old = rolling.certificate.thumbprint
    files.renew(certificate=half == "certificate", key=half == "key")
    with structlog.testing.capture_logs() as events:
        for _ in range(3):
            clock.advance(seconds=61)
            await _read(rolling, calls)

    told = [event for event in events if event["event"] == TOLD]
    assert (_shown(bank), len(told), "does not belong to" in told[0]["why"]) == ([old] * 3, 1, True)


async def test_the_second_half_completes_the_change(
    bank: RawBank, rolling: LFIClient, files: Files, clock: MovableClock, calls: list[Call]
) -> None:
    """Certificate first, key two minutes later: no call fails in between."""
    bank.replies[ACCOUNTS] = says(PAGE)
    old = rolling.certificate.thumbprint
    files.renew(key=False)
    clock.advance(seconds=61)
    await _read(rolling, calls)
    files.complete()
    clock.advance(seconds=61)
    await _read(rolling, calls)

    assert _shown(bank) == [old, files.load().thumbprint]


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"-----BEGIN CERT")], ids=["gone", "cut"])
async def test_a_file_that_is_gone_or_cut_changes_nothing(
    spoil: Callable[[Path], object],
    bank: RawBank,
    rolling: LFIClient,
    files: Files,
    clock: MovableClock,
    calls: list[Call],
) -> None:
    """The certificate that is loaded is good until it ends."""
    bank.replies[ACCOUNTS] = says(PAGE)
    old = rolling.certificate.thumbprint
    spoil(files.certificate)
    clock.advance(seconds=61)
    await _read(rolling, calls)

    assert _shown(bank) == [old]


async def test_a_refused_handshake_looks_for_a_new_certificate_at_once(
    bank: RawBank, rolling: LFIClient, files: Files, config: LFIConfig, clock: MovableClock, calls: list[Call]
) -> None:
    """The bank no longer takes ours; its successor is found by the next attempt, without waiting for the minute."""
    bank.replies[ACCOUNTS] = says(PAGE)
    files.renew(trusted=False)
    turned_away = LFIClient(dataclasses.replace(config, transport=files.load()), clock=clock, sleep=_never)
    try:
        with pytest.raises(LFIUnavailableError):
            await turned_away.refresh(SecretStr("rt"), calls=calls.append)
        files.renew()
        await _read(turned_away, calls)
    finally:
        await turned_away.close()

    assert _shown(bank) == [files.load().thumbprint]


async def _never(_seconds: float) -> None:
    await asyncio.sleep(0)


async def test_a_token_of_our_own_is_asked_for_anew_with_a_new_certificate(
    bank: RawBank, rolling: LFIClient, files: Files, clock: MovableClock, calls: list[Call]
) -> None:
    """Rule 23: it is bound to the certificate, so the one kept is of no use."""
    bank.replies["/token"] = says(
        *(http(body=json_of({"access_token": f"cc-{number}", "expires_in": 6000})) for number in (1, 2))
    )
    view = {"Data": {"ConsentId": "c-1", "Status": "Authorized"}}
    path = f"{BASE_PATH}/account-access-consents/c-1"
    bank.replies[path] = says(http(body=json_of(view)))
    for _ in range(2):
        await rolling.read_consent(ConsentId("c-1"), calls=calls.append)
        files.renew()
        clock.advance(seconds=61)
    await rolling.read_consent(ConsentId("c-1"), calls=calls.append)

    assert [request.headers["authorization"] for request in bank.heard(path)] == [
        "Bearer cc-1",
        "Bearer cc-2",
        "Bearer cc-2",
    ]
    assert len(bank.heard("/token")) == 3


async def test_a_client_with_old_connections_closes_them_all(
    bank: RawBank, files: Files, config: LFIConfig, clock: MovableClock, calls: list[Call]
) -> None:
    """Also those of a certificate before the one before."""
    bank.replies[ACCOUNTS] = says(PAGE)
    client = LFIClient(dataclasses.replace(config, transport=files.load()), clock=clock, sleep=_never)
    for _ in range(3):
        await _read(client, calls)
        files.renew()
        clock.advance(seconds=61)
    await client.close()

    assert (bank.connections, len(set(_shown(bank)))) == (3, 3)


def test_with_tls_1_2_only_the_recommended_ciphers_are_offered(config: LFIConfig) -> None:
    """BCP 195, as FAPI 2.0 §5.2.2 asks."""
    offered = {entry["name"] for entry in mtls_context(config).get_ciphers() if entry["protocol"] == "TLSv1.2"}

    assert offered == {
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES256-GCM-SHA384",
    }


@pytest.mark.parametrize(
    ("left", "announced"),
    [
        pytest.param(timedelta(days=61), None, id="far off"),
        pytest.param(timedelta(days=60, seconds=1), None, id="a second more than 60 days"),
        pytest.param(timedelta(days=60), 60, id="60 days"),
        pytest.param(timedelta(days=30, seconds=1), 60, id="a second more than 30 days"),
        pytest.param(timedelta(days=31), 60, id="31 days"),
        pytest.param(timedelta(days=30), 30, id="30 days"),
        pytest.param(timedelta(days=14), 14, id="14 days"),
        pytest.param(timedelta(days=14, seconds=1), 30, id="a second more than 14 days"),
        pytest.param(timedelta(days=7, seconds=1), 14, id="a second more than 7 days"),
        pytest.param(timedelta(days=7), 7, id="7 days"),
        pytest.param(timedelta(seconds=1), 7, id="a second"),
        pytest.param(timedelta(0), 0, id="ended"),
    ],
)
def test_an_end_is_announced_by_thresholds(left: timedelta, announced: int | None) -> None:
    """60, 30, 14 and 7 days before it."""
    now = datetime(2026, 11, 21, tzinfo=UTC)

    assert days_announced(now + left, now=now) == announced


def test_the_end_of_a_certificate_is_read_without_its_key(identities: Identities) -> None:
    """For a signing certificate, whose key lies elsewhere; what is none is named."""
    end = certificate_end(identities.client_certificate, field="client.signing_certificate")

    assert timedelta(days=29) < end - datetime.now(UTC) < timedelta(days=31)
    with pytest.raises(SettingsError, match=r"^client\.signing_certificate: .* holds no PEM certificate"):
        certificate_end(identities.client_key, field="client.signing_certificate")

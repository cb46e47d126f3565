"""Where a sender's keys come from: a JWKS over real TLS, bounded in size and time, asked at most once a minute."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from syncworker.errors import LFIUnavailableError, SettingsError, StandardViolationError, SyncWorkerError
from syncworker.lfi import senders
from syncworker.lfi.jose import UnknownKeyError, read_keys
from syncworker.lfi.senders import KeyFetcher, KeyNotYetKnownError, Published, Sender, SenderKeys
from syncworker.standard.values import Slug
from tests.ground.clock import ManualClock
from tests.lfi.raw_bank import Identities, http, issue, new_key

pytestmark = pytest.mark.flow

ISSUER = "https://auth1.noor.example"


@dataclass
class KeyStore:
    """A server of published keys that asks for no certificate; says the bytes a test wrote.

    Attributes:
        answer: what every request gets; empty: it hangs.
    """

    identities: Identities
    answer: bytes = b""
    heard: list[str] = field(default_factory=list)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            self.heard.append((await reader.readuntil(b"\r\n\r\n")).decode())
            if self.answer:
                writer.write(self.answer)
                await writer.drain()
            else:
                await reader.read()  # until the other side gives up
            writer.close()


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return Identities(tmp_path_factory.mktemp("keystore"))


@pytest.fixture
async def keystore(identities: Identities) -> AsyncIterator[KeyStore]:
    store = KeyStore(identities)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(identities.server_certificate, identities.server_key)
    server = await asyncio.start_server(store.serve, "127.0.0.1", 0, ssl=context)
    store.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks"
    yield store
    server.close()


@pytest.fixture
async def fetch(keystore: KeyStore, clock: ManualClock) -> AsyncIterator[KeyFetcher]:
    async with KeyFetcher(ca_bundle=keystore.identities.ca_bundle, clock=clock, private={keystore.url}) as fetcher:
        yield fetcher


def sender(url: str = "https://keystore.example/jwks") -> Sender:
    return Sender(issuer=ISSUER, jwks_url=url, allow_private_hosts=True)


async def test_keys_are_read_and_kept_as_long_as_the_answer_says(keystore: KeyStore, fetch: KeyFetcher) -> None:
    """At most five minutes; no certificate and no cookie of ours is shown."""
    body = json.dumps(keystore.identities.jwks("k-1", "k-2")).encode()
    keystore.answer = http(body=body, cache_control="max-age=60", set_cookie="a=b")
    short = await fetch(keystore.url)
    keystore.answer = http(body=body, cache_control="max-age=86400")
    long = await fetch(keystore.url)

    assert (set(short.by_kid), short.keep, long.keep) == ({"k-1", "k-2"}, timedelta(seconds=60), timedelta(minutes=5))
    assert not [head for head in keystore.heard if "cookie" in head.lower()]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(http(503, retry_after="7"), LFIUnavailableError, id="503"),
        pytest.param(
            http(302, location="https://127.0.0.1/other"), LFIUnavailableError, id="a redirect is not followed"
        ),
        pytest.param(http(body=b"<html>"), StandardViolationError, id="no JSON"),
        pytest.param(http(body=b"[]"), StandardViolationError, id="no JWKS"),
        pytest.param(http(body=b"[" * 200_000), StandardViolationError, id="nested deep"),
        pytest.param(http(body=b"a" * 1_100_000), StandardViolationError, id="larger than a megabyte"),
        pytest.param(b"HTTP/9 what\r\n\r\n", LFIUnavailableError, id="no HTTP"),
    ],
)
async def test_what_is_no_jwks_is_no_key(
    keystore: KeyStore, fetch: KeyFetcher, answer: bytes, error: type[SyncWorkerError]
) -> None:
    """A stranger's server may say anything."""
    keystore.answer = answer

    with pytest.raises(error):
        await fetch(keystore.url)


async def test_an_answer_that_does_not_come_is_not_waited_for(
    keystore: KeyStore, fetch: KeyFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deadline of ours ends it."""
    monkeypatch.setattr(senders, "FETCH_DEADLINE_S", 0.2)

    with pytest.raises(LFIUnavailableError, match="TimeoutError"):
        await fetch(keystore.url)


async def test_a_server_nobody_vouches_for_is_not_believed(
    keystore: KeyStore, clock: ManualClock, tmp_path: Path
) -> None:
    """Keys come over verified TLS only."""
    keystore.answer = http(body=json.dumps(keystore.identities.jwks("k-1")).encode())
    key = new_key()
    other = issue(tmp_path / "other.pem", "other root", key, signer=key, ca=True)

    async with KeyFetcher(ca_bundle=other, clock=clock, private={keystore.url}) as fetch:
        with pytest.raises(LFIUnavailableError, match="ConnectError"):
            await fetch(keystore.url)
    assert keystore.heard == []


@pytest.mark.unit
def test_a_bundle_that_holds_nothing_is_named(tmp_path: Path, clock: ManualClock) -> None:
    """With the setting and the fix."""
    (tmp_path / "empty.pem").touch()

    with pytest.raises(SettingsError, match=r"client\.ca_bundle: cannot use .*empty\.pem; give a PEM file of roots"):
        KeyFetcher(ca_bundle=tmp_path / "empty.pem", clock=clock)


@pytest.mark.unit
@pytest.mark.parametrize(
    "url", ["http://keystore.example/jwks", "https://u:p@keystore.example/jwks", "https://127.0.0.1/"]
)
def test_keys_come_from_a_public_https_address(url: str) -> None:
    """Unless the operator says that it is a sandbox of his own."""
    with pytest.raises(SettingsError, match=r'^events\.senders\."https://auth1\.noor\.example"\.jwks_url: '):
        Sender(issuer=ISSUER, jwks_url=url)


@pytest.mark.unit
def test_a_sender_speaks_of_the_lfis_it_was_trusted_for() -> None:
    """Of every one when none is named."""
    named = Sender(issuer=ISSUER, jwks_url="https://keystore.example/jwks", lfis=frozenset({Slug("noor")}))

    assert (named.may_speak_of(Slug("noor")), named.may_speak_of(Slug("other"))) == (True, False)
    assert sender().may_speak_of(Slug("other"))


@dataclass
class Held:
    """A fetch that answers when the test says so."""

    published: Published
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    calls: int = 0

    async def __call__(self, _url: str) -> Published:
        self.calls += 1
        await self.opened.wait()
        return self.published


@pytest.fixture
def held(identities: Identities) -> Held:
    return Held(Published(read_keys(identities.jwks("k-1"))))


@pytest.mark.unit
async def test_nobody_waits_for_a_look_a_strange_kid_began(held: Held, clock: ManualClock) -> None:
    """While one is under way at a slow server, events signed with known keys pass; strangers share its outcome."""
    keys, noor = SenderKeys(held, clock=clock), sender()
    held.opened.set()
    await keys.key(noor, "k-1")
    held.opened.clear()
    clock.advance(seconds=61)

    strangers = [asyncio.create_task(keys.key(noor, f"strange-{number}")) for number in range(5)]
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        known = await keys.key(noor, "k-1")
    under_way = [task.done() for task in strangers]
    held.opened.set()
    outcomes = await asyncio.gather(*strangers, return_exceptions=True)

    assert known is held.published.by_kid["k-1"]
    assert (under_way, [type(one) for one in outcomes], held.calls) == ([False] * 5, [UnknownKeyError] * 5, 2)


@pytest.mark.unit
async def test_a_withdrawn_key_is_not_trusted_past_its_keep(held: Held, clock: ManualClock) -> None:
    """Five minutes after they were read keys are read again, and what is gone is gone."""
    keys, noor = SenderKeys(held, clock=clock), sender()
    held.opened.set()
    await keys.key(noor, "k-1")
    held.published = Published({})
    clock.advance(minutes=4, seconds=59)
    await keys.key(noor, "k-1")
    clock.advance(seconds=1)

    with pytest.raises(UnknownKeyError):
        await keys.key(noor, "k-1")


@pytest.mark.unit
async def test_only_a_look_that_began_after_an_event_came_proves_its_key_unknown(
    held: Held, identities: Identities, clock: ManualClock
) -> None:
    """Within a minute of the last look a new key cannot be told from a made-up one; after it a look decides."""
    keys, noor = SenderKeys(held, clock=clock), sender()
    held.opened.set()
    await keys.key(noor, "k-1")
    clock.advance(seconds=20)
    held.published = Published(read_keys(identities.jwks("k-1", "k-2")))

    with pytest.raises(KeyNotYetKnownError) as too_soon:
        await keys.key(noor, "k-2")
    clock.advance(seconds=40)

    assert (too_soon.value.retry_after, keys.holds(noor, "k-2"), held.calls) == (40, False, 1)
    assert await keys.key(noor, "k-2") is held.published.by_kid["k-2"]
    assert (keys.holds(noor, "k-2"), held.calls) == (True, 2)
    clock.advance(seconds=60)
    with pytest.raises(UnknownKeyError):
        await keys.key(noor, "k-3")


@pytest.mark.unit
async def test_a_look_that_failed_proves_nothing(identities: Identities, clock: ManualClock) -> None:
    """The keys read before serve on; a key that is not among them may be published all the same."""
    answers: list[Published | LFIUnavailableError] = [
        Published(read_keys(identities.jwks("k-1"))),
        LFIUnavailableError("no answer"),
    ]

    async def fetch(_url: str) -> Published:
        answer = answers.pop(0)
        if isinstance(answer, LFIUnavailableError):
            raise answer
        return answer

    keys, noor = SenderKeys(fetch, clock=clock), sender()
    await keys.key(noor, "k-1")
    clock.advance(seconds=60)

    with pytest.raises(KeyNotYetKnownError):
        await keys.key(noor, "k-2")

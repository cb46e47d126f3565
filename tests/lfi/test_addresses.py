"""A name is resolved once for a connection, and only addresses that were looked at are connected to."""

import asyncio
import dataclasses
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohappyeyeballs
import httpcore
import pytest
from httpcore import AsyncNetworkStream

from syncworker.errors import RequestError, SetupError
from syncworker.lfi import checkup, participants
from syncworker.lfi.addresses import Addresses, Lookup, PrivateHostError, alternating, first_connected
from syncworker.lfi.bounds import is_private_host, is_public_address
from syncworker.lfi.checkup import Verdict
from syncworker.lfi.directory import LFIConfig
from syncworker.lfi.senders import KeyFetcher
from syncworker.lfi.transport import (
    AiohttpTransport,
    Attempts,
    Call,
    ControlTransport,
    Lane,
    Lines,
    NoAnswerError,
    Request,
    UntrustedServerError,
    mtls_context,
)
from tests.lfi.conftest import MovableClock
from tests.lfi.raw_bank import RawBank, http, says

NAME = "rs1.bank.example"
PUBLIC = "8.8.8.8"
KINDS = pytest.mark.parametrize("kind", [AiohttpTransport, ControlTransport])

Kind = type[AiohttpTransport | ControlTransport]


class Names:
    """A name server that gives each answer once, the last one for ever, and remembers what it was asked for."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._left = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, _port: int) -> Sequence[str]:
        self.asked.append(host)
        answer = self._left.pop(0) if len(self._left) > 1 else self._left[0]
        if not answer:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return answer


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::808:808", True),
        ("0.0.0.0", False),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("100.127.255.254", False),
        ("192.0.2.1", False),
        ("198.18.0.1", False),
        ("224.0.0.1", False),
        ("239.255.255.250", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::127.0.0.1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:0:10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("64:ff9b:1::1", False),
        ("2002:7f00:1::1", False),
        ("2001::1", False),
        ("fc00::1", False),
        ("fd12:3456::1", False),
        ("fe80::1", False),
        ("fe80::1%2", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("2001:db8::1", False),
        ("bank.example", False),
        ("", False),
    ],
)
def test_an_address_is_public_or_it_is_not_called(address: str, public: bool) -> None:
    """One rule, for addresses in URLs and for what names resolve to; what is no address is not public."""
    assert is_public_address(address) is public
    if ":" in address:
        assert is_private_host(f"https://[{address}]/x") is not public


@KINDS
@pytest.mark.parametrize(
    "resolved",
    [
        pytest.param(["127.0.0.1"], id="this machine"),
        pytest.param(["10.0.0.7"], id="a private network"),
        pytest.param(["::ffff:127.0.0.1"], id="mapped"),
        pytest.param([PUBLIC, "192.168.1.1"], id="one of two"),
        pytest.param(["2001:4860:4860::8888", "fd00::1"], id="one of two, version 6"),
    ],
)
async def test_a_name_that_resolves_to_a_private_address_is_refused(
    kind: Kind, resolved: list[str], bank: RawBank, config: LFIConfig
) -> None:
    """As the address itself would be, and nothing is opened."""
    names = Names(resolved)
    transport = _transport(kind, config, names)
    port = bank.origin.rpartition(":")[2]

    with pytest.raises(PrivateHostError, match="allow_private_hosts"):
        await transport.send("GET", f"https://{NAME}:{port}/x", {}, 5)
    await transport.close()

    assert (names.asked, bank.connections) == ([NAME], 0)


@KINDS
async def test_a_name_that_changes_after_the_look_leads_nowhere_else(
    kind: Kind, bank: RawBank, config: LFIConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: public when it is looked at, this machine a moment later.  There is no second look."""
    names = Names([PUBLIC], ["127.0.0.1"])
    tried: list[str] = []

    async def start_connection(infos: Sequence[Any], **_: object) -> socket.socket:
        tried.extend(info[4][0] for info in infos)
        raise OSError("not connected from a test")

    async def connect_tcp(_: object, host: str, port: int, **__: object) -> AsyncNetworkStream:
        tried.append(host)
        raise httpcore.ConnectError("not connected from a test")

    monkeypatch.setattr(aiohappyeyeballs, "start_connection", start_connection)
    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect_tcp)
    transport = _transport(kind, config, names)
    port = bank.origin.rpartition(":")[2]

    with pytest.raises(NoAnswerError):
        await transport.send("GET", f"https://{NAME}:{port}/x", {}, 5)
    await transport.close()

    assert (names.asked, set(tried), bank.connections) == ([NAME], {PUBLIC}, 0)


@KINDS
async def test_with_leave_a_name_leads_to_this_machine_and_its_certificate_is_checked_by_the_name(
    kind: Kind, bank: RawBank, config: LFIConfig
) -> None:
    """The bank's certificate is for `localhost`: for another name that leads to the same address it does not verify."""
    bank.replies["/x"] = says(http(body=b"{}"))
    names = Names(["127.0.0.1"])
    transport = _transport(kind, config, names, allowed=True)
    port = bank.origin.rpartition(":")[2]

    answer = await transport.send("GET", f"https://localhost:{port}/x", {}, 5)
    await transport.send("GET", f"https://localhost:{port}/x", {}, 5)
    with pytest.raises(UntrustedServerError):
        await transport.send("GET", f"https://{NAME}:{port}/x", {}, 5)
    await transport.close()

    hosts = [request.headers["host"] for request in bank.heard("/x")]
    assert (answer.status, names.asked, hosts) == (200, ["localhost", NAME], [f"localhost:{port}"] * 2)


@KINDS
async def test_a_second_address_serves_when_the_first_refuses(kind: Kind, bank: RawBank, config: LFIConfig) -> None:
    """Where a host has several addresses, one that does not answer costs no call."""
    bank.replies["/x"] = says(http(body=b"{}"))
    transport = _transport(kind, config, Names(["127.0.0.9", "127.0.0.1"]), allowed=True)
    port = bank.origin.rpartition(":")[2]

    answer = await transport.send("GET", f"https://localhost:{port}/x", {}, 10)
    await transport.close()

    assert answer.status == 200


@KINDS
async def test_a_name_without_an_address_is_a_lost_connection(kind: Kind, config: LFIConfig) -> None:
    """A name server that is away is no fault of ours: time mends it."""
    transport = _transport(kind, config, Names([]))

    with pytest.raises(NoAnswerError) as failed:
        await transport.send("GET", f"https://{NAME}/x", {}, 5)
    await transport.close()

    assert failed.value.reason == "lost"


@KINDS
async def test_a_private_address_in_a_url_is_refused_where_connections_are_opened_too(
    kind: Kind, bank: RawBank, config: LFIConfig
) -> None:
    """Whatever let it through before."""
    transport = _transport(kind, config, _system_like)

    with pytest.raises(PrivateHostError):
        await transport.send("GET", f"{bank.origin}/x", {}, 5)
    await transport.close()

    assert bank.connections == 0


@pytest.mark.parametrize("lane", list(Lane))
async def test_on_every_lane_the_attempt_is_counted_and_told_as_a_matter_of_setup(
    lane: Lane, bank: RawBank, config: LFIConfig, clock: MovableClock, calls: list[Call]
) -> None:
    """`private_host` in the table `call`; the message names the setting and no address."""
    config = dataclasses.replace(_elsewhere(config), allow_private_hosts=False)
    lines = Lines(config, clock=clock, lookup=Names(["10.0.0.7"]))
    attempts = Attempts(config.slug, lines, clock=clock)
    asked = Request(
        operation="GetX",
        method="GET",
        url=f"https://{NAME}/x",
        lane=lane,
        deadline=5.0,
        calls=calls.append,
        code_of=lambda _: "",
    )

    with pytest.raises(SetupError, match=r"lfis\.raw\.allow_private_hosts: ") as refused:
        await attempts.make(asked)
    await lines.close()

    assert [(call.status, call.error_code) for call in calls] == [(None, "private_host")]
    assert "10.0.0.7" not in str(refused.value)


async def test_keys_of_a_sender_are_read_from_public_addresses_alone(bank: RawBank, clock: MovableClock) -> None:
    """Unless its URL was given leave."""
    url = f"https://{NAME}:{bank.origin.rpartition(':')[2]}/jwks"
    async with KeyFetcher(clock=clock, lookup=Names(["127.0.0.1"]), private={"https://other.example/jwks"}) as fetch:
        with pytest.raises(SetupError, match="private network"):
            await fetch(url)

    assert bank.connections == 0


async def test_a_participants_document_is_read_from_public_addresses_alone(bank: RawBank) -> None:
    """A name is judged as its address is, with the same words."""
    url = f"https://{NAME}:{bank.origin.rpartition(':')[2]}/participants"

    with pytest.raises(RequestError, match="--allow-private-hosts"):
        await participants.fetch(url, rules=participants.Rules(), lookup=Names(["127.0.0.1"]))

    assert bank.connections == 0


async def test_a_checkup_finds_a_name_that_resolves_to_a_private_address(
    bank: RawBank, config: LFIConfig, clock: MovableClock
) -> None:
    """Before anything is sent there."""
    config = dataclasses.replace(_elsewhere(config), allow_private_hosts=False)

    findings = [finding async for finding in checkup.walk(config, clock=clock, lookup=Names(["127.0.0.1"]))]

    said = {finding.check: finding for finding in findings}
    assert said["discovery host"].verdict is Verdict.BAD
    assert "resolves to this machine or a private network" in said["discovery host"].said
    assert said["discovery document"].verdict is Verdict.BAD
    assert bank.connections == 0


# -- several addresses (RFC 8305) -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        ([], []),
        (["1.1.1.1"], ["1.1.1.1"]),
        (["::a", "::b", "1.1.1.1"], ["::a", "1.1.1.1", "::b"]),
        (["1.1.1.1", "1.1.1.2", "::a"], ["1.1.1.1", "::a", "1.1.1.2"]),
    ],
)
def test_families_take_turns(addresses: list[str], expected: list[str]) -> None:
    """Beginning with the one the resolver put first."""
    assert alternating(addresses) == expected


class Stream(AsyncNetworkStream):
    """A connection that knows whether it was closed."""

    def __init__(self) -> None:
        self.closed = False

    async def aclose(self) -> None:
        self.closed = True


async def test_an_address_that_hangs_holds_up_nothing() -> None:
    """The next one is tried beside it; the attempt that hangs is given up when the other is connected."""
    gone: list[str] = []
    stream = Stream()

    async def connect(address: str) -> AsyncNetworkStream:
        if address == "hangs":
            try:
                await asyncio.Event().wait()
            finally:
                gone.append(address)
        return stream

    assert await first_connected(["hangs", "answers"], connect, delay_s=0) is stream
    assert (gone, stream.closed) == (["hangs"], False)


async def test_a_connection_that_came_second_is_closed() -> None:
    """Of two that connect at the same moment one is used."""
    together = asyncio.Event()
    streams = {"a": Stream(), "b": Stream()}

    async def connect(address: str) -> AsyncNetworkStream:
        if address == "b":
            together.set()
        await together.wait()
        return streams[address]

    won = await first_connected(["a", "b"], connect, delay_s=0)

    assert sorted(stream.closed for stream in streams.values()) == [False, True]
    assert won in streams.values()


async def test_when_no_address_answers_the_last_ones_fault_is_told() -> None:
    """Each was tried once."""
    tried: list[str] = []

    async def connect(address: str) -> AsyncNetworkStream:
        tried.append(address)
        raise httpcore.ConnectError(address)

    with pytest.raises(httpcore.ConnectError, match="b"):
        await first_connected(["a", "b"], connect)
    assert tried == ["a", "b"]


# -- helpers ----------------------------------------------------------------------------------------------------------


async def _system_like(host: str, _port: int) -> Sequence[str]:
    """What a resolver gives for an address: itself."""
    return [host]


def _transport(
    kind: Kind,
    config: LFIConfig,
    lookup: Lookup | Callable[[str, int], Awaitable[Sequence[str]]],
    *,
    allowed: bool = False,
) -> AiohttpTransport | ControlTransport:
    addresses = Addresses(allow_private_hosts=allowed, lookup=lookup)
    return kind(mtls_context(config), addresses=addresses, connections=1, connect_timeout=5)


def _elsewhere(config: LFIConfig) -> LFIConfig:
    """The same LFI under names."""
    origin = f"https://{NAME}"
    return dataclasses.replace(
        config,
        issuer=origin,
        discovery_url=f"{origin}/.well-known/openid-configuration",
        base_urls=dict.fromkeys(config.base_urls, f"{origin}/v"),
    )

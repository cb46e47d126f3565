"""What aiohttp carries: sent exactly once, on connections of each lane's own, and nothing of it in a repr."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from syncworker.lfi.addresses import Addresses
from syncworker.lfi.api import LFIClient, Page
from syncworker.lfi.directory import LFIConfig
from syncworker.lfi.oauth import data_error_code
from syncworker.lfi.transport import (
    AiohttpTransport,
    Answer,
    Call,
    ControlTransport,
    Lane,
    NoAnswerError,
    OversizedAnswerError,
    Request,
    mtls_context,
)
from syncworker.standard.resources import BY_NAME, ResourceName
from syncworker.standard.versions import Version
from tests.lfi import raw_bank
from tests.lfi.conftest import ClientMaker
from tests.lfi.raw_bank import BASE_PATH, RawBank, cuts, hangs, http, json_of, says

pytestmark = pytest.mark.live

OK = http(body=b"{}")
TOKENS = {"access_token": "at-1", "refresh_token": "rt-2", "token_type": "Bearer", "expires_in": 600}


@pytest.fixture
async def transport(config: LFIConfig) -> AsyncIterator[AiohttpTransport]:
    """One connection, so that a second call meets what the first one left."""
    transport = AiohttpTransport(
        mtls_context(config), addresses=Addresses(allow_private_hosts=True), connections=1, connect_timeout=5
    )
    yield transport
    await transport.close()


async def closes(_request: raw_bank.Request, writer: asyncio.StreamWriter) -> None:
    """Reads the whole request, then ends the connection as one ends a connection."""
    writer.close()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("end", [closes, cuts])
async def test_what_meets_a_kept_connection_that_ends_is_sent_once(
    end: Callable[[raw_bank.Request, asyncio.StreamWriter], Awaitable[None]],
    method: str,
    bank: RawBank,
    transport: AiohttpTransport,
) -> None:
    """aiohttp would send an idempotent method again by itself; whether it arrived is not for it to guess (rule 20)."""
    turns = [says(OK), end, says(OK)]

    async def reply(request: raw_bank.Request, writer: asyncio.StreamWriter) -> None:
        await turns.pop(0)(request, writer)

    bank.replies["/x"] = reply
    form = {"a": "1"} if method == "POST" else None
    await transport.send(method, f"{bank.origin}/x", {}, 5, form=form)
    with pytest.raises(NoAnswerError) as lost:
        await transport.send(method, f"{bank.origin}/x", {}, 5, form=form)
    answer = await transport.send(method, f"{bank.origin}/x", {}, 5, form=form)

    assert (lost.value.reason, lost.value.status, answer.status) == ("lost", None, 200)
    assert (len(bank.heard("/x")), bank.connections) == (3, 2)


async def test_the_bound_holds_whatever_length_an_answer_claims(bank: RawBank, transport: AiohttpTransport) -> None:
    """Chunks go before a length: a small claim lets nothing large in."""
    large = b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    large += b"%x\r\n" % 11_000_000 + b"x" * 11_000_000 + b"\r\n0\r\n\r\n"
    bank.replies["/x"] = says(large, OK)
    with pytest.raises(OversizedAnswerError):
        await transport.send("GET", f"{bank.origin}/x", {}, 30)

    assert (await transport.send("GET", f"{bank.origin}/x", {}, 5)).body == b"{}"
    assert bank.connections == 2


async def test_an_answer_that_was_read_leaves_its_connection_for_the_next(
    bank: RawBank, transport: AiohttpTransport
) -> None:
    """Small or large, whole or in chunks, with a body or without."""
    chunked = b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    bank.replies["/x"] = says(OK, http(body=b" " * 300_000), chunked, http(204), http(404), OK)

    sizes = [(await transport.send("GET", f"{bank.origin}/x", {}, 10)).bytes_in for _ in range(6)]

    assert (sizes, bank.connections) == ([2, 300_000, 2, 0, 0, 2], 1)


async def test_a_token_call_does_not_stand_behind_data(
    bank: RawBank, client_of: ClientMaker, calls: list[Call]
) -> None:
    """One connection a lane, and data hangs on its own: a refresh goes at once."""
    bank.replies[f"{BASE_PATH}/accounts"] = hangs
    bank.replies["/token"] = says(http(body=json_of(TOKENS)))
    client = client_of(connections=1)

    async def token(*, rejected: SecretStr | None = None) -> SecretStr:
        return SecretStr("t-1")

    async def read(reader: LFIClient) -> list[Page]:
        resource = BY_NAME[ResourceName.ACCOUNTS]
        walk = reader.pages(resource, None, version=Version.V2_1, params={}, token=token, calls=calls.append)
        return [page async for page in walk]

    reading = [asyncio.create_task(read(client)) for _ in range(3)]
    while not bank.heard(f"{BASE_PATH}/accounts"):  # noqa: ASYNC110  the bank tells nobody
        await asyncio.sleep(0.01)
    answer = await client.refresh(SecretStr("rt-1"), calls=calls.append)
    for one in reading:
        one.cancel()
    await asyncio.gather(*reading, return_exceptions=True)

    assert (answer.access_token, len(bank.heard(f"{BASE_PATH}/accounts"))) == (SecretStr("at-1"), 1)


@pytest.mark.parametrize("kind", [AiohttpTransport, ControlTransport])
async def test_nothing_is_sent_once_the_connections_are_closed(
    kind: type[AiohttpTransport | ControlTransport], bank: RawBank, config: LFIConfig
) -> None:
    """A call that waits while its transport is closed opens no connection: nothing would close it."""
    bank.replies["/hangs"], bank.replies["/x"] = hangs, says(OK)
    transport = kind(
        mtls_context(config), addresses=Addresses(allow_private_hosts=True), connections=1, connect_timeout=5
    )
    under_way = asyncio.create_task(transport.send("GET", f"{bank.origin}/hangs", {}, 20))
    while not bank.heard("/hangs"):  # noqa: ASYNC110  the bank gives no signal
        await asyncio.sleep(0.01)
    waiting = asyncio.create_task(transport.send("GET", f"{bank.origin}/x", {}, 20))
    await asyncio.sleep(0)

    await transport.close()
    ends = await asyncio.gather(under_way, waiting, return_exceptions=True)
    with pytest.raises(NoAnswerError, match="closed"):
        await transport.send("GET", f"{bank.origin}/x", {}, 20)

    assert [(type(end), getattr(end, "reason", None)) for end in ends] == [(NoAnswerError, "lost")] * 2
    assert (bank.heard("/x"), bank.connections) == ([], 1)


def test_what_is_made_for_each_call_shows_no_secret() -> None:
    """Bodies, headers, forms and links may hold tokens and people's data."""
    answer = Answer(200, {"set-cookie": "secret"}, b"secret", 6)
    request = Request(
        operation="CreateAccessTokenRequest",
        method="POST",
        url="https://bank.example/secret",
        lane=Lane.TOKEN,
        deadline=5,
        calls=lambda _call: None,
        code_of=data_error_code,
        headers={"Authorization": "secret"},
        form={"refresh_token": "secret"},
    )
    page = Page(
        number=1,
        data=b"secret",
        next_url="https://bank.example/?after=secret",
        total_pages=None,
        first_available=datetime(2026, 1, 1, tzinfo=UTC),
        last_available=None,
    )

    assert [repr(one) for one in (answer, request, page)] == [
        "Answer(status=200, bytes_in=6)",
        "Request(POST CreateAccessTokenRequest)",
        "Page(number=1)",
    ]

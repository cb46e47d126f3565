"""What the server takes before a request has shown a key: so much head, so many connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from syncworker.cli.web import HEAD_BYTES_MAX, SERVING
from tests.ground.postgres import free_port

pytestmark = pytest.mark.live


async def hello(_scope: Scope, _receive: Receive, send: Send) -> None:
    """An application that is glad of whatever comes."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


@asynccontextmanager
async def served(**changes: Any) -> AsyncIterator[int]:
    """Its port."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(hello, host="127.0.0.1", port=port, **SERVING | changes))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  uvicorn tells it by this alone
        await asyncio.sleep(0.01)
    yield port
    server.should_exit = True
    await serving


async def asked(port: int, head: bytes) -> bytes:
    """The first line of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET / HTTP/1.1\r\nhost: here\r\n" + head)
        await writer.drain()
        return (await asyncio.wait_for(reader.readline(), 30)).strip()
    finally:
        writer.close()


async def test_headers_without_end_are_cut_off() -> None:
    """An end is not waited for; a long head that ends is served."""
    async with served() as port:
        long = await asked(port, b"x-long: " + b"x" * 8_000 + b"\r\nconnection: close\r\n\r\n")
        endless = await asked(port, b"x-endless: " + b"x" * (HEAD_BYTES_MAX + 1))
        many = await asked(port, b"x-many: 1\r\n" * (HEAD_BYTES_MAX // 8))

    assert (long, endless, many) == (b"HTTP/1.1 200 OK", b"HTTP/1.1 400 Bad Request", b"HTTP/1.1 400 Bad Request")


async def test_one_connection_too_many_is_sent_away() -> None:
    """As many as may be open are; the next is told to come later."""
    async with served(limit_concurrency=3) as port:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        answer = await asked(port, b"connection: close\r\n\r\n")
        for _, writer in idle:
            writer.close()

    assert answer == b"HTTP/1.1 503 Service Unavailable"

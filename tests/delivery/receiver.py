"""A product's endpoint: an HTTP server on loopback that keeps what it was sent and answers as told."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import standardwebhooks


@dataclass
class Received:
    """One POST."""

    headers: Mapping[str, str]
    body: bytes

    @property
    def message_id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def content(self) -> Any:
        return json.loads(self.body)

    def verified(self, secret: str) -> Any:
        """The content, if one of its signatures is of this secret; raises otherwise."""
        return standardwebhooks.Webhook(secret).verify(self.body, dict(self.headers))


@dataclass
class Product:
    """The endpoint.

    Attributes:
        answer: status for what came; may wait before it answers.
        received: in the order of arrival, refused ones too.
    """

    url: str = ""
    received: list[Received] = field(default_factory=list)
    answer: Callable[[Received], int] = lambda _: 204
    headers: str = ""
    hold: asyncio.Event | None = None
    serving: set[asyncio.Task[Any]] = field(default_factory=set)

    def about(self, connection_id: str) -> list[Any]:
        """What was taken about a connection, in order: the contents."""
        return [one.content for one in self.received if one.content["data"].get("connection_id") == connection_id]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.serving.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                pairs = (line.split(": ", 1) for line in head[1:] if ": " in line)
                headers = {name.lower(): value for name, value in pairs}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                came = Received(headers, body)
                self.received.append(came)
                if self.hold is not None:
                    await self.hold.wait()
                status = self.answer(came)
                writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: 0\r\n{self.headers}\r\n".encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def product() -> AsyncIterator[Product]:
    """A product that listens."""
    made = Product()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hooks?key=1"
    try:
        yield made
    finally:
        server.close()
        if made.hold is not None:
            made.hold.set()
        for task in made.serving:
            task.cancel()
        await asyncio.gather(*made.serving, return_exceptions=True)

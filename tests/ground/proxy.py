"""A TCP proxy on loopback that breaks on demand.

It knows nothing of what it carries, so it stands before PostgreSQL, Valkey and the simulated bank alike, under TLS too.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

_CHUNK = 64 * 1024


class _Link:
    """One carried connection."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near = near
        self.far = far
        self.frozen = False
        self.deaf = False  # what the target answers is swallowed, and the connection cut
        self.asking = False  # the last bytes came from the client

    def cut(self) -> None:
        """Reset both sides."""
        for writer in (self.near, self.far):
            writer.transport.abort()


class FaultProxy:
    """Carries connections to one target.

        async with FaultProxy(port) as proxy:
            connect(proxy.url(url))
            proxy.cut()

    Attributes:
        port: where it listens; stays the same through every fault.
        connections: how many were accepted so far.
        answers_lost: how many answers were swallowed by `cut_after_request` and `cut_answer_when`.
    """

    def __init__(self, target_port: int, target_host: str = "127.0.0.1") -> None:
        self.target = (target_host, target_port)
        self.port = 0
        self.connections = 0
        self.answers_lost = 0
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._frozen_new = False
        self._delay = 0.0
        self._requests_left = 0
        self._refusing = False
        self._processed: Callable[[], bool] | None = None

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def url(self, url: str) -> str:
        """The same URL, leading through the proxy."""
        parts = urlsplit(url)
        user, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{self.port}"))

    def cut(self) -> None:
        """Reset every connection; new ones work."""
        for link in tuple(self._links):
            link.cut()

    async def refuse(self) -> None:
        """Reset every connection and refuse new ones."""
        self._refusing = True
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    def blackhole(self, *, existing_only: bool = False) -> None:
        """Let bytes vanish without a word: connections stay open, nothing arrives, either way.

        Args:
            existing_only: connections made from now on work.
        """
        self._flowing.clear()
        self._frozen_new = not existing_only
        for link in self._links:
            link.frozen = True

    def delay(self, seconds: float) -> None:
        """Hold each piece of an answer back for so long."""
        self._delay = seconds

    def cut_after_request(self, n: int = 1) -> None:
        """Deliver the n-th request from now on, swallow its answer, and cut that connection.

        A request is a burst from the client after silence or an answer.  Under TLS the handshake of a new connection
        counts as two or three bursts: use it on a warm connection, or use `cut_answer_when`.
        """
        if n < 1:
            raise ValueError("requests are counted from 1")
        self._requests_left = n
        for link in self._links:
            link.asking = False

    def cut_answer_when(self, processed: Callable[[], bool]) -> None:
        """Swallow the first answer after `processed()` became true, and cut that connection.

        `processed` looks at the target: "its log holds one token call more".  It is asked when an answer arrives, so a
        target that notes a request before it answers makes this exact.
        """
        self._processed = processed

    async def heal(self) -> None:
        """End every fault.  What a black hole held back arrives now, late."""
        self._delay = 0.0
        self._requests_left = 0
        self._processed = None
        self._frozen_new = False
        for link in self._links:
            link.frozen = False
        self._flowing.set()
        if self._server is None:
            await self._listen()

    async def close(self) -> None:
        """Stop listening and drop everything."""
        await self.refuse()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # connections that were being accepted come to `_accept`, and go

    async def _listen(self) -> None:
        self._refusing = False
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:  # accepted in the moment in which the proxy stopped listening
            writer.transport.abort()
            return
        self.connections += 1
        task = asyncio.ensure_future(self._carry(reader, writer))
        task.add_done_callback(lambda _: writer.transport.abort())  # a task that is cancelled early never carried it
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, near_reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        try:
            far_reader, far = await asyncio.open_connection(*self.target)
        except OSError:
            near.transport.abort()
            return
        link = _Link(near, far)
        link.frozen = self._frozen_new
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(link, near_reader, far, from_client=True))
                group.create_task(self._pump(link, far_reader, near, from_client=False))
        finally:
            self._links.discard(link)
            link.cut()

    async def _pump(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_client: bool
    ) -> None:
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                while link.frozen:
                    await self._flowing.wait()
                if from_client:
                    self._count(link)
                else:
                    if self._delay:
                        await asyncio.sleep(self._delay)
                    if self._loses(link):
                        self.answers_lost += 1
                        link.cut()
                        return
                    link.asking = False
                writer.write(chunk)
                await writer.drain()
            if writer.can_write_eof() and not writer.is_closing():
                writer.write_eof()

    def _count(self, link: _Link) -> None:
        if not link.asking and self._requests_left:
            self._requests_left -= 1
            link.deaf = self._requests_left == 0
        link.asking = True

    def _loses(self, link: _Link) -> bool:
        if self._processed is not None and self._processed():
            self._processed = None
            return True
        return link.deaf

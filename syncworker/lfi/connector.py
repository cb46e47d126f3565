"""Open connections so that each socket has one owner, which closes it once, and only to addresses that may be called.

`Connector` is for aiohttp, `Opening` for httpx.

aiohttp connects a Python socket and hands it to the event loop for TLS.  A socket that is reset between its connect
and the first byte of TLS leaves two owners with uvloop (0.23): libuv closes the descriptor when the connection is lost,
then `create_connection` goes on and keeps the Python socket with the dead transport.  When that socket is collected, it
closes the descriptor a second time.  By then the number belongs to another connection: of another LFI, of the database,
of the broker.  That connection is dead without knowing it, and the next socket with the number fails with
`RuntimeError: File descriptor N is used by transport …`.

httpcore, under httpx, closes a connection whose TLS handshake fails, but not one whose handshake is cancelled, as a
deadline around the request cancels it.  Its socket stays open until the garbage is collected.
"""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

import aiohappyeyeballs
import aiohttp
from aiohappyeyeballs import AddrInfoType
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler

from syncworker.lfi.addresses import Addresses


class Resolver(AbstractResolver):
    """Gives aiohttp the addresses of a host that may be called; aiohttp connects to these and looks nothing up."""

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """As `Addresses.of`, of both families whatever `family` says."""
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in await self._addresses.of(host, port)
        ]

    async def close(self) -> None:
        """Nothing is open."""


class Connector(aiohttp.TCPConnector):
    """A `TCPConnector` whose sockets belong to the event loop alone as soon as it has been given them.

    Args:
        addresses: resolve host names, and say which addresses a connection may be opened to.
    """

    def __init__(self, addresses: Addresses, **options: Any) -> None:
        super().__init__(resolver=Resolver(addresses), **options)
        self._addresses = addresses

    async def _resolve_host(self, host: str, port: int, traces: Sequence[Any] | None = None) -> list[ResolveResult]:
        """As `TCPConnector`, which keeps a look for some seconds, and does not ask the resolver about an address.

        Raises:
            PrivateHostError: an address is not public.
            OSError: the host does not resolve.
        """
        found = await super()._resolve_host(host, port, traces)
        self._addresses.check(one["host"] for one in found)
        return found

    async def _wrap_create_connection(
        self,
        *args: Any,
        addr_infos: list[AddrInfoType],
        req: aiohttp.ClientRequest,
        timeout: aiohttp.ClientTimeout,
        client_error: type[Exception] = aiohttp.ClientConnectorError,
        **kwargs: Any,
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        """As `TCPConnector`: connect, then TLS, both within `timeout.sock_connect`; the socket is handed over between.

        Raises:
            TimeoutError: not connected in time.
            aiohttp.ClientConnectorError: no address can be reached, or the connection was lost during TLS.
            aiohttp.ClientConnectorSSLError, aiohttp.ClientConnectorCertificateError: TLS failed.
        """
        async with asyncio.timeout(timeout.sock_connect):
            try:
                sock = await aiohappyeyeballs.start_connection(
                    addr_infos,
                    local_addr_infos=self._local_addr_infos,
                    happy_eyeballs_delay=self._happy_eyeballs_delay,
                    interleave=self._interleave,
                    loop=self._loop,
                    socket_factory=self._socket_factory,
                )
            except OSError as error:
                raise client_error(req.connection_key, error) from error
            try:
                return await self._wrap_existing_connection(
                    *args, sock=sock, req=req, timeout=timeout, client_error=client_error, **kwargs
                )
            finally:
                hand_over(sock, self._loop)


def hand_over(sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
    """Give up a socket that `loop.create_connection` was called with, whatever came of the call.

    uvloop closes descriptors, so the Python object must forget its own.  asyncio's own loops close the Python object,
    which must keep it.
    """
    if not isinstance(loop, asyncio.BaseEventLoop):
        sock.detach()


class _Stream(Protocol):
    """A connection of httpcore, as its trace hands it out."""

    async def aclose(self) -> None: ...


class Opening:
    """Closes the connection an httpx request opened, when the request ended before its TLS handshake did.

        async with Opening() as opening, asyncio.timeout(…), client.stream(…, extensions=opening.extensions): …

    It goes outside the deadline, so that the deadline does not cut the closing.

    Attributes:
        extensions: for the request; they let httpcore tell how far it is (its `trace` extension).
    """

    def __init__(self) -> None:
        self.extensions: Mapping[str, Any] = {"trace": self._hear}
        self._stream: _Stream | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.aclose()  # a second time does nothing

    async def _hear(self, event: str, told: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            self._stream = told["return_value"]
        elif event == "connection.start_tls.complete" or event.startswith("http11."):
            self._stream = None  # from here on the pool closes it

"""Open aiohttp's connections so that each socket has one owner.

aiohttp connects a Python socket and hands it to the event loop for TLS.  A socket that is reset between its connect
and the first byte of TLS leaves two owners with uvloop (0.23): libuv closes the descriptor when the connection is lost,
then `create_connection` goes on and keeps the Python socket with the dead transport.  When that socket is collected, it
closes the descriptor a second time.  By then the number belongs to another connection: of another LFI, of the database,
of the broker.  That connection is dead without knowing it, and the next socket with the number fails with
`RuntimeError: File descriptor N is used by transport …`.

In: the addresses aiohttp resolved.  Out: a connected transport, or aiohttp's errors.
"""

import asyncio
import socket
from typing import Any

import aiohappyeyeballs
import aiohttp
from aiohappyeyeballs import AddrInfoType
from aiohttp.client_proto import ResponseHandler


class Connector(aiohttp.TCPConnector):
    """A `TCPConnector` whose sockets belong to the event loop alone as soon as it has been given them."""

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

"""Listen: uvicorn on loopback sockets inside the running event loop, with the client certificate in the scope.

No signal handlers, no log of requests, and a stop that takes a few tenths of a second whatever the clients do.
"""

import asyncio
import logging
import socket
import ssl
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from syncworker.simulator.asgi import CERTIFICATE, TRANSPORT, Receive, Scope, Send
from syncworker.simulator.identity import Identity

HOST: Final = "127.0.0.1"
GRACE_S: Final = 0.3
KEEP_ALIVE_S: Final = 75
BACKLOG: Final = 1024


class _Protocol(HttpToolsProtocol):
    """Tells the application who calls and over which connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn itself
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        application: Any = self.app

        async def known(scope: Scope, receive: Receive, send: Send) -> None:
            scope[CERTIFICATE], scope[TRANSPORT] = certificate, transport
            await application(scope, receive, send)

        self.app = known


def bind(port: int) -> socket.socket:
    """A loopback socket, bound but not listening; port 0 lets the system choose.

    Raises:
        OSError: the port is taken.
    """
    # asyncio turns Nagle's algorithm off only where the protocol is named; with it each small answer takes 40 ms
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((HOST, port))
        bound.setblocking(False)
    except OSError:
        bound.close()
        raise
    return bound


def tls(identity: Identity, *, clients: bool) -> ssl.SSLContext:
    """The server's TLS; with `clients` only callers with a certificate of our authority get in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(identity.server_certificate, identity.server_key)
    if clients:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(identity.ca_bundle)
    return context


class Listener:
    """One port: an application behind a bound socket."""

    def __init__(self, application: Any, bound: socket.socket, context: ssl.SSLContext | None) -> None:
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        config = uvicorn.Config(
            application,
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            backlog=BACKLOG,
            ssl_context_factory=None if context is None else lambda _config, _default: context,
        )
        config.load()
        self._server = uvicorn.Server(config)
        self._server.lifespan = config.lifespan_class(config)
        self._bound = bound
        self._ticking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen.  Requests are answered from now on."""
        await self._server.startup(sockets=[self._bound])
        self._ticking = asyncio.create_task(self._server.main_loop())

    async def stop(self) -> None:
        """Close the port, give requests under way a moment, cut what is left."""
        state = self._server.server_state
        for server in self._server.servers:
            server.close()
        for connection in list(state.connections):
            connection.shutdown()
        deadline = asyncio.get_running_loop().time() + GRACE_S
        while state.connections and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        for connection in list(state.connections):
            transport = connection.transport
            if transport is not None:
                transport.abort()
        for task in list(state.tasks):
            task.cancel()
        if self._ticking is not None:
            self._ticking.cancel()
        await asyncio.gather(*state.tasks, *([self._ticking] if self._ticking else []), return_exceptions=True)
        await asyncio.sleep(0)
        self._bound.close()

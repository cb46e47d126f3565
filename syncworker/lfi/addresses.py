"""Turn a host's name into addresses, and refuse those that are not of the public internet.

In: a host and a port.  Out: addresses to connect to, or a `PrivateHostError`.  Each transport resolves a name here,
once for a connection, and connects to one of the very addresses that were looked at: a name that resolves to another
address a moment later (DNS rebinding) changes nothing.  Host name and certificate are still checked by the name.

`Addresses` is for whatever connects by itself; `Backend` puts it under httpx, `lfi.connector` under aiohttp.

Source: RFC 8305 (Happy Eyeballs); RFC 6890 (special-purpose addresses).
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from itertools import chain, zip_longest
from typing import Final

import httpcore
import httpx
from httpcore import SOCKET_OPTION, AnyIOBackend, AsyncNetworkBackend, AsyncNetworkStream

from syncworker.errors import SetupError
from syncworker.lfi.bounds import is_public_address

ATTEMPT_DELAY_S: Final = 0.25
"""After so long without a connection the next address is tried beside (RFC 8305 §8, Connection Attempt Delay)."""

Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
"""Gives the addresses of a host name, in the order to try them in, without scope.

Raises:
    OSError: it has none, or no name server answered.
"""


class PrivateHostError(SetupError):
    """A host's name resolves to an address outside the public internet, without leave: nothing was sent."""


async def system_lookup(host: str, port: int) -> Sequence[str]:
    """The addresses that the system knows or finds for a host name."""
    found = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
    )
    return list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))


class Addresses:
    """The addresses of hosts that may be called.

    Args:
        allow_private_hosts: let pass addresses of this machine and of private networks (sandbox).
        lookup: resolves a name.
    """

    def __init__(self, *, allow_private_hosts: bool, lookup: Lookup = system_lookup) -> None:
        self._allow_private_hosts = allow_private_hosts
        self._lookup = lookup

    async def of(self, host: str, port: int) -> Sequence[str]:
        """Resolve a host once, and give the addresses to connect to.

        Raises:
            PrivateHostError: one of them is not public: then the name is not trusted at all.
            OSError: it does not resolve.
        """
        try:
            found = await self._lookup(host, port)
        except UnicodeError:
            raise OSError("the host's name is none") from None
        if not found:
            raise OSError("the host's name has no address")
        self.check(found)
        return found

    def check(self, addresses: Iterable[str]) -> None:
        """Pass when a connection may be opened to each of these addresses.

        Raises:
            PrivateHostError: one of them is not public.  The message names neither host nor address.
        """
        if not self._allow_private_hosts and not all(map(is_public_address, addresses)):
            raise PrivateHostError(
                "allow_private_hosts: the host's name resolves to this machine or a private network; "
                "check DNS, and set allow_private_hosts = true if it is a sandbox"
            )


class Backend(AsyncNetworkBackend):
    """Opens the connections of httpx; belongs to one event loop."""

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses
        self._network = AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        """Resolve, check, and connect to the address that answers first, within `timeout` seconds.

        Raises:
            PrivateHostError: an address is not public.
            httpcore.ConnectTimeout, httpcore.ConnectError: no connection.
        """
        options = list(socket_options or ())

        async def connect(address: str) -> AsyncNetworkStream:
            return await self._network.connect_tcp(address, port, local_address=local_address, socket_options=options)

        try:
            async with asyncio.timeout(timeout):
                return await first_connected(alternating(await self._addresses.of(host, port)), connect)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout("no connection in time") from error
        except OSError as error:
            raise httpcore.ConnectError(type(error).__name__) from error

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        """No LFI is on this machine's file system."""
        raise httpcore.ConnectError("no connection to a path")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class CheckedTransport(httpx.AsyncHTTPTransport):
    """httpx's own transport over a pool whose connections are opened by a `Backend`."""

    def __init__(self, addresses: Addresses, *, context: ssl.SSLContext, limits: httpx.Limits) -> None:
        # httpx offers no way to give its pool a backend; this is the pool that it would make, with one
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            http1=True,
            http2=False,
            network_backend=Backend(addresses),
        )


def alternating(addresses: Sequence[str]) -> list[str]:
    """The addresses of both families in turn, beginning with the family of the first (RFC 8305 §4)."""
    six = [address for address in addresses if ":" in address]
    four = [address for address in addresses if ":" not in address]
    first, second = (six, four) if addresses and ":" in addresses[0] else (four, six)
    return [address for address in chain.from_iterable(zip_longest(first, second)) if address is not None]


async def first_connected(
    addresses: Sequence[str],
    connect: Callable[[str], Awaitable[AsyncNetworkStream]],
    *,
    delay_s: float = ATTEMPT_DELAY_S,
) -> AsyncNetworkStream:
    """Connect to several addresses, each begun when the one before failed or took `delay_s`; the first wins.

    Connections that came second are closed, attempts under way are given up.

    Raises:
        httpcore.ConnectError, httpcore.ConnectTimeout: what the last attempt raised, when none succeeded.
    """
    waiting, running = list(addresses), set[asyncio.Task[AsyncNetworkStream]]()
    fault: BaseException = httpcore.ConnectError("no address")
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.ensure_future(connect(waiting.pop(0))))
            done, _ = await asyncio.wait(
                running, timeout=delay_s if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                running.discard(task)
                if (error := task.exception()) is None:
                    return task.result()
                fault = error
    finally:
        await _given_up(running)
    raise fault


async def _given_up(attempts: Collection[asyncio.Task[AsyncNetworkStream]]) -> None:
    for attempt in attempts:
        attempt.cancel()
    for ended in await asyncio.gather(*attempts, return_exceptions=True):
        if isinstance(ended, AsyncNetworkStream):
            await ended.aclose()

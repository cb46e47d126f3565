"""The same plays with real bytes: TLS with client certificates, HTTP, connections that are kept and cut.

Three servers stand before the doors of a `MemoryBank`.  What the wire carries back is written as it is: a body shorter
than announced, then a cut; gzip of several members; a connection that ends without an answer.  The client has its own
transport.

Time is moved on while nothing is under way: one consent and one listing at a time.  The event that moves it within a
request (`lease-lost`) is left out: it would be a timeout of that request as well.
"""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from syncworker.lfi.directory import LFIConfig
from syncworker.lfi.keys import TransportCertificate
from syncworker.simulator.authorization import Addresses
from tests.faults.ground import Worker
from tests.faults.play import EVENTS, Play, Rules
from tests.faults.wire import MemoryBank, MemoryTransport, Sent, Strike
from tests.lfi.raw_bank import Identities, RawBank, Reply, Request

RULES = Rules(events=frozenset(EVENTS) - {"lease-lost"})


def as_bytes(sent: Sent) -> bytes:
    """An answer as it stands on the wire; one that is lost announces more than it brings."""
    length = len(sent.body) + (1 if sent.lost else 0)
    headers = {**sent.headers, "content-length": str(length)}
    lines = [f"HTTP/1.1 {sent.status} X", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + sent.body


class _Replies(dict[str, Reply]):
    """Every path of one server goes to its door, by way of the strike."""

    def __init__(self, bank: "SocketBank", origin: str) -> None:
        super().__init__()
        self._bank, self._origin = bank, origin

    def get(self, _path: str, _default: Any = None) -> Any:
        """The reply to whatever is asked."""
        return self._reply

    async def _reply(self, request: Request, writer: asyncio.StreamWriter) -> None:
        sent = await self._bank.answer(self._origin, request)
        if sent.status:
            writer.write(as_bytes(sent))
            await writer.drain()
        if sent.lost:
            writer.close()


class SocketBank(MemoryBank):
    """A bank that listens, too.

    Attributes:
        strike: what the network does to each request.
        heard: requests that came over a connection.
    """

    strike: Strike
    certificate: bytes
    identities: Identities
    heard = 0

    async def __aenter__(self) -> Self:
        servers = [RawBank(self.identities) for _ in range(3)]
        for server in servers:
            await server.start()
            server.replies = _Replies(self, server.origin)
        self.servers = servers
        self.origins = Addresses(*(server.origin for server in servers))
        return await super().__aenter__()

    async def stop(self) -> None:
        """As `Sandbox.stop`, and the servers with it."""
        await super().stop()
        for server in self.servers:
            await server.stop()

    async def answer(self, origin: str, request: Request) -> Sent:
        """What the wire carries back for a request."""
        self.heard += 1
        doors = MemoryTransport(self, self.certificate, self.strike)
        asked = doors.asked(request.method, origin + request.target, request.headers, request.body)
        return await self.strike(asked)


class SocketWorker(Worker):
    """A process of the product with the client's own transport."""

    def _connect(self) -> None:
        """Leave the client as it is."""


class SocketPlay(Play):
    """One seed, over sockets.

    Attributes:
        identities: of the servers and of the client.
        heard: requests that came over a connection.
    """

    identities: Identities

    @property
    def heard(self) -> int:
        assert isinstance(self.bank, SocketBank)
        return self.bank.heard

    def _bank(self, folder: Path, **options: Any) -> MemoryBank:
        bank = SocketBank(folder, **options)
        bank.identities, bank.certificate, bank.strike = self.identities, self.keys.certificate, self._strike
        return bank

    def _hire(self) -> Worker:
        settings = replace(self.settings, steps_at_once=1, consents_at_once=1)
        return SocketWorker(
            bank=self.bank, clock=self.clock, database_url=self.database_url, stores=self.keys.stores,
            config=self._config(), certificate=self.keys.certificate, settings=settings, strike=self._strike,
        )  # fmt: skip

    def _config(self) -> LFIConfig:
        identities, bank = self.identities, self.bank
        return replace(
            self.keys.config,
            issuer=bank.issuer,
            discovery_url=bank.discovery_url,
            base_urls=bank.resource_base_urls,
            transport=TransportCertificate.load(
                identities.client_certificate, identities.client_key, now=datetime.now(UTC)
            ),
            ca_bundle=identities.ca_bundle,
            allow_private_hosts=True,
        )

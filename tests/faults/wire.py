"""The network between the product and the sandbox bank, in memory: no port, no TLS, no wait.

A `MemoryBank` is the sandbox behind its own doors, which are called directly.  A `MemoryTransport` stands where the
client's connections would: it hands a request to a door, lets a `Strike` bend what comes back, and reads the bytes as
the real transport does (`lfi.transport`), with the bounds and the inflater of the product.
"""

import contextlib
import gzip
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Self
from urllib.parse import urlencode, urlsplit

from syncworker.errors import StandardViolationError, TruncatedError
from syncworker.lfi.bounds import Inflater, check_headers
from syncworker.lfi.transport import Answer, NoAnswerError, OversizedAnswerError, UnfitAnswerError
from syncworker.simulator.asgi import Door, Request
from syncworker.simulator.authorization import Addresses
from syncworker.simulator.sandbox import Sandbox

ISSUER: Final = "https://auth1.bank.example"
TOKENS: Final = "https://as1.bank.example"
RESOURCES: Final = "https://rs1.bank.example"
FORM: Final = "application/x-www-form-urlencoded"


@dataclass(slots=True, kw_only=True)
class Sent:
    """What the wire carries back.

    Attributes:
        headers: names in lower case.
        lost: `lost` or `timeout`: the answer never came to its end; with status 0 it never began.
    """

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    lost: str = ""

    @classmethod
    def gone(cls, why: str) -> "Sent":
        """No answer at all."""
        return cls(status=0, lost=why)

    def zipped(self, *, members: int) -> "Sent":
        """The same answer as gzip of so many members (RFC 1952 §2.2)."""
        cut = max(1, -(-len(self.body) // members))
        parts = [self.body[at : at + cut] for at in range(0, len(self.body), cut)]
        packed = b"".join(gzip.compress(part, 1) for part in parts)
        return replace(self, body=packed, headers={**self.headers, "content-encoding": "gzip"})


@dataclass(slots=True, kw_only=True)
class Asked:
    """One request on its way.

    Attributes:
        host: `auth`, `as` or `rs`.
        operation, account_id, consent_id: as the bank recognises the request; `token` has no account.
        url: as sent.
        elsewhere: what the bank answers to the same request for another address.
        own: what the bank answered; `None` while it was not asked.
    """

    host: str
    method: str
    url: str
    operation: str
    account_id: str
    consent_id: str
    elsewhere: Callable[[str], Awaitable[Sent]] = field(repr=False)
    own: Sent | None = None

    async def process(self) -> Sent:
        """What the bank answers."""
        self.own = await self.elsewhere(self.url)
        return self.own


Strike = Callable[[Asked], Awaitable[Sent]]
"""Gives what the wire carries back for a request; processes it at the bank, or not."""


async def plain(asked: Asked) -> Sent:
    """The network at peace."""
    return await asked.process()


class MemoryBank(Sandbox):
    """A sandbox whose doors are called, not listened at."""

    origins: Addresses = Addresses(ISSUER, TOKENS, RESOURCES)
    doors: dict[str, Door]

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            self.addresses = self.origins
            doors = self._doors(stack, "unused")
            origins = (self.origins.issuer, self.origins.tokens, self.origins.resources)
            self.doors = dict(zip(origins, doors, strict=False))  # the last door is the books', which is not called
            self._open = stack.pop_all()
        return self


class MemoryTransport:
    """A `lfi.transport.Transport` that calls the doors of a bank.

    Args:
        certificate: of the client, in DER.
        strike: what the network does to each request.
    """

    def __init__(self, bank: MemoryBank, certificate: bytes, strike: Strike) -> None:
        self._bank = bank
        self._certificate = certificate
        self._strike = strike

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        deadline: float,
        *,
        form: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """As `Transport.send`."""
        headers = {"accept": "application/json", **{name.lower(): value for name, value in headers.items()}}
        if form is not None:
            headers["content-type"], body = FORM, urlencode(form).encode()
        sent = await self._strike(self.asked(method, url, headers, body or b""))
        if sent.status == 0:
            raise NoAnswerError("no answer", reason=sent.lost)
        return self._read(sent)

    async def close(self) -> None:
        """Nothing is open."""

    def asked(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Asked:
        """A request on its way."""
        door, request = self._request(method, url, headers, body)
        trace = request.trace

        async def answered(address: str) -> Sent:
            there = request if address == url else self._request(method, address, headers, body)[1]
            answer = await door._host.answer(there)
            named = {"content-type": answer.content_type, **answer.headers} if answer.body else answer.headers
            lowered = {name.lower(): value for name, value in named.items()}
            return Sent(status=answer.status, headers=lowered, body=answer.body)

        return Asked(
            host=door._host.name, method=method, url=url, operation=trace.operation,
            account_id=trace.account_id or "", consent_id=trace.consent_id or "", elsewhere=answered,
        )  # fmt: skip

    def _request(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> tuple[Door, Request]:
        parts = urlsplit(url)
        door = self._bank.doors[f"{parts.scheme}://{parts.netloc}"]
        request = Request(
            method=method, path=parts.path, query_string=parts.query, headers=headers, body=body,
            certificate=self._certificate,
        )  # fmt: skip
        door._host.recognise(request)
        return door, request

    def _read(self, sent: Sent) -> Answer:
        try:
            check_headers(sent.headers)
            inflater = Inflater(sent.headers.get("content-encoding", ""))
            for at in range(0, len(sent.body), 65_536):
                inflater.feed(sent.body[at : at + 65_536])
            if sent.lost:
                raise NoAnswerError("the connection was lost", reason=sent.lost, status=sent.status)
            return Answer(sent.status, sent.headers, inflater.finish(), inflater.bytes_in)
        except StandardViolationError as error:
            kind = OversizedAnswerError if isinstance(error, TruncatedError) else UnfitAnswerError
            raise kind(str(error), status=sent.status) from error

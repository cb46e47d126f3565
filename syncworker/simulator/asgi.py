"""The way every request goes: read, delay, fault, answer, log, send.

Plain ASGI: the hosts are small and the bank must be fast.  The protocol underneath (`servers`) puts the client
certificate and the transport into the scope, so that a host can know its caller and a fault can cut the line.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl

from syncworker.simulator import bent
from syncworker.simulator.clock import BankClock
from syncworker.simulator.faults import Fault, Faults, Kind
from syncworker.simulator.render import ENCODER
from syncworker.simulator.served import Log, Served

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

BODY_MAX: Final = 256 * 1024
CERTIFICATE: Final = "syncworker.client_certificate"
TRANSPORT: Final = "syncworker.transport"
JSON: Final = "application/json"
CUSTOMER_HEADERS: Final = frozenset({"x-fapi-customer-ip-address", "x-fapi-auth-date", "x-customer-user-agent"})
"""What only a call with the customer present may carry, at any host (`domain.md` §6.1)."""

_PAGE: Final = b"<!doctype html><title>Welcome</title><p>Our site is being improved."


@dataclass(slots=True, kw_only=True)
class Trace:
    """What the log should say about a request; the host fills it in while it answers."""

    operation: str = "unknown"
    consent_id: str | None = None
    account_id: str | None = None
    page: int | None = None
    token_age_s: float | None = None
    token_expires_at: datetime | None = None
    token_expired: bool = False
    interaction_id: str | None = None
    attended: bool = False


@dataclass(slots=True, kw_only=True)
class Request:
    """One request, read completely.

    Attributes:
        headers: names in lower case; of a repeated header the last value.
        certificate: the client certificate in DER, when the connection has one.
    """

    method: str
    path: str
    query_string: str
    headers: Mapping[str, str]
    body: bytes
    certificate: bytes | None
    parts: Mapping[str, str] = field(default_factory=dict)
    trace: Trace = field(default_factory=Trace)

    def query(self) -> dict[str, str]:
        """Query parameters; of a repeated one the last value."""
        return dict(parse_qsl(self.query_string, keep_blank_values=True))


@dataclass(slots=True)
class Answer:
    """One answer; `headers` beside content type and length."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = JSON


def json_answer(value: Any, status: int = 200, **headers: str) -> Answer:
    """An answer with a JSON body."""
    return Answer(status, ENCODER.encode(value), {name.replace("_", "-"): text for name, text in headers.items()})


class Host(Protocol):
    """One host name of the bank: what it does with a request."""

    name: str

    def recognise(self, request: Request) -> None:
        """Name the operation, its path parts and, as far as known, its consent, in the request and its trace."""

    async def answer(self, request: Request) -> Answer:
        """Answer the request."""

    def refusal(self, request: Request, fault: Fault) -> Answer:
        """The answer a fault of kind `answers` orders, in the shape this host uses."""


class Door:
    """An ASGI application around one host."""

    def __init__(
        self,
        host: Host,
        *,
        clock: BankClock,
        log: Log,
        faults: Faults,
        signed: Callable[[Request, Answer], Answer] = lambda _, answer: answer,
        witness: Callable[[str, Request], None] = lambda _, request: None,
    ) -> None:
        """A door.

        Args:
            signed: makes of an answer what this caller gets: a signed one, if that is what was asked for.
            witness: is told each request as it came, with the host's name, before anything is done with it.
        """
        self._host = host
        self._witness = witness
        self._signed = signed
        self._clock = clock
        self._log = log
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        started = time.perf_counter()
        body = await read_body(receive)
        request = Request(
            method=scope["method"],
            path=scope["path"],
            query_string=scope["query_string"].decode("ascii", "replace"),
            headers={name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]},
            body=body or b"",
            certificate=scope.get(CERTIFICATE),
        )
        self._log.begin(host=self._host.name)
        self._witness(self._host.name, request)
        request.trace.attended = not CUSTOMER_HEADERS.isdisjoint(request.headers)
        sent, fault = Answer(0), None
        try:
            self._host.recognise(request)
            if body is None:
                sent = Answer(413)
            else:
                sent, fault = await self._answer(request)
        finally:
            self._note(request, sent, fault, started)
        await deliver(sent, fault, scope, receive, send)

    async def _answer(self, request: Request) -> tuple[Answer, Fault | None]:
        trace = request.trace
        if delay := self._faults.delay(trace.operation):
            await asyncio.sleep(delay)
        fault = self._faults.strike(trace.operation, trace.consent_id)
        if fault is None:
            return self._signed(request, await self._host.answer(request)), None
        if fault.late:
            return _as_sent(fault, self._signed(request, _bent(fault, await self._host.answer(request)))), fault
        if fault.kind is Kind.HTML:
            return Answer(200, _PAGE, content_type="text/html; charset=utf-8"), fault
        if fault.kind is Kind.ANSWERS:
            return self._signed(request, self._host.refusal(request, fault)), fault
        while fault.kind is Kind.HANG and not fault.cleared:  # noqa: ASYNC110 - ends with the fault or the bank
            await asyncio.sleep(0.02)
        return Answer(0), fault

    def _note(self, request: Request, sent: Answer, fault: Fault | None, started: float) -> None:
        trace = request.trace
        self._log.end(
            Served(
                at=self._clock.now(),
                host=self._host.name,
                method=request.method,
                operation=trace.operation,
                status=0 if fault is not None and fault.kind is Kind.DROP else sent.status,
                duration_ms=round((time.perf_counter() - started) * 1000, 3),
                bytes_out=len(sent.body),
                interaction_id=trace.interaction_id,
                consent_id=trace.consent_id,
                account_id=trace.account_id,
                token_age_s=trace.token_age_s,
                token_expires_at=trace.token_expires_at,
                token_expired=trace.token_expired,
                attended=trace.attended,
                page=trace.page,
                fault=fault.kind.value if fault else None,
            )
        )


async def read_body(receive: Receive) -> bytes | None:
    """The whole body; `None` when it is larger than we take."""
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts)
        size += len(message.get("body", b""))
        if size <= BODY_MAX:
            parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts) if size <= BODY_MAX else None


async def deliver(answer: Answer, fault: Fault | None, scope: Scope, receive: Receive, send: Send) -> None:
    """Send an answer, or what a fault makes of sending it."""
    kind = fault.kind if fault is not None else None
    if answer.status == 0 or kind is Kind.DROP:
        await _cut(scope, receive)
        return
    headers = [(b"content-length", str(len(answer.body)).encode())]
    if answer.body:
        headers.append((b"content-type", answer.content_type.encode()))
    headers += [(name.encode(), text.encode("latin-1")) for name, text in answer.headers.items()]
    if fault is not None and kind is Kind.WRONG_LENGTH:
        headers[0] = (b"content-length", str(max(0, len(answer.body) + fault.size)).encode())
        await _send_by_hand(answer, headers, scope, receive)
        return
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    if kind is Kind.TRUNCATED:
        await send({"type": "http.response.body", "body": answer.body[: len(answer.body) // 2], "more_body": True})
        await asyncio.sleep(0.01)
        await _cut(scope, receive)
        return
    if fault is not None and kind is Kind.DRIP:
        await _drip(answer.body, fault, scope, send)
        return
    await send({"type": "http.response.body", "body": answer.body})


async def _drip(body: bytes, fault: Fault, scope: Scope, send: Send) -> None:
    """A byte at a time, while the fault stands and somebody listens; then the rest."""
    sent = 0
    while sent < len(body) and not fault.cleared and not scope[TRANSPORT].is_closing():
        await send({"type": "http.response.body", "body": body[sent : sent + 1], "more_body": True})
        sent += 1
        await asyncio.sleep(fault.seconds)
    await send({"type": "http.response.body", "body": body[sent:]})


async def _send_by_hand(answer: Answer, headers: list[tuple[bytes, bytes]], scope: Scope, receive: Receive) -> None:
    """Past the server, which would not send such headers; then the line is closed."""
    lines = (name + b": " + text for name, text in headers)
    head = b"\r\n".join((f"HTTP/1.1 {answer.status} OK".encode(), *lines))
    scope[TRANSPORT].write(head + b"\r\n\r\n" + answer.body)
    scope[TRANSPORT].close()
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cut(scope: Scope, receive: Receive) -> None:
    """Cut the connection and wait until the server has noticed."""
    scope[TRANSPORT].abort()
    while (await receive())["type"] != "http.disconnect":
        pass


def _as_sent(fault: Fault, answer: Answer) -> Answer:
    """A good answer, signed or not, as the fault wants its bytes."""
    if fault.kind is Kind.FORGED:
        return replace(answer, body=bent.forged(answer.body))
    if fault.kind is Kind.GZIP_MEMBERS and answer.body:
        packed = bent.gzip_members(answer.body, fault.size)
        return replace(answer, body=packed, headers=answer.headers | {"content-encoding": "gzip"})
    return answer


def _bent(fault: Fault, answer: Answer) -> Answer:
    """A good answer as the fault wants it; refusals stay as they are."""
    if answer.status != 200:
        return answer
    match fault.kind:
        case Kind.FOREIGN_LINK:
            body = bent.foreign_link(answer.body)
        case Kind.LOOP_LINK:
            body = bent.loop_link(answer.body)
        case Kind.OTHER_HOST:
            body = bent.other_host(answer.body)
        case Kind.RELATIVE_LINK:
            body = bent.relative_link(answer.body)
        case Kind.GZIP_BOMB:
            return replace(answer, body=bent.bomb(fault.size), headers=answer.headers | {"content-encoding": "gzip"})
        case Kind.DEEP:
            body = bent.deep(answer.body, fault.size)
        case Kind.GIANT_AMOUNT | Kind.GIANT_NUMBER:
            body = bent.giant(answer.body, fault.size, bare=fault.kind is Kind.GIANT_NUMBER)
        case Kind.DUPLICATE_ITEM:
            body = bent.duplicate_item(answer.body)
        case Kind.DUPLICATE_MEMBER:
            body = bent.duplicate_member(answer.body)
        case Kind.WRONG_TYPE:
            return replace(answer, content_type=fault.content_type)
        case _:
            return answer
    return replace(answer, body=body)

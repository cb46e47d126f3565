"""`POST /events`: where LFIs send event notifications.

Nothing here knows what an event says.  A request is measured before it is read: its sender's pace, its media type, its
size; then `webhooks.Receiver` judges it.  Every answer repeats or makes an `x-fapi-interaction-id`; on answers of the
framework, for a wrong method or a fault of ours, `guard.Guard` puts it.  A taken event is acknowledged with an empty
body, a refused one with the standard's signed error body.

Source: Webhook Template v2.1-errata2, `responses`; `domain.md` §7.1; `reliability.md` rule 38.
"""

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

from fastapi import APIRouter, Request, Response
from pydantic import SecretStr
from starlette.requests import ClientDisconnect

from syncworker.clock import Clock, monotonic
from syncworker.errors import TransientError
from syncworker.webhooks import (
    BODY_BYTES_MAX,
    MEDIA_TYPES,
    Delivery,
    EventHeldBackError,
    EventRefusedError,
    Receiver,
    Refusals,
    Why,
)

PATH: Final = "/events"
INTERACTION_ID: Final = "x-fapi-interaction-id"
READ_DEADLINE_S: Final = 10.0
"""For a whole body: who drips it byte by byte is cut off."""

RECOVERABLE: Final = "GenericRecoverableError"
"""What time mends is 500 with this code; `retry-after` belongs to 429 alone (Webhook Template v2.1-errata2)."""

RETRY_AFTER_S: Final = 1
ADDRESSES_MAX: Final = 10_000
STRANGERS_PER_SECOND: Final = 25.0
"""Taken of all addresses together that no good event came from lately: opening an envelope costs a private key's work,
before anything proves who sent it, and a stranger has as many addresses as he likes."""

PROVEN_FOR_S: Final = 3600.0

NOTED_PER_SECOND: Final = 5.0
"""Refusals written into the quarantine and answered with a signed body, of all senders together; beyond it they are
only counted, and answered by their status alone: a flood of forgeries costs us neither rows nor signatures."""

NOTED_OF_ADDRESS_PER_SECOND: Final = 1.0
"""The same of one address: it cannot push everybody else's refusals out of the quarantine."""


class Pace:
    """How often each of many may come: so many a second, and ten seconds' worth at once.  One process's own count."""

    def __init__(self, per_second: float, *, timer: Callable[[], float] = monotonic) -> None:
        self._interval = 1 / per_second
        self._burst = max(10.0, self._interval)
        self._timer = timer
        self._next_free: OrderedDict[str, float] = OrderedDict()

    def allows(self, name: str) -> bool:
        """Whether it may come now; if so, it has."""
        now = self._timer()
        idle_long = now - self._burst  # who was not here for so long, or never, may bring all of it at once
        free = max(self._next_free.pop(name, idle_long), idle_long)
        allowed = free - now <= 0
        self._next_free[name] = free + self._interval if allowed else free
        if len(self._next_free) > ADDRESSES_MAX:  # forgotten is who was not here for longest
            self._next_free.popitem(last=False)
        return allowed

    def spent(self, name: str) -> bool:
        """Whether it would be sent away now; asking costs it nothing."""
        return self._next_free.get(name, 0.0) > self._timer()


class _Proven:
    """Addresses that good events came from lately."""

    def __init__(self, timer: Callable[[], float]) -> None:
        self._timer = timer
        self._until: OrderedDict[str, float] = OrderedDict()

    def add(self, address: str) -> None:
        self._until.pop(address, None)
        self._until[address] = self._timer() + PROVEN_FOR_S
        if len(self._until) > ADDRESSES_MAX:
            self._until.popitem(last=False)

    def __contains__(self, address: str) -> bool:
        return self._until.get(address, 0.0) > self._timer()


class _UnfitBodyError(Exception):
    """The body cannot be read; the message says why."""


def routes(
    receiver: Receiver,
    *,
    clock: Clock,
    acknowledge: int = 202,
    per_second: float = 50.0,
    refusals: Refusals | None = None,
    timer: Callable[[], float] = monotonic,
) -> APIRouter:
    """The route, to be mounted by the web process's app.

    Args:
        acknowledge: status of a taken event, 202 or 204 (D-17).
        per_second: requests taken of one address; more are answered 429.
        refusals: signs the bodies of refusals; without it they have none.
        timer: a monotonic clock, for the pace.
    """
    router = APIRouter()
    pace = Pace(per_second, timer=timer)
    strangers = Pace(STRANGERS_PER_SECOND, timer=timer)
    proven = _Proven(timer)
    noting = Pace(NOTED_PER_SECOND, timer=timer)
    noting_of = Pace(NOTED_OF_ADDRESS_PER_SECOND, timer=timer)

    def noted(address: str) -> bool:
        return noting_of.allows(address) and noting.allows("")

    def refused(status: int, error_code: str, message: str, headers: Mapping[str, str]) -> Response:
        if refusals is None or not error_code:
            return Response(status_code=status, headers=dict(headers))
        body = refusals.body(error_code, message)
        return Response(body, status_code=status, headers=dict(headers), media_type="application/jwt")

    @router.post(PATH, include_in_schema=False)
    async def take(request: Request) -> Response:
        headers = {INTERACTION_ID: interaction_id(request.headers)}
        address = request.client.host if request.client else ""
        if not pace.allows(address) or (address not in proven and not strangers.allows("")):
            return Response(status_code=429, headers=headers | {"retry-after": str(RETRY_AFTER_S)})
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type not in MEDIA_TYPES:
            return Response(status_code=415, headers=headers)
        try:
            body = await _read(request)
        except _UnfitBodyError as error:
            receiver.counts[Why.TOO_LARGE.value] += 1
            error_code = "Body.InvalidFormat" if noted(address) else ""
            return refused(400, error_code, str(error), headers | {"connection": "close"})
        delivery = Delivery(
            body=body,
            media_type=media_type,
            bearer=_bearer(request),
            address=address,
            interaction_id=headers[INTERACTION_ID],
            received_at=clock.now(),
        )
        try:
            await receiver.receive(delivery)
        except EventRefusedError as error:
            if not noted(address):
                return Response(status_code=error.status, headers=headers)
            await receiver.quarantine(delivery, error)
            return refused(error.status, error.error_code, str(error), headers)
        except EventHeldBackError as error:
            if not noted(address):
                return Response(status_code=500, headers=headers)
            await receiver.quarantine(delivery, error)
            return refused(500, RECOVERABLE, f"send it again: {error}", headers)
        except TransientError:
            return refused(500, RECOVERABLE if noted(address) else "", "send it again", headers)
        proven.add(address)
        return Response(status_code=acknowledge, headers=headers)

    return router


async def _read(request: Request) -> bytes:
    """The body, never more of it than an event may have."""
    length = request.headers.get("content-length", "")
    if length and (not length.isdigit() or len(length) > 10 or int(length) > BODY_BYTES_MAX):
        raise _UnfitBodyError(f"body: larger than {BODY_BYTES_MAX} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(READ_DEADLINE_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_BYTES_MAX:
                    raise _UnfitBodyError(f"body: larger than {BODY_BYTES_MAX} bytes")
    except TimeoutError:
        raise _UnfitBodyError(f"body: not here within {READ_DEADLINE_S:.0f} seconds") from None
    except ClientDisconnect:
        raise _UnfitBodyError("body: cut off") from None
    return bytes(body)


def _bearer(request: Request) -> SecretStr | None:
    """The bearer JWT; whatever else stands in `Authorization` is one that will not verify."""
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    return SecretStr(token.strip() if scheme.lower() == "bearer" else "")


def interaction_id(headers: Mapping[str, str]) -> str:
    """The `x-fapi-interaction-id` of a request, if it is a UUID; else a new one."""
    try:
        return str(uuid.UUID(headers.get(INTERACTION_ID, "")))
    except ValueError:
        return str(uuid.uuid4())

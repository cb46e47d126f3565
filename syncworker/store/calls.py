"""A call as it is filed, and the calls of a run in few bytes: what of them goes into the run's row, and back.

A run that finds nothing new makes as many calls as any other; a row of the table `call` for each was most of what it
wrote.  A call is packed when its interaction id has the run's mark (`standard.interaction`) and the LFI said nothing
about it.  Words of an LFI may name a person and have to be found and destroyed by consent: a call with a reason stays a
row of `call`, as does one whose id is of another make.  The pack keeps its place in the order.

A pack is a MessagePack array: the format's number, then a column for each fact.  A column whose values are all the same
is that value; times are milliseconds since the first packed call.

Nothing here touches a database.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from syncworker.errors import SetupError
from syncworker.standard.calendar import shifted
from syncworker.standard.interaction import id_of, mark_in, tail_of
from syncworker.standard.values import Slug

FORMAT: Final = 1
_TAIL: Final = 10
"""Bytes of an interaction id below its mark."""

OPERATIONS: Final = (  # numbers written into packs: append, never change or take away
    "GetAccounts",
    "GetAccountsAccountId",
    "GetAccountsAccountIdBalances",
    "GetAccountsAccountIdTransactions",
    "GetScheduledPayments",
    "GetAccountsAccountIdStandingOrders",
    "GetAccountsAccountIdDirectDebits",
    "GetAccountsAccountIdBeneficiaries",
    "GetAccountAccountIdStatements",
    "GetAccountsAccountIdProduct",
    "PartiesByAccountId_read",
    "Parties_read",
)
_NUMBERS: Final = {operation: number for number, operation in enumerate(OPERATIONS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRow:
    """One HTTP attempt.

    Attributes:
        consent_id: `''` for a call that belongs to no consent.
        status: `None` when no answer came.
        price_millifils: 1 AED = 100,000 milli-fils.
        attempt: from 1; more for a short retry.
        reason: the LFI's words about a call that is no success, masked.
    """

    lfi: Slug
    consent_id: str
    operation: str
    status: int | None
    error: str | None
    interaction_id: str
    started_at: datetime
    duration_ms: int
    bytes_in: int
    attended: bool
    price_millifils: int
    attempt: int = 1
    reason: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedCalls:
    """Calls of one run, as the columns of its row.

    Attributes:
        call_mark: the mark that all their interaction ids share.
        called_from, called_until: when the first and the last of them began, by the clock of the worker.
        called: how many there are.
        retried: short retries among them.
        unanswered: without an answer, or with 5xx.
        rate_limited: answered 429.
        attended: made with the customer present.
        called_bytes, called_millifils: received, and their price, in all.
        packed: the calls themselves.
    """

    call_mark: int
    called_from: datetime
    called_until: datetime
    called: int
    retried: int
    unanswered: int
    rate_limited: int
    attended: int
    called_bytes: int
    called_millifils: int
    packed: bytes = field(repr=False)


COLUMNS: Final = tuple(PackedCalls.__slots__)
"""Columns of the table `run`; all are NULL where no call of the run is packed."""


def pack(calls: Sequence[CallRow]) -> tuple[PackedCalls | None, list[CallRow]]:
    """The calls of a run, in the order they were made.

    Returns:
        Those that can be packed, and the others, which stay rows.
    """
    mark = next((found for one in calls if (found := mark_in(one.interaction_id)) is not None), None)
    if mark is None:
        return None, list(calls)
    head = id_of(mark, bytes(_TAIL))[:13]
    consent_id, lfi = calls[0].consent_id, calls[0].lfi
    packed: list[CallRow] = []
    rows: list[CallRow] = []
    places: list[int] = []
    tails = bytearray()
    for place, one in enumerate(calls):
        tail = tail_of(one.interaction_id, head) if one.reason is None else None
        if tail is None or one.consent_id != consent_id or one.lfi != lfi:
            rows.append(one)
            places.append(place)
        else:
            packed.append(one)
            tails += tail
    if not packed:
        return None, rows
    started = [one.started_at for one in packed]
    first = min(started)
    statuses = [one.status for one in packed]
    sizes = [one.bytes_in for one in packed]
    prices = [one.price_millifils for one in packed]
    attended = [one.attended for one in packed]
    attempts = [one.attempt for one in packed]
    columns = (
        FORMAT,
        places,
        bytes(tails),
        _column([_NUMBERS.get(one.operation, one.operation) for one in packed]),
        _column(statuses),
        _column([one.error for one in packed]),
        _column([(moment - first) // _MILLISECOND for moment in started]),
        _column([one.duration_ms for one in packed]),
        _column(sizes),
        _column(attended),
        _column(prices),
        _column(attempts),
    )
    return PackedCalls(
        call_mark=mark,
        called_from=first,
        called_until=max(started),
        called=len(packed),
        retried=sum(attempt > 1 for attempt in attempts),
        unanswered=sum(status is None or status >= 500 for status in statuses),
        rate_limited=statuses.count(429),
        attended=sum(attended),
        called_bytes=sum(sizes),
        called_millifils=sum(prices),
        packed=_PACKER.encode(columns),
    ), rows


def unpack(
    packed: bytes, *, mark: int, first: datetime, lfi: Slug, consent_id: str, rows: Sequence[CallRow] = ()
) -> list[CallRow]:
    """The calls of a run, in the order they were made.

    Args:
        mark, first: `call_mark` and `called_from` of the run.
        rows: its calls that are rows of `call`, in their order.

    Raises:
        SetupError: packed by a newer syncworker.
    """
    number, *rest = _UNPACKER.decode(packed)
    if number != FORMAT:
        raise SetupError(f"run: its calls are packed in format {number}, by a newer syncworker; upgrade this one")
    places, tails, *columns = rest
    count = len(tails) // _TAIL
    operations, statuses, errors, after, durations, sizes, attended, prices, attempts = (
        column if isinstance(column, list) else [column] * count for column in columns
    )
    calls = [
        CallRow(
            lfi=lfi,
            consent_id=consent_id,
            operation=OPERATIONS[operations[at]] if isinstance(operations[at], int) else operations[at],
            status=statuses[at],
            error=errors[at],
            interaction_id=id_of(mark, tails[at * _TAIL : (at + 1) * _TAIL]),
            started_at=shifted(first, after[at] * _MILLISECOND),
            duration_ms=durations[at],
            bytes_in=sizes[at],
            attended=attended[at],
            price_millifils=prices[at],
            attempt=attempts[at],
        )
        for at in range(count)
    ]
    for place, row in zip(places, rows, strict=False):  # all the rows, unless the table `call` was thinned out
        calls.insert(place, row)
    calls += rows[len(places) :]
    return calls


def timings(packed: bytes) -> list[tuple[str, int]]:
    """Operation and milliseconds of every packed call that was answered without a 5xx; none of a newer format."""
    number, *rest = _UNPACKER.decode(packed)
    if number != FORMAT:
        return []
    tails, operations, statuses, durations = rest[1], rest[2], rest[3], rest[6]
    count = len(tails) // _TAIL
    names, answers, took = (
        column if isinstance(column, list) else [column] * count for column in (operations, statuses, durations)
    )
    return [
        (OPERATIONS[name] if isinstance(name, int) else name, duration)
        for name, status, duration in zip(names, answers, took, strict=True)
        if status is not None and status < 500
    ]


_MILLISECOND: Final = timedelta(milliseconds=1)
_PACKER: Final = msgspec.msgpack.Encoder()
_UNPACKER: Final = msgspec.msgpack.Decoder(list[Any])


def _column(values: list[Any]) -> Any:
    """One value when all are the same; MessagePack then holds it once."""
    return values[0] if values.count(values[0]) == len(values) else values

"""What is wrong, as `ops` judges it, kept for a few seconds: every page of every reader shows the same.

The broker is asked beside the pages, never by one: a broker that is silent costs seconds, and a page has none.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, Generic, TypeVar

from syncworker.clock import monotonic
from syncworker.ops.cause import Cause
from syncworker.ops.diagnosis import Diagnosis, Traced, diagnose
from syncworker.ops.status import BrokerFact, BrokerState, Status, ask_broker, collect
from syncworker.settings import Settings
from syncworker.standard.calendar import UAE, as_utc, at_time, local_date, shifted
from syncworker.store.ops_connections import EndingRow
from syncworker.store.ops_traffic import HourOfCalls, QuarterOfRuns
from syncworker.store.unit_of_work import Store

KEPT_S: Final = 2.0
"""So long a look is shown again."""

SHOWN_S: Final = 20.0
"""A look so old is shown where a new one takes longer than `PATIENCE_S`."""

PATIENCE_S: Final = 0.05

BROKER_KEPT_S: Final = 4.0
BROKER_FIRST_S: Final = 0.25
"""So long the first look waits for the broker's first answer."""

QUARTER: Final = timedelta(minutes=15)
QUARTERS: Final = 96
ENDING_WITHIN: Final = timedelta(days=30)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Looked:
    """One look.

    Attributes:
        stale, failing: connections in trouble, by id.
    """

    status: Status
    found: Diagnosis
    stale: Mapping[str, Traced] = field(default_factory=dict)
    failing: Mapping[str, Traced] = field(default_factory=dict)

    def cause(self, number: int | None) -> Cause | None:
        """A cause by its number."""
        return next((one for one in self.found.causes if one.number == number), None)

    def of_lfi(self, slug: str) -> Cause | None:
        """The first cause that is about an LFI."""
        return next((one for one in self.found.causes if one.lfi == slug), None)

    def of_connection(self, connection_id: str) -> Cause | None:
        """The cause that explains a connection's trouble; `None`: it has none, or no cause explains it."""
        for traced in (self.stale.get(connection_id), self.failing.get(connection_id)):
            found = None if traced is None else self.cause(traced.cause)
            if found is not None:
                return found
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the charts of the first screen show.

    Attributes:
        at: database time.
        runs: since the first of `QUARTERS` quarters of an hour.
        calls: since the cost day began.
        days: consents that end in each of the next days; `ending`: the first of them.
        ages: connections by age of their first listing, see `ops_connections.AGES`.
    """

    at: datetime
    runs: Sequence[QuarterOfRuns] = ()
    calls: Sequence[HourOfCalls]
    days: Sequence[int]
    ending: Sequence[EndingRow]
    ages: Sequence[int]


def first_quarter(now: datetime) -> datetime:
    """The beginning of the first bar: the last one is the quarter of an hour that runs."""
    this = now.replace(minute=now.minute // 15 * 15, second=0, microsecond=0)
    return shifted(this, -(QUARTERS - 1) * QUARTER)


def day_began(now: datetime) -> datetime:
    """When the cost day began: at 00:00 in Dubai."""
    return as_utc(at_time(local_date(now), zone=UAE))


class _Kept(Generic[T]):
    """A value that takes long to read, kept for `KEPT_S` and shared by all readers.  Lives on one event loop."""

    def __init__(self, read: Callable[[], Awaitable[T]], *, name: str, timer: Callable[[], float]) -> None:
        self._read = read
        self._name = name
        self._timer = timer
        self._reading: asyncio.Task[T] | None = None
        self._held: T | None = None
        self._until = 0.0

    async def value(self) -> T:
        """The value; where a new one takes long, that of at most `SHOWN_S` ago, while it is read anew."""
        at, held = self._timer(), self._held
        if held is not None and at < self._until:
            return held
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._anew(), name=self._name)
        if held is not None and at < self._until + SHOWN_S - KEPT_S:
            await asyncio.wait({self._reading}, timeout=PATIENCE_S)
            if not self._reading.done():
                return held
        return await asyncio.shield(self._reading)

    async def _anew(self) -> T:
        found = await self._read()
        if asyncio.current_task() is self._reading:  # else it was forgotten meanwhile
            self._held, self._until = found, self._timer() + KEPT_S
        return found

    def forget(self) -> None:
        """Read anew next time, and wait for it."""
        self._held = self._reading = None

    def going(self) -> list[asyncio.Task[Any]]:
        """What is being read."""
        return [] if self._reading is None else [self._reading]


class Looker:
    """Looks, at most every `KEPT_S`.  Lives on one event loop.

    Args:
        ask: says how the broker stands; may take seconds.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        *,
        ask: Callable[[Settings], BrokerFact] = ask_broker,
        timer: Callable[[], float] = monotonic,
    ) -> None:
        self._settings = settings
        self._store = store
        self._ask = ask
        self._timer = timer
        self._look: _Kept[Looked] = _Kept(self._looked, name="look at what is wrong", timer=timer)
        self._counted: _Kept[Figures] = _Kept(self._count, name="read the figures of the first screen", timer=timer)
        self._broker = BrokerFact(state=BrokerState.UNASKED)
        self._broker_until = 0.0
        self._asking: asyncio.Task[None] | None = None

    async def looked(self) -> Looked:
        """What is wrong now; where that takes long, what was wrong at most `SHOWN_S` ago, while a new look goes on.

        Raises:
            StoreRefusedError: the database is of another schema.
        """
        return await self._look.value()

    async def figures(self) -> Figures:
        """What the charts of the first screen show, kept like a look and read beside it.

        Raises:
            StoreUnavailableError, StoreRefusedError: as everywhere in the store.
        """
        return await self._counted.value()

    async def _looked(self) -> Looked:
        await self._hear_broker()
        return _looked(await collect(self._settings, self._store, ask=lambda _: self._broker, costs=False))

    async def _count(self) -> Figures:
        runs, others = await asyncio.gather(self._runs(), self._others())
        return replace(others, runs=runs)

    async def _runs(self) -> Sequence[QuarterOfRuns]:
        """On a connection of its own: it takes as long as the others together."""
        async with self._store.looking() as unit:
            return await unit.ops_traffic.runs_by_quarter(since=first_quarter(await unit.now()))

    async def _others(self) -> Figures:
        async with self._store.looking() as unit:
            now = await unit.now()
            until = shifted(now, ENDING_WITHIN)
            return Figures(
                at=now,
                calls=await unit.ops_traffic.calls_by_hour(since=day_began(now)),
                days=await unit.ops_connections.endings(until=until),
                ending=await unit.ops_connections.ending(until=until),
                ages=await unit.ops_connections.ages(),
            )

    def forget(self) -> None:
        """Look anew next time, and wait for it: something was done."""
        self._look.forget()

    async def close(self) -> None:
        """Look and ask no more."""
        going = [*self._look.going(), *self._counted.going(), *([] if self._asking is None else [self._asking])]
        for one in going:
            one.cancel()
        await asyncio.gather(*going, return_exceptions=True)

    async def _hear_broker(self) -> None:
        first = self._asking is None
        going = self._asking is not None and not self._asking.done()
        if not going and self._timer() >= self._broker_until:
            self._asking = asyncio.create_task(self._heard(), name="ask the broker")
        if first and self._asking is not None:
            await asyncio.wait({self._asking}, timeout=BROKER_FIRST_S)

    async def _heard(self) -> None:
        self._broker = await asyncio.to_thread(partial(self._ask, self._settings))
        self._broker_until = self._timer() + BROKER_KEPT_S


def _looked(status: Status) -> Looked:
    found = diagnose(status)
    return Looked(
        status,
        found,
        {one.row.connection_id: one for one in found.stale},
        {one.row.connection_id: one for one in found.failing},
    )

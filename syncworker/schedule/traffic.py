"""Let calls to the LFIs through as far as all workers together may make them, and learn from how they end.

Before a call:  the gate and the breaker (`breaker`, from the tables), then the rate (`limits`).
After a call:   a 429 closes the gate, failures trip the breaker, a good trial closes it; each is written at once.

What the tables say is read again every second while calls are made, so what one worker learned the others obey a
second later.  While the database is away, what was known last holds.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from syncworker.clock import Clock, SystemClock, monotonic
from syncworker.consents.tokens import GATE_S
from syncworker.errors import GateClosedError, LFIBreakerOpenError, SyncWorkerError
from syncworker.lfi.oauth import retry_after
from syncworker.lfi.observing import Observer, Observing
from syncworker.lfi.transport import Call
from syncworker.schedule.breaker import (
    RetryBudget,
    Standing,
    Verdict,
    Window,
    healed,
    reason_of,
    standing,
    tripped,
    verdict,
)
from syncworker.schedule.limits import FIRST_PATIENCE_S, PATIENCE_S, Admission
from syncworker.standard.calendar import as_utc, span
from syncworker.standard.operations import OperationClass, class_of
from syncworker.standard.values import Slug
from syncworker.store.breakers import Breaker
from syncworker.store.lfis import Gate
from syncworker.store.unit_of_work import Store, UnitOfWork

LOOK_EVERY_S: Final = 1.0
"""How old the view of the tables may be when a call is let through: so late one worker hears of another's 429."""

Key = tuple[Slug, OperationClass]
Heard = Callable[[Slug, Call, Mapping[str, str]], None]

_FREE: Final = Standing()

log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class _View:
    """The tables as they were when we looked, with the database's time then.

    Attributes:
        free: what no gate, breaker or ramp holds back; stays so while this view does, unless something is learned.
    """

    at: float
    now: datetime
    gates: dict[Slug, Gate] = field(default_factory=dict)
    breakers: dict[Key, Breaker] = field(default_factory=dict)
    free: set[Key] = field(default_factory=set)


def unheard(_lfi: Slug, _call: Call, _headers: Mapping[str, str]) -> None:
    """A listener that keeps nothing."""


class TrafficControl:
    """What one process lets through to all LFIs.  Lives on one event loop; `close()` it there.

    Args:
        heard: is told each attempt too, with the headers of its answer.
        observing: runs it, so that its faults keep nothing from being learned here.
        clock: reads a `Retry-After` that is a date; durations come from `timer`.
        timer: monotonic seconds.
    """

    def __init__(
        self,
        store: Store,
        admission: Admission,
        *,
        heard: Heard = unheard,
        observing: Observing | None = None,
        clock: Clock | None = None,
        timer: Callable[[], float] = monotonic,
    ) -> None:
        self._store = store
        self._admission = admission
        self._heard = heard
        self._observing = observing or Observing()
        self._clock = clock or SystemClock()
        self._timer = timer
        self._view: _View | None = None
        self._looking = asyncio.Lock()
        self._windows: defaultdict[Key, Window] = defaultdict(Window)
        self._budgets: defaultdict[Slug, RetryBudget] = defaultdict(RetryBudget)
        self._unwritten: set[Slug | Key] = set()
        self._writing: set[asyncio.Task[None]] = set()

    def of(self, lfi: Slug) -> "LFITraffic":
        """One LFI's side of it, for its client."""
        return LFITraffic(self, lfi)

    def passes(self, lfi: Slug, operations: OperationClass) -> bool:
        """Let a call through that needs no wait and no look at the tables, as nearly every call; else ask `admit`."""
        view = self._view
        return (
            view is not None
            and (lfi, operations) in view.free
            and self._timer() - view.at < LOOK_EVERY_S
            and self._admission.take(lfi)
        )

    async def admit(self, lfi: Slug, operations: OperationClass) -> None:
        """Return when a call may start, as `lfi.traffic.Traffic.admit`."""
        await self._look()
        held = self._passed(lfi, operations)
        if held == _FREE:
            self._seen().free.add((lfi, operations))
        patience = FIRST_PATIENCE_S if operations is OperationClass.TOKEN else PATIENCE_S
        if await self._admission.admit(lfi, share=held.share, patience=patience):
            await self._look()
            self._passed(lfi, operations)  # somebody may have been told to wait while we stood in the row

    def may_retry(self, lfi: Slug) -> bool:
        """As `lfi.traffic.Traffic.may_retry`."""
        fits = self._budgets[lfi].spend(self._timer())
        if not fits:
            log.warning("no short retry: the budget is spent", lfi=lfi)
        return fits

    def note(self, lfi: Slug, call: Call, headers: Mapping[str, str]) -> None:
        """As `lfi.traffic.Traffic.note`."""
        self._observing.tell(Observer.CLOCKS, self._heard, lfi, call, headers)
        key, at = (lfi, class_of(call.operation)), self._timer()
        self._budgets[lfi].count(at)
        match verdict(call):
            case Verdict.RATE_LIMITED:
                wait = retry_after(headers, now=self._clock.now())
                self._close_gate(lfi, span(seconds=GATE_S if wait is None else wait))
            case Verdict.REJECTED:
                self._trip(key, reason_of(call))
            case Verdict.UNAVAILABLE:
                enough = self._windows[key].add(at=at, failed=True)
                if enough or self._standing(*key).trial:
                    self._trip(key, reason_of(call))
            case Verdict.ANSWERED:
                self._windows[key].add(at=at, failed=False)
                if self._view is not None and key in self._view.breakers:
                    self._heal(key)

    async def settled(self) -> None:
        """Wait until what was learned is written, or given up."""
        while self._writing:
            await asyncio.wait(set(self._writing))

    async def close(self) -> None:
        """Write what is left to write, and give back connections."""
        await self.settled()
        await self._admission.close()

    # -- looking ------------------------------------------------------------------------------------------------------

    def _now(self) -> datetime:
        """Database time, as far as we know it."""
        if self._view is None:
            return as_utc(self._clock.now())
        return self._view.now + timedelta(seconds=self._timer() - self._view.at)

    def _standing(self, lfi: Slug, operations: OperationClass) -> Standing:
        if self._view is None:
            return Standing()
        gate, breaker = self._view.gates.get(lfi), self._view.breakers.get((lfi, operations))
        return standing(gate, breaker, now=self._now())

    def _passed(self, lfi: Slug, operations: OperationClass) -> Standing:
        """How the LFI stands, when something may be sent."""
        held = self._standing(lfi, operations)
        if held.until is None:
            return held
        wait = max(0.001, (held.until - self._now()).total_seconds())
        if held.gated:
            raise GateClosedError(f"{lfi}: the gate is closed after a 429", retry_after=wait)
        raise LFIBreakerOpenError(f"{lfi}: {operations.value} calls are kept back ({held.reason})", retry_after=wait)

    def _view_is_fresh(self) -> bool:
        return self._view is not None and self._timer() - self._view.at < LOOK_EVERY_S

    async def _look(self) -> None:
        if self._view_is_fresh():
            return  # no lock for them
        async with self._looking:
            if self._view_is_fresh():
                return
            at = self._timer()
            try:
                async with self._store.reading() as unit:
                    now = await unit.now()
                    gates = dict(await unit.lfis.gates_known())
                    breakers = dict(await unit.breakers.all())
            except SyncWorkerError as error:
                log.warning("limits not read: what was known holds", error=error.code)
                if self._view is not None:
                    self._view.now, self._view.at = self._now(), at
                    self._view.free.clear()  # a wait that was known may be over, or a ramp
                return
            if self._view is not None:  # what we learned and have not written yet is newer than what we read
                gates |= {lfi: gate for lfi, gate in self._view.gates.items() if lfi in self._unwritten}
                breakers |= {key: held for key, held in self._view.breakers.items() if key in self._unwritten}
            self._view = _View(at, now, gates, breakers)

    # -- learning -----------------------------------------------------------------------------------------------------

    def _close_gate(self, lfi: Slug, wait: timedelta) -> None:
        now = self._now()
        held = self._seen().gates.get(lfi)
        if held is not None and held.until >= now + wait:
            return
        self._learned().gates[lfi] = Gate(now, now + wait)
        log.warning("gate closed", lfi=lfi, seconds=wait.total_seconds())

        async def write(unit: UnitOfWork) -> None:
            await unit.lfis.close_gate(lfi, until=await unit.now() + wait)

        self._write(lfi, write)

    def _trip(self, key: Key, reason: str) -> None:
        lfi, operations = key
        moved = tripped(self._seen().breakers.get(key), slug=lfi, operations=operations, reason=reason, now=self._now())
        if moved is None:
            return
        self._learned().breakers[key] = moved
        self._windows[key].clear()
        log.warning("breaker open", lfi=lfi, operations=operations.value, reason=reason, trips=moved.trips)

        async def write(unit: UnitOfWork) -> None:
            now = await unit.now()
            held = await unit.breakers.get(lfi, operations, lock=True)
            written = tripped(held, slug=lfi, operations=operations, reason=reason, now=now)
            if written is not None:
                await unit.breakers.put(written)

        self._write(key, write)

    def _heal(self, key: Key) -> None:
        lfi, operations = key
        moved = healed(self._seen().breakers.get(key), now=self._now())
        if moved is None:
            return
        self._learned().breakers[key] = moved
        self._windows[key].clear()
        log.info("breaker closed", lfi=lfi, operations=operations.value, trips=moved.trips)

        async def write(unit: UnitOfWork) -> None:
            written = healed(await unit.breakers.get(lfi, operations, lock=True), now=await unit.now())
            if written is not None:
                await unit.breakers.put(written)

        self._write(key, write)

    def _write(self, what: Slug | Key, step: Callable[[UnitOfWork], Awaitable[None]]) -> None:
        """Write beside the calls: none of them waits for the database.  Until then what we know wins over a look."""
        self._unwritten.add(what)
        task = asyncio.create_task(self._written(what, self._store.atomically(step)), name="write limits")
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _written(self, what: Slug | Key, writing: Coroutine[Any, Any, None]) -> None:
        try:
            await writing
        except SyncWorkerError as error:  # the next call that fails says it again
            log.warning("limits not written", error=error.code)
        finally:
            self._unwritten.discard(what)

    def _seen(self) -> _View:
        if self._view is None:  # heard before anybody asked: PAR, a token for ourselves
            self._view = _View(self._timer() - LOOK_EVERY_S, self._clock.now())
        return self._view

    def _learned(self) -> _View:
        """The view, to be changed: what was free may not be any more."""
        view = self._seen()
        view.free.clear()
        return view


@dataclass(frozen=True, slots=True)
class LFITraffic:
    """One LFI's `lfi.traffic.Traffic`."""

    control: TrafficControl
    lfi: Slug

    def admit(self, operations: OperationClass) -> Awaitable[None] | None:
        return None if self.control.passes(self.lfi, operations) else self.control.admit(self.lfi, operations)

    def may_retry(self) -> bool:
        return self.control.may_retry(self.lfi)

    def note(self, call: Call, headers: Mapping[str, str]) -> None:
        self.control.note(self.lfi, call, headers)

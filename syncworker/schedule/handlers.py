"""Run the small kinds of work: take the claims of a batch, run each by itself, end each with its outcome.

Syncs and token refreshes have batches of their own, because leases are renewed and secrets stored while they run.
Everything else (asking the Hub for a consent, flagging one near its end, acting on an event, following an account
opening) is short: one deadline well inside the lease, one transaction at the end.

In: hints of claims, a function per kind.  Out: what became of each, written to its row.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from syncworker.consents.lifecycle import NEVER
from syncworker.errors import SyncWorkerError, TransientError
from syncworker.standard.calendar import shifted, span
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import LEASE, Claim, WorkKind

AT_ONCE: Final = 16
"""Claims of one batch in work at once; the LFI's own limit stands behind it."""

DEADLINE_S: Final = 60.0
"""For one claim: two calls and their short retries, and half of the lease left over."""

Hint = tuple[int, int]
"""A message's mention of a claim: `work.id`, `gen`."""

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ended:
    """How one claim ended.

    Attributes:
        due_at: when its subject is due next; `None`: never by itself.
        outcome: a constant word, at most 40 characters.
        error: stable code, if something failed.
        good: resets the row's count of attempts.
    """

    due_at: datetime | None
    outcome: str
    error: str | None = None
    good: bool = True


Handler = Callable[[Claim], Awaitable[Ended]]
"""Does the work of one claim.  It may run twice; a `SyncWorkerError` it raises is an outcome, retried by the ladder."""


Patience = Callable[[Claim], Awaitable[timedelta]]
"""Says how long a claim that ended badly may wait at most, whatever the ladder says."""


@dataclass(frozen=True, slots=True)
class HandledReport:
    """A batch, counted.

    Attributes:
        outcomes: claims by the word they ended with.
        stale: hints that named no current claim.
    """

    outcomes: Mapping[str, int]
    stale: int


class Handlers:
    """The functions that do each small kind of work.  Lives on one event loop."""

    def __init__(
        self,
        store: Store,
        handlers: Mapping[WorkKind, Handler],
        *,
        retry_after: Callable[[int], timedelta],
        patience: Mapping[WorkKind, Patience] | None = None,
        lease: timedelta = LEASE,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        """Does nothing yet.

        Args:
            retry_after: how long to wait after so many bad ends in a row.
            patience: kinds whose claims say themselves how long that may be at most.
            deadline_s: for one claim; half of the lease at most.
        """
        self._store = store
        self._handlers = dict(handlers)
        self._retry_after = retry_after
        self._patience = dict(patience or {})
        self._lease = lease
        self._deadline_s = min(deadline_s, lease.total_seconds() / 2)

    async def batch(self, kind: WorkKind, hints: Sequence[Hint]) -> HandledReport:
        """Work on these claims.  Running it twice is harmless: a claim is taken once.

        Raises:
            StoreUnavailableError: the claims could not be taken; their leases bring them back.
        """
        claims = await self._store.atomically(lambda unit: unit.work.take_many(hints, lease=self._lease))
        slots = asyncio.Semaphore(AT_ONCE)
        ended: dict[int, Ended] = {}
        try:
            await asyncio.gather(*(self._claimed(kind, claim, slots, ended) for claim in claims))
        except asyncio.CancelledError:
            await self._give_back([claim for claim in claims if claim.id not in ended])
            raise
        return HandledReport(dict(Counter(one.outcome for one in ended.values())), len(hints) - len(claims))

    async def _claimed(self, kind: WorkKind, claim: Claim, slots: asyncio.Semaphore, ended: dict[int, Ended]) -> None:
        async with slots:
            end, wait = await self._run(kind, claim)

            async def step(unit: UnitOfWork) -> None:
                due_at = NEVER if end.due_at is None else end.due_at
                if wait is not None:
                    due_at = shifted(await unit.now(), wait)
                await unit.work.finish(claim, due_at=due_at, outcome=end.outcome, error=end.error, good=end.good)

            try:
                await self._store.atomically(step)
            except SyncWorkerError as error:  # the lease brings the row back
                log.warning("claim not ended", kind=kind.value, lfi=claim.lfi, error=error.code)
            ended[claim.id] = end

    async def _run(self, kind: WorkKind, claim: Claim) -> tuple[Ended, timedelta | None]:
        """One claim's end, and how long to wait from now when the end names no time of its own."""
        asked = 0.0
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._handlers[kind](claim), None
        except SyncWorkerError as error:
            code = error.code
            if isinstance(error, TransientError):
                asked = error.retry_after or 0.0
        except TimeoutError:
            code = "deadline_exceeded"
        except Exception as error:  # noqa: BLE001  a bug met by one claim must not end the others of its batch
            code = "unexpected"
            log.error("work broke", kind=kind.value, lfi=claim.lfi, error=type(error).__name__)  # noqa: TRY400
        log.warning("work failed", kind=kind.value, lfi=claim.lfi, error=code)
        wait = max(await self._next_try(kind, claim), span(seconds=asked))
        return Ended(None, "failed", code, good=False), wait

    async def _next_try(self, kind: WorkKind, claim: Claim) -> timedelta:
        wait = self._retry_after(claim.attempts)
        if kind not in self._patience:
            return wait
        try:
            return min(wait, await self._patience[kind](claim))
        except SyncWorkerError as error:  # the database is away: so is whoever would write the time down
            log.warning("patience not known", kind=kind.value, lfi=claim.lfi, error=error.code)
            return wait

    async def _give_back(self, claims: Sequence[Claim]) -> None:
        """The batch was cancelled (shutdown): what it did not end is due again at once, nothing counted."""
        if not claims:
            return
        try:
            await self._store.atomically(lambda unit: unit.work.give_back(claims))
        except SyncWorkerError as error:  # their leases bring them back
            log.warning("claims not given back", claims=len(claims), error=error.code)

"""Sync one consent, or a batch of claims side by side on this process's loop.

Each claim has its own lease, deadline, transaction and outcome: one consent's failure is a value in the batch's
report.  While a batch runs its leases are renewed together; a claim that was lost meanwhile is dropped at once.
"""

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

import structlog
from structlog.contextvars import bind_contextvars

from syncworker.clock import Clock, SystemClock
from syncworker.consents.hindrance import NEEDS_CONSENT, hindrance
from syncworker.consents.lifecycle import Clients
from syncworker.errors import ConsentError, ConsentNotUsableError, LeaseLostError, SyncWorkerError, TransientError
from syncworker.lfi.api import Attendance, TokenSource
from syncworker.standard.calendar import span
from syncworker.standard.consents import Status
from syncworker.standard.resources import permitted
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.consents import StoredConsent
from syncworker.store.findings import Found
from syncworker.store.grouped import Grouped
from syncworker.store.situations import BeforeCall, BeforeSync, before_syncs
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import Claim
from syncworker.sync.filters import Filters
from syncworker.sync.reports import BatchReport, RunOutcome, RunReport
from syncworker.sync.run import (
    ConsentRun,
    Ends,
    Gates,
    SyncSettings,
    end_all,
    facts_of_stop,
    resting_until,
)
from syncworker.sync.wishes import Serving, reason_of, serving

Hint = tuple[int, int]
"""A message's mention of a claim: `work.id`, `gen`."""

WRITERS: Final = 4
"""Consents of an LFI in work beyond its connections: those whose data is being written need none."""

AHEAD: Final = 16
"""Consents of a batch about which what must be known is read in one trip."""

AHEAD_S: Final = 2.0
"""How old that may be when a run begins; then it is read anew."""

ENDS: Final = 32
"""Runs without news that may end in one transaction."""

ENDS_S: Final = 0.2
"""How long such an end waits for others, while other runs are under way here."""

RENEWALS: Final = 3
"""How often a lease is renewed within its length."""

log = structlog.stdlib.get_logger(__name__)


class UnexpectedError(SyncWorkerError):
    """A bug of ours, met in the run of one consent."""

    code = "unexpected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a sync works with.

    Attributes:
        clients: gives the client of an LFI.
        tokens: gives the token source of a consent, told what was read of consent and token so many seconds ago.
        ask: asks the Hub for a consent and files what it says.
        clock: dates a report when the database is away; otherwise only database time counts.
        stopping: set when the process is to end: no consent, listing or page is begun any more.
    """

    store: Store
    clients: Clients
    tokens: Callable[[ConsentId, BeforeCall | None, float], TokenSource]
    ask: Callable[[ConsentId], Awaitable[StoredConsent]]
    clock: Clock = field(default_factory=SystemClock)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


class Engine:
    """Syncs consents.  Lives on one event loop."""

    def __init__(self, parts: Parts, settings: SyncSettings) -> None:
        self._parts = parts
        self._settings = settings
        self._gates = Gates()
        self._filters = Filters()
        self._places: dict[tuple[Slug, int], asyncio.Semaphore] = {}
        self._under_way = 0
        self._ends: Ends = Grouped(
            parts.store, end_all, most=ENDS, patience=ENDS_S, company=lambda: self._under_way > 0
        )
        self._lease = timedelta(seconds=settings.lease_s)

    async def sync_batch(self, hints: Sequence[Hint]) -> BatchReport:
        """Sync the consents of these claims.  Running it twice is harmless: a claim is taken once.

        Raises:
            StoreUnavailableError: the claims could not be taken; their leases bring them back.
        """

        async def take(unit: UnitOfWork) -> list[Claim]:
            now = await unit.now()
            gates, ignored = await unit.lfis.habits()
            for slug, until in gates.items():
                self._gates.close(slug, (until - now).total_seconds())
            self._filters.read(ignored)
            return await unit.work.take_many(hints, lease=self._lease)

        claims = await self._parts.store.atomically(take)
        slots = asyncio.Semaphore(self._settings.consents_at_once)
        asked = {ConsentId(claim.subject) for claim in claims if claim.asked}
        ahead = _Ahead(self._parts.store, [ConsentId(claim.subject) for claim in claims], asked=asked)
        lost: set[int] = set()

        running = {
            claim.id: asyncio.create_task(self._outlived(claim, lost, slots, ahead), name=f"sync {claim.id}")
            for claim in claims
        }
        renewing = asyncio.create_task(self._renew(claims, running, lost), name="renew leases")
        try:
            runs = await asyncio.gather(*running.values())
        finally:
            renewing.cancel()
            for task in running.values():
                task.cancel()
            await asyncio.gather(renewing, *running.values(), return_exceptions=True)
            await self._give_back([claim for claim in claims if running[claim.id].cancelled()])
        begun = tuple(report for report in runs if report is not None)
        await self._give_back([claim for claim, report in zip(claims, runs, strict=True) if report is None])
        return BatchReport(stale=len(hints) - len(claims), runs=begun, given_back=len(runs) - len(begun))

    async def _begun(self, claim: Claim, known: BeforeSync, age: float) -> ConsentRun | RunReport:
        """Read what a connection's live consent opens, of a claim that was taken; write it, unless nothing is new.

        Args:
            age: of what is known, in seconds.

        Returns:
            A run that only has to end, or the report of one that did.

        Raises:
            SetupError: the LFI is not set up.
            StoreUnavailableError: the database is away.
        """
        consent = known.consent
        seen = BeforeCall(consent, known.token, known.now) if known.token is not None else None
        if consent is not None and _to_be_asked(consent, now=known.now):
            consent, seen = await self._parts.ask(consent.consent_id), None
        if consent is None or not consent.callable_at(known.now):
            return await self._not_callable(claim, consent, known)
        client = await self._parts.clients(consent.lfi)
        resources = permitted(
            consent.permissions,
            version=consent.version,
            published=client.config.published_in(consent.version),
            repeats=self._settings.account_details,
        )
        served, attendance = await self._served(claim, known)
        run = ConsentRun(
            self._parts.store,
            claim,
            consent,
            known,
            reader=client,
            token=self._parts.tokens(consent.consent_id, seen, age),
            certificate=lambda: client.certificate.thumbprint,
            resources=resources,
            ask=self._parts.ask,
            gates=self._gates,
            filters=self._filters,
            stopping=self._parts.stopping,
            settings=self._settings,
            serving=served,
            attendance=attendance,
        )
        bind_contextvars(run=run.name)  # each claim has a task of its own
        await run.read()
        return run if run.unchanged else _told(await run.write())

    async def _served(self, claim: Claim, known: BeforeSync) -> tuple[Serving, Attendance | None]:
        """The refreshes that a run serves, and the customer who is present in it."""
        served = serving(known.waiting, gen=claim.gen, everything=claim.everything, now=known.now)
        part = served.attended
        if part is None:
            return served, None
        async with self._parts.store.looking() as unit:  # opens what is at hand; asks the database nothing
            customer = unit.refreshes.customer(part)
        return served, Attendance(ip=customer.ip, auth_date=customer.auth_date, user_agent=customer.user_agent)

    async def _synced(self, claim: Claim, slots: asyncio.Semaphore, ahead: "_Ahead") -> RunReport | None:
        """One claim's run.  `None`: the process stopped before it began."""
        async with slots, await self._places_at(claim.lfi):
            if self._parts.stopping.is_set():
                return None
            self._under_way += 1
            try:
                begun = await self._begun(claim, *await ahead.of(ConsentId(claim.subject)))
            finally:
                self._under_way -= 1
        # holds no pages any more, so it needs no place
        return _told(await begun.end(self._ends)) if isinstance(begun, ConsentRun) else begun

    async def _outlived(
        self, claim: Claim, lost: set[int], slots: asyncio.Semaphore, ahead: "_Ahead"
    ) -> RunReport | None:
        """One claim's run; whatever goes wrong in it stays its own.  `None`: the process stopped before it began."""
        try:
            return await self._synced(claim, slots, ahead)
        except asyncio.CancelledError:
            if claim.id not in lost:
                raise
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            return await self._failed(claim, LeaseLostError("a newer claim owns this sync"))
        except SyncWorkerError as error:
            return await self._failed(claim, error)
        except Exception as error:  # noqa: BLE001  a bug met by one consent must not end the others of its batch
            bug = _innermost(error)
            kind, trace = type(bug).__name__, "".join(traceback.format_tb(bug.__traceback__))
            # No exc_info: its text may repeat what a bank sent, and some renderers print the variables of every frame.
            log.error("sync broke", connection_id=claim.subject, kind=kind, trace=trace)  # noqa: TRY400
            return await self._failed(claim, UnexpectedError(kind))

    async def _places_at(self, lfi: Slug) -> asyncio.Semaphore:
        """The places for runs at an LFI: more than its connections can feed would only last longer, each of them.

        A run that lasts holds its pages in memory and has to look after its token again and again.
        """
        try:
            connections = (await self._parts.clients(lfi)).config.connections
        except SyncWorkerError:
            return asyncio.Semaphore(1)  # no call is made; the run says why
        return self._places.setdefault((lfi, connections), asyncio.Semaphore(connections + WRITERS))

    async def _failed(self, claim: Claim, error: SyncWorkerError) -> RunReport:
        """End a claim whose run broke; without a database its lease runs out by itself."""
        wait = self._settings.retry_after(claim.attempts)
        if isinstance(error, TransientError) and error.retry_after is not None:
            wait = span(seconds=max(error.retry_after, 1))
        retry, person = facts_of_stop(error)
        now = self._parts.clock.now()
        report = RunReport(
            connection_id=ConsentId(claim.subject),
            consent_id=ConsentId(""),
            lfi=claim.lfi,
            gen=claim.gen,
            started_at=now,
            ended_at=now,
            outcome=RunOutcome.LEASE_LOST if isinstance(error, LeaseLostError) else RunOutcome.FAILED,
            error=error.code,
            due_at=now + wait,
            retry=retry,
            person=person,
            counted=True,
        )
        met = Found(
            lfi=claim.lfi,
            operation="",
            code=error.code,
            times=1,
            connection_id=report.connection_id,
            consent_id=report.consent_id,
        )

        async def step(unit: UnitOfWork) -> RunReport:
            at = await unit.now()
            dated = replace(report, started_at=at, ended_at=at, due_at=at + wait)
            if person and not isinstance(error, ConsentError):
                unit.with_commit([unit.findings.meeting([met], at=at)])
            ended = await unit.work.finish(
                claim, due_at=dated.due_at, outcome=dated.outcome.value, error=dated.error, good=False
            )
            if ended and claim.asked:
                await unit.refreshes.end_open(
                    report.connection_id,
                    reason=reason_of(error.code),
                    error=error.code,
                    before_gen=claim.gen,
                    retry_at=dated.due_at if retry else None,
                    at=at,
                )
            return dated

        log.warning("sync failed", connection_id=claim.subject, lfi=claim.lfi, error=error.code)
        try:
            return await self._parts.store.atomically(step)
        except SyncWorkerError as fault:
            log.warning("sync not ended", connection_id=claim.subject, lfi=claim.lfi, error=fault.code)
            return report

    async def _not_callable(self, claim: Claim, consent: StoredConsent | None, known: BeforeSync) -> RunReport:
        """End the claim of a connection that may not be called now; no data was asked for."""
        status = consent.status if consent is not None else None
        report = RunReport(
            connection_id=ConsentId(claim.subject),
            consent_id=consent.consent_id if consent is not None else ConsentId(""),
            lfi=claim.lfi,
            gen=claim.gen,
            started_at=known.now,
            ended_at=known.now,
            outcome=RunOutcome.FAILED,
            error=f"{ConsentNotUsableError.code}:{status}" if status else ConsentNotUsableError.code,
            due_at=resting_until(status, now=known.now),
            person=True,
        )

        async def step(unit: UnitOfWork) -> RunReport:
            ended = await unit.work.finish(
                claim,
                due_at=report.due_at,
                outcome=report.outcome.value,
                error=report.error,
                good=False,
                counted=False,
            )
            if ended and claim.asked:
                at = await unit.now()
                reason = hindrance(consent, now=at) or NEEDS_CONSENT
                await unit.refreshes.end_open(
                    report.connection_id, reason=reason, error=report.error, before_gen=claim.gen, at=at
                )
            return report

        return await self._parts.store.atomically(step)

    async def _give_back(self, claims: Sequence[Claim]) -> None:
        """The process stops: what the batch did not end is due again at once, and no crash is counted."""
        if not claims:
            return
        try:
            await self._parts.store.atomically(lambda unit: unit.work.give_back(claims))
        except SyncWorkerError as error:  # their leases bring them back
            log.warning("claims not given back", claims=len(claims), error=error.code)

    async def _renew(
        self, claims: Sequence[Claim], running: dict[int, "asyncio.Task[RunReport | None]"], lost: set[int]
    ) -> None:
        """Renew the leases of what still runs; drop what is no longer ours."""
        while True:
            await asyncio.sleep(self._settings.lease_s / RENEWALS)
            mine = [claim for claim in claims if not running[claim.id].done()]
            try:
                kept = await self._parts.store.atomically(
                    lambda unit, mine=mine: unit.work.extend_many(mine, lease=self._lease)  # type: ignore[misc]
                )
            except SyncWorkerError as error:
                log.warning("leases not renewed", error=error.code)
                continue
            for claim in mine:
                if claim.id not in kept and not running[claim.id].done():
                    lost.add(claim.id)
                    running[claim.id].cancel()


class _Ahead:
    """Reads what the runs of a batch must know before they begin: of the next few in one trip."""

    def __init__(self, store: Store, connection_ids: Sequence[ConsentId], *, asked: Collection[ConsentId]) -> None:
        """Reads nothing yet.

        Args:
            connection_ids: in the order in which their runs begin.
            asked: those whose sync was asked for.
        """
        self._store = store
        self._asked = asked
        self._next = dict.fromkeys(connection_ids)
        self._known: dict[ConsentId, BeforeSync] = {}
        self._read_at = 0.0
        self._reading = asyncio.Lock()

    async def of(self, connection_id: ConsentId) -> tuple[BeforeSync, float]:
        """Of one connection, with how many seconds old it is, at most `AHEAD_S`.

        Raises:
            StoreUnavailableError: the database is away.
        """
        async with self._reading:
            timer = asyncio.get_running_loop().time
            if connection_id not in self._known or timer() > self._read_at + AHEAD_S:
                self._next.pop(connection_id, None)
                those = [connection_id, *self._known, *islice(self._next, AHEAD)][:AHEAD]
                self._read_at = timer()
                async with self._store.looking() as unit:
                    unique = list(dict.fromkeys(those))
                    asked = [one for one in unique if one in self._asked]
                    self._known = await before_syncs(unit, unique, asked=asked)
                for one in those:
                    self._next.pop(one, None)
            return self._known.pop(connection_id), timer() - self._read_at


def _told(report: RunReport) -> RunReport:
    """The same, noted in the log."""
    log.info(
        "consent synced",
        lfi=report.lfi,
        consent_id=report.consent_id,
        outcome=report.outcome.value,
        error=report.error,
        calls=report.calls,
        added=report.total("added"),
        modified=report.total("modified"),
        removed=report.total("removed"),
    )
    return report


def _to_be_asked(consent: StoredConsent, *, now: datetime) -> bool:
    """Whether the Hub may know better than the row: a block was lifted, the user decided, the end came."""
    if consent.status == Status.Authorized:
        return now >= consent.expires_at
    may_have_moved = consent.status in {Status.Suspended, Status.AwaitingAuthorization}
    return may_have_moved and consent.paused_at is None and consent.revoke_asked_at is None


def _innermost(error: Exception) -> Exception:
    """What a group of tasks wraps: the first bug among theirs."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error

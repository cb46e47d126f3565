"""One consent's sync, from the claim to the report.

    read       consent, cursors, grants and token, in one trip
    walk       the listings that are due, a few at a time; what goes wrong is a value
    backfill   slices of the history behind what was read, one after the other, each in its own transaction; then,
               where it is time, windows of it in which items could not be read
    write      records, cursors, changes, the run, its calls and the end of the claim, in one transaction

A listing whose pages are all known is not decoded: its cursor moves with the others in one statement.  A consent that
brings more than `flush_bytes` is written in several transactions, each of whole listings with their cursors.

The backfill follows once the newest data is in its tables.  A process that dies in it has at most one slice to fetch
again; a run that comes near its deadline leaves the rest to the next one, which is due at once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Final

import structlog
from pydantic import SecretStr

from syncworker.consents.lifecycle import NEVER
from syncworker.consents.tokens import GATE_S
from syncworker.errors import (
    ConsentError,
    ConsentNotUsableError,
    EndlessListingError,
    GateClosedError,
    LeaseLostError,
    LFIBreakerOpenError,
    LFIRateLimitedError,
    RefusedError,
    SetupError,
    StandardViolationError,
    StoppingError,
    SyncWorkerError,
    TokenBusyError,
    TransientError,
    TruncatedError,
)
from syncworker.lfi.api import Attendance, TokenSource
from syncworker.lfi.transport import Call
from syncworker.standard.calendar import as_utc, shifted, span
from syncworker.standard.consents import TERMINAL
from syncworker.standard.interaction import Interactions
from syncworker.standard.resources import BY_NAME, Resource, ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store.calls import CallRow
from syncworker.store.consents import StoredConsent
from syncworker.store.cursors import Attempt, Checked, Cursor, Listing
from syncworker.store.findings import Cleared, Found, together
from syncworker.store.freshness import Check
from syncworker.store.grouped import Grouped
from syncworker.store.messages import MessageType
from syncworker.store.refreshes import PartEnd
from syncworker.store.runs import RunRow
from syncworker.store.situations import BeforeSync
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import Claim, End
from syncworker.sync import pages as footprint
from syncworker.sync.apply import (
    Scope,
    Showing,
    apply,
    error_of,
    foreseen,
    guard,
    guards,
    keep_grants,
    page_notes,
    show,
)
from syncworker.sync.bearer import RunTokens, refusing
from syncworker.sync.facts import ENDS_EARLY, again, findings_of_notes, needed_person, slice_again
from syncworker.sync.fetch import Reader, Walk, fetch
from syncworker.sync.filters import Evidence, Filters
from syncworker.sync.plan import (
    ConsentLimits,
    PlanSettings,
    Step,
    Window,
    floor_of,
    is_to_look,
    looks,
    next_slice,
    owes_items,
    plan,
)
from syncworker.sync.refusals import ABSENT, FAULT, OF_THE_ACCOUNT, TRUNCATED, UNREADABLE, Refusal, refusal
from syncworker.sync.reports import RunOutcome, RunReport, StepOutcome, StepReport, run_outcome
from syncworker.sync.wishes import NO_REFRESH, Brought, Serving
from syncworker.sync.wishes import ends as ends_of

RESTING: Final = timedelta(hours=1)
"""When to look again at a consent that may not be called now but is not at its end."""

CODE_LENGTH: Final = 64
REASON_LENGTH: Final = 200
"""Most characters that a finding keeps of a code, and of the words of an LFI."""

TOKEN_DOUBTED_FROM: Final = 8
"""The run stops when so many listings refused the token and none was read: then the token is at fault."""

RUN_LASTS_FROM: Final = 5
"""A person is told after so many runs in a row that broke off as a whole: some three hours, by the ladder."""

CLEARED_AFTER: Final = 2
"""A finding that no run met for so many cadences is resolved by the next connection that recovers there."""

BACKFILL_SHARE: Final = 0.7
"""Share of a run's deadline after which no further slice of history is begun."""

log = structlog.stdlib.get_logger(__name__)


class DeadlineError(TransientError):
    """The consent's run took longer than it may."""

    code = "consent_deadline"


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncSettings:
    """What an operator may say about a sync.

    Attributes:
        plan: cadences and windows.
        retry_after: wait after so many attempts: of a listing, or of the run as a whole.
        consent_deadline_s: most seconds for one consent.
        consents_at_once, steps_at_once: consents of a batch, and listings of a consent, walked side by side.
        pages_max: most pages of one listing.
        flush_bytes: page bytes held in memory before they are written.
        lease_s: lease of a claim; renewed three times in that time while the run lasts.
        seal_raw: seal every raw item, not only those of parties.
        account_details: read `/accounts/{AccountId}` too, which repeats `/accounts` at the price of a call each.
        data_get_millifils: price of a successful data GET.
    """

    plan: PlanSettings
    retry_after: Callable[[int], timedelta]
    consent_deadline_s: float = 600.0
    consents_at_once: int = 50
    steps_at_once: int = 8
    pages_max: int = 500
    flush_bytes: int = 8 * 1024 * 1024
    lease_s: float = 120.0
    seal_raw: bool = False
    account_details: bool = False
    data_get_millifils: int = 2_500


class Gates:
    """LFIs that told us to wait, as this process knows: the whole LFI waits, not one request (rule 32)."""

    def __init__(self) -> None:
        self._closed: dict[str, float] = {}

    def close(self, slug: str, seconds: float) -> None:
        """No call for so long."""
        until = asyncio.get_running_loop().time() + seconds
        self._closed[slug] = max(until, self._closed.get(slug, until))

    def check(self, slug: str) -> None:
        """Pass an open gate.

        Raises:
            GateClosedError: it is closed; says for how long.
        """
        rest = self._closed.get(slug, 0.0) - asyncio.get_running_loop().time()
        if rest > 0:
            raise GateClosedError(f"{slug}: gate closed", retry_after=rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What the end of a run writes beside its rows.

    Attributes:
        checked: listings that showed nothing new.
        kept: the checks of before of listings that the run did not walk, or that are overtaken.
        recovered: listings that showed nothing new whose cursors have marks of a failure.
        received: the LFI showed something.
        stop: why the run ended early.
        found, cleared: what a person has to look at, and what was read without trouble after trouble before.
        served: how the refreshes that it served ended.
        again: others wait for a run of their own.
    """

    claim: Claim
    report: RunReport
    calls: Sequence[CallRow]
    checked: Sequence[Checked]
    kept: Mapping[Listing, Check]
    recovered: Sequence[Checked]
    received: bool
    stop: SyncWorkerError | None
    found: Sequence[Found] = ()
    cleared: Sequence[Cleared] = ()
    served: Sequence[PartEnd] = ()
    again: bool = False


Ends = Grouped["ConsentRun", RunReport | SyncWorkerError]
"""Ends runs that are `unchanged`, many in one transaction."""


async def end_all(unit: UnitOfWork, runs: Sequence["ConsentRun"]) -> list[RunReport | SyncWorkerError]:
    """End runs that have nothing to write but their ends.

    Returns:
        For each its report, or why it may no longer write: then nothing of it is written.
    """
    faults, now = await guards(unit, [run.scope for run in runs])
    ended = [
        run.ending(run.reports, now=now) if fault is None else fault for run, fault in zip(runs, faults, strict=True)
    ]
    await _end(unit, [one for one in ended if isinstance(one, Ending)], now=now)
    return [one.report if isinstance(one, Ending) else one for one in ended]


async def _end(unit: UnitOfWork, endings: Sequence[Ending], *, now: datetime) -> None:
    """File runs and their calls, and end their claims: what can, with the commit."""
    checked = [one for ending in endings for one in ending.checked]
    kept = {ending.report.connection_id: ending.kept for ending in endings if ending.checked}
    recovered = [one for ending in endings for one in ending.recovered]
    received = [ending.report.connection_id for ending in endings if ending.received]
    if recovered:
        unit.with_commit([unit.cursors.recovering(recovered, at=now)])
    if checked:
        unit.with_commit([unit.cursors.checking(checked, at=now, kept=kept)])
    if received:
        unit.with_commit([unit.consents.receiving(received, at=now)])
    await unit.runs.file([(_run_row(ending.report), ending.calls) for ending in endings])
    for ending in endings:
        if isinstance(ending.stop, LFIRateLimitedError) and not isinstance(ending.stop, GateClosedError):
            await unit.lfis.close_gate(ending.report.lfi, until=ending.report.due_at)
    await unit.work.give_back([ending.claim for ending in endings if isinstance(ending.stop, StoppingError)])
    ends = [
        End(
            claim=ending.claim,
            due_at=ending.report.due_at,
            outcome=ending.report.outcome.value,
            error=ending.report.error,
            good=ending.report.complete,
            counted=ending.report.counted,
            retry=ending.report.retry,
        )
        for ending in endings
        if not isinstance(ending.stop, StoppingError)
    ]
    for ending in endings:
        if ending.report.outcome is RunOutcome.FAILED and not await _failed_before(unit, ending):
            facts = {"error": ending.report.error, "retry": ending.report.retry}
            unit.messages.tell(
                MessageType.SYNC_FAILED, facts, connection_id=ending.report.connection_id, gen=ending.claim.gen, at=now
            )
    if cleared := [one for ending in endings for one in ending.cleared]:
        unit.with_commit([unit.findings.clearing(cleared, at=now)])
    if found := together([one for ending in endings for one in ending.found]):
        unit.with_commit([unit.findings.meeting(found, at=now)])
    if ends:
        unit.with_commit([unit.work.finishing(ends)])
    if served := [part for ending in endings for part in ending.served]:
        unit.with_commit([unit.refreshes.ending(served, at=now)])
    if again := [ending.claim for ending in endings if ending.again]:
        unit.with_commit([unit.work.asking_again(again)])


class ConsentRun:
    """The run of one claim.  Built for one use.

    Args:
        certificate: thumbprint of the transport certificate that the next call is made with.
        ask: asks the Hub for the consent and files what it says.
        resources: what the consent opens at this LFI, in reading order.
        filters: which windows LFIs are known to ignore.
        stopping: once set, no listing, slice or page is begun; what came is written, and the claim is given back.
        serving: the refreshes that it serves.
        attendance: the customer who is present and asked for them; no call but the run's own GETs says so.
    """

    def __init__(
        self,
        store: Store,
        claim: Claim,
        consent: StoredConsent,
        known: BeforeSync,
        *,
        reader: Reader,
        token: TokenSource,
        certificate: Callable[[], str],
        resources: tuple[Resource, ...],
        ask: Callable[[ConsentId], Awaitable[StoredConsent]],
        gates: Gates,
        filters: Filters,
        settings: SyncSettings,
        stopping: asyncio.Event | None = None,
        serving: Serving = NO_REFRESH,
        attendance: Attendance | None = None,
    ) -> None:
        self._serving = serving
        self._attendance = attendance
        self._everything = claim.everything and attendance is None
        self._store = store
        self._claim = claim
        self._consent = consent
        self._known = known
        self._reader = reader
        self._tokens = RunTokens(
            _until_stopped(token, stopping) if stopping else token,
            certificate=certificate,
            halted=self._halted,
            refusing=refusing(known.cursors),
        )
        self._stopping = stopping
        self._resources = resources
        self._ask = ask
        self._gates = gates
        self._filters = filters
        self._settings = settings
        self.scope = Scope(
            connection_id=consent.connection_id,
            consent_id=consent.consent_id,
            claim=claim,
            seal_raw=settings.seal_raw,
        )
        self._slots = asyncio.Semaphore(settings.steps_at_once)
        self._writing = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._asked = False
        self._stop: SyncWorkerError | None = None
        self._calls: list[Call] = []
        self._ids = Interactions(known.now)
        self._accounts: tuple[str, ...] = tuple(sorted(known.granted))
        self._accounts_seen: frozenset[str] | None = None
        self._showings: list[Showing] = []
        self._unchanged: list[StepReport] = []
        self._broken: dict[Listing, tuple[StepReport, Attempt | None]] = {}
        self._reports: list[StepReport] = []
        self._limits = ConsentLimits(from_date=consent.from_date, to_date=consent.to_date)
        self._slices = 0
        self._slices_read: set[Listing] = set()
        self._broken_slices: dict[Listing, StepReport] = {}
        self._settled: set[Listing] = set()
        self._backfill_due: dict[Listing, datetime] = {}
        self._evidence: dict[Listing, Evidence] = {}
        self._unauthorized = 0
        self._refusals: dict[Listing, RefusedError] = {}
        self._closed_accounts: dict[str, RefusedError] = {}

    async def read(self) -> None:
        """Walk what is due; much of what came may be written on the way."""
        enough = asyncio.get_running_loop().time() + self._settings.consent_deadline_s * BACKFILL_SHARE
        try:
            async with asyncio.timeout(self._settings.consent_deadline_s):
                await self._read()
                await self._backfill(enough)
        except TimeoutError:
            if not self._slices:  # otherwise the next run goes on where this one came to
                self._stop = self._stop or DeadlineError("the consent's run took longer than it may")

    @property
    def name(self) -> str:
        """What logs name the run by, before it has a number: the head of its calls' interaction ids."""
        return self._ids.head

    @property
    def unchanged(self) -> bool:
        """Whether all was walked and nothing is left to write but that it was."""
        news = self._accounts_seen is not None and not self._accounts_seen <= self._known.granted
        return self._stop is None and not (self._showings or self._broken or self._broken_slices or news)

    @property
    def reports(self) -> Sequence[StepReport]:
        """Of what was written so far, and of what showed nothing new."""
        return [*self._reports, *self._unchanged]

    async def write(self) -> RunReport:
        """Write what came, and end the run.

        Raises:
            StoreUnavailableError: the database is away: nothing more is written, the lease runs out by itself.
        """
        try:
            return await self._store.atomically(self._finish, bulk=True)
        except (ConsentNotUsableError, LeaseLostError) as error:
            return await self._refused(error)

    async def end(self, ends: Ends) -> RunReport:
        """End an `unchanged` run, together with others.

        Raises:
            StoreUnavailableError: as `write`.
        """
        ended = await ends.add(self)
        return ended if isinstance(ended, RunReport) else await self._refused(ended)

    async def _refused(self, error: SyncWorkerError) -> RunReport:
        """The end of a run that may write no data any more."""
        self._stop = error
        return await self._store.atomically(self._file)

    # -- walk --------------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        below_accounts = any(resource.per_account for resource in self._resources)
        needed = frozenset({ResourceName.ACCOUNTS}) if below_accounts and not self._known.granted else frozenset()
        steps = self._plan(("",), needed=needed)
        async with asyncio.TaskGroup() as group:
            for step in steps:
                if step.resource.name is not ResourceName.ACCOUNTS:
                    group.create_task(self._listing(step))
            for step in steps:
                if step.resource.name is ResourceName.ACCOUNTS:
                    await self._listing(step)
            if self._accounts_seen is not None:
                self._accounts = tuple(sorted(self._accounts_seen))
            for step in self._plan(self._accounts):
                group.create_task(self._listing(step))

    def _plan(self, accounts: tuple[str, ...], *, needed: frozenset[ResourceName] = frozenset()) -> tuple[Step, ...]:
        return plan(
            self._resources,
            accounts,
            self._known.cursors,
            limits=self._limits,
            now=self._known.now,
            everything=self._everything,
            wishes=self._serving.wishes if self._serving.parts else None,
            needed=needed,
            unfiltered=frozenset(one.name for one in self._resources if self._is_unfiltered(one)),
            settings=self._settings.plan,
        )

    async def _listing(self, step: Step) -> None:
        """Walk one listing and keep what came of it."""
        async with self._slots:
            async with self._asking:  # while the Hub is asked about the consent, nothing is begun with it
                pass
            if self._stop is None:
                self._stop = self._hindrance()
            if self._stop is not None:
                self._broken[step.listing] = (self._skipped(step), None)
                return
            closed = self._closed_accounts.get(step.account_id)
            walk = await self._walked(step) if closed is None else Walk(step=step, pages=(), error=closed)
        await self._keep(walk)
        if sum(shown.walk.size for shown in self._showings) > self._settings.flush_bytes:
            await self._flush()

    async def _walked(self, step: Step) -> Walk:
        cursor = self._known.cursors.get(step.listing)
        delayed = step.backfill and cursor is not None and cursor.backfill_due_at is not None  # it failed before
        token = self._tokens.of(step.listing, is_slice=step.backfill, delayed=delayed)
        walk = await fetch(
            step,
            self._reader,
            version=self._consent.version,
            token=token,
            calls=self._calls.append,
            pages_max=self._settings.pages_max,
            ids=self._ids,
            attendance=self._attendance,
        )
        if walk.error is None:
            token.page_came()
        return walk

    def _skipped(self, step: Step, *, pages: int = 0) -> StepReport:
        """The report of a listing that the run stopped before: when it is read again is the run's matter."""
        retry, person = facts_of_stop(self._stop)
        return replace(_report(step, StepOutcome.SKIPPED), pages=pages, retry=retry, person=person)

    async def _keep(self, walk: Walk) -> None:
        """Sort a walk: known as a whole, decoded, broken off; or several of these."""
        cursor = self._known.cursors.get(walk.step.listing)
        packed = cursor.pages if cursor else None
        known = footprint.NOTHING
        unfiltered = self._is_unfiltered(walk.step.resource)  # what the LFI ignores is noted, as long as it does
        trouble = cursor is not None and cursor.error is not None  # only what is decoded shows that it is gone
        known_walk = walk.error is None and not walk.short and not trouble and not unfiltered
        known_walk = known_walk and not walk.step.deep  # a deep walk has to leave its mark on the cursor
        known_walk = known_walk and not _begins_earlier(walk, cursor, now=self._known.now)
        if known_walk and footprint.same(packed, [footprint.page_digest(data) for data in walk.pages]):
            if walk.step.resource.name is ResourceName.ACCOUNTS:
                self._accounts_seen = frozenset(show(walk, footprint.unpack(packed)).seen)
            report = _report(walk.step, StepOutcome.UNCHANGED)
            pages = len(walk.pages)
            self._unchanged.append(replace(report, pages=pages, pages_unchanged=pages, due_at=self._due(walk.step)))
            return
        if packed is not None:
            known = footprint.unpack(packed)
        shown = show(walk, known)
        walk = shown.walk  # without the page that cannot be read and what follows it
        shown.unfiltered = unfiltered
        window = walk.step.resource.window
        if cursor is None and window is not None and window.sliced and walk.error is None:
            asked = walk.step.window or Window()
            self._evidence_of(walk.step.listing).newest(asked, walk.step.resource.name, shown.records)
        if walk.pages:
            self._showings.append(shown)
        if walk.pages and walk.step.resource.name is ResourceName.ACCOUNTS:
            not_shown = (
                frozenset() if shown.complete else self._known.granted
            )  # they may be on a page or in an item that was not read
            self._accounts_seen = frozenset(shown.seen) | not_shown
        if walk.error is not None:
            await self._broken_off(walk, walk.error, brought=bool(shown.seen))

    def _halted(self) -> SyncWorkerError | None:
        """Why no further page may be asked for: the Hub said that the consent may not be called."""
        return self._stop if isinstance(self._stop, ConsentNotUsableError) else None

    def _hindrance(self) -> TransientError | None:
        """Why nothing new may be begun just now."""
        if self._stopping is not None and self._stopping.is_set():
            return StoppingError("the process is stopping")
        try:
            self._gates.check(self._consent.lfi)
        except LFIRateLimitedError as error:
            return error
        return None

    async def _broken_off(self, walk: Walk, error: SyncWorkerError, *, brought: bool) -> None:
        """What a walk that did not come to its end means for its listing.

        Args:
            brought: rows came before it broke off.
        """
        if isinstance(error, StoppingError):
            self._stop = self._stop or error
            self._broken[walk.step.listing] = self._skipped(walk.step, pages=len(walk.pages)), None
            return
        meaning = await self._meaning(walk, error)
        self._broken[walk.step.listing] = self._attempt(walk, error, meaning, brought=brought)

    async def _meaning(self, walk: Walk, error: SyncWorkerError) -> Refusal:
        """What it means for the run; asks the Hub, closes the gate or stops the run where it must."""
        meaning = FAULT
        match error:
            case TruncatedError():
                meaning = TRUNCATED
            case StandardViolationError():
                meaning = UNREADABLE
            case RefusedError():
                meaning = self._refusal(walk.step, error)
                if meaning.ask:
                    await self._ask_once()
                if meaning.token and not self._tokens.proven:
                    self._unauthorized += 1
                    if self._unauthorized >= TOKEN_DOUBTED_FROM:
                        self._stop = self._stop or error
            case LFIRateLimitedError():
                self._gates.close(self._consent.lfi, self._wait(error).total_seconds())
                self._stop = self._stop or error
            case ConsentError() | SetupError() | TokenBusyError() | LFIBreakerOpenError():
                self._stop = self._stop or error
        (log.info if meaning is ABSENT else log.warning)(
            "listing not read",
            lfi=self._consent.lfi,
            consent_id=self._consent.consent_id,
            resource=walk.step.resource.name.value,
            error=error.code,
            outcome=meaning.outcome,
        )
        return meaning

    def _refusal(self, step: Step, error: RefusedError) -> Refusal:
        """What a refusal means where it was met."""
        self._refusals[step.listing] = error
        if error.error_code in OF_THE_ACCOUNT and step.account_id:
            self._closed_accounts[step.account_id] = error
        cursor = self._known.cursors.get(step.listing)
        return refusal(
            error.status,
            error.error_code,
            body=error.body,
            page=error.page,
            resource=step.resource,
            version=self._consent.version,
            had_rows=cursor is not None and cursor.changed_at is not None,
        )

    def _attempt(
        self, walk: Walk, error: SyncWorkerError, meaning: Refusal, *, brought: bool = False
    ) -> tuple[StepReport, Attempt]:
        """Report and cursor of a walk that broke off.

        What stopped the run as a whole counts as the run's attempt and not as the listing's.

        Args:
            brought: the walk brought rows before it broke off.
        """
        now, cursor, code = self._known.now, self._known.cursors.get(walk.step.listing), _code(error)
        retry, person = meaning.retry, meaning.person
        attempts = cursor.attempts if cursor is not None else 0
        failing_since = cursor.failing_since if cursor is not None else None
        if _stops_the_run(error):
            retry, person = facts_of_stop(error)
            due_at = shifted(now, self._wait(error))
        elif meaning.remember is not None:
            due_at, attempts, failing_since = shifted(now, meaning.remember), 0, None
        elif meaning.retry:
            tried = slice_again(cursor, now=now) if walk.step.backfill else again(cursor, code, now=now)
            attempts, failing_since, person = tried.attempts, tried.since, person or tried.rests
            asked = error.retry_after if isinstance(error, TransientError) else None
            due_at = shifted(now, self._retry_in(walk.step, tried.attempts, rests=tried.rests, asked=asked))
        else:
            due_at, attempts, failing_since = self._due(walk.step), 0, None
        outcome = StepOutcome(meaning.outcome)
        report = replace(
            _report(walk.step, outcome),
            error=code,
            pages=len(walk.pages),
            notes=page_notes(error),
            due_at=due_at,
            retry=retry,
            person=person,
        )
        return report, Attempt(
            listing=walk.step.listing,
            at=now,
            due_at=due_at,
            outcome=outcome.value,
            error=code,
            refused_until=due_at if meaning.remember else None,
            checked_at=cursor.checked_at if cursor is not None else None,
            changed_at=now if brought else cursor.changed_at if cursor is not None else None,
            attempts=attempts,
            failing_since=failing_since,
        )

    def _retry_in(self, step: Step, attempts: int, *, rests: bool = False, asked: float | None = None) -> timedelta:
        """How long to leave a listing alone that time is to mend: never longer than its cadence.

        Args:
            rests: the fault lasts: at its cadence.
            asked: seconds, as the LFI wants it.
        """
        if asked is not None:
            return max(timedelta(seconds=asked), timedelta(seconds=1))
        cadence = self._settings.plan.cadence[step.resource.name]
        return cadence if rests else min(self._settings.retry_after(attempts), cadence)

    async def _ask_once(self) -> None:
        """Ask the Hub whether the consent still stands; once a run.  One that may not be called stops the run."""
        async with self._asking:
            if self._asked:
                return
            self._asked = True
            try:
                consent = await self._ask(self._consent.consent_id)
            except SyncWorkerError as error:
                log.warning("consent not asked", consent_id=self._consent.consent_id, error=error.code)
                return
            if not consent.callable_at(self._known.now):
                self._stop = ConsentNotUsableError(
                    f"consent is {consent.status}", consent_id=consent.consent_id, cause=consent.status
                )

    # -- the history behind ------------------------------------------------------------------------------------------

    async def _backfill(self, enough: float) -> None:
        """Read the history behind what is covered, slice by slice, the accounts by turns.

        Args:
            enough: loop time after which no slice is begun.
        """
        listings = [
            (resource, Listing(account_id, resource.name))
            for resource in self._resources
            if resource.window is not None and resource.window.sliced
            for account_id in self._accounts
        ]
        # failed attempts alone make a cursor too; it does not say how far the listing was read
        read_before = {
            listing: cursor
            for listing, cursor in self._known.cursors.items()
            if cursor.checked_at is not None or listing in self._broken
        }
        ahead = {
            shown.listing: foreseen(shown, now=self._known.now)
            for shown in self._showings
            if shown.listing not in read_before and shown.walk.error is None
        }
        cursors: Mapping[Listing, Cursor] = {
            **{listing: cursor for listing, cursor in ahead.items() if cursor is not None},
            **read_before,
        }
        if self._serving.parts and not self._everything:
            self._backfill_due |= self._owed(listings, cursors)
            return
        read = all(one in cursors and not self._slice(resource, cursors[one]) for resource, one in listings)
        if read and not self._to_look(self._known.cursors):
            return
        await self._flush()
        async with self._store.reading() as unit:
            cursors = await unit.cursors.of(self.scope.connection_id)
        if not read:
            cursors = await self._read_slices(listings, cursors, enough)
        await self._look_again(cursors, enough)

    def _owed(
        self, listings: Sequence[tuple[Resource, Listing]], cursors: Mapping[Listing, Cursor]
    ) -> Mapping[Listing, datetime]:
        """When slices are due that this run leaves to the next: what refreshes want is the newest part alone."""
        owed = [cursors[one] for resource, one in listings if one in cursors and self._slice(resource, cursors[one])]
        return {one.listing: max(one.backfill_due_at or self._known.now, self._known.now) for one in owed}

    async def _read_slices(
        self, listings: Sequence[tuple[Resource, Listing]], cursors: Mapping[Listing, Cursor], enough: float
    ) -> Mapping[Listing, Cursor]:
        """Slices of history until there is none left, or time is short; gives back the cursors as they are then."""
        while self._stop is None:
            begun = self._slices
            for resource, listing in listings:
                step = self._slice(resource, cursors.get(listing))
                if step is None or self._stop is not None:
                    continue
                cursor = cursors[listing]
                if cursor.backfill_due_at is not None and cursor.backfill_due_at > self._known.now:
                    self._backfill_due[listing] = cursor.backfill_due_at
                    continue
                self._backfill_due[listing] = self._known.now
                if asyncio.get_running_loop().time() > enough:
                    return cursors
                if listing not in self._broken_slices:
                    cursors = await self._one_slice(step, cursors)
                    later = cursors[listing].backfill_due_at
                    if later is None:
                        del self._backfill_due[listing]
                    else:
                        self._backfill_due[listing] = later
            if self._slices == begun:
                break
        return cursors

    def _to_look(self, cursors: Mapping[Listing, Cursor]) -> list[tuple[Resource, Listing]]:
        """Listings with unreadable items that it is time to look at again; only where all else of them was read."""
        floor = self._floor
        return [
            (resource, listing)
            for resource in self._resources
            if resource.window is not None
            for account_id in self._accounts
            if (listing := Listing(account_id, resource.name)) not in self._broken
            and listing not in self._broken_slices
            and is_to_look(resource, cursors.get(listing), floor=floor, now=self._known.now)
        ]

    @property
    def _floor(self) -> date:
        return floor_of(self._limits, now=self._known.now, settings=self._settings.plan)

    async def _look_again(self, cursors: Mapping[Listing, Cursor], enough: float) -> None:
        """Read once more the windows in which items lie that could not be read."""
        listings = self._to_look(cursors)
        if not listings or self._stop is not None:
            return
        async with self._store.reading() as unit:
            known = await unit.unreadable.of(self.scope.connection_id, [listing for _, listing in listings])
        for resource, listing in listings:
            items, now = known[listing].values(), self._known.now
            steps = looks(
                resource, listing.account_id, items, limits=self._limits, now=now, settings=self._settings.plan
            )
            if not steps:
                await self._looked_at(listing)
            for step in steps:
                if self._stop is not None or asyncio.get_running_loop().time() > enough:
                    return
                if listing not in self._broken_slices:
                    cursors = await self._one_slice(step, cursors)
            if cursors[listing].look_again_at is None:
                self._settled.add(listing)

    async def _looked_at(self, listing: Listing) -> None:
        """No item of a listing is left to look at."""

        async def write(unit: UnitOfWork) -> None:
            await guard(unit, self.scope)
            await unit.cursors.look_again(self.scope.connection_id, listing, at=None, gen=self._claim.gen)

        try:
            await self._store.atomically(write)
        except SyncWorkerError as error:
            self._stop = self._stop or error

    def _slice(self, resource: Resource, cursor: Cursor | None) -> Step | None:
        evidence = None if cursor is None else self._evidence.get(cursor.listing)
        if cursor is not None and self._is_refused(cursor.listing):
            return None
        return next_slice(
            resource,
            cursor,
            limits=self._limits,
            now=self._known.now,
            settings=self._settings.plan,
            unfiltered=self._is_unfiltered(resource) or (evidence is not None and evidence.enough),
        )

    def _is_refused(self, listing: Listing) -> bool:
        """Whether this run was refused a listing, or its account: its cursor says so only once the run has ended."""
        _, attempt = self._broken.get(listing, (None, None))
        return (
            attempt is not None and attempt.refused_until is not None
        ) or listing.account_id in self._closed_accounts

    def _is_unfiltered(self, resource: Resource) -> bool:
        """Whether the LFI is known to ignore the window of a resource that is read in slices."""
        if resource.window is None or not resource.window.sliced:
            return False
        return self._filters.ignored(self._consent.lfi, resource.name, now=self._known.now)

    def _evidence_of(self, listing: Listing) -> Evidence:
        return self._evidence.setdefault(listing, Evidence())

    async def _remember(self, unit: UnitOfWork, showings: Sequence[Showing], *, now: datetime) -> None:
        """Keep what walks, just written, say about the filter of their operation."""
        for shown in showings:
            step, lfi, name = shown.walk.step, self._consent.lfi, shown.resource.name
            too_long = step.whole and isinstance(shown.walk.error, EndlessListingError)  # then slices, if anything
            if step.whole and shown.filtered:
                self._evidence_of(shown.listing).refute()
            if shown.filtered or too_long:
                if self._filters.ignored(lfi, name, now=self._known.now):
                    log.info("date filter honoured again", lfi=lfi, resource=name.value)
                self._filters.forget(lfi, name)
                await unit.lfis.honours_filter(lfi, name)
            elif step.backfill and shown.filtered is False and self._evidence_of(shown.listing).older:
                log.warning("date filter ignored", lfi=lfi, resource=name.value)
                self._filters.learn(lfi, name, now)
                await unit.lfis.ignores_filter(lfi, name, at=now)

    async def _one_slice(self, step: Step, cursors: Mapping[Listing, Cursor]) -> Mapping[Listing, Cursor]:
        """Walk one slice and write it with its cursor and coverage; gives back the cursors as they are then."""
        self._stop = self._hindrance()
        if self._stop is not None:
            return cursors
        walk = await self._walked(step)
        if isinstance(walk.error, StoppingError):
            self._stop = walk.error  # the next run walks the slice anew
            return cursors
        shown = show(walk, footprint.NOTHING)
        walk = shown.walk
        later: tuple[int, datetime | None] | None = None
        until = self._known.now
        if walk.error is not None:
            meaning = await self._meaning(walk, walk.error)
            report, attempt = self._attempt(walk, walk.error, meaning)
            self._broken_slices[step.listing], until = report, attempt.due_at
            later = attempt.attempts, attempt.failing_since
        elif walk.short:  # what it did not show is still owed: the same slice again, later
            tried = slice_again(self._known.cursors.get(step.listing), now=self._known.now)
            failed = replace(_report(step, StepOutcome.FAILED), error=ENDS_EARLY, retry=True, person=tried.rests)
            self._broken_slices[step.listing], later = failed, (tried.attempts, tried.since)
            until += self._retry_in(step, tried.attempts, rests=tried.rests)
        elif step.window is not None and not (step.whole or step.look):
            self._evidence_of(step.listing).slice(step.window, step.resource.name, shown.records)
        shown.unfiltered = step.whole

        async def write(unit: UnitOfWork) -> tuple[tuple[StepReport, ...], Mapping[Listing, Cursor]]:
            now = await guard(unit, self.scope)
            held = await unit.cursors.of(self.scope.connection_id)
            due = {step.listing: held[step.listing].due_at}
            reports: tuple[StepReport, ...] = ()
            if walk.error is None or walk.pages:
                reports = await apply(unit, self.scope, [shown], held, due=due, now=now)
                await self._remember(unit, [shown], now=now)
                await unit.send()
            if later is not None and step.look:
                await unit.cursors.look_again(self.scope.connection_id, step.listing, at=until, gen=self._claim.gen)
            elif later is not None:
                attempts, failing_since = later
                await unit.cursors.delay_backfill(
                    self.scope.connection_id,
                    step.listing,
                    until=until,
                    attempts=attempts,
                    failing_since=failing_since,
                    gen=self._claim.gen,
                )
            return reports, await unit.cursors.of(self.scope.connection_id)

        try:
            reports, cursors = await self._store.atomically(write, bulk=True)
        except SyncWorkerError as error:
            self._stop = self._stop or error
            return cursors
        self._reports += reports
        if later is None:
            self._slices += 1
            self._slices_read.add(step.listing)
        return cursors

    # -- write -------------------------------------------------------------------------------------------------------

    async def _flush(self) -> None:
        """Write the listings at hand with their cursors, so that memory stays flat."""
        async with self._writing:
            showings, self._showings = self._showings, []
            if not showings:
                return

            async def step(unit: UnitOfWork) -> tuple[StepReport, ...]:
                now = await guard(unit, self.scope)
                return await self._apply(unit, showings, now=now)

            try:
                self._reports += await self._store.atomically(step, bulk=True)
            except asyncio.CancelledError:
                self._showings = [*showings, *self._showings]
                raise
            except SyncWorkerError as error:
                self._stop = error
                retry, person = facts_of_stop(error)
                self._reports += [
                    replace(_report(one.walk.step, StepOutcome.FAILED), error=error.code, retry=retry, person=person)
                    for one in showings
                ]

    async def _finish(self, unit: UnitOfWork) -> RunReport:
        """The end of a run whose claim still stands: everything, in one transaction."""
        now = await guard(unit, self.scope)
        written = await self._apply(unit, self._showings, now=now)
        if self._accounts_seen and self._accounts_seen - self._known.granted:
            complete = any(one.resource is ResourceName.ACCOUNTS for one in self._unchanged)
            granted = await unit.records.granted(self.scope.consent_id)
            await keep_grants(unit, self.scope, self._accounts_seen, granted=granted, complete=complete, now=now)
        attempts = [attempt for _, attempt in self._broken.values() if attempt is not None]
        await unit.cursors.attempted(self.scope.connection_id, attempts, gen=self._claim.gen)
        ending = self.ending([*self._reports, *written, *self._unchanged], now=now)
        await _end(unit, [ending], now=now)
        return ending.report

    async def _file(self, unit: UnitOfWork) -> RunReport:
        """The end of a run that may no longer write data: only that it was, and what it cost.

        Attempts are not noted either: a cursor names an account, and what it belongs to may be erased by now.
        """
        self._broken = {listing: (report, None) for listing, (report, _) in self._broken.items()}
        reports = [
            *self._reports,
            *(self._skipped(one.walk.step, pages=len(one.walk.pages)) for one in self._showings),
            *(replace(one, outcome=StepOutcome.SKIPPED, due_at=None) for one in self._unchanged),
        ]
        held, now = await unit.work.holds(self._claim), await unit.now()
        ending = self.ending(reports, now=now, noted=False, lost=not held)
        await _end(unit, [ending], now=now)
        return ending.report

    def _whole(self, reports: Sequence[StepReport]) -> list[StepReport]:
        """One report a listing: a walk that broke off keeps the counts of the records it brought."""
        by_listing: dict[Listing, StepReport] = {}
        for one in reports:
            listing = Listing(one.account_id, one.resource)
            by_listing[listing] = by_listing[listing].plus(one) if listing in by_listing else one
        for listing, slice_ in self._broken_slices.items():
            written = by_listing.get(listing, slice_)
            by_listing[listing] = replace(
                written,
                outcome=slice_.outcome,
                error=slice_.error,
                notes={**slice_.notes, **written.notes},
                retry=slice_.retry or written.retry,
                person=slice_.person or written.person,
            )
        for listing, (broken, _) in self._broken.items():
            written = by_listing.get(listing, broken)
            by_listing[listing] = replace(
                written,
                outcome=broken.outcome,
                error=broken.error,
                due_at=broken.due_at,
                pages=broken.pages,
                retry=broken.retry,
                person=broken.person or written.person,
            )
        return [by_listing[listing] for listing in sorted(by_listing)]

    async def _apply(self, unit: UnitOfWork, showings: list[Showing], *, now: datetime) -> tuple[StepReport, ...]:
        due, lasting = {shown.listing: self._due(shown.walk.step) for shown in showings}, set()
        for shown in showings:
            if shown.walk.short:  # time may mend it: the listing's own ladder says when to look again
                error = error_of(shown) or ENDS_EARLY
                tried = again(self._known.cursors.get(shown.listing), error, now=now)
                wait = self._retry_in(shown.walk.step, tried.attempts, rests=tried.rests)
                due[shown.listing] = self._known.now + wait
                lasting |= {shown.listing} if tried.rests else set()
        reports = await apply(unit, self.scope, showings, self._known.cursors, due=due, now=now)
        await self._remember(unit, showings, now=now)
        return tuple(
            replace(one, person=True) if Listing(one.account_id, one.resource) in lasting else one for one in reports
        )

    def _report(self, reports: Sequence[StepReport], *, now: datetime, lost: bool = False) -> RunReport:
        """What the run says at its end.

        Args:
            lost: the claim is not ours any more.
        """
        steps = self._whole(reports)
        outcome = RunOutcome.LEASE_LOST if lost else run_outcome(steps, stopped=self._stop is not None)
        failed = (step.error for step in steps if step.error and not step.complete)
        retry, person = facts_of_stop(self._stop)
        over = isinstance(self._stop, ConsentError)  # nothing is read before the user has acted
        return RunReport(
            connection_id=self.scope.connection_id,
            consent_id=self.scope.consent_id,
            lfi=self._consent.lfi,
            gen=self._claim.gen,
            started_at=self._known.now,
            ended_at=now,
            outcome=outcome,
            error=_code(self._stop) if self._stop is not None else next(failed, None),
            due_at=self._next_due(steps, now=now),
            calls=len(self._calls),
            steps=tuple(steps),
            retry=lost or retry or (not over and any(step.retry for step in steps)),
            person=person or self._lasts() or any(step.person for step in steps),
            counted=lost or not (self._stop is None or isinstance(self._stop, ConsentError | StoppingError)),
        )

    def ending(
        self, reports: Sequence[StepReport], *, now: datetime, noted: bool = True, lost: bool = False
    ) -> "Ending":
        """What the end of the run writes beside its rows.

        Args:
            noted: cursors and the connection may be told; not those of a run that may write no data any more.
            lost: the claim is not ours any more.
        """
        report = self._report(reports, now=now, lost=lost)
        known = self._known.cursors
        unchanged = [
            Checked(
                connection_id=self.scope.connection_id,
                account_id=one.account_id,
                resource=one.resource,
                due_at=one.due_at,
                gen=self._claim.gen,
            )
            for one in self._unchanged
            if one.due_at is not None
        ]
        by_quiet: dict[bool, list[Checked]] = {True: [], False: []}
        for one in unchanged:
            by_quiet[known[Listing(one.account_id, one.resource)].is_quiet].append(one)
        return Ending(
            claim=self._claim,
            report=report,
            calls=[self._call_row(call, words=noted) for call in self._calls],
            checked=by_quiet[True] if noted else [],
            kept={listing: one.check for listing, one in known.items() if one.check is not None},
            recovered=by_quiet[False] if noted else [],
            received=noted and any(one.pages for one in report.steps),
            stop=self._stop,
            found=self._found(report) if noted else (),
            cleared=self._cleared(report, now=now) if noted else (),
            served=()
            if lost or isinstance(self._stop, StoppingError)
            else ends_of(self._serving, self._brought(report)),
            again=self._serving.left and not lost and not isinstance(self._stop, StoppingError | ConsentError),
        )

    def _brought(self, report: RunReport) -> Brought:
        """What the run read, for the refreshes that it served."""
        return Brought(
            gen=self._claim.gen,
            resources=self._resources,
            accounts=self._accounts,
            steps=report.steps,
            cursors=self._known.cursors,
            error=_code(self._stop) if self._stop is not None else None,
            retry_at=report.due_at if report.retry else None,
            now=self._known.now,
        )

    def _found(self, report: RunReport) -> list[Found]:
        """What a person has to look at, each operation and code once."""
        of_the_run = None if self._stop is None else _code(self._stop)
        found = []
        for step in report.steps:
            if not step.person or step.outcome is StepOutcome.SKIPPED or (step.error and step.error == of_the_run):
                continue
            refused = self._refusals.get(Listing(step.account_id, step.resource))
            operation, reason = BY_NAME[step.resource].operation, refused.lfi_reason if refused else ""
            found += [self._finding(operation, code, reason=reason) for code in self._codes(step)]
        if (
            self._stop is not None
            and not isinstance(self._stop, ConsentError)
            and (facts_of_stop(self._stop)[1] or self._lasts())
        ):
            found.append(self._finding("", _code(self._stop)))
        return together(found)

    def _codes(self, step: StepReport) -> list[str]:
        """What a person has to look at of one listing: its notes, and the error of a walk whose end no note names."""
        listing = Listing(step.account_id, step.resource)
        broken, _ = self._broken.get(listing, (None, None))
        broken_off = [one for one in (broken, self._broken_slices.get(listing)) if one is not None]
        unnamed = {
            one.error
            for one in broken_off or [step]
            if one.person and one.error is not None and not findings_of_notes(one.notes)
        }
        return [*findings_of_notes(step.notes), *sorted(unnamed)]

    def _lasts(self) -> bool:
        """Whether runs of this connection break off as a whole again and again, for what time should have mended."""
        elsewhere = LFIRateLimitedError | LFIBreakerOpenError | StoppingError  # `status` tells of gates and breakers
        mends = isinstance(self._stop, TransientError | RefusedError) and not isinstance(self._stop, elsewhere)
        return mends and self._claim.attempts >= RUN_LASTS_FROM

    def _finding(self, operation: str, code: str, *, reason: str = "") -> Found:
        calls = [one for one in self._calls if operation in ("", one.operation)]
        met = next((one for one in reversed(calls) if one.error_code), calls[-1] if calls else None)
        return Found(
            lfi=self._consent.lfi,
            operation=operation,
            code=code[:CODE_LENGTH],
            times=1,
            connection_id=self.scope.connection_id,
            consent_id=self.scope.consent_id,
            interaction_id=met.interaction_id[:CODE_LENGTH] if met is not None else None,
            reason=reason[:REASON_LENGTH] or None,
        )

    def _cleared(self, report: RunReport, *, now: datetime) -> list[Cleared]:
        """The operations that this connection met trouble at before, and read without now."""
        cursors, floor = self._known.cursors, self._floor
        complete = {Listing(step.account_id, step.resource) for step in report.steps if step.complete}
        troubled = {step.resource for step in report.steps if step.person}
        troubled |= {  # a listing that is refused is not asked for in each run
            listing.resource
            for listing, cursor in cursors.items()
            if listing not in complete and listing.account_id in ("", *self._accounts) and needed_person(cursor)
        }
        read = {
            listing.resource
            for listing in complete
            if listing in self._settled or self._was_trouble(listing, cursors.get(listing), floor=floor)
        }
        cleared = [
            self._clear(BY_NAME[name].operation, now - CLEARED_AFTER * self._settings.plan.cadence[name])
            for name in sorted(read - troubled)
        ]
        if self._stop is None and self._claim.attempts > 1:  # the runs before broke off as a whole
            cleared.append(self._clear("", now - CLEARED_AFTER * max(self._settings.plan.cadence.values())))
        return cleared

    def _was_trouble(self, listing: Listing, cursor: Cursor | None, *, floor: date) -> bool:
        """Whether a finding was written for a listing that was read to its end now."""
        if cursor is None:
            return False
        if listing in self._slices_read and cursor.backfill_due_at is not None:
            return True
        # items that could not be read may lie where no walk came to
        return needed_person(cursor) and not owes_items(BY_NAME[listing.resource], cursor, floor=floor)

    def _clear(self, operation: str, last_seen_before: datetime) -> Cleared:
        return Cleared(
            lfi=self._consent.lfi,
            operation=operation,
            connection_id=self.scope.connection_id,
            last_seen_before=last_seen_before,
        )

    # -- when again --------------------------------------------------------------------------------------------------

    def _due(self, step: Step) -> datetime:
        return self._known.now + self._settings.plan.cadence[step.resource.name]

    def _wait(self, error: SyncWorkerError) -> timedelta:
        """How long to leave it alone: as the other side asked, else by the ladder."""
        asked = error.retry_after if isinstance(error, TransientError) else None
        if asked is None and isinstance(error, LFIRateLimitedError):
            asked = GATE_S  # every consent of the LFI waits: this one's bad ends must not say how long
        ladder = self._settings.retry_after(self._claim.attempts)
        if isinstance(error, LFIBreakerOpenError) and any((call.status or 599) >= 500 for call in self._calls):
            asked = max(asked or 0, ladder.total_seconds())  # another connection makes the trial call
        return ladder if asked is None else max(span(seconds=asked), timedelta(seconds=1))

    def _next_due(self, reports: list[StepReport], *, now: datetime) -> datetime:
        """When the connection is due: with the first of its listings that still count."""
        if isinstance(self._stop, ConsentError):
            return resting_until(self._stop.cause, now=now)
        if self._stop is not None:
            return shifted(now, self._wait(self._stop))
        soon = now + self._settings.retry_after(self._claim.attempts)
        due = {Listing(one.account_id, one.resource): one.due_at or soon for one in reports}
        listings = [
            Listing(account_id, resource.name)
            for resource in self._resources
            for account_id in (self._accounts if resource.per_account else ("",))
        ]
        known = {listing: cursor.due_at for listing, cursor in self._known.cursors.items()}
        for listing, at in self._backfill_due.items():
            due[listing] = min(at, due.get(listing) or known.get(listing) or at)
        return max(now, min((due.get(one) or known.get(one) or soon for one in listings), default=now + RESTING))

    def _call_row(self, call: Call, *, words: bool) -> CallRow:
        """A call as it is filed; the LFI's words about it only where data may be written: they may name a person."""
        return CallRow(
            lfi=self._consent.lfi,
            consent_id=self._consent.consent_id,
            operation=call.operation[:CODE_LENGTH],
            status=call.status,
            error=call.error_code[:CODE_LENGTH] or None,
            interaction_id=call.interaction_id[:CODE_LENGTH],
            started_at=call.started_at,
            duration_ms=call.duration_ms,
            bytes_in=call.bytes_in,
            attended=call.attended,
            price_millifils=self._settings.data_get_millifils if call.price_class == "data" else 0,
            attempt=call.attempt,
            reason=call.reason or None if words else None,
        )


def _until_stopped(token: TokenSource, stopping: asyncio.Event) -> TokenSource:
    """The same source while the process lives on.  A token is asked for before each page: there a walk ends."""

    async def source(*, rejected: SecretStr | None = None) -> SecretStr:
        if stopping.is_set():
            raise StoppingError("the process is stopping")
        try:
            return await token(rejected=rejected)
        except TokenBusyError as error:
            if stopping.is_set():  # the vault begins no refresh any more
                raise StoppingError("the process is stopping") from error
            raise

    return source


def _begins_earlier(walk: Walk, cursor: Cursor | None, *, now: datetime) -> bool:
    """Whether the LFI says that its history begins earlier than it said before: more of it may be to be read."""
    said = walk.first_available
    return said is not None and cursor is not None and said < (cursor.first_available or now)


def _stops_the_run(error: SyncWorkerError) -> bool:
    """Whether an error met at one listing is the run's as a whole: its gate, its token, its consent, our set-up."""
    return isinstance(error, LFIRateLimitedError | ConsentError | SetupError | TokenBusyError | LFIBreakerOpenError)


def facts_of_stop(stop: SyncWorkerError | None) -> tuple[bool, bool]:
    """Of a run that ended early: whether time mends it, and whether a person has to act."""
    match stop:
        case None:
            return False, False
        case ConsentError():
            return False, True
        case TransientError() | RefusedError():
            return True, False
    return True, True


def resting_until(status: str | None, *, now: datetime) -> datetime:
    """When to look again at a consent that may not be called: never by itself when it is at its end."""
    return NEVER if status in TERMINAL else now + RESTING


def _report(step: Step, outcome: StepOutcome) -> StepReport:
    return StepReport(resource=step.resource.name, account_id=step.account_id, outcome=outcome)


def _code(error: SyncWorkerError) -> str:
    """The stable code for reports: with the LFI's own where it gave one."""
    if isinstance(error, RefusedError):
        return f"{error.code}_{error.status}" + (f":{error.error_code}" if error.error_code else "")[: CODE_LENGTH - 12]
    if isinstance(error, ConsentError) and error.cause:
        return f"{error.code}:{error.cause}"[:CODE_LENGTH]
    return error.code


async def _failed_before(unit: UnitOfWork, ending: Ending) -> bool:
    """Whether the end before this one was a failure too: the product is told once for each trouble."""
    row = await unit.work.find(ending.claim.kind, ending.claim.subject)
    return row is not None and row.last_outcome == RunOutcome.FAILED.value


def _run_row(report: RunReport) -> RunRow:
    return RunRow(
        connection_id=report.connection_id,
        consent_id=report.consent_id,
        lfi=report.lfi,
        gen=report.gen,
        started_at=as_utc(report.started_at),
        ended_at=report.ended_at,
        outcome=report.outcome.value,
        error=report.error,
        calls=report.calls,
        pages=report.total("pages"),
        pages_unchanged=report.total("pages_unchanged"),
        added=report.total("added"),
        modified=report.total("modified"),
        removed=report.total("removed"),
        steps=[step.as_json() for step in report.steps],
    )

"""Refreshes: the product asks for some listings to be read now, and hears how that ended.

    refreshes.ask(…)            files a refresh and makes the syncs of its connections due, in one transaction
    refreshes.get(id)           how it stands
    refreshes.wait(id, …)       until it has ended, at most so long

Of each connection one run serves all refreshes that wait for it (`store.refreshes`): while none is under way one run is
made, and while one is under way at most one more.  Where no sync can come, the connection's part ends at once with the
reason.  A run ends its parts in its own transaction (`sync.run`), and a consent that stops ends those that wait
(`consents.lifecycle.rest`).  What no run comes for ends here: when it is asked about, and with the sweep.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

import structlog
from pydantic import SecretStr

from syncworker.consents.allowed import EVERYBODY, Allowed
from syncworker.consents.hindrance import ENDED, NEEDS_CONSENT, SUSPENDED, hindrance
from syncworker.errors import RequestError, SyncWorkerError
from syncworker.standard.calendar import as_utc, fault_of_instant, read_iso, shifted
from syncworker.standard.operations import OperationClass
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.connections import Tab
from syncworker.store.refreshes import (
    IDEMPOTENT_FOR,
    Customer,
    NewPart,
    PartEnd,
    StoredPart,
    StoredRefresh,
    Waiting,
    Wish,
    could_be_refresh,
    digests_of,
    new_context,
    new_refresh_id,
)
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import CRASHED, AskedRow, WorkKind

CONNECTIONS_MAX: Final = 50
"""Most connections of one refresh."""

SESSIONS_MAX: Final = 4
"""Most sessions of customers that may wait for a run of one connection; each needs a run of its own."""

WAITERS_MAX: Final = 200
"""Most requests of a process that wait for the end of a refresh; one more is answered at once."""

LOOK_EVERY_S: Final = 0.25
"""How often a process looks for the ends of all refreshes that requests wait for, in one statement."""

CLOCKS_APART: Final = timedelta(minutes=5)
"""How far a login may lie ahead of database time."""

PARKED: Final = "parked"
NOT_DECLARED: Final = "not_declared"
SETUP: Final = "setup"

log = structlog.stdlib.get_logger(__name__)


class Refusal(StrEnum):
    """Why nothing was filed."""

    NO_CONNECTION = "no_connection"
    NO_USER = "no_user"
    NO_ACCOUNT = "no_account"
    ENDED = "ended"
    """Sharing is over at every connection that was meant."""
    CONFLICT = "conflict"
    """The `Idempotency-Key` stands for a refresh that was asked for otherwise."""
    TOO_MANY = "too_many"
    """Other sessions of the customer wait for runs of their own already."""


class Stage(StrEnum):
    """How far a refresh, or its part at one connection, is."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETE = "complete"
    PARTIAL = "partial"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be refreshed, and with which key.

    Attributes:
        key_id: the API key.
        connection_id: one connection; else all in use of `user_ref`, or the one of `account_id`.
        account_id: ours, of one account alone; `connection_id`, where given too, is the account's.
        wish: names no account: `ask` puts in the LFI's id of it.
        customer: who is present and asks for it.
        idempotency_key: as the caller sent it.
    """

    key_id: str
    connection_id: ConsentId | None = None
    user_ref: str | None = None
    account_id: str | None = None
    wish: Wish = field(default_factory=Wish)
    customer: Customer | None = field(default=None, repr=False)
    idempotency_key: SecretStr | None = None

    def body(self) -> dict[str, Any]:
        """What an `Idempotency-Key` stands for."""
        one = self.customer
        present = None if one is None else [one.ip, as_utc(one.auth_date), one.user_agent]
        about = {"connection_id": self.connection_id, "user_ref": self.user_ref, "account_id": self.account_id}
        return about | {"customer": present, "wish": self.wish.as_json()}


@dataclass(frozen=True, slots=True, kw_only=True)
class PartShown:
    """How a refresh stands at one connection.

    Attributes:
        run_id: number of the run that served it.
        reason: a constant word: why it is not complete, or what it waits for.
        retry_at: when that may have changed.
        listings: `account_id` (ours), `lfi_account_id`, `resource`, `outcome`, and of those not read `reason`, `error`,
            `retry_at`.
    """

    connection_id: ConsentId
    stage: Stage
    joined: bool
    run_id: int | None
    reason: str | None
    error: str | None
    retry_at: datetime | None
    ended_at: datetime | None
    listings: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """How a refresh stands.

    Attributes:
        joined: at a connection of it another refresh waited for the same run already.
    """

    refresh_id: str
    stage: Stage
    attended: bool
    joined: bool
    created_at: datetime
    ended_at: datetime | None
    parts: Sequence[PartShown]


class _RefusedError(Exception):
    """Rolls back what was begun."""

    def __init__(self, why: Refusal) -> None:
        super().__init__(why.value)
        self.why = why


@dataclass(frozen=True, slots=True)
class _Subject:
    """A connection that was meant; `reason`: why no sync of it can come."""

    connection_id: ConsentId
    consent_id: ConsentId | None
    lfi: Slug
    user_ref: str
    reason: str | None


Along = Callable[[UnitOfWork, str], Awaitable[object]]
"""What is done in the transaction of a refresh, with its id; commits nothing."""


class Watch:
    """Tells the requests that wait that a refresh has ended.  One look at the database serves all of them."""

    def __init__(self, store: Store, *, every_s: float = LOOK_EVERY_S, most: int = WAITERS_MAX) -> None:
        self._store = store
        self._every_s = every_s
        self._most = most
        self._waiters: dict[str, set[asyncio.Event]] = {}
        self._looking: asyncio.Task[None] | None = None

    @property
    def waiters(self) -> int:
        return sum(map(len, self._waiters.values()))

    async def wait(self, refresh_id: str, *, within_s: float) -> bool:
        """Until a refresh has ended, at most so long; `False`: it has not, or too many wait already."""
        if self.waiters >= self._most:
            return False
        event = asyncio.Event()
        self._waiters.setdefault(refresh_id, set()).add(event)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="look for ended refreshes")
        try:
            async with asyncio.timeout(within_s):
                await event.wait()
        except TimeoutError:
            return False
        finally:
            waiting = self._waiters.get(refresh_id, set())
            waiting.discard(event)
            if not waiting:
                self._waiters.pop(refresh_id, None)
        return True

    async def close(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> None:
        while self._waiters:
            try:
                async with self._store.looking() as unit:
                    wanted = list(self._waiters)
                    unended = await unit.refreshes.unended(wanted)
                for refresh_id in set(wanted) - unended:
                    for event in self._waiters.get(refresh_id, ()):
                        event.set()
            except SyncWorkerError as error:  # the database is away: the next look finds the same
                log.warning("refreshes not looked at", error=error.code)
            await asyncio.sleep(self._every_s)


class Refreshes:
    """Asks for refreshes and shows how they stand.

    Args:
        declared: gives the LFIs that workers call.
        allowed: whom we may call at all.
    """

    def __init__(
        self,
        store: Store,
        *,
        declared: Callable[[], Awaitable[Collection[Slug]]],
        allowed: Allowed = EVERYBODY,
        watch: Watch | None = None,
    ) -> None:
        self._store = store
        self._declared = declared
        self._allowed = allowed
        self._watch = watch or Watch(store)

    async def ask(self, asked: Asked, *, along: Along | None = None) -> str | Refusal:
        """File a refresh, or find the one that its `Idempotency-Key` stands for.

        Args:
            along: is done in the same transaction, with the refresh's id.

        Returns:
            Its id, or why nothing was filed.

        Raises:
            RequestError: a field is wrong.
            NotAllowedError: the LFI or the customer is outside the allow-lists.
        """
        declared = await self._declared()

        async def filed(unit: UnitOfWork) -> str:
            refresh_id = await self._file(unit, asked, declared)
            if along is not None:
                await along(unit, refresh_id)
            return refresh_id

        try:
            return await self._store.atomically(filed)
        except _RefusedError as refused:
            return refused.why

    async def get(self, refresh_id: str) -> Shown | None:
        """How a refresh stands; `None`: none of that id is held."""
        if not could_be_refresh(refresh_id):
            return None
        async with self._store.reading() as unit:
            held, now = await unit.refreshes.get(refresh_id), await unit.now()
            given_up = held is not None and any(_is_given_up(one, now) for one in held.parts)
        if held is None:
            return None
        if given_up:
            await self._store.atomically(lambda unit: _give_up(unit, held))
        async with self._store.reading() as unit:
            return await _shown(unit, await unit.refreshes.get(refresh_id) or held)

    async def wait(self, refresh_id: str, *, within_s: float) -> Shown | None:
        """As `get`, once the refresh has ended, or so many seconds are over."""
        shown = await self.get(refresh_id)
        if shown is None or shown.ended_at is not None or within_s <= 0:
            return shown
        await self._watch.wait(refresh_id, within_s=within_s)
        return await self.get(refresh_id)

    async def close(self) -> None:
        """Keep nothing waiting."""
        await self._watch.close()

    async def _file(self, unit: UnitOfWork, asked: Asked, declared: Collection[Slug]) -> str:
        at = await unit.now()
        _check(asked, now=at)
        digests = None
        if asked.idempotency_key is not None:
            digests = digests_of(asked.key_id, asked.idempotency_key, asked.body())
            if (known := await _known(unit, digests, at=at)) is not None:
                return known
        asked = await _of_account(unit, asked)
        subjects = await self._subjects(unit, asked, now=at)
        refresh_id, attended = new_refresh_id(), asked.customer is not None
        added = await unit.refreshes.add(refresh_id, key_id=asked.key_id, attended=attended, at=at, digests=digests)
        if not added:  # the same was asked for in this very moment
            assert digests is not None
            known = await _known(unit, digests, at=at)
            assert known is not None
            return known
        parts: list[NewPart] = []
        ends: list[PartEnd] = []
        for subject in sorted(subjects, key=lambda one: one.connection_id):  # every writer locks in one order
            reason, error, row = subject.reason, None, None
            if reason is None and subject.lfi not in declared:
                reason, error = SETUP, NOT_DECLARED
            if reason is None:
                row = await unit.work.ask_listings(subject.connection_id)
                reason = NEEDS_CONSENT if row is None else PARKED if row.parked else None
                error = CRASHED if reason == PARKED else None
            elif reason == SUSPENDED and subject.consent_id is not None:  # the Hub may know better by now
                await unit.work.ask_now(WorkKind.CONSENT, subject.consent_id)
            if row is not None and reason is None:
                parts.append(await _part(unit, subject, asked, row, now=at))
            else:
                parts.append(NewPart(connection_id=subject.connection_id, asked_gen=0, wish=asked.wish))
                ends.append(
                    PartEnd(
                        refresh_id=refresh_id,
                        connection_id=subject.connection_id,
                        outcome=Stage.FAILED.value,
                        reason=reason,
                        error=error,
                    )
                )
        await unit.refreshes.add_parts(refresh_id, parts, at=at)
        if ends:
            unit.with_commit([unit.refreshes.ending(ends, at=at)])
        return refresh_id

    async def _subjects(self, unit: UnitOfWork, asked: Asked, *, now: datetime) -> list[_Subject]:
        """The connections that are meant."""
        if asked.connection_id is not None:
            held = await unit.connections.get(asked.connection_id)
            if held is None:
                raise _RefusedError(Refusal.NO_CONNECTION)
            found = [held[0]]
            if asked.wish.account_id is not None:
                accounts = await unit.connections.accounts(held[0])
                if asked.wish.account_id not in {one.lfi_account_id for one in accounts}:
                    raise _RefusedError(Refusal.NO_ACCOUNT)
        else:
            most = CONNECTIONS_MAX + 1
            found = list(await unit.connections.page(user_ref=asked.user_ref, tab=Tab.CURRENT, limit=most))
            if len(found) == most:
                raise RequestError(f"user_ref: has more than {CONNECTIONS_MAX} connections; name them by connection_id")
            if not found:
                ended = await unit.connections.page(user_ref=asked.user_ref, limit=1)
                raise _RefusedError(Refusal.ENDED if ended else Refusal.NO_USER)
        subjects = []
        for one in found:
            self._allowed.check(one.lfi, one.user_ref)
            live = await unit.consents.live(one.connection_id)
            reason = hindrance(live, now=now)
            consent_id = None if live is None else live.consent_id
            subjects.append(_Subject(one.connection_id, consent_id, one.lfi, one.user_ref, reason))
        if all(one.reason in ENDED for one in subjects):
            raise _RefusedError(Refusal.ENDED)
        return subjects


def running_context(waiting: Sequence[Waiting], row_started: int, *, now: datetime) -> str:
    """The context of the run that is under way, of the parts that wait, as `sync.wishes.serving` chose it."""
    begun = (one for one in waiting if one.asked_gen < row_started and one.attended and not one.late_at(now))
    return next((one.context for one in begun), "")


def _check(asked: Asked, *, now: datetime) -> None:
    """Raises RequestError: the customer's login lies where none can."""
    if asked.customer is None:
        return
    fault = fault_of_instant(asked.customer.auth_date)
    if not fault and asked.customer.auth_date > now + CLOCKS_APART:
        fault = "lies in the future; give the instant of the customer's last login with you"
    if fault:
        raise RequestError(f"customer.auth_date: {fault}")


async def _of_account(unit: UnitOfWork, asked: Asked) -> Asked:
    """With the connection of the account that is asked for, and the LFI's id of it."""
    if asked.account_id is None:
        return asked
    found = (await unit.account_references.get([asked.account_id])).get(asked.account_id)
    if found is None or asked.connection_id not in (None, found.connection_id):
        raise _RefusedError(Refusal.NO_ACCOUNT)
    wish = replace(asked.wish, account_id=found.lfi_account_id)
    return replace(asked, connection_id=found.connection_id, wish=wish)


async def _known(unit: UnitOfWork, digests: tuple[bytes, bytes], *, at: datetime) -> str | None:
    """The refresh that an `Idempotency-Key` stands for."""
    known = await unit.refreshes.of_idempotency(digests[0], since=shifted(at, -IDEMPOTENT_FOR))
    if known is None:
        return None
    refresh_id, body = known
    if body != digests[1]:
        raise _RefusedError(Refusal.CONFLICT)
    return refresh_id


async def _part(unit: UnitOfWork, subject: _Subject, asked: Asked, row: AskedRow, *, now: datetime) -> NewPart:
    """The part of a connection whose sync was just asked for: it joins those that wait for the same run."""
    found = await unit.refreshes.waiting([subject.connection_id])
    waiting = [one for one in found.get(subject.connection_id, ()) if not one.late_at(now)]
    if row.lease_until is not None and row.lease_until > now:  # what is under way served those asked for before it
        context = running_context(waiting, row.started_gen, now=now)
        waiting = [one for one in waiting if one.asked_gen >= row.started_gen or one.context != context]
    context = ""
    if asked.customer is not None:
        sessions = {one.context: one for one in waiting if one.attended}
        same = (name for name, one in sessions.items() if unit.refreshes.customer(one) == asked.customer)
        context = next(same, "")
        if not context and len(sessions) >= SESSIONS_MAX:
            raise _RefusedError(Refusal.TOO_MANY)
        context = context or new_context()
    return NewPart(
        connection_id=subject.connection_id,
        asked_gen=row.started_gen,
        wish=asked.wish,
        joined=any(one.context == context for one in waiting),
        context=context,
        customer=asked.customer,
    )


def _is_given_up(part: StoredPart, now: datetime) -> bool:
    """Whether no run comes for a part any more."""
    if part.ended_at is not None or part.under_way is not None:
        return False
    return part.parked or _as_waiting(part).late_at(now)


async def _give_up(unit: UnitOfWork, held: StoredRefresh) -> None:
    at = await unit.now()
    for part in held.parts:
        if part.parked and part.ended_at is None:
            await unit.refreshes.end_open(part.connection_id, reason=PARKED, error=CRASHED, at=at)
    await unit.refreshes.end_late(at=at)


async def _shown(unit: UnitOfWork, held: StoredRefresh) -> Shown:
    now = await unit.now()
    still_open = [one for one in held.parts if one.ended_at is None]
    waiting: Mapping[ConsentId, Sequence[Waiting]] = {}
    held_back: Mapping[Slug, tuple[str, datetime]] = {}
    if still_open:
        waiting = await unit.refreshes.waiting([one.connection_id for one in still_open])
        held_back = await _held_back(unit, now=now)
    names = await _names(unit, held.parts)
    parts = [
        _part_shown(one, waiting.get(one.connection_id, ()), held_back.get(one.lfi), names, now) for one in held.parts
    ]
    stages = {one.stage for one in parts}
    if Stage.RUNNING in stages or Stage.QUEUED in stages:
        stage = Stage.RUNNING if Stage.RUNNING in stages else Stage.QUEUED
    else:
        stage = stages.pop() if len(stages) == 1 else Stage.PARTIAL
    return Shown(
        refresh_id=held.refresh_id,
        stage=stage,
        attended=held.attended,
        joined=any(one.joined for one in parts),
        created_at=held.created_at,
        ended_at=held.ended_at,
        parts=parts,
    )


async def _names(unit: UnitOfWork, parts: Sequence[StoredPart]) -> dict[tuple[str, str], str]:
    """Our ids of the accounts whose listings were wanted, by connection and the LFI's id."""
    those = [one.connection_id for one in parts if any(listing.get("account_id") for listing in one.listings)]
    if not those:
        return {}
    found = await unit.account_references.of_connections(those)
    return {(one.connection_id, one.lfi_account_id): one.account_id for one in found}


def _part_shown(
    part: StoredPart,
    waiting: Sequence[Waiting],
    held_back: tuple[str, datetime] | None,
    names: Mapping[tuple[str, str], str],
    now: datetime,
) -> PartShown:
    reason, retry_at = part.reason, part.retry_at
    if part.outcome is not None:
        stage = Stage(part.outcome)
    elif part.under_way is not None and running_context(waiting, part.under_way, now=now) == part.context:
        stage = Stage.RUNNING
    else:
        stage = Stage.QUEUED
        reason, retry_at = held_back or (None, None)
    return PartShown(
        connection_id=part.connection_id,
        stage=stage,
        joined=part.joined,
        run_id=part.run_id,
        reason=reason,
        error=part.error,
        retry_at=retry_at,
        ended_at=part.ended_at,
        listings=[_listing(part.connection_id, one, names) for one in part.listings],
    )


def _listing(
    connection_id: ConsentId, facts: Mapping[str, Any], names: Mapping[tuple[str, str], str]
) -> Mapping[str, Any]:
    """A listing as it is stored, under the names that readers know; stored is the LFI's id of the account."""
    lfi_account_id, retry_at = facts.get("account_id") or None, facts.get("retry_at")
    return {
        **facts,
        "account_id": None if lfi_account_id is None else names.get((connection_id, lfi_account_id)),
        "lfi_account_id": lfi_account_id,
        "retry_at": None if retry_at is None else read_iso(retry_at),
    }


async def _held_back(unit: UnitOfWork, *, now: datetime) -> dict[Slug, tuple[str, datetime]]:
    """LFIs that no data is asked of just now: why, and until when."""
    found = {
        Slug(lfi): ("lfi_down", one.until)
        for (lfi, operations), one in (await unit.breakers.all()).items()
        if operations is OperationClass.DATA and one.closed_at is None and now < one.until
    }
    gates = {lfi: ("gated", gate.until) for lfi, gate in (await unit.lfis.gates_known()).items() if now < gate.until}
    return found | gates


def _as_waiting(part: StoredPart) -> Waiting:
    return Waiting(
        refresh_id="",
        connection_id=part.connection_id,
        created_at=part.created_at,
        asked_gen=part.asked_gen,
        context=part.context,
        wish=part.wish,
    )

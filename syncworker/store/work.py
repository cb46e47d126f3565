"""What is due, who has claimed it, how it ended; and which processes are alive.

One row of `work` per (kind, subject).  The row says what is due, a claim takes it, a message only mentions it
(`reliability.md` §2).  A claim counts `gen` up and sets a lease; whoever holds an older `gen` changes nothing.  A
lease that runs out makes the row claimable again.  Only database time counts.

The life of a row:  `schedule` → `claim` (dispatcher) → `take` (worker) → `extend` … → `finish`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache, partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from syncworker.standard.values import Slug
from syncworker.store.dialect import Dialect, Instant
from syncworker.store.open_claims import OpenClaims
from syncworker.store.statements import NOW, Answer, Statement, Told, named, run_all
from syncworker.store.tables import connection, consent, opening, work, worker
from syncworker.store.tables import lfi as lfi_table

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

LEASE: Final = timedelta(seconds=120)
CRASHES_MAX: Final = 5
"""Claims in a row that a worker began and never ended, after which the row is parked and a person is told."""

SUSPECT_AFTER: Final = 2
"""Crashes in a row that make a row a suspect: it is claimed in a small group, and from the next crash on alone.

A row that ends its process takes everything along that was in work there.  Were all of them claimed together again,
all would be parked with it.
"""

SUSPECTS_AT_ONCE: Final = 16
"""Rows of the group: how many may meet the one that ends processes once more."""

CRASHED: Final = "crashed"
"""`last_error` of a row parked by the dispatcher."""


class WorkKind(StrEnum):
    """What a row of `work` is about."""

    SYNC = "sync"  # subject: connection_id
    TOKEN = "token"  # noqa: S105  subject: consent_id
    CONSENT = "consent"  # ask the Hub for a consent; subject: consent_id
    FLAG = "flag"  # a consent nears its end; subject: consent_id
    EVENT = "event"  # act on what was filed; subject: the inbox's id, as text
    OPENING = "opening"  # follow an account opening; subject: our id of it, as text
    DELIVERY = "delivery"  # send webhooks to an endpoint of the product; subject: endpoint_id
    DIRECTORY = "directory"  # subject: `participants`, the one document there is
    FILL = "fill"  # fill columns of rows held; subject: `columns`
    EXPORT = "export"  # make an export; subject: the name of its series


@dataclass(frozen=True, slots=True)
class Claim:
    """A right to work on one row, good while `gen` is the row's newest.

    Attributes:
        subject: `connection_id` of a sync, `consent_id` of a token.
        attempts: claims since the last end that counted none, this one included.
        asked: a person or the product wants it now, not only when it is due.
        everything: of a sync that was taken: all listings are wanted now, whatever refreshes want.
    """

    id: int
    kind: WorkKind
    subject: str
    lfi: Slug
    gen: int
    attempts: int = 1
    asked: bool = False
    everything: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedRow:
    """A row as `ask_listings` found it.

    Attributes:
        started_gen: of the newest claim that a worker began; a later one serves what was asked.
        parked: nothing was asked: a person has to act first.
        lease_until: of the open claim; `None`: there is none.
    """

    started_gen: int
    parked: bool
    lease_until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkRow:
    """One row as it stands, for people and reports."""

    id: int
    kind: WorkKind
    subject: str
    lfi: Slug
    due_at: datetime
    asked_at: datetime | None
    gen: int
    lease_until: datetime | None
    attempts: int
    crashes: int
    parked_at: datetime | None
    last_started_at: datetime | None
    last_ended_at: datetime | None
    last_good_at: datetime | None
    last_outcome: str | None
    last_error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkSummary:
    """The rows of one LFI and kind, counted.

    Attributes:
        rows: all of them.
        due: due, neither leased nor parked.
        late: age of the oldest such row; zero when there is none.  The alarm that matters.
        leased: claimed, lease alive.
        parked: nobody claims them until a person acts.
        failing: their last end was a bad one, and they are still in the schedule.
        retry: those of them of which time mends something.
        next_due: of the rows that wait for their time; `None` when there is none.
    """

    lfi: Slug
    kind: WorkKind
    rows: int
    due: int
    late: timedelta
    leased: int
    parked: int
    failing: int = 0
    retry: int = 0
    next_due: datetime | None = None


_CLAIMS: Final[Mapping[str, Any]] = {"id": work.c.id.type, "gen": work.c.gen.type}
"""What a statement is told of some claims (`Dialect.given`)."""


def _claims(dialect: Dialect, name: str = "claims", kinds: Mapping[str, Any] = _CLAIMS) -> sa.FromClause:
    return dialect.keys(name, kinds, tenant=named(work.c.tenant, "of_tenant"))


def _current(dialect: Dialect, those: sa.FromClause) -> tuple[sa.ColumnElement[bool], ...]:
    """The rows whose newest claim is among those."""
    return dialect.aside(work.c.tenant) == those.c.tenant, work.c.id == those.c.id, work.c.gen == those.c.gen


def _holding(dialect: Dialect) -> sa.Select[Any]:
    query = sa.select(work.c.id).where(*_current(dialect, _claims(dialect))).order_by(work.c.subject)
    if dialect.is_postgresql:
        # not FOR SHARE: an `extend` behind two of those deadlocks
        return query.with_for_update(of=work, key_share=True)
    return query


HOLDS: Final = Statement(_holding)
"""Which claims are their rows' newest, kept so until the transaction ends.

Who holds several takes them in the order of their subjects, so that nobody waits for the other.
"""


def _taking(dialect: Dialect, lease: timedelta) -> Any:
    now = dialect.now()
    asked = sa.type_coerce(work.c.asked_at, sa.types.NullType())  # the value: see `_CLAIM`
    return (
        sa.update(work)
        .where(
            *_current(dialect, _claims(dialect)),
            work.c.started_gen < work.c.gen,
            work.c.parked_at.is_(None),
            work.c.lease_until > now,
        )
        .values(started_gen=work.c.gen, last_started_at=now, lease_until=dialect.after(lease))
        .returning(
            work.c.id, work.c.kind, work.c.subject, work.c.lfi, work.c.gen, work.c.attempts, asked,
            work.c.asked_all_gen,
        )
    )  # fmt: skip


def _extending(dialect: Dialect, lease: timedelta) -> Any:
    return (
        sa.update(work)
        .where(*_current(dialect, _claims(dialect)), work.c.lease_until.is_not(None))
        .values(lease_until=dialect.after(lease))
        .returning(work.c.id)
    )


def _freeing(dialect: Dialect, *, begun: bool) -> Any:
    not_begun = [] if begun else [work.c.started_gen < work.c.gen]
    return (
        sa.update(work)
        .where(*_current(dialect, _claims(dialect)), work.c.lease_until.is_not(None), *not_begun)
        .values(lease_until=None, attempts=sa.case((work.c.attempts > 0, work.c.attempts - 1), else_=0))
    )


@cache
def _leasing(build: Callable[..., Any], lease: timedelta) -> Statement:
    return Statement(partial(build, lease=lease))


_FREE: Final = Statement(partial(_freeing, begun=True))
_FREE_NOT_BEGUN: Final = Statement(partial(_freeing, begun=False))

_ENDS: Final[Mapping[str, Any]] = {
    **_CLAIMS,
    "due_at": work.c.due_at.type,
    "outcome": work.c.last_outcome.type,
    "error": work.c.last_error.type,
    "good": sa.Boolean(),
    "counted": sa.Boolean(),
    "retry": sa.Boolean(),
}


def _finishing(dialect: Dialect) -> Any:
    now, ends = dialect.now(), _claims(dialect, "ends", _ENDS)
    asked_since = sa.and_(work.c.asked_at.is_not(None), work.c.asked_gen >= ends.c.gen)
    scheduled_since = sa.and_(work.c.due_at > work.c.last_started_at, work.c.due_at < ends.c.due_at)  # due when begun
    return (
        sa.update(work)
        .where(*_current(dialect, ends), work.c.lease_until.is_not(None))
        .values(
            lease_until=None,
            last_ended_at=now,
            last_outcome=ends.c.outcome,
            last_error=ends.c.error,
            crashes=0,
            due_at=sa.case((sa.or_(asked_since, scheduled_since), work.c.due_at), else_=ends.c.due_at),
            asked_at=sa.case((asked_since, work.c.asked_at), else_=None),
            asked_all_gen=sa.case((work.c.asked_all_gen >= ends.c.gen, work.c.asked_all_gen), else_=None),
            attempts=sa.case((ends.c.counted, work.c.attempts), else_=0),
            last_good_at=sa.case((ends.c.good, now), else_=work.c.last_good_at),
            retry=ends.c.retry,
        )
    )


_FINISH: Final = Statement(_finishing)


def _asking_again(dialect: Dialect) -> Any:
    now, those = dialect.now(), _claims(dialect, kinds={**_CLAIMS, "everything": sa.Boolean()})
    return (
        sa.update(work)
        .where(*_current(dialect, those), work.c.parked_at.is_(None))
        .values(
            due_at=now,
            asked_at=now,
            asked_gen=work.c.started_gen,
            asked_all_gen=sa.case((those.c.everything, work.c.started_gen), else_=work.c.asked_all_gen),
        )
    )


_ASK_AGAIN: Final = Statement(_asking_again)


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a run of a claim ended.

    Attributes:
        due_at: when the subject is due next.
        outcome: a constant word for what happened, at most 40 characters.
        error: stable code of the error, if there was one.
        good: nothing is missing; `last_good_at` says when that was last so.
        counted: whether it counts as an attempt of the row; `None`: unless it is good.
        retry: time mends what is missing; `None`: unless it is good.
    """

    claim: Claim
    due_at: datetime
    outcome: str
    error: str | None = None
    good: bool
    counted: bool | None = None
    retry: bool | None = None


def _scheduling(dialect: Dialect) -> Any:
    those = dialect.given("scheduled", {name: work.c[name].type for name in ("subject", "lfi", "due_at")})
    frame = (named(work.c.tenant, "of_tenant"), named(work.c.kind, "of_kind"))
    rows = sa.select(*frame, those.c.subject, those.c.lfi, those.c.due_at).where(sa.true())
    names = ("tenant", "kind", "subject", "lfi", "due_at")
    fresh = dialect.insert(work).from_select(names, rows.order_by(those.c.subject))  # everybody locks in one order
    still_asked = sa.and_(work.c.asked_at.is_not(None), work.c.asked_gen >= work.c.started_gen)
    sooner = sa.case(
        (sa.and_(still_asked, work.c.due_at < fresh.excluded.due_at), work.c.due_at), else_=fresh.excluded.due_at
    )
    return fresh.on_conflict_do_update(
        index_elements=["tenant", "kind", "subject"], set_={"due_at": sooner, "lfi": fresh.excluded.lfi}
    )


_SCHEDULE: Final = Statement(_scheduling)


class Work:
    """The rows of `work` of one tenant, and the `worker` rows of the installation."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    # -- what is due -------------------------------------------------------------------------------------------------

    async def schedule(self, kind: WorkKind, subject: str, *, lfi: Slug, due_at: datetime) -> None:
        """Set when a subject is due; makes its row when there is none.

        A claim that is open stays open, a parked row stays parked, and a row asked for now stays due now until a
        worker begins it: what is scheduled during that run counts for the time after it (`finish`).
        """
        await run_all(self._unit, [self.scheduling(kind, [(subject, lfi, due_at)])])

    def scheduling(self, kind: WorkKind, those: Sequence[tuple[str, Slug, datetime]]) -> Told:
        """`schedule` for subjects (subject, LFI, instant), each once, to be sent with others."""
        rows = [{"subject": subject, "lfi": lfi, "due_at": due_at} for subject, lfi, due_at in those]
        frame = {"of_tenant": self._unit.tenant, "of_kind": kind.value}
        return _SCHEDULE, {**frame, "scheduled": self._unit.dialect.rows(rows)}

    async def schedule_sooner(self, entries: Sequence[tuple[WorkKind, str, Slug, datetime]]) -> None:
        """Make subjects (kind, subject, LFI, instant) due then, or sooner where they are due sooner; in one statement.

        Rows are made where there are none; an open claim stays open, a parked row stays parked.
        """
        if not entries:
            return
        fresh = self._unit.dialect.insert(work)
        sooner = sa.case((work.c.due_at < fresh.excluded.due_at, work.c.due_at), else_=fresh.excluded.due_at)
        rows = [
            {"tenant": self._unit.tenant, "kind": kind.value, "subject": subject, "lfi": lfi, "due_at": due_at}
            for kind, subject, lfi, due_at in sorted(entries)  # everybody locks in one order
        ]
        await self._unit.connection.execute(
            fresh.on_conflict_do_update(index_elements=["tenant", "kind", "subject"], set_={"due_at": sooner}), rows
        )

    async def ask_now(self, kind: WorkKind, subject: str) -> bool:
        """Make a subject due at once, and unpark it.  Asked during a run, it runs once more afterwards.

        Returns:
            Whether there is such a row.
        """
        now = self._unit.dialect.now()
        asked = await self._execute(
            sa.update(work)
            .where(self._is(kind, subject))
            .values(
                due_at=now,
                asked_at=now,
                asked_gen=work.c.started_gen,
                asked_all_gen=work.c.started_gen,
                parked_at=None,
                crashes=sa.case((work.c.parked_at.is_not(None), 0), else_=work.c.crashes),
                attempts=sa.case((work.c.parked_at.is_not(None), 0), else_=work.c.attempts),
            )
        )
        return asked.rowcount == 1

    async def ask_listings(self, subject: str) -> AskedRow | None:
        """Make a sync due at once for what open refreshes of the connection want; a parked row stays as it is.

        As `ask_now`, asked during a run it runs once more afterwards; asked for already, it runs once.

        Returns:
            The row, kept from other writers until the transaction ends; `None`: there is none.
        """
        now, parked = self._unit.dialect.now(), work.c.parked_at.is_not(None)
        asked = await self._execute(
            sa.update(work)
            .where(self._is(WorkKind.SYNC, subject))
            .values(
                due_at=sa.case((parked, work.c.due_at), else_=now),
                asked_at=sa.case((parked, work.c.asked_at), else_=now),
                asked_gen=sa.case((parked, work.c.asked_gen), else_=work.c.started_gen),
            )
            .returning(work.c.started_gen, work.c.parked_at, work.c.lease_until)
        )
        row = asked.first()
        if row is None:
            return None
        return AskedRow(started_gen=row.started_gen, parked=row.parked_at is not None, lease_until=row.lease_until)

    def asking_again(self, claims: Sequence[Claim]) -> Told:
        """Make syncs that just ended due at once, to be sent after their ends: more is wanted than they could read.

        What `Claim.everything` asked for is asked for again.
        """
        rows = [{"id": one.id, "gen": one.gen, "everything": one.everything} for one in claims]
        return _ASK_AGAIN, {"of_tenant": self._unit.tenant, "claims": self._unit.dialect.rows(rows)}

    async def park(self, work_id: int, *, outcome: str = "parked", error: str | None = None) -> bool:
        """Take a row out of the schedule until a person (`ask_now`, `unpark`) puts it back.

        A run under way may still end; its `finish` leaves the row parked.
        """
        parked = await self._execute(
            sa.update(work)
            .where(work.c.tenant == self._unit.tenant, work.c.id == work_id)
            .values(
                parked_at=self._unit.dialect.now(),
                asked_at=None,
                asked_all_gen=None,
                last_outcome=outcome,
                last_error=error,
            )
        )
        return parked.rowcount == 1

    async def unpark(self, kind: WorkKind, subject: str, *, due_at: datetime) -> bool:
        """Put a parked row back into the schedule with a clean count; `False` when it was not parked."""
        back = await self._execute(
            sa.update(work)
            .where(self._is(kind, subject), work.c.parked_at.is_not(None))
            .values(parked_at=None, crashes=0, attempts=0, due_at=due_at)
        )
        return back.rowcount == 1

    async def forget(self, kind: WorkKind, subject: str) -> bool:
        """Take a subject out of the schedule for good; `False` when it was not in it."""
        gone = await self._execute(sa.delete(work).where(self._is(kind, subject)))
        return gone.rowcount == 1

    async def hold(self, kind: WorkKind, subject: str) -> bool:
        """Keep every other writer from the row of a subject until the end of this transaction.

        What is read after it, of rows that others change together with this one, is what they leave behind.

        Returns:
            Whether there is such a row.
        """
        query = sa.select(work.c.id).where(self._is(kind, subject))
        if self._unit.dialect.is_postgresql:
            query = query.with_for_update(key_share=True)
        return await self._unit.connection.scalar(query) is not None

    # -- claims: the dispatcher --------------------------------------------------------------------------------------

    async def claim(
        self,
        kind: WorkKind,
        *,
        slots: Mapping[Slug, int],
        batch: int | None = None,
        lease: timedelta = LEASE,
        crashes_max: int = CRASHES_MAX,
        user_refs: Collection[str] | None = None,
        least: int = 1,
    ) -> list[Claim]:
        """Claim due rows, oldest first per LFI, as many as each LFI has free slots.  Commit before you publish them.

        A row whose worker began and never ended counts one crash; at `crashes_max` it is parked instead.  A lease
        that ran out before any worker began it was a lost hint, and counts nothing.  Rows that crashed twice in a row
        are claimed few at a time, and only when no other such claim is open.  LFIs behind a closed gate
        (`lfi.not_before`) and LFIs not named in `slots` keep their rows, and so do LFIs for which another dispatcher
        is just claiming this kind (PostgreSQL).

        Args:
            slots: most open claims of this kind per LFI, open ones included.
            batch: most rows claimed per LFI in this call; `None` leaves it to the slots.
            lease: how long the rows stay ours without an `extend`.
            crashes_max: two or more.
            user_refs: only rows of these customers; `None`: of everybody.
            least: free slots an LFI must have, or all it has when those are fewer: nothing is claimed for it otherwise.
        """
        now = await self._unit.now()
        await self._park_crashed(kind, slots, now, crashes_max)
        lists = OpenClaims(self._unit, kind.value)
        free = await self._free_slots(lists, slots, now)
        free = {slug: left for slug, left in free.items() if left >= min(least, slots[slug])}
        wanted = {slug: most if batch is None else min(most, batch) for slug, most in sorted(free.items())}
        claims = await self._claim_due(kind, wanted, now, lease, user_refs)
        claims += await self._claim_suspects(kind, free, now, lease, user_refs)
        claimed: dict[Slug, list[int]] = {}
        for claim in claims:
            claimed.setdefault(claim.lfi, []).append(claim.id)
        lists.add(claimed)
        return claims

    async def waiting(self, places: Sequence[tuple[WorkKind, Slug]]) -> set[tuple[WorkKind, Slug]]:
        """Those of some kinds at some LFIs of which a row may be claimed: due, not parked, no lease alive.

        Costs a look into an index for each, where a claim costs a transaction.
        """
        those = self._unit.dialect.rows([{"kind": kind.value, "lfi": lfi} for kind, lfi in places])
        found = await _WAITING.run(self._unit, of_tenant=self._unit.tenant, places=those)
        return {(WorkKind(kind), Slug(lfi)) for kind, lfi in found.rows}

    async def claim_one(self, kind: WorkKind, subject: str, *, lease: timedelta = LEASE) -> Claim | None:
        """Claim one subject for this very process, due or not.

        The dispatcher is passed by: no slot is counted.  `take` it after the commit like any other claim.

        Returns:
            `None` when there is no such row, somebody has claimed it, or it is parked.
        """
        now = await self._unit.now()
        free = sa.or_(work.c.lease_until.is_(None), work.c.lease_until <= now)
        which = sa.and_(self._is(kind, subject), work.c.parked_at.is_(None), free)
        claimed = await self._execute(
            sa.update(work).where(which).values(**_CLAIMED, lease_until=now + lease).returning(*_CLAIM)
        )
        row = claimed.first()
        if row is None:
            return None
        claim = _claim(row)
        lists = OpenClaims(self._unit, kind.value)
        await lists.lock([claim.lfi], wait=True)
        await lists.living(now)
        lists.add({claim.lfi: [claim.id]})
        return claim

    async def _park_crashed(self, kind: WorkKind, slots: Iterable[Slug], now: datetime, crashes_max: int) -> None:
        if crashes_max < SUSPECT_AFTER:
            raise ValueError("crashes_max: two or more")  # fewer are in no index
        await _PARK_CRASHED.run(
            self._unit,
            of_tenant=self._unit.tenant,
            of_kind=kind.value,
            lfis=sorted(slots),
            now=now,
            most=crashes_max,
        )

    async def _free_slots(self, lists: OpenClaims, slots: Mapping[Slug, int], now: datetime) -> dict[Slug, int]:
        """Slots nobody holds, of the LFIs that are ours to claim for until this transaction ends."""
        gates = {slug for (slug,) in (await _GATED.run(self._unit, of_tenant=self._unit.tenant, now=now)).rows}
        ours = await lists.lock([slug for slug, most in slots.items() if most > 0 and slug not in gates])
        held = await lists.living(now)
        return {slug: slots[slug] - held[slug] for slug in ours}

    async def _claim_due(
        self,
        kind: WorkKind,
        wanted: Mapping[Slug, int],
        now: datetime,
        lease: timedelta,
        user_refs: Collection[str] | None,
    ) -> list[Claim]:
        frame = {"of_tenant": self._unit.tenant, "of_kind": kind.value, "now": now, "until": now + lease}
        those: list[dict[str, Any]] = [
            {**frame, "of_lfi": slug, "wanted": most} for slug, most in wanted.items() if most > 0
        ]
        if user_refs is None:
            answers = [answer.rows for answer in await run_all(self._unit, [(_CLAIM_DUE, told) for told in those])]
        else:
            statement = _claiming_due(self._unit.dialect, self._is_of(user_refs))
            answers = [[tuple(row) for row in await self._unit.connection.execute(statement, told)] for told in those]
        return [
            Claim(work_id, kind, subject, Slug(told["of_lfi"]), gen, attempts, asked_at is not None)
            for told, rows in zip(those, answers, strict=True)
            for work_id, subject, gen, attempts, asked_at, _ in sorted(rows, key=_DUE_THEN_ID)
        ]

    async def _claim_suspects(
        self,
        kind: WorkKind,
        free: Mapping[Slug, int],
        now: datetime,
        lease: timedelta,
        user_refs: Collection[str] | None,
    ) -> list[Claim]:
        """Claim one group of suspects, those with the fewest crashes first, while none is in work anywhere.

        So one that is innocent meets the guilty one in a group at most once more, and never when it is claimed alone.
        """
        frame = {"of_tenant": self._unit.tenant, "of_kind": kind.value, "lfis": sorted(free), "now": now}
        if user_refs is None:
            suspects = [_Suspect(*row) for row in (await _SUSPECTS.run(self._unit, **frame)).rows]
        else:
            narrowed = _suspecting(self._unit.dialect, self._is_of(user_refs))
            suspects = [_Suspect(*row) for row in await self._unit.connection.execute(narrowed, frame)]
        group = _group(suspects, free)
        if not group or not await self._only_one_for_suspects() or await self._suspects_open(now):
            return []
        chosen = sa.select(work.c.id).where(
            work.c.id.in_(group), sa.or_(work.c.lease_until.is_(None), work.c.lease_until <= now)
        )
        claiming = self._unit.dialect.update_locked(work, chosen).values(**_CLAIMED, lease_until=now + lease)
        claimed = await self._execute(claiming.returning(*_CLAIM, work.c.due_at))
        return [_claim(row) for row in sorted(claimed, key=lambda row: (row.due_at, row.id))]

    async def _only_one_for_suspects(self) -> bool:
        """Whether no other dispatcher claims suspects, of whatever kind and LFI, until this transaction ends."""
        if not self._unit.dialect.is_postgresql:
            return True  # BEGIN IMMEDIATE: one writer
        key = sa.func.hashtextextended(f"syncworker suspects {self._unit.tenant}", 0)
        return bool(await self._unit.connection.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(key))))

    async def _suspects_open(self, now: datetime) -> bool:
        """Whether a suspect of any kind is in work."""
        open_one = sa.select(work.c.id).where(
            work.c.tenant == self._unit.tenant,
            _CRASHED_BEFORE,
            work.c.crashes >= SUSPECT_AFTER,
            work.c.lease_until > now,
        )
        return await self._unit.connection.scalar(open_one.limit(1)) is not None

    def _is_of(self, user_refs: Collection[str]) -> sa.ColumnElement[bool]:
        """Whether a row's subject belongs to one of these customers."""
        theirs = sa.select(connection.c.connection_id).where(
            connection.c.tenant == self._unit.tenant, connection.c.user_ref.in_(sorted(user_refs))
        )
        consents = sa.select(consent.c.consent_id).where(
            consent.c.tenant == self._unit.tenant, consent.c.connection_id.in_(theirs)
        )
        openings = sa.select(opening.c.opening_id).where(
            opening.c.tenant == self._unit.tenant, opening.c.user_ref.in_(sorted(user_refs))
        )
        return sa.or_(
            work.c.subject.in_(theirs),
            work.c.subject.in_(consents),
            work.c.subject.in_(openings),
        )

    # -- claims: the worker ------------------------------------------------------------------------------------------

    async def take(self, work_id: int, gen: int, *, lease: timedelta = LEASE) -> Claim | None:
        """A worker's first step: the claim, if it is current, its lease alive and nobody began it before.

        Renews the lease (the hint may have waited in the queue) and marks the claim as begun: a message delivered
        twice is taken once, and a process that dies from here on has crashed.  Needs a writing unit and a commit.
        """
        taken = await self.take_many([(work_id, gen)], lease=lease)
        return taken[0] if taken else None

    async def take_many(self, hints: Sequence[tuple[int, int]], *, lease: timedelta = LEASE) -> list[Claim]:
        """`take` for a batch of hints `(id, gen)` in one statement; stale ones are left out, order is kept."""
        if not hints:
            return []
        taken = await _leasing(_taking, lease).run(self._unit, of_tenant=self._unit.tenant, claims=self._named(hints))
        by_id = {
            work_id: Claim(
                work_id, WorkKind(kind), subject, Slug(lfi), gen, attempts, asked_at is not None, all_gen is not None
            )
            for work_id, kind, subject, lfi, gen, attempts, asked_at, all_gen in taken.rows
        }
        return [by_id.pop(work_id) for work_id, _ in hints if work_id in by_id]

    async def extend(self, claim: Claim, *, lease: timedelta = LEASE) -> bool:
        """Move the lease's end to now + `lease`; `False` when a newer claim owns the row, or it has ended."""
        return bool(await self.extend_many([claim], lease=lease))

    async def extend_many(self, claims: Sequence[Claim], *, lease: timedelta = LEASE) -> set[int]:
        """`extend` for many claims in one statement.

        Returns:
            The ids of those that still hold.
        """
        if not claims:
            return set()
        those = self.of_claims(claims)
        _, extended = await run_all(self._unit, [(HOLDS, those), (_leasing(_extending, lease), those)])
        return {work_id for (work_id,) in extended.rows}

    async def holds(self, claim: Claim) -> bool:
        """Whether the claim is the row's newest; until this transaction ends, nobody can claim it anew.

        Call it inside the transaction that writes fetched data: an older generation writes nothing.
        """
        return bool((await HOLDS.run(self._unit, **self.of_claims([claim]))).rows)

    def of_claims(self, claims: Iterable[Claim]) -> dict[str, Any]:
        """What `HOLDS` is told of some claims."""
        return {"of_tenant": self._unit.tenant, "claims": self._named([(claim.id, claim.gen) for claim in claims])}

    async def finish(
        self,
        claim: Claim,
        *,
        due_at: datetime,
        outcome: str,
        error: str | None = None,
        good: bool,
        counted: bool | None = None,
    ) -> bool:
        """End a run: the lease goes, the next due time comes.  A bad end counts an attempt, never a crash.

        Asked for again while it ran, the row is due at once; scheduled meanwhile for an earlier time than `due_at`, as
        for a successor's first sync, it is due then.

        Args:
            due_at, outcome, error, good, counted: as in `End`.

        Returns:
            `False` when a newer claim owns the row: nothing was changed.
        """
        end = End(claim=claim, due_at=due_at, outcome=outcome, error=error, good=good, counted=counted)
        (ended,) = await run_all(self._unit, [self._finishing([end])])
        if ended.rowcount == 1:
            self._count([end])
        return ended.rowcount == 1

    def finishing(self, ends: Sequence[End]) -> Told:
        """`finish` for many, to be sent with others.  Who ends several holds them (`HOLDS`)."""
        self._count(ends)
        return self._finishing(ends)

    def _count(self, ends: Sequence[End]) -> None:
        for end in ends:
            retry = not end.good if end.retry is None else end.retry
            self._unit.tally.end(lfi=end.claim.lfi, kind=end.claim.kind.value, good=end.good, retry=retry)

    def _finishing(self, ends: Sequence[End]) -> Told:
        rows = [
            {
                "id": end.claim.id,
                "gen": end.claim.gen,
                "due_at": end.due_at,
                "outcome": end.outcome,
                "error": end.error,
                "good": end.good,
                "counted": not end.good if end.counted is None else end.counted,
                "retry": not end.good if end.retry is None else end.retry,
            }
            for end in ends
        ]
        return _FINISH, {"of_tenant": self._unit.tenant, "ends": self._unit.dialect.rows(rows)}

    async def give_back(self, claims: Sequence[Claim]) -> int:
        """Free claims a worker began and will not end (shutdown): due at once, nothing counted.

        Returns:
            How many were still ours.
        """
        return await self._free(_FREE, [(claim.id, claim.gen) for claim in claims])

    async def give_back_hints(self, hints: Sequence[tuple[int, int]]) -> int:
        """Free claims `(id, gen)` that no worker began (no free thread, broker away); those begun are left alone."""
        return await self._free(_FREE_NOT_BEGUN, hints)

    async def _free(self, statement: Statement, hints: Sequence[tuple[int, int]]) -> int:
        if not hints:
            return 0
        those = {"of_tenant": self._unit.tenant, "claims": self._named(hints)}
        return (await run_all(self._unit, [(HOLDS, those), (statement, those)]))[1].rowcount

    def _named(self, hints: Sequence[tuple[int, int]]) -> str:
        return self._unit.dialect.rows([{"id": work_id, "gen": gen} for work_id, gen in sorted(set(hints))])

    # -- what people ask ---------------------------------------------------------------------------------------------

    async def find(self, kind: WorkKind, subject: str) -> WorkRow | None:
        """The row of one subject."""
        found = (await self._unit.connection.execute(sa.select(*_ROW).where(self._is(kind, subject)))).first()
        return None if found is None else _work_row(found)

    async def subjects(self, kind: WorkKind) -> list[str]:
        """The subjects of a kind, in order; for kinds of few rows."""
        query = sa.select(work.c.subject).where(work.c.tenant == self._unit.tenant, work.c.kind == kind.value)
        return list(await self._unit.connection.scalars(query.order_by(work.c.subject)))

    async def next_due(self, kind: WorkKind | None = None) -> datetime | None:
        """The earliest `due_at` of a row that is neither parked nor leased."""
        query = sa.select(sa.func.min(work.c.due_at)).where(
            work.c.tenant == self._unit.tenant,
            work.c.parked_at.is_(None),
            sa.or_(work.c.lease_until.is_(None), work.c.lease_until <= self._unit.dialect.now()),
        )
        if kind is not None:
            query = query.where(work.c.kind == kind.value)
        moment = await self._unit.connection.scalar(query)
        assert moment is None or isinstance(moment, datetime)
        return moment

    async def summary(self) -> list[WorkSummary]:
        """Every LFI and kind, counted; sorted by LFI, then kind."""
        moment, answer = await run_all(self._unit, [(NOW, {}), (SUMMARY, {"tenant": self._unit.tenant})])
        return read_summary(answer, now=moment.rows[0][0])

    async def troubled(self, kind: WorkKind, *, lfi: Slug | None = None, limit: int = 50) -> list[WorkRow]:
        """Rows whose last end was a bad one, parked ones first, then the longest without a good end.

        Rows taken out of the schedule because their consent ended are left out: nothing runs for them.
        """
        query = sa.select(*_ROW).where(work.c.tenant == self._unit.tenant, work.c.kind == kind.value, TROUBLED)
        if lfi is not None:
            query = query.where(work.c.lfi == lfi)
        parked_first = sa.case((work.c.parked_at.is_not(None), 0), else_=1)
        since_good = sa.func.coalesce(work.c.last_good_at, _LONG_AGO)
        rows = await self._unit.connection.execute(query.order_by(parked_first, since_good, work.c.id).limit(limit))
        return [_work_row(row) for row in rows]

    # -- who is alive ------------------------------------------------------------------------------------------------

    async def beat(self, name: str, kind: str) -> None:
        """Note progress of a process.  Liveness is progress, not a living process (rule 9).

        Args:
            name: host and process, at most 128 characters.
            kind: `worker` or `beat`.
        """
        await run_all(self._unit, [self.beating(name, kind)])

    def beating(self, name: str, kind: str) -> Told:
        """`beat`, to be sent with others."""
        return _BEAT, {"name": name, "kind": kind}

    async def alive(self, kind: str, within: timedelta) -> int:
        """How many processes of a kind made progress within that time."""
        count = await self._unit.connection.scalar(
            sa.select(sa.func.count())
            .select_from(worker)
            .where(worker.c.kind == kind, worker.c.progress_at >= self._unit.dialect.after(-within))
        )
        assert isinstance(count, int)
        return count

    async def leave(self, name: str) -> None:
        """Remove a process that ends in order."""
        await self._unit.connection.execute(sa.delete(worker).where(worker.c.name == name))

    # ----------------------------------------------------------------------------------------------------------------

    def _is(self, kind: WorkKind, subject: str) -> sa.ColumnElement[bool]:
        return sa.and_(work.c.tenant == self._unit.tenant, work.c.kind == kind.value, work.c.subject == subject)

    async def _execute(self, statement: Any) -> sa.CursorResult[Any]:
        result: sa.CursorResult[Any] = await self._unit.connection.execute(statement)
        return result


_BEGUN: Final = work.c.started_gen == work.c.gen
"""A worker began the newest claim."""

_CRASHED_BEFORE: Final = work.c.crashes > sa.literal_column("0")
"""What `ix_work_crashed` holds; written out, since a planner does not see through a parameter."""

_CRASHES: Final = work.c.crashes + sa.case((sa.and_(work.c.lease_until.is_not(None), _BEGUN), 1), else_=0)
"""Crashes in a row of a row that may be claimed: its lease, if it has one, ran out."""

FOR_EVER: Final = sa.literal(datetime(9000, 1, 1, tzinfo=UTC), Instant())
"""Before the due time of what was taken out of the schedule."""

_LONG_AGO: Final = sa.literal(datetime(1, 1, 2, tzinfo=UTC), Instant())

TROUBLED: Final = sa.or_(
    work.c.parked_at.is_not(None),
    sa.and_(
        work.c.due_at < FOR_EVER,
        sa.or_(
            work.c.last_outcome == "failed",
            work.c.last_outcome == "partial",
            sa.and_(work.c.attempts > 0, work.c.last_error.is_not(None)),  # the last good end cleared both
        ),
    ),
)
"""Rows whose last end was a bad one: something is missing, or an attempt was counted."""

_CLAIM: Final = (
    work.c.id, work.c.kind, work.c.subject, work.c.lfi, work.c.gen, work.c.attempts,
    work.c.asked_at,  # the value: SQLite 3.40 answers `IS NOT NULL` wrongly in RETURNING
)  # fmt: skip

_ROW: Final = tuple(work.c[name] for name in WorkRow.__slots__)


_CLAIMED: Final[Mapping[str, Any]] = {
    "gen": work.c.gen + 1,
    "attempts": work.c.attempts + 1,
    "crashes": _CRASHES,
}
"""What a claim changes besides the lease: a new generation, an attempt, and a crash if the last claim was one.

None of it is in an index unless there was a crash, so the new version of the row stays on its page (`tables.work`).
"""


def _claiming_due(dialect: Dialect, *also: sa.ColumnElement[bool]) -> Any:
    """The statement that claims the due rows of one LFI; `_DUE_THEN_ID` says in which order they are due."""
    now = named(work.c.due_at, "now")
    due = (
        sa.select(work)
        .where(
            dialect.aside(work.c.tenant) == named(work.c.tenant, "of_tenant"),
            work.c.lfi == named(work.c.lfi, "of_lfi"),
            work.c.kind == named(work.c.kind, "of_kind"),
            work.c.parked_at.is_(None),
            work.c.due_at <= now,
            sa.or_(work.c.lease_until.is_(None), work.c.lease_until <= now),
            _CRASHES < SUSPECT_AFTER,
            *also,
        )
        .order_by(work.c.due_at, work.c.id)
        .limit(sa.bindparam("wanted", type_=sa.Integer, required=True))
    )
    asked = sa.type_coerce(work.c.asked_at, sa.types.NullType())  # the value: see `_CLAIM`
    return (
        dialect.update_locked(work, due)
        .values(**_CLAIMED, lease_until=named(work.c.lease_until, "until"))
        .returning(work.c.id, work.c.subject, work.c.gen, work.c.attempts, asked, dialect.order_of(work.c.due_at))
    )


_CLAIM_DUE: Final = Statement(_claiming_due)


def _crashed_before(dialect: Dialect) -> list[sa.ColumnElement[bool]]:
    """Rows of some LFIs that crashed already, not parked: those `ix_work_crashed` holds."""
    return [
        work.c.kind == named(work.c.kind, "of_kind"),
        _CRASHED_BEFORE,
        dialect.among(work.c.lfi, "lfis", tenant=named(work.c.tenant, "of_tenant")),
        work.c.parked_at.is_(None),
    ]


def _parking_crashed(dialect: Dialect) -> Any:
    now = named(work.c.parked_at, "now")
    crashed = sa.select(work.c.id).where(
        *_crashed_before(dialect),
        work.c.lease_until.is_not(None),
        work.c.lease_until <= now,
        _BEGUN,
        work.c.crashes + 1 >= named(work.c.crashes, "most"),
    )
    return dialect.update_locked(work, crashed).values(
        parked_at=now,
        lease_until=None,
        asked_at=None,
        asked_all_gen=None,
        gen=work.c.gen + 1,  # should the one that seemed dead still live, it is stale now
        crashes=work.c.crashes + 1,
        last_outcome="parked",
        last_error=CRASHED,
    )


def _suspecting(dialect: Dialect, *also: sa.ColumnElement[bool]) -> sa.Select[Any]:
    now = named(work.c.due_at, "now")
    return (
        sa.select(work.c.id, work.c.lfi, _CRASHES.label("crashes"))
        .where(
            *_crashed_before(dialect),
            work.c.due_at <= now,
            sa.or_(work.c.lease_until.is_(None), work.c.lease_until <= now),
            _CRASHES >= SUSPECT_AFTER,
            *also,
        )
        .order_by(_CRASHES, work.c.due_at, work.c.id)
        .limit(SUSPECTS_AT_ONCE)
    )


_PARK_CRASHED: Final = Statement(_parking_crashed)
_SUSPECTS: Final = Statement(_suspecting)
_GATED: Final = Statement(
    lambda _: sa.select(lfi_table.c.slug).where(
        lfi_table.c.tenant == named(lfi_table.c.tenant, "of_tenant"),
        lfi_table.c.not_before > named(lfi_table.c.not_before, "now"),
    )
)


def _summing(dialect: Dialect) -> sa.Select[Any]:
    now = dialect.now()
    leased = sa.and_(work.c.lease_until.is_not(None), work.c.lease_until > now)
    waiting = sa.and_(work.c.parked_at.is_(None), work.c.due_at <= now, sa.not_(leased))
    failing = sa.and_(TROUBLED, work.c.parked_at.is_(None))
    later = sa.and_(work.c.due_at > now, work.c.due_at < FOR_EVER)
    return (
        sa.select(
            work.c.lfi,
            work.c.kind,
            sa.func.count().label("rows"),
            sa.func.count(sa.case((waiting, 1))).label("due"),
            sa.func.min(sa.case((waiting, work.c.due_at))).label("oldest"),
            sa.func.count(sa.case((leased, 1))).label("leased"),
            sa.func.count(work.c.parked_at).label("parked"),
            sa.func.count(sa.case((failing, 1))).label("failing"),
            sa.func.count(sa.case((sa.and_(failing, work.c.retry), 1))).label("retry"),
            sa.func.min(sa.case((later, work.c.due_at))).label("next_due"),
        )
        .where(work.c.tenant == named(work.c.tenant))
        .group_by(work.c.lfi, work.c.kind)
        .order_by(work.c.lfi, work.c.kind)
    )


SUMMARY: Final = Statement(_summing)
"""The rows of every LFI and kind, counted."""


def read_summary(answer: Answer, *, now: datetime) -> list[WorkSummary]:
    """What `SUMMARY` gave; `now` is the database's."""
    return [
        WorkSummary(
            lfi=Slug(lfi),
            kind=WorkKind(kind),
            rows=rows,
            due=due,
            late=timedelta() if oldest is None else max(now - oldest, timedelta()),
            leased=leased,
            parked=parked,
            failing=failing,
            retry=retry,
            next_due=next_due,
        )
        for lfi, kind, rows, due, oldest, leased, parked, failing, retry, next_due in answer.rows
    ]


class _Suspect(NamedTuple):
    id: int
    lfi: Slug
    crashes: int


def _waiting(dialect: Dialect) -> sa.Select[Any]:
    places, now = dialect.given("places", {name: work.c[name].type for name in ("kind", "lfi")}), dialect.now()
    one = sa.select(work.c.id).where(
        dialect.aside(work.c.tenant) == named(work.c.tenant, "of_tenant"),
        work.c.lfi == places.c.lfi,
        work.c.kind == places.c.kind,
        work.c.parked_at.is_(None),
        work.c.due_at <= now,
        sa.or_(work.c.lease_until.is_(None), work.c.lease_until <= now),
    )
    each = one.offset(sa.literal_column("0"))  # not made a join of: a look into the index for each place
    return sa.select(places.c.kind, places.c.lfi).where(each.exists())


_WAITING: Final = Statement(_waiting)


def _beating(dialect: Dialect) -> Any:
    now = dialect.now()
    fresh = dialect.insert(worker).values(
        name=named(worker.c.name), kind=named(worker.c.kind), started_at=now, progress_at=now
    )
    return fresh.on_conflict_do_update(
        index_elements=["name"], set_={"kind": fresh.excluded.kind, "progress_at": fresh.excluded.progress_at}
    )


_BEAT: Final = Statement(_beating)

_DUE_THEN_ID: Final = itemgetter(5, 0)
"""Of a row that `_claiming_due` returns."""


def _group(suspects: Sequence[_Suspect], free: Mapping[Slug, int]) -> list[int]:
    """Ids of those to claim now, of suspects in the order of their crashes."""
    left = dict(free)
    group: list[int] = []
    for row in suspects:
        if row.crashes > suspects[0].crashes or (group and row.crashes > SUSPECT_AFTER):
            break
        if left[row.lfi] > 0:
            left[row.lfi] -= 1
            group.append(row.id)
    return group


def _claim(row: sa.Row[Any]) -> Claim:
    return Claim(
        id=row.id,
        kind=WorkKind(row.kind),
        subject=row.subject,
        lfi=Slug(row.lfi),
        gen=row.gen,
        attempts=row.attempts,
        asked=row.asked_at is not None,
    )


def _work_row(row: sa.Row[Any]) -> WorkRow:
    values = {name: getattr(row, name) for name in WorkRow.__slots__}
    return WorkRow(**values | {"kind": WorkKind(row.kind), "lfi": Slug(row.lfi)})

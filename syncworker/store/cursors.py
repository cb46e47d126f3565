"""How far each listing was read: one cursor per (connection, account, resource), and which windows were covered.

A cursor moves in the transaction that writes its data, never before (rule 27).  An unchanged walk moves all cursors of
a consent in one statement and leaves their pages alone.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from syncworker.standard.calendar import shifted
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store.bulk import upsert_later, upsert_many
from syncworker.store.dialect import Dialect
from syncworker.store.statements import Answer, Statement, Told, named, run_all
from syncworker.store.tables import coverage, cursor

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

BEGINNING: Final = date(1, 1, 1)
"""`coverage.from_date` of a walk without a lower end."""


class Listing(NamedTuple):
    """One listing of a connection: which resource of which account (`''` for none)."""

    account_id: str
    resource: ResourceName


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """How far one listing was read.

    Attributes:
        pages: what the last complete walk left behind (`sync.pages`); `None` before the first.
        window_from: the date the last complete walk asked from; `None` for no lower end.
        high_water: newest BookingDateTime of a Booked row.
        open_since: oldest booking instant of a row still Pending or missed.
        checked_at: end of the last complete walk, changed or not.
        outcome: a constant word for the last attempt.
        refused_until: do not ask before: a definite refusal, remembered.
        first_available: where the LFI says that its own history begins.
        deep_at: last walk that reached back for rows the LFI filed late.
        backfilled_to: set: the backfill is complete, the history whole from here on; `BEGINNING`: all the LFI has.
        empty_slices: slices of the backfill in a row that held nothing.
        backfill_due_at: no slice before this.
        attempts: ends in a row that time is to mend; 0 once the listing was read, or those of a slice while one is
            delayed (`sync.facts.counts_slices`).
        failing_since: when the newest of those faults was met first.
        look_again_at: when to look again at items that could not be read, where no other walk comes to any more.
        covered_from: first date of the window that reaches the newest; filled when read, not written.
    """

    listing: Listing
    due_at: datetime
    gen: int
    pages: bytes | None = field(default=None, repr=False)
    window_from: date | None = None
    high_water: datetime | None = None
    open_since: datetime | None = None
    checked_at: datetime | None = None
    attempted_at: datetime | None = None
    changed_at: datetime | None = None
    outcome: str | None = None
    error: str | None = None
    refused_until: datetime | None = None
    first_available: datetime | None = None
    deep_at: datetime | None = None
    backfilled_to: date | None = None
    empty_slices: int = 0
    backfill_due_at: datetime | None = None
    attempts: int = 0
    failing_since: datetime | None = None
    look_again_at: datetime | None = None
    covered_from: date | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An attempt that brought no complete walk: the data part of the cursor stays.

    Attributes:
        changed_at, attempts, failing_since: as the cursor has them from now on.
    """

    listing: Listing
    at: datetime
    due_at: datetime
    outcome: str
    error: str | None
    refused_until: datetime | None
    changed_at: datetime | None = None
    attempts: int = 0
    failing_since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Covered:
    """A window that was walked completely; dates inclusive, local dates of the UAE.

    Attributes:
        walked_at: when its newest part was walked.
        pages, items: of that walk.
    """

    from_date: date
    to_date: date
    walked_at: datetime
    pages: int
    items: int


_LISTING: Final = ("tenant", "connection_id", "account_id", "resource")
_MOVED: Final = (
    "pages", "window_from", "high_water", "open_since", "checked_at", "attempted_at", "changed_at", "due_at",
    "outcome", "error", "refused_until", "first_available", "deep_at", "backfilled_to", "empty_slices",
    "backfill_due_at", "attempts", "failing_since", "look_again_at", "gen",
)  # fmt: skip
_ATTEMPTED: Final = (
    "attempted_at", "due_at", "outcome", "error", "refused_until", "changed_at", "attempts", "failing_since", "gen",
)  # fmt: skip


OF: Final = Statement(
    lambda dialect: sa.select(
        cursor.c.connection_id,
        cursor.c.account_id,
        cursor.c.resource,
        *(cursor.c[name] for name in _MOVED),
        sa.select(coverage.c.from_date)
        .where(
            coverage.c.tenant == cursor.c.tenant,
            coverage.c.connection_id == cursor.c.connection_id,
            coverage.c.account_id == cursor.c.account_id,
            coverage.c.resource == cursor.c.resource,
        )
        .order_by(coverage.c.to_date.desc(), coverage.c.from_date)
        .limit(1)
        .scalar_subquery()
        .label("covered_from"),
    ).where(dialect.among(cursor.c.connection_id, "connection_ids", tenant=named(cursor.c.tenant)))
)
"""The cursors of some connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A complete walk that found nothing new.

    Attributes:
        due_at: when the listing is due next.
        gen: of the claim that walked it.
    """

    connection_id: ConsentId
    account_id: str
    resource: ResourceName
    due_at: datetime
    gen: int


def _checking(dialect: Dialect) -> Any:
    """The cursors of such walks, of whatever connections."""
    kinds = {name: cursor.c[name].type for name in Checked.__slots__}
    those = dialect.keys("checked", kinds, tenant=named(cursor.c.tenant, "of_tenant"))
    at = named(cursor.c.checked_at, "at")
    no_slice = cursor.c.backfill_due_at.is_(None)  # the attempts of a delayed slice are not over
    return (
        sa.update(cursor)
        .where(
            *(cursor.c[name] == those.c[name] for name in _LISTING),
            cursor.c.gen <= those.c.gen,
        )
        .values(
            checked_at=at,
            attempted_at=at,
            due_at=those.c.due_at,
            outcome=named(cursor.c.outcome, "as_outcome"),
            error=None,
            refused_until=None,
            attempts=sa.case((no_slice, 0), else_=cursor.c.attempts),
            failing_since=sa.case((no_slice, None), else_=cursor.c.failing_since),
            gen=those.c.gen,
        )
    )


_CHECK: Final = Statement(_checking)


COVERAGE: Final = Statement(
    lambda _: (
        sa.select(coverage.c.account_id, coverage.c.resource, *(coverage.c[name] for name in Covered.__slots__))
        .where(
            coverage.c.tenant == named(coverage.c.tenant), coverage.c.connection_id == named(coverage.c.connection_id)
        )
        .order_by(coverage.c.from_date)
    )
)
_UNCOVER: Final = Statement(
    lambda _: sa.delete(coverage).where(
        *(coverage.c[name] == named(coverage.c[name]) for name in _LISTING),
        coverage.c.from_date > named(coverage.c.from_date),
        coverage.c.to_date <= named(coverage.c.to_date),
        coverage.c.gen <= named(coverage.c.gen),
    )
)


class Cursors:
    """The tables `cursor` and `coverage` of one tenant.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def of(self, connection_id: ConsentId) -> dict[Listing, Cursor]:
        """Every cursor of a connection."""
        answer = await OF.run(self._unit, tenant=self._unit.tenant, connection_ids=[connection_id])
        return read_cursors(answer).get(connection_id, {})

    async def advance(self, connection_id: ConsentId, cursors: Collection[Cursor]) -> None:
        """Write cursors of complete walks, perhaps with the commit; one of a newer claim is left alone."""
        rows = [
            (self._unit.tenant, connection_id, *_names(one.listing), *(getattr(one, name) for name in _MOVED))
            for one in sorted(cursors, key=lambda one: one.listing)
        ]
        await upsert_later(self._unit, cursor, (*_LISTING, *_MOVED), rows, key=_LISTING, replace=_MOVED)

    async def attempted(self, connection_id: ConsentId, attempts: Collection[Attempt], *, gen: int) -> int:
        """Note attempts that brought no complete walk: their pages, marks and `checked_at` stay."""
        rows = [
            (self._unit.tenant, connection_id, *_names(one.listing),
             one.at, one.due_at, one.outcome, one.error, one.refused_until, one.changed_at, one.attempts,
             one.failing_since, gen)
            for one in sorted(attempts, key=lambda one: one.listing)
        ]  # fmt: skip
        columns = (*_LISTING, *_ATTEMPTED)
        return await upsert_many(
            self._unit.connection, self._unit.dialect, cursor, columns, rows, key=_LISTING, replace=_ATTEMPTED
        )

    def checking(self, those: Sequence[Checked], *, at: datetime, outcome: str) -> Told:
        """Note complete walks that found nothing new, to be sent with others: their pages and marks stay."""
        rows = self._unit.dialect.rows([{name: getattr(one, name) for name in Checked.__slots__} for one in those])
        return _CHECK, {"of_tenant": self._unit.tenant, "at": at, "as_outcome": outcome, "checked": rows}

    async def look_again(self, connection_id: ConsentId, listing: Listing, *, at: datetime | None, gen: int) -> None:
        """Look at the unreadable items of a listing at an instant; `None`: there are none to look at."""
        await self._unit.connection.execute(
            sa.update(cursor)
            .where(
                cursor.c.tenant == self._unit.tenant,
                cursor.c.connection_id == connection_id,
                cursor.c.account_id == listing.account_id,
                cursor.c.resource == listing.resource.value,
                cursor.c.gen <= gen,
            )
            .values(look_again_at=at, gen=gen)
        )

    async def delay_backfill(
        self,
        connection_id: ConsentId,
        listing: Listing,
        *,
        until: datetime,
        attempts: int,
        failing_since: datetime | None,
        gen: int,
    ) -> None:
        """Take no slice of a listing's history before an instant.

        Args:
            attempts, failing_since: as the cursor has them from now on.
        """
        await self._unit.connection.execute(
            sa.update(cursor)
            .where(
                cursor.c.tenant == self._unit.tenant,
                cursor.c.connection_id == connection_id,
                cursor.c.account_id == listing.account_id,
                cursor.c.resource == listing.resource.value,
                cursor.c.gen <= gen,
            )
            .values(backfill_due_at=until, attempts=attempts, failing_since=failing_since, gen=gen)
        )

    async def forget_pages(self, connection_id: ConsentId, listings: Collection[Listing], *, gen: int) -> None:
        """Rows were written that the last complete walk did not show: its pages say nothing any more."""
        for one in sorted(listings):
            await self._unit.connection.execute(
                sa.update(cursor)
                .where(
                    cursor.c.tenant == self._unit.tenant,
                    cursor.c.connection_id == connection_id,
                    cursor.c.account_id == one.account_id,
                    cursor.c.resource == one.resource,
                    cursor.c.gen <= gen,
                )
                .values(pages=None, gen=gen)
            )

    async def coverage(
        self, connection_id: ConsentId, listings: Collection[Listing]
    ) -> dict[Listing, tuple[Covered, ...]]:
        """The windows walked so far, earliest first."""
        answer = await COVERAGE.run(self._unit, tenant=self._unit.tenant, connection_id=connection_id)
        held = read_coverage(answer)
        return {listing: held.get(listing, ()) for listing in listings}

    async def cover(
        self,
        connection_id: ConsentId,
        windows: Mapping[Listing, Covered],
        *,
        held: Mapping[Listing, Sequence[Covered]],
        gen: int,
    ) -> None:
        """Write windows, perhaps with the commit; those that lie inside one of them are replaced by it.

        Args:
            held: as `coverage` gave it in this transaction.
        """
        told: list[Told] = [
            (
                _UNCOVER,
                {
                    "tenant": self._unit.tenant,
                    "connection_id": connection_id,
                    "account_id": listing.account_id,
                    "resource": listing.resource.value,
                    "from_date": window.from_date,
                    "to_date": window.to_date,
                    "gen": gen,
                },
            )
            for listing, window in sorted(windows.items(), key=lambda pair: pair[0])
            if any(window.from_date < one.from_date and one.to_date <= window.to_date for one in held[listing])
        ]
        if told:
            await run_all(self._unit, told)
        facts = tuple(name for name in Covered.__slots__ if name != "from_date")
        rows = [
            (
                self._unit.tenant,
                connection_id,
                *_names(listing),
                window.from_date,
                *(getattr(window, name) for name in facts),
                gen,
            )
            for listing, window in sorted(windows.items(), key=lambda pair: pair[0])
        ]
        columns = (*_LISTING, "from_date", *facts, "gen")
        replaced = (*facts, "gen")
        await upsert_later(self._unit, coverage, columns, rows, key=(*_LISTING, "from_date"), replace=replaced)


def read_cursors(answer: Answer) -> dict[ConsentId, dict[Listing, Cursor]]:
    """What `OF` gave, by connection; one without cursors is not in it."""
    found: dict[ConsentId, dict[Listing, Cursor]] = {}
    for connection_id, account_id, resource, *values, since in answer.rows:
        listing = Listing(account_id, ResourceName(resource))
        facts: dict[str, Any] = dict(zip(_MOVED, values, strict=True))
        found.setdefault(connection_id, {})[listing] = Cursor(listing=listing, covered_from=since, **facts)
    return found


def read_coverage(answer: Answer) -> dict[Listing, tuple[Covered, ...]]:
    """What `COVERAGE` gave: the windows walked so far, earliest first."""
    windows: dict[Listing, tuple[Covered, ...]] = {}
    for account_id, resource, *facts in answer.rows:
        listing = Listing(account_id, ResourceName(resource))
        covered = Covered(**dict(zip(Covered.__slots__, facts, strict=True)))
        windows[listing] = (*windows.get(listing, ()), covered)
    return windows


def _names(listing: Listing) -> tuple[str, str]:
    """As the tables' keys write it: plain text, for drivers that look at exact types."""
    return listing.account_id, listing.resource.value


def extended(held: Sequence[Covered], walked: Covered) -> Covered:
    """The window to write after a walk: it and all it touches or overlaps, as one; the newest part gives the facts."""
    day = timedelta(days=1)
    one = walked
    for window in sorted(held, key=lambda window: window.to_date, reverse=True):
        behind = one.from_date > BEGINNING and window.to_date < shifted(one.from_date, -day)
        if behind or window.from_date > shifted(one.to_date, day):
            continue
        newest = one if one.to_date >= window.to_date else window
        one = replace(newest, from_date=min(one.from_date, window.from_date))
    return one

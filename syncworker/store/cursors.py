"""Writing how far each listing was read: a cursor per (connection, account, resource), and which windows were covered.

A cursor moves in the transaction that writes its data, never before.  A walk that showed nothing new leaves it alone:
all such walks of a run are noted in one row of `connection_check`.  What counts of the two is read by
`store.freshness`; what is written here keeps it readable:

- A claim older than the newest that noted a check writes no cursor of the connection.
- Who writes some facts of a cursor and not those of its last walk (`look_again`, `delay_backfill`, `forget_pages`)
  first writes a newer check into it: the cursor is the newer one afterwards.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from syncworker.standard.calendar import shifted
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store.bulk import upsert_later, upsert_many
from syncworker.store.dialect import Dialect
from syncworker.store.freshness import FACTS, UNCHANGED, Check, Cursor, Listing, checks, freshness, packed
from syncworker.store.statements import Answer, Statement, Told, named, run_all
from syncworker.store.tables import connection_check, coverage, cursor

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

__all__ = [
    "BEGINNING",
    "COVERAGE",
    "Attempt",
    "Checked",
    "Covered",
    "Cursor",
    "Cursors",
    "Listing",
    "extended",
    "read_coverage",
]

BEGINNING: Final = date(1, 1, 1)
"""`coverage.from_date` of a walk without a lower end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An attempt that brought no complete walk: the data part of the cursor stays.

    Attributes:
        checked_at, changed_at, attempts, failing_since: as the cursor has them from now on.
    """

    listing: Listing
    at: datetime
    due_at: datetime
    outcome: str
    error: str | None
    refused_until: datetime | None
    checked_at: datetime | None = None
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
_ATTEMPTED: Final = (
    "attempted_at", "due_at", "outcome", "error", "refused_until", "checked_at", "changed_at", "attempts",
    "failing_since", "gen",
)  # fmt: skip


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
    """The checks of some connections, one row each."""
    kinds = {name: connection_check.c[name].type for name in _CHECKED}
    those = dialect.given("checked", kinds)
    rows = sa.select(named(connection_check.c.tenant, "of_tenant"), *those.c).where(sa.true())
    fresh = dialect.insert(connection_check).from_select(["tenant", *_CHECKED], rows.order_by(those.c.connection_id))
    return fresh.on_conflict_do_update(
        index_elements=["tenant", "connection_id"],
        set_={name: fresh.excluded[name] for name in _CHECKED if name != "connection_id"},
        where=connection_check.c.gen <= fresh.excluded.gen,
    )


def _recovering(dialect: Dialect) -> Any:
    """The cursors of such walks, of whatever connections, where they have marks of a failure."""
    kinds = {name: cursor.c[name].type for name in Checked.__slots__}
    those = dialect.keys("checked", kinds, tenant=named(cursor.c.tenant, "of_tenant"))
    at = named(cursor.c.checked_at, "at")
    no_slice = cursor.c.backfill_due_at.is_(None)  # the attempts of a delayed slice are not over
    return (
        sa.update(cursor)
        .where(
            *(cursor.c[name] == those.c[name] for name in _LISTING),
            cursor.c.gen <= those.c.gen,
            _not_overtaken(those.c.gen),
        )
        .values(
            checked_at=at,
            attempted_at=at,
            due_at=those.c.due_at,
            outcome=UNCHANGED,
            error=None,
            refused_until=None,
            attempts=sa.case((no_slice, 0), else_=cursor.c.attempts),
            failing_since=sa.case((no_slice, None), else_=cursor.c.failing_since),
            gen=those.c.gen,
        )
    )


def _not_overtaken(gen: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
    """Whether no newer claim noted a check of a cursor's connection."""
    newer: sa.Select[Any] = sa.select(sa.literal_column("1")).where(
        connection_check.c.tenant == cursor.c.tenant,
        connection_check.c.connection_id == cursor.c.connection_id,
        connection_check.c.gen > gen,
    )
    return sa.not_(newer.exists())


def _folding(dialect: Dialect) -> Any:
    """What newer checks of some listings of one connection say, written into their cursors."""
    check = checks(dialect)
    listed = ("account_id", "resource")
    those = dialect.given("listed", {name: cursor.c[name].type for name in listed})
    return (
        sa.update(cursor)
        .where(
            check.c.tenant == named(cursor.c.tenant, "of_tenant"),
            check.c.connection_id == named(cursor.c.connection_id, "of_connection"),
            *(check.c[name] == those.c[name] for name in listed),
            *(cursor.c[name] == check.c[name] for name in _LISTING),
            cursor.c.gen <= check.c.gen,
        )
        .values(
            checked_at=check.c.at,
            attempted_at=check.c.at,
            due_at=check.c.due_at,
            outcome=UNCHANGED,
            gen=check.c.gen,
        )
    )


@cache
def _noting(names: tuple[str, ...]) -> Statement:
    """The same values of some columns for some listings."""

    def build(dialect: Dialect) -> Any:
        kinds = {name: cursor.c[name].type for name in _LISTING if name != "tenant"}
        those = dialect.keys("listed", kinds, tenant=named(cursor.c.tenant, "of_tenant"))
        gen = named(cursor.c.gen, "by_gen")
        return (
            sa.update(cursor)
            .where(*(cursor.c[name] == those.c[name] for name in _LISTING), cursor.c.gen <= gen, _not_overtaken(gen))
            .values({**{name: named(cursor.c[name], f"as_{name}") for name in names}, "gen": gen})
        )

    return Statement(build)


_CHECKED: Final = ("connection_id", "gen", "at", "listings")
_CHECK: Final = Statement(_checking)
_RECOVER: Final = Statement(_recovering)
_FOLD: Final = Statement(_folding)


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
        """Every listing of a connection, as `freshness` gives it."""
        return (await freshness(self._unit, [connection_id])).get(connection_id, {})

    async def advance(self, connection_id: ConsentId, cursors: Collection[Cursor]) -> None:
        """Write cursors of complete walks, perhaps with the commit; one of a newer claim is left alone."""
        rows = [
            (self._unit.tenant, connection_id, *_names(one.listing), *(getattr(one, name) for name in FACTS))
            for one in sorted(cursors, key=lambda one: one.listing)
        ]
        columns = (*_LISTING, *FACTS)
        await upsert_later(
            self._unit, cursor, columns, rows, key=_LISTING, replace=FACTS, unless_newer_in=connection_check
        )

    async def attempted(self, connection_id: ConsentId, attempts: Collection[Attempt], *, gen: int) -> int:
        """Note attempts that brought no complete walk: their pages and marks stay."""
        rows = [
            (self._unit.tenant, connection_id, *_names(one.listing),
             one.at, one.due_at, one.outcome, one.error, one.refused_until, one.checked_at, one.changed_at,
             one.attempts, one.failing_since, gen)
            for one in sorted(attempts, key=lambda one: one.listing)
        ]  # fmt: skip
        return await upsert_many(
            self._unit.connection,
            self._unit.dialect,
            cursor,
            (*_LISTING, *_ATTEMPTED),
            rows,
            key=_LISTING,
            replace=_ATTEMPTED,
            unless_newer_in=connection_check,
        )

    def checking(
        self,
        those: Sequence[Checked],
        *,
        at: datetime,
        kept: Mapping[ConsentId, Mapping[Listing, Check]] = MappingProxyType({}),
    ) -> Told:
        """Note complete walks that found nothing new, to be sent with others: no cursor is written.

        Args:
            those: of whatever connections; all of one connection by one claim.
            kept: checks of listings that this run did not walk, as they were read when the claim began.
        """
        found: dict[ConsentId, dict[Listing, Check]] = {}
        for one in those:
            listed = found.setdefault(one.connection_id, dict(kept.get(one.connection_id, {})))
            listed[Listing(one.account_id, one.resource)] = Check(one.gen, at, one.due_at)
        gens = {one.connection_id: one.gen for one in those}
        rows = [
            {"connection_id": name, "gen": gens[name], "at": at, "listings": packed(listed)}
            for name, listed in found.items()
        ]
        return _CHECK, {"of_tenant": self._unit.tenant, "checked": self._unit.dialect.rows(rows)}

    def recovering(self, those: Sequence[Checked], *, at: datetime) -> Told:
        """Note complete walks that found nothing new where the cursor has marks of a failure (not `is_quiet`).

        To be sent with others.  Pages stay, the marks are cleared.
        """
        rows = self._unit.dialect.rows([{name: getattr(one, name) for name in Checked.__slots__} for one in those])
        return _RECOVER, {"of_tenant": self._unit.tenant, "at": at, "checked": rows}

    async def look_again(self, connection_id: ConsentId, listing: Listing, *, at: datetime | None, gen: int) -> None:
        """Look at the unreadable items of a listing at an instant; `None`: there are none to look at."""
        await self._note(connection_id, [listing], {"look_again_at": at}, gen=gen)

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
        facts = {"backfill_due_at": until, "attempts": attempts, "failing_since": failing_since}
        await self._note(connection_id, [listing], facts, gen=gen)

    async def forget_pages(self, connection_id: ConsentId, listings: Collection[Listing], *, gen: int) -> None:
        """Rows were written that the last complete walk did not show: its pages say nothing any more."""
        await self._note(connection_id, listings, {"pages": None}, gen=gen)

    async def fold_checks(self, connection_id: ConsentId) -> None:
        """Write what newer checks of a connection say into its cursors: the checks can go."""
        listings = [listing for listing, one in (await self.of(connection_id)).items() if one.check is not None]
        if listings:
            await run_all(self._unit, [self._folding(connection_id, listings)])

    async def _note(
        self, connection_id: ConsentId, listings: Collection[Listing], facts: Mapping[str, Any], *, gen: int
    ) -> None:
        """Write some facts of cursors that are there, after those of a newer check."""
        if not listings:
            return
        values = {f"as_{name}": value for name, value in facts.items()}
        fold, place = self._folding(connection_id, listings)
        note = {name: value for name, value in place.items() if name != "of_connection"}
        await run_all(self._unit, [(fold, place), (_noting(tuple(facts)), {**note, **values, "by_gen": gen})])

    def _folding(self, connection_id: ConsentId, listings: Collection[Listing]) -> Told:
        rows = [
            {"connection_id": connection_id, "account_id": one.account_id, "resource": one.resource.value}
            for one in sorted(listings)
        ]
        place = {"of_tenant": self._unit.tenant, "of_connection": connection_id}
        return _FOLD, {**place, "listed": self._unit.dialect.rows(rows)}

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

"""How far and how fresh each listing is: what `cursor` and `connection_check` say together.

A walk that changes something, or fails, writes the listing's row of `cursor`.  A walk that shows nothing new writes no
such row: all walks of that kind of one run are noted in the connection's one row of `connection_check`.  So each
listing has facts in two places, and the newer ones count: those of the greater `gen`, and of the same one the check,
which a run writes last.  This module is the only reader of the two; `freshness` gives what counts, and `listings` gives
it to SQL.

`connection_check.listings` is JSON of this shape, made by `packed`:

    [
      [[""], ["acc-1", "acc-2"]],                                      sets of accounts; "": no account
      [[6, "2026-11-21T04:00:00.000000Z",                              walks: gen, instant, and what was walked:
        [["2026-11-28T04:00:00.000000Z", [0, 1], ["parties"]]]],         due next, places of sets, resources
       [7, "2026-11-21T10:00:00.000000Z",
        [["2026-11-21T16:00:00.000000Z", [1], ["balances", "transactions"]]]]]
    ]

Accounts with the same checks are one set, so each account is named once: 500 take 20 kB.  The newest walk comes last,
and `gen` and `at` of the row behind it: PostgreSQL logs of a new version what lies between the first and the last byte
that differ.  Instants are UTC text of fixed width, to the microsecond: due times are compared with each other and with
database time.  A listing that `cursor` has no row of does not exist, whatever a check says.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from syncworker.standard.calendar import read_iso
from syncworker.standard.json_text import instant_text
from syncworker.standard.operations import OperationClass
from syncworker.standard.resources import RESOURCES, ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store.dialect import Dialect, Instant, expecting_one
from syncworker.store.statements import Answer, Statement, Told, named, run_all
from syncworker.store.tables import (
    account_reference,
    breaker,
    connection,
    connection_check,
    consent,
    coverage,
    cursor,
    lfi,
    run,
)

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

UNCHANGED: Final = "unchanged"
"""`Cursor.outcome` of a walk that showed nothing new: what a check stands for."""


class Listing(NamedTuple):
    """One listing of a connection: which resource of which account (`''` for none)."""

    account_id: str
    resource: ResourceName


class Check(NamedTuple):
    """A complete walk of a listing that showed nothing new.

    Attributes:
        gen: of the claim that walked it.
        at: its end.
        due_at: when the listing is due next.
    """

    gen: int
    at: datetime
    due_at: datetime


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
        check: the check that `checked_at`, `attempted_at`, `due_at`, `outcome` and `gen` are of; `None`: they are those
            of the cursor's own row.
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
    check: Check | None = field(default=None, compare=False, repr=False)

    @property
    def is_quiet(self) -> bool:
        """Whether a walk that shows nothing new has no mark of a failure to clear.

        The attempts of a slice that is delayed are not such a mark: they are not over.
        """
        failing = self.backfill_due_at is None and (self.attempts != 0 or self.failing_since is not None)
        return self.error is None and self.refused_until is None and not failing


FACTS: Final = (
    "pages", "window_from", "high_water", "open_since", "checked_at", "attempted_at", "changed_at", "due_at",
    "outcome", "error", "refused_until", "first_available", "deep_at", "backfilled_to", "empty_slices",
    "backfill_due_at", "attempts", "failing_since", "look_again_at", "gen",
)  # fmt: skip
"""Columns of `cursor` beside its key."""


OF: Final = Statement(
    lambda dialect: sa.select(
        cursor.c.connection_id,
        cursor.c.account_id,
        cursor.c.resource,
        *(cursor.c[name] for name in FACTS),
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
"""The rows of `cursor` of some connections."""

CHECKS: Final = Statement(
    lambda dialect: sa.select(connection_check.c.connection_id, connection_check.c.listings).where(
        dialect.among(connection_check.c.connection_id, "connection_ids", tenant=named(connection_check.c.tenant))
    )
)
"""The rows of `connection_check` of some connections: the same parameters as `OF`."""


async def freshness(
    unit: "UnitOfWork", connection_ids: Collection[ConsentId]
) -> dict[ConsentId, dict[Listing, Cursor]]:
    """Every listing of some connections, in one trip; a connection that was never read is not in it."""
    place = {"tenant": unit.tenant, "connection_ids": sorted(set(connection_ids))}
    return read_freshness(*await run_all(unit, [(OF, place), (CHECKS, place)]))


def read_freshness(cursors: Answer, checks: Answer) -> dict[ConsentId, dict[Listing, Cursor]]:
    """`freshness` from what `OF` and `CHECKS` gave."""
    checked = {connection_id: unpacked(listings) for connection_id, listings in checks.rows}
    found: dict[ConsentId, dict[Listing, Cursor]] = {}
    for connection_id, account_id, resource, *values, since in cursors.rows:
        listing = Listing(account_id, ResourceName(resource))
        facts: dict[str, Any] = dict(zip(FACTS, values, strict=True))
        check = checked.get(connection_id, {}).get(listing)
        if check is not None and check.gen >= facts["gen"]:
            facts |= _facts_of(check)
        found.setdefault(connection_id, {})[listing] = Cursor(listing=listing, covered_from=since, **facts)
    return found


def _facts_of(check: Check) -> dict[str, Any]:
    return {
        "checked_at": check.at,
        "attempted_at": check.at,
        "due_at": check.due_at,
        "outcome": UNCHANGED,
        "gen": check.gen,
        "check": check,
    }


# -- for readers of the API ------------------------------------------------------------------------------------------


class Ask(StrEnum):
    """What connections are named by."""

    CONNECTIONS = "connection_ids"
    CONNECTION = "connection_id"
    ACCOUNT = "account_id"
    USER = "user_ref"
    USER_AT_LFI = "user_ref at lfi"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One consent, as far as it decides whether its connection is read.

    Attributes:
        revoked: its revocation was ordered here; the Hub may not have confirmed it yet.
    """

    status: str
    expires_at: datetime
    paused_at: datetime | None
    needs_consent: str | None
    revoked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Footing:
    """A connection, and what keeps its syncs back.

    Attributes:
        restricted_at: since when its rows may not be read; `None`: they may.
        consents: oldest first.
        gate: when its LFI's gate was closed last, and until when; `None`: never.
        breaker: when the LFI's breaker for data tripped, until when it holds, why, and when a trial closed it; `None`:
            it never tripped.
    """

    connection_id: str
    lfi: str
    restricted_at: datetime | None
    consents: Sequence[Standing]
    gate: tuple[datetime | None, datetime] | None
    breaker: tuple[datetime, datetime, int, str, datetime | None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What freshness is judged by.

    Attributes:
        now: database time; `None`: there is no such connection.
        connections: by connection_id, in that order.
        listings: rows as `v_listing` has them, without the columns that freshness does not need; those of connections
            that may not be read too.
    """

    now: datetime | None
    connections: Mapping[str, Footing]
    listings: Sequence[Mapping[str, Any]]


def asked(dialect: Dialect, column: Any, by: Ask) -> sa.ColumnElement[bool]:
    """Whether a column of a table or view, with its `tenant`, is the id of a connection that is asked for.

    Parameters of the statement: `tenant`, and those that `by` names.
    """
    tenant = named(connection.c.tenant)
    if by is Ask.CONNECTIONS:
        return dialect.among(column, by.value, tenant=tenant)
    mine = connection.c.tenant == tenant
    match by:
        case Ask.ACCOUNT:
            few = sa.select(account_reference.c.connection_id).where(
                account_reference.c.account_id == named(account_reference.c.account_id),
                account_reference.c.tenant == tenant,
            )
        case Ask.CONNECTION:
            few = sa.select(connection.c.connection_id).where(
                mine, connection.c.connection_id == named(connection.c.connection_id)
            )
        case _:
            few = sa.select(connection.c.connection_id).where(
                mine, connection.c.user_ref == named(connection.c.user_ref)
            )
            if by is Ask.USER_AT_LFI:
                few = few.where(connection.c.lfi == named(connection.c.lfi))
    return dialect.one_of(column, few, tenant=tenant)


_CONSENT: Final = ("status", "expires_at", "paused_at", "needs_consent", "revoke_asked_at")


@cache
def _footings(by: Ask) -> Statement:
    """A row for each consent of the connections asked for, and one for a connection that has none."""

    def build(dialect: Dialect) -> Any:
        same = connection.c.tenant
        joined = (
            connection.outerjoin(
                connection_check,
                sa.and_(
                    connection_check.c.tenant == same,
                    connection_check.c.connection_id == connection.c.connection_id,
                ),
            )
            .outerjoin(
                consent,
                sa.and_(consent.c.tenant == same, consent.c.connection_id == connection.c.connection_id),
            )
            .outerjoin(lfi, sa.and_(lfi.c.tenant == same, lfi.c.slug == connection.c.lfi))
            .outerjoin(
                breaker,
                sa.and_(
                    breaker.c.tenant == same,
                    breaker.c.lfi == connection.c.lfi,
                    breaker.c.operations == OperationClass.DATA.value,
                ),
            )
        )
        return (
            sa.select(
                dialect.now(), connection.c.connection_id, connection.c.lfi, connection.c.restricted_at,
                connection_check.c.listings,
                lfi.c.gate_closed_at, lfi.c.not_before,
                *(breaker.c[name] for name in ("opened_at", "until", "trips", "reason", "closed_at")),
                *(consent.c[name] for name in _CONSENT),
            )
            .select_from(joined)
            .where(asked(dialect, connection.c.connection_id, by))
            .order_by(connection.c.connection_id, consent.c.created_at, consent.c.consent_id)
        )  # fmt: skip

    return Statement(build)


@cache
def _listed(by: Ask) -> Statement:
    """The cursors of some resources (`resources`) of the connections asked for, as far as freshness needs them."""

    def build(dialect: Dialect) -> Any:
        covered = (
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
        )
        reference = cursor.outerjoin(
            account_reference,
            sa.and_(
                account_reference.c.tenant == cursor.c.tenant,
                account_reference.c.connection_id == cursor.c.connection_id,
                account_reference.c.lfi_account_id == cursor.c.account_id,
            ),
        )
        return (
            sa.select(
                *(cursor.c[name] for name in ("connection_id", "account_id", "resource", "gen")),
                account_reference.c.account_id.label("own_id"),
                *(cursor.c[name] for name in ("checked_at", "changed_at", "due_at", "error", "refused_until")),
                cursor.c.backfilled_to.is_not(None),
                covered,
            )
            .select_from(reference)
            .where(asked(dialect, cursor.c.connection_id, by), dialect.is_one_of(cursor.c.resource, "resources"))
            .order_by(*(cursor.c[name] for name in ("connection_id", "account_id", "resource")))
        )

    return Statement(build)


def told_of(by: Ask, place: Mapping[str, Any], resources: Collection[ResourceName]) -> list[Told]:
    """What gives, to be sent with others, the answers that `read_known` reads.

    Args:
        place: the parameters of `asked`, `tenant` too.
    """
    words = sorted({one.value for one in resources})
    return [(_footings(by), place), (_listed(by), {**place, "resources": words})]


def read_known(footings: Answer, listed: Answer) -> Known:
    """What the statements of `told_of` gave."""
    now: datetime | None = None
    connections: dict[str, Footing] = {}
    noted: dict[str, Packed] = {}
    for now, connection_id, slug, restricted_at, packed_, closed_at, not_before, *rest in footings.rows:  # noqa: B007
        opened_at, until, trips, reason, breaker_closed_at, status, *others = rest
        consents: list[Standing] = []
        if connection_id not in connections:
            connections[connection_id] = Footing(
                connection_id=connection_id,
                lfi=slug,
                restricted_at=restricted_at,
                consents=consents,
                gate=None if not_before is None else (closed_at, not_before),
                breaker=None if opened_at is None else (opened_at, until, trips, reason, breaker_closed_at),
            )
            if packed_ is not None:
                noted[connection_id] = packed_
        if status is not None:
            expires_at, paused_at, needs_consent, revoke_asked_at = others
            held = connections[connection_id].consents
            assert isinstance(held, list)
            held.append(
                Standing(
                    status=status,
                    expires_at=expires_at,
                    paused_at=paused_at,
                    needs_consent=needs_consent,
                    revoked=revoke_asked_at is not None,
                )
            )
    wanted = {row[2] for row in listed.rows}
    checked = {connection_id: unpacked(listings, only=wanted) for connection_id, listings in noted.items()}
    return Known(now=now, connections=connections, listings=[_as_listing(row, checked) for row in listed.rows])


def _as_listing(row: tuple[Any, ...], checked: Mapping[str, Mapping[Listing, Check]]) -> dict[str, Any]:
    connection_id, lfi_account_id, resource, gen, account_id, checked_at, changed_at, due_at, error, *rest = row
    refused_until, backfilled, covered_from = rest
    check = checked.get(connection_id, {}).get(Listing(lfi_account_id, resource))
    if check is not None and check.gen >= gen:
        checked_at, due_at = check.at, check.due_at
    return {
        "connection_id": connection_id,
        "lfi_account_id": lfi_account_id or None,
        "account_id": account_id,
        "resource": resource,
        "checked_at": checked_at,
        "changed_at": changed_at,
        "due_at": due_at,
        "error": error,
        "refused_until": refused_until,
        "complete_from": None if covered_from == date.min else covered_from,
        "history_complete": bool(backfilled),
    }


# -- as they lie in the row ------------------------------------------------------------------------------------------

Packed = list[list[Any]]
"""`connection_check.listings`."""

_Walked = tuple[int, datetime, datetime, str]
"""A `Check` and its resource."""


def packed(checks: Mapping[Listing, Check]) -> Packed:
    """Checks of one connection as its row holds them; the same checks give the same text."""
    by_account: dict[str, list[tuple[int, datetime, datetime, str]]] = {}
    for listing, check in sorted(checks.items()):
        by_account.setdefault(listing.account_id, []).append(
            (check.gen, check.at, check.due_at, listing.resource.value)
        )
    alike: dict[tuple[tuple[int, datetime, datetime, str], ...], list[str]] = {}
    for account_id, walked in by_account.items():
        alike.setdefault(tuple(walked), []).append(account_id)
    places: dict[_Walked, list[int]] = {}
    for place, same in enumerate(alike):
        for one in same:
            places.setdefault(one, []).append(place)
    walks: dict[tuple[int, datetime], dict[tuple[datetime, tuple[int, ...]], list[str]]] = {}
    for one in sorted(places):
        gen, at, due, resource = one
        walks.setdefault((gen, at), {}).setdefault((due, tuple(places[one])), []).append(resource)
    return [
        list(alike.values()),
        [
            [gen, instant_text(at), [[instant_text(due), sets, names] for (due, sets), names in walked.items()]]
            for (gen, at), walked in walks.items()
        ],
    ]


def unpacked(listings: Packed, *, only: Collection[str] | None = None) -> dict[Listing, Check]:
    """What `packed` made.

    Args:
        only: the names of these resources; `None`: every one.
    """
    sets, walks = listings
    checks: dict[Listing, Check] = {}
    for gen, at, walked in walks:
        walked_at = read_iso(at)
        for due, places, names in walked:
            resources = [ResourceName(name) for name in names if only is None or name in only]
            if not resources:
                continue
            check = Check(gen, walked_at, read_iso(due))
            accounts = [account_id for place in places for account_id in sets[place]]
            checks.update((Listing(account_id, one), check) for account_id in accounts for one in resources)
    return checks


# -- for SQL ---------------------------------------------------------------------------------------------------------


def checks(dialect: Dialect) -> sa.Subquery:
    """Every check as a row: tenant, connection_id, account_id, resource, gen, at, due_at.

    Also those that the listing's cursor has overtaken.  Joined by tenant and connection_id it reads one row by its key.
    """
    table = connection_check
    walks = _elements(dialect, _member(dialect, table.c.listings, 1), "walks")
    walked = _elements(dialect, _member(dialect, walks.c.value, 2), "walked")
    places = _elements(dialect, _member(dialect, walked.c.value, 1), "places", texts=True)
    accounts = _elements(dialect, _set(dialect, table.c.listings, places.c.value), "accounts", texts=True, few=False)
    resources = _elements(dialect, _member(dialect, walked.c.value, 2), "resources", texts=True)
    rows: sa.FromClause = table
    for each in (walks, walked, places, accounts, resources):
        rows = rows.join(each, sa.true())
    return (
        sa.select(
            table.c.tenant,
            table.c.connection_id,
            accounts.c.value.label("account_id"),
            resources.c.value.label("resource"),
            _scalar(dialect, walks.c.value, 0, sa.BigInteger()).label("gen"),
            _scalar(dialect, walks.c.value, 1, Instant()).label("at"),
            _scalar(dialect, walked.c.value, 0, Instant()).label("due_at"),
        )
        .select_from(rows)
        .subquery("checks")
    )


def listings(dialect: Dialect) -> sa.Subquery:
    """Every listing as a row, as `freshness` gives it, to join with: the way for a view of many rows.

    Columns: tenant, connection_id, account_id (`''` for a listing of the connection), resource, checked_at,
    attempted_at, changed_at, due_at (instants, typed `Instant`), outcome, error.

    For all rows PostgreSQL reads `cursor` and `connection_check` once each and joins them by hash; where tenant and
    connection_id are given, each by its key.
    """
    check = checks(dialect)
    same = [check.c[name] == cursor.c[name] for name in _LISTING]
    both = cursor.outerjoin(check, sa.and_(*same, check.c.gen >= cursor.c.gen))
    noted = check.c.at.is_not(None)
    unchanged: sa.ColumnElement[str] = sa.literal_column(f"'{UNCHANGED}'", sa.String())
    return (
        sa.select(
            *(cursor.c[name] for name in _LISTING),
            _first(check.c.at, cursor.c.checked_at).label("checked_at"),
            _first(check.c.at, cursor.c.attempted_at).label("attempted_at"),
            cursor.c.changed_at,
            _first(check.c.due_at, cursor.c.due_at).label("due_at"),
            sa.case((noted, unchanged), else_=cursor.c.outcome).label("outcome"),
            cursor.c.error,
        )
        .select_from(both)
        .subquery("listings")
    )


def listing_fact(
    dialect: Dialect,
    name: str,
    *,
    tenant: sa.ColumnElement[str],
    connection_id: sa.ColumnElement[str],
    account_id: sa.ColumnElement[str],
    resource: sa.ColumnElement[str],
) -> sa.ScalarSelect[Any]:
    """One column of `listings` for one listing, correlated with the query around it; NULL where there is none.

    Looks two rows up by their keys and takes the check apart, each time: good for a row or some, not for a whole table.

    Args:
        name: `checked_at`, `due_at`, ...
    """
    every = listings(dialect)
    key = {"tenant": tenant, "connection_id": connection_id, "account_id": account_id, "resource": resource}
    return sa.select(every.c[name]).where(*(every.c[one] == value for one, value in key.items())).scalar_subquery()


_SLICED: Final = sorted(one.name.value for one in RESOURCES if one.window is not None and one.window.sliced)
"""Resources whose history is read in slices."""

_WELL: Final = ("ok", "unchanged")
"""Outcomes of runs that read everything that was due."""


def _completeness(dialect: Dialect) -> Any:
    """Of connections that may be read: whether every listing was seen, all history is read, and a run went well."""
    key = {name: cursor.c[name] for name in ("tenant", "connection_id", "account_id", "resource")}
    checked = listing_fact(dialect, "checked_at", **key)
    refused = cursor.c.refused_until.is_not(None)
    seen = sa.case(  # in this order: a check is looked for only where the cursor does not say enough
        (cursor.c.checked_at.is_not(None), 1), (refused, 1), (checked.is_not(None), 1), else_=0
    )
    back = sa.case(
        (
            sa.or_(
                sa.not_(sa.or_(*(cursor.c.resource == one for one in _SLICED))),
                cursor.c.backfilled_to.is_not(None),
                refused,
            ),
            1,
        ),
        else_=0,
    )
    well = sa.exists().where(
        run.c.tenant == connection.c.tenant,
        run.c.connection_id == connection.c.connection_id,
        sa.or_(*(run.c.outcome == one for one in _WELL)),
    )
    same = sa.and_(connection.c.tenant == cursor.c.tenant, connection.c.connection_id == cursor.c.connection_id)
    grouped = (connection.c.tenant, connection.c.connection_id)
    return (
        sa.select(connection.c.connection_id, sa.func.min(seen), sa.func.min(back), well)
        .select_from(cursor.join(connection, same))
        .where(asked(dialect, cursor.c.connection_id, Ask.CONNECTIONS), connection.c.restricted_at.is_(None))
        .group_by(*grouped)
    )


COMPLETE: Final = Statement(_completeness)
"""How far the data of some connections has come."""

_LISTING: Final = ("tenant", "connection_id", "account_id", "resource")


def _first(check: sa.ColumnElement[Any], own: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.type_coerce(sa.func.coalesce(check, own), Instant())


def _elements(
    dialect: Dialect, array: sa.ColumnElement[Any], name: str, *, texts: bool = False, few: bool = True
) -> sa.FromClause:
    """The elements of a JSON array as rows of one column, `value`.

    Args:
        few: let PostgreSQL expect one row.  It takes such a function for a hundred rows, and five of them, each in the
            other, for ten thousand millions: it would plan, and compile, for those.
    """
    if not dialect.is_postgresql:
        return sa.func.json_each(array).table_valued("value", name=name)
    function = sa.func.json_array_elements_text if texts else sa.func.json_array_elements
    each = function(array).table_valued("value", name=name if not few else f"each_of_{name}")
    if not few:
        return each
    return expecting_one(sa.select(each.c.value)).lateral(name)


def _member(dialect: Dialect, array: sa.ColumnElement[Any], place: int) -> sa.ColumnElement[Any]:
    """An element of a JSON array, as JSON."""
    if not dialect.is_postgresql:
        return sa.func.json_extract(array, sa.literal_column(f"'$[{place}]'"))
    return array.op("->")(sa.literal_column(str(place)))


def _set(dialect: Dialect, listings: sa.ColumnElement[Any], place: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """The accounts of a set, as JSON."""
    if not dialect.is_postgresql:
        return sa.func.json_extract(listings, sa.literal_column("'$[0][' || places.value || ']'"))
    return _member(dialect, listings, 0).op("->")(sa.cast(place, sa.Integer))


def _scalar(
    dialect: Dialect, array: sa.ColumnElement[Any], place: int, kind: sa.types.TypeEngine[Any]
) -> sa.ColumnElement[Any]:
    """An element of a JSON array as a value of a column's type."""
    if not dialect.is_postgresql:
        return sa.type_coerce(_member(dialect, array, place), kind)
    return sa.cast(array.op("->>")(sa.literal_column(str(place))), kind)

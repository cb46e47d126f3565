"""Connections for the eyes of an operator: lists to search and filter, and the facts of one.

Of a connection nothing personal is read: ids, states, codes, counts and instants only.  Lists are sorted by `user_ref`,
which an index serves, and go on behind the last row of the page before.  Nothing here writes.
"""

from bisect import bisect_right
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from syncworker.standard.consents import Status
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.ops_filters import Wanted, conditions
from syncworker.store.statements import Statement, named
from syncworker.store.tables import (
    account,
    authorization_intent,
    call,
    connection,
    consent,
    coverage,
    expiry_flag,
    run,
    staleness,
    token,
    work,
)
from syncworker.store.work import CRASHED, FOR_EVER, WorkKind

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionRow:
    """One connection with how its syncs go; the fields behind `last_data_at` are `None` where it has no schedule.

    Attributes:
        leased: a worker is at it now.
    """

    connection_id: ConsentId
    user_ref: str
    lfi: Slug
    created_at: datetime
    last_data_at: datetime | None
    due_at: datetime | None
    asked_at: datetime | None
    parked_at: datetime | None
    last_outcome: str | None
    last_error: str | None
    last_good_at: datetime | None
    attempts: int | None
    leased: bool

    @property
    def crashed(self) -> bool:
        return self.last_error == CRASHED


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentRow:
    """One consent, as far as lists need it."""

    consent_id: ConsentId
    connection_id: ConsentId
    status: str
    created_at: datetime
    expires_at: datetime
    paused_at: datetime | None
    needs_consent: str | None
    revoke_asked_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFacts:
    """A consent's token without the token.

    Attributes:
        in_doubt: a refresh was sent, and how it ended is not known.
        lost_cause: why the grant is gone for good.
    """

    consent_id: ConsentId
    version: int
    issued_at: datetime | None
    expires_at: datetime | None
    refreshed_count: int
    attempts: int
    in_doubt: bool
    lost_cause: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRow:
    """One account of a connection by its kind; `account_id` is the LFI's AccountId."""

    account_id: str
    account_type: str | None
    account_sub_type: str | None
    status: str | None
    gone_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageRow:
    """A window of a listing that was walked to its last page."""

    account_id: str
    resource: str
    from_date: date
    to_date: date
    pages: int
    items: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What the runs of a connection did since some instant.

    Attributes:
        calls, millifils: made for it, and their price; 1 AED = 100,000 milli-fils.
    """

    runs: int
    calls: int
    millifils: int
    added: int
    modified: int
    removed: int


class Oldest(NamedTuple):
    """The listing of a connection that passes its target first.

    Attributes:
        checked_at: end of its last complete walk; `None`: it was never walked.
    """

    stale_at: datetime
    checked_at: datetime | None
    resource: str


class EndingRow(NamedTuple):
    """A consent that ends soon."""

    connection_id: ConsentId
    user_ref: str
    lfi: Slug
    expires_at: datetime


AGES: Final = (2, 4, 6, 8, 10, 15, 20, 40)
"""Upper ends of the classes of ages, in tenths of the target; the last class has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRow:
    """A link that was made for the renewal of a connection, without the link.

    Attributes:
        opened: how often its user opened it.
    """

    created_at: datetime
    expires_at: datetime
    opened: int
    completed_at: datetime | None


_CONSENT: Final = tuple(ConsentRow.__slots__)
_CONSENTS: Final = Statement(
    lambda dialect: (
        sa.select(*(consent.c[name] for name in _CONSENT))
        .where(dialect.among(consent.c.connection_id, "connection_ids", tenant=named(consent.c.tenant)))
        .order_by(consent.c.created_at, consent.c.consent_id)
    )
)


class OpsConnections:
    """Reads connections of one tenant, for operators."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def page(self, wanted: Wanted) -> list[ConnectionRow]:
        """Connections by `user_ref`, then id."""
        now = await self._unit.now()
        leased = sa.and_(work.c.lease_until.is_not(None), work.c.lease_until > now)
        query = (
            sa.select(
                *(connection.c[name] for name in ("connection_id", "user_ref", "lfi", "created_at", "last_data_at")),
                *(work.c[name] for name in _OF_WORK),
                leased.label("leased"),
            )
            .select_from(
                connection.outerjoin(
                    work,
                    sa.and_(
                        work.c.tenant == connection.c.tenant,
                        work.c.kind == WorkKind.SYNC.value,
                        work.c.subject == connection.c.connection_id,
                    ),
                )
            )
            .where(*conditions(wanted, self._unit.dialect, tenant=self._unit.tenant, now=now, leased=leased))
            .order_by(connection.c.user_ref, connection.c.connection_id)
            .limit(wanted.limit)
        )
        rows = (await self._unit.connection.execute(query)).mappings()
        return [ConnectionRow(**{**row, "leased": bool(row["leased"])}) for row in rows]

    async def counts(self) -> Mapping[str, int]:
        """How many connections each LFI has."""
        query = (
            sa.select(connection.c.lfi, sa.func.count())
            .where(connection.c.tenant == self._unit.tenant)
            .group_by(connection.c.lfi)
        )
        return {lfi: int(count) for lfi, count in await self._unit.connection.execute(query)}

    async def consents(self, connection_ids: Collection[str]) -> dict[str, list[ConsentRow]]:
        """The consents of some connections, oldest first."""
        place = {"tenant": self._unit.tenant, "connection_ids": sorted(set(connection_ids))}
        found: dict[str, list[ConsentRow]] = {}
        for row in (await _CONSENTS.run(self._unit, **place)).rows:
            one = ConsentRow(**dict(zip(_CONSENT, row, strict=True)))
            found.setdefault(one.connection_id, []).append(one)
        return found

    async def connection_of(self, consent_id: str) -> str | None:
        """The connection a ConsentId belongs to, or that has it as its own id; `None`: neither is held."""
        query = sa.select(consent.c.connection_id).where(
            consent.c.tenant == self._unit.tenant, consent.c.consent_id == consent_id
        )
        found = await self._unit.connection.scalar(query)
        if found is None:
            query = sa.select(connection.c.connection_id).where(
                connection.c.tenant == self._unit.tenant, connection.c.connection_id == consent_id
            )
            found = await self._unit.connection.scalar(query)
        return found

    async def tokens(self, consent_ids: Collection[str]) -> list[TokenFacts]:
        """Tokens of some consents by version and instants; nothing sealed is read."""
        doubt = sa.and_(token.c.intent_at.is_not(None), token.c.intent_version == token.c.version)
        names = [name for name in TokenFacts.__slots__ if name != "in_doubt"]
        query = (
            sa.select(*(token.c[name] for name in names), doubt.label("in_doubt"))
            .where(token.c.tenant == self._unit.tenant, token.c.consent_id.in_(sorted(consent_ids)))
            .order_by(token.c.consent_id)
        )
        rows = (await self._unit.connection.execute(query)).mappings()
        return [TokenFacts(**{**row, "in_doubt": bool(row["in_doubt"])}) for row in rows]

    async def accounts(self, connection_id: ConsentId) -> list[AccountRow]:
        """Accounts of a connection, those that went too, by id."""
        names = [name for name in AccountRow.__slots__ if name != "account_id"]
        query = (
            sa.select(account.c.key.label("account_id"), *(account.c[name] for name in names))
            .where(account.c.tenant == self._unit.tenant, account.c.connection_id == connection_id)
            .order_by(account.c.key)
        )
        return [AccountRow(**row) for row in (await self._unit.connection.execute(query)).mappings()]

    async def coverage(self, connection_id: ConsentId) -> list[CoverageRow]:
        """Windows that were walked, by listing and date."""
        query = (
            sa.select(*(coverage.c[name] for name in CoverageRow.__slots__))
            .where(coverage.c.tenant == self._unit.tenant, coverage.c.connection_id == connection_id)
            .order_by(coverage.c.account_id, coverage.c.resource, coverage.c.from_date)
        )
        return [CoverageRow(**row) for row in (await self._unit.connection.execute(query)).mappings()]

    async def spent(self, connection_id: ConsentId, *, since: datetime) -> Spent:
        """What was done for a connection in runs begun since then."""
        done = (run.c.tenant == self._unit.tenant, run.c.connection_id == connection_id, run.c.started_at >= since)
        sums = [sa.func.coalesce(sa.func.sum(run.c[name]), 0) for name in ("called", "called_millifils", *_CHANGED)]
        ((runs, calls, millifils, *changed),) = await self._unit.connection.execute(
            sa.select(sa.func.count(), *sums).where(*done)
        )
        ours = sa.select(consent.c.consent_id).where(
            consent.c.tenant == self._unit.tenant, consent.c.connection_id == connection_id
        )
        explained = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(call.c.price_millifils), 0)).where(
            call.c.tenant == self._unit.tenant,
            call.c.consent_id.in_(ours),
            call.c.reason.is_not(None),  # calls that an LFI explained are rows of their own, and an index finds them
            call.c.run_id.is_not(None),
            call.c.started_at >= since,
        )
        ((more, cost),) = await self._unit.connection.execute(explained)
        added, modified, removed = map(int, changed)
        return Spent(
            runs=int(runs),
            calls=int(calls) + int(more),
            millifils=int(millifils) + int(cost),
            added=added,
            modified=modified,
            removed=removed,
        )

    async def oldest(self, connection_ids: Collection[str]) -> dict[str, Oldest]:
        """The listing that passes its target first, of some connections, as judged after their last run."""
        query = sa.select(
            staleness.c.connection_id, staleness.c.stale_at, staleness.c.checked_at, staleness.c.resource
        ).where(staleness.c.tenant == self._unit.tenant, staleness.c.connection_id.in_(sorted(set(connection_ids))))
        return {row[0]: Oldest(*row[1:]) for row in await self._unit.connection.execute(query)}

    async def ages(self) -> list[int]:
        """How many connections in the schedule are how old, by `AGES` and one class more."""
        now = await self._unit.now()
        each = (
            sa.select(_tenth(self._unit, now).label("tenth"))
            .select_from(
                staleness.join(
                    work,
                    sa.and_(
                        work.c.tenant == staleness.c.tenant,
                        work.c.kind == WorkKind.SYNC.value,
                        work.c.subject == staleness.c.connection_id,
                    ),
                )
            )
            .where(
                staleness.c.tenant == self._unit.tenant,
                staleness.c.checked_at.is_not(None),
                work.c.due_at < FOR_EVER,
            )
            .subquery()
        )
        query = sa.select(each.c.tenth, sa.func.count()).group_by(each.c.tenth)
        counts = [0] * (len(AGES) + 1)
        for tenth, count in await self._unit.connection.execute(query):
            if tenth is not None:
                counts[bisect_right(AGES, tenth)] += int(count)
        return counts

    async def endings(self, *, until: datetime) -> list[int]:
        """How many consents in use end in each day from now on, until then; the first day begins now."""
        now = await self._unit.now()
        each = sa.select(_days(self._unit, now).label("day")).where(*self._ending(now, until)).subquery()
        query = sa.select(each.c.day, sa.func.count()).group_by(each.c.day)
        counts = {int(day): int(count) for day, count in await self._unit.connection.execute(query)}
        return [counts.get(day, 0) for day in range(max((until - now).days, 1))]

    async def ending(self, *, until: datetime, limit: int = 10) -> list[EndingRow]:
        """Consents in use that end until then, the first one first."""
        now = await self._unit.now()
        query = (
            sa.select(consent.c.connection_id, connection.c.user_ref, consent.c.lfi, consent.c.expires_at)
            .join(
                connection,
                sa.and_(connection.c.tenant == consent.c.tenant, connection.c.connection_id == consent.c.connection_id),
            )
            .where(*self._ending(now, until))
            .order_by(consent.c.expires_at, consent.c.consent_id)
            .limit(limit)
        )
        return [EndingRow(*row) for row in await self._unit.connection.execute(query)]

    def _ending(self, now: datetime, until: datetime) -> tuple[sa.ColumnElement[bool], ...]:
        return (
            consent.c.tenant == self._unit.tenant,
            consent.c.status == Status.Authorized.value,
            consent.c.expires_at > now,
            consent.c.expires_at <= until,
            consent.c.revoke_asked_at.is_(None),
            consent.c.paused_at.is_(None),
            consent.c.needs_consent.is_(None),
        )

    async def links(self, connection_id: ConsentId, *, limit: int = 3) -> list[LinkRow]:
        """Links made for renewals of a connection, newest first; never the links themselves."""
        query = (
            sa.select(*(authorization_intent.c[name] for name in LinkRow.__slots__))
            .where(
                authorization_intent.c.tenant == self._unit.tenant,
                authorization_intent.c.base_consent_id == connection_id,
            )
            .order_by(authorization_intent.c.created_at.desc())
            .limit(limit)
        )
        return [LinkRow(**row) for row in (await self._unit.connection.execute(query)).mappings()]

    async def flags(self, consent_ids: Collection[str]) -> list[int]:
        """Thresholds, in days before their end, at which these consents were flagged; the smallest first."""
        query = (
            sa.select(expiry_flag.c.days)
            .where(
                expiry_flag.c.tenant == self._unit.tenant,
                expiry_flag.c.consent_id.in_(sorted(consent_ids)),
                expiry_flag.c.skipped.is_(None),
            )
            .order_by(expiry_flag.c.days)
        )
        return list(await self._unit.connection.scalars(query))


_OF_WORK: Final = (
    "due_at",
    "asked_at",
    "parked_at",
    "last_outcome",
    "last_error",
    "last_good_at",
    "attempts",
)
_CHANGED: Final = ("added", "modified", "removed")


def _tenth(unit: "UnitOfWork", now: datetime) -> sa.ColumnElement[int]:
    """The age of a connection's first listing in whole tenths of its target, those beyond the last class as one."""
    at = sa.literal(now, staleness.c.stale_at.type)
    age = _seconds(unit, at) - _seconds(unit, staleness.c.checked_at)
    target = _seconds(unit, staleness.c.stale_at) - _seconds(unit, staleness.c.checked_at)
    tenths = sa.literal_column("10.0") * age / sa.func.nullif(target, 0)
    most: sa.ColumnElement[Any] = sa.literal_column(str(float(AGES[-1])))
    if unit.dialect.is_postgresql:
        return sa.cast(sa.func.floor(sa.func.least(tenths, most)), sa.Integer)
    return sa.cast(sa.func.min(tenths, most), sa.Integer)


def _days(unit: "UnitOfWork", now: datetime) -> sa.ColumnElement[int]:
    """Whole days until a consent ends."""
    apart = _seconds(unit, consent.c.expires_at) - _seconds(unit, sa.literal(now, consent.c.expires_at.type))
    parts = apart / sa.literal_column("86400.0")
    return sa.cast(sa.func.floor(parts) if unit.dialect.is_postgresql else parts, sa.Integer)  # SQLite cuts off


def _seconds(unit: "UnitOfWork", at: sa.ColumnElement[Any]) -> sa.ColumnElement[float]:
    """An instant in seconds, for differences."""
    if unit.dialect.is_postgresql:
        return sa.cast(sa.extract("epoch", at), sa.Float)
    return sa.func.julianday(at) * sa.literal_column("86400.0")

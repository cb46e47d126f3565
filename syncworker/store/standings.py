"""Every connection's standing: what state it is in, how its sync ended, whether it is stale.

One statement gives rows for connections in trouble, and counts of all by LFI and state.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from syncworker.standard.consents import TERMINAL, Status
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.consents import LIVE_FIRST
from syncworker.store.dialect import Dialect
from syncworker.store.statements import Answer, Statement, named
from syncworker.store.tables import connection, consent, staleness, work
from syncworker.store.work import TROUBLED, WorkKind

FIRST_READ: Final = timedelta(minutes=15)
"""A connection that was never read is stale after so long."""

LIVE: Final = "live"
NEEDS_CONSENT: Final = "needs_consent"
"""States of a connection, by the consent that data is asked with; the others are left out of freshness:
`ended`, `revoked` (here, not yet at the Hub), `paused`, `suspended`, `pending`, `not_allowed`, `other`."""


class Troubled(NamedTuple):
    """A connection to look at: stale, failing, parked, not judged since its last run, or without a grant.

    Attributes:
        state: `LIVE` or `NEEDS_CONSENT`.
        error: stable code of its last sync's end.
        ended_at: of its last sync; `None`: none ended yet.
        good_at: when a sync last ended well.
        failing: its last sync ended badly, and it is still in the schedule.
        retry: time mends that.
        stale_at: when its first listing passed its target, as judged after the run before; `None`: not judged.
        checked_at, resource: of that listing.
        judged: `stale_at` is of its last run and of the present rule.
    """

    connection_id: ConsentId
    lfi: Slug
    user_ref: str
    state: str
    error: str | None
    ended_at: datetime | None
    good_at: datetime | None
    parked: bool
    failing: bool
    retry: bool
    stale_at: datetime | None
    checked_at: datetime | None
    resource: str | None
    judged: bool
    created_at: datetime


class Counted(NamedTuple):
    """Connections of an LFI in one state.

    Attributes:
        ends_7, ends_30: of them those whose consent ends within so many days.
        good_at: when the last sync of any of them ended well.
    """

    lfi: Slug
    state: str
    connections: int
    ends_7: int
    ends_30: int
    good_at: datetime | None


def is_terminal(status: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Whether the Hub will never move a consent of this status again; written out, since a statement is sent as is."""
    return sa.or_(*(status == one.value for one in sorted(TERMINAL)))


def _state(now: sa.ColumnElement[datetime], of: Any, allowed: sa.ColumnElement[bool]) -> sa.ColumnElement[str]:
    terminal = is_terminal(of.c.status)
    return sa.case(
        (sa.or_(terminal, of.c.expires_at <= now), "ended"),
        (of.c.revoke_asked_at.is_not(None), "revoked"),
        (sa.not_(allowed), "not_allowed"),
        (of.c.needs_consent.is_not(None), NEEDS_CONSENT),
        (of.c.paused_at.is_not(None), "paused"),
        (of.c.status == Status.Suspended.value, "suspended"),
        (of.c.status == Status.AwaitingAuthorization.value, "pending"),
        (of.c.status == Status.Authorized.value, LIVE),
        else_="other",
    )


def _asked_with(dialect: Dialect, tenant: sa.BindParameter[Any]) -> sa.Subquery:
    """Of every connection the consent that data is asked with."""
    names = ("connection_id", "lfi", "status", "expires_at", "paused_at", "needs_consent", "revoke_asked_at")
    columns = [consent.c[name] for name in names]
    mine = consent.c.tenant == tenant
    if dialect.is_postgresql:  # which knows how many connections that gives; of a window's first rows it expects few
        first = sa.select(*columns).where(mine).ext(postgresql.distinct_on(consent.c.connection_id))
        return first.order_by(consent.c.connection_id, *LIVE_FIRST).subquery("ranked")
    place = sa.func.row_number().over(partition_by=consent.c.connection_id, order_by=LIVE_FIRST)
    every = sa.select(*columns, place.label("place")).where(mine).subquery("every")
    return sa.select(*(every.c[name] for name in names)).where(every.c.place == 1).subquery("ranked")


def _each(dialect: Dialect, *more: sa.Column[Any]) -> sa.CTE:
    """Every connection with its state, its sync and its staleness.

    Args:
        more: further columns of `staleness`.
    """
    now, tenant = dialect.now(), named(consent.c.tenant)
    ranked = _asked_with(dialect, tenant)
    users = dialect.given("allowed", {"user_ref": connection.c.user_ref.type})
    allowed = sa.or_(
        sa.bindparam("everybody", type_=sa.Boolean(), required=True), connection.c.user_ref.in_(sa.select(users.c[0]))
    )
    judged = sa.and_(
        staleness.c.stale_at.is_not(None),
        sa.or_(work.c.last_ended_at.is_(None), staleness.c.run_ended_at == work.c.last_ended_at),
        staleness.c.rule == named(staleness.c.rule),
    )
    first = dialect.after(-FIRST_READ)
    unread = sa.and_(
        work.c.last_ended_at.is_(None),
        connection.c.created_at < first,
        sa.or_(work.c.last_started_at.is_not(None), work.c.due_at < first, work.c.id.is_(None)),
    )
    stale = sa.case(
        (sa.and_(staleness.c.stale_at.is_(None), work.c.last_ended_at.is_(None)), unread),
        (judged, staleness.c.stale_at < now),
        else_=sa.true(),  # not judged since its last run: who asks has to look
    )
    failing = sa.and_(TROUBLED, work.c.parked_at.is_(None))
    return (
        sa.select(
            ranked.c.connection_id,
            ranked.c.lfi,
            connection.c.user_ref,
            _state(now, ranked, allowed).label("state"),
            work.c.last_error.label("error"),
            work.c.last_ended_at.label("ended_at"),
            work.c.last_good_at.label("good_at"),
            sa.func.coalesce(work.c.parked_at.is_not(None), sa.false()).label("parked"),
            sa.func.coalesce(failing, sa.false()).label("failing"),
            sa.func.coalesce(work.c.retry, sa.false()).label("retry"),
            staleness.c.stale_at,
            staleness.c.checked_at,
            staleness.c.resource,
            sa.func.coalesce(sa.or_(work.c.last_ended_at.is_(None), judged), sa.false()).label("judged"),
            connection.c.created_at,
            ranked.c.expires_at,
            sa.func.coalesce(stale, sa.false()).label("stale"),
            *more,
        )
        .select_from(
            ranked.join(
                connection,
                sa.and_(connection.c.tenant == tenant, connection.c.connection_id == ranked.c.connection_id),
            )
            .outerjoin(
                work,
                sa.and_(
                    work.c.tenant == tenant,
                    work.c.kind == WorkKind.SYNC.value,
                    work.c.subject == ranked.c.connection_id,
                ),
            )
            .outerjoin(
                staleness,
                sa.and_(staleness.c.tenant == tenant, staleness.c.connection_id == ranked.c.connection_id),
            )
        )
        .cte("each_connection")
    )


def _standing(dialect: Dialect) -> Any:
    each = _each(dialect)
    in_trouble = sa.or_(
        each.c.state == NEEDS_CONSENT,
        sa.and_(each.c.state == LIVE, sa.or_(each.c.stale, each.c.failing, each.c.parked)),
    )
    rows = sa.select(
        *(each.c[name] for name in Troubled._fields),
        sa.literal(0).label("connections"),
        sa.literal(0).label("ends_7"),
        sa.literal(0).label("ends_30"),
    ).where(in_trouble)
    soon = [
        sa.func.count(sa.case((each.c.expires_at < dialect.after(timedelta(days=days)), 1))).label(f"ends_{days}")
        for days in (7, 30)
    ]
    counted = {
        "lfi": each.c.lfi,
        "state": each.c.state,
        "good_at": sa.func.max(each.c.good_at),
    }
    counts = sa.select(
        *(
            counted.get(name, sa.cast(sa.literal("") if name == "connection_id" else sa.null(), each.c[name].type))
            for name in Troubled._fields
        ),
        sa.func.count(),
        *soon,
    ).group_by(each.c.lfi, each.c.state)
    return rows.union_all(counts)


STANDING: Final = Statement(_standing)
"""Of one tenant, by `rule`, `everybody` and `allowed`: see `Overviews.read`."""


def _ages(dialect: Dialect) -> Any:
    each = _each(dialect, staleness.c.ages)
    return sa.select(each.c.lfi, each.c.ages).where(each.c.state == LIVE, each.c.ages.is_not(None))


AGES: Final = Statement(_ages)
"""LFI and `staleness.ages` of every connection that can be fresh; the parameters of `STANDING`."""


def read_standing(answer: Answer) -> tuple[list[Troubled], list[Counted]]:
    """What `STANDING` gave."""
    size, good_at = len(Troubled._fields), Troubled._fields.index("good_at")
    troubled = [_troubled(row[:size]) for row in answer.rows if row[0]]
    counts = [
        Counted(Slug(row[1]), row[3], row[size], row[size + 1], row[size + 2], row[good_at])
        for row in answer.rows
        if not row[0]
    ]
    return troubled, counts


def _troubled(row: Sequence[Any]) -> Troubled:
    found = Troubled(*row)
    return found._replace(
        parked=bool(found.parked),  # SQLite has numbers
        failing=bool(found.failing),
        retry=bool(found.retry),
        judged=bool(found.judged),
    )

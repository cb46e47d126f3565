"""Filters of the list of connections, as conditions.  Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

import sqlalchemy as sa

from syncworker.standard.consents import TERMINAL, Status
from syncworker.store.dialect import Dialect
from syncworker.store.tables import connection, consent, staleness, work
from syncworker.store.work import TROUBLED

_ENDED: Final = sorted(one.value for one in TERMINAL)


class State(StrEnum):
    """Filters of the list by what the consents of a connection say."""

    ACTIVE = "active"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    PENDING = "pending"
    NEEDS_CONSENT = "needs_consent"
    ENDED = "ended"


class Trouble(StrEnum):
    """Filters of the list by how its syncs go."""

    STALE = "stale"
    """A listing is past its target, and data may be asked for."""

    FAILING = "failing"
    """The last run was not complete, and the row is still in the schedule."""
    DUE = "due"
    """Due, neither claimed nor parked."""
    PARKED = "parked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which connections; every filter given holds.

    Attributes:
        begins: how `user_ref` begins, to the letter.
        among: only these connections.
        after: `(user_ref, connection_id)` of the last row of the page before.
    """

    begins: str | None = None
    lfi: str | None = None
    state: State | None = None
    trouble: Trouble | None = None
    among: Collection[str] | None = None
    after: tuple[str, str] | None = None
    limit: int = 50


def conditions(
    wanted: Wanted, dialect: Dialect, *, tenant: str, now: datetime, leased: sa.ColumnElement[bool]
) -> Sequence[sa.ColumnElement[bool]]:
    """What rows of `connection`, joined with their `work`, must fulfil.

    Args:
        leased: a worker is at the row of `work` now.
    """
    found: list[sa.ColumnElement[bool]] = [dialect.beside(connection.c.tenant) == tenant]
    if wanted.begins:
        found.append(connection.c.user_ref.startswith(wanted.begins, autoescape=True))
    if wanted.lfi is not None:
        found.append(connection.c.lfi == wanted.lfi)
    if wanted.among is not None:
        found.append(connection.c.connection_id.in_(sorted(wanted.among)))
    if wanted.state is not None:
        found.append(_in_state(wanted.state, dialect, now))
    if wanted.trouble is not None:
        found.append(_in_trouble(wanted.trouble, dialect, now, leased))
    if wanted.after is not None:
        place = sa.tuple_(connection.c.user_ref, connection.c.connection_id)
        found.append(place > sa.tuple_(*(sa.literal(part) for part in wanted.after)))
    return found


def _in_state(state: State, dialect: Dialect, now: datetime) -> sa.ColumnElement[bool]:
    def some(*conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
        return (
            sa.exists()
            .where(
                consent.c.tenant == connection.c.tenant,
                consent.c.connection_id == connection.c.connection_id,
                consent.c.revoke_asked_at.is_(None),
                *conditions,
            )
            .correlate(connection)
        )

    status = dialect.beside(consent.c.status)  # of a connection a few: not by the index of all of one status
    alive = sa.and_(status.not_in(_ENDED), consent.c.expires_at > now)
    authorized = sa.and_(status == Status.Authorized.value, consent.c.expires_at > now)
    match state:
        case State.ACTIVE:
            return some(authorized, consent.c.paused_at.is_(None), consent.c.needs_consent.is_(None))
        case State.PAUSED:
            return some(authorized, consent.c.paused_at.is_not(None))
        case State.SUSPENDED:
            return some(status == Status.Suspended.value, consent.c.expires_at > now)
        case State.PENDING:
            return some(status == Status.AwaitingAuthorization.value)
        case State.NEEDS_CONSENT:
            return some(alive, consent.c.needs_consent.is_not(None))
        case State.ENDED:
            return sa.not_(some(alive))


def _in_trouble(
    trouble: Trouble, dialect: Dialect, now: datetime, leased: sa.ColumnElement[bool]
) -> sa.ColumnElement[bool]:
    parked = work.c.parked_at.is_not(None)
    match trouble:
        case Trouble.PARKED:
            return parked
        case Trouble.STALE:
            late = (
                sa.exists()
                .where(
                    staleness.c.tenant == connection.c.tenant,
                    staleness.c.connection_id == connection.c.connection_id,
                    staleness.c.stale_at < now,
                )
                .correlate(connection)
            )
            return sa.and_(late, _in_state(State.ACTIVE, dialect, now))
        case Trouble.DUE:
            return sa.and_(sa.not_(parked), work.c.due_at <= now, sa.not_(sa.func.coalesce(leased, sa.false())))
        case Trouble.FAILING:
            return sa.and_(sa.not_(parked), TROUBLED)

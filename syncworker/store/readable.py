"""Which connections' data can be read: the one predicate for views, API, feed and exports, and where it is decided.

A connection is *in use* while one of its consents is: agreed to, not at its end, and not revoked here.  Where a consent
has ended and none is in use, its data is restricted: `connection.restricted_at` is set and the feed says `restricted`
once, in the transaction that files the end.  When a consent of it is in use again, the mark goes, and the feed shows
every listing held once more, so that mirrors get the rows back.  That is decided in `Use.settle`, which every method of
`store.consents` calls that files a status, and nowhere else.

Where the setting `ended_consents` is `shown`, nothing is ever restricted.  Housekeeping applies the rule to the
connections that stand otherwise: after the setting was changed, and those that ended before there was a mark.
"""

from collections.abc import Collection
from datetime import datetime
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from syncworker.standard.consents import TERMINAL, Status
from syncworker.standard.values import ConsentId
from syncworker.store.ended import EndedConsents
from syncworker.store.tables import connection, consent

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork


def readable() -> sa.ColumnElement[bool]:
    """Whether the data of a row of `connection` can be read."""
    return connection.c.restricted_at.is_(None)


_NEVER_OR_NO_MORE: Final = sorted({*(one.value for one in TERMINAL), Status.AwaitingAuthorization.value})


def _in_use() -> sa.ColumnElement[bool]:
    """A consent that was agreed to and has not ended; a status the standard does not know counts as such."""
    return sa.and_(consent.c.status.not_in(_NEVER_OR_NO_MORE), consent.c.revoke_asked_at.is_(None))


def _ended() -> sa.ColumnElement[bool]:
    return sa.or_(consent.c.status.in_(sorted(TERMINAL)), consent.c.revoke_asked_at.is_not(None))


def _any(of: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Whether a connection has such a consent."""
    mine = sa.and_(consent.c.tenant == connection.c.tenant, consent.c.connection_id == connection.c.connection_id)
    return sa.exists().where(mine, of).correlate(connection)


class Use:
    """Marks connections of one tenant.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def settle(self, connection_ids: Collection[ConsentId], *, at: datetime) -> list[ConsentId]:
        """Set or clear the marks of connections whose consents moved in this transaction; gives those that changed.

        Two ends of one connection at the same time wait for each other: neither may take the other's consent for one
        in use.

        Args:
            at: when it was filed.
        """
        changed: list[ConsentId] = []
        for one in sorted(set(connection_ids)):
            if self._unit.dialect.is_postgresql:
                await self._unit.connection.execute(
                    sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 8215034))"),
                    {"name": f"{self._unit.tenant}|{one}"},
                )
            to_restrict = await self._to_restrict(one)
            if to_restrict:
                # a consent that is being added holds its connection by the foreign key: wait for it, and look again
                mine = self._mine(one)
                await self._unit.connection.execute(sa.select(connection.c.connection_id).where(mine).with_for_update())
                to_restrict = await self._to_restrict(one)
            if to_restrict is not None and await self._mark(one, restrict=to_restrict, at=at):
                changed.append(one)
        return changed

    async def otherwise(self, *, limit: int) -> list[str]:
        """Connections whose mark is not as the rule says."""
        query = sa.select(connection.c.connection_id).where(
            connection.c.tenant == self._unit.tenant, sa.or_(self._unmarked(), self._wrongly_marked())
        )
        return list(await self._unit.connection.scalars(query.limit(limit)))

    def _unmarked(self) -> sa.ColumnElement[bool]:
        if self._unit.ended_consents is EndedConsents.SHOWN:
            return sa.false()
        return sa.and_(connection.c.restricted_at.is_(None), _any(_ended()), sa.not_(_any(_in_use())))

    def _wrongly_marked(self) -> sa.ColumnElement[bool]:
        marked = connection.c.restricted_at.is_not(None)
        return marked if self._unit.ended_consents is EndedConsents.SHOWN else sa.and_(marked, _any(_in_use()))

    async def _to_restrict(self, connection_id: ConsentId) -> bool | None:
        """Whether the mark must be set; `False`: cleared; `None`: it is as it should be."""
        query = sa.select(self._unmarked(), self._wrongly_marked()).where(self._mine(connection_id))
        row = (await self._unit.connection.execute(query.select_from(connection))).one_or_none()
        if row is None or not (row[0] or row[1]):
            return None
        return bool(row[0])

    async def _mark(self, connection_id: ConsentId, *, restrict: bool, at: datetime) -> bool:
        before = connection.c.restricted_at.is_(None) if restrict else connection.c.restricted_at.is_not(None)
        marked = await self._unit.connection.execute(
            sa.update(connection)
            .where(self._mine(connection_id), before)
            .values(restricted_at=at if restrict else None)
        )
        if not marked.rowcount:
            return False
        await self._unit.changes.say_use(connection_id, restricted=restrict, now=at)
        return True

    def _mine(self, connection_id: ConsentId) -> sa.ColumnElement[bool]:
        return sa.and_(connection.c.tenant == self._unit.tenant, connection.c.connection_id == connection_id)

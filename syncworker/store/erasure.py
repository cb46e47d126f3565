"""What is destroyed when a connection's data must go, and what stays: the records that it was there and is gone.

Payload goes: rows of every resource, what they said before, items that could not be read, identifiers of accounts,
balances over time, cursors (they hold keys and digests) and checks, coverage and the changes that name keys.  One
change stays for each class of data that was destroyed: the feed says `erased`, so that mirrors destroy it as well.  The
LFI's words about refused calls go with the personal data: masked as they are, they may still name a person.  An
account's reference stays, so that readers can be told what is erased, and loses its identity, which tells whose account
it was.  Consents, runs, calls and `audit` stay: they hold ids, codes and counts, and the law wants consent and
destruction records for years.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from syncworker.standard.consents import TERMINAL
from syncworker.standard.values import ConsentId
from syncworker.store.changes import Op, RowChanges
from syncworker.store.tables import (
    RECORD_TABLES,
    account_grant,
    account_identifier,
    account_reference,
    authorization,
    balance_history,
    call,
    change,
    connection_check,
    consent,
    coverage,
    cursor,
    finding,
    party,
    record_history,
    unreadable_item,
)
from syncworker.store.tally import Counted

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork


class DataClass(StrEnum):
    """Classes of data with a retention of their own."""

    PERSONAL = "personal"
    """Who people are: parties, and what they were called before."""
    DATA = "data"
    """Everything else the bank showed."""


_PARTIES: Final = ("parties", "account_parties")
_EVERY: Final = sa.true()


class Erasure:
    """Counts and destroys the payload of one connection.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def count(self, connection_id: ConsentId, *, of: DataClass | None = None) -> Mapping[str, int]:
        """Rows that `erase` would destroy, by table; tables without any are left out."""
        counts: dict[str, int] = {}
        for table, which in self._payload(connection_id, of):
            rows = await self._unit.connection.scalar(sa.select(sa.func.count()).select_from(table).where(which))
            counts[table.name] = int(rows or 0)
        for column, which in self._members(connection_id, of):
            rows = await self._unit.connection.scalar(sa.select(sa.func.count()).select_from(column.table).where(which))
            counts[f"{column.table.name}.{column.name}"] = int(rows or 0)
        return {name: rows for name, rows in counts.items() if rows}

    async def erase(self, connection_id: ConsentId, *, of: DataClass | None = None) -> Mapping[str, int]:
        """Destroy the payload of a connection, of one class or all of it, and say so in the feed once a class.

        Returns:
            Rows destroyed, by table.
        """
        await self._unit.send()  # what waits for the commit is destroyed as well
        counts: dict[str, int] = {}
        if of is DataClass.DATA:  # the cursors of parties stay, and one row of checks is about them too
            await self._unit.cursors.fold_checks(connection_id)
        said: list[RowChanges] = []
        for one in DataClass if of is None else (of,):
            destroyed = 0
            for table, which in self._payload(connection_id, one):
                gone = (await self._unit.connection.execute(sa.delete(table).where(which))).rowcount
                counts[table.name] = counts.get(table.name, 0) + gone
                destroyed += gone
            self._unit.tally.add(Counted.ERASED, by=destroyed)
            if destroyed:
                said.append(RowChanges("", None, Op.ERASED, [""], scope=one.value))
        if said:
            await self._unit.changes.say(connection_id, said, now=await self._unit.now())
        for column, which in self._members(connection_id, of):
            blank = sa.update(column.table).where(which).values({column.name: None})
            counts[f"{column.table.name}.{column.name}"] = (await self._unit.connection.execute(blank)).rowcount
        return {name: rows for name, rows in counts.items() if rows}

    async def overdue(self, *, of: DataClass, ended_before: datetime, limit: int) -> list[str]:
        """Connections whose last consent ended by then and which still have payload of a class."""
        alive = sa.case((consent.c.status.in_(sorted(TERMINAL)), 0), else_=1)
        ended = (
            sa.select(consent.c.connection_id)
            .where(consent.c.tenant == self._unit.tenant)
            .group_by(consent.c.connection_id)
            .having(
                sa.func.max(alive) == 0,
                sa.func.max(sa.func.coalesce(consent.c.ended_at, consent.c.status_seen_at)) <= ended_before,
            )
            .subquery()
        )
        tables, members = self._payload(ended.c.connection_id, of), self._members(ended.c.connection_id, of)
        left = [sa.exists().where(which) for _, which in (*tables, *members)]
        query = sa.select(ended.c.connection_id).where(sa.or_(*left)).limit(limit)
        return list(await self._unit.connection.scalars(query))

    def _members(
        self, connection_id: ConsentId | sa.ColumnElement[str], of: DataClass | None
    ) -> list[tuple[sa.Column[Any], sa.ColumnElement[bool]]]:
        """Columns that are emptied in rows that stay: the LFI's words about a call, an authorisation or a finding, and
        the identity of an account, which goes with the account's row."""
        identities = sa.and_(
            account_reference.c.tenant == self._unit.tenant,
            account_reference.c.connection_id == connection_id,
            account_reference.c.identity.is_not(None),
        )
        data: list[tuple[sa.Column[Any], sa.ColumnElement[bool]]] = [(account_reference.c.identity, identities)]
        if of is DataClass.DATA:
            return data
        consents = sa.select(consent.c.consent_id).where(
            consent.c.tenant == self._unit.tenant, consent.c.connection_id == connection_id
        )
        words: list[tuple[sa.Column[Any], sa.ColumnElement[bool]]] = [
            (
                one.c.reason,
                sa.and_(one.c.tenant == self._unit.tenant, one.c.consent_id.in_(consents), one.c.reason.is_not(None)),
            )
            for one in (call, authorization, finding)
        ]
        return words if of is DataClass.PERSONAL else words + data

    def _payload(
        self, connection_id: ConsentId | sa.ColumnElement[str], of: DataClass | None
    ) -> list[tuple[sa.Table, sa.ColumnElement[bool]]]:
        def mine(table: sa.Table) -> sa.ColumnElement[bool]:
            return sa.and_(table.c.tenant == self._unit.tenant, table.c.connection_id == connection_id)

        shared = (record_history, unreadable_item, cursor, coverage, change)  # rows of every resource side by side
        listed = change.c.resource != ""  # `erased` and `restricted` name no listing, and stay

        def of_resources(table: sa.Table, wanted: sa.ColumnElement[bool] = _EVERY) -> sa.ColumnElement[bool]:
            return sa.and_(mine(table), wanted, *([listed] if table is change else []))

        beside = (account_identifier, balance_history, account_grant, connection_check)
        own = [one for one in dict.fromkeys(RECORD_TABLES.values()) if one is not party]
        personal = [(party, mine(party))]
        personal += [(one, of_resources(one, one.c.resource.in_(_PARTIES))) for one in shared]
        data = [(one, mine(one)) for one in (*own, *beside)]
        data += [(one, of_resources(one, one.c.resource.not_in(_PARTIES))) for one in shared]
        match of:
            case DataClass.PERSONAL:
                return personal
            case DataClass.DATA:
                return data
            case None:
                kept = [(one, of_resources(one)) for one in shared]
                return [(party, mine(party)), *data[: len(own) + len(beside)], *kept]

"""What is destroyed when a connection's data must go, and what stays: the records that it was there and is gone.

Payload goes: rows of every resource, what they said before, items that could not be read, balances over time, cursors
(they hold keys and digests) and checks, coverage and the changes that name keys.  The LFI's words about refused calls
go with the personal data: masked as they are, they may still name a person.  Consents, runs, calls and `audit` stay:
they hold ids, codes and counts, and the law wants consent and destruction records for years.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from syncworker.standard.consents import TERMINAL
from syncworker.standard.values import ConsentId
from syncworker.store.tables import (
    RECORD_TABLES,
    account_grant,
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

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork


class DataClass(StrEnum):
    """Classes of data with a retention of their own."""

    PERSONAL = "personal"
    """Who people are: parties, and what they were called before."""
    DATA = "data"
    """Everything else the bank showed."""


_PARTIES: Final = ("parties", "account_parties")


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
        for table, which in self._reasons(connection_id, of):
            rows = await self._unit.connection.scalar(sa.select(sa.func.count()).select_from(table).where(which))
            counts[f"{table.name}.reason"] = int(rows or 0)
        return {name: rows for name, rows in counts.items() if rows}

    async def erase(self, connection_id: ConsentId, *, of: DataClass | None = None) -> Mapping[str, int]:
        """Destroy the payload of a connection, of one class or all of it.

        Returns:
            Rows destroyed, by table.
        """
        counts: dict[str, int] = {}
        if of is DataClass.DATA:  # the cursors of parties stay, and one row of checks is about them too
            await self._unit.cursors.fold_checks(connection_id)
        for table, which in self._payload(connection_id, of):
            counts[table.name] = (await self._unit.connection.execute(sa.delete(table).where(which))).rowcount
        for table, which in self._reasons(connection_id, of):
            blank = sa.update(table).where(which).values(reason=None)
            counts[f"{table.name}.reason"] = (await self._unit.connection.execute(blank)).rowcount
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
        mine = (*self._payload(ended.c.connection_id, of), *self._reasons(ended.c.connection_id, of))
        left = [sa.exists().where(which) for _, which in mine]
        query = sa.select(ended.c.connection_id).where(sa.or_(*left)).limit(limit)
        return list(await self._unit.connection.scalars(query))

    def _reasons(
        self, connection_id: ConsentId | sa.ColumnElement[str], of: DataClass | None
    ) -> list[tuple[sa.Table, sa.ColumnElement[bool]]]:
        """Rows with the LFI's words about a call, an authorisation or a finding: the words go, the rows stay."""
        if of is DataClass.DATA:
            return []
        consents = sa.select(consent.c.consent_id).where(
            consent.c.tenant == self._unit.tenant, consent.c.connection_id == connection_id
        )
        return [
            (
                one,
                sa.and_(one.c.tenant == self._unit.tenant, one.c.consent_id.in_(consents), one.c.reason.is_not(None)),
            )
            for one in (call, authorization, finding)
        ]

    def _payload(
        self, connection_id: ConsentId | sa.ColumnElement[str], of: DataClass | None
    ) -> list[tuple[sa.Table, sa.ColumnElement[bool]]]:
        def mine(table: sa.Table) -> sa.ColumnElement[bool]:
            return sa.and_(table.c.tenant == self._unit.tenant, table.c.connection_id == connection_id)

        shared = (record_history, unreadable_item, cursor, coverage, change)  # rows of every resource side by side
        own = [one for one in dict.fromkeys(RECORD_TABLES.values()) if one is not party]
        personal = [(party, mine(party))] + [(one, sa.and_(mine(one), one.c.resource.in_(_PARTIES))) for one in shared]
        data = [(one, mine(one)) for one in (*own, balance_history, account_grant, connection_check)]
        data += [(one, sa.and_(mine(one), one.c.resource.not_in(_PARTIES))) for one in shared]
        match of:
            case DataClass.PERSONAL:
                return personal
            case DataClass.DATA:
                return data
            case None:
                return [(party, mine(party)), *data[: len(own) + 3], *((one, mine(one)) for one in shared)]

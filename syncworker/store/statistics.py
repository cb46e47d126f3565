"""What the database knows of its tables, by which it chooses how to read them.

PostgreSQL gathers it by itself, about a minute after a table has changed much.  A migration and an import change more
than that minute allows for, and the processes that work meanwhile keep the plans they made: `ANALYZE` gathers it at
once, and makes every plan anew.  An empty table is left out: PostgreSQL would take it for small from then on.

SQLite needs none of it: it looks up by the index that answers most of the conditions (measured, with `ANALYZE` and
without: the same plans for every statement that takes keys).
"""

from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from syncworker.store.tables import audit, connection, consent, metadata, token, work

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

IMPORTED: Final = (audit, connection, consent, token, work)
"""Tables an import fills."""


class Statistics:
    """Gathers statistics, of all tenants."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def gather(self, *tables: sa.Table) -> None:
        """Read samples of these tables, within this transaction; nothing on SQLite."""
        if self._unit.dialect.is_postgresql:
            names = ", ".join(_quoted(table) for table in tables)
            await self._unit.connection.execute(sa.text(f"ANALYZE {names}"))


def gather_all(own: sa.Connection) -> None:
    """Read samples of every table of ours that holds rows; nothing on SQLite."""
    if own.dialect.name != "postgresql":
        return
    filled = [table for table in metadata.sorted_tables if own.scalar(sa.select(sa.exists().select_from(table)))]
    if filled:
        own.execute(sa.text("ANALYZE " + ", ".join(map(_quoted, filled))))


def _quoted(table: sa.Table) -> str:
    return f'"{table.name}"'

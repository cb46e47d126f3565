"""How many rows the database itself says were written, table by table.

For proofs such as "the second sync wrote nothing": the figure comes from the database and not from our own counting.
PostgreSQL has such counters (`pg_stat_user_tables`, and they lag until a session flushes them); in SQLite triggers
count, which exist only where `install` put them.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from syncworker.store import tables

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import Store, UnitOfWork

RESOURCE_TABLES: Final[Sequence[str]] = (
    *sorted({table.name for table in tables.RECORD_TABLES.values()}),
    tables.account_identifier.name,
    tables.balance_history.name,
)
"""Every table that holds what LFIs told us."""

_FLUSH_S: Final = 10.5
"""PostgreSQL's sessions tell what they wrote at most ten seconds after they fell idle (`PGSTAT_IDLE_INTERVAL`)."""


class RowCounters:
    """Counts rows inserted, updated and deleted by anyone since the database (SQLite: since `install`) began."""

    def __init__(self, store: "Store", names: Sequence[str] = RESOURCE_TABLES) -> None:
        self._store = store
        self._names = tuple(names)

    async def install(self) -> None:
        """Make the database count.  Harmless when it does."""
        if not self._store.dialect.is_postgresql:
            await self._store.atomically(self._add_triggers)

    async def read(self) -> Mapping[str, int]:
        """Rows written so far, by table.  On PostgreSQL it takes ten seconds, until every session has told."""
        if self._store.dialect.is_postgresql:
            await asyncio.sleep(_FLUSH_S)
            written = "n_tup_ins + n_tup_upd + n_tup_del"
            query = sa.text(
                f"SELECT relname, {written} FROM pg_stat_user_tables"  # noqa: S608 - a constant
                " WHERE schemaname = current_schema() AND relname = ANY(:names)"
            )
        else:
            chosen = "SELECT value FROM json_each(:names)"
            query = sa.text(f"SELECT name, written FROM rows_written WHERE name IN ({chosen})")  # noqa: S608 - a constant
        async with self._store.reading() as unit:
            names = list(self._names) if self._store.dialect.is_postgresql else _json(self._names)
            rows = await unit.connection.execute(query, {"names": names})
            return {name: int(written) for name, written in rows}

    async def _add_triggers(self, unit: "UnitOfWork") -> None:
        run = unit.connection.exec_driver_sql
        await run("CREATE TABLE IF NOT EXISTS rows_written (name TEXT PRIMARY KEY, written INTEGER NOT NULL) STRICT")
        for name in self._names:
            await run(f"INSERT OR IGNORE INTO rows_written VALUES ('{name}', 0)")  # noqa: S608 - names of our tables
            for verb in ("INSERT", "UPDATE", "DELETE"):
                await run(
                    f'CREATE TRIGGER IF NOT EXISTS "count_{name}_{verb}" AFTER {verb} ON "{name}" BEGIN '  # noqa: S608
                    f"UPDATE rows_written SET written = written + 1 WHERE name = '{name}'; END"
                )


def _json(names: Sequence[str]) -> str:
    return "[" + ",".join(f'"{name}"' for name in names) + "]"

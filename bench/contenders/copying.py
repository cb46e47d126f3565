"""The leanest way to write rows that may be there already: binary COPY into a temporary table, then one upsert."""

from collections.abc import Sequence
from typing import Any

import psycopg
from sqlalchemy.dialects import postgresql

from syncworker.bench.books import compared_columns
from syncworker.store.tables import RECORD_TABLES

KINDS = {"NUMERIC": "numeric", "TIMESTAMP": "timestamptz", "DATE": "date", "BOOLEAN": "bool"}
HEAD = ("tenant", "connection_id", "account_id", "key")
FRAME = ("raw", "digest", "first_seen_at", "changed_at", "gen")
TABLES = {table.name: table for table in RECORD_TABLES.values()}
DIALECT: Any = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped


def _statements(table: str) -> tuple[str, str, str, list[str]]:
    typed = compared_columns(TABLES[table])
    names = ", ".join(f'"{name}"' for name in (*HEAD, *typed, *FRAME))
    moved = ", ".join(f'"{name}" = excluded."{name}"' for name in (*typed, *FRAME) if name != "first_seen_at")
    types = [TABLES[table].c[name].type.dialect_impl(DIALECT).compile(DIALECT) for name in typed]
    kinds = [KINDS.get(kind.replace("(", " ").split()[0], "text") for kind in types]
    staging = f'"lean_{table}"'
    like = f'SELECT {names} FROM "{table}" WITH NO DATA'
    made = f"CREATE TEMP TABLE IF NOT EXISTS {staging} ON COMMIT DELETE ROWS AS {like}"
    into = f"COPY {staging} ({names}) FROM STDIN (FORMAT BINARY)"
    conflict = f"ON CONFLICT ({', '.join(HEAD)}) DO UPDATE SET {moved}"
    move = f'INSERT INTO "{table}" ({names}) SELECT {names} FROM {staging} {conflict}'
    return made, into, move, ["text"] * 4 + kinds + ["bytea", "bytea", "timestamptz", "timestamptz", "int8"]


STATEMENTS = {table: _statements(table) for table in TABLES}


async def write(connection: psycopg.AsyncConnection[Any], table: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert or overwrite rows of (`HEAD`, typed columns, `FRAME`)."""
    staging, into, move, kinds = STATEMENTS[table]
    cursor = connection.cursor()
    await cursor.execute(staging.encode())
    async with cursor.copy(into.encode()) as copy:
        copy.set_types(kinds)
        for row in sorted(rows, key=lambda row: row[2:4]):
            await copy.write_row(row)
    await cursor.execute(move.encode())

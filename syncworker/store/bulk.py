"""Write many rows at once: COPY on PostgreSQL, `executemany` on SQLite.

Rows are plain tuples in the order of `columns`, as Python values; the column types turn them into the database's
(`Instant`, `Money`, JSON), once per (dialect, table, columns).  Rows arrive sorted by key and each key once: unsorted
upserts deadlock, and a repeated key is an error on PostgreSQL and silently the last one on SQLite (`reliability.md`
rule 26).  That is asserted, not repaired: who sorts late has sorted wrongly.

PostgreSQL, from `COPY_FROM` rows on: a binary COPY into a temporary table that a connection makes once and that
forgets its rows with each commit, then one `INSERT … SELECT … ON CONFLICT`.  The temporary table is read in the order
it was written, so the locks are taken in key order.  Rows that only append (`insert_many` without a key) go by COPY
into the table itself.

Measured, transaction rows of 25 columns with their commit (two cores, best of several; µs a row):

    rows                     1    10    30    50   100   440  5,000
    PostgreSQL, COPY     1,887   207    98    64    49    26     22
    PostgreSQL, many       677   142    88    64    76    41     49
    SQLite, many         1,440   181    88    55    32    27     22
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
import xxhash
from sqlalchemy.engine import Dialect as SQLAlchemyDialect
from sqlalchemy.ext.asyncio import AsyncConnection

from syncworker.store.dialect import Dialect
from syncworker.store.statements import Ready, driver

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

COPY_FROM: Final = 50
"""Rows from which a COPY is cheaper than as many statements in one pipeline."""

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    """The statements for one table and its columns, and how values become the driver's."""

    converters: tuple[tuple[int, Callable[[Any], Any]], ...]
    many: str
    few: str
    append: str
    staging: str
    copy: str
    types: tuple[str, ...]
    move: str
    clear: str

    def converted(self, rows: Sequence[Row]) -> Sequence[Row]:
        """The rows as the driver takes them."""
        return list(zip(*self.by_column(rows), strict=True)) if self.converters else rows

    def by_column(self, rows: Sequence[Row]) -> list[list[Any]]:
        """The same, each column by itself."""
        values = [list(column) for column in zip(*rows, strict=True)]
        for position, convert in self.converters:
            values[position] = list(_each(convert, values[position]))
        return values


def _each(convert: Callable[[Any], Any], values: Iterable[Any]) -> Iterator[Any]:
    """Convert a column.  `None` is NULL (for JSON as well); a value that repeats its neighbour costs nothing."""
    last = converted = None
    for value in values:
        if value is not last:
            last, converted = value, None if value is None else convert(value)
        yield converted


async def upsert_many(
    connection: AsyncConnection,
    dialect: Dialect,
    table: sa.Table,
    columns: Sequence[str],
    rows: Sequence[Row],
    *,
    key: Sequence[str],
    replace: Sequence[str],
    newer_gen_wins: bool = True,
) -> int:
    """Insert rows, or overwrite those with the same key.

    Args:
        columns: names of the row's values; the other columns get their defaults.
        rows: sorted by `key`, each key once.
        key: primary key or a unique constraint of `table`.
        replace: columns that a row overwrites; with none, a row that is there is left alone.
        newer_gen_wins: a row written by a newer claim is left alone: `gen` of the table must not exceed the row's.

    Returns:
        Rows really written: inserted or overwritten.

    Raises:
        AssertionError: unsorted or repeated keys.
        StoreUnavailableError, StoreRefusedError: as everywhere in the store; nothing of the batch is written.
    """
    if not rows:
        return 0
    _assert_sorted(table, columns, rows, key)
    guarded = newer_gen_wins and "gen" in columns
    plan = _plan(connection.dialect, table, tuple(columns), tuple(key), tuple(replace), guarded)
    return await _write(connection, dialect, plan, rows)


async def upsert_later(
    unit: "UnitOfWork",
    table: sa.Table,
    columns: Sequence[str],
    rows: Sequence[Row],
    *,
    key: Sequence[str],
    replace: Sequence[str],
) -> None:
    """`upsert_many`, with the commit where one statement does it: then it costs no trip of its own.

    Nobody hears how many were written, and nobody sees them before (`UnitOfWork.with_commit`).
    """
    connection, dialect = unit.connection, unit.dialect
    if rows and len(rows) < COPY_FROM and dialect.is_postgresql:
        plan = _plan(connection.dialect, table, tuple(columns), tuple(key), tuple(replace), "gen" in columns)
        if plan.few:
            _assert_sorted(table, columns, rows, key)
            unit.with_commit([Ready(plan.few.encode(), plan.by_column(rows))])
            return
    await upsert_many(connection, dialect, table, columns, rows, key=key, replace=replace)


async def insert_many(
    connection: AsyncConnection,
    dialect: Dialect,
    table: sa.Table,
    columns: Sequence[str],
    rows: Sequence[Row],
    *,
    key: Sequence[str] = (),
) -> int:
    """Append rows.

    Args:
        key: primary key or a unique constraint: a row whose key is there already is left out.  Without it, such a row
            is an error.

    Returns:
        Rows really written.

    Raises:
        as `upsert_many`.
    """
    if not rows:
        return 0
    plan = _plan(connection.dialect, table, tuple(columns), tuple(key), (), False)
    return await _write(connection, dialect, plan, rows)


def _assert_sorted(table: sa.Table, columns: Sequence[str], rows: Sequence[Row], key: Sequence[str]) -> None:
    key_of = itemgetter(*(columns.index(name) for name in key))
    assert all(key_of(one) < key_of(next_one) for one, next_one in pairwise(rows)), (
        f"{table.name}: rows not sorted by key"
    )


async def _write(connection: AsyncConnection, dialect: Dialect, plan: _Plan, rows: Sequence[Row]) -> int:
    if not dialect.is_postgresql:
        return (await connection.exec_driver_sql(plan.many, plan.converted(rows))).rowcount
    async with driver(connection) as own, own.cursor() as cursor:
        if len(rows) < COPY_FROM and plan.few:
            await cursor.execute(plan.few.encode(), plan.by_column(rows))
            return cursor.rowcount
        converted = plan.converted(rows)
        if len(rows) < COPY_FROM:
            await cursor.executemany(plan.many.encode(), converted)
            return cursor.rowcount
        if plan.append:
            return await _copy(connection, plan.append, plan.types, converted)
        await cursor.execute(plan.staging.encode())
        await _copy(connection, plan.copy, plan.types, converted)
        await cursor.execute(plan.move.encode())
        written = cursor.rowcount
        await cursor.execute(plan.clear.encode())
        return written


async def _copy(connection: AsyncConnection, into: str, types: Sequence[str], rows: Sequence[Row]) -> int:
    async with driver(connection) as own, own.cursor() as cursor:
        async with cursor.copy(into.encode()) as copy:
            copy.set_types(types)
            for row in rows:
                await copy.write_row(row)
        return cursor.rowcount


@lru_cache(maxsize=256)
def _plan(
    driver: SQLAlchemyDialect,
    table: sa.Table,
    columns: tuple[str, ...],
    key: tuple[str, ...],
    replace: tuple[str, ...],
    guarded: bool,
) -> _Plan:
    quote = driver.identifier_preparer.quote
    name = quote(table.name)
    names = ", ".join(quote(column) for column in columns)
    staging = quote(f"bulk_{table.name[:30]}_{xxhash.xxh32_hexdigest(names.encode())}")
    mark = "?" if driver.name == "sqlite" else "%s"
    conflict = _conflict(quote, name, key, replace, guarded=guarded)
    types = [table.c[column].type.dialect_impl(driver) for column in columns]
    converters = [(position, kind.bind_processor(driver)) for position, kind in enumerate(types)]
    kinds = tuple(kind.compile(driver).partition("(")[0].strip().lower() for kind in types)
    arrays = ", ".join(f"%s::{kind}[]" for kind in kinds)
    like = f"SELECT {names} FROM {name} WITH NO DATA"  # noqa: S608 - here and below: names of our own tables, quoted
    return _Plan(
        converters=tuple((position, convert) for position, convert in converters if convert is not None),
        many=f"INSERT INTO {name} ({names}) VALUES ({', '.join([mark] * len(columns))}){conflict}",  # noqa: S608
        few="" if "jsonb" in kinds else f"INSERT INTO {name} ({names}) SELECT * FROM unnest({arrays}){conflict}",  # noqa: S608
        append="" if key else f"COPY {name} ({names}) FROM STDIN (FORMAT BINARY)",
        staging=f"CREATE TEMPORARY TABLE IF NOT EXISTS {staging} ON COMMIT DELETE ROWS AS {like}",
        copy=f"COPY {staging} ({names}) FROM STDIN (FORMAT BINARY)",
        types=kinds,
        move=f"INSERT INTO {name} ({names}) SELECT {names} FROM {staging}{conflict}",  # noqa: S608
        clear=f"DELETE FROM {staging}",  # noqa: S608
    )


def _conflict(
    quote: Callable[[str], str], table: str, key: Sequence[str], replace: Sequence[str], *, guarded: bool
) -> str:
    if not key:
        return ""
    target = f" ON CONFLICT ({', '.join(quote(name) for name in key)})"
    if not replace:
        return f"{target} DO NOTHING"
    moved = ", ".join(f"{quote(name)} = excluded.{quote(name)}" for name in replace)
    return f"{target} DO UPDATE SET {moved}" + (f" WHERE {table}.gen <= excluded.gen" if guarded else "")

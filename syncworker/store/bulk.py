"""Write many rows at once: COPY or one JSON parameter on PostgreSQL, `executemany` on SQLite.

Rows are plain tuples in the order of `columns`, as Python values; the column types turn them into the database's
(`Instant`, `Money`, JSON), once per (dialect, table, columns).  Rows arrive sorted by key and each key once: unsorted
upserts deadlock, and a repeated key is an error on PostgreSQL and silently the last one on SQLite (`reliability.md`
rule 26).  That is asserted, not repaired: who sorts late has sorted wrongly.

PostgreSQL, up to `COPY_FROM` rows: one `INSERT … SELECT` from one JSON parameter, which may go with the commit.  An
array for each column, as `unnest` takes them, costs more: the driver writes arrays in Python, value by value.

From `COPY_FROM` rows on: a binary COPY into a temporary table that a connection makes once and that forgets its rows
with each commit (where a pooler shares sessions, each transaction makes its own), then one `INSERT … SELECT … ON
CONFLICT`.  The temporary table is read in the order it was written, so the locks are taken in key order.  Rows that
only append (`insert_many` without a key) go by COPY into the table itself, unless row level security holds for the
session's role: PostgreSQL refuses COPY there, even under a policy that shows everything.

Measured, transaction rows of 27 columns with their commit (two busy cores, best of 14; µs a row by the clock, and of
this process's processor time):

    rows                            1          10         30         50        100        200       440
    PostgreSQL, JSON      2,128/1,434    454/182    224/ 68    164/ 43    122/ 28    109/ 20    89/ 12
    PostgreSQL, COPY      2,774/1,904    407/257    308/117    236/ 66    132/ 36    100/ 23    67/ 15
    the same, appended    1,787/1,453    277/206    155/ 80    125/ 44     49/ 29     68/ 22    48/ 13
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
import xxhash
from sqlalchemy.engine import Dialect as SQLAlchemyDialect
from sqlalchemy.ext.asyncio import AsyncConnection

from syncworker.store.dialect import Dialect, Instant, Money, json_text
from syncworker.store.statements import Ready, driver

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

COPY_FROM: Final = 50
"""Rows from which a COPY is used: appended it is cheaper for the database, upserted it costs little more."""

STAGED_FROM: Final = 150
"""Rows from which rows that are only appended go through the temporary table, where COPY into the table is refused."""

Row = tuple[Any, ...]


Column = Sequence[Any]


@dataclass(frozen=True, slots=True)
class _Plan:
    """The statements for one table and its columns, and how values become the driver's.

    Attributes:
        table: its name, quoted.
        converters: by position, for the columns whose values the driver does not take as they are.
        nested: positions of JSON columns, which `few` takes as they are.
        many: for one row (SQLite).
        few: for a handful, as one parameter of JSON (PostgreSQL).
    """

    table: str
    converters: Mapping[int, Callable[[Column], Column]]
    nested: frozenset[int]
    names: tuple[str, ...]
    many: str
    few: str
    append: str
    staging: str
    copy: str
    types: tuple[str, ...]
    move: str
    clear: str

    def converted(self, rows: Sequence[Row], *, but: Collection[int] = ()) -> list[Row]:
        """The rows as the driver takes them, each column at once.

        Args:
            but: positions of columns left as they are.
        """
        values: list[Column] = list(zip(*rows, strict=True))
        for position, convert in self.converters.items():
            if position not in but:
                values[position] = convert(values[position])
        return list(zip(*values, strict=True))

    def together(self, rows: Sequence[Row]) -> Ready:
        """All rows in one statement, which looks the same however many they are; what is absent is NULL."""
        named = [
            {name: value for name, value in zip(self.names, row, strict=True) if value is not None}
            for row in self.converted(rows, but=self.nested)
        ]
        return Ready(self.few.encode(), [json_text(named)])


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
    unless_newer_in: sa.Table | None = None,
) -> int:
    """Insert rows, or overwrite those with the same key.

    Args:
        columns: names of the row's values; the other columns get their defaults.
        rows: sorted by `key`, each key once.
        key: primary key or a unique constraint of `table`.
        replace: columns that a row overwrites; with none, a row that is there is left alone.
        newer_gen_wins: a row written by a newer claim is left alone: `gen` of the table must not exceed the row's.
        unless_newer_in: a table of one row a connection, whose `gen` must not exceed the row's either.

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
    plan = _plan(connection.dialect, table, tuple(columns), tuple(key), tuple(replace), guarded, unless_newer_in)
    return await _write(connection, dialect, plan, rows)


async def upsert_later(
    unit: "UnitOfWork",
    table: sa.Table,
    columns: Sequence[str],
    rows: Sequence[Row],
    *,
    key: Sequence[str],
    replace: Sequence[str],
    unless_newer_in: sa.Table | None = None,
) -> None:
    """`upsert_many`, with the commit where one statement does it: then it costs no trip of its own.

    Nobody hears how many were written, and nobody sees them before (`UnitOfWork.with_commit`).
    """
    connection, dialect = unit.connection, unit.dialect
    if rows and len(rows) < COPY_FROM and dialect.is_postgresql:
        guarded = "gen" in columns
        plan = _plan(connection.dialect, table, tuple(columns), tuple(key), tuple(replace), guarded, unless_newer_in)
        _assert_sorted(table, columns, rows, key)
        unit.with_commit([plan.together(rows)])
        return
    await upsert_many(
        connection, dialect, table, columns, rows, key=key, replace=replace, unless_newer_in=unless_newer_in
    )


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
        refused = plan.append and len(rows) >= COPY_FROM and not await _takes_copy(connection, plan.table)
        if len(rows) < (STAGED_FROM if refused else COPY_FROM):
            together = plan.together(rows)
            await cursor.execute(together.text, together.values)
            return cursor.rowcount
        converted = plan.converted(rows)
        if plan.append and not refused:
            return await _copy(connection, plan.append, plan.types, converted)
        kept = "DROP" if dialect.shares_sessions else "DELETE ROWS"
        await cursor.execute(plan.staging.format(kept=kept).encode())
        await _copy(connection, plan.copy, plan.types, converted)
        await cursor.execute(plan.move.encode())
        written = cursor.rowcount
        await cursor.execute(plan.clear.encode())
        return written


async def _takes_copy(connection: AsyncConnection, table: str) -> bool:
    """Whether COPY may write into a table: asked once in a session, since its role stays the same."""
    held = connection.sync_connection
    assert held is not None
    asked = f"row security of {table}"
    if asked not in held.info:
        active = await connection.scalar(sa.text("SELECT row_security_active(:name)"), {"name": table})
        held.info[asked] = active
    return not held.info[asked]


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
    unless_newer_in: sa.Table | None = None,
) -> _Plan:
    quote = driver.identifier_preparer.quote
    name = quote(table.name)
    names = ", ".join(quote(column) for column in columns)
    staging = quote(f"bulk_{table.name[:30]}_{xxhash.xxh32_hexdigest(names.encode())}")
    mark = "?" if driver.name == "sqlite" else "%s"
    guards = [f"{name}.gen <= excluded.gen"] if guarded else []
    if unless_newer_in is not None:
        other = quote(unless_newer_in.name)
        place = " AND ".join(f"{other}.{one} = excluded.{one}" for one in ("tenant", "connection_id"))
        newer = f"SELECT 1 FROM {other} WHERE {place} AND {other}.gen > excluded.gen"  # noqa: S608 - as below
        guards.append(f"NOT EXISTS ({newer})")
    conflict = _conflict(quote, key, replace, guards)
    types = [table.c[column].type for column in columns]
    kinds = tuple(kind.dialect_impl(driver).compile(driver).partition("(")[0].strip().lower() for kind in types)
    converters = {position: _converter(kind, driver) for position, kind in enumerate(types)}
    short = tuple(f"c{position}" for position in range(len(columns)))  # said once a row
    given = ", ".join(f"{one} {'text' if kind == 'bytea' else kind}" for one, kind in zip(short, kinds, strict=True))
    taken = ", ".join(
        f"decode({one}, 'base64')" if kind == "bytea" else one for one, kind in zip(short, kinds, strict=True)
    )
    like = f"SELECT {names} FROM {name} WITH NO DATA"  # noqa: S608 - here and below: names of our own tables, quoted
    return _Plan(
        table=name,
        converters={position: convert for position, convert in converters.items() if convert is not None},
        nested=frozenset(position for position, kind in enumerate(types) if isinstance(kind, sa.JSON)),
        names=short,
        many=f"INSERT INTO {name} ({names}) VALUES ({', '.join([mark] * len(columns))}){conflict}",  # noqa: S608
        few=f"INSERT INTO {name} ({names}) SELECT {taken} FROM json_to_recordset(%s::json) AS r({given}){conflict}",  # noqa: S608
        append="" if key else f"COPY {name} ({names}) FROM STDIN (FORMAT BINARY)",
        staging=f"CREATE TEMPORARY TABLE IF NOT EXISTS {staging} ON COMMIT {{kept}} AS {like}",
        copy=f"COPY {staging} ({names}) FROM STDIN (FORMAT BINARY)",
        types=kinds,
        move=f"INSERT INTO {name} ({names}) SELECT {names} FROM {staging}{conflict}",  # noqa: S608
        clear=f"DELETE FROM {staging}",  # noqa: S608
    )


def _converter(kind: sa.types.TypeEngine[Any], driver: SQLAlchemyDialect) -> Callable[[Column], Column] | None:
    """What makes a column of values the driver's; `None`: it takes them as they are, as PostgreSQL's takes bytes."""
    if isinstance(kind, Instant | Money):
        return partial(kind.bind_column, dialect=driver)
    convert = kind.dialect_impl(driver).bind_processor(driver)
    if convert is None or (isinstance(kind, sa.LargeBinary) and driver.name == "postgresql"):
        return None
    return lambda values: [None if value is None else convert(value) for value in values]


def _conflict(quote: Callable[[str], str], key: Sequence[str], replace: Sequence[str], guards: Sequence[str]) -> str:
    if not key:
        return ""
    target = f" ON CONFLICT ({', '.join(quote(name) for name in key)})"
    if not replace:
        return f"{target} DO NOTHING"
    moved = ", ".join(f"{quote(name)} = excluded.{quote(name)}" for name in replace)
    return f"{target} DO UPDATE SET {moved}" + (f" WHERE {' AND '.join(guards)}" if guards else "")

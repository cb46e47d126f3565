"""Statements every sync runs, compiled once and handed to the driver without a detour.

SQLAlchemy builds, caches and wraps each statement anew: measured, three quarters of what a small one costs in this
process.  The few that run for every consent are built once with named parameters.  On PostgreSQL they go to the very
connection and transaction SQLAlchemy holds; everywhere else, and while a test moves the clock, they take its ordinary
way.  Values pass through the same column types on both ways.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Dialect as SQLAlchemyDialect
from sqlalchemy.ext.asyncio import AsyncConnection

from syncworker.store.dialect import Dialect
from syncworker.store.failures import translated_driver_error

if TYPE_CHECKING:
    import psycopg

    from syncworker.store.unit_of_work import UnitOfWork

Convert = Callable[[Any], Any]
Told = tuple["Statement", Mapping[str, Any]]
"""A statement and all its parameters."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a statement gave.

    Attributes:
        rows: plain tuples of Python values.
        rowcount: rows written, for a statement that writes.
    """

    rows: list[tuple[Any, ...]]
    rowcount: int


@dataclass(frozen=True, slots=True)
class Ready:
    """A statement in the driver's own words (PostgreSQL), with its parameters in their places."""

    text: bytes
    values: Sequence[Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Compiled:
    text: bytes
    constants: Mapping[str, Any]
    binds: Mapping[str, Convert]
    results: tuple[tuple[int, Convert], ...]
    returns_rows: bool

    def given(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters as the driver takes them."""
        given = {**self.constants, **values}
        for name, convert in self.binds.items():
            given[name] = convert(given[name])
        return given

    def read(self, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Rows as our types read them."""
        return [_converted(row, self.results) for row in rows] if self.results else rows


class Statement:
    """One statement with named parameters (`sa.bindparam`)."""

    __slots__ = ("__weakref__", "build")

    def __init__(self, build: Callable[[Dialect], Any]) -> None:
        """Builds nothing yet.

        Args:
            build: makes the statement for a dialect; asked again where database time is a test's.
        """
        self.build = build

    async def run(self, unit: "UnitOfWork", **values: Any) -> Answer:
        """Execute it with all its parameters.

        Raises:
            StoreUnavailableError, StoreRefusedError: as everywhere in the store.
        """
        (answer,) = await run_all(unit, [(self, values)])
        return answer


async def run_all(unit: "UnitOfWork", those: Sequence[Told | Ready], *, commit: bool = False) -> list[Answer]:
    """Execute statements one after the other; on PostgreSQL they travel together and their answers come back together.

    Args:
        commit: end the transaction with them, in the same trip.  When one of them fails, none holds: PostgreSQL passes
            over what follows a failure in a pipeline.

    Raises:
        StoreUnavailableError, StoreRefusedError: as everywhere in the store; nothing of the transaction holds then.
    """
    if not unit.dialect.is_postgresql or unit.dialect.clock is not None:
        ordinary = [await _ordinary(unit, one) for one in those]
        if commit:
            await unit.connection.commit()
        return ordinary
    told = [_told(unit, one) for one in those]
    answers: list[Answer] = []
    async with driver(unit.connection) as connection, AsyncExitStack() as stack:
        if len(those) > 1 or commit:
            await stack.enter_async_context(connection.pipeline())
        cursors = [await connection.execute(text, values) for text, values, _ in told]
        if commit:
            await connection.commit()
        for (_, _, reader), cursor in zip(told, cursors, strict=True):
            rows: list[tuple[Any, ...]] = await cursor.fetchall() if reader is not None else []
            answers.append(Answer(reader.read(rows) if reader is not None else [], cursor.rowcount))
    if commit:
        await unit.connection.commit()  # SQLAlchemy's bookkeeping: the driver knows that nothing is left to send
    return answers


def _told(unit: "UnitOfWork", one: Told | Ready) -> tuple[bytes, Any, _Compiled | None]:
    """A statement as the driver takes it, and who reads its rows, if it gives any."""
    if isinstance(one, Ready):
        return one.text, one.values, None
    compiled = _compiled(one[0], unit.dialect, unit.connection.dialect)
    return compiled.text, compiled.given(one[1]), compiled if compiled.returns_rows else None


async def _ordinary(unit: "UnitOfWork", one: Told | Ready) -> Answer:
    if isinstance(one, Ready):
        async with driver(unit.connection) as own:
            return Answer([], (await own.execute(one.text, one.values)).rowcount)
    statement, values = one
    result = await unit.connection.execute(statement.build(unit.dialect), values)
    return Answer([tuple(row) for row in result] if result.returns_rows else [], result.rowcount)


@asynccontextmanager
async def driver(connection: AsyncConnection) -> AsyncIterator["psycopg.AsyncConnection[Any]"]:
    """The driver's own connection, inside the transaction that SQLAlchemy holds; its errors end here.

    Raises:
        StoreUnavailableError, StoreRefusedError: as everywhere in the store.
    """
    import psycopg  # an extra: only who has a PostgreSQL comes here

    if not connection.in_transaction():
        await connection.begin()  # SQLAlchemy's bookkeeping: it sends nothing, and commits what we write
    held = connection.sync_connection
    assert held is not None
    own = held.connection.driver_connection
    assert isinstance(own, psycopg.AsyncConnection)
    try:
        yield own
    except psycopg.Error as error:
        if own.closed:
            await connection.invalidate()
        raise translated_driver_error(error) from None  # its text repeats values (rule 37)


@lru_cache(maxsize=256)
def _compiled(statement: Statement, dialect: Dialect, driver_dialect: SQLAlchemyDialect) -> _Compiled:
    built = statement.build(dialect)
    compiled = built.compile(dialect=driver_dialect)
    binds = {
        name: convert
        for name, bind in compiled.binds.items()
        if (convert := bind.type.dialect_impl(driver_dialect).bind_processor(driver_dialect)) is not None
    }
    columns = getattr(built, "exported_columns", ())  # of a SELECT, or of what RETURNING names
    results = [column.type.dialect_impl(driver_dialect).result_processor(driver_dialect, None) for column in columns]
    return _Compiled(
        text=str(compiled).encode(),
        constants={name: bind.value for name, bind in compiled.binds.items() if not bind.required},
        binds=binds,
        results=tuple((place, convert) for place, convert in enumerate(results) if convert is not None),
        returns_rows=bool(results),
    )


def _converted(row: tuple[Any, ...], results: tuple[tuple[int, Convert], ...]) -> tuple[Any, ...]:
    values = list(row)
    for place, convert in results:
        values[place] = convert(values[place])
    return tuple(values)


def named(column: sa.Column[Any], name: str | None = None) -> sa.BindParameter[Any]:
    """A parameter of a column's type, required at each run."""
    return sa.bindparam(name or column.name, type_=column.type, required=True)


NOW: Final = Statement(lambda dialect: sa.select(dialect.now()))
"""Database time."""

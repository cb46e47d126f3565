"""One snapshot of the database, read in large pieces: what exports are made from.

In: names of views and columns, connections, a place in the feed.  Out: PostgreSQL's CSV as bytes, or rows of SQLite.
All reads of one `Snapshot` see the same committed state, however long they take.

PostgreSQL has two sessions in it: one for small queries through a `UnitOfWork`, and one whose answers come as `COPY …
TO STDOUT`, which costs no Python object per value.  The second takes over the first one's snapshot.  Both are sessions
of their own, outside the pools and with limits of their own, so that a long export neither takes a session from a sync
nor is ended by the limits of small statements.  They only read: they have no transaction number, and hold back neither
the feed's line nor any writer.

On SQLite it is one transaction of a connection of its own; in WAL mode writers do not wait for it.
"""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from syncworker.errors import StoppingError
from syncworker.standard.json_text import json_bytes
from syncworker.store.address import Address
from syncworker.store.dialect import Dialect
from syncworker.store.failures import translated_driver_error

if TYPE_CHECKING:
    import psycopg

    from syncworker.store.unit_of_work import UnitOfWork

T = TypeVar("T")

STATEMENT_TIMEOUT_MS: Final = 3_600_000
"""For one piece of a table."""

IDLE_TIMEOUT_MS: Final = 900_000
"""Between two statements: a target may be slow to take what was read."""

WORK_MEM: Final = "32MB"
"""For the sort of a piece: of some ten thousand rows it stays in memory."""

SETTINGS: Final[Mapping[str, str]] = {
    "statement_timeout": str(STATEMENT_TIMEOUT_MS),
    "idle_in_transaction_session_timeout": str(IDLE_TIMEOUT_MS),
    "work_mem": WORK_MEM,
    "jit": "off",
    "datestyle": "ISO",
}
"""Of the sessions of exports, beside those that every session has (`engines.SETTINGS`)."""

ROWS_AT_ONCE: Final = 8_192
"""Rows taken from SQLite at once."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One query that gives rows of an export.

    Attributes:
        sql: with `{name}` where a parameter stands.
        values: the parameters; lists are passed as arrays (`Dialect` in mind: see `array`).
    """

    sql: str
    values: Mapping[str, Any]


def array(dialect: Dialect, name: str) -> str:
    """A list of texts, given as a parameter, as the right side of `IN`."""
    if dialect.is_postgresql:
        return f"(SELECT unnest({{{name}}}::text[]))"
    return f"(SELECT value FROM json_each({{{name}}}))"  # noqa: S608


class Snapshot:
    """A state of the database, held open.

    Attributes:
        unit: for small queries, in the same snapshot.
    """

    def __init__(self, unit: "UnitOfWork", copying: "psycopg.Connection[Any] | None") -> None:
        self.unit = unit
        self._copying = copying
        self._stop = threading.Event()

    @property
    def is_postgresql(self) -> bool:
        return self._copying is not None

    async def copied(self, piece: Piece, take: Callable[[Iterator[bytes]], T]) -> T:
        """PostgreSQL: let `take` read a query's answer as CSV, in a thread of its own, and give what it gives.

        NULL is an empty cell without quotes, everything else stands in quotes.  Each block is one line.

        Raises:
            StoreUnavailableError, StoreRefusedError: as everywhere in the store.
        """
        session = self._copying
        assert session is not None, "copied: of PostgreSQL alone"

        def run() -> T:
            with _translating(), session.cursor() as cursor:
                text = f"COPY ({_written(piece.sql, '%({})s')}) TO STDOUT (FORMAT csv, FORCE_QUOTE *)"
                with cursor.copy(text.encode(), dict(piece.values)) as copy:
                    return take(self._lines(copy))

        return await self.apart(run)

    async def rows(self, piece: Piece) -> AsyncIterator[Sequence[tuple[Any, ...]]]:
        """SQLite: rows of a query as the file holds them, `ROWS_AT_ONCE` at a time."""
        assert self._copying is None, "rows: of SQLite alone"
        raw = await self.unit.connection.get_raw_connection()
        driver: Any = raw.driver_connection
        given = {name: _of_sqlite(value) for name, value in piece.values.items()}
        try:
            async with driver.execute(_written(piece.sql, ":{}"), given) as cursor:
                while rows := await cursor.fetchmany(ROWS_AT_ONCE):
                    yield rows
        except sqlite3.Error as error:
            raise translated_driver_error(error) from None

    async def fetched(self, piece: Piece) -> list[tuple[Any, ...]]:
        """All rows of a small query, as the driver gives them."""
        if self._copying is None:
            return [row async for rows in self.rows(piece) for row in rows]
        session = self._copying

        def run() -> list[tuple[Any, ...]]:
            with _translating():
                return session.execute(_written(piece.sql, "%({})s").encode(), dict(piece.values)).fetchall()

        return await self.apart(run)

    async def apart(self, work: Callable[[], T]) -> T:
        """Run blocking work in a thread.  Given up, it is told to stop and waited for: nothing goes on behind it."""
        running = asyncio.get_running_loop().run_in_executor(None, work)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            self._stop.set()
            if self._copying is not None:
                with suppress(Exception):
                    self._copying.cancel_safe(timeout=5)
            with suppress(Exception):
                await running
            raise

    def _lines(self, copy: "psycopg.Copy") -> Iterator[bytes]:
        while block := copy.read():
            if self._stop.is_set():
                raise StoppingError("export: this process is stopping")
            yield bytes(block)


def _of_sqlite(value: Any) -> Any:
    return json_bytes(value).decode() if isinstance(value, list) else value


def _written(sql: str, form: str) -> str:
    """A query with its parameters as a driver names them."""
    parts = sql.split("{")
    return parts[0] + "".join(form.format(name) + rest for name, _, rest in (part.partition("}") for part in parts[1:]))


@contextmanager
def _translating() -> Iterator[None]:
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        raise translated_driver_error(error) from None  # its text repeats values


@asynccontextmanager
async def beside(
    address: Address, settings: Mapping[str, str], snapshot_id: str
) -> "AsyncIterator[psycopg.Connection[Any]]":
    """A session for `COPY` in a snapshot that another session holds."""
    import psycopg

    def opened() -> "psycopg.Connection[Any]":
        with _translating():
            connection = psycopg.connect(**address.arguments())
            try:
                connection.execute(b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                connection.execute(f"SET TRANSACTION SNAPSHOT '{snapshot_id}'".encode())
                statement, values = address.setting(settings, local=True)
                connection.execute(statement.encode(), values)
            except BaseException:
                connection.close()
                raise
            return connection

    session = await asyncio.to_thread(opened)
    try:
        yield session
    finally:
        await asyncio.to_thread(session.close)

"""Engines of a database: how sessions are opened, checked when they leave the pool, and given up.

On PostgreSQL one engine serves reads and writes.  On SQLite the writing engine opens `BEGIN IMMEDIATE` on a single
connection (a deferred transaction that turns into a writer fails as "database is locked"), and a second, read-only
engine serves reads beside it.

A session is given up when an error says that it is no good (`failures.Session`), when its socket was closed while it
stood in the pool, and when SQLite's file is no longer the one that was opened.
"""

import asyncio
import contextlib
import logging
import select
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from syncworker import private
from syncworker.clock import monotonic
from syncworker.errors import SetupError
from syncworker.store import exporting
from syncworker.store.address import Address
from syncworker.store.failures import Session
from syncworker.store.roles import TENANT_SETTING

if TYPE_CHECKING:
    import psycopg

STATEMENT_TIMEOUT_MS: Final = 30_000
LOCK_TIMEOUT_MS: Final = 10_000
IDLE_IN_TRANSACTION_TIMEOUT_MS: Final = 60_000
SQLITE_BUSY_TIMEOUT_MS: Final = 30_000
SETTINGS: Final[Mapping[str, str]] = {
    "statement_timeout": str(STATEMENT_TIMEOUT_MS),
    "lock_timeout": str(LOCK_TIMEOUT_MS),
    "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_TIMEOUT_MS),
    "timezone": "UTC",
    "random_page_cost": "1",
}
"""Of each session, or with a pooler in transaction mode of each transaction.

`random_page_cost`: what PostgreSQL thinks a look-up by an index costs beside a page read in order.  Its own 4 is for
disks that turn.  By it a table of a hundred rows is read whole for one key, and a prepared statement keeps to that
while the table grows, until its statistics are gathered.
"""

ALL_LOST_EVERY_S: Final = 1.0
"""All sessions are given up at most so often: while a server takes no writes, reads need no new session each time."""

NO_DRIVER: Final = "database_url: PostgreSQL needs psycopg; install syncworker[postgres]"


class Engines:
    """The engines of one database on one event loop.

    Attributes:
        write: for transactions that may write.
        read: for transactions that only read.
        look: for single statements, without a transaction around them where that is possible.
    """

    def __init__(self, address: Address, connections: int, *, tenant: str) -> None:
        """Opens nothing yet.

        Args:
            connections: most connections to PostgreSQL at once; SQLite has one writer and a few readers.
            tenant: for whom each session reads, where row level security holds for its role (`store.roles`).

        Raises:
            SetupError: PostgreSQL's driver is not installed.
        """
        self._address = address
        self._settings = {**SETTINGS, TENANT_SETTING: tenant}
        self._lost = 0
        self._lost_at = float("-inf")
        if address.file is None:
            self.write = self.read = self._postgresql(address, connections)
            shares = address.shares_sessions  # then a transaction is what carries the settings
            self.look = self.read if shares else self.read.execution_options(isolation_level="AUTOCOMMIT")
        else:
            logging.getLogger("aiosqlite").setLevel(logging.WARNING)  # at DEBUG it prints every row
            self.write = self._sqlite(address.file, size=1, begin="BEGIN IMMEDIATE")
            self.read = self.look = self._sqlite(address.file, size=4, begin="BEGIN")

    async def give_up(self, connection: AsyncConnection, session: Session) -> None:
        """Close a session that is no good, and mark those opened before it, as an error says of them."""
        if session is Session.GOOD:
            return
        if session is Session.ALL_LOST and monotonic() - self._lost_at >= ALL_LOST_EVERY_S:
            self._lost, self._lost_at = self._lost + 1, monotonic()
        if not connection.closed and not connection.invalidated:
            await connection.invalidate()

    @asynccontextmanager
    async def exporting(self) -> "AsyncIterator[tuple[AsyncConnection, psycopg.Connection[Any] | None]]":
        """Sessions of their own for one snapshot: for small queries, and on PostgreSQL one more for `COPY`."""
        settings = {**self._settings, **exporting.SETTINGS}
        if self._address.file is not None:
            engine = self._sqlite(self._address.file, size=1, begin="BEGIN")
        else:
            engine = self._postgresql(self._address, 1, settings).execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
        try:
            async with engine.connect() as connection:
                if self._address.file is not None:
                    await connection.exec_driver_sql("SELECT count(*) FROM sqlite_master")  # the state is chosen here
                    yield connection, None
                    return
                snapshot_id = await connection.scalar(sa.text("SELECT pg_export_snapshot()"))
                async with exporting.beside(self._address, settings, str(snapshot_id)) as copying:
                    yield connection, copying
        finally:
            await engine.dispose()

    async def close(self) -> None:
        """Give every connection back."""
        await self.write.dispose()
        if self.read is not self.write:
            await self.read.dispose()

    def _postgresql(self, address: Address, connections: int, settings: Mapping[str, str] | None = None) -> AsyncEngine:
        settings = self._settings if settings is None else settings
        try:
            engine = create_async_engine(
                "postgresql+psycopg://",
                async_creator=lambda: _opened(address, settings),
                hide_parameters=True,
                pool_size=connections,
                max_overflow=0,
                pool_timeout=30,
            )
        except ModuleNotFoundError as error:
            raise SetupError(NO_DRIVER) from error
        self._refuse_lost(engine)

        @sa.event.listens_for(engine.sync_engine, "checkout")
        def on_checkout(connection: Any, _record: Any, _proxy: Any) -> None:
            """An idle connection has nothing to say: when its socket can be read, it was ended.

            That costs a system call, where SQLAlchemy's ping costs two trips to the server, as much as a small
            transaction.  Neither sees a network gone silent before its timeouts (`address.SILENCE`).
            """
            own = connection.driver_connection
            if own.closed:
                raise DisconnectionError("an idle connection is closed")
            idle = select.poll()
            idle.register(own.fileno(), select.POLLIN)
            if idle.poll(0):
                raise DisconnectionError("the server ended an idle connection")

        if address.shares_sessions:
            set_in_transactions(engine.sync_engine, address, settings)
        return engine

    def _sqlite(self, file: Path, *, size: int, begin: str) -> AsyncEngine:
        """Opens a file that is there: in place of one that was moved away, SQLite would make an empty one."""
        engine = create_async_engine(
            URL.create("sqlite+aiosqlite", database=file.absolute().as_uri(), query={"mode": "rw", "uri": "true"}),
            pool_size=size,
            max_overflow=0,
            pool_timeout=60,
            hide_parameters=True,
            connect_args={"isolation_level": None, "timeout": SQLITE_BUSY_TIMEOUT_MS / 1000},
        )
        self._refuse_lost(engine)

        @sa.event.listens_for(engine.sync_engine, "do_connect")
        def before_connect(_dialect: Any, _record: Any, _arguments: Any, _named: Any) -> None:
            with contextlib.suppress(OSError):  # SQLite says better what is wrong with the file
                private.close_database(file)

        @sa.event.listens_for(engine.sync_engine, "connect")
        def on_connect(connection: Any, record: Any) -> None:
            cursor = connection.cursor()
            # FULL: a refresh token once committed must outlive a loss of power; NORMAL may take back the last commits
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "temp_store=MEMORY"):
                cursor.execute(f"PRAGMA {pragma}")
            if begin == "BEGIN":
                cursor.execute("PRAGMA query_only=ON")
            cursor.close()
            record.info["file"] = _identity(file)

        @sa.event.listens_for(engine.sync_engine, "checkout")
        def on_checkout(_connection: Any, record: Any, _proxy: Any) -> None:
            if record.info.get("file") != _identity(file):
                raise DisconnectionError("another file has taken the place of the database")

        @sa.event.listens_for(engine.sync_engine, "begin")
        def on_begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql(begin)

        return engine

    def _refuse_lost(self, engine: AsyncEngine) -> None:
        """Take no session out of the pool that was opened before all were given up."""

        @sa.event.listens_for(engine.sync_engine, "connect")
        def on_connect(_connection: Any, record: Any) -> None:
            record.info["lost"] = self._lost

        @sa.event.listens_for(engine.sync_engine, "checkout")
        def on_checkout(_connection: Any, record: Any, _proxy: Any) -> None:
            if record.info.get("lost") != self._lost:
                raise DisconnectionError("a session of a server that was given up")


def set_in_transactions(engine: sa.Engine, address: Address, settings: Mapping[str, str]) -> None:
    """Give each transaction its settings as its first statement, whatever session it runs in."""

    @sa.event.listens_for(engine, "begin")
    def on_begin(connection: sa.Connection) -> None:
        statement, values = address.setting(settings, local=True)
        connection.exec_driver_sql(statement, tuple(values))


async def _opened(address: Address, settings: Mapping[str, str]) -> "psycopg.AsyncConnection[Any]":
    """A new session with its settings."""
    import psycopg

    connection = await psycopg.AsyncConnection.connect(**address.arguments())
    try:
        if not address.shares_sessions:
            statement, values = address.setting(settings, local=False)
            # a pooler lets a client in at once and may keep its first statement waiting for minutes
            setting = asyncio.ensure_future(connection.execute(statement.encode(), values))
            try:
                await asyncio.wait({setting}, timeout=address.connecting_max_s)
                if not setting.done():
                    raise psycopg.errors.ConnectionTimeout("the session's first statement was not answered")
            finally:
                if not setting.done():
                    await connection.close()  # first: a statement that is only cancelled is waited for
                    setting.cancel()
            setting.result()
        await connection.set_autocommit(False)
    except BaseException:
        await connection.close()
        raise
    return connection


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino

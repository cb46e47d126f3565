"""One transaction, with every repository on it.

    async with store.writing() as unit:
        await unit.consents.add(consent)
        await unit.commit()

Leaving the block without `commit()` rolls back.  No repository commits, and no HTTP call belongs inside a block.

On PostgreSQL one engine serves reads and writes.  On SQLite the writing engine opens `BEGIN IMMEDIATE` on a single
connection (a deferred transaction that turns into a writer fails as "database is locked"), and a second, read-only
engine serves reads beside it.
"""

import asyncio
import contextlib
import logging
import select
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

import sqlalchemy as sa
import tenacity
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from syncworker import private
from syncworker.clock import Clock
from syncworker.errors import SettingsError, SetupError
from syncworker.store.api_keys import APIKeys
from syncworker.store.authorizations import Authorizations, Intents
from syncworker.store.breakers import Breakers
from syncworker.store.changes import Changes
from syncworker.store.clocks import Clocks
from syncworker.store.connections import Connections
from syncworker.store.consents import Consents
from syncworker.store.cursors import Cursors
from syncworker.store.dialect import Dialect
from syncworker.store.dialect import database_url as parse_url
from syncworker.store.erasure import Erasure
from syncworker.store.failures import StoreConflictError, StoreRefusedError, StoreUnavailableError, translated
from syncworker.store.inbox import Inbox
from syncworker.store.keyring import KeyRing
from syncworker.store.lfis import LFIs
from syncworker.store.openings import Openings
from syncworker.store.records import Records
from syncworker.store.renewals import Renewals
from syncworker.store.runs import Runs
from syncworker.store.statements import NOW, Ready, Told, run_all
from syncworker.store.statistics import Statistics
from syncworker.store.tokens import Tokens
from syncworker.store.work import Work
from syncworker.store.workers import Workers

__all__ = ["Store", "StoreConflictError", "StoreRefusedError", "StoreUnavailableError", "UnitOfWork"]

T = TypeVar("T")

STATEMENT_TIMEOUT_MS: Final = 30_000
LOCK_TIMEOUT_MS: Final = 10_000
IDLE_IN_TRANSACTION_TIMEOUT_MS: Final = 60_000
SQLITE_BUSY_TIMEOUT_MS: Final = 30_000
RANDOM_PAGE_COST: Final = 1.0
"""What PostgreSQL thinks a look-up by an index costs beside a page read in order.

Its own 4 is for disks that turn.  By it a table of a hundred rows is read whole for one key, and a prepared statement
keeps to that while the table grows, until its statistics are gathered.
"""
SILENCE: Final = {"tcp_user_timeout": 30_000, "keepalives_idle": 20, "keepalives_interval": 5, "keepalives_count": 3}
"""When libpq gives up a connection that went silent, as in a failover: the server's own timeouts end nothing then."""


class UnitOfWork:
    """One open transaction of one tenant.

    Attributes:
        connection: for repositories; nobody else runs SQL.
        tenant: goes into every key and every query.
    """

    def __init__(self, connection: AsyncConnection, *, tenant: str, dialect: Dialect, keyring: KeyRing | None) -> None:
        self.connection = connection
        self.tenant = tenant
        self.dialect = dialect
        self._keyring = keyring
        self._last: list[Told | Ready] = []

    @property
    def keyring(self) -> KeyRing:
        """The key ring of this process.

        Raises:
            SettingsError: the process was built without one and something sealed is needed.
        """
        if self._keyring is None:
            raise SettingsError("keyring: no key ring is set; run `syncworker keys generate` and set `keyring`")
        return self._keyring

    async def now(self) -> datetime:
        """Database time, as a value."""
        ((moment,),) = (await NOW.run(self)).rows
        assert isinstance(moment, datetime)
        return moment

    def with_commit(self, told: Sequence[Told | Ready]) -> None:
        """Send these statements with the commit, in one trip; nobody hears their answers, and nobody sees them before.

        What fails among them fails the commit, and nothing of the transaction holds.
        """
        self._last += told

    async def send(self) -> None:
        """Send now what waits for the commit, for who wants to read it in this transaction."""
        last, self._last = self._last, []
        if last:
            await run_all(self, last)

    async def commit(self) -> None:
        last, self._last = self._last, []
        if last:
            await run_all(self, last, commit=True)
        else:
            await self.connection.commit()

    @cached_property
    def lfis(self) -> LFIs:
        return LFIs(self)

    @cached_property
    def breakers(self) -> Breakers:
        return Breakers(self)

    @cached_property
    def consents(self) -> Consents:
        return Consents(self)

    @cached_property
    def connections(self) -> Connections:
        return Connections(self)

    @cached_property
    def api_keys(self) -> APIKeys:
        return APIKeys(self)

    @cached_property
    def tokens(self) -> Tokens:
        return Tokens(self)

    @cached_property
    def authorizations(self) -> Authorizations:
        return Authorizations(self)

    @cached_property
    def intents(self) -> Intents:
        return Intents(self)

    @cached_property
    def renewals(self) -> Renewals:
        return Renewals(self)

    @cached_property
    def work(self) -> Work:
        return Work(self)

    @cached_property
    def openings(self) -> Openings:
        return Openings(self)

    @cached_property
    def erasure(self) -> Erasure:
        return Erasure(self)

    @cached_property
    def inbox(self) -> Inbox:
        return Inbox(self)

    @cached_property
    def workers(self) -> Workers:
        return Workers(self)

    @cached_property
    def clocks(self) -> Clocks:
        return Clocks(self)

    @cached_property
    def records(self) -> Records:
        return Records(self)

    @cached_property
    def cursors(self) -> Cursors:
        return Cursors(self)

    @cached_property
    def changes(self) -> Changes:
        return Changes(self)

    @cached_property
    def runs(self) -> Runs:
        return Runs(self)

    @cached_property
    def statistics(self) -> Statistics:
        return Statistics(self)


class Store:
    """A database, open on one event loop.  `close()` gives everything back."""

    def __init__(
        self,
        database_url: str,
        *,
        tenant: str = "default",
        keyring: KeyRing | None = None,
        clock: Clock | None = None,
        connections: int = 10,
    ) -> None:
        """Opens nothing yet.

        Args:
            database_url: `postgresql://…` or `sqlite:///file`; the driver is our choice.
            clock: moves database time in tests; `None` is the database's own clock.
            connections: most connections to PostgreSQL at once; SQLite has one writer and a few readers.

        Raises:
            SettingsError: not such a URL.
        """
        url = parse_url(database_url)
        self.tenant = tenant
        self.dialect = Dialect(url.get_backend_name(), clock)
        self._keyring = None if keyring is None else keyring.for_tenant(tenant)
        self._write, self._read = _engines(url, connections)
        self._look = self._read
        self._bulk: AbstractAsyncContextManager[object] = asyncio.Semaphore(1)
        if self.dialect.is_postgresql:
            self._bulk = nullcontext()
            self._look = self._read.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[UnitOfWork]:
        """A transaction that may write.

        Raises:
            StoreUnavailableError: the database is away; nothing was written.
        """
        async with self._open(self._write) as unit:
            yield unit

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[UnitOfWork]:
        """A transaction that only reads; it never waits for a writer."""
        async with self._open(self._read) as unit:
            yield unit

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[UnitOfWork]:
        """Reads without a transaction around them: each statement sees what is committed when it runs.

        That is what `reading` gives too (READ COMMITTED), but `BEGIN` and `ROLLBACK` are trips of their own: two of
        three for who asks one thing.  No cursor that streams, no lock, no write.
        """
        async with self._open(self._look) as unit:
            yield unit

    async def atomically(
        self, step: Callable[[UnitOfWork], Awaitable[T]], *, attempts: int = 5, bulk: bool = False
    ) -> T:
        """Run `step` and commit; the whole of it again when the database says that it may succeed now (rule 26).

        Args:
            bulk: it writes much.  SQLite has one writer, and whoever comes first is first: of those that write much
                one waits for it and the others for that one, so that no token ever stands behind them all.
        """

        async def once() -> T:
            async with self._bulk if bulk else nullcontext(), self.writing() as unit:
                result = await step(unit)
                await unit.commit()
                return result

        if attempts <= 1:
            return await once()
        try:
            return await once()  # nearly always the only one: what counts attempts is not built for it
        except StoreConflictError:
            pass
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_may_succeed_now),
            stop=tenacity.stop_after_attempt(attempts - 1),
            wait=tenacity.wait_random_exponential(multiplier=0.02, max=0.5),
            reraise=True,
        )
        return await retrying(once)

    async def close(self) -> None:
        """Give every connection back."""
        await self._write.dispose()
        if self._read is not self._write:
            await self._read.dispose()

    @asynccontextmanager
    async def _open(self, engine: AsyncEngine) -> AsyncIterator[UnitOfWork]:
        try:
            async with engine.connect() as connection:
                yield UnitOfWork(connection, tenant=self.tenant, dialect=self.dialect, keyring=self._keyring)
        except DBAPIError as error:
            raise translated(error) from None  # the driver's text repeats key values (rule 37)
        except PoolTimeoutError as error:
            raise StoreUnavailableError("database unavailable (no free connection)") from error


def _engines(url: URL, connections: int) -> tuple[AsyncEngine, AsyncEngine]:
    if url.get_backend_name() == "postgresql":
        options = (
            f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c lock_timeout={LOCK_TIMEOUT_MS}"
            f" -c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_TIMEOUT_MS} -c timezone=UTC"
            f" -c random_page_cost={RANDOM_PAGE_COST}"
        )
        try:
            engine = create_async_engine(
                url.set(drivername="postgresql+psycopg"),
                hide_parameters=True,
                pool_size=connections,
                max_overflow=0,
                pool_timeout=30,
                connect_args={"options": options, "connect_timeout": 5, **SILENCE},
            )
        except ModuleNotFoundError as error:
            raise SetupError("database_url: PostgreSQL needs psycopg; install syncworker[postgres]") from error
        _refuse_dead_connections(engine)
        return engine, engine
    url = url.set(drivername="sqlite+aiosqlite")
    logging.getLogger("aiosqlite").setLevel(logging.WARNING)  # at DEBUG it prints every row (rule 37)
    private.make_folder(Path(str(url.database)).parent)
    common: dict[str, Any] = {
        "hide_parameters": True,
        "connect_args": {"isolation_level": None, "timeout": SQLITE_BUSY_TIMEOUT_MS / 1000},
    }
    write = create_async_engine(url, pool_size=1, max_overflow=0, pool_timeout=60, **common)
    read = create_async_engine(url, pool_size=4, max_overflow=0, pool_timeout=60, **common)
    for engine, begin in ((write, "BEGIN IMMEDIATE"), (read, "BEGIN")):
        _sqlite_events(engine, begin)
    return write, read


def _refuse_dead_connections(engine: AsyncEngine) -> None:
    """Take no connection out of the pool that the server has closed meanwhile.

    An idle connection has nothing to say: when its socket can be read, it was ended.  That costs a system call, where
    SQLAlchemy's ping costs two trips to the server, as much as a small transaction.  Neither sees a network gone
    silent before its timeouts (`SILENCE`).
    """

    @sa.event.listens_for(engine.sync_engine, "checkout")
    def on_checkout(connection: Any, _record: Any, _proxy: Any) -> None:
        own = connection.driver_connection
        if own.closed:
            raise DisconnectionError("an idle connection is closed")
        idle = select.poll()
        idle.register(own.fileno(), select.POLLIN)
        if idle.poll(0):
            raise DisconnectionError("the server ended an idle connection")


def _sqlite_events(engine: AsyncEngine, begin: str) -> None:
    @sa.event.listens_for(engine.sync_engine, "do_connect")
    def before_connect(_dialect: Any, _record: Any, _arguments: Any, _named: Any) -> None:
        with contextlib.suppress(OSError):  # SQLite says better what is wrong with the file
            private.close_database(Path(str(engine.url.database)))

    @sa.event.listens_for(engine.sync_engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        # FULL: a refresh token once committed must outlive a loss of power; NORMAL may take back the last commits
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "temp_store=MEMORY"):
            cursor.execute(f"PRAGMA {pragma}")
        if begin == "BEGIN":
            cursor.execute("PRAGMA query_only=ON")
        cursor.close()

    @sa.event.listens_for(engine.sync_engine, "begin")
    def on_begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)


def _may_succeed_now(error: BaseException) -> bool:
    return isinstance(error, StoreConflictError)

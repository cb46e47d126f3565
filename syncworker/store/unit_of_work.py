"""One transaction, with every repository on it.

    async with store.writing() as unit:
        await unit.consents.add(consent)
        await unit.commit()

Leaving the block without `commit()` rolls back.  No repository commits, and no HTTP call belongs inside a block.

How sessions are opened and given up stands in `engines`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from datetime import datetime
from functools import cached_property
from typing import Final, TypeVar

import structlog
import tenacity
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from syncworker.clock import Clock
from syncworker.errors import SettingsError
from syncworker.store.account_references import AccountReferences
from syncworker.store.address import Address, address_of
from syncworker.store.api_keys import APIKeys
from syncworker.store.authorizations import Authorizations, Intents
from syncworker.store.breakers import Breakers
from syncworker.store.causes import Causes
from syncworker.store.changes import Changes
from syncworker.store.clocks import Clocks
from syncworker.store.connections import Connections
from syncworker.store.consents import Consents
from syncworker.store.cursors import Cursors
from syncworker.store.dialect import Dialect
from syncworker.store.ended import EndedConsents
from syncworker.store.engines import Engines
from syncworker.store.epochs import Epochs
from syncworker.store.erasure import Erasure
from syncworker.store.exporting import Snapshot
from syncworker.store.exports import Exports
from syncworker.store.failures import (
    Session,
    StoreConflictError,
    StoreRefusedError,
    StoreUnavailableError,
    translated,
)
from syncworker.store.filling import Fillings
from syncworker.store.findings import Findings
from syncworker.store.inbox import Inbox
from syncworker.store.keyring import KeyRing
from syncworker.store.lfis import LFIs
from syncworker.store.messages import Messages
from syncworker.store.openings import Openings
from syncworker.store.ops_connections import OpsConnections
from syncworker.store.ops_lists import OpsLists
from syncworker.store.ops_sessions import OpsSessions
from syncworker.store.ops_traffic import OpsTraffic
from syncworker.store.overview import Overviews
from syncworker.store.readable import Use
from syncworker.store.reads import Reads
from syncworker.store.records import Records
from syncworker.store.refreshes import Refreshes
from syncworker.store.renewals import Renewals
from syncworker.store.runs import Runs
from syncworker.store.statements import NOW, Ready, Told, run_all
from syncworker.store.statistics import Statistics
from syncworker.store.tally import Counters, Tally
from syncworker.store.tenant_keys import TenantKeys
from syncworker.store.tokens import Tokens
from syncworker.store.unreadable import UnreadableItems
from syncworker.store.work import Work
from syncworker.store.workers import Workers

__all__ = ["Store", "StoreConflictError", "StoreRefusedError", "StoreUnavailableError", "UnitOfWork"]

T = TypeVar("T")

COUNTS_FILED_EVERY_S: Final = 5.0
"""A process that is killed loses what it counted in that time, and nothing else."""

CLOSING_S: Final = 3.0
"""A store that is closed waits no longer for the database to take its last counts."""

log = structlog.stdlib.get_logger(__name__)


class UnitOfWork:
    """One open transaction of one tenant.

    Attributes:
        connection: for repositories; nobody else runs SQL.
        tenant: goes into every key and every query.
        keys_known: the tenant's keys that are committed, opened; one mapping for all transactions of a store.
        ended_consents: whether data of connections can be read whose consents have all ended.
        tally: counts what this transaction does; it holds once that is committed.
    """

    def __init__(
        self,
        connection: AsyncConnection,
        *,
        tenant: str,
        dialect: Dialect,
        keyring: KeyRing | None,
        keys_known: dict[str, bytes] | None = None,
        ended_consents: EndedConsents = EndedConsents.HIDDEN,
        counted: Callable[[Tally], None] | None = None,
    ) -> None:
        self.connection = connection
        self.tenant = tenant
        self.dialect = dialect
        self.keys_known = {} if keys_known is None else keys_known
        self.ended_consents = ended_consents
        self.tally = Tally()
        self._keyring = keyring
        self._counted = counted
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
        """End the transaction well.

        Raises:
            what `Store` translates: nothing of the transaction holds, and it is over.
        """
        last, self._last = self._last, []
        try:
            if last:
                await run_all(self, last, commit=True)
            else:
                await self.connection.commit()
        except DBAPIError:
            # SQLite keeps a transaction open whose COMMIT failed, and SQLAlchemy counts it as ended: without this the
            # connection goes back with the write lock, and every other writer waits for it
            if not self.dialect.is_postgresql:
                await self.connection.invalidate()
            raise
        if self._counted is not None and self.tally:
            self._counted(self.tally)

    @cached_property
    def account_references(self) -> AccountReferences:
        return AccountReferences(self)

    @cached_property
    def tenant_keys(self) -> TenantKeys:
        return TenantKeys(self)

    @cached_property
    def fillings(self) -> Fillings:
        return Fillings(self)

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
    def ops_sessions(self) -> OpsSessions:
        return OpsSessions(self)

    @cached_property
    def ops_connections(self) -> OpsConnections:
        return OpsConnections(self)

    @cached_property
    def ops_lists(self) -> OpsLists:
        return OpsLists(self)

    @cached_property
    def ops_traffic(self) -> OpsTraffic:
        return OpsTraffic(self)

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
    def refreshes(self) -> Refreshes:
        return Refreshes(self)

    @cached_property
    def openings(self) -> Openings:
        return Openings(self)

    @cached_property
    def findings(self) -> Findings:
        return Findings(self)

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
    def unreadable(self) -> UnreadableItems:
        return UnreadableItems(self)

    @cached_property
    def cursors(self) -> Cursors:
        return Cursors(self)

    @cached_property
    def changes(self) -> Changes:
        return Changes(self)

    @cached_property
    def use(self) -> Use:
        return Use(self)

    @cached_property
    def epochs(self) -> Epochs:
        return Epochs(self)

    @cached_property
    def runs(self) -> Runs:
        return Runs(self)

    @cached_property
    def exports(self) -> Exports:
        return Exports(self)

    @cached_property
    def reads(self) -> Reads:
        return Reads(self)

    @cached_property
    def messages(self) -> Messages:
        return Messages(self)

    @cached_property
    def causes(self) -> Causes:
        return Causes(self)

    @cached_property
    def overviews(self) -> Overviews:
        return Overviews(self)

    @cached_property
    def counters(self) -> Counters:
        return Counters(self)

    @cached_property
    def statistics(self) -> Statistics:
        return Statistics(self)


class Store:
    """A database, open on one event loop.  `close()` gives everything back."""

    def __init__(
        self,
        database: str | Address,
        *,
        tenant: str = "default",
        keyring: KeyRing | None = None,
        clock: Clock | None = None,
        connections: int = 10,
        ended_consents: EndedConsents = EndedConsents.HIDDEN,
    ) -> None:
        """Opens nothing yet.

        Args:
            database: where it is; as text, `postgresql://…` or `sqlite:///file`.
            clock: moves database time in tests; `None` is the database's own clock.
            connections: most connections to PostgreSQL at once; SQLite has one writer and a few readers.
            ended_consents: whether data of connections can be read whose consents have all ended.

        Raises:
            SettingsError: not such a URL.
        """
        address = address_of(database)
        self.tenant = tenant
        self.dialect = Dialect(
            "postgresql" if address.is_postgresql else "sqlite", clock, shares_sessions=address.shares_sessions
        )
        self._keyring = None if keyring is None else keyring.for_tenant(tenant)
        self._keys_known: dict[str, bytes] = {}
        self._engines = Engines(address, connections, tenant=tenant)
        self._ended_consents = ended_consents
        self._tally = Tally()
        self._counts_due: asyncio.TimerHandle | None = None
        self._filing: asyncio.Task[None] | None = None
        self._bulk: AbstractAsyncContextManager[object] = (
            nullcontext() if address.is_postgresql else asyncio.Semaphore(1)
        )

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[UnitOfWork]:
        """A transaction that may write.

        Raises:
            StoreUnavailableError: the database is away; nothing was written.
        """
        async with self._open(self._engines.write) as unit:
            yield unit

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[UnitOfWork]:
        """A transaction that only reads; it never waits for a writer."""
        async with self._open(self._engines.read) as unit:
            yield unit

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[UnitOfWork]:
        """Reads without a transaction around them: each statement sees what is committed when it runs.

        That is what `reading` gives too (READ COMMITTED), but `BEGIN` and `ROLLBACK` are trips of their own: two of
        three for who asks one thing.  No cursor that streams, no lock, no write.
        """
        async with self._open(self._engines.look) as unit:
            yield unit

    @asynccontextmanager
    async def exporting(self) -> AsyncIterator[Snapshot]:
        """One state of the database for as long as an export takes, in sessions of their own."""
        async with self._translating(), self._engines.exporting() as (connection, copying):
            yield Snapshot(self._unit_on(connection), copying)

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

    async def keep_history(self) -> None:
        """Begin a new epoch of the feed when the database was restored (`epochs`); most often nothing is written.

        Raises:
            StoreUnavailableError: the database is away.
        """
        async with self.looking() as unit:
            differs = await unit.epochs.differs()
        if differs:
            await self.atomically(lambda unit: unit.epochs.look())

    async def file_counts(self) -> None:
        """Add to the counters what was counted since the last time.  It happens by itself every few seconds.

        Never fails: while the database is away the counts are kept, and filed with the next.
        """
        if not self._tally:
            return
        counts, sent = self._tally.taken(), False

        async def step(unit: UnitOfWork) -> None:
            nonlocal sent
            sent = False
            await unit.counters.count(counts)
            sent = True

        try:
            await self.atomically(step)
        except (StoreUnavailableError, StoreRefusedError) as error:
            # a commit whose answer was lost may hold: rather a few seconds uncounted than counted twice
            if not sent or error.session is Session.GOOD:
                self._tally.give_back(counts)
            log.warning("counts not filed yet", error=error.code)

    def _keep_counts(self, counted: Tally) -> None:
        """What a committed transaction counted; filed together with that of the next seconds."""
        self._tally.join(counted)
        if self._tally and self._counts_due is None:
            loop = asyncio.get_running_loop()
            self._counts_due = loop.call_later(COUNTS_FILED_EVERY_S, self._begin_filing)

    def _begin_filing(self) -> None:
        self._counts_due = None
        self._filing = asyncio.create_task(self.file_counts(), name="file counts")

    async def close(self) -> None:
        """File what was counted, and give every connection back."""
        if self._counts_due is not None:
            self._counts_due.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_S):
                if self._filing is not None:
                    await self._filing
                await self.file_counts()
        await self._engines.close()

    @asynccontextmanager
    async def _open(self, engine: AsyncEngine) -> AsyncIterator[UnitOfWork]:
        async with self._translating(), engine.connect() as connection:
            try:
                yield self._unit_on(connection)
            except DBAPIError as error:
                refused = translated(error)
                await self._engines.give_up(connection, refused.session)
                raise refused from None  # the driver's text repeats key values
            except (StoreUnavailableError, StoreRefusedError) as error:
                await self._engines.give_up(connection, error.session)
                raise

    def _unit_on(self, connection: AsyncConnection) -> UnitOfWork:
        return UnitOfWork(
            connection,
            tenant=self.tenant,
            dialect=self.dialect,
            keyring=self._keyring,
            keys_known=self._keys_known,
            ended_consents=self._ended_consents,
            counted=self._keep_counts,
        )

    @asynccontextmanager
    async def _translating(self) -> AsyncIterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise translated(error) from None
        except PoolTimeoutError as error:
            raise StoreUnavailableError("database unavailable (no free connection)") from error


def _may_succeed_now(error: BaseException) -> bool:
    return isinstance(error, StoreConflictError)

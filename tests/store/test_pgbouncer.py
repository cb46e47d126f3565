"""PgBouncer between us and PostgreSQL, in both modes; skipped where the machine has none."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

import psycopg
import pytest
import sqlalchemy as sa

from syncworker.errors import SetupError
from syncworker.store import migrate
from syncworker.store.address import Address, Pooler, address_of
from syncworker.store.bulk import COPY_FROM, upsert_many
from syncworker.store.failures import StoreUnavailableError
from syncworker.store.life_sign import LifeSign
from syncworker.store.statements import Statement
from syncworker.store.tables import worker
from syncworker.store.unit_of_work import Store, UnitOfWork
from tests.ground.pgbouncer import PgBouncer, pgbouncer_program

pytestmark = [
    pytest.mark.store,
    pytest.mark.skipif(pgbouncer_program() is None, reason="no PgBouncer is installed on this machine"),
]

MOMENT = datetime(2026, 3, 1, tzinfo=UTC)
COLUMNS = ("name", "kind", "started_at", "progress_at")
MODES = (Pooler.NONE, Pooler.TRANSACTION)
_TOUCH = Statement(
    lambda dialect: (
        sa.update(worker)
        .where(worker.c.name == sa.bindparam("called", type_=worker.c.name.type, required=True))
        .values(progress_at=dialect.now())
        .returning(worker.c.name)
    )
)


@pytest.fixture(params=MODES, ids=["session", "transaction"])
def pooled(request: pytest.FixtureRequest, postgresql_url: str) -> Iterator[Address]:
    """The way through a pooler that has two sessions of the server, or where each client needs one, enough of them."""
    shares = request.param is Pooler.TRANSACTION
    pooler = PgBouncer(postgresql_url, "transaction" if shares else "session", pool_size=2 if shares else 20)
    yield address_of(pooler.url(), pooler=request.param)
    pooler.close()


@pytest.fixture
def shared(postgresql_url: str) -> Iterator[PgBouncer]:
    """A pooler in transaction mode."""
    pooler = PgBouncer(postgresql_url, "transaction", pool_size=2)
    yield pooler
    pooler.close()


async def put(store: Store, prefix: str, count: int) -> int:
    """Rows by the way their number chooses, and all of them again."""
    rows = [(f"{prefix}{number:04}", "worker", MOMENT, MOMENT) for number in range(count)]

    async def step(unit: UnitOfWork) -> int:
        written = 0
        for _ in range(2):
            written += await upsert_many(
                unit.connection, unit.dialect, worker, COLUMNS, rows, key=("name",), replace=("kind",)
            )
        return written

    return await store.atomically(step)


async def test_what_a_worker_does_works_through_a_pooler(pooled: Address, open_store: Callable[..., Store]) -> None:
    """COPY, statements that travel together, repeated ones and single looks, from more clients than it has sessions."""
    stores = [open_store(pooled, clock=None, connections=4) for _ in range(2)]

    written = await asyncio.gather(
        *(put(store, f"{at}{number}-", COPY_FROM) for at, store in enumerate(stores) for number in range(4))
    )
    found = []
    for store in stores:
        for _ in range(8):  # the driver prepares what it has sent five times
            async with store.writing() as unit:
                found += (await _TOUCH.run(unit, called="00-0001")).rows
                unit.with_commit([(_TOUCH, {"called": "00-0002"}), (_TOUCH, {"called": "00-0003"})])
                await unit.commit()
    async with stores[0].looking() as unit:
        settings = [
            await unit.connection.scalar(sa.text(f"SHOW {name}"))
            for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "timezone")
        ]

    assert written == [2 * COPY_FROM] * 8
    assert found == [("00-0001",)] * 16
    assert settings == ["30s", "10s", "1min", "UTC"]


async def test_nothing_of_ours_is_left_in_a_shared_session(
    shared: PgBouncer, postgresql_url: str, open_store: Callable[..., Store]
) -> None:
    """The next client of a server's session finds no setting, no prepared statement and no temporary table of ours."""
    store = open_store(address_of(shared.url(), pooler=Pooler.TRANSACTION), clock=None)
    for _ in range(8):
        await put(store, "w", COPY_FROM)
    sign = LifeSign(shared.url(), "host/1", "beat")
    for _ in range(8):
        sign.write()
    sign.close()
    with pytest.raises(SetupError):
        migrate.check(shared.url())
    migrate.upgrade(address_of(shared.url(), pooler=Pooler.TRANSACTION))

    left = []
    with psycopg.connect(shared.url(), autocommit=True, prepare_threshold=None) as client:
        for query in (
            "SELECT current_setting('statement_timeout')",
            "SELECT current_setting('lock_timeout')",
            "SELECT count(*) FROM pg_prepared_statements",
            "SELECT count(*) FROM pg_class WHERE relpersistence = 't'",
        ):
            left += client.execute(query.encode()).fetchall()

    assert left == [("0",), ("0",), (0,), (0,)]


def test_a_pooler_in_transaction_mode_is_told_by_itself(shared: PgBouncer) -> None:
    """Without the setting a worker does not start: one line with the setting's name."""
    for ask in (migrate.check, migrate.upgrade):
        with pytest.raises(SetupError, match=r'^database_url: .* set database_pooler = "transaction"'):
            ask(shared.url())


def test_what_is_known_of_the_way(pooled: Address, postgresql_url: str) -> None:
    """`doctor` says how it got there."""
    through = "transaction" if pooled.shares_sessions else "session"

    assert (migrate.check(pooled).pooler, migrate.check(postgresql_url).pooler) == (through, "none")


def test_beats_row_is_written_through_a_pooler(pooled: Address, postgresql_url: str) -> None:
    """By the bare driver, again and again."""
    sign = LifeSign(pooled, "host/1", "beat")
    for _ in range(8):
        sign.write()
    sign.close()

    with psycopg.connect(postgresql_url) as connection:
        assert connection.execute("SELECT name, kind FROM worker").fetchall() == [("host/1", "beat")]


async def test_a_session_a_pooler_ends_is_replaced(shared: PgBouncer, open_store: Callable[..., Store]) -> None:
    """PgBouncer closes its sessions of the server when it is told to reconnect; clients go on."""
    store = open_store(address_of(shared.url(), pooler=Pooler.TRANSACTION), clock=None)
    await put(store, "a", COPY_FROM)
    shared.command("RECONNECT")
    await put(store, "b", COPY_FROM)

    async with store.reading() as unit:
        assert await unit.connection.scalar(sa.select(sa.func.count()).select_from(worker)) == 2 * COPY_FROM


@pytest.mark.long
def test_a_pooler_that_keeps_its_clients_waiting_is_named(shared: PgBouncer) -> None:
    """It takes the connection and answers nothing: the check ends by itself."""
    address = address_of(f"{shared.url()}?connect_timeout=1", pooler=Pooler.TRANSACTION)
    migrate.check(address)
    shared.command(f"PAUSE {urlsplit(shared.url()).path[1:]}")
    with pytest.raises(StoreUnavailableError, match="took the connection and did not answer"):
        migrate.check(address, within=1)
    shared.command("RESUME")


@pytest.mark.long
async def test_a_client_that_waits_for_a_session_is_told(postgresql_url: str, open_store: Callable[..., Store]) -> None:
    """In session mode with every session taken: the wait ends, and the next one gets what came free."""
    pooler = PgBouncer(postgresql_url, "session", pool_size=1)
    try:
        url = f"{pooler.url()}?connect_timeout=1"
        first, second = open_store(url, clock=None), open_store(url, clock=None)
        async with first.reading() as unit:
            await unit.now()
            with pytest.raises(StoreUnavailableError, match="ConnectionTimeout"):
                await put(second, "w", 1)
        await first.close()

        assert await put(second, "w", 1) == 2
        await second.close()
    finally:
        pooler.close()

"""One transaction you can see: commit or nothing, no lost update, no value in an error."""

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import sqlalchemy as sa

from syncworker.errors import SettingsError
from syncworker.standard.values import Slug
from syncworker.store.address import SILENCE
from syncworker.store.dialect import Instant, Money
from syncworker.store.failures import StoreRefusedError, StoreUnavailableError
from syncworker.store.tables import lfi, worker
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import WorkKind
from tests.ground.clock import ManualClock
from tests.ground.commits import refuse_commits, take_commits
from tests.ground.postgres import free_port
from tests.ground.proxy import FaultProxy

pytestmark = pytest.mark.store

MOMENT = datetime(2026, 3, 1, tzinfo=UTC)
SECRET = "AE070331234567890123456"


async def put(unit: UnitOfWork, *names: str, kind: str = "worker") -> None:
    rows = [{"name": name, "kind": kind, "started_at": MOMENT, "progress_at": MOMENT} for name in names]
    await unit.connection.execute(sa.insert(worker), rows)


async def put_twice(store: Store, name: str) -> None:
    async with store.writing() as unit:
        await put(unit, name)
        await put(unit, name)


async def names(store: Store) -> list[str]:
    async with store.reading() as unit:
        return list(await unit.connection.scalars(sa.select(worker.c.name).order_by(worker.c.name)))


async def count_up(store: Store) -> None:
    """Read, think, write: what loses updates where transactions are not what they seem."""
    async with store.writing() as unit:
        row = sa.select(worker.c.kind).where(worker.c.name == "w").with_for_update()
        held = int(await unit.connection.scalar(row) or 0)
        await asyncio.sleep(0)
        await unit.connection.execute(sa.update(worker).where(worker.c.name == "w").values(kind=str(held + 1)))
        await unit.commit()


async def test_committed_rows_stay(store: Store) -> None:
    """What was committed is there for the next transaction."""
    async with store.writing() as unit:
        await put(unit, "w1")
        await unit.commit()

    assert await names(store) == ["w1"]


async def test_leaving_without_commit_rolls_back(store: Store) -> None:
    """Forgetting the commit writes nothing."""
    async with store.writing() as unit:
        await put(unit, "w1")

    assert await names(store) == []


async def test_an_error_rolls_back(store: Store) -> None:
    """An exception inside the block passes through and leaves nothing."""

    async def fail() -> None:
        async with store.writing() as unit:
            await put(unit, "w1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()

    assert await names(store) == []


async def test_concurrent_increments_lose_nothing(
    store: Store, open_store: Callable[..., Store], database_url: str
) -> None:
    """100 tasks over two stores (as two processes have) read, add one and write: 100."""
    async with store.writing() as unit:
        await put(unit, "w", kind="0")
        await unit.commit()
    other = open_store(database_url)

    await asyncio.gather(*(count_up(one) for one in (store, other) for _ in range(50)))

    async with store.reading() as unit:
        assert await unit.connection.scalar(sa.select(worker.c.kind)) == "100"


async def test_a_reader_does_not_wait_for_a_writer(store: Store) -> None:
    """While a transaction writes, a reader sees what was there before."""
    async with store.writing() as unit:
        await put(unit, "w1")
        assert await asyncio.wait_for(names(store), 5) == []


async def test_a_reading_unit_does_not_write_on_sqlite(sqlite_url: str, open_store: Callable[..., Store]) -> None:
    """A write in a deferred transaction is the way to "database is locked": it is refused at once."""
    with pytest.raises(StoreUnavailableError, match="SQLITE_READONLY"):
        async with open_store(sqlite_url).reading() as unit:
            await put(unit, "w1")


async def test_an_error_repeats_no_value(store: Store) -> None:
    """Neither the parameters nor PostgreSQL's DETAIL are in the text or the traceback."""
    with pytest.raises(StoreRefusedError) as refused:
        await put_twice(store, SECRET)

    assert SECRET not in "".join(traceback.format_exception(refused.value))


async def test_a_constraint_is_named_on_postgresql(postgresql_url: str, open_store: Callable[..., Store]) -> None:
    """The name of the constraint travels: it is ours and says what was wrong."""
    with pytest.raises(StoreRefusedError, match=r"^database refused: UniqueViolation 23505 pk_worker$"):
        await put_twice(open_store(postgresql_url), "w1")


async def test_every_wait_has_an_end_on_postgresql(postgresql_url: str, open_store: Callable[..., Store]) -> None:
    """Statement, lock and idle timeouts are set, and the session speaks UTC."""
    async with open_store(postgresql_url).reading() as unit:
        shown = [
            await unit.connection.scalar(sa.text(f"SHOW {name}"))
            for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "timezone")
        ]

    assert shown == ["30s", "10s", "1min", "UTC"]


async def test_a_silent_connection_is_given_up_on_postgresql(
    postgresql_url: str, open_store: Callable[..., Store]
) -> None:
    """The server's timeouts cannot be heard through a dead network: the client's own end the wait."""
    async with open_store(postgresql_url).reading() as unit:
        driver = (await unit.connection.get_raw_connection()).driver_connection
        assert driver is not None
        given = driver.info.get_parameters()

    assert {name: int(given[name]) for name in SILENCE} == SILENCE


async def test_a_deadlock_is_run_again(postgresql_url: str, open_store: Callable[..., Store]) -> None:
    """Two transactions take two rows in opposite order; PostgreSQL kills one, `atomically` runs it again.

    The one run again may take its row before the other wakes up, and meet it once more: three attempts or more.
    """
    store = open_store(postgresql_url)
    async with store.writing() as unit:
        await put(unit, "a", "b")
        await unit.commit()
    both_hold_one = asyncio.Barrier(2)
    attempts = 0

    async def take(first: str, second: str) -> None:
        meet = True

        async def step(unit: UnitOfWork) -> None:
            nonlocal attempts, meet
            attempts += 1
            touch = sa.update(worker).values(kind=first)
            await unit.connection.execute(touch.where(worker.c.name == first))
            if meet:
                meet = False
                await both_hold_one.wait()
            await unit.connection.execute(touch.where(worker.c.name == second))

        await store.atomically(step)

    await asyncio.gather(take("a", "b"), take("b", "a"))

    assert attempts >= 3


async def test_time_is_the_tests_clock(store: Store, clock: ManualClock) -> None:
    """Database time stands where the test put it, to the microsecond."""
    clock.set(datetime(2026, 3, 1, 8, 0, 0, 123456, UTC))
    async with store.reading() as unit:
        in_an_hour = await unit.connection.scalar(sa.select(unit.dialect.after(timedelta(hours=1))))
        assert (await unit.now(), in_an_hour) == (clock.now(), clock.now() + timedelta(hours=1))


async def test_without_a_clock_time_is_the_databases(database_url: str, open_store: Callable[..., Store]) -> None:
    """In production the database tells the time, aware and in UTC."""
    async with open_store(database_url, clock=None).reading() as unit:
        now = await unit.now()
        later = await unit.connection.scalar(sa.select(unit.dialect.after(timedelta(seconds=90))))
    assert later is not None
    near = abs(now - datetime.now(UTC)) < timedelta(seconds=5)
    apart = abs(later - now - timedelta(seconds=90)) < timedelta(seconds=5)

    assert (near, apart, now.tzinfo) == (True, True, UTC)


@pytest.mark.parametrize(
    ("kind", "value", "fault"),
    [
        pytest.param(Instant(), datetime(2026, 3, 1), "no time zone", id="naive instant"),  # noqa: DTZ001
        pytest.param(Money(), Decimal("0.000001"), "more than 5 digits", id="six places"),
    ],
)
async def test_a_value_that_would_be_bent_is_refused(
    store: Store, kind: sa.types.TypeEngine[object], value: object, fault: str
) -> None:
    """Neither database rounds money or guesses a zone for us."""
    with pytest.raises(sa.exc.StatementError, match=fault):
        async with store.reading() as unit:
            await unit.connection.scalar(sa.select(sa.literal(value, kind)))


async def test_a_database_that_is_away(open_store: Callable[..., Store]) -> None:
    """Nobody listens: transient, and nothing of the URL is repeated."""
    store = open_store(f"postgresql://someone:hunter2@127.0.0.1:{free_port()}/db")
    with pytest.raises(StoreUnavailableError) as away:
        async with store.reading():
            pass

    assert "hunter2" not in "".join(traceback.format_exception(away.value))


async def test_a_connection_cut_before_the_commit(
    postgresql_url: str, open_store: Callable[..., Store], fault_proxy: Callable[[str | int], Awaitable[FaultProxy]]
) -> None:
    """The transaction is refused as transient and leaves nothing; the next one gets a new connection."""
    proxy = await fault_proxy(postgresql_url)
    store = open_store(proxy.url(postgresql_url))

    async def lose() -> None:
        async with store.writing() as unit:
            await put(unit, "w1")
            proxy.cut()
            await unit.commit()

    with pytest.raises(StoreUnavailableError):
        await lose()
    async with store.writing() as unit:
        await put(unit, "w2")
        await unit.commit()

    assert await names(store) == ["w2"]


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://host/db", "sqlite://", "sqlite:///:memory:"])
def test_a_url_we_cannot_use_is_named(url: str) -> None:
    """The message names the setting and the two that work."""
    with pytest.raises(SettingsError, match=r"^database_url: "):
        Store(url)


async def test_without_a_ring_nothing_sealed_is_touched(database_url: str, open_store: Callable[..., Store]) -> None:
    """A process without key ring says which setting is missing."""
    async with open_store(database_url, keyring=None).reading() as unit:
        with pytest.raises(SettingsError, match=r"^keyring: "):
            _ = unit.keyring


async def test_a_unit_seals_for_its_tenant(database_url: str, open_store: Callable[..., Store]) -> None:
    """The ring of a unit is the tenant's."""
    async with open_store(database_url, tenant="other").reading() as unit:
        assert (unit.tenant, unit.keyring.tenant) == ("other", "other")


async def test_lfis_are_kept_by_slug(store: Store) -> None:
    """A second declaration of one slug takes the place of the first; a gate survives it."""
    until = MOMENT + timedelta(minutes=5)
    async with store.writing() as unit:
        await unit.lfis.add(Slug("bank"), {"issuer": "https://one"}, at=MOMENT)
        await unit.lfis.close_gate(Slug("bank"), until=until)
        await unit.lfis.add(Slug("bank"), {"issuer": "https://two"}, at=MOMENT)
        await unit.commit()

    async with store.reading() as unit:
        found = await unit.lfis.list()
        assert [(one.slug, one.declared, one.not_before) for one in found] == [
            ("bank", {"issuer": "https://two"}, until)
        ]


async def test_a_gate_opens_with_time(store: Store, clock: ManualClock) -> None:
    """A gate needs no declaration, closes for the longest wait asked, and opens by itself."""
    now = clock.now()
    async with store.writing() as unit:
        await unit.lfis.close_gate(Slug("bank"), until=now + timedelta(seconds=60))
        await unit.lfis.close_gate(Slug("bank"), until=now + timedelta(seconds=30))
        await unit.commit()
    seen = []
    for _ in range(2):
        async with store.reading() as unit:
            seen.append((dict(await unit.lfis.gates()), await unit.lfis.list(), await unit.lfis.get(Slug("bank"))))
        clock.advance(seconds=60)

    assert seen == [({"bank": now + timedelta(seconds=60)}, [], None), ({}, [], None)]


async def test_tenants_do_not_see_each_other(database_url: str, open_store: Callable[..., Store]) -> None:
    """The same slug in two tenants is two rows."""
    one, other = open_store(database_url), open_store(database_url, tenant="other")
    async with one.writing() as unit:
        await unit.lfis.add(Slug("bank"), {"issuer": "https://one"}, at=MOMENT)
        await unit.commit()

    async with other.reading() as unit:
        rows = await unit.connection.scalar(sa.select(sa.func.count()).select_from(lfi))
        assert (rows, await unit.lfis.list()) == (1, [])


async def test_a_small_write_stands_behind_two_large_ones_at_most(store: Store) -> None:
    """SQLite has one writer: large ones wait for each other, small ones for it; PostgreSQL lets all in at once."""
    begun: list[str] = []
    one_is_in, all_asked = asyncio.Event(), asyncio.Event()

    async def written(name: str, *, bulk: bool) -> None:
        async def step(unit: UnitOfWork) -> None:
            begun.append(name)
            one_is_in.set()
            await all_asked.wait()

        await store.atomically(step, bulk=bulk)

    large = [asyncio.create_task(written(f"large {number}", bulk=True)) for number in range(5)]
    await one_is_in.wait()
    small = asyncio.create_task(written("small", bulk=False))
    await asyncio.sleep(0.05)
    all_asked.set()
    await asyncio.gather(*large, small)

    assert sorted(begun) == [*(f"large {number}" for number in range(5)), "small"]
    assert store.dialect.is_postgresql or begun.index("small") <= 2


async def test_a_commit_that_fails_leaves_nothing_open(
    store: Store, open_store: Callable[..., Store], database_url: str
) -> None:
    """The connection is good for the next transaction at once, and no other process waits for a lock that is left."""

    async def scheduled(unit: UnitOfWork) -> None:
        await unit.work.schedule(WorkKind.SYNC, "connection-1", lfi=Slug("noor"), due_at=await unit.now())

    refuse_commits(database_url, "work", on="INSERT")
    for _ in range(2):
        with pytest.raises(
            StoreRefusedError,
            match=r"^database refused: (IntegrityError SQLITE_CONSTRAINT_FOREIGNKEY|ForeignKeyViolation 23503) ?",
        ):
            await store.atomically(scheduled)
    take_commits(database_url, "work")
    await open_store(database_url).atomically(scheduled)

    async with store.reading() as unit:
        assert await unit.work.find(WorkKind.SYNC, "connection-1") is not None

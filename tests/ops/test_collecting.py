"""What is collected from the two databases and the broker, and what housekeeping notes of it."""

import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql

from syncworker.ops.diagnosis import Diagnosis, diagnose
from syncworker.ops.recording import Recording
from syncworker.ops.status import BrokerState, DatabaseState, ask_broker, collect, database_fact
from syncworker.settings import FreshnessSettings, Settings
from syncworker.standard.consents import Status
from syncworker.standard.interaction import Interactions
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store.calls import CallRow
from syncworker.store.consents import Connection, StoredConsent
from syncworker.store.failures import StoreUnavailableError
from syncworker.store.runs import RunRow
from syncworker.store.tables import cursor
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import WorkKind
from syncworker.views import questions
from tests.ground.clock import ManualClock

pytestmark = pytest.mark.store

N = ResourceName
NOOR: Final = Slug("noor")
SETTINGS: Final = Settings(freshness=FreshnessSettings(margin=1.5, causes_days=7))
HOUR: Final = timedelta(hours=1)
BALANCES: Final = timedelta(hours=9)
"""Six hours of cadence, and the margin."""


async def a_connection(store: Store, clock: ManualClock, name: str = "c-1", **changes: Any) -> None:
    """A connection with an Authorized consent that shows one account, and its sync."""
    facts: dict[str, Any] = {
        "consent_id": ConsentId(name), "connection_id": ConsentId(name), "lfi": NOOR, "user_ref": f"user-{name}",
        "version": Version.V2_1, "status": Status.Authorized.value, "status_updated_at": clock.now(),
        "status_seen_at": clock.now(), "permissions": ("ReadAccountsBasic", "ReadBalances"),
        "expires_at": clock.now() + timedelta(days=20), "user_type": "Retail", "purpose": "AccountAggregation",
        "created_at": clock.now(),
    }  # fmt: skip
    async with store.writing() as unit:
        row = Connection(connection_id=ConsentId(name), lfi=NOOR, user_ref=f"user-{name}", created_at=clock.now())
        await unit.consents.add_connection(row)
        await unit.consents.add(StoredConsent(**facts | changes))
        await unit.records.grant(ConsentId(name), ConsentId(name), ["acc"], at=clock.now())
        await unit.work.schedule(WorkKind.SYNC, name, lfi=NOOR, due_at=clock.now())
        await unit.commit()


async def a_sync(
    store: Store, clock: ManualClock, *listings: tuple[ResourceName, str], name: str = "c-1", error: str | None = None,
    **facts: Any,
) -> None:  # fmt: skip
    """A sync that ends now; these listings were walked whole."""

    async def step(unit: UnitOfWork) -> None:
        claim = await unit.work.claim_one(WorkKind.SYNC, name)
        assert claim is not None
        taken = await unit.work.take(claim.id, claim.gen)
        assert taken is not None
        for resource, account in listings:
            values = {
                "tenant": "default", "connection_id": name, "account_id": account, "resource": resource.value,
                "checked_at": clock.now(), "due_at": clock.now() + HOUR, "gen": taken.gen, **facts,
            }  # fmt: skip
            replaced = ("checked_at", "due_at", "gen", *facts)
            key = ("tenant", "connection_id", "account_id", "resource")
            await unit.connection.execute(unit.dialect.upsert(cursor, key, replaced), values)
        outcome = "ok" if error is None else "failed"
        await unit.work.finish(taken, due_at=clock.now(), outcome=outcome, error=error, good=error is None)

    await store.atomically(step)


BOTH: Final = ((N.ACCOUNTS, ""), (N.BALANCES, "acc"))


async def look(store: Store, settings: Settings = SETTINGS) -> Diagnosis:
    return diagnose(await collect(settings, store, asks_broker=False))


async def note(store: Store, clock: ManualClock, settings: Settings = SETTINGS) -> Diagnosis:
    return await Recording(settings, store).note(clock.now())


async def kept(store: Store) -> list[tuple[str, bool]]:
    """Keys of the causes on record, and whether each has ended; the machinery's own left out."""
    async with store.reading() as unit:
        rows = await unit.causes.recent()
    return [(one.key, one.ended_at is not None) for one in rows if one.key not in ("workers_dead", "beat_dead")]


# -- freshness ---------------------------------------------------------------------------------------------------------


async def test_by_the_database_s_own_clock(database_url: str, open_store: Callable[..., Store]) -> None:
    """An empty database is a status; on PostgreSQL all statements of the overview travel together."""
    status = await collect(SETTINGS, open_store(database_url, clock=None), asks_broker=False, whole_day=True)

    assert status.overview is not None
    assert (status.overview.troubled, status.overview.counts, status.feed.lag) == ([], [], timedelta())
    assert (status.database.state, status.calls_24h) == (DatabaseState.OK, 0)


@pytest.mark.parametrize("noted", [True, False], ids=["judged by housekeeping", "judged by the look itself"])
async def test_a_connection_goes_stale_with_the_first_of_its_listings(
    store: Store, clock: ManualClock, noted: bool
) -> None:
    """By its cadence and the margin of the settings; no run has to happen for it."""
    await a_connection(store, clock)
    await a_sync(store, clock, *BOTH)
    begun = clock.now()
    if noted:
        await note(store, clock)
    counts = []
    for later in (BALANCES - timedelta(seconds=1), timedelta(seconds=2)):
        clock.advance(seconds=later.total_seconds())
        found = await look(store)
        counts.append((found.counts.connections, found.counts.stale))
    (stale,) = found.stale

    assert counts == [(1, 0), (1, 1)]
    assert (stale.since, stale.row.user_ref) == (begun + BALANCES, "user-c-1")


async def test_another_margin_judges_anew(store: Store, clock: ManualClock) -> None:
    """What was judged by the old one does not count, also before housekeeping comes round."""
    await a_connection(store, clock)
    await a_sync(store, clock, *BOTH)
    await note(store, clock)
    clock.advance(hours=8)
    strict = Settings(freshness=FreshnessSettings(margin=1))

    assert ((await look(store)).counts.stale, (await look(store, strict)).counts.stale) == (0, 1)
    await note(store, clock, strict)
    assert (await look(store, strict)).counts.stale == 1


@pytest.mark.parametrize("margin", [1, 1.25, 3])
async def test_the_api_calls_stale_what_status_calls_stale(store: Store, clock: ManualClock, margin: float) -> None:
    """By one margin, that of the settings; a second before the target neither does, a second after it both do."""
    settings = Settings(freshness=FreshnessSettings(margin=margin))
    await a_connection(store, clock)
    await a_sync(store, clock, (N.ACCOUNTS, ""))
    clock.advance(seconds=margin * 24 * 3600 - 1)
    found = []
    for _ in range(2):
        async with store.reading() as unit:
            fresh = await questions.freshness_of(unit, ["c-1"], targets=settings.targets(), of={N.ACCOUNTS})
        by_api = any(one.stale for those in fresh.values() for one in those.values())
        found.append((by_api, bool((await look(store, settings)).counts.stale)))
        clock.advance(seconds=2)

    assert found == [(False, False), (True, True)]


async def test_listings_that_cannot_be_fresh_make_nothing_stale(store: Store, clock: ManualClock) -> None:
    """Of an account the consent does not show, of a resource it does not permit, of one that the LFI refuses."""
    await a_connection(store, clock)
    others = ((N.BALANCES, "other account"), (N.TRANSACTIONS, "acc"))
    await a_sync(store, clock, *BOTH, *others)
    clock.advance(hours=8)
    await a_sync(store, clock, *BOTH)
    clock.advance(hours=8)
    refused = {"refused_until": clock.now() + 24 * HOUR}
    await a_sync(store, clock, (N.ACCOUNTS, ""))
    async with store.writing() as unit:
        await unit.connection.execute(sa.update(cursor).where(cursor.c.resource == "balances").values(**refused))
        await unit.commit()
    clock.advance(hours=8)

    assert (await look(store)).counts.stale == 0
    clock.advance(hours=24)
    assert (await look(store)).counts.stale == 1


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"status": "Suspended"}, "suspended"),
        ({"paused_at": datetime(2026, 1, 1, tzinfo=UTC)}, "paused"),
        ({"status": "Revoked"}, "ended"),
        ({"expires_at": datetime(2026, 1, 1, tzinfo=UTC)}, "ended"),
        ({"status": "AwaitingAuthorization"}, "pending"),
        ({"needs_consent": "grant_lost"}, "needs_consent"),
    ],
)
async def test_a_connection_that_cannot_be_fresh_is_left_out(
    store: Store, clock: ManualClock, changes: dict[str, Any], state: str
) -> None:
    """However old its data is; who must consent again counts as failing, and is no cause."""
    await a_connection(store, clock, **changes)
    await a_sync(store, clock, *BOTH)
    clock.advance(hours=100)
    found = await look(store)

    assert (found.counts.connections, found.counts.stale, found.counts.left_out) == (0, 0, {state: 1})
    assert found.counts.failing == (state == "needs_consent")


async def test_a_connection_that_was_revoked_here_is_left_out(store: Store, clock: ManualClock) -> None:
    """From the moment it was: nothing is called for it any more."""
    await a_connection(store, clock)
    await store.atomically(lambda unit: unit.consents.order_revocation(ConsentId("c-1"), by="TPP", at=clock.now()))
    clock.advance(minutes=20)

    assert (await look(store)).counts.left_out == {"revoked": 1}


async def test_a_connection_that_was_never_read_is_stale_after_a_while(store: Store, clock: ManualClock) -> None:
    """A quarter of an hour; one outside the allow-list is left out."""
    await a_connection(store, clock)
    stale = []
    for minutes in (14, 2):
        clock.advance(minutes=minutes)
        stale.append((await look(store)).counts.stale)
    only = Settings(allow={"user_refs": ["another"]})  # type: ignore[arg-type]  # as the file gives it

    assert stale == [0, 1]
    assert (await look(store, only)).counts.left_out == {"not_allowed": 1}


# -- causes on record --------------------------------------------------------------------------------------------------


async def test_a_cause_has_a_beginning_and_an_end(store: Store, clock: ManualClock) -> None:
    """What it hit at worst is kept; the last cause's end is a fact."""
    await a_connection(store, clock)
    await a_sync(store, clock, *BOTH, error="lfi_unavailable")
    begun = clock.now()
    during = await note(store, clock)
    clock.advance(seconds=30)
    await note(store, clock)
    lasting = await kept(store)
    await a_sync(store, clock, *BOTH)
    after = await note(store, clock)
    async with store.reading() as unit:
        row = next(one for one in await unit.causes.recent() if one.key == "lfi_down:noor")

    assert "lfi_down:noor" in [one.key for one in during.causes]
    assert "lfi_down:noor" not in [one.key for one in after.causes]
    assert lasting == [("lfi_down:noor", False)]
    assert (row.began_at, row.ended_at, row.failing) == (begun, clock.now(), 1)
    last = (await look(store)).last_cause
    assert last is not None
    assert last.key == "lfi_down:noor"


async def test_a_gate_that_closes_again_and_again_is_one_cause(store: Store, clock: ManualClock) -> None:
    """It began with the first time; after a while of quiet the next is another one."""
    begun = clock.now()
    for _ in range(3):
        await store.atomically(lambda unit: unit.lfis.close_gate(NOOR, until=clock.now() + timedelta(seconds=5)))
        await note(store, clock)
        clock.advance(seconds=50)
        await note(store, clock)
    async with store.reading() as unit:
        rows = [one for one in await unit.causes.recent() if one.kind == "lfi_gated"]
    assert [(one.began_at, one.ended_at) for one in rows] == [(begun, clock.now())]


async def test_time_without_ticks_is_noted_when_they_come_again(store: Store, clock: ManualClock) -> None:
    """As one cause that is over; and causes are kept for the days of the settings."""
    await note(store, clock)
    stood = clock.now()
    clock.advance(minutes=20)
    await note(store, clock)
    async with store.reading() as unit:
        (row,) = [one for one in await unit.causes.recent() if one.kind == "standstill"]
    assert (row.began_at, row.ended_at) == (stood, clock.now())

    clock.advance(hours=24 * 8)
    await note(store, clock)
    assert [key for key, _ in await kept(store)].count("standstill") == 1  # that of the eight days alone


async def test_two_looks_at_once_keep_one_cause(store: Store, clock: ManualClock) -> None:
    """Several workers look."""
    await a_connection(store, clock)
    await a_sync(store, clock, *BOTH, error="lfi_unavailable")
    for _ in range(2):
        await note(store, clock)

    assert await kept(store) == [("lfi_down:noor", False)]


# -- what is usual, what was spent -------------------------------------------------------------------------------------


async def a_run(store: Store, at: datetime, *, took_ms: int, calls: int = 4, lfi: Slug = NOOR) -> None:
    ids = Interactions(at).new
    rows = [
        CallRow(
            lfi=lfi, consent_id="c", operation="GetAccountsAccountIdBalances", status=200, error=None,
            interaction_id=ids(), started_at=at, duration_ms=took_ms, bytes_in=1, attended=False,
            price_millifils=2_500,
        )
        for _ in range(calls)
    ]  # fmt: skip
    run = RunRow(
        connection_id=ConsentId("c"), consent_id=ConsentId("c"), lfi=lfi, gen=1, started_at=at,
        ended_at=at + timedelta(milliseconds=took_ms * calls), outcome="ok", error=None, calls=calls, pages=1,
        pages_unchanged=0, added=0, modified=0, removed=0, steps=[],
    )  # fmt: skip

    async def step(unit: UnitOfWork) -> None:
        await unit.runs.file([(run, rows)])

    await store.atomically(step)


async def test_an_lfi_that_answers_later_than_usual_is_slow(store: Store, clock: ManualClock) -> None:
    """What is usual was measured before, and is not measured while it is slow."""
    await a_connection(store, clock)
    for _ in range(3):
        await a_run(store, clock.now(), took_ms=80)
    await note(store, clock)
    clock.advance(hours=2)
    for _ in range(3):
        await a_run(store, clock.now(), took_ms=4_000)
    slow = await note(store, clock)
    status = await collect(SETTINGS, store, asks_broker=False)
    assert status.overview is not None

    assert [one.why for one in slow.causes if one.kind == "lfi_slow"] == ["balances takes 4 s, usually 80 ms"]
    assert {one.resource: one.median_ms for one in status.overview.usual} == {"": 320, "balances": 80}


async def test_what_was_spent_today_begins_at_midnight_in_dubai(store: Store, clock: ManualClock) -> None:
    """By LFI, in milli-fils; nothing of yesterday."""
    now = clock.now().replace(hour=22, minute=0)  # two in the morning there
    clock.advance(seconds=(now - clock.now()).total_seconds())
    await a_run(store, now - 3 * HOUR, took_ms=1)
    await a_run(store, now - HOUR, took_ms=1, calls=2)
    await a_run(store, now - HOUR, took_ms=1, lfi=Slug("hilal"))
    status = await collect(SETTINGS, store, asks_broker=False)

    assert [(one.lfi, one.calls, one.millifils) for one in status.spent_today] == [
        ("hilal", 4, 10_000),
        ("noor", 2, 5_000),
    ]
    assert status.spent_today[0].day == now.date() + timedelta(days=1)


# -- what is away ------------------------------------------------------------------------------------------------------


async def test_a_database_that_takes_no_writes_is_still_read(
    postgresql_url: str, open_store: Callable[..., Store]
) -> None:
    """A standby, or a primary before a failover is over."""
    name = sql.Identifier(urlsplit(postgresql_url).path[1:])
    with psycopg.connect(postgresql_url, autocommit=True) as admin:
        admin.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
    status = await collect(SETTINGS, open_store(postgresql_url, clock=None), asks_broker=False)

    assert (status.database.state, status.overview is not None) == (DatabaseState.READ_ONLY, True)
    assert [one.key for one in diagnose(status).causes] == ["database_read_only"]


async def test_a_file_that_takes_no_writes_is_still_read(sqlite_url: str, open_store: Callable[..., Store]) -> None:
    """A read-only SQLite file, as on a disk that the kernel mounted anew after an error."""
    store = open_store(sqlite_url, clock=None)
    await collect(SETTINGS, store, asks_broker=False)
    async with store.writing() as unit:
        await unit.connection.exec_driver_sql("PRAGMA query_only = on")
    status = await collect(SETTINGS, store, asks_broker=False)

    assert status.database.state is DatabaseState.READ_ONLY


async def test_a_full_file_is_named_as_that(sqlite_url: str, open_store: Callable[..., Store]) -> None:
    """SQLite says so when the file may not grow; what can be read is read."""
    store = open_store(sqlite_url, clock=None)
    async with store.writing() as unit:
        await unit.connection.exec_driver_sql("CREATE TABLE ballast (x)")
        await unit.commit()

    async def grow(unit: UnitOfWork) -> None:
        pages = (await unit.connection.exec_driver_sql("PRAGMA page_count")).scalar_one()
        await unit.connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        await unit.connection.exec_driver_sql("INSERT INTO ballast VALUES (zeroblob(10000000))")

    with pytest.raises(StoreUnavailableError) as caught:
        await store.atomically(grow, attempts=1)
    assert database_fact(caught.value).state is DatabaseState.FULL


@pytest.mark.parametrize(
    ("code", "state"),
    [
        ("53100", DatabaseState.FULL),
        ("SQLITE_FULL", DatabaseState.FULL),
        ("25006", DatabaseState.READ_ONLY),
        ("SQLITE_READONLY_DBMOVED", DatabaseState.READ_ONLY),
        ("08006", DatabaseState.AWAY),
        ("", DatabaseState.AWAY),
    ],
)
def test_what_a_code_says_of_the_database(code: str, state: DatabaseState) -> None:
    """PostgreSQL's and SQLite's."""
    error = StoreUnavailableError("database unavailable")
    error.reported = code

    assert database_fact(error).state is state


async def test_a_database_that_is_away_is_a_status_all_the_same() -> None:
    """One cause; nothing else is claimed."""
    status = await collect(SETTINGS, None, asks_broker=False, away=StoreUnavailableError("connection refused"))

    assert [(one.key, one.why) for one in diagnose(status).causes] == [("database_away", "connection refused")]
    assert (status.overview, diagnose(status).counts.connections) == (None, 0)


@pytest.fixture(params=[1024, 4])
def web_server(request: pytest.FixtureRequest) -> Iterator[int]:
    """Something that is no broker, and answers: all it was told, or its first line alone."""
    listening = socket.create_server(("127.0.0.1", 0))
    takes: int = request.param

    def serve() -> None:
        while True:
            try:
                taken, _ = listening.accept()
            except OSError:
                return
            with taken:
                taken.recv(takes)
                taken.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listening.getsockname()[1]
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join(timeout=5)


def test_what_is_no_broker_is_told_from_one_that_is_silent(web_server: int, tmp_path: Path) -> None:
    """By what it answers; nothing listens at the embedded broker's place."""
    foreign = ask_broker(Settings(broker_url=f"redis://127.0.0.1:{web_server}/0"))
    silent = ask_broker(Settings(data_dir=tmp_path))

    assert (foreign.state, silent.state, silent.embedded) == (BrokerState.FOREIGN, BrokerState.SILENT, True)

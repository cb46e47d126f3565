"""Calls per second of an LFI: alone, and over several processes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import redis.asyncio as redis
from structlog.testing import capture_logs

from syncworker.processes import EmbeddedBroker
from syncworker.schedule.limits import (
    FIRST_PATIENCE_S,
    PATIENCE_S,
    DatabaseLedger,
    LocalAdmission,
    RedisLedger,
    SharedAdmission,
    keeps_counts,
    redis_url,
)
from syncworker.standard.values import Slug
from syncworker.store.unit_of_work import Store
from tests.ground.clock import ManualClock

NOOR, WAHA = Slug("noor"), Slug("waha")


class Stopwatch:
    """A timer that moves only while somebody sleeps."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.at += seconds
        await asyncio.sleep(0)


@pytest.mark.unit
async def test_calls_keep_the_rate() -> None:
    """101 calls at 10 a second take 9.9 s: the first goes at once, one more as the burst, then one each 100 ms."""
    watch = Stopwatch()
    admission = LocalAdmission({NOOR: 10.0}, sleep=watch.sleep, timer=watch)

    for _ in range(101):
        await admission.admit(NOOR)

    assert watch.at - 1000 == pytest.approx(9.9)


@pytest.mark.unit
async def test_one_lfi_does_not_wait_for_another() -> None:
    """A crowded LFI leaves the others' rate alone."""
    watch = Stopwatch()
    admission = LocalAdmission({NOOR: 1.0, WAHA: 1.0}, sleep=watch.sleep, timer=watch)
    for _ in range(20):
        await admission.admit(NOOR)
    before = watch.at

    await admission.admit(WAHA)

    assert watch.at == before


@pytest.mark.unit
async def test_an_idle_time_is_not_saved_up() -> None:
    """An hour without calls does not let an hour's calls through at once."""
    watch = Stopwatch()
    admission = LocalAdmission({NOOR: 10.0}, sleep=watch.sleep, timer=watch)
    await admission.admit(NOOR)
    watch.at += 3600
    before = watch.at

    for _ in range(12):
        await admission.admit(NOOR)

    assert watch.at - before == pytest.approx(1.0)


@pytest.mark.unit
async def test_given_up_calls_leave_no_debt() -> None:
    """1,000 callers give up at once; who comes after them waits the patience at most, not 1,000 intervals."""
    watch = Stopwatch()
    admission = LocalAdmission({NOOR: 1.0}, sleep=asyncio.sleep, timer=watch)
    crowd = [asyncio.ensure_future(admission.admit(NOOR)) for _ in range(1000)]
    await asyncio.sleep(0)
    for waiting in crowd:
        waiting.cancel()
    await asyncio.gather(*crowd, return_exceptions=True)
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)
        watch.at += seconds

    admission._sleep = note
    await admission.admit(NOOR)

    assert sum(waits) <= 46


@pytest.mark.unit
@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis+socket:///data/broker.sock", "unix:///data/broker.sock?db=0"),
        ("redis+socket:///data/broker.sock?virtual_host=2", "unix:///data/broker.sock?db=2"),
        ("redis://127.0.0.1:6379/1", "redis://127.0.0.1:6379/1"),
        ("rediss://broker:6379/0", "rediss://broker:6379/0"),
    ],
)
def test_a_brokers_url_as_redis_spells_it(url: str, expected: str) -> None:
    """Celery and redis-py write the same socket differently."""
    assert redis_url(url) == expected


@pytest.mark.unit
@pytest.mark.parametrize(
    ("url", "expected"),
    [("redis://127.0.0.1/0", True), ("redis+socket:///b.sock", True), ("amqp://guest@127.0.0.1//", False)],
)
def test_which_brokers_keep_counts(url: str, expected: bool) -> None:
    """RabbitMQ has no counter to share: the database keeps them then."""
    assert keeps_counts(url) is expected


@pytest.mark.unit
async def test_a_share_of_the_rate_is_that_much_slower() -> None:
    """At a tenth of 10 calls a second, eleven calls take ten seconds; no burst is left."""
    watch = Stopwatch()
    admission = LocalAdmission({NOOR: 10.0}, sleep=watch.sleep, timer=watch)

    waited = [await admission.admit(NOOR, share=0.1) for _ in range(11)]

    assert waited == [False] + [True] * 10
    assert watch.at - 1000 == pytest.approx(10)


class Notebook:
    """A ledger of one process: what was reserved, with its instants."""

    def __init__(self, watch: Stopwatch, *, trip_s: float = 1.0) -> None:
        self.watch = watch
        self.trip_s = trip_s
        self.next_free = watch.at
        self.trips: list[int] = []

    async def reserve(self, lfi: Slug, *, rate: float, calls: int, patience: float) -> float | None:
        self.trips.append(calls)
        start = max(self.next_free, self.watch.at)
        if start - self.watch.at > patience:
            return None
        self.next_free = start + calls / rate
        return start - self.watch.at

    async def close(self) -> None:
        """Nothing to give back."""


@pytest.mark.unit
async def test_calls_reserved_and_not_made_in_their_time_are_lost() -> None:
    """A process that fell idle behind a trip of ten does not make the other nine at once an hour later."""
    watch = Stopwatch()
    shared = SharedAdmission(Notebook(watch), {NOOR: 10.0}, sleep=watch.sleep, timer=watch)
    await shared.admit(NOOR)
    watch.at += 3600
    before = watch.at

    for _ in range(11):
        await shared.admit(NOOR)

    assert watch.at - before == pytest.approx(1.0)


@pytest.mark.unit
async def test_a_place_that_is_free_now_is_taken_without_a_trip() -> None:
    """Ten of one trip, then none; none before the first trip, none that lies ahead, none that was left lying."""
    watch = Stopwatch()
    book = Notebook(watch, trip_s=0.01)
    shared = SharedAdmission(book, {NOOR: 1000.0, WAHA: 10.0}, sleep=watch.sleep, timer=watch)
    taken = [shared.take(NOOR)]
    await shared.admit(NOOR)
    taken += [shared.take(NOOR) for _ in range(10)]
    await shared.admit(NOOR)  # ten more, and the first of them is 10 ms away
    ahead = shared.take(NOOR)
    watch.at += 3600

    assert (taken, ahead, shared.take(NOOR), book.trips) == ([False] + [True] * 9 + [False], False, False, [10, 10])


@pytest.mark.unit
async def test_alone_a_place_is_taken_while_the_rate_has_one() -> None:
    """At ten a second: one, and one as the burst.  What was refused leaves no debt."""
    watch = Stopwatch()
    admission = LocalAdmission({NOOR: 10.0}, sleep=watch.sleep, timer=watch)

    taken = [admission.take(NOOR) for _ in range(5)]
    watch.at += 0.1

    assert (taken, admission.take(NOOR)) == ([True, True, False, False, False], True)


@pytest.mark.unit
async def test_a_token_finds_a_place_before_the_data_calls_that_have_none() -> None:
    """A crowd of 1,000 at one call a second: a token waits for the places taken, and not for the crowd."""
    watch = Stopwatch()
    waits: list[float] = []

    async def stand(seconds: float) -> None:
        waits.append(seconds)
        await asyncio.Event().wait()

    crowded = SharedAdmission(Notebook(watch, trip_s=0.1), {NOOR: 1.0}, sleep=stand, timer=watch)
    crowd = [asyncio.ensure_future(crowded.admit(NOOR)) for _ in range(1000)]
    for _ in range(10):
        await asyncio.sleep(0)
    waits.clear()

    token = asyncio.ensure_future(crowded.admit(NOOR, patience=FIRST_PATIENCE_S))
    while not waits:  # noqa: ASYNC110  it stands in the row after some turns of the loop
        await asyncio.sleep(0)
    for waiting in [*crowd, token]:
        waiting.cancel()
    await asyncio.gather(token, *crowd, return_exceptions=True)

    assert waits == [PATIENCE_S + 1]


@pytest.mark.store
async def test_processes_share_one_rate_in_the_database(
    database_url: str, open_store: Callable[..., Store], clock: ManualClock
) -> None:
    """Three processes without Redis: 60 calls at 50 a second reach over 1.18 s of one clock, none beside another.

    At 50 a second a trip of half a second is 25 calls, so three trips cover them.
    """
    ledgers = [DatabaseLedger(open_store(database_url)) for _ in range(3)]
    rate = {"rate": 50.0, "calls": 25, "patience": 15.0}

    waits = [await ledger.reserve(NOOR, **rate) for ledger in ledgers]  # type: ignore[arg-type]
    clock.advance(seconds=1.5)
    later = await ledgers[0].reserve(NOOR, **rate)  # type: ignore[arg-type]

    assert [*waits, later] == pytest.approx([0.0, 0.4, 0.9, 0.0])  # a burst of 0.1 s at the beginning


@pytest.mark.store
async def test_a_ledger_in_the_database_reserves_no_further_than_the_patience(
    database_url: str, open_store: Callable[..., Store]
) -> None:
    """At one call in ten seconds the fifth would lie 40 s ahead: it is not reserved, and leaves no debt."""
    ledger = DatabaseLedger(open_store(database_url))

    waits = [await ledger.reserve(NOOR, rate=0.1, calls=1, patience=30.0) for _ in range(6)]

    assert waits == [0.0, 10.0, 20.0, 30.0, None, None]


@pytest.mark.store
async def test_ledgers_at_once_reserve_one_behind_the_other(
    database_url: str, open_store: Callable[..., Store]
) -> None:
    """Eight processes, four trips each, all at once: 32 different instants."""
    ledgers = [DatabaseLedger(open_store(database_url)) for _ in range(8)]

    waits = await asyncio.gather(
        *(ledger.reserve(NOOR, rate=4.0, calls=1, patience=15.0) for ledger in ledgers for _ in range(4))
    )

    assert sorted(wait for wait in waits if wait is not None) == [number / 4 for number in range(32)]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    """A Valkey of its own."""
    with EmbeddedBroker(tmp_path / "data") as running:
        yield running


@pytest.fixture
async def shared(broker: EmbeddedBroker) -> AsyncIterator[Callable[..., SharedAdmission]]:
    """`shared(rates)`: one more process's admission on the same Valkey."""
    opened: list[SharedAdmission] = []

    def one_more(rates: dict[Slug, float], **changes: Callable[[float], Awaitable[None]]) -> SharedAdmission:
        opened.append(SharedAdmission(RedisLedger(broker.url), rates, **changes))  # type: ignore[arg-type]
        return opened[-1]

    yield one_more
    for each in opened:
        await each.close()


@pytest.mark.live
async def test_processes_share_one_rate(shared: Callable[..., SharedAdmission]) -> None:
    """Three processes together make 50 calls a second, not 150."""
    loop = asyncio.get_running_loop()
    processes = [shared({NOOR: 50.0}) for _ in range(3)]
    begun = loop.time()

    await asyncio.gather(*(process.admit(NOOR) for process in processes for _ in range(20)))

    took = loop.time() - begun
    assert took >= 1.0  # 60 calls; 6 of them are the burst


@pytest.mark.live
async def test_a_high_rate_costs_few_trips(shared: Callable[..., SharedAdmission], broker: EmbeddedBroker) -> None:
    """2,000 calls at 20,000 a second: reserved 400 at a time, by the server's own count of scripts run."""
    fast = shared({NOOR: 20_000.0})

    await asyncio.gather(*(fast.admit(NOOR) for _ in range(2000)))

    async with redis.Redis.from_url(broker.redis_url) as server:
        run = await server.info("commandstats")
    assert run["cmdstat_evalsha"]["calls"] - run["cmdstat_evalsha"]["failed_calls"] == 5


@pytest.mark.live
async def test_without_redis_the_rate_is_kept_alone(tmp_path: Path) -> None:
    """A broker that vanished stops no call, and frees none: this process keeps the rate by itself, and says so once."""
    watch = Stopwatch()
    ledger = RedisLedger(f"redis+socket://{tmp_path}/none.sock")
    lonely = SharedAdmission(ledger, {NOOR: 10.0}, sleep=watch.sleep, timer=watch)

    with capture_logs() as said:
        for _ in range(21):
            await lonely.admit(NOOR)
    await lonely.close()

    assert watch.at - 1000 == pytest.approx(1.9)
    assert [(one["event"], one["why"]) for one in said] == [
        ("shared limits away, each process keeps the rate alone", "redis (ConnectionError)")
    ]

"""Calls per second of an LFI: alone, and over several processes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import redis.asyncio as redis

from syncworker.processes import EmbeddedBroker
from syncworker.schedule.limits import LocalAdmission, SharedAdmission, admission, redis_url
from syncworker.standard.values import Slug

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
@pytest.mark.parametrize("url", [None, "amqp://guest@127.0.0.1//"])
def test_without_redis_each_process_counts_alone(url: str | None) -> None:
    """RabbitMQ has no counter to share."""
    assert isinstance(admission(url, {}), LocalAdmission)


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
        opened.append(SharedAdmission(broker.url, rates, **changes))  # type: ignore[arg-type]
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
async def test_without_redis_the_rate_is_kept_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A broker that vanished stops no call, and frees none: this process keeps the rate by itself, and says so once."""
    watch = Stopwatch()
    lonely = SharedAdmission(f"redis+socket://{tmp_path}/none.sock", {NOOR: 10.0}, sleep=watch.sleep, timer=watch)

    with caplog.at_level(logging.WARNING):
        for _ in range(21):
            await lonely.admit(NOOR)
    await lonely.close()

    assert watch.at - 1000 == pytest.approx(1.9)
    assert [record.message for record in caplog.records] == [
        "limits: redis is away, each process keeps the rate alone (ConnectionError)"
    ]

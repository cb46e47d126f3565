"""What one worker learned of an LFI, all workers obey: gate and breaker through the database, on both."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest

from syncworker.errors import GateClosedError, LFIBreakerOpenError
from syncworker.lfi.transport import Call
from syncworker.schedule.breaker import IN_A_ROW, RETRIES_MIN
from syncworker.schedule.claims import Dispatcher
from syncworker.schedule.limits import LocalAdmission
from syncworker.schedule.traffic import LOOK_EVERY_S, TrafficControl
from syncworker.standard.operations import OperationClass
from syncworker.standard.values import Slug
from syncworker.store.unit_of_work import Store
from syncworker.store.work import WorkKind
from tests.ground.clock import ManualClock
from tests.ground.postgres import free_port

pytestmark = pytest.mark.store

NOOR, WAHA = Slug("noor"), Slug("waha")
DATA, TOKEN, CONSENT = OperationClass.DATA, OperationClass.TOKEN, OperationClass.CONSENT
REFRESH = "CreateAccessTokenRequest"


class Worker:
    """One process's limits and dispatcher; its timer follows the one clock."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store = store
        self.clock = clock
        self.slept: list[float] = []

        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)
            clock.advance(seconds=seconds)

        timer = lambda: clock.now().timestamp()  # noqa: E731
        admission = LocalAdmission({NOOR: 10.0, WAHA: 10.0}, sleep=sleep, timer=timer)
        self.control = TrafficControl(store, admission, clock=clock, timer=timer)
        self.dispatcher = Dispatcher(store, name="worker")

    async def hears(
        self,
        status: int | None,
        *,
        lfi: Slug = NOOR,
        operation: str = "GetAccounts",
        code: str = "",
        times: int = 1,
        **headers: str,
    ) -> None:
        """Attempts that ended so, and what was learned of them written."""
        call = Call(
            operation=operation,
            method="POST" if operation.startswith("Create") else "GET",
            status=status,
            interaction_id="i-1",
            started_at=self.clock.now(),
            duration_ms=1,
            bytes_in=0,
            attended=False,
            error_code=code or ("" if status == 200 else f"http_{status}" if status else "timeout"),
            price_class="free",
        )
        for _ in range(times):
            self.control.note(lfi, call, {name.replace("_", "-"): value for name, value in headers.items()})
        await self.control.settled()

    async def passes(self, operations: OperationClass = DATA, lfi: Slug = NOOR) -> str:
        """Whether a call may go: `yes`, or the error and how long."""
        try:
            waiting = self.control.of(lfi).admit(operations)
            if waiting is not None:
                await waiting
        except (GateClosedError, LFIBreakerOpenError) as error:
            return f"{error.code} {error.retry_after:.0f}"
        return "yes"

    async def claims(self, kind: WorkKind = WorkKind.SYNC, *, slots: int = 20) -> dict[str, int]:
        """What a tick claims, by LFI; given back at once."""
        batches = await self.dispatcher.tick({NOOR: slots, WAHA: slots})
        await self.dispatcher.give_back([hint for batch in batches for hint in batch.claims])
        return dict(Counter(batch.lfi for batch in batches if batch.kind is kind for _ in batch.claims))


@pytest.fixture
async def start(
    database_url: str, open_store: Callable[..., Store], clock: ManualClock
) -> AsyncIterator[Callable[[], Worker]]:
    """`start()`: one more worker process on the same database."""
    started: list[Worker] = []

    def one_more() -> Worker:
        started.append(Worker(open_store(database_url), clock))
        return started[-1]

    yield one_more
    for worker in started:
        await worker.control.close()


async def due(worker: Worker, kind: WorkKind = WorkKind.SYNC, count: int = 20) -> None:
    async with worker.store.writing() as unit:
        for lfi in (NOOR, WAHA):
            for number in range(count):
                await unit.work.schedule(kind, f"{lfi}-{number}", lfi=lfi, due_at=worker.clock.now())
        await unit.commit()


async def test_a_429_that_one_worker_hears_stops_both(start: Callable[[], Worker], clock: ManualClock) -> None:
    """For the whole LFI and every class, as long as it said; another LFI goes on."""
    one, other = start(), start()
    assert await other.passes() == "yes"

    await one.hears(429, retry_after="90")
    clock.advance(seconds=LOOK_EVERY_S)

    assert [await one.passes(), await other.passes(), await other.passes(TOKEN), await other.passes(lfi=WAHA)] == [
        "lfi_gate_closed 89",
        "lfi_gate_closed 89",
        "lfi_gate_closed 89",
        "yes",
    ]


async def test_a_429_closes_the_gate_before_it_is_written(start: Callable[[], Worker]) -> None:
    """The next call of this process does not wait for the database to know."""
    worker = start()
    await worker.passes()
    call_ended = worker.hears(429, retry_after="90")
    task = asyncio.ensure_future(call_ended)
    await asyncio.sleep(0)

    assert await worker.passes() == "lfi_gate_closed 90"
    await task


async def test_what_nothing_holds_back_does_not_wait(start: Callable[[], Worker], clock: ManualClock) -> None:
    """At once while the view is fresh and the rate has room; not beyond the rate, with an old view, after a 429."""
    worker = start()
    noor = worker.control.of(NOOR)
    await worker.passes()

    at_once = [noor.admit(DATA) is None]
    full = noor.admit(DATA)  # one, and one as the burst: the third has to wait
    clock.advance(seconds=LOOK_EVERY_S)
    old = noor.admit(DATA)
    await worker.passes()
    clock.advance(seconds=0.5)
    at_once.append(noor.admit(DATA) is None)
    await worker.hears(429, retry_after="90")
    gated = noor.admit(DATA)
    for waiting in (full, old, gated):
        assert asyncio.iscoroutine(waiting)
        waiting.close()

    assert at_once == [True, True]


async def test_a_gate_opens_gradually(start: Callable[[], Worker], clock: ManualClock) -> None:
    """Closed for 60 s, it takes 60 s to open: 2, 11 and 20 rows of 20 are claimed; the others keep waiting."""
    worker = start()
    await due(worker)
    await worker.hears(429, retry_after="60")

    claimed = [(await worker.claims()).get(NOOR, 0)]
    for _ in range(3):
        clock.advance(seconds=60 if len(claimed) == 1 else 30)
        claimed.append((await worker.claims()).get(NOOR, 0))

    assert claimed == [0, 2, 11, 20]


async def test_calls_are_slower_while_the_gate_opens(start: Callable[[], Worker], clock: ManualClock) -> None:
    """A tenth of ten calls a second: the second call waits most of a second."""
    worker = start()
    await worker.hears(429, retry_after="60")
    clock.advance(seconds=60)

    await worker.passes()
    await worker.passes()

    assert worker.slept == [pytest.approx(1.0, abs=0.05)]


async def test_an_lfi_that_does_not_answer_is_left_alone_by_both(
    start: Callable[[], Worker], clock: ManualClock
) -> None:
    """Ten timeouts in one worker: no data call of either, none of its syncs claimed; its tokens and others go on."""
    one, other = start(), start()
    await due(one)
    await due(one, WorkKind.TOKEN)
    assert await other.passes() == "yes"

    await one.hears(None, times=IN_A_ROW)
    clock.advance(seconds=LOOK_EVERY_S)

    assert [await one.passes(), await other.passes(), await other.passes(TOKEN), await other.passes(lfi=WAHA)] == [
        "lfi_breaker_open 14",
        "lfi_breaker_open 14",
        "yes",
        "yes",
    ]
    assert await other.claims() == {WAHA: 20}
    assert await other.claims(WorkKind.TOKEN) == {NOOR: 20, WAHA: 20}


async def test_after_its_wait_one_row_is_the_trial(start: Callable[[], Worker], clock: ManualClock) -> None:
    """A failure doubles the wait; a success lets the others follow, over a minute."""
    one, other = start(), start()
    await due(one)
    await one.hears(503, times=IN_A_ROW)
    clock.advance(seconds=15)
    first_trial = await other.claims()
    assert await other.passes() == "yes"
    await other.hears(503)
    clock.advance(seconds=15)
    kept_back = (await one.claims(), await one.passes())
    clock.advance(seconds=15)
    second_trial = await one.claims()
    await one.passes()
    await one.hears(200)

    assert (first_trial, kept_back, second_trial) == (
        {NOOR: 1, WAHA: 20},
        ({WAHA: 20}, "lfi_breaker_open 15"),
        {NOOR: 1, WAHA: 20},
    )
    claimed = []
    for seconds in (0, 30, 30):
        clock.advance(seconds=seconds)
        claimed.append((await other.claims())[NOOR])
    assert claimed == [2, 11, 20]


async def test_only_one_row_is_on_trial_at_a_time(start: Callable[[], Worker], clock: ManualClock) -> None:
    """While the trial's claim is open no second one goes, from whichever worker."""
    one, other = start(), start()
    await due(one)
    await one.hears(503, times=IN_A_ROW)
    clock.advance(seconds=15)

    batches = [batch for batch in await one.dispatcher.tick({NOOR: 20}) if batch.kind is WorkKind.SYNC]

    assert [len(batch.claims) for batch in batches] == [1]
    assert await other.claims() == {WAHA: 20}


async def test_a_consents_refusals_never_trip_it(start: Callable[[], Worker]) -> None:
    """However many 403 and 404 there are, the LFI answers."""
    worker = start()

    await worker.hears(403, code="Consent.Suspended", times=100)

    assert await worker.passes() == "yes"


async def test_who_does_not_know_us_is_one_lfis_trouble_and_not_each_consents(
    start: Callable[[], Worker], clock: ManualClock
) -> None:
    """One `invalid_client`: no token is asked for at this LFI for a minute, by anyone; data flows while tokens live."""
    one, other = start(), start()
    await due(one, WorkKind.TOKEN)

    await one.hears(400, operation=REFRESH, code="invalid_client")
    async with one.store.reading() as unit:
        ((key, held),) = (await unit.breakers.all()).items()

    assert (key, held.reason, held.until - held.opened_at) == (
        (NOOR, TOKEN),
        "client_rejected:invalid_client",
        timedelta(minutes=1),
    )
    assert [await other.passes(TOKEN), await other.passes(DATA)] == ["lfi_breaker_open 60", "yes"]
    assert await other.claims(WorkKind.TOKEN) == {WAHA: 20}
    clock.advance(minutes=1)
    assert await other.claims(WorkKind.TOKEN) == {NOOR: 1, WAHA: 20}


async def test_an_operator_who_mended_it_need_not_wait(start: Callable[[], Worker]) -> None:
    """The wait ends and one row is the trial; of another LFI, and of what is closed, nothing changes."""
    worker = start()
    await due(worker, WorkKind.TOKEN)
    for lfi in (NOOR, WAHA):
        await worker.hears(400, lfi=lfi, operation=REFRESH, code="unauthorized_client")

    async with worker.store.writing() as unit:
        tried = [await unit.breakers.try_now(NOOR), await unit.breakers.try_now(NOOR)]
        await unit.commit()

    assert (tried, await worker.claims(WorkKind.TOKEN)) == ([1, 0], {NOOR: 1})


async def test_workers_that_see_the_same_outage_trip_it_once(start: Callable[[], Worker]) -> None:
    """Three workers' failures at the same time are one trip: the waits do not add up."""
    workers = [start() for _ in range(3)]
    await asyncio.gather(*(worker.hears(None, times=IN_A_ROW) for worker in workers))

    async with workers[0].store.reading() as unit:
        held = await unit.breakers.get(NOOR, DATA)

    assert held is not None
    assert held.trips == 1


async def test_a_backlog_of_tokens_waits_in_the_table(start: Callable[[], Worker]) -> None:
    """At one call in four seconds fifteen refreshes begin within a minute: no more are claimed; no lease runs out."""
    worker = start()
    await due(worker, WorkKind.TOKEN, count=50)

    batches = await worker.dispatcher.tick({NOOR: 50}, rates={NOOR: 0.25})

    assert [(batch.kind, len(batch.claims)) for batch in batches] == [(WorkKind.TOKEN, 15)]


async def test_the_retry_budget_is_each_lfis(start: Callable[[], Worker]) -> None:
    """One LFI's retries take nothing from another's."""
    worker = start()
    noor, waha = worker.control.of(NOOR), worker.control.of(WAHA)

    granted = sum(noor.may_retry() for _ in range(100))

    assert (granted, waha.may_retry()) == (RETRIES_MIN, True)


async def test_without_the_database_what_was_known_holds(start: Callable[[], Worker], clock: ManualClock) -> None:
    """Calls go on, and what this process learns it obeys."""
    worker = start()
    await worker.passes()
    await worker.hears(429, lfi=WAHA, retry_after="90")

    worker.control._store = Store(f"postgresql://user@127.0.0.1:{free_port()}/none")
    clock.advance(seconds=LOOK_EVERY_S)

    assert [await worker.passes(), await worker.passes(lfi=WAHA)] == ["yes", "lfi_gate_closed 89"]

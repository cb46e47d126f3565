"""Observation of a call never changes its outcome: each observer is made to fail during every family of calls."""

import ast
import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec
import pytest
import structlog
from structlog.testing import capture_logs

import syncworker
from syncworker.errors import RefusedError
from syncworker.lfi.api import LFIClient
from syncworker.lfi.observing import Observer, Observing
from syncworker.lfi.traffic import FreeTraffic
from syncworker.lfi.transport import Answer, Attempts, Call, Lane, Lines, Request
from syncworker.schedule.clocks import ClockWatch
from syncworker.schedule.limits import LocalAdmission
from syncworker.schedule.traffic import TrafficControl
from syncworker.standard.resources import BY_NAME, ResourceName
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store.unit_of_work import Store
from syncworker.wiring import Journal
from tests.consents.house import LFI, House, config_of, request

pytestmark = pytest.mark.flow


def fails(*_args: object, **_kwargs: object) -> NoReturn:
    """Any observer with a bug."""
    raise ValueError("an observer failed, and its text may hold a secret")


class FailingTraffic(FreeTraffic):
    """Limits that cannot learn."""

    def note(self, call: Call, headers: Mapping[str, str]) -> None:
        fails(call, headers)


def failing_log(_logger: object, _method: str, event: Any) -> Any:
    """A processor that takes no line about a call."""
    if event["event"] == "lfi call":
        fails()
    return event


@pytest.fixture
def observing() -> Observing:
    return Observing()


Made = Callable[[House, Observing], LFIClient]


def _with(traffic: Callable[[House, Observing], Any]) -> Made:
    def make(house: House, observing: Observing) -> LFIClient:
        return LFIClient(
            config_of(house.bank.facts()), clock=house.clock, traffic=traffic(house, observing), observing=observing
        )

    return make


def _free(_house: House, _observing: Observing) -> FreeTraffic:
    return FreeTraffic()


def _failing(_house: House, _observing: Observing) -> FreeTraffic:
    return FailingTraffic()


def _with_clocks(house: House, observing: Observing) -> Any:
    control = TrafficControl(house.store, LocalAdmission({}), heard=fails, observing=observing, clock=house.clock)
    return control.of(LFI)


CLIENTS: Final[Mapping[Observer, Made]] = {
    Observer.TRAFFIC: _with(_failing),
    Observer.CLOCKS: _with(_with_clocks),
    Observer.CALLS: _with(_free),
}
"""Observers of calls as the parts have them; `code` and `log` are made to fail below, and the journal by itself."""


@pytest.mark.parametrize("observer", list(CLIENTS))
async def test_what_was_answered_stands_and_the_token_is_stored(
    observer: Observer, house: House, observing: Observing
) -> None:
    """PAR, code exchange, refresh, consent and data calls come home whole, and each failure is counted."""
    client = CLIENTS[observer](house, observing)
    house.stack.push_async_callback(client.close)

    async def clients(_: Slug) -> LFIClient:
        return client

    told = fails if observer is Observer.CALLS else lambda *_: None
    authorizer = await house.authorizer(on_call=told)
    authorizer._clients = clients
    vault = await house.vault(on_call=told)
    vault._clients = clients
    counted = []

    started = await authorizer.begin(LFI, request(house.clock), user_ref="customer-0")
    counted.append(observing.caught[observer])
    completed = await authorizer.complete(await house.bank.approve(started.url, user=house.bank.users[0]))
    counted.append(observing.caught[observer])
    first = await house.token(completed.consent_id)
    house.clock.advance(minutes=9)
    await vault.refresh(completed.consent_id, reason="asked")
    counted.append(observing.caught[observer])
    view = await client.read_consent(completed.consent_id, calls=fails)
    counted.append(observing.caught[observer])
    pages = client.pages(
        BY_NAME[ResourceName.ACCOUNTS],
        None,
        version=Version.V2_1,
        params={},
        token=vault.source(completed.consent_id),
        calls=fails,
    )
    read = [page.number async for page in pages]
    counted.append(observing.caught[observer])

    assert (completed.status, view.status, read) == ("Authorized", "Authorized", [1])
    assert (await house.token(completed.consent_id)).version == first.version + 1
    assert await house.stored_is_current(completed.consent_id)
    if observer is Observer.CALLS:  # an exchange and a refresh file their calls themselves
        assert counted.pop(2) == counted.pop(1) == counted[0]
    assert counted == sorted(set(counted))  # it rose with every family
    assert counted[0] > 0


@pytest.mark.parametrize("lane", list(Lane))
@pytest.mark.parametrize("observer", [Observer.CODE, Observer.LOG, Observer.TRAFFIC, Observer.CALLS])
async def test_on_every_lane_a_refusal_is_still_the_refusal(
    observer: Observer, lane: Lane, house: House, observing: Observing
) -> None:
    """The answer that is no success is read, logged and counted by more observers; none of them takes it away."""
    config = config_of(house.bank.facts())
    lines = Lines(config, clock=house.clock)
    house.stack.push_async_callback(lines.close)
    heard = fails if observer is Observer.TRAFFIC else lambda *_: None
    attempts = Attempts(LFI, lines, clock=house.clock, heard=heard, observing=observing)
    asked = Request(
        operation="GetX",
        method="GET",
        url=f"{config.base_urls[Version.V2_1]}/none",
        lane=lane,
        deadline=3.0,
        calls=fails if observer is Observer.CALLS else lambda _: None,
        code_of=fails if observer is Observer.CODE else lambda _: "",
    )
    before = structlog.get_config()
    if observer is Observer.LOG:
        structlog.configure(processors=[failing_log, *before["processors"]], cache_logger_on_first_use=False)
    try:
        answer = await attempts.make(asked)
    finally:
        structlog.configure(**before)

    assert isinstance(answer, Answer)
    assert answer.status >= 400
    assert observing.caught == {observer: 1}


async def test_a_journal_that_cannot_be_written_does_no_harm(store: Store, observing: Observing, house: House) -> None:
    """What was done is done, whatever is noted about it."""
    journal = Journal(store, observing)
    call = Call(
        operation="\ud800",  # no text that a driver writes
        method="GET",
        status=200,
        interaction_id="i",
        started_at=house.clock.now(),
        duration_ms=1,
        bytes_in=0,
        attended=False,
        error_code="",
        price_class="free",
    )
    journal.note(LFI, ConsentId("c"), call)
    await journal.flush()

    assert observing.caught == {Observer.JOURNAL: 1}


def test_every_observer_is_made_to_fail_here() -> None:
    """A new one has to be added to the tests above."""
    assert {*CLIENTS, Observer.CODE, Observer.LOG, Observer.JOURNAL} == set(Observer)


def test_observers_are_called_behind_the_wrapper_alone() -> None:
    """In the package nothing else calls what `Attempts` and `TrafficControl` tell."""
    told = {"_heard", "calls", "code_of", "_tell"}
    found = [
        f"{path.name}:{node.lineno}"
        for path in (Path(syncworker.__file__).parent / "lfi" / "transport.py",
                     Path(syncworker.__file__).parent / "schedule" / "traffic.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in told
    ]  # fmt: skip
    assert found == []


def test_what_is_caught_is_told_once_and_without_its_text(observing: Observing) -> None:
    """Once for each observer and type of exception; every one is counted."""
    with capture_logs() as lines:
        for _ in range(3):
            observing.tell(Observer.CLOCKS, fails)
        observing.tell(Observer.CALLS, fails)

    assert [(line["observer"], line["error"]) for line in lines] == [("clocks", "ValueError"), ("calls", "ValueError")]
    assert "secret" not in str(lines)
    assert observing.caught == {Observer.CLOCKS: 3, Observer.CALLS: 1}


@pytest.mark.parametrize("end", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
async def test_a_cancellation_and_the_end_of_the_process_pass(end: type[BaseException], observing: Observing) -> None:
    """They are no fault of an observer."""

    def ends() -> NoReturn:
        raise end

    async def ends_later() -> NoReturn:
        raise end

    with pytest.raises(end):
        observing.tell(Observer.CALLS, ends)
    with pytest.raises(end):
        await observing.wait(Observer.JOURNAL, ends_later())
    assert observing.caught.total() == 0


async def test_failures_of_observers_are_seen_with_the_worker(store: Store) -> None:
    """Filed with the process; a process that begins anew under the same name begins at zero."""
    async with store.writing() as unit:
        await unit.workers.arrive("host/1")
        await unit.workers.observers_failed("host/1", 3)
        await unit.commit()
    async with store.writing() as unit:
        failed = await unit.workers.get("host/1")
        await unit.workers.arrive("host/1")
        anew = await unit.workers.get("host/1")
    assert failed is not None
    assert anew is not None
    assert (failed.observers_failed, anew.observers_failed) == (3, 0)


@pytest.mark.parametrize("date", ["Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT", "x", "9" * 400])
async def test_a_clock_of_any_year_is_compared(date: str, house: House) -> None:
    """The `Date` of the year 9999 once took a token away."""
    watch = ClockWatch("here")
    watch.note("raw", sent=house.clock.now(), took_s=0.1, headers={"date": date})
    now = house.clock.now() + timedelta(seconds=1)
    filed = await watch.file(house.store, now=now, sent=now, database=now)
    assert {one.peer for one in filed} >= {"raw"} if "GMT" in date else filed


async def test_the_words_of_a_refusal_are_on_record_until_the_personal_data_goes(house: House) -> None:
    """With the call, by the consent; erased, the call stays and its words are gone."""
    completed = await house.consented()
    client = await house.client()
    calls: list[Call] = []
    with pytest.raises(RefusedError) as refused:
        await client.read_consent(ConsentId("unknown"), calls=calls.append)
    (call,) = [one for one in calls if one.status and one.status >= 400]
    journal = Journal(house.store, Observing())
    journal.note(LFI, completed.consent_id, call)
    journal.note(LFI, completed.consent_id, msgspec.structs.replace(call, reason=""))
    await journal.flush()

    async with house.store.reading() as unit:
        said = await unit.runs.said([completed.consent_id], limit=5)
        count = await unit.erasure.count(completed.connection_id)
    async with house.store.writing() as unit:
        erased = await unit.erasure.erase(completed.connection_id)
        await unit.commit()
    async with house.store.reading() as unit:
        after = await unit.runs.said([completed.consent_id], limit=5)

    assert call.reason
    assert [one.reason for one in said] == [call.reason] == [refused.value.lfi_reason]
    assert count["call.reason"] == erased["call.reason"] == 1
    assert after == []

"""Whose clock is wrong: bounds from one exchange, the narrowest of many, filed once an hour."""

from datetime import UTC, datetime, timedelta

import pytest
import structlog

from syncworker.schedule.clocks import ASKED_AGAIN, ClockWatch, compare, date_of
from syncworker.store.clocks import DATABASE, ClockOffset
from syncworker.store.unit_of_work import Store
from tests.ground.clock import ManualClock

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def headers(moment: datetime, **more: str) -> dict[str, str]:
    return {"date": moment.strftime("%a, %d %b %Y %H:%M:%S GMT"), **more}


@pytest.mark.unit
@pytest.mark.parametrize(
    ("theirs", "took", "wrong"),
    [
        pytest.param(timedelta(), 0.2, False, id="the same time"),
        pytest.param(4 * SECOND, 0.2, False, id="four seconds are tolerated"),
        pytest.param(7 * SECOND, 0.2, True, id="the bank is ahead of us"),
        pytest.param(-7 * SECOND, 0.2, True, id="we are ahead of the bank"),
        pytest.param(7 * SECOND, 20.0, False, id="a slow answer proves little"),
        pytest.param(60 * SECOND, 20.0, True, id="a slow answer proves a minute"),
    ],
)
def test_an_offset_is_called_wrong_only_when_it_is_certain(theirs: timedelta, took: float, wrong: bool) -> None:
    """`Date` counts whole seconds and was written somewhere between asking and the last byte."""
    received = NOON + timedelta(seconds=took)
    said = (NOON + theirs).replace(microsecond=0)
    found = compare(NOON, received, said=said, step=SECOND)

    offset = ClockOffset(host="here", peer="noor", offset=found.offset, within=found.within, measured_at=NOON)
    assert (offset.wrong, found.low <= theirs <= found.high) == (wrong, True)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(headers(NOON), NOON, id="as the standard writes it"),
        pytest.param({}, None, id="no Date"),
        pytest.param({"date": "soon"}, None, id="no date in it"),
        pytest.param(headers(NOON, age="30"), None, id="a cache's copy tells when the copy was made"),
        pytest.param(headers(NOON, age="0"), NOON, id="fresh from a cache"),
    ],
)
def test_reading_a_date(given: dict[str, str], expected: datetime | None) -> None:
    """What cannot be read is passed over."""
    assert date_of(given) == expected


@pytest.mark.store
async def test_the_narrowest_comparison_is_filed_and_a_wrong_clock_said(store: Store, clock: ManualClock) -> None:
    """Two answers of an LFI that is a minute ahead: the quick one counts; the log names host, peer and offset."""
    watch = ClockWatch("here")
    now = clock.now()
    watch.note("noor", sent=now, took_s=10, headers=headers(now + 60 * SECOND))
    watch.note("noor", sent=now, took_s=0, headers=headers(now + 60 * SECOND))
    with structlog.testing.capture_logs() as said:
        await watch.file(store, now=now, sent=now, database=now)
    async with store.reading() as unit:
        kept = await unit.clocks.list()

    half = timedelta(seconds=0.5)
    assert [(one.host, one.peer, one.offset, one.within) for one in kept] == [
        ("here", DATABASE, timedelta(), timedelta()),
        ("here", "noor", 60 * SECOND + half, half),
    ]
    assert [one["event"] for one in said if one.get("peer") == "noor"] == ["clocks are apart"]


@pytest.mark.store
async def test_it_is_filed_once_an_hour(store: Store, clock: ManualClock) -> None:
    """In between nothing is written, however many answers come."""
    watch = ClockWatch("here")
    filed = []
    for minutes in (0, 30, 61):
        now = clock.now() + timedelta(minutes=minutes)
        watch.note("noor", sent=now, took_s=0, headers=headers(now))
        filed.append([one.peer for one in await watch.file(store, now=now, sent=now, database=now)])

    assert filed == [[DATABASE, "noor"], [], [DATABASE, "noor"]]


@pytest.mark.store
async def test_a_clock_that_jumps_is_filed_at_once_and_so_is_its_return(store: Store, clock: ManualClock) -> None:
    """Ours leaves the database's, and comes back: each time all comparisons are made anew, those with LFIs too."""
    watch = ClockWatch("here")
    now, filed, wrong = clock.now(), [], []
    for ahead in (0, 0, 30, 30, 0, 0):
        now += 5 * SECOND
        ours = now + ahead * SECOND
        watch.note("noor", sent=ours, took_s=0, headers=headers(now))
        filed.append(len(await watch.file(store, now=ours, sent=ours, database=now)))
        watch.note("noor", sent=ours, took_s=0, headers=headers(now))
        await watch.file(store, now=ours, sent=ours, database=now)
        async with store.reading() as unit:
            wrong.append({one.peer for one in await unit.clocks.list() if one.wrong})

    assert filed == [2, 0, 1, 0, 1, 0]
    assert wrong == [set(), set(), {DATABASE, "noor"}, {DATABASE, "noor"}, set(), set()]


@pytest.mark.unit
def test_only_who_was_not_heard_is_asked_and_not_again_at_once() -> None:
    """Data flows: no call more.  An LFI that does not answer is left alone for a while."""
    watch = ClockWatch("here")
    watch.note("noor", sent=NOON, took_s=0, headers=headers(NOON))

    asked = [watch.unheard(["noor", "waha"], now=NOON + late) for late in (timedelta(), SECOND, ASKED_AGAIN)]

    assert asked == [["waha"], [], ["waha"]]

"""Beat's schedule by the monotonic clock, and its signs of life."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time

from syncworker import beat, private
from syncworker.broker import app
from syncworker.store.life_sign import LifeSign
from syncworker.store.unit_of_work import Store

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


class Noted(beat.Scheduler):
    """Notes what it would publish."""

    producer = None

    def __init__(self, timer: Any) -> None:
        self.sent: list[float] = []
        super().__init__(app, timer=timer)

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        self.sent.append(self._timer())


class Timer:
    """A monotonic clock moved by hand."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


@pytest.mark.unit
@pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(hours=-1)])
def test_the_wall_clock_has_no_part_in_the_schedule(jump: timedelta) -> None:
    """Set an hour ahead or back between two ticks: the next tick goes out when its five seconds are over."""
    timer = Timer()
    scheduler = Noted(timer)
    with freeze_time(NOON) as wall:
        scheduler.tick()
        wall.tick(jump)
        waits = []
        for _ in range(11):
            timer.at += 1
            waits.append(scheduler.tick())

    assert scheduler.sent == [100.0, 105.0, 110.0]
    assert all(0 <= wait <= 1 for wait in waits)


@pytest.mark.unit
def test_ticks_a_pause_swallowed_are_not_made_up_for() -> None:
    """A machine that slept for a minute sends one tick, not twelve."""
    timer = Timer()
    scheduler = Noted(timer)
    scheduler.tick()

    timer.at += 60
    scheduler.tick()
    scheduler.tick()

    assert scheduler.sent == [100.0, 160.0]


@pytest.mark.unit
def test_the_file_says_how_long_ago_a_tick_went_out(tmp_path: Path) -> None:
    """Whatever the wall clock says; one that was written before the machine began anew says nothing."""
    file = beat.file_of(tmp_path, 7)
    private.replace_file(file, "50.0")

    assert beat.ticked_ago(file, timer=lambda: 62.5) == 12.5
    assert beat.ticked_ago(file, timer=lambda: 3.0) is None
    assert beat.ticked_ago(beat.file_of(tmp_path, 8), timer=lambda: 62.5) is None
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.store
@pytest.mark.parametrize("which", ["postgresql_url", "sqlite_url"])
async def test_the_row_is_written_by_the_driver_alone(which: str, request: pytest.FixtureRequest) -> None:
    """Written twice it is one row, whose progress is the database's own time; the repositories read it."""
    url = request.getfixturevalue(which)
    sign = LifeSign(url, "host/7", "beat")
    sign.write()
    sign.write()
    sign.close()

    store = Store(url)
    async with store.reading() as unit:
        (row,) = await unit.workers.list()
        now, alive = await unit.now(), await unit.work.alive("beat", within=timedelta(seconds=30))
    await store.close()

    assert (row.name, row.kind, alive) == ("host/7", "beat", 1)
    assert row.started_at <= row.progress_at <= now


@pytest.mark.store
def test_a_connection_that_broke_is_opened_anew(sqlite_url: str) -> None:
    """The database away once: that call fails, the next one works."""
    path = Path(sqlite_url.partition(":///")[2])
    sign = LifeSign(sqlite_url, f"host/{os.getpid()}", "beat")
    away = path.with_suffix(".away")
    path.rename(away)
    with pytest.raises(Exception, match="unable to open"):
        sign.write()
    away.rename(path)

    sign.write()
    sign.close()

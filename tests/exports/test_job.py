"""Exports that the settings ask for are made when they are due, by one process at a time."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from syncworker.errors import SettingsError
from syncworker.exports.chain import folders
from syncworker.exports.job import Exporting, next_due
from syncworker.exports.layout import Latest
from syncworker.exports.targets import target_of
from syncworker.ops import upkeep
from syncworker.ops.status import ExportFact
from syncworker.settings import ExportSettings, Settings, load
from syncworker.store.exports import ExportRow
from syncworker.store.unit_of_work import Store
from syncworker.store.work import WorkKind, WorkRow
from tests.ground.clock import ManualClock
from tests.sync.books import Desk, file_consent
from tests.sync.test_account_references import account, listed

pytestmark = pytest.mark.store

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)  # 16:00 in the UAE


@pytest.mark.parametrize(
    ("given", "began", "due"),
    [
        ({"at": "02:00"}, None, datetime(2026, 11, 21, 22, tzinfo=UTC)),
        ({"at": "16:00"}, None, datetime(2026, 11, 22, 12, tzinfo=UTC)),
        ({"at": "16:01"}, NOON, datetime(2026, 11, 21, 12, 1, tzinfo=UTC)),
        ({"every": 3600}, None, NOON),
        ({"every": 3600}, NOON - timedelta(minutes=20), NOON + timedelta(minutes=40)),
        ({"every": 3600}, NOON - timedelta(hours=3), NOON),
    ],
)
def test_a_series_is_due(given: dict[str, Any], began: datetime | None, due: datetime) -> None:
    """By the time of day in the UAE, or so long after the last began."""
    assert next_due(ExportSettings(to="out", **given), now=NOON, began=began) == due


@pytest.mark.parametrize("given", [{}, {"at": "02:00", "every": 60}, {"at": "24:00"}, {"at": "2:00"}, {"every": 1}])
def test_a_cadence_that_is_none_is_refused(given: dict[str, Any]) -> None:
    """The message names the setting."""
    with pytest.raises(SettingsError, match=r"exports\.nightly"):
        load(exports={"nightly": {"to": "out", **given}})


@pytest.fixture
async def desk(store: Store, clock: ManualClock) -> Desk:
    """A connection with an account, on each database."""
    await file_consent(store, clock)
    desk = Desk(store, clock)
    await desk.apply(listed(account("acc-1")))
    return desk


def exporting(store: Store, folder: Path, clock: ManualClock, **given: Any) -> Exporting:
    """What a process has whose settings name one series."""
    set_ = ExportSettings(to=str(folder), tables=("account", "connection"), **({"every": 3600} | given))
    settings = Settings(exports={"hourly": set_})
    return Exporting(store, settings, retry_after=lambda _: timedelta(minutes=3))


async def row(store: Store) -> WorkRow:
    async with store.reading() as unit:
        found = await unit.work.find(WorkKind.EXPORT, "hourly")
    assert found is not None
    return found


async def test_an_export_is_made_when_it_is_due(desk: Desk, tmp_path: Path) -> None:
    """Once, and again after its time; by a second process only when the first one's has ended."""
    made, other = (exporting(desk.store, tmp_path / "out", desk.clock) for _ in range(2))
    assert await made.look() is True
    assert await other.look() is False
    await made.finished()
    assert (await made.look(), await other.look()) == (False, False)
    assert ((await row(desk.store)).last_outcome, (await row(desk.store)).last_error) == ("made", None)

    desk.clock.advance(hours=1)
    assert await other.look() is True
    await other.finished()
    latest = Latest.of(target_of(str(tmp_path / "out")).read("hourly/LATEST.json"))
    assert (latest.number, latest.folder) == (2, "incr-000002")


async def test_an_export_that_fails_is_tried_again(desk: Desk, tmp_path: Path) -> None:
    """By the ladder, and `status` says so."""
    (tmp_path / "out").write_text("a file stands where the folder should be")
    made = exporting(desk.store, tmp_path / "out", desk.clock)
    assert await made.look() is True
    await made.finished()

    found = await row(desk.store)
    assert (found.last_outcome, found.last_error) == ("failed", "export_target")
    assert found.due_at == desk.clock.now() + timedelta(minutes=3)


async def test_a_process_that_stops_gives_an_export_back(desk: Desk, tmp_path: Path) -> None:
    """It is due again at once, and nothing of it is left."""
    made = exporting(desk.store, tmp_path / "out", desk.clock)
    assert await made.look() is True
    while await _open(desk.store) is None:  # noqa: ASYNC110  a row of the database has no event
        await asyncio.sleep(0)
    await made.close()

    found = await row(desk.store)
    assert (found.lease_until, found.attempts) == (None, 0)
    assert found.due_at <= desk.clock.now()
    async with desk.store.reading() as unit:
        ended = await unit.exports.get("hourly", 1)
    assert ended is not None
    assert (ended.outcome, ended.error) == ("failed", "stopping")
    assert folders(target_of(str(tmp_path / "out")), "hourly") == []


async def _open(store: Store) -> ExportRow | None:
    async with store.reading() as unit:
        return await unit.exports.open_row("hourly")


async def test_a_series_that_is_set_no_more_is_not_waited_for(desk: Desk, tmp_path: Path) -> None:
    """Its row goes with the next process that has other series."""
    await exporting(desk.store, tmp_path / "out", desk.clock, every=None, at="02:00").look()
    other = Exporting(
        desk.store,
        Settings(exports={"other": ExportSettings(to=str(tmp_path / "out"), at="03:00")}),
        retry_after=lambda _: timedelta(0),
    )
    await other.look()
    async with desk.store.reading() as unit:
        assert await unit.work.subjects(WorkKind.EXPORT) == ["other"]


@pytest.mark.parametrize(
    ("series", "said"),
    [
        (ExportFact(name="n", due_at=NOON + timedelta(hours=1), going=False, last_at=NOON, error=None), ""),
        (ExportFact(name="n", due_at=NOON - timedelta(minutes=4), going=False, last_at=NOON, error=None), ""),
        (ExportFact(name="n", due_at=NOON - timedelta(hours=2), going=True, last_at=NOON, error=None), ""),
        (
            ExportFact(name="n", due_at=NOON - timedelta(hours=2), going=False, last_at=NOON, error=None),
            "is late for 2 h",
        ),
        (ExportFact(name="n", due_at=NOON, going=False, last_at=None, error="export_target"), "failed (export_target)"),
        (ExportFact(name="n", due_at=None, going=False, last_at=None, error=None), "was seen by no worker yet"),
    ],
)
def test_status_tells_of_exports_that_are_late(series: ExportFact, said: str) -> None:
    """With the command that makes one now."""
    found = upkeep.exports([series], at=NOON)
    assert [said in one.what for one in found] == ([True] if said else [])
    assert {one.command for one in found} == ({"syncworker export run --name n"} if said else set())

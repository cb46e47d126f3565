"""What we hold of a listing, asked for row by row and, where rows are at rest, by their keys."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store.records import AT_REST, Held, Record, Wanted, WantedKeys
from syncworker.store.tables import RECORD_TABLES, typed_columns
from syncworker.store.unit_of_work import Store
from tests.ground.clock import ManualClock

pytestmark = pytest.mark.store

N = ResourceName.TRANSACTIONS
TABLE = RECORD_TABLES[N]
TYPED = typed_columns(TABLE)
CONNECTION = ConsentId("c")


def day(number: int) -> datetime:
    return datetime(2026, 10, number, tzinfo=UTC)


ROWS = {
    "early": (day(1), "Booked", None),
    "at rest": (day(10), "Booked", None),
    'odd\n"key",{}\\': (day(11), "Booked", None),
    "without status": (day(12), None, None),
    "without a day": (None, "Booked", None),
    "pending": (day(13), "Pending", None),
    "pending early": (day(2), "Pending", None),
    "missed": (day(14), "Booked", "missed_since"),
    "missed early": (day(3), "Booked", "missed_since"),
    "gone": (day(15), "Booked", "gone_at"),
    "gone early": (day(4), "Booked", "gone_at"),
}
RESTING = {"early", "at rest", 'odd\n"key",{}\\', "without status", "without a day"}


async def fill(store: Store) -> None:
    """All kinds of rows, in two accounts."""
    async with store.writing() as unit:
        for account in ("a", "b"):
            records = []
            for key, (at, status, _) in ROWS.items():
                columns = dict.fromkeys(TYPED) | {"booking_date_time": at, "status": status}
                records.append(Record(key, tuple(columns.values()), b"{}", key.encode()[:16]))
            await unit.records.upsert(N, CONNECTION, {account: records}, gen=1, at=day(20))
        for key, (_, _, mark) in ROWS.items():
            if mark:
                await unit.connection.execute(sa.update(TABLE).where(TABLE.c.key == key).values({mark: day(20)}))
        await unit.commit()


def wanted(since: datetime | None = None, until: datetime | None = None) -> Wanted:
    return Wanted(
        resource=N, account_ids=["a", "b"], instant="booking_date_time", status="status", since=since, until=until
    )


@pytest.mark.parametrize("moved_clock", [True, False])
@pytest.mark.parametrize(("since", "until"), [(None, None), (day(5), None), (day(5), day(14)), (None, day(5))])
async def test_rows_at_rest_are_given_by_their_keys(
    database_url: str,
    open_store: Callable[..., Store],
    clock: ManualClock,
    moved_clock: bool,
    since: datetime | None,
    until: datetime | None,
) -> None:
    """The same rows either way, and all that a decision may turn on is told of those that are not at rest."""
    store = open_store(database_url, clock=clock if moved_clock else None)
    await fill(store)
    those = wanted(since, until)
    async with store.reading() as unit:
        whole = await unit.records.held(CONNECTION, [those])
        by_keys = await unit.records.held(CONNECTION, [replace(those, keys_of_rest=True)])
    assert by_keys == {
        place: {key: AT_REST if key in RESTING else row for key, row in rows.items()} for place, rows in whole.items()
    }
    assert {key for key, row in whole[N, "a"].items() if not (row.missed or row.pending or row.gone)} <= RESTING


async def test_keys_asked_for_are_given_as_they_are(store: Store) -> None:
    """In the same trip, wherever they lie, and beside keys of rows at rest."""
    await fill(store)
    keys = [WantedKeys(resource=N, account_id="b", keys=("early", "at rest", "no such"), instant="booking_date_time")]
    async with store.reading() as unit:
        held = await unit.records.held(CONNECTION, [replace(wanted(day(5)), keys_of_rest=True)], keys)
    assert (held[N, "a"]["at rest"], held[N, "b"]["at rest"], held[N, "b"]["early"]) == (
        AT_REST,
        Held(b"at rest", day(10)),
        Held(b"early", day(1)),
    )
    assert "no such" not in held[N, "b"]

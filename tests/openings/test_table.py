"""The tables of openings on each database: what is taken over, what is left alone, and whose it is."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from syncworker.standard.openings import OpeningState, OpeningVersion, OpeningView
from syncworker.standard.values import AccountId, ConsentId, Slug
from syncworker.store.openings import OpeningContents, OpeningMoved, ShareWish, StoredOpening
from syncworker.store.unit_of_work import Store
from tests.ground.clock import ManualClock

pytestmark = pytest.mark.store

S = OpeningState
ID = "00000000-0000-4000-8000-000000000001"
NOOR = Slug("noor")


def view(status: str | None = "Pending", **changes: Any) -> OpeningView:
    return OpeningView(**{"account_id": AccountId("acc-1"), "status": status} | changes)


async def add(store: Store, clock: ManualClock, opening_id: str = ID, **changes: Any) -> StoredOpening:
    """An opening whose POST is under way."""
    facts: dict[str, Any] = {
        "opening_id": opening_id,
        "lfi": NOOR,
        "version": OpeningVersion.V2_1,
        "user_ref": "customer-7",
        "state": S.SENDING,
        "state_since": clock.now(),
        "created_at": clock.now(),
    }
    row = StoredOpening(**facts | changes)
    async with store.writing() as unit:
        await unit.openings.add(row, request=b'{"Data": {}}')
        await unit.commit()
    return row


async def observe(store: Store, clock: ManualClock, seen: OpeningView, *, source: str = "poll") -> StoredOpening | None:
    async with store.writing() as unit:
        moved = await unit.openings.observe(ID, seen, at=clock.now(), source=source)
        await unit.commit()
    return moved


async def get(store: Store, opening_id: str = ID) -> StoredOpening:
    async with store.reading() as unit:
        held = await unit.openings.get(opening_id)
    assert held is not None
    return held


async def test_an_opening_comes_back_as_it_was_filed(store: Store, clock: ManualClock) -> None:
    """Every member, and the body sealed beside it."""
    filed = await add(
        store, clock, webhook_active=True, share=ShareWish(permissions=("ReadBalances",), days=30), error=None
    )

    async with store.reading() as unit:
        contents, history = await unit.openings.contents(ID), await unit.openings.history(ID)

    assert await get(store) == filed
    assert contents == OpeningContents(request=b'{"Data": {}}')
    assert history == [
        OpeningMoved(at=clock.now(), state=S.SENDING, status=None, status_updated_at=None, source="ours", error=None)
    ]


async def test_a_view_that_says_the_same_leaves_no_history(store: Store, clock: ManualClock) -> None:
    """But it was heard, and what it says about the account is kept."""
    await add(store, clock)
    first = await observe(store, clock, view())
    clock.advance(hours=1)

    again = await observe(store, clock, view(raw={"AccountId": "acc-1"}, information="Soon"))

    async with store.reading() as unit:
        history, contents = await unit.openings.history(ID), await unit.openings.contents(ID)
    assert first is not None
    assert again is None
    assert (await get(store)).heard_at == clock.now()
    assert len(history) == 2
    assert (contents.raw, contents.information) == ({"AccountId": "acc-1"}, "Soon")


@pytest.mark.parametrize(
    ("newer_by", "expected"),
    [
        pytest.param(timedelta(seconds=-1), S.PENDING, id="older is left"),
        pytest.param(timedelta(0), S.USER_ACTION, id="the same instant is a later answer"),
        pytest.param(timedelta(seconds=1), S.USER_ACTION, id="newer is taken"),
    ],
)
async def test_only_a_view_that_is_not_older_moves_it(
    store: Store, clock: ManualClock, newer_by: timedelta, expected: OpeningState
) -> None:
    """By `OpeningStatusUpdateDateTime`."""
    await add(store, clock)
    at = clock.now()
    await observe(store, clock, view(status_updated_at=at))

    await observe(store, clock, view("AwaitingUserInput", status_updated_at=at + newer_by))

    assert (await get(store)).state is expected


@pytest.mark.parametrize("end", ["Completed", "Created", "Rejected"])
async def test_nothing_leaves_an_end(store: Store, clock: ManualClock, end: str) -> None:
    """Neither a view nor a move of ours."""
    await add(store, clock)
    await observe(store, clock, view(end))
    held = await get(store)
    clock.advance(hours=1)

    moved = await observe(store, clock, view("Pending", status_updated_at=clock.now()))
    async with store.writing() as unit:
        put = await unit.openings.move(ID, S.UNKNOWN, at=clock.now(), source="ours", error="interrupted")
        await unit.commit()

    assert (moved, put) == (None, False)
    assert await get(store) == held
    assert held.ended_at is not None


async def test_a_status_the_lfi_made_up_fits_the_column(store: Store, clock: ManualClock) -> None:
    """Whatever its length and its characters."""
    await add(store, clock)

    await observe(store, clock, view("Odd\x00\ud800" + "x" * 200))

    held = await get(store)
    assert (held.state, held.status) == (S.OTHER, "Odd?" + "x" * 56)


async def test_two_who_file_at_once_leave_one_line(
    database_url: str, open_store: Callable[..., Store], clock: ManualClock
) -> None:
    """A poll and an event's answer, in two processes."""
    stores = [open_store(database_url) for _ in range(2)]
    await add(stores[0], clock)

    moved = await asyncio.gather(*(observe(one, clock, view("Completed")) for one in stores))

    async with stores[0].reading() as unit:
        history = await unit.openings.history(ID)
    assert sum(one is not None for one in moved) == 1
    assert [one.state for one in history] == [S.SENDING, S.COMPLETED]


async def test_the_first_intent_stays(store: Store, clock: ManualClock) -> None:
    """Two who hand an account over leave its user one link."""
    await add(store, clock)
    async with store.writing() as unit:
        for intent in ("first", "second"):
            await unit.openings.set_intent(ID, intent)
        await unit.commit()

    assert (await get(store)).intent_id == "first"


async def test_another_tenants_openings_are_not_there(
    database_url: str, open_store: Callable[..., Store], clock: ManualClock
) -> None:
    """The same id is another row, and nothing reaches across."""
    ours, theirs = open_store(database_url), open_store(database_url, tenant="theirs")
    await add(ours, clock)
    await add(theirs, clock, user_ref="customer-8")
    await observe(ours, clock, view("Completed"))

    async with theirs.writing() as unit:
        found = await unit.openings.find(account_id="acc-1")
        await unit.openings.set_share(ID, ShareWish(permissions=(), days=1), consent_id=ConsentId("c"))
        await unit.openings.destroy_contents(ID)
        await unit.commit()

    assert found == []
    assert [one.user_ref for one in (await get(ours), await get(theirs))] == ["customer-7", "customer-8"]
    async with ours.reading() as unit:
        assert (await unit.openings.contents(ID)).request is not None
    assert (await get(ours)).consent_id is None


async def test_openings_are_found_by_every_filter(store: Store, clock: ManualClock) -> None:
    """Oldest first."""
    ids = [f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2, 3)]
    for number, one in enumerate(ids):
        await add(store, clock, one, user_ref=f"customer-{number % 2}", lfi=Slug("waha") if number == 2 else NOOR)
        clock.advance(seconds=1)
    await observe(store, clock, view())

    async with store.reading() as unit:
        found = [
            [one.opening_id for one in await unit.openings.find(**wanted)]
            for wanted in (
                {}, {"lfi": NOOR}, {"user_ref": "customer-0"}, {"state": S.PENDING}, {"account_id": "acc-1"},
                {"lfi": NOOR, "state": S.COMPLETED},
            )
        ]  # fmt: skip

    assert found == [ids, ids[:2], [ids[0], ids[2]], ids[:1], ids[:1], []]

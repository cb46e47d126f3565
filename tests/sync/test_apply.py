"""Walks become rows: once, together with their cursors and changes, and only by the claim that still holds."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
import sqlalchemy as sa

from syncworker.errors import ConsentNotUsableError, LeaseLostError, LFIUnavailableError, SealError
from syncworker.standard.consents import ConsentView, Status
from syncworker.standard.resources import BY_NAME, ResourceName
from syncworker.store.changes import Op
from syncworker.store.cursors import BEGINNING, Listing
from syncworker.store.failures import StoreRefusedError
from syncworker.store.tables import work
from syncworker.sync.plan import Step, Window
from syncworker.sync.reports import StepOutcome
from tests.ground.clock import ManualClock
from tests.sync.books import ACCOUNT, CONSENT, Desk, balance, claim, page, steal, transaction, walk

pytestmark = pytest.mark.store

N = ResourceName
PARTY = {"PartyId": "p-1", "PartyType": "Sole", "PartyCategory": "Retail", "AccountRole": "Principal"}
OCTOBER = datetime(2026, 10, 1, 12, tzinfo=UTC)


async def test_a_walk_becomes_rows(desk: Desk) -> None:
    """Typed columns beside the item's own bytes, from one page."""
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("t-1", 3))))
    (row,) = (await desk.rows()).values()
    assert (row.resource, row.account_id, row.columns["amount"], row.columns["booking_date"]) == (
        N.TRANSACTIONS, ACCOUNT, Decimal("12.34500"), date(2026, 10, 3),
    )  # fmt: skip
    assert json.loads(row.item) == transaction("t-1", 3)


async def test_the_same_walk_again_writes_no_row(desk: Desk) -> None:
    """Not one: the tables are the same to the byte."""
    walks = (
        walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("a"), transaction("b"))),
        walk(N.BALANCES, page(N.BALANCES, balance("1.5"))),
        walk(N.ACCOUNT_PARTIES, page(N.ACCOUNT_PARTIES, PARTY)),
    )
    await desk.apply(*walks)
    before = [await desk.table(name) for name in ('"transaction"', "balance", "balance_history", "party", "change")]
    desk.clock.advance(hours=1)
    reports = await desk.apply(*walks)
    after = [await desk.table(name) for name in ('"transaction"', "balance", "balance_history", "party", "change")]
    assert (after, {report.outcome for report in reports}) == (before, {StepOutcome.UNCHANGED})


async def test_the_same_items_spelled_otherwise_write_no_row(desk: Desk) -> None:
    """Another order of members is another page, but no change."""
    item = transaction("a")
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, item)))
    (report,) = await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, dict(reversed(item.items())))))
    assert (report.outcome, report.pages_unchanged, len(await desk.feed())) == (StepOutcome.UNCHANGED, 0, 1)


async def test_a_change_overwrites_the_row_and_keeps_its_beginning(desk: Desk) -> None:
    """`first_seen_at` stays, `changed_at` moves, the feed says modified."""
    first = desk.clock.now()
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("a", Status="Pending"))))
    later = desk.clock.advance(hours=1)
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("a"))))
    row = (await desk.rows())["a"]
    assert (row.columns["status"], row.first_seen_at, row.changed_at) == ("Booked", first, later)


async def test_the_feed_replays_to_the_tables(desk: Desk) -> None:
    """Added, modified, removed and added again: a reader ends with what is live."""
    for items in (["a", "b"], ["b", "c"], ["a"], ["a", "b", "c"], []):
        await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, *map(transaction, items))))
        assert await desk.replayed() == {(ACCOUNT, N.TRANSACTIONS, key) for key in await desk.live()}


async def test_absence_from_a_listing_of_one_page_is_a_tombstone(desk: Desk) -> None:
    """Kept, dated by the walk, and revived with its first day when it returns."""
    first = desk.clock.now()
    both = walk(N.ACCOUNT_PARTIES, page(N.ACCOUNT_PARTIES, PARTY, PARTY | {"PartyId": "p-2"}))
    await desk.apply(both)
    gone_at = desk.clock.advance(days=1)
    await desk.apply(walk(N.ACCOUNT_PARTIES, page(N.ACCOUNT_PARTIES, PARTY)))
    buried = (await desk.rows())["p-2"].gone_at
    desk.clock.advance(days=1)
    await desk.apply(both)
    revived = (await desk.rows())["p-2"]
    assert (buried, revived.gone_at, revived.first_seen_at) == (gone_at, None, first)


async def test_absence_from_several_pages_needs_two_walks_in_a_row(desk: Desk) -> None:
    """First missed, then gone; shown in between it was never away."""
    two = page(N.TRANSACTIONS, transaction("b"))
    one = page(N.TRANSACTIONS, transaction("a"))
    without = walk(N.TRANSACTIONS, two, page(N.TRANSACTIONS, transaction("c")))
    whole = walk(N.TRANSACTIONS, one, two)
    states = []
    for step in (whole, without, whole, without, without):
        await desk.apply(step)
        row = (await desk.rows())["a"]
        states.append((row.missed_since is not None, row.gone_at is not None))
    assert states == [(False, False), (True, False), (False, False), (True, False), (False, True)]


MANY = [transaction(f"t-{number:02}", 1 + number % 25) for number in range(40)]
"""More than are asked for one by one."""


async def test_a_row_that_vanished_is_written_again_with_its_item(desk: Desk) -> None:
    """A known item counts by its key only as long as we hold it, and what stands beside it is not written anew."""
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, *MANY)))
    async with desk.store.writing() as unit:
        await unit.connection.exec_driver_sql("DELETE FROM \"transaction\" WHERE key = 't-07'")
        await unit.commit()
    (report,) = await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, *MANY, transaction("z"))))
    assert await desk.live() == {"z", *(one["TransactionId"] for one in MANY)}
    assert (report.added, report.modified, report.removed) == (2, 0, 0)


async def test_a_tombstone_revives_with_its_item(desk: Desk) -> None:
    """Though its bytes are known from the walk before."""
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, *MANY)))
    async with desk.store.writing() as unit:
        await unit.records.bury(N.TRANSACTIONS, CONSENT, {ACCOUNT: ["t-07"]}, gen=1, at=desk.clock.now())
        await unit.commit()
    (report,) = await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, *MANY, transaction("z"))))
    assert ((await desk.rows())["t-07"].gone_at, report.added, report.modified) == (None, 2, 0)


@pytest.mark.parametrize("window", [None, Window(date(2026, 10, 5))], ids=["all", "some outside the window"])
async def test_what_many_known_items_leave_out_is_seen(desk: Desk, window: Window | None) -> None:
    """Missed by the first of two walks of several pages, gone with the second; what did not change stays as it is."""

    def pages(*items: dict[str, object]) -> tuple[bytes, ...]:
        return page(N.TRANSACTIONS, *items[:20]), page(N.TRANSACTIONS, *items[20:])

    states = []
    without = [one for one in MANY if one["TransactionId"] != "t-10"]
    for items in (MANY, [*without, transaction("x", 20)], [*without, transaction("x", 21)], MANY):
        (report,) = await desk.apply(walk(N.TRANSACTIONS, *pages(*items), window=window, deep=True))
        row = (await desk.rows())["t-10"]
        counts = (report.added, report.modified, report.removed)
        states.append((row.missed_since is not None, row.gone_at is not None, counts))
    assert states == [
        (False, False, (40, 0, 0)),
        (True, False, (1, 0, 0)),
        (False, True, (0, 1, 1)),
        (False, False, (1, 0, 0)),  # and the other one is missed
    ]


async def test_a_pending_record_among_many_known_ones_stays_undecided(desk: Desk) -> None:
    """The cursor remembers from where on to look again, though its item was not read again."""
    pending = transaction("p", 2, Status="Pending")
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, *MANY, pending)))
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, *MANY, pending, transaction("z"))))
    cursor = await desk.cursor(N.TRANSACTIONS)
    assert (cursor.open_since, cursor.high_water) == (
        datetime(2026, 10, 2, 12, tzinfo=UTC),
        datetime(2026, 10, 25, 12, tzinfo=UTC),
    )


async def test_a_broken_walk_keeps_what_it_brought_and_buries_nothing(desk: Desk) -> None:
    """Its pages are written, the cursor stays where the last complete walk left it."""
    await desk.apply(
        walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("a")), page(N.TRANSACTIONS, transaction("b")))
    )
    before = await desk.cursor(N.TRANSACTIONS)
    desk.clock.advance(hours=1)
    broken = walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("c", 9)), error=LFIUnavailableError("away"))
    await desk.apply(broken)
    after = await desk.cursor(N.TRANSACTIONS)
    assert await desk.live() == {"a", "b", "c"}
    assert (after.checked_at, after.high_water) == (before.checked_at, before.high_water)


async def test_links_that_end_before_the_last_page_prove_nothing(desk: Desk) -> None:
    """The bank says two pages and links to one: what it showed is kept, nothing is buried, no window is covered."""
    await desk.apply(walk(N.PARTIES, page(N.PARTIES, {"PartyId": "p-1"}, {"PartyId": "p-2"})))
    early = walk(N.PARTIES, page(N.PARTIES, {"PartyId": "p-3"})), walk(N.TRANSACTIONS, page(N.TRANSACTIONS))
    await desk.apply(*(replace(one, pages_said=2) for one in early))
    assert (await desk.live(), await desk.table("coverage")) == ({"p-1", "p-2", "p-3"}, [])


async def test_a_broken_walk_makes_the_next_one_look_again(desk: Desk) -> None:
    """It wrote what the pages before did not show: were the bank to go back, the pages would lie."""
    original = walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("a")))
    await desk.apply(original)
    changed = page(N.TRANSACTIONS, transaction("a", Status="Rejected"))
    await desk.apply(walk(N.TRANSACTIONS, changed, error=LFIUnavailableError("away")))
    await desk.apply(original)
    assert (await desk.rows())["a"].columns["status"] == "Booked"


async def test_a_row_that_vanished_from_the_table_is_written_again_with_its_page(desk: Desk) -> None:
    """A known page counts by its keys only as long as we hold them."""
    known = page(N.TRANSACTIONS, transaction("a"))
    await desk.apply(walk(N.TRANSACTIONS, known, page(N.TRANSACTIONS, transaction("b"))))
    async with desk.store.writing() as unit:
        await unit.connection.exec_driver_sql("DELETE FROM \"transaction\" WHERE key = 'a'")
        await unit.commit()
    await desk.apply(walk(N.TRANSACTIONS, known, page(N.TRANSACTIONS, transaction("b", 2))))
    assert await desk.live() == {"a", "b"}


async def test_outside_its_window_a_walk_proves_nothing(desk: Desk) -> None:
    """Rows before the window live on; inside it absence counts."""
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, *(transaction(str(day), day) for day in (1, 10, 20)))))
    window = Window(date(2026, 10, 9))
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("20", 20)), window=window, deep=True))
    assert await desk.live() == {"1", "20"}


async def test_a_narrow_walk_notes_an_absence_and_a_deep_one_decides(desk: Desk) -> None:
    """A booked row may have been dated back, out of the window: it is not gone because of that."""
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("a", 20), transaction("b", 20))))
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS), window=Window(date(2026, 10, 14))))
    noted = await desk.live(), (await desk.cursor(N.TRANSACTIONS)).deep_at
    deep = walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("a", 3)), window=Window(date(2026, 10, 1)), deep=True)
    await desk.apply(deep)
    assert (noted, await desk.live()) == (({"a", "b"}, None), {"a"})


async def test_before_the_banks_own_history_nothing_is_proved(desk: Desk) -> None:
    """A bank that forgets its oldest rows does not unmake them."""
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("old", 1), transaction("new", 20))))
    await desk.apply(
        walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("new", 20)), first_available=OCTOBER + timedelta(days=9))
    )
    assert await desk.live() == {"old", "new"}


async def test_a_pending_row_that_is_replaced_goes_at_once(desk: Desk) -> None:
    """Pending is replaced as a set, by a narrow walk as well."""
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("p", 20, Status="Pending"))))
    booked = page(N.TRANSACTIONS, transaction("booked", 20))
    await desk.apply(walk(N.TRANSACTIONS, booked, window=Window(date(2026, 10, 14))))
    assert await desk.live() == {"booked"}


async def test_a_pending_row_missing_from_several_pages_goes_with_the_second_walk(desk: Desk) -> None:
    """It may have moved from one page to the other between the two reads."""
    second = page(N.TRANSACTIONS, transaction("b"))
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("p", 20, Status="Pending")), second))
    states = []
    for _ in range(2):
        await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("booked", 20)), second))
        states.append(await desk.live())
    assert states == [{"b", "booked", "p"}, {"b", "booked"}]


async def test_the_cursor_marks_the_newest_booking_and_the_oldest_open_one(desk: Desk) -> None:
    """Pending rows do not move the high-water mark; they hold the window open."""
    items = [transaction("a", 5), transaction("b", 9), transaction("p", 3, Status="Pending")]
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, *items)))
    cursor = await desk.cursor(N.TRANSACTIONS)
    assert (cursor.high_water, cursor.open_since) == (OCTOBER.replace(day=9), OCTOBER.replace(day=3))


async def test_coverage_grows_with_the_walks(desk: Desk) -> None:
    """From the first available to today, in one piece."""
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("a"))))
    day = desk.clock.now().date()
    desk.clock.advance(days=3)
    await desk.apply(
        walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("b")), window=Window(day - timedelta(days=8)))
    )
    async with desk.store.reading() as unit:
        listing = Listing(ACCOUNT, N.TRANSACTIONS)
        (covered,) = (await unit.cursors.coverage(CONSENT, [listing]))[listing]
    assert (covered.from_date, covered.walked_at) == (BEGINNING, desk.clock.now())


async def test_every_value_of_a_balance_is_kept(desk: Desk) -> None:
    """The latest in `balance`, the series in `balance_history`; the same instant again overwrites."""
    for amount, at in (("1", "2026-10-01T00:00:00Z"), ("2", "2026-10-02T00:00:00Z"), ("3", "2026-10-02T00:00:00Z")):
        await desk.apply(walk(N.BALANCES, page(N.BALANCES, balance(amount, at))))
    latest = (await desk.rows())["InterimBooked|AED"].columns["amount"]
    assert (latest, len(await desk.table("balance_history"))) == (Decimal(3), 2)


async def test_a_stale_claim_writes_nothing(desk: Desk) -> None:
    """A newer claim owns the connection: the older one's walk is dropped whole."""
    old = await claim(desk.store)
    await steal(desk.store, desk.clock)
    with pytest.raises(LeaseLostError):
        await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("a"))), by=old)
    assert [await desk.table(name) for name in ('"transaction"', "cursor")] == [[], []]
    assert await desk.feed() == []


async def test_after_a_revocation_is_seen_no_row_is_written(desk: Desk) -> None:
    """The status is read in the transaction that writes."""
    async with desk.store.writing() as unit:
        view = ConsentView(consent_id=CONSENT, status=Status.Revoked.value)
        await unit.consents.observe(view, at=desk.clock.now())
        await unit.commit()
    with pytest.raises(ConsentNotUsableError):
        await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("a"))))
    assert [await desk.table(name) for name in ('"transaction"', "cursor")] == [[], []]
    assert [row.change.op for row in await desk.feed()] == [Op.RESTRICTED]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_run_and_the_news_of_its_consent_lock_in_one_order(desk: Desk) -> None:
    """Who files a status locks the consent, then the work that follows; a run that waits there holds no work yet."""
    mine = await claim(desk.store)
    async with desk.store.writing() as unit:
        await unit.consents.get(CONSENT, lock=True)
        run = asyncio.create_task(desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("a"))), by=mine))
        waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        while not await unit.connection.scalar(waiting):  # noqa: ASYNC110 - a lock has no event
            await asyncio.sleep(0.01)
        await unit.connection.execute(sa.select(work.c.id).with_for_update(nowait=True))
    await run
    assert await desk.live() == {"a"}


async def test_records_cursors_and_changes_are_written_together_or_not_at_all(desk: Desk) -> None:
    """The last table of the transaction refuses: nothing of the others stays."""
    async with desk.store.writing() as unit:
        await unit.connection.exec_driver_sql(f"DROP TABLE coverage {'CASCADE' * unit.dialect.is_postgresql}")
        await unit.commit()
    with pytest.raises(StoreRefusedError):
        await desk.apply(walk(N.BALANCES, page(N.BALANCES, balance("1"))), walk(N.TRANSACTIONS, page(N.TRANSACTIONS)))
    assert [await desk.table(name) for name in ("balance", "balance_history", "cursor", "change")] == [[], [], [], []]


async def test_grants_follow_the_listing_of_accounts(desk: Desk) -> None:
    """An account the consent shows is granted; one proved absent is ended."""

    async def granted() -> set[str]:
        async with desk.store.reading() as unit:
            return set(await unit.records.granted(CONSENT))

    accounts = [{"AccountId": name} for name in ("a", "b")]
    await desk.apply(walk(N.ACCOUNTS, page(N.ACCOUNTS, *accounts)))
    both = await granted()
    await desk.apply(walk(N.ACCOUNTS, page(N.ACCOUNTS, accounts[0])))
    assert (both, await granted()) == ({"a", "b"}, {"a"})


async def test_a_connection_of_many_accounts_is_written_at_once(desk: Desk) -> None:
    """Enough cursors and rows for the database's bulk way."""
    accounts = [f"acc-{number}" for number in range(60)]
    walks = [
        replace(
            walk(N.BALANCES, page(N.BALANCES, balance("1")).replace(ACCOUNT.encode(), name.encode())),
            step=Step(BY_NAME[N.BALANCES], name),
        )
        for name in accounts
    ]
    await desk.apply(*walks)
    async with desk.store.reading() as unit:
        cursors = await unit.cursors.of(CONSENT)
        rows = (await unit.records.count(CONSENT))[N.BALANCES]
    assert (set(cursors), rows) == ({Listing(name, N.BALANCES) for name in accounts}, 60)


@pytest.mark.parametrize("seal_raw", [False, True])
async def test_a_partys_item_is_always_sealed(desk: Desk, seal_raw: bool) -> None:
    """Others by setting; moved to another row it does not open."""
    desk.seal_raw = seal_raw
    parties = page(N.ACCOUNT_PARTIES, PARTY, PARTY | {"PartyId": "p-2"})
    await desk.apply(walk(N.ACCOUNT_PARTIES, parties), walk(N.BALANCES, page(N.BALANCES, balance("1"))))
    async with desk.store.writing() as unit:
        markers = [
            bytes(raw)[:1] == b"\x02"
            for table in ("party", "balance")
            for (raw,) in await unit.connection.exec_driver_sql(f"SELECT raw FROM {table} WHERE key <> 'p-2'")
        ]
        swap = "UPDATE party SET raw = (SELECT raw FROM party AS other WHERE other.key = 'p-1') WHERE key = 'p-2'"
        await unit.connection.exec_driver_sql(swap)
        await unit.commit()
    with pytest.raises(SealError):
        await desk.rows(N.ACCOUNT_PARTIES)
    assert markers == [True, seal_raw]


async def test_what_is_needed_of_a_clock_comes_from_the_database(desk: Desk, clock: ManualClock) -> None:
    """Rows are dated in database time."""
    now = clock.now()
    await desk.apply(walk(N.BALANCES, page(N.BALANCES, balance("1"))))
    row = (await desk.rows())["InterimBooked|AED"]
    assert (row.first_seen_at, row.changed_at) == (now, now)


async def test_what_a_row_said_before_is_kept(desk: Desk) -> None:
    """Modified, gone, back again: at every instant the table answers as it would have answered then."""
    before = desk.clock.now() - timedelta(hours=1)
    told = []
    for items in ([transaction("a", Status="Pending")], [transaction("a")], [], [transaction("a")]):
        await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, *items)))
        told.append((desk.clock.now() + timedelta(minutes=30), items))
        desk.clock.advance(hours=1)
    async with desk.store.reading() as unit:
        first = await unit.records.as_of(CONSENT, N.TRANSACTIONS, before)
        answers = [await unit.records.as_of(CONSENT, N.TRANSACTIONS, at) for at, _ in told]
    assert first == []
    assert [[json.loads(one.item) for one in answer] for answer in answers] == [items for _, items in told]


async def test_what_a_sealed_row_said_before_opens(desk: Desk) -> None:
    """A party's item is moved into history with its seal."""
    at = desk.clock.now()
    await desk.apply(walk(N.ACCOUNT_PARTIES, page(N.ACCOUNT_PARTIES, PARTY)))
    desk.clock.advance(days=1)
    await desk.apply(walk(N.ACCOUNT_PARTIES, page(N.ACCOUNT_PARTIES, PARTY | {"AccountRole": "Administrator"})))
    async with desk.store.reading() as unit:
        (raw,) = (await unit.connection.exec_driver_sql("SELECT raw FROM record_history")).scalars()
        (then,) = await unit.records.as_of(CONSENT, N.ACCOUNT_PARTIES, at)
    assert (bytes(raw)[:1], json.loads(then.item)) == (b"\x02", PARTY)


async def test_a_history_is_rolled_back_with_its_rows(desk: Desk) -> None:
    """What was not overwritten did not end."""
    await desk.apply(walk(N.BALANCES, page(N.BALANCES, balance("1"))))
    async with desk.store.writing() as unit:
        await unit.connection.exec_driver_sql(f"DROP TABLE coverage {'CASCADE' * unit.dialect.is_postgresql}")
        await unit.commit()
    with pytest.raises(StoreRefusedError):
        await desk.apply(walk(N.BALANCES, page(N.BALANCES, balance("2"))), walk(N.TRANSACTIONS, page(N.TRANSACTIONS)))
    assert await desk.table("record_history") == []


async def test_a_slice_of_history_leaves_the_newest_part_alone(desk: Desk) -> None:
    """Rows and coverage grow backwards; footprint, high-water mark and dates of the listing stay."""
    newest = walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("new", 20)), window=Window(date(2026, 10, 9)))
    await desk.apply(newest)
    before = await desk.cursor(N.TRANSACTIONS)
    desk.clock.advance(hours=1)
    slice_ = Window(date(2026, 9, 30), date(2026, 10, 10))
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("old", 5)), window=slice_, backfill=True))
    after = await desk.cursor(N.TRANSACTIONS)
    assert await desk.live() == {"new", "old"}
    assert after == replace(before, covered_from=date(2026, 10, 1), gen=after.gen, changed_at=desk.clock.now())


async def test_empty_slices_are_counted_until_history_ends(desk: Desk) -> None:
    """An LFI that does not say where its history begins has none left after a year without an item."""
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS), window=Window(date(2026, 10, 9))))
    counts = []
    for month in (9, 8, 7):
        window = Window(date(2026, month, 9), date(2026, month + 1, 10))
        await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS), window=window, backfill=True))
        cursor = await desk.cursor(N.TRANSACTIONS)
        counts.append((cursor.empty_slices, cursor.backfilled_to))
    assert counts == [(2, None), (3, None), (4, BEGINNING)]


async def test_where_the_bank_begins_the_backfill_is_complete(desk: Desk) -> None:
    """`FirstAvailableDateTime` lies within the window."""
    window, begins = Window(date(2026, 10, 9)), OCTOBER.replace(day=15)
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS), window=window, first_available=begins))
    cursor = await desk.cursor(N.TRANSACTIONS)
    assert (cursor.first_available, cursor.backfilled_to) == (begins, BEGINNING)

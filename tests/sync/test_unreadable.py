"""Items that cannot be read: kept apart where a person finds them, and no proof of absence against what they may be."""

import json
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncworker.errors import LFIUnavailableError, SealError, StandardViolationError
from syncworker.standard.resources import ResourceName
from syncworker.store.erasure import DataClass
from syncworker.store.records import Held
from syncworker.store.unreadable import ITEM_BYTES_MAX, Remembered, StoredUnreadable
from syncworker.sync import pages as footprint
from syncworker.sync.apply import show
from syncworker.sync.decode import Reason, Unreadable
from syncworker.sync.diff import NEW, Changes, Proof, diff
from syncworker.sync.plan import Window
from syncworker.sync.unreadable import judge
from tests.sync.books import CONSENT, Desk, page, transaction, walk

N = ResourceName
AT = datetime(2026, 10, 1, tzinfo=UTC)
SECRET = "Falcon-Marked-Secret"


def day(number: int) -> datetime:
    return AT + timedelta(days=number)


def order(key: str | None, **facts: Any) -> dict[str, Any]:
    """A standing order, perhaps without its id."""
    return ({} if key is None else {"StandingOrderId": key}) | {"Frequency": "EveryDay"} | facts


def nameless(what: str = "x") -> dict[str, Any]:
    return order(None, CreditorReference=what)


def orders(*items: dict[str, Any]) -> Any:
    return walk(N.STANDING_ORDERS, page(N.STANDING_ORDERS, *items))


async def apart(desk: Desk) -> list[StoredUnreadable]:
    async with desk.store.reading() as unit:
        return await unit.unreadable.list(CONSENT, limit=1000)


# -- the rule, by tables ---------------------------------------------------------------------------------------------


@pytest.mark.unit
@pytest.mark.parametrize(
    ("held", "proof", "expected"),
    [
        pytest.param(Held(b""), Proof(True, True), "gone", id="nothing unreadable"),
        pytest.param(Held(b""), Proof(True, True, unreadable_since=day(1)), "gone", id="bytes shown beside it before"),
        pytest.param(Held(b""), Proof(True, True, unreadable_since=NEW), "missed", id="new bytes may be it"),
        pytest.param(
            Held(b"", missed=True, missed_since=day(2)), Proof(True, True, unreadable_since=day(2)), "",
            id="bytes that came when it went",
        ),
        pytest.param(
            Held(b"", missed=True, missed_since=day(2)), Proof(True, True, unreadable_since=day(1)), "gone",
            id="bytes that were there before it went",
        ),
        pytest.param(
            Held(b"", missed=True, missed_since=day(2)), Proof(True, True, unreadable_since=NEW), "",
            id="new bytes after it went",
        ),
        pytest.param(
            Held(b"", missed=True, missed_since=day(2)), Proof(True, True, unreadable_before=day(2)), "gone",
            id="one page, and what it may have been is gone",
        ),
        pytest.param(
            Held(b"", missed=True, missed_since=day(2)), Proof(True, False, unreadable_before=day(2)), "missed",
            id="several pages: the walk that showed what it may have been does not count",
        ),
        pytest.param(
            Held(b"", missed=True, missed_since=day(2)), Proof(True, False, unreadable_before=day(1)), "gone",
            id="several pages, two walks that count",
        ),
        pytest.param(Held(b"", missed=True), Proof(True, True, unreadable_since=day(1)), "", id="missed, unknown when"),
        pytest.param(Held(b""), Proof(False, True, unreadable_since=NEW), "", id="a walk that was cut off"),
        pytest.param(
            Held(b"", pending=True), Proof(True, True, unreadable_since=NEW), "missed", id="pending ones likewise"
        ),
    ],
)  # fmt: skip
def test_what_an_unreadable_item_says_of_an_absence(held: Held, proof: Proof, expected: str) -> None:
    """It stands in the way for records no complete walk showed beside it, and for no other."""
    changes = diff({}, {"k": held}, proof=proof)
    assert changes == (Changes(**{expected: frozenset("k")}) if expected else Changes())


def item(name: str, at: datetime | None = None) -> Unreadable:
    return Unreadable(1, "Data.X[0]", Reason.ID_MISSING, name.encode(), name.encode(), at)


def known(name: str, **facts: Any) -> dict[bytes, Remembered]:
    return {name.encode(): Remembered(digest=name.encode(), **facts)}


@pytest.mark.unit
@pytest.mark.parametrize(
    ("shown", "before", "facts", "since", "kept", "removed", "doubted"),
    [
        pytest.param([item("a")], {}, {}, NEW, {b"a": day(9)}, "", "", id="new"),
        pytest.param(
            [item("a")], known("a", shown_since=day(1)), {}, day(1), {b"a": day(1)}, "", "", id="shown again"
        ),
        pytest.param(
            [item("a"), item("a")], known("a", shown_since=day(1)), {}, NEW, {b"a": day(9)}, "", "", id="one more copy"
        ),
        pytest.param(
            [item("a")], known("a", shown_since=day(1), copies=2), {}, day(1), {b"a": day(1)}, "", "", id="one fewer"
        ),
        pytest.param([], known("a", shown_since=day(1)), {}, None, {}, "a", "", id="no longer shown"),
        pytest.param(
            [], known("a", shown_since=day(1)), {"complete": False}, None, {}, "", "", id="cut off: nothing is removed"
        ),
        pytest.param(
            [item("a")], {}, {"complete": False}, NEW, {b"a": None}, "", "", id="cut off: begins no row of walks"
        ),
        pytest.param(
            [item("a")], known("a", shown_since=None), {}, NEW, {b"a": day(9)}, "", "", id="known from cut off walks"
        ),
        pytest.param(
            [], known("a", shown_since=day(1), not_before=day(2), not_after=day(2)), {"since": day(3)}, None, {}, "",
            "", id="dated before the window: nothing is said of it",
        ),
        pytest.param(
            [], known("a", shown_since=day(1), not_before=day(3), not_after=day(3)), {"since": day(3)}, None, {}, "a",
            "", id="dated inside the window",
        ),
        pytest.param(
            [], known("a", shown_since=day(1), not_before=day(3), not_after=day(3)), {"until": day(3)}, None, {}, "",
            "", id="dated behind the window",
        ),
        pytest.param(
            [], known("a", shown_since=day(1), not_before=day(2)), {"since": day(3)}, None, {}, "", "a",
            id="undated, from a wider window: kept, no longer sure",
        ),
        pytest.param(
            [], known("a", shown_since=day(1), not_before=day(3)), {"since": day(3)}, None, {}, "a", "",
            id="undated, from this window",
        ),
        pytest.param(
            [item("a"), item("b"), item("c")], known("a", shown_since=day(1)), {"items_max": 2}, NEW,
            {b"a": day(9), b"b": day(9)}, "", "", id="more than are kept: none is sure",
        ),
        pytest.param(
            [item("b")], known("a", shown_since=day(1), not_before=day(1), not_after=day(1)),
            {"items_max": 1, "since": day(2)}, NEW, {b"b": day(9)}, "a", "", id="what is shown has the room",
        ),
    ],
)  # fmt: skip
def test_since_when_an_item_is_shown(
    shown: list[Unreadable],
    before: dict[bytes, Remembered],
    facts: dict[str, Any],
    since: datetime | None,
    kept: dict[bytes, datetime | None],
    removed: str,
    doubted: str,
) -> None:
    """By an unbroken row of complete walks."""
    window: dict[str, Any] = {"complete": True, "since": None, "until": None}
    judged = judge(shown, before, now=day(9), **window | facts)
    assert (judged.since, {one.now.digest: one.now.shown_since for one in judged.kept}) == (since, kept)
    assert judged.removed == {removed.encode()} - {b""}
    assert judged.doubted == {doubted.encode()} - {b""}
    assert judged.not_kept == len({one.digest for one in shown}) - len(judged.kept)


# -- the rule, against a model ---------------------------------------------------------------------------------------

MOVE = st.tuples(st.integers(0, 3), st.sampled_from(["list", "delist", "name", "unname"]))
WALK = st.tuples(
    st.lists(MOVE, max_size=3),
    st.sampled_from([0, 0, 0, 2, 4]),  # from which day on
    st.sampled_from([None, None, None, 1, 2]),  # cut off after so many items
    st.booleans(),  # one page
)


@pytest.mark.unit
@settings(max_examples=600)
@given(st.lists(WALK, min_size=2, max_size=9), st.booleans())
def test_no_record_that_is_still_listed_is_buried(walks: list[Any], dated: bool) -> None:
    """Whatever ids the bank loses and finds again, in whatever walks; and what went for good is buried where it can be.

    Item `n` is dated on day `n + 1`; without its id its bytes are always the same.
    """
    listed, named = set(range(4)), set(range(4))
    held: dict[str, Held] = {}
    remembered: dict[bytes, Remembered] = {}
    beside: dict[
        str, Counter[bytes] | None
    ] = {}  # a record → unreadable items of the complete walk that showed it last
    for number, (moves, begins, cut, single) in enumerate(walks):
        now = day(100 + number)
        for one, move in moves:
            {"list": listed.add, "delist": listed.discard, "name": named.add, "unname": named.discard}[move](one)
        since = None if begins == 0 else day(begins)
        shown = [one for one in sorted(listed, reverse=True) if begins == 0 or one + 1 >= begins][:cut]
        complete = cut is None
        seen: dict[str, bytes | None] = {str(one): b"d" for one in shown if one in named}
        apart = [item(f"u{one}", day(one + 1) if dated else None) for one in shown if one not in named]
        judged = judge(apart, remembered, complete=complete, since=since, until=None, now=now)
        proof = Proof(complete, single, since=since, unreadable_since=judged.since, unreadable_before=judged.before)
        changes = diff(seen, held, proof=proof)

        assert not {int(key) for key in changes.gone} & listed
        bytes_shown = Counter(one.digest for one in apart)
        for key, row in held.items():
            never_doubted = not row.missed and beside.get(key) == bytes_shown
            if complete and single and since is None and key not in seen and not row.gone and never_doubted:
                assert key in changes.gone

        for key in changes.new | changes.revived | changes.found:
            held[key] = Held(b"d", day(int(key) + 1))
        for key in changes.missed:
            held[key] = held[key]._replace(missed=True, missed_since=now)
        for key in changes.gone:
            held[key] = held[key]._replace(gone=True, missed=False, missed_since=None)
        for digest in judged.removed:
            del remembered[digest]
        for digest in judged.doubted:
            remembered[digest] = _doubted(remembered[digest])
        remembered |= {one.now.digest: one.now for one in judged.kept}
        if not complete and changes.new | changes.revived | changes.found:
            remembered = {digest: _doubted(one) for digest, one in remembered.items()}
        # a walk that is cut off or narrow may lie between: then nothing is claimed about what must be buried
        beside = dict.fromkeys(seen, bytes_shown) if complete and since is None else {}


def _doubted(one: Remembered) -> Remembered:
    return Remembered(
        digest=one.digest, copies=one.copies, not_before=one.not_before, not_after=one.not_after, times=one.times
    )


@pytest.mark.store
@pytest.mark.parametrize("seed", range(4))
async def test_no_listed_row_is_buried_in_the_tables_either(desk: Desk, seed: int) -> None:
    """The same bank, through pages, footprints and tables; an id that is lost for a while costs no row."""
    chance = random.Random(seed)
    listed, named = set(range(4)), set(range(4))
    gone: set[str] = set()
    for _ in range(30):
        for _ in range(chance.choice([0, 0, 1, 2])):
            one = chance.randrange(4)
            chance.choice([listed.add, listed.discard, named.add, named.add, named.discard])(one)
        begins = chance.choice([None, None, 4, 8])
        items = [
            {name: fact for name, fact in transaction(f"t-{one}", 3 * one + 2, X=one).items()
             if one in named or name != "TransactionId"}
            for one in sorted(listed) if begins is None or 3 * one + 2 >= begins
        ]  # fmt: skip
        cut = len(items) // 2
        pages = [page(N.TRANSACTIONS, *items)] if chance.random() < 0.5 else [
            page(N.TRANSACTIONS, *items[:cut]), page(N.TRANSACTIONS, *items[cut:])
        ]  # fmt: skip
        error = LFIUnavailableError("away") if chance.random() < 0.2 else None
        window = None if begins is None else Window((AT + timedelta(days=begins - 2)).date())
        deep = begins is None or chance.random() < 0.3
        await desk.apply(walk(N.TRANSACTIONS, *pages[: 1 if error else 2], window=window, error=error, deep=deep))
        desk.clock.advance(hours=1)
        before, gone = gone, {key for key, row in (await desk.rows(N.TRANSACTIONS)).items() if row.gone_at}
        assert not (gone - before) & {f"t-{one}" for one in listed}
    for _ in range(3):
        await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("t-9")), deep=True))
        desk.clock.advance(hours=1)
    assert (await desk.live(N.TRANSACTIONS), await apart(desk)) == ({"t-9"}, [])


# -- in the tables ---------------------------------------------------------------------------------------------------


@pytest.mark.store
async def test_a_nameless_item_that_stays_blocks_no_proof(desk: Desk) -> None:
    """Beside it an order is cancelled: the order is buried, the item is told of in every walk."""
    await desk.apply(orders(order("so-1"), nameless(), order("so-2")))
    desk.clock.advance(days=1)
    (report,) = await desk.apply(orders(nameless(), order("so-2")))
    assert await desk.live(N.STANDING_ORDERS) == {"so-2"}
    assert (report.removed, report.error, dict(report.notes)) == (1, "standard_violation", {"item.no_usable_key": 1})


@pytest.mark.store
async def test_an_item_that_loses_its_id_is_not_buried(desk: Desk) -> None:
    """As long as it is shown without one; once it is no longer shown, it is."""
    await desk.apply(orders(order("so-1", CreditorReference="x"), order("so-2")))
    states = []
    for items in ([nameless(), order("so-2")], [nameless(), order("so-2")], [order("so-2")]):
        desk.clock.advance(days=1)
        await desk.apply(orders(*items))
        row = (await desk.rows(N.STANDING_ORDERS))["so-1"]
        states.append((row.missed_since is not None, row.gone_at is not None))
    assert states == [(True, False), (True, False), (False, True)]


@pytest.mark.store
async def test_a_row_that_only_a_cut_off_walk_showed_was_shown_beside_nothing(desk: Desk) -> None:
    """The item had no id, then one, then none again: what is known since before may still be it."""
    await desk.apply(orders(nameless(), order("so-2")))
    desk.clock.advance(days=1)
    named = page(N.STANDING_ORDERS, order("so-1", CreditorReference="x"))
    await desk.apply(walk(N.STANDING_ORDERS, named, error=LFIUnavailableError("away")))
    desk.clock.advance(days=1)
    await desk.apply(orders(nameless(), order("so-2")))
    assert await desk.live(N.STANDING_ORDERS) == {"so-1", "so-2"}


@pytest.mark.store
async def test_an_unreadable_item_is_kept_sealed(desk: Desk) -> None:
    """Place and reason lie open, its bytes open with the key ring alone, in their own row alone."""
    first = desk.clock.now()
    await desk.apply(orders(order("so-1"), nameless(SECRET)))
    later = desk.clock.advance(days=1)
    await desk.apply(orders(nameless(SECRET), order("so-1")))
    (one,) = await apart(desk)
    async with desk.store.reading() as unit:
        opened = await unit.unreadable.get(one.id, content=True)
        (sealed,) = (await unit.connection.exec_driver_sql("SELECT item FROM unreadable_item")).scalars()
    assert opened is not None
    assert json.loads(opened.item or b"") == nameless(SECRET)
    assert (one.path, one.reason, one.page) == ("Data.StandingOrder[0].StandingOrderId", "id_missing", 1)
    assert (one.first_seen_at, one.last_seen_at, one.times, one.item, one.kept) == (first, later, 2, None, True)
    assert (bytes(sealed)[:1], SECRET.encode() in bytes(sealed), SECRET in repr(opened)) == (b"\x02", False, False)
    async with desk.store.writing() as unit:
        await unit.connection.exec_driver_sql("UPDATE unreadable_item SET account_id = 'moved'")
        await unit.commit()
    async with desk.store.reading() as unit:
        with pytest.raises(SealError):
            await unit.unreadable.get(one.id, content=True)


@pytest.mark.store
async def test_what_is_kept_is_bounded(desk: Desk) -> None:
    """So many items of a listing, and of one no more than so many bytes; what is over the bound is counted."""
    items = [nameless(str(number)) for number in range(205)]
    (report,) = await desk.apply(orders(order("so-1"), nameless("y" * ITEM_BYTES_MAX), *items))
    kept = await apart(desk)
    assert dict(report.notes) == {"item.no_usable_key": 206, "item.not_kept": 6}
    assert (len(kept), [one.kept for one in kept if one.size > ITEM_BYTES_MAX]) == (200, [False])


@pytest.mark.store
async def test_an_item_goes_with_the_walk_that_no_longer_shows_it(desk: Desk) -> None:
    """Not with one that was cut off."""
    await desk.apply(orders(order("so-1"), nameless()))
    cut_off = walk(N.STANDING_ORDERS, page(N.STANDING_ORDERS, order("so-1")), error=LFIUnavailableError("away"))
    await desk.apply(cut_off)
    still = len(await apart(desk))
    await desk.apply(orders(order("so-1")))
    assert (still, await apart(desk)) == (1, [])
    assert (await desk.cursor(N.STANDING_ORDERS)).pages is not None


@pytest.mark.store
async def test_unreadable_items_are_erased_with_the_rest(desk: Desk) -> None:
    """Counted by their table, each class of data with its own."""
    party = walk(N.ACCOUNT_PARTIES, page(N.ACCOUNT_PARTIES, {"PartyType": "Sole"}))
    await desk.apply(orders(order("so-1"), nameless()), party)
    async with desk.store.writing() as unit:
        personal = await unit.erasure.erase(CONSENT, of=DataClass.PERSONAL)
        rest = await unit.erasure.erase(CONSENT)
        await unit.commit()
    assert (personal["unreadable_item"], rest["unreadable_item"], await apart(desk)) == (1, 1, [])


@pytest.mark.store
async def test_pages_before_an_unreadable_one_are_written(desk: Desk) -> None:
    """The walk ends there as one that was cut off: nothing is buried, and what came is held."""
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("old"))))
    pages = (page(N.TRANSACTIONS, transaction("a")), b'{"AccountId":"acc-1"}', page(N.TRANSACTIONS, transaction("c")))
    shown = show(walk(N.TRANSACTIONS, *pages), footprint.NOTHING)
    (report,) = await desk.apply(walk(N.TRANSACTIONS, *pages))
    assert (len(shown.walk.pages), isinstance(shown.walk.error, StandardViolationError)) == (1, True)
    assert (await desk.live(N.TRANSACTIONS), dict(report.notes)) == ({"old", "a"}, {"page.unreadable": 1})


# -- ids -------------------------------------------------------------------------------------------------------------


@pytest.mark.unit
@pytest.mark.parametrize(
    ("pages", "winner", "notes"),
    [
        pytest.param(
            [[transaction("a", 5, X=1), transaction("a", 2, X=2)]], 1, {"item.id_used_twice": 1}, id="the later booking"
        ),
        pytest.param(
            [[transaction("a", 2, X=1), transaction("a", 5, X=2)]], 2, {"item.id_used_twice": 1}, id="in either order"
        ),
        pytest.param(
            [[transaction("a", 5, X=1), transaction("a", 5, X=2)]], 2, {"item.id_used_twice": 1}, id="the last"
        ),
        pytest.param([[transaction("a", 5, X=1)] * 2], 1, {"item.shown_twice": 1}, id="the same item twice"),
        pytest.param(
            [[transaction("a", 5, X=1), dict(reversed(transaction("a", 5, X=1).items()))]], 1, {"item.shown_twice": 1},
            id="the same item in another order of members",
        ),
        pytest.param(
            [[transaction("a", 5, X=1)], [transaction("a", 2, X=2)]], 2, {"item.shown_twice": 1},
            id="on two pages: the later page",
        ),
        pytest.param(
            [[transaction("a", 5, X=1), transaction("a", 2, X=2)] * 2, [transaction("a", 5, X=1)]],
            1, {"item.id_used_twice": 1, "item.shown_twice": 3}, id="all of it",
        ),
    ],
)  # fmt: skip
def test_two_items_under_one_id(pages: list[list[dict[str, Any]]], winner: int, notes: dict[str, int]) -> None:
    """Different ones on one page are the LFI's fault; the same one again is what shifting pages look like."""
    shown = show(walk(N.TRANSACTIONS, *(page(N.TRANSACTIONS, *items) for items in pages)), footprint.NOTHING)
    assert (json.loads(shown.records["a"].raw)["X"], shown.notes) == (winner, notes)


@pytest.mark.store
async def test_an_id_used_twice_is_told_of_in_every_walk(desk: Desk) -> None:
    """No footprint is left that would let the next walk pass in silence."""
    twice = walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("a", 2, X=1), transaction("a", 5, X=2)))
    await desk.apply(twice)
    (report,) = await desk.apply(twice)
    assert dict(report.notes) == {"item.id_used_twice": 1}
    assert (await desk.cursor(N.TRANSACTIONS)).pages is None

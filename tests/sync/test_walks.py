"""What a whole walk shows, and what it leaves behind for the next one."""

import json
import zlib
from datetime import UTC, datetime
from typing import Any

import pytest

from syncworker.errors import LFIUnavailableError
from syncworker.standard.resources import BY_NAME, ResourceName
from syncworker.sync import pages as footprint
from syncworker.sync.apply import proof_of, show
from syncworker.sync.decode import Items, item_digest
from syncworker.sync.diff import Proof
from syncworker.sync.fetch import Walk
from syncworker.sync.pages import NOTHING
from syncworker.sync.plan import Step, Window

pytestmark = pytest.mark.unit

N = ResourceName
NOW = datetime(2026, 10, 20, tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)


def data(resource: ResourceName, *items: Any) -> bytes:
    return json.dumps({"AccountId": "acc", BY_NAME[resource].items: list(items)}).encode()


def walk(resource: ResourceName, *pages: bytes, **facts: Any) -> Walk:
    return Walk(step=Step(BY_NAME[resource], "acc"), pages=pages, **facts)


def transaction(key: str, status: str = "Booked") -> dict[str, str]:
    return {"TransactionId": key, "Status": status}


ONE, TWO = data(N.TRANSACTIONS, transaction("a"), transaction("b")), data(N.TRANSACTIONS, transaction("c"))


def test_a_walk_leaves_its_digests_and_keys_behind() -> None:
    """Packed and unpacked they are the same."""
    shown = show(walk(N.TRANSACTIONS, ONE, TWO), NOTHING)
    known = footprint.unpack(footprint.pack(shown.digests, shown.items))
    assert known.pages == dict(zip(shown.digests, shown.items or (), strict=True))
    assert [page.keys for page in known.pages.values()] == [("a", "b"), ("c",)]
    assert known.items == {item_digest(json.dumps(transaction(key)).encode()): key for key in "abc"}


@pytest.mark.parametrize(
    ("pages", "expected"),
    [
        pytest.param((ONE, TWO), True, id="the same pages"),
        pytest.param((ONE,), False, id="one fewer"),
        pytest.param((ONE, TWO, TWO), False, id="one more"),
        pytest.param((TWO, ONE), False, id="another order"),
        pytest.param((ONE + b" ", TWO), False, id="other bytes"),
        pytest.param((), False, id="none"),
    ],
)
def test_an_unchanged_walk_is_recognised_as_a_whole(pages: tuple[bytes, ...], expected: bool) -> None:
    """By the digests of its pages, in order, and their number."""
    items = [Items(("a", "b"), (1, 2)), Items(("c",), (3,))]
    packed = footprint.pack([footprint.page_digest(one) for one in (ONE, TWO)], items)
    assert footprint.same(packed, [footprint.page_digest(one) for one in pages]) is expected


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(None, id="none"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\x02", id="cut off in its head"),
        pytest.param(b"\x02\x00\x00\x00\x01\x00\x00\x00\x01garbage", id="cut off in its digests"),
        pytest.param(footprint.pack([b"d" * 16], [Items(("a",), (1,))])[:-8], id="cut off in its keys"),
        pytest.param(footprint.pack([b"d" * 16], [Items(("a",), (1, 2))]), id="more digests than keys"),
        pytest.param(footprint.pack([b"d" * 16], None), id="a key shown twice"),
        pytest.param(b"\x01\x00\x00\x00\x01" + b"d" * 16 + zlib.compress(b"\x91\x91\xa1a"), id="an older version"),
        pytest.param(b"\xffrest", id="a version to come"),
    ],
)
def test_a_footprint_that_cannot_be_read_recognises_nothing(packed: bytes | None) -> None:
    """The next walk simply looks at everything."""
    assert (footprint.unpack(packed), footprint.same(packed, [b"e" * 16])) == (NOTHING, False)


def test_a_known_page_counts_by_its_keys() -> None:
    """It is not decoded, yet what it shows is seen; a page that moved is known as well."""
    before = show(walk(N.TRANSACTIONS, ONE, TWO), NOTHING)
    known = footprint.unpack(footprint.pack(before.digests, before.items))
    after = show(walk(N.TRANSACTIONS, data(N.TRANSACTIONS, transaction("z")), ONE), known)
    assert (set(after.seen), set(after.records), after.pages_unchanged) == ({"z", "a", "b"}, {"z"}, 1)


def test_the_last_of_two_items_with_one_key_wins() -> None:
    """A walk of pages is not a snapshot: an item may move from one page to the next."""
    pages = (
        data(N.TRANSACTIONS, transaction("a", "Pending")),
        data(N.TRANSACTIONS, transaction("a", "Booked")),
    )
    shown = show(walk(N.TRANSACTIONS, *pages), NOTHING)
    assert (shown.records["a"].columns[0], shown.notes, shown.items) == ("Booked", {"item.shown_twice": 1}, None)


def leaves(*pages: bytes, resource: ResourceName = N.TRANSACTIONS) -> footprint.Footprint:
    """What a walk of these pages leaves behind."""
    shown = show(walk(resource, *pages), NOTHING)
    return footprint.unpack(footprint.pack(shown.digests, shown.items))


def test_a_known_item_counts_by_its_key() -> None:
    """Of a page that changed only the items that did are decoded, on whichever page they were before."""
    pages = data(N.TRANSACTIONS, transaction("b"), transaction("c")), data(N.TRANSACTIONS, transaction("a", "Pending"))
    shown = show(walk(N.TRANSACTIONS, *pages), leaves(ONE, TWO))
    assert (list(shown.seen), set(shown.records), shown.pages_unchanged) == (["b", "c", "a"], {"a"}, 0)


def test_a_walk_leaves_known_items_behind_as_it_found_them() -> None:
    """However little of it was decoded, the next walk recognises all of it."""
    pages = ONE, data(N.TRANSACTIONS, transaction("c"), transaction("d"))
    shown = show(walk(N.TRANSACTIONS, *pages), leaves(ONE, TWO))
    assert footprint.unpack(footprint.pack(shown.digests, shown.items)) == leaves(*pages)


def test_a_known_item_beside_another_with_its_key_is_decoded_after_all() -> None:
    """Which of the two wins, only their columns say."""
    shown = show(walk(N.TRANSACTIONS, ONE, data(N.TRANSACTIONS, transaction("a", "Pending"))), leaves(ONE, TWO))
    assert (set(shown.records), shown.records["a"].columns[0], shown.items) == ({"a", "b"}, "Pending", None)


def test_an_item_that_its_place_names_is_never_known() -> None:
    """What is first in the listing today may be second tomorrow."""
    one, two = {"ProductId": "1"}, {"ProductId": "2"}
    known = leaves(data(N.PRODUCT, one, two), resource=N.PRODUCT)
    shown = show(walk(N.PRODUCT, data(N.PRODUCT, two, one)), known)
    assert {key: record.raw for key, record in shown.records.items()} == {
        "1": json.dumps(two).encode(),
        "2": json.dumps(one).encode(),
    }


def test_an_item_of_another_decoder_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests are salted with its version: a column read differently is filled anew."""
    known = leaves(ONE, TWO)
    monkeypatch.setattr("syncworker.sync.decode.DECODER_VERSION", 99)
    shown = show(walk(N.TRANSACTIONS, data(N.TRANSACTIONS, transaction("a"), transaction("c"))), known)
    assert set(shown.records) == {"a", "c"}


@pytest.mark.parametrize("order", [1, -1])
def test_the_newest_of_two_balances_of_one_type_wins(order: int) -> None:
    """Whichever comes first."""
    balances = [
        {
            "Type": "ClosingBooked",
            "DateTime": f"2026-05-0{day}T00:00:00Z",
            "Amount": {"Amount": str(day), "Currency": "AED"},
        }
        for day in (1, 2)
    ][::order]
    shown = show(walk(N.BALANCES, data(N.BALANCES, *balances)), NOTHING)
    assert str(shown.records["ClosingBooked|AED"].columns[3]) == "2"


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        pytest.param(walk(N.BALANCES, data(N.BALANCES)), Proof(True, True), id="one page"),
        pytest.param(walk(N.TRANSACTIONS, ONE, TWO), Proof(True, False), id="two pages"),
        pytest.param(walk(N.TRANSACTIONS, ONE, error=LFIUnavailableError("away")), Proof(False, True), id="broken off"),
        pytest.param(walk(N.TRANSACTIONS, ONE, pages_said=2), Proof(False, True), id="fewer pages than the bank says"),
        pytest.param(walk(N.TRANSACTIONS, ONE, TWO, pages_said=1), Proof(True, False), id="more pages than it says"),
        pytest.param(
            walk(N.TRANSACTIONS, data(N.TRANSACTIONS, {"Status": "Booked"})),
            Proof(True, True),
            id="an item lacks a key: what that means, the items known from earlier walks say",
        ),
        pytest.param(
            Walk(step=Step(BY_NAME[N.TRANSACTIONS], "acc", window=Window()), pages=(ONE,), first_available=LAST),
            Proof(True, True),
            id="history that begins at the end of time: no word about it",
        ),
    ],
)
def test_how_much_a_walk_proves(one: Walk, expected: Proof) -> None:
    """A failed or damaged walk buries nothing."""
    assert proof_of(show(one, NOTHING), now=NOW) == expected

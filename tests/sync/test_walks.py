"""What a whole walk shows, and what it leaves behind for the next one."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from syncworker.errors import LFIUnavailableError
from syncworker.standard.resources import BY_NAME, ResourceName
from syncworker.sync import pages as footprint
from syncworker.sync.apply import proof_of, show
from syncworker.sync.diff import Proof
from syncworker.sync.fetch import Walk
from syncworker.sync.plan import Step, Window
from syncworker.sync.refusals import ABSENT, REFUSED, TRANSIENT, refusal

pytestmark = pytest.mark.unit

N = ResourceName
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
    shown = show(walk(N.TRANSACTIONS, ONE, TWO), {})
    packed = footprint.pack(shown.digests, shown.keys)
    assert footprint.unpack(packed) == dict(zip(shown.digests, [("a", "b"), ("c",)], strict=True))


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
    packed = footprint.pack([footprint.page_digest(one) for one in (ONE, TWO)], [("a", "b"), ("c",)])
    assert footprint.same(packed, [footprint.page_digest(one) for one in pages]) is expected


@pytest.mark.parametrize("packed", [None, b"", b"\x02rest", b"\x01\x00\x00\x00\x01garbage", b"\x01"])
def test_a_footprint_that_cannot_be_read_recognises_nothing(packed: bytes | None) -> None:
    """The next walk simply looks at everything."""
    assert (footprint.unpack(packed), footprint.same(packed, [b"d" * 16])) == ({}, False)


def test_a_known_page_counts_by_its_keys() -> None:
    """It is not decoded, yet what it shows is seen; a page that moved is known as well."""
    before = show(walk(N.TRANSACTIONS, ONE, TWO), {})
    known = footprint.unpack(footprint.pack(before.digests, before.keys))
    after = show(walk(N.TRANSACTIONS, data(N.TRANSACTIONS, transaction("z")), ONE), known)
    assert (set(after.seen), set(after.records), after.pages_unchanged) == ({"z", "a", "b"}, {"z"}, 1)


def test_the_last_of_two_items_with_one_key_wins() -> None:
    """A walk of pages is not a snapshot: an item may move from one page to the next."""
    pages = (
        data(N.TRANSACTIONS, transaction("a", "Pending")),
        data(N.TRANSACTIONS, transaction("a", "Booked")),
    )
    shown = show(walk(N.TRANSACTIONS, *pages), {})
    assert (shown.records["a"].columns[0], shown.notes, shown.keys) == ("Booked", {"item.shown_twice": 1}, None)


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
    shown = show(walk(N.BALANCES, data(N.BALANCES, *balances)), {})
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
            Proof(False, True),
            id="an item lacks a key",
        ),
        pytest.param(
            Walk(step=Step(BY_NAME[N.TRANSACTIONS], "acc", window=Window()), pages=(ONE,), first_available=LAST),
            Proof(True, True, since=LAST),
            id="history that begins at the end of time",
        ),
    ],
)
def test_how_much_a_walk_proves(one: Walk, expected: Proof) -> None:
    """A failed or damaged walk buries nothing."""
    assert proof_of(show(one, {})) == expected


@pytest.mark.parametrize(
    ("status", "code", "outcome", "remembered", "ask"),
    [
        pytest.param(404, "", ABSENT.outcome, True, False, id="the account has no such thing"),
        pytest.param(403, "AccessToken.InvalidScope", REFUSED.outcome, True, True, id="a gap in the permissions"),
        pytest.param(403, "Consent.PermanentAccountAccessFailure", REFUSED.outcome, True, True, id="for good"),
        pytest.param(403, "Consent.TransientAccountAccessFailure", TRANSIENT.outcome, False, False, id="for now"),
        pytest.param(403, "GenericRecoverableError", TRANSIENT.outcome, False, False, id="time mends it"),
        pytest.param(400, "Consent.Invalid", REFUSED.outcome, True, True, id="about the consent"),
        pytest.param(400, "Resource.InvalidFormat", REFUSED.outcome, True, False, id="about the request"),
        pytest.param(401, "", TRANSIENT.outcome, False, True, id="a second 401"),
        pytest.param(406, "", REFUSED.outcome, True, False, id="any other 4xx"),
    ],
)
def test_what_a_refusal_means(status: int, code: str, outcome: str, remembered: bool, ask: bool) -> None:
    """By status and code alone."""
    meaning = refusal(status, code)
    assert (meaning.outcome, meaning.remember is not None, meaning.ask) == (outcome, remembered, ask)

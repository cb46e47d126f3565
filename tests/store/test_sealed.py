"""Packed items come back byte for byte; sealed ones only in their place."""

import os
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncworker.errors import SealError
from syncworker.store.keyring import KeyRing
from syncworker.store.sealed import is_sealed, open_list, open_text, pack_raw, seal_list, seal_text, unpack_raw

pytestmark = pytest.mark.unit

RING = KeyRing({"k1": b"1" * 32})
SEAL = partial(RING.seal, table="party", column="raw", row="c1||p1")
OPEN = partial(RING.open, table="party", column="raw", row="c1||p1")
ITEM = b'{"TransactionId":"t1","Amount":{"Amount":"100.00","Currency":"AED"},"CreditDebitIndicator":"Debit"}'


@given(st.binary(max_size=5_000))
def test_every_item_comes_back(item: bytes) -> None:
    """Plain or sealed, whatever the bytes."""
    assert (unpack_raw(pack_raw(item)), unpack_raw(pack_raw(item, SEAL), OPEN)) == (item, item)


def test_an_item_packed_by_an_older_release_comes_back() -> None:
    """Rows are not rewritten for a better packing."""
    deflated = bytes.fromhex("010335e0104681bc56026aedc174126506fed0ad0500")
    assert unpack_raw(deflated) == ITEM


def test_an_item_of_the_standard_shrinks() -> None:
    """The preset dictionary knows the standard's names: less than half remains of a small item."""
    assert len(pack_raw(ITEM)) < len(ITEM) / 2


def test_what_does_not_shrink_is_stored() -> None:
    """One byte is the most that packing adds."""
    noise = os.urandom(500)
    assert pack_raw(noise) == b"\x00" + noise


def test_a_packed_item_says_what_it_is() -> None:
    """One column may hold plain and sealed items."""
    assert [is_sealed(pack_raw(ITEM)), is_sealed(pack_raw(ITEM, SEAL))] == [False, True]


def test_a_sealed_item_shows_nothing() -> None:
    """No name of the item is left in its bytes."""
    assert b"Amount" not in pack_raw(b"Amount" * 100, SEAL)


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(pack_raw(ITEM, SEAL), id="sealed, no ring"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\x07abc", id="unknown marker"),
        pytest.param(b"\x01\xff\xff\xff", id="damaged, deflated"),
        pytest.param(b"\x03\xff\xff\xff", id="damaged"),
        pytest.param(pack_raw(ITEM)[:-3], id="cut off"),
    ],
)
def test_what_is_no_item_is_refused(packed: bytes) -> None:
    """Never a guess, always a SealError."""
    with pytest.raises(SealError, match=r"^raw: "):
        unpack_raw(packed)


def test_a_plain_item_where_only_sealed_ones_are_written_is_refused() -> None:
    """Who can write the table cannot slip in an item of their own."""
    with pytest.raises(SealError, match="not sealed"):
        unpack_raw(pack_raw(ITEM), OPEN, sealed_only=True)


@pytest.mark.parametrize("elsewhere", [{"table": "account"}, {"column": "typed"}, {"row": "c1||p2"}], ids=str)
def test_a_seal_opens_in_its_own_table_column_and_row_alone(elsewhere: dict[str, str]) -> None:
    """What is moved to another row, a row of another table with the same key included, does not open there."""
    place = {"table": "party", "column": "raw", "row": "c1||p1"}
    moved = place | elsewhere
    sealed = (RING.seal(ITEM, **place), seal_text(RING, "one", **place), seal_list(RING, ["one"], **place))

    assert RING.open(sealed[0], **place) == ITEM
    assert (open_text(RING, sealed[1], **place), open_list(RING, sealed[2], **place)) == ("one", ["one"])
    with pytest.raises(SealError):
        RING.open(sealed[0], **moved)
    with pytest.raises(SealError):
        open_text(RING, sealed[1], **moved)
    with pytest.raises(SealError):
        open_list(RING, sealed[2], **moved)


def test_text_and_lists() -> None:
    """Sealed text and sealed lists keep their value and order; an empty column is an empty list."""
    place = {"table": "token", "column": "spares", "row": "c1"}
    text = open_text(RING, seal_text(RING, "ü", **place), **place)
    values = open_list(RING, seal_list(RING, ["b", "a"], **place), **place)

    assert (text, values, open_list(RING, None, **place)) == ("ü", ["b", "a"], [])

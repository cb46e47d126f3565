"""Cursors: what they bring back, and which are refused."""

import base64
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncworker.errors import RequestError
from syncworker.views.pages import LENGTH_MAX, VERSION, cursor_text, filter_digest, read_cursor

OWN = filter_digest("transactions", {"status": "Booked"})
VALUES = (
    st.none()
    | st.datetimes(timezones=st.just(UTC))
    | st.dates()
    | st.integers(-(2**63), 2**63 - 1)
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=40)
)


@given(st.lists(VALUES, min_size=1, max_size=3))
def test_a_cursor_brings_back_its_place(place: list[Any]) -> None:
    """Values and their types."""
    found = read_cursor(cursor_text(OWN, place), OWN)
    assert found == tuple(place)
    assert [type(one) for one in found] == [type(one) for one in place]


def made(*content: Any) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(content)).decode().rstrip("=")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "not base64!",
        "AAAA",
        "é",
        made(VERSION + 1, OWN, [["s", "x"]]),
        made(VERSION, OWN),
        made(VERSION, OWN, [["z", "x"]]),
        made(VERSION, OWN, [["s"]]),
        made(VERSION, OWN, [["s", None]]),
        made(VERSION, OWN, [["s", "a\x00b"]]),
        made(VERSION, OWN, [["t", "2026-11-21T10:00:00"]]),
        made(VERSION, OWN, [["t", "soon"]]),
        made(VERSION, OWN, [["d", "2026-13-01"]]),
        made(VERSION, OWN, [["i", "1e9"]]),
        made(VERSION, OWN, [["i", str(2**63)]]),
        made(VERSION, OWN, [["m", "much"]]),
        made(VERSION, OWN, [[None, None]]),
        made(VERSION, OWN, [["s", "x" * LENGTH_MAX]]),
    ],
)
def test_a_text_that_is_no_cursor_is_refused(text: str) -> None:
    """With the field's name, and nothing of what was sent."""
    with pytest.raises(RequestError, match=r"^cursor: is none of this list's; begin without a cursor$"):
        read_cursor(text, OWN)


@pytest.mark.parametrize("text", [st.text(), st.binary().map(lambda one: base64.urlsafe_b64encode(one).decode())])
def test_no_text_does_more_than_be_refused(text: st.SearchStrategy[str]) -> None:
    """Whatever strangers send."""

    @given(text)
    def tried(one: str) -> None:
        with pytest.raises(RequestError, match=r"^cursor: "):
            read_cursor(one, OWN)

    tried()


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("transactions", {"status": "Pending"}),
        ("transactions", {}),
        ("transactions", {"status": "Booked", "currency": "AED"}),
        ("balances", {"status": "Booked"}),
    ],
)
def test_a_cursor_of_another_list_or_filter_is_refused(name: str, asked: dict[str, str]) -> None:
    """A page of another filter would begin in the middle of it."""
    text = cursor_text(filter_digest(name, asked), ["acc_1", "T1"])
    with pytest.raises(RequestError, match="belongs to another list or filter"):
        read_cursor(text, OWN)


def test_a_filter_is_known_by_what_it_limits() -> None:
    """Order of the members and what is not given make no difference."""
    one = filter_digest("x", {"a": 1, "b": None, "c": date(2026, 1, 1)})
    assert one == filter_digest("x", {"c": date(2026, 1, 1), "a": 1})
    assert one != filter_digest("x", {"c": date(2026, 1, 2), "a": 1})


def test_a_cursor_is_short_and_safe_in_a_url() -> None:
    """Base64url without padding."""
    text = cursor_text(OWN, [datetime(2026, 11, 21, tzinfo=UTC), "acc_" + "x" * 20, "T" * 40, Decimal("1.5")])
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert len(text) < 300

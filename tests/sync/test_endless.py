"""Where a walk ends whose links do not."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from syncworker.errors import EndlessListingError
from syncworker.lfi.api import Page
from syncworker.standard.resources import BY_NAME, ResourceName
from syncworker.sync.decode import names_of
from syncworker.sync.endless import Progress

pytestmark = pytest.mark.unit

N = ResourceName
NEVER_ENDS, REPEATS = EndlessListingError.NEVER_ENDS, EndlessListingError.REPEATS_ITSELF


def data(resource: ResourceName, items: Sequence[Any]) -> bytes:
    return json.dumps({"AccountId": "acc", BY_NAME[resource].items: items}).encode()


def transactions(keys: str, **more: Any) -> bytes:
    """A page with a transaction for each letter."""
    return data(N.TRANSACTIONS, [{"TransactionId": key, **more} for key in keys])


def ends_at(
    pages: Iterable[bytes],
    total: int | Sequence[int] | None,
    *,
    resource: ResourceName = N.TRANSACTIONS,
    last: int | None = None,
) -> tuple[int, str] | None:
    """At which page a walk is ended, and how it is noted; every page but the `last` leads on."""
    progress = Progress(BY_NAME[resource])
    for number, one in enumerate(pages, start=1):
        page = Page(
            number=number,
            data=one,
            next_url=None if number == last else "https://bank.example/next",
            total_pages=total[number - 1] if isinstance(total, Sequence) else total,
            first_available=None,
            last_available=None,
        )
        if (fault := progress.fault_of(page)) is not None:
            return number, fault.note
    return None


def alike(times: int, keys: str = "ab") -> list[bytes]:
    """The same transactions again and again, each time in other bytes."""
    return [transactions(keys, TransactionInformation=f"seen at {number}") for number in range(times)]


EMPTY = transactions("")
A, B, C, D = (transactions(key) for key in "abcd")


@pytest.mark.parametrize(
    ("pages", "total", "expected"),
    [
        pytest.param([A, B, EMPTY, EMPTY], 2, (3, NEVER_ENDS), id="empty behind the last page"),
        pytest.param([EMPTY, EMPTY], 1, (2, NEVER_ENDS), id="nothing, and more of it"),
        pytest.param([EMPTY], 0, (1, NEVER_ENDS), id="no pages, and a link to the next"),
        pytest.param([A, EMPTY, EMPTY, B], 4, None, id="empty within the pages promised"),
        pytest.param([A, EMPTY, EMPTY], [1, 3, 4], (2, NEVER_ENDS), id="the total grows with each page"),
        pytest.param([A, B, C, D], 1, None, id="a total that is too small, and something new on each page"),
        pytest.param([A, B, A], 2, (3, REPEATS), id="begins anew"),
        pytest.param([A, A], 5, (2, REPEATS), id="the same page again"),
        pytest.param([A, B, A], 5, (3, REPEATS), id="a page before, again"),
        pytest.param(alike(9), 2, (3, REPEATS), id="the same records in other bytes"),
        pytest.param(alike(9), 400, (8, REPEATS), id="the same records within a total that cannot be true"),
        pytest.param(alike(9), [2, 3, 4, 5, 6, 7, 8, 9, 10], (3, REPEATS), id="the same records, a total that grows"),
        pytest.param([transactions("ab"), transactions("bc"), transactions("c")], 2, (3, REPEATS), id="an overlap"),
        pytest.param(
            [transactions("ab"), transactions("bc"), transactions("cd")], 2, None, id="rows moved down a page"
        ),
        pytest.param([A, B, A], None, (3, REPEATS), id="no total: begins anew"),
        pytest.param(alike(3), None, (2, REPEATS), id="no total: the same records in other bytes"),
        pytest.param([A, EMPTY, EMPTY, B, EMPTY, EMPTY], None, None, id="no total: two empty pages in a row"),
        pytest.param([A, EMPTY, EMPTY, EMPTY], None, (4, NEVER_ENDS), id="no total: three empty pages in a row"),
        pytest.param([A, b'{"AccountId":"acc"}'], 1, (2, NEVER_ENDS), id="a page that cannot be read"),
        pytest.param([A, data(N.TRANSACTIONS, [1, {"TransactionId": "b"}])], 1, None, id="an item that cannot be read"),
    ],
)
def test_where_a_walk_ends_that_leads_on(
    pages: list[bytes], total: int | Sequence[int] | None, expected: tuple[int, str] | None
) -> None:
    """At the first page that can bring nothing, and not before."""
    assert ends_at(pages, total) == expected


@pytest.mark.parametrize("pages", [[A, B, EMPTY], [A, B, A], [A, A], alike(2), [EMPTY]])
def test_a_walk_whose_links_end_is_whole(pages: list[bytes]) -> None:
    """A link on the last page that leads to an empty one, and no further, costs one call and no more."""
    assert ends_at(pages, 1, last=len(pages)) is None


def test_a_long_listing_is_left_alone() -> None:
    """Five hundred pages with records of their own."""
    assert ends_at([transactions(chr(0x4E00 + number)) for number in range(500)], 500) is None


@pytest.mark.parametrize(
    ("pages", "total", "expected"),
    [
        pytest.param(["a", "a"], 2, None, id="two that are alike, within the pages promised"),
        pytest.param(["a", "a"], 1, (2, REPEATS), id="the same behind them"),
        pytest.param(["a", "b"], 1, None, id="another behind them"),
        pytest.param(["a", None], 1, (2, NEVER_ENDS), id="nothing behind them"),
    ],
)
def test_items_without_an_id_are_told_apart_by_their_bytes(
    pages: list[str | None], total: int, expected: tuple[int, str] | None
) -> None:
    """Their place does not say whether they were shown before."""
    bodies = [data(N.PRODUCT, [] if one is None else [{"Description": one}]) for one in pages]
    assert ends_at(bodies, total, resource=N.PRODUCT) == expected


@pytest.mark.parametrize(
    ("resource", "body", "expected"),
    [
        pytest.param(N.TRANSACTIONS, transactions("ab"), {"a", "b"}, id="one member"),
        pytest.param(
            N.BALANCES,
            data(N.BALANCES, [{"Type": "Expected", "Amount": {"Amount": "1.0", "Currency": "AED"}}]),
            {"Expected|AED"},
            id="two members, one below another",
        ),
        pytest.param(N.ACCOUNTS, data(N.ACCOUNTS, [{"AccountId": 7}]), {"7"}, id="an id that is a number"),
        pytest.param(N.PARTIES, b'{"Party": {"PartyId": "p"}}', {"p"}, id="a single object"),
        pytest.param(
            N.TRANSACTIONS, data(N.TRANSACTIONS, [{}, {"TransactionId": "a"}]), {"a"}, id="an item without key"
        ),
        pytest.param(N.TRANSACTIONS, b"{", set(), id="no JSON"),
        pytest.param(N.TRANSACTIONS, b'{"Transaction": 7}', set(), id="no list"),
    ],
)
def test_what_names_the_items_of_a_page(resource: ResourceName, body: bytes, expected: set[str]) -> None:
    """The keys that decoding gives them."""
    assert names_of(BY_NAME[resource], body) == expected

"""The bench bank's books: what it serves is what the audit expects, and our decoder reads the same."""

from collections.abc import Mapping
from datetime import date
from itertools import chain

import msgspec
import pytest

from syncworker.bench.books import CHANGED_EVERY, Listing, World, compared_columns, listings, pages, rows
from syncworker.standard.resources import BY_NAME, RESOURCES
from syncworker.store.tables import RECORD_TABLES, typed_columns
from syncworker.sync.decode import decode

pytestmark = pytest.mark.unit

WORLD = World(consents=3, transactions=30, page_size=20, today=date(2026, 11, 21))


def served(listing: Listing) -> list[bytes]:
    """`Data` of each page."""
    made = pages(listing, WORLD, base_url="https://bank")
    return [bytes(msgspec.json.decode(body, type=Mapping[str, msgspec.Raw])["Data"]) for _, body in made]


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("consent", range(WORLD.consents))
def test_our_decoder_reads_what_the_books_expect(consent: int, changed: bool) -> None:
    """Keys, compared columns and raw items, by two readings that share no code."""
    for listing in listings(WORLD, consent, changed=changed):
        decoded = [decode(BY_NAME[listing.resource], listing.account_id, data) for data in served(listing)]
        table = RECORD_TABLES[listing.resource]
        places = [typed_columns(table).index(name) for name in compared_columns(table)]
        read = [
            (one.key, tuple(one.columns[place] for place in places), one.raw)
            for page in decoded
            for one in page.records
        ]

        assert read == [(place.key, columns, raw) for place, columns, raw in rows(listing)]


def test_no_reading_of_them_is_odd() -> None:
    """The comparison is about work, not about oddities."""
    whole = chain.from_iterable(listings(WORLD, one, changed=True) for one in range(WORLD.consents))
    decoded = [decode(BY_NAME[one.resource], one.account_id, data) for one in whole for data in served(one)]

    assert [(one.notes, one.violations) for one in decoded] == [({}, 0)] * len(decoded)


def test_every_resource_is_shown() -> None:
    """All of the catalogue but what shows another's items once more."""
    shown = {listing.resource for listing in listings(WORLD, 0, changed=False)}

    assert shown == {one.name for one in RESOURCES if one.repeats is None}


def test_the_change_touches_one_item_in_twenty() -> None:
    """Of everything a consent shows, in raw item and typed columns alike."""
    before, after = (
        [row for listing in listings(WORLD, 1, changed=changed) for row in rows(listing)] for changed in (False, True)
    )
    differing = [one for one, other in zip(before, after, strict=True) if one != other]
    in_columns = [one for one, other in zip(before, after, strict=True) if one[1] != other[1]]

    assert (abs(len(before) / len(differing) - CHANGED_EVERY) < 3, len(differing)) == (True, len(in_columns))


def test_pages_lead_to_each_other_and_end() -> None:
    """Each link names the next page's path; the last has none."""
    listing = next(one for one in listings(WORLD, 0, changed=False) if len(one.items) == WORLD.transactions)
    made = pages(listing, WORLD, base_url="https://bank")
    links = [msgspec.json.decode(body)["Links"].get("Next") for _, body in made]

    assert links == [*(f"https://bank{path}" for path, _ in made[1:]), None]

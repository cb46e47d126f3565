"""What each resource of the catalogue lists of an account: one row for each, read by the API and by the books alike.

The rows are written as v2.1 writes them; `editions` knows what older versions show of them.

Source: Account Information API v2.1-errata2; `standard.resources` for names and keys.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Final

from syncworker.simulator.arrangement_items import arrangement_columns, arrangement_item, terms_columns
from syncworker.simulator.arrangements import KINDS, Product, id_of
from syncworker.simulator.editions import EDITIONS, Edition
from syncworker.simulator.ledger import Account, Person
from syncworker.simulator.render import (
    Item,
    account_columns,
    account_item,
    account_party_item,
    balance_columns,
    balance_item,
    party_columns,
    party_item,
    transaction_columns,
    transaction_item,
)
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import local_date
from syncworker.standard.versions import Version

N = ResourceName
_AS_WRITTEN: Final = Edition()


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """How one resource is written.

    Attributes:
        rows: what an account has of it, in the order of the API; `None`: this account knows no such thing (404).
        key: parts of the natural key; `None`: its place in the listing, from 1.
        day: what FromDate and ToDate of a consent look at; `None`: nothing.
    """

    rows: Callable[[Account], Sequence[Any] | None]
    item: Callable[[Any], Item]
    columns: Callable[[Any], Item]
    key: Callable[[Any], tuple[str, ...]] | None
    day: Callable[[Any], date] | None = None


def _arrangements(name: ResourceName) -> Listing:
    return Listing(
        rows=lambda account: account.listings.get(name),
        item=arrangement_item,
        columns=arrangement_columns,
        key=None if KINDS[name] is Product else lambda row: (id_of(row) or "",),
        day=(lambda row: row.opening_date) if name is N.STATEMENTS else None,
    )


LISTINGS: Final[Mapping[ResourceName, Listing]] = {
    N.ACCOUNTS: Listing(
        rows=lambda account: [account],
        item=account_item,
        columns=account_columns,
        key=lambda account: (account.account_id,),
    ),
    N.ACCOUNT: Listing(
        rows=lambda account: [account],
        item=lambda account: account_item(account, with_id=False),
        columns=account_columns,
        key=None,
    ),
    N.BALANCES: Listing(
        rows=lambda account: account.balances,
        item=balance_item,
        columns=balance_columns,
        key=lambda row: (row.type, row.currency),
    ),
    N.TRANSACTIONS: Listing(
        rows=lambda account: account.transactions,
        item=transaction_item,
        columns=transaction_columns,
        key=lambda row: (row.transaction_id,),
        day=lambda row: local_date(row.booked_at),
    ),
    N.ACCOUNT_PARTIES: Listing(
        rows=lambda account: account.parties,
        item=account_party_item,
        columns=party_columns,
        key=lambda role: (role.person.party_id,),
    ),
    N.PARTIES: Listing(
        rows=lambda account: [account.holder],
        item=party_item,
        columns=party_columns,
        key=lambda person: (person.party_id,),
    ),
    **{name: _arrangements(name) for name in KINDS},
}
"""`parties` belongs to the user who agreed: its `rows` are for an account's holder and asked for by nobody."""


def rows_of(name: ResourceName, account: Account, *, version: Version, rates: bool) -> Sequence[Any] | None:
    """What an account has of a resource, as far as a version can say it; without `rates` not what lending costs."""
    rows = LISTINGS[name].rows(account)
    if rows is None:
        return None
    if name is N.PRODUCT and not rates:
        rows = [replace(row, finance_rates=None) for row in rows]
    edition = EDITIONS[version].get(name)
    return rows if edition is None else [edition.row(row) for row in rows]


def item_of(name: ResourceName, row: Any, version: Version) -> Item:
    """A row of `rows_of`, written as the version's schema has it."""
    return (_edition(name, version).item or LISTINGS[name].item)(row)


def book_rows(
    name: ResourceName, account: Account, *, version: Version, rates: bool, shows: Callable[[date], bool]
) -> list[Item]:
    """What the bank has of one resource of one account: `{account_id, key, item, columns}` for each item shown.

    Args:
        shows: whether a day lies within FromDate and ToDate.

    `key` lists the parts of the natural key in the standard's order; without one it is the item's place, from 1.
    """
    listing = LISTINGS[name]
    account_id = "" if name is N.ACCOUNTS else account.account_id
    return [
        _book_row(name, account_id, row, version, place)
        for place, row in enumerate(rows_of(name, account, version=version, rates=rates) or (), start=1)
        if listing.day is None or shows(listing.day(row))
    ]


def own_party(person: Person, version: Version) -> Person:
    """The user who agreed, as far as a version can say it."""
    shown: Person = _edition(N.PARTIES, version).row(person)
    return shown


def book_party(person: Person, version: Version) -> Item:
    """The one row of `/parties`."""
    return _book_row(N.PARTIES, "", own_party(person, version), version, 1)


def _book_row(name: ResourceName, account_id: str, row: Any, version: Version, place: int) -> Item:
    listing = LISTINGS[name]
    key = (str(place),) if listing.key is None else listing.key(row)
    item = item_of(name, row, version)
    columns = listing.columns(row) | (terms_columns(item) if name is ResourceName.PRODUCT else {})
    columns |= dict.fromkeys(_edition(name, version).lacks)
    return {"account_id": account_id, "key": list(key), "item": item, "columns": columns}


def _edition(name: ResourceName, version: Version) -> Edition:
    return EDITIONS[version].get(name, _AS_WRITTEN)

"""What each resource of the catalogue lists of an account: one row for each, read by the API and by the books alike.

Source: Account Information API v2.1-errata2; `standard.resources` for names and keys.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Final

from syncworker.simulator.arrangement_items import arrangement_columns, arrangement_item
from syncworker.simulator.arrangements import KINDS, Product, id_of
from syncworker.simulator.ledger import Account
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

N = ResourceName


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


def rows_of(name: ResourceName, account: Account, *, rates: bool) -> Sequence[Any] | None:
    """What an account has of a resource; without `rates` its product says nothing of FinanceRates."""
    rows = LISTINGS[name].rows(account)
    if name is N.PRODUCT and rows is not None and not rates:
        return [replace(row, finance_rates=None) for row in rows]
    return rows


def book_rows(name: ResourceName, account: Account, *, rates: bool, shows: Callable[[date], bool]) -> list[Item]:
    """What the bank has of one resource of one account: `{account_id, key, item, columns}` for each item shown.

    Args:
        shows: whether a day lies within FromDate and ToDate.

    `key` lists the parts of the natural key in the standard's order; without one it is the item's place, from 1.
    """
    listing = LISTINGS[name]
    account_id = "" if name is N.ACCOUNTS else account.account_id
    return [
        book_row(name, account_id, row, place)
        for place, row in enumerate(rows_of(name, account, rates=rates) or (), start=1)
        if listing.day is None or shows(listing.day(row))
    ]


def book_row(name: ResourceName, account_id: str, row: Any, place: int = 1) -> Item:
    """One row of the books."""
    listing = LISTINGS[name]
    key = (str(place),) if listing.key is None else listing.key(row)
    return {"account_id": account_id, "key": list(key), "item": listing.item(row), "columns": listing.columns(row)}

"""The catalogue of the Account Information API: what can be read, with which permission, and what keys an item.

Adding an endpoint is adding a row.  The rest of the code asks this table and never names an endpoint.

Sources: Account Information API v2.1-errata2, `paths`; Bank Data Sharing Requirements, "consent.Permissions".
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from syncworker.standard.permissions import P
from syncworker.standard.versions import Version


class ResourceName(StrEnum):
    """Our word for each row of the catalogue: the endpoint's last path segment, in our spelling."""

    ACCOUNTS = "accounts"
    BALANCES = "balances"
    TRANSACTIONS = "transactions"
    ACCOUNT_PARTIES = "account_parties"
    PARTIES = "parties"


class Shape(StrEnum):
    """How the items lie under `Data`."""

    LIST = "list"
    ONE = "one"  # a single object: `/parties`


@dataclass(frozen=True, slots=True)
class Window:
    """The query parameters that narrow a listing by time, and the member of an item they compare with."""

    from_param: str
    to_param: str
    compares: str


@dataclass(frozen=True, slots=True)
class Resource:
    """One endpoint.

    Attributes:
        name: our word for it.
        operation: `operationId` of the standard.
        path: template under the LFI's base URL.
        permissions: any one of these opens it.
        items: member of `Data` that holds the items.
        key: members that together identify an item within its account; dots reach into objects.
        shape: a list, or one object.
        window: how the listing can be narrowed by time; `None` when it cannot.
        since: first version that has it.
    """

    name: ResourceName
    operation: str
    path: str
    permissions: frozenset[P]
    items: str
    key: tuple[str, ...]
    shape: Shape = Shape.LIST
    window: Window | None = None
    since: Version = Version.V1_2
    per_account: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "per_account", "{AccountId}" in self.path)


BOOKED: Final = Window("fromBookingDateTime", "toBookingDateTime", compares="BookingDateTime")

N = ResourceName
PARTY: Final = frozenset({P.ReadParty, P.ReadPartyUser, P.ReadPartyUserIdentity})  # D-3: any of the three, for both

# fmt: off
RESOURCES: Final[tuple[Resource, ...]] = (
    #        our name           operationId                         path under the base URL                 any one of                                                        items under Data  key within the account
    Resource(N.ACCOUNTS,        "GetAccounts",                      "/accounts",                            frozenset({P.ReadAccountsBasic, P.ReadAccountsDetail}),           "Account",        ("AccountId",)),
    Resource(N.BALANCES,        "GetAccountsAccountIdBalances",     "/accounts/{AccountId}/balances",       frozenset({P.ReadBalances}),                                      "Balance",        ("Type", "Amount.Currency")),
    Resource(N.TRANSACTIONS,    "GetAccountsAccountIdTransactions", "/accounts/{AccountId}/transactions",   frozenset({P.ReadTransactionsBasic, P.ReadTransactionsDetail}),   "Transaction",    ("TransactionId",), window=BOOKED),
    Resource(N.ACCOUNT_PARTIES, "PartiesByAccountId_read",          "/accounts/{AccountId}/parties",        PARTY,                                                            "Party",          ("PartyId",)),
    Resource(N.PARTIES,         "Parties_read",                     "/parties",                             PARTY,                                                            "Party",          ("PartyId",), shape=Shape.ONE),
)
# fmt: on

BY_NAME: Final[dict[ResourceName, Resource]] = {resource.name: resource for resource in RESOURCES}


def permitted(
    permissions: Iterable[str], *, version: Version, published: frozenset[str] | None = None
) -> tuple[Resource, ...]:
    """The rows a consent opens at an LFI, in the order they should be read.

    Args:
        permissions: the consent's permissions, unknown ones included.
        version: the consent's version.
        published: path templates the LFI publishes; `None` when it publishes no list.

    A consent without `ReadAccounts*` may call `/parties` alone, since an AccountId comes from `/accounts` only.
    """
    held = frozenset(permissions)
    accounts_open = bool(held & BY_NAME[N.ACCOUNTS].permissions)
    return tuple(
        resource
        for resource in RESOURCES
        if held & resource.permissions
        and (accounts_open or not resource.per_account)
        and version.rank >= resource.since.rank
        and (published is None or resource.path in published)
    )

"""The catalogue of the Account Information API: what can be read, with which permission, and what keys an item.

Adding an endpoint is adding a row.  The rest of the code asks this table and never names an endpoint.  No version took
an endpoint away or gave it another path, operationId or place for its items; a test holds this to each published file.

Sources: Account Information API v1.2-errata1, v2.0-errata1 and v2.1-errata2, `paths`; Bank Data Sharing Requirements, "consent.Permissions".
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Final

from syncworker.standard.permissions import BY_CODE, DETAIL_OF, P, askable
from syncworker.standard.versions import Version


class ResourceName(StrEnum):
    """Our word for each row of the catalogue: the endpoint's last path segment, in our spelling."""

    ACCOUNTS = "accounts"
    BALANCES = "balances"
    TRANSACTIONS = "transactions"
    ACCOUNT_PARTIES = "account_parties"
    PARTIES = "parties"
    BENEFICIARIES = "beneficiaries"
    DIRECT_DEBITS = "direct_debits"
    STANDING_ORDERS = "standing_orders"
    SCHEDULED_PAYMENTS = "scheduled_payments"
    STATEMENTS = "statements"
    PRODUCT = "product"
    ACCOUNT = "account"


class Shape(StrEnum):
    """How the items lie under `Data`."""

    LIST = "list"
    ONE = "one"  # a single object: `/parties`


@dataclass(frozen=True, slots=True)
class Window:
    """How a listing can be narrowed by time.

    Attributes:
        compares: the member of an item the parameters compare with.
        as_dates: the parameters are dates; otherwise date-times, and LFIs ignore their offset (trap 26).
        wider: what we ask beyond each end of what we want, so that no reading of the filter loses an item.
        sliced: long enough to be read newest first and then backwards in slices; otherwise one walk takes it whole.
    """

    from_param: str
    to_param: str
    compares: str
    as_dates: bool = False
    wider: timedelta = timedelta(days=1)
    sliced: bool = True


@dataclass(frozen=True, slots=True)
class Resource:
    """One endpoint.

    Attributes:
        name: our word for it.
        operation: `operationId` of the standard.
        path: template under the LFI's base URL.
        permissions: any one of these opens it.
        items: member of `Data` that holds the items.
        key: members that together identify an item within its account; dots reach into objects.  Empty: the standard
            gives no id, and the item's place in the listing, from 1, names it.  A product has a ProductId before v2.1
            only: it is keyed by its place in all versions, so that a consent renewed on v2.1 goes on with the row.
        shape: a list, or one object.
        window: how the listing can be narrowed by time; `None` when it cannot.
        since: first version that has it.
        repeats: the resource whose items it shows once more; read only when the operator asks for it.
        lists_404: versions whose file lists a 404 for it: only there may a 404 say that an account has no such thing.
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
    repeats: ResourceName | None = None
    lists_404: frozenset[Version] = frozenset()
    per_account: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "per_account", "{AccountId}" in self.path)


BOOKED: Final = Window("fromBookingDateTime", "toBookingDateTime", compares="BookingDateTime")
OPENED: Final = Window(  # D-39: compared with the opening date, spoken of as the period: ask one period wider
    "fromStatementDate",
    "toStatementDate",
    compares="OpeningDate",
    as_dates=True,
    wider=timedelta(days=31),
    sliced=False,
)

N = ResourceName
ALL_VERSIONS: Final = frozenset(Version)
FIRST_VERSION: Final = frozenset({Version.V1_2})
_FIELDS: Final = {
    N.TRANSACTIONS: frozenset({P.ReadFXTransactionsBasic, P.ReadFXTransactionsDetail, P.ReadFXRemittanceCharges})
    | {P.ReadTransactionsCredits, P.ReadTransactionsDebits},
    N.PRODUCT: frozenset({P.ReadProductLendingRates, P.ReadProductFinanceRates}),
}
"""Permissions that open no endpoint, and more fields or items of one that another permission opens."""

PARTY: Final = frozenset({P.ReadParty, P.ReadPartyUser, P.ReadPartyUserIdentity})  # D-3: any of the three, for both

# fmt: off
RESOURCES: Final[tuple[Resource, ...]] = (
    #        our name              operationId                           path under the base URL                     any one of                                                                  items under Data    key within the account
    Resource(N.ACCOUNTS,           "GetAccounts",                        "/accounts",                                frozenset({P.ReadAccountsBasic, P.ReadAccountsDetail}),                     "Account",          ("AccountId",)),
    Resource(N.ACCOUNT,            "GetAccountsAccountId",               "/accounts/{AccountId}",                    frozenset({P.ReadAccountsBasic, P.ReadAccountsDetail}),                     "Account",          (), shape=Shape.ONE, repeats=N.ACCOUNTS),
    Resource(N.BALANCES,           "GetAccountsAccountIdBalances",       "/accounts/{AccountId}/balances",           frozenset({P.ReadBalances}),                                                "Balance",          ("Type", "Amount.Currency")),
    Resource(N.TRANSACTIONS,       "GetAccountsAccountIdTransactions",   "/accounts/{AccountId}/transactions",       frozenset({P.ReadTransactionsBasic, P.ReadTransactionsDetail}),             "Transaction",      ("TransactionId",), window=BOOKED),
    Resource(N.SCHEDULED_PAYMENTS, "GetScheduledPayments",               "/accounts/{AccountId}/scheduled-payments", frozenset({P.ReadScheduledPaymentsBasic, P.ReadScheduledPaymentsDetail}),   "ScheduledPayment", ("ScheduledPaymentId",), lists_404=ALL_VERSIONS),
    Resource(N.STANDING_ORDERS,    "GetAccountsAccountIdStandingOrders", "/accounts/{AccountId}/standing-orders",    frozenset({P.ReadStandingOrdersBasic, P.ReadStandingOrdersDetail}),         "StandingOrder",    ("StandingOrderId",), lists_404=ALL_VERSIONS),
    Resource(N.DIRECT_DEBITS,      "GetAccountsAccountIdDirectDebits",   "/accounts/{AccountId}/direct-debits",      frozenset({P.ReadDirectDebits}),                                            "DirectDebit",      ("DirectDebitId",), lists_404=ALL_VERSIONS),
    Resource(N.BENEFICIARIES,      "GetAccountsAccountIdBeneficiaries",  "/accounts/{AccountId}/beneficiaries",      frozenset({P.ReadBeneficiariesBasic, P.ReadBeneficiariesDetail}),           "Beneficiary",      ("BeneficiaryId",)),
    Resource(N.STATEMENTS,         "GetAccountAccountIdStatements",      "/accounts/{AccountId}/statements",         frozenset({P.ReadStatements}),                                              "Statements",       ("StatementId",), window=OPENED, since=Version.V2_1),
    Resource(N.PRODUCT,            "GetAccountsAccountIdProduct",        "/accounts/{AccountId}/product",            frozenset({P.ReadProduct}),                                                 "Product",          (), lists_404=ALL_VERSIONS),
    Resource(N.ACCOUNT_PARTIES,    "PartiesByAccountId_read",            "/accounts/{AccountId}/parties",            PARTY,                                                                      "Party",            ("PartyId",), lists_404=FIRST_VERSION),
    Resource(N.PARTIES,            "Parties_read",                       "/parties",                                 PARTY,                                                                      "Party",            ("PartyId",), shape=Shape.ONE, lists_404=FIRST_VERSION),
)
# fmt: on

BY_NAME: Final[dict[ResourceName, Resource]] = {resource.name: resource for resource in RESOURCES}


def permitted(
    permissions: Iterable[str], *, version: Version, published: frozenset[str] | None = None, repeats: bool = True
) -> tuple[Resource, ...]:
    """The rows a consent opens at an LFI, in the order they should be read.

    Args:
        permissions: the consent's permissions, unknown ones included.
        version: the consent's version.
        published: path templates the LFI publishes; `None` when it publishes no list.
        repeats: also the rows that show another's items once more.

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
        and (repeats or resource.repeats is None)
    )


def opened_by(permission: P) -> tuple[Resource, ...]:
    """The rows a permission opens, by itself or for more of their fields."""
    return tuple(
        row for row in RESOURCES if permission in row.permissions or permission in _FIELDS.get(row.name, frozenset())
    )


def readable(version: Version, *, published: frozenset[str] | None = None) -> tuple[P, ...]:
    """Everything we can read at an LFI, as the permissions to ask for, in a version's words.

    Of two permissions for the same thing the one that shows more; none for what is never read, since a request is to
    ask for no permission that goes unused.

    Args:
        published: path templates the LFI publishes; `None` when it publishes no list.
    """
    read = {
        row.name for row in RESOURCES if version.rank >= row.since.rank and (published is None or row.path in published)
    }
    wanted = [one for one in askable(version) if any(row.name in read for row in opened_by(one))]
    return tuple(one for one in wanted if DETAIL_OF.get(one) not in wanted)


def versions_of(permission: P) -> tuple[Version, ...]:
    """The versions whose requests may carry a permission, oldest first."""
    return tuple(one for one in Version if one in BY_CODE[permission].asked)

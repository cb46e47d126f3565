"""What lies beside the transactions of an account: payees, mandates, orders to pay, statements, the product's terms.

Domain objects only: amounts are `Decimal`, instants aware, and how they are written is the business of `listings`.  An
account that has none of a kind keeps an empty list; one the kind does not apply to keeps no list, and the API says 404
(a card has no standing orders).

Source: Account Information API v2.1-errata2, `AEBeneficiary`, `AEDirectDebit`, `AEStandingOrder`, `AEScheduledPayment`,
`AEStatements`, `AEProduct`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

from syncworker.standard.resources import ResourceName


@dataclass(frozen=True, slots=True, kw_only=True)
class Payee:
    """Where money goes: the account and the bank that keeps it."""

    name: str
    identification: str
    scheme: str = "IBAN"
    bic: str = "SANDAEAD"
    agent_scheme: str = "BICFI"


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """An unsigned amount."""

    amount: Decimal
    currency: str = "AED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Beneficiary:
    """Somebody the customer may pay."""

    beneficiary_id: str
    payee: Payee
    beneficiary_type: str = "Activated"
    added_via_of: bool | None = False
    reference: str | None = None
    supplementary: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectDebit:
    """A mandate a payee draws on."""

    direct_debit_id: str
    mandate: str
    name: str
    status: str = "Active"
    frequency: str = "Monthly"
    previous_at: datetime | None = None
    previous: Money | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingOrder:
    """A payment that repeats; `frequency` is the standard's patterned text, `payments` a number written as text."""

    standing_order_id: str
    frequency: str
    first_at: datetime
    first: Money
    payee: Payee
    status: str = "Active"
    kind: str | None = None
    next_at: datetime | None = None
    next: Money | None = None
    last_at: datetime | None = None
    last: Money | None = None
    final_at: datetime | None = None
    final: Money | None = None
    payments: str | None = None
    reference: str | None = None
    purpose: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledPayment:
    """A payment on one day to come."""

    scheduled_payment_id: str
    scheduled_at: datetime
    instructed: Money
    payee: Payee
    scheduled_type: str = "Execution"
    reference: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """What lines of one kind add up to in a period."""

    credit: bool
    kind: str
    sub_kind: str
    amount: Decimal
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One period; balances carry their sign.

    Attributes:
        components: parts of the closing balance, by category.
        minimum: the least to pay next, and by when.
    """

    statement_id: str
    issued_on: date
    opening_date: date
    closing_date: date
    opening_balance: Decimal
    closing_balance: Decimal
    currency: str
    totals: tuple[Total, ...] = ()
    credit_line: Decimal | None = None
    components: tuple[tuple[str, Decimal], ...] = ()
    minimum: tuple[date, Decimal] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """The terms of an account.

    Attributes:
        finance_rates: an object of the standard, or the text of a JWE that the bank locked for its customer.
        terms: the other members of `AEProduct`, as v2.1 writes them.
        product_id, product_type, product_name, is_islamic: what versions before v2.1 have of it.
    """

    finance_rates: Mapping[str, Any] | str | None = None
    sharia_structure: str | None = None
    is_secured: bool | None = None
    is_salary_transfer_required: bool | None = None
    terms: Mapping[str, Any] = field(default_factory=dict)
    product_id: str = "CA-1"
    product_type: str = "CurrentAccount"
    product_name: str | None = "Everyday account"
    is_islamic: bool = False


Arrangement = Beneficiary | DirectDebit | StandingOrder | ScheduledPayment | Statement | Product

N = ResourceName
KINDS: Final[Mapping[ResourceName, type[Arrangement]]] = {
    N.BENEFICIARIES: Beneficiary,
    N.DIRECT_DEBITS: DirectDebit,
    N.STANDING_ORDERS: StandingOrder,
    N.SCHEDULED_PAYMENTS: ScheduledPayment,
    N.STATEMENTS: Statement,
    N.PRODUCT: Product,
}
"""What each listing holds."""

MAY_LACK: Final = frozenset({N.DIRECT_DEBITS, N.PRODUCT, N.SCHEDULED_PAYMENTS, N.STANDING_ORDERS})
"""Listings for which the standard has a 404."""


def id_of(arrangement: Arrangement) -> str | None:
    """The id the standard keys it by; a product has none."""
    match arrangement:
        case Beneficiary():
            return arrangement.beneficiary_id
        case DirectDebit():
            return arrangement.direct_debit_id
        case StandingOrder():
            return arrangement.standing_order_id
        case ScheduledPayment():
            return arrangement.scheduled_payment_id
        case Statement():
            return arrangement.statement_id
    return None

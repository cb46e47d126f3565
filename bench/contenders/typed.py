"""Key and typed columns of an item as fast as Python gets them: `msgspec` reads a transaction straight into its types.

The other resources are a tenth of the rows and go through the paths of `books`.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec

from syncworker.bench.books import columns_of, key_of
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import UAE

TEXTS = (
    "TransactionId", "Status", "CreditDebitIndicator", "TransactionType", "SubTransactionType", "TransactionReference",
    "TransactionInformation",
)  # fmt: skip
INSTANTS = ("BookingDateTime", "ValueDateTime", "TransactionDateTime")
Money = msgspec.defstruct("Money", [("Amount", Decimal), ("Currency", str)])
Side: Any = msgspec.defstruct(
    "Side", [(name, str | None, None) for name in ("Name", "MerchantName", "MerchantCategoryCode")], frozen=True
)
Transaction: Any = msgspec.defstruct(
    "Transaction",
    [
        *((name, str) for name in TEXTS),
        *((name, datetime) for name in INSTANTS),
        ("Amount", Money),
        ("MerchantDetails", Side, Side()),
        ("CreditorAccount", list[Side], msgspec.field(default_factory=lambda: [Side()])),
        ("DebtorAccount", Side, Side()),
    ],
)
TYPED = msgspec.json.Decoder(Transaction)


def columns(name: ResourceName, raw: bytes, number: int) -> tuple[Any, ...]:
    """Key and typed columns of one item."""
    if name is not ResourceName.TRANSACTIONS:
        item = msgspec.json.decode(raw)
        return key_of(name, item, number), *columns_of(name, item)
    t = TYPED.decode(raw)
    debit, amount, booked, shop = (
        t.CreditDebitIndicator == "Debit",
        t.Amount.Amount,
        t.BookingDateTime,
        t.MerchantDetails,
    )
    other = t.CreditorAccount[0] if debit else t.DebtorAccount
    return (
        t.TransactionId, t.Status, t.CreditDebitIndicator, amount, -amount if debit else amount, t.Amount.Currency,
        booked, booked.astimezone(UAE).date(), t.ValueDateTime, t.TransactionDateTime, t.TransactionType,
        t.SubTransactionType, t.TransactionReference, t.TransactionInformation, shop.MerchantName,
        shop.MerchantCategoryCode, other.Name,
    )  # fmt: skip

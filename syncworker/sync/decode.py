"""Turn pages into records: key, typed columns, raw bytes, digest.

In: the bytes of a page's `Data`, and which items are known.  Out: `Decoded`, plain values.  No I/O here.

A resource is a row of `TYPED`: for each column of its table, how it is read from an item.  Reading is tolerant: a
member of an unexpected type becomes NULL and is counted as a note, an unknown enum value is kept as text, and the
item's own bytes are kept whatever happens.  Text that a database cannot take (NUL, half of a surrogate pair) is
repaired in its column and noted; the item's bytes are not.  An item that cannot be read, or has no usable key, becomes
an `Unreadable` with its place and the reason; the others pass.

Money is `Decimal` from the first byte, instants are UTC; one without an offset is UAE time, noted.
"""

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from operator import methodcaller
from typing import Any, Final, NamedTuple, TypedDict

import msgspec
import sqlalchemy as sa
import xxhash

from syncworker.errors import StandardViolationError
from syncworker.lfi.bounds import Fault, fault_of_json
from syncworker.lfi.splitting import PartlyReadable, elements, with_repaired_text
from syncworker.lfi.splitting import members as split_members
from syncworker.standard.calendar import UAE, at_time, read_day, within
from syncworker.standard.resources import Resource, ResourceName
from syncworker.standard.values import local_date, read_iban, read_id, read_instant, read_money, signed
from syncworker.store.records import Record, StoredRecord
from syncworker.store.tables import ACCOUNT_ID, KEY, PERSONAL, RECORD_TABLES, account_identifier, typed_columns

DECODER_VERSION: Final = 2
"""Salts every digest: another version makes every item of every bank a changed one.

Raise it only when what counts as a change is another question than before.  A column more is none: the LFI told us
nothing new, so nothing may be written into the feed or the history.  `COLUMNS_VERSION` is for that.
"""

COLUMNS_VERSION: Final = 1
"""Which columns a row has, and how they are read: raise it when a typed column is added or read differently.

Rows written from then on have the new columns; the workers fill those written before from the items held
(`sync.filling`), without a change, a new digest or another `changed_at`.
"""

PENDING: Final = "Pending"
JWE_PARTS: Final = 5
NUMBER_MAX: Final = 40
"""Characters of a number that is kept as text."""

Item = Mapping[str, Any]
Note = Callable[[str], None]
Read = Callable[[Any, Item, Note], Any]
"""Makes a column's value of a member's, which is not null; gets the whole item too, and notes what is odd."""
Reader = Callable[[str, sa.Column[Any]], Read]

_CANONICAL: Final = msgspec.json.Encoder(order="sorted", decimal_format="number")
_EXACT: Final = msgspec.json.Decoder(float_hook=Decimal)
_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST: Final = msgspec.json.Decoder(list[msgspec.Raw])
_NONE: Final[Mapping[int, str]] = {}
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError, ArithmeticError, ValueError)


class Items(NamedTuple):
    """The items of a page that have a key, in the LFI's order; a key may come twice.

    Attributes:
        keys: of each.
        digests: of each one's bytes (`item_digest`).
    """

    keys: tuple[str, ...] = ()
    digests: tuple[int, ...] = ()


class Reason(StrEnum):
    """Why an item could not become a record."""

    NOT_UTF_8 = "not_utf_8"
    NUMBER_TOO_LONG = "number_too_long"
    NUMBER_OUT_OF_RANGE = "number_out_of_range"
    NESTED_TOO_DEEP = "nested_too_deep"
    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    ID_MISSING = "id_missing"  # absent, null or blank
    ID_OF_ANOTHER_TYPE = "id_of_another_type"  # neither text nor a whole number
    ID_TOO_LONG = "id_too_long"
    ID_NOT_STORABLE = "id_not_storable"  # holds what no database text takes, so that it cannot be kept as sent


_NO_KEY: Final = frozenset(
    {Reason.NOT_AN_OBJECT, Reason.ID_MISSING, Reason.ID_OF_ANOTHER_TYPE, Reason.ID_TOO_LONG, Reason.ID_NOT_STORABLE}
)


class Unreadable(NamedTuple):
    """An item that is no record.

    Attributes:
        page: number of its page, from 1.
        path: where it lies on the page, down to the member that is wrong: `Data.Transaction[3].TransactionId`.
        raw: its bytes exactly as the LFI sent them.
        digest: of these bytes, 16 bytes: by which it is known again.
        instant: what the listing's window compares, where it can be read; of a date its midnight in UTC.
    """

    page: int
    path: str
    reason: Reason
    raw: bytes
    digest: bytes
    instant: datetime | None = None

    def __repr__(self) -> str:
        return f"Unreadable({self.path}: {self.reason.value})"


@dataclass(frozen=True, slots=True)
class Decoded:
    """What one page held.

    Attributes:
        items: all that have a key.
        records: those of them that were not known, in the LFI's order.
        notes: oddities by name, counted: `<column>.wrong_type`, `<column>.no_offset`, `<column>.cut` …
        unreadable: items that are no records, in the LFI's order.
    """

    items: Items
    records: tuple[Record, ...]
    notes: Counter[str] = field(default_factory=Counter)
    unreadable: tuple[Unreadable, ...] = ()

    @property
    def violations(self) -> int:
        """How many items were left out."""
        return len(self.unreadable)


# -- how a column is read --------------------------------------------------------------------------------------------


def text(_path: str, column: sa.Column[Any]) -> Read:
    """Text; a number is written out, since the standard types some codes both ways."""
    name, length = column.name, _length(column)

    def read(value: Any, _item: Item, note: Note) -> Any:
        if type(value) is not str:
            if isinstance(value, bool) or not isinstance(value, int | Decimal):
                note(f"{name}.wrong_type")
                return None
            value = str(value)
        if len(value) > length:
            note(f"{name}.cut")
            value = value[:length]
        if value.isascii() and "\x00" not in value:
            return value
        storable = _storable(value)
        if storable != value:
            note(f"{name}.repaired")
        return storable

    return read


def _length(column: sa.Column[Any]) -> int:
    """Most characters of a column's text."""
    return getattr(column.type, "length", None) or sys.maxsize


def money(_path: str, column: sa.Column[Any]) -> Read:
    """An unsigned amount."""
    name = column.name

    def read(value: Any, _item: Item, note: Note) -> Decimal | None:
        try:
            if type(value) is str:
                return _amount(value)
            if not isinstance(value, bool) and isinstance(value, int | Decimal):
                return read_money(value)
        except ValueError:
            note(f"{name}.not_an_amount")
        else:
            note(f"{name}.wrong_type")
        return None

    return read


def signed_money(path: str, column: sa.Column[Any]) -> Read:
    """An amount with the sign of `CreditDebitIndicator`; without a known indicator there is no sign to give."""
    amount = money(path, column)

    def read(value: Any, item: Item, _note: Note) -> Decimal | None:
        indicator = item.get("CreditDebitIndicator")
        if indicator not in ("Credit", "Debit"):
            return None
        unsigned: Decimal | None = amount(value, item, _ignore)  # noted where the unsigned amount is read
        return None if unsigned is None else signed(unsigned, indicator)

    return read


def exact(_path: str, column: sa.Column[Any]) -> Read:
    """A decimal number as exact text: a rate has more digits after the point than an amount."""
    name, length = column.name, NUMBER_MAX

    def read(value: Any, _item: Item, note: Note) -> str | None:
        number: Decimal | None = None
        short = not isinstance(value, str) or len(value) <= 2 * length
        if isinstance(value, str | int | Decimal) and not isinstance(value, bool) and short:
            with suppress(ArithmeticError, ValueError):
                number = Decimal(value)
        if number is None or not number.is_finite() or not -length < number.adjusted() < length:
            note(f"{name}.not_a_number")
            return None
        written = format(number, "f")
        if len(written) <= length:
            return written
        note(f"{name}.too_long")  # a number without its last digits is another number
        return None

    return read


def instant(_path: str, column: sa.Column[Any]) -> Read:
    """An instant in UTC."""
    name = column.name

    def read(value: Any, _item: Item, note: Note) -> datetime | None:
        moment, without_offset = _instant(value) if isinstance(value, str) else (None, False)
        if moment is None:
            note(f"{name}.not_an_instant")
        elif without_offset:
            note(f"{name}.no_offset")
        return moment

    return read


def signed_balance(_path: str, column: sa.Column[Any]) -> Read:
    """The amount of a balance object with the sign of the object's own `CreditDebitIndicator`."""
    amount, name = money("", column), column.name

    def read(value: Any, item: Item, note: Note) -> Decimal | None:
        inner = value.get("Amount") if type(value) is dict else None
        found = inner.get("Amount") if type(inner) is dict else None
        unsigned = None if found is None else amount(found, item, note)
        if unsigned is None:
            return None
        indicator = value.get("CreditDebitIndicator")
        if indicator not in ("Credit", "Debit"):
            note(f"{name}.no_sign")
            return None
        return signed(unsigned, indicator)

    return read


def flag(_path: str, column: sa.Column[Any]) -> Read:
    """True or false; a bank's `"true"` in quotes is read and noted."""
    name = column.name

    def read(value: Any, _item: Item, note: Note) -> bool | None:
        if isinstance(value, bool):
            return value
        note(f"{name}.wrong_type")
        return {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else None

    return read


def day(_path: str, column: sa.Column[Any]) -> Read:
    """A calendar date; of a date-time, which some LFIs send, the date in the UAE, noted."""
    name = column.name

    def read(value: Any, _item: Item, note: Note) -> date | None:
        if isinstance(value, str) and len(value) == len("2026-01-31"):
            try:
                return read_day(value)
            except ValueError:
                note(f"{name}.not_a_date")
                return None
        found = _uae_date(value) if isinstance(value, str) else None
        note(f"{name}.not_a_date" if found is None else f"{name}.a_date_time")
        return found

    return read


def rates(_path: str, column: sa.Column[Any]) -> Read:
    """Whether a product's rates can be read: `locked` for a JWE, which only the user's code opens, else `open`.

    Source: Account Information API v2.1-errata2, `FinanceRates`; v2.0-errata1, `LendingRates`.
    """
    name = column.name

    def read(value: Any, _item: Item, note: Note) -> str | None:
        match value:
            case Mapping() | list():
                return "open"
            case _ if _is_locked(value):
                return "locked"
        note(f"{name}.wrong_type")
        return None

    return read


def _is_locked(value: Any) -> bool:
    return isinstance(value, str) and value.count(".") == JWE_PARTS - 1


def uae_date(_path: str, _column: sa.Column[Any]) -> Read:
    """The local date in the UAE of an instant."""

    def read(value: Any, _item: Item, _note: Note) -> date | None:
        return _uae_date(value) if isinstance(value, str) else None

    return read


def objects(_path: str, column: sa.Column[Any]) -> Read:
    """An object, or a list of objects or texts, as JSON to query: see `_plain`.

    A JWE in the place of an object is no oddity: rates may be locked (`rates`).
    """
    name = column.name

    def read(value: Any, _item: Item, note: Note) -> Any:
        if type(value) is list or type(value) is dict:
            return _plain(value)
        if not _is_locked(value):
            note(f"{name}.wrong_type")
        return None

    return read


def first(path: str, column: sa.Column[Any]) -> Read:
    """Text of an object, or of the first object of a list: one way `CreditorAccount` is sent (`_Node.listed`)."""
    return text(path, column)


def counterparty(path: str, column: sa.Column[Any]) -> Read:
    """Text of the other side: of a Debit the creditor's, of a Credit the debtor's; of several accounts the first.

    The path's first member says which side it belongs to (`_Node.indicator`).
    """
    return text(path, column)


def _claims(value: Any) -> Iterable[Item]:
    """The `Claims` of each of a party's `VerifiedClaims`."""
    for one in value if type(value) is list else [value]:
        claims = one.get("Claims") if type(one) is dict else None
        if type(claims) is dict:
            yield claims


def claim(path: str, column: sa.Column[Any]) -> Read:
    """The text of the first claim that has the path's last member; `A+B` joins what there is of two members."""
    members, read_text = path.rpartition(".")[2].split("+"), text(path, column)

    def read(value: Any, item: Item, note: Note) -> Any:
        for claims in _claims(value):
            found = [claims[member] for member in members if claims.get(member) is not None]
            if len(members) > 1:
                found = [" ".join(part for part in found if isinstance(part, str) and part)]
            if found and found[0] != "":
                return read_text(found[0], item, note)
        return None

    return read


def kind_of_claim(path: str, column: sa.Column[Any]) -> Read:
    """Whether a party is a `Business` or a `Person`, where no `IdentityType` says so: by the claim that it has."""
    member = path.rpartition(".")[2]
    kind = "Business" if member == "BusinessName" else "Person"
    read_text = claim(path, column)

    def read(value: Any, item: Item, note: Note) -> Any:
        if member == "IdentityType":
            return read_text(value, item, note)
        return kind if any(claims.get(member) is not None for claims in _claims(value)) else None

    return read


def _plain(value: Any) -> Any:
    """JSON of a bank as JSON to query.

    Members have the standard's names in snake_case, null members are left out, every number is exact text, and text is
    storable.  `"Amount": {"Amount", "Currency"}` becomes the members `amount` and `currency` of the object it stands
    in, with the sign of the object's `CreditDebitIndicator` where there is one.  Free objects (`Supplementary…`) are
    left out: the standard does not say what they hold.
    """
    if type(value) is dict:
        found: dict[str, Any] = {}
        for member, inner in value.items():
            if inner is None or member.startswith("Supplementary"):
                continue
            if member == "Amount" and type(inner) is dict:
                amount = _plain(inner)
                if value.get("CreditDebitIndicator") == "Debit" and isinstance(amount.get("amount"), str):
                    amount["amount"] = _negative(amount["amount"])
                found |= amount
            else:
                found[_snake(member)] = _plain(inner)
        return found
    if type(value) is list:
        return [_plain(inner) for inner in value]
    if type(value) is str:
        return _storable(value)
    if value is None or isinstance(value, bool):
        return value
    return str(value)


def _negative(amount: str) -> str:
    """An unsigned amount as a Debit; text that is no amount stays as it is, and so does zero."""
    try:
        return f"-{amount}" if Decimal(amount) > 0 else amount
    except ArithmeticError:
        return amount


@lru_cache(maxsize=1024)
def _snake(member: str) -> str:
    """`InterestCalculationMethod` → `interest_calculation_method`, `LTVStart` → `ltv_start`."""
    return _storable(_WORD_ENDS.sub("_", member).lower())


_WORD_ENDS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


# -- the table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Typed:
    """How the items of one resource fill the columns of its table.

    Attributes:
        columns: for each typed column of the table, how it is read and from where; names of several versions are
            alternatives (`A|B`), and what a version lacks is NULL.
        instant: the column the listing's window compares; `None` where the listing has no window.
        status: the column that says `Pending`; `None` where nothing is ever pending.
        newest: of two items with one key, the one with the later value here wins; `None`: the one seen last.
        key_max: most characters of a key.
    """

    columns: Mapping[str, tuple[Reader, str]]
    instant: str | None = None
    status: str | None = None
    newest: str | None = None
    key_max: int = KEY.length or 256


N = ResourceName
_HOLDER: Final[Mapping[str, tuple[Reader, str]]] = {
    "holder_name": (text, "AccountHolderName"),
    "holder_short_name": (text, "AccountHolderShortName"),
}
_CREDITOR: Final[Mapping[str, tuple[Reader, str]]] = {
    "creditor_scheme": (first, "CreditorAccount.SchemeName"),
    "creditor_identification": (first, "CreditorAccount.Identification"),
    "creditor_agent_scheme": (text, "CreditorAgent.SchemeName"),
    "creditor_agent_identification": (text, "CreditorAgent.Identification"),
}
_ACCOUNT: Final[Mapping[str, tuple[Reader, str]]] = {
    "status": (text, "Status"),
    "currency": (text, "Currency"),
    "account_type": (text, "AccountType"),
    "account_sub_type": (text, "AccountSubType"),
    "nickname": (text, "Nickname"),
    "description": (text, "Description"),
    "opening_date": (instant, "OpeningDate"),  # a date-time on accounts, a date on statements
    **_HOLDER,
    "status_update_date_time": (instant, "StatusUpdateDateTime"),
    "maturity_date": (instant, "MaturityDate"),
    "servicer_scheme": (text, "Servicer.SchemeName"),
    "servicer_identification": (text, "Servicer.Identification"),
    "is_sharia_compliant": (flag, "IsShariaCompliant"),
}
_PARTY: Final = Typed(
    {
        "party_type": (text, "PartyType"),
        "party_category": (text, "PartyCategory"),
        "account_role": (text, "AccountRole"),
        "kind": (
            kind_of_claim,
            "|".join(
                f"VerifiedClaims.Claims.{member}"
                for member in ("IdentityType", "BusinessName", "FullName", "GivenName", "Surname")
            ),
        ),
        "name": (  # before v1.2-errata1 a person had no FullName
            claim,
            "VerifiedClaims.Claims.FullName|VerifiedClaims.Claims.BusinessName|VerifiedClaims.Claims.GivenName+Surname",
        ),
    }
)

TYPED: Final[Mapping[ResourceName, Typed]] = {
    N.ACCOUNTS: Typed(_ACCOUNT, key_max=ACCOUNT_ID.length or 40),
    N.ACCOUNT: Typed(_ACCOUNT),
    N.BALANCES: Typed(
        {
            "type": (text, "Type"),
            "currency": (text, "Amount.Currency"),
            "credit_debit_indicator": (text, "CreditDebitIndicator"),
            "amount": (money, "Amount.Amount"),
            "signed_amount": (signed_money, "Amount.Amount"),
            "date_time": (instant, "DateTime"),
            "credit_lines": (objects, "CreditLine"),
            "components": (objects, "Components"),
        },
        newest="date_time",
    ),
    N.TRANSACTIONS: Typed(
        {
            "status": (text, "Status"),
            "credit_debit_indicator": (text, "CreditDebitIndicator"),
            "amount": (money, "Amount.Amount"),
            "signed_amount": (signed_money, "Amount.Amount"),
            "currency": (text, "Amount.Currency"),
            "booking_date_time": (instant, "BookingDateTime"),
            "booking_date": (uae_date, "BookingDateTime"),
            "value_date_time": (instant, "ValueDateTime"),
            "transaction_date_time": (instant, "TransactionDateTime"),
            "transaction_type": (text, "TransactionType"),
            "sub_transaction_type": (text, "SubTransactionType"),
            "transaction_reference": (text, "TransactionReference"),
            "transaction_information": (text, "TransactionInformation"),
            "merchant_name": (text, "MerchantDetails.MerchantName"),
            "merchant_category_code": (text, "MerchantDetails.MerchantCategoryCode"),
            "counterparty_name": (counterparty, "CreditorAccount.Name|DebtorAccount.Name"),
            "counterparty_scheme": (counterparty, "CreditorAccount.SchemeName|DebtorAccount.SchemeName"),
            "counterparty_identification": (
                counterparty,
                "CreditorAccount.Identification|DebtorAccount.Identification",
            ),
            "counterparty_agent_scheme": (counterparty, "CreditorAgent.SchemeName|DebtorAgent.SchemeName"),
            "counterparty_agent_identification": (
                counterparty,
                "CreditorAgent.Identification|DebtorAgent.Identification",
            ),
            "counterparty_agent_name": (counterparty, "CreditorAgent.Name|DebtorAgent.Name"),
            "running_balance": (signed_balance, "Balance"),
            "running_balance_currency": (text, "Balance.Amount.Currency"),
            "running_balance_type": (text, "Balance.Type"),
            "charge_amount": (money, "ChargeAmount.Amount"),
            "charge_currency": (text, "ChargeAmount.Currency"),
            "charge_included": (flag, "ChargeAmount.ChargeIncluded"),
            "charge_vat_amount": (money, "ChargeAmountVat.Amount"),
            "charge_vat_currency": (text, "ChargeAmountVat.Currency"),
            "exchange_source_currency": (text, "CurrencyExchange.SourceCurrency"),
            "exchange_target_currency": (text, "CurrencyExchange.TargetCurrency"),
            "exchange_unit_currency": (text, "CurrencyExchange.UnitCurrency"),
            "exchange_rate": (exact, "CurrencyExchange.ExchangeRate"),
            "exchange_contract": (text, "CurrencyExchange.ContractIdentification"),
            "exchange_quoted_at": (instant, "CurrencyExchange.QuotationDate"),
            "exchange_instructed_amount": (money, "CurrencyExchange.InstructedAmount.Amount"),
            "exchange_instructed_currency": (text, "CurrencyExchange.InstructedAmount.Currency"),
            "flags": (objects, "Flags"),
            "payment_mode": (text, "PaymentModes"),
            "mutability": (text, "TransactionMutability"),
            "local_time_zone": (text, "LocalTimeZone"),
            "statement_reference": (text, "StatementReference"),
            "payment_purpose_code": (text, "PaymentPurposeCode"),
            "bank_transaction_domain": (text, "BankTransactionCode.Domain"),
            "bank_transaction_domain_code": (text, "BankTransactionCode.DomainCode"),
            "bank_transaction_family": (text, "BankTransactionCode.Family"),
            "bank_transaction_family_code": (text, "BankTransactionCode.FamilyCode"),
            "bank_transaction_sub_family": (text, "BankTransactionCode.SubFamily"),
            "bank_transaction_sub_family_code": (text, "BankTransactionCode.SubFamilyCode"),
            "proprietary_transaction_code": (text, "ProprietaryBankTransactionCode.Code"),
            "proprietary_transaction_code_issuer": (text, "ProprietaryBankTransactionCode.Issuer"),
            "terminal_id": (text, "TerminalId"),
            "merchant_id": (text, "MerchantDetails.MerchantId"),
            "card_scheme": (text, "CardInstrument.CardSchemeName"),
            "card_instrument_type": (text, "CardInstrument.InstrumentType"),
            "card_name": (text, "CardInstrument.Name"),
            "card_masked_number": (text, "CardInstrument.Identification"),
            "is_primary_instrument": (flag, "IsPrimaryInstrument"),
            "biller_id": (text, "BillDetails.BillerId"),
            "bill_number": (text, "BillDetails.BillNumber"),
            "bill_payment_type": (text, "BillDetails.BillPaymentType"),
            "latitude": (text, "GeoLocation.Latitude"),
            "longitude": (text, "GeoLocation.Longitude"),
            "allocation_category": (text, "Allocations.BalanceCategory"),
            "allocation_amount": (money, "Allocations.Amount.Amount"),
            "allocation_currency": (text, "Allocations.Amount.Currency"),
        },
        instant="booking_date_time",
        status="status",
    ),
    N.ACCOUNT_PARTIES: _PARTY,
    N.PARTIES: _PARTY,
    N.BENEFICIARIES: Typed(
        {
            "beneficiary_type": (text, "BeneficiaryType"),
            "added_via_of": (flag, "AddedViaOF"),
            "reference": (text, "Reference"),
            **_HOLDER,
            **_CREDITOR,
            "creditor_agent_name": (text, "CreditorAgent.Name"),
        }
    ),
    N.DIRECT_DEBITS: Typed(
        {
            "mandate_identification": (text, "MandateIdentification"),
            "status": (text, "DirectDebitStatusCode"),
            "name": (text, "Name"),
            "frequency": (text, "Frequency"),
            "previous_payment_date_time": (instant, "PreviousPaymentDateTime"),
            "previous_payment_amount": (money, "PreviousPaymentAmount.Amount"),
            "previous_payment_currency": (text, "PreviousPaymentAmount.Currency"),
        }
    ),
    N.STANDING_ORDERS: Typed(
        {
            "standing_order_type": (text, "StandingOrderType"),
            "status": (text, "StandingOrderStatusCode"),
            "frequency": (text, "Frequency"),
            "first_payment_date_time": (instant, "FirstPaymentDateTime"),
            "next_payment_date_time": (instant, "NextPaymentDateTime"),
            "last_payment_date_time": (instant, "LastPaymentDateTime"),
            "final_payment_date_time": (instant, "FinalPaymentDateTime"),
            "number_of_payments": (text, "NumberOfPayments"),
            "first_payment_amount": (money, "FirstPaymentAmount.Amount"),
            "first_payment_currency": (text, "FirstPaymentAmount.Currency"),
            "next_payment_amount": (money, "NextPaymentAmount.Amount"),
            "next_payment_currency": (text, "NextPaymentAmount.Currency"),
            "last_payment_amount": (money, "LastPaymentAmount.Amount"),
            "last_payment_currency": (text, "LastPaymentAmount.Currency"),
            "final_payment_amount": (money, "FinalPaymentAmount.Amount"),
            "final_payment_currency": (text, "FinalPaymentAmount.Currency"),
            "creditor_reference": (text, "CreditorReference"),
            "purpose": (text, "Purpose"),
            **_HOLDER,
            **_CREDITOR,
        }
    ),
    N.SCHEDULED_PAYMENTS: Typed(
        {
            "scheduled_type": (text, "ScheduledType"),
            "scheduled_payment_date_time": (instant, "ScheduledPaymentDateTime"),
            "amount": (money, "InstructedAmount.Amount"),
            "currency": (text, "InstructedAmount.Currency"),
            "creditor_reference": (text, "CreditorReference"),
            "debtor_reference": (text, "DebtorReference"),
            **_HOLDER,
            **_CREDITOR,
        }
    ),
    N.STATEMENTS: Typed(
        {
            "statement_date": (day, "StatementDate"),
            "opening_date": (day, "OpeningDate"),
            "closing_date": (day, "ClosingDate"),
            "opening_balance": (signed_balance, "OpeningBalance"),
            "opening_currency": (text, "OpeningBalance.Amount.Currency"),
            "closing_balance": (signed_balance, "ClosingBalance"),
            "closing_currency": (text, "ClosingBalance.Amount.Currency"),
            "credit_line_amount": (money, "CreditLine.Amount"),
            "credit_line_currency": (text, "CreditLine.Currency"),
            "opening_components": (objects, "OpeningBalance.Components"),
            "closing_components": (objects, "ClosingBalance.Components"),
            "summary": (objects, "Summary"),
            "expected_next": (objects, "ExpectedNextStatement"),
            "next_payments": (objects, "NextPayment"),
        },
        instant="opening_date",
    ),
    N.PRODUCT: Typed(
        {
            "sharia_structure": (text, "ShariaStructure"),
            "is_secured": (flag, "IsSecured"),
            "is_salary_transfer_required": (flag, "IsSalaryTransferRequired"),
            "finance_rates": (rates, "FinanceRates|LendingRates"),
            "product_id": (text, "ProductId"),
            "product_type": (text, "ProductType"),
            "product_name": (text, "ProductName"),
            "is_islamic": (flag, "IsIslamic"),
            "charges": (objects, "Charges"),
            "rates": (objects, "FinanceRates|LendingRates"),
            "deposit_rates": (objects, "DepositRates"),
            "original_tenor": (text, "Tenor.OriginalTenor"),
            "remaining_tenor": (text, "Tenor.RemainingTenor"),
            "asset_backed": (objects, "AssetBacked"),
            "rewards_benefits": (objects, "RewardsBenefits"),
        }
    ),
}


class _Node:
    """What is read of one member of an object: columns of its value, and of the members inside it.

    Attributes:
        reads: place of the column, how it is read, whether it gives way to what another member gave, and up to how
            many characters plain text is taken as it is; 0: never.
        inner: nodes by member, where the value is an object; `None` where nothing in it is read.
        listed: of a list, the first object is the value.
        indicator: the members inside are read only where this is the item's `CreditDebitIndicator`; `None`: always.
    """

    __slots__ = ("indicator", "inner", "listed", "reads")

    def __init__(self) -> None:
        self.reads: tuple[tuple[int, Read, bool, int], ...] = ()
        self.inner: dict[str, _Node] | None = None
        self.listed = False
        self.indicator: str | None = None


_WHOLE: Final[frozenset[Reader]] = frozenset({claim, kind_of_claim})
"""Readers that take the first member's whole value and find the rest of the path themselves."""
_SIDES: Final = {"Creditor": "Debit", "Debtor": "Credit"}


class _Plan(NamedTuple):
    """How the items of one resource become tuples of values.

    An item is walked by the members it has, and not by the columns there are: most columns of most items are NULL, and
    a column whose member is absent costs nothing.
    """

    nodes: dict[str, _Node]
    width: int


def _plan(name: ResourceName) -> _Plan:
    table, typed = RECORD_TABLES[name], TYPED[name]
    nodes: dict[str, _Node] = {}
    names = typed_columns(table)
    for place, column in enumerate(names):
        reader, paths = typed.columns[column]
        for way, path in enumerate(paths.split("|")):
            steps = [path.partition(".")[0]] if reader in _WHOLE else path.split(".")
            within = nodes
            for step in steps[:-1]:
                node = within.setdefault(step, _Node())
                node.inner = {} if node.inner is None else node.inner
                within = node.inner
            if reader in (first, counterparty):
                nodes[steps[0]].listed = True
            if reader is counterparty:
                side = path.partition(".")[0]
                nodes[steps[0]].indicator = next(word for end, word in _SIDES.items() if side.startswith(end))
            node = within.setdefault(steps[-1], _Node())
            plain = _length(table.c[column]) if reader in (text, first, counterparty) else 0
            node.reads += ((place, reader(path, table.c[column]), way > 0, plain),)
    return _Plan(nodes, len(names))


_PLANS: Final = {name: _plan(name) for name in TYPED}


def _values(plan: _Plan, item: Item, note: Note) -> tuple[Any, ...]:
    """An item's typed values in the order of `typed_columns`."""
    values: list[Any] = [None] * plan.width
    _fill(plan.nodes, item, item, note, values)
    return tuple(values)


def _fill(nodes: Mapping[str, _Node], part: Item, item: Item, note: Note, values: list[Any]) -> None:
    for member, value in part.items():
        node = nodes.get(member)
        if node is None or value is None:
            continue
        for place, read, gives_way, plain in node.reads:
            if plain and type(value) is str and len(value) <= plain and value.isascii() and "\x00" not in value:
                found: Any = value  # as `text` would give it; most columns are such, and a call costs as much again
            else:
                found = read(value, item, note)
            if found is not None and not (gives_way and values[place] is not None):
                values[place] = found
        inner = node.inner
        if inner is None or (node.indicator is not None and item.get("CreditDebitIndicator") != node.indicator):
            continue
        if node.listed and type(value) is list and value:
            value = value[0]
        if type(value) is dict:
            _fill(inner, value, item, note, values)


def columns_of(resource: ResourceName, item: bytes) -> tuple[Any, ...] | None:
    """The typed values of an item that is held, in the order of `typed_columns`; read as `decode` reads it.

    What is sealed in its column is plain text here (`Records.stored_values` seals it).

    Returns:
        `None` for bytes that are no readable object.
    """
    found = _item_of(item)
    return None if found is None else _values(_PLANS[resource], found, _ignore)


def whole_columns(row: StoredRecord) -> dict[str, Any]:
    """A row's typed values by name; personal ones that are NULL, as where raw items are sealed, of the opened item."""
    table = RECORD_TABLES[row.resource]
    personal = PERSONAL.get(table.name, frozenset())
    if all(row.columns[name] is not None for name in personal):
        return dict(row.columns)
    read = columns_of(row.resource, row.item)
    if read is None:
        return dict(row.columns)
    told = dict(zip(typed_columns(table), read, strict=True))
    return {name: told[name] if value is None and name in personal else value for name, value in row.columns.items()}


class Identifier(NamedTuple):
    """One of the identifiers of an account, as text of what the LFI sent; absent members are `None`."""

    scheme: str | None
    identification: str | None
    name: str | None

    def __repr__(self) -> str:
        return f"Identifier({self.scheme}, …)"


def identifiers_of(item: bytes) -> tuple[Identifier, ...]:
    """The identifiers of an account, in the bank's order; none for bytes that are no readable object.

    Source: Account Information API v2.1-errata2, `AEAccountIdentifiers`.
    """
    found = _item_of(item)
    listed = None if found is None else found.get("AccountIdentifiers")
    if type(listed) is dict:
        listed = [listed]
    if type(listed) is not list:
        return ()
    return tuple(
        Identifier(
            *(None if (value := one.get(member)) is None else read(value, one, _ignore) for member, read in _IDENTIFIER)
        )
        for one in listed
        if type(one) is dict
    )


def iban_of(item: bytes) -> str | None:
    """The IBAN that an account's item shows, as `values.read_iban` gives it; of several the first in their order.

    An LFI may list them in another order next time.
    """
    found = (read_iban(one.identification) for one in identifiers_of(item) if one.scheme == "IBAN")
    return min(filter(None, found), default=None)


_IDENTIFIER: Final = tuple(
    (member, text(member, account_identifier.c[column]))
    for member, column in (("SchemeName", "scheme"), ("Identification", "identification"), ("Name", "name"))
)


def _item_of(raw: bytes) -> Item | None:
    try:
        item = _EXACT.decode(raw)
    except _UNREADABLE:
        try:
            item = _EXACT.decode(with_repaired_text(raw))
        except _UNREADABLE:
            return None
    return item if type(item) is dict else None


# -- a page ----------------------------------------------------------------------------------------------------------


def item_digest(raw: bytes | msgspec.Raw) -> int:
    """Digest of an item's bytes as the LFI sent them, salted with the decoder's version.

    64 bits, as each one is kept: in a listing of 100,000 items that all change, two different ones are taken for the
    same once in two thousand million walks.
    """
    return xxhash.xxh3_64_intdigest(raw, seed=DECODER_VERSION)


def decode(
    resource: Resource, account_id: str, data: bytes, *, page: int = 1, place: int = 1, known: Mapping[int, str] = _NONE
) -> Decoded:
    """Decode the `Data` of one page.

    Args:
        account_id: the account the page was asked for; `''` for none.
        page: number of the page, for what cannot be read on it.
        place: of the page's first item in the listing; names items the standard gives no id.
        known: digest → key of items that are not decoded again; never of items that their place names.

    Raises:
        StandardViolationError: `Data` is not an object, its items are missing, or it is another account's.
    """
    notes: Counter[str] = Counter()

    def note(oddity: str) -> None:
        notes[oddity] += 1

    keys: list[str] = []
    digests: list[int] = []
    records: list[Record] = []
    unreadable: list[Unreadable] = []
    plan, key_of, key_max = _PLANS[resource.name], _key_reader(resource.key), TYPED[resource.name].key_max
    items, bounded = _items(resource, account_id, data)
    for number, item_bytes in enumerate(items, start=place):
        known_by = item_digest(item_bytes)
        key = known.get(known_by)
        if key is None:
            raw = bytes(item_bytes)
            try:
                item = _EXACT.decode(raw)
                key = key_of(item) if resource.key else _place(item, number)
                digest = xxhash.xxh3_128_digest(_CANONICAL.encode(item), seed=DECODER_VERSION)
            except _UNREADABLE:
                key = None
            if key is None or len(key) > key_max or not (bounded or fault_of_json(raw) is None):
                found = _second_look(resource, raw, number)
                if not isinstance(found, _Repaired):
                    reason, member, instant = found
                    path = f"Data.{resource.items}[{number - place}]" + (f".{member}" if member else "")
                    unreadable.append(Unreadable(page, path, reason, raw, xxhash.xxh3_128_digest(raw), instant))
                    note("item.no_usable_key" if reason in _NO_KEY else "item.unreadable")
                    continue
                item, key, digest = found
                note("item.repaired")
            records.append(Record(key, _values(plan, item, note), raw, digest))
        keys.append(key)
        digests.append(known_by)
    return Decoded(Items(tuple(keys), tuple(digests)), tuple(records), notes, tuple(unreadable))


class _Repaired(NamedTuple):
    """An item that can be read once its text is repaired."""

    item: Item
    key: str
    digest: bytes


class _Refused(NamedTuple):
    """Why an item is none; of one without a key, which member is wrong and where in time it lies."""

    reason: Reason
    member: str = ""
    instant: datetime | None = None


def _second_look(resource: Resource, raw: bytes, number: int) -> _Repaired | _Refused:
    """Read an item that a strict reader refused, or that has no usable key, or say why there is no reading it."""
    fault = fault_of_json(raw)
    if fault is not None:
        return _Refused(_REASONS[fault])
    text = with_repaired_text(raw)
    try:
        item = _EXACT.decode(text)
        digest = xxhash.xxh3_128_digest(_CANONICAL.encode(item), seed=DECODER_VERSION)
    except RecursionError:
        return _Refused(Reason.NESTED_TOO_DEEP)
    except (ArithmeticError, msgspec.ValidationError):
        return _Refused(Reason.NUMBER_OUT_OF_RANGE)
    except _UNREADABLE:
        return _Refused(Reason.NOT_JSON)
    if type(item) is not dict:
        return _Refused(Reason.NOT_AN_OBJECT)
    if not resource.key:
        return _Repaired(item, str(number), digest)
    parts: list[str] = []
    for member in resource.key:
        value = _reach(member)(item)
        part = read_id(value)
        if part is None:
            blank = value is None or isinstance(value, str)
            return _refused(resource, item, Reason.ID_MISSING if blank else Reason.ID_OF_ANOTHER_TYPE, member)
        if _storable(part) != part or (text is not raw and "\ufffd" in part):
            return _refused(resource, item, Reason.ID_NOT_STORABLE, member)
        parts.append(part)
    key = "|".join(parts)
    if len(key) > TYPED[resource.name].key_max:
        return _refused(resource, item, Reason.ID_TOO_LONG, resource.key[-1])
    return _Repaired(item, key, digest)


def _refused(resource: Resource, item: Item, reason: Reason, member: str) -> _Refused:
    """An item without a usable key: what else it says is readable, its place in time above all."""
    name, typed = resource.name, TYPED[resource.name]
    if typed.instant is None:
        return _Refused(reason, member)
    instant = _values(_PLANS[name], item, _ignore)[typed_columns(RECORD_TABLES[name]).index(typed.instant)]
    if instant is not None and not isinstance(instant, datetime):
        instant = at_time(instant)
    return _Refused(reason, member, instant)


_REASONS: Final = {
    Fault.NOT_UTF_8: Reason.NOT_UTF_8,
    Fault.NUMBER_TOO_LONG: Reason.NUMBER_TOO_LONG,
    Fault.NESTED_TOO_DEEP: Reason.NESTED_TOO_DEEP,
}


def canonical(raw: bytes) -> bytes:
    """An item with its members sorted and its numbers exact: equal for items that differ in order or space only.

    Raises:
        StandardViolationError: not JSON.
    """
    try:
        return _CANONICAL.encode(_EXACT.decode(with_repaired_text(raw)))
    except _UNREADABLE:
        raise StandardViolationError("item: not readable JSON") from None


def json_of(raw: bytes) -> bytes:
    """An item that is held as JSON that every reader takes: as sent, or with its text repaired where it has to be.

    Raises:
        StandardViolationError: not a JSON object.
    """
    if _item_of(raw) is None:
        raise StandardViolationError("item: not readable JSON")
    try:
        _EXACT.decode(raw)
    except _UNREADABLE:
        return with_repaired_text(raw)
    return raw


def names_of(resource: Resource, data: bytes) -> frozenset[str | int]:
    """What tells the items of a page apart, read without the rest of them: their keys, or digests where they have none.

    Empty for a page without items, or one that cannot be read.
    """
    try:
        items = _MEMBERS.decode(data)[resource.items]
        if bytes(memoryview(items)[:1]) == b"{":
            items = msgspec.Raw(b"[" + bytes(items) + b"]")
        if not resource.key:
            return frozenset(map(item_digest, _LIST.decode(items)))
        key_of = _key_reader(resource.key)
        return frozenset(key for item in _key_members(resource.key, items) if (key := key_of(item)) is not None)
    except (KeyError, *_UNREADABLE):
        return frozenset()


def _key_members(members: tuple[str, ...], items: msgspec.Raw) -> Iterable[Any]:
    """Of each item the members that its key is made of; items that cannot be read are left out."""
    every, one = _key_decoders(members)
    try:
        return every.decode(items)
    except _UNREADABLE:
        readable = []
        for item in _LIST.decode(items):
            with suppress(*_UNREADABLE):
                readable.append(one.decode(item))
        return readable


@lru_cache(maxsize=64)
def _key_decoders(
    members: tuple[str, ...],
) -> tuple[msgspec.json.Decoder[list[dict[str, Any]]], msgspec.json.Decoder[dict[str, Any]]]:
    """Read those members of all items, or of one, and pass over the others."""
    item: Any = TypedDict("Key", {member.partition(".")[0]: Any for member in members}, total=False)  # type: ignore[misc]
    return msgspec.json.Decoder(list[item]), msgspec.json.Decoder(item)


def _items(resource: Resource, account_id: str, data: bytes) -> tuple[Sequence[bytes | msgspec.Raw], bool]:
    """The bytes of each item, not copied, whether a list or the single object of `/parties` (trap 17).

    Returns:
        The items, and whether all of them keep within the bounds: else each has to be looked at.
    """
    members: Mapping[str, bytes | msgspec.Raw]
    bounded = not isinstance(data, PartlyReadable)
    try:
        try:
            members = _MEMBERS.decode(data)
        except _UNREADABLE:
            members, bounded = split_members(data), False
        if resource.per_account and "AccountId" in members and _names_another(members["AccountId"], account_id):
            raise StandardViolationError(f"{resource.operation}: Data.AccountId is not the account that was asked for")
        items = members[resource.items]
        if bytes(memoryview(items)[:1]) == b"{":
            return [items], bounded
        try:
            return _LIST.decode(items), bounded
        except _UNREADABLE:
            return elements(bytes(items)), False
    except KeyError:
        raise StandardViolationError(f"{resource.operation}: Data has no {resource.items}") from None
    except _UNREADABLE:
        raise StandardViolationError(f"{resource.operation}: Data is not what the standard says") from None


def _names_another(told: bytes | msgspec.Raw, account_id: str) -> bool:
    """Whether `Data.AccountId` says anything else than the account that was asked for; null and blank say nothing."""
    value = _EXACT.decode(told)
    named = read_id(value)
    return named != account_id and not (named is None and (value is None or isinstance(value, str)))


def _place(item: Any, number: int) -> str | None:
    return str(number) if type(item) is dict else None


def _reach(path: str) -> Callable[[Item], Any]:
    """A function that follows a dotted path through objects; `None` when it ends early."""
    first, *rest = path.split(".")
    if not rest:
        return methodcaller("get", first)

    def reach(item: Item) -> Any:
        value = item.get(first)
        for step in rest:
            if type(value) is not dict:  # what the decoder makes; asking for any Mapping costs ten times as much
                return None
            value = value.get(step)
        return value

    return reach


@lru_cache(maxsize=64)
def _key_reader(members: tuple[str, ...]) -> Callable[[Any], str | None]:
    reaches = tuple(_reach(member) for member in members)

    def key_of(item: Any) -> str | None:
        if type(item) is not dict:
            return None
        parts = []
        for reach in reaches:
            part = read_id(reach(item))
            if part is None or (not (part.isascii() and "\x00" not in part) and _storable(part) != part):
                return None
            parts.append(part)
        return "|".join(parts)

    return key_of


@lru_cache(maxsize=4096)
def _amount(value: str) -> Decimal:
    """Read once: for the unsigned and the signed column."""
    return read_money(value)


@lru_cache(maxsize=4096)
def _instant(value: str) -> tuple[datetime | None, bool]:
    """Read once: the instants of one item are often the same."""
    try:
        return read_instant(value, exact=True)  # no column holds a value the LFI did not send
    except ValueError:
        return None, False


@lru_cache(maxsize=4096)
def _uae_date(value: str) -> date | None:
    """The local date in the UAE of an instant as sent."""
    moment, _ = _instant(value)
    return None if moment is None or not within(moment, UAE) else local_date(moment)


def _storable(value: str) -> str:
    """Text both databases take: no NUL and no lone surrogate."""
    return value.encode(errors="replace").decode().replace("\x00", "\ufffd")


def _ignore(_oddity: str) -> None:
    pass

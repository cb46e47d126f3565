"""Turn pages into records: key, typed columns, raw bytes, digest.

In: the bytes of a page's `Data`, and which items are known.  Out: `Decoded`, plain values.  No I/O here.

A resource is a row of `TYPED`: for each column of its table, how it is read from an item.  Reading is tolerant: a
member of an unexpected type becomes NULL and is counted as a note, an unknown enum value is kept as text, and the
item's own bytes are kept whatever happens.  Text that a database cannot take (NUL, half of a surrogate pair) is
repaired in its column and noted; the item's bytes are not.  An item that cannot be read, or has no usable key, becomes
an `Unreadable` with its place and the reason; the others pass.

Money is `Decimal` from the first byte, instants are UTC; one without an offset is UAE time, noted.
"""

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
from syncworker.store.records import Record
from syncworker.store.tables import ACCOUNT_ID, KEY, RECORD_TABLES, typed_columns

DECODER_VERSION: Final = 2
"""Salts every digest: raised, every row counts as changed with the next walk that shows it.  A column that is added or
read differently needs `COLUMNS_VERSION` alone."""

COLUMNS_VERSION: Final = 1
"""Which columns a row has: raise it when a column is added or read differently and no row is to count as changed.  The
workers fill the rows held (`sync.filling`); digests stay."""

PENDING: Final = "Pending"
JWE_PARTS: Final = 5

Item = Mapping[str, Any]
Note = Callable[[str], None]
Read = Callable[[Item, Note], Any]
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


def _reach(path: str) -> Callable[[Item], Any]:
    """A function that follows a dotted path through objects, and a number through lists; `None` when it ends early.

    `A|B` takes B where A leads to nothing: the name of another version.
    """
    if "|" in path:
        ways = tuple(_reach(way) for way in path.split("|"))
        return lambda item: next((found for way in ways if (found := way(item)) is not None), None)
    first, *rest = path.split(".")
    if not rest:
        return methodcaller("get", first)
    if len(rest) == 1 and not rest[0].isdigit():
        (second,) = rest

        def reach_two(item: Item) -> Any:
            value = item.get(first)
            return value.get(second) if type(value) is dict else None

        return reach_two

    def reach(item: Item) -> Any:
        value = item.get(first)
        for step in rest:
            if type(value) is dict:  # what the decoder makes; asking for any Mapping costs ten times as much
                value = value.get(step)
            elif isinstance(value, list) and step.isdigit():
                value = value[int(step)] if len(value) > int(step) else None
            else:
                return None
        return value

    return reach


def text(path: str, column: sa.Column[Any]) -> Read:
    """Text; a number is written out, since the standard types some codes both ways (D-28)."""
    reach, name, length = _reach(path), column.name, getattr(column.type, "length", None) or sys.maxsize

    def read(item: Item, note: Note) -> str | None:
        value = reach(item)
        if value is None:
            return None
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


def money(path: str, column: sa.Column[Any]) -> Read:
    """An unsigned amount."""
    reach, name = _reach(path), column.name

    def read(item: Item, note: Note) -> Decimal | None:
        value = reach(item)
        if value is None:
            return None
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

    def read(item: Item, _note: Note) -> Decimal | None:
        indicator = item.get("CreditDebitIndicator")
        value = amount(item, _ignore)  # noted where the unsigned amount is read
        return signed(value, indicator) if value is not None and indicator in ("Credit", "Debit") else None

    return read


def instant(path: str, column: sa.Column[Any]) -> Read:
    """An instant in UTC."""
    reach, name = _reach(path), column.name

    def read(item: Item, note: Note) -> datetime | None:
        value = reach(item)
        if value is None:
            return None
        moment, without_offset = _instant(value) if isinstance(value, str) else (None, False)
        if moment is None:
            note(f"{name}.not_an_instant")
        elif without_offset:
            note(f"{name}.no_offset")
        return moment

    return read


def signed_balance(path: str, column: sa.Column[Any]) -> Read:
    """The amount of a balance object with the sign of the object's own `CreditDebitIndicator`."""
    amount, name = money(f"{path}.Amount.Amount", column), column.name
    indicator_of = _reach(f"{path}.CreditDebitIndicator")

    def read(item: Item, note: Note) -> Decimal | None:
        value, indicator = amount(item, note), indicator_of(item)
        if value is None:
            return None
        if indicator not in ("Credit", "Debit"):
            note(f"{name}.no_sign")
            return None
        return signed(value, indicator)

    return read


def flag(path: str, column: sa.Column[Any]) -> Read:
    """True or false; a bank's `"true"` in quotes is read and noted."""
    reach, name = _reach(path), column.name

    def read(item: Item, note: Note) -> bool | None:
        value = reach(item)
        if value is None or isinstance(value, bool):
            return value
        note(f"{name}.wrong_type")
        return {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else None

    return read


def day(path: str, column: sa.Column[Any]) -> Read:
    """A calendar date; of a date-time, which some LFIs send, the date in the UAE, noted."""
    reach, name = _reach(path), column.name

    def read(item: Item, note: Note) -> date | None:
        value = reach(item)
        if value is None:
            return None
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


def rates(path: str, column: sa.Column[Any]) -> Read:
    """Whether a product's rates can be read: `locked` for a JWE, which only the user's code opens, else `open`.

    Source: Account Information API v2.1-errata2, `FinanceRates`; v2.0-errata1, `LendingRates`.
    """
    reach, name = _reach(path), column.name

    def read(item: Item, note: Note) -> str | None:
        value = reach(item)
        match value:
            case None:
                return None
            case Mapping() | list():
                return "open"
            case str() if value.count(".") == JWE_PARTS - 1:
                return "locked"
        note(f"{name}.wrong_type")
        return None

    return read


def uae_date(path: str, _column: sa.Column[Any]) -> Read:
    """The local date in the UAE of an instant."""
    reach = _reach(path)

    def read(item: Item, _note: Note) -> date | None:
        value = reach(item)
        return _uae_date(value) if isinstance(value, str) else None

    return read


def counterparty(path: str, column: sa.Column[Any]) -> Read:
    """A member of the other side: of a Debit the creditor's, of a Credit the debtor's account, the first of several."""
    member = text(path, column)

    def read(item: Item, note: Note) -> str | None:
        match item.get("CreditDebitIndicator"):
            case "Debit":
                account = item.get("CreditorAccount")
            case "Credit":
                account = item.get("DebtorAccount")
            case _:
                return None
        if type(account) is list and account:
            account = account[0]
        return member(account, note) if type(account) is dict else None

    return read


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
_ACCOUNT: Final[Mapping[str, tuple[Reader, str]]] = {
    "status": (text, "Status"),
    "currency": (text, "Currency"),
    "account_type": (text, "AccountType"),
    "account_sub_type": (text, "AccountSubType"),
    "nickname": (text, "Nickname"),
    "description": (text, "Description"),
    "opening_date": (instant, "OpeningDate"),  # a date-time on accounts (trap 28)
}
_PARTY: Final = Typed(
    {
        "party_type": (text, "PartyType"),
        "party_category": (text, "PartyCategory"),
        "account_role": (text, "AccountRole"),
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
            "counterparty_name": (counterparty, "Name"),
        },
        instant="booking_date_time",
        status="status",
    ),
    N.ACCOUNT_PARTIES: _PARTY,
    N.PARTIES: _PARTY,
    N.BENEFICIARIES: Typed(  # names and accounts of other people stay in the raw item
        {
            "beneficiary_type": (text, "BeneficiaryType"),
            "added_via_of": (flag, "AddedViaOF"),
            "reference": (text, "Reference"),
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
        }
    ),
    N.SCHEDULED_PAYMENTS: Typed(
        {
            "scheduled_type": (text, "ScheduledType"),
            "scheduled_payment_date_time": (instant, "ScheduledPaymentDateTime"),
            "amount": (money, "InstructedAmount.Amount"),
            "currency": (text, "InstructedAmount.Currency"),
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
        },
        instant="opening_date",
    ),
    N.PRODUCT: Typed(
        {
            "sharia_structure": (text, "ShariaStructure"),
            "is_secured": (flag, "IsSecured"),
            "is_salary_transfer_required": (flag, "IsSalaryTransferRequired"),
            "finance_rates": (rates, "FinanceRates|LendingRates"),
        }
    ),
}


def _readers(name: ResourceName) -> tuple[Read, ...]:
    table, typed = RECORD_TABLES[name], TYPED[name]
    return tuple(
        reader(path, table.c[column]) for column in typed_columns(table) for reader, path in [typed.columns[column]]
    )


_READERS: Final = {name: _readers(name) for name in TYPED}


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
    readers, key_of, key_max = _READERS[resource.name], _key_reader(resource.key), TYPED[resource.name].key_max
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
            records.append(Record(key, tuple([read(item, note) for read in readers]), raw, digest))
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
    read = _READERS[name][typed_columns(RECORD_TABLES[name]).index(typed.instant)]
    instant = read(item, _ignore)
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


def columns_of(name: ResourceName, raw: bytes) -> tuple[Any, ...]:
    """The typed columns of an item that is held, in the order of `tables.typed_columns`; oddities are not noted.

    Raises:
        StandardViolationError: not a JSON object.
    """
    item = _item(raw)
    return tuple([read(item, _ignore) for read in _READERS[name]])


def json_of(raw: bytes) -> bytes:
    """An item that is held as JSON that every reader takes: as sent, or with its text repaired where it has to be.

    Raises:
        StandardViolationError: not a JSON object.
    """
    try:
        _EXACT.decode(raw)
    except _UNREADABLE:
        _item(raw)
        return with_repaired_text(raw)
    return raw


def identifiers_of(raw: bytes) -> list[dict[str, str | None]]:
    """`AccountIdentifiers` of an account's item: scheme, identification and name of each, in the order sent.

    Raises:
        StandardViolationError: not a JSON object.
    """
    shown = _item(raw).get("AccountIdentifiers")
    members = {"scheme": "SchemeName", "identification": "Identification", "name": "Name"}
    return [
        {name: value if type(value := one.get(member)) is str else None for name, member in members.items()}
        for one in (shown if isinstance(shown, list) else ())
        if isinstance(one, dict)
    ]


def iban_of(raw: bytes) -> str | None:
    """The IBAN that an account's item shows, as `values.read_iban` gives it; of several the first in their order.

    Raises:
        StandardViolationError: not a JSON object.
    """
    shown = _item(raw).get("AccountIdentifiers")
    found = (
        read_iban(one.get("Identification"))
        for one in (shown if isinstance(shown, list) else ())
        if isinstance(one, dict) and one.get("SchemeName") == "IBAN"
    )
    return min(filter(None, found), default=None)  # the LFI may list them in another order next time


def _item(raw: bytes) -> Item:
    try:
        try:
            item = _EXACT.decode(raw)
        except _UNREADABLE:
            item = _EXACT.decode(with_repaired_text(raw))
    except _UNREADABLE:
        item = None
    if type(item) is not dict:
        raise StandardViolationError("item: not readable JSON")
    return item


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

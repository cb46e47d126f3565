"""What an export holds: its tables, their columns, types and merge keys, as the views of the database promise them.

In: `store.sql_views.VIEWS`.  Out: `TABLES`, plain values, and Arrow schemas made of them.  No I/O here.

A column of a view is a column of the table under the same name, save three kinds: `tenant` (an export is one tenant's),
the integer twins of amounts (`…_e5`), which files with exact decimals do not need, and those that change with every
look at the LFI (`_UNTOLD`).
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from types import MappingProxyType
from typing import Final

import pyarrow as pa

from syncworker.errors import RequestError
from syncworker.standard.json_text import json_bytes
from syncworker.standard.values import MONEY_PLACES
from syncworker.store.sql_views import VIEWS, Kind, View, ViewColumn
from syncworker.store.tables import PERSONAL

MONEY_DIGITS: Final = 18
"""Digits of an amount, those behind the point included."""

OP: Final = "op"
"""Column of increments, first: `upsert` or `delete`."""

NUMBER: Final = "number"
"""Column of Delta tables, last: the number of the export that brought the row."""


class Op(StrEnum):
    """What an increment says of a row."""

    UPSERT = "upsert"
    DELETE = "delete"


class Hiding(StrEnum):
    """What becomes of a column in a pseudonymous export."""

    KEPT = "kept"
    PSEUDONYM = "pseudonym"
    """A keyed HMAC: equal values stay equal, so joins and counts work."""
    BLANK = "blank"
    """Null: free text, places and the like, of which a pseudonym would be of no use."""


_TYPES: Final[Mapping[Kind, pa.DataType]] = {
    Kind.TEXT: pa.string(),
    Kind.AMOUNT: pa.decimal128(MONEY_DIGITS, MONEY_PLACES),
    Kind.E5: pa.int64(),
    Kind.INTEGER: pa.int64(),
    Kind.INSTANT: pa.timestamp("us", tz="UTC"),
    Kind.DATE: pa.date32(),
    Kind.FLAG: pa.bool_(),
    Kind.JSON: pa.string(),
}

_PSEUDONYMS: Final = frozenset(
    {
        "holder_name",
        "holder_short_name",
        "identification",
        "name",
        "counterparty_name",
        "counterparty_identification",
        "card_name",
        "card_masked_number",
        "creditor_identification",
        "mandate_identification",
    }
)
"""Personal columns that people join or count by; all others are blank in a pseudonymous export."""

DICTIONARY_COLUMNS: Final = frozenset(
    {
        "op", "connection_id", "user_ref", "lfi", "account_id", "lfi_account_id", "identity", "status", "currency",
        "type", "version", "account_type", "account_sub_type", "user_type", "scheme", "servicer_scheme",
        "credit_debit_indicator", "transaction_type", "sub_transaction_type", "merchant_name", "merchant_category_code",
        "payment_mode", "mutability", "local_time_zone", "payment_purpose_code", "bank_transaction_domain",
        "bank_transaction_domain_code", "bank_transaction_family", "bank_transaction_family_code",
        "bank_transaction_sub_family", "bank_transaction_sub_family_code", "proprietary_transaction_code",
        "proprietary_transaction_code_issuer", "card_scheme", "card_instrument_type", "running_balance_currency",
        "running_balance_type", "charge_currency", "charge_vat_currency", "exchange_source_currency",
        "exchange_target_currency", "exchange_unit_currency", "exchange_instructed_currency", "bill_payment_type",
        "allocation_category", "allocation_currency", "party_type", "party_category", "account_role", "kind",
        "beneficiary_type", "frequency", "standing_order_type", "scheduled_type", "creditor_scheme",
        "creditor_agent_scheme", "product_type",
    }
)  # fmt: skip
"""Parquet keeps these as numbers into a list of their values: few values, or many rows of one value in a row.

Named, since a writer that chooses by itself may choose otherwise in its next version, and bytes would differ.
"""


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        personal: tells who people are.
        comment: what it holds, with its unit.
    """

    name: str
    kind: Kind
    arrow: pa.DataType
    personal: bool
    hiding: Hiding
    comment: str


@dataclass(frozen=True, slots=True)
class Table:
    """One table.

    Attributes:
        name: of its folder.
        view: it is read from.
        merge_key: columns that name a row; one of them may be null in a party (`account_id`).
    """

    name: str
    view: str
    columns: tuple[Column, ...]
    merge_key: tuple[str, ...]

    def column(self, name: str) -> Column:
        """
        Raises:
            KeyError: there is none of this name.
        """
        return next((one for one in self.columns if one.name == name), None) or _missing(self.name, name)


def _missing(table: str, name: str) -> Column:
    raise KeyError(f"{table}: has no column {name}")


_ITEM_KEY: Final = ("account_id", "key")
_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "connection": ("connection_id",),
    "consent": ("connection_id", "consent_id"),
    "account": ("connection_id", "lfi_account_id"),
    "account_identifier": ("connection_id", "lfi_account_id", "position"),
    "balance_history": ("account_id", "key", "as_of_bank"),
    "party": ("connection_id", "account_id", "key"),
}
"""Merge keys of tables whose rows are not named by `(account_id, key)`.

An account goes by the LFI's id within its connection: ours is null until it is filled in.
"""

_UNTOLD: Final = frozenset({"checked_at", "missed_since"})
"""Columns of rows that change without a change of the feed: increments could not tell of them.

When a listing was last seen stands in the manifest.
"""

_NO_TABLES: Final = frozenset({"v_listing", "v_change"})
"""Views that are no table of an export: freshness stands in the manifest, and increments are made of changes."""


def _column(one: ViewColumn) -> Column:
    table, _, name = one.source.partition(".")
    personal = name in PERSONAL.get(table, ())
    hiding = Hiding.KEPT if not personal else Hiding.PSEUDONYM if name in _PSEUDONYMS else Hiding.BLANK
    comment = f"{one.comment} ({one.unit})" if one.unit else one.comment
    plain = str.__str__(one.name)  # some are a kind of text of SQLAlchemy's
    return Column(plain, one.kind, _TYPES[one.kind], personal, hiding, comment)


def _table(view: View) -> Table:
    name = view.name.removeprefix("v_")
    left_out = {"tenant", *_UNTOLD}
    columns = tuple(_column(one) for one in view.columns if one.name not in left_out and one.kind is not Kind.E5)
    key = _KEYS.get(name, _ITEM_KEY)
    assert set(key) <= {one.name for one in columns}, f"{name}: its merge key names a column it has not"
    return Table(name, view.name, columns, key)


TABLES: Final[Mapping[str, Table]] = MappingProxyType(
    {table.name: table for table in (_table(view) for view in VIEWS if view.name not in _NO_TABLES)}
)
"""All tables, by name, in the order they are exported."""


def described(table: Table) -> Mapping[str, str]:
    """Names and kinds of a table's columns, as a manifest keeps them."""
    return {one.name: one.kind.value for one in table.columns}


def table_as(name: str, columns: Mapping[str, str], merge_key: tuple[str, ...]) -> Table:
    """A table as a manifest describes it: what was exported by another version has other columns than `TABLES`.

    Raises:
        ValueError: a kind of column that this version does not know; names the column.
    """
    unknown = sorted(column for column, kind in columns.items() if kind not in set(Kind))
    if unknown:
        raise ValueError(f"columns: {', '.join(unknown)}: of a kind that this version does not know")
    kept = (
        Column(column, Kind(kind), _TYPES[Kind(kind)], personal=False, hiding=Hiding.KEPT, comment="")
        for column, kind in columns.items()
    )
    return Table(name, f"v_{name}", tuple(kept), merge_key)


def chosen(names: Iterable[str]) -> tuple[Table, ...]:
    """The tables of some names, in the order of `TABLES`; no name: all.

    Raises:
        RequestError: there is no table of a name; says which there are.
    """
    wanted = set(names)
    unknown = sorted(wanted - TABLES.keys())
    if unknown:
        raise RequestError(f"tables: there is no {', '.join(unknown)}; choose of {', '.join(TABLES)}")
    return tuple(table for name, table in TABLES.items() if not wanted or name in wanted)


@cache
def arrow_schema(table: Table, *, op: bool) -> pa.Schema:
    """The schema of a table's batches and Parquet files, without metadata.

    Args:
        op: of an increment: `op` is its first column.
    """
    return pa.schema(list(_fields(table, op=op)))


def _fields(table: Table, *, op: bool) -> Iterator[pa.Field]:
    if op:
        yield pa.field(OP, pa.string(), nullable=False)
    for column in table.columns:
        yield pa.field(column.name, column.arrow)


def schema_hash(tables: Iterable[Table]) -> str:
    """Of names, types and merge keys, 64 hexadecimal digits; where it differs, no increment fits on an older export."""
    facts = [
        [table.name, list(table.merge_key), [[one.name, one.kind.value, str(one.arrow)] for one in table.columns]]
        for table in sorted(tables, key=lambda table: table.name)
    ]
    return hashlib.sha256(json_bytes(facts)).hexdigest()

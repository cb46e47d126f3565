"""The views that readers of the database are promised, each defined once: `v_account`, `v_transaction`, `v_change` …

In: the tables (`store.tables`).  Out: `VIEWS`, plain values, from which come the DDL of both databases, PostgreSQL's
comments and docs/schema.md.  No I/O here; `store.view_maker` makes them in a database.

What all views have in common:

- `tenant` is the first column, and rows of one tenant are joined with rows of that tenant alone.
- `account_id` is ours and survives a renewal, `lfi_account_id` is the LFI's.  `id` is `account_id:key`.
- Rows are those an LFI shows: none that it was proved to show no more, none of an account it shows no more, none of a
  connection that is restricted.  A row that went is told by `v_change`.
- No item as sent, no sealed bytes, no digest.
- Amounts are exact: `NUMERIC` on PostgreSQL, text on SQLite, and beside each one `…_e5`, an integer of 1/100,000.
- Instants are UTC.  One that a bank or a consent speaks of has its date in the UAE beside it; one of our bookkeeping
  (`checked_at`, `changed_at` …) has none.

A typed column of a record table becomes a column of its view by itself (`_typed`); it needs a comment, of its own or in
`COMMENTS`.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from syncworker.standard.resources import ResourceName
from syncworker.store import tables
from syncworker.store.changes import OLDEST_OPEN
from syncworker.store.dialect import Dialect, Instant, Money
from syncworker.store.freshness import checks
from syncworker.store.readable import readable
from syncworker.store.tables import typed_columns

DATABASES: Final = ("postgresql", "sqlite")

Sql = Mapping[str, str]
"""An SQL expression for each database."""


class Kind(StrEnum):
    """What a column holds; decides its type and unit."""

    TEXT = "text"
    AMOUNT = "amount"
    E5 = "e5"
    INTEGER = "integer"
    INSTANT = "instant"
    DATE = "date"
    FLAG = "flag"
    JSON = "json"


TYPES: Final[Mapping[Kind, tuple[str, str]]] = {
    Kind.TEXT: ("text", "TEXT"),
    Kind.AMOUNT: ("numeric", "TEXT"),
    Kind.E5: ("bigint", "INTEGER"),
    Kind.INTEGER: ("bigint", "INTEGER"),
    Kind.INSTANT: ("timestamptz", "TEXT"),
    Kind.DATE: ("date", "TEXT"),
    Kind.FLAG: ("boolean", "INTEGER"),
    Kind.JSON: ("jsonb", "TEXT"),
}
"""Type of a column on PostgreSQL, and on SQLite."""

UNITS: Final[Mapping[Kind, str]] = {
    Kind.AMOUNT: "units of the currency",
    Kind.E5: "1/100,000 of the currency's unit",
    Kind.INSTANT: "UTC",
}


@dataclass(frozen=True, slots=True)
class ViewColumn:
    """One column of a view.

    Attributes:
        sql: the expression, for each database.
        source: table and column that it comes from; for expressions, what they are made of.
        unit: empty where there is none.
    """

    name: str
    kind: Kind
    comment: str
    sql: Sql
    source: str
    unit: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """One view.

    Attributes:
        comment: what one row is, and which rows are left out.
        joined: all behind `FROM`, conditions included, for each database.
    """

    name: str
    comment: str
    columns: tuple[ViewColumn, ...]
    joined: Sql

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        twice = {name for name in names if names.count(name) > 1}
        if twice or names[0] != "tenant":
            raise ValueError(f"{self.name}: tenant is not first, or columns come twice: {sorted(twice)}")

    def ddl(self, database: str) -> str:
        """`CREATE VIEW`, with the reader's rights on PostgreSQL; on SQLite its comments are part of the text."""
        if database == "postgresql":
            columns = ",\n  ".join(f"{column.sql[database]} AS {column.name}" for column in self.columns)
            head = f"CREATE VIEW {self.name} WITH (security_invoker = true) AS"
        else:
            last = self.columns[-1]
            columns = "\n  ".join(
                f"{column.sql[database]} AS {column.name}{'' if column is last else ','} -- {said(column)}"
                for column in self.columns
            )
            head = f"CREATE VIEW {self.name} AS -- {self.comment}"
        return f"{head}\nSELECT\n  {columns}\nFROM {self.joined[database]}"

    def comments(self) -> Iterator[str]:
        """PostgreSQL's `COMMENT ON` statements."""
        yield f"COMMENT ON VIEW {self.name} IS {_quoted(self.comment)}"
        for column in self.columns:
            yield f"COMMENT ON COLUMN {self.name}.{column.name} IS {_quoted(said(column))}"

    def digest(self, database: str) -> str:
        """Of everything that is made in the database, 64 characters: another digest, another view."""
        parts = [self.ddl(database), *(self.comments() if database == "postgresql" else ())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def said(column: ViewColumn) -> str:
    """A column's comment with its unit."""
    return f"{column.comment} ({column.unit})" if column.unit else column.comment


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# -- how a value is written ------------------------------------------------------------------------------------------


def _same(expression: str) -> Sql:
    return dict.fromkeys(DATABASES, expression)


def amount_sql(stored: str) -> Sql:
    """An exact amount with at least two digits behind the point, and no zero beyond them: `-120.50`, `0.00001`."""
    whole, rest = f"abs({stored}) / 100000", f"printf('%05d', abs({stored}) % 100000)"
    return {
        "postgresql": f"round({stored}, greatest(2, min_scale({stored})))",
        "sqlite": (
            f"CASE WHEN {stored} < 0 THEN '-' ELSE '' END || ({whole}) || '.' || substr({rest}, 1, 2)"
            f" || rtrim(substr({rest}, 3), '0')"
        ),
    }


def e5_sql(stored: str) -> Sql:
    """An amount as an integer of 1/100,000: what SQLite keeps."""
    return {"postgresql": f"({stored} * 100000)::bigint", "sqlite": stored}


def uae_date_sql(stored: str) -> Sql:
    """The date in the UAE of an instant.

    SQLite rounds to milliseconds, which would move the last microseconds of a day into the next: seconds suffice.
    """
    return {
        "postgresql": f"(({stored} AT TIME ZONE 'UTC') + interval '4 hours')::date",
        "sqlite": f"date(substr({stored}, 1, 19), '+4 hours')",
    }


def _ordered(expression: str) -> Sql:
    """Text that sorts by its characters' numbers on both databases."""
    return {"postgresql": f'({expression}) COLLATE "C"', "sqlite": expression}


# -- what the views stand on -----------------------------------------------------------------------------------------

COMMENTS: Final[Mapping[tuple[str, str], str]] = {
    ("account", "status"): "Status of the account at the LFI",
    ("account", "currency"): "currency the account is kept in, ISO 4217",
    ("account", "account_type"): "AccountType",
    ("account", "account_sub_type"): "AccountSubType",
    ("account", "nickname"): "name the user gave the account",
    ("account", "description"): "name of the kind of account, in the LFI's words",
    ("account", "opening_date"): "when the account was opened",
    ("balance", "type"): "Type, as ClosingAvailable; amounts of different types are never added",
    ("balance", "currency"): "ISO 4217",
    ("balance", "credit_debit_indicator"): "Credit or Debit, as sent",
    ("balance", "amount"): "as sent, without a sign",
    ("balance", "signed_amount"): "Debit is negative; NULL without a known CreditDebitIndicator",
    ("balance", "date_time"): "the balance's own DateTime: as of when the LFI says so",
    ("balance_history", "credit_debit_indicator"): "Credit or Debit, as sent",
    ("balance_history", "amount"): "as sent, without a sign",
    ("balance_history", "signed_amount"): "Debit is negative; NULL without a known CreditDebitIndicator",
    ("balance_history", "date_time"): "the balance's own DateTime: as of when the LFI said so",
    ("transaction", "status"): "Booked, Pending …, as sent",
    ("transaction", "credit_debit_indicator"): "Credit or Debit, as sent",
    ("transaction", "amount"): "as sent, without a sign",
    ("transaction", "signed_amount"): "Debit is negative; NULL without a known CreditDebitIndicator",
    ("transaction", "currency"): "ISO 4217",
    ("transaction", "booking_date_time"): "BookingDateTime",
    ("transaction", "value_date_time"): "ValueDateTime",
    ("transaction", "transaction_date_time"): "TransactionDateTime: when the user paid",
    ("transaction", "transaction_type"): "TransactionType",
    ("transaction", "sub_transaction_type"): "SubTransactionType",
    ("transaction", "transaction_reference"): "TransactionReference",
    ("transaction", "transaction_information"): "TransactionInformation: the text on the account statement",
    ("transaction", "merchant_name"): "MerchantDetails.MerchantName",
    ("transaction", "merchant_category_code"): "MerchantDetails.MerchantCategoryCode, ISO 18245; leading zeros kept",
    ("party", "party_type"): "PartyType",
    ("party", "party_category"): "PartyCategory",
    ("party", "account_role"): "AccountRole",
    ("beneficiary", "beneficiary_type"): "BeneficiaryType",
    ("beneficiary", "reference"): "Reference",
    ("direct_debit", "mandate_identification"): "MandateIdentification",
    ("direct_debit", "status"): "DirectDebitStatusCode",
    ("direct_debit", "name"): "Name of the service user",
    ("direct_debit", "frequency"): "Frequency",
    ("direct_debit", "previous_payment_date_time"): "PreviousPaymentDateTime",
    ("direct_debit", "previous_payment_amount"): "PreviousPaymentAmount",
    ("direct_debit", "previous_payment_currency"): "ISO 4217, of previous_payment_amount",
    ("standing_order", "standing_order_type"): "StandingOrderType",
    ("standing_order", "status"): "StandingOrderStatusCode",
    ("standing_order", "first_payment_date_time"): "FirstPaymentDateTime",
    ("standing_order", "next_payment_date_time"): "NextPaymentDateTime",
    ("standing_order", "last_payment_date_time"): "LastPaymentDateTime: the payment before",
    ("standing_order", "final_payment_date_time"): "FinalPaymentDateTime: the end of the order",
    ("standing_order", "number_of_payments"): "NumberOfPayments, as sent",
    ("standing_order", "first_payment_amount"): "FirstPaymentAmount",
    ("standing_order", "first_payment_currency"): "ISO 4217, of first_payment_amount",
    ("standing_order", "next_payment_amount"): "NextPaymentAmount",
    ("standing_order", "next_payment_currency"): "ISO 4217, of next_payment_amount",
    ("scheduled_payment", "scheduled_type"): "ScheduledType",
    ("scheduled_payment", "scheduled_payment_date_time"): "ScheduledPaymentDateTime",
    ("scheduled_payment", "amount"): "InstructedAmount",
    ("scheduled_payment", "currency"): "ISO 4217",
    ("statement", "statement_date"): "StatementDate",
    ("statement", "closing_date"): "ClosingDate",
    ("statement", "opening_currency"): "ISO 4217, of opening_balance",
    ("statement", "closing_currency"): "ISO 4217, of closing_balance",
    ("product", "sharia_structure"): "ShariaStructure",
    ("product", "is_secured"): "IsSecured",
    ("product", "is_salary_transfer_required"): "IsSalaryTransferRequired",
    ("transaction", "running_balance_currency"): "ISO 4217, of running_balance",
    ("transaction", "running_balance_type"): "Type of running_balance",
    ("transaction", "charge_amount"): "ChargeAmount",
    ("transaction", "charge_currency"): "ISO 4217, of charge_amount",
    ("transaction", "charge_vat_amount"): "ChargeAmountVat",
    ("transaction", "charge_vat_currency"): "ISO 4217, of charge_vat_amount",
    ("transaction", "exchange_source_currency"): "SourceCurrency of the exchange",
    ("transaction", "exchange_target_currency"): "TargetCurrency of the exchange",
    ("transaction", "exchange_unit_currency"): "UnitCurrency of the exchange rate",
    ("transaction", "exchange_instructed_amount"): "InstructedAmount of the exchange",
    ("transaction", "exchange_instructed_currency"): "ISO 4217, of exchange_instructed_amount",
    ("transaction", "local_time_zone"): "LocalTimeZone",
    ("transaction", "statement_reference"): "StatementReference",
    ("transaction", "payment_purpose_code"): "PaymentPurposeCode",
    ("transaction", "bank_transaction_domain"): "BankTransactionCode: Domain",
    ("transaction", "bank_transaction_domain_code"): "BankTransactionCode: DomainCode",
    ("transaction", "bank_transaction_family"): "BankTransactionCode: Family",
    ("transaction", "bank_transaction_family_code"): "BankTransactionCode: FamilyCode",
    ("transaction", "bank_transaction_sub_family"): "BankTransactionCode: SubFamily",
    ("transaction", "bank_transaction_sub_family_code"): "BankTransactionCode: SubFamilyCode",
    ("transaction", "proprietary_transaction_code"): "ProprietaryBankTransactionCode: Code",
    ("transaction", "proprietary_transaction_code_issuer"): "ProprietaryBankTransactionCode: Issuer",
    ("transaction", "card_scheme"): "CardSchemeName",
    ("transaction", "card_name"): "Name on the card",
    ("transaction", "card_masked_number"): "Identification of the card, masked by the LFI",
    ("transaction", "biller_id"): "BillerId",
    ("transaction", "bill_number"): "BillNumber",
    ("transaction", "bill_payment_type"): "BillPaymentType",
    ("transaction", "latitude"): "Latitude of the place, as sent",
    ("transaction", "longitude"): "Longitude of the place, as sent",
    ("transaction", "allocation_amount"): "Amount of the allocation",
    ("transaction", "allocation_currency"): "ISO 4217, of allocation_amount",
    ("standing_order", "creditor_reference"): "CreditorReference",
    ("standing_order", "purpose"): "Purpose",
    ("standing_order", "last_payment_amount"): "LastPaymentAmount",
    ("standing_order", "last_payment_currency"): "ISO 4217, of last_payment_amount",
    ("standing_order", "final_payment_amount"): "FinalPaymentAmount",
    ("standing_order", "final_payment_currency"): "ISO 4217, of final_payment_amount",
    ("scheduled_payment", "creditor_reference"): "CreditorReference",
    ("scheduled_payment", "debtor_reference"): "DebtorReference",
    ("statement", "credit_line_amount"): "Amount of the credit line",
    ("statement", "credit_line_currency"): "ISO 4217, of credit_line_amount",
    ("balance_history", "seen_at"): "when a sync first saw it",
}
"""Comments of typed columns whose table has none for them; members of the standard by their names."""

INSTANTS: Final[Mapping[tuple[str, str], tuple[str, str]]] = {
    ("account", "opening_date"): ("opened_at", "opening_date"),
    ("balance", "date_time"): ("as_of_bank", "as_of_bank_date"),
    ("balance_history", "date_time"): ("as_of_bank", "as_of_bank_date"),
    ("transaction", "booking_date_time"): ("booked_at", "booking_date"),
}
"""Names of an instant and its date where they are not `X_at` and `X_date` of `X_date_time`."""

OWN_INSTANTS: Final = frozenset({"seen_at"})
"""Instants of ours among typed columns: no date beside them."""

_LIKE: Final[Mapping[str, str]] = {"account_detail": "account"}
"""Tables whose columns are those of another, comments included."""


def comment_of(table: sa.Table, column: str) -> str:
    """What a typed column's comment says; empty: it has none."""
    own = COMMENTS.get((_LIKE.get(table.name, table.name), column), "")
    return own or table.c[column].comment or ""


def _kind(column: sa.Column[Any]) -> Kind | None:
    """`None`: bytes, which no view shows."""
    kinds: Sequence[tuple[type, Kind | None]] = (
        (Instant, Kind.INSTANT), (Money, Kind.AMOUNT), (sa.LargeBinary, None), (sa.Date, Kind.DATE),
        (sa.Boolean, Kind.FLAG), (sa.JSON, Kind.JSON), (sa.Integer, Kind.INTEGER), (sa.String, Kind.TEXT),
    )  # fmt: skip
    return next(kind for type_, kind in kinds if isinstance(column.type, type_))


def _typed(table: sa.Table, alias: str) -> Iterator[ViewColumn]:
    """The typed columns of a table under the names of its view, each with what stands beside it."""
    names = typed_columns(table)
    like = _LIKE.get(table.name, table.name)
    for name in names:
        column, stored, comment = table.c[name], f'{alias}."{name}"', comment_of(table, name)
        source, kind = f"{table.name}.{name}", _kind(table.c[name])
        if kind is Kind.AMOUNT:
            yield from _amounts(_amount_name(name, names), comment, stored, source)
        elif kind is Kind.INSTANT and name not in OWN_INSTANTS:
            at, day = INSTANTS.get((like, name), _instant_names(name))
            yield ViewColumn(at, kind, comment, _same(stored), source, UNITS[kind])
            if day == name or day not in names:
                said_of = f"date of {at} in the UAE"
                yield ViewColumn(day, Kind.DATE, said_of, uae_date_sql(stored), source)
        elif kind is not None:
            yield _plain(name, kind, comment, stored, str(column))


def _plain(name: str, kind: Kind, comment: str, stored: str, source: str) -> ViewColumn:
    return ViewColumn(name, kind, comment, _same(stored), source, UNITS.get(kind, ""))


def _amounts(name: str, comment: str, stored: str, source: str) -> Iterator[ViewColumn]:
    yield ViewColumn(name, Kind.AMOUNT, comment, amount_sql(stored), source, UNITS[Kind.AMOUNT])
    beside = f"{name} as an integer: to add, order and compare"
    yield ViewColumn(f"{name}_e5", Kind.E5, beside, e5_sql(stored), source, UNITS[Kind.E5])


def _amount_name(name: str, names: Sequence[str]) -> str:
    """`amount` is the signed one; what was sent without a sign stands beside it."""
    if name.startswith("signed_"):
        return name.removeprefix("signed_")
    return f"{name}_as_sent" if f"signed_{name}" in names else name


def _instant_names(name: str) -> tuple[str, str]:
    base = name
    for ending in ("_date_time", "_date", "_at"):
        base = base.removesuffix(ending)
    return f"{base}_at", f"{base}_date"


# -- joined for readers ----------------------------------------------------------------------------------------------

READABLE: Final = str(readable()).replace("connection.", "c.")
"""Of a connection `c`: its rows may be read."""

SETTLED: Final = f't."epoch" < (SELECT coalesce(max(e."epoch"), 1) FROM "feed_epoch" e) OR t."txid" < {OLDEST_OPEN}'  # noqa: S608
"""On PostgreSQL: nothing can appear any more before this row `t` of `change`."""


_POSTGRESQL: Final[sa.Dialect] = postgresql.dialect()  # type: ignore[no-untyped-call]
_SQLITE: Final[sa.Dialect] = sqlite.dialect()

CHECKED: Final = ("checked_at", "attempted_at", "due_at", "outcome")
"""What a walk that changed nothing tells of a listing: read by `listing_fact` alone."""


def listing_fact(fact: str, rows: str, account_id: str, resource: str) -> Sql:
    """One of `CHECKED` for the listing a row was read from; looked up by keys for each row that is asked for it.

    The newer of cursor and check counts, as in `store.freshness`.

    Args:
        rows: alias of a table with `tenant` and `connection_id`.
        account_id: the LFI's account id, `''` for none: an expression.
        resource: an expression.
    """
    key = {
        "tenant": f'{rows}."tenant"',
        "connection_id": f'{rows}."connection_id"',
        "account_id": account_id,
        "resource": resource,
    }
    word = {"outcome": "'unchanged'", "due_at": 'n."due_at"'}.get(fact, 'n."at"')
    noted = " AND ".join(f'n."{name}" = {value}' for name, value in key.items())
    mine = " AND ".join(f'k."{name}" = {value}' for name, value in key.items())

    def sql(name: str, dialect: sa.Dialect) -> str:
        those = str(checks(Dialect(name)).element.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
        check = f'SELECT {word} FROM ({those}) n WHERE {noted} AND n."gen" >= k."gen"'  # noqa: S608  constants
        return f'(SELECT coalesce(({check}), k."{fact}") FROM "cursor" k WHERE {mine})'  # noqa: S608

    return {"postgresql": sql("postgresql", _POSTGRESQL), "sqlite": sql("sqlite", _SQLITE)}


def _connection(rows: str) -> str:
    return (
        f'JOIN "connection" c ON c."tenant" = {rows}."tenant" AND c."connection_id" = {rows}."connection_id"'
    )  # fmt: skip


def _reference(rows: str, account_id: str) -> str:
    return (
        f'LEFT JOIN "account_reference" a ON a."tenant" = {rows}."tenant"'
        f' AND a."connection_id" = {rows}."connection_id" AND a."lfi_account_id" = {account_id}'
    )


def _account_shown(rows: str) -> str:
    """The LFI was not proved to show the row's account no more."""
    return (
        f'NOT EXISTS (SELECT 1 FROM "account" g WHERE g."tenant" = {rows}."tenant"'  # noqa: S608  constants
        f' AND g."connection_id" = {rows}."connection_id" AND g."account_id" = \'\''
        f' AND g."key" = {rows}."account_id" AND g."gone_at" IS NOT NULL)'
    )


def _whose(rows: str) -> tuple[ViewColumn, ...]:
    return (
        _plain("connection_id", Kind.TEXT, "root ConsentId of the connection", f'{rows}."connection_id"',
               "connection.connection_id"),
        _plain("user_ref", Kind.TEXT, "your name for the user", 'c."user_ref"', "connection.user_ref"),
        _plain("lfi", Kind.TEXT, "slug of the LFI", 'c."lfi"', "connection.lfi"),
    )  # fmt: skip


def _tenant(rows: str) -> ViewColumn:
    return _plain("tenant", Kind.TEXT, "whose row it is", f'{rows}."tenant"', "tenant")


def _account_id(comment: str = "our id of the account; survives a renewal of the consent") -> ViewColumn:
    return _plain("account_id", Kind.TEXT, comment, 'a."account_id"', "account_reference.account_id")


def _lfi_account_id(stored: str, comment: str = "AccountId, as the LFI names it") -> ViewColumn:
    return _plain("lfi_account_id", Kind.TEXT, comment, stored, "account_reference.lfi_account_id")


def _key(rows: str) -> ViewColumn:
    return _plain("key", Kind.TEXT, "the item's key within the account", f'{rows}."key"', "key")


def _instants(rows: str, **comments: str) -> tuple[ViewColumn, ...]:
    return tuple(
        _plain(name, Kind.INSTANT, comment, f'{rows}."{name}"', name) for name, comment in comments.items()
    )  # fmt: skip


def _checked(rows: str, account_id: str, resource: str) -> ViewColumn:
    sql = listing_fact("checked_at", rows, account_id, resource)
    comment = "when we last saw the listing whole, changed or not; age = now less this"
    return ViewColumn("checked_at", Kind.INSTANT, comment, sql, "cursor.checked_at", UNITS[Kind.INSTANT])


def _frame(rows: str, account_id: str, resource: str) -> tuple[ViewColumn, ...]:
    return (
        *_instants(rows, first_seen_at="when a sync first brought the row", changed_at="when the row last differed"),
        _checked(rows, account_id, resource),
        *_instants(rows, missed_since="a complete walk did not show it, and it is not yet proved gone; NULL: it did"),
    )  # fmt: skip


LIVE: Final = "Rows that the LFI shows: one that went leaves the view, and v_change tells of it."


def _of_account(table: sa.Table, resource: ResourceName, comment: str) -> View:
    """The view of a record table whose rows belong to an account."""
    word = f"'{resource.value}'"
    return View(
        f"v_{table.name}",
        f"{comment}  {LIVE}",
        (
            _tenant("t"),
            ViewColumn("id", Kind.TEXT, "account_id:key", _ordered("a.\"account_id\" || ':' || t.\"key\""),
                       f"account_reference.account_id, {table.name}.key"),
            *_whose("t"),
            _account_id(),
            _lfi_account_id('t."account_id"'),
            _key("t"),
            *_typed(table, "t"),
            *_frame("t", 't."account_id"', word),
        ),
        _same(
            f'"{table.name}" t\n{_connection("t")}\n{_reference("t", _of("t"))}\n'
            f'WHERE t."gone_at" IS NULL AND {READABLE} AND {_account_shown("t")}'
        ),
    )  # fmt: skip


def _of(rows: str) -> str:
    return f'{rows}."account_id"'


def _accounts() -> View:
    account = tables.account
    return View(
        "v_account",
        f"One row per account of a connection.  {LIVE}",
        (
            _tenant("t"),
            ViewColumn("id", Kind.TEXT, "the same as account_id", _ordered('a."account_id"'),
                       "account_reference.account_id"),
            *_whose("t"),
            _account_id("our id of the account; survives a renewal of the consent.  NULL until it is filled in"),
            _lfi_account_id('t."key"'),
            _plain("identity", Kind.TEXT,
                   "the same for every row of one IBAN, joint holders and new connections included; NULL: no IBAN",
                   'a."identity"', "account_reference.identity"),
            *_typed(account, "t"),
            *_frame("t", "''", "'accounts'"),
        ),
        _same(
            f'"account" t\n{_connection("t")}\n{_reference("t", _key_of("t"))}\n'
            f'WHERE t."gone_at" IS NULL AND {READABLE}'
        ),
    )  # fmt: skip


def _key_of(rows: str) -> str:
    return f'{rows}."key"'


def _parties() -> View:
    own = 'CASE WHEN t."account_id" = \'\' THEN t."connection_id" ELSE a."account_id" END || \':\' || t."key"'
    word = "CASE WHEN t.\"account_id\" = '' THEN 'parties' ELSE 'account_parties' END"
    return View(
        "v_party",
        "One row per party: of an account, or of the connection (the user who consented; account_id is NULL)."
        f"  Names are sealed and in no view.  {LIVE}",
        (
            _tenant("t"),
            ViewColumn("id", Kind.TEXT, "account_id:key; of a party of the connection connection_id:key",
                       _ordered(own), "account_reference.account_id, party.connection_id, party.key"),
            *_whose("t"),
            _account_id("our id of the account; NULL: a party of the connection"),
            _lfi_account_id("nullif(t.\"account_id\", '')", "AccountId; NULL: a party of the connection"),
            _key("t"),
            *_typed(tables.party, "t"),
            *_frame("t", 't."account_id"', word),
        ),
        _same(
            f'"party" t\n{_connection("t")}\n{_reference("t", _of("t"))}\n'
            f'WHERE t."gone_at" IS NULL AND {READABLE} AND {_account_shown("t")}'
        ),
    )  # fmt: skip


def _balance_history() -> View:
    table = tables.balance_history
    return View(
        "v_balance_history",
        "One row per balance at each DateTime that a sync saw, the present one included.  Rows stay when the balance"
        " goes.",
        (
            _tenant("t"),
            ViewColumn("id", Kind.TEXT, "account_id:key, as in v_balance; not unique here",
                       _ordered("a.\"account_id\" || ':' || t.\"key\""),
                       "account_reference.account_id, balance_history.key"),
            *_whose("t"),
            _account_id(),
            _lfi_account_id('t."account_id"'),
            _key("t"),
            _plain("type", Kind.TEXT, "Type, as in v_balance", 'b."type"', "balance.type"),
            _plain("currency", Kind.TEXT, "ISO 4217", 'b."currency"', "balance.currency"),
            *_typed(table, "t"),
        ),
        _same(
            f'"balance_history" t\n{_connection("t")}\n{_reference("t", _of("t"))}\n'
            'LEFT JOIN "balance" b ON b."tenant" = t."tenant" AND b."connection_id" = t."connection_id"'
            ' AND b."account_id" = t."account_id" AND b."key" = t."key"\n'
            f'WHERE {READABLE} AND {_account_shown("t")}'
        ),
    )  # fmt: skip


def _identifiers() -> View:
    table = tables.account_identifier
    facts = {
        "scheme": "SchemeName: IBAN, AccountNumber, MaskedPAN …",
        "identification": "Identification; NULL where items are sealed by setting",
        "name": "the account's name under this identifier; NULL where items are sealed by setting",
    }
    return View(
        "v_account_identifier",
        f"One row per identifier of an account.  {LIVE}",
        (
            _tenant("t"),
            *_whose("t"),
            _account_id(),
            _lfi_account_id('t."account_id"'),
            _plain("position", Kind.INTEGER, "place in AccountIdentifiers, from 1", 't."position"',
                   "account_identifier.position"),
            *_chosen(table, "t", facts),
        ),
        _same(
            f'"account_identifier" t\n{_connection("t")}\n{_reference("t", _of("t"))}\n'
            f'WHERE {READABLE} AND {_account_shown("t")}'
        ),
    )  # fmt: skip


# -- consents, connections, listings ---------------------------------------------------------------------------------

_CONNECTION: Final[Mapping[str, str]] = {
    "created_at": "when the connection was made",
    "last_data_at": "when data of it was last received",
    "restricted_at": "set: no consent of it is alive, and the other views show no row of it",
}

_CONSENT: Final[Mapping[str, str]] = {
    "consent_id": "ConsentId",
    "base_consent_id": "BaseConsentId: root of its chain; NULL: it is the root",
    "version": "version of the standard",
    "status": "Status, as last heard",
    "status_updated_at": "StatusUpdateDateTime",
    "status_seen_at": "when we last heard the status",
    "permissions": "Permissions, a list",
    "expires_at": "ExpirationDateTime",
    "from_date": "no transaction booked before it may be read; NULL: no such limit",
    "to_date": "no transaction booked after it may be read; NULL: no such limit",
    "account_types": "AccountType it is narrowed to; NULL: every kind",
    "account_sub_types": "AccountSubType it is narrowed to; NULL: every kind",
    "user_type": "Retail, SME or Corporate",
    "purpose": "Purpose",
    "revoked_by": "RevokedBy",
    "paused_at": "set: paused here, no calls while it is set",
    "needs_consent": "why the user has to consent again; NULL: the grant lives",
    "ended_at": "when we saw it ended: revoked, expired or consumed; NULL: it has not",
    "created_at": "when the consent was made",
}

_LISTING: Final[Mapping[str, str]] = {
    "resource": "accounts, balances, transactions …",
    "checked_at": "when we last saw the listing whole, changed or not; NULL: never",
    "changed_at": "when a walk last found a difference",
    "attempted_at": "when it was last tried, well or not",
    "due_at": "when it is due next",
    "outcome": "how the last attempt ended, a constant word",
    "error": "stable code of the last fault; NULL: none",
    "refused_until": "the LFI refused it: not asked before this",
    "failing_since": "when the fault it has now was met first",
}

_CHANGE: Final[Mapping[str, str]] = {
    "epoch": "place, first part: history of the database; another one after a restore",
    "txid": "place, second part: the writing transaction; 0 on SQLite",
    "seq": "place, third part; unique",
    "resource": "accounts, balances, transactions …",
    "key": "the item's key within the account; of an account the LFI's AccountId",
    "op": "added | modified | removed | backfilled | erased | restricted",
    "previous_status": "Pending, of a transaction that this change booked; NULL: any other change",
    "scope": "of backfilled: history, news, all; of erased: data, personal; NULL: any other change",
    "at": "when it was written",
}

LEFT_OUT: Final[Mapping[str, Mapping[str, str]]] = {
    "connection": {},
    "consent": {
        "on_behalf_of": "of whom the TPP acts; in the consent itself",
        "made_in": "of imports alone",
        "revoke_asked_at": "work in hand",
        "revoke_by": "work in hand",
        "compared_at": "work in hand",
        "drift": "work in hand",
        "webhook_active": "work in hand",
        "webhook_wanted": "work in hand",
        "raw": "as sent",
    },
    "cursor": dict.fromkeys(
        ("pages", "window_from", "high_water", "open_since", "first_available", "deep_at",
         "empty_slices", "backfill_due_at", "attempts", "gen", "look_again_at"),
        "how the next walk is planned",
    ),
    "change": {"gen": "generation of the claim that wrote it"},
}  # fmt: skip
"""Columns of these tables that no view shows, and why: a new column is in one of the lists."""

_UAE_DATED: Final = frozenset({"expires_at"})


def _chosen(table: sa.Table, alias: str, comments: Mapping[str, str]) -> Iterator[ViewColumn]:
    for name, comment in comments.items():
        kind = _kind(table.c[name])
        assert kind is not None
        yield _plain(name, kind, comment, f'{alias}."{name}"', f"{table.name}.{name}")
        if name in _UAE_DATED:
            day = name.removesuffix("_at") + "_date"
            stored = f'{alias}."{name}"'
            yield ViewColumn(day, Kind.DATE, f"date of {name} in the UAE", uae_date_sql(stored), f"{table.name}.{name}")


def _connections() -> View:
    return View(
        "v_connection",
        "One row per connection: a user at an LFI, through all consents of one chain.  Those that are restricted too.",
        (_tenant("c"), *_whose("c"), *_chosen(tables.connection, "c", _CONNECTION)),
        _same('"connection" c'),
    )


def _consents() -> View:
    return View(
        "v_consent",
        "One row per consent, those that ended too.",
        (_tenant("t"), *_whose("t"), *_chosen(tables.consent, "t", _CONSENT)),
        _same(f'"consent" t\n{_connection("t")}'),
    )


def _listings() -> View:
    covered = (
        '(SELECT nullif(w."from_date", \'0001-01-01\') FROM "coverage" w WHERE w."tenant" = t."tenant"'
        ' AND w."connection_id" = t."connection_id" AND w."account_id" = t."account_id"'
        ' AND w."resource" = t."resource" ORDER BY w."to_date" DESC, w."from_date" LIMIT 1)'
    )
    return View(
        "v_listing",
        "One row per listing, as the transactions of an account: when it was last seen whole, and how far back.",
        (
            _tenant("t"),
            *_whose("t"),
            _account_id("our id of the account; NULL: a listing of the connection"),
            _lfi_account_id("nullif(t.\"account_id\", '')", "AccountId; NULL: a listing of the connection"),
            *(
                replace(one, sql=listing_fact(one.name, "t", _of("t"), 't."resource"')) if one.name in CHECKED else one
                for one in _chosen(tables.cursor, "t", _LISTING)
            ),
            _plain("complete_from", Kind.DATE, "rows are complete from this date in the UAE on; NULL: no lower end,"
                   " or never seen whole", covered, "coverage.from_date"),
            ViewColumn("history_complete", Kind.FLAG, "the backfill is over: all history that is wanted is there",
                       _same('(t."backfilled_to" IS NOT NULL)'), "cursor.backfilled_to"),
        ),
        _same(f'"cursor" t\n{_connection("t")}\n{_reference("t", _of("t"))}\nWHERE {READABLE}'),
    )  # fmt: skip


def _changes() -> View:
    account = 'CASE WHEN t."resource" = \'accounts\' THEN t."key" ELSE t."account_id" END'
    own = (
        'CASE WHEN t."key" = \'\' THEN NULL WHEN t."resource" = \'accounts\' THEN a."account_id"'
        ' WHEN t."account_id" = \'\' THEN t."connection_id" || \':\' || t."key"'
        ' ELSE a."account_id" || \':\' || t."key" END'
    )
    chosen = {one.name: one for one in _chosen(tables.change, "t", _CHANGE)}
    joined = (
        f'"change" t\n{_connection("t")}\n{_reference("t", account)}\n'
        f"WHERE ({READABLE} OR t.\"op\" IN ('restricted', 'erased'))"
    )
    return View(
        "v_change",
        "One row per change, in the order (epoch, txid, seq).  Settled rows alone: it ends before the oldest"
        " transaction still open, so a reader that goes on behind the last row it saw misses none.  backfilled stands"
        " for many rows of a listing: those with first_seen_at = at, or all of them where scope is all.",
        (
            _tenant("t"),
            chosen["epoch"],
            chosen["txid"],
            chosen["seq"],
            chosen["op"],
            chosen["resource"],
            ViewColumn("id", Kind.TEXT, "id of the row in its view; NULL: the change is none of a single row",
                       _ordered(own), "account_reference.account_id, change.key"),
            *_whose("t"),
            _account_id("our id of the account; NULL: none"),
            _lfi_account_id(f"nullif({account}, '')", "AccountId; NULL: none"),
            chosen["key"],
            chosen["previous_status"],
            chosen["scope"],
            chosen["at"],
        ),
        {"postgresql": f"{joined} AND ({SETTLED})", "sqlite": joined},
    )  # fmt: skip


N = ResourceName
VIEWS: Final[tuple[View, ...]] = (
    _connections(),
    _consents(),
    _accounts(),
    _identifiers(),
    _of_account(tables.balance, N.BALANCES, "One row per balance of an account, by Type and Currency."),
    _balance_history(),
    _of_account(tables.transaction, N.TRANSACTIONS, "One row per transaction."),
    _parties(),
    _of_account(tables.beneficiary, N.BENEFICIARIES, "One row per beneficiary."),
    _of_account(tables.direct_debit, N.DIRECT_DEBITS, "One row per direct debit."),
    _of_account(tables.standing_order, N.STANDING_ORDERS, "One row per standing order."),
    _of_account(tables.scheduled_payment, N.SCHEDULED_PAYMENTS, "One row per scheduled payment."),
    _of_account(tables.statement, N.STATEMENTS, "One row per statement."),
    _of_account(tables.product, N.PRODUCT, "One row per product of an account."),
    _of_account(
        tables.account_detail, N.ACCOUNT,
        "One row per account that was read by itself as well (resource `account`, off by default).",
    ),
    _listings(),
    _changes(),
)  # fmt: skip
"""All of them, in the order they are made and documented."""

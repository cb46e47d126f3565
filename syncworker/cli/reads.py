"""`syncworker balances`, `accounts`, `transactions` and every other list: what banks showed, in a terminal.

The rows, names and sums are those of the HTTP API and of the views; a table shows the columns that fit.  Who people are
is hidden unless `--personal` is given, since a terminal has no key with scopes.
"""

import csv
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Final

import typer

from syncworker.cli import frame, show
from syncworker.errors import RequestError
from syncworker.standard.calendar import read_day
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.views import questions
from syncworker.views.freshness import Freshness
from syncworker.views.questions import LISTINGS, Order, TransactionFilter, Whose

Who = Annotated[
    str | None, typer.Argument(help="A user_ref, a connection id or an account id (acc_…); without it everyone.")
]
Personal = Annotated[bool, typer.Option("--personal", help="Show who people are: names, account numbers, references.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV with every column.")]
Limit = Annotated[int, typer.Option(min=1, max=500, help="Rows of a page.")]
Cursor = Annotated[str | None, typer.Option(help="Go on from here: `next_cursor` of the page before.")]

COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "accounts": ("account_id", "user_ref", "lfi", "account_type", "account_sub_type", "currency", "status"),
    "balances": ("account_id", "lfi", "type", "amount", "currency", "as_of_bank"),
    "transactions": ("booking_date", "amount", "currency", "status", "merchant_name", "transaction_type", "account_id"),
    "beneficiaries": ("account_id", "beneficiary_type", "added_via_of"),
    "direct_debits": ("account_id", "status", "frequency", "previous_payment_date", "previous_payment_amount"),
    "standing_orders": ("account_id", "status", "frequency", "next_payment_date", "next_payment_amount"),
    "scheduled_payments": ("account_id", "scheduled_type", "scheduled_payment_date", "amount", "currency"),
    "statements": ("account_id", "statement_date", "opening_balance", "closing_balance", "closing_currency"),
    "products": ("account_id", "sharia_structure", "is_secured"),
    "parties": ("connection_id", "account_id", "party_type", "party_category", "account_role"),
}
"""Columns of each list's table on the screen; `--json` and `--csv` have all of them."""

FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet would run."""


def accounts(
    who: Who = None, limit: Limit = 50, cursor: Cursor = None, personal: Personal = False, as_csv: AsCsv = False,
    as_json: frame.AsJson = False,
) -> None:  # fmt: skip
    """Accounts, with how fresh each of their listings is."""
    _list("accounts", who, limit=limit, cursor=cursor, personal=personal, as_csv=as_csv, as_json=as_json)


def balances(who: Who = None, as_csv: AsCsv = False, as_json: frame.AsJson = False) -> None:
    """The latest balances of a customer, connection or account, and their sums by type and currency."""
    if who is None:
        raise RequestError("who: give a user_ref, a connection id or an account id: balances are added up for one")

    async def read(unit: UnitOfWork) -> questions.Balances:
        whose = await whose_of(unit, who)
        return await questions.balances(unit, whose, cadence=frame.settings().cadence.as_mapping())

    found = _read(read)
    rows = [questions.shown("v_balance", row, personal=True) for row in found.page.rows]
    totals = [
        {
            "type": one.type,
            "currency": one.currency,
            "amount": one.amount,
            "accounts": one.accounts,
            "missing": one.missing,
            "stale": one.stale,
        }
        for one in found.totals
    ]
    if as_json:
        show.value({"balances": rows, "totals": totals, "freshness": _fresh(found.page.freshness)})
    elif as_csv:
        _csv(rows)
    else:
        title, empty = f"balances of {who}", "no balance: `syncworker consents list` shows whether a sync has run"
        show.rows(_fitting("balances", rows), as_json=False, title=title, empty=empty)
        show.rows(totals, as_json=False, title="sums", empty="")
        _say_freshness(found.page.freshness)


def transactions(
    who: Who = None,
    from_: Annotated[str | None, typer.Option("--from", help="First booking date in the UAE: 2026-11-30.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="Last booking date in the UAE, inclusive.")] = None,
    status: Annotated[str | None, typer.Option(help="Booked, Pending …")] = None,
    direction: Annotated[str | None, typer.Option(help="Credit or Debit.")] = None,
    at_least: Annotated[str | None, typer.Option("--min", help="Smallest signed amount.")] = None,
    at_most: Annotated[str | None, typer.Option("--max", help="Largest signed amount.")] = None,
    currency: Annotated[str | None, typer.Option(help="ISO 4217.")] = None,
    order: Annotated[Order, typer.Option(help="newest, or id for a copy that goes on.")] = Order.NEWEST,
    limit: Limit = 50,
    cursor: Cursor = None,
    personal: Personal = False,
    as_csv: AsCsv = False,
    as_json: frame.AsJson = False,
) -> None:
    """Transactions, newest first."""
    wanted = TransactionFilter(
        from_date=_day("from", from_), to_date=_day("to", to), status=status, direction=direction,
        amount_min=_amount("min", at_least), amount_max=_amount("max", at_most), currency=currency,
    )  # fmt: skip
    _list(
        "transactions", who, limit=limit, cursor=cursor, personal=personal, as_csv=as_csv, as_json=as_json,
        where=wanted.conditions(personal=personal), order=order,
    )  # fmt: skip


def _of(name: str, words: str) -> Callable[..., None]:
    def command(
        who: Who = None, limit: Limit = 50, cursor: Cursor = None, personal: Personal = False, as_csv: AsCsv = False,
        as_json: frame.AsJson = False,
    ) -> None:  # fmt: skip
        _list(name, who, limit=limit, cursor=cursor, personal=personal, as_csv=as_csv, as_json=as_json)

    command.__doc__ = f"{words}."
    return command


beneficiaries = _of("beneficiaries", "Beneficiaries")
direct_debits = _of("direct_debits", "Direct debits")
standing_orders = _of("standing_orders", "Standing orders")
scheduled_payments = _of("scheduled_payments", "Scheduled payments")
statements = _of("statements", "Statements")
products = _of("products", "Products of accounts")
parties = _of("parties", "Parties of connections and accounts")


async def whose_of(unit: UnitOfWork, who: str) -> Whose:
    """Whom a word on the command line means: an account, a connection or a customer.

    Raises:
        RequestError: none of them has it.
    """
    if await unit.reads.connection_of_account(who) is not None:
        return Whose(account_id=who)
    if await unit.reads.connections(connection_id=who, limit=1):
        return Whose(connection_id=who)
    if await unit.reads.connections(user_ref=who, limit=1):
        return Whose(user_ref=who)
    raise RequestError(
        "who: is no account id, connection id or user_ref that is held;"
        " `syncworker consents list` shows those there are"
    )


def _list(
    name: str,
    who: str | None,
    *,
    limit: int,
    cursor: str | None,
    personal: bool,
    as_csv: bool,
    as_json: bool,
    where: Sequence[Any] = (),
    order: Order = Order.ID,
) -> None:
    listing = LISTINGS[name]

    async def read(unit: UnitOfWork) -> questions.Page:
        whose = Whose() if who is None else await whose_of(unit, who)
        return await questions.page(
            unit, listing, whose, cadence=frame.settings().cadence.as_mapping(), where=where, order=order,
            cursor=cursor, limit=limit,
        )  # fmt: skip

    found = _read(read)
    rows = [questions.shown(listing.view, row, personal=personal) for row in found.rows]
    if as_json:
        show.value({name: rows, "next_cursor": found.next_cursor, "freshness": _fresh(found.freshness)})
        return
    if as_csv:
        _csv(rows)
    else:
        words = name.replace("_", " ")
        title = words if who is None else f"{words} of {who}"
        show.rows(_fitting(name, rows), as_json=False, title=title, empty=f"no {words}")
        _say_freshness(found.freshness)
    if found.next_cursor is not None:
        show.say(f"more: --cursor {found.next_cursor}")


def _read(work: Callable[[UnitOfWork], Awaitable[Any]]) -> Any:
    async def inside(store: Store) -> Any:
        async with store.reading() as unit:
            return await work(unit)

    return frame.with_store(inside)


def _fitting(name: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{column: row[column] for column in COLUMNS[name]} for row in rows]


def _fresh(known: Mapping[str, Mapping[str, Freshness]]) -> dict[str, Any]:
    return {place: {name: one.as_json() for name, one in those.items()} for place, those in known.items()}


def _say_freshness(known: Mapping[str, Mapping[str, Freshness]]) -> None:
    """One line for all that is fresh, and one for each reason that something is not."""
    ages, reasons = [], dict[str, int]()
    for those in known.values():
        for one in those.values():
            if one.stale_reason is not None:
                reasons[one.stale_reason.value] = reasons.get(one.stale_reason.value, 0) + 1
            elif one.age_seconds is not None:
                ages.append(one.age_seconds)
    if ages:
        show.say(f"fresh: {len(ages)} listings, the oldest checked {max(ages)} s ago")
    for reason, count in sorted(reasons.items()):
        show.say(f"stale ({reason}): {count} listings")


def _csv(rows: Sequence[Mapping[str, Any]]) -> None:
    """Every column; a text that a spreadsheet would run as a formula is written behind an apostrophe."""
    if not rows:
        return
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(rows[0])
    for row in rows:
        out.writerow([_cell(value) for value in row.values()])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(FORMULA) else value
    return show.cell(value)


def _day(name: str, text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return read_day(text)
    except ValueError:
        raise RequestError(f"{name}: is no date; write it as 2026-11-30") from None


def _amount(name: str, text: str | None) -> Decimal | None:
    if text is None:
        return None
    try:
        found = Decimal(text)
    except InvalidOperation:
        found = Decimal("NaN")
    if not found.is_finite():
        raise RequestError(f"{name}: is no amount; write it as -120.50")
    return found

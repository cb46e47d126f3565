"""`syncworker balances`, `accounts`, `transactions` and every other list: what banks showed, in a terminal.

The rows, names and sums are those of the HTTP API and of the views; a table shows the columns that fit.  Who people are
is hidden unless `--personal` is given, since a terminal has no key with scopes.
"""

import csv
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from syncworker.cli import frame, show
from syncworker.errors import RequestError
from syncworker.standard.calendar import fault_of_day, read_day
from syncworker.standard.json_text import instant_text, json_bytes
from syncworker.standard.values import read_instant
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.views import past, questions
from syncworker.views.freshness import Freshness
from syncworker.views.questions import LIMIT, LISTINGS, Order, TransactionFilter, Whose

Who = Annotated[
    str | None, typer.Argument(help="A user_ref, a connection id or an account id (acc_…); without it everyone.")
]
Lfi = Annotated[str | None, typer.Option("--lfi", help="Slug of the LFI: of this one alone.")]
Personal = Annotated[
    bool,
    typer.Option(
        "--personal",
        help="Show who people are: names, account numbers, references; without it they are null or masked.",
    ),
]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV with every column.")]
Limit = Annotated[
    int | None,
    typer.Option(
        min=1, help="Rows of a page: 50, with --all as many as there may be; at most 200, of transactions 500."
    ),
]
Cursor = Annotated[str | None, typer.Option(help="Go on from here: `next_cursor` of the page before.")]
Every = Annotated[bool, typer.Option("--all", help="Print every page, one after the other; JSON: one a line.")]
AsOf = Annotated[
    str | None, typer.Option("--as-of", help="What was known at this instant, of WHO: 2026-11-30T08:00:00Z.")
]


class Direction(StrEnum):
    """Which way money went."""

    CREDIT = "Credit"
    DEBIT = "Debit"


COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "accounts": (
        "account_id",
        "user_ref",
        "lfi",
        "account_type",
        "account_sub_type",
        "currency",
        "status",
        "identifiers",
    ),
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

PERSONAL: Final[Mapping[str, tuple[str, ...]]] = {
    "accounts": ("holder_name",),
    "transactions": ("counterparty_name", "transaction_information"),
    "beneficiaries": ("holder_name", "creditor_identification"),
    "direct_debits": ("name",),
    "standing_orders": ("holder_name", "creditor_identification"),
    "scheduled_payments": ("holder_name", "creditor_identification"),
}
"""Columns that the table has besides with `--personal`."""

FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
"""How a cell begins that a spreadsheet would run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How a list is printed, and from where on.

    Attributes:
        every: all pages, not one alone.
    """

    lfi: str | None
    limit: int | None
    cursor: str | None
    every: bool
    personal: bool
    as_csv: bool
    as_json: bool
    as_of: datetime | None = None


def accounts(
    who: Who = None, lfi: Lfi = None, limit: Limit = None, cursor: Cursor = None, every: Every = False,
    as_of: AsOf = None, personal: Personal = False, as_csv: AsCsv = False, as_json: frame.AsJson = False,
) -> None:  # fmt: skip
    """Accounts, with how fresh each of their listings is."""
    _list("accounts", who, Shape(
        lfi=lfi, limit=limit, cursor=cursor, every=every, personal=personal, as_csv=as_csv, as_json=as_json,
        as_of=_instant("as-of", as_of),
    ))  # fmt: skip


def balances(
    who: Who = None, lfi: Lfi = None, as_of: AsOf = None, as_csv: AsCsv = False, as_json: frame.AsJson = False
) -> None:
    """The latest balances of a customer, connection or account, and their sums by type and currency."""
    if who is None:
        raise RequestError("who: give a user_ref, a connection id or an account id: balances are added up for one")
    _check_form(as_csv=as_csv, as_json=as_json)
    at, config = _instant("as-of", as_of), frame.settings()

    async def read(unit: UnitOfWork) -> questions.Balances:
        whose = await whose_of(unit, who, lfi=lfi)
        if at is None:
            return await questions.balances(unit, whose, targets=config.targets())
        return await past.balances(unit, whose, at=at)

    found: questions.Balances = _read(read)
    rows = [questions.shown("v_balance", row, personal=False) for row in found.page.rows]  # no column tells who it is
    totals = [asdict(one) for one in found.totals]
    if as_json:
        show.value({"balances": rows, "totals": totals, **_about(found.page)})
    elif as_csv:
        _csv("balances", rows)
    else:
        title, empty = f"balances of {who}", "no balance: `syncworker consents list` shows whether a sync has run"
        show.rows(_fitting("balances", rows, personal=False), as_json=False, title=title, empty=empty)
        if totals:
            show.rows(totals, as_json=False, title="sums", empty="")
        _say_freshness(found.page.freshness)
    _say_left_out(who, found.page, as_json=as_json)


def transactions(
    who: Who = None,
    lfi: Lfi = None,
    from_: Annotated[str | None, typer.Option("--from", help="First booking date in the UAE: 2026-11-30.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="Last booking date in the UAE, inclusive.")] = None,
    status: Annotated[str | None, typer.Option(help="Booked, Pending …")] = None,
    direction: Annotated[Direction | None, typer.Option(help="Which way money went.")] = None,
    at_least: Annotated[str | None, typer.Option("--min", help="Smallest signed amount.")] = None,
    at_most: Annotated[str | None, typer.Option("--max", help="Largest signed amount.")] = None,
    currency: Annotated[str | None, typer.Option(help="ISO 4217.")] = None,
    text: Annotated[
        str | None,
        typer.Option(
            help="Part of the merchant's name; with --personal of the information and the counterparty's name too."
        ),
    ] = None,
    order: Annotated[Order, typer.Option(help="newest, or id for a copy that goes on.")] = Order.NEWEST,
    limit: Limit = None,
    cursor: Cursor = None,
    every: Every = False,
    as_of: AsOf = None,
    personal: Personal = False,
    as_csv: AsCsv = False,
    as_json: frame.AsJson = False,
) -> None:
    """Transactions, newest first."""
    wanted = TransactionFilter(
        from_date=_day("from", from_), to_date=_day("to", to), status=status,
        direction=None if direction is None else direction.value, amount_min=_amount("min", at_least),
        amount_max=_amount("max", at_most), currency=currency, text=text,
    )  # fmt: skip
    shape = Shape(
        lfi=lfi, limit=limit, cursor=cursor, every=every, personal=personal, as_csv=as_csv, as_json=as_json,
        as_of=_instant("as-of", as_of),
    )  # fmt: skip
    _list("transactions", who, shape, where=wanted.conditions(personal=personal), order=order)


def _of(name: str, words: str) -> Callable[..., None]:
    def command(
        who: Who = None, lfi: Lfi = None, limit: Limit = None, cursor: Cursor = None, every: Every = False,
        personal: Personal = False, as_csv: AsCsv = False, as_json: frame.AsJson = False,
    ) -> None:  # fmt: skip
        _list(name, who, Shape(
            lfi=lfi, limit=limit, cursor=cursor, every=every, personal=personal, as_csv=as_csv, as_json=as_json,
        ))  # fmt: skip

    command.__doc__ = f"{words}."
    return command


beneficiaries = _of("beneficiaries", "Beneficiaries")
direct_debits = _of("direct_debits", "Direct debits")
standing_orders = _of("standing_orders", "Standing orders")
scheduled_payments = _of("scheduled_payments", "Scheduled payments")
statements = _of("statements", "Statements")
products = _of("products", "Products of accounts")
parties = _of("parties", "Parties of connections and accounts")


async def whose_of(unit: UnitOfWork, who: str, *, lfi: str | None = None) -> Whose:
    """Whom a word on the command line means: an account, a connection or a customer.

    Raises:
        RequestError: none of them has it.
    """
    if await unit.reads.connection_of_account(who) is not None:
        return Whose(account_id=who, lfi=lfi)
    if await unit.reads.connections(connection_id=who, limit=1):
        return Whose(connection_id=who, lfi=lfi)
    if await unit.reads.connections(user_ref=who, limit=1):
        return Whose(user_ref=who, lfi=lfi)
    raise RequestError(
        "who: is no account id, connection id or user_ref that is held;"
        " `syncworker consents list` shows those there are"
    )


def _list(
    name: str, who: str | None, shape: Shape, *, where: Sequence[Any] = (), order: Order = Order.ID
) -> None:  # fmt: skip
    listing, cursor, first = LISTINGS[name], shape.cursor, True
    _check_form(as_csv=shape.as_csv, as_json=shape.as_json)
    limit = shape.limit or (listing.limit_max if shape.every else LIMIT)
    if limit > listing.limit_max:
        raise RequestError(f"limit: is more than {listing.limit_max}; give less, or --all for every page")
    if shape.as_of is not None and who is None:
        raise RequestError("who: give a user_ref, a connection id or an account id with --as-of")
    targets = frame.settings().targets()
    numbers = name == "accounts"

    async def read(unit: UnitOfWork) -> tuple[list[dict[str, Any]], questions.Page]:
        whose = Whose(lfi=shape.lfi) if who is None else await whose_of(unit, who, lfi=shape.lfi)
        if shape.as_of is None:
            page = await questions.page(
                unit, listing, whose, targets=targets, where=where, order=order, cursor=cursor, limit=limit
            )
        else:
            page = await past.page(
                unit, listing, whose, at=shape.as_of, where=where, order=order, cursor=cursor, limit=limit
            )
        return await questions.shown_rows(unit, listing, page.rows, personal=shape.personal), page

    while True:
        rows, found = _read(read, sealed=numbers)
        _print(name, who, shape, rows, found, first=first)
        if first:
            _say_left_out(who, found, as_json=shape.as_json)
        cursor, first = found.next_cursor, False
        if cursor is None:
            return
        if not shape.every:
            if not shape.as_json:
                show.say(f"more: --cursor {cursor}")
            return


def _print(
    name: str, who: str | None, shape: Shape, rows: Sequence[dict[str, Any]], found: questions.Page, *, first: bool
) -> None:
    if shape.as_json:
        show.value({name: rows, "next_cursor": found.next_cursor, **_about(found)})
    elif shape.as_csv:
        _csv(name, rows, header=first)
    else:
        words = name.replace("_", " ")
        title = words if who is None else f"{words} of {who}"
        show.rows(_fitting(name, rows, personal=shape.personal), as_json=False, title=title, empty=f"no {words}")
        _say_freshness(found.freshness)


def _read(work: Callable[[UnitOfWork], Awaitable[Any]], *, sealed: bool = False) -> Any:
    async def inside(store: Store) -> Any:
        async with store.reading() as unit:
            return await work(unit)

    return frame.with_store(inside, sealed=sealed)


def _fitting(name: str, rows: Sequence[Mapping[str, Any]], *, personal: bool) -> list[dict[str, Any]]:
    columns = (*COLUMNS[name], *(PERSONAL.get(name, ()) if personal else ()))
    return [{column: _fits(column, row[column]) for column in columns} for row in rows]


def _fits(column: str, value: Any) -> Any:
    if column == "identifiers" and value is not None:
        return ", ".join(f"{one['scheme']} {one['identification']}" for one in value)
    return value


def _about(page: questions.Page) -> dict[str, Any]:
    """What JSON says of a page beside its rows."""
    fresh = {place: {name: one.as_json() for name, one in those.items()} for place, those in page.freshness.items()}
    return {"left_out": [one.as_json() for one in page.left_out], "freshness": fresh}


def _say_left_out(who: str | None, page: questions.Page, *, as_json: bool) -> None:
    """That rows are held back: an empty list would say that there are none.  On stderr, so that CSV stays CSV."""
    count = len(page.left_out)
    if as_json or not count:
        return
    ended = show.cell(max(one.since for one in page.left_out))
    if count == 1:
        show.say(f"1 connection of {who} is restricted: its consent ended ({ended}); its rows are held back")
    else:
        said = f"{count} connections of {who} are restricted: their consents ended (the last {ended})"
        show.say(f"{said}; their rows are held back")


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
        oldest = show.span(timedelta(seconds=max(ages)))
        show.say(f"fresh: {len(ages)} listings, the oldest checked {oldest} ago")
    for reason, count in sorted(reasons.items()):
        show.say(f"stale ({reason}): {count} listings")


def _csv(name: str, rows: Sequence[Mapping[str, Any]], *, header: bool = True) -> None:
    """Every column; a text that a spreadsheet would run as a formula is written behind an apostrophe."""
    out = csv.writer(sys.stdout, lineterminator="\n")
    if header:
        out.writerow([*questions.members(LISTINGS[name].view), *(["identifiers"] if name == "accounts" else [])])
    for row in rows:
        out.writerow([_cell(value) for value in row.values()])


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case str():
            return f"'{value}" if value.startswith(FORMULA) else value
        case bool():
            return "true" if value else "false"
        case datetime():
            return instant_text(value)
        case list() | dict():  # JSON begins with a bracket: no spreadsheet runs what is inside
            return json_bytes(value).decode()
    return str(value)


def _check_form(*, as_csv: bool, as_json: bool) -> None:
    if as_csv and as_json:
        raise RequestError("csv: is given with --json; give one of them")


def _day(name: str, text: str | None) -> date | None:
    if text is None:
        return None
    try:
        day = read_day(text)
    except ValueError:
        raise RequestError(f"{name}: is no date; write it as 2026-11-30") from None
    if fault := fault_of_day(day):
        raise RequestError(f"{name}: {fault}")
    return day


def _instant(name: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment, _ = read_instant(text)
    except ValueError:
        raise RequestError(f"{name}: is no instant; write it as 2026-11-30T08:00:00Z") from None
    return moment


def _amount(name: str, text: str | None) -> Decimal | None:
    if text is None:
        return None
    try:
        found = Decimal(text)
    except InvalidOperation:
        found = Decimal("NaN")
    if not found.is_finite():
        raise RequestError(f"{name}: is no amount; write it as -120.50")
    questions.as_e5(found, name)  # refuses digits that no amount has, by the option's name
    return found

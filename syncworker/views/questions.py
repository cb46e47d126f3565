"""The questions readers ask, each defined once: what is read, in which order, filtered by what, and how it is shown.

Names of lists, filters and members are the API's, the commands' and the exports' alike.  Rows are rows of the views;
a row is shown without `tenant`, `key` and the integer twins of amounts, which are for SQL.  Without leave to see
personal data, what says who people are is null and account numbers are masked (`shown`).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from syncworker.errors import RequestError
from syncworker.schedule.breaker import standing
from syncworker.standard.consents import Status
from syncworker.standard.operations import OperationClass
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import Slug
from syncworker.store.connections import masked_iban
from syncworker.store.reads import BY_NAME, By, Condition, Containing, Is, Question, column_kinds
from syncworker.store.sql_views import Kind
from syncworker.store.unit_of_work import UnitOfWork
from syncworker.views.freshness import ConnectionState, Freshness, freshness
from syncworker.views.pages import cursor_text, filter_digest, read_cursor

Cadence = Mapping[ResourceName, timedelta]

N = ResourceName
LIMIT: Final = 50
LIMIT_MAX: Final = 200
TRANSACTIONS_MAX: Final = 500
BALANCES_MAX: Final = 5_000
"""Balances of one answer: they are added up, so they come together."""


class Order(StrEnum):
    """How a list is sorted."""

    ID = "id"
    NEWEST = "newest"


class RestrictedError(RequestError):
    """The connection's consent ended, and its rows may not be read."""

    code = "restricted"


class UnknownError(RequestError):
    """There is no such connection or account."""

    code = "not_found"


@dataclass(frozen=True, slots=True)
class Listing:
    """One list that can be read.

    Attributes:
        name: of the list, in paths and answers.
        view: it reads.
        resource: whose freshness it has; `None`: none of the catalogue.
        newest: column that says what is newest; `None`: it has no such order.
        text: columns that a text filter looks through.
    """

    name: str
    view: str
    resource: ResourceName | None = None
    newest: str | None = None
    text: tuple[str, ...] = ()
    limit_max: int = LIMIT_MAX


LISTINGS: Final[Mapping[str, Listing]] = {
    one.name: one
    for one in (
        Listing("accounts", "v_account", N.ACCOUNTS),
        Listing("balances", "v_balance", N.BALANCES),
        Listing("balance_history", "v_balance_history", N.BALANCES, newest="as_of_bank"),
        Listing(
            "transactions",
            "v_transaction",
            N.TRANSACTIONS,
            newest="booked_at",
            text=("transaction_information", "merchant_name", "counterparty_name"),
            limit_max=TRANSACTIONS_MAX,
        ),
        Listing("beneficiaries", "v_beneficiary", N.BENEFICIARIES),
        Listing("direct_debits", "v_direct_debit", N.DIRECT_DEBITS),
        Listing("standing_orders", "v_standing_order", N.STANDING_ORDERS),
        Listing("scheduled_payments", "v_scheduled_payment", N.SCHEDULED_PAYMENTS),
        Listing("statements", "v_statement", N.STATEMENTS, newest="statement_date"),
        Listing("products", "v_product", N.PRODUCT),
        Listing("parties", "v_party", N.PARTIES),
    )
}
"""Every list, by name."""

HIDDEN: Final = frozenset({"tenant", "key"})
"""Columns of the views that rows are not shown with; `…_e5` beside them."""

PERSONAL: Final[Mapping[str, frozenset[str]]] = {
    "v_account": frozenset({"nickname"}),
    "v_transaction": frozenset({"counterparty_name", "transaction_information", "transaction_reference"}),
    "v_beneficiary": frozenset({"reference"}),
    "v_direct_debit": frozenset({"mandate_identification"}),
}
"""Columns that tell who people are; shown with the scope `data:personal` alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whose:
    """Whose rows are asked for; what is not given limits nothing."""

    user_ref: str | None = None
    connection_id: str | None = None
    account_id: str | None = None
    lfi: str | None = None

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """As conditions on a view's columns."""
        given = {
            "user_ref": self.user_ref,
            "connection_id": self.connection_id,
            "account_id": self.account_id,
            "lfi": self.lfi,
        }
        return tuple(Condition(name, Is.EQUAL, value) for name, value in given.items() if value is not None)

    @property
    def narrow(self) -> bool:
        """Whether they are of one customer, connection or account."""
        return any(one is not None for one in (self.user_ref, self.connection_id, self.account_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionFilter:
    """Which transactions.

    Attributes:
        from_date, to_date: local booking dates in the UAE, inclusive.
        status: as the standard writes it.
        direction: `Credit` or `Debit`.
        amount_min, amount_max: signed, inclusive.
        text: part of information, merchant or counterparty.
    """

    from_date: date | None = None
    to_date: date | None = None
    status: str | None = None
    direction: str | None = None
    amount_min: Decimal | None = None
    amount_max: Decimal | None = None
    currency: str | None = None
    text: str | None = None

    @property
    def conditions(self) -> tuple[Condition | Containing, ...]:
        """As conditions on the columns of `v_transaction`."""
        amounts = {
            "amount_min": None if self.amount_min is None else as_e5(self.amount_min, "amount_min"),
            "amount_max": None if self.amount_max is None else as_e5(self.amount_max, "amount_max"),
        }
        found: list[Condition | Containing] = [
            Condition(column, how, value)
            for column, how, value in (
                ("booking_date", Is.AT_LEAST, self.from_date),
                ("booking_date", Is.AT_MOST, self.to_date),
                ("status", Is.EQUAL, self.status),
                ("credit_debit_indicator", Is.EQUAL, self.direction),
                ("amount_e5", Is.AT_LEAST, amounts["amount_min"]),
                ("amount_e5", Is.AT_MOST, amounts["amount_max"]),
                ("currency", Is.EQUAL, self.currency),
            )
            if value is not None
        ]
        if self.text is not None:
            found.append(Containing(LISTINGS["transactions"].text, self.text))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list.

    Attributes:
        rows: as the view has them.
        next_cursor: `None` at the end.
        freshness: of what is shown: by account id (a connection's own listings by its id), then by resource.
    """

    rows: Sequence[Mapping[str, Any]] = field(repr=False)
    next_cursor: str | None
    freshness: Mapping[str, Mapping[str, Freshness]]


@dataclass(frozen=True, slots=True)
class Total:
    """Balances of one type and currency, added up.

    Attributes:
        accounts: in the sum.
        missing: accounts asked for that have no such balance, or one without a sign.
        stale: accounts in the sum whose balances are older than they should be.
    """

    type: str
    currency: str
    amount: Decimal
    accounts: int
    missing: int
    stale: int


def as_e5(amount: Decimal, name: str) -> int:
    """An amount as an integer of 1/100,000.

    Raises:
        RequestError: it has more digits than an amount has.
    """
    scaled = amount.scaleb(5)
    if not amount.is_finite() or scaled != scaled.to_integral_value() or abs(scaled) >= 2**63:
        raise RequestError(f"{name}: has more digits than an amount has; give at most five behind the point")
    return int(scaled)


async def check(unit: UnitOfWork, whose: Whose) -> None:
    """Make sure that what is asked for by id is there and may be read.

    Raises:
        UnknownError: there is no such connection or account.
        RestrictedError: its consent ended.
    """
    connection_id = whose.connection_id
    if whose.account_id is not None:
        found = await unit.reads.connection_of_account(whose.account_id)
        if found is None or connection_id not in (None, found):
            raise UnknownError("account_id: there is no such account")
        connection_id = found
    if connection_id is None:
        return
    standing_of = await unit.reads.connections(connection_id=connection_id)
    if standing_of is None:
        raise UnknownError("connection_id: there is no such connection")
    if standing_of.at is not None:
        raise RestrictedError("connection_id: its consent ended, and its rows may not be read; renew the connection")


async def page(
    unit: UnitOfWork,
    listing: Listing,
    whose: Whose,
    *,
    cadence: Cadence,
    where: Sequence[Condition | Containing] = (),
    order: Order = Order.ID,
    cursor: str | None = None,
    limit: int = LIMIT,
) -> Page:
    """One page of a list with its freshness.

    Raises:
        RequestError: the cursor is none of this list and filter, or the order is none that it has.
        UnknownError, RestrictedError: as `check`.
    """
    if order is Order.NEWEST and listing.newest is None:
        raise RequestError(f"order: {listing.name} have no newest; order them by id")
    await check(unit, whose)
    by = _order(listing, order)
    conditions = (*whose.conditions, *where)
    digest = filter_digest(listing.name, {f"{one}": "" for one in conditions} | {"order": order.value})
    question = Question(
        view=listing.view,
        where=conditions,
        order=by,
        after=None if cursor is None else read_cursor(cursor, digest),
        limit=min(limit, listing.limit_max) + 1,
    )
    rows = await unit.reads.rows(question)
    more, rows = len(rows) == question.limit, rows[: question.limit - 1]
    following = cursor_text(digest, [rows[-1][one.column] for one in by]) if more else None
    named = {row["connection_id"] for row in rows}
    if not rows and whose.connection_id is not None:
        named = {whose.connection_id}
    known = await freshness_of(unit, named, cadence=cadence)
    resources = _resources(listing)
    shown = {row.get("account_id") or row["connection_id"] for row in rows} or set(known)
    return Page(rows, following, {name: _only(known[name], resources) for name in sorted(shown) if name in known})


def _order(listing: Listing, order: Order) -> tuple[By, ...]:
    unique = (By("id"),) if listing.name != "balance_history" else (By("id"), By("as_of_bank"))
    if order is Order.ID or listing.newest is None:
        return unique
    return (By(listing.newest, descending=True), By("id"))


def _resources(listing: Listing) -> frozenset[ResourceName]:
    if listing.name == "parties":
        return frozenset({N.PARTIES, N.ACCOUNT_PARTIES})
    if listing.name == "accounts":
        return frozenset(N)
    return frozenset() if listing.resource is None else frozenset({listing.resource})


def _only(known: Mapping[ResourceName, Freshness], wanted: Collection[ResourceName]) -> Mapping[str, Freshness]:
    return {name.value: one for name, one in known.items() if name in wanted}


async def freshness_of(
    unit: UnitOfWork, connection_ids: Collection[str], *, cadence: Cadence
) -> dict[str, dict[ResourceName, Freshness]]:
    """How fresh each listing of some connections is: by account id, a connection's own listings by its id.

    An account's own row is of the connection's listing of accounts, so it stands with the account as well.
    """
    if not connection_ids:
        return {}
    of_these = (Condition("connection_id", Is.ONE_OF, sorted(connection_ids)),)
    now = await unit.now()
    states = await _states(unit, of_these, now=now)
    found: dict[str, dict[ResourceName, Freshness]] = {}
    listings = await unit.reads.rows(
        Question(view="v_listing", where=of_these, order=(By("connection_id"),), limit=1_000_000)
    )
    accounts: dict[str, set[str]] = {}
    own: dict[str, Freshness] = {}
    for row in listings:
        resource = ResourceName(row["resource"])
        state = states.get(row["connection_id"], ConnectionState(status=None))
        judged = freshness(row, state, now=now, cadence=cadence[resource])
        found.setdefault(row["account_id"] or row["connection_id"], {})[resource] = judged
        if row["account_id"]:
            accounts.setdefault(row["connection_id"], set()).add(row["account_id"])
        if resource is N.ACCOUNTS:
            own[row["connection_id"]] = judged
    for connection_id, judged in own.items():
        for account_id in accounts.get(connection_id, ()):
            found[account_id].setdefault(N.ACCOUNTS, judged)
    return found


_RANK: Final = {Status.Authorized: 0, Status.Suspended: 1, Status.AwaitingAuthorization: 2}


async def _states(unit: UnitOfWork, of_these: tuple[Condition, ...], *, now: datetime) -> dict[str, ConnectionState]:
    """What keeps each connection's syncs back: of its consents the one in use before one that waits or has ended."""
    consents = await unit.reads.rows(
        Question(view="v_consent", where=of_these, order=(By("created_at"),), limit=1_000_000)
    )
    gates, breakers = await unit.lfis.gates_known(), await unit.breakers.all()
    best: dict[str, Mapping[str, Any]] = {}
    for row in consents:
        held = best.get(row["connection_id"])
        if held is None or _RANK.get(row["status"], 3) <= _RANK.get(held["status"], 3):
            best[row["connection_id"]] = row
    states: dict[str, ConnectionState] = {}
    for connection_id, counts in best.items():
        slug = Slug(counts["lfi"])
        kept = standing(gates.get(slug), breakers.get((slug, OperationClass.DATA)), now=now)
        held_back = kept.until is not None
        states[connection_id] = ConnectionState(
            status=counts["status"],
            expires_at=counts["expires_at"],
            paused=counts["paused_at"] is not None,
            needs_consent=counts["needs_consent"] is not None,
            gated=held_back and kept.gated,
            lfi_down=held_back and not kept.gated,
        )
    return states


@dataclass(frozen=True, slots=True)
class Balances:
    """The latest balances and their sums."""

    page: Page
    totals: Sequence[Total]


async def balances(unit: UnitOfWork, whose: Whose, *, cadence: Cadence) -> Balances:
    """The latest balances of a customer, connection or account, and their sums by type and currency.

    Raises:
        RequestError: of no one in particular, or of too many accounts to add up.
        UnknownError, RestrictedError: as `check`.
    """
    if not whose.narrow:
        raise RequestError("user_ref: give user_ref, connection_id or account_id: balances are added up for one")
    await check(unit, whose)
    rows = await unit.reads.rows(Question(view="v_balance", where=whose.conditions, limit=BALANCES_MAX + 1))
    if len(rows) > BALANCES_MAX:
        raise RequestError(f"user_ref: has more than {BALANCES_MAX} balances; ask by connection_id")
    accounts = await unit.reads.rows(Question(view="v_account", where=whose.conditions, limit=BALANCES_MAX))
    known = await freshness_of(unit, {row["connection_id"] for row in accounts}, cadence=cadence)
    fresh: dict[str, Mapping[str, Freshness]] = {
        row["account_id"]: _only(known.get(row["account_id"], {}), {N.BALANCES})
        for row in accounts
        if row["account_id"] is not None
    }
    return Balances(Page(rows, None, fresh), totals(rows, accounts, fresh))


def totals(
    rows: Sequence[Mapping[str, Any]],
    accounts: Sequence[Mapping[str, Any]],
    fresh: Mapping[str, Mapping[str, Freshness]],
) -> list[Total]:
    """Balances added up by type and currency: never across either."""
    kinds = sorted({(row["type"], row["currency"]) for row in rows if row["type"] and row["currency"]})
    found = []
    for kind, currency in kinds:
        those = [row for row in rows if (row["type"], row["currency"]) == (kind, currency)]
        added = [row for row in those if row["amount"] is not None]
        names = {row["account_id"] for row in added}
        of_currency = {row["account_id"] for row in accounts if row["currency"] in (None, currency)}
        stale = [name for name in names if (one := fresh.get(name, {}).get(N.BALANCES.value)) is None or one.stale]
        found.append(
            Total(
                type=kind,
                currency=currency,
                amount=sum((row["amount"] for row in added), Decimal(0)),
                accounts=len(names),
                missing=len((of_currency | {row["account_id"] for row in those}) - names),
                stale=len(stale),
            )
        )
    return found


# -- how a row is shown ----------------------------------------------------------------------------------------------


def members(view: str) -> Mapping[str, Kind]:
    """What a row of a view is shown with, in order, and what each member holds."""
    return {name: kind for name, kind in column_kinds(view, without=HIDDEN).items() if kind is not Kind.E5}


def shown(view: str, row: Mapping[str, Any], *, personal: bool) -> dict[str, Any]:
    """A row for readers.

    Args:
        personal: leave to see who people are.
    """
    kept = PERSONAL.get(view, frozenset())
    return {name: None if name in kept and not personal else row[name] for name in members(view)}


def masked(identification: str | None) -> str | None:
    """An account number with its middle hidden."""
    return None if identification is None else masked_iban(identification)


Shown = Callable[[Mapping[str, Any]], dict[str, Any]]


def comments(view: str) -> Mapping[str, str]:
    """What each column of a view says."""
    return {one.name: one.comment for one in BY_NAME[view].columns}

"""The questions readers ask, each defined once: what is read, in which order, filtered by what, and how it is shown.

Names of lists, filters and members are the API's, the commands' and the exports' alike.  Rows are rows of the views;
a row is shown without `tenant`, `key` and the integer twins of amounts, which are for SQL.  Without leave to see
personal data, what says who people are is null and account numbers are masked (`shown`).
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import cache, partial
from typing import Any, Final

from syncworker.errors import RequestError
from syncworker.schedule.breaker import standing
from syncworker.standard.calendar import UAE, as_utc, at_time, shifted
from syncworker.standard.consents import TERMINAL, Status
from syncworker.standard.operations import OperationClass
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import MONEY_PLACES
from syncworker.store.breakers import Breaker
from syncworker.store.connections import masked_iban
from syncworker.store.freshness import Ask, Footing, Known, Standing
from syncworker.store.lfis import Gate
from syncworker.store.reads import BY_NAME, By, Condition, Containing, Held, Is, Question, column_kinds
from syncworker.store.sql_views import Kind, said
from syncworker.store.tables import PERSONAL
from syncworker.store.unit_of_work import UnitOfWork
from syncworker.sync.decode import identifiers_of
from syncworker.views.freshness import ConnectionState, Freshness, freshness
from syncworker.views.pages import cursor_text, filter_digest, read_cursor

Targets = Mapping[ResourceName, timedelta]
"""How old a listing of each resource may grow: `Settings.targets`."""

N = ResourceName
LIMIT: Final = 50
LIMIT_MAX: Final = 200
TRANSACTIONS_MAX: Final = 500
CONNECTIONS_MAX: Final = 1_000
"""Connections of one customer."""
LOOKED_AT: Final = 100_000
"""Transactions that one page looks at for a filter, of all customers, newest first: a page may end before it is full,
and `next_cursor` goes on behind them."""
NEVER_LISTED: Final[Mapping[str, Any]] = dict.fromkeys(
    ("checked_at", "changed_at", "due_at", "error", "refused_until", "complete_from", "history_complete")
)
"""As `v_listing` would say it of a listing that no sync began to read."""
_DIGITS_MAX: Final = 13
"""Digits of an amount before the point, as its column has them."""
CONSENT_ENDED: Final = "consent_ended"
"""Why a connection's rows are held back."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Whose:
    """Whose rows are asked for; what is not given limits nothing."""

    user_ref: str | None = None
    connection_id: str | None = None
    account_id: str | None = None
    lfi: str | None = None

    @property
    def given(self) -> Mapping[str, str]:
        """What is given, by the names of a view's columns."""
        given = {
            "user_ref": self.user_ref,
            "connection_id": self.connection_id,
            "account_id": self.account_id,
            "lfi": self.lfi,
        }
        return {name: value for name, value in given.items() if value is not None}

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """As conditions on a view's columns."""
        return tuple(Condition(name, Is.EQUAL, value) for name, value in self.given.items())

    @property
    def by(self) -> Ask:
        """What the connections that must be there, or that freshness is of, are named by; for `narrow` ones."""
        if self.account_id is not None:
            return Ask.ACCOUNT
        if self.connection_id is not None:
            return Ask.CONNECTION
        return Ask.USER if self.lfi is None else Ask.USER_AT_LFI

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

    def conditions(self, *, personal: bool) -> tuple[Condition | Containing, ...]:
        """As conditions on the columns of `v_transaction`.

        Args:
            personal: leave to see who people are.  Without it the text is looked for only in columns that are shown:
                answers would tell by and by what the others hold.

        Raises:
            RequestError: an amount has more digits than amounts have.
        """
        amounts = {
            "amount_min": None if self.amount_min is None else as_e5(self.amount_min, "amount_min"),
            "amount_max": None if self.amount_max is None else as_e5(self.amount_max, "amount_max"),
        }
        found: list[Condition | Containing] = [
            Condition(column, how, value)
            for column, how, value in (
                ("booked_at", Is.AT_LEAST, None if self.from_date is None else uae_midnight(self.from_date)),
                ("booked_at", Is.BEFORE, None if self.to_date is None else uae_midnight(self.to_date, days=1)),
                ("status", Is.EQUAL, self.status),
                ("credit_debit_indicator", Is.EQUAL, self.direction),
                ("amount_e5", Is.AT_LEAST, amounts["amount_min"]),
                ("amount_e5", Is.AT_MOST, amounts["amount_max"]),
                ("currency", Is.EQUAL, self.currency),
            )
            if value is not None
        ]
        if self.text is not None:
            listing = LISTINGS["transactions"]
            hidden = frozenset[str]() if personal else personal_members(listing.view)
            found.append(Containing(tuple(name for name in listing.text if name not in hidden), self.text))
        return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A connection of the customer that is asked for, whose rows are held back because its consent ended.

    Attributes:
        since: when its rows were restricted.
    """

    connection_id: str
    since: datetime

    def as_json(self) -> dict[str, Any]:
        """As doors show it."""
        return {"connection_id": self.connection_id, "reason": CONSENT_ENDED, "since": self.since}


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list.

    Attributes:
        rows: as the view has them.
        next_cursor: `None` at the end.
        freshness: of what is shown: by account id (a connection's own listings by its id), then by resource.
        left_out: of one customer: connections whose rows are held back.
    """

    rows: Sequence[Mapping[str, Any]] = field(repr=False)
    next_cursor: str | None
    freshness: Mapping[str, Mapping[str, Freshness]]
    left_out: Sequence[LeftOut] = ()


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
    places = MONEY_PLACES
    if amount.is_finite() and amount.adjusted() < _DIGITS_MAX and amount == round(amount, places):
        return int(amount.scaleb(places))
    raise RequestError(
        f"{name}: has more digits than an amount has;"
        f" give at most {_DIGITS_MAX} before the point and {places} behind it"
    )


def of_e5(scaled: int) -> Decimal:
    """The amount of an integer of 1/100,000, with two digits behind the point at least."""
    sign, digits = ("-" if scaled < 0 else ""), f"{abs(scaled):0{MONEY_PLACES + 1}}"
    whole, rest = digits[:-MONEY_PLACES], digits[-MONEY_PLACES:]
    return Decimal(f"{sign}{whole}.{rest[:2]}{rest[2:].rstrip('0')}")


def uae_midnight(day: date, *, days: int = 0) -> datetime:
    """The instant at which a day begins in the UAE, or one so many days later."""
    return as_utc(at_time(shifted(day, timedelta(days=days)), zone=UAE))


async def check(unit: UnitOfWork, whose: Whose) -> tuple[list[str], list[LeftOut]]:
    """Make sure that what is asked for by id is there and may be read; gives the connections it is of.

    Returns:
        Those that may be read, and those of a customer that may not; none of either for rows of no customer,
        connection or account in particular.

    Raises:
        UnknownError: there is no such connection or account.
        RestrictedError: its consent ended.
    """
    connection_id = whose.connection_id
    if whose.account_id is not None:
        found = await unit.reads.connection_of_account(whose.account_id)
        if found is None or connection_id not in (None, found):
            raise _no_account()
        connection_id = found
    if connection_id is not None:
        held = await unit.reads.connections(connection_id=connection_id, limit=1)
        if not held:
            raise _no_connection()
        if held[0].restricted_at is not None:
            raise _restricted()
    elif whose.user_ref is not None:
        held = await unit.reads.connections(user_ref=whose.user_ref, lfi=whose.lfi, limit=CONNECTIONS_MAX)
    else:
        return [], []
    return [one.connection_id for one in held if one.restricted_at is None], _left_out(held)


def _left_out(held: Iterable[Held | Footing]) -> list[LeftOut]:
    """Connections whose rows are held back, by id."""
    found = [
        LeftOut(connection_id=one.connection_id, since=one.restricted_at)
        for one in held
        if one.restricted_at is not None
    ]
    return sorted(found, key=lambda one: one.connection_id)


_TICK: Final = timedelta(microseconds=1)


Reach = Callable[[Question], Awaitable[datetime | None]]
"""Says how far back a page looks; `None`: to the end."""

Rows = Callable[[Question], Awaitable[list[dict[str, Any]]]]
"""Answers a question: the views of the database, or what was known at another time."""


async def page(
    unit: UnitOfWork,
    listing: Listing,
    whose: Whose,
    *,
    targets: Targets,
    where: Sequence[Condition | Containing] = (),
    order: Order = Order.ID,
    cursor: str | None = None,
    limit: int = LIMIT,
    looks: int = LOOKED_AT,
) -> Page:
    """One page of a list with its freshness.

    Args:
        looks: so many rows are looked at for a filter that is not of one customer.

    Raises:
        RequestError: the cursor is none of this list and filter, or the order is none that it has.
        UnknownError, RestrictedError: as `check`.
    """
    asked, left_out = await check(unit, whose)
    far = not whose.narrow and bool(where or whose.given) and listing.name == "transactions"
    rows, following = await listed(
        unit.reads.rows, listing, whose, where=where, order=order, cursor=cursor, limit=limit,
        reach=partial(unit.reads.reach, rows=looks) if far else None,
    )  # fmt: skip
    of_rows = {row["connection_id"] for row in rows}
    known = await freshness_of(unit, of_rows.union(asked), targets=targets, of=_resources(listing))
    return Page(rows, following, known, left_out)


async def listed(
    read: Rows,
    listing: Listing,
    whose: Whose,
    *,
    where: Sequence[Condition | Containing] = (),
    order: Order = Order.ID,
    cursor: str | None = None,
    limit: int = LIMIT,
    known: Mapping[str, Any] | None = None,
    reach: "Reach | None" = None,
) -> tuple[list[dict[str, Any]], str | None]:
    """Rows of one page, and the cursor of the next; `None` at the end.

    Args:
        known: what else tells this list from others, as the instant it is of.
        reach: bounds how many rows a page, newest first, looks at; `None`: it looks until it is full.

    Raises:
        RequestError: the cursor is none of this list and filter, or the order is none that it has.
    """
    newest = listing.newest if order is Order.NEWEST else None
    if order is Order.NEWEST and newest is None:
        raise RequestError(f"order: {listing.name} have no newest; give order=id or leave it out")
    conditions = (*whose.conditions, *where)
    asked = {f"{one}": "" for one in conditions} | {"order": order.value, **(known or {})}
    digest = filter_digest(listing.name, asked)
    place = None if cursor is None else read_cursor(cursor, digest)
    unique = _unique(listing)
    wanted = min(limit, listing.limit_max) + 1
    rows: list[dict[str, Any]] = []
    for number, dated in enumerate((True, False) if newest else (None,)):
        by, there = list(unique), [Condition(unique[0].column, Is.PRESENT)]
        behind = place
        if newest is not None:  # an index gives them newest first only without those that have no date
            there.append(Condition(newest, Is.PRESENT if dated else Is.ABSENT))
            by = [By(newest, descending=True), *unique] if dated else by
            if place is not None and (place[0] is not None) is not dated:
                if dated:
                    continue
                behind = None
            elif place is not None and not dated:
                behind = place[1:]
        _check_place(behind, by)
        question = Question(
            view=listing.view,
            where=(*conditions, *there),
            order=tuple(by),
            after=behind,
            limit=wanted - len(rows),
        )
        edge = await reach(question) if reach is not None and newest and dated else None
        if edge is not None and newest is not None:
            there.append(Condition(newest, Is.AT_LEAST, edge))
            rows = await read(replace(question, where=(*conditions, *there)))
            if len(rows) < wanted:  # no row has a place between an instant and the one before it
                return rows, cursor_text(digest, [shifted(edge, -_TICK), *("" for _ in unique)])
            break
        rows += await read(question)
        if len(rows) == wanted or number:
            break
    if len(rows) < wanted:
        return rows, None
    rows.pop()
    columns = [*([newest] if newest else []), *(one.column for one in unique)]
    return rows, cursor_text(digest, [rows[-1][name] for name in columns])


def _check_place(place: tuple[Any, ...] | None, by: Sequence[By]) -> None:
    if place is not None and (len(place) != len(by) or None in place):
        raise RequestError("cursor: is none of this list's; begin without a cursor")


def _unique(listing: Listing) -> tuple[By, ...]:
    """An order in which rows are found by index: by account, and by key within it."""
    match listing.name:
        case "accounts":
            return (By("account_id"),)
        case "parties":  # those of a connection have no account
            return (By("id"),)
        case "balance_history":
            return (By("account_id"), By("key"), By("as_of_bank"))
    return (By("account_id"), By("key"))


def _resources(listing: Listing) -> frozenset[ResourceName]:
    if listing.name == "parties":
        return frozenset({N.PARTIES, N.ACCOUNT_PARTIES})
    if listing.name == "accounts":
        return frozenset(N)
    return frozenset() if listing.resource is None else frozenset({listing.resource})


async def freshness_of(
    unit: UnitOfWork, connection_ids: Collection[str], *, targets: Targets, of: Collection[ResourceName] = tuple(N)
) -> dict[str, dict[str, Freshness]]:
    """How fresh listings of some connections are: by account id, a connection's own listings by its id.

    An account's own row is of the connection's listing of accounts, so it stands with the account as well.  Where a
    connection has no account yet, its listing of accounts is given too: it says why nothing is there.

    Args:
        of: these resources alone.
    """
    if not connection_ids:
        return {}
    return judged(await unit.reads.known(connection_ids, {*of, N.ACCOUNTS}), targets=targets, of=of)


def judged(known: Known, *, targets: Targets, of: Collection[ResourceName]) -> dict[str, dict[str, Freshness]]:
    """`freshness_of` from what is known; connections that may not be read are left out."""
    if known.now is None:
        return {}
    now = known.now
    states = {
        one.connection_id: _state(one, now=now) for one in known.connections.values() if one.restricted_at is None
    }
    accounts: dict[str, set[str]] = {one: set() for one in states}
    found: dict[str, dict[str, Freshness]] = {}
    own: dict[str, Freshness] = {}
    for row in known.listings:
        resource, connection_id = ResourceName(row["resource"]), row["connection_id"]
        if connection_id not in states:
            continue
        judged = freshness(row, states[connection_id], now=now, target=targets[resource])
        if resource is N.ACCOUNTS:
            own[connection_id] = judged
            continue
        name = connection_id if row["lfi_account_id"] is None else row["account_id"]
        if name is None:  # an account that has no id of ours yet is not shown
            continue
        if name != connection_id:
            accounts[connection_id].add(name)
        found.setdefault(name, {})[resource.value] = judged
    for connection_id, names in accounts.items():
        judged = own.get(connection_id) or freshness(
            NEVER_LISTED, states[connection_id], now=now, target=targets[N.ACCOUNTS]
        )
        if N.ACCOUNTS in of or not names:
            found.setdefault(connection_id, {})[N.ACCOUNTS.value] = judged
        if N.ACCOUNTS in of:
            for name in names:
                found[name].setdefault(N.ACCOUNTS.value, judged)
    return dict(sorted(found.items()))


def _state(one: Footing, *, now: datetime) -> ConnectionState:
    """What keeps a connection's syncs back.

    Of its consents the one in use counts before one that waits or has ended, and a newer one before older.
    """
    if not one.consents:
        return ConnectionState(status=None)
    counts = min(reversed(one.consents), key=_rank)
    gate = None if one.gate is None else Gate(*one.gate)
    tripped = None
    if one.breaker is not None:
        opened_at, until, trips, reason, closed_at = one.breaker
        tripped = Breaker(
            lfi=one.lfi, operations=OperationClass.DATA, opened_at=opened_at, until=until, trips=trips, reason=reason,
            closed_at=closed_at,
        )  # fmt: skip
    kept = standing(gate, tripped, now=now)
    held_back = kept.until is not None
    return ConnectionState(
        status=Status.Revoked if counts.revoked and counts.status not in TERMINAL else counts.status,
        expires_at=counts.expires_at,
        paused=counts.paused_at is not None,
        needs_consent=counts.needs_consent is not None,
        gated=held_back and kept.gated,
        lfi_down=held_back and not kept.gated,
    )


_RANK: Final = {Status.Authorized: 0, Status.Suspended: 1, Status.AwaitingAuthorization: 2}


def _rank(one: Standing) -> int:
    if one.revoked:
        return 4
    return next((rank for status, rank in _RANK.items() if status == one.status), 3)


@dataclass(frozen=True, slots=True)
class Balances:
    """The latest balances and their sums."""

    page: Page
    totals: Sequence[Total]


async def balances(unit: UnitOfWork, whose: Whose, *, targets: Targets) -> Balances:
    """The latest balances of a customer, connection or account, and their sums by type and currency.

    Raises:
        RequestError: of no one in particular, or of too many accounts to add up.
        UnknownError, RestrictedError: as `check`.
    """
    if not whose.narrow:
        raise RequestError(_NOT_NARROW)
    by = whose.by
    resources = {N.BALANCES, N.ACCOUNTS}
    rows, accounts, known = await unit.reads.balances(whose.given, by, resources=resources, limit=BALANCES_MAX + 1)
    _check_known(whose, by, known)
    if len(rows) > BALANCES_MAX:
        raise _too_many_balances()
    fresh = judged(known, targets=targets, of={N.BALANCES})
    if whose.account_id is not None:
        fresh = {whose.account_id: fresh.get(whose.account_id, {})}
    checked = {
        (one["connection_id"], one["lfi_account_id"]): one["checked_at"]
        for one in known.listings
        if one["resource"] == N.BALANCES.value
    }
    for row in rows:
        row["checked_at"] = checked.get((row["connection_id"], row["lfi_account_id"]))
    left_out = _left_out(known.connections.values())
    return Balances(Page(rows, None, fresh, left_out), totals(rows, accounts[:BALANCES_MAX], fresh))


def _check_known(whose: Whose, by: Ask, known: Known) -> None:
    """As `check`, from what is known of the connections asked for."""
    if by in (Ask.USER, Ask.USER_AT_LFI):
        return
    if whose.account_id is not None and (
        not known.connections or whose.connection_id not in (None, *known.connections)
    ):
        raise _no_account()
    if not known.connections:
        raise _no_connection()
    if any(one.restricted_at is not None for one in known.connections.values()):
        raise _restricted()


def _no_account() -> UnknownError:
    return UnknownError("account_id: there is no such account")


def _no_connection() -> UnknownError:
    return UnknownError("connection_id: there is no such connection")


def _restricted() -> RestrictedError:
    return RestrictedError("connection_id: its consent ended, and its rows may not be read; renew the connection")


def _too_many_balances() -> RequestError:
    return RequestError(f"user_ref: has more than {BALANCES_MAX} balances; ask by connection_id")


_NOT_NARROW: Final = "user_ref: give user_ref, connection_id or account_id: this is read whole, for one of them"


async def check_narrow(unit: UnitOfWork, whose: Whose) -> tuple[list[str], list[LeftOut]]:
    """As `check`, for what is read whole.

    Raises:
        RequestError: of no one in particular.
    """
    if not whose.narrow:
        raise RequestError(_NOT_NARROW)
    return await check(unit, whose)


async def balances_of(read: Rows, whose: Whose) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The latest balances, and the accounts that are asked for.

    Raises:
        RequestError: there are too many to add up.
    """
    there = (*whose.conditions, Condition("account_id", Is.PRESENT))
    by = (By("account_id"), By("key"))
    rows = await read(Question(view="v_balance", where=there, order=by, limit=BALANCES_MAX + 1))
    if len(rows) > BALANCES_MAX:
        raise _too_many_balances()
    accounts = await read(Question(view="v_account", where=there, order=by[:1], limit=BALANCES_MAX))
    return rows, accounts


def totals(
    rows: Sequence[Mapping[str, Any]],
    accounts: Sequence[Mapping[str, Any]],
    fresh: Mapping[str, Mapping[str, Freshness]] | None,
) -> list[Total]:
    """Balances added up by type and currency: never across either.

    Args:
        fresh: of the accounts' balances; `None`: of another time, when nothing is stale.
    """
    kinds = sorted({(row["type"], row["currency"]) for row in rows if row["type"] and row["currency"]})
    found = []
    for kind, currency in kinds:
        those = [row for row in rows if (row["type"], row["currency"]) == (kind, currency)]
        added = [row for row in those if row["amount_e5"] is not None]
        names = {row["account_id"] for row in added}
        of_currency = {row["account_id"] for row in accounts if row["currency"] in (None, currency)}
        stale = [] if fresh is None else [name for name in names if _is_stale(fresh.get(name, {}))]
        found.append(
            Total(
                type=kind,
                currency=currency,
                amount=of_e5(sum(int(row["amount_e5"]) for row in added)),
                accounts=len(names),
                missing=len((of_currency | {row["account_id"] for row in those}) - names),
                stale=len(stale),
            )
        )
    return found


def _is_stale(known: Mapping[str, Freshness]) -> bool:
    one = known.get(N.BALANCES.value)
    return one is None or one.stale


# -- how a row is shown ----------------------------------------------------------------------------------------------


@cache
def members(view: str) -> Mapping[str, Kind]:
    """What a row of a view is shown with, in order, and what each member holds."""
    return {name: kind for name, kind in column_kinds(view, without=HIDDEN).items() if kind is not Kind.E5}


@cache
def personal_members(view: str) -> frozenset[str]:
    """Columns of a view that tell who people are; shown with the scope `data:personal` alone."""
    sources = {one.name: one.source.partition(".") for one in BY_NAME[view].columns}
    return frozenset(name for name, (table, _, column) in sources.items() if column in PERSONAL.get(table, ()))


def shown(view: str, row: Mapping[str, Any], *, personal: bool) -> dict[str, Any]:
    """A row for readers.

    Args:
        personal: leave to see who people are.
    """
    hidden = frozenset[str]() if personal else personal_members(view)
    return {name: None if name in hidden else row[name] for name in members(view)}


async def shown_rows(
    unit: UnitOfWork,
    listing: Listing,
    rows: Sequence[Mapping[str, Any]],
    *,
    personal: bool,
    raw: Callable[[bytes], Any] | None = None,
) -> list[dict[str, Any]]:
    """Rows of a list for readers; opens their items where something of them is shown.

    An account has its `identifiers`, from its item.

    Args:
        personal: leave to see who people are.
        raw: makes the member `raw` from a row's item; `None`: rows have none.
    """
    numbers = listing.name == "accounts"
    items: Mapping[str, bytes] = {}
    if numbers or raw is not None:
        items = {row["id"]: row["item"] for row in rows if "item" in row}
        items = items or await unit.reads.items(listing.view, rows)
    found = []
    for row in rows:
        one, item = shown(listing.view, row, personal=personal), items.get(row["id"])
        if numbers:
            one["identifiers"] = None if item is None else identifiers(item, personal=personal)
        if raw is not None:
            one["raw"] = None if item is None else raw(item)
        found.append(one)
    return found


def identifiers(item: bytes, *, personal: bool) -> list[dict[str, str | None]]:
    """An account's numbers, from its item: masked, and without a name, unless there is leave to see who people are."""
    found = [one._asdict() for one in identifiers_of(item)]
    if personal:
        return found
    return [{**one, "identification": masked(one["identification"]), "name": None} for one in found]


def masked(identification: str | None) -> str | None:
    """An account number with its middle hidden."""
    return None if identification is None else masked_iban(identification)


def comments(view: str) -> Mapping[str, str]:
    """What each column of a view says, with its unit."""
    return {one.name: said(one) for one in BY_NAME[view].columns}

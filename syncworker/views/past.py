"""What we knew at an instant: the rows of the views of record tables as they were then.

A row counts from the sync that brought it to the one that found it changed or gone (`store.records`, record history).
The items of then are decoded by the decoder of now, so every member has the name and the meaning it has today.  What
only a row of now can say is null: `first_seen_at`, `checked_at`, `missed_since`.

Whose rows they are, what `account_id` they have and whether they may be read is as it is now: a connection that is
restricted today shows nothing of the past either.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from syncworker.errors import RequestError
from syncworker.standard.calendar import fault_of_instant, local_date
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import MONEY_PLACES, ConsentId
from syncworker.store.account_references import AccountReference
from syncworker.store.reads import BY_NAME, Condition, Containing, Question
from syncworker.store.records import PastRecord
from syncworker.store.sql_views import Kind, View
from syncworker.store.tables import RECORD_TABLES, typed_columns
from syncworker.store.unit_of_work import UnitOfWork
from syncworker.sync.decode import columns_of
from syncworker.views.questions import (
    LIMIT,
    Balances,
    LeftOut,
    Listing,
    Order,
    Page,
    Rows,
    Whose,
    as_e5,
    balances_of,
    check_narrow,
    listed,
    of_e5,
    totals,
)

N = ResourceName
READABLE: Final[Mapping[str, Sequence[ResourceName]]] = {
    f"v_{table.name}": tuple(name for name, one in RECORD_TABLES.items() if one is table)
    for table in RECORD_TABLES.values()
}
"""Views that can be read as of an instant, and the resources whose rows they show."""

_PRESENT_ONLY: Final = dict.fromkeys(("first_seen_at", "checked_at", "missed_since"))


async def page(
    unit: UnitOfWork,
    listing: Listing,
    whose: Whose,
    *,
    at: datetime,
    where: Sequence[Condition | Containing] = (),
    order: Order = Order.ID,
    cursor: str | None = None,
    limit: int = LIMIT,
) -> Page:
    """`questions.page` at an instant, of one customer, connection or account.  It has no freshness.

    Raises:
        RequestError: as `questions.page`, `check_instant`, or of no one in particular.
        UnknownError, RestrictedError: as `questions.check`.
    """
    read, left_out = await _known_at(unit, whose, at)
    rows, following = await listed(
        read, listing, whose, where=where, order=order, cursor=cursor, limit=limit, known={"as_of": at}
    )
    return Page(rows, following, {}, left_out)


async def balances(unit: UnitOfWork, whose: Whose, *, at: datetime) -> Balances:
    """`questions.balances` at an instant.  They have no freshness, and none counts as stale.

    Raises:
        RequestError, UnknownError, RestrictedError: as `page`.
    """
    read, left_out = await _known_at(unit, whose, at)
    rows, accounts = await balances_of(read, whose)
    return Balances(Page(rows, None, {}, left_out), totals(rows, accounts, None))


async def _known_at(unit: UnitOfWork, whose: Whose, at: datetime) -> tuple[Rows, list[LeftOut]]:
    connections, left_out = await check_narrow(unit, whose)
    await check_instant(unit, at)
    return read_as_of(unit, connections, at), left_out


async def check_instant(unit: UnitOfWork, at: datetime) -> None:
    """Make sure that what was known at an instant is settled.

    Raises:
        RequestError: it lies ahead, or what was written then is not all to be seen yet.
    """
    fault = fault_of_instant(at)
    if fault:
        raise RequestError(f"as_of: {fault}")
    now = await unit.now()
    if at >= now:
        raise RequestError("as_of: must lie before now; leave it out for what is known now")
    settled = await unit.reads.settled_before()
    if settled is not None and at >= settled:
        raise RequestError("as_of: a sync that began before it is still writing; try again, or give an earlier instant")


def read_as_of(unit: UnitOfWork, connection_ids: Sequence[str], at: datetime) -> Rows:
    """Answers questions as the database would have at an instant.

    Args:
        connection_ids: whose rows are asked for; they may be read.
    """
    known: dict[str, list[dict[str, Any]]] = {}

    async def read(question: Question) -> list[dict[str, Any]]:
        if question.view not in known:
            known[question.view] = [row for one in connection_ids for row in await _rows(unit, one, question.view, at)]
        return answer(known[question.view], question)

    return read


def answer(rows: Sequence[dict[str, Any]], question: Question) -> list[dict[str, Any]]:
    """The rows that a question asks for, in its order, behind its place."""
    found = [row for row in rows if all(one.holds(row) for one in question.where)]
    for by in reversed(question.order):
        found.sort(key=lambda row, name=by.column: row[name], reverse=by.descending)  # type: ignore[misc]
    if question.after is not None:
        found = [row for row in found if _behind(row, question)]
    return found[: question.limit]


def _behind(row: Mapping[str, Any], question: Question) -> bool:
    assert question.after is not None
    for by, value in zip(question.order, question.after, strict=True):
        if row[by.column] != value:
            return bool(row[by.column] < value) if by.descending else bool(row[by.column] > value)
    return False


async def _rows(unit: UnitOfWork, connection_id: str, view: str, at: datetime) -> list[dict[str, Any]]:
    (held,) = await unit.reads.connections(connection_id=connection_id, limit=1)
    references = await unit.account_references.of_connections([ConsentId(connection_id)])
    ours: dict[str, AccountReference] = {one.lfi_account_id: one for one in references}
    accounts = await unit.records.as_of(ConsentId(connection_id), N.ACCOUNTS, at)
    shown = {one.key for one in accounts}
    whose = {"connection_id": connection_id, "user_ref": held.user_ref, "lfi": held.lfi}
    rows = []
    for resource in READABLE[view]:
        of_accounts = resource is N.ACCOUNTS
        records = accounts if of_accounts else await unit.records.as_of(ConsentId(connection_id), resource, at)
        for record in records:
            lfi_account_id = record.key if of_accounts else record.account_id
            reference = ours.get(lfi_account_id)
            if resource is not N.PARTIES and (lfi_account_id not in shown or reference is None):
                continue
            frame = whose | _frame(record, reference, connection_id, lfi_account_id, of_accounts=of_accounts)
            rows.append(_PRESENT_ONLY | frame | dict(_typed(BY_NAME[view], resource, record)))
    return rows


def _frame(
    record: PastRecord,
    reference: AccountReference | None,
    connection_id: str,
    lfi_account_id: str,
    *,
    of_accounts: bool,
) -> dict[str, Any]:
    """Whose row it was.

    Args:
        reference: `None`: a party of the connection, which belongs to no account.
    """
    account_id = None if reference is None else reference.account_id
    return {
        "account_id": account_id,
        "lfi_account_id": lfi_account_id or None,
        "identity": None if reference is None else reference.identity,
        "key": record.key,
        "id": account_id if of_accounts else f"{account_id or connection_id}:{record.key}",
        "changed_at": record.valid_from,
        "item": record.item,
    }


def _typed(view: View, resource: ResourceName, record: PastRecord) -> Iterator[tuple[str, Any]]:
    """What the item said, under the names of the view."""
    table = RECORD_TABLES[resource]
    read = columns_of(resource, record.item)
    values = {} if read is None else dict(zip(typed_columns(table), read, strict=True))
    for column in view.columns:
        of, _, name = column.source.partition(".")
        if of == table.name and name in values:
            yield column.name, _as_shown(column.kind, values[name])


def _as_shown(kind: Kind, value: Any) -> Any:
    match kind, value:
        case (_, None):
            return None
        case (Kind.AMOUNT, Decimal()):
            return of_e5(int(value.scaleb(MONEY_PLACES)))
        case (Kind.E5, Decimal()):
            return as_e5(value, "amount")
        case (Kind.DATE, datetime()):
            return local_date(value)
    return value

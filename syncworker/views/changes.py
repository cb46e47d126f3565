"""What changed: pages of the feed with each row as lists show it now.

A change names a row by our ids, as the lists do: `list` is the list that holds it, `id` its id there.  What a list
would not show is not shown here: a row that is gone, one of a connection that is restricted, one of an account that the
LFI shows no more.  That is asked when the page is read: one that is read again shows what may be read then.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from syncworker.feed import read as feed
from syncworker.feed.cursor import Filter
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store.changes import Op
from syncworker.store.reads import Complete, view_of
from syncworker.store.records import RowKey
from syncworker.store.unit_of_work import UnitOfWork
from syncworker.views import questions

NOW: Final = "now"
"""In place of a cursor: what comes from now on."""

LIMIT: Final = feed.LIMIT

LISTS: Final[Mapping[ResourceName, str]] = {
    resource: one.name
    for resource in ResourceName
    for one in questions.LISTINGS.values()
    if one.view == view_of(resource)
}
"""The list that shows a resource's rows; `account` has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change, as readers meet it.

    Attributes:
        op: `added`, `modified` or `removed` of a row; `erased` or `restricted` of a whole connection.
        history: the row was added by a first walk or a backfill, or is shown again: no news at the LFI.
        list: the list that holds the row.
        id: of the row there; `None`: of a whole connection.
        classes: of what was erased.
        item: the row as it is now; `None`: it is gone, or items were not asked for.
    """

    op: str
    history: bool
    resource: str | None
    list: str | None
    id: str | None
    connection_id: str
    account_id: str | None
    at: datetime
    previous_status: str | None
    classes: Sequence[str] | None
    item: Mapping[str, Any] | None = field(repr=False)

    def as_json(self) -> dict[str, Any]:
        """As doors show it."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """A page.

    Attributes:
        complete: of the connections on the page that may be read.
    """

    changes: Sequence[Change]
    next_cursor: str
    has_more: bool
    lag_seconds: int
    complete: Mapping[str, Complete]


async def filter_of(
    unit: UnitOfWork, *, connection_id: str | None, user_ref: str | None, resources: Collection[ResourceName]
) -> Filter:
    """What is asked for.

    Args:
        resources: none: every resource.

    Raises:
        UnknownError: there is no such connection.
    """
    if connection_id is not None and not await unit.reads.connections(connection_id=connection_id, limit=1):
        raise questions.UnknownError("connection_id: there is no such connection")
    return Filter(
        connections=None if connection_id is None else frozenset({ConsentId(connection_id)}),
        user_ref=user_ref,
        resources=frozenset(resources) or None,
    )


async def page(
    unit: UnitOfWork, *, cursor: str | None, only: Filter, limit: int = LIMIT, items: bool, personal: bool
) -> Changes:
    """Changes behind a cursor.

    Args:
        cursor: `None`: from the oldest change that is kept; `now`: what comes from now on.
        items: leave to see the rows.
        personal: leave to see who people are.

    Raises:
        CursorUnknownError, CursorTooOldError, CursorFilterError: the cursor leads nowhere.
    """
    if cursor == NOW:
        begins = await feed.now(unit, only=only)
        line = await unit.changes.line()
        return Changes(
            changes=(), next_cursor=begins, has_more=False, lag_seconds=int(line.lag.total_seconds()), complete={}
        )
    names: dict[tuple[str, str], str] = {}

    async def rows(unit: UnitOfWork, keys: Sequence[RowKey]) -> Mapping[RowKey, Mapping[str, Any]]:
        for one in await unit.account_references.of_connections({key.connection_id for key in keys}):
            names[one.connection_id, one.lfi_account_id] = one.account_id
        return await _shown(unit, keys, personal=personal)

    found = await feed.page(unit, cursor=cursor, items=rows, only=only, limit=limit)
    changes = [_change(one, names, items=items) for one in found.entries]
    shown = [one for one in changes if one is not None]
    return Changes(
        changes=shown,
        next_cursor=found.next_cursor,
        has_more=found.has_more,
        lag_seconds=int(found.lag_seconds),
        complete=await unit.reads.complete({one.connection_id for one in shown}) if shown else {},
    )


async def _shown(unit: UnitOfWork, keys: Sequence[RowKey], *, personal: bool) -> Mapping[RowKey, Mapping[str, Any]]:
    """Rows as lists show them."""
    rows = await unit.reads.of_keys(keys)
    accounts = view_of(ResourceName.ACCOUNTS)
    numbers = await unit.reads.items(
        accounts, [row for key, row in rows.items() if key.resource is ResourceName.ACCOUNTS]
    )
    found: dict[RowKey, Mapping[str, Any]] = {}
    for key, row in rows.items():
        one = questions.shown(view_of(key.resource), row, personal=personal)
        if key.resource is ResourceName.ACCOUNTS:
            item = numbers.get(row["id"])
            one["identifiers"] = None if item is None else questions.identifiers(item, personal=personal)
        found[key] = one
    return found


_OP: Final[Mapping[Op, str]] = {op: op.value for op in Op} | {Op.BACKFILLED: Op.ADDED.value}


def _change(one: feed.Entry[Mapping[str, Any]], names: Mapping[tuple[str, str], str], *, items: bool) -> Change | None:
    """`None`: of an account that has no id of ours yet, and is in no list."""
    account_id, own = None, None
    if one.resource is not None:
        lfi_account_id = one.key if one.resource is ResourceName.ACCOUNTS else one.account_id
        account_id = names.get((one.connection_id, lfi_account_id))
        if lfi_account_id and account_id is None:
            return None
        whose = account_id or one.connection_id
        own = account_id if one.resource is ResourceName.ACCOUNTS else f"{whose}:{one.key}"
    return Change(
        op=_OP[one.op],
        history=one.op is Op.BACKFILLED,
        resource=None if one.resource is None else one.resource.value,
        list=None if one.resource is None else LISTS.get(one.resource),
        id=own,
        connection_id=one.connection_id,
        account_id=account_id,
        at=one.at,
        previous_status=one.previous_status,
        classes=None if one.data_class is None else (one.data_class.value,),
        item=one.item if items else None,
    )

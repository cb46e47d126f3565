"""Pages of the feed, as a mirror needs them.

A page is the changes behind a cursor, in order, up to a limit.  Markers are expanded, with a place inside, so that a
page may end in the middle of one.  Repeats of a row are taken together where the last of them stands.

**A change names a row; what is shown is the row as it is now.**  So the row decides what a mirror does with it:

    it lives and can be read     put it there: `added` or `backfilled` where the page's first change of it says so,
                                 `modified` otherwise
    it is gone                   take it away: `removed`, also where the page itself added it, because a mirror that
                                 read the listing meanwhile has it
    its connection is restricted take all rows of the connection away: `restricted`, once a page

Applying a page twice, or a row both from a listing and from the feed, is harmless.  The order of two changes of one row
does not matter, and a page that is read again is about the same rows, until some are erased.  A change that says
`restricted` is shown only while the connection is; where it can be read again, its listings follow as markers.

A mirror begins with `now`, then reads the listings, then pages from that cursor on.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Generic, TypeVar

from syncworker.errors import CursorFilterError, CursorTooOldError, CursorUnknownError
from syncworker.feed import cursor as cursors
from syncworker.feed.cursor import EVERYTHING, Cursor, Filter, cursor_at
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store.changes import BEGINNING, FeedRow, Line, Marked, Op, Place
from syncworker.store.erasure import DataClass
from syncworker.store.records import RowKey
from syncworker.store.unit_of_work import UnitOfWork

LIMIT: Final = 500
"""Most entries of a page."""

EXPANSIONS_MAX: Final = 50
"""Markers expanded for one page, each with a statement of its own; at `MARKER_FROM` rows each they fill it."""

T = TypeVar("T")

Items = Callable[[UnitOfWork, Sequence[RowKey]], Awaitable[Mapping[RowKey, T]]]
"""Gives the rows of some keys as they are now, in whatever form a door shows them; those that are gone, or cannot be
read, are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Generic[T]):
    """One change, as a mirror applies it.

    Attributes:
        account_id: the LFI's; `''` for a row of the connection, and for `erased` and `restricted`.
        resource: `None` for `erased` and `restricted`, which speak of the whole connection.
        previous_status: `Pending`, where a transaction was booked with this change.
        data_class: what was erased.
        item: the row as it is now; `None` where it is gone.
    """

    op: Op
    connection_id: ConsentId
    account_id: str
    resource: ResourceName | None
    key: str
    at: datetime
    previous_status: str | None = None
    data_class: DataClass | None = None
    item: T | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """What one request gives.

    Attributes:
        next_cursor: go on from here, now or later.
        has_more: whether there is more now.
        lag_seconds: how long the oldest committed change has waited for an open transaction; 0: none waits.
    """

    entries: Sequence[Entry[T]]
    next_cursor: str
    has_more: bool
    lag_seconds: float


async def living(unit: UnitOfWork, keys: Sequence[RowKey]) -> Mapping[RowKey, bool]:
    """The rows that are there and can be read; for readers that fetch them themselves."""
    return dict.fromkeys(await unit.records.living(keys), True)


async def now(unit: UnitOfWork, *, only: Filter = EVERYTHING) -> str:
    """The cursor of one that wants what comes from now on."""
    line = await unit.changes.line()
    return cursors.written(
        cursor_at(await _head(unit, line), epoch=line.epoch, of=only, else_=line.pruned_to), tenant=unit.tenant
    )


async def before(unit: UnitOfWork, place: Place, *, only: Filter) -> str:
    """The cursor of one that wants the change at a place and what follows it."""
    cursor = Cursor(
        epoch=await unit.epochs.current(),
        place=place._replace(seq=place.seq - 1),
        check=cursors.NOTHING,
        connection_id="",
        filter=only.digest,
    )
    return cursors.written(cursor, tenant=unit.tenant)


async def page(
    unit: UnitOfWork,
    *,
    cursor: str | None,
    items: Items[T],
    only: Filter = EVERYTHING,
    limit: int = LIMIT,
) -> Page[T]:
    """Changes behind a cursor.

    Args:
        unit: `Store.looking` will do: nothing here needs one snapshot.
        cursor: as `now` or a page gave it; `None`: from the oldest change that is kept.
        limit: most entries, from 1.

    Raises:
        CursorUnknownError: the cursor is none of ours, or of another history or tenant.
        CursorTooOldError: changes behind it were taken away.
        CursorFilterError: it was given for another filter.
    """
    assert 1 <= limit <= LIMIT, f"limit: from 1 to {LIMIT}"
    line = await unit.changes.line()
    start, begun = await _start(unit, cursor, line, only)
    place = BEGINNING if start is None else start.place
    rows = await _rows(unit, place, line, limit + 1, only)
    walk = _Walk(limit)
    if begun is not None and start is not None:
        await walk.expand(unit, begun, after=start.inside)
    for row in rows[:limit]:
        if walk.full:
            break
        await walk.take(unit, row)
    has_more = (walk.full and (walk.inside is not None or walk.taken < len(rows))) or len(rows) > limit
    reached: FeedRow | None = walk.last
    if not has_more:  # what is filtered out lies behind it as well: a quiet reader's cursor does not grow old
        head = await _head(unit, line)
        if head is not None and (reached is None or head.place > reached.place):
            reached = head
    if reached is None and start is not None:
        following = replace(start, epoch=line.epoch)
    else:
        following = cursor_at(reached, epoch=line.epoch, of=only, inside=walk.inside, else_=line.pruned_to)
    entries = await _entries(unit, walk.changes, items)
    if start is not None:
        _check_kept(start, await unit.changes.line())  # pruned, or restored, while this was read
    return Page(
        entries=entries,
        next_cursor=cursors.written(following, tenant=unit.tenant),
        has_more=has_more,
        lag_seconds=line.lag.total_seconds(),
    )


async def _start(unit: UnitOfWork, text: str | None, line: Line, only: Filter) -> tuple[Cursor | None, FeedRow | None]:
    """Where to begin, and the marker that was not shown whole."""
    if text is None:
        return None, None
    start = cursors.read(text, tenant=unit.tenant)
    if start.filter != only.digest:
        raise CursorFilterError
    _check_kept(start, line)
    if start.check == cursors.NOTHING or start.place == line.pruned_to:  # the row there was the last taken away
        return start, None
    row = await unit.changes.at(start.place)
    if row is None:
        if not await unit.changes.erased_behind(start.place, ConsentId(start.connection_id)):
            raise CursorUnknownError
        return start, None
    if cursors.check_of(row) != start.check:
        raise CursorUnknownError
    if start.inside is None:
        return start, None
    if row.change.marker is None:
        raise CursorUnknownError
    (again,) = await unit.changes.page(
        after=row.place._replace(seq=row.place.seq - 1), below=line, limit=1, connection_id=row.connection_id
    ) or (row,)
    return start, again


def _check_kept(start: Cursor, line: Line) -> None:
    if start.epoch != line.epoch or start.place.epoch > line.epoch:
        raise CursorUnknownError
    if start.place < line.pruned_to or (start.inside is not None and start.place <= line.pruned_to):
        raise CursorTooOldError


async def _rows(unit: UnitOfWork, place: Place, line: Line, limit: int, only: Filter) -> list[FeedRow]:
    connections = only.connections
    if only.user_ref is not None:
        theirs = {one.connection_id for one in await unit.consents.connections(user_ref=only.user_ref)}
        connections = frozenset(theirs if connections is None else theirs & connections)
    if connections is None:
        return await unit.changes.page(after=place, below=line, limit=limit, resources=only.resources)
    found: list[FeedRow] = []
    for one in sorted(connections):  # each by its own index; below the line nothing appears between two of them
        found += await unit.changes.page(
            after=place, below=line, limit=limit, connection_id=one, resources=only.resources
        )
    return sorted(found, key=lambda row: row.place)[:limit]


async def _head(unit: UnitOfWork, line: Line) -> FeedRow | None:
    newest = await unit.changes.page(after=BEGINNING, below=line, limit=1, newest_first=True)
    return newest[0] if newest else None


@dataclass(slots=True)
class _Change:
    """One row of the feed, or one row that a marker stands for."""

    row: FeedRow
    op: Op
    key: str


class _Walk:
    """Takes rows of the feed until a page is full."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._expansions = 0
        self.changes: list[_Change] = []
        self.last: FeedRow | None = None
        self.inside: str | None = None
        self.taken = 0

    @property
    def full(self) -> bool:
        return self._left <= 0 or self.inside is not None or self._expansions >= EXPANSIONS_MAX

    async def take(self, unit: UnitOfWork, row: FeedRow) -> None:
        self.taken += 1
        if row.change.marker is not None:
            await self.expand(unit, row, after=None)
            return
        self.last = row
        self._left -= 1
        if row.change.op is Op.ERASED:
            self.changes.append(_Change(row, Op.ERASED, ""))
        elif not row.readable:
            self.changes.append(_Change(row, Op.RESTRICTED, ""))
        elif row.change.op is not Op.RESTRICTED:
            self.changes.append(_Change(row, row.change.op, row.change.key))

    async def expand(self, unit: UnitOfWork, row: FeedRow, *, after: str | None) -> None:
        """Rows that a marker stands for, behind a key."""
        self.last = row
        if not row.readable:
            self._left -= 1
            self.changes.append(_Change(row, Op.RESTRICTED, ""))
            return
        self._expansions += 1
        keys = await unit.changes.expanded(row, after=after, limit=self._left + 1)
        op = Op.ADDED if row.change.marker is Marked.NEWS else Op.BACKFILLED
        if len(keys) > self._left:
            keys = keys[: self._left]
            self.inside = keys[-1][0]
        self._left -= len(keys)
        # one that is gone has a change of its own that says so, behind the marker or read before it
        self.changes += [_Change(row, op, key) for key, lives in keys if lives]


_OF_CONNECTION: Final = (Op.ERASED, Op.RESTRICTED)

_Name = tuple[Op | None, ConsentId, str, ResourceName | None, str]


def _name(one: _Change) -> _Name:
    """What repeats of a change have in common: the row, or what is said of the connection."""
    change = one.row.change
    if one.op in _OF_CONNECTION:
        return one.op, one.row.connection_id, "", None, (change.scope or "") if one.op is Op.ERASED else ""
    return None, one.row.connection_id, change.account_id, change.resource, one.key


async def _entries(unit: UnitOfWork, changes: Sequence[_Change], items: Items[T]) -> list[Entry[T]]:
    """Changes of one row taken together, each where the last of them stands."""
    together: dict[_Name, list[_Change]] = {}
    for one in changes:
        name = _name(one)
        together[name] = [*together.pop(name, ()), one]
    keys = {
        name: RowKey(connection_id, account_id, resource, key)
        for name in together
        for _, connection_id, account_id, resource, key in [name]
        if resource is not None
    }
    found = await items(unit, list(keys.values())) if keys else {}
    return [
        _of_row(keys[name], those, found.get(keys[name])) if name in keys else _of_connection(those[-1])
        for name, those in together.items()
    ]


def _of_connection(one: _Change) -> Entry[T]:
    return Entry(
        op=one.op,
        connection_id=one.row.connection_id,
        account_id="",
        resource=None,
        key="",
        at=one.row.at,
        data_class=DataClass(one.row.change.scope or "") if one.op is Op.ERASED else None,
    )


def _of_row(key: RowKey, those: Sequence[_Change], item: T | None) -> Entry[T]:
    first = those[0].op
    op = Op.REMOVED if item is None else first if first in (Op.ADDED, Op.BACKFILLED) else Op.MODIFIED
    before = [one.row.change.previous_status for one in those if one.row.change.previous_status]
    return Entry(
        op=op,
        connection_id=key.connection_id,
        account_id=key.account_id,
        resource=key.resource,
        key=key.key,
        at=those[-1].row.at,
        previous_status=before[0] if before and op is Op.MODIFIED else None,
        item=item,
    )

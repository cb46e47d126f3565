"""The feed as a reader meets it that expands every marker."""

from dataclasses import replace

from syncworker.store.changes import FeedRow, Marked, Op, RowChange
from syncworker.store.unit_of_work import UnitOfWork

EVERYTHING = 1_000_000


async def whole_feed(unit: UnitOfWork) -> list[FeedRow]:
    """Every change of a row, in order; the rows a marker stands for as added ones.

    No change of a whole connection, and no marker that shows rows once more.
    """
    found: list[FeedRow] = []
    for row in await unit.changes.read(limit=EVERYTHING):
        if row.change.resource is None or row.change.marker is Marked.ALL:
            continue
        if row.change.marker is None:
            found.append(row)
            continue
        for key, _ in await unit.changes.expanded(row, after=None, limit=EVERYTHING):
            added = RowChange(row.change.account_id, row.change.resource, key, Op.ADDED)
            found.append(replace(row, change=added))
    return found


def name_of(row: FeedRow) -> tuple[str, str, str, str]:
    """Connection, account, resource and key of a row that changed."""
    assert row.change.resource is not None
    return row.connection_id, row.change.account_id, row.change.resource.value, row.change.key

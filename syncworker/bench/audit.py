"""Compare what a contender left in the database with what the bank shows: every row, every item, typed columns.

The columns are those of `books.COMPARED`.

The same check for everyone, after every phase: whoever skips work fails it.  It reads the database with plain SQL and
nothing of the store, and knows the bank by `books` alone.

In: rows by table.  Out: the number of rows compared, or an `AuditFailedError` that counts what differs.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from syncworker.bench.bank import Served
from syncworker.bench.books import RowKey, World, compared_columns, listings, rows
from syncworker.bench.ground import number_of
from syncworker.errors import SyncWorkerError
from syncworker.standard.resources import ResourceName
from syncworker.store.tables import RECORD_TABLES

Rows = Iterable[tuple[Any, ...]]
ReadTable = Callable[[str, tuple[str, ...]], Rows]
"""Gives a table's rows: connection_id, account_id, key, the named typed columns, and the raw item's bytes."""

Expected = dict[str, dict[RowKey, tuple[Any, ...]]]
"""Table → where → typed columns and raw item."""

TABLES: Final[Mapping[str, tuple[str, ...]]] = {
    table.name: compared_columns(table) for name, table in RECORD_TABLES.items() if name is not ResourceName.ACCOUNT
}
"""Every record table that a sync fills, with the columns that are compared."""


class AuditFailedError(SyncWorkerError):
    """The database does not say what the bank says, or the bank was not asked."""

    code = "bench_audit"


def expected(world: World, *, changed: bool) -> Expected:
    """What must be in the tables when everything was read."""
    found: Expected = defaultdict(dict)
    for consent in range(world.consents):
        for listing in listings(world, consent, changed=changed):
            table = RECORD_TABLES[listing.resource].name
            for place, columns, item in rows(listing):
                found[table][place] = (*columns, item)
    return dict(found)


def check(read: ReadTable, wanted: Expected, *, raw: Callable[[bytes], Any] = bytes) -> int:
    """Compare all tables, both ways.

    Args:
        raw: how two raw items are compared: their bytes, or what they mean for a contender that keeps no bytes.

    Returns:
        Rows compared.

    Raises:
        AuditFailedError: names the tables and columns, and counts; no values.
    """
    faults: Counter[str] = Counter()
    compared = 0
    for table, columns in TABLES.items():
        rest = dict(wanted.get(table, {}))
        for connection_id, account_id, key, *values, item in read(table, columns):
            compared += 1
            due = rest.pop(RowKey(number_of(connection_id), account_id, key), None)
            if due is None:
                faults[f"{table}: row the bank does not show, or a second time"] += 1
                continue
            for column, value, told in zip(columns, values, due[:-1], strict=True):
                if value != told:  # aware instants and decimals equal their like, however written
                    faults[f"{table}.{column} differs"] += 1
            if raw(item) != raw(due[-1]):
                faults[f"{table}.raw differs"] += 1
        if rest:
            faults[f"{table}: row missing"] += len(rest)
    if faults:
        raise AuditFailedError("; ".join(f"{fault} ({times}×)" for fault, times in faults.most_common(8)))
    return compared


def check_served(served: Served, pages: int) -> None:
    """Whether the bank was asked for everything.

    Args:
        pages: how many there are.

    Raises:
        AuditFailedError: a page was never asked for, or a call was refused.
    """
    if served.distinct != pages or served.refused:
        raise AuditFailedError(
            f"the bank served {served.distinct} different pages of {pages} and refused {served.refused} calls"
        )

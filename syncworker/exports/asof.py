"""Full exports of what was known at an instant, from record history (`views.past`).

The tables whose rows an LFI sent have a history; connections, consents, identifiers and the series of balances have
none.  One connection is read at a time: its rows are in memory together, so memory depends on the largest connection
and not on the tables.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa

from syncworker.errors import RequestError
from syncworker.exports.schema import TABLES as ALL
from syncworker.exports.schema import Column, Table, arrow_schema
from syncworker.exports.snapshot import Reader, canonical, order_of
from syncworker.standard.json_text import json_bytes
from syncworker.store.reads import By, Question
from syncworker.store.sql_views import Kind
from syncworker.views import past

TABLES: Final = tuple(name for name, table in ALL.items() if table.view in past.READABLE)
"""Tables that can be read as of an instant."""

ROWS_MAX: Final = 1_000_000_000


def check_tables(tables: Sequence[Table]) -> None:
    """
    Raises:
        RequestError: one of them has no history.
    """
    others = sorted(one.name for one in tables if one.name not in TABLES)
    if others:
        raise RequestError(
            f"tables: {', '.join(others)} cannot be read as of an instant; name some of {', '.join(TABLES)}"
        )


async def pour(reader: Reader, table: Table, at: datetime, take: Callable[[str, pa.RecordBatch], None]) -> int:
    """The rows of a table as they were, by LFI, sorted as in every full export; gives how many.

    Args:
        take: as of `Reader.whole`.
    """
    unit, count = reader.snapshot.unit, 0
    names = order_of(table)
    async for lfi, connections in reader.connections():
        for connection_id in connections:
            (held,) = await unit.reads.connections(connection_id=connection_id, limit=1)
            if held.restricted_at is not None:
                continue
            read = past.read_as_of(unit, [connection_id], at)
            rows = await read(Question(view=table.view, order=(By("id"),), limit=ROWS_MAX))
            if not rows:
                continue
            rows.sort(key=lambda row: [(row[name] is not None, row[name]) for name in names])
            await reader.snapshot.apart(lambda lfi=lfi, rows=rows: take(lfi, _batch(table, rows)))  # type: ignore[misc]
            count += len(rows)
    return count


def _batch(table: Table, rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    arrays = [_column(one, [row.get(one.name) for row in rows]) for one in table.columns]
    return pa.RecordBatch.from_arrays(arrays, schema=arrow_schema(table, op=False))


def _column(column: Column, values: Sequence[Any]) -> pa.Array:
    match column.kind:
        case Kind.AMOUNT:
            places = Decimal(10) ** -column.arrow.scale
            return pa.array([None if one is None else Decimal(one).quantize(places) for one in values], column.arrow)
        case Kind.JSON:
            return canonical([None if one is None else json_bytes(one).decode() for one in values])
    return pa.array(values, column.arrow)

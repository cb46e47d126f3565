"""Compare the tables with an LFI's own books, both ways: keys, typed columns and raw items.

In: what the LFI says it would show for a consent, and the rows we hold.  Out: one `Difference` per row that differs.
A difference names the row and the columns, never their content.
"""

import datetime as dt
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any

from syncworker.standard.calendar import read_day, read_iso


@dataclass(frozen=True, slots=True, order=True)
class RowName:
    """Where a row belongs: connection (root ConsentId), account (`''` for none), resource, key."""

    connection_id: str
    account_id: str
    resource: str
    key: str


@dataclass(frozen=True, slots=True)
class AuditedRow:
    """One row, from either side.

    Attributes:
        item: the JSON item, exactly as bytes or already decoded.
        columns: typed facts by column name; amounts `Decimal` or decimal text, instants aware or ISO 8601 text.
    """

    name: RowName
    item: bytes | Mapping[str, Any] = field(repr=False)
    columns: Mapping[str, Any] = field(repr=False)


class Kind(StrEnum):
    """How a row differs."""

    MISSING = "missing"  # in the books, not in the tables
    EXTRA = "extra"  # in the tables, not in the books
    ALTERED = "altered"  # in both, with other content


@dataclass(frozen=True, slots=True)
class Difference:
    """One row that is not the same on both sides.

    Attributes:
        columns: which columns differ; `raw` for the item itself.
    """

    kind: Kind
    name: RowName
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What a comparison found.

    Attributes:
        rows: rows compared, by resource.
        columns: typed values compared.
    """

    rows: Mapping[str, int]
    columns: int
    differences: tuple[Difference, ...]


def compare(books: Iterable[AuditedRow], tables: Iterable[AuditedRow]) -> AuditReport:
    """Compare both sides completely.  Every column the books state is compared."""
    stated = {row.name: row for row in books}
    held = {row.name: row for row in tables}
    counts: dict[str, int] = {}
    for name in stated.keys() | held.keys():
        counts[name.resource] = counts.get(name.resource, 0) + 1
    altered = (
        Difference(Kind.ALTERED, name, columns)
        for name in sorted(stated.keys() & held.keys())
        if (columns := tuple(_differing(stated[name], held[name])))
    )
    differences = (
        *(Difference(Kind.MISSING, name) for name in sorted(stated.keys() - held.keys())),
        *(Difference(Kind.EXTRA, name) for name in sorted(held.keys() - stated.keys())),
        *altered,
    )
    compared = sum(len(stated[name].columns) for name in stated.keys() & held.keys())
    return AuditReport(dict(sorted(counts.items())), compared, differences)


def _differing(stated: AuditedRow, held: AuditedRow) -> Iterator[str]:
    for column, value in stated.columns.items():
        if column not in held.columns or not _same(value, held.columns[column]):
            yield column
    if _item(stated.item) != _item(held.item):
        yield "raw"


def _item(item: bytes | Mapping[str, Any]) -> Any:
    """A JSON item with every number exact, whichever way it was decoded."""
    return json.loads(item, parse_float=Decimal, parse_int=Decimal) if isinstance(item, bytes) else _exact(item)


def _exact(part: Any) -> Any:
    match part:
        case Mapping():
            return {name: _exact(member) for name, member in part.items()}
        case list() | tuple():
            return [_exact(member) for member in part]
        case bool():
            return part
        case int() | float():
            return Decimal(str(part))
    return part


def _same(stated: Any, held: Any) -> bool:
    """Whether two values are one: typed on one side and text on the other is no difference, `"0742"` and `"742"` is."""
    if isinstance(stated, str) and isinstance(held, str):
        return stated == held
    return bool(_typed(stated, like=held) == _typed(held, like=stated))


def _typed(value: Any, *, like: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        match like:
            case dt.datetime():
                return read_iso(value)
            case dt.date():
                return read_day(value)
            case Decimal() | int():
                return Decimal(value)
    except (ValueError, InvalidOperation):
        return value
    return value

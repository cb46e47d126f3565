"""What a command prints: a table when a person looks, JSON when a program does."""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH_WITHOUT_TERMINAL: Final = 200

OUT: Final = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)
TALK: Final = Console(stderr=True, highlight=False, soft_wrap=True)


def rows(rows: Sequence[Mapping[str, Any]], *, as_json: bool, title: str, empty: str) -> None:
    """Print rows that share their columns.

    Args:
        empty: what to say, on stderr, when there are none.
    """
    if as_json:
        value(list(rows))
        return
    if not rows:
        say(empty)
        return
    table = Table(title=title, title_justify="left", header_style="bold", pad_edge=False, box=None)
    for column in rows[0]:
        numeric = all(isinstance(row[column], int | float | Decimal) for row in rows)
        table.add_column(column.replace("_", " "), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell(content)) for content in row.values()))  # text of others is no markup
    OUT.print(table)


def facts(content: Mapping[str, Any], *, as_json: bool) -> None:
    """Print one thing as `name  value` lines."""
    if as_json:
        value(content)
        return
    width = max(len(name) for name in content)
    for name, fact in content.items():
        OUT.print(f"{name.replace('_', ' '):<{width}}  {cell(fact)}", markup=False)


def value(content: Any) -> None:
    """Print JSON: instants as ISO 8601 UTC, amounts as text."""
    json.dump(content, sys.stdout, default=_plain, ensure_ascii=False)
    sys.stdout.write("\n")


def say(line: str) -> None:
    """One line of talk, on stderr."""
    TALK.print(line, markup=False)


def cell(content: Any) -> str:
    """A value as a person reads it."""
    match content:
        case None:
            return "–"
        case bool():
            return "yes" if content else "no"
        case datetime():
            return f"{content.replace(tzinfo=None).isoformat(' ', 'seconds')}Z"
        case timedelta():
            return span(content)
        case list() | tuple() | frozenset():
            return ", ".join(cell(part) for part in content)
    return str(content)


def span(length: timedelta) -> str:
    """A duration in its two largest units: `3 d 4 h`, `2 min 5 s`, `180 ms`, `0 s`."""
    if timedelta(0) < length < timedelta(seconds=1):
        return f"{length // timedelta(milliseconds=1)} ms"
    seconds = int(length.total_seconds())
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    parts = []
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {unit}")
    return sign + (" ".join(parts[:2]) or "0 s")


def _plain(content: Any) -> Any:
    match content:
        case datetime():
            return content.isoformat().replace("+00:00", "Z")
        case date():
            return content.isoformat()
        case timedelta():
            return content.total_seconds()
        case Decimal():
            return str(content)
        case frozenset() | set():
            return sorted(content)
        case Mapping():
            return dict(content)
    if dataclasses.is_dataclass(content) and not isinstance(content, type):
        return dataclasses.asdict(content)
    return str(content)

"""What a command prints: a table when a person looks, JSON when a program does."""

import codecs
import dataclasses
import io
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from syncworker.ops.words import instant
from syncworker.ops.words import span as span

DONE: Final = 0
FAILED: Final = 1
USED_WRONGLY: Final = 2
PARTLY: Final = 3
"""Exit codes of every command."""

WIDTH_WITHOUT_TERMINAL: Final = 200

OUT: Final = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)
TALK: Final = Console(stderr=True, highlight=False, soft_wrap=True)


PLAIN: Final = {"✓": "+", "✗": "x", "→": "->", "…": "...", "–": "-", "—": "-", "·": "-", "×": "x", "≥": ">=", "≤": "<="}
"""Our own signs, where the terminal's encoding has none of them."""

_PLAINLY: Final = "syncworker-plainly"


def _plainly(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


codecs.register_error(_PLAINLY, _plainly)


def take_any_encoding() -> None:
    """Never fail for what a stream's encoding cannot say: our signs become ASCII, other text a question mark.

    JSON loses nothing: it escapes what the encoding has not.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not _speaks_utf8(stream):
            stream.reconfigure(errors=_PLAINLY)


def _speaks_utf8(stream: TextIO) -> bool:
    encoding = getattr(stream, "encoding", None)  # a test's stream may have none
    return encoding is None or codecs.lookup(encoding).name == "utf-8"


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
    json.dump(content, sys.stdout, default=_plain, ensure_ascii=not _speaks_utf8(sys.stdout))
    sys.stdout.write("\n")


def text(content: str) -> None:
    """Text on stdout as it is, line ends included."""
    sys.stdout.write(content)


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
            return instant(content)
        case timedelta():
            return span(content)
        case dict():
            return ", ".join(f"{name} {cell(part)}" for name, part in content.items())
        case list() | tuple() | frozenset():
            return ", ".join(cell(part) for part in content)
    return str(content)


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

"""What lies where in the database: the promised views and the tables behind them, as docs/schema.md.

`page()` is that file.  All of it comes from `store.sql_views`, `store.tables` and `sync.decode.TYPED`; `GROUPS` alone
is written here: which tables belong together, and what one row of each is.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Dialect
from sqlalchemy.dialects import postgresql

from syncworker.standard.resources import ResourceName
from syncworker.store.sql_views import TYPES, VIEWS, View, ViewColumn, comment_of
from syncworker.store.tables import FRAME, RECORD_TABLES, metadata
from syncworker.sync.decode import TYPED

_POSTGRESQL: Final[Dialect] = postgresql.dialect()  # type: ignore[no-untyped-call]

GROUPS: Final[Mapping[str, Mapping[str, str]]] = {
    "Connections and consents": {
        "connection": "user at an LFI, for life",
        "consent": "consent",
        "expiry_flag": "threshold before a consent's end that was passed",
        "token": "consent with tokens; these are sealed",
        "authorization": "pushed authorisation request",
        "authorization_intent": "link that begins an authorisation when it is opened",
        "account_grant": "account that a consent shows",
        "account_reference": "account of a connection, with our id of it",
    },
    "What LFIs show": {
        "account": "account",
        "account_detail": "account that was read by itself",
        "account_identifier": "identifier of an account",
        "balance": "balance",
        "balance_history": "balance at a DateTime",
        "transaction": "transaction",
        "party": "party; the item is sealed",
        "beneficiary": "beneficiary",
        "direct_debit": "direct debit",
        "standing_order": "standing order",
        "scheduled_payment": "scheduled payment",
        "statement": "statement",
        "product": "product",
        "record_history": "row as it was before it changed",
        "unreadable_item": "item that could not become a row",
        "change": "change of a row, of many at once, or of what can be read of a connection",
        "feed_epoch": "history of the database that was met",
        "feed_pruned": "tenant: how far its changes were taken away",
    },
    "How far reading is": {
        "cursor": "listing: where reading stands",
        "connection_check": "connection: its listings whose last walk showed nothing new",
        "coverage": "window of a listing that was walked completely",
        "run": "sync of a connection",
        "call": "HTTP call",
        "finding": "operation and code at an LFI that a person has to look at",
        "filling": "record table whose columns are filled for rows held before",
    },
    "Refreshes": {
        "refresh": "refresh that was asked for",
        "refresh_part": "connection of a refresh; what its customer's session said is sealed",
    },
    "Exports": {
        "export": "export of a series, made or being made",
    },
    "Webhooks to the product": {
        "webhook_endpoint": "endpoint; its secrets are sealed",
        "webhook_message": "message for one endpoint, sent or waiting",
    },
    "Work": {
        "work": "connection or consent with work to do",
        "open_claims": "kind of work at an LFI that is in hand",
        "worker": "process",
        "tenant_key": "key of a tenant for one purpose, sealed",
        "clock_offset": "pair of clocks that were compared",
    },
    "What an operator is shown": {
        "cause": "cause of trouble, from when to when",
        "staleness": "connection: when the first of its listings goes stale",
        "usual": "LFI and resource: what a call usually takes",
        "ops_look": "process that looked, and when",
        "counter": "LFI, operation or outcome that something is counted of",
    },
    "LFIs": {
        "lfi": "LFI",
        "lfi_change": "change that the participants directory showed",
        "breaker": "class of calls at an LFI that is or was kept back",
        "call_budget": "LFI: when the next call may start",
        "ignored_filter": "operation whose window an LFI ignores",
    },
    "Events and account openings": {
        "event": "event notification that verified; its content is sealed",
        "refused_event": "event notification that did not verify",
        "opening": "account-opening request",
        "opening_history": "state an account-opening request was in",
    },
    "Access and upkeep": {
        "api_key": "key of your product, as a digest",
        "ops_session": "browser signed in to the dashboard",
        "audit": "act that is kept on record",
        "sql_view": "view that was made",
    },
}
"""Tables by what they are for, each with what one row of it is."""

PROMISE: Final = """\
Two kinds of things are in the database.  **Views** (`v_…`) are for readers and are promised.  **Tables** are ours: they
change with any version, in name, shape and meaning.  Read views; see [how to read them with SQL](how-to/sql.md).

What is promised of views: columns are added, at any place, with any version; name your columns instead of `*`.  No view
or column is renamed, removed, or given another type or meaning without a new major version (before 1.0: a minor version
whose changelog says so).  Values the standard lists grow with it: an unknown one passes through as sent.

- `tenant` is the first column of each view.  `account_id` is ours and survives a renewal of the consent;
  `lfi_account_id` is the LFI's.  `id` is `account_id:key` and names the same row in every door.
- A view shows the rows an LFI shows.  A row that went is in no view, and `v_change` says `removed`.  The rows of an
  account that an LFI shows no more leave the views with it.  A connection none of whose consents is alive is
  restricted: `v_connection` and `v_consent` alone show it.
- Amounts are exact.  `amount` is `numeric` on PostgreSQL and text on SQLite, at least two digits behind the point.
  Beside each stands `…_e5`, an integer of 1/100,000 on both: add, order and compare with it, since SQLite would make
  floating point numbers of the text and sort it by its letters.  Never add amounts of different currencies or balance
  types.
- Instants are UTC: `timestamptz` on PostgreSQL, text of 27 characters (`2026-11-30T08:00:00.000000Z`) on SQLite, which
  sorts as time does.  Beside an instant that a bank or a consent speaks of stands its date in the UAE, `…_date`.
- Three times are never one: `as_of_bank` is when the LFI says the balance was so; `checked_at` when we last saw the
  listing whole; `changed_at` when the row last differed.
- On PostgreSQL text has the database's collation, and `id` sorts by character number, as all text does on SQLite.
- A view runs with its reader's rights (`security_invoker`), so a reader needs `SELECT` on the tables behind it too.
- `syncworker db upgrade` drops the views before migrations and makes them behind; what roles were granted on them
  stays.  On PostgreSQL a view of yours that reads one of ours must be dropped before and made again behind; on SQLite
  it is kept.
"""


def page() -> str:
    """docs/schema.md."""
    return "".join(f"{line}\n" for line in _lines())


def described() -> dict[str, Any]:
    """The same, as values: views with columns, tables with columns."""
    return {
        "views": [
            {"view": view.name, "comment": view.comment, "columns": [_view_column(one) for one in view.columns]}
            for view in VIEWS
        ],
        "tables": [
            {"table": name, "group": group, "one_row_per": row, "columns": [*map(_table_column, _columns(name))]}
            for group, tables in groups().items()
            for name, row in tables.items()
        ],
    }


def groups() -> dict[str, dict[str, str]]:
    """`GROUPS` without tables that are not there, and with those it does not name."""
    known = {name for tables in GROUPS.values() for name in tables}
    found = {
        group: {name: row for name, row in tables.items() if name in metadata.tables}
        for group, tables in GROUPS.items()
    }  # fmt: skip
    others = dict.fromkeys((name for name in sorted(metadata.tables) if name not in known), "")
    return {**found, "Others": others} if others else found


def _lines() -> Iterator[str]:
    yield "# What is in the database"
    yield ""
    yield "Made by `syncworker db schema`; `--json` has the same as values."
    yield ""
    yield from PROMISE.splitlines()
    yield ""
    yield "## Views"
    for view in VIEWS:
        yield ""
        yield from _view(view)
    yield ""
    yield "## Tables, not promised"
    yield ""
    yield (
        "Record tables have the same frame around their typed columns: "
        + ", ".join(f"`{name}`" for name in FRAME)
        + "."
    )
    for group, tables in groups().items():
        yield ""
        yield f"### {group}"
        for name, row in tables.items():
            yield ""
            yield f"`{name}`" + (f": one row per {row}." if row else "")
            yield ""
            yield "| column | type | |"
            yield "|---|---|---|"
            for column in _columns(name):
                yield _row(f"`{column.name}`", _type_of(column), _table_comment(column))


def _view(view: View) -> Iterator[str]:
    yield f"### {view.name}"
    yield ""
    yield view.comment.replace("  ", " ")
    yield ""
    yield "| column | PostgreSQL | SQLite | unit | | from |"
    yield "|---|---|---|---|---|---|"
    for column in view.columns:
        own, lite = TYPES[column.kind]
        yield _row(f"`{column.name}`", own, lite, column.unit, column.comment, _from(column))


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _from(column: ViewColumn) -> str:
    """Our column, and the member of the standard it is read from."""
    member = _member(column)
    return f"`{column.source}`" + (f" ← `{member}`" if member else "")


def _member(column: ViewColumn) -> str | None:
    table, _, name = column.source.partition(".")
    return _members().get((table, name))


@cache
def _members() -> Mapping[tuple[str, str], str]:
    """Member of the standard by table and column."""
    found: dict[tuple[str, str], str] = {}
    for resource, typed in TYPED.items():
        for name, (_, path) in typed.columns.items():
            found[RECORD_TABLES[ResourceName(resource)].name, name] = path
    return found


def _columns(name: str) -> list[sa.Column[Any]]:
    table = metadata.tables[name]
    framed = table in RECORD_TABLES.values()
    return [one for one in table.columns if not (framed and one.name in FRAME)]


def _type_of(column: sa.Column[Any]) -> str:
    own = column.type.compile(_POSTGRESQL).lower()
    return f"{own}, NULL" if column.nullable else own


def _table_comment(column: sa.Column[Any]) -> str:
    return column.comment or comment_of(column.table, column.name)


def _view_column(column: ViewColumn) -> dict[str, Any]:
    own, lite = TYPES[column.kind]
    return {
        "column": column.name, "postgresql": own, "sqlite": lite, "unit": column.unit, "comment": column.comment,
        "from": column.source, "member": _member(column),
    }  # fmt: skip


def _table_column(column: sa.Column[Any]) -> dict[str, Any]:
    return {"column": column.name, "type": _type_of(column), "comment": _table_comment(column)}

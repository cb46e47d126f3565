"""The queries of exports: pieces of a view, and what the feed behind a place says of it.

A full export reads a view by connections, some at a time, so that each sort is small and goes by an index.

An increment asks which rows a part of the feed is about, *touched* rows, and then how they stand in the snapshot: those
that the view shows are to be put there, the others are to be taken away.  Touched are, for a table:

    rows that a change names
    rows that a marker stands for (`changes`)
    rows of an account that came back or went, since the views show no row of an account that went
    rows of a connection that cannot be read (`readable`)

Rows of `balance_history` have no changes of their own: they are written with the balance's, at the same instant.

Text is compared byte by byte: `COLLATE "C"` on PostgreSQL, SQLite's own order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from syncworker.standard.resources import ResourceName
from syncworker.store.changes import Place
from syncworker.store.dialect import Dialect
from syncworker.store.exporting import Piece, array
from syncworker.store.readable import readable
from syncworker.store.sql_views import VIEWS, Kind
from syncworker.store.tables import RECORD_TABLES

_KINDS: Final[Mapping[str, Mapping[str, Kind]]] = {
    view.name: {column.name: column.kind for column in view.columns} for view in VIEWS
}

HISTORY: Final = "balance_history"
_ACCOUNT: Final = RECORD_TABLES[ResourceName.ACCOUNTS].name
_PARTY: Final = RECORD_TABLES[ResourceName.PARTIES].name

FED: Final = frozenset({*(table.name for table in RECORD_TABLES.values()), HISTORY})
"""Tables whose changes the feed tells.  The others are compared with what was exported before."""

RESTRICTED: Final = f"NOT ({str(readable()).replace('connection.', 'c.')})"
"""Of a connection `c`: its rows may not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A part of the feed: all that the snapshot shows behind a place.

    Attributes:
        connections: changes of these alone.
    """

    tenant: str
    after: Place
    connections: Sequence[str] = ()

    @property
    def values(self) -> dict[str, Any]:
        place = {"epoch": self.after.epoch, "txid": self.after.txid, "seq": self.after.seq}
        return {"tenant": self.tenant, **place} | ({"those": list(self.connections)} if self.connections else {})


def connections_behind(dialect: Dialect, tenant: str, after: tuple[str, str] | None, *, limit: int) -> Piece:
    """LFI and connection of the next connections, in the order of both."""
    order = [_ordered(dialect, f'"{name}"') for name in ("lfi", "connection_id")]
    behind = f" AND ({', '.join(order)}) > ({{lfi}}, {{connection_id}})" if after else ""
    sql = (
        f'SELECT "lfi", "connection_id" FROM "connection" WHERE "tenant" = {{tenant}}{behind}'  # noqa: S608
        f" ORDER BY {', '.join(order)} LIMIT {limit:d}"
    )
    return Piece(sql, {"tenant": tenant} | ({"lfi": after[0], "connection_id": after[1]} if after else {}))


def whole(
    dialect: Dialect, view: str, columns: Sequence[str], order: Sequence[str], tenant: str, connections: Sequence[str]
) -> Piece:
    """The rows of a view that belong to some connections."""
    sql = (
        f"SELECT {_chosen(view, columns)} FROM {view} v WHERE v.tenant = {{tenant}}"  # noqa: S608
        f" AND v.connection_id IN {array(dialect, 'those')}{_named(view)} ORDER BY {_sorted(dialect, view, order)}"
    )
    return Piece(sql, {"tenant": tenant, "those": list(connections)})


def fed_connections(dialect: Dialect, window: Window) -> Piece:
    """The connections that changes in the window are about, in order, and how often data of each was erased."""
    sql = (
        f'SELECT connection_id, sum(CASE WHEN "op" = \'erased\' THEN 1 ELSE 0 END) FROM "change"'  # noqa: S608
        f" WHERE {_IN_WINDOW} GROUP BY connection_id ORDER BY {_ordered(dialect, 'connection_id')}"
    )
    return Piece(sql, window.values)


def upserts(dialect: Dialect, table: str, columns: Sequence[str], order: Sequence[str], window: Window) -> Piece:
    """The rows that changes in the window are about and that can be read."""
    view = f"v_{table}"
    names = _place(table)
    if dialect.is_postgresql:
        where = " AND ".join(f"{shown} = k.{name}" for name, shown in names.items())
        rows = (
            f"SELECT {_chosen(view, columns)} FROM k CROSS JOIN LATERAL"  # noqa: S608
            f" (SELECT * FROM {view} x WHERE x.tenant = {{tenant}} AND {where.replace('v.', 'x.')} OFFSET 0) v"
            " WHERE true"
        )
    else:
        rows = (
            f"SELECT {_chosen(view, columns)} FROM {view} v WHERE v.tenant = {{tenant}}"  # noqa: S608
            f" AND ({', '.join(names.values())}) IN (SELECT {', '.join(names)} FROM k)"
        )
    sql = f"{_touched(dialect, table)} {rows}{_named(view)} ORDER BY {_sorted(dialect, view, order)}"
    return Piece(sql, window.values)


DELETED: Final = ("connection_id", "account_id", "lfi_account_id", "key", "at")
"""Columns of `deletes`; `at` is the instant of a row of `balance_history`."""


def deletes(dialect: Dialect, table: str, window: Window) -> Piece:
    """The keys that changes in the window are about and that no view shows (any more); columns `DELETED`."""
    view = f"v_{table}"
    where = " AND ".join(f"{shown} = k.{name}" for name, shown in _place(table).items())
    account = "k.key" if table == _ACCOUNT else "k.account_id"
    at = "k.date_time" if table == HISTORY else "NULL"
    known = "" if table == _ACCOUNT else " AND a.account_id IS NOT NULL"
    if table == _PARTY:
        known = " AND (a.account_id IS NOT NULL OR k.account_id = '')"
    order = [_ordered(dialect, one) for one in ("k.connection_id", "coalesce(a.account_id, '')", "k.key")]
    sql = (
        f"{_touched(dialect, table)} SELECT k.connection_id, a.account_id, nullif({account}, '') AS lfi_account_id,"  # noqa: S608
        f' k.key, {at} AS at FROM k LEFT JOIN "account_reference" a ON a."tenant" = {{tenant}}'
        f' AND a."connection_id" = k.connection_id AND a."lfi_account_id" = {account}'
        f" WHERE NOT EXISTS (SELECT 1 FROM {view} v WHERE v.tenant = {{tenant}} AND {where}){known}"
        f" ORDER BY {', '.join([*order, '5'])}"
    )
    return Piece(sql, window.values)


def coverage(dialect: Dialect, tenant: str) -> Piece:
    """How far back and how fresh: per connection and resource, over its accounts, the least."""
    least = (
        "SELECT connection_id, resource, CASE WHEN count(*) = count(complete_from) THEN max(complete_from) END,"
        " CASE WHEN count(*) = count(checked_at) THEN min(checked_at) END"
        " FROM v_listing WHERE tenant = {tenant} GROUP BY connection_id, resource ORDER BY "
    )
    order = f"{_ordered(dialect, 'connection_id')}, {_ordered(dialect, 'resource')}"
    return Piece(f"{least}{order}", {"tenant": tenant})


def about(dialect: Dialect, tables: Sequence[str]) -> list[Piece]:
    """How many rows some tables have, as the database guesses at no cost; each gives one value or none."""
    if dialect.is_postgresql:
        return [Piece("SELECT reltuples::bigint FROM pg_class WHERE oid = to_regclass({name})", {"name": f'"{one}"'})
                for one in tables]  # fmt: skip
    return [Piece(f'SELECT max(rowid) FROM "{one}"', {}) for one in tables]  # noqa: S608


def kept_back(dialect: Dialect, tenant: str, tables: Sequence[str]) -> Piece:
    """The connections that cannot be read and the rows held of each in some record tables."""
    held = [
        f'(SELECT count(*) FROM "{name}" t WHERE t."tenant" = c."tenant" AND t."connection_id" = c."connection_id"'  # noqa: S608
        + ("" if name in (HISTORY, "account_identifier") else ' AND t."gone_at" IS NULL')
        + ")"
        for name in tables
    ]
    order = _ordered(dialect, 'c."connection_id"')
    sql = (
        f'SELECT c."connection_id", {" + ".join(held) or "0"} FROM "connection" c'  # noqa: S608
        f' WHERE c."tenant" = {{tenant}} AND {RESTRICTED} ORDER BY {order}'
    )
    return Piece(sql, {"tenant": tenant})


_IN_WINDOW: Final = '"tenant" = {tenant} AND ("epoch", "txid", "seq") > ({epoch}, {txid}, {seq})'


def _place(table: str) -> dict[str, str]:
    """Columns of touched rows, and what they are in the table's view."""
    if table == _ACCOUNT:
        return {"connection_id": "v.connection_id", "key": "v.lfi_account_id"}
    account = "coalesce(v.lfi_account_id, '')" if table == _PARTY else "v.lfi_account_id"
    own = {"connection_id": "v.connection_id", "account_id": account, "key": "v.key"}
    return own | ({"date_time": "v.as_of_bank"} if table == HISTORY else {})


def _touched(dialect: Dialect, table: str) -> str:
    """`WITH`: `w`, the changes in the window; `k`, the keys of touched rows."""
    resources = ", ".join(f"'{name.value}'" for name, one in RECORD_TABLES.items() if one.name == table)
    key = "t.connection_id, t.account_id, t.key"
    of_window = f'w AS (SELECT connection_id, account_id, resource, key, op, scope, at FROM "change" WHERE {_IN_WINDOW} AND connection_id IN {array(dialect, "those")})'  # noqa: E501, S608
    mine = 't."tenant" = {tenant} AND t.connection_id = w.connection_id'
    listing = f"{mine} AND t.account_id = w.account_id"
    if table == HISTORY:
        key += ", t.date_time"
        named = (
            f'SELECT {key} FROM w JOIN "{HISTORY}" t ON {listing} AND t.key = w.key AND t.seen_at >= w.at'  # noqa: S608
            " WHERE w.resource = 'balances' AND w.key <> ''"
        )
        marked = (
            f"SELECT {key} FROM w JOIN \"{HISTORY}\" t ON {listing} AND (w.scope = 'all' OR t.seen_at >= w.at)"  # noqa: S608
            " WHERE w.resource = 'balances' AND w.op = 'backfilled' AND w.key = ''"
        )
    else:
        named = (
            "SELECT w.connection_id, w.account_id, w.key FROM w"  # noqa: S608
            f" WHERE w.resource IN ({resources}) AND w.key <> ''"
        )
        marked = (
            f'SELECT {key} FROM w JOIN "{table}" t ON {listing}'  # noqa: S608
            " AND (w.scope = 'all' OR t.first_seen_at = w.at)"  # not by time: a clock may have been set back
            f" WHERE w.resource IN ({resources}) AND w.op = 'backfilled' AND w.key = ''"
        )
    of_account = (
        f'SELECT {key} FROM w JOIN "{table}" t ON {mine} AND t.account_id = w.key'  # noqa: S608
        f" WHERE w.resource = '{ResourceName.ACCOUNTS.value}' AND w.key <> '' AND w.op IN ('added', 'removed')"
    )
    unreadable = (
        f'SELECT {key} FROM "{table}" t JOIN "connection" c ON c."tenant" = t."tenant"'  # noqa: S608
        f' AND c.connection_id = t.connection_id AND {RESTRICTED} WHERE t."tenant" = {{tenant}}'
        " AND t.connection_id IN (SELECT connection_id FROM w)"
    )
    parts = [named, marked, *([] if table == _ACCOUNT else [of_account]), unreadable]
    return f"WITH {of_window}, k AS ({' UNION '.join(parts)})"


def _named(view: str) -> str:
    """Rows whose account has our id; before it is filled in, no other row can be named (`filling`)."""
    nameless = view in ("v_connection", "v_consent", f"v_{_ACCOUNT}", f"v_{_PARTY}", "v_account_identifier")
    return "" if nameless else " AND v.account_id IS NOT NULL"


def _chosen(view: str, columns: Sequence[str]) -> str:
    assert set(columns) <= _KINDS[view].keys(), f"{view}: has no such column"
    return ", ".join(f"v.{name}" for name in columns)


def _sorted(dialect: Dialect, view: str, order: Sequence[str]) -> str:
    """Nulls first, as SQLite has them."""
    kinds = _KINDS[view]
    those = [_ordered(dialect, f"v.{name}") if kinds[name] is Kind.TEXT else f"v.{name}" for name in order]
    return ", ".join(f"{one} NULLS FIRST" for one in those)


def _ordered(dialect: Dialect, expression: str) -> str:
    return f'{expression} COLLATE "C"' if dialect.is_postgresql else expression

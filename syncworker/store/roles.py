"""Which database role may do what: one line for each table, for PostgreSQL.

Five parties meet at one database.  The *owner* runs the migrations and nothing else needs its rights.  The *worker*
reads and writes the rows of every tenant, also for `syncworker export`, which writes the numbers of exports.  The *web*
process and the *export* role, for programs of the operator's that copy tables, read under row level security, of the
one tenant that their session names (`TENANT_SETTING`); a session that names none sees no row.  An *analyst* role
belongs to one tenant by its policies, which carry the tenant as a literal: nothing that a session can set changes what
it sees, and it reads only columns that are neither sealed nor raw.

This module is data and plain functions; `grants` compares it with a database.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import sqlalchemy as sa

from syncworker.errors import RequestError
from syncworker.store.tables import metadata
from syncworker.store.tokens import IN_DOUBT

TENANT_SETTING: Final = "syncworker.tenant"
"""The parameter of a session that says for which tenant it reads (`store.engines` sets it)."""

PREFIX: Final = "syncworker"
"""How the roles' names begin unless another prefix is given."""

NAME_BYTES_MAX: Final = 63
"""PostgreSQL cuts longer names."""


class Kind(StrEnum):
    """What a role is for."""

    WORKER = "worker"
    """Workers, beat, commands: every tenant, every table, no change of the schema."""
    WEB = "web"
    """The web process: one tenant at a time, by the session's setting."""
    EXPORT = "export"
    """Programs that copy tables: read only, one tenant at a time, by the session's setting."""
    ANALYST = "analyst"
    """People and their tools: read only, the views, one tenant for good."""


@dataclass(frozen=True, slots=True)
class Role:
    """A role of this database.

    Attributes:
        tenant: of an analyst role; `None` for the others.
    """

    name: str
    kind: Kind
    tenant: str | None = None

    @property
    def policy(self) -> str:
        """Name of its policies: the same on every table, by which they are known again."""
        if self.kind is not Kind.ANALYST:
            return f"syncworker_{self.kind.value}"
        return f"syncworker_analyst_{_digest(self.tenant or '')}"


@dataclass(frozen=True, slots=True)
class Access:
    """What the roles beside the worker may do with one table.

    Attributes:
        web, export: privileges as in GRANT, with columns where they hold for some only: `UPDATE (last_used_at)`.
        analyst: whether analysts read it: all but binary columns (sealed values, raw items, digests) and `hidden`.
        hidden: further columns that analysts never read.
        worker: of the worker, where that is less than everything.
        web_deletes: of a table that the web process may delete from, the column and its value of the rows it may.
    """

    web: tuple[str, ...] = ()
    export: tuple[str, ...] = ()
    analyst: bool = False
    hidden: frozenset[str] = frozenset()
    worker: tuple[str, ...] = ("SELECT", "INSERT", "UPDATE", "DELETE")
    web_deletes: tuple[str, str] | None = None


_READ: Final = ("SELECT",)
_DATA: Final = Access(web=_READ, export=_READ, analyst=True)

ACCESS: Final[Mapping[str, Access]] = {
    # what banks sent
    "account": _DATA,
    "account_detail": _DATA,
    "balance": _DATA,
    "balance_history": _DATA,
    "transaction": _DATA,
    "party": _DATA,
    "beneficiary": _DATA,
    "direct_debit": _DATA,
    "standing_order": _DATA,
    "scheduled_payment": _DATA,
    "statement": _DATA,
    "product": _DATA,
    "record_history": Access(web=_READ, export=_READ),
    "unreadable_item": Access(),
    "account_identifier": _DATA,
    "account_reference": _DATA,
    # how fresh and how complete it is
    "cursor": _DATA,
    "connection_check": _DATA,
    "coverage": _DATA,
    "change": Access(web=("SELECT", "INSERT"), export=_READ, analyst=True),
    "feed_epoch": _DATA,
    "feed_pruned": Access(web=_READ, export=_READ),
    "filling": Access(web=_READ),
    "run": Access(web=_READ, export=_READ, analyst=True, hidden=frozenset({"steps"})),
    "finding": Access(web=_READ),
    # connections and consents
    "connection": Access(web=("SELECT", "INSERT", "UPDATE"), export=_READ, analyst=True),
    "consent": Access(
        web=("SELECT", "INSERT", "UPDATE"), export=_READ, analyst=True, hidden=frozenset({"raw", "on_behalf_of"})
    ),
    "account_grant": Access(web=("SELECT", "UPDATE"), export=_READ, analyst=True),
    "expiry_flag": Access(web=_READ, export=_READ),
    # secrets, and what opens doors
    "token": Access(web=("SELECT", "INSERT", "UPDATE", "DELETE")),
    "authorization": Access(web=("SELECT", "INSERT", "UPDATE")),
    "authorization_intent": Access(web=("SELECT", "INSERT", "UPDATE")),
    "tenant_key": Access(),
    "api_key": Access(web=("SELECT", "UPDATE (last_used_at)")),
    "ops_session": Access(web=("SELECT", "INSERT", "DELETE", "UPDATE (last_seen_at)")),
    # webhooks to the product
    "webhook_endpoint": Access(web=("SELECT", "INSERT", "UPDATE", "DELETE")),
    "webhook_message": Access(web=("SELECT", "INSERT", "UPDATE", "DELETE")),
    # refreshes
    "refresh": Access(web=("SELECT", "INSERT", "UPDATE", "DELETE")),
    "refresh_part": Access(web=("SELECT", "INSERT", "UPDATE", "DELETE")),
    # exports
    "export": Access(web=_READ, export=_READ),
    # account openings
    "opening": Access(web=_READ),
    "opening_history": Access(web=_READ),
    # events
    "event": Access(web=("SELECT", "INSERT", "UPDATE", "DELETE")),
    "refused_event": Access(web=("SELECT", "INSERT", "UPDATE", "DELETE")),
    # LFIs, and how they are called
    "lfi": Access(web=("SELECT", "INSERT", "UPDATE (not_before, gate_closed_at)")),
    "lfi_change": Access(web=_READ),
    "breaker": Access(web=("SELECT", "INSERT", "UPDATE")),
    "call_budget": Access(web=("SELECT", "INSERT", "UPDATE")),
    # a call in doubt is replaced by how it went
    "call": Access(web=("SELECT", "INSERT", "DELETE"), web_deletes=("error", IN_DOUBT)),
    "ignored_filter": Access(web=_READ),
    # the work and the processes
    "work": Access(web=("SELECT", "INSERT", "UPDATE", "DELETE")),
    "open_claims": Access(),
    "sql_view": Access(),
    "worker": Access(web=_READ),
    "clock_offset": Access(web=_READ),
    "audit": Access(web=("SELECT", "INSERT"), worker=("SELECT", "INSERT")),
    # what an operator is shown
    "cause": Access(web=_READ),
    "staleness": Access(web=_READ),
    "usual": Access(web=_READ),
    "ops_look": Access(web=("SELECT", "INSERT", "UPDATE")),
    "counter": Access(web=("SELECT", "INSERT", "UPDATE")),
}
"""Every table of the schema; a table that is not here is a failing test (tests/store/test_roles.py)."""

VERSIONS: Final = "alembic_version"
"""Alembic's own table: every process of ours checks the schema's revision."""

SETTINGS: Final[Mapping[Kind, Mapping[str, str]]] = {
    Kind.WORKER: {},
    Kind.WEB: {},
    Kind.EXPORT: {"default_transaction_read_only": "on"},
    Kind.ANALYST: {
        "default_transaction_read_only": "on",
        "statement_timeout": "60s",
        "lock_timeout": "5s",
        "idle_in_transaction_session_timeout": "60s",
        "idle_session_timeout": "30min",
        "timezone": "UTC",
    },
}
"""How a role's sessions begin.  A session may set them anew: they keep accidents small; rights keep people out."""

TEMPORARY: Final = frozenset({Kind.WORKER, Kind.WEB})
"""Kinds that write many rows through a temporary table (`store.bulk`)."""


def role_name(kind: Kind, tenant: str | None = None, *, prefix: str = PREFIX) -> str:
    """The name of a role: `syncworker_web`, `syncworker_analyst_acme`.

    A tenant whose name is no plain lower-case word gets a digest behind it, so that two tenants never share a role.

    Raises:
        RequestError: the prefix is no plain word of at most 24 characters.
    """
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,23}", prefix):
        raise RequestError("--prefix: takes a-z, 0-9 and _, at most 24 characters, no digit first; correct it")
    if tenant is None:
        return f"{prefix}_{kind.value}"
    start = f"{prefix}_{kind.value}_"
    plain = re.sub(r"[^a-z0-9_]", "_", tenant.lower())
    if plain == tenant and len(start + plain) <= NAME_BYTES_MAX:
        return start + plain
    digest = _digest(tenant)
    return f"{start}{plain[: NAME_BYTES_MAX - len(start) - len(digest) - 1]}_{digest}"


def has_tenant(table: str) -> bool:
    """Whether rows of a table belong to tenants."""
    return "tenant" in metadata.tables[table].columns


def privileges(role: Role, table: str) -> frozenset[tuple[str, str | None]]:
    """What a role may do with a table: (privilege, column), `None` for all columns."""
    access = ACCESS[table]
    match role.kind:
        case Kind.WORKER:
            given = access.worker
        case Kind.WEB:
            given = access.web
        case Kind.EXPORT:
            given = access.export
        case Kind.ANALYST:
            return frozenset(("SELECT", column) for column in analyst_columns(table))
    return frozenset(pair for text in given for pair in _parsed(text))


def analyst_columns(table: str) -> tuple[str, ...]:
    """Columns that an analyst may read, in table order; none of a table that is not for analysts."""
    access = ACCESS[table]
    return tuple(
        column.name
        for column in metadata.tables[table].columns
        if access.analyst and column.name not in access.hidden and not isinstance(column.type, sa.LargeBinary)
    )


def _parsed(text: str) -> list[tuple[str, str | None]]:
    privilege, _, columns = text.partition(" (")
    return [(privilege, name.strip()) for name in columns.rstrip(")").split(",")] if columns else [(privilege, None)]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]

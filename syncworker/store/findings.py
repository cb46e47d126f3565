"""What a person has to look at, once for each LFI, operation and code, however many consents meet it.

A finding is written with the end of the run that met it, and resolved by a read of the same operation that shows the
matter gone.  It stays as a row, so that it is known when and how often it was met.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from syncworker.standard.values import ConsentId, Slug
from syncworker.store.dialect import Dialect
from syncworker.store.statements import Statement, Told, named
from syncworker.store.tables import finding

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one run met at one operation.

    Attributes:
        operation: operationId; `''` for the run as a whole.
        code: error or note.
        times: listings that met it.
        interaction_id: of the last call that met it.
        reason: the LFI's own words, cleaned, at most 200 characters.
    """

    lfi: Slug
    operation: str
    code: str
    times: int
    connection_id: ConsentId
    consent_id: ConsentId
    interaction_id: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleared:
    """An operation that a connection met trouble at before, and read without now.

    Attributes:
        last_seen_before: what any connection met before this instant, and not since, counts as gone too.
    """

    lfi: Slug
    operation: str
    connection_id: ConsentId
    last_seen_before: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A finding as it stands.

    Attributes:
        first_seen_at: since it was last resolved.
        times: listings that met it since then.
        connection_id, consent_id, interaction_id, reason: of the last one that met it.
        resolved_at: `None` while it is open.
    """

    lfi: Slug
    operation: str
    code: str
    first_seen_at: datetime
    last_seen_at: datetime
    times: int
    connection_id: ConsentId
    consent_id: ConsentId
    interaction_id: str | None
    reason: str | None
    resolved_at: datetime | None


_FOUND: Final = tuple(Found.__slots__)
_KEY: Final = ("tenant", "lfi", "operation", "code")
_LAST: Final = ("connection_id", "consent_id", "interaction_id", "reason")


def _finding(dialect: Dialect) -> Any:
    those = dialect.given("found", {name: finding.c[name].type for name in _FOUND})
    now = named(finding.c.last_seen_at, "now")
    rows = (
        sa.select(named(finding.c.tenant, "of_tenant"), *(those.c[name] for name in _FOUND), now, now)
        .where(sa.true())
        .order_by(those.c.lfi, those.c.operation, those.c.code)  # all who meet the same lock in one order
    )
    fresh = dialect.insert(finding).from_select(("tenant", *_FOUND, "first_seen_at", "last_seen_at"), rows)
    open_before = finding.c.resolved_at.is_(None)
    return fresh.on_conflict_do_update(
        index_elements=list(_KEY),
        set_={
            "first_seen_at": sa.case((open_before, finding.c.first_seen_at), else_=fresh.excluded.first_seen_at),
            "last_seen_at": fresh.excluded.last_seen_at,
            "times": sa.case((open_before, finding.c.times + fresh.excluded.times), else_=fresh.excluded.times),
            "resolved_at": None,
            **{name: fresh.excluded[name] for name in _LAST},
        },
    )


def _clearing(dialect: Dialect) -> Any:
    columns = {name: finding.c[name].type for name in ("lfi", "operation", "connection_id")}
    kinds = {**columns, "last_seen_before": finding.c.last_seen_at.type}
    those = dialect.keys("cleared", kinds, tenant=named(finding.c.tenant, "of_tenant"))
    return (
        sa.update(finding)
        .where(
            finding.c.tenant == those.c.tenant,
            finding.c.lfi == those.c.lfi,
            finding.c.operation == those.c.operation,
            finding.c.resolved_at.is_(None),
            sa.or_(finding.c.connection_id == those.c.connection_id, finding.c.last_seen_at < those.c.last_seen_before),
        )
        .values(resolved_at=named(finding.c.resolved_at, "now"))
    )


_MEET: Final = Statement(_finding)
_CLEAR: Final = Statement(_clearing)


class Findings:
    """The table `finding` of one tenant.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    def meeting(self, found: Sequence[Found], *, at: datetime) -> Told:
        """Note what runs met, each LFI, operation and code once; to be sent with others."""
        rows = [{name: getattr(one, name) for name in _FOUND} for one in found]
        return _MEET, {"of_tenant": self._unit.tenant, "now": at, "found": self._unit.dialect.rows(rows)}

    def clearing(self, cleared: Sequence[Cleared], *, at: datetime) -> Told:
        """Resolve the findings at operations that were read without trouble; to be sent with others."""
        rows = [{name: getattr(one, name) for name in Cleared.__slots__} for one in cleared]
        return _CLEAR, {"of_tenant": self._unit.tenant, "now": at, "cleared": self._unit.dialect.rows(rows)}

    async def all(self, *, only_open: bool = True, lfi: Slug | None = None, limit: int = 1_000) -> list[Finding]:
        """Findings, by LFI, operation and code."""
        query = sa.select(*(finding.c[name] for name in Finding.__slots__)).where(finding.c.tenant == self._unit.tenant)
        if only_open:
            query = query.where(finding.c.resolved_at.is_(None))
        if lfi is not None:
            query = query.where(finding.c.lfi == lfi)
        rows = await self._unit.connection.execute(
            query.order_by(finding.c.lfi, finding.c.operation, finding.c.code).limit(limit)
        )
        return [Finding(**dict(row)) for row in rows.mappings()]


def together(found: Sequence[Found]) -> list[Found]:
    """What several listings or runs met, each LFI, operation and code once: counted, with the last one's facts."""
    by_key: dict[tuple[str, str, str], Found] = {}
    for one in found:
        key = (one.lfi, one.operation, one.code)
        times = one.times + (by_key[key].times if key in by_key else 0)
        by_key[key] = Found(**{name: getattr(one, name) for name in _FOUND} | {"times": times})
    return [by_key[key] for key in sorted(by_key)]

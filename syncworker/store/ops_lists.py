"""Lists for the eyes of an operator: work, audit, events, quarantine, messages, openings; newest first, page by page.

A page begins behind a number, so that rows which come meanwhile move nothing.  Bodies, contents and secrets are not
read.  Nothing here writes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import sqlalchemy as sa

from syncworker.store.inbox import EventState
from syncworker.store.tables import (
    audit,
    event,
    opening,
    opening_history,
    refused_event,
    webhook_endpoint,
    webhook_message,
    work,
)
from syncworker.store.work import FOR_EVER, TROUBLED, WorkKind

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork


class WorkState(StrEnum):
    """Filters of rows of work."""

    DUE = "due"
    CLAIMED = "claimed"
    PARKED = "parked"
    FAILING = "failing"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkLine:
    """One row of work."""

    id: int
    kind: str
    subject: str
    lfi: str
    due_at: datetime
    asked_at: datetime | None
    lease_until: datetime | None
    attempts: int
    crashes: int
    parked_at: datetime | None
    last_started_at: datetime | None
    last_ended_at: datetime | None
    last_good_at: datetime | None
    last_outcome: str | None
    last_error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLine:
    """One act on record: a constant word, the id it is about, ids and codes as facts."""

    id: int
    at: datetime
    what: str
    subject: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLine:
    """One event that verified, without its content."""

    id: int
    issuer: str
    kind: str
    subject: str
    lfi: str
    event_type: str
    happened_at: datetime | None
    status: str | None
    received_at: datetime
    received: int
    state: str
    outcome: str | None
    acted_at: datetime | None
    interaction_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedLine:
    """One event that did not verify, without its body.

    Attributes:
        kept: its body is kept, so that it may verify once more.
    """

    id: int
    why: str
    address: str
    media_type: str
    size: int
    kid: str | None
    issuer: str | None
    received_at: datetime
    last_at: datetime
    received: int
    kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageLine:
    """One message for an endpoint of the product, without what it says."""

    id: int
    endpoint_id: str
    message_id: str
    type: str
    connection_id: str
    created_at: datetime
    not_before: datetime
    attempts: int
    last_status: int | None
    last_error: str | None
    ended_at: datetime | None
    outcome: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointLine:
    """One endpoint of the product, without its secrets and its URL's path.

    Attributes:
        host: of its URL, with the port.
        types: those it wants; empty: every one.
    """

    endpoint_id: str
    host: str
    types: tuple[str, ...]
    failing_since: datetime | None
    disabled_at: datetime | None
    disabled_why: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpeningLine:
    """One account opening, without request, answer and redirect."""

    opening_id: str
    lfi: str
    version: str
    user_ref: str
    state: str
    status: str | None
    state_since: datetime
    heard_at: datetime | None
    overdue_at: datetime | None
    ended_at: datetime | None
    http_status: int | None
    error: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedLine:
    """A state an account opening was in."""

    at: datetime
    state: str
    status: str | None
    source: str
    error: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """Which rows.

    Attributes:
        before: number of the last row of the page before.
        where: column and value, each to hold.
    """

    before: int | None = None
    limit: int = 50
    where: Mapping[str, str] = field(default_factory=dict)


class OpsLists:
    """Reads lists of one tenant, for operators."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def work(
        self, page: Page, *, state: WorkState | None = None, after: tuple[datetime, int] | None = None
    ) -> list[WorkLine]:
        """Rows of work that are wanted, those due first in front.

        Args:
            after: `due_at` and number of the last row of the page before.
        """
        now = await self._unit.now()
        query = self._of(work, WorkLine, page).where(*_in_state(state, now))
        if after is not None:
            at = sa.literal(after[0], work.c.due_at.type)
            query = query.where(sa.or_(work.c.due_at > at, sa.and_(work.c.due_at == at, work.c.id > after[1])))
        query = query.order_by(work.c.due_at, work.c.id).limit(page.limit)
        return [WorkLine(**row) for row in (await self._unit.connection.execute(query)).mappings()]

    async def work_row(self, number: int) -> WorkLine | None:
        """One row of work."""
        query = self._of(work, WorkLine, Page()).where(work.c.id == number)
        row = (await self._unit.connection.execute(query)).mappings().first()
        return None if row is None else WorkLine(**row)

    async def audit(self, page: Page) -> list[AuditLine]:
        """Acts, newest first."""
        rows = await self._newest(audit, AuditLine, page)
        return [AuditLine(**row) for row in rows]

    async def audit_row(self, number: int) -> AuditLine | None:
        """One act."""
        query = self._of(audit, AuditLine, Page()).where(audit.c.id == number)
        row = (await self._unit.connection.execute(query)).mappings().first()
        return None if row is None else AuditLine(**row)

    async def events(self, page: Page, *, state: EventState | None = None) -> list[EventLine]:
        """Events, newest first."""
        few = state in (EventState.FILED, EventState.QUARANTINED)  # an index has those of the tenant alone
        conditions = () if state is None else (event.c.state == state.value,)
        return [EventLine(**row) for row in await self._newest(event, EventLine, page, *conditions, few=few)]

    async def event(self, number: int) -> EventLine | None:
        """One event."""
        query = self._of(event, EventLine, Page()).where(event.c.id == number)
        row = (await self._unit.connection.execute(query)).mappings().first()
        return None if row is None else EventLine(**row)

    async def refused(self, page: Page) -> list[RefusedLine]:
        """Events that did not verify, newest first."""
        query = self._refused(newest=True).order_by(refused_event.c.id.desc()).limit(page.limit)
        if page.before is not None:
            query = query.where(refused_event.c.id < page.before)
        rows = (await self._unit.connection.execute(query)).mappings()
        return [RefusedLine(**{**row, "kept": bool(row["kept"])}) for row in rows]

    async def refused_row(self, number: int) -> RefusedLine | None:
        """One event that did not verify."""
        query = self._refused().where(refused_event.c.id == number)
        row = (await self._unit.connection.execute(query)).mappings().first()
        return None if row is None else RefusedLine(**{**row, "kept": bool(row["kept"])})

    async def endpoints(self) -> list[EndpointLine]:
        """Endpoints of the product, oldest first; their secrets are not opened."""
        at = webhook_endpoint.c
        columns = (at.endpoint_id, at.url, at.types, at.failing_since, at.disabled_at, at.disabled_why)
        query = sa.select(*columns).where(at.tenant == self._unit.tenant).order_by(at.created_at, at.endpoint_id)
        return [
            EndpointLine(
                endpoint_id=row.endpoint_id,
                host=urlsplit(row.url).netloc.rpartition("@")[2],
                types=tuple((row.types or "").split()),
                failing_since=row.failing_since,
                disabled_at=row.disabled_at,
                disabled_why=row.disabled_why,
            )
            for row in await self._unit.connection.execute(query)
        ]

    async def messages(self, page: Page, *, waiting: bool | None = None) -> list[MessageLine]:
        """Messages to the product, newest first."""
        ended = webhook_message.c.ended_at
        conditions = () if waiting is None else (ended.is_(None) if waiting else ended.is_not(None),)
        return [MessageLine(**row) for row in await self._newest(webhook_message, MessageLine, page, *conditions)]

    async def message(self, number: int) -> MessageLine | None:
        """One message."""
        query = self._of(webhook_message, MessageLine, Page()).where(webhook_message.c.id == number)
        row = (await self._unit.connection.execute(query)).mappings().first()
        return None if row is None else MessageLine(**row)

    async def openings(self, *, after: tuple[datetime, str] | None = None, limit: int = 50) -> list[OpeningLine]:
        """Account openings, newest first.

        Args:
            after: `created_at` and id of the last one of the page before.
        """
        query = self._of(opening, OpeningLine, Page())
        if after is not None:
            at = sa.literal(after[0], opening.c.created_at.type)
            same = sa.and_(opening.c.created_at == at, opening.c.opening_id < after[1])
            query = query.where(sa.or_(opening.c.created_at < at, same))
        query = query.order_by(opening.c.created_at.desc(), opening.c.opening_id.desc()).limit(limit)
        return [OpeningLine(**row) for row in (await self._unit.connection.execute(query)).mappings()]

    async def opening(self, opening_id: str) -> tuple[OpeningLine, list[MovedLine]] | None:
        """One account opening with the states it was in, oldest first."""
        query = self._of(opening, OpeningLine, Page()).where(opening.c.opening_id == opening_id)
        row = (await self._unit.connection.execute(query)).mappings().first()
        if row is None:
            return None
        moved = (
            self._of(opening_history, MovedLine, Page())
            .where(opening_history.c.opening_id == opening_id)
            .order_by(opening_history.c.id)
        )
        states = (await self._unit.connection.execute(moved)).mappings()
        return OpeningLine(**row), [MovedLine(**one) for one in states]

    def _refused(self, *, newest: bool = False) -> sa.Select[Any]:
        names = [name for name in RefusedLine.__slots__ if name != "kept"]
        columns = [refused_event.c[name] for name in names]
        tenant = self._unit.dialect.beside(refused_event.c.tenant) if newest else refused_event.c.tenant
        return sa.select(*columns, refused_event.c.body.is_not(None).label("kept")).where(tenant == self._unit.tenant)

    def _of(
        self, table: sa.Table, line: Any, page: Page, *, tenant: sa.ColumnElement[str] | None = None
    ) -> sa.Select[Any]:
        mine = (table.c.tenant if tenant is None else tenant) == self._unit.tenant
        return sa.select(*(table.c[name] for name in line.__slots__)).where(
            mine, *(table.c[name] == value for name, value in page.where.items())
        )

    async def _newest(
        self, table: sa.Table, line: Any, page: Page, *conditions: sa.ColumnElement[bool], few: bool = False
    ) -> list[Mapping[str, Any]]:
        """Rows by number; `few`: those of the tenant in this state are found sooner than the newest ones."""
        tenant = table.c.tenant if few else self._unit.dialect.beside(table.c.tenant)
        query = self._of(table, line, page, tenant=tenant).where(*conditions)
        query = query.order_by(table.c.id.desc()).limit(page.limit)
        if page.before is not None:
            query = query.where(table.c.id < page.before)
        return [dict(row) for row in (await self._unit.connection.execute(query)).mappings()]


def _in_state(state: WorkState | None, now: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    """Rows that rest are left out unless they are parked: nothing is due of them."""
    leased = sa.and_(work.c.lease_until.is_not(None), work.c.lease_until > now)
    match state:
        case None:
            return (sa.or_(work.c.due_at < FOR_EVER, work.c.parked_at.is_not(None)),)
        case WorkState.DUE:
            return work.c.due_at <= now, work.c.parked_at.is_(None), sa.not_(leased)
        case WorkState.CLAIMED:
            return (leased,)
        case WorkState.PARKED:
            return (work.c.parked_at.is_not(None),)
        case WorkState.FAILING:
            return work.c.parked_at.is_(None), TROUBLED


KINDS: Final = tuple(kind.value for kind in WorkKind)
"""Kinds of work, in the order they are shown."""

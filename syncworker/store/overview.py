"""What an operator is shown, counted by the database: every connection's standing, and the facts beside it.

All statements of `Overview.read` travel together: one trip on PostgreSQL, whatever the number of connections.  Rows
come for connections in trouble alone; all others are counted.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from syncworker.standard.consents import TERMINAL, Status
from syncworker.standard.openings import OpeningState
from syncworker.standard.operations import OperationClass
from syncworker.standard.values import ConsentId, Slug
from syncworker.store import breakers, lfis
from syncworker.store.breakers import Breaker
from syncworker.store.calls import timings
from syncworker.store.clocks import ClockOffset
from syncworker.store.dialect import Dialect, Instant
from syncworker.store.findings import Finding
from syncworker.store.lfis import Gate
from syncworker.store.standings import AGES, STANDING, Counted, Troubled, is_terminal, read_standing
from syncworker.store.statements import NOW, Answer, Statement, Told, named, run_all
from syncworker.store.tables import (
    cause,
    clock_offset,
    consent,
    event,
    finding,
    opening,
    ops_look,
    run,
    usual,
    webhook_endpoint,
    webhook_message,
    work,
    worker,
)
from syncworker.store.work import SUMMARY, WorkKind, WorkSummary, read_summary
from syncworker.store.workers import WorkerRow

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

RECENT_RUNS: Final = 300
"""Newest runs whose calls are looked at for the latency of now."""

CONSUMED_FOR: Final = timedelta(days=7)
"""How long a consent is among `Overview.odd` that ended as none may."""


class ConsentCount(NamedTuple):
    """Consents by the Hub's word, or by why the user has to act."""

    word: str
    consents: int
    paused: int
    revocations: int
    subscriptions: int
    drifted: int
    expiring: int


class OddConsent(NamedTuple):
    """A consent to look at: revoked here and not at the Hub, not as the Hub has it, or Consumed."""

    consent_id: ConsentId
    lfi: Slug
    status: str
    ended_at: datetime | None
    revoke_asked_at: datetime | None
    drift: str | None

    @property
    def terminal(self) -> bool:
        """Whether the Hub will never move it again."""
        return self.status in TERMINAL


class Backlog(NamedTuple):
    """An endpoint of the product, and the messages that wait for it."""

    endpoint_id: str
    url: str
    failing_since: datetime | None
    disabled_at: datetime | None
    disabled_why: str | None
    waiting: int
    oldest: datetime | None


class Inbox(NamedTuple):
    """Events that wait to be acted on, and those that concern nothing we know."""

    waiting: int
    oldest: datetime | None
    quarantined: int


NO_EVENTS: Final = Inbox(0, None, 0)


class OpenedCause(NamedTuple):
    """A row of `cause`."""

    kind: str
    key: str
    began_at: datetime
    seen_at: datetime
    ended_at: datetime | None
    stale: int
    failing: int
    waiting: int


class Usual(NamedTuple):
    """What a call of a resource usually takes at an LFI; `resource` is `''` for a run as a whole."""

    lfi: Slug
    resource: str
    median_ms: int
    samples: int


class Timing(NamedTuple):
    """A call of a recent run."""

    lfi: Slug
    operation: str
    duration_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What the tables say at one instant.

    Attributes:
        now: database time.
        openings: account openings that are unknown, and those that are overdue.
        in_work: begin of each sync in work of a connection that was read well before, by LFI.
        looked_at: when housekeeping last looked.
        open_causes: those that last; `last_cause`: the one that ended last.
    """

    now: datetime
    troubled: Sequence[Troubled] = ()
    counts: Sequence[Counted] = ()
    consents: Sequence[ConsentCount] = ()
    odd: Sequence[OddConsent] = ()
    work: Sequence[WorkSummary] = ()
    gates: Mapping[Slug, Gate] = field(default_factory=dict)
    breakers: Mapping[tuple[Slug, OperationClass], Breaker] = field(default_factory=dict)
    workers: Sequence[WorkerRow] = ()
    clocks: Sequence[ClockOffset] = ()
    findings: Sequence[Finding] = ()
    openings: tuple[int, int] = (0, 0)
    last_run_at: datetime | None = None
    backlogs: Sequence[Backlog] = ()
    inbox: Inbox = NO_EVENTS
    usual: Sequence[Usual] = ()
    timings: Sequence[Timing] = ()
    in_work: Sequence[tuple[Slug, datetime]] = ()
    open_causes: Sequence[OpenedCause] = ()
    last_cause: OpenedCause | None = None
    looked_at: datetime | None = None


# -- the facts beside it -----------------------------------------------------------------------------------------------


def _consents(dialect: Dialect) -> sa.Select[Any]:
    living = sa.not_(is_terminal(consent.c.status))
    word = sa.case((sa.and_(living, consent.c.needs_consent.is_not(None)), consent.c.needs_consent),
                   else_=consent.c.status)  # fmt: skip
    ending = sa.and_(
        consent.c.status == Status.Authorized.value, consent.c.expires_at < dialect.after(timedelta(days=30))
    )

    def count(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
        return sa.func.count(sa.case((condition, 1)))

    return (
        sa.select(
            word,
            sa.func.count(),
            count(sa.and_(living, consent.c.paused_at.is_not(None))),
            count(sa.and_(living, consent.c.revoke_asked_at.is_not(None))),
            count(sa.and_(living, consent.c.webhook_wanted.is_not(None))),
            sa.func.count(consent.c.drift),
            count(ending),
        )
        .where(consent.c.tenant == named(consent.c.tenant))
        .group_by(word)
    )


def _odd(dialect: Dialect) -> sa.Select[Any]:
    living = sa.not_(is_terminal(consent.c.status))
    consumed = sa.and_(
        consent.c.status == Status.Consumed.value,
        sa.or_(consent.c.ended_at.is_(None), consent.c.ended_at > dialect.after(-CONSUMED_FOR)),
    )
    told = sa.and_(living, consent.c.revoke_asked_at.is_not(None))
    return (
        sa.select(*(consent.c[name] for name in OddConsent._fields))
        .where(consent.c.tenant == named(consent.c.tenant), sa.or_(consumed, told, consent.c.drift.is_not(None)))
        .order_by(consent.c.consent_id)
    )


def _backlogs(_: Dialect) -> sa.Select[Any]:
    tenant = named(webhook_endpoint.c.tenant)
    waiting = (
        sa.select(
            webhook_message.c.endpoint_id,
            sa.func.count().label("waiting"),
            sa.func.min(webhook_message.c.created_at).label("oldest"),
        )
        .where(webhook_message.c.tenant == tenant, webhook_message.c.ended_at.is_(None))
        .group_by(webhook_message.c.endpoint_id)
        .subquery("waiting")
    )
    names = ("endpoint_id", "url", "failing_since", "disabled_at", "disabled_why")
    return (
        sa.select(
            *(webhook_endpoint.c[name] for name in names), sa.func.coalesce(waiting.c.waiting, 0), waiting.c.oldest
        )
        .select_from(webhook_endpoint.outerjoin(waiting, waiting.c.endpoint_id == webhook_endpoint.c.endpoint_id))
        .where(webhook_endpoint.c.tenant == tenant)
        .order_by(webhook_endpoint.c.endpoint_id)
    )


def _inbox(_: Dialect) -> sa.Select[Any]:
    tenant = named(event.c.tenant)
    filed = sa.select(sa.func.count(), sa.func.min(event.c.received_at)).where(
        event.c.tenant == tenant, event.c.state == "filed"
    )
    quarantined = sa.select(sa.func.count()).where(event.c.tenant == tenant, event.c.state == "quarantined")
    waiting = filed.subquery("filed")
    return sa.select(waiting.c[0], waiting.c[1], quarantined.scalar_subquery())


def _openings(_: Dialect) -> Any:
    unknown = opening.c.state == OpeningState.UNKNOWN.value
    overdue = sa.and_(sa.not_(unknown), opening.c.overdue_at.is_not(None))
    return sa.select(sa.func.count(sa.case((unknown, 1))), sa.func.count(sa.case((overdue, 1)))).where(
        opening.c.tenant == named(opening.c.tenant)
    )


def _in_work(dialect: Dialect) -> sa.Select[Any]:
    return sa.select(work.c.lfi, work.c.last_started_at).where(
        work.c.tenant == named(work.c.tenant),
        work.c.kind == WorkKind.SYNC.value,
        work.c.lease_until > dialect.now(),
        work.c.started_gen == work.c.gen,
        work.c.last_good_at.is_not(None),
        work.c.last_started_at.is_not(None),
    )


def _recent(dialect: Dialect) -> sa.Select[Any]:
    return (
        sa.select(run.c.lfi, run.c.packed)
        .where(
            dialect.beside(run.c.tenant) == named(run.c.tenant),
            run.c.call_mark >= named(run.c.call_mark, "lowest"),
            run.c.packed.is_not(None),
        )
        .order_by(run.c.call_mark.desc())
        .limit(RECENT_RUNS)
    )


_CAUSE: Final = tuple(cause.c[name] for name in OpenedCause._fields)
_WORKER: Final = tuple(WorkerRow.__slots__)
_FINDING: Final = tuple(Finding.__slots__)
_CLOCK: Final = ("host", "peer", "offset_ms", "within_ms", "measured_at")

_CONSENTS: Final = Statement(_consents)
_ODD: Final = Statement(_odd)
_BACKLOGS: Final = Statement(_backlogs)
_INBOX: Final = Statement(_inbox)
_OPENINGS: Final = Statement(_openings)
_IN_WORK: Final = Statement(_in_work)
_RECENT: Final = Statement(_recent)
_WORKERS: Final = Statement(lambda _: sa.select(*(worker.c[name] for name in _WORKER)).order_by(worker.c.name))
_CLOCKS: Final = Statement(
    lambda dialect: (
        sa.select(*(clock_offset.c[name] for name in _CLOCK))
        .where(
            clock_offset.c.tenant == named(clock_offset.c.tenant),
            clock_offset.c.measured_at >= dialect.after(-timedelta(hours=3)),  # older ones speak of hosts that are gone
        )
        .order_by(clock_offset.c.host, clock_offset.c.peer)
    )
)
_FINDINGS: Final = Statement(
    lambda _: (
        sa.select(*(finding.c[name] for name in _FINDING))
        .where(finding.c.tenant == named(finding.c.tenant), finding.c.resolved_at.is_(None))
        .order_by(finding.c.lfi, finding.c.operation, finding.c.code)
        .limit(1_000)
    )
)
_LAST_RUN: Final = Statement(
    lambda dialect: (
        sa.select(run.c.ended_at)
        .where(dialect.beside(run.c.tenant) == named(run.c.tenant))
        .order_by(run.c.id.desc())
        .limit(1)
    )
)
_USUAL: Final = Statement(
    lambda _: (
        sa.select(*(usual.c[name] for name in Usual._fields))
        .where(usual.c.tenant == named(usual.c.tenant))
        .order_by(usual.c.lfi, usual.c.resource)
    )
)
_OPEN_CAUSES: Final = Statement(
    lambda _: (
        sa.select(*_CAUSE)
        .where(cause.c.tenant == named(cause.c.tenant), cause.c.ended_at.is_(None))
        .order_by(cause.c.began_at, cause.c.key)
    )
)
_LAST_CAUSE: Final = Statement(
    lambda _: (
        sa.select(*_CAUSE)
        .where(cause.c.tenant == named(cause.c.tenant), cause.c.ended_at.is_not(None))
        .order_by(cause.c.ended_at.desc(), cause.c.id.desc())
        .limit(1)
    )
)
_LOOKED: Final = Statement(
    lambda _: sa.select(sa.type_coerce(ops_look.c.at, Instant())).where(
        ops_look.c.tenant == named(ops_look.c.tenant), ops_look.c.name == "tick"
    )
)


class Overviews:
    """The overview of one tenant.  Nothing here writes."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def read(self, *, rule: str, recent_mark: int, user_refs: Collection[str] | None = None) -> Overview:
        """Everything, in one trip.

        Args:
            rule: digest of cadence and margin that connections are to be judged by.
            recent_mark: lowest `call_mark` of runs whose latency counts as that of now.
            user_refs: customers whose connections may be called; `None`: every one.
        """
        tenant = {"tenant": self._unit.tenant}
        standing = self._standing(rule, user_refs)
        told: dict[str, Told] = {
            "now": (NOW, {}),
            "standing": (STANDING, standing),
            "consents": (_CONSENTS, tenant),
            "odd": (_ODD, tenant),
            "work": (SUMMARY, tenant),
            "gates": (lfis.GATES, tenant),
            "breakers": (breakers.ALL, tenant),
            "workers": (_WORKERS, {}),
            "clocks": (_CLOCKS, tenant),
            "findings": (_FINDINGS, tenant),
            "openings": (_OPENINGS, tenant),
            "last_run": (_LAST_RUN, tenant),
            "backlogs": (_BACKLOGS, tenant),
            "inbox": (_INBOX, tenant),
            "usual": (_USUAL, tenant),
            "recent": (_RECENT, {**tenant, "lowest": recent_mark}),
            "in_work": (_IN_WORK, tenant),
            "open_causes": (_OPEN_CAUSES, tenant),
            "last_cause": (_LAST_CAUSE, tenant),
            "looked": (_LOOKED, tenant),
        }
        answers = dict(zip(told, await run_all(self._unit, list(told.values())), strict=True))
        return _overview({name: answer.rows for name, answer in answers.items()}, answers)

    async def ages(self, *, rule: str, user_refs: Collection[str] | None = None) -> list[tuple[Slug, bytes]]:
        """LFI and ages (`store.ages`) of every connection that can be fresh and was read; arguments as of `read`."""
        answer = await AGES.run(self._unit, **self._standing(rule, user_refs))
        return [(Slug(lfi), packed) for lfi, packed in answer.rows]

    def _standing(self, rule: str, user_refs: Collection[str] | None) -> dict[str, Any]:
        allowed = self._unit.dialect.rows([{"user_ref": one} for one in sorted(user_refs or ())])
        return {"tenant": self._unit.tenant, "rule": rule, "everybody": user_refs is None, "allowed": allowed}


def _overview(rows: Mapping[str, Sequence[tuple[Any, ...]]], answers: Mapping[str, Answer]) -> Overview:
    ((now,),) = rows["now"]
    troubled, counts = read_standing(answers["standing"])
    ((unknown, overdue),) = rows["openings"]
    return Overview(
        now=now,
        troubled=troubled,
        counts=counts,
        consents=[ConsentCount(*row) for row in rows["consents"]],
        odd=[OddConsent(*row) for row in rows["odd"]],
        work=read_summary(answers["work"], now=now),
        gates=lfis.read_gates(answers["gates"]),
        breakers=breakers.read_all(answers["breakers"]),
        workers=[WorkerRow(**dict(zip(_WORKER, row, strict=True))) for row in rows["workers"]],
        clocks=[
            ClockOffset(
                host=host,
                peer=peer,
                offset=timedelta(milliseconds=offset_ms),
                within=timedelta(milliseconds=within_ms),
                measured_at=at,
            )
            for host, peer, offset_ms, within_ms, at in rows["clocks"]
        ],
        findings=[Finding(**dict(zip(_FINDING, row, strict=True))) for row in rows["findings"]],
        openings=(unknown, overdue),
        last_run_at=rows["last_run"][0][0] if rows["last_run"] else None,
        backlogs=[Backlog(*row) for row in rows["backlogs"]],
        inbox=Inbox(*rows["inbox"][0]),
        usual=[Usual(*row) for row in rows["usual"]],
        timings=[
            Timing(Slug(lfi), operation, duration)
            for lfi, packed in rows["recent"]
            for operation, duration in timings(packed)
        ],
        in_work=[(Slug(lfi), at) for lfi, at in rows["in_work"]],
        open_causes=[OpenedCause(*row) for row in rows["open_causes"]],
        last_cause=next((OpenedCause(*row) for row in rows["last_cause"]), None),
        looked_at=rows["looked"][0][0] if rows["looked"] else None,
    )

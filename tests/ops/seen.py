"""Statuses made by hand: what there is to see, in the least words."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from syncworker.ops.status import Status
from syncworker.standard.operations import OperationClass
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.breakers import Breaker
from syncworker.store.overview import Overview
from syncworker.store.runs import TrafficRow
from syncworker.store.standings import LIVE, NEEDS_CONSENT, Counted, Troubled
from syncworker.store.work import WorkKind, WorkSummary
from syncworker.store.workers import WorkerRow

NOW: Final = datetime(2026, 3, 1, 3, tzinfo=UTC)
NOOR, HILAL = Slug("noor"), Slug("hilal")
DATA, TOKEN = OperationClass.DATA, OperationClass.TOKEN
MINUTE: Final = timedelta(minutes=1)
HOUR: Final = timedelta(hours=1)


def process(name: str = "host/1", kind: str = "worker", *, quiet: timedelta = timedelta(seconds=2),
            **changes: Any) -> WorkerRow:  # fmt: skip
    facts: dict[str, Any] = {
        "name": name, "kind": kind, "started_at": NOW - 9 * HOUR, "progress_at": NOW - quiet,
        "canary_asked_at": NOW - quiet, "canary_at": NOW - quiet,
    }  # fmt: skip
    return WorkerRow(**facts | changes)


LIVING: Final = (process(), process("host/2", "beat"))


def work(kind: WorkKind = WorkKind.SYNC, **changes: Any) -> WorkSummary:
    facts: dict[str, Any] = {"lfi": NOOR, "kind": kind, "rows": 100, "due": 0, "late": timedelta(), "leased": 0}
    return WorkSummary(**facts | {"parked": 0} | changes)


def breaker(operations: OperationClass = DATA, lfi: Slug = NOOR, **changes: Any) -> Breaker:
    facts: dict[str, Any] = {
        "lfi": lfi, "operations": operations, "opened_at": NOW - 2 * MINUTE, "until": NOW + MINUTE, "trips": 3,
        "reason": "lfi_unavailable:timeout", "closed_at": None,
    }  # fmt: skip
    return Breaker(**facts | changes)


def breakers(*those: Breaker) -> dict[tuple[Slug, OperationClass], Breaker]:
    return {(Slug(one.lfi), one.operations): one for one in those}


def connection(name: str = "c-1", *, stale_for: timedelta | None = None, error: str | None = None,
               **changes: Any) -> Troubled:  # fmt: skip
    """A connection in trouble: stale for so long, or its last sync ended badly with that code."""
    facts: dict[str, Any] = {
        "connection_id": ConsentId(name), "lfi": NOOR, "user_ref": f"user-{name}", "state": LIVE, "error": error,
        "ended_at": NOW - MINUTE, "good_at": NOW - 8 * HOUR, "parked": False, "failing": error is not None,
        "retry": error is not None, "stale_at": None if stale_for is None else NOW - stale_for,
        "checked_at": NOW - 9 * HOUR, "resource": "balances", "judged": True, "created_at": NOW - 900 * HOUR,
    }  # fmt: skip
    if stale_for is None:
        facts["stale_at"] = NOW + HOUR
    return Troubled(**facts | changes)


def lost(name: str) -> Troubled:
    """A connection whose customer must consent again."""
    return connection(name, error="grant_lost", state=NEEDS_CONSENT)


def counted(connections: int, state: str = LIVE, lfi: Slug = NOOR, **changes: Any) -> Counted:
    facts: dict[str, Any] = {"ends_7": 0, "ends_30": 0, "good_at": None}
    return Counted(lfi, state, connections, **facts | changes)


def traffic(**changes: Any) -> TrafficRow:
    facts: dict[str, Any] = {
        "lfi": NOOR, "calls": 100, "retried": 0, "unanswered": 0, "rate_limited": 0, "price_millifils": 0,
    }  # fmt: skip
    return TrafficRow(**facts | changes)


def seen(*, status: dict[str, Any] | None = None, **overview: Any) -> Status:
    """A status in which all is well, but for what is given.

    Args:
        status: members of the status itself; all others are of its overview.
    """
    tables: dict[str, Any] = {"now": NOW, "work": (work(),), "workers": LIVING}
    facts: dict[str, Any] = {"at": NOW, "declared": frozenset({NOOR, HILAL}), "overview": Overview(**tables | overview)}
    return Status(**facts | (status or {}))

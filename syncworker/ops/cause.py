"""What a cause of trouble is: its kinds, whose side it is on, what it hits, what to do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from syncworker.standard.operations import OperationClass
from syncworker.standard.values import Slug


class CauseKind(StrEnum):
    """What is wrong.  In the order in which causes of the same effect are told: roots first."""

    DATABASE_AWAY = "database_away"
    DATABASE_FULL = "database_full"
    DATABASE_READ_ONLY = "database_read_only"
    KEYRING = "keyring"
    BROKER_SILENT = "broker_silent"
    BROKER_FOREIGN = "broker_foreign"
    WORKERS_DEAD = "workers_dead"
    """No worker gets on."""
    BEAT_DEAD = "beat_dead"
    WORKER_HANGS = "worker_hangs"
    """One worker does not get on, others do."""
    CLOCK_APART = "clock_apart"
    CERTIFICATE_ENDED = "certificate_ended"
    CERTIFICATE_UNFIT = "certificate_unfit"
    """Its file cannot be read, or does not match its key."""
    LFI_REJECTS = "lfi_rejects"
    """It does not accept us as a client."""
    LFI_DOWN = "lfi_down"
    LFI_GATED = "lfi_gated"
    LFI_SLOW = "lfi_slow"
    LFI_UNDECLARED = "lfi_undeclared"
    SLOTS_SPENT = "slots_spent"
    """All slots of an LFI are in work, and more is late."""
    BUDGET_SPENT = "budget_spent"
    """The budget of short retries at an LFI."""
    CAPACITY = "capacity"
    """More is due than the workers get done."""
    PARKED = "parked"
    WORK_FAILING = "work_failing"
    """Work that is no sync ended badly."""
    FINDING = "finding"
    """What an LFI or a bug of ours does that a person has to look at."""
    FEED_HELD = "feed_held"
    DELIVERIES_STUCK = "deliveries_stuck"
    EXPORT_LATE = "export_late"
    INBOX_STUCK = "inbox_stuck"
    REVOCATIONS_PENDING = "revocations_pending"
    CONSENTS_CONSUMED = "consents_consumed"
    CONSENTS_DRIFTED = "consents_drifted"
    OPENINGS_UNKNOWN = "openings_unknown"
    OPENINGS_OVERDUE = "openings_overdue"
    OBSERVERS = "observers"
    CERTIFICATE_ENDS = "certificate_ends"
    STANDSTILL = "standstill"
    """Past only: nothing ticked, so nothing could note what was wrong."""


class Side(StrEnum):
    """Whose side a cause is on: where it is mended."""

    US = "us"
    LFI = "lfi"
    HUB = "hub"
    PRODUCT = "product"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a cause hits, counted.

    Attributes:
        stale: connections that are stale by it.
        failing: connections whose last sync ended badly by it.
        waiting: late rows of work, messages or exports that wait for its end.
        connections: connections that it will hit from some instant on.
    """

    stale: int = 0
    failing: int = 0
    waiting: int = 0
    connections: int = 0

    @property
    def weight(self) -> int:
        """What causes are ordered by."""
        return self.stale + self.failing


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One thing that is wrong.

    Attributes:
        kind, key: `key` is the kind and what it is about, the same as long as it lasts: `lfi_down:bank-one`.
        what: one line that names it.
        why: how that is known; may be empty.
        since: when it began; `None`: not known.
        step: what to do next, a sentence.
        command: the one command for it; `None`: there is none.
        by_itself: it mends by itself; nothing has to be done as long as it does.
        grave: it hits now; else it will, or is worth a look.
        lfi, operations: what it keeps back: these classes of calls at that LFI.
        stops_all: it keeps all work back.
        codes: error codes of runs that it explains, by their beginnings.
        kinds: further kinds of work whose late rows it explains, `lfi:kind`.
        number: from 1, in the order of effect.
    """

    kind: CauseKind
    key: str
    what: str
    why: str = ""
    since: datetime | None = None
    side: Side = Side.US
    step: str
    command: str | None = None
    by_itself: bool = False
    grave: bool = True
    lfi: Slug | None = None
    operations: frozenset[OperationClass] = frozenset()
    stops_all: bool = False
    codes: tuple[str, ...] = ()
    kinds: frozenset[str] = frozenset()
    effect: Effect = field(default_factory=Effect)
    number: int = 0

    @property
    def line(self) -> str:
        """What and why in one line."""
        return f"{self.what}: {self.why}" if self.why else self.what

    def as_json(self) -> Mapping[str, Any]:
        """As every view shows it."""
        return {
            "number": self.number,
            "kind": self.kind.value,
            "key": self.key,
            "what": self.what,
            "why": self.why,
            "since": self.since,
            "effect": {
                "stale": self.effect.stale,
                "failing": self.effect.failing,
                "waiting": self.effect.waiting,
                "connections": self.effect.connections,
            },
            "side": self.side.value,
            "next": self.step,
            "command": self.command,
            "by_itself": self.by_itself,
            "grave": self.grave,
            "lfi": self.lfi,
        }


def key_of(kind: CauseKind, *about: str) -> str:
    """The key of a cause, at most 200 characters."""
    return ":".join([kind.value, *about])[:200]

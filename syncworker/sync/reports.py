"""What a run says at its end: plain values, ids, counts and codes only.

Of each listing and of the run three facts, kept apart: complete, retry, needs a person (`sync.facts`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from syncworker.errors import ConsentError, RefusedError, TransientError, class_of
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId, Slug
from syncworker.sync.facts import Facts, facts_of_notes

NEEDS_A_PERSON: Final = "needs_a_person"
"""How the third fact is called in JSON; on the screen: needs a person."""


class StepOutcome(StrEnum):
    """How the walk of one listing ended."""

    OK = "ok"  # read to its end; something was new
    UNCHANGED = "unchanged"  # read to its end; nothing was new
    ABSENT = "absent"  # the account has no such thing
    REFUSED = "refused"  # a definite refusal, remembered
    FAILED = "failed"  # time may mend it
    TRUNCATED = "truncated"  # cut off by a guard: what came is kept, the rest was never seen
    SKIPPED = "skipped"  # the run stopped before it


_READ: Final = (StepOutcome.OK, StepOutcome.UNCHANGED)
_COMPLETE: Final = (*_READ, StepOutcome.ABSENT)


class RunOutcome(StrEnum):
    """How a run ended."""

    OK = "ok"  # complete; something was new
    UNCHANGED = "unchanged"  # complete; nothing was new
    PARTIAL = "partial"  # not complete; some listings were read
    FAILED = "failed"  # not complete; none was read
    LEASE_LOST = "lease_lost"  # a newer claim owns the work; nothing of ours was written


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """How one listing ended.

    Attributes:
        pages_unchanged: pages whose bytes were known.
        items: records shown.
        notes: oddities by name, counted (`sync.decode`).
        error: stable code of what went wrong.
        due_at: when the listing is due next; `None` when the run stopped before it.
        retry: time mends what is missing.
        person: a person has to act, or it will be met again.
    """

    resource: ResourceName
    account_id: str
    outcome: StepOutcome
    error: str | None = None
    pages: int = 0
    pages_unchanged: int = 0
    items: int = 0
    added: int = 0
    modified: int = 0
    removed: int = 0
    notes: Mapping[str, int] = field(default_factory=dict)
    due_at: datetime | None = None
    retry: bool = False
    person: bool = False

    @property
    def read(self) -> bool:
        """Whether it was read to its end."""
        return self.outcome in _READ

    @property
    def complete(self) -> bool:
        """Whether nothing is missing that the listing owes."""
        return self.outcome in _COMPLETE and facts_of_notes(self.notes).complete

    def plus(self, other: "StepReport") -> "StepReport":
        """Both walks of one listing, its newest part and a slice of its history, as one report."""
        new = StepOutcome.OK in (self.outcome, other.outcome)
        counts = ("pages", "pages_unchanged", "items", "added", "modified", "removed")
        due = [at for at in (self.due_at, other.due_at) if at is not None]
        return replace(
            self,
            outcome=StepOutcome.OK if new else self.outcome,
            error=self.error or other.error,
            notes=Counter(self.notes) + Counter(other.notes),
            due_at=min(due, default=None),
            retry=self.retry or other.retry,
            person=self.person or other.person,
            **{name: getattr(self, name) + getattr(other, name) for name in counts},
        )

    def as_json(self) -> dict[str, Any]:
        """For `run.steps`: what is not empty; `complete` only where it is not."""
        facts: dict[str, Any] = {"account_id": self.account_id, "resource": self.resource.value}
        facts |= {"outcome": self.outcome.value, "error": self.error, "notes": dict(self.notes)}
        facts |= {name: getattr(self, name) for name in ("pages", "items", "added", "modified", "removed")}
        told = {name: value for name, value in facts.items() if value not in (None, 0, {})}
        if not self.complete:
            told["complete"] = False
        return told | {name: True for name, fact in (("retry", self.retry), (NEEDS_A_PERSON, self.person)) if fact}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """How the sync of one consent ended.

    Attributes:
        error: stable code of what stopped the run, or of the first listing that failed.
        calls: HTTP attempts made for it.
        due_at: when the connection is due next.
        retry: time mends what is missing, of a listing or of the run as a whole.
        person: a person has to act, or it will be met again.
        counted: the run as a whole broke off: an attempt of the connection, whatever its listings count.
    """

    connection_id: ConsentId
    consent_id: ConsentId
    lfi: Slug
    gen: int
    started_at: datetime
    ended_at: datetime
    outcome: RunOutcome
    error: str | None
    due_at: datetime
    calls: int = 0
    steps: Sequence[StepReport] = ()
    retry: bool = False
    person: bool = False
    counted: bool = False

    @property
    def complete(self) -> bool:
        """Whether nothing is missing that the listings of this run owe."""
        return self.outcome in (RunOutcome.OK, RunOutcome.UNCHANGED)

    @property
    def good(self) -> bool:
        """The same as `complete`."""
        return self.complete

    def total(self, name: str) -> int:
        """A count over all steps: `pages`, `pages_unchanged`, `items`, `added`, `modified`, `removed`."""
        return sum(getattr(step, name) for step in self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReport:
    """How a batch of claims ended.

    Attributes:
        stale: claims that were no longer ours when the batch began: skipped.
        runs: one for each claim worked on.
        given_back: claims that were not begun because the process stops.
    """

    stale: int
    runs: Sequence[RunReport]
    given_back: int = 0

    @property
    def outcomes(self) -> Mapping[str, int]:
        """How many runs ended in which way."""
        return Counter(report.outcome.value for report in self.runs)


def facts_of_run(outcome: str, error: str | None, steps: Sequence[Mapping[str, Any]]) -> Facts:
    """The three facts of a run that was filed.

    Args:
        error: of the run; names what stopped it when no listing says what follows.
        steps: as `StepReport.as_json` wrote them.
    """
    complete = outcome in (RunOutcome.OK, RunOutcome.UNCHANGED)
    retry = any(step.get("retry") for step in steps)
    person = any(step.get(NEEDS_A_PERSON) for step in steps)
    if complete:
        return Facts(person=person)
    fault = class_of(error) if error else None
    if fault is not None and issubclass(fault, ConsentError):  # nothing is read before the user has acted
        return Facts(complete=False, person=True)
    if not (retry or person):
        retry, person = True, not (fault is None or issubclass(fault, TransientError | RefusedError))
    return Facts(complete=False, retry=retry, person=person)


def run_outcome(steps: Sequence[StepReport], *, stopped: bool) -> RunOutcome:
    """The run's outcome from its steps'.

    Args:
        stopped: the run ended early, because of the consent, the LFI's gate or the deadline.
    """
    outcomes = {step.outcome for step in steps}
    if stopped or not all(step.complete for step in steps):
        return RunOutcome.PARTIAL if outcomes & set(_READ) else RunOutcome.FAILED
    return RunOutcome.OK if StepOutcome.OK in outcomes else RunOutcome.UNCHANGED

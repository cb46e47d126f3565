"""Which refreshes a run serves, whose customer is present in it, and what it brought each of them.

In: the parts of refreshes that wait, the claim, and what the run read.  Out: plain values.  No I/O here.

A run serves the parts that were asked for before its claim, of one context alone: those of one customer's session
first, since that customer waits, then those without a customer.  What is left is asked for again when the run ends.
So calls that say that a customer is present read what was asked for in that customer's session, and nothing else.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from syncworker.consents.hindrance import NEEDS_CONSENT, of_status
from syncworker.errors import (
    ConsentError,
    LFIRateLimitedError,
    LFIUnavailableError,
    RefusedError,
    SetupError,
    StandardViolationError,
    class_of,
)
from syncworker.standard.resources import Resource
from syncworker.store.cursors import Cursor, Listing
from syncworker.store.refreshes import LATE, PartEnd, Waiting, Wish
from syncworker.sync.facts import ENDS_EARLY
from syncworker.sync.reports import StepOutcome, StepReport

GATED: Final = "gated"
LFI_DOWN: Final = "lfi_down"
REFUSED: Final = "refused"
INCOMPLETE: Final = "incomplete"
SETUP: Final = "setup"
NOT_PERMITTED: Final = "not_permitted"
"""Words of `reason` beside those of `consents.hindrance`; a code of no such kind is `late`."""

COMPLETE: Final = "complete"
PARTIAL: Final = "partial"
FAILED: Final = "failed"

_GOOD: Final = frozenset({"refreshed", "unchanged", "young", "absent"})

# fmt: off
_OUTCOMES: Final[Mapping[StepOutcome, str]] = {
    StepOutcome.OK:        "refreshed",
    StepOutcome.UNCHANGED: "unchanged",
    StepOutcome.ABSENT:    "absent",
    StepOutcome.TRUNCATED: PARTIAL,
    StepOutcome.REFUSED:   FAILED,
    StepOutcome.FAILED:    FAILED,
    StepOutcome.SKIPPED:   FAILED,
}
# fmt: on


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What a run does for refreshes.

    Attributes:
        parts: those it serves, all of one context.
        late: those that waited too long for any run.
        left: others wait for a run of their own.
    """

    parts: tuple[Waiting, ...] = ()
    late: tuple[Waiting, ...] = ()
    left: bool = False

    @property
    def attended(self) -> Waiting | None:
        """The part whose customer is present; `None`: there is no customer."""
        return self.parts[0] if self.parts and self.parts[0].attended else None

    @property
    def wishes(self) -> tuple[Wish, ...]:
        return tuple(one.wish for one in self.parts)


NO_REFRESH: Final = Serving()
"""A run that no refresh waits for."""


def serving(waiting: Sequence[Waiting], *, gen: int, everything: bool, now: datetime) -> Serving:
    """Which of the parts that wait a run serves.

    Args:
        waiting: oldest first.
        gen: of the run's claim: parts that were asked for while it ran wait for the next run.
        everything: all listings were asked for too, without a customer.
    """
    mine = [one for one in waiting if one.asked_gen < gen]
    late = tuple(one for one in mine if one.late_at(now))
    good = [one for one in mine if not one.late_at(now)]
    attended = next((one for one in good if one.attended), None)
    context = "" if attended is None else attended.context
    parts = tuple(one for one in good if one.context == context)
    return Serving(parts=parts, late=late, left=len(parts) < len(good) or (attended is not None and everything))


def age_wanted(wishes: Iterable[Wish], account_id: str, resource: Resource) -> timedelta | None:
    """How old a listing may be without being read; zero: it is read whatever its age; `None`: no wish wants it."""
    ages = [wish.max_age or timedelta() for wish in wishes if wish.wants(account_id, resource.name)]
    return min(ages, default=None)


def reason_of(error: str | None) -> str:
    """The word for a code of a run or listing."""
    kind = None if error is None else class_of(error)
    if error == ENDS_EARLY:
        return INCOMPLETE
    if kind is None:
        return LATE
    if issubclass(kind, ConsentError):
        _, colon, status = (error or "").partition(":")
        return of_status(status) if colon else NEEDS_CONSENT
    kinds = (
        (LFIRateLimitedError, GATED),
        (LFIUnavailableError, LFI_DOWN),
        (RefusedError, REFUSED),
        (StandardViolationError, INCOMPLETE),
        (SetupError, SETUP),
    )
    return next((word for one, word in kinds if issubclass(kind, one)), LATE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """What a run read, as far as refreshes ask.

    Attributes:
        resources: what the consent opens.
        accounts: those the run knew at its end.
        steps: of the run's report, one a listing.
        cursors: as they were before it.
        error: stable code of what stopped it; `None`: it came to its end.
        retry_at: when the connection is due next, if time mends what is missing.
        now: when the run began.
    """

    gen: int
    resources: Sequence[Resource]
    accounts: Sequence[str]
    steps: Sequence[StepReport]
    cursors: Mapping[Listing, Cursor] = field(repr=False)
    error: str | None
    retry_at: datetime | None
    now: datetime


def ends(served: Serving, brought: Brought) -> list[PartEnd]:
    """How the parts of a run ended, and those that waited too long."""
    too_late = [
        PartEnd(refresh_id=one.refresh_id, connection_id=one.connection_id, outcome=FAILED, reason=LATE)
        for one in served.late
    ]
    return [_end(one, brought) for one in served.parts] + too_late


def _end(part: Waiting, brought: Brought) -> PartEnd:
    listings = _listings(part.wish, brought)
    good = sum(one["outcome"] in _GOOD for one in listings)
    outcome = PARTIAL if good or any(one["outcome"] == PARTIAL for one in listings) else FAILED
    if good == len(listings) and brought.error is None:
        outcome = COMPLETE
    worst = next((one for one in listings if one["outcome"] not in _GOOD), None)
    error, reason = brought.error, None
    if outcome != COMPLETE:
        error = error or (worst or {}).get("error")
        reason = reason_of(brought.error) if brought.error or worst is None else worst["reason"]
    return PartEnd(
        refresh_id=part.refresh_id,
        connection_id=part.connection_id,
        run_gen=brought.gen,
        outcome=outcome,
        reason=reason,
        error=error if outcome != COMPLETE else None,
        retry_at=brought.retry_at if outcome != COMPLETE else None,
        listings=listings,
    )


def _listings(wish: Wish, brought: Brought) -> list[dict[str, Any]]:
    """Every listing that is wanted, by account, in the order of the catalogue."""
    steps = {Listing(one.account_id, one.resource): one for one in brought.steps}
    told = [
        _told(Listing(account_id, resource.name), steps.get(Listing(account_id, resource.name)), brought)
        for account_id in ("", *brought.accounts)
        for resource in brought.resources
        if resource.per_account == bool(account_id) and wish.wants(account_id, resource.name)
    ]
    permitted = {one.name for one in brought.resources}
    return told + [
        {"resource": name.value, "outcome": FAILED, "reason": NOT_PERMITTED}
        for name in sorted((wish.resources or frozenset()) - permitted)
    ]


def _told(listing: Listing, step: StepReport | None, brought: Brought) -> dict[str, Any]:
    """One listing; what is empty is left out."""
    cursor = brought.cursors.get(listing)
    outcome, error, retry_at = "young", None, None
    if step is not None:
        outcome, error = _OUTCOMES[step.outcome], step.error
        retry_at = step.due_at or brought.retry_at
        if outcome not in _GOOD:
            error = error or brought.error
        elif not step.complete:
            outcome, error = PARTIAL, error or StandardViolationError.code
    elif cursor is not None and cursor.refused_until is not None and cursor.refused_until > brought.now:
        outcome, error, retry_at = FAILED, cursor.error or RefusedError.code, cursor.refused_until
    elif cursor is None or cursor.checked_at is None:
        outcome, error, retry_at = FAILED, brought.error, brought.retry_at
    facts: dict[str, Any] = {"account_id": listing.account_id, "resource": listing.resource.value, "outcome": outcome}
    if outcome not in _GOOD:
        facts |= {"reason": reason_of(error), "error": error, "retry_at": retry_at and retry_at.isoformat()}
    return {name: value for name, value in facts.items() if value not in (None, "")}

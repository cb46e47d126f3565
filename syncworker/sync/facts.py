"""Three facts of a listing, kept apart: is it complete, is it to be retried, does it need a person.

    complete        nothing owed is missing
    retry           time mends it: an attempt of that listing is counted, and its ladder says when it is read again
    needs a person  the same will be met again until a person acts; one finding per LFI, operation and code

In: notes and codes of a walk, the cursor before it.  Out: plain values.  No I/O here.  What a note means is a row of
`NOTES`; what a refusal means is in `sync.refusals`.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from syncworker.errors import StandardViolationError
from syncworker.store.cursors import Cursor


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The three facts."""

    complete: bool = True
    retry: bool = False
    person: bool = False

    def __or__(self, other: "Facts") -> "Facts":
        """Of both together."""
        return Facts(
            complete=self.complete and other.complete,
            retry=self.retry or other.retry,
            person=self.person or other.person,
        )


ENDS_EARLY: Final = "listing.ends_early"

# fmt: off
NOTES: Final = {
    "item.no_usable_key":      Facts(complete=False, person=True),
    "item.unreadable":         Facts(complete=False, person=True),
    "item.not_kept":           Facts(complete=False, person=True),  # unreadable, and beyond what is kept of such items
    "page.unreadable":         Facts(complete=False, person=True),
    "item.id_used_twice":      Facts(person=True),
    "listing.filter_ignored":  Facts(person=True),
    "listing.repeats_itself":  Facts(person=True),  # not complete where the walk was cut off for it: by its outcome
    "listing.never_ends":      Facts(person=True),  # as above
    ENDS_EARLY:                Facts(complete=False, retry=True),
}
"""What each note says of its listing; a note that is not here leaves it complete, and needs neither."""
# fmt: on

_ODD: Final = Facts()

RESTS_FROM: Final = 3
RESTS_AFTER: Final = timedelta(hours=24)
"""A fault met so many times in a row, over so long a time, is a finding; its listing is then read at its cadence."""


def facts_of_notes(notes: Collection[str]) -> Facts:
    """What the notes of a walk say together."""
    found = Facts()
    for note in notes:
        found |= NOTES.get(note, _ODD)
    return found


def findings_of_notes(notes: Collection[str]) -> tuple[str, ...]:
    """The notes a person has to look at, sorted."""
    return tuple(sorted(note for note in notes if note in NOTES and NOTES[note].person))


def error_of_notes(notes: Collection[str]) -> str | None:
    """The code for report and cursor of a walk that came to its end with such notes."""
    facts = facts_of_notes(notes)
    if facts.person:
        return StandardViolationError.code
    return ENDS_EARLY if facts.retry else None


@dataclass(frozen=True, slots=True)
class Again:
    """How a listing that is to be retried stands.

    Attributes:
        attempts: in a row, this one included.
        since: when the same fault was met first.
        rests: the fault lasts: a person is told, and the listing is read at its cadence.
    """

    attempts: int
    since: datetime
    rests: bool


def again(before: Cursor | None, code: str, *, now: datetime) -> Again:
    """Count an attempt that ended with a code.

    Args:
        before: the listing's cursor as it stood before.
    """
    if before is None or counts_slices(before):
        return Again(1, now, rests=False)
    attempts, since = before.attempts + 1, now
    if before.error == code and before.failing_since is not None:
        since = before.failing_since
    return Again(attempts, since, _rests(attempts, now - since))


def slice_again(before: Cursor | None, *, now: datetime) -> Again:
    """Count an attempt at a slice of a listing's history, whatever ended it.

    Args:
        before: the listing's cursor as it stood before the run.
    """
    attempts, since = 1, now
    if before is not None and counts_slices(before):
        attempts, since = before.attempts + 1, before.failing_since or now
    return Again(attempts, since, _rests(attempts, now - since))


def counts_slices(cursor: Cursor) -> bool:
    """Whether a cursor's attempts are those of a slice: one is delayed, and the newest part was read to its end."""
    return cursor.backfill_due_at is not None and cursor.outcome in ("ok", "unchanged") and cursor.error != ENDS_EARLY


def _rests(attempts: int, lasts: timedelta) -> bool:
    return attempts >= RESTS_FROM and lasts >= RESTS_AFTER


def needed_person(cursor: Cursor) -> bool:
    """Whether a finding was written for what a cursor says of its last attempt."""
    if cursor.outcome in ("refused", "truncated") or cursor.error == StandardViolationError.code:
        return True
    since, at = cursor.failing_since, cursor.attempted_at
    return since is not None and at is not None and not counts_slices(cursor) and _rests(cursor.attempts, at - since)

"""Decide which records a walk added, changed or removed.

In: what the LFI just showed, what we hold.  Out: `Changes`, a plain value for `sync.apply` to write.
No I/O here.  The rule that matters: only complete walks can prove that a record is gone.

A walk of pages is not a snapshot (`reliability.md` rule 24): a listing of one page proves an absence at once, one of
several pages only when two complete walks in a row did not show the record.  A walk narrowed to a window proves
nothing outside it, and what a booked record's absence from it proves is only that the record is not dated there any
more: LFIs correct dates.  So a narrow walk notes the absence, and the next one, which reaches far back, decides.
Pending records are replaced as a set (rule 25); from several pages they, too, need a second walk, since an item that
moves up between two reads is on neither page.

An item that could not be read may be any record the walk did not show: an LFI that loses an id still shows the record.
It cannot be a record beside which the same bytes were already shown, unreadable as now.  So an unreadable item stands
in the way of the proof for those records alone that no complete walk showed beside it:

    shown by the last walk, absent now      bytes that are new in this walk
    absent since an earlier walk            bytes that are new in that walk, or came later

Such a record is noted as missed and nothing more.  When the item is no longer shown, what was missed because of it
counts from then on.  (`sync.unreadable` keeps since when each unreadable item was shown.)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from syncworker.store.records import Held

Keys = frozenset[str]

NEW: Final = datetime.max.replace(tzinfo=UTC)
"""Since when an item is shown that no complete walk showed before."""


@dataclass(frozen=True, slots=True)
class Proof:
    """How much a walk can prove.

    Attributes:
        walk_complete: every page came.
        single_page: the whole listing was one page: a snapshot.
        reaches_back: the walk went far enough for a record whose date was corrected.
        since, until: instants between which every record must have been shown; `None` is open.
        unreadable_since: of the items on its pages that could not be read, when the newest was first shown; `NEW`: by
            this walk; `None`: there are none.
        unreadable_before: the same of those that were known before this walk.
    """

    walk_complete: bool
    single_page: bool
    since: datetime | None = None
    until: datetime | None = None
    reaches_back: bool = True
    unreadable_since: datetime | None = None
    unreadable_before: datetime | None = None

    def must_have_shown(self, held: Held) -> bool:
        """Whether this walk would have shown the record, were it still there."""
        if not self.walk_complete:
            return False
        if self.since is None and self.until is None:
            return True
        if held.instant is None:
            return held.pending and self.until is None  # it has no place in time yet: it would be among the newest
        return (self.since is None or held.instant >= self.since) and (self.until is None or held.instant < self.until)

    def may_be_unreadable(self, held: Held) -> bool:
        """Whether an unreadable item of this walk may be the record that it did not show."""
        if held.missed:
            return _not_before(self.unreadable_since, held.missed_since)
        return self.unreadable_since == NEW

    def missed_before(self, held: Held) -> bool:
        """Whether an earlier walk counts: it did not show the record, nor an unreadable item that may be it."""
        return held.missed and not _not_before(self.unreadable_before, held.missed_since)

    def proves_gone(self, held: Held) -> bool:
        """Whether not being shown is proof enough."""
        return (self.single_page or self.missed_before(held)) and (self.reaches_back or held.pending)


@dataclass(frozen=True, slots=True)
class Changes:
    """What a walk means for one listing, by key.

    Attributes:
        new: never held.
        changed: held, with another digest.
        revived: a tombstone that is shown again.
        found: missed by the walk before, shown again, otherwise the same.
        missed: not shown, and no earlier walk counts; not proved gone.
        gone: proved absent.
    """

    new: Keys = field(default=frozenset())
    changed: Keys = field(default=frozenset())
    revived: Keys = field(default=frozenset())
    found: Keys = field(default=frozenset())
    missed: Keys = field(default=frozenset())
    gone: Keys = field(default=frozenset())

    @property
    def to_write(self) -> Keys:
        """Keys whose record must be written whole."""
        return self.new | self.changed | self.revived

    def __bool__(self) -> bool:
        return any((self.new, self.changed, self.revived, self.found, self.missed, self.gone))


def diff(seen: Mapping[str, bytes | None], held: Mapping[str, Held], *, proof: Proof) -> Changes:
    """Compare a walk with what we hold.

    Args:
        seen: key → digest of each record shown; `None` for one on a page that did not change since it was stored.
        held: key → what we hold; may be narrowed to what this walk can touch.
    """
    new, changed, revived, found = set(), set(), set(), set()
    for key, digest in seen.items():
        known = held.get(key)
        if known is None:
            new.add(key)
        elif known.gone:
            revived.add(key)
        elif digest is not None and digest != known.digest:
            changed.add(key)
        elif known.missed:
            found.add(key)
    missed, gone = set(), set()
    for key, known in held.items():
        if known.gone or key in seen or not proof.must_have_shown(known):
            continue
        if proof.may_be_unreadable(known):
            if not known.missed:
                missed.add(key)
        elif proof.proves_gone(known):
            gone.add(key)
        elif not proof.missed_before(known):
            missed.add(key)
    return Changes(*map(frozenset, (new, changed, revived, found, missed, gone)))


def _not_before(shown_since: datetime | None, missed_since: datetime | None) -> bool:
    """Whether an unreadable item came no earlier than a record was missed: both came in one walk, or it came later."""
    return shown_since is not None and (missed_since is None or shown_since >= missed_since)


def unproved(changes: Changes, seen: Mapping[str, bytes | None]) -> bool:
    """Whether the walk counts on a page it did not decode for a record that has to be written whole."""
    return any(seen[key] is None for key in changes.to_write)


def open_since(
    changes: Changes, held: Mapping[str, Held], shown: Mapping[str, tuple[datetime | None, bool]]
) -> datetime | None:
    """The oldest instant of a record still undecided after the walk: Pending, or missed and not proved gone.

    Args:
        shown: key → (instant, pending) of the records written by this walk.
    """
    instants = [at for at, pending in shown.values() if pending and at is not None]
    instants += [
        known.instant
        for key, known in held.items()
        if known.instant is not None
        and not known.gone
        and key not in shown
        and key not in changes.gone
        and (known.pending or key in changes.missed or (known.missed and key not in changes.found))
    ]
    return min(instants, default=None)

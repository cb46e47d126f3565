"""Decide what the unreadable items of a walk mean: which are kept, which are forgotten, what they say of an absence.

In: the items as this walk showed them, those known from earlier walks.  Out: `Judged`, a plain value for `sync.apply`
to write.  No I/O here.

An unreadable item is known by its bytes and by nothing else.  So that it can be told from a record that is missing
(`sync.diff`), it carries since when it is shown: the first of an unbroken row of complete walks that all showed it.
The row is broken

    by a complete walk that must show the item and does not: it is removed
    by a complete walk that does not show it, when its place in time is not known
    by one more copy of the same bytes: which of the copies is the new one, nothing says
    by more items than are kept: the others may be anything
    by a walk that was cut off and showed new records: what else there was, is not known

A walk that was cut off begins no row: what it did not come to may have been beside the item.

An item that lies behind the windows of ordinary walks is looked at again where it lies (`sync.plan.looks`), after a
day, two, four, up to 30: once the LFI has mended it, its record is written.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from syncworker.store.unreadable import Remembered, Sighting
from syncworker.sync.decode import Unreadable
from syncworker.sync.diff import NEW

ITEMS_MAX: Final = 200
"""Items of one listing that are kept; more are counted."""

LOOK_AGAIN_FIRST: Final = timedelta(days=1)
LOOK_AGAIN_MOST: Final = timedelta(days=30)


class Judged(NamedTuple):
    """What to do about the unreadable items of one listing.

    Attributes:
        kept: what to write.
        known: digests of the items kept before.
        removed: no longer shown.
        doubted: kept; since when they are shown is not known any more.
        since, before: `Proof.unreadable_since` and `Proof.unreadable_before`.
        not_kept: items beyond the bound.
        fresh: those of `kept` that are kept for the first time.
        left: all of the listing that are kept after this walk.
    """

    kept: Sequence[Sighting]
    known: frozenset[bytes]
    removed: frozenset[bytes]
    doubted: frozenset[bytes]
    since: datetime | None
    before: datetime | None
    not_kept: int
    fresh: Sequence[Sighting]
    left: Sequence[Remembered]


def judge(
    shown: Sequence[Unreadable],
    known: Mapping[bytes, Remembered],
    *,
    complete: bool,
    since: datetime | None,
    until: datetime | None,
    now: datetime,
    items_max: int = ITEMS_MAX,
) -> Judged:
    """Compare the unreadable items of a walk with those known before.

    Args:
        known: by digest.
        complete: every page of the walk came.
        since, until: instants between which the walk must show every item; `None` is open.
    """
    copies = Counter(one.digest for one in shown)
    first = {one.digest: one for one in reversed(shown)}
    room = sorted(copies, key=lambda digest: digest not in known)[:items_max]  # those known before come first
    over = len(copies) > len(room)
    news: list[datetime] = []
    kept: list[Sighting] = []
    for digest in room:
        after = _after(first[digest], known.get(digest), copies[digest], complete=complete, since=since, until=until)
        news.append(after.shown_since or NEW)
        if complete and (over or after.shown_since is None):
            after = replace(after, shown_since=now)
        one = first[digest]
        kept.append(Sighting(now=after, page=one.page, path=one.path, reason=one.reason.value, raw=one.raw))
    absent = [one for digest, one in known.items() if digest not in copies]
    gone = {one.digest for one in absent if complete and _must_show(one, since=since, until=until)}
    left = [one for one in absent if one.digest not in gone]
    gone |= {one.digest for one in left[max(items_max - len(room), 0) :]}
    return Judged(
        kept=kept,
        known=frozenset(known),
        removed=frozenset(gone),
        doubted=frozenset(one.digest for one in left if complete and not _is_dated(one)) - gone,
        since=NEW if over else max(news, default=None),
        before=max((one.shown_since for one in known.values() if one.shown_since is not None), default=None),
        not_kept=sum(copies[digest] for digest in copies.keys() - set(room)),
        fresh=[one for one in kept if one.now.digest not in known],
        left=[*(one.now for one in kept), *(one for one in left if one.digest not in gone)],
    )


def look_again_in(left: Sequence[Remembered]) -> timedelta | None:
    """How long to leave unreadable items alone, by the one that was met least often; `None`: there are none."""
    if not left:
        return None
    doublings: int = min(max(min(one.times for one in left) - 1, 0), 8)
    return min(LOOK_AGAIN_FIRST * (1 << doublings), LOOK_AGAIN_MOST)


def _after(
    one: Unreadable,
    known: Remembered | None,
    copies: int,
    *,
    complete: bool,
    since: datetime | None,
    until: datetime | None,
) -> Remembered:
    """What is known of an item after a walk that showed it; `shown_since` is `None` where this walk begins the row."""
    not_before, not_after = (since, until) if one.instant is None else (one.instant, one.instant)
    if known is None:
        return Remembered(digest=one.digest, copies=copies, not_before=not_before, not_after=not_after)
    if complete and copies > known.copies:
        known = replace(known, shown_since=None)
    return replace(
        known,
        copies=copies if complete else known.copies,
        not_before=not_before,
        not_after=not_after,
        times=known.times + 1,
    )


def _is_dated(one: Remembered) -> bool:
    """Whether it is known where in time an item lies."""
    return one.not_before is not None and one.not_before == one.not_after


def _must_show(one: Remembered, *, since: datetime | None, until: datetime | None) -> bool:
    """Whether a complete walk of a window must show an item, were it still there."""
    if since is not None and (one.not_before is None or one.not_before < since):
        return False
    if until is None:
        return True
    return one.not_after is not None and (one.not_after < until or (one.not_after == until and not _is_dated(one)))

"""When a connection goes stale, and what is usual at an LFI.

A listing's target is its cadence times the margin, counted from its last complete walk.  A connection goes stale when
the first of its listings passes its target.  Listings that cannot be read are none of them: of accounts the consent no
longer shows, of resources it does not permit; one that the LFI refuses counts again when it is asked again.

Pure, but for `judged`, which reads what it judges.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median
from typing import Final

from syncworker.settings import Settings
from syncworker.standard.calendar import shifted
from syncworker.standard.resources import BY_NAME, ResourceName, permitted
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.ages import pack
from syncworker.store.causes import Judged, RunTime
from syncworker.store.consents import StoredConsent
from syncworker.store.freshness import Cursor, Listing
from syncworker.store.overview import Timing, Usual
from syncworker.store.standings import FIRST_READ
from syncworker.store.unit_of_work import UnitOfWork

RUN: Final = ""
"""In place of a resource: the run as a whole."""

SAMPLES_MIN: Final = 3
"""Calls of a resource, or runs, of which a median is one."""

SLOWER: Final = 4.0
SLOWER_AT_LEAST_MS: Final = 1_000
"""An LFI is slow for a resource whose median call takes `SLOWER` times the usual, and so much more than it."""

RECENT_CALLS: Final = 40
"""Newest calls of a resource at an LFI that say how it is now."""

AGREEING: Final = 5
"""So many newest calls are enough where they agree: all of them slow, or none."""

_RESOURCE_OF: Final[Mapping[str, str]] = {one.operation: one.name.value for one in BY_NAME.values()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """How old each listing may grow.

    Attributes:
        margin: times the cadence.
        repeats: listings are walked that show another's items once more.
    """

    cadence: Mapping[ResourceName, timedelta]
    margin: float
    repeats: bool = False

    def age_max(self, resource: ResourceName) -> timedelta:
        """How old a listing of a resource may grow."""
        return self.cadence[resource] * self.margin

    @property
    def rule(self) -> str:
        """A digest: connections judged by another one are judged again."""
        said = [f"{name.value}={self.age_max(name).total_seconds()}" for name in sorted(self.cadence)]
        return hashlib.sha256(";".join([*said, str(self.repeats)]).encode()).hexdigest()[:16]


def targets_of(settings: Settings) -> Targets:
    """The targets of the settings."""
    return Targets(
        cadence=settings.cadence.as_mapping(),
        margin=settings.freshness.margin,
        repeats=settings.account_details,
    )


def stale_at(cursor: Cursor, targets: Targets, *, created_at: datetime) -> datetime:
    """When a listing goes stale.

    Args:
        created_at: of its connection.
    """
    target = targets.age_max(cursor.listing.resource)
    if cursor.checked_at is not None:
        at = shifted(cursor.checked_at, target)
    else:
        begun = cursor.failing_since or cursor.attempted_at or created_at
        at = shifted(max(begun, created_at), FIRST_READ)
    if cursor.refused_until is None:
        return at
    asked_again = shifted(cursor.refused_until, target - targets.cadence[cursor.listing.resource])
    return max(at, asked_again)


def first_stale(
    cursors: Mapping[Listing, Cursor],
    consent: StoredConsent,
    granted: Collection[str],
    targets: Targets,
    *,
    run_ended_at: datetime,
) -> Judged:
    """When a connection goes stale, after a run of it.

    Args:
        consent: the one that data is asked with.
        granted: AccountIds it shows.
    """
    wanted = {one.name for one in permitted(consent.permissions, version=consent.version, repeats=targets.repeats)}
    shown = [
        (listing, cursor)
        for listing, cursor in cursors.items()
        if listing.resource in wanted and (not listing.account_id or listing.account_id in granted)
    ]
    found = [
        (stale_at(cursor, targets, created_at=consent.created_at), listing.account_id, listing.resource.value, cursor)
        for listing, cursor in shown
    ]
    if not found:
        first = ResourceName.ACCOUNTS if ResourceName.ACCOUNTS in wanted else min(wanted, default=ResourceName.ACCOUNTS)
        at = shifted(consent.created_at, FIRST_READ)
        return Judged(consent.connection_id, at, first.value, "", None, run_ended_at)
    at, account_id, resource, cursor = min(found, key=lambda one: one[:3])
    oldest = _oldest(shown)
    ages = pack(oldest) if oldest else None
    return Judged(consent.connection_id, at, resource, account_id, cursor.checked_at, run_ended_at, ages)


def _oldest(shown: Sequence[tuple[Listing, Cursor]]) -> Mapping[ResourceName, datetime]:
    """The oldest last walk of each resource that was read."""
    oldest: dict[ResourceName, datetime] = {}
    for listing, cursor in shown:
        if cursor.checked_at is not None:
            oldest[listing.resource] = min(cursor.checked_at, oldest.get(listing.resource, cursor.checked_at))
    return oldest


async def judged(unit: UnitOfWork, those: Sequence[tuple[ConsentId, datetime]], targets: Targets) -> list[Judged]:
    """Judge connections.

    Args:
        those: each with the end of its last run.

    Returns:
        Those that hold a consent; the others have none that counts.
    """
    if not those:
        return []
    held = await unit.causes.listings([connection_id for connection_id, _ in those])
    return [
        first_stale(
            held.cursors.get(connection_id, {}),
            held.consents[connection_id],
            held.granted.get(held.consents[connection_id].consent_id, frozenset()),
            targets,
            run_ended_at=at,
        )
        for connection_id, at in those
        if connection_id in held.consents
    ]


# -- what is usual -----------------------------------------------------------------------------------------------------


def usual_of(runs: Sequence[RunTime]) -> list[Usual]:
    """Median call of every resource, and median run, by LFI."""
    calls: dict[tuple[Slug, str], list[int]] = {}
    for one in runs:
        calls.setdefault((one.lfi, RUN), []).append(one.duration_ms)
        for timing in one.calls:
            calls.setdefault((one.lfi, resource_of(timing.operation)), []).append(timing.duration_ms)
    return [
        Usual(lfi, resource, round(median(took)), len(took))
        for (lfi, resource), took in sorted(calls.items())
        if len(took) >= SAMPLES_MIN
    ]


def resource_of(operation: str) -> str:
    """The resource that an operation reads; the operation itself where it reads none."""
    return _RESOURCE_OF.get(operation, operation)


@dataclass(frozen=True, slots=True)
class Slowness:
    """An LFI that answers later than usual.

    Attributes:
        resource: the one it is slowest for.
        median_ms: of its newest calls.
        usual_ms: what they usually take.
    """

    lfi: Slug
    resource: str
    median_ms: int
    usual_ms: int


def _is_slow(took_ms: int, usual_ms: int) -> bool:
    return took_ms >= usual_ms * SLOWER and took_ms - usual_ms >= SLOWER_AT_LEAST_MS


def slow(timings: Sequence[Timing], usual: Sequence[Usual]) -> list[Slowness]:
    """LFIs that answer most of what they were asked lately much later than usual.

    Args:
        timings: calls of now, the newest first.
    """
    known = {(one.lfi, one.resource): one.median_ms for one in usual}
    newest: dict[tuple[Slug, str], list[int]] = {}
    for one in timings:
        took = newest.setdefault((one.lfi, resource_of(one.operation)), [])
        if len(took) < RECENT_CALLS:
            took.append(one.duration_ms)
    judged_: dict[Slug, list[Slowness | None]] = {}
    for (lfi, resource), took in newest.items():
        before = known.get((lfi, resource))
        if before is None or len(took) < SAMPLES_MIN:
            continue
        newest_few = took[:AGREEING]
        agree = len(newest_few) == AGREEING and len({_is_slow(one, before) for one in newest_few}) == 1
        now = round(median(newest_few if agree else took))
        found_slow = Slowness(lfi, resource, now, before) if _is_slow(now, before) else None
        judged_.setdefault(lfi, []).append(found_slow)
    found = []
    for _, each in sorted(judged_.items()):
        those = [one for one in each if one is not None]
        if those and 2 * len(those) >= len(each):
            found.append(max(those, key=lambda one: (one.median_ms - one.usual_ms, one.resource)))
    return found

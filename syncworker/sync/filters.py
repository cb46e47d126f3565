"""Tell an LFI that ignores the dates of a window from one that honours them.

The history behind a listing is bought slice by slice.  An LFI that shows everything whatever is asked for would be paid
for all of it once for each slice of ten years.  So two slices in a row that say nothing of their windows end the
slices, and the rest of the history is read by one walk: from where history is wanted at all, without an end.

That walk is right whether or not the filter is honoured.  It buries nothing, and when it lacks a row that is held it
counts for nothing: such an LFI answers a window it does not like with another one, and the slices go on, those without
a record of their own counting as empty.

When it shows every row that is held, and a walk before showed records older than its window, the LFI ignores the filter
of that operation, which is remembered for `REMEMBERED` (table `ignored_filter`): listings read for the first time are
then walked so at once.  Records newer than a window are no such proof: another window may have been answered.

Later walks ask for narrow windows as everywhere.  At such an LFI they bring everything and cost the same; once one
brings less, the LFI honours the filter, and the memory goes.

In: decoded walks.  Out: plain values.  No I/O here.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from syncworker.standard.resources import ResourceName
from syncworker.standard.values import Slug
from syncworker.store.records import Record
from syncworker.store.tables import RECORD_TABLES, typed_columns
from syncworker.sync.decode import TYPED
from syncworker.sync.plan import DAY, Window

FILTER_IGNORED: Final = "listing.filter_ignored"
"""The note of a walk whose window the LFI ignores."""

REMEMBERED: Final = timedelta(days=30)
SLICES_ENOUGH: Final = 2
"""Slices in a row that say nothing of their windows, after which the rest is read whole."""

SAMPLE: Final = 100


class Filters:
    """Which LFIs ignore the filter of which operation, as this process knows: read with each batch."""

    def __init__(self) -> None:
        self._seen: dict[tuple[Slug, ResourceName], datetime] = {}

    def read(self, seen: Mapping[tuple[Slug, ResourceName], datetime]) -> None:
        """Take what the database knows: (LFI, resource) → when it was seen."""
        self._seen = dict(seen)

    def learn(self, lfi: Slug, resource: ResourceName, at: datetime) -> None:
        """It was seen now."""
        self._seen[lfi, resource] = at

    def forget(self, lfi: Slug, resource: ResourceName) -> None:
        """It honours the filter."""
        self._seen.pop((lfi, resource), None)

    def ignored(self, lfi: Slug, resource: ResourceName, *, now: datetime) -> bool:
        """Whether it was seen lately."""
        seen = self._seen.get((lfi, resource))
        return seen is not None and now - seen < REMEMBERED


class Evidence:
    """What the walks of one listing, one after the other, say about its filter."""

    def __init__(self) -> None:
        self._sample: Sequence[str] = ()
        self._strays = 0
        self._refuted = False
        self.older = False
        """Whether records older than a window were shown."""

    @property
    def enough(self) -> bool:
        """Whether no further slice is to be bought."""
        return self._strays >= SLICES_ENOUGH and not self._refuted

    def newest(self, window: Window, resource: ResourceName, records: Mapping[str, Record]) -> None:
        """Take the walk of the newest part, read to its end: the first slice is compared with it."""
        self.older |= bool(_placed(window, resource, records).older)
        self._sample = _sampled(list(records))

    def slice(self, window: Window, resource: ResourceName, records: Mapping[str, Record]) -> None:
        """Take a slice that was read to its end."""
        self.older |= bool(_placed(window, resource, records).older)
        again = bool(self._sample) and all(key in records for key in self._sample)
        self._strays = self._strays + 1 if again or misses(window, resource, records) else 0
        self._sample = _sampled(list(records))

    def refute(self) -> None:
        """A walk of everything lacked a row: go on with slices."""
        self._refuted = True


class _Placed(NamedTuple):
    """How many records lie where; those without a place in time nowhere."""

    older: int
    inside: int
    newer: int


def misses(window: Window, resource: ResourceName, records: Mapping[str, Record]) -> bool:
    """Whether an answer has records, and none of them for its window."""
    placed = _placed(window, resource, records)
    return placed.inside == 0 and placed.older + placed.newer > 0


def _placed(window: Window, resource: ResourceName, records: Mapping[str, Record]) -> _Placed:
    """Where records lie, the window taken a little wider still than it was asked for."""
    name = TYPED[resource].instant
    if name is None:
        return _Placed(0, 0, 0)
    place, slack = typed_columns(RECORD_TABLES[resource]).index(name), window.wider + DAY
    older = newer = known = 0
    for record in records.values():
        if (at := record.columns[place]) is None:
            continue
        known += 1
        where = at.date() if isinstance(at, datetime) else at
        older += window.from_date is not None and window.from_date - where > slack
        newer += window.to_date is not None and where - window.to_date > slack
    return _Placed(older, known - older - newer, newer)


def _sampled(keys: Sequence[str]) -> Sequence[str]:
    """Some of them, from the first to the last.

    Two windows side by side share some days, since each is asked for a little wider.  All of a sample spread over the
    whole of one answer lie in those days only when it held nothing else.
    """
    return keys[:: max(1, len(keys) // SAMPLE)]

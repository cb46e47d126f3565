"""Counters that only go up: what was done since the installation began, however long the rows of it are kept.

A repository counts what its transaction does in the `Tally` of that transaction.  With the commit the counts go over to
the process's own, and `Store.file_counts` adds those to the table `counter` every few seconds: one small upsert for
all syncs of that time, in a transaction of its own, so that no sync ever waits for a counter or fails by one.  What is
rolled back is not counted.  A process that is killed loses the counts of its last seconds; the table never goes back.

Labels are LFIs, operations, resources and constant words.  What is none of these is counted as `other`: no word of a
bank, no id and no person becomes a label, and their number has a bound.
"""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from syncworker.standard.operations import OPENING_OPERATIONS, TOKEN_OPERATIONS
from syncworker.standard.resources import ResourceName
from syncworker.store.calls import OPERATIONS as DATA_OPERATIONS
from syncworker.store.calls import CallRow
from syncworker.store.dialect import Dialect
from syncworker.store.statements import Statement, named
from syncworker.store.tables import counter
from syncworker.store.tokens import IN_DOUBT

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

OTHER: Final = "other"
NO_ANSWER: Final = "none"
RATE_LIMITED: Final = "429"
LEFT_OUT: Final = ""
"""A label that does not apply."""

BOUNDS_MS: Final = (100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000)
"""Upper bounds of the buckets of a call's duration; a last one has no bound."""

BEYOND: Final = "inf"
CONSENT_OPERATIONS: Final = frozenset(
    {
        "GetAccountAccessConsentsByBaseConsentId",
        "GetAccountAccessConsentsConsentId",
        "PatchAccountAccessConsentsConsentId",
    }
)
OPERATIONS: Final = frozenset(DATA_OPERATIONS) | TOKEN_OPERATIONS | OPENING_OPERATIONS | CONSENT_OPERATIONS
"""Operations that are counted by name."""

RESOURCES: Final = frozenset(one.value for one in ResourceName)
STATUSES: Final = ("2xx", "3xx", "4xx", RATE_LIMITED, "5xx", NO_ANSWER)
RUN_OUTCOMES: Final = ("ok", "unchanged", "partial", "failed", "lease_lost")
WALK_OUTCOMES: Final = ("ok", "unchanged", "absent", "refused", "failed", "truncated", "skipped")
CHANGES: Final = ("added", "modified", "removed")
ENDS: Final = ("good", "retry", "bad")
REFRESH_OUTCOMES: Final = ("complete", "partial", "failed")
DELIVERY_OUTCOMES: Final = ("delivered", "folded", "given_up", "put_off")
FILINGS: Final = ("new", "again", "jti_used")

_BUCKETS: Final = (*map(str, BOUNDS_MS), BEYOND)
_SLUG: Final = re.compile(r"[a-z0-9_-]{1,64}")


class Counted(StrEnum):
    """What is counted; the labels of each stand in `LABELS`."""

    RUNS = "runs"
    WALKS = "walks"
    ROWS = "rows"
    ERASED = "erased"
    CALLS = "calls"
    CALL_TIME = "call_time"
    """Calls by duration."""
    CALL_MS = "call_ms"
    """Milliseconds, in all."""
    PRICE = "price"
    """Milli-fils: 1 AED = 100,000."""
    ENDED = "ended"
    """Ends of work."""
    REFRESHES = "refreshes"
    DELIVERIES = "deliveries"
    EVENTS = "events"


LABELS: Final[Mapping[Counted, tuple[str, ...]]] = {
    Counted.RUNS: ("lfi", "outcome"),
    Counted.WALKS: ("lfi", "resource", "outcome"),
    Counted.ROWS: ("lfi", "resource", "change"),
    Counted.ERASED: (),
    Counted.CALLS: ("lfi", "operation", "status", "attended"),
    Counted.CALL_TIME: ("lfi", "operation", "le"),
    Counted.CALL_MS: ("lfi", "operation"),
    Counted.PRICE: ("lfi",),
    Counted.ENDED: ("lfi", "kind", "outcome"),
    Counted.REFRESHES: ("outcome",),
    Counted.DELIVERIES: ("outcome",),
    Counted.EVENTS: ("outcome",),
}

Key = tuple[str, ...]
"""A `Counted`, then the values of its labels in order."""


@lru_cache(maxsize=1024)
def slug_or_other(lfi: str) -> str:
    """A label for an LFI: its slug, or `other` for what is none."""
    return lfi if _SLUG.fullmatch(lfi) else OTHER


def word_or_other(word: object, known: Collection[str]) -> str:
    """A label out of a list of words."""
    return word if isinstance(word, str) and word in known else OTHER


def status_of(status: int | None) -> str:
    """The label for a call's status: its class; 429 is one of its own."""
    if status is None:
        return NO_ANSWER
    if status == 429:
        return RATE_LIMITED
    return f"{status // 100}xx" if 200 <= status < 600 else OTHER


def bucket_of(duration_ms: int) -> str:
    """The label for the first bucket that a duration fits in."""
    return _BUCKETS[bisect_left(BOUNDS_MS, duration_ms)]


class Tally:
    """Counts that are not in the table yet."""

    def __init__(self) -> None:
        self._counts: Counter[Key] = Counter()

    def __bool__(self) -> bool:
        return bool(self._counts)

    def add(self, what: Counted, *labels: str, by: int = 1) -> None:
        """Count; `labels` in the order of `LABELS`, each one of a bounded number of words."""
        if by > 0:
            self._counts[(what.value, *labels)] += by

    def join(self, other: "Tally") -> None:
        """Take over what another one counted; that one begins anew."""
        self._counts.update(other.taken())

    def give_back(self, counts: Mapping[Key, int]) -> None:
        """Count again what was taken and not filed."""
        self._counts.update(counts)

    def taken(self) -> Mapping[Key, int]:
        """All counts; from here on it counts from nothing."""
        counts, self._counts = self._counts, Counter()
        return counts

    # -- what is counted by its kind -----------------------------------------------------------------------------------

    def run(self, *, lfi: str, outcome: str, steps: Iterable[Mapping[str, Any]]) -> None:
        """A sync run, by its end and that of each of its walks."""
        slug = slug_or_other(lfi)
        self.add(Counted.RUNS, slug, word_or_other(outcome, RUN_OUTCOMES))
        for step in steps:
            resource = word_or_other(step.get("resource"), RESOURCES)
            self.add(Counted.WALKS, slug, resource, word_or_other(step.get("outcome"), WALK_OUTCOMES))
            for change in CHANGES:
                if rows := step.get(change):
                    self.add(Counted.ROWS, slug, resource, change, by=int(rows))

    def calls(self, rows: Iterable[CallRow]) -> None:
        """Calls that were made; one in doubt is counted once it is settled."""
        counts = self._counts
        for row in rows:
            if row.error == IN_DOUBT:
                continue
            slug = slug_or_other(row.lfi)
            operation = row.operation if row.operation in OPERATIONS else OTHER
            counts["calls", slug, operation, status_of(row.status), "true" if row.attended else "false"] += 1
            counts["call_time", slug, operation, bucket_of(row.duration_ms)] += 1
            if row.duration_ms > 0:
                counts["call_ms", slug, operation] += row.duration_ms
            if row.price_millifils > 0:
                counts["price", slug] += row.price_millifils

    def end(self, *, lfi: str, kind: str, good: bool, retry: bool) -> None:
        """Work came to an end."""
        self.add(Counted.ENDED, slug_or_other(lfi), kind, "good" if good else "retry" if retry else "bad")


# -- the table ---------------------------------------------------------------------------------------------------------

_SEPARATOR: Final = ","


def _counting(dialect: Dialect) -> Any:
    kinds = {name: counter.c[name].type for name in ("name", "labels", "value")}
    those = dialect.given("counts", kinds)
    rows = sa.select(named(counter.c.tenant, "of_tenant"), those.c.name, those.c.labels, those.c.value)
    rows = rows.where(sa.true()).order_by(those.c.name, those.c.labels)  # every process locks in one order
    fresh = dialect.insert(counter).from_select(("tenant", "name", "labels", "value"), rows)
    return fresh.on_conflict_do_update(
        index_elements=["tenant", "name", "labels"], set_={"value": counter.c.value + fresh.excluded.value}
    )


_COUNT: Final = Statement(_counting)
_READ: Final = Statement(
    lambda _: sa.select(counter.c.name, counter.c.labels, counter.c.value).where(
        counter.c.tenant == named(counter.c.tenant)
    )
)


class Counters:
    """The table `counter` of one tenant.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def count(self, counts: Mapping[Key, int]) -> None:
        """Add to the counters; makes those that are not there."""
        rows = [
            {"name": name, "labels": _SEPARATOR.join(labels), "value": value}
            for (name, *labels), value in sorted(counts.items())
        ]
        if rows:
            counted = self._unit.dialect.rows(rows)
            await _COUNT.run(self._unit, of_tenant=self._unit.tenant, counts=counted)

    async def read(self) -> Mapping[Key, int]:
        """Every counter of the tenant that this version knows."""
        found: dict[Key, int] = {}
        for name, labels, value in (await _READ.run(self._unit, tenant=self._unit.tenant)).rows:
            key = _key(name, labels.split(_SEPARATOR) if labels else [])
            if key is not None:
                found[key] = value
        return found


_SIZES: Final[Mapping[str, int]] = {what.value: len(labels) for what, labels in LABELS.items()}


def _key(name: str, labels: Sequence[str]) -> Key | None:
    return (name, *labels) if _SIZES.get(name) == len(labels) else None

"""Decide which listings to read now, and how far back.

In: what the consent opens, how far each listing was read, the time.  Out: `Step`s in reading order.  No I/O here.

Accounts come first: an AccountId may only be used with the consent whose `/accounts` showed it, so the steps of the
accounts are planned after that (or from the grants an earlier run filed).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta

from syncworker.standard.resources import Resource, ResourceName
from syncworker.standard.resources import Window as WindowParams
from syncworker.standard.values import write_instant
from syncworker.store.cursors import BEGINNING, Cursor, Listing

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Window:
    """The dates a walk asks for, already one day wider at each end: LFIs ignore the offset of a filter (trap 26).

    Attributes:
        from_date, to_date: as sent, at 00:00:00Z; `None` sends nothing.
    """

    from_date: date | None = None
    to_date: date | None = None

    def params(self, names: WindowParams) -> dict[str, str]:
        """As query parameters."""
        ends = ((names.from_param, self.from_date), (names.to_param, self.to_date))
        return {name: write_instant(_midnight(day)) for name, day in ends if day is not None}

    @property
    def since(self) -> datetime | None:
        """From here on every record must be shown."""
        return None if self.from_date is None else _midnight(self.from_date + DAY)

    @property
    def until(self) -> datetime | None:
        """Up to here, exclusive, every record must be shown."""
        return None if self.to_date is None else _midnight(self.to_date - DAY)


@dataclass(frozen=True, slots=True)
class Step:
    """One listing to walk now.

    Attributes:
        account_id: `''` for a listing of the connection.
        window: `None` where the listing cannot be narrowed.
    """

    resource: Resource
    account_id: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    window: Window | None = None

    @property
    def listing(self) -> Listing:
        return Listing(self.account_id, self.resource.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """What an operator may say about it.

    Attributes:
        cadence: how old each resource may grow.
        overlap: how far behind the high-water mark a walk begins again.
        open_max: how far back an undecided record may hold a window open.
        together: a listing due within this time is read along with those due now.
    """

    cadence: Mapping[ResourceName, timedelta]
    overlap: timedelta = timedelta(days=7)
    open_max: timedelta = timedelta(days=60)
    together: timedelta = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentLimits:
    """What of a consent narrows the listings: its inclusive dates."""

    from_date: date | None = None
    to_date: date | None = None


def plan(
    resources: Sequence[Resource],
    accounts: Iterable[str],
    cursors: Mapping[Listing, Cursor],
    *,
    limits: ConsentLimits,
    now: datetime,
    everything: bool,
    settings: PlanSettings,
    needed: frozenset[ResourceName] = frozenset(),
) -> tuple[Step, ...]:
    """The steps that are due, in the order of the catalogue within each account.

    Args:
        resources: what the consent opens (`standard.resources.permitted`), in reading order.
        accounts: account ids; `("",)` plans the listings of the connection instead.
        everything: someone asked now: all of them, not only those due.
        needed: resources to read even when they are not due.
    """
    return tuple(
        _step(resource, account_id, cursors.get(Listing(account_id, resource.name)), limits, now, settings)
        for account_id in accounts
        for resource in resources
        if resource.per_account == bool(account_id)
        and is_due(
            cursors.get(Listing(account_id, resource.name)),
            now=now,
            everything=everything or resource.name in needed,
            together=min(settings.together, settings.cadence[resource.name] / 10),
        )
    )


def is_due(cursor: Cursor | None, *, now: datetime, everything: bool, together: timedelta) -> bool:
    """Whether a listing is read now.  One refused lately is not, even when someone asks."""
    if cursor is None:
        return True
    if cursor.refused_until is not None and cursor.refused_until > now:
        return False
    return everything or cursor.due_at <= now + together


def _step(
    resource: Resource,
    account_id: str,
    cursor: Cursor | None,
    limits: ConsentLimits,
    now: datetime,
    settings: PlanSettings,
) -> Step:
    if resource.window is None:
        return Step(resource, account_id)
    window = window_of(cursor, limits=limits, now=now, settings=settings)
    return Step(resource, account_id, window.params(resource.window), window)


def window_of(cursor: Cursor | None, *, limits: ConsentLimits, now: datetime, settings: PlanSettings) -> Window:
    """From where to where a listing is walked.

    The first walk takes all there is within the consent's dates.  Later ones begin `overlap` before the newest booked
    record, or at the oldest undecided one; the whole again when the consent opens more than was ever covered.
    """
    whole = Window(
        None if limits.from_date is None else _earlier(limits.from_date, DAY),
        None if limits.to_date is None else limits.to_date + DAY,
    )
    if cursor is None or cursor.checked_at is None or cursor.high_water is None:
        return whole
    if cursor.covered_from is None or cursor.covered_from > (limits.from_date or BEGINNING):
        return whole
    back_to = min(cursor.high_water, now) - settings.overlap
    if cursor.open_since is not None:
        back_to = min(back_to, max(cursor.open_since, now - settings.open_max))
    from_date = _earlier(back_to.astimezone(UTC).date(), DAY)
    return Window(from_date if whole.from_date is None else max(from_date, whole.from_date), whole.to_date)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _earlier(day: date, by: timedelta) -> date:
    return day - by if day - date.min >= by else date.min

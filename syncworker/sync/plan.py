"""Decide which listings to read now, and how far back.

In: what the consent opens, how far each listing was read, the time.  Out: `Step`s in reading order.  No I/O here.

Accounts come first: an AccountId may only be used with the consent whose `/accounts` showed it, so the steps of the
accounts are planned after that (or from the grants an earlier run filed).

How a long listing (`Window.sliced`) is read, so that what is new comes first and nothing is read in vain:

    first        the newest `first_sync`
    then         slices of `backfill_slice`, backwards, until the consent's FromDate, the LFI's first available, or
                 `backfill_max`; of an LFI that does not say where its history begins, until `EMPTY_SLICES` in a row
                 held nothing.  Of an LFI that ignores the window: one walk, `whole`, from where history is wanted
                 (`sync.filters`), in place of slices, or, where that is known before, of all of these
    later        from `overlap` before the newest booked record, or from the oldest undecided one
    now and then from `rewalk` back, once every `rewalk_every`: rows that the LFI files late, dated weeks ago, lie
                 before any overlap.  What comes later still is found by no walk but a full one.
    looks        at items that could not be read, where they lie, once the history is whole (`looks`): no other walk
                 reaches that far back again, and the LFI may have mended them
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from syncworker.standard.calendar import FIRST_DAY, LAST_DAY, at_time, shifted, utc_date
from syncworker.standard.resources import Resource, ResourceName
from syncworker.standard.resources import Window as WindowParams
from syncworker.standard.values import local_date, write_instant
from syncworker.store.cursors import BEGINNING, Cursor, Listing
from syncworker.store.refreshes import Wish
from syncworker.store.unreadable import Remembered
from syncworker.sync.refusals import BLOCKED_FOR, is_blocked
from syncworker.sync.wishes import age_wanted

DAY = timedelta(days=1)
EMPTY_SLICES = 4
"""Slices in a row without an item after which an LFI that does not say where its history begins has no more: a year."""


@dataclass(frozen=True, slots=True)
class Window:
    """The dates a walk asks for, already wider at each end: LFIs ignore the offset of a filter (trap 26).

    Attributes:
        from_date, to_date: as sent; `None` sends nothing.
        wider: by how much (`standard.resources.Window.wider`).
    """

    from_date: date | None = None
    to_date: date | None = None
    wider: timedelta = DAY

    def params(self, names: WindowParams) -> dict[str, str]:
        """As query parameters."""
        ends = ((names.from_param, self.from_date), (names.to_param, self.to_date))
        return {
            name: day.isoformat() if names.as_dates else write_instant(at_time(day))
            for name, day in ends
            if day is not None and FIRST_DAY < day < LAST_DAY  # an end of the calendar is no limit
        }

    @property
    def since(self) -> datetime | None:
        """From here on every record must be shown."""
        return None if self.from_date is None else at_time(shifted(self.from_date, self.wider))

    @property
    def until(self) -> datetime | None:
        """Up to here, exclusive, every record must be shown."""
        return None if self.to_date is None else at_time(shifted(self.to_date, -self.wider))

    @property
    def covers_from(self) -> date:
        """The first date that is covered once the walk is complete."""
        return BEGINNING if self.from_date is None else shifted(self.from_date, self.wider)


@dataclass(frozen=True, slots=True)
class Step:
    """One listing to walk now.

    Attributes:
        account_id: `''` for a listing of the connection.
        window: `None` where the listing cannot be narrowed.
        floor: nothing older is ever asked for.
        deep: reaches back for rows filed late.
        backfill: a slice of the history behind what was read, not the newest part.
        whole: all of the listing at once, since the LFI ignores the window; proves no absence (`sync.filters`).
        look: a window of history read once more, for items in it that could not be read.
    """

    resource: Resource
    account_id: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    window: Window | None = None
    floor: date = BEGINNING
    deep: bool = False
    backfill: bool = False
    whole: bool = False
    look: bool = False

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
        first_sync: how far back the first walk of a long listing reaches.
        backfill_slice: how much of the history behind it is read at once.
        backfill_max: how far back history is wanted at all.
        rewalk, rewalk_every: how far back a walk reaches now and then, and how often.
    """

    cadence: Mapping[ResourceName, timedelta]
    overlap: timedelta = timedelta(days=7)
    open_max: timedelta = timedelta(days=60)
    together: timedelta = timedelta(minutes=10)
    first_sync: timedelta = timedelta(days=90)
    backfill_slice: timedelta = timedelta(days=90)
    backfill_max: timedelta = timedelta(days=3650)
    rewalk: timedelta = timedelta(days=30)
    rewalk_every: timedelta = timedelta(days=7)


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
    unfiltered: frozenset[ResourceName] = frozenset(),
    wishes: Sequence[Wish] | None = None,
) -> tuple[Step, ...]:
    """The steps that are due, or wanted, in the order of the catalogue within each account.

    Args:
        resources: what the consent opens (`standard.resources.permitted`), in reading order.
        accounts: account ids; `("",)` plans the listings of the connection instead.
        everything: a person asked now: all of them, also those refused lately (`is_due`).
        needed: resources to read even when they are not due.
        unfiltered: resources whose window the LFI ignores.
        wishes: what refreshes want is read, and nothing that is only due; `None`: the run serves no refresh.
    """

    def is_read(resource: Resource, account_id: str) -> bool:
        cursor = cursors.get(Listing(account_id, resource.name))
        if wishes is not None and not everything:
            age = age_wanted(wishes, account_id, resource)
            if age is not None:
                return is_wanted(cursor, now=now, max_age=age)
            if resource.name not in needed:
                return False
        return is_due(
            cursor,
            now=now,
            everything=everything or resource.name in needed,
            asked=everything,
            together=min(settings.together, settings.cadence[resource.name] / 10),
        )

    return tuple(
        _step(
            resource,
            account_id,
            cursors.get(Listing(account_id, resource.name)),
            limits,
            now,
            settings,
            unfiltered=resource.name in unfiltered,
        )
        for account_id in accounts
        for resource in resources
        if resource.per_account == bool(account_id) and is_read(resource, account_id)
    )


def is_wanted(cursor: Cursor | None, *, now: datetime, max_age: timedelta) -> bool:
    """Whether a listing that refreshes want is read now: it is as old as they say, and was not refused within the hour.

    Args:
        max_age: zero: whatever its age.
    """
    if not is_due(cursor, now=now, everything=True, together=timedelta(), asked=True):
        return False
    return cursor is None or cursor.checked_at is None or now - cursor.checked_at >= max_age


def is_due(cursor: Cursor | None, *, now: datetime, everything: bool, together: timedelta, asked: bool = False) -> bool:
    """Whether a listing is read now.

    Args:
        everything: also what is not due.
        asked: a person asked: also what was refused lately, but for an account that was found blocked within the hour.
    """
    if cursor is None:
        return True
    if cursor.refused_until is not None and cursor.refused_until > now:
        lately = cursor.attempted_at is not None and now - cursor.attempted_at < BLOCKED_FOR
        return asked and not (lately and is_blocked(cursor.error))
    return everything or cursor.due_at <= now + together


def _step(
    resource: Resource,
    account_id: str,
    cursor: Cursor | None,
    limits: ConsentLimits,
    now: datetime,
    settings: PlanSettings,
    *,
    unfiltered: bool = False,
) -> Step:
    if resource.window is None:
        return Step(resource, account_id)
    floor = floor_of(limits, now=now, settings=settings)
    if unfiltered and resource.window.sliced and (cursor is None or cursor.checked_at is None):
        return _whole(resource, resource.window, account_id, limits=limits, floor=floor)
    deep = cursor is None or cursor.deep_at is None or now - cursor.deep_at >= settings.rewalk_every
    window = window_of(cursor, of=resource.window, limits=limits, now=now, settings=settings, deep=deep)
    return Step(resource, account_id, window.params(resource.window), window, floor=floor, deep=deep)


def _whole(
    resource: Resource,
    of: WindowParams,
    account_id: str,
    *,
    limits: ConsentLimits,
    floor: date,
    backfill: bool = False,
) -> Step:
    """Everything that is wanted of a listing, in one walk: right whether or not the LFI honours the window."""
    until = None if limits.to_date is None else shifted(limits.to_date, of.wider)
    window = Window(shifted(floor, -of.wider), until, of.wider)
    return Step(resource, account_id, window.params(of), window, floor=floor, deep=True, backfill=backfill, whole=True)


def window_of(
    cursor: Cursor | None,
    *,
    of: WindowParams,
    limits: ConsentLimits,
    now: datetime,
    settings: PlanSettings,
    deep: bool = False,
) -> Window:
    """From where to where the newest part of a listing is walked, within the consent's dates.

    A short listing is walked whole at first, and again when the consent opens more than was ever covered; of a long
    one that is the backfill's part.
    """
    begin = limits.from_date
    back_to = _back_to(cursor, of=of, limits=limits, now=now, settings=settings, deep=deep)
    if back_to is not None:
        begin = back_to if begin is None else max(begin, back_to)
    return Window(
        None if begin is None else shifted(begin, -of.wider),
        None if limits.to_date is None else shifted(limits.to_date, of.wider),
        of.wider,
    )


def _back_to(
    cursor: Cursor | None,
    *,
    of: WindowParams,
    limits: ConsentLimits,
    now: datetime,
    settings: PlanSettings,
    deep: bool,
) -> date | None:
    """How far back the newest part of a listing reaches; `None`: as far as there is."""
    if cursor is None or cursor.checked_at is None:
        today = local_date(now)
        newest = today if limits.to_date is None else min(today, limits.to_date)
        return shifted(newest, -settings.first_sync) if of.sliced else None
    if not of.sliced and (
        cursor.high_water is None
        or cursor.covered_from is None
        or cursor.covered_from > (limits.from_date or BEGINNING)
    ):
        return None
    if cursor.high_water is None:  # never a booked record in the newest part
        reach = max(settings.first_sync, settings.rewalk if deep else DAY)
        return shifted(local_date(cursor.checked_at), -reach)
    back_to = shifted(min(cursor.high_water, now), -settings.overlap)
    if cursor.open_since is not None:
        back_to = min(back_to, max(cursor.open_since, now - settings.open_max))
    if deep:
        back_to = min(back_to, now - settings.rewalk)
    return utc_date(back_to)


# -- the history behind ----------------------------------------------------------------------------------------------


def floor_of(limits: ConsentLimits, *, now: datetime, settings: PlanSettings) -> date:
    """The date behind which nothing is asked for."""
    return max(limits.from_date or BEGINNING, shifted(local_date(now), -settings.backfill_max))


def is_backfilled(cursor: Cursor, *, floor: date) -> bool:
    """Whether the history of a listing was read down to where it ends, or to the floor."""
    return (cursor.backfilled_to is not None and cursor.backfilled_to <= floor) or (
        cursor.covered_from is not None and cursor.covered_from <= floor
    )


def next_slice(
    resource: Resource,
    cursor: Cursor | None,
    *,
    limits: ConsentLimits,
    now: datetime,
    settings: PlanSettings,
    unfiltered: bool = False,
) -> Step | None:
    """The next slice of a listing's history, behind what is covered; `None` when there is none to read.

    A listing that was never read, or is refused, has none yet.  `Cursor.backfill_due_at` is the caller's to mind.

    Args:
        unfiltered: the LFI ignores the window: what is left is read whole.
    """
    if resource.window is None or not resource.window.sliced:
        return None
    if cursor is None or cursor.covered_from is None:
        return None
    if cursor.refused_until is not None and cursor.refused_until > now:
        return None
    floor = floor_of(limits, now=now, settings=settings)
    if is_backfilled(cursor, floor=floor):
        return None
    if unfiltered:
        return _whole(resource, resource.window, cursor.listing.account_id, limits=limits, floor=floor, backfill=True)
    wider = resource.window.wider
    end = shifted(cursor.covered_from, -DAY)
    begin = max(floor, shifted(cursor.covered_from, -settings.backfill_slice))
    window = Window(shifted(begin, -wider), shifted(end, wider), wider)
    return Step(resource, cursor.listing.account_id, window.params(resource.window), window, floor=floor, backfill=True)


def is_to_look(resource: Resource, cursor: Cursor | None, *, floor: date, now: datetime) -> bool:
    """Whether it is time to look again at items of a listing that could not be read."""
    if cursor is None or cursor.look_again_at is None or cursor.look_again_at > now:
        return False
    if cursor.refused_until is not None and cursor.refused_until > now:
        return False
    return owes_items(resource, cursor, floor=floor)


def owes_items(resource: Resource, cursor: Cursor, *, floor: date) -> bool:
    """Whether items of a listing, all of whose history was read, could not be read and are looked at again."""
    if resource.window is None or cursor.look_again_at is None:
        return False
    return not resource.window.sliced or is_backfilled(cursor, floor=floor)


def looks(
    resource: Resource,
    account_id: str,
    items: Iterable[Remembered],
    *,
    limits: ConsentLimits,
    now: datetime,
    settings: PlanSettings,
) -> tuple[Step, ...]:
    """The windows in which items lie that could not be read, oldest first; none longer than a slice of history is.

    A window is as long as need be where it is not known more closely where an item lies.  What lies outside the
    consent's dates is not asked for.
    """
    of = resource.window
    if of is None:
        return ()
    first, last = limits.from_date or BEGINNING, limits.to_date or LAST_DAY
    places = sorted(
        (
            first if one.not_before is None else utc_date(one.not_before),
            last if one.not_after is None else shifted(utc_date(one.not_after), DAY),
        )
        for one in items
    )
    spans: list[tuple[date, date]] = []
    for begin, end in places:
        if end < first or begin > last:
            continue
        begin, end = max(begin, first), min(end, last)
        if spans and (end <= spans[-1][1] or end - spans[-1][0] <= settings.backfill_slice):
            spans[-1] = spans[-1][0], max(end, spans[-1][1])
        else:
            spans.append((begin, end))
    windows = [
        Window(
            None if begin == BEGINNING else shifted(begin, -of.wider),
            None if end == LAST_DAY else shifted(end, of.wider),
            of.wider,
        )
        for begin, end in spans
    ]
    floor = floor_of(limits, now=now, settings=settings)
    return tuple(
        Step(resource, account_id, window.params(of), window, floor=floor, backfill=True, look=True)
        for window in windows
    )


def backfilled_to(window: Window, *, floor: date, first_available: datetime | None, empty_slices: int) -> date | None:
    """Where the history ends, once a complete walk of `window` reached it; `None`: there may be more.

    Args:
        empty_slices: slices in a row that held nothing of their windows, this one included.
    """
    begins = window.covers_from
    if begins <= floor:
        return begins
    if first_available is not None:
        return BEGINNING if begins <= local_date(first_available) else None
    return BEGINNING if empty_slices >= EMPTY_SLICES else None

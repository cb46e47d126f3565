"""The first screen: causes, five questions, 24 hours.

Every symptom carries its cause's number.  A bank that is down is one line with a count; the rows below are those that
no cause explains.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from fastapi import Response

from syncworker.ops.cause import Cause, CauseKind, Side
from syncworker.ops.diagnosis import Part, Traced
from syncworker.ops.words import span
from syncworker.standard.calendar import shifted
from syncworker.store.ops_connections import EndingRow
from syncworker.store.ops_traffic import HourOfCalls, QuarterOfRuns
from syncworker.store.standings import NEEDS_CONSENT
from syncworker.store.unit_of_work import UnitOfWork
from syncworker.web.dashboard import charts, words
from syncworker.web.dashboard.door import Visit
from syncworker.web.dashboard.frame import Frame
from syncworker.web.dashboard.looking import ENDING_WITHIN, QUARTER, QUARTERS, Looked, day_began, first_quarter
from syncworker.web.dashboard.render import link

ROWS: Final = 10
DAYS: Final = ENDING_WITHIN.days
PARTS_SHOWN: Final = 10
SAID_MAX: Final = 14

SIDES: Final[Mapping[Side, str]] = {
    Side.US: "Our side",
    Side.LFI: "LFI’s side",
    Side.HUB: "Hub’s side",
    Side.PRODUCT: "Product’s side",
}
PAGES: Final[Mapping[CauseKind, str]] = {
    CauseKind.PARKED: link("work", state="parked"),
    CauseKind.WORK_FAILING: link("work", state="failing"),
    CauseKind.SLOTS_SPENT: link("work", state="claimed"),
    CauseKind.CAPACITY: link("work", state="due"),
    CauseKind.DELIVERIES_STUCK: link("webhooks", waiting="waiting"),
    CauseKind.EXPORT_LATE: link("exports"),
    CauseKind.INBOX_STUCK: link("events", state="filed"),
    CauseKind.OPENINGS_UNKNOWN: link("openings"),
    CauseKind.OPENINGS_OVERDUE: link("openings"),
    CauseKind.WORKERS_DEAD: link("processes"),
    CauseKind.WORKER_HANGS: link("processes"),
    CauseKind.BEAT_DEAD: link("processes"),
    CauseKind.CLOCK_APART: link("processes"),
    CauseKind.OBSERVERS: link("processes"),
    CauseKind.BROKER_SILENT: link("processes"),
    CauseKind.BROKER_FOREIGN: link("processes"),
    CauseKind.CONSENTS_CONSUMED: link("connections", state="ended"),
    CauseKind.REVOCATIONS_PENDING: link("work", kind="consent"),
}
"""The page that a cause's title leads to, where it is not an LFI's."""

_ENDING: Final = frozenset({CauseKind.CERTIFICATE_ENDS, CauseKind.CERTIFICATE_ENDED})


class Row(NamedTuple):
    """A line of a column.

    Attributes:
        href: where it leads; empty: nowhere.
        cause: number of the cause it stands for, with its colour; a grouped line.
        icon: of its state; empty: none.
    """

    name: str
    value: str
    href: str = ""
    cause: int | None = None
    tone: str = ""
    lfi: str = ""
    icon: str = ""
    is_id: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One of the five columns.

    Attributes:
        more: what `sub` leaves out, for a pointer that rests on it.
    """

    key: str
    title: str
    every: str
    big: str
    small: str
    sub: str
    tone: str
    chart: charts.Chart
    target: int | None
    axis: Sequence[str]
    rows: Sequence[Row]
    empty: str
    more: str = ""


class Overview:
    """The page."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    async def show(self, visit: Visit, unit: UnitOfWork) -> Response:
        """The first screen."""
        now = visit.now
        looker = self._frame.looker
        looked, figures = await asyncio.gather(looker.looked(), looker.figures())  # each on a session of its own
        five = [
            _stale(looked, figures.ages),
            _failing(looked, figures.runs, figures.at),
            _expires(looked, figures.days, figures.ending, now),
            _cost(figures.calls, figures.at),
            _alive(looked),
        ]
        return await self._frame.page(
            visit,
            unit,
            "overview.html",
            here="overview",
            looked=looked,
            causes=[
                (one, _page_of(one), SIDES[one.side], _effects(one), _lasting(one, looked))
                for one in looked.found.causes
            ],
            explained=sum(one.effect.stale for one in looked.found.causes),
            last=looked.found.last_cause,
            five=five,
            day=_day(figures.runs, figures.at),
            outcomes=_outcomes(figures.runs),
            hours=[f"{one:%H}" for one in charts.hours(figures.at)],
            marks=_marks(looked, figures.at),
        )


# -- causes ------------------------------------------------------------------------------------------------------------


def _page_of(cause: Cause) -> str:
    if cause.kind in PAGES:
        return PAGES[cause.kind]
    return link("lfis") if cause.lfi is None else link("lfis", cause.lfi)


def _lasting(cause: Cause, looked: Looked) -> bool:
    """Whether its age is to be said: it has one, and its reason does not say it already."""
    if cause.since is None:
        return False
    length = looked.found.at - cause.since
    return length >= timedelta(seconds=1) and span(length) not in cause.why


def _effects(cause: Cause) -> list[tuple[str, str]]:
    """Counts with their words, those that are not zero."""
    effect = cause.effect
    found = [
        (words.count(number), word)
        for number, word in ((effect.stale, "stale"), (effect.failing, "failing"), (effect.waiting, "waiting"))
        if number
    ]
    if effect.connections and not found:
        found.append((words.count(effect.connections), "connections" + ("" if cause.grave else ", from then on")))
    return found


def _groups(looked: Looked, counts: Mapping[int | None, int], name: str) -> list[Row]:
    """One line for each cause that explains some."""
    found = []
    for one in looked.found.causes:
        if number := counts.get(one.number, 0):
            tone = "bad" if one.grave else "warn"
            found.append(Row(one.lfi or one.what, words.count(number), f"#cause-{one.number}", one.number, tone))
    return found[: ROWS - 1] if name else found


def _connections(those: Sequence[Traced], room: int, value: Any) -> list[Row]:
    return [
        Row(
            one.row.user_ref, value(one), link("connections", one.row.connection_id), lfi=one.row.lfi, is_id=True
        )
        for one in [each for each in those if each.cause is None][:room]
    ]  # fmt: skip


# -- the five questions ------------------------------------------------------------------------------------------------


def _stale(looked: Looked, ages: Sequence[int]) -> Question:
    found, counts = looked.found, looked.found.counts
    rows = _groups(looked, Counter(one.cause for one in found.stale), "stale")
    rows += _connections(found.stale, ROWS - len(rows), lambda one: words.span(found.at - one.since))
    left = sum(counts.left_out.values())
    names = ", ".join(f"{words.count(n)} {why.replace('_', ' ')}" for why, n in Counter(counts.left_out).most_common())
    explained = any(one.cause is not None for one in found.stale)
    columns = [
        ((number, "f-bar" if place < 5 else "f-warn" if place < 7 else "f-bad"),) for place, number in enumerate(ages)
    ]
    return Question(
        key="stale",
        title="What is stale",
        every=link("connections", trouble="stale"),
        big=words.count(counts.stale),
        small=f"of {words.count(counts.connections)}",
        sub=f"{words.count(left)} more cannot be fresh" if left else "every connection counts",
        more=f"left out, since no data may be asked for: {names}" if left else "",
        tone="bad" if counts.stale and explained else "warn" if counts.stale else "",
        chart=charts.stacked(columns, said="Connections by age of their first listing, as a share of its target"),
        target=5,
        axis=("fresh", "target", "2×", "4×"),
        rows=rows,
        empty="Every connection is within its targets." if counts.connections else "No connection is in use yet.",
    )


def _failing(looked: Looked, runs: Sequence[QuarterOfRuns], now: datetime) -> Question:
    found, counts = looked.found, looked.found.counts
    rows = _groups(looked, Counter(one.cause for one in found.failing), "failing")
    rows += _connections(found.failing, ROWS - len(rows), lambda one: one.row.error or "failed")
    overview = looked.status.overview
    asked = [one for one in overview.troubled if one.state == NEEDS_CONSENT] if overview is not None else []
    for one in asked[: ROWS - len(rows)]:
        at = link("connections", one.connection_id)
        rows.append(Row(one.user_ref, "consent again", at, lfi=one.lfi, is_id=True))
    by_hour: Counter[datetime] = Counter()
    for part in runs:
        if part.outcome in ("failed", "partial"):
            by_hour[part.began.replace(minute=0)] += part.runs
    columns = [((by_hour[hour], "f-bad"),) for hour in charts.hours(now)]
    operators = counts.failing - counts.needs_customer
    return Question(
        key="fail",
        title="What is failing",
        every=link("connections", trouble="failing"),
        big=words.count(counts.failing),
        small="connections",
        sub=f"{words.count(counts.needs_customer)} need their customer, {words.count(counts.parked)} parked",
        tone="bad" if operators else "warn" if counts.failing else "",
        chart=charts.stacked(columns, said="Runs that failed or were partial, by the hour, last 24 hours"),
        target=None,
        axis=("24 h ago", "now"),
        rows=rows,
        empty="Every connection’s last run was complete.",
    )


def _expires(looked: Looked, days: Sequence[int], ending: Sequence[EndingRow], now: datetime) -> Question:
    counts = looked.found.counts
    rows = [
        Row(
            one.what,
            "",
            f"#cause-{one.number}",
            one.number,
            "bad" if one.grave else "warn",
        )
        for one in looked.found.causes
        if one.kind in _ENDING
    ][:3]
    for one in ending[: ROWS - len(rows)]:
        at = link("connections", one.connection_id)
        rows.append(Row(one.user_ref, words.span(one.expires_at - now), at, lfi=one.lfi, is_id=True))
    columns = [((number, "f-warn" if day < 7 else "f-bar"),) for day, number in enumerate(days)]
    return Question(
        key="ends",
        title="What expires",
        every=link("connections", state="active"),
        big=words.count(counts.ends_7),
        small="in 7 d",
        sub=f"{words.count(counts.ends_30)} in 30 d",
        tone="warn" if counts.ends_7 or any(row.cause for row in rows) else "",
        chart=charts.stacked(columns, said=f"Consents that end, by day, next {DAYS} days"),
        target=None,
        axis=("today", f"{DAYS} d"),
        rows=rows,
        empty=f"No consent ends within {DAYS} d.",
    )


def _cost(calls: Sequence[HourOfCalls], now: datetime) -> Question:
    """Spent today; a budget and a forecast are left out until they are true."""
    by_lfi: Counter[str] = Counter()
    by_hour: Counter[datetime] = Counter()
    for one in calls:
        by_lfi[one.lfi] += one.millifils
        by_hour[one.hour] += one.millifils
    began = day_began(now)
    hours = [shifted(began, timedelta(hours=number)) for number in range(24)]
    columns = [((by_hour[hour], "f-strong"),) for hour in hours]
    spent = sum(by_lfi.values())
    rows = [Row(slug, words.dirhams(price, 1), link("lfis", slug)) for slug, price in by_lfi.most_common(ROWS - 3)]
    made = sum(one.calls for one in calls)
    rows += (
        [
            Row("Calls", words.count(made)),
            Row("With the customer present", words.count(sum(one.attended for one in calls))),
            Row("Without a good answer", words.count(sum(one.unanswered for one in calls))),
        ]
        if made
        else []
    )
    return Question(
        key="cost",
        title="What it costs today",
        every=link("cost"),
        big=f"{spent / words.MILLIFILS_PER_DIRHAM:,.2f}",
        small="AED",
        sub=f"{words.count(made)} calls since 00:00 in Dubai",
        tone="",
        chart=charts.stacked(columns, said=f"Spent by the hour today: AED {spent / words.MILLIFILS_PER_DIRHAM:,.2f}"),
        target=None,
        axis=("00:00 Dubai", "24:00"),
        rows=rows,
        empty="No call was made today.",
    )


def _alive(looked: Looked) -> Question:
    parts = looked.found.parts
    good = sum(one.good is True for one in parts)
    known = sum(one.good is not None for one in parts)
    bad = [one for one in parts if one.good is False]
    ordered = sorted(parts, key=lambda one: one.good is not False)
    overview = looked.status.overview
    work = overview.work if overview is not None else ()
    due, late = sum(one.due for one in work), max((one.late for one in work), default=timedelta())
    oldest = f", oldest {words.span(late)}" if due else ""
    columns = [((1, "f-bad" if one.good is False else "f-none" if one.good is None else "f-bar"),) for one in parts]
    return Question(
        key="alive",
        title="Is the machinery alive",
        every=link("processes"),
        big=f"{good} of {known}",
        small="parts",
        sub=f"{words.count(due)} due{oldest}, {words.count(sum(one.leased for one in work))} in work",
        tone="bad" if any(one.cause is not None for one in bad) else "",
        chart=charts.stacked(columns, said=f"{len(parts)} parts, {len(bad)} of them in trouble"),
        target=None,
        axis=("beat, workers", "services"),
        rows=[_part(looked, one) for one in ordered[:PARTS_SHOWN]],
        empty="No part is known.",
    )


def _part(looked: Looked, one: Part) -> Row:
    cause = looked.cause(one.cause)
    kind = one.kind if one.kind in ("worker", "beat") else ""
    said = one.said.removeprefix("progress ").removesuffix(" ago").replace(" ", words.NBSP)
    if cause is not None:
        tone = "bad" if cause.grave else "warn"
        said = said if len(said) <= SAID_MAX else ""  # the cause says it in full
        return Row(one.name, said, f"#cause-{cause.number}", cause.number, tone)  # the cause names its kind
    icon = {True: "ok", False: "bad", None: "none"}[one.good]
    return Row(one.name, said, link("processes"), lfi=kind, icon=icon, tone="bad" if one.good is False else "")


# -- 24 hours ----------------------------------------------------------------------------------------------------------


def _day(runs: Sequence[QuarterOfRuns], now: datetime) -> charts.Chart:
    first = first_quarter(now)
    piles: dict[int, Counter[str]] = defaultdict(Counter)
    for one in runs:
        piles[(one.began - first) // QUARTER][one.outcome] += one.runs
    columns = []
    for place in range(QUARTERS):
        pile = piles[place]
        good = pile["ok"] + pile["unchanged"]
        columns.append(((good, "f-bar"), (pile["partial"], "f-warn"), (pile["failed"] + pile["lease_lost"], "f-bad")))
    return charts.stacked(columns, said="Runs in each quarter of an hour by outcome, last 24 hours")


def _outcomes(runs: Sequence[QuarterOfRuns]) -> Counter[str]:
    found: Counter[str] = Counter()
    for one in runs:
        found[one.outcome] += one.runs
        found["rows"] += one.rows
    return found


def _marks(looked: Looked, now: datetime) -> dict[int, tuple[int, str]]:
    """The hours in which causes began, by place."""
    hours = charts.hours(now)
    found: dict[int, tuple[int, str]] = {}
    for one in reversed(looked.found.causes):
        if one.since is not None and one.since >= hours[0]:
            place = min(int((one.since - hours[0]) / timedelta(hours=1)), len(hours) - 1)
            found[place] = (one.number, "bad" if one.grave else "warn")
    return found

"""Figures as coordinates: what the templates draw as SVG, stretched to the place they get.  Pure.

Words stand beside a chart in HTML; a chart has one sentence that tells what it shows, for those who do not see it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final, NamedTuple

from syncworker.standard.calendar import FIRST_DAY, shifted
from syncworker.store.calls import CallRow

HEIGHT: Final = 100.0
LEAST: Final = 3.0
"""A value that is not zero is at least so high, so that it is seen."""


class Bar(NamedTuple):
    """One rectangle: `tone` is the class of its fill."""

    x: str
    y: str
    width: str
    height: str
    tone: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Rectangles within `0 0 width 100`.

    Attributes:
        said: what the chart shows, in a sentence.
    """

    width: int
    bars: tuple[Bar, ...]
    said: str


def stacked(columns: Sequence[Sequence[tuple[int, str]]], *, said: str) -> Chart:
    """Columns from left to right, each a pile of (value, fill), the first at the bottom.

    The highest pile fills the height.
    """
    most = max((sum(value for value, _ in column) for column in columns), default=0) or 1
    bars: list[Bar] = []
    for place, column in enumerate(columns):
        top = HEIGHT
        for value, tone in column:
            if value <= 0:
                continue
            height = min(max(value / most * HEIGHT, LEAST), top)
            top -= height
            bars.append(Bar(f"{place + 0.1:.2f}", f"{top:.1f}", "0.80", f"{height:.1f}", tone))
    return Chart(max(len(columns), 1), tuple(bars), said)


def hours(now: datetime, back: int = 24) -> list[datetime]:
    """The beginnings of the last hours, oldest first, the one that runs last."""
    this = now.replace(minute=0, second=0, microsecond=0)
    return [shifted(this, timedelta(hours=-number)) for number in range(back - 1, -1, -1)]


# -- the calls of a run ------------------------------------------------------------------------------------------


class Fallen(NamedTuple):
    """One call of a waterfall, in milliseconds from the run's beginning.

    Attributes:
        waited_from: when the wait before a retry began; `None`: it is no retry.
    """

    call: CallRow
    begins: int
    took: int
    waited_from: int | None
    tone: str


@dataclass(frozen=True, slots=True)
class Waterfall:
    """The calls of a run over its time.

    Attributes:
        width: milliseconds that the axis spans.
        marks: words below the axis, begin, middle and end.
    """

    width: int
    marks: tuple[str, str, str]
    calls: tuple[Fallen, ...]


def waterfall(calls: Sequence[CallRow], *, began: datetime) -> Waterfall:
    """The calls of a run by when they began."""
    ordered = sorted(calls, key=lambda one: one.started_at)
    first = min([began, *(one.started_at for one in ordered)])
    ends: dict[str, int] = {}
    fallen: list[Fallen] = []
    for one in ordered:
        begins = max(0, (one.started_at - first) // timedelta(milliseconds=1))
        waited = ends.get(one.operation) if one.attempt > 1 else None
        bad = one.status is None or one.status >= 500 or one.status == 429
        fallen.append(
            Fallen(one, begins, max(one.duration_ms, 1), waited if waited is not None and waited < begins else None,
                   "f-bad" if bad else "f-strong")
        )  # fmt: skip
        ends[one.operation] = begins + one.duration_ms
    longest = max((one.begins + one.took for one in fallen), default=1)
    width = _round(longest)
    return Waterfall(width, (_second(0), _second(width / 2), _second(width)), tuple(fallen))


_STEPS: Final = (
    100, 200, 500, 1_000, 2_000, 4_000, 6_000, 10_000, 15_000, 20_000, 25_000, 30_000, 40_000, 60_000, 120_000, 300_000
)  # fmt: skip


def _round(milliseconds: int) -> int:
    """The next length that reads well."""
    for step in _STEPS:
        if milliseconds <= step:
            return step
    return -(-milliseconds // 600_000) * 600_000


def _second(milliseconds: float) -> str:
    return f"{milliseconds / 1_000:g} s"


# -- days that were walked ---------------------------------------------------------------------------------------


class Piece(NamedTuple):
    """A part of a line of days, from its first."""

    x: int
    width: int
    tone: str


@dataclass(frozen=True, slots=True)
class Days:
    """A line of days, those walked and those not.

    Attributes:
        said: `whole`, or how many of how many.
        gaps: first and last day of each part that was not walked.
    """

    length: int
    pieces: tuple[Piece, ...]
    said: str
    gaps: tuple[tuple[date, date], ...]


def walked(windows: Sequence[tuple[date, date]], *, first: date, last: date) -> Days:
    """Windows of days, both ends in them, on a line from the first to the last day; `FIRST_DAY` reaches back to it."""
    length = max((last - first).days + 1, 1)
    pieces: list[Piece] = []
    gaps: list[tuple[date, date]] = []
    seen = 0
    for begin, end in _joined(windows, first=first, last=last):
        start, stop = (begin - first).days, (end - first).days + 1
        if start > seen:
            pieces.append(Piece(seen, start - seen, "f-warn"))
            gaps.append((shifted(first, timedelta(days=seen)), shifted(begin, timedelta(days=-1))))
        pieces.append(Piece(start, stop - start, "f-bar"))
        seen = stop
    if seen < length:
        pieces.append(Piece(seen, length - seen, "f-warn"))
        gaps.append((shifted(first, timedelta(days=seen)), last))
    done = sum(piece.width for piece in pieces if piece.tone == "f-bar")
    return Days(length, tuple(pieces), "whole" if done == length else f"{done:,} of {length:,} d", tuple(gaps))


def _joined(windows: Sequence[tuple[date, date]], *, first: date, last: date) -> list[tuple[date, date]]:
    """The windows within the line, those that touch as one."""
    found: list[tuple[date, date]] = []
    for begin, end in sorted(
        (first if begin == FIRST_DAY else max(begin, first), min(end, last)) for begin, end in windows
    ):
        if begin > end:
            continue
        if found and begin <= shifted(found[-1][1], timedelta(days=1)):
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


# -- the consents of a connection --------------------------------------------------------------------------------


class Line(NamedTuple):
    """One consent on the line of its chain: pixels of a drawing 1180 wide.

    Attributes:
        lived: what of it has passed; `left`: what is left of it.
    """

    x: int
    y: int
    lived: int
    left: int
    tone: str
    head: str
    said: str


class Mark(NamedTuple):
    """A month named on the line."""

    x: int
    word: str


@dataclass(frozen=True, slots=True)
class Lineage:
    """A chain of consents over time.

    Attributes:
        now: place of this moment.
    """

    height: int
    lines: tuple[Line, ...]
    marks: tuple[Mark, ...]
    now: int


class Life(NamedTuple):
    """A consent's time: from its making to its end, seen or planned."""

    head: str
    said: str
    begins: datetime
    ends: datetime
    ended: bool


WIDTH: Final = 1_100
LEFT: Final = 40
_ROW: Final = 36


def lineage(lives: Sequence[Life], *, now: datetime) -> Lineage:
    """Consents from the oldest, each a line of its own."""
    first = min((one.begins for one in lives), default=now)
    last = max([now, *(min(one.ends, shifted(now, timedelta(days=400))) for one in lives)])
    whole = max((last - first) / timedelta(seconds=1), 1.0)

    def place(at: datetime) -> int:
        return LEFT + round(max(0.0, min(1.0, (at - first) / timedelta(seconds=1) / whole)) * WIDTH)

    lines = []
    for number, one in enumerate(lives):
        begin, end, here = place(one.begins), place(one.ends), place(now)
        until = end if one.ended else min(max(here, begin), end)
        tone = "f-bar" if one.ended else "f-strong"
        left = 0 if one.ended else end - until
        lines.append(Line(begin, 14 + number * _ROW, max(until - begin, 3), left, tone, one.head, one.said))
    return Lineage(14 + len(lives) * _ROW + 20, tuple(lines), _months(first, last, place), place(now))


def _months(first: datetime, last: datetime, place: Callable[[datetime], int]) -> tuple[Mark, ...]:
    """At most a dozen beginnings of months."""
    months = [
        datetime(number // 12, number % 12 + 1, 1, tzinfo=first.tzinfo)
        for number in range(first.year * 12 + first.month, last.year * 12 + last.month)
    ]
    step = -(-len(months) // 12) or 1
    return tuple(Mark(place(one), f"{one:%b %Y}") for one in months[::step])

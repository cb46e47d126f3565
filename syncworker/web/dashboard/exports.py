"""Exports: the series that are set, when each is due, and every export that was made.

What an export covers and leaves out stands in its manifest at the target, which this process does not read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

from fastapi import Response

from syncworker.ops.cause import CauseKind
from syncworker.ops.status import ExportFact
from syncworker.ops.upkeep import late_export
from syncworker.settings import ExportSettings
from syncworker.store.exports import GOOD, ExportRow, Place
from syncworker.store.unit_of_work import UnitOfWork
from syncworker.web.dashboard import paging, words
from syncworker.web.dashboard.door import Visit
from syncworker.web.dashboard.frame import CauseShown, Frame, shown_of
from syncworker.web.dashboard.looking import Looked
from syncworker.web.dashboard.render import link
from syncworker.web.dashboard.words import Shown

KINDS: Final[Mapping[str, str]] = {"full": "full", "incremental": "increment"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A series that is set.

    Attributes:
        cadence: how often one is made, in words.
        place: its target without what could be a secret.
        cause: what explains that it is late or failed; `None`: it is neither.
    """

    name: str
    cadence: str
    format: str
    privacy: str
    place: str
    shown: Shown
    due_at: datetime | None
    last: ExportRow | None
    cause: CauseShown | None


class Exports:
    """The page.

    Args:
        series: as the settings have them, by name.
    """

    def __init__(self, frame: Frame, series: Mapping[str, ExportSettings]) -> None:
        self._frame = frame
        self._series = series

    async def show(self, visit: Visit, unit: UnitOfWork) -> Response:
        """Series with what is late, and exports, newest first."""
        request = visit.request
        name = paging.asked(request, "series")
        rows, more = paging.cut(
            await unit.exports.listed(name=name, after=_after(paging.asked(request, "after")), limit=paging.PAGE + 1)
        )
        looked = await self._frame.looker.looked()
        facts = {one.name: one for one in looked.status.exports}
        series = [
            _series(one, set_, facts.get(one), await unit.exports.last_good(one), looked, visit.now)
            for one, set_ in sorted(self._series.items())
        ]
        filters = paging.kept(request, ("series",))
        return await self._frame.page(
            visit,
            unit,
            "exports.html",
            here="exports",
            series=series,
            late=sum(one.cause is not None for one in series),
            made=sum(one.shown.icon == "run" for one in series),
            newest=max((one.last.as_of for one in series if one.last and one.last.as_of), default=None),
            rows=[(one, _ended(one, visit.now), place_of(one.target)) for one in rows],
            names=sorted({*self._series, *(one.name for one in rows), *([name] if name else [])}),
            name=name,
            kinds=KINDS,
            further=link("exports", **filters, after=_packed(rows[-1])) if more else None,
        )


def _series(
    name: str, set_: ExportSettings, fact: ExportFact | None, last: ExportRow | None, looked: Looked, now: datetime
) -> Series:
    key = f"{CauseKind.EXPORT_LATE.value}:{name}"
    cause = next((one for one in looked.found.causes if one.key == key), None)
    return Series(
        name=name,
        cadence=f"every {words.span(timedelta(seconds=set_.every))}" if set_.every else f"at {set_.at} in Dubai",
        format=set_.format,
        privacy=set_.privacy,
        place=place_of(set_.to),
        shown=_stands(fact, now),
        due_at=None if fact is None else fact.due_at,
        last=last,
        cause=shown_of(cause),
    )


def _stands(fact: ExportFact | None, now: datetime) -> Shown:
    if fact is None:
        return Shown("none", "faint", "not known")
    if fact.going:
        return Shown("run", "run", "being made")
    if late_export(fact, at=now) is None:
        return Shown("ok", "", "on time")
    if fact.error is not None:
        return Shown("bad", "bad", "failed")
    return Shown("none", "warn", "never seen") if fact.due_at is None else Shown("bad", "bad", "late")


def _ended(row: ExportRow, now: datetime) -> Shown:
    """How an export stands."""
    if row.outcome is None:
        gone = row.lease_until is not None and row.lease_until <= now
        return Shown("warn", "warn", "its process is gone") if gone else Shown("run", "run", "being made")
    if row.outcome in GOOD:
        return Shown("ok", "", row.outcome)
    return Shown("bad", "bad", row.outcome) if row.outcome == "failed" else Shown("end", "faint", row.outcome)


def place_of(target: str) -> str:
    """Where exports are: a folder as it is, a URL by scheme, host and path, without anything a key could stand in."""
    scheme, separator, _ = target.partition("://")
    if not separator:
        return target
    try:
        split = urlsplit(target)
        return f"{split.scheme}://{split.netloc.rpartition('@')[2]}{split.path}"
    except ValueError:  # no host could be that; nothing of it is shown
        return f"{scheme}://…"


def _packed(row: ExportRow) -> str:
    return paging.packed((row.started_at.isoformat(), row.name, str(row.number)))


def _after(text: str | None) -> Place | None:
    if text is None:
        return None
    at, name, number = paging.unpacked(text, 3)
    return Place(paging.instant(at), name, paging.number(number, "page"))

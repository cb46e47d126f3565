"""Cost by day and LFI, processes, audit."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Final

from fastapi import Response

from syncworker.schedule.health import quiet_max
from syncworker.standard.calendar import UAE, as_utc, at_time, local_date, shifted
from syncworker.store.ops_lists import Page
from syncworker.store.ops_traffic import HourOfCalls
from syncworker.store.unit_of_work import UnitOfWork
from syncworker.store.workers import WORKER, WorkerRow
from syncworker.web.dashboard import charts, paging
from syncworker.web.dashboard.door import Visit, not_found
from syncworker.web.dashboard.frame import Frame
from syncworker.web.dashboard.render import link
from syncworker.web.dashboard.words import Shown

DAYS: Final = 14
CLOCKS_OF: Final = timedelta(hours=24)


class House:
    """The pages."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    async def cost(self, visit: Visit, unit: UnitOfWork) -> Response:
        """What was spent, by day in Dubai and by LFI; today until now."""
        today = local_date(visit.now)
        days = [shifted(today, timedelta(days=-number)) for number in range(DAYS)]
        begins = as_utc(at_time(days[-1], zone=UAE))
        hours = await unit.ops_traffic.calls_by_hour(since=begins)
        prices, calls, lfis = _by_day(hours)
        totals = {one: sum(prices[one].values()) for one in days}
        return await self._frame.page(
            visit,
            unit,
            "cost.html",
            here="cost",
            days=days,
            lfis=lfis,
            prices=prices,
            calls=calls,
            totals=totals,
            today=today,
            of_lfi={slug: sum(prices[one].get(slug, 0) for one in days) for slug in lfis},
            chart_of_days=charts.stacked(
                [[(totals[one], "f-strong" if one == today else "f-bar")] for one in reversed(days)],
                said=f"Spent by day in Dubai, last {DAYS} days, today until now",
            ),
        )

    async def processes(self, visit: Visit, unit: UnitOfWork) -> Response:
        """Workers and beat by their progress, and how far clocks are apart."""
        now = visit.now
        quiet = quiet_max(self._frame.tick)
        rows = await unit.workers.list()
        return await self._frame.page(
            visit,
            unit,
            "processes.html",
            here="processes",
            processes=[(one, _alive(one, silent=now - one.progress_at, quiet=quiet)) for one in rows],
            quiet=quiet,
            clocks=await unit.clocks.list(since=shifted(now, -CLOCKS_OF)),
        )

    async def audit(self, visit: Visit, unit: UnitOfWork) -> Response:
        """Acts on record, newest first."""
        request = visit.request
        where = {name: value for name in ("subject", "what") if (value := paging.asked(request, name)) is not None}
        page = Page(before=paging.number_asked(request, "before"), limit=paging.PAGE + 1, where=where)
        rows, more = paging.cut(await unit.ops_lists.audit(page))
        filters = paging.kept(request, ("subject", "what"))
        return await self._frame.page(
            visit,
            unit,
            "audit.html",
            here="audit",
            rows=rows,
            subject=where.get("subject"),
            what=where.get("what"),
            filtered=bool(filters),
            further=link("audit", **filters, before=rows[-1].id) if more else None,
        )

    async def audit_row(self, visit: Visit, unit: UnitOfWork) -> Response:
        """One act."""
        row = await unit.ops_lists.audit_row(paging.number(str(visit.request.path_params["number"]), "audit row"))
        if row is None:
            raise not_found("audit row")
        connection_id = await unit.ops_connections.connection_of(row.subject)
        return await self._frame.page(visit, unit, "audit_row.html", here="audit", row=row, connection_id=connection_id)


def _by_day(
    hours: Sequence[HourOfCalls],
) -> tuple[dict[date, dict[str, int]], dict[date, int], list[str]]:
    """Price by day and LFI, calls by day, and the LFIs; days are those of Dubai."""
    prices: dict[date, dict[str, int]] = defaultdict(dict)
    calls: dict[date, int] = defaultdict(int)
    for one in hours:
        day = local_date(one.hour)
        prices[day][one.lfi] = prices[day].get(one.lfi, 0) + one.millifils
        calls[day] += one.calls
    return prices, calls, sorted({one.lfi for one in hours})


def _alive(one: WorkerRow, *, silent: timedelta, quiet: timedelta) -> Shown:
    """What its row says of a process: a canary that did not come round tells more than silence."""
    if silent <= quiet:
        return Shown("ok", "", "alive")
    asked = one.canary_asked_at
    if one.kind == WORKER and asked is not None and (one.canary_at is None or one.canary_at < asked):
        return Shown("bad", "bad", "hangs or is gone")
    return Shown("bad", "bad", "silent")

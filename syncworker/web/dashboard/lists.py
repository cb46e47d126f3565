"""Work, events and quarantine, webhooks and account openings: what waits, what came, what was sent."""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Final

from fastapi import Response

from syncworker.store.inbox import EventState
from syncworker.store.ops_lists import KINDS, EventLine, OpeningLine, Page, RefusedLine, WorkState
from syncworker.store.unit_of_work import UnitOfWork
from syncworker.web.dashboard import paging
from syncworker.web.dashboard.door import Visit, not_found
from syncworker.web.dashboard.frame import Frame
from syncworker.web.dashboard.render import link

QUARANTINE: Final = "q"
"""Opens the id of an event that did not verify, as the command line writes it."""


class Waiting(StrEnum):
    """Filter of messages."""

    WAITING = "waiting"
    ENDED = "ended"


class Quarantine(StrEnum):
    """Filter of events."""

    FILED = "filed"
    DONE = "done"
    QUARANTINED = "quarantined"
    REFUSED = "refused"
    """Did not verify."""


class Lists:
    """The pages."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    async def work(self, visit: Visit, unit: UnitOfWork) -> Response:
        """Lanes by LFI and kind, and rows of work, those due first in front."""
        request = visit.request
        state = paging.chosen(request, "state", WorkState)
        where = {
            name: value
            for name in ("kind", "lfi")
            if (value := paging.asked(request, name)) is not None and (name != "kind" or value in KINDS)
        }
        after = paging.asked(request, "after")
        place = None
        if after is not None:
            at, number = paging.unpacked(after, 2)
            place = (paging.instant(at), paging.number(number, "page"))
        page = Page(limit=paging.PAGE + 1, where=where)
        rows, more = paging.cut(await unit.ops_lists.work(page, state=state, after=place))
        lanes = await unit.work.summary()
        filters = paging.kept(request, ("state", "kind", "lfi"))
        return await self._frame.page(
            visit,
            unit,
            "work.html",
            here="work",
            lanes=lanes,
            due=sum(one.due for one in lanes),
            leased=sum(one.leased for one in lanes),
            parked=sum(one.parked for one in lanes),
            failing=sum(one.failing for one in lanes),
            late=max((one.late for one in lanes), default=timedelta()),
            rows=rows,
            state=state,
            states=list(WorkState),
            kinds=KINDS,
            kind=where.get("kind"),
            lfi=where.get("lfi"),
            lfis=sorted({one.lfi for one in lanes if one.lfi}),
            filtered=bool(filters),
            further=link("work", **filters, after=paging.packed((rows[-1].due_at.isoformat(), str(rows[-1].id))))
            if more
            else None,
        )

    async def events(self, visit: Visit, unit: UnitOfWork) -> Response:
        """Events, newest first; of the quarantine those of unknown subjects and those that did not verify."""
        request = visit.request
        state = paging.chosen(request, "state", Quarantine)
        page = Page(before=paging.number_asked(request, "before"), limit=paging.PAGE + 1)
        events: Sequence[EventLine] = ()
        refused: Sequence[RefusedLine] = ()
        if state is Quarantine.REFUSED:
            refused, more = paging.cut(await unit.ops_lists.refused(page))
        else:
            of_state = None if state is None else EventState(state.value)
            events, more = paging.cut(await unit.ops_lists.events(page, state=of_state))
        ids = [one.id for one in events] + [one.id for one in refused]
        filters = paging.kept(request, ("state",))
        return await self._frame.page(
            visit,
            unit,
            "events.html",
            here="events",
            events=events,
            refused=refused,
            counts=await unit.inbox.counts(),
            state=state,
            states=list(Quarantine),
            further=link("events", **filters, before=ids[-1]) if more else None,
        )

    async def event(self, visit: Visit, unit: UnitOfWork) -> Response:
        """One event: what it is about, and what became of it; never what it says beyond that."""
        given = str(visit.request.path_params["event_id"])
        number = paging.number(given.removeprefix(QUARANTINE), "event")
        refused = given.startswith(QUARANTINE)
        event = None if refused else await unit.ops_lists.event(number)
        entry = await unit.ops_lists.refused_row(number) if refused else None
        if event is None and entry is None:
            raise not_found("event")
        connection_id = None if event is None else await unit.ops_connections.connection_of(event.subject)
        return await self._frame.page(
            visit, unit, "event.html", here="events", event=event, entry=entry, given=given, connection_id=connection_id
        )

    async def webhooks(self, visit: Visit, unit: UnitOfWork) -> Response:
        """Endpoints of the product, and messages, newest first."""
        request = visit.request
        waiting = paging.chosen(request, "waiting", Waiting)
        endpoint = paging.asked(request, "endpoint")
        where = {} if endpoint is None else {"endpoint_id": endpoint}
        page = Page(before=paging.number_asked(request, "before"), limit=paging.PAGE + 1, where=where)
        asked = None if waiting is None else waiting is Waiting.WAITING
        rows, more = paging.cut(await unit.ops_lists.messages(page, waiting=asked))
        filters = paging.kept(request, ("waiting", "endpoint"))
        return await self._frame.page(
            visit,
            unit,
            "webhooks.html",
            here="webhooks",
            endpoints=await unit.ops_lists.endpoints(),
            backlog=await unit.messages.backlog(),
            messages=rows,
            waiting=waiting,
            kinds=list(Waiting),
            endpoint=endpoint,
            further=link("webhooks", **filters, before=rows[-1].id) if more else None,
        )

    async def openings(self, visit: Visit, unit: UnitOfWork) -> Response:
        """Account openings, newest first."""
        after = paging.asked(visit.request, "after")
        place = None
        if after is not None:
            at, opening_id = paging.unpacked(after, 2)
            place = (paging.instant(at), opening_id)
        rows, more = paging.cut(await unit.ops_lists.openings(after=place, limit=paging.PAGE + 1))
        return await self._frame.page(
            visit,
            unit,
            "openings.html",
            here="openings",
            openings=rows,
            states=Counter(one.state for one in rows),
            further=link("openings", after=_place(rows[-1])) if more else None,
        )

    async def opening(self, visit: Visit, unit: UnitOfWork) -> Response:
        """One account opening with the states it was in."""
        opening_id = str(visit.request.path_params["opening_id"])
        found = await unit.ops_lists.opening(opening_id) if paging.is_id(opening_id) else None
        if found is None:
            raise not_found("account opening")
        return await self._frame.page(visit, unit, "opening.html", here="openings", one=found[0], history=found[1])


def _place(one: OpeningLine) -> str:
    return paging.packed((one.created_at.isoformat(), one.opening_id))

"""What all pages stand on: settings they need, the words around the page, and the causes that explain symptoms."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from fastapi import Response

from syncworker.ops.cause import Cause, CauseKind
from syncworker.settings import LFISettings
from syncworker.standard.calendar import UAE, as_utc, at_time, local_date
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import Slug
from syncworker.store.ops_lists import AuditLine
from syncworker.store.unit_of_work import UnitOfWork
from syncworker.web.dashboard import paging, render
from syncworker.web.dashboard.door import Visit
from syncworker.web.dashboard.looking import Looked, Looker

NAVIGATION: Final = (
    ("", (("overview", "", "Overview"), ("connections", "connections", "Connections"), ("lfis", "lfis", "LFIs"),
          ("runs", "runs", "Runs"), ("work", "work", "Work"))),
    ("In and out", (("events", "events", "Events"), ("webhooks", "webhooks", "Webhooks"),
                    ("openings", "openings", "Openings"), ("exports", "exports", "Exports"))),
    ("House", (("cost", "cost", "Cost"), ("processes", "processes", "Processes"), ("audit", "audit", "Audit"))),
)  # fmt: skip
"""Groups of pages: key, path below the dashboard's, word."""


class CauseShown(NamedTuple):
    """A cause as a symptom's page shows it."""

    number: int
    tone: str
    what: str
    step: str


def shown_of(cause: Cause | None) -> CauseShown | None:
    """A cause for a banner: red when it hits now."""
    if cause is None:
        return None
    return CauseShown(cause.number, "bad" if cause.grave else "warn", cause.line, cause.step)


class Frame:
    """Makes pages.

    Args:
        cadence: how often each resource is read.
        margin: times the cadence is a listing's target.
        lfis: gives the LFIs that are declared.
        allowed: whether an LFI may be called at all.
        tick: seconds between two ticks.
        looker: says what is wrong.
    """

    def __init__(
        self,
        *,
        tenant: str,
        cadence: Mapping[ResourceName, timedelta],
        lfis: Callable[[], Awaitable[Mapping[Slug, LFISettings]]],
        allowed: Callable[[Slug], bool],
        tick: float,
        margin: float,
        looker: Looker,
    ) -> None:
        self.tenant = tenant
        self.cadence = cadence
        self.lfis = lfis
        self.allowed = allowed
        self.tick = tick
        self.looker = looker
        self._margin = margin

    def target(self, resource: ResourceName) -> timedelta:
        """How old a listing may be."""
        return self.cadence[resource] * self._margin

    async def page(
        self,
        visit: Visit,
        unit: UnitOfWork,
        template: str,
        *,
        here: str,
        http_status: HTTPStatus = HTTPStatus.OK,
        looked: Looked | None = None,
        **values: Any,
    ) -> Response:
        """A page with its frame.

        Args:
            looked: what the page shows is wrong; absent: it shows no more of it than the frame does.
        """
        done = await self._done(visit, unit)
        looked = looked or await self.looker.looked()
        return render.page(
            template,
            http_status,
            now=visit.now,
            visit=visit,
            csrf=visit.csrf,
            may_act=visit.may_act,
            tenant=self.tenant,
            navigation=NAVIGATION,
            badges=badges_of(looked),
            here=here,
            done=done,
            looked=looked,
            **values,
        )

    async def _done(self, visit: Visit, unit: UnitOfWork) -> AuditLine | None:
        """The act that led here, by its audit row."""
        number = paging.number_asked(visit.request, "done")
        line = None if number is None else await unit.ops_lists.audit_row(number)
        return line if line is not None and line.what.startswith("ops_") else None

    async def cause_of(self, *, lfi: str | None = None, connection_id: str | None = None) -> CauseShown | None:
        """The cause that explains what is wrong with a connection or an LFI; `None`: none does."""
        looked = await self.looker.looked()
        if connection_id is not None:
            return shown_of(looked.of_connection(connection_id))
        return shown_of(None if lfi is None else looked.of_lfi(lfi))


def badges_of(looked: Looked) -> Mapping[str, int]:
    """How many causes need someone, by page."""
    causes = looked.found.causes
    return {
        "overview": len(causes),
        "lfis": len({one.lfi for one in causes if one.lfi is not None}),
        "exports": sum(one.kind is CauseKind.EXPORT_LATE for one in causes),
    }


def month_began(now: datetime) -> datetime:
    """When the month began in Dubai."""
    return as_utc(at_time(local_date(now).replace(day=1), zone=UAE))

"""The paths of the dashboard."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from syncworker.settings import LFISettings, Settings
from syncworker.standard.values import Slug
from syncworker.store.ops_sessions import Ends
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.web.dashboard import render
from syncworker.web.dashboard.actions import Actions, Tools
from syncworker.web.dashboard.connections import Connections
from syncworker.web.dashboard.door import Door, Reach, Visit, not_found
from syncworker.web.dashboard.exports import Exports
from syncworker.web.dashboard.frame import Frame
from syncworker.web.dashboard.house import House
from syncworker.web.dashboard.lfis import LFIs
from syncworker.web.dashboard.lists import Lists
from syncworker.web.dashboard.looking import Looker
from syncworker.web.dashboard.overview import Overview
from syncworker.web.dashboard.runs import Runs
from syncworker.web.guard import Keys


def routes(
    settings: Settings,
    store: Store,
    *,
    keys: Keys,
    reached: Reach,
    tools: Tools,
    looker: Looker,
    lfis: Callable[[], Awaitable[Mapping[Slug, LFISettings]]],
    allowed: Callable[[Slug], bool],
) -> APIRouter:
    """The routes; all but the assets and the sign-in need a session."""
    given = settings.web.dashboard
    ends = Ends(idle=timedelta(minutes=given.idle_minutes), absolute=timedelta(hours=given.hours))
    door = Door(store, keys, reached, ends, tenant=settings.tenant)
    frame = Frame(
        tenant=settings.tenant,
        cadence=settings.cadence.as_mapping(),
        lfis=lfis,
        allowed=allowed,
        tick=settings.tick_seconds,
        margin=settings.freshness.margin,
        looker=looker,
    )
    connections, lfi_pages, runs, lists, house = (
        Connections(frame), LFIs(frame), Runs(frame), Lists(frame), House(frame)
    )  # fmt: skip
    actions = Actions(frame, tools)
    router = APIRouter(prefix=render.PATH, include_in_schema=False)

    async def asset(request: Request) -> Response:
        return render.asset(str(request.path_params["name"])) or door.refused(not_found("file"))

    async def nothing(_: Visit, __: UnitOfWork) -> Response:
        raise not_found("page")

    async def begin(_: Request) -> Response:
        return RedirectResponse(f"{render.PATH}/", status_code=HTTPStatus.SEE_OTHER, headers=dict(render.HEADERS))

    router.add_api_route("", begin, methods=["GET"])
    router.add_api_route("/static/{name}", asset, methods=["GET"])
    router.add_api_route("/sign-in", door.sign_in_page, methods=["GET"])
    router.add_api_route("/sign-in", door.sign_in, methods=["POST"])
    router.add_api_route("/sign-out", door.sign_out, methods=["POST"])
    for path, view in (
        ("/", Overview(frame).show),
        ("/connections", connections.every),
        ("/connections/{connection_id:path}", connections.one),
        ("/lfis", lfi_pages.every),
        ("/lfis/{slug}", lfi_pages.one),
        ("/runs", runs.every),
        ("/runs/{number}", runs.one),
        ("/work", lists.work),
        ("/events", lists.events),
        ("/events/{event_id}", lists.event),
        ("/webhooks", lists.webhooks),
        ("/openings", lists.openings),
        ("/openings/{opening_id}", lists.opening),
        ("/exports", Exports(frame, settings.exports).show),
        ("/cost", house.cost),
        ("/processes", house.processes),
        ("/audit", house.audit),
        ("/audit/{number}", house.audit_row),
        ("/actions/{action}/{subject:path}", actions.form),
    ):
        router.add_api_route(path, door.shows(view), methods=["GET"])
    router.add_api_route("/actions/{action}/{subject:path}", door.does(actions.do), methods=["POST"])
    router.add_api_route("/{rest:path}", door.shows(nothing), methods=["GET"])
    return router

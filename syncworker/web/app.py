"""The web process's application: every part of the settings, joined behind one `Guard`.

    async with opened(settings) as app:
        …  # any ASGI server

`/healthz` says that the process answers, `/readyz` that it can do its work.  The description of `/v1` is at
`/v1/openapi.json`; no page of documentation is served, since those bring scripts of strangers.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.types import ASGIApp

from syncworker import __version__, wiring
from syncworker.clock import SystemClock, monotonic
from syncworker.errors import SyncWorkerError
from syncworker.opening import declared_lfis, load_keyring
from syncworker.refreshes import Refreshes
from syncworker.settings import LFISettings, Settings
from syncworker.standard.values import Slug
from syncworker.store import migrate
from syncworker.store.unit_of_work import Store
from syncworker.web import api, callbacks, changes, data, endpoints, events, problems
from syncworker.web import metrics as metric_routes
from syncworker.web import refreshes as refresh_routes
from syncworker.web.callbacks import ReturnURLs
from syncworker.web.dashboard import routes as dashboard
from syncworker.web.dashboard.actions import Tools
from syncworker.web.dashboard.door import reach
from syncworker.web.dashboard.looking import Looker
from syncworker.web.dashboard.refusals import paged
from syncworker.web.events import Pace
from syncworker.web.guard import BEARER, SCOPES_NEEDED, Guard, Keys, pass_address
from syncworker.webhooks import Receiver

CALLS_FILED_EVERY_S: Final = 5.0
HELD_BACK_TRIED_EVERY_S = 30.0
"""How often events of the quarantine that may verify by now are tried."""

OPENAPI_PATH: Final = f"{api.PREFIX}/openapi.json"

log = structlog.stdlib.get_logger(__name__)


@asynccontextmanager
async def opened(settings: Settings, *, timer: Callable[[], float] = monotonic) -> AsyncIterator[ASGIApp]:
    """The application with all its parts, on the running loop.

    Args:
        timer: a monotonic clock, for the paces.

    Raises:
        SetupError: settings, key ring or schema.
    """
    async with AsyncExitStack() as stack:
        application = await wiring.build_application(settings)
        stack.push_async_callback(application.close)
        receiver = None
        if settings.events.senders:
            receiver = await stack.enter_async_context(wiring.open_receiver(settings, application.store))
            taking = asyncio.create_task(_take_held_back(receiver, application.store), name="take held back")
            stack.push_async_callback(_ended, taking)
        filing = asyncio.create_task(_file_calls(application), name="file calls")
        stack.push_async_callback(_ended, filing)
        hurry = refresh_routes.Hurry(partial(_ask_for_tick, settings))
        stack.push_async_callback(hurry.close)

        async def declared() -> Collection[Slug]:
            return application.allowed.within(await declared_lfis(settings, application.store))

        refreshes = Refreshes(application.store, declared=declared, allowed=application.allowed)
        stack.push_async_callback(refreshes.close)
        looker = Looker(settings, application.store)
        stack.push_async_callback(looker.close)
        scrapes = metric_routes.Scrapes(application.settings, application.store, timer=timer)
        stack.push_async_callback(scrapes.close)
        built = build(application, receiver, refreshes, scrapes, hurry=hurry, looker=looker, timer=timer)
        yield Guard(built, shown=paged, timer=timer)


def build(
    application: wiring.Application,
    receiver: Receiver | None,
    refreshes: Refreshes,
    scrapes: metric_routes.Scrapes,
    *,
    hurry: Callable[[], None],
    looker: Looker | None = None,
    timer: Callable[[], float] = monotonic,
) -> FastAPI:
    """The routes.

    Args:
        receiver: takes events in; `None`: nobody's are taken, and the path does not exist.
        hurry: asks the workers to look for what is due, without waiting for them.
        looker: says what is wrong; `None`: the dashboard is not served.
    """
    settings, store = application.settings, application.store
    web = settings.web
    addresses = Pace(web.address_per_second, timer=timer)
    keys = Keys(
        store,
        key_per_second=web.key_per_second,
        reads_per_second=web.reads_per_second,
        addresses=addresses,
        timer=timer,
    )
    return_urls = ReturnURLs(web.return_urls)
    public_url = web.url or own_url(settings)

    async def declared() -> Collection[Slug]:
        return application.allowed.within(await declared_lfis(settings, store))

    async def lfis() -> Mapping[Slug, LFISettings]:
        return {slug: one for slug, (one, _) in (await declared_lfis(settings, store)).items()}

    app = FastAPI(
        title="syncworker",
        version=__version__,
        summary="Consents, connections and data of UAE Open Finance.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    problems.install(app)
    browsers = callbacks.routes(
        store=store,
        authorizer=application.authorize,
        keyring=load_keyring(settings),
        return_urls=return_urls,
        addresses=addresses,
        https=public_url.startswith("https://"),
    )
    product = api.routes(
        store=store,
        authorizer=application.authorize,
        renewals=application.renewals,
        keys=keys,
        declared=declared,
        return_urls=return_urls,
        public_url=public_url,
    )
    app.include_router(browsers)
    app.include_router(product)
    app.include_router(
        endpoints.routes(store=store, keys=keys, allow_private_hosts=settings.webhooks.allow_private_hosts)
    )
    app.include_router(refresh_routes.routes(refreshes, keys=keys, hurry=hurry))
    app.include_router(data.routes(store=store, keys=keys, targets=settings.targets(), lfis=lfis))
    app.include_router(changes.routes(store=store, keys=keys))
    reached = reach(web, public_url)
    if isinstance(reached, str):
        log.info("the dashboard is off", why=reached)
    elif looker is not None:
        tools = Tools(
            store=store,
            refreshes=refreshes,
            hurry=hurry,
            senders=wiring.senders(settings, {}),
            receiver=receiver,
        )
        app.include_router(
            dashboard.routes(
                settings,
                store,
                keys=keys,
                reached=reached,
                tools=tools,
                looker=looker,
                lfis=lfis,
                allowed=application.allowed.has,
            )
        )
    app.include_router(metric_routes.routes(scrapes, keys=keys))
    if receiver is not None:
        taken = settings.events
        app.include_router(
            events.routes(
                receiver,
                clock=SystemClock(),
                acknowledge=taken.acknowledge,
                per_second=taken.per_second,
                refusals=wiring.event_refusals(settings),
            )
        )
    _add_own_routes(app, application, addresses)
    return app


def _ask_for_tick(settings: Settings) -> None:
    """Have a worker look for what is due now; where the broker is away, beat's next tick serves."""
    from syncworker import tasks  # with Celery: only a process that was asked for a refresh loads it
    from syncworker.broker import broker_of

    tasks.configure(broker_of(settings), settings.tick_seconds, settings.data_folder)
    tasks.publish_tick()


def own_url(settings: Settings) -> str:
    """Where the process listens, as a URL."""
    web = settings.web
    host = f"[{web.host}]" if ":" in web.host else web.host
    return f"{'https' if web.certificate else 'http'}://{host}:{web.port}"


def _add_own_routes(app: FastAPI, application: wiring.Application, addresses: Pace) -> None:
    described: dict[str, Any] = {}

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", include_in_schema=False)
    async def readyz(request: Request) -> dict[str, str]:
        pass_address(request, addresses)
        await asyncio.to_thread(migrate.check, application.settings.database)
        async with application.store.reading() as unit:
            await unit.now()
        return {"status": "ready"}

    @app.get(OPENAPI_PATH, include_in_schema=False)
    async def openapi() -> dict[str, Any]:
        if not described:
            described.update(describe(app))
        return described


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI description of `/v1`: refusals as problems, with each operation the scopes its key must have."""
    described = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    described["components"]["schemas"]["Problem"] = problems.SCHEMA
    for shape in ("HTTPValidationError", "ValidationError"):
        described["components"]["schemas"].pop(shape, None)
    for operations in described["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # FastAPI's own shape: a fault of the request is a problem here
            if SCOPES_NEEDED in operation:
                operation["security"] = [{BEARER.scheme_name: operation.pop(SCOPES_NEEDED)}]
    return described


async def _file_calls(application: wiring.Application) -> None:
    while True:
        await asyncio.sleep(CALLS_FILED_EVERY_S)
        await application.file_calls()


async def _take_held_back(receiver: Receiver, store: Store) -> None:
    while True:
        try:
            async with store.reading() as unit:
                now = await unit.now()
            await receiver.take_held_back(now=now)
        except SyncWorkerError as error:  # the database is away: the next round finds the same
            log.warning("quarantine not looked through", error=error.code)
        await asyncio.sleep(HELD_BACK_TRIED_EVERY_S)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task

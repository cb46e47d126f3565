"""Every route of the web process against another tenant's key, a missing scope and a consent that has ended.

`ROUTES` has a row for each method and path that the application itself knows: a route that is not listed fails the
first test.  Each row says which scopes the route needs, what to ask it, and what it answers about things of another
tenant and about a connection whose consent has ended.
"""

import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from syncworker import wiring
from syncworker.refreshes import Refreshes
from syncworker.store.api_keys import Scope
from syncworker.store.unit_of_work import Store
from syncworker.web import app as web_app
from syncworker.web.metrics import Scrapes
from tests.sync.house import EVERYTHING
from tests.web.house import PUBLIC_URL, WEB, Opener, WebHouse, asked
from tests.web.test_connections import synced

pytestmark = pytest.mark.flow

S = Scope
Answer = tuple[int, str | None]
"""Status and, of a refusal, its code."""
NOT_FOUND: Final[Answer] = (404, "not_found")
RESTRICTED: Final[Answer] = (403, "restricted")
WRONG_STATE: Final[Answer] = (409, "wrong_state")
USER: Final = {"user_ref": "customer-1"}
EMPTY: Final = "empty"
"""Of a list that is asked for by `user_ref`, or of the whole tenant: 200 without a row."""
SENDER = """
[events.senders."https://noor.example"]
jwks_url = "https://noor.example/jwks"
"""


@dataclass(frozen=True)
class Route:
    """One route, as it must behave.

    Attributes:
        scopes: each is needed; empty: the route needs no key, and has no subject.
        query, body: what it is asked, with ids of `Ids` in braces; `None`: nothing.
        by: more queries about the same things, whose answers are as those to `query`.
        user: takes `user_ref`; the answer about a user whose only consent has ended.
        foreign: the answer where ids are another tenant's; `None`: no id can be given.
        ended: the answer about a connection whose consent has ended; `None`: it speaks of no connection.
        of: member of the answer that lists things, for `EMPTY`.
    """

    scopes: tuple[Scope, ...] = ()
    query: Mapping[str, str] | None = None
    body: Mapping[str, Any] | None = None
    by: tuple[Mapping[str, str], ...] = ()
    user: Answer | str | None = None
    foreign: Answer | str | None = None
    ended: Answer | str | None = None
    of: str | None = None


def _data(name: str) -> Route:
    """A list of data, by connection and by account."""
    return Route(
        (S.DATA_READ,),
        query={"connection_id": "{connection_id}"},
        by=({"account_id": "{account_id}"},),
        user=EMPTY,
        foreign=NOT_FOUND,
        ended=RESTRICTED,
        of=name,
    )


def _hook(body: Mapping[str, Any] | None = None) -> Route:
    """Something about one endpoint of webhooks."""
    return Route((S.WEBHOOKS_WRITE,), body=body, foreign=NOT_FOUND)


HOOK = {"url": "https://product.example/hooks"}
HOOKS = "/v1/webhook-endpoints"

ROUTES: Final[Mapping[tuple[str, str], Route]] = {
    # without a key: pages of users' browsers, probes, events of senders that sign them
    ("GET", "/healthz"): Route(),
    ("GET", "/readyz"): Route(),
    ("GET", "/v1/openapi.json"): Route(),
    ("GET", "/v1/authorize/{authorization_id}"): Route(),
    ("GET", "/callback"): Route(),
    ("POST", "/events"): Route(),
    # consents and connections
    ("POST", "/v1/consents"): Route((S.CONSENTS_WRITE,), body=asked(user_ref="customer-9")),
    ("GET", "/v1/authorizations/{authorization_id}"): Route((S.CONSENTS_READ,), foreign=NOT_FOUND, ended=(200, None)),
    ("GET", "/v1/consents/{consent_id}"): Route((S.CONSENTS_READ,), foreign=NOT_FOUND, ended=(200, None)),
    ("GET", "/v1/connections"): Route((S.CONNECTIONS_READ,), user=(200, None), of="connections"),
    ("GET", "/v1/connections/{connection_id}"): Route((S.CONNECTIONS_READ,), foreign=NOT_FOUND, ended=(200, None)),
    ("POST", "/v1/connections/{connection_id}/pause"): Route(
        (S.CONSENTS_WRITE, S.CONNECTIONS_READ), foreign=NOT_FOUND, ended=WRONG_STATE
    ),
    ("POST", "/v1/connections/{connection_id}/reactivate"): Route(
        (S.CONSENTS_WRITE, S.CONNECTIONS_READ), foreign=NOT_FOUND, ended=WRONG_STATE
    ),
    ("POST", "/v1/connections/{connection_id}/renew"): Route(
        (S.CONSENTS_WRITE,), body={}, foreign=NOT_FOUND, ended=(201, None)
    ),
    # data
    **{
        ("GET", f"/v1/{path}"): _data(name)
        for name, path in {
            "accounts": "accounts",
            "balances": "balances",
            "balance_history": "balances/history",
            "transactions": "transactions",
            "beneficiaries": "beneficiaries",
            "direct_debits": "direct-debits",
            "standing_orders": "standing-orders",
            "scheduled_payments": "scheduled-payments",
            "statements": "statements",
            "products": "products",
            "parties": "parties",
        }.items()
    },
    ("GET", "/v1/runs"): Route(
        (S.DATA_READ,), query={"connection_id": "{connection_id}"}, foreign=NOT_FOUND, ended=(200, None), of="runs"
    ),
    ("GET", "/v1/lfis"): Route((S.DATA_READ,)),
    ("GET", "/v1/changes"): Route(
        (S.CHANGES_READ,),
        query={"connection_id": "{connection_id}"},
        user=(200, None),
        foreign=NOT_FOUND,
        ended=(200, None),  # it says `restricted`, which a mirror must hear
        of="changes",
    ),
    # refreshes
    ("POST", "/v1/refreshes"): Route(
        (S.REFRESHES_WRITE,), body={"account_id": "{account_id}"}, foreign=NOT_FOUND, ended=WRONG_STATE
    ),
    ("GET", "/v1/refreshes/{refresh_id}"): Route((S.REFRESHES_WRITE,), foreign=NOT_FOUND, ended=(200, None)),
    # for operators
    ("GET", "/metrics"): Route((S.METRICS_READ,)),
    # endpoints of webhooks
    ("POST", HOOKS): Route((S.WEBHOOKS_WRITE,), body=HOOK),
    ("GET", HOOKS): Route((S.WEBHOOKS_WRITE,), query={}, foreign=EMPTY, of="webhook_endpoints"),
    ("GET", f"{HOOKS}/{{endpoint_id}}"): _hook(),
    ("PUT", f"{HOOKS}/{{endpoint_id}}"): _hook(HOOK),
    ("POST", f"{HOOKS}/{{endpoint_id}}/disable"): _hook(),
    ("POST", f"{HOOKS}/{{endpoint_id}}/enable"): _hook(),
    ("POST", f"{HOOKS}/{{endpoint_id}}/secrets"): _hook(),
    ("DELETE", f"{HOOKS}/{{endpoint_id}}/secrets/old"): _hook(),
    ("POST", f"{HOOKS}/{{endpoint_id}}/test"): _hook(),
    ("GET", f"{HOOKS}/{{endpoint_id}}/messages"): _hook(),
    ("POST", f"{HOOKS}/{{endpoint_id}}/redeliver"): _hook({"messages": [1]}),
    ("DELETE", f"{HOOKS}/{{endpoint_id}}"): _hook(),
    # the last, since it ends the consent
    ("POST", "/v1/connections/{connection_id}/stop"): Route(
        (S.CONSENTS_WRITE, S.CONNECTIONS_READ), foreign=NOT_FOUND, ended=WRONG_STATE
    ),
}
KEYED: Final = {name: one for name, one in ROUTES.items() if one.scopes}


@dataclass
class Site:
    """A tenant with a connection that has data, and all else that routes speak of."""

    web: WebHouse
    ids: dict[str, str] = field(default_factory=dict)

    async def stock(self) -> None:
        """Make one of everything."""
        connection_id = await synced(self.web, permissions=[one.value for one in EVERYTHING])
        accounts = (await self.web.product.get("/v1/accounts")).json()["accounts"]
        refresh = await self.web.product.post("/v1/refreshes", json={"connection_id": connection_id})
        begun = await self.web.begin(user_ref="customer-2")
        hook = await self.web.product.post(HOOKS, json=HOOK)
        self.ids = {
            "connection_id": connection_id,
            "consent_id": connection_id,
            "account_id": accounts[0]["account_id"],
            "refresh_id": refresh.json()["refresh_id"],
            "authorization_id": begun["authorization_id"],
            "endpoint_id": hook.json()["endpoint_id"],
        }

    async def ask(
        self, method: str, path: str, route: Route, *, by: httpx.AsyncClient, query: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """What a row of the table asks, about the things of this site."""
        asked_for = route.query if query is None else query
        params = {name: value.format_map(self.ids) for name, value in (asked_for or {}).items()}
        body = None
        if route.body is not None:
            body = {
                name: value.format_map(self.ids) if isinstance(value, str) else value
                for name, value in route.body.items()
            }
        return await by.request(method, path.format_map(self.ids), params=params, json=body)

    async def shown(self) -> dict[str, Any]:
        """How the things that routes may change stand."""
        paths = ("/v1/connections/{connection_id}", "/v1/refreshes/{refresh_id}", f"{HOOKS}/{{endpoint_id}}")
        return {path: (await self.web.product.get(path.format_map(self.ids))).json() for path in paths}

    def client(self, key: str) -> httpx.AsyncClient:
        return self.web.another(headers={"authorization": f"Bearer {key}"})


@pytest.fixture
async def site(open_house: Opener, sqlite_url: str) -> Site:
    """A tenant whose web process takes events as well, so that every route there is exists."""
    made = Site(await open_house(sqlite_url, web=WEB + SENDER))
    await made.stock()
    return made


@pytest.fixture
async def neighbour(
    site: Site, open_store: Callable[..., Store]
) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    """Another tenant of the same database: its key at its own web process, and its key at the site's."""
    settings = site.web.settings.model_copy(update={"tenant": "neighbour"})
    async with web_app.opened(settings.for_web()) as app:
        store = open_store(settings.database_url, tenant="neighbour", keyring=None, clock=None)
        async with store.writing() as unit:
            _, key = await unit.api_keys.create("theirs", tuple(Scope), at=await unit.now())
            await unit.commit()
        headers = {"authorization": f"Bearer {key.get_secret_value()}"}
        transport = httpx.ASGITransport(app, client=("192.0.2.2", 50_000))
        async with httpx.AsyncClient(transport=transport, base_url=PUBLIC_URL, headers=headers) as client:
            yield client, site.web.another(headers=headers)


def said(answer: httpx.Response) -> Answer:
    """Status and code of an answer."""
    refused = answer.headers.get("content-type") == "application/problem+json"
    return answer.status_code, answer.json()["code"] if refused else None


def named(name: tuple[str, str], route: Route) -> set[str]:
    """The kinds of ids that a row gives."""
    return set(re.findall(r"\{(\w+_id)\}", f"{name[1]} {route.query} {route.body} {route.by}"))


def check(name: tuple[str, str], route: Route, answer: httpx.Response, expected: Answer | str) -> None:
    if expected == EMPTY:
        assert (said(answer), answer.json()[route.of]) == ((200, None), []), name
    else:
        assert said(answer) == expected, (name, answer.text)


async def test_every_route_is_in_the_table(site: Site) -> None:
    """As the application has them, described or not; and each has the scopes that the description names."""
    application = await wiring.build_application(site.web.settings)
    async with wiring.open_receiver(site.web.settings, site.web.store) as receiver:
        refreshes = Refreshes(site.web.store, declared=_none)
        scrapes = Scrapes(site.web.settings, site.web.store)
        built = web_app.build(application, receiver, refreshes, scrapes, hurry=lambda: None)
        known = {(method, one.path) for one in iter_route_contexts(built.routes) for method in one.methods or {"?"}}
    await application.close()
    described = (await site.web.product.get("/v1/openapi.json")).json()["paths"]
    scopes = {
        (method.upper(), path): {
            scope for one in operation.get("security", []) for needed in one.values() for scope in needed
        }
        for path, operations in described.items()
        for method, operation in operations.items()
    }

    assert known == set(ROUTES)
    assert {name: {one.value for one in ROUTES[name].scopes} for name in scopes} == scopes
    assert set(KEYED) <= set(scopes)


async def _none() -> set[Any]:
    return set()


async def test_another_tenants_key_opens_no_route(
    site: Site, neighbour: tuple[httpx.AsyncClient, httpx.AsyncClient]
) -> None:
    """Here it is no key; at the other tenant's process the ids are unknown, no list has a row, and nothing changes."""
    theirs, here = neighbour
    before = await site.shown()
    for name, route in KEYED.items():
        assert said(await site.ask(*name, route, by=here)) == (401, "key_refused"), name
        if route.user is not None:
            check(name, route, await site.ask(*name, route, by=theirs, query=USER), EMPTY)
        if route.foreign is None:
            assert not named(name, route), name
            continue
        for query in (route.query, *route.by):
            check(name, route, await site.ask(*name, route, by=theirs, query=query), route.foreign)
    assert await site.shown() == before


async def test_a_key_without_one_of_the_scopes_opens_no_route(site: Site) -> None:
    """Each scope of a route left out: 403, and the scope is named.  With the route's scopes alone it opens."""
    for name, route in KEYED.items():
        for scope in route.scopes:
            client = site.client(await site.web.key([one for one in Scope if one is not scope]))
            refused = await site.ask(*name, route, by=client)
            assert said(refused) == (403, "scope_missing"), (name, scope)
            assert scope.value in refused.json()["fix"], name
    for name, route in KEYED.items():
        client = site.client(await site.web.key(route.scopes))
        for query in (route.query, *route.by, *([USER] if route.user else [])):
            answer = await site.ask(*name, route, by=client, query=query)
            assert answer.status_code < 300, (name, answer.text)


async def test_what_each_route_says_once_the_consent_has_ended(site: Site) -> None:
    """Data is restricted; what is done to a connection is refused; how it ended can be seen."""
    stopped = await site.web.product.post(f"/v1/connections/{site.ids['connection_id']}/stop")
    assert stopped.status_code == 200
    for name, route in KEYED.items():
        if route.user is not None:
            check(name, route, await site.ask(*name, route, by=site.web.product, query=USER), route.user)
        if route.ended is None:
            assert not named(name, route) & {"connection_id", "account_id", "consent_id"}, name
            continue
        for query in (route.query, *route.by):
            check(name, route, await site.ask(*name, route, by=site.web.product, query=query), route.ended)
    (change,) = (await site.web.product.get("/v1/changes")).json()["changes"]
    assert (change["op"], change["connection_id"], change["item"]) == ("restricted", site.ids["connection_id"], None)


async def test_routes_without_a_key_say_nothing_of_a_tenant(site: Site) -> None:
    """No row of the table that needs no key shows an id of anything, with a key or without."""
    for name, route in ROUTES.items():
        if route.scopes or "{" in name[1]:
            continue
        for client in (site.web.browser, site.web.product):
            answer = await site.ask(*name, route, by=client)
            assert not [one for one in site.ids.values() if one in answer.text], name

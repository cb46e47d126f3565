"""Sign-in, sessions, forms: who gets in, for how long, and what comes from elsewhere."""

import hashlib
from datetime import timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from starlette.routing import Route

from syncworker.settings import WebSettings
from syncworker.store.api_keys import Scope
from syncworker.store.tables import audit, ops_session
from syncworker.web.dashboard.door import Reach, reach
from syncworker.web.guard import Guard
from tests.web.dashboard.desk import COOKIE, ORIGIN, Desk
from tests.web.dashboard.filled import insert
from tests.web.house import PUBLIC_URL, WEB, Opener, WebHouse

pytestmark = pytest.mark.flow

FREE = {("GET", "/ops"), ("GET", "/ops/static/{name}"), ("GET", "/ops/sign-in"), ("POST", "/ops/sign-in")}
"""Paths that need no session."""

NEEDS_SESSION = {
    ("POST", "/ops/sign-out"), ("GET", "/ops/"), ("GET", "/ops/connections"),
    ("GET", "/ops/connections/{connection_id:path}"), ("GET", "/ops/lfis"), ("GET", "/ops/lfis/{slug}"),
    ("GET", "/ops/runs"), ("GET", "/ops/runs/{number}"), ("GET", "/ops/work"), ("GET", "/ops/events"),
    ("GET", "/ops/events/{event_id}"), ("GET", "/ops/webhooks"), ("GET", "/ops/openings"),
    ("GET", "/ops/openings/{opening_id}"), ("GET", "/ops/exports"), ("GET", "/ops/cost"),
    ("GET", "/ops/processes"), ("GET", "/ops/audit"),
    ("GET", "/ops/audit/{number}"), ("GET", "/ops/actions/{action}/{subject:path}"),
    ("POST", "/ops/actions/{action}/{subject:path}"), ("GET", "/ops/{rest:path}"),
}  # fmt: skip


def routes(app: Any) -> set[tuple[str, str]]:
    """Every route of the dashboard."""
    assert isinstance(app, Guard)
    inner = app._app
    assert isinstance(inner, FastAPI)
    every = [
        one for route in inner.routes for one in getattr(getattr(route, "original_router", None), "routes", [route])
    ]
    return {
        (method, route.path)
        for route in every
        if isinstance(route, Route) and route.path.startswith("/ops")
        for method in route.methods or ()
        if method != "HEAD"
    }


def filled_in(path: str, desk: Desk) -> str:
    """A route's path with ids of the tables."""
    made = desk.filled
    ids = {
        "connection_id:path": made.connections[0], "slug": "bank-two", "event_id": str(made.events[0]),
        "opening_id": made.openings[0], "action": "sync", "subject:path": made.connections[0], "rest:path": "none",
        "number": str(made.runs[0] if "/runs/" in path else made.audits[0]),
    }  # fmt: skip
    for name, value in ids.items():
        path = path.replace(f"{{{name}}}", value)
    return path


async def test_every_route_is_listed_and_leads_to_the_sign_in_without_a_session(small_desk: Desk) -> None:
    """A new one fails until it says whether it needs one."""
    assert routes(small_desk.house.app) == FREE | NEEDS_SESSION
    stranger = small_desk.house.another()
    for method, path in sorted(NEEDS_SESSION):
        answer = await stranger.request(method, filled_in(path, small_desk), headers=ORIGIN)
        assert (path, answer.status_code) == (path, 303)
        assert answer.headers["location"].startswith("/ops/sign-in")
        assert answer.text == ""


async def test_rows_of_another_tenant_are_nowhere(small_desk: Desk) -> None:
    """The same ids and a session of another tenant's: neither is found, on any route."""
    other = small_desk.house.store.__class__  # another tenant of the same database
    theirs = other(small_desk.house.settings.database_url, tenant="other")
    try:
        async with theirs.writing() as unit:
            at = await unit.now()
            stored, _ = await unit.api_keys.create("theirs", [Scope.OPS_WRITE], at=at)
            await insert(
                unit,
                ops_session,
                {
                    "digest": hashlib.sha256(b"their-session").digest(), "key_id": stored.key_id, "created_at": at,
                    "last_seen_at": at,
                },
            )  # fmt: skip
            await insert(
                unit,
                audit,
                {"at": at, "what": "theirs", "subject": "their-subject", "facts": {"reason": "their-reason"}},
            )
            await unit.commit()
    finally:
        await theirs.close()
    stranger = small_desk.house.another(cookies={COOKIE: "their-session"})
    for method, path in sorted(routes(small_desk.house.app)):
        if method == "GET":
            filled = filled_in(path, small_desk)
            page = (await small_desk.get(filled)).text
            assert "their-" not in page, filled
            if (method, path) in NEEDS_SESSION:
                assert (await stranger.get(filled)).status_code == 303


@pytest.mark.parametrize("scopes", [(Scope.CONSENTS_READ, Scope.DATA_RAW), (Scope.OPS_READ,), (Scope.OPS_WRITE,)])
async def test_a_key_opens_the_dashboard_by_its_scope(small_desk: Desk, scopes: tuple[Scope, ...]) -> None:
    """Whatever else it may do."""
    browser = small_desk.house.another()
    key = await small_desk.house.key(scopes)
    answer = await browser.post("/ops/sign-in", data={"key": key}, headers=ORIGIN)
    opens = bool({Scope.OPS_READ, Scope.OPS_WRITE} & set(scopes))

    assert answer.status_code == (303 if opens else 403)
    assert (COOKIE in browser.cookies) is opens
    assert key not in answer.text


async def test_the_cookie_is_for_this_host_alone_and_no_script_reads_it(small_desk: Desk) -> None:
    """Over TLS it has the prefix that no other host of the domain can set; the table has its hash."""
    answer = await small_desk.sign_in(small_desk.house.another(), Scope.OPS_READ)
    name, _, rest = answer.headers["set-cookie"].partition("=")
    value, *flags = rest.split("; ")

    assert name == COOKIE
    assert {flag.lower() for flag in flags} == {"httponly", "secure", "path=/", "samesite=strict", "max-age=43200"}
    async with small_desk.house.store.reading() as unit:
        digests = list(await unit.connection.scalars(sa.select(ops_session.c.digest)))
    assert hashlib.sha256(value.encode()).digest() in digests
    assert not any(value.encode() in digest for digest in digests)


@pytest.mark.parametrize(
    ("ages", "good"),
    [
        pytest.param({"last_seen_at": timedelta(minutes=29)}, True, id="seen lately"),
        pytest.param({"last_seen_at": timedelta(minutes=30)}, False, id="idle"),
        pytest.param({"created_at": timedelta(hours=11, minutes=59)}, True, id="young"),
        pytest.param({"created_at": timedelta(hours=12)}, False, id="its time is over"),
    ],
)
async def test_a_session_ends_by_time(small_desk: Desk, ages: dict[str, timedelta], *, good: bool) -> None:
    """Idle, or a whole working day after it began."""
    async with small_desk.house.store.writing() as unit:
        now = await unit.now()
        values = {name: now - age for name, age in ages.items()}
        await unit.connection.execute(sa.update(ops_session).values(values))
        await unit.commit()
    assert ((await small_desk.get("/ops/")).status_code == 200) is good


async def test_live_refresh_does_not_keep_a_session_alive(small_desk: Desk) -> None:
    """A screen without a user signs itself out; a refresh is told so without a redirect."""

    async def seen() -> Any:
        async with small_desk.house.store.reading() as unit:
            return await unit.connection.scalar(sa.select(ops_session.c.last_seen_at))

    async def made_old(age: timedelta) -> None:
        async with small_desk.house.store.writing() as unit:
            at = await unit.now() - age
            await unit.connection.execute(sa.update(ops_session).values(last_seen_at=at))
            await unit.commit()

    await made_old(timedelta(minutes=10))
    before = await seen()
    await small_desk.get("/ops/", headers={"x-refresh": "1"})
    assert await seen() == before
    await small_desk.get("/ops/")
    assert await seen() > before
    await made_old(timedelta(hours=1))
    assert (await small_desk.get("/ops/", headers={"x-refresh": "1"})).status_code == 401


@pytest.mark.parametrize("ends", ["revoked", "expired", "signed out"])
async def test_a_session_ends_with_its_key_and_by_sign_out(small_desk: Desk, ends: str) -> None:
    """At once."""
    from syncworker.store.tables import api_key

    house, browser = small_desk.house, small_desk.browser
    if ends == "signed out":
        form = await small_desk.form_of("/ops/")
        cookie = browser.cookies[COOKIE]
        answer = await browser.post("/ops/sign-out", data=form, headers=ORIGIN)
        assert (answer.status_code, COOKIE in browser.cookies) == (303, False)
        browser.cookies.set(COOKIE, cookie, domain="tpp.example")
    else:
        async with house.store.writing() as unit:
            now = await unit.now()
            changed = {"revoked_at": now} if ends == "revoked" else {"expires_at": now}
            await unit.connection.execute(sa.update(api_key).values(changed))
            await unit.commit()
    assert (await browser.get("/ops/")).status_code == 303


@pytest.mark.parametrize(
    ("headers", "changes"),
    [
        pytest.param({}, {}, id="no origin"),
        pytest.param({"origin": "https://evil.example"}, {}, id="another origin"),
        pytest.param({"origin": "null"}, {}, id="a sandboxed frame"),
        pytest.param({"origin": f"{PUBLIC_URL}.evil.example"}, {}, id="a longer name"),
        pytest.param(ORIGIN, {"csrf": ""}, id="no token"),
        pytest.param(ORIGIN, {"csrf": "0" * 64}, id="a wrong token"),
        pytest.param(ORIGIN, {"csrf": "\u00e9"}, id="no ASCII"),
    ],
)
async def test_a_form_from_elsewhere_does_nothing(
    small_desk: Desk, headers: dict[str, str], changes: dict[str, str]
) -> None:
    """Neither an action nor a sign-out."""
    connection = small_desk.filled.connections[0]
    path = f"/ops/actions/pause/{connection}"
    form = {**await small_desk.form_of(path), "reason": "x", **changes}
    acted = await small_desk.browser.post(path, data=form, headers=headers)
    left = await small_desk.browser.post("/ops/sign-out", data=form, headers=headers)

    assert (acted.status_code, left.status_code) == (403, 403)
    async with small_desk.house.store.reading() as unit:
        notes = await unit.connection.scalar(
            sa.select(sa.func.count()).select_from(audit).where(audit.c.what == "ops_pause")
        )
    assert notes == 0
    assert (await small_desk.get("/ops/")).status_code == 200


async def test_a_token_of_another_session_is_refused(small_desk: Desk) -> None:
    """Each session has its own."""
    other = small_desk.house.another()
    await small_desk.sign_in(other, Scope.OPS_WRITE)
    path = f"/ops/actions/pause/{small_desk.filled.connections[0]}"
    form = await small_desk.form_of(path)
    assert (await other.post(path, data={**form, "reason": "x"}, headers=ORIGIN)).status_code == 403


async def test_a_key_that_only_reads_does_nothing(small_desk: Desk) -> None:
    """Its own token and a good form, and 403."""
    reader = small_desk.house.another()
    await small_desk.sign_in(reader, Scope.OPS_READ)
    small_desk.browser = reader
    form = await small_desk.form_of("/ops/")
    for action, subject in (("pause", small_desk.filled.connections[0]), ("retry", "bank-two"), ("none", "x")):
        answer = await reader.post(f"/ops/actions/{action}/{subject}", data={**form, "reason": "x"}, headers=ORIGIN)
        assert answer.status_code == 403


@pytest.mark.parametrize("body", [b"{}", b"key=%ff%fe", b"&" * 3000, b"key=a&" * 50])
async def test_a_body_that_is_no_form_is_refused_in_words(small_desk: Desk, body: bytes) -> None:
    """By its type, its bytes or the number of its fields."""
    kind = "application/json" if body == b"{}" else "application/x-www-form-urlencoded"
    answer = await small_desk.house.another().post(
        "/ops/sign-in", content=body, headers={**ORIGIN, "content-type": kind}
    )
    assert answer.status_code in (400, 401)


async def test_sign_ins_with_wrong_keys_are_bounded_by_address(open_house: Opener, sqlite_url: str) -> None:
    """As requests with wrong keys are."""
    house = await open_house(sqlite_url, web=WEB.replace("address_per_second = 1000", "address_per_second = 1"))
    browser = house.another()
    codes = [
        (await browser.post("/ops/sign-in", data={"key": f"swk_{number:012x}_x"}, headers=ORIGIN)).status_code
        for number in range(14)
    ]
    assert (codes[0], codes[-1]) == (401, 429)


@pytest.mark.parametrize(
    ("to", "leads"),
    [
        ("/ops/runs?lfi=bank-two", "/ops/runs?lfi=bank-two"),
        ("https://evil.example/ops/", "/ops/"),
        ("//evil.example/ops/", "/ops/"),
        ("/ops//evil.example", "/ops/"),
        ("/ops/\\evil.example", "/ops/"),
        ("/v1/connections", "/ops/"),
        ("/ops/\r\nset-cookie: a=b", "/ops/"),
    ],
)
async def test_the_sign_in_leads_to_pages_of_the_dashboard_only(small_desk: Desk, to: str, leads: str) -> None:
    """Back to the page that was asked for, and nowhere else."""
    browser = small_desk.house.another()
    key = await small_desk.house.key([Scope.OPS_READ])
    answer = await browser.post("/ops/sign-in", data={"key": key, "to": to}, headers=ORIGIN)
    assert answer.headers["location"] == leads


async def test_while_the_database_is_away_one_page_says_so(small_desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """503, with the command to run, and no figure."""
    from syncworker.store.failures import StoreUnavailableError
    from syncworker.store.unit_of_work import Store

    def away(self: Store) -> Any:
        raise StoreUnavailableError("database unavailable")

    monkeypatch.setattr(Store, "looking", away)
    answer = await small_desk.get("/ops/")
    assert answer.status_code == 503
    assert "The database is away" in answer.text
    assert "syncworker health" in answer.text


@pytest.mark.parametrize(
    ("web", "public", "expected"),
    [
        pytest.param({}, "http://127.0.0.1:8080", Reach(False, "http://127.0.0.1:8080", False), id="loopback"),
        pytest.param(
            {}, "https://ops.example", Reach(True, "https://ops.example", False), id="a proxy on this machine"
        ),
        pytest.param(
            {"host": "0.0.0.0", "certificate": "c", "key": "k"}, "https://a:1", Reach(True, "https://a:1", False),
            id="its own TLS",
        ),
        pytest.param(
            {"host": "0.0.0.0", "proxies": ("10.0.0.1",)}, "https://a", Reach(True, "https://a", True), id="a proxy"
        ),
        pytest.param({"host": "0.0.0.0"}, "http://0.0.0.0:8080", "TLS", id="wide and unencrypted"),
        pytest.param({"host": "0.0.0.0"}, "https://a", "TLS", id="wide, and only said to be encrypted"),
        pytest.param({"host": "0.0.0.0", "proxies": ("10.0.0.1",)}, "http://a", "TLS", id="a proxy without TLS"),
        pytest.param({"dashboard": {"enabled": False}}, "http://127.0.0.1:8080", "enabled", id="switched off"),
    ],
)  # fmt: skip
def test_the_dashboard_is_on_only_where_nothing_goes_unencrypted(
    web: dict[str, Any], public: str, expected: Reach | str
) -> None:
    """Loopback, TLS of its own, or a proxy that is believed and speaks it."""
    found = reach(WebSettings.model_validate(web), public)
    if isinstance(expected, Reach):
        assert found == expected
    else:
        assert isinstance(found, str)
        assert expected in found


async def test_a_request_past_the_proxy_is_refused(open_house: Opener, sqlite_url: str) -> None:
    """Plain http at an address that is reached from elsewhere: no page, no sign-in."""
    web = WEB + 'host = "0.0.0.0"\nproxies = ["10.0.0.1"]\n'
    house: WebHouse = await open_house(sqlite_url, web=web)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(house.app), base_url="http://tpp.example") as plain:
        codes = [(await plain.get("/ops/sign-in")).status_code, (await plain.get("/ops/")).status_code]
    assert codes == [403, 403]
    assert (await house.another().get("/ops/sign-in")).status_code == 200

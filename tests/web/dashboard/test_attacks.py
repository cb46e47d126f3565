"""What is tried at the dashboard: addresses, methods, cookies, ids of other tenants; and what every answer has."""

import hashlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from syncworker.store.api_keys import Scope
from syncworker.store.tables import audit, ops_session
from syncworker.store.unit_of_work import Store
from tests.web.dashboard.desk import COOKIE, ORIGIN, PATHS, Desk
from tests.web.dashboard.filled import HOSTILE, Filled, fill
from tests.web.dashboard.test_actions import SUBJECTS, acts
from tests.web.dashboard.test_pages import POLICY, Checked
from tests.web.house import PUBLIC_URL, WEB, Opener

pytestmark = pytest.mark.flow


# -- sessions ----------------------------------------------------------------------------------------------------------


async def sessions(store: Store) -> set[bytes]:
    """Digests of the sessions that are there."""
    async with store.reading() as unit:
        return set(await unit.connection.scalars(sa.select(ops_session.c.digest)))


async def test_a_session_id_that_came_from_elsewhere_is_never_taken(small_desk: Desk) -> None:
    """A cookie planted before the sign-in opens nothing after it."""
    browser = small_desk.house.another(cookies={COOKIE: "planted"})
    answer = await small_desk.sign_in(browser, Scope.OPS_READ)
    given = answer.headers["set-cookie"].partition("=")[2].partition(";")[0]
    stranger = small_desk.house.another(cookies={COOKIE: "planted"})

    assert (given != "planted", len(given)) == (True, 43)
    assert (await stranger.get("/ops/")).status_code == 303


async def test_a_new_sign_in_ends_the_session_the_browser_had(small_desk: Desk) -> None:
    """One browser, one session: the id before it opens nothing any more, other browsers stay signed in."""
    other = small_desk.house.another()
    await small_desk.sign_in(other, Scope.OPS_READ)
    before = small_desk.browser.cookies[COOKIE]
    await small_desk.sign_in(small_desk.browser, Scope.OPS_READ)
    stranger = small_desk.house.another(cookies={COOKIE: before})

    assert hashlib.sha256(before.encode()).digest() not in await sessions(small_desk.house.store)
    assert (await stranger.get("/ops/")).status_code == 303
    assert [(await one.get("/ops/")).status_code for one in (small_desk.browser, other)] == [200, 200]


@pytest.mark.parametrize(
    ("web", "origin", "flags"),
    [
        pytest.param("", PUBLIC_URL, {"httponly", "secure", "path=/", "samesite=strict"}, id="TLS before us"),
        pytest.param(
            'host = "0.0.0.0"\nproxies = ["10.0.0.1"]\n', PUBLIC_URL,
            {"httponly", "secure", "path=/", "samesite=strict"}, id="a proxy on another machine",
        ),
        pytest.param(
            None, "http://127.0.0.1:8080", {"httponly", "path=/", "samesite=strict"}, id="plain http on loopback"
        ),
    ],
)  # fmt: skip
async def test_the_cookie_is_secure_wherever_tls_is_spoken(
    open_house: Opener, sqlite_url: str, web: str | None, origin: str, flags: set[str]
) -> None:
    """By the address that people use; a browser takes no Secure cookie from plain http."""
    own = WEB.replace(f'url = "{PUBLIC_URL}"\n', "") if web is None else WEB + web
    house = await open_house(sqlite_url, web=own)
    key = await house.key([Scope.OPS_READ])
    browser = house.another()
    browser.base_url = httpx.URL(origin)
    answer = await browser.post("/ops/sign-in", data={"key": key}, headers={"origin": origin})
    name, _, rest = answer.headers["set-cookie"].partition("=")

    assert {flag.lower() for flag in rest.split("; ")[1:]} - {"max-age=43200"} == flags
    assert name.startswith("__Host-") is ("secure" in flags)


@pytest.mark.parametrize("headers", [{}, {"origin": "https://evil.example"}, {"origin": "null"}])
async def test_no_other_page_signs_a_browser_in(small_desk: Desk, headers: Mapping[str, str]) -> None:
    """A sign-in form from elsewhere, with a good key, begins no session."""
    browser = small_desk.house.another()
    key = await small_desk.house.key([Scope.OPS_WRITE])
    before = await sessions(small_desk.house.store)
    answer = await browser.post("/ops/sign-in", data={"key": key}, headers=headers)

    assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)
    assert await sessions(small_desk.house.store) == before


async def test_a_live_refresh_sends_nothing_that_acts(small_desk: Desk) -> None:
    """A form sent with the header of a refresh passes the same checks."""
    subject = small_desk.filled.connections[0]
    answer = await small_desk.browser.post(
        f"/ops/actions/pause/{subject}", data={"reason": "x"}, headers={**ORIGIN, "x-refresh": "1"}
    )
    assert (answer.status_code, await acts(small_desk)) == (403, [])


# -- another tenant ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def theirs(small_desk: Desk) -> AsyncIterator[Filled]:
    """Another tenant's rows in the same database, with ids of their own."""
    store = small_desk.house.store.__class__(small_desk.house.settings.database_url, tenant="other")
    yield await fill(store, seed=8, customers=16, runs_each=1, declares_all=True, machinery=False)
    await store.close()


def ids_of(made: Filled) -> dict[str, Any]:
    """What the paths of pages name."""
    return {
        "connection": made.hostile, "lfi": "bank-two", "run": made.runs[-1], "event": made.events[-1],
        "refused": made.refused[0], "opening": made.openings[0], "audit": made.audits[0],
    }  # fmt: skip


async def test_ids_of_another_tenant_are_found_on_no_page(small_desk: Desk, theirs: Filled) -> None:
    """Each page that names something answers 404 for theirs, as for what was never there."""
    mine, foreign = ids_of(small_desk.filled), ids_of(theirs)
    named = [path for path in PATHS if "{" in path and "{lfi}" not in path]
    for path in named:
        found = [(await small_desk.get(path.format(**ids))).status_code for ids in (mine, foreign)]
        assert (path, found) == (path, [200, 404])
    assert len(named) > 6


async def test_a_search_and_filters_with_ids_of_another_tenant_find_nothing(small_desk: Desk, theirs: Filled) -> None:
    """Neither leads to their rows, nor tells that they are there."""
    root = theirs.connections[0]
    pages = [
        await small_desk.get("/ops/connections", params={"q": root}),
        await small_desk.get("/ops/runs", params={"connection": root}),
        await small_desk.get("/ops/audit", params={"subject": root}),
    ]
    assert [page.status_code for page in pages] == [200, 200, 200]
    assert [f"/ops/connections/{root}" in page.text for page in pages] == [False, False, False]


@pytest.mark.parametrize("action", [*SUBJECTS, "replay"])
async def test_an_action_on_what_is_another_tenant_s_does_nothing(
    small_desk: Desk, theirs: Filled, action: str
) -> None:
    """With a session, a token and a reason of our own."""
    subject = {
        "resume": theirs.paused, "unpark": theirs.parked, "redeliver": str(theirs.messages[2]),
        "replay": str(theirs.events[0]), "retry": "their-bank",
    }.get(action, theirs.connections[0])  # fmt: skip
    form = {**await small_desk.form_of("/ops/"), "reason": "x", "typed": "customer-0"}
    answer = await small_desk.browser.post(f"/ops/actions/{action}/{subject}", data=form, headers=ORIGIN)
    async with small_desk.house.store.reading() as unit:
        written = await unit.connection.scalar(
            sa.select(sa.func.count()).where(audit.c.what.startswith("ops_"), audit.c.what != "ops_signed_in")
        )
    assert answer.status_code in (404, 422)
    assert written == 0


# -- addresses and methods ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "..%2fdoor.py", "..%2f..%2fapp.py", "%2e%2e/render.py", "....//style.css", "style.css%00.js", "/etc/passwd",
        "..\\style.css", "style.css", "",
    ],
)  # fmt: skip
async def test_no_file_but_the_assets_is_served(small_desk: Desk, name: str) -> None:
    """Names are looked up in a table of two; no path reaches the file system."""
    answer = await small_desk.house.another().get(f"/ops/static/{name}")
    assert answer.status_code in (303, 404)
    assert "import " not in answer.text


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"])
async def test_other_methods_are_refused_with_a_page(small_desk: Desk, method: str) -> None:
    """Under the dashboard's own policy; nothing is said of origins that may ask."""
    for path in ("/ops/", "/ops/sign-in", "/ops/actions/pause/x"):
        answer = await small_desk.browser.request(method, path)
        assert (path, answer.status_code) == (path, 405)
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["allow"]
        assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("path", ["/ops/connections", "/ops/runs", "/ops/audit", "/ops/sign-in", "/ops/exports"])
async def test_a_huge_query_is_no_fault_and_comes_back_nowhere(small_desk: Desk, path: str) -> None:
    """Neither as a filter nor in a link."""
    huge = "x" * 10_000
    query = {"q": huge, "after": "", "subject": huge, "to": f"/ops/{huge}", "lfi": huge, "series": huge}
    answer = await small_desk.get(path, params=query)
    led = await small_desk.house.another().get(path, params=query)

    assert answer.status_code == 200, answer.text
    assert "xxxxxxxx" not in answer.text
    assert "xxxxxxxx" not in led.headers.get("location", "")


# -- what every answer has -------------------------------------------------------------------------------------------


async def answers(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> dict[str, httpx.Response]:
    """One answer of each kind that is no page of its own."""
    browser, stranger = desk.browser, desk.house.another()
    found = {
        "a redirect": await stranger.get("/ops/"),
        "a refresh without a session": await stranger.get("/ops/", headers={"x-refresh": "1"}),
        "not found": await browser.get("/ops/none"),
        "no asset": await browser.get("/ops/static/none.js"),
        "another method": await browser.put("/ops/"),
        "a wrong key": await stranger.post("/ops/sign-in", data={"key": "x"}, headers=ORIGIN),
        "no form": await stranger.post("/ops/sign-in", content=b"{}", headers={**ORIGIN, "content-type": "text/plain"}),
        "from elsewhere": await stranger.post("/ops/sign-in", data={"key": "x"}),
        "too large": await browser.post("/ops/sign-out", content=b"x" * 70_000, headers=ORIGIN),
        "no such place": await browser.get("/ops/connections?after=x"),
    }

    def broken(self: Store) -> Any:
        raise ZeroDivisionError("sealed-token")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "looking", broken)
        found["a fault of ours"] = await browser.get("/ops/")
    return found


async def test_every_answer_has_the_policy_is_not_kept_and_tells_other_sites_nothing(
    small_desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refusals, redirects and faults too."""
    found = await answers(small_desk, monkeypatch)
    for what, answer in found.items():
        headers = answer.headers
        assert (what, headers["content-security-policy"]) == (what, POLICY)
        assert (what, headers["referrer-policy"], headers["cache-control"]) == (what, "same-origin", "no-store")
        assert (headers["x-frame-options"], headers["x-content-type-options"]) == ("DENY", "nosniff")
        assert "strict-transport-security" in headers
    statuses = {what: answer.status_code for what, answer in found.items()}
    assert statuses == {
        "a redirect": 303, "a refresh without a session": 401, "not found": 404, "no asset": 404,
        "another method": 405, "a wrong key": 401, "no form": 400, "from elsewhere": 403, "too large": 413,
        "no such place": 400, "a fault of ours": 500,
    }  # fmt: skip


async def test_a_refusal_is_a_page_and_a_fault_of_ours_says_where_to_look(
    small_desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never JSON in a browser's window, never what went wrong inside; its number is in the log."""
    for what, answer in (await answers(small_desk, monkeypatch)).items():
        if answer.status_code in (303, 401) and not answer.text:
            continue
        assert (what, answer.headers["content-type"]) == (what, "text/html; charset=utf-8")
        assert (what, Checked(answer.text).faults) == (what, [])
        assert "sealed-token" not in answer.text
        assert int(answer.headers["content-length"]) == len(answer.content)
        if answer.status_code == 500:
            assert "urn:uuid:" in answer.text
            assert "Overview" in answer.text


async def test_assets_allow_nothing_themselves(small_desk: Desk) -> None:
    """A file that is opened by itself runs nothing."""
    page = Checked((await small_desk.get("/ops/")).text)
    for name in page.assets:
        answer = await small_desk.house.another().get(name)
        assert answer.headers["content-security-policy"] == "default-src 'none'"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "set-cookie" not in answer.headers
    assert len(page.assets) == 2


async def test_hostile_text_stays_text_in_names_and_labels_of_figures(small_desk: Desk) -> None:
    """What others wrote stands in elements and attributes as text: a user_ref, an LFI's name, an event's subject."""
    seen: list[str] = []
    for path in small_desk.paths():
        page = Checked((await small_desk.get(path)).text)
        assert (path, page.faults) == (path, [])
        seen += [value for value in page.said if HOSTILE[:10] in value]
    first = await small_desk.get("/ops/lfis/bank-three")
    assert "&lt;script&gt;alert(2)&lt;/script&gt;" in first.text
    assert all("<script" in value for value in seen)  # whole, and only after it was read as text
    assert seen

"""The pages: well formed, escaped, with strict headers, and nothing on them that must not be."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from syncworker.store.api_keys import Scope
from syncworker.store.tables import export, work
from syncworker.web.dashboard.exports import place_of
from syncworker.web.dashboard.runs import listings_of
from tests.web.dashboard.desk import Desk
from tests.web.dashboard.filled import HOSTILE, RTL, SECRETS

pytestmark = pytest.mark.flow

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
VOID = frozenset({"meta", "link", "input", "br", "img", "hr"})


class Checked(HTMLParser):
    """Notes what is not well formed, and what the policy would refuse.

    Attributes:
        faults: what is wrong.
        ids: of elements.
        said: labels and titles, as a browser reads them.
        assets: scripts and sheets.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.faults: list[str] = []
        self.ids: list[str] = []
        self.elements: list[str] = []
        self.said: list[str] = []
        self.assets: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        self.faults += [f"never closed: {name}" for name in self._open]
        self.faults += [f"id twice: {name}" for name in set(self.ids) if self.ids.count(name) > 1]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._begin(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._begin(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.faults.append(f"closed out of order: {tag}")

    def _begin(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        given = dict(attrs)
        self.elements.append(tag)
        if len(names) != len(set(names)):
            self.faults.append(f"attribute twice: {tag} {names}")
        self.faults += [f"{name} on {tag}" for name in names if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and not (given.get("src") or "").startswith("/ops/static/")):
            self.faults.append(f"inline {tag}")
        if tag in ("img", "iframe", "object", "embed", "base"):
            self.faults.append(f"element {tag}")
        for name in ("href", "src", "action"):
            if (value := given.get(name)) is not None:
                if not value.startswith(("/ops", "#")):
                    self.faults.append(f"{name}={value}")
                if value.startswith("/ops/static/"):
                    self.assets.append(value)
        self.said += [value for name in ("aria-label", "title", "value") if (value := given.get(name))]
        if given.get("id"):
            self.ids.append(str(given["id"]))


async def test_every_page_shows_the_filled_tables_and_is_well_formed(desk: Desk) -> None:
    """Each is HTML without inline style, script or handler, and without anything from elsewhere."""
    for path in desk.paths():
        answer = await desk.get(path)
        assert (path, answer.status_code) == (path, 200), answer.text
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert (path, Checked(answer.text).faults) == (path, [])


async def test_every_page_has_the_strict_headers(desk: Desk) -> None:
    """Those of the sign-in and of refusals too."""
    for path in [*desk.paths(), "/ops/sign-in", "/ops/nothing", "/ops/runs/none"]:
        headers = (await desk.get(path)).headers
        found = {name: headers[name] for name in ("content-security-policy", "referrer-policy", "cache-control")}
        assert found == {
            "content-security-policy": POLICY, "referrer-policy": "same-origin", "cache-control": "no-store"
        }, path  # fmt: skip
        assert (headers["x-frame-options"], headers["x-content-type-options"]) == ("DENY", "nosniff")


async def test_text_of_others_stays_text(desk: Desk) -> None:
    """A hostile user_ref, issuer, status and media type are escaped wherever they stand."""
    shown = 0
    for path in desk.paths():
        page = (await desk.get(path)).text
        shown += page.count("&lt;script&gt;alert(2)&lt;/script&gt;")
        for raw in (HOSTILE, "<script>alert", "<b>Revoked", "<i>Pending", "<img src=x"):
            assert raw not in page, path
    assert shown > 10
    listed = (await desk.get("/ops/connections")).text
    assert f"<bdi>{RTL}</bdi>" in listed  # marks of direction end with the element


async def test_nothing_personal_or_secret_is_on_any_page(desk: Desk) -> None:
    """IBANs, names, balances, tokens, webhook paths and API keys are in the tables and on no page."""
    for path in desk.paths():
        page = (await desk.get(path)).text
        for secret in (*SECRETS, *desk.house.keys, "hooks?key", "user:secret", "secret.example", "keyring"):
            assert secret not in page, (path, secret)


async def test_assets_may_be_kept_for_ever_under_the_hash_of_their_content(small_desk: Desk) -> None:
    """Another name is not found; no session is needed."""
    page = (await small_desk.get("/ops/")).text
    names = re.findall(r'(?:href|src)="(/ops/static/[^"]+)"', page)
    browser = small_desk.house.another()
    answers = {name: await browser.get(name) for name in names}

    assert sorted(name.rpartition(".")[2] for name in names) == ["css", "js"]
    for name, answer in answers.items():
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert re.search(r"\.[0-9a-f]{12}\.", name)
    assert (await browser.get("/ops/static/style.css")).status_code == 404
    assert (await browser.get("/ops/static/..%2Frender.py")).status_code == 303  # no asset: a page, for a session


async def test_a_bank_that_is_down_is_one_line_and_each_symptom_has_its_number(desk: Desk) -> None:
    """The first screen names the cause once; the list, the connection and the LFI point at it."""
    first = (await desk.get("/ops/")).text
    (number,) = re.findall(r'id="cause-(\d+)"(?:(?!id="cause-).)*?bank-two does not answer', first, flags=re.DOTALL)
    rows = re.findall(
        rf'href="#cause-{number}" data-row class="grouped".*?<bdi>bank-two</bdi>.*?<bdi>(\d+)</bdi>', first
    )
    mark = f'href="/ops/#cause-{number}"'

    assert rows
    assert first.count("<bdi>bank-two does not answer") == 1
    assert mark in (await desk.get("/ops/lfis/bank-two")).text
    assert mark in (await desk.get("/ops/connections?trouble=stale")).text
    assert mark in (await desk.get(f"/ops/connections/{desk.filled.connections[4]}")).text
    assert mark not in (await desk.get(f"/ops/connections/{desk.filled.connections[0]}")).text


async def test_a_look_that_only_reads_shows_no_buttons(small_desk: Desk) -> None:
    """Scope ops:read: every page, and no way to act on any of them."""
    reader = small_desk.house.another()
    await small_desk.sign_in(reader, Scope.OPS_READ)
    for path in small_desk.paths():
        page = (await reader.get(path)).text
        forms = re.findall(r'<form[^>]*method="post"[^>]*action="([^"]+)"', page)
        assert (path, forms) == (path, ["/ops/sign-out"])
        assert "/ops/actions/" not in page.replace(path, "")


@pytest.mark.parametrize(
    "filters", ["state=paused", "state=needs_consent", "trouble=parked", "lfi=bank-two&state=active"]
)
async def test_the_list_keeps_to_its_filters(desk: Desk, filters: str) -> None:
    """By state, by how syncs go, by LFI; together they all hold."""
    page = (await desk.get(f"/ops/connections?{filters}")).text
    refs = re.findall(r"<bdi>(customer-\d+)</bdi>", page)
    expected = {
        "state=paused": ["customer-3"],
        "state=needs_consent": ["customer-7"],
        "trouble=parked": ["customer-15"],
        "lfi=bank-two&state=active": sorted(f"customer-{one}" for one in (4, 10, 16, 19, 22)),
    }[filters]
    assert refs == expected


@pytest.mark.parametrize("what", ["connection", "consent", "call", "user_ref", "nothing"])
async def test_the_search_leads_to_what_an_id_names(desk: Desk, what: str) -> None:
    """A ConsentId to its connection, an interaction id to its run, anything else to a list."""
    made = desk.filled
    async with desk.house.store.reading() as unit:
        filed = await unit.runs.get(made.runs[3])
        assert filed is not None
        call = (await unit.runs.calls_of(filed))[0]
    given, leads = {
        "connection": (made.connections[2], f"/ops/connections/{made.connections[2]}"),
        "consent": (filed.run.consent_id, f"/ops/connections/{filed.run.connection_id}"),
        "call": (call.interaction_id, f"/ops/runs/{made.runs[3]}"),
        "user_ref": ("customer-1", ""),
        "nothing": ("00000000-0000-4000-8000-000000000000", ""),
    }[what]
    answer = await desk.get("/ops/connections", params={"q": given})

    assert answer.headers.get("location", "") == leads
    if what == "user_ref":
        assert {"customer-1", "customer-10"} >= set(re.findall(r"<bdi>(customer-1)</bdi>", answer.text))
    if what == "nothing":
        assert "No connection matches" in answer.text


async def test_lists_go_on_behind_their_last_row(small_desk: Desk) -> None:
    """Every connection is on one page of the list, and on one only."""
    seen: list[str] = []
    path = "/ops/connections"
    from tests.web.dashboard.filled import add_connections

    await add_connections(small_desk.house.store, 130)
    while path:
        page = (await small_desk.get(path)).text
        seen += re.findall(r'href="/ops/connections/([^"?]+)" data-row', page)
        found = re.search(r'href="([^"]+)" rel="next"', page)
        path = found[1].replace("&amp;", "&") if found else ""

    assert len(seen) == len(set(seen)) == 130 + len(small_desk.filled.connections)


@pytest.mark.parametrize(
    "path",
    [
        "/ops/connections?after=xx", "/ops/connections?q=%00%ff", "/ops/runs/99999999999999999999", "/ops/runs/-1",
        "/ops/connections/%00", "/ops/connections/..%2f..%2fetc", "/ops/audit/1e9", "/ops/work?before=99999999999",
        "/ops/openings?after=WyJ4IiwieSJd", "/ops/events/q", "/ops/lfis/%F0%9F%92%A9", "/ops/actions/none/x",
        "/ops/actions/sync/nobody", "/ops/connections?done=77", "/ops/?done=%27",
    ],
)  # fmt: skip
async def test_nonsense_in_an_address_is_refused_in_words(small_desk: Desk, path: str) -> None:
    """Never a fault of ours."""
    answer = await small_desk.get(path)
    assert answer.status_code in (200, 400, 404), answer.text
    assert Checked(answer.text).faults == []


async def test_pages_of_empty_tables_say_what_fills_them(small_web: object) -> None:
    """No empty table head stands anywhere."""
    from tests.web.dashboard.desk import ORIGIN
    from tests.web.house import WebHouse

    assert isinstance(small_web, WebHouse)
    browser = small_web.another()
    key = await small_web.key([Scope.OPS_READ])
    await browser.post("/ops/sign-in", data={"key": key}, headers=ORIGIN)
    for path in ("/ops/", "/ops/connections", "/ops/lfis", "/ops/runs", "/ops/work", "/ops/events", "/ops/webhooks",
                 "/ops/openings", "/ops/exports", "/ops/cost", "/ops/processes", "/ops/lfis/sandbox"):  # fmt: skip
        answer = await browser.get(path)
        assert answer.status_code == 200, answer.text
        assert not re.search(r"<tbody>\s*</tbody>", answer.text), path


async def test_a_late_export_has_its_cause_and_no_key_of_its_target_is_shown(desk: Desk) -> None:
    """The series that failed carries the number of its cause, the other is being made; what was made is listed."""
    page = (await desk.get("/ops/exports")).text
    first = (await desk.get("/ops/")).text
    (number,) = re.findall(
        r'id="cause-(\d+)"(?:(?!id="cause-).)*?export nightly', first, flags=re.DOTALL | re.IGNORECASE
    )
    late, made = (
        page[page.index(f"series={name}") : page.index("</tr>", page.index(f"series={name}"))]
        for name in ("nightly", "hourly")
    )

    assert f'href="/ops/#cause-{number}"' in late
    assert "failed" in late
    assert "#cause-" not in made
    assert "being made" in made
    assert "s3://bucket.example/of/analysts" in page
    assert "AKIAEXAMPLE" not in page
    assert "48,211" in page
    assert "3.4\u00a0GB" in page
    assert re.findall(r"<bdi>(\w+)</bdi> (\d)</th>", (await desk.get("/ops/exports?series=nightly")).text) == [
        ("nightly", "3"), ("nightly", "2"), ("nightly", "1")
    ]  # fmt: skip


async def test_exports_and_rows_of_work_go_on_behind_their_last_row(small_desk: Desk) -> None:
    """Each is on one page, and on one only, those that began at the same instant too."""
    from tests.web.dashboard.filled import insert

    async with small_desk.house.store.writing() as unit:
        at = await unit.now()
        made = {"target": "/x", "format": "csv", "started_at": at, "ended_at": at, "outcome": "done"}
        await insert(unit, export, *({"name": f"n{one % 2}", "number": one, **made} for one in range(120)))
        row = {"kind": "consent", "lfi": "sandbox", "due_at": at}
        await insert(unit, work, *({"subject": f"more-{one}", **row} for one in range(120)))
        await unit.commit()
    for path, found, expected in (
        ("/ops/exports", r"<bdi>(n\d</bdi> \d+)</th>", 120),
        ("/ops/work?kind=consent", r'title="(more-\d+)"|<bdi class="id">(more-\d+)', 120),
    ):
        seen: list[Any] = []
        while path:
            page = (await small_desk.get(path)).text
            seen += re.findall(found, page)
            further = re.search(r'href="([^"]+)" rel="next"', page)
            path = further[1].replace("&amp;", "&") if further else ""
        assert len(seen) == len(set(seen)) == expected


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/srv/exports", "/srv/exports"),
        ("s3://bucket/of/analysts", "s3://bucket/of/analysts"),
        ("s3://key:secret@bucket/x?token=secret#secret", "s3://bucket/x"),
        ("s3://[secret", "s3://…"),
    ],
)
def test_of_a_target_that_is_a_url_scheme_host_and_path_are_shown(target: str, shown: str) -> None:
    """A folder as it is; nothing that could be a key."""
    assert place_of(target) == shown


def test_a_call_is_named_by_its_account_only_where_the_run_reads_one() -> None:
    """Accounts are read at the same time, so of several nothing says which one a call was for."""
    steps = [
        {"resource": "accounts"},
        {"resource": "balances", "account_id": "100000004821"},
        {"resource": "transactions", "account_id": "1"},
        {"resource": "transactions", "account_id": "2"},
    ]
    assert listings_of(steps) == {
        "GetAccounts": ("accounts", ""),
        "GetAccountsAccountIdBalances": ("balances of …4821", "…4821"),
        "GetAccountsAccountIdTransactions": ("transactions, one of 2 accounts", ""),
    }

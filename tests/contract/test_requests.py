"""Every request we make is one the published files of its version allow: whatever reaches the bank's three hosts."""

import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, quote

import pytest

from syncworker.lfi.api import Attendance, LFIClient
from syncworker.simulator.asgi import Request
from syncworker.simulator.sandbox import Sandbox
from syncworker.standard.permissions import askable
from syncworker.standard.resources import BY_NAME, RESOURCES, ResourceName
from syncworker.standard.versions import Version
from syncworker.store.unit_of_work import Store
from tests.contract.conftest import VALIDATED, Published
from tests.contract.official import PROSE, Official, Part
from tests.ground.clock import ManualClock
from tests.sync.house import SETTINGS, Product, config_of

pytestmark = pytest.mark.contract

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
CONTINUATION: Final = "continuation"
"""A parameter of the bank's own links, which we follow to the letter."""
CONSENTS: Final = {"GetAccountAccessConsentsConsentId", "GetAccountAccessConsentsByBaseConsentId"}
PARTS: Final = {"par": Part.PAR, "token": Part.TOKEN}
_TYPE: Final = "client_assertion_type"


@pytest.fixture
async def product(
    bank_dir: Path, store: Store, clock: ManualClock, version: Version, requests: list[tuple[str, Request]]
) -> AsyncIterator[Product]:
    """A product, and a bank of one version that tells each request it gets."""
    async with AsyncExitStack() as stack:
        witness: Callable[[str, Request], None] = lambda host, request: requests.append((host, request))  # noqa: E731
        bank = Sandbox(bank_dir, versions=[version], customers=2, page_size=40, now=clock.now, witness=witness)
        await stack.enter_async_context(bank)
        client = LFIClient(config_of(bank, connections=8), clock=clock)
        stack.push_async_callback(client.close)
        yield Product(bank, store, clock, client, stack, SETTINGS)


@pytest.fixture
def requests() -> list[tuple[str, Request]]:
    """(host, request) as they came."""
    return []


@pytest.fixture
async def lived(product: Product, version: Version, requests: list[tuple[str, Request]]) -> list[tuple[str, Request]]:
    """Everything we ask a bank for: consents with and without a window, a successor, syncs, refreshes, questions."""
    everything = askable(version)
    today = product.clock.now().date()
    root = await product.consented(permissions=everything)
    await product.consented(1, permissions=everything, from_date=today - timedelta(days=90), to_date=today)
    await product.sync_all(*product.consents)
    product.clock.advance(hours=25)
    await product.sync_all(*product.consents)  # incremental: with the windows' parameters, and a refreshed token
    await product.consented(permissions=everything, base_consent_id=root)
    await product.lifecycle.ask(root)
    await product.client.consents_of_base(root, version=version, calls=lambda _: None)
    for name in (ResourceName.ACCOUNTS, ResourceName.PARTIES):
        await attended(product, name, version)
    return requests


async def attended(product: Product, name: ResourceName, version: Version) -> None:
    """One call with the customer present."""
    customer = Attendance(ip="203.0.113.7", auth_date=product.clock.now(), user_agent="Browser/1")
    root = product.consents[0]
    walk = product.client.pages(
        BY_NAME[name], None, version=version, params={}, token=product.vault.source(root), calls=lambda _: None,
        attendance=customer,
    )  # fmt: skip
    assert [page.number async for page in walk] == [1]


@on_sqlite
async def test_our_data_requests_fit_the_published_operations(
    lived: list[tuple[str, Request]], account_information: Official, version: Version, record_property: Any
) -> None:
    """Path, parameters and headers of each; none that the file does not list.  Every operation we know was called."""
    seen: set[str] = set()
    for host, request in lived:
        if host != "rs":
            continue
        base, path = account_information.base_path, request.path
        assert path.startswith(base), path
        found = account_information.at(request.method, path.removeprefix(base))
        assert found is not None, (request.method, path)
        operation, parts = found
        query = {name: value for name, value in request.query().items() if name != CONTINUATION}
        headers = {name: value for name, value in request.headers.items() if name.startswith(("x-", "authorization"))}
        given = {"path": parts, "query": query, "header": headers}
        strict = frozenset({"query", "header"})
        assert account_information.faults_of_parameters(operation, given, strict=strict) == [], operation["operationId"]
        assert headers["authorization"].startswith("Bearer ")
        assert "application/j" in request.headers["accept"]
        seen.add(operation["operationId"])
        record_property(VALIDATED, ("request", version.value, operation["operationId"], ""))
    data = {row.operation: row for row in RESOURCES if version.rank >= row.since.rank and row.repeats is None}
    assert seen == data.keys() | CONSENTS
    # else the loop had less to judge than it seems: filters, followed links, attended calls
    asked = {name for host, request in lived if host == "rs" for name in request.query()}
    assert asked >= {row.window.from_param for row in data.values() if row.window} | {CONTINUATION}
    assert any("x-fapi-customer-ip-address" in request.headers for _, request in lived)


@on_sqlite
async def test_our_forms_fit_the_published_ones(
    lived: list[tuple[str, Request]], published: Published, version: Version, record_property: Any
) -> None:
    """PAR, with the claims of the signed request object in it; each grant of a token, as far as a file has it."""
    forms = [(request.path.strip("/"), form_of(request)) for host, request in lived if host == "as"]
    for path, form in forms:
        part, grant = PARTS[path], form.get("grant_type", "")
        if PROSE.keys() & {(version, part), (version, grant)}:
            continue
        official = published(version, part)
        ((_, _, operation),) = [one for one in official.operations() if one[1] == f"/{path}"]
        signed = {"request": claims_of(form["request"])} if path == "par" else {}
        assert official.faults_of_form(operation, form | signed) == [], (path, grant)
        record_property(VALIDATED, ("request", version.value, path, grant))
    assert {(path, form.get("grant_type")) for path, form in forms} == {
        ("par", None), ("token", "authorization_code"), ("token", "refresh_token"), ("token", "client_credentials"),
    }  # fmt: skip


def form_of(request: Request) -> dict[str, Any]:
    """The fields of a form.  The files print the assertion's type escaped once (D-10), as it travels."""
    assert request.headers["content-type"].partition(";")[0] == "application/x-www-form-urlencoded"
    assert request.headers["x-fapi-interaction-id"]
    form = dict(parse_qsl(request.body.decode(), strict_parsing=True))
    return form | {_TYPE: quote(form[_TYPE], safe="")}


def claims_of(token: str) -> dict[str, Any]:
    """The claims of a JWS, unverified: the bank has done that."""
    payload = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return claims


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        pytest.param({"header": {}}, "header authorization: is missing", id="no token"),
        pytest.param({"query": {"page": "2"}}, "query page: is not listed", id="an invented parameter"),
        pytest.param(
            {"query": {"fromBookingDateTime": "yesterday"}}, "query fromBookingDateTime: ", id="a date that is none"
        ),
        pytest.param({"header": {"x-fapi-auth-date": "2026-01-01"}}, "header x-fapi-auth-date: ", id="a wrong pattern"),
    ],
)
def test_the_judge_refuses_what_is_not_published(
    given: dict[str, dict[str, str]], fault: str, account_information: Official
) -> None:
    """Else the tests above could not fail."""
    operation = account_information.operation("GetAccountsAccountIdTransactions")
    plain = {"header": {"authorization": "Bearer x"}, "path": {"AccountId": "a"}}
    strict = frozenset({"query", "header"})
    assert account_information.faults_of_parameters(operation, plain, strict=strict) == []
    assert any(
        fault in one for one in account_information.faults_of_parameters(operation, plain | given, strict=strict)
    )


def test_the_judge_of_forms_refuses_what_is_not_published(pushed_authorization: Official) -> None:
    """A field too many, and a request object that lacks its claims."""
    ((_, _, operation),) = [one for one in pushed_authorization.operations() if one[1] == "/par"]
    faults = pushed_authorization.faults_of_form(operation, {"client_id": "x", "request": {}, _TYPE: "y"})
    assert {fault.partition(":")[0] for fault in faults} >= {"$", f"$.{_TYPE}", "$.request"}

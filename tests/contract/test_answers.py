"""Every answer of the simulator is one the published files of its version allow."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from syncworker.simulator.arrangements import MAY_LACK
from syncworker.simulator.authorization import PUSHED
from syncworker.simulator.sandbox import Sandbox
from syncworker.standard.permissions import Permission
from syncworker.standard.resources import RESOURCES, Resource
from syncworker.standard.versions import Version, rar_type
from tests.contract.conftest import VALIDATED, Published
from tests.contract.official import Official, Part
from tests.simulator.tpp import TPP, Tokens

pytestmark = pytest.mark.contract

_V1_2_TOKEN = "AuthorizationCodeGrantTokenV12ResponseProperties"
TOKEN_SCHEMAS: Final[Mapping[Version, Mapping[str, str]]] = {
    # v1.2 has one schema for both user grants, and none for a token of the client itself
    Version.V1_2: {"authorization_code": _V1_2_TOKEN, "refresh_token": _V1_2_TOKEN},
    Version.V2_0: {},
    Version.V2_1: {
        "authorization_code": "AEAuthorizationCodeGrantTokenResponseProperties",
        "refresh_token": "AERefreshTokenGrantTokenResponseProperties",
        "client_credentials": "AEClientCredentialsGrantTokenResponseProperties",
    },
}
CONSENTS = {
    "GetAccountAccessConsentsConsentId": ("GET", "/account-access-consents/{ConsentId}"),
    "GetAccountAccessConsentsByBaseConsentId": ("GET", "/account-access-consents?baseConsentId={ConsentId}"),
    "PatchAccountAccessConsentsConsentId": ("PATCH", "/account-access-consents/{ConsentId}"),
}
REFUSALS = (400, 401, 403, 405, 406, 429, 500)


CUSTOMERS: Final = {Version.V1_2: 8, Version.V2_0: 8, Version.V2_1: 16}
"""Every kind of life once; twice where the two kinds of Islamic finance are written differently."""


def data_of(version: Version) -> dict[str, Resource]:
    """The resources of a version, by operation."""
    return {row.operation: row for row in RESOURCES if version.rank >= row.since.rank}


class Judge:
    """Holds answers against a file, and counts them in the test's report."""

    def __init__(self, official: Official, record: Any) -> None:
        self._official = official
        self._record = record
        self.seen: set[tuple[str, int]] = set()

    def __call__(self, operation: str, answer: httpx.Response) -> None:
        value = answer.json() if answer.content else None
        assert self._official.faults_of_answer(operation, answer.status_code, value) == [], operation
        self.note(operation, answer.status_code)

    def note(self, operation: str, status: int) -> None:
        self.seen.add((operation, status))
        self._record(VALIDATED, ("answer", self._official.version.value, operation, status))


@pytest.fixture
async def bank(bank_dir: Path, version: Version) -> AsyncIterator[Sandbox]:
    customers = CUSTOMERS[version]
    async with Sandbox(bank_dir, versions=[version], customers=customers, strays=False, page_size=50) as sandbox:
        yield sandbox


@pytest.fixture
async def tpp(bank: Sandbox) -> AsyncIterator[TPP]:
    async with TPP(bank) as client:
        yield client


@pytest.fixture
def judge(account_information: Official, record_property: Any) -> Judge:
    return Judge(account_information, record_property)


async def test_all_data_of_all_customers_fits_the_schemas(
    tpp: TPP, bank: Sandbox, judge: Judge, version: Version
) -> None:
    """Each page of each resource of each account of each kind of life, awkward values included; 404 where allowed."""
    data = data_of(version)
    for user in bank.users:
        tokens = await tpp.consent(user=user)
        for operation, resource in data.items():
            for account in bank.bank.ledger.customer(user).accounts:
                following: str | None = resource.path.format(AccountId=account.account_id)
                while following:
                    answer = await tpp.get(following, tokens.access)
                    judge(operation, answer)
                    following = answer.json()["Links"].get("Next") if answer.status_code == 200 else None
    lacking = {(operation, 404) for operation, resource in data.items() if resource.name in MAY_LACK}
    assert judge.seen == {(operation, 200) for operation in data} | lacking


@pytest.mark.parametrize("status", REFUSALS)
async def test_refusals_of_data_have_the_published_shape(tpp: TPP, bank: Sandbox, judge: Judge, status: int) -> None:
    """400, 403 and 500 bring `Errors`; the others have no body."""
    tokens = await tpp.consent((Permission.ReadAccountsBasic, Permission.ReadParty))
    account = bank.bank.account_of(bank.users[0]).account_id
    data = data_of(tpp.version)
    for operation, resource in data.items():
        judge(operation, await _refused(tpp, bank, tokens, resource.path.format(AccountId=account), status))
    assert judge.seen == {(operation, status) for operation in data}


async def _refused(tpp: TPP, bank: Sandbox, tokens: Tokens, path: str, status: int) -> httpx.Response:
    if status == 400:
        return await tpp.get(path, tokens.access, headers={"x-fapi-interaction-id": "not a UUID"})
    if status == 401:
        return await tpp.get(path, None)
    if status == 403:
        return await tpp.get(path, await tpp.own_token())
    if status == 405:
        return await tpp.call("DELETE", path, tokens.access)
    if status == 406:
        return await tpp.get(path, tokens.access, headers={"accept": "text/csv"})
    bank.bank.answers(status, retry_after=1, times=1)
    return await tpp.get(path, tokens.access)


async def test_the_consent_operations_fit_the_schemas(tpp: TPP, bank: Sandbox, judge: Judge) -> None:
    """Reading one consent, a chain, and revoking, with each refusal the file publishes."""
    own = await tpp.own_token()
    tokens = await tpp.consent()
    await tpp.consent(base_consent_id=tokens.consent_id)
    revoke = {"Data": {"Status": "Revoked", "RevokedBy": "TPP.InitiatedByUser"}}
    for operation, (method, template) in CONSENTS.items():
        path = template.format(ConsentId=tokens.consent_id)
        body = {"json": revoke} if method == "PATCH" else {}
        judge(operation, await tpp.call(method, path, None, **body))
        judge(operation, await tpp.call(method, path, tokens.access, **body))
        judge(operation, await tpp.call(method, path, own, headers={"accept": "text/csv"}, **body))
        judge(operation, await tpp.call(method, path, own, headers={"x-fapi-interaction-id": "no"}, **body))
        for status in (429, 500):
            bank.bank.answers(status, retry_after=1, times=1)
            judge(operation, await tpp.call(method, path, own, **body))
        judge(operation, await tpp.call("PUT", path, own))
        answer = await tpp.call(method, path, own, **body)
        assert answer.status_code in (200, 204)
        judge(operation, answer)
    judge("GetAccountAccessConsentsByBaseConsentId", await tpp.get("/account-access-consents?baseConsentId=x", own))
    text = await tpp.call(
        "PATCH", f"/account-access-consents/{tokens.consent_id}", own, content=b"{}", headers={"content-type": "text/x"}
    )
    judge("PatchAccountAccessConsentsConsentId", text)
    common = (400, 401, 403, 405, 406, 429, 500)
    expected = {(operation, status) for operation in CONSENTS for status in common}
    expected |= {
        ("GetAccountAccessConsentsConsentId", 200),
        ("GetAccountAccessConsentsByBaseConsentId", 200),
        ("GetAccountAccessConsentsByBaseConsentId", 404),
        ("PatchAccountAccessConsentsConsentId", 204),
        ("PatchAccountAccessConsentsConsentId", 415),
    }
    assert judge.seen == expected


async def test_pushed_requests_fit_the_schemas(
    tpp: TPP, bank: Sandbox, pushed_authorization: Official, record_property: Any, version: Version
) -> None:
    """A good one, 200 or 201 as the version has it, and every refusal."""
    judge = Judge(pushed_authorization, record_property)
    (par,) = [one["operationId"] for _, path, one in pushed_authorization.operations() if path == "/par"]
    draft = tpp.draft()
    judge(par, await tpp.push(draft))
    judge(par, await tpp.push(draft))
    judge(par, await tpp.http.get(f"{bank.addresses.tokens}/par"))
    judge(par, await tpp.push(tpp.draft(), request="x" * 70_000))
    bank.bank.answers(429, retry_after=1, times=1)
    judge(par, await tpp.push(draft))
    assert judge.seen == {(par, status) for status in (PUSHED[version], 400, 405, 413, 429)}


@pytest.mark.parametrize("rotation", ["always", "never", "omit"])
async def test_token_answers_fit_the_schemas(
    tpp: TPP, bank: Sandbox, published: Published, record_property: Any, version: Version, rotation: str
) -> None:
    """The three grants and a refusal.

    A refresh answer with a new refresh token (D-5) fits the code grant's schema, one without it the refresh grant's:
    the published `oneOf` of the three cannot tell them apart, so each is held against its own.
    """
    official, schemas = published(version, Part.TOKEN), TOKEN_SCHEMAS[version]
    judge = Judge(official, record_property)
    (token,) = [one["operationId"] for _, path, one in official.operations() if path == "/token"]
    bank.bank.configure(rotation=rotation)
    tokens = await tpp.consent()
    answers = {
        "authorization_code": tokens.body,
        "refresh_token": (await tpp.refresh(tokens.refresh)).json(),
        "client_credentials": (await tpp.token(grant_type="client_credentials", scope="accounts")).json(),
    }
    for grant in schemas:
        named = "refresh_token" if (grant, rotation) == ("refresh_token", "omit") else "authorization_code"
        named = grant if grant == "client_credentials" else named
        assert official.faults(schemas[named], answers[grant]) == [], grant
        judge.note(f"{token} {grant}", 200)
    judge(token, await tpp.refresh("no such token"))


@pytest.mark.parametrize("rotation", ["always", "omit"])
async def test_the_consent_in_a_token_answer_is_that_of_its_version(
    tpp: TPP, bank: Sandbox, account_information: Official, version: Version, rotation: str
) -> None:
    """Wrapped, and by the schema of the consent API: in v2.0, whose token file is not here, all there is to hold to."""
    bank.bank.configure(rotation=rotation)
    tokens = await tpp.consent()
    for body in (tokens.body, (await tpp.refresh(tokens.refresh)).json()):
        (details,) = body["authorization_details"]
        assert details["type"] == rar_type(version)
        reading = "GetAccountAccessConsentsConsentId"
        assert account_information.faults_of_answer(reading, 200, details["consent"]) == []


async def test_a_token_request_without_a_client_id_is_refused_before_v2_1(tpp: TPP, version: Version) -> None:
    """The field is required by v1.2 and v2.0, optional since."""
    form = tpp.assertion() | {"grant_type": "client_credentials", "scope": "accounts"}
    answer = await tpp.http.post(f"{tpp.sandbox.addresses.tokens}/token", data=form)
    assert answer.status_code == (200 if version is Version.V2_1 else 400)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(200, {"Data": {"Account": [{"AccountId": ""}]}, "Links": {}, "Meta": {}}, id="a member missing"),
        pytest.param(200, None, id="no body where one is due"),
        pytest.param(401, {"Errors": []}, id="a body where none is"),
        pytest.param(409, None, id="an unpublished status"),
    ],
)
def test_the_judge_refuses_what_is_not_published(account_information: Official, status: int, body: Any) -> None:
    """Else the tests above could not fail."""
    assert account_information.faults_of_answer("GetAccounts", status, body) != []


async def test_strays_are_the_only_items_that_break_the_standard(bank_dir: Path, account_information: Official) -> None:
    """With `strays` a few items of a customer break it, each in the way it says of itself."""
    schemas = {"transactions": "AETransaction", "beneficiaries": "AEBeneficiary", "direct-debits": "AEDirectDebit"}
    broken: dict[str, list[Any]] = {}
    versions = [account_information.version]
    async with Sandbox(bank_dir, versions=versions, customers=1, strays=True) as sandbox, TPP(sandbox) as tpp:
        tokens = await tpp.consent()
        for path, schema in schemas.items():
            account_id = sandbox.bank.account_of(sandbox.users[0]).account_id
            for page in await tpp.walk(f"/accounts/{account_id}/{path}", tokens.access):
                (rows,) = [rows for rows in page["Data"].values() if isinstance(rows, list)]
                broken.setdefault(path, []).extend(row for row in rows if account_information.faults(schema, row))
    assert {row["TransactionInformation"] for row in broken["transactions"]} == {
        "Unknown enum value", "Unknown member", "No offset",
    }  # fmt: skip
    assert [row["BeneficiaryType"] for row in broken["beneficiaries"]] == ["CoolingOff"]
    assert [row["Frequency"] for row in broken["direct-debits"]] == ["EverySecondFriday"]

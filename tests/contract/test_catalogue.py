"""The tables of `standard/` say what the published files say."""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import pytest

from syncworker.simulator.details import SCHEMAS
from syncworker.standard.consents import MEMBERS, ConsentRequest, Purpose, Status, UserType, authorization_details
from syncworker.standard.permissions import CODES, askable
from syncworker.standard.resources import RESOURCES, Resource, Shape
from syncworker.standard.values import ConsentId
from syncworker.standard.versions import Version
from tests.contract.official import FILES, ROOT, SUPERSEDED, Official

pytestmark = pytest.mark.contract

RARS: Final = {
    Version.V1_2: "AEAccountAccessAuthorizationDetailsConsent",
    Version.V2_0: "AEAccountAccessAuthorizationDetailsConsent",
    Version.V2_1: "AEBankDataSharingRichAuthorizationRequestsV21.AEBankDataSharingAuthorizationDetailsProperties",
}
CONSENT: Final = "/account-access-consents/{ConsentId}"
NOW = datetime(2026, 11, 21, 8, 30, tzinfo=UTC)

in_each_version = pytest.mark.parametrize(
    ("version", "resource"),
    [
        pytest.param(version, row, id=f"{version.value}-{row.name.value}")
        for version in Version
        for row in RESOURCES
        if version.rank >= row.since.rank
    ],
)


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda row: row.name.value)
def test_a_resource_is_an_operation_of_the_file(
    resource: Resource, account_information: Official, version: Version
) -> None:
    """Path and operationId belong together, and it is read with GET; a version before `since` has neither."""
    found = {(path, operation_id) for path, operation_id, _ in _gets(account_information)}
    assert ((resource.path, resource.operation) in found) == (version.rank >= resource.since.rank)


@in_each_version
def test_a_404_is_believed_where_the_file_lists_one(
    resource: Resource, version: Version, account_information: Official
) -> None:
    """And nowhere else: an account may lack what an operation shows only where its 404 says so."""
    listed = account_information.response(resource.operation, 404) is not None
    assert (version in resource.lists_404) == listed


@in_each_version
def test_the_items_of_a_resource_lie_where_the_file_puts_them(
    resource: Resource, account_information: Official
) -> None:
    """Under `Data`, as a list or as one object."""
    data = _data_schema(account_information, resource)
    kind = _resolved(account_information, data["properties"][resource.items])["type"]
    assert kind == ("array" if resource.shape is Shape.LIST else "object")


@in_each_version
def test_the_key_of_a_resource_is_required_in_every_item(resource: Resource, account_information: Official) -> None:
    """A key that may be absent could not name a row."""
    items = _resolved(account_information, _data_schema(account_information, resource)["properties"][resource.items])
    for member in resource.key:
        schema = _resolved(account_information, items["items"] if resource.shape is Shape.LIST else items)
        for name in member.split("."):
            assert name in schema["required"], member
            schema = _resolved(account_information, schema["properties"][name])


@in_each_version
def test_the_window_of_a_resource_is_published(resource: Resource, account_information: Official) -> None:
    """Its two query parameters are those of the operation; a resource without a window has none."""
    window = resource.window
    parameters = account_information.document["components"]["parameters"]
    listed = account_information.operation(resource.operation)["parameters"]
    resolved = [parameters[one["$ref"].rpartition("/")[2]] if "$ref" in one else one for one in listed]
    names = {one["name"] for one in resolved if one["in"] == "query"}
    assert names == ({window.from_param, window.to_param} if window else set())


def test_permissions_of_a_consent_are_the_official_list(account_information: Official, version: Version) -> None:
    """None missing, none invented."""
    granted = {code.permission for code in CODES if version in code.granted}
    (consents,) = [one for path, _, one in _gets(account_information) if path == CONSENT]
    data = _body(account_information, consents)["properties"]["Data"]["properties"]
    permissions = _resolved(account_information, data["Permissions"])
    assert set(_resolved(account_information, permissions["items"])["enum"]) == granted


def test_permissions_of_a_pushed_request_are_the_official_list(
    pushed_authorization: Official, version: Version
) -> None:
    """What may be asked for."""
    assert set(_enum(pushed_authorization, _consent(pushed_authorization, version), "Permissions")) == set(
        askable(version)
    )


def test_the_bank_knows_the_same_permissions_and_account_types(
    pushed_authorization: Official, version: Version
) -> None:
    """The simulator's own table, written apart from ours."""
    consent = _consent(pushed_authorization, version)
    schema = SCHEMAS[version]
    assert set(_enum(pushed_authorization, consent, "Permissions")) == schema.permissions
    assert set(_enum(pushed_authorization, consent, "AccountSubType")) == schema.sub_types
    assert set(schema.window) <= consent["properties"].keys()


def test_members_of_a_pushed_consent_are_in_the_schema(pushed_authorization: Official, version: Version) -> None:
    """A row of `MEMBERS` names a version if and only if its file lists the member."""
    properties = _consent(pushed_authorization, version)["properties"]
    assert {one.name for one in MEMBERS if version in one.versions} == {one.name for one in MEMBERS} & properties.keys()


def test_consent_statuses_are_the_official_list(account_information: Official, version: Version) -> None:
    """*Paused* is ours and not among them; `Consumed` came with v2.1 and is never a data-sharing consent's."""
    (consents,) = [one for path, _, one in _gets(account_information) if path == CONSENT]
    status = _body(account_information, consents)["properties"]["Data"]["properties"]["Status"]
    older = set(Status) - {Status.Consumed}
    expected = set(Status) if version is Version.V2_1 else older
    assert set(_resolved(account_information, status)["enum"]) == expected


def test_billing_words_are_the_official_lists(pushed_authorization: Official, version: Version) -> None:
    """User types and purposes."""
    consent = _consent(pushed_authorization, version)
    billing = _resolved(pushed_authorization, consent["properties"]["OpenFinanceBilling"])["properties"]
    assert set(_resolved(pushed_authorization, billing["UserType"])["enum"]) == set(UserType)
    assert set(_resolved(pushed_authorization, billing["Purpose"])["enum"]) == set(Purpose)


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param({}, id="the least"),
        pytest.param({"from_date": date(2026, 1, 1), "to_date": date(2026, 6, 30)}, id="a window"),
        pytest.param({"base_consent_id": ConsentId("0f0d9a3c-2b2e-4d1b-9a57-0d6a3a1f8d11")}, id="a successor"),
    ],
)
def test_our_authorization_details_fit_the_pushed_request_schema(
    extra: dict[str, Any], pushed_authorization: Official, version: Version
) -> None:
    """Exactly one RAR, without a member the schema does not list."""
    request = ConsentRequest(permissions=askable(version), expires_at=NOW + timedelta(days=90), **extra)
    (rar,) = authorization_details(request, version=version)
    assert pushed_authorization.faults(RARS[version], rar) == []


def test_every_published_file_of_these_apis_is_a_judge() -> None:
    """A file that is here and that nothing is held against would be a promise not kept."""
    if not ROOT.exists():
        pytest.skip("the published files are not here: put them at ../shared/openapi or set SYNCWORKER_OPENAPI")
    ours = re.compile("account-information|pushed-authorization|authorization-endpoints")
    present = {str(file.relative_to(ROOT)) for file in ROOT.glob("*/*.yaml") if ours.search(file.name)}
    judges = {name for files in FILES.values() for name in files.values()}
    assert present - judges == SUPERSEDED.keys() & present


def _gets(official: Official) -> Iterator[tuple[str, str, dict[str, Any]]]:
    return ((path, one["operationId"], one) for method, path, one in official.operations() if method == "get")


def _body(official: Official, operation: dict[str, Any]) -> dict[str, Any]:
    response = official.response(operation["operationId"], 200)
    assert response is not None
    schema = _resolved(official, response["content"]["application/json"]["schema"])
    return schema | {"properties": {n: _resolved(official, one) for n, one in schema["properties"].items()}}


def _consent(official: Official, version: Version) -> dict[str, Any]:
    """The schema of `authorization_details[0].consent`."""
    return _resolved(official, official.schema(RARS[version])["properties"]["consent"])


def _enum(official: Official, schema: dict[str, Any], name: str) -> list[str]:
    items: dict[str, Any] = _resolved(official, _resolved(official, schema["properties"][name])["items"])
    found: list[str] = items["enum"]
    return found


def _data_schema(official: Official, resource: Resource) -> dict[str, Any]:
    response = official.response(resource.operation, 200)
    assert response is not None
    schema = response["content"]["application/json"]["schema"]
    return _resolved(official, _resolved(official, schema)["properties"]["Data"])


def _resolved(official: Official, schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = official.schema(schema["$ref"].rpartition("/")[2])
    return schema

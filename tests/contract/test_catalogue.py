"""The tables of `standard/` say what the published files say."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from syncworker.standard.consents import ConsentRequest, Purpose, Status, UserType, authorization_details
from syncworker.standard.permissions import Permission
from syncworker.standard.resources import RESOURCES, Resource, Shape
from syncworker.standard.values import ConsentId
from syncworker.standard.versions import Version
from tests.contract.official import Official

pytestmark = pytest.mark.contract

RAR = "AEBankDataSharingRichAuthorizationRequestsV21.AEBankDataSharingAuthorizationDetailsProperties"
NOW = datetime(2026, 11, 21, 8, 30, tzinfo=UTC)


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda row: row.name.value)
def test_a_resource_is_an_operation_of_the_file(resource: Resource, account_information: Official) -> None:
    """Path and operationId belong together, and it is read with GET."""
    found = {(path, one["operationId"]) for method, path, one in account_information.operations() if method == "get"}
    assert (resource.path, resource.operation) in found


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda row: row.name.value)
def test_the_items_of_a_resource_lie_where_the_file_puts_them(
    resource: Resource, account_information: Official
) -> None:
    """Under `Data`, as a list or as one object."""
    data = _data_schema(account_information, resource)
    kind = _resolved(account_information, data["properties"][resource.items])["type"]
    assert kind == ("array" if resource.shape is Shape.LIST else "object")


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda row: row.name.value)
def test_the_key_of_a_resource_is_required_in_every_item(resource: Resource, account_information: Official) -> None:
    """A key that may be absent could not name a row."""
    items = _resolved(account_information, _data_schema(account_information, resource)["properties"][resource.items])
    for member in resource.key:
        schema = _resolved(account_information, items["items"] if resource.shape is Shape.LIST else items)
        for name in member.split("."):
            assert name in schema["required"], member
            schema = _resolved(account_information, schema["properties"][name])


@pytest.mark.parametrize("resource", [row for row in RESOURCES if row.window], ids=lambda row: row.name.value)
def test_the_window_of_a_resource_is_published(resource: Resource, account_information: Official) -> None:
    """Its two query parameters are those of the operation."""
    assert resource.window is not None
    parameters = account_information.document["components"]["parameters"]
    listed = account_information.operation(resource.operation)["parameters"]
    resolved = [parameters[one["$ref"].rpartition("/")[2]] if "$ref" in one else one for one in listed]
    names = {one["name"] for one in resolved if one["in"] == "query"}
    assert names == {resource.window.from_param, resource.window.to_param}


def test_permissions_are_the_official_list(account_information: Official) -> None:
    """None missing, none invented."""
    assert set(account_information.schema("AEBankDataSharingConsentPermissionCodes")["enum"]) == set(Permission)


def test_permissions_of_a_pushed_request_are_the_same_list(authorization_endpoints: Official) -> None:
    """What may be asked is what may be granted."""
    name = "AEBankDataSharingRichAuthorizationRequests.AEBankDataSharingConsentPermissionCodes"
    assert set(authorization_endpoints.schema(name)["enum"]) == set(Permission)


def test_consent_statuses_are_the_official_list(account_information: Official) -> None:
    """*Paused* is ours and not among them."""
    assert set(account_information.schema("AEConsentStatus.AEConsentStatusCodes")["enum"]) == set(Status)


def test_billing_words_are_the_official_lists(authorization_endpoints: Official) -> None:
    """User types and purposes."""
    name = "AEBankDataSharingRichAuthorizationRequestsV21.AEBankDataSharingOpenFinanceBilling"
    published = authorization_endpoints.schema(name)["properties"]
    assert set(published["UserType"]["enum"]) == set(UserType)
    assert set(published["Purpose"]["enum"]) == set(Purpose)


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param({}, id="the least"),
        pytest.param({"from_date": date(2026, 1, 1), "to_date": date(2026, 6, 30)}, id="a window"),
        pytest.param({"base_consent_id": ConsentId("0f0d9a3c-2b2e-4d1b-9a57-0d6a3a1f8d11")}, id="a successor"),
    ],
)
def test_our_authorization_details_fit_the_pushed_request_schema(
    extra: dict[str, Any], authorization_endpoints: Official
) -> None:
    """Exactly one RAR, without a member the schema does not list."""
    request = ConsentRequest(permissions=tuple(Permission), expires_at=NOW + timedelta(days=90), **extra)
    details = authorization_details(request, version=Version.V2_1)
    assert [authorization_endpoints.faults(RAR, one) for one in details] == [[]]


def _data_schema(official: Official, resource: Resource) -> dict[str, Any]:
    response = official.response(resource.operation, 200)
    assert response is not None
    schema = response["content"]["application/json"]["schema"]
    return _resolved(official, _resolved(official, schema)["properties"]["Data"])


def _resolved(official: Official, schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = official.schema(schema["$ref"].rpartition("/")[2])
    return schema

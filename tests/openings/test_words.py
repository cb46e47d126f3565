"""What the standard says about openings, as pure functions: states, ids, requests, the audit of edits, the cadence."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from syncworker.errors import RequestError
from syncworker.openings import OpeningCadence, OpeningOrder, composed, is_overdue, next_look
from syncworker.settings import LFISettings
from syncworker.standard.opening_request import data_sharing_audit, faults, warnings
from syncworker.standard.openings import OpeningState, OpeningVersion, read_opening, state_of, subscription_change
from syncworker.standard.operations import OperationClass, class_of
from syncworker.standard.values import Slug
from syncworker.store.openings import StoredOpening
from tests.openings.house import PERSONAL, body, guide_body

pytestmark = pytest.mark.unit

S, V = OpeningState, OpeningVersion
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
BASE = "https://rs1.bank.example/open-finance/account-opening/v2.1"


# -- states and answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("Pending", S.PENDING),
        ("AwaitingPartyData", S.USER_ACTION),
        ("AwaitingUserInput", S.USER_ACTION),
        ("AwaitingLFIProcesses", S.LFI_PROCESSING),
        ("Created", S.COMPLETED),
        ("Completed", S.COMPLETED),
        ("Rejected", S.REJECTED),
        (None, S.PENDING),  # v2.0 may leave it out
        ("OnHold", S.OTHER),
    ],
)
def test_every_versions_status_has_one_word_of_ours(status: str | None, state: OpeningState) -> None:
    """Whatever a version calls it."""
    assert state_of(status) is state


@pytest.mark.parametrize(
    ("data", "self_link", "expected"),
    [
        pytest.param({"AccountId": "a-1"}, f"{BASE}/accounts/b-2", "a-1", id="Data before the link"),
        pytest.param({}, f"{BASE}/accounts/b-2", "b-2", id="plain link"),
        pytest.param({}, f"{BASE}/accounts/b-2/status", "b-2", id="link to the status"),
        pytest.param({}, f"{BASE}/accounts/b-2/status?x=1#y", "b-2", id="link with a query"),
        pytest.param({}, f"{BASE}/accounts/b%2F2/status", "b/2", id="encoded link"),
        pytest.param({}, f"{BASE}/accounts/part/two/status", "part/two", id="several segments"),
        pytest.param({}, "/b-2", "b-2", id="relative link without accounts"),
        pytest.param({"AccountId": 20304050607080901020}, "", "20304050607080901020", id="a number"),
        pytest.param({"AccountId": " "}, f"{BASE}/accounts/b-2", "b-2", id="blank member"),
        pytest.param({"AccountId": ["a"]}, f"{BASE}/accounts/b-2", "b-2", id="a list is no id"),
        pytest.param({"AccountId": ""}, f"{BASE}/accounts/b-2/", "b-2", id="empty member, slash at the end"),
    ],
)
def test_the_account_id_is_found(data: dict[str, Any], self_link: str, expected: str) -> None:
    """In Data where it is, else in Links.Self: v2.0-errata1 has no other place."""
    assert read_opening({"Data": data, "Links": {"Self": self_link}}).account_id == expected


@pytest.mark.parametrize(
    "payload",
    [
        {"Data": {}, "Links": {}},
        {"Data": {}},
        {"Data": []},
        {},
        {"Data": {"AccountId": "x" * 129}},
        {"Data": {"AccountId": "a\nb"}},
        {"Data": {"AccountId": "a-1", "OpeningStatusUpdateDateTime": "yesterday"}},
    ],
)
def test_an_answer_nobody_can_place_is_refused_without_its_values(payload: dict[str, Any]) -> None:
    """The message is safe to log."""
    with pytest.raises(ValueError, match=r"^[A-Za-z]") as refused:
        read_opening(payload)

    assert "x" * 129 not in str(refused.value)


def test_an_instant_without_an_offset_is_uae_time() -> None:
    """As everywhere in the standard."""
    view = read_opening({"Data": {"AccountId": "a", "OpeningStatusUpdateDateTime": "2026-11-21T04:00:00"}})

    assert view.status_updated_at == datetime(2026, 11, 21, tzinfo=UTC)


@pytest.mark.parametrize("url", ["javascript:alert(1)", "http://bank.example/", 7, None])
def test_a_redirect_that_is_no_https_address_is_not_kept(url: object) -> None:
    """A user is sent there by somebody who trusts us."""
    assert read_opening({"Data": {"AccountId": "a"}, "Links": {"AccountOpeningRedirectUrl": url}}).redirect_url is None


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (V.V2_0, {"Subscription": {"Webhook": {"IsActive": False}}}),
        (V.V2_1, {"Data": {"Webhook": {"IsActive": False}}}),
    ],
)
def test_switching_events_has_the_body_of_its_version(version: OpeningVersion, expected: dict[str, Any]) -> None:
    """The address is left out when it stays."""
    assert subscription_change(version, is_active=False) == expected


def test_errata1_cannot_switch_events() -> None:
    """It publishes no such path."""
    with pytest.raises(ValueError, match=r"v2\.0-errata1"):
        subscription_change(V.V2_0_ERRATA1, is_active=True)


# -- requests ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", V)
def test_the_least_request_is_taken_by_every_version(version: OpeningVersion) -> None:
    """A person with an address."""
    assert faults(body(), version) == []


@pytest.mark.parametrize(
    ("version", "request_body", "expected"),
    [
        pytest.param(V.V2_1, {}, ["Data: is missing"], id="v2.1 needs Data"),
        pytest.param(V.V2_0_ERRATA1, {}, [], id="errata1 needs nothing"),
        pytest.param(
            V.V2_1, {"Data": {}}, ["Data.Account: is missing", "Data.Party: is missing"], id="v2.1 needs both parts"
        ),
        pytest.param(V.V2_1, [], ["body: must be an object"], id="no object"),
        pytest.param(
            V.V2_1,
            body() | {"Subscribtion": {}},
            ["Subscribtion: is not a member of the published schema; Subscription is"],
            id="misspelt",
        ),
        pytest.param(
            V.V2_1,
            body(Salary="much"),
            ["Data.Party.Claims.Salary: must be a number"],
            id="no number",
        ),
        pytest.param(
            V.V2_1,
            body(EmiratesIdExpiryDate="05/05/2032"),
            ["Data.Party.Claims.EmiratesIdExpiryDate: must be a date, as 2026-01-31"],
            id="no date",
        ),
        pytest.param(
            V.V2_1,
            body(ResidentialAddress={"Country": "UAE"}),
            [
                "Data.Party.Claims.ResidentialAddress.AddressLine: is missing",
                "Data.Party.Claims.ResidentialAddress.Country: must match ^[A-Z]{2}$",
            ],
            id="v2.1 needs an address line",
        ),
        pytest.param(
            V.V2_1,
            body() | {"Subscription": {"Webhook": {"Url": "http://tpp.example", "IsActive": True}}},
            ["Subscription.Webhook.Url: must match ^https:\\/\\/.+"],
            id="events go to https alone",
        ),
    ],
)
def test_what_the_hub_would_refuse_is_named(version: OpeningVersion, request_body: Any, expected: list[str]) -> None:
    """Each fault with its path; none with a value."""
    assert faults(request_body, version) == expected


@pytest.mark.parametrize(
    ("version", "refused", "warned"),
    [
        (V.V2_0, [], [
            "Data.LinkedOperations.Note: is not a member of the published schema",
            "Data.Account.Currency: is not a member of the published schema",
            "Data.AnnualTransactionVolume: is not a member of the published schema",
            "Data.Party.Claims.EmiratesId: is missing",
            "Data.Party.Claims.Salary: must be a number",
        ]),
        (V.V2_0_ERRATA1, [
            "Data.LinkedOperations.Note: is not a member of the published schema",
            "Data.Account.Currency: is not a member of the published schema",
            "Data.AnnualTransactionVolume: is not a member of the published schema",
            "Data.Party.Claims.EmiratesId: is missing",
            "Data.Party.Claims.Salary: must be a number",
        ], []),
        (V.V2_1, [
            "Data.LinkedOperations.Note: is not a member of the published schema",
            "Data.Account.Currency: is not a member of the published schema",
            "Data.Party.Claims.EmiratesId: is missing",
            "Data.Party.Claims.Salary: must be a number",
        ], []),
    ],
)  # fmt: skip
def test_each_version_is_judged_by_its_own_schema(
    version: OpeningVersion, refused: list[str], warned: list[str]
) -> None:
    """What only the file of the errata demands is a warning for plain v2.0, which has no file."""
    asked = guide_body()
    asked["Data"]["LinkedOperations"]["Note"] = "x"
    asked["Data"]["Account"]["Currency"] = "AED"
    del asked["Data"]["Party"]["Claims"]["EmiratesId"]
    asked["Data"]["Party"]["Claims"]["Salary"] = "15000"

    assert (faults(asked, version), warnings(asked, version)) == (refused, warned)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([], ["body: must be an object"]),
        ({"Data": []}, ["Data: must be an object"]),
        ({"Data": {"Party": {"Claims": 7}}}, ["Data.Party.Claims: must be an object"]),
        ({"Data": {"DataSharingAudit": {}}}, ["Data.DataSharingAudit: must be an array"]),
        ({"Data": {"Account": {"Name": ["N"]}}}, ["Data.Account.Name: must be text"]),
        (
            {"Subscription": {"Webhook": {"Url": "http://tpp.example", "IsActive": True}}},
            ["Subscription.Webhook.Url: must match ^https:\\/\\/.+"],
        ),
    ],
)
def test_another_structure_and_plain_http_are_refused_in_every_version(asked: Any, expected: list[str]) -> None:
    """No reading of a guide makes an object an array."""
    assert faults(asked, V.V2_0) == expected


@pytest.mark.parametrize("version", V)
def test_a_quotes_id_has_the_form_its_lfi_chose(version: OpeningVersion) -> None:
    """`format: uuid` is a hint, as v2.1 says."""
    asked = body()
    asked["Data"]["LinkedOperations"] = {"FxQuoteId": "FXQ-2026-11"}

    assert (faults(asked, version), warnings(asked, version)) == ([], [])


def test_a_refused_order_names_fields_and_no_values() -> None:
    """The text goes to a terminal, and maybe into a log."""
    with pytest.raises(RequestError) as refused:
        composed(OpeningOrder(body=body(EmiratesId=7841990, Surname=None)), V.V2_1)

    assert str(refused.value) == (
        "body: not a request of v2.1: Data.Party.Claims.Surname: must be text; "
        "Data.Party.Claims.EmiratesId: must be text"
    )


def test_an_order_shows_no_person() -> None:
    """Its repr is what a traceback would print."""
    order = OpeningOrder(body=body(), original=body()["Data"]["Party"])

    assert [secret for secret in PERSONAL if secret in repr(order)] == []


def test_a_webhook_becomes_the_subscription() -> None:
    """And is refused where the body has one of its own."""
    made = composed(OpeningOrder(body=body(), webhook="https://tpp.example/events"), V.V2_1)

    assert made["Subscription"] == {"Webhook": {"Url": "https://tpp.example/events", "IsActive": True}}
    with pytest.raises(RequestError, match="webhook: the body has a Subscription"):
        composed(OpeningOrder(body=made, webhook="https://tpp.example/events"), V.V2_1)


# -- the audit of edits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("original", "edited", "expected"),
    [
        pytest.param({"a": 1}, {"a": 1}, [], id="no edit"),
        pytest.param({"a": 1}, {"a": 2}, [("$.a", "Updated", "1")], id="changed"),
        pytest.param({"a": 1}, {}, [("$.a", "Removed", "1")], id="removed"),
        pytest.param({}, {"a": {"b": 1, "c": []}}, [("$.a.b", "Added", None), ("$.a.c", "Added", None)], id="leaves"),
        pytest.param({"a": [1, 2]}, {"a": [1]}, [("$.a[1]", "Removed", "2")], id="shorter array"),
        pytest.param({"a": [1]}, {"a": [1, {"b": 2}]}, [("$.a[1].b", "Added", None)], id="longer array"),
        pytest.param({"a b'c": 1}, {"a b'c": 2}, [("$['a b\\'c']", "Updated", "1")], id="a name that needs quotes"),
        pytest.param({"a": None}, {"a": "x"}, [("$.a", "Updated", "null")], id="null is a value"),
        pytest.param({"a": True}, {"a": False}, [("$.a", "Updated", "true")], id="as JSON writes it"),
        pytest.param({"a": Decimal("1.50")}, {"a": Decimal("1.5")}, [], id="the same number"),
        pytest.param({"a": {"b": 1}}, {"a": 1}, [("$.a.b", "Removed", "1"), ("$.a", "Added", None)], id="another kind"),
        pytest.param({"a": {}}, {"a": []}, [("$.a", "Updated", "{}")], id="empty ones are leaves"),
    ],
)
def test_edits_are_found_leaf_by_leaf(original: Any, edited: Any, expected: list[tuple[str, str, str | None]]) -> None:
    """In document order, each named by its normalized path."""
    found = data_sharing_audit(original, edited, root="$")

    assert [(one["JSONPath"], one["Action"], one.get("OriginalValue")) for one in found] == expected


def test_the_audit_goes_into_the_request_and_passes_its_schema() -> None:
    """`JSONPath` names the place in the request as sent."""
    shared = body()["Data"]["Party"]
    edited = body(MobileNumber="+971500000000", GivenName="Noora")

    made = composed(OpeningOrder(body=edited, original=shared), V.V2_1)

    assert made["Data"]["DataSharingAudit"] == [
        {"JSONPath": "$.Data.Party.Claims.GivenName", "Action": "Updated", "OriginalValue": "Noor"},
        {"JSONPath": "$.Data.Party.Claims.MobileNumber", "Action": "Added"},
    ]


def test_no_edit_means_no_audit() -> None:
    """The member may be absent, and an empty one says nothing."""
    made = composed(OpeningOrder(body=body(), original=body()["Data"]["Party"]), V.V2_1)

    assert "DataSharingAudit" not in made["Data"]


# -- when to look ------------------------------------------------------------------------------------------------------

OPENING = StoredOpening(
    opening_id="00000000-0000-4000-8000-000000000001",
    lfi=Slug("sandbox"),
    version=V.V2_1,
    user_ref="customer-1",
    state=S.PENDING,
    state_since=NOW,
    created_at=NOW,
    heard_at=NOW,
)


@pytest.mark.parametrize(
    ("state", "lasted", "expected"),
    [
        (S.PENDING, timedelta(), timedelta(minutes=15)),
        (S.PENDING, timedelta(days=1), timedelta(hours=6)),
        (S.USER_ACTION, timedelta(), timedelta(minutes=1)),
        (S.USER_ACTION, timedelta(minutes=30), timedelta(minutes=30)),
        (S.USER_ACTION, timedelta(days=3), timedelta(hours=6)),
        (S.LFI_PROCESSING, timedelta(days=4), timedelta(minutes=30)),
        (S.LFI_PROCESSING, timedelta(days=5), timedelta(hours=6)),
        (S.OTHER, timedelta(hours=1), timedelta(minutes=30)),
        (S.PENDING, timedelta(days=90), None),
        (S.SENDING, timedelta(), None),
        (S.UNKNOWN, timedelta(), None),
        (S.REFUSED, timedelta(), None),
        (S.COMPLETED, timedelta(), None),
        (S.REJECTED, timedelta(), None),
        (S.NOT_CREATED, timedelta(), None),
    ],
)
def test_each_state_is_looked_at_as_often_as_it_deserves(
    state: OpeningState, lasted: timedelta, expected: timedelta | None
) -> None:
    """At most a tenth early, never late; an end and an unknown never."""
    now = NOW + lasted
    due = next_look(replace(OPENING, state=state, heard_at=now), now=now, cadence=OpeningCadence())

    if expected is None:
        assert due is None
    else:
        assert due is not None
        assert expected * 0.9 <= due - now <= expected


@pytest.mark.parametrize(
    "operation", ["CreateAccount_signedRequest", "Account_read", "UpdateWebhookSubscription_update"]
)
def test_openings_have_a_breaker_of_their_own(operation: str) -> None:
    """An LFI whose desk is closed still answers for data."""
    assert class_of(operation) is OperationClass.OPENING


def test_the_switch_wants_the_url_it_needs() -> None:
    """Named with the fix, when the settings are read."""
    facts = {"issuer": "https://auth1.bank.example", "base_urls": {"v2.1": "https://rs1.bank.example/v2.1"}}

    with pytest.raises(ValidationError, match=r"openings: is v2\.1; give its base URL too"):
        LFISettings.model_validate({**facts, "openings": "v2.1"})
    off = LFISettings.model_validate(facts)

    assert off.openings is None


def test_what_has_ended_or_was_never_heard_of_is_not_overdue() -> None:
    """Nobody waits for it."""
    late = NOW + timedelta(days=80)

    overdue = {state for state in S if is_overdue(replace(OPENING, state=state), now=late, cadence=OpeningCadence())}

    assert overdue == {S.PENDING, S.USER_ACTION, S.LFI_PROCESSING, S.OTHER}

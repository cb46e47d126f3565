"""Consents as Hubs of all versions show them, read into one shape."""

from datetime import UTC, date, datetime
from typing import Any

import pytest

from syncworker.standard.consents import ConsentView, OnBehalfOf, read_consent, without_offset

pytestmark = pytest.mark.unit

LEAST = {"ConsentId": "aac-fee2d8eb-e52d-4f3a-b4a1-b4ec9d2ef0a1", "Status": "Authorized"}


def view(**members: Any) -> ConsentView:
    """The least consent with these members, wrapped as an answer has it."""
    return read_consent({"Data": LEAST | members, "Links": {"Self": "https://a.example"}, "Meta": {}})


def test_a_consent_of_v1_1_is_read() -> None:
    """`aac-` ids, `+0300`, date-times for a window, `Subscription` with a capital, a flag nobody knows any more."""
    seen = read_consent(
        {
            "Data": {
                **LEAST,
                "Permissions": ["ReadAccountsBasic", "ReadTransactionsCredits"],
                "CreationDateTime": "2026-05-01T12:00:00+0300",
                "StatusUpdateDateTime": "2026-05-01T12:00:00+0300",
                "ExpirationDateTime": "2026-12-31T23:59:59+0300",
                "TransactionFromDateTime": "2026-01-01T00:00:00+0400",
                "TransactionToDateTime": "2026-06-30T23:59:59+0400",
                "ConsentFlags": {"PartlyAuthorized": "2026-05-01T12:00:00+0300"},
            },
            "Subscription": {"Webhook": {"Url": "https://tpp.example", "IsActive": True}},
        }
    )
    assert (seen.consent_id, seen.permissions, seen.base_consent_id) == (
        LEAST["ConsentId"],
        ("ReadAccountsBasic", "ReadTransactionsCredits"),
        None,
    )
    assert (seen.status_updated_at, seen.expires_at) == (
        datetime(2026, 5, 1, 9, tzinfo=UTC),
        datetime(2026, 12, 31, 20, 59, 59, tzinfo=UTC),
    )
    assert (seen.from_date, seen.to_date) == (date(2026, 1, 1), date(2026, 6, 30))


def test_a_root_that_names_itself_has_no_base() -> None:
    """Before v2.1 the member is required, also of a consent that continues none."""
    assert view(BaseConsentId=LEAST["ConsentId"]).base_consent_id is None
    assert view(BaseConsentId="aac-1").base_consent_id == "aac-1"


@pytest.mark.parametrize(
    ("members", "window"),
    [
        pytest.param({"FromDate": "2026-01-01", "ToDate": "2026-06-30"}, ("2026-01-01", "2026-06-30"), id="dates"),
        pytest.param(
            {"TransactionFromDateTime": "2025-12-31T20:00:00Z", "TransactionToDateTime": "2026-06-30T19:59:59Z"},
            ("2026-01-01", "2026-06-30"),
            id="instants a Hub wrote anew in UTC",
        ),
        pytest.param(
            {"FromDate": "2026-02-01", "TransactionFromDateTime": "2026-01-01T00:00:00+04:00"},
            ("2026-02-01", None),
            id="both: the newer name wins",
        ),
        pytest.param({"TransactionFromDateTime": "2026-01-01T00:00:00"}, ("2026-01-01", None), id="without offset"),
        pytest.param({}, (None, None), id="open-ended"),
    ],
)
def test_the_window_is_read_in_both_spellings(members: dict[str, str], window: tuple[str | None, str | None]) -> None:
    """Of an instant the day in the UAE counts."""
    seen = view(**members)
    assert tuple(day and day.isoformat() for day in (seen.from_date, seen.to_date)) == window


def test_ids_of_a_consent_are_text_however_they_are_typed() -> None:
    """A number is its digits, all of them; a blank base is none."""
    told = {"ConsentId": 12345678901234567890123, "Status": "Authorized", "BaseConsentId": 7}
    seen, alone = read_consent(told), read_consent(told | {"BaseConsentId": " "})
    assert (seen.consent_id, seen.base_consent_id, alone.base_consent_id) == ("12345678901234567890123", "7", None)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"Data": {"ConsentId": "c"}}, id="no status"),
        pytest.param({"Data": []}, id="no object"),
        pytest.param({"Data": {"ConsentId": " ", "Status": "Authorized"}}, id="a blank id"),
        pytest.param({"Data": {"ConsentId": 1.0, "Status": "Authorized"}}, id="a number with a point for an id"),
        pytest.param({"Data": {"ConsentId": ["c"], "Status": "Authorized"}}, id="a list for an id"),
    ],
)
def test_what_is_no_consent_is_refused(payload: dict[str, Any]) -> None:
    """Named, and without its content."""
    with pytest.raises(ValueError, match="consent: ConsentId or Status is missing"):
        read_consent(payload)


@pytest.mark.parametrize(
    ("members", "read"),
    [
        pytest.param({}, (None, None, None, None, None), id="nothing is said"),
        pytest.param(
            {
                "AccountType": ["Retail", "Retail"],
                "AccountSubType": ["Savings", "Gold"],
                "OnBehalfOf": {"LegalName": "Al Waha LLC", "IdentifierType": "Other", "Identifier": "7"},
                "OpenFinanceBilling": {"UserType": "SME", "Purpose": "TaxFiling", "IsLargeCorporate": False},
            },
            (
                ("Retail",),
                ("Savings", "Gold"),
                OnBehalfOf(legal_name="Al Waha LLC", identifier_type="Other", identifier="7"),
                "SME",
                "TaxFiling",
            ),
            id="every member; an unknown word is kept",
        ),
        pytest.param(
            {"AccountType": [], "AccountSubType": "Savings", "OnBehalfOf": {}, "OpenFinanceBilling": None},
            (None, ("Savings",), None, None, None),
            id="empty, or one word alone",
        ),
        pytest.param(
            {"AccountType": 7, "AccountSubType": {"a": 1}, "OnBehalfOf": {"LegalName": 7}, "OpenFinanceBilling": []},
            (None, None, None, None, None),
            id="of another kind",
        ),
    ],
)
def test_what_a_consent_is_narrowed_to_is_read(members: dict[str, Any], read: tuple[Any, ...]) -> None:
    """What a view does not show, or shows in another shape, says nothing."""
    seen = view(**members)
    assert (seen.account_types, seen.account_sub_types, seen.on_behalf_of, seen.user_type, seen.purpose) == read


@pytest.mark.parametrize("name", ["Subscription", "subscription"])
def test_a_subscription_beside_the_consent_is_read_in_both_spellings(name: str) -> None:
    """With a capital in consents, and in the requests of v1.1; in lower case in the requests of later versions."""
    assert (
        read_consent({"Data": LEAST, name: {"Webhook": {"Url": "https://a", "IsActive": False}}}).webhook_active
        is False
    )
    assert read_consent({**LEAST, name: {"Webhook": {"IsActive": True}}}).webhook_active is True


def test_an_instant_without_an_offset_is_uae_time_and_named() -> None:
    """One reader for all of them; the text as sent says later which it was."""
    members = {"ExpirationDateTime": "2026-12-31T23:59:59", "StatusUpdateDateTime": "2026-05-01T12:00:00+0300"}
    seen = view(**members)
    assert seen.expires_at == datetime(2026, 12, 31, 19, 59, 59, tzinfo=UTC)
    assert without_offset(seen.raw) == ("ExpirationDateTime",)
    assert without_offset({"ExpirationDateTime": "soon", "CreationDateTime": 7}) == ()

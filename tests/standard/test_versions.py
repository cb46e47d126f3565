"""What exists in which version, and what a request may ask for there."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from syncworker.standard.consents import ConsentRequest, authorization_details
from syncworker.standard.permissions import CODES, READ_ACCOUNTS, P, Permission, askable, faults_of, in_words_of
from syncworker.standard.resources import ResourceName, permitted
from syncworker.standard.values import ConsentId
from syncworker.standard.versions import Version, highest, rar_type

pytestmark = pytest.mark.unit

V = Version
NOW = datetime(2026, 11, 21, 8, 30, tzinfo=UTC)
OTHER = "urn:openfinanceuae:service-initiation-consent:v2.1"


@pytest.mark.parametrize(
    ("declared", "types", "expected"),
    [
        pytest.param([V.V1_2, V.V2_1, V.V2_0], None, V.V2_1, id="no list: the newest declared"),
        pytest.param([V.V1_2, V.V2_0], [rar_type(V.V2_1), rar_type(V.V1_2)], V.V1_2, id="declared and listed"),
        pytest.param([V.V2_1], [rar_type(V.V1_2)], None, id="declared, not listed"),
        pytest.param([V.V2_1], [OTHER], None, id="another kind of consent is no offer"),
        pytest.param([V.V2_1], [], None, id="an empty list offers nothing"),
        pytest.param([], None, None, id="nothing declared"),
    ],
)
def test_the_highest_version_is_both_declared_and_offered(
    declared: list[Version], types: list[str] | None, expected: Version | None
) -> None:
    """By place in time, not by how the names sort."""
    assert highest(declared, types) is expected


def test_every_permission_has_one_row() -> None:
    """None forgotten, none told twice."""
    assert [code.permission for code in CODES] == list(Permission)


@pytest.mark.parametrize(
    ("code", "version", "fault"),
    [
        pytest.param(P.ReadStatements, V.V2_0, "leave it out, or ask on v2.1", id="too new"),
        pytest.param(P.ReadFXTransactionsBasic, V.V1_2, "leave it out, or ask on v2.0 or v2.1", id="newer than this"),
        pytest.param(P.ReadConsents, V.V2_1, "leave it out, or ask on v1.2 or v2.0", id="ended"),
        pytest.param(P.ReadTransactionsCredits, V.V1_2, "leave it out", id="dropped by an errata"),
        pytest.param(P.ReadProductFinanceRates, V.V2_0, "ask for ReadProductLendingRates there", id="its old name"),
        pytest.param(P.ReadProductLendingRates, V.V2_1, "ask for ReadProductFinanceRates there", id="its new name"),
    ],
)
def test_a_permission_of_another_version_is_named_with_its_fix(code: Permission, version: Version, fault: str) -> None:
    """Which permission, which version, what to do."""
    asked = (P.ReadAccountsBasic, code)
    assert faults_of(asked, version=version) == [f"permissions: {code} is not in {version.value}; {fault}"]
    assert faults_of(asked) == []


@pytest.mark.parametrize("version", Version)
def test_everything_a_version_has_may_be_asked_for_at_once(version: Version) -> None:
    """And a wish of all permissions comes down to that."""
    assert faults_of(askable(version), version=version) == []
    assert set(in_words_of(version, tuple(Permission))) == set(askable(version))


def test_a_wish_is_said_in_the_words_of_a_version() -> None:
    """Renamed codes by their name there, once; what is not there left out; the order kept."""
    wish = (P.ReadProduct, P.ReadProductFinanceRates, P.ReadStatements, P.ReadAccountsDetail)
    assert in_words_of(V.V2_1, wish) == wish
    assert in_words_of(V.V2_0, wish) == (P.ReadProduct, P.ReadProductLendingRates, P.ReadAccountsDetail)
    assert in_words_of(V.V1_2, wish) == (P.ReadProduct, P.ReadAccountsDetail)


@pytest.mark.parametrize("version", Version)
def test_statements_alone_came_late(version: Version) -> None:
    """A consent that could open everything opens all the rest in each version."""
    opened = {row.name for row in permitted(tuple(Permission), version=version)}
    late = {ResourceName.STATEMENTS} if version is not V.V2_1 else set()
    assert opened == set(ResourceName) - late


@pytest.mark.parametrize(
    ("version", "window"),
    [
        pytest.param(
            version,
            {
                "TransactionFromDateTime": "2026-01-01T00:00:00+04:00",
                "TransactionToDateTime": "2026-06-30T23:59:59+04:00",
            },
            id=version.value,
        )
        for version in (V.V1_2, V.V2_0)
    ]
    + [pytest.param(V.V2_1, {"FromDate": "2026-01-01", "ToDate": "2026-06-30"}, id="v2.1")],
)
def test_authorisation_details_are_written_in_the_shape_of_their_version(
    version: Version, window: dict[str, Any]
) -> None:
    """The whole object; the window is the same UAE days in each."""
    asked = ConsentRequest(
        permissions=tuple(sorted(READ_ACCOUNTS)),
        expires_at=NOW + timedelta(days=90),
        consent_id=ConsentId("c-2"),
        base_consent_id=ConsentId("c-1"),
        from_date=date(2026, 1, 1),
        to_date=date(2026, 6, 30),
    )
    assert authorization_details(asked, version=version) == [
        {
            "type": f"urn:openfinanceuae:account-access-consent:{version.value}",
            "consent": {
                "ConsentId": "c-2",
                "BaseConsentId": "c-1",
                "Permissions": ["ReadAccountsBasic", "ReadAccountsDetail"],
                "ExpirationDateTime": "2027-02-19T08:30:00Z",
                "OpenFinanceBilling": {"UserType": "Retail", "Purpose": "AccountAggregation"},
                **window,
            },
        }
    ]

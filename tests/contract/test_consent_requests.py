"""What a consent asks for, member by member and version by version: our request, the published file, the sandbox."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import pytest

from syncworker.simulator.details import DetailsError, read_details
from syncworker.standard.accounts import AccountType, sub_types_of
from syncworker.standard.consents import (
    ConsentRequest,
    OnBehalfOf,
    Purpose,
    UserType,
    authorization_details,
    read_consent,
)
from syncworker.standard.permissions import askable
from syncworker.standard.resources import readable
from syncworker.standard.values import ConsentId, write_instant
from syncworker.standard.versions import Version
from tests.contract.conftest import VALIDATED
from tests.contract.official import Official

pytestmark = pytest.mark.contract

NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
FIRM: Final = OnBehalfOf(trading_name="Al Waha", legal_name="Al Waha LLC", identifier_type="Other", identifier="CN-7")

Members = Callable[[Version], dict[str, Any]]

MEMBERS: Final[list[tuple[str, Members]]] = [
    ("nothing beside what is required", lambda _: {}),
    ("every permission", lambda version: {"permissions": askable(version)}),
    ("everything we read", lambda version: {"permissions": readable(version)}),
    ("a window", lambda _: {"from_date": date(2025, 3, 1), "to_date": date(2026, 3, 1)}),
    ("a first day alone", lambda _: {"from_date": date(2025, 3, 1)}),
    ("every account type", lambda _: {"account_types": tuple(AccountType)}),
    ("every account sub-type", lambda version: {"account_sub_types": sub_types_of(version)}),
    ("on behalf of a firm", lambda _: {"on_behalf_of": FIRM}),
    ("on behalf of a name alone", lambda _: {"on_behalf_of": OnBehalfOf(legal_name="Al Waha LLC")}),
    ("a base", lambda _: {"base_consent_id": ConsentId("4a5b6c7d-0000-4000-8000-00000000000a")}),
    ("a corporate for its taxes", lambda _: {"user_type": UserType.Corporate, "purpose": Purpose.TaxFiling}),
]
"""What a request may hold, beside permissions and end."""


def details_of(version: Version, **members: Any) -> list[dict[str, Any]]:
    asked: dict[str, Any] = {"permissions": ("ReadAccountsBasic",), "expires_at": NOW + timedelta(days=90)}
    request = ConsentRequest(**asked | members)
    assert request.faults(now=NOW, version=version) == []
    return authorization_details(request, version=version, events_url="https://tpp.example/events")


def official_faults(official: Official, details: Any) -> list[str]:
    """What the published schema of `authorization_details` says against them."""
    ((_, _, operation),) = [one for one in official.operations() if one[1] == "/par"]
    claims = {
        "aud": "https://auth1.example", "iss": "c", "client_id": "c", "exp": 2, "nbf": 1, "response_type": "code",
        "redirect_uri": "https://tpp.example/callback", "scope": "accounts openid", "state": "s", "nonce": "n",
        "code_challenge": "x" * 43, "code_challenge_method": "S256", "authorization_details": details,
    }  # fmt: skip
    form = {"request": claims, "client_assertion": "a", "client_assertion_type": ASSERTION}
    return official.faults_of_form(operation, form)


ASSERTION: Final = "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer"
"""As the files print it."""


@pytest.mark.parametrize("members", [members for _, members in MEMBERS], ids=[name for name, _ in MEMBERS])
def test_each_member_fits_the_published_file_and_the_sandbox(
    members: Members, version: Version, pushed_authorization: Official, record_property: Any
) -> None:
    """In each version: both take it, and the sandbox shows the consent as it was asked for."""
    details = details_of(version, **members(version))
    assert official_faults(pushed_authorization, details) == []
    taken = read_details(details, versions=[version], now=NOW)
    shown = read_consent({**taken.consent, "Status": "AwaitingAuthorization"})
    wish = members(version)
    for name in ("from_date", "to_date", "account_types", "account_sub_types", "on_behalf_of"):
        assert getattr(shown, name) == wish.get(name), name
    record_property(VALIDATED, ("request", version.value, "par", repr(sorted(wish))))


def bent(**changes: Any) -> Callable[[dict[str, Any], Version], None]:
    return lambda consent, _: consent.update(changes)


OTHER: Final[dict[Version, str]] = {Version.V1_2: "CreditCard", Version.V2_0: "Finance", Version.V2_1: "PersonalLoan"}
OTHER_WINDOW: Final[dict[Version, str]] = {
    Version.V1_2: "FromDate", Version.V2_0: "FromDate", Version.V2_1: "TransactionFromDateTime"
}  # fmt: skip
DAY: Final[dict[Version, str]] = {
    Version.V1_2: "2026-01-01",
    Version.V2_0: "2026-01-01",
    Version.V2_1: write_instant(NOW),
}


REFUSED: Final[list[tuple[str, Callable[[dict[str, Any], Version], None]]]] = [
    ("an unknown account type", bent(AccountType=["Private"])),
    ("an account type that is no list", bent(AccountType="Retail")),
    ("account types of another kind", bent(AccountType=[{"Retail": True}])),
    ("an unknown account sub-type", bent(AccountSubType=["Takaful"])),
    ("an account sub-type that is no list", bent(AccountSubType="Savings")),
    ("a sub-type of another version", lambda consent, version: consent.update(AccountSubType=[OTHER[version]])),
    ("OnBehalfOf that is text", bent(OnBehalfOf="Al Waha")),
    ("OnBehalfOf with a number", bent(OnBehalfOf={"LegalName": 1})),
    ("OnBehalfOf with a member too many", bent(OnBehalfOf={"LegalName": "Al Waha", "Country": "AE"})),
    ("OnBehalfOf with another type of identifier", bent(OnBehalfOf={"IdentifierType": "TradeLicence"})),
    ("an unknown user type", bent(OpenFinanceBilling={"UserType": "Private", "Purpose": "TaxFiling"})),
    ("billing without a purpose", bent(OpenFinanceBilling={"UserType": "Retail"})),
    ("a window of the other versions", lambda consent, version: consent.update({OTHER_WINDOW[version]: DAY[version]})),
    ("a member the server sets", bent(Status="Authorized")),
    ("no permission", bent(Permissions=[])),
    ("an empty base", bent(BaseConsentId="")),
    ("a base that is too long", bent(BaseConsentId="x" * 129)),
]


@pytest.mark.parametrize("bend", [bend for _, bend in REFUSED], ids=[name for name, _ in REFUSED])
def test_the_sandbox_refuses_what_the_published_file_refuses(
    bend: Callable[[dict[str, Any], Version], None], version: Version, pushed_authorization: Official
) -> None:
    """Each deviation on its own, in each version: a mistake of ours fails in the sandbox as it would at a bank."""
    details = details_of(version)
    bend(details[0]["consent"], version)
    assert official_faults(pushed_authorization, details) != []
    with pytest.raises(DetailsError):
        read_details(details, versions=[version], now=NOW)


def test_a_base_must_be_a_uuid_on_v2_1_alone(version: Version, pushed_authorization: Official) -> None:
    """The file, the sandbox and we agree, and we name the ways out before anything is sent."""
    old = ConsentId("aac-7f3c")
    request = ConsentRequest(
        permissions=("ReadAccountsBasic",), expires_at=NOW + timedelta(days=90), base_consent_id=old
    )
    details = authorization_details(request, version=version)
    faults = request.faults(now=NOW, version=version, offered=[Version.V1_2, version])
    if version is not Version.V2_1:
        assert (official_faults(pushed_authorization, details), faults) == ([], [])
        read_details(details, versions=[version], now=NOW)
        return
    assert official_faults(pushed_authorization, details) != []
    (fault,) = faults
    assert fault == (
        "base_consent_id: aac-7f3c is not a UUID, and v2.1 takes no other; "
        "ask on v1.2 (version), or begin a new chain in the same connection (new_chain)"
    )
    with pytest.raises(DetailsError, match="BaseConsentId must be a UUID"):
        read_details(details, versions=[version], now=NOW)

"""What the bank refuses in a pushed request, and why it says so."""
# ruff: noqa: E501 - tables with a row to a line

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from joserfc.jwk import RSAKey

from syncworker.simulator.sandbox import Sandbox
from syncworker.standard.permissions import Permission
from syncworker.standard.values import write_instant
from tests.simulator.tpp import ABSENT, TPP, Draft

pytestmark = pytest.mark.flow

NOW = int(datetime.now(UTC).timestamp())


def claim(**bent: Any) -> Callable[[Draft], None]:
    return lambda draft: draft.claims.update(bent)


def header(**bent: Any) -> Callable[[Draft], None]:
    return lambda draft: draft.header.update(bent)


def consent(**bent: Any) -> Callable[[Draft], None]:
    def bend(draft: Draft) -> None:
        draft.consent.update(bent)
        for name in [name for name, value in draft.consent.items() if value is ABSENT]:
            del draft.consent[name]

    return bend


def rar(**bent: Any) -> Callable[[Draft], None]:
    return lambda draft: draft.rar.update(bent)


def details(count: int) -> Callable[[Draft], None]:
    return lambda draft: draft.claims.update(authorization_details=[draft.rar] * count)


def ahead(days: float) -> str:
    return write_instant(datetime.now(UTC) + timedelta(days=days))


def billing(**members: Any) -> Callable[[Draft], None]:
    return consent(OpenFinanceBilling=members)


# fmt: off
REFUSED = [
    # what is bent                                                                   part of the answer's error_description
    pytest.param(header(alg="RS256"),                                                "alg must be PS256",              id="RS256"),
    pytest.param(header(kid="another"),                                              "kid is not a registered",        id="an unknown kid"),
    pytest.param(header(kid=ABSENT),                                                 "kid is not a registered",        id="no kid"),
    pytest.param(claim(aud=["issuer"]),                                              "request.aud",                    id="aud as a list"),
    pytest.param(claim(aud="https://127.0.0.1/token"),                               "request.aud",                    id="aud is an endpoint"),
    pytest.param(claim(iss="someone"),                                               "request.iss",                    id="another iss"),
    pytest.param(claim(client_id=str(uuid.uuid4())),                                 "request.client_id",              id="another client_id"),
    pytest.param(claim(client_id=ABSENT),                                            "request.client_id is missing",   id="no client_id"),
    pytest.param(claim(exp=NOW + 700, nbf=NOW - 10),                                 "request.exp",                    id="lives longer than 600 s"),
    pytest.param(claim(exp=NOW - 60, nbf=NOW - 120),                                 "not valid now",                  id="expired"),
    pytest.param(claim(exp=NOW + 3900, nbf=NOW + 3600),                              "not valid now",                  id="not yet valid"),
    pytest.param(claim(exp="soon"),                                                  "request.exp must be a number",   id="exp as text"),
    pytest.param(claim(nbf=ABSENT),                                                  "request.nbf is missing",         id="no nbf"),
    pytest.param(claim(response_type="code id_token"),                               "request.response_type",          id="a hybrid response type"),
    pytest.param(claim(scope="accounts"),                                            "request.scope",                  id="scope without openid"),
    pytest.param(claim(scope="accounts openid payments"),                            "request.scope",                  id="a wider scope"),
    pytest.param(claim(redirect_uri="https://tpp.example/callback/"),                "request.redirect_uri",           id="almost the redirect URI"),
    pytest.param(claim(state=ABSENT),                                                "request.state is missing",       id="no state"),
    pytest.param(claim(nonce=""),                                                    "request.nonce",                  id="an empty nonce"),
    pytest.param(claim(code_challenge="short"),                                      "request.code_challenge",         id="a challenge that is no SHA-256"),
    pytest.param(claim(code_challenge_method="plain"),                               "request.code_challenge_method",  id="PKCE plain"),
    pytest.param(claim(iat=NOW),                                                     "request.iat is not a claim",     id="iat, which the schema does not list"),
    pytest.param(claim(jti="x"),                                                     "request.jti is not a claim",     id="jti, which the schema does not list"),
    pytest.param(claim(sub="x"),                                                     "request.sub is not a claim",     id="sub, which the schema does not list"),
    pytest.param(claim(max_age=3601),                                                "request.max_age",                id="max_age above an hour"),
    pytest.param(details(2),                                                         "exactly one",                    id="two authorisation details"),
    pytest.param(details(0),                                                         "exactly one",                    id="no authorisation details"),
    pytest.param(rar(type="urn:openfinanceuae:account-access-consent:v2.0"),         "details.type",                   id="another version's type"),
    pytest.param(rar(type="urn:openfinanceuae:bank-data-sharing-consent:v2.1"),      "details.type",                   id="a type from an article"),
    pytest.param(rar(actions=["read"]),                                              "details.actions",                id="an unknown member of the RAR"),
    pytest.param(consent(ConsentId="aac-1"),                                         "ConsentId must be a UUID",       id="ConsentId is no UUID"),
    pytest.param(consent(ConsentId=ABSENT),                                          "ConsentId is missing",           id="no ConsentId"),
    pytest.param(consent(BaseConsentId="aac-1"),                                     "BaseConsentId must be a UUID",   id="BaseConsentId is no UUID"),
    pytest.param(consent(BaseConsentId=str(uuid.uuid4())),                           "BaseConsentId is unknown",       id="an unknown BaseConsentId"),
    pytest.param(consent(Permissions=[]),                                            "Permissions",                    id="no permission"),
    pytest.param(consent(Permissions=["ReadEverything"]),                            "Permissions",                    id="an invented permission"),
    pytest.param(consent(Permissions=[["ReadAccountsBasic"]]),                       "Permissions",                    id="nested permissions"),
    pytest.param(consent(Permissions=["ReadBalances"]),                              "Permissions",                    id="balances without accounts"),
    pytest.param(consent(ExpirationDateTime=ahead(366)),                             "ExpirationDateTime",             id="expiry beyond a year"),
    pytest.param(consent(ExpirationDateTime=ahead(365.05)),                          "ExpirationDateTime",             id="expiry a year and an hour ahead"),
    pytest.param(consent(ExpirationDateTime=ahead(-1)),                              "ExpirationDateTime",             id="expiry in the past"),
    pytest.param(consent(ExpirationDateTime="2027-01-01T00:00:00"),                  "ExpirationDateTime",             id="expiry without offset"),
    pytest.param(consent(FromDate="2026-01-01T00:00:00Z"),                           "FromDate must be a date",        id="FromDate with a time"),
    pytest.param(consent(FromDate="2026-02-01", ToDate="2026-01-01"),                "FromDate lies after ToDate",     id="an empty window"),
    pytest.param(consent(TransactionFromDateTime="2026-01-01T00:00:00Z"),            "TransactionFromDateTime",        id="a name of older versions"),
    pytest.param(consent(Status="AwaitingAuthorization"),                            "Status is not a member",         id="a member the server sets"),
    pytest.param(consent(AccountType=["Personal"]),                                  "AccountType",                    id="an unknown account type"),
    pytest.param(consent(OnBehalfOf={"LegalName": 1}),                               "OnBehalfOf",                     id="OnBehalfOf that is no text"),
    pytest.param(consent(OpenFinanceBilling=ABSENT),                                 "OpenFinanceBilling is missing",  id="no billing"),
    pytest.param(billing(UserType="Retail"),                                         "Purpose is missing",             id="billing without purpose"),
    pytest.param(billing(UserType="Retail", Purpose="Curiosity"),                    "OpenFinanceBilling",             id="an unknown purpose"),
    pytest.param(billing(UserType="Retail", Purpose="TaxFiling", IsLargeCorporate=False), "IsLargeCorporate",          id="billing with a member of responses"),
    pytest.param(rar(subscription={"Webhook": {"Url": "http://a.example", "IsActive": True}}), "subscription",         id="a webhook without TLS"),
    pytest.param(rar(Subscription={}),                                               "Subscription",                   id="Subscription with a capital"),
]
# fmt: on


@pytest.mark.parametrize(("bend", "because"), REFUSED)
async def test_a_bent_request_is_refused_by_name(tpp: TPP, bend: Callable[[Draft], None], because: str) -> None:
    """Each deviation on its own; nothing is staged."""
    draft = tpp.draft((Permission.ReadAccountsBasic,))
    bend(draft)
    answer = await tpp.push(draft)
    assert (answer.status_code, answer.json()["error"]) in {(400, "invalid_request"), (400, "invalid_scope")}
    assert because in answer.json()["error_description"]
    assert tpp.sandbox.bank.consent_facts() == []


# fmt: off
ACCEPTED = [
    pytest.param(consent(ExpirationDateTime=ahead(364)),                                                  id="expiry 364 days ahead"),
    pytest.param(consent(Permissions=["ReadPartyUser"]),                                                  id="party permissions stand alone"),
    pytest.param(consent(FromDate="2026-01-01", ToDate="2026-01-01"),                                     id="a window of one day"),
    pytest.param(consent(AccountType=["Retail"], AccountSubType=["Savings"]),                             id="account types"),
    pytest.param(consent(OnBehalfOf={"TradingName": "A", "LegalName": "B", "IdentifierType": "Other", "Identifier": "1"}), id="on behalf of"),
    pytest.param(rar(subscription={"Webhook": {"Url": "https://tpp.example/events", "IsActive": True}}),   id="a webhook"),
    pytest.param(claim(scope="openid accounts", max_age=3600),                                            id="scope the other way round, max_age"),
    pytest.param(header(typ="JWT"),                                                                       id="typ in the header"),
]
# fmt: on


@pytest.mark.parametrize("bend", ACCEPTED)
async def test_what_the_standard_allows_is_accepted(tpp: TPP, bend: Callable[[Draft], None]) -> None:
    """The strictness ends where the schema does."""
    draft = tpp.draft()
    bend(draft)
    answer = await tpp.push(draft)
    assert answer.status_code == 200, answer.text
    assert answer.json().keys() == {"request_uri", "expires_in"}
    assert answer.json()["expires_in"] == 90


async def test_a_request_signed_by_another_key_is_refused(tpp: TPP) -> None:
    """The kid is ours, the signature is not."""
    draft = tpp.draft()
    forged = tpp.sign(draft.claims, key=RSAKey.generate_key(2048))
    answer = await tpp.push(draft, request=forged)
    assert answer.json() == {"error": "invalid_request", "error_description": "request: the signature does not verify"}


async def test_an_unsigned_request_is_refused(tpp: TPP) -> None:
    """`alg: none` has no way in."""
    answer = await tpp.push(tpp.draft(), request="eyJhbGciOiJub25lIn0.e30.")
    assert answer.json()["error_description"] == "request: alg must be PS256"


async def test_a_consent_id_is_good_for_one_request(tpp: TPP) -> None:
    """Pushing again needs a new ConsentId."""
    draft = tpp.draft()
    await tpp.push(draft)
    answer = await tpp.push(draft)
    assert answer.json() == {
        "error": "invalid_request",
        "error_description": "authorization_details: ConsentId is taken",
    }


async def test_a_successor_names_the_root_of_its_chain(tpp: TPP) -> None:
    """Never the latest consent (trap 10)."""
    root = await tpp.consent()
    second = await tpp.consent(base_consent_id=root.consent_id)
    answer = await tpp.push(tpp.draft(base_consent_id=second.consent_id))
    assert answer.json()["error_description"] == "authorization_details.BaseConsentId is not the root of its chain"


@pytest.mark.parametrize(
    ("fields", "because"),
    [
        pytest.param({"client_id": "x"}, "client_id is not a field", id="client_id in the form (D-9)"),
        pytest.param({"client_assertion_type": "urn%3Aietf"}, "client_assertion_type", id="the URN encoded twice"),
    ],
)
async def test_the_form_has_three_fields(tpp: TPP, fields: dict[str, Any], because: str) -> None:
    """No more, and the type as it is spelled."""
    answer = await tpp.push(tpp.draft(), **fields)
    assert answer.status_code == 400
    assert because in answer.json()["error_description"]


async def test_a_json_body_is_refused(tpp: TPP, sandbox: Sandbox) -> None:
    """Forms only."""
    answer = await tpp.http.post(f"{sandbox.addresses.tokens}/par", json={})
    assert answer.json()["error_description"] == "the content type must be application/x-www-form-urlencoded"


async def test_the_interaction_id_must_be_a_uuid_and_is_echoed(tpp: TPP) -> None:
    """With a refusal as with an answer."""
    mine = str(uuid.uuid4())
    good = await tpp.push(tpp.draft(), headers={"x-fapi-interaction-id": mine})
    bad = await tpp.push(tpp.draft(), headers={"x-fapi-interaction-id": "7"})
    assert (good.status_code, good.headers["x-fapi-interaction-id"]) == (200, mine)
    assert (bad.status_code, bad.json()["error_description"]) == (400, "x-fapi-interaction-id must be a UUID")

"""The resource server: who is let in, and how listings are cut into pages."""

import uuid
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx
import pytest

from syncworker.simulator.sandbox import Sandbox
from syncworker.standard.permissions import Permission
from syncworker.standard.resources import RESOURCES
from syncworker.standard.values import local_date
from tests.simulator.tpp import TPP, Tokens

pytestmark = pytest.mark.flow


BESIDE = {
    "beneficiaries": 200,
    "statements": 200,
    "direct-debits": 404,
    "product": 404,
    "scheduled-payments": 404,
    "standing-orders": 404,
}


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["Errors"][0]["Code"] if answer.content else ""


@pytest.fixture
def transactions(sandbox: Sandbox) -> str:
    return f"/accounts/{sandbox.bank.account_of(sandbox.users[0]).account_id}/transactions"


# -- who is let in ----------------------------------------------------------------------------------------------------


async def test_without_a_token_401(tpp: TPP) -> None:
    """And no body."""
    assert refusal(await tpp.get("/accounts", None)) == (401, "")


async def test_over_another_certificate_401(sandbox: Sandbox, tokens: Tokens) -> None:
    """A token is bound to the certificate it was issued over."""
    now = datetime.now(UTC)
    stranger = sandbox.identity.issue_client_certificate(
        "thief", common_name="thief", not_before=now - timedelta(hours=1), not_after=now + timedelta(hours=1)
    )
    async with TPP(sandbox, certificate=stranger) as thief:
        assert refusal(await thief.get("/accounts", tokens.access)) == (401, "")


async def test_the_clients_own_token_reads_no_data(tpp: TPP) -> None:
    """403 AccessToken.InvalidScope."""
    assert refusal(await tpp.get("/accounts", await tpp.own_token())) == (403, "AccessToken.InvalidScope")


async def test_a_users_token_reads_no_consent(tpp: TPP, tokens: Tokens) -> None:
    """Consents are read with client credentials (D-4)."""
    answer = await tpp.get(f"/account-access-consents/{tokens.consent_id}", tokens.access)
    assert refusal(answer) == (403, "AccessToken.InvalidScope")


@pytest.mark.parametrize(
    "path", [row.path.removeprefix("/accounts/{AccountId}") for row in RESOURCES if row.per_account and not row.repeats]
)
async def test_an_endpoint_needs_its_permission(tpp: TPP, sandbox: Sandbox, path: str) -> None:
    """Accounts alone open `/accounts` alone."""
    tokens = await tpp.consent((Permission.ReadAccountsBasic,))
    account = sandbox.bank.account_of(sandbox.users[0]).account_id
    assert refusal(await tpp.get(f"/accounts/{account}{path}", tokens.access)) == (403, "AccessToken.InvalidScope")


async def test_party_permissions_open_the_user_but_no_account(tpp: TPP, sandbox: Sandbox) -> None:
    """Without ReadAccounts* an AccountId cannot be known."""
    tokens = await tpp.consent((Permission.ReadPartyUser,))
    account = sandbox.bank.account_of(sandbox.users[0]).account_id
    statuses = [
        (await tpp.get(path, tokens.access)).status_code
        for path in ("/parties", "/accounts", f"/accounts/{account}/parties")
    ]
    assert statuses == [200, 403, 403]


async def test_an_account_of_another_customer_stays_closed(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """An AccountId must come from this consent's `/accounts`."""
    other = sandbox.bank.account_of(sandbox.users[1]).account_id
    answer = await tpp.get(f"/accounts/{other}/balances", tokens.access)
    assert refusal(answer) == (403, "Consent.PermanentAccountAccessFailure")


async def test_suspended_is_refused_until_lifted(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """The same token works again."""
    sandbox.bank.suspend(tokens.consent_id)
    suspended = await tpp.get("/accounts", tokens.access)
    sandbox.bank.lift(tokens.consent_id)
    lifted = await tpp.get("/accounts", tokens.access)
    assert refusal(suspended) == (403, "Consent.TransientAccountAccessFailure")
    assert lifted.status_code == 200


async def test_past_its_expiration_a_consent_is_expired(tpp: TPP, sandbox: Sandbox) -> None:
    """By the clock alone, though nobody moved it."""
    tokens = await tpp.consent(expires_at=datetime.now(UTC) + timedelta(seconds=300))
    sandbox.bank.advance(301)
    refused = await tpp.get("/accounts", tokens.access)
    consent = await tpp.get(f"/account-access-consents/{tokens.consent_id}", await tpp.own_token())
    assert refusal(refused) == (403, "Consent.PermanentAccountAccessFailure")
    assert consent.json()["Data"]["Status"] == "Expired"


async def test_after_revocation_tokens_are_unknown(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """401, and the consent says who revoked it."""
    sandbox.bank.revoke(tokens.consent_id)
    refused = await tpp.get("/accounts", tokens.access)
    consent = (await tpp.get(f"/account-access-consents/{tokens.consent_id}", await tpp.own_token())).json()["Data"]
    assert refused.status_code == 401
    assert (consent["Status"], consent["RevokedBy"]) == ("Revoked", "LFI.InitiatedByUser")


# -- headers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({"accept": "text/html"}, (406, ""), id="no JSON wanted"),
        pytest.param({"x-fapi-interaction-id": "x"}, (400, "Resource.InvalidFormat"), id="no UUID"),
        pytest.param(
            {"x-fapi-customer-ip-address": "10.0.0.1"}, (400, "Resource.InvalidFormat"), id="an address alone"
        ),
        pytest.param({"x-fapi-auth-date": "yesterday"}, (400, "Resource.InvalidFormat"), id="no RFC 7231 date"),
    ],
)
async def test_bent_headers_are_refused(
    tpp: TPP, tokens: Tokens, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    """A background call claims no customer."""
    assert refusal(await tpp.get("/accounts", tokens.access, headers=headers)) == expected


async def test_an_attended_call_is_logged_as_such(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """With both the address and the date of login."""
    present = {
        "x-fapi-customer-ip-address": "10.0.0.1",
        "x-fapi-auth-date": datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"),
    }
    answer = await tpp.get("/accounts", tokens.access, headers=present)
    assert (answer.status_code, sandbox.bank.log.served()[-1].attended) == (200, True)


async def test_the_interaction_id_is_echoed_or_made(tpp: TPP, tokens: Tokens) -> None:
    """The answer always has one."""
    mine = str(uuid.uuid4())
    echoed = await tpp.get("/accounts", tokens.access, headers={"x-fapi-interaction-id": mine})
    made = await tpp.get("/accounts", tokens.access, headers={"x-fapi-interaction-id": ""})
    assert echoed.headers["x-fapi-interaction-id"] == mine
    assert uuid.UUID(made.headers["x-fapi-interaction-id"])


@pytest.mark.parametrize(("method", "path", "status"), [("POST", "/accounts", 405), ("GET", "/nothing", 404)])
async def test_other_methods_and_paths(tpp: TPP, tokens: Tokens, method: str, path: str, status: int) -> None:
    """405 for a known path, 404 for an unknown one."""
    assert (await tpp.call(method, path, tokens.access)).status_code == status


# -- pages ------------------------------------------------------------------------------------------------------------


async def test_pages_cover_the_listing_once(tpp: TPP, sandbox: Sandbox, tokens: Tokens, transactions: str) -> None:
    """Newest first, full pages until the last, Next until there is none, the number of pages told on each."""
    sandbox.bank.configure(page_size=60)
    held = [row.transaction_id for row in sandbox.bank.account_of(sandbox.users[0]).transactions]
    pages = await tpp.walk(transactions, tokens.access)
    seen = [[row["TransactionId"] for row in page["Data"]["Transaction"]] for page in pages]
    assert [one for page in seen for one in page] == held
    assert {len(page) for page in seen[:-1]} == {60}
    assert {page["Meta"]["TotalPages"] for page in pages} == {len(pages)}


async def test_links_lead_home_and_back(tpp: TPP, sandbox: Sandbox, tokens: Tokens, transactions: str) -> None:
    """Absolute, under the base URL; Prev of the second page is the first."""
    sandbox.bank.configure(page_size=60)
    first, second, *_ = await tpp.walk(transactions, tokens.access)
    back = (await tpp.get(second["Links"]["Prev"], tokens.access)).json()
    assert back["Data"] == first["Data"]
    assert all(link.startswith(sandbox.resource_base_url) for link in second["Links"].values())
    assert first["Links"].keys() == {"Self", "First", "Last", "Next"}


async def test_unchanged_data_is_the_same_bytes(tpp: TPP, tokens: Tokens, transactions: str) -> None:
    """The page digest of a reader may rely on it."""
    one, two = [await tpp.get(transactions, tokens.access) for _ in range(2)]
    assert one.content == two.content


async def test_a_change_shows_at_once(tpp: TPP, sandbox: Sandbox, tokens: Tokens, transactions: str) -> None:
    """On the next request."""
    before = (await tpp.get(transactions, tokens.access)).json()
    item = sandbox.bank.insert_transaction(transactions.split("/")[2], amount="1.25", booked_at="2099-01-01T00:00:00Z")
    after = (await tpp.get(transactions, tokens.access)).json()
    assert after["Data"]["Transaction"] == [item, *before["Data"]["Transaction"][:-1]]


async def test_filters_compare_with_the_written_instant(
    tpp: TPP, sandbox: Sandbox, tokens: Tokens, transactions: str
) -> None:
    """Both ends inclusive; the offset is ignored, as LFIs do (trap 26)."""
    start, end = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)
    rows = sandbox.bank.account_of(sandbox.users[0]).transactions
    held = [row.transaction_id for row in rows if start <= row.booked_at <= end]
    for offset in ("Z", "+04:00"):
        window = {
            "fromBookingDateTime": f"2026-10-01T00:00:00{offset}",
            "toBookingDateTime": f"2026-11-01T00:00:00{offset}",
        }
        pages = await tpp.walk(transactions, tokens.access, params=window)
        assert [row["TransactionId"] for page in pages for row in page["Data"]["Transaction"]] == held
    assert held


async def test_a_page_of_a_window_leads_on_within_it(
    tpp: TPP, sandbox: Sandbox, tokens: Tokens, transactions: str
) -> None:
    """The continuation carries the window."""
    sandbox.bank.configure(page_size=7)
    window = {"fromBookingDateTime": "2026-10-01T00:00:00Z", "toBookingDateTime": "2026-11-01T00:00:00Z"}
    pages = await tpp.walk(transactions, tokens.access, params=window)
    booked = [row["BookingDateTime"] for page in pages for row in page["Data"]["Transaction"]]
    assert len(pages) > 1
    assert {datetime.fromisoformat(text).astimezone(UTC).month for text in booked} == {10}


async def test_a_plus_that_became_a_space_is_refused(tpp: TPP, tokens: Tokens, transactions: str) -> None:
    """A raw `+04:00` in a query string is no date-time any more."""
    answer = await tpp.get(f"{transactions}?fromBookingDateTime=2026-10-01T00:00:00+04:00", tokens.access)
    assert refusal(answer) == (400, "Resource.InvalidFormat")


async def test_a_consents_window_limits_its_transactions(tpp: TPP, sandbox: Sandbox, transactions: str) -> None:
    """FromDate and ToDate are UAE dates, inclusive; asking wider gives nothing more (trap 27)."""
    tokens = await tpp.consent(from_date=date(2026, 10, 1), to_date=date(2026, 10, 31))
    rows = sandbox.bank.account_of(sandbox.users[0]).transactions
    held = [row.transaction_id for row in rows if date(2026, 10, 1) <= local_date(row.booked_at) <= date(2026, 10, 31)]
    pages = await tpp.walk(transactions, tokens.access)
    assert [row["TransactionId"] for page in pages for row in page["Data"]["Transaction"]] == held


async def test_an_empty_account_has_one_empty_page(tpp: TPP, sandbox: Sandbox) -> None:
    """200 with an empty list, and no availability dates."""
    user = sandbox.users[1]
    empty = next(one for one in sandbox.bank.ledger.customer(user).accounts if not one.transactions)
    tokens = await tpp.consent(user=user)
    body = (await tpp.get(f"/accounts/{empty.account_id}/transactions", tokens.access)).json()
    assert (body["Data"], body["Meta"]) == ({"AccountId": empty.account_id, "Transaction": []}, {"TotalPages": 1})


# -- the other listings -----------------------------------------------------------------------------------------------


@pytest.fixture
def statements(sandbox: Sandbox) -> str:
    return f"/accounts/{sandbox.bank.account_of(sandbox.users[0]).account_id}/statements"


def opened(pages: list[dict[str, Any]]) -> list[str]:
    return [row["OpeningDate"] for page in pages for row in page["Data"]["Statements"]]


async def test_statements_come_newest_first_and_tell_what_there_is(tpp: TPP, tokens: Tokens, statements: str) -> None:
    """With the account's sub-type, and First and LastAvailableDateTime."""
    (page,) = await tpp.walk(statements, tokens.access)
    rows = page["Data"]["Statements"]
    assert opened([page]) == sorted(opened([page]), reverse=True)
    assert page["Data"]["AccountSubType"] == "CurrentAccount"
    ends = [page["Meta"][f"{end}AvailableDateTime"] for end in ("First", "Last")]
    assert [datetime.fromisoformat(one) for one in ends] == [
        datetime.fromisoformat(f"{rows[-1]['OpeningDate']}T00:00:00+04:00"),
        datetime.fromisoformat(f"{rows[0]['ClosingDate']}T23:59:59+04:00"),
    ]


async def test_statement_filters_compare_with_the_opening_date(
    tpp: TPP, sandbox: Sandbox, tokens: Tokens, statements: str
) -> None:
    """Dates, both ends inclusive, on every page (D-39)."""
    sandbox.bank.paginate("statements", 1)
    window = {"fromStatementDate": "2026-08-01", "toStatementDate": "2026-10-01"}
    pages = await tpp.walk(statements, tokens.access, params=window)
    assert [opened([page]) for page in pages] == [["2026-10-01"], ["2026-09-01"], ["2026-08-01"]]


async def test_a_consents_window_limits_its_statements(tpp: TPP, statements: str) -> None:
    """By the opening date, as the filters do."""
    tokens = await tpp.consent(from_date=date(2026, 8, 2), to_date=date(2026, 10, 31))
    assert opened(await tpp.walk(statements, tokens.access)) == ["2026-10-01", "2026-09-01"]


@pytest.mark.parametrize(
    "query",
    ["fromStatementDate=2026-10-01T00:00:00Z", "toStatementDate=October", "fromBookingDateTime=2026-10-01"],
)
async def test_a_statement_filter_is_a_date(tpp: TPP, tokens: Tokens, statements: str, query: str) -> None:
    """And no filter of another listing."""
    assert refusal(await tpp.get(f"{statements}?{query}", tokens.access)) == (400, "Resource.InvalidFormat")


async def test_finance_rates_need_a_permission_of_their_own(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """Without ReadProductFinanceRates the product is there and says nothing of them."""
    path = f"/accounts/{sandbox.bank.account_of(sandbox.users[0]).account_id}/product"
    plain = await tpp.consent((Permission.ReadAccountsBasic, Permission.ReadProduct))
    [told], [untold] = [(await tpp.get(path, one.access)).json()["Data"]["Product"] for one in (tokens, plain)]
    assert told["FinanceRates"].count(".") == 4
    assert untold == {name: value for name, value in told.items() if name != "FinanceRates"}


async def test_what_does_not_apply_to_an_account_is_not_found(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """404 without a body, where the standard has one; an empty list elsewhere."""
    wallet = sandbox.bank.account_of(sandbox.users[0], 2).account_id
    answers = {name: await tpp.get(f"/accounts/{wallet}/{name}", tokens.access) for name in BESIDE}
    assert {name: answer.status_code for name, answer in answers.items()} == BESIDE
    assert answers["beneficiaries"].json()["Data"] == {"AccountId": wallet, "Beneficiary": []}


# -- consents ---------------------------------------------------------------------------------------------------------


async def test_a_chain_is_a_bare_array_with_its_root(tpp: TPP) -> None:
    """`?baseConsentId=` of the root (D-33)."""
    root = await tpp.consent()
    second = await tpp.consent(base_consent_id=root.consent_id)
    body = (await tpp.get(f"/account-access-consents?baseConsentId={root.consent_id}", await tpp.own_token())).json()
    assert [one["Data"]["ConsentId"] for one in body] == [root.consent_id, second.consent_id]


async def test_a_patch_revokes_and_may_be_repeated(tpp: TPP, tokens: Tokens) -> None:
    """After an answer that was lost one may ask again."""
    own, path = await tpp.own_token(), f"/account-access-consents/{tokens.consent_id}"
    body = {"Data": {"Status": "Revoked", "RevokedBy": "TPP.InitiatedByUser"}}
    statuses = [(await tpp.call("PATCH", path, own, json=body)).status_code for _ in range(2)]
    data = (await tpp.get(path, own)).json()["Data"]
    assert statuses == [204, 204]
    assert (data["Status"], data["RevokedBy"]) == ("Revoked", "TPP.InitiatedByUser")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"Data": {"Status": "Suspended"}}, id="a status that is the LFI's"),
        pytest.param({"Data": {"Status": "Revoked", "By": "me"}}, id="an unknown member"),
        pytest.param({"Data": {"Status": "Revoked", "RevokedBy": "me"}}, id="an unknown revoker"),
        pytest.param({"Subscription": {}}, id="no webhook"),
    ],
)
async def test_a_bent_patch_is_refused(tpp: TPP, tokens: Tokens, body: dict[str, object]) -> None:
    """And changes nothing."""
    own, path = await tpp.own_token(), f"/account-access-consents/{tokens.consent_id}"
    assert refusal(await tpp.call("PATCH", path, own, json=body)) == (400, "Body.InvalidFormat")
    assert (await tpp.get(path, own)).json()["Data"]["Status"] == "Authorized"


async def test_a_patch_of_another_end_is_refused(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """Expired does not become Revoked."""
    sandbox.bank.expire(tokens.consent_id)
    own, path = await tpp.own_token(), f"/account-access-consents/{tokens.consent_id}"
    answer = await tpp.call("PATCH", path, own, json={"Data": {"Status": "Revoked"}})
    assert refusal(answer) == (400, "Consent.BusinessRuleViolation")

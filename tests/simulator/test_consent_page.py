"""The consent page, as a browser meets it."""

import ssl
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from syncworker.simulator.browser import Browser, PageError
from syncworker.simulator.sandbox import Sandbox
from tests.simulator.tpp import TPP

pytestmark = pytest.mark.flow


async def authorization_url(tpp: TPP) -> str:
    return tpp.authorization_url((await tpp.push(tpp.draft())).json()["request_uri"])


async def test_approve_leads_back_with_code_state_and_issuer(tpp: TPP, sandbox: Sandbox) -> None:
    """To the registered redirect URI, and the consent is Authorized."""
    draft = tpp.draft()
    pushed = (await tpp.push(draft)).json()
    url = await sandbox.approve(tpp.authorization_url(pushed["request_uri"]), user=sandbox.users[1])
    query = parse_qs(urlsplit(url).query)
    assert url.startswith(sandbox.client.redirect_uri + "?")
    assert query.keys() == {"code", "state", "iss"}
    assert (query["state"], query["iss"]) == ([draft.claims["state"]], [sandbox.issuer])
    [facts] = sandbox.bank.consent_facts()
    assert (facts["status"], facts["user"]) == ("Authorized", sandbox.users[1])


async def test_decline_leads_back_with_access_denied(tpp: TPP, sandbox: Sandbox) -> None:
    """The consent is Rejected."""
    back = await tpp.code(tpp.draft(), user=sandbox.users[0], approve=False)
    assert (back["error"], "code" in back) == ("access_denied", False)
    assert [facts["status"] for facts in sandbox.bank.consent_facts()] == ["Rejected"]


async def test_only_ticked_accounts_are_shared(tpp: TPP, sandbox: Sandbox) -> None:
    """A user may leave accounts out."""
    chosen = sandbox.bank.account_of(sandbox.users[0], 1).account_id
    tokens = await tpp.consent(accounts=[chosen])
    body = (await tpp.get("/accounts", tokens.access)).json()
    assert [one["AccountId"] for one in body["Data"]["Account"]] == [chosen]


async def test_a_request_uri_opens_once(tpp: TPP, sandbox: Sandbox) -> None:
    """The second visit is told so and goes nowhere."""
    url = await authorization_url(tpp)
    await sandbox.approve(url, user=sandbox.users[0])
    with pytest.raises(PageError, match="400"):
        await sandbox.approve(url, user=sandbox.users[0])


async def test_a_request_uri_opens_for_ninety_seconds(tpp: TPP, sandbox: Sandbox) -> None:
    """Then it is too old."""
    url = await authorization_url(tpp)
    sandbox.bank.advance(91)
    with pytest.raises(PageError, match="400"):
        await sandbox.approve(url, user=sandbox.users[0])


async def test_a_successor_needs_the_same_user(tpp: TPP, sandbox: Sandbox) -> None:
    """Another user of the chain is turned away (4.4 rule 3)."""
    root = await tpp.consent(user=sandbox.users[0])
    back = await tpp.code(tpp.draft(base_consent_id=root.consent_id), user=sandbox.users[1])
    assert back["error"] == "access_denied"


async def test_an_unknown_customer_cannot_log_in(tpp: TPP, sandbox: Sandbox) -> None:
    """400, and the page stays where it is."""
    with pytest.raises(PageError, match="400"):
        await sandbox.approve(await authorization_url(tpp), user="nobody")


async def test_the_page_shows_what_is_asked_and_needs_no_script(tpp: TPP, sandbox: Sandbox) -> None:
    """Permissions, accounts, expiry; a policy without scripts whose form may end at the redirect URI alone."""
    context = ssl.create_default_context(cafile=str(sandbox.ca_bundle))
    async with httpx.AsyncClient(verify=context, trust_env=False, follow_redirects=True) as browser:
        chooser = await browser.get(await authorization_url(tpp))
        page = await browser.post(f"{chooser.url}/login", data={"user": sandbox.users[0]})
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "form-action 'self' https://tpp.example;" in policy
    assert "script" not in page.text
    for text in ("Your balances", "Approve", "Decline", sandbox.bank.account_of(sandbox.users[0]).iban, "UAE time"):
        assert text in page.text


async def test_a_browser_that_does_not_trust_the_authority_gets_nowhere(
    sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The page is behind real TLS."""
    other = Sandbox(tmp_path_factory.mktemp("other"), customers=1)
    async with Browser(other.ca_bundle) as browser:
        with pytest.raises(httpx.ConnectError):
            await browser.decide(f"{sandbox.issuer}/consent-page/authorize", user="x")

"""The bank's counter, as a customer's browser meets it."""

import re
import ssl
from collections.abc import AsyncIterator

import httpx
import pytest

from syncworker.simulator.sandbox import Sandbox
from tests.simulator.tpp import TPP, Tokens

pytestmark = pytest.mark.flow


@pytest.fixture
async def browser(sandbox: Sandbox) -> AsyncIterator[httpx.AsyncClient]:
    context = ssl.create_default_context(cafile=str(sandbox.ca_bundle))
    async with httpx.AsyncClient(
        base_url=sandbox.issuer, verify=context, trust_env=False, follow_redirects=True
    ) as client:
        yield client


async def login(browser: httpx.AsyncClient, user: str) -> httpx.Response:
    assert f'value="{user}"' in (await browser.get("/consents")).text
    return await browser.post("/consents/login", data={"user": user})


async def press(browser: httpx.AsyncClient, page: httpx.Response, consent_id: str, act: str) -> httpx.Response:
    return await browser.post(page.url, data={"consent": consent_id, "act": act})


def buttons(page: httpx.Response) -> list[str]:
    return re.findall(r'name="act" value="([a-z]+)"', page.text)


async def test_a_customer_takes_a_consent_back(
    browser: httpx.AsyncClient, sandbox: Sandbox, tpp: TPP, tokens: Tokens
) -> None:
    """Revoked by the user at the LFI; its tokens end, and no button is left."""
    page = await login(browser, sandbox.users[0])
    after = await press(browser, page, tokens.consent_id, "revoke")
    (facts,) = sandbox.bank.consent_facts()
    assert (facts["status"], facts["revoked_by"]) == ("Revoked", "LFI.InitiatedByUser")
    assert (buttons(page), buttons(after), (await tpp.get("/accounts", tokens.access)).status_code) == (
        ["revoke", "suspend"], [], 401,
    )  # fmt: skip


async def test_the_banks_own_hand_blocks_and_lifts(
    browser: httpx.AsyncClient, sandbox: Sandbox, tokens: Tokens
) -> None:
    """On the same page, since it is a sandbox."""
    page = await login(browser, sandbox.users[0])
    blocked = await press(browser, page, tokens.consent_id, "suspend")
    lifted = await press(browser, page, tokens.consent_id, "lift")
    assert (buttons(blocked), buttons(lifted)) == (["revoke", "lift"], ["revoke", "suspend"])


@pytest.mark.parametrize(("act", "status"), [("agree", "Authorized"), ("reject", "Rejected")])
async def test_a_second_authoriser_decides(
    browser: httpx.AsyncClient, sandbox: Sandbox, tpp: TPP, act: str, status: str
) -> None:
    """Another customer than the first; the first one waits without a button."""
    draft = tpp.draft()
    await tpp.code(draft, user=sandbox.users[0], second=True)
    first, second = [await login(browser, user) for user in sandbox.users[:2]]
    await press(browser, second, draft.consent["ConsentId"], act)
    assert (buttons(first), buttons(second)) == ([], ["agree", "reject"])
    assert [facts["status"] for facts in sandbox.bank.consent_facts()] == [status]


async def test_nobody_touches_what_they_are_not_offered(
    browser: httpx.AsyncClient, sandbox: Sandbox, tokens: Tokens
) -> None:
    """Neither another customer's consent, nor an act of another status, nor without having logged in."""
    own, other = [await login(browser, user) for user in sandbox.users[:2]]
    answers = [
        await press(browser, other, tokens.consent_id, "revoke"),
        await press(browser, own, tokens.consent_id, "lift"),
        await browser.post("/consents/nobody", data={"consent": tokens.consent_id, "act": "revoke"}),
        await browser.post("/consents/login", data={"user": "nobody"}),
    ]
    assert [answer.status_code for answer in answers] == [409, 409, 400, 400]
    assert [facts["status"] for facts in sandbox.bank.consent_facts()] == ["Authorized"]


async def test_a_visit_ends(browser: httpx.AsyncClient, sandbox: Sandbox, tokens: Tokens) -> None:
    """After a quarter of an hour."""
    page = await login(browser, sandbox.users[0])
    sandbox.bank.advance(901)
    assert (await press(browser, page, tokens.consent_id, "revoke")).status_code == 400

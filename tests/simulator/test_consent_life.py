"""A consent's life on the bank's side: two authorisers, its clock, and what a TPP may patch."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from syncworker.simulator.consents import MoveError
from syncworker.simulator.sandbox import Sandbox
from tests.simulator.conftest import HandClock, until
from tests.simulator.tpp import TPP, Draft, Tokens

pytestmark = pytest.mark.flow


async def held(tpp: TPP) -> tuple[Draft, dict[str, Any]]:
    """A consent the first of two authorisers agreed to, its code exchanged."""
    draft = tpp.draft()
    back = await tpp.code(draft, user=tpp.sandbox.users[0], second=True)
    answer = await tpp.exchange(back["code"], draft)
    assert answer.status_code == 200, answer.text
    return draft, answer.json()


async def test_a_second_authoriser_is_waited_for(sandbox: Sandbox, tpp: TPP) -> None:
    """Tokens are there after the exchange; data is when the second one has agreed, by the same tokens."""
    draft, tokens = await held(tpp)
    shown = tokens["authorization_details"][0]["consent"]["Data"]["Status"]
    early = await tpp.get("/accounts", tokens["access_token"])
    nothing = sandbox.bank.books(draft.consent["ConsentId"])["consents"][0]["resources"]

    sandbox.bank.agree(draft.consent["ConsentId"])

    later = await tpp.get("/accounts", tokens["access_token"])
    assert (shown, early.status_code, nothing, later.status_code) == ("AwaitingAuthorization", 403, {}, 200)


async def test_tokens_can_be_refreshed_while_the_second_is_waited_for(tpp: TPP) -> None:
    """The grant lives: it may take the second authoriser a day."""
    _, tokens = await held(tpp)
    assert (await tpp.refresh(tokens["refresh_token"])).status_code == 200


async def test_a_second_authoriser_may_refuse(sandbox: Sandbox, tpp: TPP) -> None:
    """The consent is Rejected and its tokens end."""
    draft, tokens = await held(tpp)
    sandbox.bank.reject(draft.consent["ConsentId"])
    data = (await tpp.get(f"/account-access-consents/{draft.consent['ConsentId']}", await tpp.own_token())).json()
    refreshed = await tpp.refresh(tokens["refresh_token"])
    assert (data["Data"]["Status"], refreshed.status_code, refreshed.json()["error"]) == (
        "Rejected", 400, "invalid_grant",
    )  # fmt: skip


async def test_nobody_agrees_twice_or_unasked(sandbox: Sandbox, tpp: TPP, tokens: Tokens) -> None:
    """Neither as a second authoriser nobody waits for."""
    draft, _ = await held(tpp)
    sandbox.bank.agree(draft.consent["ConsentId"])
    for consent_id in (draft.consent["ConsentId"], tokens.consent_id):
        with pytest.raises(MoveError):
            sandbox.bank.agree(consent_id)


async def test_the_page_offers_a_second_authoriser(sandbox: Sandbox, tpp: TPP) -> None:
    """As a button, for a person."""
    pushed = (await tpp.push(tpp.draft())).json()
    url = await sandbox.decide(tpp.authorization_url(pushed["request_uri"]), user=sandbox.users[0], second=True)
    (facts,) = sandbox.bank.consent_facts()
    assert (sorted(parse_qs(urlsplit(url).query)), facts["status"], facts["held"]) == (
        ["code", "iss", "state"], "AwaitingAuthorization", True,
    )  # fmt: skip


async def test_a_consent_expires_by_the_banks_clock_alone(bank_dir: Path) -> None:
    """Nobody asks about it; its status dates from its end."""
    clock = HandClock()
    async with Sandbox(bank_dir, customers=1, now=clock) as sandbox, TPP(sandbox) as tpp:
        end = datetime.now(UTC).replace(microsecond=0) + timedelta(days=2)
        tokens = await tpp.consent(expires_at=end)
        moved: list[tuple[str, datetime]] = []
        sandbox.bank.consents.on_move = lambda one: moved.append((one.status, one.status_updated_at))

        clock.moment += timedelta(days=3)
        await until(lambda: moved)

        assert moved == [("Expired", end)]
        assert sandbox.bank.consent_facts()[0]["consent_id"] == tokens.consent_id


async def test_moving_the_clock_expires_at_once(sandbox: Sandbox, tokens: Tokens) -> None:
    """Before anybody asks, so that the event goes out with it."""
    moved: list[str] = []
    sandbox.bank.consents.on_move = lambda one: moved.append(one.consent_id)
    sandbox.bank.advance(timedelta(days=91).total_seconds())
    assert moved == [tokens.consent_id]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"Data": {"Status": "Revoked", "RevokedBy": "LFI"}}, id="a revoker that is the LFI's"),
        pytest.param({"Data": None}, id="no data"),
        pytest.param({"Subscription": None}, id="no subscription"),
        pytest.param({"Subscription": {"Webhook": {}}}, id="an empty webhook"),
        pytest.param({"Subscription": {"Webhook": {"IsActive": "yes"}}}, id="active as text"),
        pytest.param({"Subscription": {"Webhook": {"Url": "http://tpp.example", "IsActive": True}}}, id="plain http"),
        pytest.param({"Subscription": {"Webhook": {"IsActive": True}}}, id="no address the first time"),
        pytest.param({"Subscription": {"Webhook": {"IsActive": True}, "More": 1}}, id="another member"),
    ],
)
async def test_the_hub_takes_no_other_patch(tpp: TPP, tokens: Tokens, body: dict[str, Any]) -> None:
    """By the letter of the schema; nothing changes."""
    own, path = await tpp.own_token(), f"/account-access-consents/{tokens.consent_id}"
    before = (await tpp.get(path, own)).json()
    answer = await tpp.call("PATCH", path, own, json=body)
    assert (answer.status_code, (await tpp.get(path, own)).json()) == (400, before)


async def test_a_chain_belongs_to_one_user(sandbox: Sandbox, tpp: TPP) -> None:
    """Another user cannot continue it."""
    root = await tpp.consent()
    draft = tpp.draft(base_consent_id=root.consent_id)
    back = await tpp.code(draft, user=sandbox.users[1])
    assert (back["error"], "code" in back) == ("access_denied", False)

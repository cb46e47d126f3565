"""The bank's event notifications, as a TPP that trusts nobody reads them."""

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import joserfc.errors
import pytest
from joserfc import jwt

from syncworker.simulator.books import Books
from syncworker.simulator.events import Events, Forgery
from syncworker.simulator.identity import load_or_create
from syncworker.simulator.openings import Opening
from syncworker.simulator.sandbox import Sandbox
from syncworker.standard.openings import OpeningVersion
from syncworker.standard.versions import Version
from tests.simulator.receiver import Receiver, receiving
from tests.simulator.tpp import TPP, Tokens

pytestmark = pytest.mark.flow


@pytest.fixture
async def receiver(sandbox: Sandbox) -> AsyncIterator[Receiver]:
    async with receiving(sandbox) as address:
        yield address


def sender(sandbox: Sandbox) -> Events:
    assert sandbox.bank.events is not None
    return sandbox.bank.events


async def subscribe(tpp: TPP, tokens: Tokens, url: str, *, active: bool = True) -> int:
    body = {"Subscription": {"Webhook": {"Url": url, "IsActive": active}}}
    path = f"/account-access-consents/{tokens.consent_id}"
    return (await tpp.call("PATCH", path, await tpp.own_token(), json=body)).status_code


@pytest.fixture
async def subscribed(tpp: TPP, receiver: Receiver, tokens: Tokens) -> str:
    """An authorised consent whose moves the bank tells."""
    assert await subscribe(tpp, tokens, receiver.url) == 204
    return tokens.consent_id


async def test_a_revocation_at_the_bank_is_told(sandbox: Sandbox, receiver: Receiver, subscribed: str) -> None:
    """As v2.1 has it: a JWE to our key around a JWS with the published key, no bearer JWT."""
    sandbox.bank.revoke(subscribed)
    await sender(sandbox).quiet()

    (one,) = receiver.delivered
    claims = receiver.claims(one)
    message = claims["message"]
    assert (one.headers["content-type"], "authorization" in one.headers) == ("application/jwe", False)
    assert (claims["iss"], claims["aud"]) == (sandbox.issuer, [sandbox.client.client_id])
    assert claims.keys() == {"iss", "aud", "iat", "nbf", "exp", "jti", "message"}
    assert (message["Data"]["Status"], message["Data"]["RevokedBy"]) == ("Revoked", "LFI.InitiatedByUser")
    assert message["Meta"] | {"EventDateTime": ""} == {
        "EventDateTime": "",
        "EventResource": f"/account-access-consents/{subscribed}",
        "EventType": "Resource.Updated",
        "ConsentId": subscribed,
    }


async def test_every_move_is_told_whoever_made_it(
    sandbox: Sandbox, tpp: TPP, receiver: Receiver, subscribed: str
) -> None:
    """The bank's staff, the bank's clock, and ourselves."""
    for act in (sandbox.bank.suspend, sandbox.bank.lift):
        act(subscribed)
        await sender(sandbox).quiet()
    path = f"/account-access-consents/{subscribed}"
    await tpp.call("PATCH", path, await tpp.own_token(), json={"Data": {"Status": "Revoked"}})
    await sender(sandbox).quiet()
    assert receiver.statuses_told() == ["Suspended", "Authorized", "Revoked"]


async def test_without_an_active_subscription_nothing_is_told(
    sandbox: Sandbox, tpp: TPP, receiver: Receiver, subscribed: str, tokens: Tokens
) -> None:
    """Switched off by PATCH."""
    await subscribe(tpp, tokens, receiver.url, active=False)
    sandbox.bank.revoke(subscribed)
    await sender(sandbox).quiet()
    assert (receiver.delivered, sandbox.bank.event_facts()) == ([], [])


@pytest.mark.parametrize("version", [Version.V1_2, Version.V2_0])
async def test_older_versions_send_a_bearer_jwt_with_it(bank_dir: Path, version: Version) -> None:
    """`application/jwt`; the bearer JWT is for the very address, by the published key."""
    async with (
        Sandbox(bank_dir, customers=1, versions=[version]) as sandbox,
        TPP(sandbox) as tpp,
        receiving(sandbox) as receiver,
    ):
        tokens = await tpp.consent()
        await subscribe(tpp, tokens, receiver.url)
        sandbox.bank.revoke(tokens.consent_id)
        await sender(sandbox).quiet()
        (one,) = receiver.delivered
        bearer = jwt.decode(one.headers["authorization"].removeprefix("Bearer "), receiver.keys, algorithms=["PS256"])
        assert one.headers["content-type"] == "application/jwt"
        assert (bearer.claims["aud"], bearer.claims["exp"] - bearer.claims["iat"]) == (receiver.url, 30)
        assert receiver.statuses_told() == ["Revoked"]


async def test_an_opening_is_told_too(sandbox: Sandbox, receiver: Receiver) -> None:
    """With the members of the template for openings."""
    desk = sandbox.bank.openings
    assert desk is not None
    opening = _opening(sandbox, receiver.url)
    desk.on_move(opening)
    await sender(sandbox).quiet()
    message = receiver.claims(receiver.delivered[0])["message"]
    assert message["Data"].keys() == {"AccountId", "OpeningStatus", "OpeningStatusUpdateDateTime"}
    assert (message["Meta"]["AccountId"], message["Meta"]["EventResource"]) == (
        opening.account_id,
        f"/accounts/{opening.account_id}/status",
    )


@pytest.mark.parametrize("how", Forgery)
async def test_no_forgery_verifies(sandbox: Sandbox, receiver: Receiver, subscribed: str, how: Forgery) -> None:
    """Each says that a living consent is revoked, and fails at the check it is named for."""
    sandbox.bank.forge_event(subscribed, how=how.value)
    await sender(sandbox).quiet()
    (one,) = receiver.delivered
    if how is Forgery.AUDIENCE:
        claims = receiver.claims(one)
        assert (claims["aud"], claims["message"]["Data"]["Status"]) == (["somebody-else"], "Revoked")
        return
    with pytest.raises((joserfc.errors.JoseError, ValueError)):
        receiver.claims(one)
    assert sandbox.bank.consents.get(subscribed).status == "Authorized"


async def test_an_event_that_is_not_taken_is_sent_again(
    sandbox: Sandbox, receiver: Receiver, subscribed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes, until it is; a refusal that no repetition mends ends it."""
    monkeypatch.setattr("syncworker.simulator.events.WAITS_S", (0.01, 0.01, 0.01))
    receiver.statuses = [500, 429, 202, 400]
    for act in (sandbox.bank.suspend, sandbox.bank.lift):
        act(subscribed)
        await sender(sandbox).quiet()
    assert [(one["fate"], one["answers"]) for one in sandbox.bank.event_facts()] == [
        ("taken", [500, 429, 202]),
        ("refused", [400]),
    ]
    assert len({one.body for one in receiver.delivered[:3]}) == 1


def _facts(sandbox: Sandbox) -> list[tuple[str, str, str | None]]:
    return [(one["status"], one["fate"], one["forgery"]) for one in sandbox.bank.event_facts()]


@pytest.mark.parametrize(
    ("conduct", "came", "fates"),
    [
        pytest.param({"off": True}, [], ["off", "off"], id="off"),
        pytest.param({"drop": 1}, [], ["dropped", "dropped"], id="all are lost"),
        pytest.param(
            {"duplicate": 1}, ["Authorized", "Authorized", "Suspended", "Suspended"], ["taken"] * 4, id="twice"
        ),
        pytest.param({"late_s": 0.05}, ["Authorized", "Suspended"], ["taken"] * 2, id="late"),
        pytest.param({"reorder": 2}, ["Authorized", "Suspended"], ["taken"] * 2, id="out of order"),
        pytest.param({"reorder": 3}, [], ["held"] * 2, id="gathered"),
        pytest.param({"forge": 1}, ["?", "?", "Authorized", "Suspended"], ["taken"] * 4, id="a forger beside it"),
    ],
)
async def test_the_sender_can_be_bad(
    sandbox: Sandbox, receiver: Receiver, subscribed: str, conduct: dict[str, Any], came: list[str], fates: list[str]
) -> None:
    """Suspended, then lifted; what arrives, in alphabetical order, since the way is not in order either."""
    sandbox.bank.configure_events(**conduct)
    sandbox.bank.suspend(subscribed)
    sandbox.bank.lift(subscribed)
    await sender(sandbox).quiet()
    assert sorted(_told(receiver)) == came
    assert [fate for _, fate, _ in _facts(sandbox)] == fates


def _told(receiver: Receiver) -> list[str]:
    told = []
    for one in receiver.delivered:
        try:
            told.append(receiver.claims(one)["message"]["Data"]["Status"])
        except (joserfc.errors.JoseError, ValueError):
            told.append("?")
    return told


async def test_shares_come_out_the_same_for_the_same_seed(
    sandbox: Sandbox, receiver: Receiver, subscribed: str
) -> None:
    """A third is lost; which ones can be repeated."""

    def fates() -> list[str]:
        before = len(sandbox.bank.event_facts())
        sandbox.bank.configure_events(drop=0.3, seed="again")
        for _ in range(20):
            sandbox.bank.suspend(subscribed)
            sandbox.bank.lift(subscribed)
        return ["dropped" if fate == "dropped" else "sent" for _, fate, _ in _facts(sandbox)[before:]]

    first, second = fates(), fates()
    await sender(sandbox).quiet()
    assert first == second
    assert 5 <= Counter(first)["dropped"] <= 20


async def test_an_event_of_the_log_can_be_repeated(sandbox: Sandbox, receiver: Receiver, subscribed: str) -> None:
    """Byte for byte."""
    sandbox.bank.revoke(subscribed)
    await sender(sandbox).quiet()
    sandbox.bank.repeat_event(1)
    await sender(sandbox).quiet()
    first, second = receiver.delivered
    assert first.body == second.body


async def test_nothing_leaves_the_machine(sandbox: Sandbox, tpp: TPP, tokens: Tokens) -> None:
    """Whatever address a subscription names."""
    await subscribe(tpp, tokens, "https://tpp.example/events")
    sandbox.bank.revoke(tokens.consent_id)
    await sender(sandbox).quiet()
    assert _facts(sandbox) == [("Revoked", "not_local", None)]


async def test_a_receiver_of_another_authority_is_trusted_when_told(
    sandbox: Sandbox, tpp: TPP, tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before."""
    monkeypatch.setattr("syncworker.simulator.events.WAITS_S", ())
    stranger = load_or_create(tmp_path / "other", redirect_uri="https://tpp.example/callback")
    async with receiving(sandbox, certified_by=stranger) as receiver:
        await subscribe(tpp, tokens, receiver.url)
        sandbox.bank.suspend(tokens.consent_id)
        await sender(sandbox).quiet()
        sandbox.bank.configure_events(trust=[str(stranger.ca_bundle)])
        sandbox.bank.lift(tokens.consent_id)
        await sender(sandbox).quiet()
    assert [fate for _, fate, _ in _facts(sandbox)] == ["unanswered", "taken"]


async def test_verbs_and_log_go_through_the_door(
    sandbox: Sandbox, books: Books, receiver: Receiver, subscribed: str
) -> None:
    """As the demo uses them."""
    await books.do("configure_events", duplicate=1)
    await books.do("suspend", consent_id=subscribed)
    await sender(sandbox).quiet()
    assert [(one["subject"], one["fate"], one["answers"]) for one in await books.events()] == [
        (subscribed, "taken", [202])
    ] * 2


@pytest.mark.parametrize(
    ("conduct", "named"),
    [
        pytest.param({"drop": 1.5}, "drop", id="no share"),
        pytest.param({"late_s": -1}, "late_s", id="early"),
        pytest.param({"speed": 1}, "speed", id="no member"),
        pytest.param({"trust": ["/nowhere/ca.pem"]}, "trust", id="no file"),
    ],
)
async def test_bad_conduct_is_refused_by_name(sandbox: Sandbox, conduct: dict[str, Any], named: str) -> None:
    """And nothing changes."""
    before = sender(sandbox).conduct
    with pytest.raises(ValueError, match=named):
        sandbox.bank.configure_events(**conduct)
    assert sender(sandbox).conduct is before


def _opening(sandbox: Sandbox, url: str) -> Opening:
    now = sandbox.bank.clock.now()
    return Opening(
        account_id="5f0c0000-0000-4000-8000-000000000001",
        version=OpeningVersion.V2_1,
        asked={},
        status="Pending",
        updated_at=now,
        created_at=now,
        subscription={"Webhook": {"Url": url, "IsActive": True}},
    )

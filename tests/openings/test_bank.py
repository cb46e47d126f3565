"""The sandbox' account-opening API: strict about a signed request, so that a mistake of ours fails there first."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from syncworker.lfi.api import LFIClient
from syncworker.simulator.consents import MoveError
from syncworker.simulator.jose import encode, sign
from syncworker.standard.openings import SCOPE
from tests.openings.house import LFI, House, body

pytestmark = pytest.mark.flow

Claims = dict[str, Any]


class Caller:
    """A TPP that may send anything."""

    def __init__(self, house: House, client: LFIClient) -> None:
        self.house = house
        self.client = client
        pem = house.bank.client.signing_key.read_bytes()
        key = serialization.load_pem_private_key(pem, None)
        assert isinstance(key, rsa.RSAPrivateKey)
        self.key = key

    def claims(self, **changes: Any) -> Claims:
        """Good ones; `None` takes a claim away."""
        now = int(self.house.clock.now().timestamp())
        message = body()
        message["Data"]["Party"]["Claims"].pop("Salary")
        good = {
            "iss": self.house.bank.client.client_id,
            "aud": [self.house.bank.issuer],
            "nbf": now,
            "exp": now + 300,
            "message": message,
        }
        return {name: value for name, value in (good | changes).items() if value is not None}

    def token(self, claims: Claims) -> str:
        return sign(claims, self.key, self.house.bank.client.signing_kid)

    async def post(self, token: str, *, scope: str = SCOPE, **headers: str) -> tuple[int, str]:
        """Status, and the path and words of the first error."""
        bearer = await self.client.own_token(scope)
        answer = await self.client.own_call_once(
            "POST",
            self.house.bank.opening_base_urls["v2.1"] + "/accounts",
            bearer=bearer,
            operation="CreateAccount_signedRequest",
            calls=lambda _: None,
            headers={"Content-Type": "application/jwt", "Accept": "application/json"} | headers,
            body=token.encode(),
        )
        errors = httpx.Response(200, content=answer.body).json().get("Errors") if answer.body else None
        return answer.status, "" if not errors else f"{errors[0].get('Path', '')}: {errors[0]['Message']}"


@pytest.fixture
async def caller(house: House) -> Caller:
    client = LFIClient(house.config(), clock=house.clock)
    house.stack.push_async_callback(client.close)
    return Caller(house, client)


async def test_a_good_request_is_taken_once(caller: Caller) -> None:
    """v2.0 text: a replayed request will be rejected."""
    token = caller.token(caller.claims())

    first, second = await caller.post(token), await caller.post(token)

    assert first == (201, "")
    assert second[0] == 400
    assert "sent before" in second[1]


def _epoch(at: datetime) -> int:
    return int(at.timestamp())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda _: {"iss": "somebody"}, "iss: must be the client id"),
        (lambda _: {"iss": None}, "iss: iss is missing"),
        (lambda _: {"nbf": None}, "nbf: nbf is missing"),
        (lambda _: {"jti": "x"}, "jti: jti is not a claim"),
        (lambda _: {"aud": "somebody"}, "aud: must be an array with the issuer"),
        (lambda now: {"exp": _epoch(now + timedelta(minutes=6))}, "exp: has passed, or is more than five"),
        (lambda now: {"nbf": _epoch(now - timedelta(minutes=9)), "exp": _epoch(now - timedelta(minutes=5))}, "exp: "),
        (lambda now: {"nbf": _epoch(now + timedelta(minutes=2))}, "nbf: lies in the future"),
        (lambda _: {"exp": "soon"}, "exp: must be a number"),
        (lambda _: {"message": "text"}, "message: must be an object"),
        (lambda _: {"message": {"Data": {}}}, "$.Data.Account: is missing"),
    ],
)
async def test_a_claim_that_does_not_hold_is_refused_by_name(
    caller: Caller, change: Callable[[datetime], Claims], says: str
) -> None:
    """The schema's claims and no others, at most five minutes."""
    status, said = await caller.post(caller.token(caller.claims(**change(caller.house.clock.now()))))

    assert status == 400
    assert says in said


async def test_a_signature_of_somebody_else_or_none_is_refused(caller: Caller) -> None:
    """PS256 by the registered key."""
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    head, payload, signature = caller.token(caller.claims()).split(".")
    none = encode(b'{"alg":"none"}')

    answers = [
        await caller.post(sign(caller.claims(), stranger, caller.house.bank.client.signing_kid)),
        await caller.post(f"{none}.{payload}."),
        await caller.post(f"{head}.{payload}.{signature[:-4]}AAAA"),
        await caller.post("text"),
    ]

    assert [status for status, _ in answers] == [400] * 4
    assert caller.house.desk.facts() == []


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"Content-Type": "application/json"}, 415),
        ({"Accept": "text/html"}, 406),
        ({"scope": "accounts"}, 403),
    ],
)
async def test_the_call_itself_must_be_right(caller: Caller, options: dict[str, str], status: int) -> None:
    """Media types, and a token of the right scope."""
    assert (await caller.post(caller.token(caller.claims()), **options))[0] == status


async def test_a_person_at_the_desk_cannot_do_what_the_standard_has_not(caller: Caller) -> None:
    """Statuses of the version, and no way back from an end."""
    await caller.post(caller.token(caller.claims()))
    desk = caller.house.desk
    (held,) = desk.facts()

    with pytest.raises(ValueError, match=r"v2\.1 has"):
        desk.move(held["account_id"], "Created")
    desk.move(held["account_id"], "Completed")
    with pytest.raises(MoveError):
        desk.move(held["account_id"], "Pending")


async def test_left_alone_the_bank_opens_at_the_third_look(house: House) -> None:
    """For a demo without a person."""
    house.desk.configure(completes_after=3)
    openings = await house.openings()
    opening = await openings.create(LFI, house.order())

    states = [(await openings.ask(opening)).state.value for _ in range(3)]

    assert states == ["pending", "pending", "completed"]

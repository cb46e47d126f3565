"""`POST /events` as a sender sees it: through a web app, which here holds nothing else."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI

from syncworker.lfi import jose
from syncworker.lfi.keys import SigningKey
from syncworker.web import events as route
from syncworker.webhooks import Refusals
from tests.ground.clock import ManualClock
from tests.webhooks.conftest import JWKS_URL, Keys, PostOffice, hold
from tests.webhooks.sender import ABSENT, CLIENT_ID, EventSender, consent_message

pytestmark = pytest.mark.store

C = "consent-1"
INTERACTION = "7f2c1e8a-93a5-4c0e-8a53-0c6a6ad9f1b2"
Client = httpx.AsyncClient
Opened = Callable[..., Awaitable[Client]]


class Timer:
    """Monotonic seconds by hand."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def timer() -> Timer:
    return Timer()


@pytest.fixture
async def opened(office: PostOffice, clock: ManualClock, keys: Keys, timer: Timer) -> AsyncIterator[Opened]:
    """`await opened(**options)`: a client of an app that has the route, with signed refusals."""
    await hold(office.store, clock, C)
    clients: list[Client] = []

    async def open_client(*, address: str = "192.0.2.7", **options: Any) -> Client:
        refusals = Refusals(SigningKey.of(keys.ours_new, "sig-1"), issuer=CLIENT_ID, clock=clock)
        app = FastAPI()
        given: dict[str, Any] = {"clock": clock, "refusals": refusals, "timer": timer}
        app.include_router(route.routes(office.receiver, **given | options))
        transport = httpx.ASGITransport(app, client=(address, 50_000))
        clients.append(httpx.AsyncClient(transport=transport, base_url="https://app.example"))
        return clients[-1]

    yield open_client
    for client in clients:
        await client.aclose()


def headers(media_type: str = "application/jwe", **more: str) -> dict[str, str]:
    return {"content-type": media_type, "x-fapi-interaction-id": INTERACTION} | more


@pytest.mark.parametrize("acknowledge", [202, 204])
async def test_a_taken_event_is_acknowledged_with_nothing(
    opened: Opened, office: PostOffice, sender: EventSender, acknowledge: int
) -> None:
    """Before anything is done about it; the sender's interaction id comes back and is kept."""
    client = await opened(acknowledge=acknowledge)
    body = sender.event(consent_message(C, at=office.clock.now()))
    answer = await client.post("/events", content=body, headers=headers("application/jwe; charset=utf-8"))

    filed = [(one.state.value, one.outcome, one.interaction_id) for one in await office.events()]
    assert (answer.status_code, answer.content, answer.headers["x-fapi-interaction-id"], filed) == (
        acknowledge, b"", INTERACTION, [("filed", None, INTERACTION)],
    )  # fmt: skip


@pytest.mark.parametrize("media_type", ["application/jwe", "application/jwt", "application/jose", "Application/JWT"])
async def test_the_shape_decides_not_the_media_type(
    opened: Opened, office: PostOffice, sender: EventSender, media_type: str
) -> None:
    """A JWE is taken under each of the three names (D-17)."""
    client = await opened()
    body = sender.event(consent_message(C, at=office.clock.now()))

    assert (await client.post("/events", content=body, headers=headers(media_type))).status_code == 202


async def test_another_media_type_is_not_read(opened: Opened, office: PostOffice) -> None:
    """415, and the quarantine stays empty."""
    client = await opened()
    answers = [
        await client.post("/events", content=b"{}", headers=headers("application/json")),
        await client.post("/events", content=b"{}", headers={"content-type": ""}),
        await client.get("/events"),
    ]

    assert ([one.status_code for one in answers], await office.refused()) == ([415, 415, 405], [])
    assert len(answers[1].headers["x-fapi-interaction-id"]) == 36


async def test_a_refusal_says_why_in_the_standards_words(
    opened: Opened, office: PostOffice, sender: EventSender, keys: Keys
) -> None:
    """A JWS of ours, which no server would take for a client assertion."""
    client = await opened()
    body = sender.event(consent_message(C, at=office.clock.now()), exp=1)
    answer = await client.post("/events", content=body, headers=headers())

    claims = jose.read_claims(jose.verified_payload(answer.text, SigningKey.of(keys.ours_new, "sig-1").jwk))
    assert (answer.status_code, answer.headers["content-type"], claims["message"]) == (
        400,
        "application/jwt",
        {"Errors": [{"Code": "JWS.InvalidClaim", "Message": "exp: missing, or not good at this time"}]},
    )
    assert sorted(claims) == ["exp", "iss", "message", "nbf"]


async def test_a_bearer_jwt_that_does_not_hold_is_401_without_a_body(
    opened: Opened, office: PostOffice, sender: EventSender
) -> None:
    """Whatever stands in the header; one that holds opens the door."""
    client = await opened()
    body = sender.event(consent_message(C, at=office.clock.now()))
    given = ("Bearer abc", "Basic abc", f"Bearer {sender.bearer(jti=ABSENT)}", f"bearer {sender.bearer()}")
    answers = [await client.post("/events", content=body, headers=headers(authorization=one)) for one in given]

    assert [(one.status_code, one.content) for one in answers] == [(401, b"")] * 3 + [(202, b"")]


async def test_no_more_than_the_limit_is_read(opened: Opened, office: PostOffice) -> None:
    """Neither when the length is announced nor when it is not; the rest of the body stays where it is."""
    client = await opened()
    read = 0

    async def drips() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(1_000):
            read += 1024
            yield b"a" * 1024

    announced = await client.post("/events", content=b"a" * 65_537, headers=headers())
    silent = await client.post("/events", content=drips(), headers=headers())
    lied = await client.post("/events", content=b"a", headers=headers(**{"content-length": "9" * 30}))

    assert [one.status_code for one in (announced, silent, lied)] == [400, 400, 400]
    assert read <= 66 * 1024
    assert (office.receiver.counts["too_large"], await office.refused()) == (3, [])


async def test_a_body_that_does_not_come_is_not_waited_for(
    opened: Opened, office: PostOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who drips it is cut off."""
    monkeypatch.setattr(route, "READ_DEADLINE_S", 0.05)
    client = await opened()

    async def hangs() -> AsyncIterator[bytes]:
        yield b"eyJ"
        await asyncio.Event().wait()

    answer = await client.post("/events", content=hangs(), headers=headers())

    assert (answer.status_code, office.receiver.counts["too_large"]) == (400, 1)


async def test_each_address_has_its_own_pace(opened: Opened, office: PostOffice, timer: Timer) -> None:
    """Ten seconds' worth at once, then so many a second; another address is not held back."""
    pace = route.Pace(2, timer=timer)
    at_once = [pace.allows("a") for _ in range(25)]
    other = pace.allows("b")
    timer.seconds += 1
    later = [pace.allows("a") for _ in range(4)]

    assert (at_once.count(True), other, later) == (21, True, [True, True, False, False])
    assert not any(at_once[21:])


async def test_who_comes_too_often_is_told_when_to_come_again(
    opened: Opened, office: PostOffice, sender: EventSender, timer: Timer
) -> None:
    """429 before the body is read; a second later it is taken."""
    client = await opened(per_second=0.1)
    body = sender.event(consent_message(C, at=office.clock.now()))
    answers = [await client.post("/events", content=body, headers=headers()) for _ in range(3)]
    timer.seconds += 20
    answers.append(await client.post("/events", content=body, headers=headers()))

    assert [one.status_code for one in answers] == [202, 202, 429, 202]
    assert answers[2].headers["retry-after"] == "1"


async def test_a_flood_of_forgeries_costs_neither_rows_nor_signatures(
    opened: Opened, office: PostOffice, sender: EventSender
) -> None:
    """The first ones are noted and answered in full; then only counted, and good events pass as ever."""
    client = await opened()
    answers = [await client.post("/events", content=f"junk-{number}", headers=headers()) for number in range(200)]
    body = sender.event(consent_message(C, at=office.clock.now()))
    good = await client.post("/events", content=body, headers=headers())

    noted = len(await office.refused())
    assert {one.status_code for one in answers} == {400}
    assert [one.content != b"" for one in answers] == [True] * noted + [False] * (200 - noted)
    assert noted == 11  # ten seconds' worth of one a second
    assert (office.receiver.counts["malformed"], good.status_code) == (200, 202)


async def test_forgeries_from_many_addresses_share_one_pace(
    opened: Opened, office: PostOffice, sender: EventSender
) -> None:
    """Nothing is opened for strangers beyond it; a sender that proved itself is not held back."""
    sender_at = await opened()
    message = consent_message(C, at=office.clock.now())
    first = await sender_at.post("/events", content=sender.event(message), headers=headers())
    app = cast("httpx.ASGITransport", sender_at._transport).app
    statuses: Counter[int] = Counter()
    for address in range(250):
        transport = httpx.ASGITransport(app, client=(f"198.51.100.{address}", 50_000))
        async with httpx.AsyncClient(transport=transport, base_url="https://app.example") as forger:
            for number in range(2):
                junk = await forger.post("/events", content=f"junk-{address}-{number}", headers=headers())
                statuses[junk.status_code] += 1
    again = await sender_at.post("/events", content=sender.event(message), headers=headers())

    assert (first.status_code, again.status_code) == (202, 202)
    assert statuses == {400: 250, 429: 250}
    assert 50 <= len(await office.refused()) <= 51  # ten seconds' worth of five a second


async def test_when_we_cannot_know_the_sender_is_told_to_come_again(
    opened: Opened, office: PostOffice, sender: EventSender
) -> None:
    """Its keys cannot be read: 500 with the recoverable code, nothing noted against it."""
    client = await opened()
    known = office.documents.pop(JWKS_URL)
    body = sender.event(consent_message(C, at=office.clock.now()))
    away = await client.post("/events", content=body, headers=headers())
    office.documents[JWKS_URL] = known
    office.clock.advance(seconds=61)
    back = await client.post("/events", content=body, headers=headers())

    code = jose.unverified_claims(away.text)["message"]["Errors"][0]["Code"]
    assert (away.status_code, code, back.status_code, await office.refused()) == (
        500, "GenericRecoverableError", 202, [],
    )  # fmt: skip


async def test_without_a_signing_key_refusals_have_no_body(opened: Opened) -> None:
    """The status says enough."""
    client = await opened(refusals=None)
    answer = await client.post("/events", content=b"junk", headers=headers())

    assert (answer.status_code, answer.content) == (400, b"")

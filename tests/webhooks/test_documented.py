"""The table of `docs/events.md`: each check, what it is noted as, its status and its code, provoked one by one."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from syncworker.lfi import jose
from syncworker.lfi.keys import SigningKey
from syncworker.lfi.senders import Sender, SenderKeys
from syncworker.store.unit_of_work import Store
from syncworker.web import events as route
from syncworker.web import problems
from syncworker.web.guard import Guard
from syncworker.webhooks import Receiver, Refusals
from tests.ground.postgres import free_port
from tests.webhooks.conftest import JWKS_URL, Keys, PostOffice, hold, trusting
from tests.webhooks.forgeries import tampered
from tests.webhooks.sender import ABSENT, CLIENT_ID, ISSUER, EventSender, consent_message

pytestmark = pytest.mark.store

DOCUMENT = Path(__file__).parents[2] / "docs" / "events.md"
C = "consent-1"
INTERACTION = "7f2c1e8a-93a5-4c0e-8a53-0c6a6ad9f1b2"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        noted_as: the word in the quarantine; '' when nothing is noted.
        code: of the standard; '' when the answer has no signed body.
    """

    noted_as: str
    status: int
    code: str


def table() -> dict[str, Row]:
    """The documented checks, in their order."""
    _, _, after = DOCUMENT.read_text().partition("## What is checked, in this order")
    lines = [line for line in after.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    assert cells[0] == ["check", "noted as", "status", "code"]
    return {check: Row(_word(noted), int(status), _word(code)) for check, noted, status, code in cells[1:]}


def _word(cell: str) -> str:
    found = re.match(r"`([^`]+)`", cell)
    return found[1] if found else ""


@dataclass
class Door:
    """The web process's door for events, with a sender and a forger before it."""

    office: PostOffice
    sender: EventSender
    forger: EventSender
    keys: Keys
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    @property
    def message(self) -> dict[str, Any]:
        return consent_message(C, at=self.office.clock.now())

    def client(self, **options: Any) -> httpx.AsyncClient:
        clock = self.office.clock
        refusals = Refusals(SigningKey.of(self.keys.ours_new, "sig-1"), issuer=CLIENT_ID, clock=clock)
        app = FastAPI()
        problems.install(app)
        app.include_router(route.routes(self.office.receiver, clock=clock, refusals=refusals, **options))
        transport = httpx.ASGITransport(Guard(app), client=("192.0.2.7", 50_000))
        self.clients.append(httpx.AsyncClient(transport=transport, base_url="https://app.example"))
        return self.clients[-1]

    async def post(
        self, body: bytes | str, *, client: httpx.AsyncClient | None = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        given = {"content-type": "application/jwe", "x-fapi-interaction-id": INTERACTION, **(headers or {})}
        return await (client or self.client()).post("/events", content=body, headers=given)

    async def keys_were_read(self, *, seconds_ago: int) -> None:
        """An event came before, so that no look at the keys is allowed for the rest of its minute."""
        await self.post(self.sender.event(consent_message(C, "Suspended", at=self.office.clock.now())))
        self.office.clock.advance(seconds=seconds_ago)


Provoke = Callable[[Door], Awaitable[httpx.Response]]


def sends(make: Callable[[Door], bytes | str], headers: Mapping[str, str] | None = None) -> Provoke:
    """The answer to one body."""

    async def provoke(door: Door) -> httpx.Response:
        return await door.post(make(door), headers=headers)

    return provoke


async def another_path(door: Door) -> httpx.Response:
    return await door.client().post("/events/more", headers={"x-fapi-interaction-id": INTERACTION})


async def another_method(door: Door) -> httpx.Response:
    return await door.client().get("/events", headers={"x-fapi-interaction-id": INTERACTION})


async def too_often(door: Door) -> httpx.Response:
    client = door.client(per_second=0.1)
    answers = [await door.post(door.sender.event(door.message), client=client) for _ in range(3)]
    assert answers[-1].headers["retry-after"].isdigit()
    return answers[-1]


async def without_a_bearer(door: Door) -> httpx.Response:
    strict = Sender(issuer=ISSUER, jwks_url=JWKS_URL, bearer=True)
    door.office.with_rules(trusting(door.keys, senders={ISSUER: strict}))
    return await door.post(door.sender.event(door.message))


async def keys_away(door: Door) -> httpx.Response:
    door.office.documents.clear()
    return await door.post(door.sender.event(door.message))


async def key_not_looked_for(door: Door) -> httpx.Response:
    await door.keys_were_read(seconds_ago=20)
    return await door.post(replace(door.sender, kid="noor-2").event(door.message))


async def jti_again(door: Door) -> httpx.Response:
    await door.post(door.sender.event(consent_message(C, "Suspended", at=door.office.clock.now()), jti="j-1"))
    return await door.post(door.sender.event(door.message, jti="j-1"))


async def database_away(door: Door) -> httpx.Response:
    office = door.office
    away = Store(f"postgresql://user@127.0.0.1:{free_port()}/none")
    office.receiver = Receiver(away, office.rules, SenderKeys(office.fetch, clock=office.clock))
    try:
        return await door.post(door.sender.event(door.message))
    finally:
        await away.close()


PROVOKED: Mapping[str, Provoke] = {
    "a sender is trusted at all, and the path is `/events`": another_path,
    "the method is POST": another_method,
    "the address keeps its pace": too_often,
    "media type: `application/jwe`, `application/jwt`, `application/jose`": sends(
        lambda door: door.sender.event(door.message), {"content-type": "application/json"}
    ),
    "64 KB at most, here within ten seconds": sends(lambda _: b"a" * (64 * 1024 + 1)),
    "a compact JWE or JWS": sends(lambda _: b"junk"),
    "a bearer JWT that came holds": sends(
        lambda door: door.sender.event(door.message), {"authorization": "Bearer abc"}
    ),
    "it is encrypted": sends(lambda door: door.sender.signed(door.message)),
    "RSA-OAEP-256 with A256GCM": sends(lambda door: door.sender.encrypted(door.sender.signed({}), alg="RSA-OAEP")),
    "under a `kid` of ours": sends(lambda door: door.sender.encrypted(door.sender.signed({}), kid="enc-9")),
    "it opens": sends(lambda door: tampered(door.sender.event(door.message))),
    "it holds a JWS of JSON": sends(lambda door: door.sender.encrypted("{}")),
    "PS256, with a `kid`, nothing critical": sends(
        lambda door: door.sender.with_header(door.message, {"alg": "RS256"})
    ),
    "`iss` is a sender we trust": sends(lambda door: door.sender.event(door.message, iss="https://evil.example")),
    "a bearer JWT came where one must": without_a_bearer,
    "its sender's keys could be read within the hour": keys_away,
    "its `kid` is among the keys read before, or they may be read now": key_not_looked_for,
    "its `kid` is among the keys read since it came": sends(
        lambda door: replace(door.sender, kid="noor-2").event(door.message)
    ),
    "signature": sends(lambda door: door.forger.event(door.message)),
    "`exp`, `nbf`, `iat`, with 30 s of skew": sends(lambda door: door.sender.event(door.message, exp=1)),
    "`aud`, when there is one, names us": sends(lambda door: door.sender.event(door.message, aud=["another"])),
    "`message` is an object with `Data` or `Meta`": sends(lambda door: door.sender.event(door.message, message=ABSENT)),
    "its `jti` is used once": jti_again,
    "it could be filed": database_away,
    "nothing failed": sends(lambda door: door.sender.event(door.message)),
}


@pytest.fixture
async def door(office: PostOffice, sender: EventSender, forger: EventSender, keys: Keys) -> AsyncIterator[Door]:
    """A door that knows one consent and one sender."""
    await hold(office.store, office.clock, C)
    opened = Door(office, sender, forger, keys)
    yield opened
    for client in opened.clients:
        await client.aclose()


@pytest.mark.unit
def test_every_documented_check_is_provoked_here() -> None:
    """In the document's order; a check that is added or renamed has to be proved."""
    assert list(table()) == list(PROVOKED)


@pytest.mark.parametrize("check", PROVOKED)
async def test_a_check_answers_as_the_document_says(door: Door, check: str) -> None:
    """Status, the standard's code in a JWT that we signed, the word in the quarantine; always the interaction id."""
    answer = await PROVOKED[check](door)

    code = ""
    if answer.headers.get("content-type") == "application/jwt":
        payload = jose.verified_payload(answer.text, SigningKey.of(door.keys.ours_new, "sig-1").jwk)
        code = jose.read_claims(payload)["message"]["Errors"][0]["Code"]
    noted = [one.why for one in await door.office.refused()]
    counted = [word for word in ("too_large",) if door.office.receiver.counts[word]]  # its body is not read
    assert Row("".join(noted or counted), answer.status_code, code) == table()[check]
    assert answer.headers["x-fapi-interaction-id"] == INTERACTION

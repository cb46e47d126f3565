"""`events list|show|replay|counts`, as real processes on a folder whose web process took some events."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from syncworker.clock import SystemClock
from syncworker.lfi import jose
from syncworker.lfi.senders import Published, Sender, SenderKeys
from syncworker.store.keyring import KeyRing
from syncworker.store.unit_of_work import Store
from syncworker.webhooks import Delivery, EventRefusedError, EventRules, Receiver
from tests.cli.conftest import Prepared
from tests.cli.house import House
from tests.lfi.raw_bank import write_key
from tests.webhooks.conftest import Keys, keys, private
from tests.webhooks.sender import CLIENT_ID, ISSUER, EventSender, consent_message

__all__ = ["keys"]  # a fixture of the events' tests
pytestmark = pytest.mark.live

JWKS_URL = "https://127.0.0.1:9/jwks"  # nobody listens there
SECRET = "Falcon-Marked-Secret"


@dataclass
class Desk:
    """A folder, and what its web process would do with a delivery."""

    house: House
    keys: Keys

    @property
    def sender(self) -> EventSender:
        return EventSender(SystemClock(), self.keys.sender, self.keys.ours.public_key())

    def take(self, *bodies: bytes) -> list[int | str]:
        """The id of each filed event, or why it was refused."""
        return asyncio.run(self._take(bodies))

    async def _take(self, bodies: tuple[bytes, ...]) -> list[int | str]:
        store = Store(f"sqlite:///{self.house.database}", keyring=KeyRing.load(self.house.keyring))
        rules = EventRules(
            senders={ISSUER: Sender(issuer=ISSUER, jwks_url=JWKS_URL, allow_private_hosts=True)},
            encryption_keys={"enc-1": private(self.keys.ours, "enc-1")},
            audiences=frozenset({CLIENT_ID}),
        )

        async def fetch(_url: str) -> Published:
            return Published(jose.read_keys(self.sender.jwks()))

        clock = SystemClock()
        receiver = Receiver(store, rules, SenderKeys(fetch, clock=clock))
        taken: list[int | str] = []
        try:
            for body in bodies:
                delivery = Delivery(
                    body=body, media_type="application/jwe", address="192.0.2.7", received_at=clock.now()
                )
                try:
                    taken.append(await receiver.receive(delivery))
                except EventRefusedError as refused:
                    await receiver.quarantine(delivery, refused)
                    taken.append(refused.why.value)
        finally:
            await store.close()
        return taken

    def settle(self) -> None:
        """Write down the sender and our key, as an operator does."""
        key = write_key(self.house.folder / "keys" / "encryption.pem", self.keys.ours)
        with self.house.toml.open("a") as file:
            file.write(
                f"""
[events]
audiences = ["{CLIENT_ID}"]
encryption_keys = {{ "enc-1" = {json.dumps(str(key))} }}

[events.senders."{ISSUER}"]
jwks_url = "{JWKS_URL}"
allow_private_hosts = true
"""
            )


@pytest.fixture
def desk(house: House, keys: Keys) -> Desk:
    return Desk(house, keys)


def message(desk: Desk, subject: str, **data: Any) -> dict[str, Any]:
    return consent_message(subject, at=desk.sender.clock.now(), **data)


def test_events_and_quarantine_are_listed(desk: Desk, prepared: Prepared) -> None:
    """Newest first; the quarantine holds what nobody acts on, whether it verified or not."""
    ours = desk.sender.event(message(desk, prepared.consent_id))
    unknown = desk.sender.event(message(desk, "nobodys"))
    taken = desk.take(ours, ours, unknown, b"junk")

    first, again, second, refused = taken
    everything = desk.house.run("events", "list", "--json").json
    quarantine = desk.house.run("events", "list", "--quarantine", "--json").json
    newest = desk.house.run("events", "list", "--limit", "1")

    assert (again, refused) == (first, "malformed")
    assert [(one["id"], one["subject"], one["says"], one["state"], one["received"]) for one in everything] == [
        (str(second), "nobodys", "Revoked", "quarantined", 1),
        (str(first), prepared.consent_id, "Revoked", "filed", 2),
    ]
    assert [(one["id"], one["outcome"], one["from"]) for one in quarantine] == [
        ("q1", "malformed", "192.0.2.7"),
        (str(second), "unknown_subject", ISSUER),
    ]
    assert ("nobodys" in newest.stdout, prepared.consent_id in newest.stdout) == (True, False)


def test_an_event_is_shown_its_content_only_when_asked_for(desk: Desk, prepared: Prepared) -> None:
    """It may be personal."""
    marked = desk.sender.event(message(desk, prepared.consent_id, OnBehalfOf={"TradingName": SECRET}))
    desk.take(marked)

    plain = desk.house.run("events", "show", "1", "--json")
    content = desk.house.run("events", "show", "1", "--content", "--json").json["content"]

    assert (plain.json["lfi"], plain.json["kind"], plain.json["acted_at"]) == ("sandbox", "consent", None)
    assert SECRET not in plain.said
    assert content["message"]["Data"]["OnBehalfOf"] == {"TradingName": SECRET}


def test_a_refused_event_shows_what_it_claims_and_nothing_else(desk: Desk, prepared: Prepared) -> None:
    """Which is not believed, and says so in its names."""
    forged = EventSender(SystemClock(), desk.keys.stranger, desk.keys.ours.public_key())
    desk.take(forged.event(message(desk, prepared.consent_id)))

    shown = desk.house.run("events", "show", "q1", "--json").json

    assert {name: shown[name] for name in ("why", "claimed_issuer", "claimed_kid", "body_kept", "received")} == {
        "why": "signature", "claimed_issuer": ISSUER, "claimed_kid": "noor-1", "body_kept": False, "received": 1,
    }  # fmt: skip


def test_counts_say_what_became_of_them(desk: Desk, prepared: Prepared) -> None:
    """By state, outcome and reason; repeated deliveries apart."""
    ours = desk.sender.event(message(desk, prepared.consent_id))
    desk.take(ours, ours, desk.sender.event(message(desk, "nobodys")), b"junk", b"junk", b"other junk")

    assert desk.house.run("events", "counts", "--json").json == {
        "again": 1, "filed": 1, "quarantined:unknown_subject": 1, "refused:malformed": 3,
    }  # fmt: skip


def test_a_replay_makes_the_event_due_again(desk: Desk, prepared: Prepared) -> None:
    """One row of work, asked for by a person; nothing else changes."""
    desk.settle()
    desk.take(desk.sender.event(message(desk, prepared.consent_id)))
    desk.house.sql("UPDATE event SET state = 'done', outcome = 'older'")
    desk.house.sql("UPDATE work SET due_at = '9999-12-31 00:00:00.000000' WHERE kind = 'event'")

    ended = desk.house.run("events", "replay", "1", "--json")

    row = desk.house.sql("SELECT due_at < '9999', asked_at IS NOT NULL FROM work WHERE kind = 'event'")
    assert (ended.code, ended.json["state"], ended.json["outcome"], row) == (0, "filed", None, [(1, 1)])
    assert "a worker acts on it with the next tick" in ended.stderr


REFUSALS: dict[str, tuple[Callable[[Desk, Prepared], list[bytes]], str, int, str]] = {
    "no such event": (lambda _, __: [], "7", 2, "no event 7 is in the inbox; see `syncworker events list`"),
    "no such entry": (lambda _, __: [], "q7", 2, "there is no event q7; see `syncworker events list`"),
    "no id": (lambda _, __: [], "q-1", 2, "id: is no event's id; give a number, or q and a number"),
    "nothing follows": (
        lambda desk, _: [desk.sender.event(message(desk, "nobodys"))],
        "1",
        2,
        "nothing follows from event 1 (unknown_subject)",
    ),
    "nothing to replay": (lambda _, __: [b"junk"], "q1", 2, "which no replay can mend; its body was not kept"),
    "its sender is away": (
        lambda desk, prepared: [desk.sender.event(message(desk, prepared.consent_id), aud=["other"])],
        "q1",
        1,
        f'events.senders."{ISSUER}".jwks_url: not read lately',
    ),
    "still not encrypted": (
        lambda desk, prepared: [desk.sender.signed(message(desk, prepared.consent_id)).encode()],
        "q1",
        2,
        "q1 still fails the check 'unencrypted'",
    ),
}


@pytest.mark.parametrize("fault", REFUSALS)
def test_what_cannot_be_replayed_is_told_why(desk: Desk, prepared: Prepared, fault: str) -> None:
    """One line, the exit code of its kind, every table as it was."""
    bodies, event_id, code, said = REFUSALS[fault]
    desk.settle()
    desk.take(*bodies(desk, prepared))
    before = desk.house.tables()

    ended = desk.house.run("events", "replay", event_id)

    words = " ".join(ended.stderr.split())
    assert (ended.code, ended.stdout, said in words) == (code, "", True), ended.stderr
    assert "Traceback" not in ended.stderr
    assert desk.house.tables() == before

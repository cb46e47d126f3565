"""What is taken, what is refused, and what is kept of either: on PostgreSQL and on SQLite."""

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from syncworker import webhooks
from syncworker.errors import LFIUnavailableError
from syncworker.lfi.senders import Sender
from syncworker.standard.values import Slug, write_instant
from syncworker.store import inbox as inbox_module
from syncworker.store.inbox import EventState
from syncworker.store.tables import event as event_table
from syncworker.store.tables import refused_event as refused_table
from syncworker.webhooks import EventHeldBackError
from tests.ground.clock import ManualClock
from tests.webhooks.conftest import JWKS_URL, NOOR, Keys, PostOffice, hold, private, trusting
from tests.webhooks.forgeries import forgeries
from tests.webhooks.sender import ABSENT, CLIENT_ID, ISSUER, EventSender, consent_message, opening_message

pytestmark = pytest.mark.store

C = "consent-1"


@pytest.fixture
async def held(office: PostOffice) -> PostOffice:
    """An office that knows one consent."""
    await hold(office.store, office.clock, C)
    return office


async def test_an_event_is_filed_with_its_work(held: PostOffice, sender: EventSender) -> None:
    """In the inbox, and due at once; what was signed lies sealed and opens again."""
    message = consent_message(C, at=held.clock.now())
    event_id = await held.take(sender.event(message))

    assert isinstance(event_id, int)
    event = await held.event(event_id)
    assert (event.kind.value, event.subject, event.lfi, event.status, event.state) == (
        "consent", C, NOOR, "Revoked", EventState.FILED,
    )  # fmt: skip
    assert await held.due() == [str(event_id)]
    async with held.store.reading() as unit:
        content = await unit.inbox.content(event_id)
    assert json.loads(content or b"")["message"] == message


SHAPES: dict[str, Callable[[EventSender, dict[str, Any]], bytes | str]] = {
    "JWE around JWS": lambda sender, message: sender.event(message),
    "quoted, as a JSON string": lambda sender, message: b'"' + sender.event(message) + b'"',
    "with a line end": lambda sender, message: sender.event(message) + b"\r\n",
    "no aud": lambda sender, message: sender.event(message, aud=ABSENT),
    "aud as one text": lambda sender, message: sender.event(message, aud=CLIENT_ID),
    "no jti, as the template": lambda sender, message: sender.event(message, jti=ABSENT, iat=ABSENT),
    "certificate members in the header": lambda sender, message: sender.with_header(message, {"x5t#S256": "abc"}),
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_an_envelope_may_look_different(held: PostOffice, sender: EventSender, shape: str) -> None:
    """Nothing the template leaves open is held against a sender."""
    taken = await held.take(SHAPES[shape](sender, consent_message(C, at=held.clock.now())))

    assert isinstance(taken, int), taken


async def test_no_forgery_is_taken(held: PostOffice, sender: EventSender, forger: EventSender) -> None:
    """Each fails its own check; nothing is filed, nothing is due, and each is noted once."""
    cases = forgeries(sender, forger, consent_message(C, at=held.clock.now()))

    taken = {name: await held.take(body) for name, (_, body) in cases.items()}

    assert taken == {name: why for name, (why, _) in cases.items()}
    assert (await held.events(), await held.due()) == ([], [])
    assert len(await held.refused()) == len(cases)


async def test_only_what_a_change_of_ours_may_mend_is_kept(
    held: PostOffice, sender: EventSender, forger: EventSender
) -> None:
    """Of the rest: why, from where, how large, what it claims, and its hash; not the body."""
    for _, body in forgeries(sender, forger, consent_message(C, at=held.clock.now())).values():
        await held.take(body)

    async with held.store.reading() as unit:
        entries = [await unit.inbox.one_refused(one.id) for one in await unit.inbox.refused(limit=100)]
    assert {one.why for one in entries if one and one.body is not None} == {
        "unencrypted", "unknown_encryption_key", "untrusted_sender", "unknown_key", "audience",
    }  # fmt: skip


async def test_the_same_event_again_is_welcome_and_changes_nothing(held: PostOffice, sender: EventSender) -> None:
    """The very same body, the message signed anew, and both at once."""
    message = consent_message(C, at=held.clock.now())
    body = sender.event(message)
    first = await held.take(body)
    held.clock.advance(seconds=20)

    again = [await held.take(body), await held.take(sender.event(message))]
    at_once = await asyncio.gather(*(held.take(sender.event(message)) for _ in range(5)))

    assert {*again, *at_once} == {first}
    assert [one.received for one in await held.events()] == [8]
    assert await held.due() == [str(first)]


async def test_a_message_that_does_not_date_itself_is_known_by_its_envelope(
    held: PostOffice, sender: EventSender
) -> None:
    """v2.0 may leave `Meta` empty: Suspended, Authorized, Suspended again are three events."""
    message = consent_message(C, "Suspended", at=held.clock.now()) | {"Meta": {}}
    ids = {await held.take(sender.event(message)) for _ in range(3)}

    assert len(ids) == 3


async def test_a_jti_is_good_for_one_event(held: PostOffice, sender: EventSender) -> None:
    """Another message under it is refused, from this sender; its retry is not."""
    first = consent_message(C, "Suspended", at=held.clock.now())
    second = consent_message(C, "Revoked", at=held.clock.now())
    taken = [await held.take(sender.event(one, jti="j-1")) for one in (first, second, first)]

    assert taken[1] == "jti_used"
    assert taken[0] == taken[2]


async def test_a_sender_speaks_of_its_own_lfi_only(office: PostOffice, sender: EventSender) -> None:
    """A consent of another LFI, and one nobody knows, go into the quarantine; nothing follows."""
    await hold(office.store, office.clock, "c-hub", lfi=Slug("other-bank"))
    for subject in ("c-hub", "c-unknown"):
        await office.take(sender.event(consent_message(subject, at=office.clock.now())))

    assert [(one.subject, one.state, one.outcome) for one in await office.events()] == [
        ("c-hub", EventState.QUARANTINED, "foreign_subject"),
        ("c-unknown", EventState.QUARANTINED, "unknown_subject"),
    ]
    assert await office.due() == []


async def test_no_sender_can_swallow_anothers_event(
    held: PostOffice, sender: EventSender, forger: EventSender, keys: Keys
) -> None:
    """One trusted for another bank alone sends the very message first, under the same `jti`; the right one acts."""
    other_url, other_issuer = "https://keystore.example/other.jwks", "https://auth1.other.example"
    other = replace(forger, issuer=other_issuer)
    held.documents[other_url] = other.jwks()
    trusted = {
        ISSUER: Sender(issuer=ISSUER, jwks_url=JWKS_URL, lfis=frozenset({NOOR})),
        other_issuer: Sender(issuer=other_issuer, jwks_url=other_url, lfis=frozenset({Slug("other-bank")})),
    }
    held.with_rules(trusting(keys, senders=trusted))
    message = consent_message(C, at=held.clock.now())

    taken = [await held.take(one.event(message, jti="j-1")) for one in (other, sender, sender)]

    assert taken[1] == taken[2]
    assert [(one.issuer, one.outcome, one.received) for one in await held.events()] == [
        (other_issuer, "foreign_subject", 1),
        (ISSUER, None, 2),
    ]
    assert await held.due() == [str(taken[1])]


async def test_other_kinds_are_filed_and_nothing_follows(office: PostOffice, sender: EventSender) -> None:
    """A payment's status is none of a data worker's business; an opening nobody asked for is not ours."""
    at = office.clock.now()
    payment = {
        "Data": {"PaymentId": "p", "ConsentId": "c", "Status": "Pending"},
        "Meta": {"EventDateTime": "2026-11-21T10:00:00Z", "EventResource": "/payments/p", "ConsentId": "c"},
    }
    for message in (payment, opening_message("acc-1", at=at)):
        await office.take(sender.event(message))

    assert [(one.kind.value, one.state.value, one.outcome) for one in await office.events()] == [
        ("payment", "done", "not_ours"),
        ("opening", "quarantined", "unknown_subject"),
    ]


async def test_a_plain_jws_is_taken_where_a_setting_says_so(held: PostOffice, sender: EventSender, keys: Keys) -> None:
    """As `application/jwt`; everything else about it is checked as ever."""
    held.with_rules(trusting(keys, accept_unencrypted=True))
    message = consent_message(C, at=held.clock.now())
    taken = await held.take(sender.signed(message), media_type="application/jwt")
    expired = await held.take(sender.signed(message, exp=1), media_type="application/jwt")

    assert isinstance(taken, int)
    assert expired == "lifetime"


BEARERS: dict[str, Callable[[EventSender, EventSender, int], str]] = {
    "of a stranger": lambda _, forger, now: forger.bearer(),
    "for another address": lambda sender, _, now: sender.bearer(aud="https://app.example/other"),
    "for us among others": lambda sender, _, now: sender.bearer(aud=["https://app.example/events", "https://x"]),
    "expired": lambda sender, _, now: sender.bearer(exp=now - 31),
    "without jti": lambda sender, _, now: sender.bearer(jti=ABSENT),
    "no JWT": lambda sender, _, now: "abc",
}


@pytest.mark.parametrize("bad", BEARERS)
async def test_a_bearer_jwt_that_came_must_hold(
    held: PostOffice, sender: EventSender, forger: EventSender, bad: str
) -> None:
    """Also where none is asked for."""
    now = int(held.clock.now().timestamp())
    body = sender.event(consent_message(C, at=held.clock.now()))

    assert await held.take(body, bearer=BEARERS[bad](sender, forger, now)) == "bearer"


async def test_older_senders_must_bring_a_bearer_jwt(held: PostOffice, sender: EventSender, keys: Keys) -> None:
    """v1.2 and v2.0: without it refused, with it taken, and one of them opens the door once."""
    strict = Sender(issuer=ISSUER, jwks_url=JWKS_URL, bearer=True)
    held.with_rules(trusting(keys, senders={ISSUER: strict}))
    body = sender.event(consent_message(C, "Suspended", at=held.clock.now()))
    other = sender.event(consent_message(C, "Revoked", at=held.clock.now()))
    bearer = sender.bearer()

    taken = [await held.take(body), await held.take(body, bearer=bearer), await held.take(other, bearer=bearer)]

    assert taken == ["bearer", taken[1], "jti_used"]
    assert isinstance(taken[1], int)


async def test_both_keys_open_events_during_a_rotation(held: PostOffice, sender: EventSender, keys: Keys) -> None:
    """What was encrypted to the old key is still under way."""
    held.with_rules(
        trusting(
            keys,
            encryption_keys={one.kid: one for one in (private(keys.ours, "enc-1"), private(keys.ours_new, "enc-2"))},
        )
    )
    newer = replace(sender, encryption=keys.ours_new.public_key(), encryption_kid="enc-2")
    at = held.clock.now()

    taken = [await held.take(one.event(consent_message(C, word, at=at))) for one, word in ((sender, "A"), (newer, "B"))]

    assert all(isinstance(one, int) for one in taken), taken


async def test_the_senders_keys_are_fetched_at_most_once_a_minute(
    held: PostOffice, sender: EventSender, forger: EventSender, clock: ManualClock
) -> None:
    """Whatever comes in: two hundred unknown kids in five minutes are five looks, at least a minute apart."""
    for number in range(200):
        body = replace(forger, kid=f"k-{number}").event(consent_message(C, at=clock.now()))
        assert await held.take(body) == "unknown_key"
        clock.advance(seconds=1.5)

    moments = [at for _, at in held.fetched]
    assert len(moments) == 5
    assert all(later - earlier >= timedelta(minutes=1) for earlier, later in pairwise(moments))


async def test_a_new_key_of_the_sender_is_found(held: PostOffice, sender: EventSender, keys: Keys) -> None:
    """A minute after the last look at the latest; an event that came at the moment of that look is refused and kept."""
    await held.take(sender.event(consent_message(C, "Suspended", at=held.clock.now())))
    rotated = replace(sender, key=keys.stranger, kid="noor-2")
    held.documents[JWKS_URL] = {"keys": [*sender.jwks()["keys"], *rotated.jwks()["keys"]]}
    message = consent_message(C, "Revoked", at=held.clock.now())

    before = await held.take(rotated.event(message))
    held.clock.advance(seconds=61)
    after = await held.take(rotated.event(message))

    assert before == "unknown_key"
    assert isinstance(after, int)


def rotated(office: PostOffice, sender: EventSender, keys: Keys) -> EventSender:
    """The sender under a new key, published beside the old one."""
    newer = replace(sender, key=keys.stranger, kid="noor-2")
    office.documents[JWKS_URL] = {"keys": [*sender.jwks()["keys"], *newer.jwks()["keys"]]}
    return newer


async def test_an_event_under_a_new_key_is_held_back_and_taken_in_by_itself(
    held: PostOffice, sender: EventSender, keys: Keys
) -> None:
    """No look at the sender's keys was allowed when it came; a minute later it is filed, if it came again or not."""
    await held.take(sender.event(consent_message(C, "Suspended", at=held.clock.now())))
    newer = rotated(held, sender, keys)
    held.clock.advance(seconds=20)
    delivery = held.delivery(newer.event(consent_message(C, "Revoked", at=held.clock.now())))
    with pytest.raises(EventHeldBackError) as held_back:
        await held.receiver.receive(delivery)
    await held.receiver.quarantine(delivery, held_back.value)

    too_soon = await held.receiver.take_held_back(now=held.clock.now())
    kept = [(one.why, one.kid) for one in await held.refused()]
    held.clock.advance(seconds=40)
    taken = await held.receiver.take_held_back(now=held.clock.now())

    assert (held_back.value.retry_after, held.receiver.counts["held_back"]) == (40, 1)
    assert (too_soon, kept, taken) == (0, [("unknown_key", "noor-2")], 1)
    assert (await held.refused(), [one.status for one in await held.events()]) == ([], ["Suspended", "Revoked"])


async def test_an_event_that_came_again_meanwhile_is_not_filed_twice(
    held: PostOffice, sender: EventSender, keys: Keys
) -> None:
    """The sender did as it was told, and the quarantine holds the first delivery still."""
    await held.take(sender.event(consent_message(C, "Suspended", at=held.clock.now())))
    newer = rotated(held, sender, keys)
    held.clock.advance(seconds=20)
    message = consent_message(C, "Revoked", at=held.clock.now())
    first = await held.take(newer.event(message))
    held.clock.advance(seconds=41)
    again = await held.take(newer.event(message))
    taken = await held.receiver.take_held_back(now=held.clock.now())

    assert (first, isinstance(again, int), taken) == ("unknown_key", True, 1)
    assert [(one.status, one.received) for one in await held.events()] == [("Suspended", 1), ("Revoked", 2)]


async def test_a_key_that_is_never_published_is_looked_for_ten_minutes_and_no_longer(
    held: PostOffice, sender: EventSender, forger: EventSender
) -> None:
    """For the sake of what was held back; one look for each key in a round, and at most one a minute as ever."""
    await held.take(sender.event(consent_message(C, "Suspended", at=held.clock.now())))
    held.clock.advance(seconds=20)
    for number in range(3):
        stranger = replace(forger, kid="made-up")
        await held.take(stranger.event(consent_message(C, "Revoked", at=held.clock.now() + timedelta(seconds=number))))
    before = len(held.fetched)

    for _ in range(60):
        held.clock.advance(seconds=30)
        assert await held.receiver.take_held_back(now=held.clock.now()) == 0

    assert 9 <= len(held.fetched) - before <= 10
    assert len(await held.refused()) == 3


Mending = Callable[[Keys], dict[str, Any]]
MENDED: dict[str, tuple[Callable[[EventSender, EventSender, dict[str, Any]], bytes | str], Mending]] = {
    "unencrypted": (lambda sender, _, message: sender.signed(message), lambda _: {"accept_unencrypted": True}),
    "unknown_encryption_key": (
        lambda sender, _, message: replace(sender, encryption_kid="enc-2").event(message),
        lambda keys: {"encryption_keys": {"enc-2": private(keys.ours, "enc-2")}},
    ),
    "untrusted_sender": (
        lambda _, forger, message: replace(forger, issuer="https://new.example").event(message),
        lambda _: {"senders": {"https://new.example": Sender(issuer="https://new.example", jwks_url=NEW_URL)}},
    ),
    "audience": (
        lambda sender, _, message: sender.event(message, aud=["our-org"]),
        lambda _: {"audiences": frozenset({"our-org"})},
    ),
}
NEW_URL = "https://keystore.example/new.jwks"


@pytest.mark.parametrize("why", MENDED)
async def test_what_a_setting_mends_is_taken_in_by_the_next_process(
    held: PostOffice, sender: EventSender, forger: EventSender, keys: Keys, why: str
) -> None:
    """As of the instant it came; the process whose settings refuse it leaves it where it is."""
    sent, mended = MENDED[why]
    held.documents[NEW_URL] = forger.jwks()
    refused = await held.take(sent(sender, forger, consent_message(C, at=held.clock.now())))
    held.clock.advance(hours=2)
    as_before = [await held.receiver.take_held_back(now=held.clock.now()) for _ in range(2)]
    held.with_rules(trusting(keys, **mended(keys)))

    taken = await held.receiver.take_held_back(now=held.clock.now())

    assert (refused, as_before, taken, await held.refused()) == (why, [0, 0], 1, [])
    assert [(one.subject, one.state) for one in await held.events()] == [(C, EventState.FILED)]


async def test_the_replay_of_the_quarantine_is_bounded_in_number_and_age(
    held: PostOffice, sender: EventSender, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many in a round, the oldest first; what is older than a day waits for a person."""
    monkeypatch.setattr(webhooks, "TAKEN_IN_MAX", 2)
    for number in range(3):
        await held.take(sender.signed(consent_message(C, f"S{number}", at=held.clock.now())))
        held.clock.advance(hours=6)
    held.with_rules(trusting(keys, accept_unencrypted=True))
    held.clock.advance(hours=7)

    rounds = [await held.receiver.take_held_back(now=held.clock.now()) for _ in range(2)]

    assert (rounds, [one.status for one in await held.events()]) == ([2, 0], ["S1", "S2"])
    assert [one.why for one in await held.refused()] == ["unencrypted"]


async def test_what_fails_another_check_is_noted_with_it_and_not_tried_again(
    held: PostOffice, sender: EventSender, forger: EventSender, keys: Keys
) -> None:
    """A forgery under a new key's kid: its body goes."""
    await held.take(sender.event(consent_message(C, "Suspended", at=held.clock.now())))
    rotated(held, sender, keys)
    other = replace(sender, key=keys.ours_new, kid="noor-2")
    held.clock.advance(seconds=20)
    await held.take(other.event(consent_message(C, "Revoked", at=held.clock.now())))
    held.clock.advance(seconds=41)

    rounds = [await held.receiver.take_held_back(now=held.clock.now()) for _ in range(2)]

    (entry,) = await held.refused()
    assert (rounds, entry.why, held.receiver.counts["signature"]) == ([0, 0], "signature", 1)


async def test_a_bearer_jwt_under_a_new_key_is_no_refusal_either(
    held: PostOffice, sender: EventSender, keys: Keys
) -> None:
    """The sender comes again.  The event is not kept: in the quarantine it would pass without its bearer JWT."""
    await held.take(sender.event(consent_message(C, "Suspended", at=held.clock.now())))
    newer = rotated(held, sender, keys)
    held.clock.advance(seconds=20)
    message = consent_message(C, "Revoked", at=held.clock.now())

    with pytest.raises(LFIUnavailableError):
        await held.take(newer.event(message), bearer=newer.bearer())
    kept = await held.refused()
    held.clock.advance(seconds=40)

    assert kept == []
    assert isinstance(await held.take(newer.event(message), bearer=newer.bearer()), int)


async def test_keys_that_cannot_be_read_are_no_refusal(held: PostOffice, sender: EventSender) -> None:
    """The sender is told to come again; keys once read serve on for an hour, then nothing verifies."""
    known = held.documents.pop(JWKS_URL)
    with pytest.raises(LFIUnavailableError):
        await held.take(sender.event(consent_message(C, "A", at=held.clock.now())))
    held.documents[JWKS_URL] = known
    held.clock.advance(seconds=60)
    assert isinstance(await held.take(sender.event(consent_message(C, "B", at=held.clock.now()))), int)

    del held.documents[JWKS_URL]
    held.clock.advance(minutes=50)
    assert isinstance(await held.take(sender.event(consent_message(C, "C", at=held.clock.now()))), int)
    held.clock.advance(minutes=11)
    with pytest.raises(LFIUnavailableError):
        await held.take(sender.event(consent_message(C, "D", at=held.clock.now())))
    assert await held.refused() == []


async def test_the_quarantine_is_bounded(
    held: PostOffice, sender: EventSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In rows and in bytes; the oldest go, those with a body last; the same body again only counts."""
    monkeypatch.setattr(inbox_module, "REFUSED_ROWS_MAX", 5)
    monkeypatch.setattr(inbox_module, "REFUSED_BYTES_MAX", 4_000)
    kept = sender.encrypted(sender.signed(consent_message(C, at=held.clock.now())), kid="enc-9")
    for number in range(20):
        held.clock.advance(seconds=1)
        await held.take(f"junk-{number}")
        await held.take(kept if number < 3 else b"junk")

    refused = await held.refused()
    assert [(one.why, one.received) for one in refused if one.digest != refused[0].digest][-1] == (
        "unknown_encryption_key", 3,
    )  # fmt: skip
    assert len(refused) == 5
    assert sum(one.received for one in refused if one.size == 4) == 17


async def test_what_anybody_can_make_up_goes_before_what_takes_knowledge(
    held: PostOffice, sender: EventSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bodies without encryption, or of senders nobody trusts, do not push out what a key of ours may open."""
    monkeypatch.setattr(inbox_module, "REFUSED_ROWS_MAX", 4)
    unopened = sender.encrypted(sender.signed(consent_message(C, at=held.clock.now())), kid="enc-9")
    await held.take(unopened)
    stranger = replace(sender, issuer="https://stranger.example")
    for number in range(6):
        held.clock.advance(seconds=1)
        message = consent_message(f"made-up-{number}", at=held.clock.now())
        await held.take(stranger.event(message) if number % 2 else sender.signed(message))

    refused = await held.refused()
    assert [one.why for one in refused] == [
        "untrusted_sender", "unencrypted", "untrusted_sender", "unknown_encryption_key",
    ]  # fmt: skip


async def test_an_instant_no_clock_shows_is_refused(held: PostOffice, sender: EventSender) -> None:
    """Whatever number JSON may bring, it is a refusal and never a fault of ours."""
    message = consent_message(C, at=held.clock.now())
    values = (10**400, -(10**400), 2.0**53, float("inf"), True, "1")
    changes = [{claim: value} for claim in ("exp", "nbf", "iat") for value in values]

    assert [await held.take(sender.event(message, **one)) for one in changes] == ["lifetime"] * len(changes)


async def test_events_that_come_together_share_a_transaction(
    held: PostOffice, sender: EventSender, transactions: list[str]
) -> None:
    """Different ones, the same one again, two under one `jti`, one of nobody's: each is answered as if alone."""
    at = held.clock.now()
    first = sender.event(consent_message(C, "A", at=at))
    bodies = [
        first,
        *(sender.event(consent_message(C, word, at=at)) for word in ("B", "D", "E")),
        first,
        sender.event(consent_message(C, "F", at=at), jti="j-1"),
        sender.event(consent_message(C, "G", at=at), jti="j-1"),
        sender.event(consent_message("nobodys", at=at)),
        first,
    ]
    await held.take(sender.event(consent_message(C, "Z", at=at)))  # the sender's keys are there from now on
    transactions.clear()
    taken = await asyncio.gather(*(held.take(body) for body in bodies))

    filed = await held.events()
    by_status = {one.status: one.received for one in filed if one.subject == C}
    assert taken[0] == taken[4] == taken[8]
    assert (taken.count("jti_used"), len({one for one in taken if isinstance(one, int)})) == (1, 6)
    assert by_status.pop("F", 0) + by_status.pop("G", 0) == 1
    assert by_status == {"A": 3, "B": 1, "D": 1, "E": 1, "Z": 1}
    assert sorted(await held.due(), key=int) == [str(one.id) for one in filed if one.state.value == "filed"]
    assert len(transactions) <= 4  # the first one's, that of all others, and the note of the refusal


@pytest.fixture
def transactions() -> Iterator[list[str]]:
    """Every commit, in every database of this process."""
    seen: list[str] = []

    def noted(_connection: object) -> None:
        seen.append("commit")

    sa.event.listen(Engine, "commit", noted)
    yield seen
    sa.event.remove(Engine, "commit", noted)


async def test_of_events_that_are_not_ours_the_newest_are_kept(
    held: PostOffice, sender: EventSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sender of payments' events does not fill the table; what is acted on stays."""
    monkeypatch.setattr(inbox_module, "NOT_OURS_ROWS_MAX", 2)
    at = held.clock.now()
    ours = await held.take(sender.event(consent_message(C, "Suspended", at=at)))
    payments = [
        await held.take(
            sender.event(
                {
                    "Data": {"PaymentId": f"p-{number}", "Status": "Pending"},
                    "Meta": {"EventDateTime": write_instant(at), "EventType": "Resource.Updated",
                             "EventResource": f"/payments/p-{number}"},
                }
            )
        )
        for number in range(5)
    ]  # fmt: skip
    async with held.store.writing() as unit:
        gone = await unit.inbox.prune(before=at - timedelta(days=90))
        await unit.commit()

    assert (gone, [one.id for one in await held.events()]) == (3, [ours, *payments[-2:]])


async def test_large_bodies_do_not_pile_up(
    held: PostOffice, sender: EventSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the limit of bytes the oldest body goes."""
    monkeypatch.setattr(inbox_module, "REFUSED_BYTES_MAX", 100_000)
    for number in range(10):
        held.clock.advance(seconds=1)
        await held.take(sender.encrypted("x" * 20_000, kid=f"enc-{number + 2}"))

    refused = await held.refused()
    assert [one.kid for one in refused] == ["enc-11", "enc-10", "enc-9"]


async def test_nothing_an_event_says_lies_open(held: PostOffice, sender: EventSender, database_url: str) -> None:
    """What the sender signed is sealed, and so are bodies of the quarantine; searched for in every column."""
    marked = consent_message(C, at=held.clock.now(), OnBehalfOf={"TradingName": "Falcon-Marked-Secret"})
    await held.take(sender.event(marked))
    await held.take(sender.signed(marked))

    async with held.store.reading() as unit:
        rows = [row for table in (event_table, refused_table) for row in await unit.connection.execute(table.select())]
    assert len(rows) == 2
    cells = [cell if isinstance(cell, bytes) else str(cell).encode() for row in rows for cell in row]
    assert not [cell for cell in cells if b"Falcon" in cell or b"eyJ" in cell]


async def test_events_past_their_retention_go_with_their_work(held: PostOffice, sender: EventSender) -> None:
    """Inbox, quarantine and rows of work; younger ones stay."""
    await held.take(sender.event(consent_message(C, "Suspended", at=held.clock.now())))
    await held.take(b"junk")
    held.clock.advance(days=60)
    young = await held.take(sender.event(consent_message(C, "Revoked", at=held.clock.now())))
    held.clock.advance(days=31)

    async with held.store.writing() as unit:
        gone = await unit.inbox.prune(before=held.clock.now() - timedelta(days=90))
        await unit.commit()

    assert (gone, [one.id for one in await held.events()], await held.refused(), await held.due()) == (
        1, [young], [], [str(young)],
    )  # fmt: skip

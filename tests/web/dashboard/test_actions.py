"""What an operator does: previewed, with a reason, once, and on record."""

import re
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from syncworker import wiring
from syncworker.lfi.senders import Sender
from syncworker.refreshes import Refreshes
from syncworker.standard.operations import OperationClass
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.inbox import EventState
from syncworker.store.tables import audit
from syncworker.store.work import WorkKind
from syncworker.web.app import build
from syncworker.web.dashboard.looking import Looker
from syncworker.web.guard import Guard
from syncworker.web.metrics import Scrapes
from syncworker.webhooks import EventRules
from tests.ground.clock import ManualClock
from tests.web.dashboard.desk import Desk
from tests.web.house import PUBLIC_URL, WEB, Opener
from tests.webhooks.conftest import JWKS_URL, PostOffice, private
from tests.webhooks.sender import CLIENT_ID, ISSUER, URL, EventSender, consent_message, new_key

pytestmark = pytest.mark.flow

SUBJECTS = {
    "sync": "connection", "pause": "connection", "resume": "paused", "revoke": "connection", "unpark": "parked",
    "retry": "lfi", "redeliver": "message",
}  # fmt: skip


def subject_of(desk: Desk, action: str) -> str:
    """What an action is done to."""
    made = desk.filled
    return {
        "connection": made.connections[0], "paused": made.paused, "parked": made.parked, "lfi": "bank-two",
        "message": str(made.messages[2]),
    }[SUBJECTS[action]]  # fmt: skip


async def acts(desk: Desk) -> list[Any]:
    """Audit rows that the dashboard wrote, but for sign-ins."""
    async with desk.house.store.reading() as unit:
        query = sa.select(audit).where(audit.c.what.startswith("ops_"), audit.c.what != "ops_signed_in")
        return list(await unit.connection.execute(query.order_by(audit.c.id)))


async def became(desk: Desk, action: str, subject: str) -> bool:
    """Whether what an action does is so in the tables."""
    async with desk.house.store.reading() as unit:
        match action:
            case "sync":
                row = await unit.work.find(WorkKind.SYNC, subject)
                return row is not None and row.asked_at is not None
            case "pause" | "resume":
                held = await unit.consents.live(ConsentId(subject))
                return held is not None and (held.paused_at is not None) is (action == "pause")
            case "revoke":
                chain = await unit.connections.get(ConsentId(subject))
                assert chain is not None
                return all(one.revoke_asked_at is not None or one.ended_at is not None for one in chain[1])
            case "unpark":
                row = await unit.work.find(WorkKind.SYNC, subject)
                return row is not None and row.parked_at is None
            case "retry":
                breaker = await unit.breakers.get(Slug("bank-two"), OperationClass.DATA)
                return breaker is not None and breaker.until <= await unit.now()
            case _:
                waiting = await unit.messages.find(waiting=True)
                return "msg_2" in {one.message_id for one in waiting}


@pytest.mark.parametrize("action", SUBJECTS)
async def test_an_action_is_done_once_with_its_audit_row(desk: Desk, action: str) -> None:
    """The preview names the command; the row has key, reason and subject; the page that follows links it."""
    subject = subject_of(desk, action)
    preview = (await desk.get(f"/ops/actions/{action}/{subject}")).text
    before = await became(desk, action, subject)
    answer = await desk.act(action, subject, reason="the bank said so", typed="customer-0")

    assert "syncworker " in preview
    assert (before, await became(desk, action, subject)) == (False, True)
    assert answer.status_code == 303, answer.text
    (row,) = await acts(desk)
    assert (row.facts["reason"], len(row.facts["key_id"])) == ("the bank said so", 12)
    assert answer.headers["location"].endswith(f"done={row.id}")
    after = (await desk.get(answer.headers["location"])).text
    assert f'href="/ops/audit/{row.id}"' in after
    assert "the bank said so" in (await desk.get(f"/ops/audit/{row.id}")).text


@pytest.mark.parametrize("action", SUBJECTS)
@pytest.mark.parametrize("reason", ["", " \t\n ", "x" * 501])
async def test_nothing_is_done_without_a_reason(small_desk: Desk, action: str, reason: str) -> None:
    """The form comes back and says so."""
    subject = subject_of(small_desk, action)
    answer = await small_desk.act(action, subject, reason=reason, typed="customer-0")
    assert answer.status_code == 422
    assert "reason" in answer.text.lower()
    assert (await became(small_desk, action, subject), await acts(small_desk)) == (False, [])


@pytest.mark.parametrize("typed", ["", "customer-1", "CUSTOMER-0"])
async def test_a_revocation_needs_the_user_ref_to_be_typed(small_desk: Desk, typed: str) -> None:
    """To the letter."""
    subject = small_desk.filled.connections[0]
    answer = await small_desk.act("revoke", subject, typed=typed)
    assert answer.status_code == 422
    assert (await became(small_desk, "revoke", subject), await acts(small_desk)) == (False, [])


@pytest.mark.parametrize(
    ("action", "which"), [("resume", "connection"), ("pause", "paused"), ("unpark", "connection"), ("sync", "parked")]
)
async def test_what_is_not_possible_is_said_and_not_done(small_desk: Desk, action: str, which: str) -> None:
    """The page has no form, and a form that was sent all the same does nothing."""
    made = small_desk.filled
    subject = {"connection": made.connections[0], "paused": made.paused, "parked": made.parked}[which]
    page = (await small_desk.get(f"/ops/actions/{action}/{subject}")).text
    form = await small_desk.form_of("/ops/")
    answer = await small_desk.browser.post(
        f"/ops/actions/{action}/{subject}", data={**form, "reason": "x"}, headers={"origin": "https://tpp.example"}
    )
    assert "Not possible now" in page
    assert 'name="reason"' not in page
    assert answer.status_code == 422
    assert await acts(small_desk) == []


async def test_an_event_of_no_trusted_sender_is_not_replayed(small_desk: Desk) -> None:
    """What the command line refuses is refused here, in its words; no audit row says that it was done."""
    answer = await small_desk.act("replay", str(small_desk.filled.events[0]))
    assert answer.status_code == 409
    assert "events.senders" in answer.text
    assert await acts(small_desk) == []


async def test_an_event_of_a_trusted_sender_is_replayed(open_house: Opener, sqlite_url: str) -> None:
    """It is filed anew and due now; the audit row names it, and the event's page says so."""
    trusted = '[events.senders."https://bank.example"]\njwks_url = "https://bank.example/jwks"\n'
    desk = await Desk.opened(await open_house(sqlite_url, web=WEB + trusted))
    number = str(desk.filled.events[0])
    answer = await desk.act("replay", number, reason="the Hub was away")
    (row,) = await acts(desk)
    async with desk.house.store.reading() as unit:
        event = await unit.inbox.get(int(number))
        work = await unit.work.find(WorkKind.EVENT, number)

    assert answer.headers["location"] == f"/ops/events/{number}?done={row.id}"
    assert (row.what, row.subject, row.facts["reason"]) == ("ops_replay", number, "the Hub was away")
    assert event is not None
    assert (event.state, work is not None) == (EventState.FILED, True)
    assert "filed" in (await desk.get(answer.headers["location"])).text


@dataclass
class Receiving:
    """An operator before an application that takes events of one sender, with the keys it is given.

    Attributes:
        with_keys: serve anew, with our encryption key under these ids.
    """

    desk: Desk
    sender: EventSender
    office: PostOffice
    with_keys: Callable[..., None]


@pytest.fixture
async def receiving(small_desk: Desk) -> AsyncIterator[Receiving]:
    """Without any of our keys yet."""
    clock, ours = ManualClock(), new_key()
    sender = EventSender(clock, new_key(), ours.public_key())
    rules = EventRules(
        senders={ISSUER: Sender(issuer=ISSUER, jwks_url=JWKS_URL, lfis=frozenset({Slug("sandbox")}))},
        encryption_keys={},
        audiences=frozenset({CLIENT_ID}),
        url=URL,
    )
    settings = small_desk.house.settings.for_web()
    application = await wiring.build_application(settings)
    office = PostOffice(application.store, clock, rules, {JWKS_URL: sender.jwks()})
    scrapes = Scrapes(settings, application.store)
    looker, refreshes = Looker(settings, application.store), Refreshes(application.store, declared=_none)

    def with_keys(*kids: str) -> None:
        office.with_rules(replace(rules, encryption_keys={kid: private(ours, kid) for kid in kids}))
        built = build(application, office.receiver, refreshes, scrapes, hurry=lambda: None, looker=looker)
        transport = httpx.ASGITransport(Guard(built), client=("192.0.2.1", 50_000))
        small_desk.browser = httpx.AsyncClient(
            transport=transport, base_url=PUBLIC_URL, cookies=dict(small_desk.browser.cookies)
        )

    with_keys()
    yield Receiving(small_desk, sender, office, with_keys)
    await scrapes.close()
    await looker.close()
    await refreshes.close()
    await application.close()


async def test_an_event_of_the_quarantine_is_taken_once_its_key_is_here(receiving: Receiving) -> None:
    """Encrypted for a key that is missing: a replay says so and does nothing.  With the key the event is filed."""
    desk, sender, office = receiving.desk, receiving.sender, receiving.office
    subject = desk.filled.connections[0]
    refused = await office.take(sender.event(consent_message(subject, "Suspended", at=sender.clock.now())))
    number = f"q{max(one.id for one in await office.refused())}"
    listed = (await desk.get("/ops/events?state=refused")).text
    before = await desk.act("replay", number, reason="the key is on its way")
    receiving.with_keys("enc-1")
    after = await desk.act("replay", number, reason="the key is here")
    rows = await acts(desk)
    events = await office.events()

    assert refused == "unknown_encryption_key"
    assert f'href="/ops/events/{number}"' in listed
    assert (before.status_code, "unknown_encryption_key" in before.text) == (409, True)
    assert (after.status_code, [row.facts["reason"] for row in rows]) == (303, ["the key is here"])
    assert number not in {f"q{one.id}" for one in await office.refused()}
    assert [one.subject for one in events if one.issuer == ISSUER] == [subject]


async def _none() -> Collection[Slug]:
    return ()


async def test_a_sync_that_is_asked_for_twice_is_two_acts_and_one_run(small_desk: Desk) -> None:
    """Refreshes that wait for the same run share it, as those of the product do."""
    subject = small_desk.filled.connections[0]
    for _ in range(2):
        assert (await small_desk.act("sync", subject)).status_code == 303
    rows = await acts(small_desk)
    async with small_desk.house.store.reading() as unit:
        waiting = await unit.refreshes.waiting([ConsentId(subject)])
    assert len(rows) == len({row.facts["refresh_id"] for row in rows}) == len(waiting[ConsentId(subject)]) == 2


async def test_buttons_are_those_that_the_state_allows(small_desk: Desk) -> None:
    """A paused connection can be resumed and revoked, one in use paused, a parked one put back."""
    made = small_desk.filled
    found = {}
    for name, subject in (("paused", made.paused), ("parked", made.parked), ("active", made.connections[0])):
        page = (await small_desk.get(f"/ops/connections/{subject}")).text
        found[name] = re.findall(r'href="/ops/actions/(\w+)/', page)
    assert found == {
        "paused": ["resume", "revoke"], "parked": ["unpark", "pause", "revoke"], "active": ["sync", "pause", "revoke"]
    }  # fmt: skip

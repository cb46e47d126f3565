"""What an operator does: previewed, with a reason, once, and on record."""

import re
from typing import Any

import pytest
import sqlalchemy as sa

from syncworker.standard.operations import OperationClass
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.tables import audit
from syncworker.store.work import WorkKind
from tests.web.dashboard.desk import Desk

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

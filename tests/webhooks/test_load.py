"""Scenario 19: a flood of good, repeated, late and forged events.  `bench/events.py` has the full rate."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import pairwise

import httpx
import pytest
from fastapi import FastAPI

from syncworker.standard.consents import Status
from syncworker.web.events import routes
from tests.consents.house import House
from tests.webhooks.conftest import PostOffice, Work, reads
from tests.webhooks.forgeries import forgeries
from tests.webhooks.sender import ABSENT, EventSender, consent_message

pytestmark = pytest.mark.flow

CONSENTS = 8
EVENTS_EACH = 6
AT_ONCE = 16


@dataclass(frozen=True)
class Sent:
    """One delivery, signed when it is sent, and what the receiver must count it as."""

    expected: str
    body: Callable[[], bytes]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_flood_of_events_acts_once_for_each_good_one(
    house: House, hub_office: PostOffice, sender: EventSender, forger: EventSender, work: Work
) -> None:
    """Every good event ends once, whatever is repeated; no forged one acts; keys are fetched once a minute at most."""
    office, dice = hub_office, random.Random(19)
    ids = [(await house.consented(user=number % 3)).consent_id for number in range(CONSENTS)]
    house.clock.advance(minutes=10)
    at, revoked = house.clock.now(), ids[0]
    flood: list[Sent] = []
    for consent_id in ids:
        flood += [
            Sent("again", partial(sender.event, message))
            for number in range(EVENTS_EACH)
            for message in [consent_message(consent_id, "Suspended", at=at + timedelta(seconds=number))]
            for _ in range(3)
        ]
        late = consent_message(consent_id, "Suspended", at=at, updated_at=at - timedelta(hours=1))
        flood += [Sent("again", partial(bytes, sender.event(late)))] * 2  # the very same bytes
    for target in ids[1:4]:
        kinds = forgeries(sender, forger, consent_message(target, "Revoked", at=at))
        flood += [
            Sent(why, partial(bytes, body if isinstance(body, bytes) else body.encode()))
            for name, (why, body) in kinds.items()
            if name != "too large"  # the route measures it before it is a delivery
        ]
    house.bank.bank.revoke(revoked)
    dice.shuffle(flood)

    app = FastAPI()
    app.include_router(routes(office.receiver, clock=house.clock, per_second=1e6))
    statuses: Counter[tuple[str, int]] = Counter()
    outcomes: Counter[str] = Counter()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://app.example") as client:

        async def deliver(one: Sent) -> None:
            answer = await client.post("/events", content=one.body(), headers={"content-type": "application/jwe"})
            statuses["good" if one.expected == "again" else "forged", answer.status_code] += 1

        for start in range(0, len(flood), AT_ONCE):
            await asyncio.gather(*(deliver(one) for one in flood[start : start + AT_ONCE]))
            house.clock.advance(seconds=8)
            if start % (4 * AT_ONCE) == 0:
                outcomes.update(await work())
        for _ in range(31):  # what the Hub does not confirm is asked about for two minutes
            outcomes.update(await work())
            house.clock.advance(seconds=5)

    good, distinct = CONSENTS * (3 * EVENTS_EACH + 2), CONSENTS * (EVENTS_EACH + 1)
    forged = Counter(one.expected for one in flood if one.expected != "again")
    refused, held_back = statuses["forged", 400], statuses["forged", 500]  # 500: an unknown key, too soon for a look
    assert (statuses["good", 202], refused + held_back) == (good, forged.total())
    counts = Counter(office.receiver.counts)
    assert 0 < counts["held_back"] == held_back < forged["unknown_key"]
    counts["unknown_key"] += counts.pop("held_back")
    assert counts == forged | {"new": distinct, "again": good - distinct}

    filed = await office.events()
    moments = [moment for _, moment in office.fetched]
    assert (len(filed), sum(one.received for one in filed)) == (distinct, good)
    assert {one.state.value for one in filed} == {"done"}
    assert {one.outcome for one in filed} == {"older", "not_confirmed"}
    assert outcomes["failed"] == 0
    assert reads(house) < 4 * (distinct - CONSENTS)
    assert [(await house.consent(one)).status for one in ids] == [Status.Revoked] + [Status.Authorized] * (CONSENTS - 1)
    assert all(later - earlier >= timedelta(minutes=1) for earlier, later in pairwise(moments))


async def test_a_jti_opens_the_door_once_also_when_all_come_at_once(
    house: House, hub_office: PostOffice, sender: EventSender, work: Work
) -> None:
    """Twenty different messages under one `jti`, sixteen at a time: one is filed, one acts."""
    consent_id = (await house.consented()).consent_id
    house.clock.advance(minutes=1)
    at = house.clock.now()
    bodies = [
        sender.event(consent_message(consent_id, "Suspended", at=at + timedelta(seconds=number)), jti="j-1", iat=ABSENT)
        for number in range(20)
    ]

    taken = await asyncio.gather(*(hub_office.take(body) for body in bodies))

    assert Counter(isinstance(one, int) for one in taken) == {True: 1, False: 19}
    assert {one for one in taken if not isinstance(one, int)} == {"jti_used"}
    assert ((await work()), reads(house)) == ({"confirmation_awaited": 1}, 1)

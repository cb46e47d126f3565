"""A consent near its end is flagged, once for each threshold."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from syncworker.consents.lifecycle import NEVER
from syncworker.consents.renewal import HEARD_WITHIN, NEAR_END, Due, Flagging, Skipped, thresholds_due
from syncworker.schedule.handlers import Ended, Handlers
from syncworker.standard.consents import ConsentView
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store.consents import Connection, StoredConsent
from syncworker.store.unit_of_work import Store
from syncworker.store.work import Claim, WorkKind
from tests.ground.clock import ManualClock

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
LFI = Slug("noor")
ROOT = ConsentId("root")


def consent(name: str = ROOT, *, now: datetime = NOW, **changes: Any) -> StoredConsent:
    """An Authorized consent of ninety days that began just now, as the Hub says."""
    plain = StoredConsent(
        consent_id=ConsentId(name), connection_id=ROOT, lfi=LFI, user_ref="u", version=Version.V2_1,
        status="Authorized", status_updated_at=now, status_seen_at=now, permissions=("ReadAccountsBasic",),
        expires_at=now + 90 * DAY, user_type="Retail", purpose="AccountAggregation", created_at=now,
        base_consent_id=None if name == ROOT else ROOT, raw={"CreationDateTime": now.isoformat()},
    )  # fmt: skip
    return replace(plain, **changes)


S = Skipped


@pytest.mark.unit
@pytest.mark.parametrize(
    ("ends_in", "lived", "decided", "succeeded", "expected"),
    [
        pytest.param(60, 30, (), False, Due(decisions={}, due_at=NOW + 30 * DAY), id="none has come"),
        pytest.param(30, 60, (), False, Due(decisions={30: None}, due_at=NOW + 16 * DAY), id="the first comes"),
        pytest.param(30, 60, (30,), False, Due(decisions={}, due_at=NOW + 16 * DAY), id="it was flagged"),
        pytest.param(
            5, 85, (30,), False, Due(decisions={14: S.PASSED, 7: None}, due_at=NOW + 4 * DAY), id="we slept"
        ),
        pytest.param(
            0.5, 89, (), False, Due(decisions={30: S.PASSED, 14: S.PASSED, 7: S.PASSED, 1: None}, due_at=None),
            id="we slept for a month",
        ),
        pytest.param(
            5, 85, (30,), True, Due(decisions={14: S.SUCCEEDED, 7: S.SUCCEEDED}, due_at=NOW + 4 * DAY),
            id="a successor is Authorized",
        ),
        pytest.param(
            10, 0, (), False, Due(decisions={30: S.SHORT, 14: S.SHORT}, due_at=NOW + 3 * DAY), id="given for ten days"
        ),
        pytest.param(
            6, 4, (), False, Due(decisions={30: S.SHORT, 14: S.SHORT, 7: None}, due_at=NOW + 5 * DAY),
            id="given for ten days, looked at late",
        ),
        pytest.param(1, 89, (30, 14, 7), False, Due(decisions={1: None}, due_at=None), id="the last"),
    ],
)  # fmt: skip
def test_of_the_thresholds_that_have_come_the_nearest_is_flagged(
    ends_in: float, lived: float, decided: Sequence[int], succeeded: bool, expected: Due
) -> None:
    """The others are skipped with a reason, and the next one says when to look again."""
    held = consent(expires_at=NOW + ends_in * DAY, raw={"CreationDateTime": (NOW - lived * DAY).isoformat()})

    assert thresholds_due(
        held, decided=decided, thresholds=(30, 14, 7, 1), succeeded=succeeded, now=NOW
    ) == expected  # fmt: skip


class Desk:
    """A store, its work rows, and what runs them."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store = store
        self.clock = clock
        flagging = Flagging(store)

        async def flag(claim: Claim) -> Ended:
            return Ended(*await flagging.flag(claim))

        self.handlers = Handlers(store, {WorkKind.FLAG: flag}, retry_after=lambda attempts: attempts * DAY)

    async def file(self, *consents: StoredConsent) -> None:
        async with self.store.writing() as unit:
            await unit.consents.add_connection(
                Connection(connection_id=ROOT, lfi=LFI, user_ref="u", created_at=self.clock.now())
            )
            for one in consents:
                await unit.consents.add(one)
                await unit.work.schedule(WorkKind.FLAG, one.consent_id, lfi=LFI, due_at=self.clock.now())
            await unit.commit()

    async def run(self) -> dict[str, int]:
        """One tick and its batch."""
        async with self.store.writing() as unit:
            claims = await unit.work.claim(WorkKind.FLAG, slots={LFI: 100})
            await unit.commit()
        report = await self.handlers.batch(WorkKind.FLAG, [(claim.id, claim.gen) for claim in claims])
        return dict(report.outcomes)

    async def flags(self, name: str = ROOT) -> dict[int, str | None]:
        async with self.store.reading() as unit:
            flags = (await unit.renewals.flags([ConsentId(name)]))[ConsentId(name)]
        return {flag.days: flag.skipped for flag in flags}

    async def notes(self, name: str = ROOT) -> list[Any]:
        async with self.store.reading() as unit:
            return [note["facts"]["days"] for note in await unit.consents.notes(subject=name, what=NEAR_END)]

    async def due(self, name: str = ROOT) -> datetime:
        async with self.store.reading() as unit:
            row = await unit.work.find(WorkKind.FLAG, name)
        assert row is not None
        return row.due_at


@pytest.fixture
def desk(store: Store, clock: ManualClock) -> Desk:
    return Desk(store, clock)


@pytest.mark.store
async def test_each_threshold_is_flagged_once_and_then_there_is_rest(desk: Desk) -> None:
    """Its row is due at exactly the next threshold; each flag is a row and a line of audit."""
    began = desk.clock.now()
    await desk.file(consent(now=began))
    outcomes = [await desk.run()]
    for _ in range(4):
        desk.clock.set(await desk.due())
        outcomes += [await desk.run(), await desk.run()]

    assert outcomes == [{"nothing_due": 1}, *[{"flagged": 1}, {}] * 4]
    assert (await desk.flags(), await desk.notes(), await desk.due()) == (
        {30: None, 14: None, 7: None, 1: None},
        [30, 14, 7, 1],
        NEVER,
    )
    assert desk.clock.now() == began + 89 * DAY


@pytest.mark.store
async def test_a_claim_that_runs_twice_flags_once(desk: Desk) -> None:
    """A worker that died behind its commit leaves a row that is run again."""
    await desk.file(consent(now=desk.clock.now()))
    desk.clock.advance(days=61)
    flagging = Flagging(desk.store)
    claim = Claim(1, WorkKind.FLAG, ROOT, LFI, 1)

    assert [(await flagging.flag(claim))[1] for _ in range(3)] == ["flagged", "nothing_due", "nothing_due"]
    assert await desk.notes() == [30]


@pytest.mark.store
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"status": "Revoked"}, id="revoked"),
        pytest.param({"status": "Expired"}, id="expired"),
        pytest.param({"status": "AwaitingAuthorization"}, id="not decided about"),
    ],
)
async def test_what_is_not_in_use_is_not_flagged(desk: Desk, changes: dict[str, Any]) -> None:
    """There is nothing that ends."""
    now = desk.clock.now()
    await desk.file(consent(now=now, expires_at=now + 5 * DAY, raw={}, **changes))

    assert (await desk.run(), await desk.flags(), await desk.due()) == ({"not_in_use": 1}, {}, NEVER)


@pytest.mark.store
async def test_past_its_end_nothing_is_flagged_though_the_status_lags(desk: Desk) -> None:
    """The user hears that it has ended, not that it will."""
    await desk.file(consent(now=desk.clock.now()))
    desk.clock.advance(days=90)

    assert (await desk.run(), await desk.flags()) == ({"not_in_use": 1}, {})


@pytest.mark.store
@pytest.mark.parametrize("state", ["Suspended", "paused"])
async def test_a_consent_that_rests_is_flagged_all_the_same(desk: Desk, state: str) -> None:
    """It may come back, and its end comes in any case."""
    now = desk.clock.now()
    changes: dict[str, Any] = {"paused_at": now} if state == "paused" else {"status": state}
    await desk.file(consent(now=now, **changes))
    desk.clock.advance(days=60)

    assert (await desk.run(), await desk.flags()) == ({"flagged": 1}, {30: None})


@pytest.mark.store
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, {30: "succeeded"}, id="Authorized"),
        pytest.param({"status": "AwaitingAuthorization"}, {30: None}, id="not yet agreed to"),
        pytest.param({"status": "Rejected"}, {30: None}, id="declined"),
    ],
)
async def test_a_successor_in_use_ends_the_flags(
    desk: Desk, changes: dict[str, Any], expected: dict[int, str | None]
) -> None:
    """Only an Authorized one does."""
    began = desk.clock.now()
    await desk.file(consent(now=began))
    desk.clock.advance(days=50)
    await desk.file(consent("next", now=desk.clock.now(), **changes))
    desk.clock.advance(days=10)
    await desk.run()

    assert await desk.flags() == expected


@pytest.mark.store
async def test_of_consents_taken_over_from_another_system_none_is_revoked(desk: Desk) -> None:
    """Nobody here knows which came first; the one that ends later counts as the successor."""
    now = desk.clock.now()
    await desk.file(consent(now=now, expires_at=now + 5 * DAY), consent("next", now=now))
    await desk.run()

    async with desk.store.reading() as unit:
        held = await unit.consents.find()
    assert [one.revoke_asked_at for one in held] == [None, None]
    assert set((await desk.flags()).values()) == {"short"}


@pytest.mark.store
async def test_a_consent_taken_over_waits_for_the_hub_to_say_since_when_it_lives(desk: Desk) -> None:
    """With five days left it is flagged, though we hold it since today."""
    now = desk.clock.now()
    await desk.file(consent(now=now, expires_at=now + 5 * DAY, raw={}))
    first, due = await desk.run(), await desk.due()
    began = (now - 300 * DAY).isoformat()
    desk.clock.set(due)
    view = ConsentView(consent_id=ROOT, status="Authorized", raw={"CreationDateTime": began})
    async with desk.store.writing() as unit:
        await unit.consents.observe(view, at=desk.clock.now())
        await unit.commit()

    assert (first, due, await desk.run()) == ({"not_heard_of": 1}, now + HEARD_WITHIN, {"flagged": 1})
    assert await desk.flags() == {30: "passed", 14: "passed", 7: None}

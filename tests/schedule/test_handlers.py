"""Batches of the small kinds of work: each claim its own end, on PostgreSQL and on SQLite."""

import asyncio
from datetime import timedelta

import pytest

from syncworker.consents.lifecycle import NEVER
from syncworker.errors import LFIRateLimitedError, StandardViolationError
from syncworker.schedule.handlers import Ended, HandledReport, Handlers
from syncworker.standard.values import Slug
from syncworker.store.unit_of_work import Store
from syncworker.store.work import Claim, WorkKind, WorkRow
from tests.ground.clock import ManualClock

pytestmark = pytest.mark.store

NOOR = Slug("noor")
KIND = WorkKind.CONSENT


class Desk:
    """Rows of one kind, claimed and worked on."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store = store
        self.clock = clock
        self.seen: list[str] = []
        self.handlers = Handlers(store, {KIND: self.handle}, retry_after=lambda n: timedelta(minutes=n), deadline_s=0.2)

    async def handle(self, claim: Claim) -> Ended:
        self.seen.append(claim.subject)
        match claim.subject:
            case "slow":
                await asyncio.sleep(30)
            case "late":
                raise LFIRateLimitedError("429", retry_after=7200)
            case "wrong":
                raise StandardViolationError("nobody can read it")
            case "bug":
                raise ZeroDivisionError
            case "done":
                return Ended(None, "ended")
        return Ended(self.clock.now() + timedelta(hours=1), "asked")

    async def claimed(self, *subjects: str) -> list[tuple[int, int]]:
        async with self.store.writing() as unit:
            for subject in subjects:
                await unit.work.schedule(KIND, subject, lfi=NOOR, due_at=self.clock.now())
            claims = await unit.work.claim(KIND, slots={NOOR: 100})
            await unit.commit()
        return [(claim.id, claim.gen) for claim in claims]

    async def row(self, subject: str) -> WorkRow:
        async with self.store.reading() as unit:
            row = await unit.work.find(KIND, subject)
        assert row is not None
        return row

    async def end(self, subject: str) -> tuple[str | None, str | None, timedelta, int]:
        row = await self.row(subject)
        return row.last_outcome, row.last_error, row.due_at - self.clock.now(), row.attempts


@pytest.fixture
def desk(store: Store, clock: ManualClock) -> Desk:
    return Desk(store, clock)


async def test_each_claim_has_its_own_end(desk: Desk) -> None:
    """One good, one over, one refused, one told to wait, one bug, one hang: side by side in one batch."""
    hints = await desk.claimed("one", "done", "wrong", "late", "bug", "slow")

    report = await desk.handlers.batch(KIND, hints)

    assert report == HandledReport({"asked": 1, "ended": 1, "failed": 4}, stale=0)
    minute = timedelta(minutes=1)
    assert {name: await desk.end(name) for name in ("one", "done", "wrong", "late", "bug", "slow")} == {
        "one": ("asked", None, timedelta(hours=1), 0),
        "done": ("ended", None, NEVER - desk.clock.now(), 0),
        "wrong": ("failed", StandardViolationError.code, minute, 1),
        "late": ("failed", LFIRateLimitedError.code, timedelta(hours=2), 1),
        "bug": ("failed", "unexpected", minute, 1),
        "slow": ("failed", "deadline_exceeded", minute, 1),
    }


async def test_a_batch_delivered_twice_works_once(desk: Desk) -> None:
    """The second delivery finds no current claim."""
    hints = await desk.claimed("one")

    reports = [await desk.handlers.batch(KIND, hints) for _ in range(2)]

    assert (desk.seen, [report.stale for report in reports]) == (["one"], [0, 1])


async def test_a_batch_cut_by_shutdown_gives_its_claims_back(desk: Desk) -> None:
    """What it did not end is claimable at once, and no attempt is counted."""
    desk.handlers = Handlers(desk.store, {KIND: desk.handle}, retry_after=lambda n: timedelta(minutes=n))
    hints = await desk.claimed("slow", "one")
    running = asyncio.create_task(desk.handlers.batch(KIND, hints))
    while (await desk.row("one")).last_outcome is None:  # noqa: ASYNC110  a row of the database sets no event
        await asyncio.sleep(0.01)

    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    row = await desk.row("slow")
    assert (row.lease_until, row.attempts, row.crashes, (await desk.row("one")).last_outcome) == (None, 0, 0, "asked")


async def test_a_claim_may_be_less_patient_than_the_ladder(desk: Desk) -> None:
    """What it says is the most it waits after a bad end; what the LFI asks for counts all the same."""

    async def patience(_: Claim) -> timedelta:
        return timedelta(seconds=20)

    desk.handlers = Handlers(
        desk.store, {KIND: desk.handle}, retry_after=lambda n: timedelta(hours=n), patience={KIND: patience}
    )
    await desk.handlers.batch(KIND, await desk.claimed("wrong", "late"))

    waits = [(await desk.end(name))[2] for name in ("wrong", "late")]
    assert waits == [timedelta(seconds=20), timedelta(hours=2)]

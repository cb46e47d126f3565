"""Rows of `work`: claimed once, taken once, back when their lease runs out; on PostgreSQL and on SQLite."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest
import sqlalchemy as sa

from syncworker.consents.lifecycle import NEVER
from syncworker.standard.values import Slug
from syncworker.store.tables import lfi as lfi_table
from syncworker.store.tables import work
from syncworker.store.unit_of_work import Store
from syncworker.store.work import CRASHED, CRASHES_MAX, LEASE, Claim, WorkKind, WorkRow, WorkSummary
from tests.ground.clock import ManualClock

pytestmark = pytest.mark.store

NOOR, WAHA = Slug("noor"), Slug("waha")
SYNC, TOKEN = WorkKind.SYNC, WorkKind.TOKEN
HOUR = timedelta(hours=1)


class Desk:
    """What the tests do with the table, one committed transaction each."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store = store
        self.clock = clock

    async def due(self, *subjects: str, kind: WorkKind = SYNC, lfi: Slug = NOOR, ago: timedelta = HOUR) -> None:
        async with self.store.writing() as unit:
            for subject in subjects:
                await unit.work.schedule(kind, subject, lfi=lfi, due_at=self.clock.now() - ago)
            await unit.commit()

    async def claim(self, kind: WorkKind = SYNC, **slots: int) -> list[Claim]:
        async with self.store.writing() as unit:
            free = {Slug(name): most for name, most in (slots or {"noor": 100}).items()}
            claims = await unit.work.claim(kind, slots=free)
            await unit.commit()
        return claims

    async def take(self, claim: Claim) -> Claim | None:
        async with self.store.writing() as unit:
            taken = await unit.work.take(claim.id, claim.gen)
            await unit.commit()
        return taken

    async def begin(self, kind: WorkKind = SYNC) -> Claim:
        (claim,) = await self.claim(kind)
        taken = await self.take(claim)
        assert taken is not None
        return taken

    async def ask(self, subject: str, kind: WorkKind = SYNC) -> bool:
        async with self.store.writing() as unit:
            asked = await unit.work.ask_now(kind, subject)
            await unit.commit()
        return asked

    async def finish(self, claim: Claim, *, after: timedelta = HOUR, good: bool = True) -> bool:
        async with self.store.writing() as unit:
            ended = await unit.work.finish(
                claim,
                due_at=self.clock.now() + after,
                outcome="ok" if good else "failed",
                error=None if good else "lfi_unavailable",
                good=good,
            )
            await unit.commit()
        return ended

    async def row(self, subject: str, kind: WorkKind = SYNC) -> WorkRow:
        async with self.store.reading() as unit:
            row = await unit.work.find(kind, subject)
        assert row is not None
        return row


@pytest.fixture
def desk(store: Store, clock: ManualClock) -> Desk:
    return Desk(store, clock)


# -- claiming --------------------------------------------------------------------------------------------------------


async def test_a_due_row_is_claimed_with_a_new_generation(desk: Desk, clock: ManualClock) -> None:
    """A claim counts `gen` and `attempts` up and sets the lease by database time."""
    await desk.due("connection-1")

    (claim,) = await desk.claim()

    row = await desk.row("connection-1")
    assert claim == Claim(id=row.id, kind=SYNC, subject="connection-1", lfi=NOOR, gen=1, attempts=1, asked=False)
    assert (row.gen, row.attempts, row.lease_until) == (1, 1, clock.now() + LEASE)


async def test_only_what_is_due_is_claimed_oldest_first(desk: Desk) -> None:
    """Future rows, other kinds and LFIs without a slot keep waiting."""
    await desk.due("younger", ago=timedelta(minutes=1))
    await desk.due("older", ago=timedelta(hours=2))
    await desk.due("future", ago=timedelta(minutes=-1))
    await desk.due("a token", kind=TOKEN)
    await desk.due("elsewhere", lfi=WAHA)

    assert [claim.subject for claim in await desk.claim()] == ["older", "younger"]


async def test_open_claims_count_against_an_lfis_slots(desk: Desk) -> None:
    """Three slots, two in work: one more; each LFI has its own."""
    await desk.due(*(f"noor-{n}" for n in range(5)))
    await desk.due(*(f"waha-{n}" for n in range(5)), lfi=WAHA)
    first = await desk.claim(noor=2)

    second = await desk.claim(noor=3, waha=4)

    claimed = [claim.subject for claim in first + second]
    assert sorted(claimed) == ["noor-0", "noor-1", "noor-2", "waha-0", "waha-1", "waha-2", "waha-3"]


async def test_an_lfi_behind_its_gate_waits(desk: Desk, clock: ManualClock) -> None:
    """After a 429 nothing of that LFI is claimed before `not_before`."""
    await desk.due("connection-1")
    async with desk.store.writing() as unit:
        gate = {"not_before": clock.now() + timedelta(seconds=60)}
        row = {"tenant": unit.tenant, "slug": "noor", "declared": {}, "added_at": clock.now(), **gate}
        await unit.connection.execute(sa.insert(lfi_table).values(row))
        await unit.commit()
    before = await desk.claim()
    clock.advance(seconds=60)

    assert (before, [claim.subject for claim in await desk.claim()]) == ([], ["connection-1"])


async def test_one_subject_can_be_claimed_by_whoever_works_on_it(desk: Desk, clock: ManualClock) -> None:
    """Due or not; but not while somebody has it, and not when there is none."""
    await desk.due("connection-1", ago=-HOUR)
    async with desk.store.writing() as unit:
        claims = [await unit.work.claim_one(SYNC, subject) for subject in ("connection-1", "connection-1", "nobody")]
        await unit.commit()
    clock.advance(seconds=LEASE.total_seconds())
    async with desk.store.writing() as unit:
        again = await unit.work.claim_one(SYNC, "connection-1")
        await unit.commit()

    assert [claim and claim.gen for claim in (*claims, again)] == [1, None, None, 2]


async def test_dispatchers_never_claim_one_row_twice(
    database_url: str, open_store: Callable[..., Store], clock: ManualClock
) -> None:
    """Four dispatchers with stores of their own empty a table of 300 rows: every row once, with generation 1."""
    stores = [open_store(database_url) for _ in range(4)]
    await Desk(stores[0], clock).due(*(f"connection-{n}" for n in range(300)))

    claimed: list[Claim] = []

    async def dispatch(store: Store) -> None:
        async with asyncio.timeout(30):
            while len(claimed) < 300:  # who meets another dispatcher at work claims nothing, and ticks again
                async with store.writing() as unit:
                    claims = await unit.work.claim(SYNC, slots={NOOR: 10_000}, batch=20)
                    await asyncio.sleep(0.001)
                    await unit.commit()
                claimed.extend(claims)

    await asyncio.gather(*(dispatch(store) for store in stores))

    assert sorted(claim.subject for claim in claimed) == sorted(f"connection-{n}" for n in range(300))
    assert {claim.gen for claim in claimed} == {1}


async def test_slots_hold_although_dispatchers_race(
    database_url: str, open_store: Callable[..., Store], clock: ManualClock
) -> None:
    """Two beats ticking at the same moment do not claim an LFI's free slots twice."""
    stores = [open_store(database_url) for _ in range(4)]
    await Desk(stores[0], clock).due(*(f"connection-{n}" for n in range(50)))

    claims = await asyncio.gather(*(Desk(store, clock).claim(noor=7) for store in stores))

    assert sum(len(each) for each in claims) == 7


async def test_a_locked_row_is_passed_over(
    postgresql_url: str, open_store: Callable[..., Store], clock: ManualClock
) -> None:
    """PostgreSQL: a row somebody is just changing does not hold up the dispatcher; it is claimed by the next tick."""
    desk, other = Desk(open_store(postgresql_url), clock), open_store(postgresql_url)
    await desk.due("connection-1", "connection-2")
    async with other.writing() as unit:
        await unit.work.ask_now(SYNC, "connection-1")
        meanwhile = [claim.subject for claim in await desk.claim()]
        await unit.commit()

    afterwards = [claim.subject for claim in await desk.claim()]

    assert (meanwhile, afterwards) == (["connection-2"], ["connection-1"])


async def test_tenants_do_not_see_each_other(
    database_url: str, open_store: Callable[..., Store], clock: ManualClock
) -> None:
    """One tenant's dispatcher leaves the other's rows alone, and a stolen id opens nothing."""
    ours, theirs = Desk(open_store(database_url), clock), Desk(open_store(database_url, tenant="other"), clock)
    await ours.due("connection-1")

    not_theirs = await theirs.claim()
    (claim,) = await ours.claim()

    assert (not_theirs, await theirs.take(claim)) == ([], None)


# -- leases ----------------------------------------------------------------------------------------------------------


async def test_an_expired_lease_comes_back_with_the_next_generation(desk: Desk, clock: ManualClock) -> None:
    """A lost hint costs one lease: not earlier, and counted as no crash."""
    await desk.due("connection-1")
    await desk.claim()
    clock.advance(seconds=LEASE.total_seconds() - 1)
    early = await desk.claim()
    clock.advance(seconds=1)

    (again,) = await desk.claim()

    assert (early, again.gen, again.attempts) == ([], 2, 2)
    assert (await desk.row("connection-1")).crashes == 0


async def test_lost_hints_never_park_a_row(desk: Desk, clock: ManualClock) -> None:
    """A broker that loses everything for an hour is not the row's fault."""
    await desk.due("connection-1")
    for _ in range(CRASHES_MAX * 3):
        assert len(await desk.claim()) == 1
        clock.advance(seconds=LEASE.total_seconds())

    assert (await desk.row("connection-1")).parked_at is None


async def test_a_message_delivered_twice_is_taken_once(desk: Desk) -> None:
    """The second worker finds the claim begun and leaves."""
    await desk.due("connection-1")
    (claim,) = await desk.claim()

    assert (await desk.take(claim), await desk.take(claim)) == (claim, None)


async def test_a_stale_generation_is_skipped(desk: Desk, clock: ManualClock) -> None:
    """A hint that waited past its lease finds the row claimed anew."""
    await desk.due("connection-1")
    (old,) = await desk.claim()
    clock.advance(seconds=LEASE.total_seconds())
    (new,) = await desk.claim()

    assert (await desk.take(old), await desk.take(new)) == (None, new)


async def test_a_hint_whose_lease_ran_out_is_skipped(desk: Desk, clock: ManualClock) -> None:
    """Even when nobody has claimed the row anew yet: the next tick will."""
    await desk.due("connection-1")
    (claim,) = await desk.claim()
    clock.advance(seconds=LEASE.total_seconds())

    assert await desk.take(claim) is None


async def test_taking_a_batch_renews_leases_and_leaves_out_the_stale(desk: Desk, clock: ManualClock) -> None:
    """One statement for the batch; order kept; a repeated hint counts once."""
    await desk.due("connection-1", "connection-2", "connection-3")
    one, two, three = await desk.claim()
    clock.advance(seconds=100)
    async with desk.store.writing() as unit:
        hints = [(three.id, 1), (one.id, 1), (two.id, 9), (three.id, 1), (999_999, 1)]
        taken = await unit.work.take_many(hints)
        await unit.commit()

    assert taken == [three, one]
    assert (await desk.row("connection-3")).lease_until == clock.now() + LEASE


async def test_extending_keeps_the_row_ours(desk: Desk, clock: ManualClock) -> None:
    """A run of ten minutes extends its lease as it commits, and nobody else claims the row."""
    await desk.due("connection-1")
    claim = await desk.begin()
    kept = []
    for _ in range(6):
        clock.advance(seconds=100)
        async with desk.store.writing() as unit:
            kept.append(await unit.work.extend(claim))
            await unit.commit()
        assert await desk.claim() == []

    assert kept == [True] * 6


async def test_the_slower_run_changes_nothing(desk: Desk, clock: ManualClock) -> None:
    """Three times longer than its lease: it neither holds, extends nor ends the row that was claimed anew."""
    await desk.due("connection-1")
    slow = await desk.begin()
    clock.advance(seconds=3 * LEASE.total_seconds())
    fast = await desk.begin()
    async with desk.store.writing() as unit:
        slow_can = (
            await unit.work.holds(slow),
            await unit.work.extend(slow),
            await unit.work.extend_many([slow, fast]),
        )
        await unit.commit()

    assert slow_can == (False, False, {fast.id})
    assert (await desk.finish(slow), await desk.finish(fast), await desk.finish(fast)) == (False, True, False)


async def test_nobody_claims_while_a_holder_writes(
    postgresql_url: str, open_store: Callable[..., Store], clock: ManualClock
) -> None:
    """PostgreSQL: `holds` keeps the generation until the data is committed, even past the lease."""
    desk, other = Desk(open_store(postgresql_url), clock), Desk(open_store(postgresql_url), clock)
    await desk.due("connection-1")
    claim = await desk.begin()
    clock.advance(seconds=LEASE.total_seconds())
    async with desk.store.writing() as unit:
        held = await unit.work.holds(claim)
        meanwhile = await other.claim()
        await unit.commit()

    assert (held, meanwhile, [each.gen for each in await other.claim()]) == (True, [], [2])


# -- ends ------------------------------------------------------------------------------------------------------------


async def test_a_good_end_starts_the_counts_anew(desk: Desk, clock: ManualClock) -> None:
    """Lease gone, attempts and crashes at zero, due when the run said."""
    await desk.due("connection-1")
    claim = await desk.begin()

    assert await desk.finish(claim)

    row = await desk.row("connection-1")
    assert (row.lease_until, row.attempts, row.crashes, row.due_at) == (None, 0, 0, clock.now() + HOUR)
    assert (row.last_outcome, row.last_error, row.last_ended_at, row.last_good_at) == (
        "ok", None, clock.now(), clock.now(),
    )  # fmt: skip


async def test_bad_ends_count_attempts(desk: Desk, clock: ManualClock) -> None:
    """The retry ladder reads them; the last good end stays remembered; no crash is counted."""
    await desk.due("connection-1")
    good_at = clock.now()
    await desk.finish(await desk.begin(), after=timedelta())
    attempts = []
    for _ in range(3):
        clock.advance(minutes=1)
        claim = await desk.begin()
        attempts.append(claim.attempts)
        await desk.finish(claim, after=timedelta(), good=False)

    row = await desk.row("connection-1")
    assert attempts == [1, 2, 3]
    assert (row.last_good_at, row.last_outcome, row.last_error, row.crashes) == (
        good_at,
        "failed",
        "lfi_unavailable",
        0,
    )


async def test_claims_given_back_are_due_at_once(desk: Desk) -> None:
    """A worker that stops gives its claims back, begun or not, and nothing is counted."""
    await desk.due("connection-1", "connection-2")
    one, two = await desk.claim()
    await desk.take(one)
    async with desk.store.writing() as unit:
        hints = await unit.work.give_back_hints([(one.id, one.gen), (two.id, two.gen)])
        begun = await unit.work.give_back([one, two])
        await unit.commit()

    assert (hints, begun) == (1, 1)
    assert [(claim.gen, claim.attempts) for claim in await desk.claim()] == [(2, 1), (2, 1)]


# -- crashes ---------------------------------------------------------------------------------------------------------


async def test_a_row_that_kills_its_worker_is_parked_after_five_crashes(desk: Desk, clock: ManualClock) -> None:
    """Others run on; the parked one is claimed by nobody, and its last claim is stale."""
    await desk.due("poison")
    claims = []
    for _ in range(CRASHES_MAX):
        claims.append(await desk.begin())
        clock.advance(seconds=LEASE.total_seconds())
    await desk.due("healthy")

    after = [claim.subject for claim in await desk.claim()]

    row = await desk.row("poison")
    assert after == ["healthy"]
    assert (row.crashes, row.last_outcome, row.last_error, row.lease_until) == (CRASHES_MAX, "parked", CRASHED, None)
    assert row.parked_at == clock.now()
    assert await desk.finish(claims[-1]) is False


async def test_any_end_breaks_the_row_of_crashes(desk: Desk, clock: ManualClock) -> None:
    """Four crashes, a failure that was reported, four crashes: not parked."""
    await desk.due("connection-1")
    for _ in range(2):
        for _ in range(CRASHES_MAX - 1):
            await desk.begin()
            clock.advance(seconds=LEASE.total_seconds())
        await desk.finish(await desk.begin(), after=timedelta(), good=False)

    assert (await desk.row("connection-1")).parked_at is None


async def test_a_parked_row_waits_for_a_person(desk: Desk, clock: ManualClock) -> None:
    """`schedule` leaves it parked; `ask_now` brings it back with clean counts."""
    await desk.due("connection-1")
    row = await desk.row("connection-1")
    async with desk.store.writing() as unit:
        await unit.work.park(row.id)
        await unit.commit()
    await desk.due("connection-1")
    parked = await desk.claim()
    await desk.ask("connection-1")

    (claim,) = await desk.claim()

    assert (parked, claim.asked, claim.attempts) == ([], True, 1)


async def test_unparking_keeps_to_the_given_time(desk: Desk, clock: ManualClock) -> None:
    """A row put back for later is not due before; one that is not parked is left alone."""
    await desk.due("connection-1")
    row = await desk.row("connection-1")
    async with desk.store.writing() as unit:
        not_parked = await unit.work.unpark(SYNC, "connection-1", due_at=clock.now())
        await unit.work.park(row.id)
        back = await unit.work.unpark(SYNC, "connection-1", due_at=clock.now() + HOUR)
        await unit.commit()

    assert (not_parked, back, await desk.claim()) == (False, True, [])
    assert (await desk.row("connection-1")).due_at == clock.now() + HOUR


# -- asked for now ---------------------------------------------------------------------------------------------------


async def test_asking_makes_due_at_once(desk: Desk, clock: ManualClock) -> None:
    """The claim says that it was asked for, and the end of its run clears the wish."""
    await desk.due("connection-1", ago=-HOUR)
    assert await desk.ask("connection-1")

    claim = await desk.begin()
    await desk.finish(claim)

    row = await desk.row("connection-1")
    assert (claim.asked, row.asked_at, row.due_at) == (True, None, clock.now() + HOUR)


async def test_asking_for_what_is_not_there(desk: Desk) -> None:
    """No row, no wish."""
    assert await desk.ask("nobody") is False


async def test_asked_during_a_run_it_runs_once_more(desk: Desk, clock: ManualClock) -> None:
    """The run under way may have passed what is wanted; the next one serves the wish, and then it is done."""
    await desk.due("connection-1")
    first = await desk.begin()
    await desk.ask("connection-1")
    await desk.finish(first)

    second = await desk.begin()
    await desk.finish(second)

    assert (first.asked, second.asked) == (False, True)
    assert await desk.claim() == []


async def test_asked_before_a_claimed_row_is_begun_one_run_serves_it(desk: Desk) -> None:
    """Claimed but still in the queue: the run that begins now sees the wish, and nothing runs twice."""
    await desk.due("connection-1")
    (claim,) = await desk.claim()
    await desk.ask("connection-1")
    taken = await desk.take(claim)
    assert taken is not None
    await desk.finish(taken)

    assert (taken.asked, await desk.claim()) == (True, [])


async def test_a_wish_survives_a_crash(desk: Desk, clock: ManualClock) -> None:
    """The worker dies after it began; the next claim is still asked for."""
    await desk.due("connection-1", ago=-HOUR)
    await desk.ask("connection-1")
    await desk.begin()
    clock.advance(seconds=LEASE.total_seconds())

    assert (await desk.begin()).asked


async def test_scheduling_never_undoes_a_wish_or_a_claim(desk: Desk, clock: ManualClock) -> None:
    """A later due time set by somebody else leaves what was asked for due now, and an open claim open."""
    await desk.due("asked", "claimed")
    await desk.ask("asked")
    claimed = [claim for claim in await desk.claim() if claim.subject == "claimed"]
    await desk.due("asked", "claimed", ago=-HOUR)

    asked, other = await desk.row("asked"), await desk.row("claimed")
    assert asked.due_at == clock.now()
    assert (other.gen, other.lease_until, other.due_at) == (claimed[0].gen, clock.now() + LEASE, clock.now() + HOUR)


async def test_what_was_scheduled_during_a_run_outlives_its_end(desk: Desk, clock: ManualClock) -> None:
    """A successor's tokens arrive while the old consent's run is on, and that run ends with "never again"."""
    await desk.due("connection-1")
    old = await desk.begin()
    clock.advance(seconds=5)
    await desk.due("connection-1", ago=timedelta())
    clock.advance(seconds=5)
    await desk.finish(old, after=timedelta(days=1_000))

    first = await desk.begin()
    await desk.finish(first)

    assert (first.subject, await desk.claim()) == ("connection-1", [])


# -- what people ask -------------------------------------------------------------------------------------------------


async def test_the_summary_counts_every_lfi_and_kind(desk: Desk, clock: ManualClock) -> None:
    """Due, late, leased, parked; and when the next row falls due."""
    await desk.due("leased", ago=3 * HOUR)
    await desk.claim()
    await desk.due("late", ago=2 * HOUR)
    await desk.due("due", "parked")
    await desk.due("future", kind=TOKEN, lfi=WAHA, ago=-HOUR)
    parked = await desk.row("parked")
    async with desk.store.writing() as unit:
        await unit.work.park(parked.id)
        await unit.commit()
    async with desk.store.reading() as unit:
        summary = await unit.work.summary()
        next_due = (await unit.work.next_due(), await unit.work.next_due(TOKEN))

    assert summary == [
        WorkSummary(lfi=NOOR, kind=SYNC, rows=4, due=2, late=2 * HOUR, leased=1, parked=1),
        WorkSummary(
            lfi=WAHA, kind=TOKEN, rows=1, due=0, late=timedelta(), leased=0, parked=0, next_due=clock.now() + HOUR
        ),
    ]
    assert next_due == (clock.now() - 2 * HOUR, clock.now() + HOUR)


async def test_troubled_rows_are_those_that_did_not_end_well(desk: Desk, clock: ManualClock) -> None:
    """Parked first, then the longest without a good end; a good end, and a consent that ended, leave the list."""
    await desk.due("well", "mended", "failing", "worse", "ended", "parked")
    claims = {claim.subject: claim for claim in await desk.claim()}
    for claim in claims.values():
        assert await desk.take(claim) is not None
    for subject in ("well", "failing"):
        await desk.finish(claims[subject])
    clock.advance(hours=2)
    claims |= {claim.subject: claim for claim in await desk.claim()}
    for subject in ("mended", "failing", "worse", "ended", "parked"):
        taken = await desk.take(claims[subject])
        await desk.finish(taken or claims[subject], good=False)
    async with desk.store.writing() as unit:
        await unit.work.park(claims["parked"].id, error=CRASHED)
        await unit.work.schedule(SYNC, "ended", lfi=NOOR, due_at=NEVER)
        await unit.work.schedule(SYNC, "mended", lfi=NOOR, due_at=clock.now())
        await unit.commit()
    mended = next(claim for claim in await desk.claim() if claim.subject == "mended")
    assert await desk.take(mended) is not None
    await desk.finish(mended)

    async with desk.store.reading() as unit:
        troubled = [row.subject for row in await unit.work.troubled(SYNC)]
        (summary,) = await unit.work.summary()

    assert (troubled, summary.failing) == (["parked", "worse", "failing"], 2)


async def test_liveness_is_progress(desk: Desk, clock: ManualClock) -> None:
    """A process counts while it makes progress, whatever its process id says; one that leaves is gone at once."""
    async with desk.store.writing() as unit:
        await unit.work.beat("host-1", "worker")
        await unit.work.beat("host-2", "worker")
        await unit.work.beat("beat", "beat")
        await unit.commit()
    clock.advance(seconds=20)
    async with desk.store.writing() as unit:
        await unit.work.beat("host-1", "worker")
        await unit.commit()
        counts = [await unit.work.alive("worker", timedelta(seconds=seconds)) for seconds in (15, 30)]
        await unit.work.leave("host-1")
        await unit.commit()
        counts.append(await unit.work.alive("worker", timedelta(seconds=30)))

    assert counts == [1, 2, 1]


async def test_the_databases_own_clock_rules_without_a_test_clock(
    database_url: str, open_store: Callable[..., Store]
) -> None:
    """In production nobody's clock but the database's decides what is due and how long a lease lasts."""
    store = open_store(database_url, clock=None)
    async with store.writing() as unit:
        now = await unit.now()
        await unit.work.schedule(SYNC, "due", lfi=NOOR, due_at=now - timedelta(seconds=1))
        await unit.work.schedule(SYNC, "future", lfi=NOOR, due_at=now + HOUR)
        claims = await unit.work.claim(SYNC, slots={NOOR: 10})
        taken = [await unit.work.take(claim.id, claim.gen) for claim in claims]
        await unit.commit()
        lease_until = await unit.connection.scalar(sa.select(work.c.lease_until).where(work.c.subject == "due"))

    assert [claim and claim.subject for claim in taken] == ["due"]
    assert lease_until is not None
    assert LEASE <= lease_until - now <= LEASE + timedelta(seconds=30)

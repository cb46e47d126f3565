"""Refreshes that meet share their transactions, and one bad member harms no other (`reliability.md` rules 16 – 21)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import psycopg
import pytest
import sqlalchemy as sa

from syncworker.consents.tokens import Outcome, TokenBatchReport
from syncworker.errors import SealError
from syncworker.standard.values import ConsentId
from syncworker.store.failures import StoreRefusedError
from syncworker.store.tables import token
from syncworker.store.tokens import NewToken
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import WorkKind
from tests.consents.house import LEASE_S, LFI, Gate, House, token_due
from tests.ground.proxy import FaultProxy

pytestmark = pytest.mark.flow


async def nothing() -> None:
    """What happens at a meeting where nothing happens."""


@dataclass
class Meeting:
    """A checkpoint at which refreshes wait until so many have come and something has happened.

    Attributes:
        then: happens when the last has come, before anybody goes on.
    """

    name: str
    members: int
    then: Callable[[], Awaitable[object]] = nothing
    come: int = 0
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, name: str) -> None:
        if name != self.name:
            return
        self.come += 1
        if self.come == self.members:
            await self.then()
            self.opened.set()
        await self.opened.wait()


class Counting(Store):
    """A store that counts its writing transactions."""

    transactions = 0

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[UnitOfWork]:
        self.transactions += 1
        async with super().writing() as unit:
            yield unit


async def consented(house: House, count: int) -> list[ConsentId]:
    return [(await house.consented(user=number % 3)).consent_id for number in range(count)]


async def claimed(house: House) -> list[tuple[int, int]]:
    """The dispatcher's hints for every token, asked for now."""
    async with house.store.writing() as unit:
        for row in await unit.tokens.states():
            assert await unit.work.ask_now(WorkKind.TOKEN, row.consent_id)
        claims = await unit.work.claim(WorkKind.TOKEN, slots={LFI: 10})
        await unit.commit()
    return [(claim.id, claim.gen) for claim in claims]


async def versions(house: House, those: Sequence[ConsentId]) -> list[int]:
    return [(await house.token(one)).version for one in those]


async def outcomes(house: House, those: Sequence[ConsentId]) -> list[str | None]:
    """How the rows of work say that their last run ended."""
    async with house.store.reading() as unit:
        rows = [await unit.work.find(WorkKind.TOKEN, one) for one in those]
    assert [row for row in rows if row is None or row.lease_until is not None] == []
    return [row.last_outcome for row in rows if row is not None]


@pytest.fixture(params=["a test's clock", "the database's own"])
def counting(
    request: pytest.FixtureRequest, house: House, database_url: str, open_store: Callable[..., Store]
) -> Counting:
    """The house's database on a clock; on its own, statements go to PostgreSQL by its driver."""
    options = {} if "test" in request.param else {"clock": None}
    store = open_store(database_url, **options)
    store.__class__ = Counting
    assert isinstance(store, Counting)
    return store


async def test_a_batch_costs_three_transactions_however_many_it_refreshes(house: House, counting: Counting) -> None:
    """Claims taken; intents; answers with due times and ends.  All come at once here, so that they meet."""
    mine = await consented(house, 6)
    vault = await house.vault(counting, checkpoint=Meeting("answer-received", 6))
    hints = await claimed(house)
    counting.transactions = 0

    report = await vault.token_batch(hints)

    async with house.store.reading() as unit:
        rows = {one: await unit.work.find(WorkKind.TOKEN, one) for one in mine}
    tokens = {one: await house.token(one) for one in mine}
    dues = [
        token_due(one, held.issued_at, held.expires_at)
        for one, held in tokens.items()
        if held.issued_at and held.expires_at
    ]
    assert report == TokenBatchReport(outcomes={Outcome.ROTATED: 6}, stale=0)
    assert counting.transactions == 3
    assert [row and (row.due_at, row.lease_until, row.attempts) for row in rows.values()] == [
        (due, None, 0) for due in dues
    ]
    assert (await outcomes(house, mine), house.refreshes()) == (["rotated"] * 6, ["issued"] * 6)
    assert [(held.version, held.holder, held.in_doubt) for held in tokens.values()] == [(2, None, False)] * 6
    assert [await house.stored_is_current(one) for one in mine] == [True] * 6


async def test_nothing_is_sent_before_every_intent_it_shares_a_transaction_with_is_committed(house: House) -> None:
    """Whoever looks while they wait at the door to their calls finds each in doubt (rule 17)."""
    mine = await consented(house, 4)
    seen: list[tuple[bool, int]] = []
    asked: list[str] = []

    async def look() -> None:
        seen.extend([(held.in_doubt, held.attempts) for held in [await house.token(one) for one in mine]])
        asked.extend(house.refreshes())

    vault = await house.vault(checkpoint=Meeting("intent-committed", 4, look))

    await vault.token_batch(await claimed(house))

    assert (seen, asked) == ([(True, 1)] * 4, [])
    assert await versions(house, mine) == [2] * 4


async def test_one_whose_lease_somebody_holds_waits_alone(house: House) -> None:
    """The others are refreshed; it is busy, and its holder's lease is as it was."""
    mine = await consented(house, 4)
    async with house.store.writing() as unit:
        await unit.tokens.begin(mine[2], version=1, holder="another", lease=timedelta(seconds=LEASE_S))
        await unit.commit()
    before = await house.token(mine[2])
    vault = await house.vault(patience=5)

    report = await vault.token_batch(await claimed(house))

    assert report.outcomes == {Outcome.ROTATED: 3, Outcome.BUSY: 1}
    assert await versions(house, mine) == [2, 2, 1, 2]
    assert await house.token(mine[2]) == before


async def test_one_whose_seal_is_broken_fails_alone(house: House) -> None:
    """It is not sent; its row says why."""
    mine = await consented(house, 4)
    async with house.store.writing() as unit:
        condition = token.c.consent_id == mine[1]
        await unit.connection.execute(sa.update(token).where(condition).values(refresh_token=b"\x01nothing sealed"))
        await unit.commit()
    others = [mine[0], *mine[2:]]

    report = await (await house.vault()).token_batch(await claimed(house))

    async with house.store.reading() as unit:
        row = await unit.work.find(WorkKind.TOKEN, mine[1])
    assert row is not None
    assert (report, row.last_error) == (
        TokenBatchReport(outcomes={Outcome.ROTATED: 3}, stale=0, failed=1),
        SealError.code,
    )
    assert (await versions(house, others), house.refreshes(mine[1])) == ([2] * 3, [])


async def test_one_whose_version_moved_is_healed_and_keeps_its_spare(house: House) -> None:
    """Beside answers that are stored."""
    mine = await consented(house, 4)

    async def overtake() -> None:
        held = await house.token(mine[3])
        assert held.access_token is not None
        assert held.issued_at is not None
        assert held.expires_at is not None
        new = NewToken(
            access_token=held.access_token,
            refresh_token=held.refresh_token,
            issued_at=held.issued_at,
            expires_at=held.expires_at,
            certificate=held.certificate or "",
        )
        async with house.store.writing() as unit:
            assert await unit.tokens.swap(mine[3], version=1, new=new)
            await unit.commit()

    vault = await house.vault(checkpoint=Meeting("answer-received", 4, overtake))

    report = await vault.token_batch(await claimed(house))

    assert report.outcomes == {Outcome.ROTATED: 3, Outcome.HEALED: 1}
    assert [len((await house.token(one)).spares) for one in mine] == [0, 0, 0, 1]
    assert await versions(house, mine) == [2] * 4


async def test_one_whose_row_is_gone_stops_alone(house: House) -> None:
    """Its tokens were destroyed while it called."""
    mine = await consented(house, 4)

    async def destroy() -> None:
        async with house.store.writing() as unit:
            assert await unit.tokens.destroy(mine[0])
            await unit.commit()

    vault = await house.vault(checkpoint=Meeting("answer-received", 4, destroy))

    report = await vault.token_batch(await claimed(house))

    assert report.outcomes == {Outcome.ROTATED: 3, Outcome.STOPPED: 1}
    assert (await versions(house, mine[1:]), await outcomes(house, mine)) == (
        [2] * 3,
        ["stopped", "rotated", "rotated", "rotated"],
    )


async def test_one_whose_answer_says_more_is_followed_alone(house: House) -> None:
    """A suspension that came with one of the answers stops that consent; the others have nothing new to say."""
    mine = await consented(house, 4)
    house.bank.bank.suspend(mine[1])
    vault = await house.vault(checkpoint=Meeting("answer-received", 4))

    report = await vault.token_batch(await claimed(house))

    shown = [(await house.consent(one)).status for one in mine]
    assert report.outcomes == {Outcome.ROTATED: 4}
    assert (shown, await versions(house, mine)) == (["Authorized", "Suspended", "Authorized", "Authorized"], [2] * 4)


async def test_whose_consent_another_transaction_holds_waits_for_it_and_holds_up_nobody(
    house: House, postgresql_url: str, open_store: Callable[..., Store]
) -> None:
    """As where a sync writes while the tokens of its consent are refreshed; SQLite has one writer anyway."""
    house.store = open_store(postgresql_url)
    mine = await consented(house, 4)
    others = [*mine[:2], mine[3]]
    async with contextlib.AsyncExitStack() as holding:

        async def hold() -> None:
            unit = await holding.enter_async_context(house.store.writing())
            assert await unit.consents.get(mine[2], lock=True)

        vault = await house.vault(checkpoint=Meeting("answer-received", 4, hold))
        running = asyncio.create_task(vault.token_batch(await claimed(house)))
        async with asyncio.timeout(60):
            while await versions(house, others) != [2] * 3:  # noqa: ASYNC110  seen from outside
                await asyncio.sleep(0.01)
        meanwhile = await versions(house, [mine[2]])

    assert (meanwhile, (await running).outcomes) == ([1], {Outcome.ROTATED: 4})
    assert await house.stored_is_current(mine[2])


async def test_one_the_database_will_not_take_is_refused_alone(
    house: House, postgresql_url: str, open_store: Callable[..., Store]
) -> None:
    """The commit of the group fails; each of the others is stored, once, and nothing is asked of the bank again."""
    house.store = open_store(postgresql_url)
    mine = await consented(house, 4)
    with psycopg.connect(postgresql_url, autocommit=True) as admin:
        admin.execute(f"ALTER TABLE token ADD CHECK (consent_id <> '{mine[3]}' OR version < 2)")
    vault = await house.vault(checkpoint=Meeting("answer-received", 4))

    report = await vault.token_batch(await claimed(house))

    async with house.store.reading() as unit:
        row = await unit.work.find(WorkKind.TOKEN, mine[3])
    assert row is not None
    assert (report.outcomes, report.failed, row.last_error) == ({Outcome.ROTATED: 3}, 1, StoreRefusedError.code)
    assert (await versions(house, mine), house.refreshes()) == ([2, 2, 2, 1], ["issued"] * 4)
    assert (await house.token(mine[3])).in_doubt


async def test_an_end_of_a_claim_the_database_will_not_take_costs_no_token(
    house: House, postgresql_url: str, open_store: Callable[..., Store]
) -> None:
    """The tokens come first: they are stored without what goes with them."""
    house.store = open_store(postgresql_url)
    mine = await consented(house, 3)
    with psycopg.connect(postgresql_url, autocommit=True) as admin:
        admin.execute(f"ALTER TABLE work ADD CHECK (subject <> '{mine[1]}' OR last_outcome IS NULL)")
    vault = await house.vault(checkpoint=Meeting("answer-received", 3))

    report = await vault.token_batch(await claimed(house))

    assert (report.outcomes, await versions(house, mine)) == ({Outcome.ROTATED: 3}, [2] * 3)
    assert [await house.stored_is_current(one) for one in mine] == [True] * 3


async def test_a_database_away_at_a_groups_commit_delays_its_tokens_and_loses_none(
    house: House,
    postgresql_url: str,
    open_store: Callable[..., Store],
    fault_proxy: Callable[[str | int], Awaitable[FaultProxy]],
) -> None:
    """Every answer is held until the database takes it; none is asked for twice."""
    house.store = open_store(postgresql_url)
    mine = await consented(house, 4)
    proxy = await fault_proxy(postgresql_url)
    tries = 0

    async def sleep(_: float) -> None:
        nonlocal tries
        tries += 1
        if tries == 8:
            await proxy.heal()
        await asyncio.sleep(0.01)

    vault = await house.vault(
        open_store(proxy.url(postgresql_url)), sleep=sleep, checkpoint=Meeting("answer-received", 4, proxy.refuse)
    )

    report = await vault.token_batch(await claimed(house))

    assert (report.outcomes, house.refreshes()) == ({Outcome.ROTATED: 4}, ["issued"] * 4)
    assert await versions(house, mine) == [2] * 4
    assert [await house.stored_is_current(one) for one in mine] == [True] * 4


async def test_a_groups_commit_whose_confirmation_was_lost_is_recognised_by_each(
    house: House,
    postgresql_url: str,
    open_store: Callable[..., Store],
    fault_proxy: Callable[[str | int], Awaitable[FaultProxy]],
) -> None:
    """Tried again, each finds its own token stored: no spare, no second version, claims ended once."""
    house.store = open_store(postgresql_url)
    mine = await consented(house, 4)
    hints = await claimed(house)
    proxy = await fault_proxy(postgresql_url)
    with psycopg.connect(postgresql_url, autocommit=True) as watcher:

        def committed() -> bool:
            row = watcher.execute("SELECT count(*) FROM token WHERE version = 2").fetchone()
            return row is not None and row[0] == 4

        proxy.cut_answer_when(committed)
        vault = await house.vault(
            open_store(proxy.url(postgresql_url)),
            sleep=lambda _: asyncio.sleep(0),
            checkpoint=Meeting("answer-received", 4),
        )
        report = await vault.token_batch(hints)

    tokens = [await house.token(one) for one in mine]
    assert (proxy.answers_lost, report.outcomes) == (1, {Outcome.ROTATED: 4})
    assert [(held.version, held.spares, held.holder) for held in tokens] == [(2, (), None)] * 4
    assert await outcomes(house, mine) == ["rotated"] * 4
    assert [await house.stored_is_current(one) for one in mine] == [True] * 4


async def test_a_batch_called_off_at_its_commit_stores_every_answer(house: House) -> None:
    """Its claims are due again at once, and what the bank gave out is kept."""
    mine = await consented(house, 4)
    gate = Gate("answer-received")
    vault = await house.vault(checkpoint=gate)
    running = asyncio.create_task(vault.token_batch(await claimed(house)))
    async with asyncio.timeout(60):
        while house.refreshes() != ["issued"] * 4:  # noqa: ASYNC110  seen from outside
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    gate.opened.set()
    await vault.drain()

    async with house.store.reading() as unit:
        rows = [await unit.work.find(WorkKind.TOKEN, one) for one in mine]
    assert [row and (row.lease_until, row.crashes, row.last_outcome) for row in rows] == [(None, 0, None)] * 4
    assert [await house.stored_is_current(one) for one in mine] == [True] * 4

"""A statement handed to the driver says what SQLAlchemy's own way says, in the same transaction."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store.calls import CallRow
from syncworker.store.consents import Connection, StoredConsent
from syncworker.store.failures import StoreRefusedError
from syncworker.store.keyring import KeyRing
from syncworker.store.runs import RunRow
from syncworker.store.situations import before_call, before_syncs, before_writes
from syncworker.store.statements import Statement, named, run_all
from syncworker.store.tables import connection, work
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import Claim, WorkKind
from tests.ground.clock import ManualClock

pytestmark = pytest.mark.store

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
CONSENT = StoredConsent(
    consent_id=ConsentId("consent-1"), connection_id=ConsentId("consent-1"), lfi=Slug("bank"), user_ref="user",
    version=Version.V2_1, status="Authorized", status_updated_at=NOW, status_seen_at=NOW, permissions=("ReadBalances",),
    expires_at=NOW + timedelta(days=900), user_type="Retail", purpose="AccountAggregation", created_at=NOW,
    raw={"ConsentId": "consent-1"},
)  # fmt: skip


@pytest.fixture(params=["driver", "sqlalchemy"])
async def own_store(request: pytest.FixtureRequest, postgresql_url: str, keyring: KeyRing) -> AsyncIterator[Store]:
    """A PostgreSQL store on the database's clock, which goes by the driver, or on a test's, which does not."""
    clock = ManualClock() if request.param == "sqlalchemy" else None
    store = Store(postgresql_url, keyring=keyring, clock=clock)
    async with store.writing() as unit:
        await unit.consents.add_connection(
            Connection(connection_id=CONSENT.connection_id, lfi=CONSENT.lfi, user_ref="user", created_at=NOW)
        )
        await unit.consents.add(CONSENT)
        await unit.work.schedule(WorkKind.SYNC, CONSENT.connection_id, lfi=CONSENT.lfi, due_at=NOW)
        await unit.commit()
    yield store
    await store.close()


async def test_values_come_back_in_their_types(own_store: Store) -> None:
    """Instants aware and UTC, JSON as it was, enums and tuples: the very object that was stored."""
    async with own_store.reading() as unit:
        assert await unit.consents.get(CONSENT.consent_id) == CONSENT


async def test_what_is_read_together_is_what_is_read_one_by_one(own_store: Store) -> None:
    """One trip, the same answers."""
    async with own_store.reading() as unit:
        sync = (await before_syncs(unit, [CONSENT.connection_id]))[CONSENT.connection_id]
        consent, token, now = await before_call(unit, CONSENT.consent_id)
        alone = (await unit.consents.live(CONSENT.connection_id), await unit.cursors.of(CONSENT.connection_id))

    assert (sync[:3], consent, token, now.tzinfo) == ((*alone, frozenset()), CONSENT, None, UTC)


async def test_a_claim_that_holds_and_one_that_does_not(own_store: Store) -> None:
    """The row's newest generation alone."""
    async with own_store.writing() as unit:
        claim = await unit.work.claim_one(WorkKind.SYNC, CONSENT.connection_id)
        assert claim is not None
        older = Claim(claim.id, claim.kind, claim.subject, claim.lfi, claim.gen - 1)
        held = [(await before_writes(unit, [(CONSENT.consent_id, one)]))[1] for one in (claim, older)]

    assert held == [{claim.id}, frozenset()]


async def test_without_commit_nothing_stays(own_store: Store) -> None:
    """A write through the driver belongs to the transaction that is open around it, also when it is its first."""
    async with own_store.writing() as unit:
        await unit.consents.data_received(CONSENT.connection_id, at=NOW)
    async with own_store.reading() as unit:
        dropped = await unit.consents.connection(CONSENT.connection_id)
    async with own_store.writing() as unit:
        await unit.consents.data_received(CONSENT.connection_id, at=NOW)
        await unit.commit()
    async with own_store.reading() as unit:
        kept = await unit.consents.connection(CONSENT.connection_id)

    assert [one and one.last_data_at for one in (dropped, kept)] == [None, NOW]


async def test_a_second_transaction_of_one_unit_commits_too(own_store: Store) -> None:
    """A unit may commit, write again and commit again."""
    async with own_store.writing() as unit:
        await unit.consents.data_received(CONSENT.connection_id, at=NOW)
        await unit.commit()
        await unit.consents.data_received(CONSENT.connection_id, at=NOW + timedelta(days=1))
        await unit.commit()
    async with own_store.reading() as unit:
        found = await unit.consents.connection(CONSENT.connection_id)

    assert found is not None
    assert found.last_data_at == NOW + timedelta(days=1)


async def test_a_refusal_is_ours_and_shows_no_value(own_store: Store) -> None:
    """Also when it came in a row of statements."""
    add = Statement(
        lambda _: sa.insert(connection).values(
            {name: named(connection.c[name]) for name in ("tenant", "connection_id", "lfi", "user_ref", "created_at")}
        )
    )
    row = {"tenant": "default", "connection_id": "consent-1", "lfi": "bank", "user_ref": "secret", "created_at": NOW}
    with pytest.raises(StoreRefusedError) as refused:
        async with own_store.writing() as unit:
            await run_all(unit, [(add, row | {"connection_id": "other"}), (add, row)])

    assert ("UniqueViolation" in str(refused.value), "secret" in str(refused.value)) == (True, False)


async def test_a_missing_parameter_is_an_error(own_store: Store) -> None:
    """Not a NULL that nobody meant."""
    find = Statement(lambda _: sa.select(work.c.id).where(work.c.subject == named(work.c.subject)))
    with pytest.raises((KeyError, StoreRefusedError, sa.exc.StatementError)):
        async with own_store.reading() as unit:
            await find.run(unit)


async def test_what_goes_with_the_commit_holds_with_it_or_not_at_all(own_store: Store) -> None:
    """Nothing of it without a commit, all of it with one; who wants to see it before sends it."""
    async with own_store.writing() as unit:
        unit.with_commit([unit.consents.receiving([CONSENT.connection_id], at=NOW)])
    async with own_store.reading() as unit:
        dropped = await unit.consents.connection(CONSENT.connection_id)
    async with own_store.writing() as unit:
        unit.with_commit([unit.consents.receiving([CONSENT.connection_id], at=NOW)])
        await unit.send()
        seen = await unit.consents.connection(CONSENT.connection_id)
        unit.with_commit([unit.consents.receiving([CONSENT.connection_id], at=NOW + timedelta(hours=1))])
        await unit.commit()
    async with own_store.reading() as unit:
        kept = await unit.consents.connection(CONSENT.connection_id)

    assert [one and one.last_data_at for one in (dropped, seen, kept)] == [None, NOW, NOW + timedelta(hours=1)]


async def test_what_fails_with_the_commit_fails_the_whole_transaction(own_store: Store) -> None:
    """Neither what was written before it, nor what travels beside it."""
    twice = Statement(
        lambda _: sa.insert(connection).from_select(
            ["tenant", "connection_id", "lfi", "user_ref", "created_at"],
            sa.select(*(connection.c[name] for name in ("tenant", "connection_id", "lfi", "user_ref", "created_at"))),
        )
    )

    async def step(unit: UnitOfWork) -> None:
        await unit.work.schedule(WorkKind.TOKEN, CONSENT.consent_id, lfi=CONSENT.lfi, due_at=NOW)
        unit.with_commit([unit.consents.receiving([CONSENT.connection_id], at=NOW), (twice, {})])

    with pytest.raises(StoreRefusedError):
        await own_store.atomically(step)
    async with own_store.reading() as unit:
        held = await unit.consents.connection(CONSENT.connection_id)
        scheduled = await unit.work.find(WorkKind.TOKEN, CONSENT.consent_id)

    assert (held and held.last_data_at, scheduled) == (None, None)


@pytest.mark.parametrize("times", [0, 2])
async def test_a_run_is_filed_with_its_calls(own_store: Store, times: int) -> None:
    """One statement, the same rows, the calls in their order."""
    run = RunRow(
        connection_id=CONSENT.connection_id, consent_id=CONSENT.consent_id, lfi=CONSENT.lfi, gen=1, started_at=NOW,
        ended_at=NOW, outcome="ok", error=None, calls=times, pages=times, pages_unchanged=0, added=1, modified=0,
        removed=0, steps=[{"resource": "accounts", "outcome": "ok"}],
    )  # fmt: skip
    calls = [
        CallRow(
            lfi=CONSENT.lfi, consent_id=CONSENT.consent_id, operation="GetAccounts", status=200, error=None,
            interaction_id=f"interaction-{number}", started_at=NOW, duration_ms=1, bytes_in=2, attended=False,
            price_millifils=3,
        )
        for number in range(times)
    ]  # fmt: skip
    async with own_store.writing() as unit:
        await unit.runs.file([(run, calls)])
        await unit.commit()
    async with own_store.reading() as unit:
        (filed,) = await unit.runs.find()
        assert (filed.run, await unit.runs.calls_of(filed)) == (run, calls)

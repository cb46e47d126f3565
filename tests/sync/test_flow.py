"""From bank to table, over real mTLS, proved against the bank's own books."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from syncworker.consents.lifecycle import NEVER
from syncworker.standard.permissions import Permission
from syncworker.standard.resources import ResourceName
from syncworker.store.counters import RowCounters
from syncworker.store.unit_of_work import Store
from syncworker.store.work import Claim
from syncworker.sync.engine import Engine, Parts
from syncworker.sync.reports import RunOutcome, StepOutcome
from tests.ground.proxy import FaultProxy
from tests.sync.house import LFI, SETTINGS, Product

pytestmark = pytest.mark.flow

N = ResourceName
Opener = Callable[..., Awaitable[Product]]


async def test_the_first_sync_brings_everything(product: Product) -> None:
    """Keys, typed columns and raw items of two customers, strays included: no difference to the bank's books."""
    connections = [await product.consented(0), await product.consented(1)]
    report = await product.sync_all(*connections)
    assert (report.outcomes, await product.differences()) == ({"ok": 2}, ())


async def test_an_unchanged_sync_asks_the_same_and_writes_no_row(product: Product) -> None:
    """By the database's own counters; every listing was asked for again."""
    connection = await product.consented()
    counters = RowCounters(product.store)
    await counters.install()
    await product.sync(connection)
    await product.report_statistics()
    first, begin, before = product.answered(), product.mark(), await counters.read()
    product.clock.advance(hours=1)
    report = await product.sync(connection)
    assert report.outcome is RunOutcome.UNCHANGED
    assert set(product.answered(begin)) == set(first)
    await product.report_statistics()
    assert await counters.read() == before


async def test_a_third_sync_is_recognised_by_its_pages(product: Product) -> None:
    """Nothing is decoded: every page's digest is known, and the requests are those of the second."""
    connection = await product.consented()
    await product.sync(connection)
    begin = product.mark()
    await product.sync(connection)
    second, begin = product.gets(begin), product.mark()
    report = await product.sync(connection)
    assert (report.total("pages_unchanged"), product.gets(begin)) == (report.total("pages"), second)


async def test_what_changes_at_the_bank_appears(product: Product) -> None:
    """A new transaction, another balance, another nickname; and the feed says so."""
    connection = await product.consented()
    await product.sync(connection)
    account = product.bank.bank.account_of(product.bank.users[0]).account_id
    product.clock.advance(hours=1)
    product.bank.bank.insert_transaction(account, amount="42.75")
    product.bank.bank.change_balance(account, amount="-17.125")
    product.bank.bank.rename_account(account, "سفر")
    report = await product.sync(connection)
    assert (report.total("added"), report.total("modified"), await product.differences()) == (1, 2, ())


async def test_a_pending_payment_is_booked(product: Product) -> None:
    """The same TransactionId, another status: one row, modified."""
    connection = await product.consented()
    await product.sync(connection)
    account = product.bank.bank.account_of(product.bank.users[0]).account_id
    product.bank.bank.insert_transaction(account, amount="5", transaction_id="P-1", status="Pending")
    await product.sync(connection)
    product.clock.advance(days=1)
    product.bank.bank.book(account, "P-1")
    report = await product.sync(connection)
    assert ((await product.row("P-1")).columns["status"], report.total("added")) == ("Booked", 0)
    assert await product.differences() == ()


async def test_a_pending_payment_that_is_dropped_is_gone(product: Product) -> None:
    """Kept as a tombstone."""
    connection = await product.consented()
    account = product.bank.bank.account_of(product.bank.users[0]).account_id
    product.bank.bank.insert_transaction(account, amount="5", transaction_id="P-1", status="Pending")
    await product.sync(connection)
    product.bank.bank.drop_transaction(account, "P-1")
    product.clock.advance(seconds=1)
    await product.sync(connection)
    assert (await product.row("P-1")).gone_at == product.clock.now()
    assert await product.differences() == ()


async def test_a_party_the_bank_stops_listing_is_gone_and_comes_back(product: Product) -> None:
    """Absence from a complete listing is a tombstone; its return revives it."""
    connection = await product.consented()
    bank, account = product.bank.bank, product.bank.bank.account_of(product.bank.users[0]).account_id
    party = bank.add_party(account, product.bank.users[1])
    await product.sync(connection)
    bank.remove_party(account, party)
    product.clock.advance(seconds=1)
    await product.sync(connection)
    gone = (await product.row(party)).gone_at
    bank.add_party(account, product.bank.users[1])
    await product.sync(connection)
    assert (gone, (await product.row(party)).gone_at) == (product.clock.now(), None)
    assert await product.differences() == ()


async def test_one_failing_listing_leaves_the_others(product: Product) -> None:
    """A value in the run's report; it is due again soon, the others keep their cadence."""
    connection = await product.consented()
    account = product.bank.bank.account_of(product.bank.users[0]).account_id
    await product.sync(connection)
    product.bank.bank.insert_transaction(account, amount="1")
    product.bank.bank.change_balance(account, amount="1")
    product.bank.bank.truncated("balances", times=None)
    report = await product.sync(connection)
    outcomes = {step.resource: step.outcome for step in report.steps if step.account_id == account}
    assert (report.outcome, outcomes[N.BALANCES], outcomes[N.TRANSACTIONS]) == (
        RunOutcome.PARTIAL, StepOutcome.FAILED, StepOutcome.OK,
    )  # fmt: skip
    assert (await product.work(connection)).due_at == product.clock.now() + timedelta(minutes=1)
    product.bank.bank.clear_faults()
    product.clock.advance(minutes=1)
    again = await product.sync(connection, asked=False)
    assert {step.resource for step in again.steps} == {N.BALANCES}
    assert await product.differences() == ()


async def test_only_what_is_due_is_asked(product: Product) -> None:
    """Six hours later balances alone, and the work is due with the next listing."""
    connection = await product.consented()
    await product.sync(connection)
    due_at, begin = (await product.work(connection)).due_at, product.mark()
    product.clock.advance(hours=6)
    await product.sync(connection, asked=False)
    assert due_at == product.clock.now()
    assert {operation for operation, _ in product.gets(begin)} == {"balances"}


async def test_a_token_that_ends_between_pages_is_replaced(open_product: Opener) -> None:
    """A long walk outlives a token: each page asks for a live one, and no request carries a dead one."""
    product = await open_product(page_size=40, settings=replace(SETTINGS, steps_at_once=1))

    async def later(_resource: ResourceName, _number: int) -> None:
        product.clock.advance(minutes=4)

    product.between = later
    connection = await product.consented()
    report = await product.sync(connection)
    expired = [entry for entry in product.bank.bank.log.served() if entry.token_expired]
    assert (report.outcome, expired) == (RunOutcome.OK, [])
    product.between = None
    assert await product.differences() == ()


async def test_a_token_refused_by_the_bank_is_replaced_once(product: Product) -> None:
    """401 to a good token: a newer one, the same request again."""
    connection = await product.consented()
    product.bank.bank.answers(401, operation="accounts", times=1)
    report = await product.sync(connection)
    assert (report.outcome, await product.differences()) == (RunOutcome.OK, ())


async def test_what_an_account_has_not_is_remembered(product: Product) -> None:
    """A 404 that the operation lists is no error of the run; for a week it is asked for only when a person asks."""
    connection = await product.consented()
    product.bank.bank.answers(404, operation="direct_debits")
    report = await product.sync(connection)
    begin = product.mark()
    product.clock.advance(days=6)
    await product.sync(connection, asked=False)
    by_itself, begin = {operation for operation, _ in product.gets(begin)}, product.mark()
    await product.sync(connection)
    assert (report.outcome, {step.outcome for step in report.steps}) == (
        RunOutcome.OK, {StepOutcome.OK, StepOutcome.ABSENT, StepOutcome.UNCHANGED},
    )  # fmt: skip
    assert ("direct_debits" in by_itself, "direct_debits" in {operation for operation, _ in product.gets(begin)}) == (
        False,
        True,
    )


async def test_a_refusal_asks_for_the_consent_and_is_remembered(product: Product) -> None:
    """403 on one listing while the consent stands: the others go on, nothing is buried; a person has to look."""
    connection = await product.consented()
    await product.sync(connection)
    held = len(await product.rows())
    product.bank.bank.answers(403, operation="balances", code="AccessToken.InvalidScope")
    begin = product.mark()
    report = await product.sync(connection)
    asked = [entry for entry in product.bank.bank.log.served(begin) if entry.operation.startswith("consent")]
    assert (report.outcome, report.complete, report.retry, report.person, len(asked), len(await product.rows())) == (
        RunOutcome.PARTIAL, False, False, True, 1, held,
    )  # fmt: skip


async def test_a_revoked_consent_stops_the_run_and_nothing_is_written(product: Product) -> None:
    """The Hub is asked, the status filed, the tokens destroyed; no row after that, none buried."""
    connection = await product.consented()
    await product.sync(connection)
    before = [(row.key, row.gen, row.gone_at) for row in await product.rows()]
    account = product.bank.bank.account_of(product.bank.users[0]).account_id
    product.bank.bank.insert_transaction(account, amount="1")
    product.bank.bank.revoke(connection)
    report = await product.sync(connection)
    async with product.store.reading() as unit:
        consent, token = await unit.consents.get(connection), await unit.tokens.read(connection)
    assert consent is not None
    assert (report.outcome, consent.status, token and token.access_token) == (RunOutcome.FAILED, "Revoked", None)
    assert [(row.key, row.gen, row.gone_at) for row in await product.rows()] == before
    assert (await product.work(connection)).due_at == NEVER


async def test_a_revocation_seen_in_the_middle_of_a_walk_stops_the_writing(product: Product) -> None:
    """Another part of the process hears of it while pages come in: what came is dropped."""
    connection = await product.consented()

    async def revoked(resource: ResourceName, _number: int) -> None:
        if resource is N.TRANSACTIONS:
            product.bank.bank.revoke(connection)
            await product.lifecycle.ask(connection)

    product.between = revoked
    report = await product.sync(connection)
    assert (report.outcome, await product.rows(gone=True)) == (RunOutcome.FAILED, [])


async def test_a_run_that_lost_its_lease_writes_nothing(product: Product) -> None:
    """A pause beyond the lease, a newer claim meanwhile: the older run's walk is dropped, its calls are on file."""
    connection = await product.consented()
    newer: list[Claim] = []

    async def paused(resource: ResourceName, _number: int) -> None:
        if resource is N.ACCOUNTS and not newer:
            product.clock.advance(minutes=5)
            newer.extend(await product.claimed(connection))

    product.between = paused
    report = await product.sync(connection)
    async with product.store.reading() as unit:
        calls, _price = await unit.runs.cost()
    assert (report.outcome, await product.rows(gone=True), calls > 0) == (RunOutcome.LEASE_LOST, [], True)
    assert (await product.work(connection)).gen == newer[0].gen


async def test_a_bank_that_wants_us_to_wait_is_left_alone(product: Product) -> None:
    """429 stops the run, closes the whole LFI's gate, and the work is due when it opens."""
    first, second = await product.consented(0), await product.consented(1)
    product.bank.bank.answers(429, retry_after=90, operation="accounts", times=1)
    await product.sync(first)
    begin = product.mark()
    report = await product.sync_all(second)
    async with product.store.reading() as unit:
        gates = await unit.lfis.gates()
    assert gates == {LFI: product.clock.now() + timedelta(seconds=90)}
    assert (await product.work(first)).due_at == gates[LFI]
    assert (report.runs, product.gets(begin)) == ((), {})


async def test_a_wait_without_a_length_is_a_minute_for_the_whole_lfi(product: Product) -> None:
    """However many bad ends the consent that met it has had."""
    connection = await product.consented()
    product.bank.bank.answers(503, operation="accounts", times=None)
    for _ in range(5):
        await product.sync(connection)
    product.bank.bank.clear_faults()
    product.bank.bank.answers(429, retry_after=None, operation="accounts", times=1)
    await product.sync(connection)
    async with product.store.reading() as unit:
        gates = await unit.lfis.gates()
    assert gates == {LFI: product.clock.now() + timedelta(seconds=60)}


async def test_a_consent_for_the_party_alone_calls_nothing_else(product: Product) -> None:
    """Without ReadAccounts* there is no AccountId to ask with."""
    connection = await product.consented(permissions=(Permission.ReadPartyUser,))
    begin = product.mark()
    await product.sync(connection)
    assert set(product.gets(begin)) == {("parties", None)}
    assert await product.differences() == ()


async def test_dates_of_the_consent_limit_the_walk(product: Product) -> None:
    """FromDate and ToDate are asked for a day wider, and what the bank shows is what we hold."""
    today = product.clock.now().date()
    connection = await product.consented(from_date=today - timedelta(days=40), to_date=today - timedelta(days=5))
    await product.sync(connection)
    await product.sync(connection)
    assert await product.differences() == ()


async def test_every_call_is_priced(product: Product) -> None:
    """2.5 fils for each data GET that was answered; one row for the run."""
    connection = await product.consented()
    report = await product.sync(connection)
    async with product.store.reading() as unit:
        calls, (_, price) = await unit.runs.calls_of_runs(), await unit.runs.cost()
        (run,) = await unit.runs.latest(connection)
        kept = await unit.consents.connection(connection)
    assert kept is not None
    answered = product.answered().total()
    assert (calls, price, run.outcome, run.calls) == (report.calls, 2_500 * answered, "ok", report.calls)
    assert kept.last_data_at == product.clock.now()


async def test_a_large_first_sync_is_written_in_parts(open_product: Opener) -> None:
    """Each part holds whole listings with their cursors; the end is the same."""
    settings = replace(SETTINGS, flush_bytes=1)
    product = await open_product(settings=settings)
    connection = await product.consented()
    report = await product.sync(connection)
    assert (report.outcome, await product.differences()) == (RunOutcome.OK, ())


async def test_the_deadline_ends_a_run_and_keeps_what_came(open_product: Opener) -> None:
    """A bank that hangs on one listing does not keep the others from their tables."""
    product = await open_product(settings=replace(SETTINGS, consent_deadline_s=1.5))
    connection = await product.consented()
    product.bank.bank.hang("balances", times=None)
    report = await product.sync(connection)
    assert (report.outcome, report.error) == (RunOutcome.PARTIAL, "consent_deadline")
    assert {row.resource for row in await product.rows()} >= {N.ACCOUNTS, N.TRANSACTIONS}


async def test_a_batch_survives_one_bad_consent(product: Product) -> None:
    """One customer's bank side is broken: the other's data comes all the same."""
    bad, good = await product.consented(0), await product.consented(1)
    product.bank.bank.answers(500, consent_id=bad)
    report = await product.sync_all(bad, good)
    assert {run.connection_id: run.outcome for run in report.runs} == {bad: RunOutcome.FAILED, good: RunOutcome.OK}


async def test_a_bug_is_logged_without_the_values_it_met(product: Product, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither its text nor the variables around it, whatever renders the log; where it struck is there."""
    connection = await product.consented()

    async def stumble(_resource: ResourceName, _number: int) -> None:
        iban = "-".join(("AE07", "MARKED"))
        raise ValueError(iban)

    product.between = stumble
    report = await product.sync(connection)
    said = "".join(capfd.readouterr())
    assert (report.outcome, report.error) == (RunOutcome.FAILED, "unexpected")
    assert ("AE07-MARKED" in said, "ValueError" in said, "in stumble" in said) == (False, True, True)


async def test_a_lease_lost_in_the_middle_ends_the_run(open_product: Opener) -> None:
    """Leases are renewed while a run lasts; one that is no longer ours stops its run, long before its deadline."""
    product = await open_product(settings=replace(SETTINGS, lease_s=0.6))
    connection = await product.consented()
    product.bank.bank.hang("accounts", times=None)
    running = asyncio.create_task(product.sync(connection))
    await product.asked_for_data()
    product.clock.advance(minutes=5)
    (newer,) = await product.claimed(connection)
    async with asyncio.timeout(5):
        report = await running
    assert (report.outcome, (await product.work(connection)).gen) == (RunOutcome.LEASE_LOST, newer.gen)


async def test_a_lease_lost_while_waiting_for_a_turn_leaves_the_others(open_product: Opener) -> None:
    """The second claim of a batch is taken away before its turn: the first goes on to its end."""
    product = await open_product(settings=replace(SETTINGS, lease_s=0.3, consents_at_once=1))
    first, second = await product.consented(0), await product.consented(1)
    product.bank.bank.latency(0.5, "accounts")
    claims = sorted(await product.claimed(first, second), key=lambda one: one.subject != first)
    running = asyncio.create_task(product.engine.sync_batch([(claim.id, claim.gen) for claim in claims]))
    await product.asked_for_data()
    async with product.store.writing() as unit:
        await unit.work.give_back([claim for claim in claims if claim.subject == second])
        await unit.commit()
    report = await running
    assert {run.connection_id: run.outcome for run in report.runs} == {
        first: RunOutcome.OK,
        second: RunOutcome.LEASE_LOST,
    }


async def test_a_batch_cut_short_is_due_again_at_once(product: Product) -> None:
    """A shutdown costs neither a lease nor a crash."""
    connection = await product.consented()
    product.bank.bank.hang("accounts", times=None)
    running = asyncio.create_task(product.sync(connection))
    await product.asked_for_data()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    row = await product.work(connection)
    (again,) = await product.claimed(connection)
    assert (row.lease_until, row.crashes, again.gen, again.attempts) == (None, 0, row.gen + 1, 1)


async def test_a_lease_is_renewed_while_its_run_lasts(open_product: Opener) -> None:
    """The bank takes its time; nobody else gets the work meanwhile."""
    product = await open_product(settings=replace(SETTINGS, lease_s=0.6))
    connection = await product.consented()
    product.bank.bank.latency(0.4, "accounts")
    before = product.clock.now()
    running = asyncio.create_task(product.sync(connection))
    await product.asked_for_data()
    product.clock.advance(milliseconds=500)
    await asyncio.sleep(0.3)
    lease_until = (await product.work(connection)).lease_until
    assert lease_until == before + timedelta(milliseconds=1_100)
    assert (await running).outcome is RunOutcome.OK


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_without_a_database_a_batch_ends_with_values(
    open_store: Callable[..., Store],
    fault_proxy: Callable[[str], Awaitable[FaultProxy]],
    product: Product,
    database_url: str,
) -> None:
    """The database goes away in the middle: the batch says so, the leases bring the work back."""
    connection = await product.consented()
    proxy = await fault_proxy(database_url)
    away = open_store(proxy.url(database_url))
    engine = Engine(
        Parts(store=away, clients=product.clients, tokens=product.vault.source, ask=product.lifecycle.ask), SETTINGS
    )

    async def cut(resource: ResourceName, _number: int) -> None:
        if resource is N.TRANSACTIONS:
            await proxy.refuse()

    product.between = cut
    claims = await product.claimed(connection)
    report = await engine.sync_batch([(claim.id, claim.gen) for claim in claims])
    assert [(run.outcome, run.error) for run in report.runs] == [(RunOutcome.FAILED, "store_unavailable")]
    assert await product.rows() == []


async def test_a_batch_taken_twice_is_worked_on_once(product: Product) -> None:
    """A message delivered twice: the second finds nothing of its own."""
    connection = await product.consented()
    hints = [(claim.id, claim.gen) for claim in await product.claimed(connection)]
    first, second = await asyncio.gather(product.engine.sync_batch(hints), product.engine.sync_batch(hints))
    assert sorted([(len(first.runs), first.stale), (len(second.runs), second.stale)]) == [(0, 1), (1, 0)]


async def test_consents_are_walked_side_by_side(open_product: Opener) -> None:
    """With answers 100 ms late many requests are in flight at once; `bench/concurrency.py` tells what that saves."""
    product = await open_product(customers=8, connections=32)
    connections = [await product.consented(user) for user in range(8)]
    await product.sync_all(*connections)
    product.bank.bank.latency(0.1)
    product.bank.bank.forget_peaks()
    report = await product.sync_all(*connections)
    assert report.outcomes == {"unchanged": 8}
    assert product.bank.bank.log.max_data_in_flight >= 6

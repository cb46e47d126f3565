"""Complete, retry, needs a person: three facts of a listing and of a run, kept apart."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from syncworker.schedule.due import retry_delay
from syncworker.standard.consents import Status
from syncworker.store.cursors import Cursor, Listing
from syncworker.store.work import WorkKind
from syncworker.sync.facts import (
    NOTES,
    Facts,
    again,
    facts_of_notes,
    findings_of_notes,
    needed_person,
    slice_again,
)
from syncworker.sync.plan import PlanSettings
from syncworker.sync.reports import RunOutcome, StepOutcome, StepReport, run_outcome
from tests.ground.house import CADENCE, CONSENT, HTML, LFI, House, N, body, error_body, http
from tests.lfi.raw_bank import Identities

NOW = datetime(2026, 10, 20, 8, tzinfo=UTC)
ACCOUNT = {"AccountId": "acc-1", "Currency": "AED"}
BALANCES, ORDERS = "/accounts/acc-1/balances", "/accounts/acc-1/standing-orders"
PAYMENTS, PRODUCT = "/accounts/acc-1/transactions", "/accounts/acc-1/product"
ORDER = {"StandingOrderId": "so-1", "Frequency": "EveryDay", "StandingOrderStatusCode": "Active"}
BALANCE = {
    "Type": "InterimBooked", "DateTime": "2026-10-20T00:00:00Z", "CreditDebitIndicator": "Credit",
    "Amount": {"Amount": "5.00", "Currency": "AED"},
}  # fmt: skip
NAMELESS = {"CreditorAccount": [{"SchemeName": "IBAN"}]}
Opener = Callable[..., Awaitable[House]]


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return Identities(tmp_path_factory.mktemp("identities"))


@pytest.fixture
async def open_house(identities: Identities, database_url: str, tmp_path: Path) -> AsyncIterator[Opener]:
    """`await open_house(permissions, …)`: a house of one account, on each database."""
    opened: list[House] = []

    async def one(permissions: list[str], *, backfill_days: float = 89, **options: Any) -> House:
        house = House(tmp_path)
        house.backfill_days = backfill_days
        await house.open(permissions, url=database_url, identities=identities, **options)
        opened.append(house)
        house.shows("/accounts", ACCOUNT)
        return house

    yield one
    for house in opened:
        await house.close()


# -- of notes and outcomes ---------------------------------------------------------------------------------------------


@pytest.mark.unit
@pytest.mark.parametrize(
    ("note", "facts"),
    [
        ("item.no_usable_key", Facts(complete=False, person=True)),
        ("item.unreadable", Facts(complete=False, person=True)),
        ("page.unreadable", Facts(complete=False, person=True)),
        ("item.id_used_twice", Facts(person=True)),
        ("listing.filter_ignored", Facts(person=True)),
        ("listing.repeats_itself", Facts(person=True)),
        ("listing.never_ends", Facts(person=True)),
        ("listing.ends_early", Facts(complete=False, retry=True)),
        ("booked_at.no_offset", Facts()),
        ("item.shown_twice", Facts()),
    ],
)
def test_what_a_note_says_of_its_listing(note: str, facts: Facts) -> None:
    """One row of a table for each note that says more than that something is odd."""
    assert facts_of_notes([note]) == facts


@pytest.mark.unit
def test_notes_say_what_the_worst_of_them_says() -> None:
    """And the findings are those that a person has to look at."""
    notes = ["listing.ends_early", "item.id_used_twice", "amount.cut"]
    assert facts_of_notes(notes) == Facts(complete=False, retry=True, person=True)
    assert findings_of_notes(notes) == ("item.id_used_twice",)
    assert facts_of_notes(NOTES) == Facts(complete=False, retry=True, person=True)


def step(outcome: StepOutcome, *notes: str) -> StepReport:
    return StepReport(resource=N.BALANCES, account_id="a", outcome=outcome, notes=dict.fromkeys(notes, 1))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([step(StepOutcome.OK), step(StepOutcome.UNCHANGED)], "ok"),
        ([step(StepOutcome.UNCHANGED), step(StepOutcome.ABSENT)], "unchanged"),
        ([step(StepOutcome.OK, "item.id_used_twice")], "ok"),
        ([step(StepOutcome.UNCHANGED, "item.no_usable_key")], "partial"),
        ([step(StepOutcome.OK, "listing.ends_early")], "partial"),
        ([step(StepOutcome.OK), step(StepOutcome.REFUSED)], "partial"),
        ([step(StepOutcome.ABSENT), step(StepOutcome.FAILED)], "failed"),
        ([step(StepOutcome.TRUNCATED), step(StepOutcome.SKIPPED)], "failed"),
    ],
)
def test_a_run_is_ok_or_unchanged_only_when_it_is_complete(steps: list[StepReport], expected: str) -> None:
    """Partial: something was read.  Failed: nothing was."""
    assert run_outcome(steps, stopped=False) == expected
    assert run_outcome(steps, stopped=True) in (RunOutcome.PARTIAL, RunOutcome.FAILED)


@pytest.mark.unit
def test_a_step_says_its_facts_in_json() -> None:
    """Each only where it holds; a complete one needs no word."""
    told = replace(step(StepOutcome.FAILED), retry=True, person=True).as_json()
    assert (told["complete"], told["retry"], told["needs_a_person"]) == (False, True, True)
    assert step(StepOutcome.OK).as_json().keys() == {"account_id", "resource", "outcome"}


def failing(code: str, attempts: int, since: timedelta) -> Cursor:
    listing = Listing("a", N.BALANCES)
    return Cursor(
        listing=listing, due_at=NOW, gen=1, error=code, attempts=attempts, failing_since=NOW - since, attempted_at=NOW
    )


@pytest.mark.unit
@pytest.mark.parametrize(
    ("before", "attempts", "rests"),
    [
        (None, 1, False),
        (failing("x", 1, timedelta(hours=30)), 2, False),
        (failing("x", 2, timedelta(hours=23)), 3, False),
        (failing("x", 2, timedelta(hours=24)), 3, True),
        (failing("another", 9, timedelta(hours=48)), 10, False),
    ],
)
def test_the_same_fault_three_times_over_a_day_rests(before: Cursor | None, attempts: int, rests: bool) -> None:
    """Fewer, sooner, or another fault do not."""
    found = again(before, "x", now=NOW)
    assert (found.attempts, found.rests) == (attempts, rests)


@pytest.mark.unit
def test_attempts_of_a_slice_and_of_the_newest_part_are_told_apart() -> None:
    """A cursor's attempts are a slice's while one is delayed and the newest part was read to its end."""
    of_a_slice = replace(failing("", 5, timedelta(hours=30)), error=None, outcome="unchanged", backfill_due_at=NOW)
    of_the_newest = replace(of_a_slice, error="x", outcome="failed")

    assert (slice_again(of_a_slice, now=NOW).attempts, slice_again(of_a_slice, now=NOW).rests) == (6, True)
    assert (again(of_a_slice, "x", now=NOW).attempts, needed_person(of_a_slice)) == (1, False)
    assert (slice_again(of_the_newest, now=NOW).attempts, needed_person(of_the_newest)) == (1, True)
    assert (again(of_the_newest, "x", now=NOW).attempts, again(of_the_newest, "x", now=NOW).rests) == (6, True)


# -- of a listing ------------------------------------------------------------------------------------------------------


@pytest.mark.flow
async def test_a_listing_that_fails_slows_no_other(open_house: Opener) -> None:
    """It counts its own attempts; the connection's stay at none, and another listing begins its ladder at the start."""
    house = await open_house(["ReadAccountsDetail", "ReadBalances", "ReadStandingOrdersDetail"])
    house.answers[ORDERS] = http(500)
    waits = []
    for _ in range(3):
        report = await house.sync(asked=False)
        waits.append(report.due_at - house.clock.now())
        house.clock.set(report.due_at)
    house.answers[BALANCES] = http(500)
    report = await house.sync()
    cursors = await house.cursors()

    assert waits == [timedelta(minutes=1), timedelta(minutes=2), timedelta(minutes=3)]
    assert (cursors[Listing("acc-1", N.STANDING_ORDERS)].attempts, (await house.work()).attempts) == (4, 0)
    assert cursors[Listing("acc-1", N.BALANCES)].attempts == 1
    assert house.step(report, N.BALANCES).due_at == house.clock.now() + timedelta(minutes=1)
    assert (report.complete, report.retry, report.person) == (False, True, False)
    async with house.store.reading() as unit:
        (summary,) = [one for one in await unit.work.summary() if one.kind is WorkKind.SYNC]
    assert (summary.failing, summary.retry) == (1, 1)


@pytest.mark.flow
async def test_a_listing_that_was_read_counts_from_none(open_house: Opener) -> None:
    """Also when nothing on it is new."""
    house = await open_house(["ReadAccountsDetail", "ReadBalances"])
    house.shows(BALANCES, BALANCE)
    await house.sync()
    shown, house.answers[BALANCES] = house.answers[BALANCES], http(500)
    await house.sync(hours=1)
    await house.sync(hours=1)
    failed = (await house.cursors())[Listing("acc-1", N.BALANCES)]
    house.answers[BALANCES] = shown
    report = await house.sync(hours=1)
    cursor = (await house.cursors())[Listing("acc-1", N.BALANCES)]

    assert (failed.attempts, failed.failing_since) == (2, house.clock.now() - timedelta(hours=2))
    assert (report.outcome, cursor.attempts, cursor.failing_since, cursor.error) == (
        RunOutcome.UNCHANGED,
        0,
        None,
        None,
    )


@pytest.mark.flow
async def test_a_ladder_is_never_later_than_the_cadence(open_house: Opener) -> None:
    """The ladder's last wait is six hours; a listing read every hour is tried every hour."""
    hourly = PlanSettings(cadence=CADENCE | {N.BALANCES: timedelta(hours=1)})
    house = await open_house(["ReadAccountsDetail", "ReadBalances"], retry_after=retry_delay, plan=hourly)
    house.answers[BALANCES] = http(404, HTML, content_type="text/html")
    waits = []
    for _ in range(6):
        report = await house.sync(asked=False)
        waits.append(report.due_at - house.clock.now())
        house.clock.set(report.due_at)

    minutes = [1, 5, 30, 60, 60, 60]
    assert waits == [timedelta(minutes=one) for one in minutes]


@pytest.mark.flow
async def test_a_fault_that_lasts_rests_at_its_cadence_as_a_finding(open_house: Opener) -> None:
    """Three times over a day: a person is told once for the operation, and the listing is read at its cadence."""
    house = await open_house(["ReadAccountsDetail", "ReadStandingOrdersDetail"])
    house.shows(ORDERS, ORDER)
    await house.sync()
    house.answers[ORDERS] = http(404, HTML, content_type="text/html")
    for hours in (0, 12):
        await house.sync(hours=hours)
    before = await house.findings()
    report = await house.sync(hours=12)
    lasting = house.step(report, N.STANDING_ORDERS)
    (found,) = await house.findings()
    house.shows(ORDERS, ORDER)
    await house.sync(days=7)

    assert (before, lasting.retry, lasting.person) == ([], True, True)
    assert lasting.due_at == report.started_at + timedelta(days=7)
    assert (found.lfi, found.operation, found.code, found.times) == (
        LFI, "GetAccountsAccountIdStandingOrders", "refused_404", 1,
    )  # fmt: skip
    assert found.interaction_id
    (gone,) = await house.findings(only_open=False)
    assert (await house.findings(), gone.resolved_at) == ([], house.clock.now())


@pytest.mark.flow
async def test_a_nameless_item_is_a_finding_and_no_retry(open_house: Opener) -> None:
    """The listing is due at its cadence; the run is not complete, and counts no attempt."""
    house = await open_house(["ReadAccountsDetail", "ReadStandingOrdersDetail"])
    house.shows(ORDERS, ORDER, NAMELESS)
    report = await house.sync()
    again_ = await house.sync(days=7)
    (found,) = await house.findings()

    assert (report.outcome, report.complete, report.good, report.retry, report.person) == (
        RunOutcome.PARTIAL, False, False, False, True,
    )  # fmt: skip
    assert house.step(report, N.STANDING_ORDERS).due_at == report.started_at + timedelta(days=7)
    assert (found.code, found.times, (await house.work()).attempts) == ("item.no_usable_key", 2, 0)
    assert not again_.complete
    async with house.store.reading() as unit:
        (summary,) = [one for one in await unit.work.summary() if one.kind is WorkKind.SYNC]
    assert (summary.failing, summary.retry) == (1, 0)


@pytest.mark.flow
async def test_a_finding_is_one_for_all_accounts(open_house: Opener) -> None:
    """However many listings meet it: counted, with the LFI's own words."""
    house = await open_house(["ReadAccountsDetail", "ReadStandingOrdersDetail"])
    names = [f"acc-{number}" for number in range(1, 5)]
    house.shows("/accounts", *({"AccountId": name} for name in names))
    for name in names:
        house.answers[f"/accounts/{name}/standing-orders"] = http(403, error_body("AccessToken.InvalidScope", "no"))
    await house.sync()
    (found,) = await house.findings()

    assert (found.code, found.times, found.reason) == ("refused_403:AccessToken.InvalidScope", 4, "no")
    assert (found.connection_id, found.first_seen_at, found.last_seen_at) == (CONSENT, NOW, NOW)


@pytest.mark.flow
async def test_a_finding_that_comes_back_begins_anew(open_house: Opener) -> None:
    """Resolved once, it counts from the first time again."""
    house = await open_house(["ReadAccountsDetail", "ReadStandingOrdersDetail"])
    for hours, items in ((0, (ORDER, NAMELESS)), (1, (ORDER,)), (1, (ORDER, NAMELESS))):
        house.shows(ORDERS, *items)
        await house.sync(hours=hours)
    (found,) = await house.findings()

    assert (found.times, found.first_seen_at) == (1, NOW + timedelta(hours=2))


@pytest.mark.flow
async def test_a_listing_that_ends_early_is_to_be_retried(open_house: Opener) -> None:
    """`TotalPages` says more than the links showed: not complete, by the listing's ladder, no person's matter yet."""
    house = await open_house(["ReadAccountsDetail", "ReadStandingOrdersDetail"])
    house.shows(ORDERS, ORDER, TotalPages=2)
    report = await house.sync()
    second = await house.sync(minutes=1, asked=False)
    cursor = (await house.cursors())[Listing("acc-1", N.STANDING_ORDERS)]

    assert (report.outcome, report.retry, report.person) == (RunOutcome.PARTIAL, True, False)
    assert report.due_at == report.started_at + timedelta(minutes=1)
    assert (second.due_at, cursor.attempts, cursor.error) == (
        second.started_at + timedelta(minutes=2), 2, "listing.ends_early",
    )  # fmt: skip
    house.shows(ORDERS, ORDER)
    third = await house.sync(minutes=2, asked=False)
    assert (third.complete, (await house.cursors())[Listing("acc-1", N.STANDING_ORDERS)].attempts) == (True, 0)


@pytest.mark.flow
async def test_a_slice_of_history_that_ends_early_is_walked_once_and_later_again(open_house: Opener) -> None:
    """What it did not show is still owed; it is not asked for in a loop until the run's deadline."""
    house = await open_house(["ReadAccountsDetail", "ReadTransactionsDetail"], backfill_days=800)

    def early(query: dict[str, str]) -> bytes:
        if len(house.log) <= 3:
            return windowed(query, house)
        return http(body=body({"AccountId": "acc-1", "Transaction": []}, TotalPages=2))

    house.answers[PAYMENTS] = early
    first = await house.sync()
    asked = house.asked(PAYMENTS)
    house.answers[PAYMENTS] = lambda query: windowed(query, house)
    second = await house.sync(minutes=1, asked=False)

    assert (asked, first.complete, first.retry, first.error) == (3, False, True, "listing.ends_early")
    assert first.due_at == first.started_at + timedelta(minutes=1)
    assert (second.complete, len(await house.rows(N.TRANSACTIONS))) == (True, len(HISTORY))


@pytest.mark.flow
async def test_a_walk_that_never_ends_is_not_walked_again_in_a_minute(open_house: Opener) -> None:
    """Cut off by a guard: a person's matter, read again at its cadence."""
    house = await open_house(["ReadAccountsDetail", "ReadStandingOrdersDetail"], pages_max=3)
    data = {"AccountId": "acc-1", "StandingOrder": [ORDER]}
    house.answers[ORDERS] = lambda query: http(
        body=body(data, next_url=house.url(f"{ORDERS}?page={int(query.get('page', '1')) + 1}"), TotalPages=9)
    )
    report = await house.sync()
    truncated = house.step(report, N.STANDING_ORDERS)

    assert (truncated.outcome, truncated.retry, truncated.person) == (StepOutcome.TRUNCATED, False, True)
    assert truncated.due_at == report.started_at + timedelta(days=7)
    assert [one.operation for one in await house.findings()] == ["GetAccountsAccountIdStandingOrders"]


@pytest.mark.flow
async def test_only_faults_of_the_run_as_a_whole_count_for_the_connection(open_house: Opener) -> None:
    """A gate that closes is one; then the connection waits, and no listing counts an attempt."""
    house = await open_house(["ReadAccountsDetail", "ReadBalances"])
    await house.sync()
    house.answers[BALANCES] = http(429)
    report = await house.sync(hours=7, asked=False)
    cursor = (await house.cursors())[Listing("acc-1", N.BALANCES)]

    assert (report.complete, report.retry, report.person, report.counted) == (False, True, False, True)
    assert (cursor.attempts, (await house.work()).attempts) == (0, 1)


@pytest.mark.flow
async def test_a_run_without_trouble_writes_no_finding(open_house: Opener) -> None:
    """Nothing is said where there is nothing to say."""
    house = await open_house(["ReadAccountsDetail", "ReadBalances"])
    for _ in range(2):
        await house.sync(hours=7)
    assert await house.findings(only_open=False) == []


# -- of refusals in a run ----------------------------------------------------------------------------------------------


@pytest.mark.flow
async def test_a_404_is_absent_until_the_listing_had_rows(open_house: Opener) -> None:
    """An account that had a product and now answers 404 is at fault, not without a product; also after a cut walk."""
    house = await open_house(["ReadAccountsDetail", "ReadProduct", "ReadStandingOrdersDetail"])
    house.answers[PRODUCT] = http(404)
    data = {"AccountId": "acc-1", "StandingOrder": [ORDER]}

    def cut(query: dict[str, str]) -> bytes:
        if "page" in query:
            return http(404)
        return http(body=body(data, next_url=house.url(f"{ORDERS}?page=2"), TotalPages=2))

    house.answers[ORDERS] = cut
    first = await house.sync()
    house.shows(PRODUCT, {"ProductName": "Current"})
    house.answers[ORDERS] = http(404)
    second = await house.sync(hours=1)
    house.answers[PRODUCT] = http(404)
    third = await house.sync(hours=1)

    assert house.step(first, N.PRODUCT).outcome is StepOutcome.ABSENT
    assert house.step(second, N.STANDING_ORDERS).outcome is StepOutcome.FAILED
    assert house.step(third, N.PRODUCT).outcome is StepOutcome.FAILED


@pytest.mark.flow
async def test_a_sync_asked_for_asks_anew_what_was_remembered(open_house: Opener) -> None:
    """A refusal, an absence; an account found blocked within the hour is left alone."""
    house = await open_house(["ReadAccountsDetail", "ReadBalances", "ReadProduct", "ReadStandingOrdersDetail"])
    house.answers[PRODUCT] = http(404)
    house.answers[ORDERS] = http(403, error_body("AccessToken.InvalidScope"))
    house.answers[BALANCES] = http(403, error_body("Consent.AccountTemporarilyBlocked"))
    await house.sync()

    async def asked(**later: float) -> dict[str, int]:
        before = {path: house.asked(path) for path in (PRODUCT, ORDERS, BALANCES)}
        await house.sync(**later)  # type: ignore[arg-type]
        return {path: house.asked(path) - times for path, times in before.items()}

    assert await asked(minutes=59) == {PRODUCT: 1, ORDERS: 1, BALANCES: 0}
    assert await asked(minutes=1) == {PRODUCT: 1, ORDERS: 1, BALANCES: 1}


@pytest.mark.flow
async def test_a_suspended_consent_is_heard_once(open_house: Opener) -> None:
    """Every listing would answer the same: the Hub is asked once, and no further listing after what it said."""
    house = await open_house(["ReadAccountsDetail", "ReadStandingOrdersDetail", "ReadBalances"], steps_at_once=2)
    names = [f"acc-{number}" for number in range(10)]
    house.shows("/accounts", *({"AccountId": name} for name in names))
    for name in names:
        for kind in ("balances", "standing-orders"):
            refused = http(403, error_body("Consent.TransientAccountAccessFailure"))
            house.answers[f"/accounts/{name}/{kind}"] = refused
    house.hub_says = Status.Suspended
    report = await house.sync()
    calls = [path for path, _ in house.log if path != "/accounts"]

    assert (house.hub_asked, report.error) == (1, "consent_not_usable:Suspended")
    assert len(calls) <= 2, "what was under way when the first was refused"
    assert (report.retry, report.person, report.counted) == (False, True, False)
    assert await house.findings() == []


@pytest.mark.flow
async def test_a_transient_refusal_of_a_consent_that_stands_belongs_to_its_listing(open_house: Opener) -> None:
    """The Hub says Authorized: the others are read, this one waits by its ladder."""
    house = await open_house(["ReadAccountsDetail", "ReadBalances", "ReadStandingOrdersDetail"])
    house.shows(ORDERS, ORDER)
    house.answers[BALANCES] = http(403, error_body("Consent.TransientAccountAccessFailure"))
    report = await house.sync()

    assert (house.hub_asked, house.step(report, N.STANDING_ORDERS).outcome) == (1, StepOutcome.OK)
    assert house.step(report, N.BALANCES).due_at == report.started_at + timedelta(minutes=1)


@pytest.mark.flow
async def test_a_401_after_the_token_read_another_listing_belongs_to_its_listing(open_house: Opener) -> None:
    """No token is refreshed for it, it is sent once, and nothing else waits for it."""
    house = await open_house(["ReadAccountsDetail", "ReadBalances", "ReadStandingOrdersDetail"])
    house.shows(ORDERS, ORDER)
    house.answers[BALANCES] = http(401, b"An error occurred", content_type="text/plain")
    report = await house.sync()

    assert (house.refreshed, house.asked(BALANCES), house.hub_asked) == (0, 1, 1)
    assert house.step(report, N.STANDING_ORDERS).outcome is StepOutcome.OK
    assert (house.step(report, N.BALANCES).retry, report.error) == (True, "refused_401")


@pytest.mark.flow
async def test_a_listing_that_refused_the_token_before_forces_no_refresh_alone(open_house: Opener) -> None:
    """It alone is due, nothing else was read in this run; since its last 401 the others took the token."""
    house = await open_house(["ReadAccountsDetail", "ReadBalances", "ReadStandingOrdersDetail"])
    house.answers[ORDERS] = http(401)
    await house.sync()
    report = await house.sync(minutes=1, asked=False)

    assert [one.resource for one in report.steps] == [N.STANDING_ORDERS]
    assert (house.refreshed, house.asked(ORDERS)) == (0, 2)


@pytest.mark.flow
@pytest.mark.parametrize(
    ("code", "retry", "person"),
    [("Consent.AccountTemporarilyBlocked", True, False), ("Consent.PermanentAccountAccessFailure", False, True)],
)
async def test_what_is_said_of_an_account_is_heard_once(
    open_house: Opener, code: str, retry: bool, person: bool
) -> None:
    """Its other listings wait as long, unasked; the other account is read."""
    house = await open_house(
        ["ReadAccountsDetail", "ReadBalances", "ReadBeneficiariesDetail", "ReadStandingOrdersDetail"], steps_at_once=1
    )
    house.shows("/accounts", ACCOUNT, {"AccountId": "acc-2"})
    for kind in ("balances", "beneficiaries", "standing-orders"):
        house.answers[f"/accounts/acc-1/{kind}"] = http(403, error_body(code))
    report = await house.sync()
    of_the_account = [path for path, _ in house.log if path.startswith("/accounts/acc-1/")]
    outcomes = {(one.account_id, one.outcome, one.retry, one.person) for one in report.steps if one.account_id}

    assert (len(of_the_account), house.hub_asked) == (1, 1)
    assert outcomes == {
        ("acc-1", StepOutcome.REFUSED, retry, person),
        ("acc-2", StepOutcome.UNCHANGED, False, False),
    }


@pytest.mark.flow
async def test_a_401_on_a_later_page_is_worth_a_newer_token(open_house: Opener) -> None:
    """The listing took the token on the page before, so it is the token that ended."""
    house = await open_house(["ReadAccountsDetail", "ReadStandingOrdersDetail"])
    data = {"AccountId": "acc-1", "StandingOrder": [ORDER]}

    def pages(query: dict[str, str]) -> bytes:
        if "page" not in query:
            return http(body=body(data, next_url=house.url(f"{ORDERS}?page=2"), TotalPages=2))
        if not house.refreshed:
            return http(401)
        return http(body=body({"AccountId": "acc-1", "StandingOrder": []}, TotalPages=2))

    house.answers[ORDERS] = pages
    report = await house.sync()
    assert (report.outcome, house.refreshed) == (RunOutcome.OK, 1)


@pytest.mark.flow
async def test_a_token_that_no_listing_takes_is_refreshed_once_and_stops_the_run(open_house: Opener) -> None:
    """A refresh puts the grant at risk, and a hundred listings would all say the same."""
    house = await open_house(["ReadAccountsDetail", "ReadBalances"], steps_at_once=1)
    names = [f"acc-{number}" for number in range(30)]
    house.shows("/accounts", *({"AccountId": name} for name in names))
    await house.sync()
    for name in names:
        house.answers[f"/accounts/{name}/balances"] = http(401)
    report = await house.sync(hours=7, asked=False)

    assert (house.refreshed, house.hub_asked, report.counted) == (1, 1, True)
    assert len([one for one in report.steps if one.outcome is StepOutcome.FAILED]) == 8
    assert report.due_at == house.clock.now() + timedelta(minutes=1)


@pytest.mark.flow
async def test_a_run_that_meets_a_bug_is_a_finding_until_one_goes_well(open_house: Opener) -> None:
    """Of the run as a whole; it counts an attempt of the connection."""
    house = await open_house(["ReadAccountsDetail", "ReadBalances"])

    pages = house.client.pages
    house.client.pages = stumbling  # type: ignore[method-assign,assignment]
    report = await house.sync()
    (found,) = await house.findings()
    house.client.pages = pages  # type: ignore[method-assign]
    after = await house.sync(hours=1)

    assert (report.error, report.retry, report.person, report.counted) == ("unexpected", True, True, True)
    assert (found.operation, found.code) == ("", "unexpected")
    assert (after.complete, await house.findings(), (await house.work()).attempts) == (True, [], 0)


def stumbling(*_: object, **__: object) -> AsyncIterator[object]:
    """A bug."""
    raise ValueError("a bug")


# -- a retry ends where an undisturbed first sync would ----------------------------------------------------------------


def transaction(day: int, month: int, year: int = 2026) -> dict[str, Any]:
    at = f"{year}-{month:02}-{day:02}T09:00:00Z"
    return {
        "TransactionId": f"t-{year}-{month}-{day}", "Status": "Booked", "TransactionDateTime": at,
        "BookingDateTime": at, "TransactionType": "POS", "SubTransactionType": "Purchase",
        "CreditDebitIndicator": "Debit", "Amount": {"Amount": "10.00", "Currency": "AED"},
    }  # fmt: skip


HISTORY = [transaction(day, month, year) for year in (2025, 2026) for month in (2, 9) for day in (3, 20)]


def windowed(query: dict[str, str], house: House) -> bytes:
    """Two pages of what was booked between the two instants asked for."""
    since, until = (query.get(f"{end}BookingDateTime", "") for end in ("from", "to"))
    page = int(query.get("page", "1"))
    items = [
        one for one in HISTORY if since <= one["BookingDateTime"] and (not until or one["BookingDateTime"] < until)
    ]
    part = items[:1] if page == 1 else items[1:]
    following = "&".join(f"{name}={value}" for name, value in query.items()) + "&page=2"
    link: dict[str, Any] = {} if page == 2 else {"next_url": house.url(f"{PAYMENTS}?{following}")}
    return http(body=body({"AccountId": "acc-1", "Transaction": part}, TotalPages=2, **link))


FAULTS: dict[str, Callable[[dict[str, str]], bytes | None]] = {
    "500": lambda _: http(500),
    "a cut on page 2": lambda query: http(404) if "page" in query else None,
    "a gateway's page": lambda _: http(404, HTML, content_type="text/html"),
    "a gateway's page with status 200": lambda _: http(200, HTML, content_type="text/html"),
    "a 401": lambda _: http(401),
    "a 429": lambda _: http(429, retry_after="30"),
    "a transient refusal": lambda _: http(403, error_body("Consent.TransientAccountAccessFailure")),
    "a definite refusal": lambda _: http(403, error_body("AccessToken.InvalidScope")),
    "a foreign link": lambda _: http(
        body=body({"AccountId": "acc-1", "Transaction": []}, next_url="https://evil.example/")
    ),
    "an early end": lambda query: (
        http(body=body({"AccountId": "acc-1", "Transaction": [HISTORY[-1]]}, TotalPages=2))
        if "page" not in query
        else None
    ),
}


@pytest.mark.flow
@pytest.mark.parametrize("flush_bytes", [8 * 1024 * 1024, 1], ids=["written at the end", "written as it comes"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_retry_ends_where_an_undisturbed_first_sync_would(
    open_house: Opener, fault: str, flush_bytes: int
) -> None:
    """The first walk fails once: the next run has the same tables, cursor, coverage and due time, history included."""
    house = await open_house(
        ["ReadAccountsDetail", "ReadTransactionsDetail"], backfill_days=800, flush_bytes=flush_bytes
    )
    broken = FAULTS[fault]
    house.answers[PAYMENTS] = lambda query: broken(query) or windowed(query, house)
    first = await house.sync()
    house.answers[PAYMENTS] = lambda query: windowed(query, house)
    house.restart()
    second = await house.sync(minutes=2)
    disturbed = await everything(house)
    async with house.store.writing() as unit:
        await unit.erasure.erase(CONSENT)
        await unit.work.schedule(WorkKind.SYNC, CONSENT, lfi=LFI, due_at=house.clock.now())
        await unit.commit()
    undisturbed = await house.sync()

    assert not first.complete
    assert (second.outcome, undisturbed.outcome, second.due_at) == (
        RunOutcome.OK, RunOutcome.OK, undisturbed.due_at,
    )  # fmt: skip
    assert disturbed == await everything(house)
    assert len(disturbed["rows"]) == len(HISTORY)


async def everything(house: House) -> dict[str, Any]:
    """Rows, and the cursor and coverage of the transactions."""
    listing = Listing("acc-1", N.TRANSACTIONS)
    async with house.store.reading() as unit:
        coverage = await unit.cursors.coverage(CONSENT, [listing])
    rows = await house.rows(N.TRANSACTIONS)
    return {
        "rows": {key: row.columns for key, row in rows.items()},
        "cursor": replace((await house.cursors())[listing], gen=0),
        "coverage": coverage,
    }

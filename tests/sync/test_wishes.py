"""Which refreshes a run serves, what it reads for them, and what it tells them: pure."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from syncworker.standard.resources import BY_NAME, ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store.cursors import Cursor, Listing
from syncworker.store.refreshes import ATTENDED_FOR, WAITS_FOR, Waiting, Wish, read_wish
from syncworker.sync.plan import ConsentLimits, PlanSettings, plan
from syncworker.sync.reports import StepOutcome, StepReport
from syncworker.sync.wishes import Brought, Serving, age_wanted, ends, reason_of, serving

pytestmark = pytest.mark.unit

NOW: Final = datetime(2026, 11, 21, 10, tzinfo=UTC)
ACCOUNTS, BALANCES, TRANSACTIONS = ResourceName.ACCOUNTS, ResourceName.BALANCES, ResourceName.TRANSACTIONS
RESOURCES: Final = tuple(BY_NAME[name] for name in (ACCOUNTS, BALANCES, TRANSACTIONS))
SETTINGS: Final = PlanSettings(cadence=dict.fromkeys(ResourceName, timedelta(hours=6)))


def part(
    name: str, *, gen: int = 4, context: str = "", ago: timedelta = timedelta(), wish: Wish | None = None
) -> Waiting:
    return Waiting(
        refresh_id=name,
        connection_id=ConsentId("c1"),
        created_at=NOW - ago,
        asked_gen=gen,
        context=context,
        wish=wish or Wish(),
    )


def served(*parts: Waiting, everything: bool = False) -> tuple[list[str], list[str], bool]:
    found = serving(parts, gen=5, everything=everything, now=NOW)
    return [one.refresh_id for one in found.parts], [one.refresh_id for one in found.late], found.left


SERVED: Final = [
    pytest.param([], {}, ([], [], False), id="none waits"),
    pytest.param([part("a"), part("b")], {}, (["a", "b"], [], False), id="all without a customer together"),
    pytest.param([part("a"), part("b", gen=5)], {}, (["a"], [], False), id="asked for while it ran: the next run"),
    pytest.param([part("a"), part("b", context="x")], {}, (["b"], [], True), id="the customer first, alone"),
    pytest.param(
        [part("a", context="x"), part("b", context="y"), part("c", context="x")], {}, (["a", "c"], [], True),
        id="one session, the one that waits longest",
    ),
    pytest.param([part("a", context="x")], {"everything": True}, (["a"], [], True), id="everything: a run of its own"),
    pytest.param([part("a")], {"everything": True}, (["a"], [], False), id="everything serves the others"),
    pytest.param(
        [part("a", context="x", ago=ATTENDED_FOR + timedelta(seconds=1)), part("b")], {}, (["b"], ["a"], False),
        id="the customer has left",
    ),
    pytest.param([part("a", ago=WAITS_FOR + timedelta(seconds=1))], {}, ([], ["a"], False), id="no run came for a day"),
]  # fmt: skip


@pytest.mark.parametrize(("waiting", "more", "expected"), SERVED)
def test_a_run_serves_the_parts_of_one_context(waiting: list[Waiting], more: dict[str, Any], expected: Any) -> None:
    """Those of a customer who is present before those without one; never two together."""
    assert served(*waiting, **more) == expected


def cursor(account_id: str, resource: ResourceName, *, age: timedelta, **facts: Any) -> tuple[Listing, Cursor]:
    listing = Listing(account_id, resource)
    at = NOW - age
    return listing, Cursor(listing=listing, due_at=at + timedelta(hours=6), gen=1, checked_at=at, **facts)


CURSORS: Final = dict(
    (
        cursor("", ACCOUNTS, age=timedelta(hours=1)),
        cursor("1", BALANCES, age=timedelta(minutes=5)),
        cursor("1", TRANSACTIONS, age=timedelta(hours=7)),
        cursor("2", BALANCES, age=timedelta(hours=2)),
        cursor("2", TRANSACTIONS, age=timedelta(hours=2), refused_until=NOW + timedelta(days=1), error="refused_404"),
    )
)

MINUTES: Final = timedelta(minutes=1)
WISHES: Final = [
    pytest.param([Wish()], {"accounts", "1 balances", "1 transactions", "2 balances", "2 transactions"}, id="all now"),
    pytest.param([Wish(max_age=30 * MINUTES)], {"accounts", "1 transactions", "2 balances", "2 transactions"},
                 id="what is young is left"),
    pytest.param([Wish(resources=frozenset({BALANCES}))], {"1 balances", "2 balances"}, id="only what is wanted"),
    pytest.param([Wish(resources=frozenset({BALANCES}), max_age=5 * MINUTES)], {"1 balances", "2 balances"},
                 id="exactly as old is old"),
    pytest.param([Wish(account_id="1")], {"1 balances", "1 transactions"}, id="one account"),
    pytest.param([Wish(max_age=30 * MINUTES), Wish(resources=frozenset({BALANCES}), account_id="1")],
                 {"accounts", "1 balances", "1 transactions", "2 balances", "2 transactions"},
                 id="the union, each at the youngest age"),
    pytest.param([Wish(max_age=timedelta(days=1))], set(), id="all is young"),
]  # fmt: skip


def planned(wishes: list[Wish] | None, **options: Any) -> set[str]:
    steps = [
        step
        for accounts in (("",), ("1", "2"))
        for step in plan(
            RESOURCES,
            accounts,
            CURSORS,
            limits=ConsentLimits(),
            now=NOW,
            settings=SETTINGS,
            wishes=wishes,
            **{"everything": False, **options},
        )
    ]
    return {f"{step.account_id} {step.resource.name}".strip() for step in steps}


@pytest.mark.parametrize(("wishes", "expected"), WISHES)
def test_a_run_reads_what_refreshes_want_and_nothing_that_is_only_due(wishes: list[Wish], expected: set[str]) -> None:
    """`1 transactions` is due; a wish that does not want it leaves it to the next run."""
    assert planned(wishes) == expected


def test_without_a_refresh_a_run_reads_what_is_due() -> None:
    """And all of it where everything was asked for, whatever refreshes want."""
    assert planned(None) == {"1 transactions"}
    assert len(planned([Wish(account_id="1")], everything=True)) == 5


def test_accounts_that_are_needed_are_read_though_no_refresh_wants_them() -> None:
    """A connection that was never read: without its accounts there are no balances."""
    steps = plan(
        RESOURCES, ("",), {}, limits=ConsentLimits(), now=NOW, settings=SETTINGS, everything=False,
        needed=frozenset({ACCOUNTS}), wishes=[Wish(resources=frozenset({BALANCES}))],
    )  # fmt: skip
    assert [step.resource.name for step in steps] == [ACCOUNTS]


def test_an_account_found_blocked_within_the_hour_is_not_asked_for() -> None:
    """As for any sync that is asked for: the LFI just said so."""
    listing, held = cursor("1", BALANCES, age=timedelta(hours=2))
    held = replace(
        held,
        refused_until=NOW + timedelta(days=1),
        attempted_at=NOW - MINUTES,
        error="refused_403:AccountStatus.Frozen",
    )
    from syncworker.sync.refusals import is_blocked

    steps = plan(
        (BY_NAME[BALANCES],), ("1",), {listing: held}, limits=ConsentLimits(), now=NOW, settings=SETTINGS,
        everything=False, wishes=[Wish()],
    )  # fmt: skip
    assert (len(steps) == 0) == is_blocked(held.error)


def brought(*steps: StepReport, **facts: Any) -> Brought:
    whole: dict[str, Any] = {"gen": 5, "resources": RESOURCES, "accounts": ("1", "2"), "steps": steps}
    whole |= {"cursors": CURSORS, "error": None, "retry_at": None, "now": NOW}
    return Brought(**{**whole, **facts})


def step(account_id: str, resource: ResourceName, outcome: StepOutcome, **facts: Any) -> StepReport:
    return StepReport(resource=resource, account_id=account_id, outcome=outcome, **facts)


def told(wish: Wish, run: Brought) -> tuple[str, str | None, dict[str, tuple[str, str | None]]]:
    (end,) = ends(Serving(parts=(part("a", wish=wish),)), run)
    listings = {
        f"{one.get('account_id', '')} {one['resource']}".strip(): (one["outcome"], one.get("reason"))
        for one in end.listings
    }
    return end.outcome, end.reason, listings


def test_each_listing_has_its_outcome() -> None:
    """Read, unchanged, young, refused lately, not permitted: each is told, and the whole is partial."""
    wish = Wish(resources=frozenset({BALANCES, TRANSACTIONS, ResourceName.STATEMENTS}))
    run = brought(step("1", BALANCES, StepOutcome.OK), step("1", TRANSACTIONS, StepOutcome.UNCHANGED))

    assert told(wish, run) == (
        "partial",
        "refused",
        {
            "1 balances": ("refreshed", None),
            "1 transactions": ("unchanged", None),
            "2 balances": ("young", None),
            "2 transactions": ("failed", "refused"),
            "statements": ("failed", "not_permitted"),
        },
    )


OUTCOMES: Final = [
    pytest.param(step("1", BALANCES, StepOutcome.ABSENT), {}, ("complete", None, ("absent", None)), id="absent"),
    pytest.param(
        step("1", BALANCES, StepOutcome.TRUNCATED, error="truncated"), {},
        ("partial", "incomplete", ("partial", "incomplete")), id="cut off",
    ),
    pytest.param(
        step("1", BALANCES, StepOutcome.OK, notes={"item.unreadable": 1}), {},
        ("partial", "incomplete", ("partial", "incomplete")), id="an item could not be read",
    ),
    pytest.param(
        step("1", BALANCES, StepOutcome.SKIPPED), {"error": "lfi_gate_closed"},
        ("failed", "gated", ("failed", "gated")), id="the run stopped before it",
    ),
    pytest.param(
        step("1", BALANCES, StepOutcome.FAILED, error="lfi_unavailable"), {},
        ("failed", "lfi_down", ("failed", "lfi_down")), id="no answer",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("one", "facts", "expected"), OUTCOMES)
def test_what_is_not_read_to_its_end_says_why(one: StepReport, facts: dict[str, Any], expected: Any) -> None:
    """A word, and for the whole the word of what is missing."""
    wish = Wish(resources=frozenset({BALANCES}), account_id="1")
    outcome, reason, listings = told(wish, brought(one, **facts))
    assert (outcome, reason, listings["1 balances"]) == expected


@pytest.mark.parametrize(
    ("code", "word"),
    [
        (None, "late"),
        ("unexpected", "late"),
        ("consent_deadline", "late"),
        ("lfi_rate_limited", "gated"),
        ("lfi_breaker_open", "lfi_down"),
        ("consent_not_usable:Suspended", "suspended"),
        ("consent_not_usable:Expired", "expired"),
        ("consent_not_usable:Revoked", "revoked"),
        ("grant_lost", "needs_consent"),
        ("refused_403:Consent.AccountTemporarilyBlocked", "refused"),
        ("standard_violation", "incomplete"),
        ("listing.ends_early", "incomplete"),
        ("client_rejected", "setup"),
    ],
)
def test_each_code_has_a_word(code: str | None, word: str) -> None:
    """The words of `reason`; a code that is none of these says that the run came to nothing in time."""
    assert reason_of(code) == word


def test_a_wish_is_read_as_it_was_written() -> None:
    """Through the JSON of its row; what is left out means all, and any age."""
    for wish in (Wish(), Wish(resources=frozenset({BALANCES}), account_id="1", max_age=timedelta(seconds=60))):
        assert read_wish(wish.as_json()) == wish
    assert Wish().as_json() == {}


def test_an_age_of_zero_is_now() -> None:
    """And no wish at all is no age."""
    assert age_wanted([Wish(max_age=timedelta()), Wish(max_age=MINUTES)], "1", BY_NAME[BALANCES]) == timedelta()
    assert age_wanted([Wish(account_id="2")], "1", BY_NAME[BALANCES]) is None

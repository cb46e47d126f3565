"""`syncs`, `status` and `doctor` on what a night left in the tables, as real processes."""

import asyncio
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from syncworker.cli.syncs import read_since
from syncworker.errors import RequestError
from syncworker.standard.interaction import Interactions
from syncworker.standard.operations import OperationClass
from syncworker.standard.values import ConsentId, Slug
from syncworker.store import migrate
from syncworker.store.breakers import Breaker
from syncworker.store.calls import CallRow
from syncworker.store.findings import Found
from syncworker.store.runs import RunRow
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import WorkKind
from tests.cli.house import House

NOOR = Slug("noor")
NOT_KNOWN = "not activated or keys wrong (client_rejected:unauthorized_client)"
SETTINGS = """
database_url = "sqlite:///syncworker.db"
data_dir = "data"
client = { client_id = "c", redirect_uri = "https://app.example/callback", signing_kid = "k" }
lfis.noor = { issuer = "https://auth.noor.example", base_urls = { "v2.1" = "https://rs.noor.example/v2.1" } }
"""

PACKED = Interactions(datetime(2026, 1, 1, tzinfo=UTC)).new()


@cache
def night() -> datetime:
    """When the tables were filled: as late as possible, for `status` looks at the last quarter of an hour."""
    return datetime.now(UTC).replace(microsecond=0)


def a_run(connection: str, **changes: Any) -> RunRow:
    facts: dict[str, Any] = {
        "connection_id": ConsentId(connection),
        "consent_id": ConsentId(connection),
        "lfi": NOOR,
        "gen": 1,
        "started_at": night() - timedelta(minutes=5),
        "ended_at": night() - timedelta(minutes=4),
        "outcome": "ok",
        "error": None,
        "calls": 2,
        "pages": 1,
        "pages_unchanged": 0,
        "added": 3,
        "modified": 0,
        "removed": 0,
        "steps": [],
    }
    return RunRow(**facts | changes)


def a_call(**changes: Any) -> CallRow:
    facts: dict[str, Any] = {
        "lfi": NOOR,
        "consent_id": "sick",
        "operation": "GetAccounts",
        "status": 503,
        "error": "http_503",
        "interaction_id": "interaction-1",
        "started_at": night() - timedelta(minutes=5),
        "duration_ms": 12,
        "bytes_in": 30,
        "attended": False,
        "price_millifils": 0,
    }
    return CallRow(**facts | changes)


STEPS = [
    {"account_id": "a-1", "resource": "balances", "outcome": "ok", "pages": 1, "items": 3, "added": 3},
    {
        "account_id": "",
        "resource": "parties",
        "outcome": "failed",
        "error": "lfi_unavailable",
        "complete": False,
        "retry": True,
    },
]


async def a_night(unit: UnitOfWork) -> None:
    """One connection is well, one failed, one is parked; the LFI's token side does not know us."""
    await unit.runs.add(a_run("well"))
    run_id = await unit.runs.add(a_run("sick", outcome="partial", error="lfi_unavailable", steps=STEPS))
    answered = a_call(status=200, error=None, interaction_id="interaction-2", attempt=2, price_millifils=2_500)
    await unit.runs.add_calls([a_call(reason="closed for the night"), answered], run_id=run_id)
    await unit.runs.add_calls([a_call(interaction_id="another run's")])
    older = night() - timedelta(minutes=50)
    call = a_call(consent_id="packed", status=200, error=None, interaction_id=PACKED, started_at=older)
    await unit.runs.file([(a_run("packed", started_at=older, ended_at=older, outcome="unchanged", calls=1), [call])])
    await unit.send()
    for subject in ("well", "sick", "parked"):
        await unit.work.schedule(WorkKind.SYNC, subject, lfi=NOOR, due_at=night() - timedelta(hours=1))
    for claim in await unit.work.claim(WorkKind.SYNC, slots={NOOR: 3}):
        taken = await unit.work.take(claim.id, claim.gen)
        assert taken is not None
        good = claim.subject == "well"
        error, outcome = (None, "ok") if good else ("lfi_unavailable", "partial")
        due_at = night() + timedelta(hours=6)
        await unit.work.finish(taken, due_at=due_at, outcome=outcome, error=error, good=good)
        if claim.subject == "parked":
            await unit.work.park(claim.id, error="crashed")
    met = Found(
        lfi=NOOR,
        operation="GetAccountsAccountIdStandingOrders",
        code="refused_401",
        times=3,
        connection_id=ConsentId("sick"),
        consent_id=ConsentId("sick"),
        interaction_id="interaction-9",
        reason="no",
    )
    unit.with_commit([unit.findings.meeting([met], at=night() - timedelta(days=1))])
    await unit.breakers.put(
        Breaker(
            lfi=NOOR,
            operations=OperationClass.TOKEN,
            opened_at=night(),
            until=night() + timedelta(hours=1),
            trips=3,
            reason="client_rejected:unauthorized_client",
            closed_at=None,
        )
    )


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """A folder whose database holds a night."""
    house = House(tmp_path_factory.mktemp("night"))
    house.toml.write_text(SETTINGS)
    url = f"sqlite:///{house.database}"
    migrate.upgrade(url)

    async def fill() -> None:
        store = Store(url)
        await store.atomically(a_night)
        await store.close()

    asyncio.run(fill())
    return house


@pytest.mark.live
def test_runs_are_listed_as_far_as_the_conditions_hold(house: House) -> None:
    """By outcome and time; newest first."""
    all_of_them = house.run("syncs", "list", "--since", "1h", "--json")
    partial = house.run("syncs", "list", "--outcome", "partial", "--lfi", "noor", "--consent", "sick", "--json")
    none = house.run("syncs", "list", "--since", "30s", "--json")

    assert [[one["run"] for one in ended.json] for ended in (all_of_them, partial, none)] == [[3, 2, 1], [2], []]
    assert (partial.json[0]["outcome"], partial.json[0]["error"], partial.json[0]["took"]) == (
        "partial",
        "lfi_unavailable",
        60,
    )


@pytest.mark.live
def test_a_run_is_shown_with_its_listings_its_own_calls_and_its_cost(house: House) -> None:
    """Everything to report it to the LFI with, and what to do."""
    shown = house.run("syncs", "show", "2", "--json").json
    as_text = house.run("syncs", "show", "2")

    assert [(step["complete"], step["retry"], step["needs_a_person"]) for step in shown["steps"]] == [
        (True, False, False),
        (False, True, False),
    ]
    assert (shown["complete"], shown["retry"], shown["needs_a_person"]) == (False, True, False)
    assert [(step["account"], step["resource"], step["outcome"], step["error"]) for step in shown["steps"]] == [
        ("a-1", "balances", "ok", None),
        (None, "parties", "failed", "lfi_unavailable"),
    ]
    assert [(call["interaction_id"], call["attempt"]) for call in shown["made"]] == [
        ("interaction-1", 1),
        ("interaction-2", 2),
    ]
    assert [call["reason"] for call in shown["made"]] == ["closed for the night", None]
    assert (shown["cost_fils"], shown["todo"].startswith("time mends it")) == (2.5, True)
    assert "interaction-2" in as_text.stdout


@pytest.mark.live
def test_what_did_not_end_well_is_named_with_what_to_do(house: House) -> None:
    """Parked first; who is well is not there; exit 3 says that there are any."""
    ended = house.run("syncs", "failed", "--json")

    facts = [(one["complete"], one["retry"], one["needs_a_person"]) for one in ended.json]
    assert facts == [(False, False, True), (False, True, False)]
    assert (ended.code, [(one["connection"], one["run"], one["error"]) for one in ended.json]) == (
        3,
        [("parked", None, "crashed"), ("sick", 2, "lfi_unavailable")],
    )
    assert [one["reason"] for one in ended.json] == [None, "closed for the night"]
    assert (ended.json[0]["next_try"], "`consents sync` puts it back" in ended.json[0]["todo"]) == (None, True)


@pytest.mark.live
def test_a_run_that_is_not_there_is_a_wrong_use(house: House) -> None:
    """One line, exit 2."""
    ended = house.run("syncs", "show", "99")

    assert (ended.code, ended.stderr) == (
        2,
        "error [bad_request]: run: no run on record has the number or name 99; `syncs list` shows them\n",
    )


@pytest.mark.live
def test_a_call_is_found_by_the_id_a_bank_names(house: House) -> None:
    """One packed into its run, in upper case; one of an older run; one of none; all the screen shows is in --json."""
    packed = house.run("calls", "show", PACKED.upper(), "--json").json
    as_text = house.run("calls", "show", PACKED).stdout
    older, alone = (house.run("calls", "show", one, "--json").json for one in ("interaction-1", "another run's"))

    assert (packed["lfi"], packed["consent"], packed["connection"], packed["run"], packed["run_outcome"]) == (
        "noor", "packed", "packed", 3, "unchanged",
    )  # fmt: skip
    assert (packed["interaction_id"], packed["operation"], packed["status"]) == (PACKED, "GetAccounts", 200)
    assert (PACKED in as_text, "unchanged" in as_text) == (True, True)
    assert (older["run"], older["connection"], older["reason"]) == (2, "sick", "closed for the night")
    assert (alone["run"], alone["consent"]) == (None, "sick")


@pytest.mark.live
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("06923ca5-997b-4324-bb83-6c9e71de94ab", "no call on record has it; give it as the LFI received it, whole"),
        ("x" * 65, "must be 1 to 64 printable characters; paste x-fapi-interaction-id"),
        (" ", "must be 1 to 64 printable characters; paste x-fapi-interaction-id"),
    ],
)
def test_an_id_that_leads_to_no_call_is_a_wrong_use(house: House, given: str, said: str) -> None:
    """One line, exit 2."""
    ended = house.run("calls", "show", given)

    assert (ended.code, ended.stderr) == (2, f"error [bad_request]: interaction_id: {said}\n")


@pytest.mark.live
def test_the_status_tells_what_is_wrong_and_what_to_do(house: House) -> None:
    """One screen: no worker, an LFI that does not know us, a parked row, a finding; each with its remedy.

    What is to be retried is counted and is no alarm: time mends it.
    """
    ended = house.run("status", "--json")
    until = (night() + timedelta(hours=1)).strftime("%Y-%m-%d %H:%M:%SZ")
    since = (night() - timedelta(days=1)).strftime("%Y-%m-%d %H:%M:%SZ")

    assert (ended.code, ended.json["wrong"]) == (
        1,
        [
            "no worker lives",
            "no beat lives",
            f"noor token calls: {NOT_KNOWN}: kept back until {until}",
            "noor sync: 1 parked after crashes",
            f"noor GetAccountsAccountIdStandingOrders: needs a person: refused_401, 3 times since {since}",
        ],
    )
    assert [(one["number"], one["key"], one["side"]) for one in ended.json["causes"]] == [
        (1, "workers_dead", "us"),
        (2, "beat_dead", "us"),
        (3, "lfi_rejects:noor", "us"),
        (4, "parked:noor:sync", "us"),
        (5, "finding:noor:refused_401", "lfi"),
    ]
    assert (ended.json["complete"], ended.json["retry"], ended.json["needs_a_person"]) == (1, 1, 2)
    assert [(one["code"], one["interaction_id"], one["reason"]) for one in ended.json["findings"]] == [
        ("refused_401", "interaction-9", "no")
    ]
    assert "report it with the interaction id" in ended.json["findings"][0]["todo"]
    assert (ended.json["limits"][0]["state"], ended.json["limits_kept_in"]) == ("open", "redis")
    assert ended.json["traffic"] == [
        {
            "lfi": "noor",
            "calls": 3,
            "unanswered": 2,
            "rate_limited": 0,
            "retried": 1,
            "retry_share": 0.333,
            "retry_budget": 0.1,
        }
    ]


@pytest.mark.live
def test_the_status_is_readable(house: House) -> None:
    """What is wrong stands first, with what to do behind an arrow."""
    lines = house.run("status").stdout.splitlines()

    assert "Needs a person" in lines
    assert lines[0] == "✗ 1 no worker lives → run `syncworker up` or `syncworker worker`"
    assert lines[1] == "    for 0 s; nothing hit yet; our side: syncworker worker"
    assert [line.split()[:2] for line in lines if line.startswith(("✗", "!"))] == [
        ["✗", str(number)] for number in range(1, 6)
    ]
    assert [line.split("  ")[0] for line in lines[11:16]] == ["stale", "failing", "expiring", "cost", "alive"]
    assert "Kept back" in lines


@pytest.mark.live
def test_an_lfi_is_tried_again_at_once(house: House, tmp_path: Path) -> None:
    """After the keys were mended nobody waits half an hour; asked again, there is nothing left to do."""
    mended = House.copy(house.folder, tmp_path / "mended")

    said = [mended.run("lfis", "retry", "noor", "--json").json["breakers_tried"] for _ in range(2)]

    assert said == [1, 0]


@pytest.mark.live
def test_the_doctor_warns_of_variables_that_set_nothing(house: House) -> None:
    """A misspelt one is ignored by everybody else, and looks as if it were set."""
    wrong = {"SYNCWORKER_BATCHSIZE": "7", "SYNCWORKER_TICK_SECONDS": "4", "SYNCWORKER_CADENC__BALANCES": "60"}
    ended = house.run("doctor", "--json", env=wrong)

    warned = {one["check"]: one["said"] for one in ended.json["checks"] if one["warning"]}
    assert warned == {
        "environment SYNCWORKER_BATCHSIZE": "is no setting and is ignored; did you mean SYNCWORKER_BATCH_SIZE?",
        "environment SYNCWORKER_CADENC__BALANCES": (
            "is no setting and is ignored; did you mean SYNCWORKER_CADENCE__BALANCES?"
        ),
    }


@pytest.mark.unit
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", timedelta(seconds=90)),
        ("30min", timedelta(minutes=30)),
        ("2h", timedelta(hours=2)),
        ("7d", timedelta(days=7)),
        ("2026-03-01T06:00:00+04:00", datetime(2026, 3, 1, 2, tzinfo=UTC)),
    ],
)
def test_a_point_in_the_past(text: str, expected: timedelta | datetime) -> None:
    """As a person writes it."""
    assert read_since(text) == expected


@pytest.mark.unit
@pytest.mark.parametrize("text", ["", "2", "2 weeks", "2026-03-01T06:00:00", "-2h"])
def test_what_is_no_point_in_the_past(text: str) -> None:
    """Refused by name, with the forms that are understood."""
    with pytest.raises(RequestError, match=r"^since: neither a span nor an instant; write 30min"):
        read_since(text)

"""`consents sync` where no sync can come: said at once, each reason with its own words and exit code."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cli.conftest import Prepared
from tests.cli.house import House

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

ALIVE = (
    "INSERT INTO worker (name, kind, started_at, progress_at) SELECT 'here/1', 'worker', now, now FROM "
    "(SELECT strftime('%Y-%m-%dT%H:%M:%f000Z', 'now') AS now)"
)
LONG_AGO = "'2026-01-02T03:04:05.000000Z'"
REASONS: dict[str, tuple[str, str, int, tuple[str, ...]]] = {
    "revoked": ("status = 'Revoked', ended_at = " + LONG_AGO, "consent_ended", 1,
                ("is Revoked since 2026-01-02 03:04:05Z", "`syncworker consents renew ")),
    "expired": ("status = 'Expired'", "consent_ended", 1, ("is Expired, so nothing is synced any more",)),
    "past its end": (f"expires_at = {LONG_AGO}", "consent_ended", 1, ("ended at 2026-01-02 03:04:05Z",)),
    "revoked here": (f"revoke_asked_at = {LONG_AGO}, revoke_by = 'TPP'", "consent_revoked_here", 1,
                     ("was revoked here at 2026-01-02 03:04:05Z",)),
    "grant lost": ("needs_consent = 'grant_lost'", "consent_needed", 1, ("lost its grant (grant_lost)",)),
    "paused": (f"paused_at = {LONG_AGO}", "consent_paused", 3, ("`syncworker consents resume ",)),
}  # fmt: skip


@pytest.mark.parametrize("reason", REASONS)
def test_where_no_sync_can_come_it_is_said_at_once(house: House, prepared: Prepared, reason: str) -> None:
    """With --wait, with --here and without: the same words and exit code, and nothing is asked for."""
    changes, error, code, words = REASONS[reason]
    house.sql(ALIVE)
    house.sql(f"UPDATE consent SET {changes} WHERE consent_id = ?", prepared.consent_id)
    before = house.tables()
    ways = [("--wait", "--timeout", "240"), ("--here",), ("--json",)]

    ended = [house.run("consents", "sync", prepared.consent_id, *way) for way in ways]

    said = " ".join(ended[0].stderr.split())
    assert [(one.code, one.stdout, one.stderr) for one in ended] == [(code, "", ended[0].stderr)] * 3, ended[0].said
    assert said.startswith(f"error [{error}]: consent_id: {prepared.consent_id} ")
    assert [one for one in words if one not in said] == []
    assert house.tables()["work"] == before["work"]


@pytest.mark.parametrize(
    ("status", "error"), [("Suspended", "consent_suspended"), ("AwaitingAuthorization", "consent_not_authorised")]
)
def test_where_the_bank_may_have_moved_it_the_hub_is_asked(
    house: House, prepared: Prepared, status: str, error: str
) -> None:
    """Nothing is waited for: exit 3, and a worker asks.  With --here the Hub says Authorized, and it is synced."""
    house.sql(ALIVE)
    house.sql(f"UPDATE consent SET status = '{status}' WHERE consent_id = ?", prepared.consent_id)
    ended = house.run("consents", "sync", prepared.consent_id, "--wait", "--timeout", "240")
    asked = house.sql("SELECT count(*) FROM work WHERE kind = 'sync' AND asked_at IS NOT NULL")
    here = house.run("consents", "sync", prepared.consent_id, "--here", "--json")

    assert (ended.code, ended.stderr.startswith(f"error [{error}]: consent_id: "), asked) == (3, True, [(1,)])
    assert (here.code, here.stderr) == (0, ""), here.said


def test_a_consent_that_was_renewed_names_its_successor(house: House, prepared: Prepared) -> None:
    """The connection is synced through the one in use."""
    house.sql("UPDATE consent SET status = 'Revoked' WHERE consent_id = ?", prepared.consent_id)
    columns = [name for (_, name, *_) in house.sql("PRAGMA table_info(consent)")]
    other = {"consent_id": "'successor-1'", "status": "'Authorized'", "base_consent_id": "connection_id"}
    copied = ", ".join(other.get(name, f'"{name}"') for name in columns)
    house.sql(f"INSERT INTO consent SELECT {copied} FROM consent WHERE consent_id = ?", prepared.consent_id)
    ended = house.run("consents", "sync", prepared.consent_id)

    assert (ended.code, "in use is successor-1: `syncworker consents sync successor-1`" in ended.stderr) == (1, True)


def test_an_lfi_that_is_not_declared_any_more_is_named(house: House, prepared: Prepared) -> None:
    """No worker claims its work, so nothing is waited for."""
    house.sql(ALIVE)
    house.toml.write_text(house.toml.read_text().replace("[lfis.sandbox", "[lfis.another"))
    ended = house.run("consents", "sync", prepared.consent_id, "--wait")

    assert (ended.code, ended.stderr.startswith("error [bad_request]: lfi: sandbox is not declared")) == (2, True)


def test_outside_the_allow_lists_no_sync_is_waited_for(house: House, prepared: Prepared) -> None:
    """The list is named."""
    house.sql(ALIVE)
    with house.toml.open("a") as toml:
        toml.write('\n[allow]\nlfis = ["another"]\n')

    ended = [house.run("consents", "sync", prepared.consent_id, way) for way in ("--wait", "--here")]

    assert [one.code for one in ended] == [1, 1]
    assert all(one.stderr.startswith("error [not_allowed]: allow.lfis: does not name sandbox") for one in ended)


def test_a_consent_that_ends_while_it_is_waited_for_ends_the_wait(house: House, prepared: Prepared) -> None:
    """No worker takes the sync here; the wait is over as soon as the consent is."""
    house.sql(ALIVE)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(house.run, "consents", "sync", prepared.consent_id, "--wait", "--timeout", "50")
        while not house.sql("SELECT 1 FROM work WHERE kind = 'sync' AND asked_at IS NOT NULL") and not waiting.done():
            time.sleep(0.05)
        house.sql("UPDATE consent SET status = 'Revoked' WHERE consent_id = ?", prepared.consent_id)
        ended = waiting.result()

    assert (ended.code, "error [consent_ended]" in ended.stderr) == (1, True), ended.said

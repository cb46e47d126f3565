"""The commands in the order a newcomer gives them: from a bank on this machine to rows, and the proof of them."""

import json
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from syncworker.store.migrate import head
from tests.cli.house import Ended, House, approve, settings_toml
from tests.ground.processes import Nursery, Spawned

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]

PERMISSIONS = ("ReadAccountsDetail", "ReadBalances", "ReadTransactionsDetail", "ReadPartyUser")


class Newcomer:
    """What somebody has after the first steps.

    Attributes:
        said: what each step printed, by its name.
        consent_id: of the consent that was given and synced.
    """

    def __init__(self, house: House, bank: Path, facts: dict[str, Any]) -> None:
        self.house = house
        self.bank = bank
        self.facts = facts
        self.said: dict[str, Ended] = {}
        self.consent_id = ""

    def step(self, name: str, *arguments: str, stdin: str = "") -> Ended:
        self.said[name] = self.house.run(*arguments, stdin=stdin)
        return self.said[name]


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    """The first steps, each by its command."""
    folder = tmp_path_factory.mktemp("newcomer")
    bank = folder / "bank"
    nursery = Nursery(tmp_path_factory.mktemp("sandbox"))
    nursery.syncworker(
        "sandbox",
        *("--folder", str(bank), "--customers", "2", "--base-port", "0"),
        cwd=folder,
        ready=lambda _child: (bank / "sandbox.json").is_file(),
    )
    facts = json.loads((bank / "sandbox.json").read_text())
    one = Newcomer(House(folder), bank, facts)
    one.step("keys", "keys", "generate", ".", "--keyring-only", "--json")
    files = {name: facts["client"][name] for name in ("signing_key", "transport_certificate", "transport_key")}
    one.house.toml.write_text(settings_toml(facts, files=files, more="tick_seconds = 1"))
    one.step("upgrade", "db", "upgrade")
    one.step("check", "db", "check", "--json")
    one.step("list", "lfis", "list", "--json")
    one.step("show", "lfis", "show", "sandbox", "--json")
    wanted = [part for permission in PERMISSIONS for part in ("--permission", permission)]
    begun = one.step("authorize", "consents", "authorize", "sandbox", *wanted, "--user-ref", "customer-1", "--json")
    one.consent_id = begun.json["consent"]
    redirect = approve(facts, begun.json["url"], user=facts["users"][0])
    one.step("callback", "consents", "callback", "-", "--json", stdin=redirect + "\n")
    one.step("sync", "consents", "sync", one.consent_id, "--here", "--json")
    yield one
    nursery.clear()


@pytest.fixture
def house(newcomer: Newcomer, tmp_path: Path) -> House:
    """A copy of the newcomer's folder; the bank is the same."""
    folder = tmp_path / "house"
    folder.mkdir()
    for name in ("syncworker.toml", "keyring"):
        shutil.copy(newcomer.house.folder / name, folder / name)
    with (
        closing(sqlite3.connect(newcomer.house.database)) as source,
        closing(sqlite3.connect(folder / "syncworker.db")) as copy,
    ):
        source.backup(copy)
    return House(folder)


def test_every_first_step_succeeds_and_prints_no_data_on_stderr(newcomer: Newcomer) -> None:
    """Nothing fails, and nothing but talk is on stderr."""
    assert {name: ended.code for name, ended in newcomer.said.items() if ended.code} == {}
    assert [name for name, ended in newcomer.said.items() if "error" in ended.stderr] == []


def test_setting_up_says_what_is_there(newcomer: Newcomer) -> None:
    """Key ring, schema, and the LFI as it will be used."""
    said, facts = newcomer.said, newcomer.facts
    assert said["keys"].json == {"keyring": "keyring"}
    assert said["upgrade"].stderr == "database schema is up to date\n"
    assert said["check"].json == {
        "schema": head(),
        "server": f"SQLite {sqlite3.sqlite_version}",
        "encoding": "UTF8",
        "writable": True,
        "pooler": "none",
        "newest": True,
        "other_views": [],
    }
    assert said["list"].json == [
        {
            "slug": "sandbox",
            "issuer": facts["issuer"],
            "versions": ["v2.1"],
            "declared_in": "settings",
            "shown_to_customers_as": None,
            "migrate_before": None,
            "missing_since": None,
            "allowed": True,
        }
    ]
    assert (said["show"].json["client_id"], said["show"].json["base_url_v2.1"]) == (
        facts["client"]["client_id"],
        facts["resource_base_url"],
    )


def test_a_consent_comes_home_and_brings_rows(newcomer: Newcomer) -> None:
    """The URL is on stdout alone; the callback names the consent; the sync is complete."""
    said = newcomer.said
    assert said["authorize"].json["url"].startswith(newcomer.facts["issuer"])
    assert said["callback"].json == {"consent": newcomer.consent_id, "status": "Authorized"}
    assert (said["sync"].json["outcome"], said["sync"].json["error"], said["sync"].json["added"] > 0) == (
        "ok",
        None,
        True,
    )


def test_the_doctor_finds_all_but_the_broker(newcomer: Newcomer) -> None:
    """Before `up` runs, the embedded broker is the one thing missing: exit 1, its fix named."""
    ended = newcomer.house.run("doctor", "--json")
    wrong = [one["said"].split(" (")[0] for one in ended.json["checks"] if not one["good"]]

    assert (ended.code, wrong) == (1, ["broker_url: no broker answers"]), ended.stdout
    checks = {one["check"] for one in ended.json["checks"]}
    assert checks == {
        *("database schema", "database", "database views", "feed", "key ring", "broker", "LFI sandbox", "consents"),
    }


def test_lists_show_the_consent_its_rows_and_its_token(newcomer: Newcomer) -> None:
    """`consents list`, `consents show`, `tokens status` and `status` agree."""
    house, consent_id = newcomer.house, newcomer.consent_id
    listed = house.run("consents", "list", "--json").json
    shown = house.run("consents", "show", consent_id, "--json").json
    tokens = house.run("tokens", "status", "--json").json
    status = house.run("status", "--json")

    assert [(one["consent"], one["user_ref"], one["status"]) for one in listed] == [
        (consent_id, "customer-1", "Authorized")
    ]
    assert (shown["permissions"], shown["rows_accounts"] > 0, shown["rows_transactions"] > 0) == (
        list(PERMISSIONS),
        True,
        True,
    )
    assert (shown["authorization"], shown["authorization_reason"], shown["lfi_said"]) == ("authorized", None, [])
    assert [(one["consent"], one["version"], one["lost"]) for one in tokens] == [(consent_id, 1, None)]
    assert [one["observers_failed"] for one in status.json["processes"]] == [0] * len(status.json["processes"])
    assert (status.code, status.json["consents"], status.json["workers"]) == (1, {"Authorized": 1}, 0)
    assert (status.json["wrong"][0], status.json["todo"][0]) == (
        "no worker lives",
        "run `syncworker up` or `syncworker worker`",
    )


def test_the_audit_finds_no_difference(newcomer: Newcomer) -> None:
    """Keys, typed columns and raw items, both ways, against the bank's own books."""
    ended = newcomer.house.run("audit", "--sandbox", str(newcomer.bank))

    assert (ended.code, ended.stdout.splitlines()[-1]) == (0, "0 differences")


def test_the_audit_names_each_planted_difference(newcomer: Newcomer, house: House) -> None:
    """One row deleted, one copied under another key, one amount off by the smallest step."""
    keys = [key for (key,) in house.sql('SELECT key FROM "transaction" WHERE gone_at IS NULL ORDER BY key LIMIT 3')]
    columns = [name for (_, name, *_) in house.sql('PRAGMA table_info("transaction")')]
    copied = ", ".join("'planted'" if name == "key" else f'"{name}"' for name in columns)
    house.sql(f'INSERT INTO "transaction" SELECT {copied} FROM "transaction" WHERE key = ?', keys[0])
    house.sql('DELETE FROM "transaction" WHERE key = ?', keys[1])
    house.sql('UPDATE "transaction" SET amount = amount + 1 WHERE key = ?', keys[2])

    as_json = house.run("audit", "--sandbox", str(newcomer.bank), "--json")
    as_text = house.run("audit", "--sandbox", str(newcomer.bank))

    found = {(one["kind"], one["key"], *one["columns"]) for one in as_json.json["differences"]}
    assert found == {("extra", "planted"), ("missing", keys[1]), ("altered", keys[2], "amount")}
    assert (as_json.code, as_text.code, as_text.stdout.splitlines()[-1]) == (1, 1, "3 differences")
    assert [kind for kind in ("missing", "extra", "altered") if kind not in as_text.stdout] == []


def test_a_worker_of_up_does_what_sync_waits_for(newcomer: Newcomer, house: House, worker_process: Nursery) -> None:
    """`up` is broker, worker and beat; SIGTERM ends all of them in order, and none stays behind."""
    up = worker_process.syncworker("up", cwd=house.folder, env=house.environment(), ready=lambda child: works(house))

    waited = house.run("consents", "sync", newcomer.consent_id, "--wait", "--json")
    status = house.run("status", "--json")
    asked_at = time.monotonic()
    up.signal(signal.SIGTERM)
    code = up.wait(timeout=30)
    took = time.monotonic() - asked_at

    assert (waited.code, waited.json["outcome"], waited.json["added"]) == (0, "unchanged", 0), story(waited, up)
    assert (status.code, status.json["wrong"]) == (0, []), story(status, up)
    assert (code, took < 15, worker_process.processes_left_behind()) == (0, True, []), up.output()


def works(house: House) -> bool:
    """Whether a worker and a tick were seen."""
    return {kind for (kind,) in house.sql("SELECT kind FROM worker")} == {"worker", "beat"}


def story(ended: Ended, up: Spawned) -> str:
    """What both sides said."""
    return f"{ended}\n{up.output()}"

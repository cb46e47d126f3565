"""Breakages made for real: `up` on an embedded broker, a sandbox bank, and what `status` calls the trouble."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syncworker.cli.breaking import Door
from tests.cli.house import Ended, House, approve, settings_toml
from tests.ground.processes import Nursery, Spawned

pytestmark = [pytest.mark.live, pytest.mark.long, pytest.mark.timeout(300)]

PERMISSIONS = ("ReadAccountsBasic", "ReadBalances")
OFTEN = "tick_seconds = 1\ncadence = { accounts = 3, balances = 3 }"


class Site:
    """A house whose `up` runs, and its bank."""

    def __init__(self, house: House, bank: Path, sandbox: Spawned, up: Spawned, consent_id: str) -> None:
        self.house = house
        self.running = sandbox
        self.consent_id = consent_id
        self.bank = bank
        self.up = up

    def sandbox(self, *words: str) -> Ended:
        return self.house.run("sandbox", "--folder", str(self.bank), *words)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.house.run("status", "--json").json
        return found

    def causes(self) -> set[str]:
        return {one["key"] for one in self.status()["causes"]}

    def mend(self) -> None:
        """The bank is well again, and is tried at once."""
        assert self.sandbox("mend", "sandbox").code == 0
        self.house.run("lfis", "retry", "sandbox")
        self.house.run("consents", "sync", self.consent_id)

    def until(self, key: str | None) -> None:
        """Wait until that cause is told, or none."""
        self.running.until(lambda _: key in self.causes() if key else not self.causes(), timeout=90)

    def until_noted(self, key: str) -> None:
        """Wait until a tick has put that cause on record."""
        query = "SELECT count(*) FROM cause WHERE key = ?"
        self.running.until(lambda _: self.house.sql(query, key) != [(0,)], timeout=90)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """One customer whose accounts and balances are read every three seconds."""
    bank, nursery = tmp_path / "bank", Nursery(tmp_path)
    arguments = ("sandbox", "--folder", str(bank), "--customers", "1", "--base-port", "0")
    sandbox = nursery.syncworker(*arguments, cwd=tmp_path, ready=lambda _: (bank / "sandbox.json").is_file())
    facts = json.loads((bank / "sandbox.json").read_text())
    house = House(tmp_path)
    house.run("keys", "generate", ".", "--keyring-only")
    files = {name: facts["client"][name] for name in ("signing_key", "transport_certificate", "transport_key")}
    house.toml.write_text(settings_toml(facts, files=files, more=OFTEN))
    house.run("db", "upgrade")
    wanted = [part for permission in PERMISSIONS for part in ("--permission", permission)]
    begun = house.run("consents", "authorize", "sandbox", *wanted, "--user-ref", "u", "--json").json
    house.run("consents", "callback", "-", stdin=approve(facts, begun["url"], user=facts["users"][0]) + "\n")
    house.run("consents", "sync", begun["consent"], "--here")
    up = nursery.syncworker("up", cwd=tmp_path, env=house.environment(), ready=lambda _: True)
    yield Site(house, bank, sandbox, up, begun["consent"])
    nursery.clear()


def test_status_names_what_was_broken(site: Site) -> None:
    """429, 500, slow answers, no worker and no beat: each by its name, and none once mended."""
    site.until(None)
    for trouble, key in (("500", "lfi_down:sandbox"), ("429", "lfi_gated:sandbox")):
        assert site.sandbox("break", "sandbox", trouble).code == 0
        site.until(key)
        site.until_noted(key)
        site.mend()
        site.until(None)
    site.up.until(lambda _: site.status()["usual"] != [], timeout=90)
    site.sandbox("break", "sandbox", "slow")
    site.until("lfi_slow:sandbox")
    site.until_noted("lfi_slow:sandbox")
    site.sandbox("mend", "sandbox")
    site.up.signal(signal.SIGTERM)
    site.up.wait(timeout=60)
    site.until("workers_dead")
    site.until("beat_dead")

    assert "broker_silent" not in site.causes()  # the embedded broker ended with `up`


def test_customers_who_revoke_are_no_cause(site: Site) -> None:
    """Their connection is left out; nothing needs the operator.  What is broken meanwhile is mended whole."""
    site.until(None)
    site.sandbox("break", "sandbox", "down")
    ordered = Door(site.bank, "sandbox").get("/faults")["faults"]
    site.sandbox("mend", "sandbox")
    assert [(one["kind"], one["operation"], one["times"]) for one in ordered] == [("drop", "*", None)]
    assert Door(site.bank, "sandbox").get("/faults")["faults"] == []
    assert site.sandbox("break", "sandbox", "revoke").stderr == (
        "sandbox: 1 consents revoked by their customers, for good\n"
    )
    site.up.until(lambda _: site.status()["counts"]["connections"] == 0, timeout=90)

    found = site.status()
    assert (found["counts"]["stale"], found["counts"]["left_out"]) == (0, {"ended": 1})
    assert found["causes"] == []


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("break", "sandbox", "fire"), 2, "sandbox: write `sandbox break LFI 429|500|slow|down|revoke`"),
        (("mend",), 2, "sandbox: write"),
        (("break", "noor", "500"), 2, "LFI: no sandbox bank noor runs in"),
    ],
)
def test_what_is_written_wrongly_is_named(tmp_path: Path, words: tuple[str, ...], code: int, said: str) -> None:
    """With what to write instead."""
    ended = House(tmp_path).run("sandbox", "--folder", str(tmp_path), *words)

    assert (ended.code, said in ended.stderr) == (code, True), ended

"""`syncworker lfis`: from the participants directory to an LFI that was looked at from end to end."""

import json
from pathlib import Path
from typing import Any

import pytest

from syncworker import opening, wiring
from syncworker.settings import load
from syncworker.simulator.participants import BANK, DIRT
from syncworker.standard.values import Slug
from syncworker.standard.versions import Version
from tests.cli.house import House

pytestmark = pytest.mark.live

PRIVATE = "--allow-private-hosts"


def server_id(house: House, url: str) -> str:
    found = house.run("lfis", "discover", url, PRIVATE, "--json").json["found"]
    return str(found[0]["server_id"])


def test_discover_lists_who_can_be_called_and_why_not_the_others(house: House, bank: dict[str, Any]) -> None:
    """One reason for each kind of dirt; nothing is written by looking."""
    before = house.tables()
    ended = house.run("lfis", "discover", bank["participants_url"], PRIVATE, "--json")

    (found,) = ended.json["found"]
    assert (ended.code, found["slug"], found["name"], found["base_urls"]) == (
        0, "sandbox-bank", BANK, {"v2.1": bank["resource_base_url"]}
    )  # fmt: skip
    assert {one["organisation"]: one["reason"] for one in ended.json["dropped"]} == DIRT
    assert house.tables() == before


def test_a_discovered_lfi_is_declared_shown_and_checked(house: House, bank: dict[str, Any]) -> None:
    """Under a name of our own; the walk to it finds nothing wrong and shows no secret."""
    server = server_id(house, bank["participants_url"])
    added = house.run("lfis", "discover", bank["participants_url"], PRIVATE, "--add", f"proving={server}", "--json")
    shown = house.run("lfis", "show", "proving", "--json")
    checked = house.run("lfis", "check", "proving", "--json")

    assert [(one["slug"], one["declared"], one["issuer"]) for one in added.json] == [
        ("proving", "added", bank["issuer"])
    ]
    assert (shown.json["authorisation_server_id"], shown.json["over_limit_page"], shown.json["declared_in"]) == (
        server, "v2.1: AED 0.50", "database"
    )  # fmt: skip
    assert (checked.code, [one for one in checked.json["checks"] if one["verdict"] != "good"]) == (0, [])
    assert [one["check"] for one in checked.json["checks"]][-2:] == ["published keys", "client-credentials token"]
    assert "eyJ" not in checked.said


def test_check_names_what_is_wrong_and_the_fix(house: House) -> None:
    """A `kid` the LFI does not know: everything before the token is good, the last line says what to compare."""
    house.set("signing_kid", "another-kid")
    ended = house.run("lfis", "check", "sandbox")

    lines = ended.stdout.splitlines()
    assert (ended.code, [line for line in lines if line.startswith("✗")]) == (1, [lines[-2]])
    assert lines[-2].startswith("✗ client-credentials token: token call: invalid_client")
    assert "compare client_id and signing_kid" in lines[-1]


def test_check_goes_on_where_it_can(house: House) -> None:
    """A discovery document that is not there: the data host is looked at all the same."""
    text = house.toml.read_text()
    house.toml.write_text(text.replace("base_urls =", 'discovery_url = "https://127.0.0.1:1/none"\nbase_urls ='))
    ended = house.run("lfis", "check", "sandbox", "--json")

    verdicts = {one["check"]: one["verdict"] for one in ended.json["checks"]}
    assert (ended.code, verdicts["discovery host"], verdicts["discovery document"], verdicts["data host v2.1"]) == (
        1, "bad", "bad", "good"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        pytest.param(("URL",), 2, "--allow-private-hosts", id="private without leave"),
        pytest.param(("URL", PRIVATE, "--add", "Retired"), 2, "Retired cannot be called: retired on", id="left out"),
        pytest.param(("URL", PRIVATE, "--add", "nobody"), 2, "no 'nobody' that can be called", id="unknown"),
        pytest.param(("URL", PRIVATE, "--all", "--add", "sandbox-bank=none"), 2, "no 'none'", id="one of several"),
        pytest.param(("syncworker.toml",), 2, "is not JSON", id="no document"),
        pytest.param(("ISSUER/.well-known/openid-configuration", PRIVATE), 1, "not an array", id="another document"),
        pytest.param(("https://127.0.0.1:1/participants", PRIVATE), 1, "127.0.0.1", id="nobody there"),
    ],
)
def test_what_cannot_be_discovered_leaves_nothing(
    arguments: tuple[str, ...], code: int, says: str, house: House, bank: dict[str, Any]
) -> None:
    """One line on stderr with the fix, and the tables as they were."""
    before = house.tables()
    given = [one.replace("URL", bank["participants_url"]).replace("ISSUER", bank["issuer"]) for one in arguments]
    ended = house.run("lfis", "discover", *given)

    assert (ended.code, ended.stdout, says in ended.stderr, "Traceback" in ended.stderr) == (code, "", True, False)
    assert house.tables() == before


def test_an_issuer_its_discovery_document_denies_is_not_declared(
    house: House, bank: dict[str, Any], tmp_path: Path
) -> None:
    """With --all the others are declared, and the exit code says that some were not."""
    apis = [{"ApiFamilyType": "account-information", "Status": "Active",
             "ApiDiscoveryEndpoints": [{"ApiEndpoint": bank["resource_base_url"] + "/accounts"}]}]  # fmt: skip
    servers = [
        {"AuthorisationServerId": name, "Status": "Active", "CustomerFriendlyName": name, "Issuer": issuer,
         "OpenIDDiscoveryDocument": bank["discovery_url"], "ApiResources": apis}
        for name, issuer in (("honest", bank["issuer"]), ("claimed", bank["issuer"] + "/other"))
    ]  # fmt: skip
    (tmp_path / "participants.json").write_text(
        json.dumps([{"OrganisationName": "X", "Status": "Active", "AuthorisationServers": servers}])
    )
    ended = house.run("lfis", "discover", str(tmp_path / "participants.json"), PRIVATE, "--all", "--json")

    assert (ended.code, {one["slug"]: one["declared"] for one in ended.json}) == (
        3,
        {"honest": "added", "claimed": "no"},
    )
    assert house.sql("SELECT slug FROM lfi") == [("honest",)]


def test_an_lfi_outside_the_allow_list_is_not_called(house: House, bank: dict[str, Any]) -> None:
    """Neither looked at nor asked for a consent; the refusal has a name."""
    only = {"SYNCWORKER_ALLOW__LFIS": '["another"]'}
    ended = [house.run("lfis", "check", "sandbox", env=only), house.run("consents", "authorize", "sandbox", env=only)]

    assert [one.code for one in ended] == [1, 1]
    assert all("error [not_allowed]: allow.lfis: does not name sandbox" in one.stderr for one in ended)


async def test_a_workers_tick_follows_the_directory(
    house: House, bank: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endpoint that vanished from the declaration comes back with the next reading; a second tick reads nothing."""
    server = server_id(house, bank["participants_url"])
    house.run("lfis", "discover", bank["participants_url"], PRIVATE, "--add", f"proving={server}")
    (declared,) = house.sql("SELECT declared FROM lfi WHERE slug = 'proving'")[0]
    cut = json.loads(declared) | {"published": {"v2.1": ["/accounts"]}}
    house.sql("UPDATE lfi SET declared = ? WHERE slug = 'proving'", json.dumps(cut))
    monkeypatch.chdir(house.folder)
    settings = load(directory={"url": bank["participants_url"], "allow_private_hosts": True})
    application = await wiring.build_application(settings)
    try:
        await application.tick()
        await application._follower.finished()
        before = house.sql("SELECT due_at, last_outcome FROM work WHERE kind = 'directory'")
        await application.tick()
        await application._follower.finished()
        after = house.sql("SELECT due_at, last_outcome FROM work WHERE kind = 'directory'")
        fresh, _ = (await opening.declared_lfis(settings, application.store))[Slug("proving")]
    finally:
        await application.close()

    assert (before, before[0][1]) == (after, "read")
    assert fresh.published == {
        Version(version): frozenset(paths) for version, paths in json.loads(declared)["published"].items()
    }

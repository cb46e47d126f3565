"""`syncworker openings`: an account asked for, followed to its end, and what may go wrong, as real processes."""

import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Prepared
from tests.cli.house import Ended, House
from tests.openings.house import PERSONAL, body, guide_body

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

BODY = json.dumps(body(), default=str).replace(f'"{PERSONAL[3]}"', PERSONAL[3])
UNHEARD_OF = "00000000-0000-4000-8000-000000000000"


class Desk:
    """A folder whose LFI opens accounts, and the bank's own side.

    Attributes:
        said: every output of every command, to search.
    """

    def __init__(self, house: House, facts: dict[str, Any]) -> None:
        self.house = house
        self.facts = facts
        self.said = ""

    def run(self, *arguments: str, stdin: str = "") -> Ended:
        ended = self.house.run("openings", *arguments, stdin=stdin)
        self.said += ended.said
        return ended

    def verb(self, name: str, **arguments: Any) -> None:
        """Have the bank do something."""
        key = Path(self.facts["books_key"]).read_text().strip()
        request = urllib.request.Request(
            f"{self.facts['books_url']}/verbs/{name}",
            data=json.dumps(arguments).encode(),
            headers={"Authorization": f"Bearer {key}"},
        )
        urllib.request.urlopen(request).close()

    def create(self, *options: str) -> Ended:
        return self.run("create", "sandbox", "-", "--user-ref", "customer-7", *options, stdin=BODY)


@pytest.fixture(scope="module")
def desk(prepared: Prepared, bank: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("openings") / "house"
    shutil.copytree(prepared.folder, folder)
    desk = Desk(House(folder), bank)
    url = json.dumps(bank["opening_base_urls"]["v2.1"])
    with desk.house.toml.open("a") as toml:
        toml.write(f'openings = "v2.1"\nopenings_urls = {{ "v2.1" = {url} }}\n')
    yield desk
    desk.verb("clear_faults")


def test_an_account_is_asked_for_and_watched_to_its_end(desk: Desk) -> None:
    """Each command with its exit code, and nothing personal in what they print."""
    desk.verb("configure_openings", completes_after=1)

    created = desk.create("--permission", "ReadAccountsBasic", "--days", "30", "--json")
    opening_id = created.json["opening"]
    waited = desk.run("watch", opening_id, "--timeout", "0")
    watched = desk.run("watch", opening_id, "--here", "--json")
    shown = desk.run("show", opening_id, "--json")

    assert (created.code, created.json["state"], created.json["share"]) == (0, "pending", ["ReadAccountsBasic"])
    assert waited.code == 3
    assert "no worker lives" in waited.stderr
    assert (watched.code, watched.json["state"]) == (0, "completed")
    assert [move["state"] for move in shown.json["history"]] == ["sending", "pending", "completed"]
    assert [secret for secret in PERSONAL if secret in desk.said] == []


def test_a_request_without_an_answer_waits_for_a_person(desk: Desk) -> None:
    """Exit 3 and what to do; what the LFI said about it then settles it."""
    desk.verb("drop_response", operation="opening_create")

    created = desk.create()
    (listed,) = desk.run("list", "--state", "unknown", "--json").json
    settled = desk.run("settle", listed["opening"], "--not-created", "--json")

    assert (created.code, settled.code) == (3, 0)
    assert "error [opening_in_doubt]: nobody knows whether the LFI has it" in created.stderr
    assert "openings settle" in created.stderr
    assert settled.json["state"] == "not_created"


def test_a_refusal_is_an_exit_code_and_the_banks_word(desk: Desk) -> None:
    """The LFI's own code; the row stays as the proof."""
    desk.verb("answers", status=400, operation="opening_create", code="Body.InvalidFormat", times=1)

    created = desk.create()

    assert created.code == 1
    assert "error [Body.InvalidFormat]" in created.stderr


def test_the_guides_own_request_goes_out_with_a_warning(
    prepared: Prepared, bank: dict[str, Any], desk: Desk, tmp_path: Path
) -> None:
    """Plain v2.0: what only the errata demands is said on stderr and in JSON, and the bank takes the request."""
    house = House.copy(prepared.folder, tmp_path / "guide")
    url = json.dumps(bank["opening_base_urls"]["v2.0"])
    with house.toml.open("a") as toml:
        toml.write(f'openings = "v2.0"\nopenings_urls = {{ "v2.0" = {url} }}\n')
    desk.verb("configure_openings", v2_0="v2.0")
    asked = json.dumps(guide_body(), default=float)

    ended = [house.run("openings", "create", "sandbox", "-", *way, stdin=asked) for way in (("--json",), ())]

    line = "Data.AnnualTransactionVolume: is not a member of the published schema"
    assert [(one.code, f"warning [opening_not_as_errata]: {line}, says" in one.stderr) for one in ended] == [
        (0, True)
    ] * 2
    assert (ended[0].json["state"], ended[0].json["version"], ended[0].json["warnings"]) == ("pending", "v2.0", [line])


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "says"),
    [
        (("create", "sandbox", "-"), "{", 2, "body: not JSON"),
        (("create", "sandbox", "-"), '{"Data": {"Party": {"Claims": 7}}}', 2, "Data.Account: is missing"),
        (("create", "nobody", "-"), BODY, 1, "nobody"),
        (("show", UNHEARD_OF), "", 2, "openings list"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    desk: Desk, arguments: tuple[str, ...], stdin: str, code: int, says: str
) -> None:
    """Field and fix on stderr, no traceback, nothing half-written."""
    before = desk.house.tables()

    ended = desk.run(*arguments, stdin=stdin)

    assert (ended.code, ended.stdout) == (code, "")
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr
    assert desk.house.tables() == before

"""`balances`, `accounts`, `transactions` and the other lists, as real processes: text, JSON, CSV, whom a word means."""

import csv
import io
from pathlib import Path

import pytest

from syncworker.store import migrate
from tests.cli.house import House
from tests.cli.test_changes import ONE, both, within
from tests.cli.test_items import SETTINGS
from tests.web.kept import IBAN

pytestmark = pytest.mark.live


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A folder with two connections of two customers that were synced once."""
    house = House(tmp_path)
    house.toml.write_text(SETTINGS)
    url = f"sqlite:///{house.database}"
    migrate.upgrade(url)
    within(url, house.keyring, both)
    return house


def test_a_word_means_an_account_a_connection_or_a_customer(house: House) -> None:
    """All three lead to the same transaction; the screen names it and says how fresh it is."""
    by_user = house.run("transactions", "customer-0", "--json")
    (row,) = by_user.json["transactions"]
    for who in (ONE, row["account_id"]):
        assert house.run("transactions", who, "--json").json["transactions"] == [row]
    shown = house.run("transactions", "customer-0")
    assert (shown.code, row["account_id"] in shown.stdout, "fresh: " in shown.stderr) == (0, True, True)
    unknown = house.run("transactions", "customer-9")
    assert (unknown.code, "who: is no account id" in unknown.stderr) == (2, True)


def test_balances_are_of_one(house: House) -> None:
    """JSON has rows, sums and freshness; without a word there is nothing to add up."""
    found = house.run("balances", "customer-0", "--json")
    assert (found.code, set(found.json)) == (0, {"balances", "totals", "freshness"})
    everyone = house.run("balances")
    assert (everyone.code, everyone.stderr.startswith("error [bad_request]: who: give")) == (2, True), everyone.stderr


def test_who_people_are_is_shown_on_demand(house: House) -> None:
    """Account numbers and names are in no output without `--personal`."""
    plain, whole = house.run("accounts", "--json"), house.run("accounts", "--json", "--personal")
    assert IBAN not in plain.said
    assert (plain.code, whole.code, len(plain.json["accounts"])) == (0, 0, 2)


def test_csv_has_every_column_and_nothing_a_spreadsheet_runs(house: House) -> None:
    """The header names what JSON names."""
    listed = house.run("transactions", "--json").json["transactions"]
    rows = list(csv.DictReader(io.StringIO(house.run("transactions", "--csv").stdout)))
    assert [set(row) for row in rows] == [set(row) for row in listed]
    assert [row["id"] for row in rows] == [row["id"] for row in listed]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("--from", "30.11.2026"), "from: is no date"), (("--min", "much"), "min: is no amount"),
     (("--cursor", "x"), "cursor: is none of this list's")],
)  # fmt: skip
def test_what_is_wrong_is_named(house: House, arguments: tuple[str, ...], said: str) -> None:
    """Exit code 2, one line, the field's name."""
    ended = house.run("transactions", *arguments)
    assert (ended.code, said in ended.stderr, ended.stdout) == (2, True, "")


@pytest.mark.parametrize(
    "name",
    [
        "accounts",
        "beneficiaries",
        "direct-debits",
        "standing-orders",
        "scheduled-payments",
        "statements",
        "products",
        "parties",
    ],
)
def test_every_list_is_shown(house: House, name: str) -> None:
    """Empty or not."""
    ended = house.run(name, "--json")
    assert (ended.code, name.replace("-", "_") in ended.json) == (0, True), ended.said
    assert house.run(name, ONE).code == 0

"""`balances`, `accounts`, `transactions` and the other lists, as real processes: text, JSON, CSV, whom a word means."""

import csv
import io
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from syncworker.cli import reads
from syncworker.store import migrate
from tests.cli.house import House
from tests.cli.test_changes import ONE, TWO, both, within
from tests.cli.test_items import SETTINGS
from tests.web.kept import IBAN, Kept

FORMULA = '=HYPERLINK("https://evil.example")'

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
    assert (found.code, set(found.json)) == (0, {"balances", "totals", "left_out", "freshness"})
    everyone = house.run("balances")
    assert (everyone.code, everyone.stderr.startswith("error [bad_request]: who: give")) == (2, True), everyone.stderr


def test_who_people_are_is_shown_on_demand(house: House) -> None:
    """Account numbers are masked, names left out, without `--personal`: in JSON, CSV and on the screen."""
    for form in (("--json",), ("--csv",), ()):
        plain, whole = house.run("accounts", *form), house.run("accounts", "--personal", *form)
        assert (plain.code, whole.code) == (0, 0)
        assert (IBAN in plain.said, "AE07" in plain.said, IBAN in whole.said) == (False, True, True)
        assert ("A. Person" in plain.said, "Holidays" in plain.said) == (False, False)


def test_csv_has_every_column_and_nothing_a_spreadsheet_runs(house: House) -> None:
    """The header names what JSON names."""
    listed = house.run("transactions", "--json").json["transactions"]
    rows = list(csv.DictReader(io.StringIO(house.run("transactions", "--csv").stdout)))
    assert [set(row) for row in rows] == [set(row) for row in listed]
    assert [row["id"] for row in rows] == [row["id"] for row in listed]
    assert {row["amount"] for row in rows} == {row["amount"] for row in listed} == {"-12.34"}


@pytest.mark.parametrize(
    ("value", "cell"),
    [(FORMULA, f"'{FORMULA}"), ("+971", "'+971"), ("-1", "'-1"), ("@a", "'@a"), ("\t=1", "'\t=1"), ("\n=1", "'\n=1"),
     ("a=1", "a=1"), (["=1"], '["=1"]'), ([{"amount": "-1.00"}], '[{"amount":"-1.00"}]'), (True, "true"),
     (Decimal("-45.00"), "-45.00"), (None, "")],
)  # fmt: skip
def test_a_cell_is_exact_and_runs_nowhere(value: Any, cell: str) -> None:
    """Text of an LFI that begins like a formula is text; an amount of ours is a number, lists are JSON."""
    assert reads._cell(value) == cell


def test_a_formula_that_an_lfi_sent_is_guarded(house: House) -> None:
    """The merchant's name comes from outside; JSON has it as it was sent."""

    async def named(one: Kept, two: Kept) -> None:
        one.gen, one.consent_id = 1, ONE
        one.transactions = {"1001": {"t2": {"MerchantDetails": {"MerchantName": FORMULA}}}}
        await one.sync()

    within(f"sqlite:///{house.database}", house.keyring, named)
    found = house.run("transactions", ONE, "--text", "evil", "--json").json["transactions"]
    (row,) = csv.DictReader(io.StringIO(house.run("transactions", ONE, "--text", "evil", "--csv").stdout))
    assert ([one["merchant_name"] for one in found], row["merchant_name"]) == ([FORMULA], f"'{FORMULA}")


def test_an_empty_list_says_so(house: House) -> None:
    """JSON and CSV keep their form: no rows, and the header that there would be."""
    empty = house.run("direct-debits", "customer-0")
    assert (empty.code, empty.stdout, "no direct debits" in empty.stderr) == (0, "", True)
    assert house.run("direct-debits", "--json").json["direct_debits"] == []
    (header,) = house.run("direct-debits", "--csv").stdout.splitlines()
    assert header.startswith("id,connection_id,user_ref,lfi,account_id,")


def test_a_connection_that_ended_is_refused_by_name(house: House) -> None:
    """By its id and by an account of it; the other one is read as before."""

    async def ended(one: Kept, two: Kept) -> None:
        one.consent_id = ONE
        await one.end()

    (account,) = house.run("accounts", ONE, "--json").json["accounts"]
    within(f"sqlite:///{house.database}", house.keyring, ended)
    for command in ("transactions", "balances", "accounts"):
        for who in (ONE, account["account_id"]):
            refused = house.run(command, who)
            assert (refused.code, refused.stdout) == (2, "")
            assert "error [restricted]: connection_id: its consent ended" in refused.stderr
    (left,) = house.run("transactions", "--json").json["transactions"]
    assert left["connection_id"] == TWO
    for command in ("transactions", "balances", "accounts"):
        held_back = house.run(command, "customer-0")
        assert (held_back.code, held_back.stdout) == (0, "")
        assert "1 connection of customer-0 is restricted: its consent ended (" in held_back.stderr
        found = house.run(command, "customer-0", "--json").json
        assert (found[command], [one["connection_id"] for one in found["left_out"]]) == ([], [ONE])
        assert found["left_out"][0]["reason"] == "consent_ended"
        assert "restricted" not in house.run(command, "customer-1").stderr


def test_pages_follow_each_other_and_all_prints_every_one(house: House) -> None:
    """The cursor of one page leads to the next; `--all` needs none, and CSV has one header."""
    first = house.run("accounts", "--limit", "1", "--json").json
    second = house.run("accounts", "--limit", "1", "--cursor", first["next_cursor"], "--json").json
    both_ids = [first["accounts"][0]["id"], second["accounts"][0]["id"]]
    assert (len(set(both_ids)), second["next_cursor"]) == (2, None)
    every = house.run("accounts", "--all", "--limit", "1", "--csv")
    assert [row["id"] for row in csv.DictReader(io.StringIO(every.stdout))] == both_ids
    assert "more: " not in every.stderr
    lines = house.run("accounts", "--all", "--limit", "1", "--json").stdout.splitlines()
    assert len(lines) == 2


def test_an_lfi_and_an_instant_narrow_what_is_shown(house: House) -> None:
    """Of an LFI that is none there is nothing; before the first sync nothing was known."""
    (row,) = house.run("transactions", ONE, "--json").json["transactions"]
    for lfi, rows in ((row["lfi"], [row]), ("none", [])):
        assert house.run("transactions", ONE, "--lfi", lfi, "--json").json["transactions"] == rows
    then = house.run("transactions", ONE, "--as-of", row["changed_at"], "--json").json["transactions"]
    assert [(one["id"], one["amount"]) for one in then] == [(row["id"], row["amount"])]
    for name in ("transactions", "balances", "accounts"):
        known = house.run(name, ONE, "--as-of", "2020-01-01T00:00:00Z", "--json")
        assert (known.code, known.json[name], known.json["freshness"]) == (0, [], {}), known.said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("--from", "30.11.2026"), "from: is no date"), (("--min", "much"), "min: is no amount"),
     (("--cursor", "x"), "cursor: is none of this list's"), (("--direction", "debit"), "direction"),
     (("--from", "0001-01-01"), "from: lies outside"), (("--min", "1.1234567"), "min: has more digits"),
     (("--limit", "501"), "limit: is more than 500"), (("--as-of", "noon"), "as-of: is no instant"),
     (("--as-of", "2026-11-30T08:00:00Z"), "who: give"), (("--csv", "--json"), "csv: is given with --json")],
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

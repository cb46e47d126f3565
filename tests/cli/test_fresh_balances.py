"""docs/how-to/fresh-balances.md: the four ways print the same sums, and its SQL adds up as the command does."""

import re
import sqlite3
from pathlib import Path

import pytest

from syncworker.store import migrate
from tests.cli.house import House
from tests.cli.test_changes import within
from tests.cli.test_items import SETTINGS
from tests.web.kept import Kept

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "fresh-balances.md").read_text(encoding="utf-8")
AMOUNTS = {"1001": "85102.54345", "1002": "16.875", "1003": "-19.70", "1004": "20.00", "1005": "0.00"}


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    return [text for of, text in fenced if of == language]


def sums(block: str) -> list[tuple[str, str, str]]:
    """Type, currency and amount of each line that has them."""
    return re.findall(r"(Interim\w+)[ │]+([A-Z]{3})[ │]+(-?[\d.]+)", block)


def test_the_page_shows_the_same_sums_in_every_text() -> None:
    """Terminal, SQL and Python, each digit alike; the first sum stands in the answer of the API too."""
    shown = [sums(block) for block in blocks("") if sums(block)]

    assert len(shown) == 3
    assert shown[0] == shown[1] == shown[2] != []
    kind, currency, amount = shown[0][0]
    assert f'{{"type": "{kind}", "currency": "{currency}", "amount": "{amount}"' in "".join(blocks("json"))


@pytest.mark.live
def test_the_sql_of_the_page_adds_up_as_the_command_does(tmp_path: Path) -> None:
    """Amounts of two to five digits behind the point, negative and zero, one currency an account."""
    house = House(tmp_path)
    house.toml.write_text(SETTINGS)
    url = f"sqlite:///{house.database}"
    migrate.upgrade(url)

    async def kept(one: Kept, two: Kept) -> None:
        one.accounts, one.balances = list(AMOUNTS), AMOUNTS
        await one.file()
        await one.sync()

    within(url, house.keyring, kept)
    database = sqlite3.connect(house.database)
    (sql,) = blocks("sql")
    for account_id, currency in zip(AMOUNTS, ("AED", "KWD", "EUR", "USD", "GBP"), strict=True):
        database.execute("UPDATE balance SET currency = ? WHERE account_id = ?", (currency, account_id))
    database.commit()
    found = database.execute(sql.replace("aisha-1@bank-one", "customer-0")).fetchall()
    database.close()
    told = house.run("balances", "customer-0", "--json").json["totals"]

    assert [row[:3] for row in found] == [(one["type"], one["currency"], one["amount"]) for one in told]
    assert {row[2] for row in found} == set(AMOUNTS.values())

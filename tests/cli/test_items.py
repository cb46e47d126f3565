"""`items unreadable|show`, as real processes on a folder that holds some."""

import asyncio

import pytest

from syncworker.clock import SystemClock
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store import migrate
from syncworker.store.cursors import Listing
from syncworker.store.keyring import KeyRing
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.unreadable import ITEM_BYTES_MAX, Remembered, Sighting
from tests.cli.house import House

pytestmark = pytest.mark.live

SECRET = "Falcon-Marked-Secret"
ITEM = b'{"TransactionId":" ","TransactionInformation":"' + SECRET.encode() + b'\xff"}'
SETTINGS = """
database_url = "sqlite:///syncworker.db"
data_dir = "data"
keyring = "keyring"
client = { client_id = "c", redirect_uri = "https://app.example/callback", signing_kid = "k" }
lfis.noor = { issuer = "https://auth.noor.example", base_urls = { "v2.1" = "https://rs.noor.example/v2.1" } }
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """A folder whose database holds two unreadable items of two connections."""
    house = House(tmp_path_factory.mktemp("items"))
    house.toml.write_text(SETTINGS)
    url = f"sqlite:///{house.database}"
    migrate.upgrade(url)
    ring = KeyRing.generate(house.keyring)

    async def fill() -> None:
        store = Store(url, keyring=ring, clock=SystemClock())

        async def keep(unit: UnitOfWork) -> None:
            now = await unit.now()
            for connection, raw in (("c-1", ITEM), ("c-2", b"x" * (ITEM_BYTES_MAX + 1))):
                sighting = Sighting(
                    now=Remembered(digest=b"d" * 16),
                    page=2,
                    path="Data.Transaction[3].TransactionId",
                    reason="id_missing",
                    raw=raw,
                )
                listing = Listing("acc-1", ResourceName.TRANSACTIONS)
                consent = ConsentId(connection)
                await unit.unreadable.keep(consent, consent, listing, [sighting], known=(), at=now)

        await store.atomically(keep)
        await store.close()

    asyncio.run(fill())
    return house


def test_unreadable_items_are_listed_by_place_and_reason(house: House) -> None:
    """Of all connections or one; never with what they hold."""
    everything = house.run("items", "unreadable", "--json")
    one = house.run("items", "unreadable", "--connection", "c-1", "--json")
    none = house.run("items", "unreadable", "--connection", "nobodys")
    as_text = house.run("items", "unreadable")

    facts = [(row["connection"], row["resource"], row["account"], row["page"], row["path"]) for row in one.json]
    assert facts == [("c-1", "transactions", "acc-1", 2, "Data.Transaction[3].TransactionId")]
    assert {row["connection"] for row in everything.json} == {"c-1", "c-2"}
    assert (none.code, none.stdout, "every item could be read" in none.stderr) == (0, "", True)
    assert "id_missing" in as_text.stdout
    assert SECRET not in as_text.stdout + everything.stdout


def test_an_item_is_shown_its_content_only_when_asked_for(house: House) -> None:
    """It is personal.  Bytes that are no text are written out."""
    plain = house.run("items", "show", "1", "--json")
    content = house.run("items", "show", "1", "--content", "--json").json["content"]
    too_long = house.run("items", "show", "2", "--content", "--json").json

    assert (plain.json["reason"], plain.json["times"], plain.json["content_kept"]) == ("id_missing", 1, True)
    assert (SECRET in plain.stdout, content) == (False, ITEM.decode(errors="backslashreplace"))
    assert (too_long["bytes"], too_long["content_kept"], too_long["content"]) == (ITEM_BYTES_MAX + 1, False, None)


@pytest.mark.parametrize("name", ["99", "x", "-1", "1" * 19])
def test_an_item_that_is_not_there_is_said_to_be(name: str, house: House) -> None:
    """One line, and where to look."""
    ended = house.run("items", "show", "--", name)
    assert (ended.code, ended.stdout, "syncworker items unreadable" in ended.stderr) == (2, "", True)

"""No secret and nothing personal leaves the house: every output of a whole run at DEBUG is searched for marked values.

Source: `reliability.md` rule 37.
"""

import asyncio
import base64
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from syncworker.simulator.books import Books
from syncworker.store.keyring import KeyRing
from tests.cli.house import CLIENT_FILES, House, approve, settings_toml
from tests.ground.processes import Nursery

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]

PERMISSIONS = ("ReadAccountsDetail", "ReadBalances", "ReadTransactionsDetail", "ReadParty", "ReadPartyUser")
PERSONAL = re.compile(r"Name$|Surname$|Identification$|EmiratesId$|Email|Mobile|AddressLine|Nickname|Information$")
PERSONAL_CHARACTERS_MIN = 6
QUICK = """tick_seconds = 1
token_timeout = 2
lease_seconds = 30

[cadence]
accounts = 4
balances = 4
transactions = 4
parties = 4
account_parties = 4
"""


def test_a_whole_run_at_debug_shows_no_secret(tmp_path: Path, worker_process: Nursery) -> None:
    """PAR, callback, code exchange, syncs, a refresh: then every output and everything the broker kept is searched."""
    data = tmp_path / "bank"
    argv = (sys.executable, "-m", "syncworker.simulator", "--data-dir", str(data), "--customers", "1")
    worker_process.spawn((*argv, "--access-token-seconds", "8"), ready=lambda _child: (data / "sandbox.json").is_file())
    facts = json.loads((data / "sandbox.json").read_text())
    house = House(tmp_path / "house")
    house.folder.mkdir()
    files = {name: facts["client"][name] for name in CLIENT_FILES}
    house.toml.write_text(settings_toml(facts, files=files, more=QUICK))
    said = [house.run("keys", "generate", ".", "--keyring-only").said]
    up = worker_process.syncworker(
        "up", "--log-level", "debug", cwd=house.folder, env=house.environment(), ready=lambda child: works(house)
    )

    wanted = [part for permission in PERMISSIONS for part in ("--permission", permission)]
    begun = house.run("consents", "authorize", "sandbox", *wanted, "--user-ref", "customer-1", "--json")
    consent_id = begun.json["consent"]
    redirect = approve(facts, begun.json["url"], user=facts["users"][0])
    secrets = {
        "code": dict(parse_qsl(urlsplit(redirect).query))["code"],
        "code_verifier": opened(house, "authorization", "code_verifier", by="state"),
    }
    callback = house.run("consents", "callback", "-", "--json", stdin=redirect + "\n")
    secrets |= tokens(house, "first")
    until(lambda: bool(house.sql("SELECT 1 FROM run WHERE outcome = 'unchanged'")), "two syncs")
    until(lambda: bool(house.sql("SELECT 1 FROM token WHERE refreshed_count > 0")), "a refresh")
    secrets |= tokens(house, "refreshed")
    said += [callback.said, begun.stderr]  # its stdout is the URL for the user
    looks = ("consents list", f"consents show {consent_id}", "tokens status", "status", "doctor")
    said += [house.run(*look.split()).said for look in looks]
    personal = asyncio.run(people(facts))
    code = up.stop(grace=30)
    said.append(up.output())
    kept = [path.read_bytes() for path in sorted((house.folder / "data").rglob("*")) if path.is_file()]
    broker = [plain(content.decode("latin-1")) for content in kept]
    outputs = "\n".join([*said, *broker])

    assert (code, "sync_batch" in up.output(), '"task": "tick"' in "".join(broker)) == (0, True, True), up.output()
    assert len(secrets) == 6
    assert [name for name, value in secrets.items() if value in outputs] == []
    assert [value for value in personal if value in outputs] == []
    assert [opening for opening in ("eyJ", "PRIVATE KEY", "Traceback") if opening in outputs] == []  # eyJ opens a JWT
    stored = b"".join(path.read_bytes() for path in house.folder.glob("syncworker.db*"))
    assert [name for name, value in secrets.items() if value.encode() in stored] == []


def works(house: House) -> bool:
    """Whether a worker and a tick were seen."""
    if not house.database.is_file():
        return False
    tables = {name for (name,) in house.sql("SELECT name FROM sqlite_master")}
    return "worker" in tables and {kind for (kind,) in house.sql("SELECT kind FROM worker")} == {"worker", "beat"}


def until(ready: Callable[[], bool], what: str, *, within: float = 60) -> None:
    """Wait for it."""
    deadline = time.monotonic() + within
    while not ready():
        assert time.monotonic() < deadline, f"{what} did not happen within {within} s"
        time.sleep(0.1)


def opened(house: House, table: str, column: str, *, by: str) -> str:
    """The one sealed value of a column, opened."""
    ((row, sealed),) = house.sql(f'SELECT {by}, {column} FROM "{table}"')
    return KeyRing.load(house.keyring).open(sealed, table=table, column=column, row=row).decode()


def tokens(house: House, which: str) -> dict[str, str]:
    """Both tokens as they are stored now."""
    columns = ("access_token", "refresh_token")
    return {f"{which} {column}": opened(house, "token", column, by="consent_id") for column in columns}


async def people(facts: dict[str, Any]) -> set[str]:
    """Names, account numbers and texts that the bank has about its customers."""
    async with Books.of(facts) as books:
        found = {customer["name"] for customer in await books.customers()}
        for consent in await books.books():
            for rows in consent["resources"].values():
                found |= {text for row in rows for text in personal_texts(row["item"])}
    assert any(text.startswith("AE") for text in found), "no IBAN among them"
    return found


def personal_texts(item: Any, name: str = "") -> Iterator[str]:
    """Texts below members with telling names."""
    match item:
        case dict():
            for member, value in item.items():
                yield from personal_texts(value, name if PERSONAL.search(name) else member)
        case list():
            for value in item:
                yield from personal_texts(value, name)
        case str() if PERSONAL.search(name) and len(item) >= PERSONAL_CHARACTERS_MIN:
            yield item


def plain(content: str) -> str:
    """What the broker kept, with the base64 bodies of its messages written out."""

    def written_out(found: re.Match[str]) -> str:
        return base64.b64decode(found[1]).decode(errors="replace")

    return re.sub(r'"body": "([A-Za-z0-9+/=]+)"', written_out, content)

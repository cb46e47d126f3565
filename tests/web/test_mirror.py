"""The program of docs/how-to/mirror.md ends with exactly what may be read, whatever happens while it reads."""

import asyncio
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from syncworker.opening import load_keyring
from syncworker.standard.values import ConsentId
from syncworker.store.api_keys import Scope
from syncworker.store.changes import MARKER_FROM
from syncworker.store.erasure import DataClass
from syncworker.store.unit_of_work import Store
from tests.ground.clock import ManualClock
from tests.web.house import PUBLIC_URL, WebHouse
from tests.web.kept import Kept

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "mirror.md"
MOVES_ALONE = ("checked_at", "missed_since")
"""Members of a row that move without a change."""

Row = dict[str, Any]
Name = tuple[str, str]


class Bridge(httpx.BaseTransport):
    """Carries requests of a program in a thread to the application on the test's loop."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        sent = self._client.get(request.url, headers=request.headers)
        answer = asyncio.run_coroutine_threadsafe(sent, self._loop).result(60)
        return httpx.Response(answer.status_code, headers={"content-type": "application/json"}, content=answer.content)


@dataclass
class Mirror:
    """The program, its rows, and where it stands."""

    program: dict[str, Any]
    rows: dict[Name, Row]
    cursor: str = ""

    async def begin(self) -> None:
        self.cursor = await asyncio.to_thread(self.program["begin"], self.rows)

    async def follow(self) -> None:
        """Until there is no more."""
        more = True
        while more:
            self.cursor, more = await asyncio.to_thread(self.program["step"], self.rows, self.cursor)


def held(rows: dict[Name, Row]) -> dict[Name, Row]:
    return {
        name: {member: value for member, value in row.items() if member not in MOVES_ALONE}
        for name, row in rows.items()
    }


@pytest.fixture
async def mirrors(web: WebHouse, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Mirror]:
    """`mirrors()`: the program as it stands in the page, with a key of its own."""
    (text,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    monkeypatch.setenv("URL", PUBLIC_URL)
    monkeypatch.setenv("KEY", await web.key([Scope.DATA_READ, Scope.DATA_PERSONAL, Scope.CHANGES_READ]))
    bridge, client = Bridge(web.another()), httpx.Client

    def bridged(**options: Any) -> httpx.Client:
        return client(transport=bridge, **options)

    monkeypatch.setattr(httpx, "Client", bridged)

    def made() -> Mirror:
        program: dict[str, Any] = {"__name__": "mirror"}
        exec(compile(text, str(PAGE), "exec"), program)
        return Mirror(program, {})

    return made


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(web: WebHouse, database_url: str, clock: ManualClock, open_store: Callable[..., Store]) -> Store:
    """What syncs into the database of the web process."""
    return open_store(database_url, keyring=load_keyring(web.settings), clock=clock)


async def connections(store: Store, clock: ManualClock) -> list[Kept]:
    made = []
    for number in range(3):
        connection_id = ConsentId(f"c0ffee00-0000-4000-8000-{number:012}")
        one = Kept(store, clock, connection_id, f"customer-{min(number, 1)}", accounts=["1001", "1002"])
        one.balances = {"1001": "1.00", "1002": "2.00"}
        one.transactions = {"1001": {f"t{place:03}": {} for place in range(MARKER_FROM + 3)}, "1002": {"t001": {}}}
        await one.file()
        made.append(one)
    return made


def change(one: Kept, dice: random.Random) -> None:
    """The bank shows something else: more, less, other text, one account more or less, another balance."""
    one.accounts = dice.choice([["1001", "1002"], ["1001", "1002"], ["1001"], ["1002"]])
    one.balances = {account: f"{dice.randrange(100)}.00" for account in ("1001", "1002")}
    those = one.transactions["1001"]
    for key in dice.sample(sorted(those), min(2, len(those))):
        those[key] = {"TransactionInformation": f"tea {dice.random()}"}
    for key in dice.sample(sorted(those), min(1, len(those))):
        del those[key]
    for _ in range(dice.choice([1, 2, MARKER_FROM])):
        those[f"u{dice.randrange(10**6):06}"] = {"Status": dice.choice(["Booked", "Pending"])}


def acts(those: list[Kept], clock: ManualClock, store: Store) -> Iterator[Callable[[], Any]]:
    """What happens, one after the other: syncs, an end of consent and a new one, erasures."""
    dice = random.Random(20261130)
    one, two, three = those
    for turn in range(12):
        for kept in those if turn < 8 else (one, two):
            if kept is two and turn in (4, 5):
                continue
            change(kept, dice)
            yield kept.sync
        clock.advance(hours=7)
        if turn == 3:
            yield two.end
        if turn == 5:
            yield lambda: two.file("c0ffee00-0000-4000-8000-0000000000ff")
        if turn == 6:
            yield lambda: one.erase(DataClass.PERSONAL)
        if turn == 7:
            yield three.end
            yield three.erase


async def test_the_program_ends_with_exactly_what_may_be_read(
    mirrors: Callable[[], Mirror], store: Store, clock: ManualClock
) -> None:
    """Syncs, consents that end and begin, erasures, accounts that come and go, all while it begins and reads."""
    those = await connections(store, clock)
    for kept in those:
        await kept.sync()
    early, late = mirrors(), mirrors()

    async def happens() -> None:
        for act in acts(those, clock, store):
            await act()

    async def reads() -> None:
        await early.begin()
        while not happening.done():
            await early.follow()

    happening = asyncio.create_task(happens())
    await asyncio.gather(happening, reads(), late.begin())
    await early.follow()
    await late.follow()
    fresh = mirrors()
    await fresh.begin()
    assert {name[0] for name in fresh.rows} == {"accounts", "balances", "transactions", "parties"}
    assert {row["connection_id"] for row in fresh.rows.values()} == {one.connection_id for one in those[:2]}
    assert held(early.rows) == held(fresh.rows)
    assert held(late.rows) == held(fresh.rows)


async def test_the_program_begins_again_where_its_cursor_leads_nowhere(
    mirrors: Callable[[], Mirror], store: Store, clock: ManualClock
) -> None:
    """Changes behind its cursor were taken away: what is gone meanwhile is gone from the mirror as well."""
    those = await connections(store, clock)
    for kept in those:
        await kept.sync()
    mirror, fresh = mirrors(), mirrors()
    await mirror.begin()
    those[0].transactions["1001"].popitem()
    await those[0].sync()
    clock.advance(days=60)
    those[1].transactions["1002"]["t009"] = {}
    await those[1].sync()
    before = clock.now() - timedelta(days=1)
    assert await store.atomically(lambda unit: unit.changes.prune(before=before, limit=1000))
    await mirror.follow()
    await fresh.begin()
    assert held(mirror.rows) == held(fresh.rows)


def test_the_program_is_short() -> None:
    """It is to be read, not installed."""
    (text,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len([line for line in text.splitlines() if line.strip() and not line.startswith("import ")]) <= 40

"""After any faults at any calls the tables are the bank's books, and no run that owed something said `ok`.

A tenth of the seeds of `python -m tests.faults.full`, in chunks that run side by side, and some on PostgreSQL.
"""

import asyncio
import shutil
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from syncworker.standard.resources import RESOURCES, ResourceName
from syncworker.standard.versions import Version
from syncworker.store.cursors import Listing
from tests.faults.full import play_some, prepared
from tests.faults.ground import Clock, Keys, ShiftedLoop
from tests.faults.kinds import KINDS, Verdict
from tests.faults.oracle import Witness
from tests.faults.play import HOLDING, LISTS_404, FailedError, Play, play
from tests.faults.sockets import RULES as OVER_SOCKETS
from tests.faults.sockets import SocketPlay
from tests.faults.wire import Asked, Sent
from tests.ground.postgres import PostgresServer
from tests.lfi.raw_bank import Identities

pytestmark = [pytest.mark.flow, pytest.mark.timeout(300)]

SEEDS: Final = 200
CHUNK: Final = 10
ON_POSTGRESQL: Final = range(1, 7)
T = TypeVar("T")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys and an empty database, made once for a process."""
    made = tmp_path_factory.mktemp("faults")
    prepared(made)
    return made


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run on a loop whose time a seed can move."""
    with asyncio.Runner(loop_factory=ShiftedLoop) as runner:
        return runner.run(work)


@pytest.mark.parametrize("first", range(1, SEEDS + 1, CHUNK))
def test_the_tables_are_the_books_after_random_faults(folder: Path, first: int) -> None:
    """Keys, typed columns, raw items, live and gone, history, feed; no run that owed something said it was well."""
    told = play_some(range(first, first + CHUNK), folder, folder / "template.db", HOLDING)
    assert not told.failed, "\n\n".join(told.failed.values())
    assert told.seeds == CHUNK
    assert told.struck


def test_so_they_are_on_postgresql(folder: Path, postgres_server: PostgresServer) -> None:
    """The same plays on the other database, with the threads and waits of a real driver."""

    async def on(seed: int, url: str) -> None:
        await play(seed, await Keys.made(folder), folder / "template.db", rules=HOLDING, database_url=url)

    for seed in ON_POSTGRESQL:
        database = postgres_server.clone()
        try:
            run(on(seed, postgres_server.url(database)))
        finally:
            postgres_server.drop(database)


def test_a_seed_is_the_same_play_each_time(folder: Path) -> None:
    """What a failed seed tells can be looked at again: the schedule comes out the same, strike by strike."""

    async def told(seed: int) -> list[str]:
        return (await play(seed, await Keys.made(folder), folder / "template.db", rules=HOLDING)).told

    for seed in (3, 7):
        assert run(told(seed)) == run(told(seed))


def test_a_failed_seed_tells_its_schedule_and_how_to_play_it_again(folder: Path) -> None:
    """A play whose bank lies about its books fails at the audit, with the first difference."""

    class Forgetful(Play):
        async def _peace(self) -> None:
            await super()._peace()
            account = self.bank.bank.consents.get(self.consents[0].consent_id).account_ids[0]
            self.bank.bank.insert_transaction(account, amount="1.00", transaction_id="never-shown")

    async def failing() -> str:
        keys, database = await Keys.made(folder), folder / "forgetful.db"
        shutil.copyfile(folder / "template.db", database)
        with pytest.raises(FailedError) as failed:
            await Forgetful(1, keys, f"sqlite:///{database}", HOLDING).play()
        return str(failed.value)

    text = run(failing())
    assert text.startswith("seed 1: 1 differences; missing: transactions")
    assert "never-shown" in text.splitlines()[0]
    assert text.endswith("python -m tests.faults.full --seed 1")


# -- the oracle ------------------------------------------------------------------------------------------------------

LISTING: Final = Listing("acc-1", ResourceName.TRANSACTIONS)


def page(url: str, link: str = "") -> tuple[Asked, Sent]:
    """A request and a page with a link."""

    async def nowhere(_url: str) -> Sent:
        return Sent.gone("lost")

    asked = Asked(
        host="rs",
        method="GET",
        url=url,
        operation="transactions",
        account_id="acc-1",
        consent_id="c",
        elsewhere=nowhere,
    )
    body = f'{{"Data":{{}},"Links":{{"Next":"{link}"}}}}' if link else '{"Data":{},"Links":{}}'
    return asked, Sent(status=200, body=body.encode())


@pytest.mark.parametrize(
    ("seen", "owed"),
    [
        pytest.param([("a", "", Verdict.TRUE)], 0, id="one page, and its end"),
        pytest.param([("a", "b", Verdict.TRUE), ("b", "", Verdict.TRUE)], 0, id="two pages"),
        pytest.param([("a", "b", Verdict.TRUE)], 1, id="a link that was not followed"),
        pytest.param([("a", "", Verdict.OWED)], 1, id="a page that did not come"),
        pytest.param([("a", "", Verdict.OWED), ("a", "", Verdict.TRUE)], 0, id="a short retry that went well"),
        pytest.param([("a", "b", Verdict.TRUE), ("b", "", Verdict.OWED), ("b", "", Verdict.TRUE)], 0, id="on page 2"),
        pytest.param(
            [("a", "b", Verdict.TRUE), ("b", "", Verdict.OWED), ("a", "", Verdict.TRUE)],
            0,
            id="begun again, to its end",
        ),
        pytest.param([("a", "", Verdict.TRUE), ("s", "", Verdict.OWED)], 1, id="a slice of history beside it"),
        pytest.param([("a", "", Verdict.SHORT)], 1, id="an item left out"),
        pytest.param([("a", "", Verdict.LIE)], 0, id="a lie that cannot be told"),
        pytest.param([], 1, id="due, and never asked for"),
    ],
)
def test_what_a_run_owes(seen: list[tuple[str, str, Verdict]], owed: int) -> None:
    """Told from the requests alone: the last word on each page counts, and links promise pages."""
    witness = Witness()
    for url, link, verdict in seen:
        witness.saw(LISTING, *page(url, link), verdict)
    assert len(witness.owed([LISTING])) == owed


def test_every_kind_of_fault_has_a_name_of_its_own_and_can_be_switched_off() -> None:
    """`Rules` names kinds by the table's keys."""
    assert HOLDING.kinds <= KINDS.keys()
    assert all(name == kind.name for name, kind in KINDS.items())


def test_what_a_404_may_say_is_read_from_the_standard_twice() -> None:
    """The oracle has its own list of the operations that list 404; it and the product's catalogue were read apart."""
    listed = {
        version: {resource.name for resource in RESOURCES if version in resource.lists_404} for version in Version
    }
    assert listed == {version: set(names) for version, names in LISTS_404.items()}


def test_time_of_the_loop_moves_with_the_clock() -> None:
    """Gates and deadlines of the product live by the loop's time, its cadences by the clock's: both are one here."""

    async def moved() -> float:
        clock, loop = Clock(), asyncio.get_running_loop()
        before = loop.time()
        clock.advance(hours=1)
        return loop.time() - before

    assert run(moved()) >= 3600


# -- over sockets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_so_they_are_over_real_connections(folder: Path, seed: int, tmp_path: Path) -> None:
    """TLS, HTTP and the client's own transport: what was bent in memory before is bytes on the wire."""

    async def played() -> SocketPlay:
        keys, database = await Keys.made(folder), tmp_path / "sockets.db"
        shutil.copyfile(folder / "template.db", database)
        play = SocketPlay(seed, keys, f"sqlite:///{database}", OVER_SOCKETS)
        play.identities = Identities(tmp_path)
        await play.play()
        return play

    play = run(played())
    assert play.heard > play.runs
    assert play.struck

"""Columns that the workers fill after an upgrade: `db upgrade` says so, `status` says how far."""

import asyncio
import signal
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from syncworker.store import migrate
from syncworker.store.keyring import KeyRing
from syncworker.store.sealed import pack_raw
from syncworker.store.unit_of_work import Store
from syncworker.sync.filling import Filling
from tests.cli.house import House
from tests.ground.processes import Nursery

pytestmark = pytest.mark.live

AT = "2026-01-01T00:00:00.000000Z"
ROWS = 1_200


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A key ring, and a database of the schema before that holds accounts."""
    KeyRing.generate(tmp_path / "keyring")
    (tmp_path / "syncworker.toml").write_text('keyring = "keyring"\ndatabase_url = "sqlite:///syncworker.db"\n')
    house = House(tmp_path)
    url = f"sqlite:///{house.database}"
    migrate.upgrade(url, "0019")
    rows = [
        {"key": f"a{number}", "raw": pack_raw(b'{"Status":"Active"}') if number else b"junk"} for number in range(ROWS)
    ]
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO account"
                " (tenant, connection_id, account_id, key, raw, digest, first_seen_at, changed_at, gen)"
                f" VALUES ('default', 'c', '', :key, :raw, x'00', '{AT}', '{AT}', 1)"
            ),
            rows,
        )
    engine.dispose()
    return house


def fill(house: House, *, batches: int | None = None) -> None:
    """Do what a worker does at its ticks: so many batches, or all there are."""

    async def work() -> None:
        store = Store(f"sqlite:///{house.database}", keyring=KeyRing.load(house.keyring))
        job = Filling(store, retry_after=lambda _: timedelta(minutes=1))
        claim = await job._claimed()
        assert claim is not None
        done = 0
        while done != batches and (await job.batch(claim)).table:
            done += 1
        await store.atomically(lambda unit: unit.work.give_back([claim]))
        await job.look()
        await job.close()
        await store.close()

    asyncio.run(work())


def test_status_shows_the_filling_while_it_goes_on(house: House) -> None:
    """Table, rows done of about how many, rows passed over and since when; afterwards nothing."""
    upgraded = house.run("db", "upgrade")
    again = house.run("db", "upgrade")
    seen = [house.run("status", "--json").json["filling"]]
    for batches in (1, None):
        fill(house, batches=batches)
        seen.append(house.run("status", "--json").json["filling"])
        on_screen = house.run("status").stdout
        assert ("Columns of rows held" in on_screen) == bool(seen[-1])
    columns = house.sql("SELECT status, count(*) FROM account GROUP BY 1 ORDER BY 1")

    (waiting,), (going,), done = seen
    assert upgraded.code == 0
    assert upgraded.stderr.splitlines() == [
        "database schema is up to date",
        "columns of rows held are filled by the workers while they sync; `syncworker status` says how far",
    ]
    assert again.stderr == upgraded.stderr
    assert waiting == {"table": "account", "done": 0, "about": None, "skipped": 0, "since": None}
    assert going.pop("since") is not None
    assert going == {"table": "account", "done": 500, "about": ROWS, "skipped": 1}
    assert (done, columns) == ([], [(None, 1), ("Active", ROWS - 1)])


def test_a_worker_that_is_killed_in_the_midst_is_followed_by_another(house: House, worker_process: Nursery) -> None:
    """`up` fills at its ticks; after SIGKILL the next `up` goes on behind the last batch, once the lease has ended."""
    migrate.upgrade(f"sqlite:///{house.database}")
    begun = "SELECT rows_done FROM filling WHERE table_name = 'account' AND rows_done > 0"
    ended = "SELECT rows_done, skipped FROM filling WHERE table_name = 'account' AND ended_at IS NOT NULL"
    env = house.environment(SYNCWORKER_TICK_SECONDS="1")
    first = worker_process.syncworker("up", cwd=house.folder, env=env, ready=lambda _: bool(house.sql(begun)))
    worker_process.clear()
    house.sql("UPDATE work SET lease_until = NULL WHERE kind = 'fill'")
    second = worker_process.syncworker("up", cwd=house.folder, env=env, ready=lambda _: bool(house.sql(ended)))
    second.signal(signal.SIGTERM)
    code = second.wait(timeout=30)

    assert house.sql(ended) == [(ROWS, 1)], first.output() + second.output()
    assert house.sql("SELECT status, count(*) FROM account GROUP BY 1 ORDER BY 1") == [(None, 1), ("Active", ROWS - 1)]
    assert (code, worker_process.processes_left_behind()) == (0, [])


def test_a_fresh_database_has_nothing_to_fill(tmp_path: Path) -> None:
    """`db upgrade` says no more than that the schema is there."""
    KeyRing.generate(tmp_path / "keyring")
    (tmp_path / "syncworker.toml").write_text('keyring = "keyring"\ndatabase_url = "sqlite:///syncworker.db"\n')
    house = House(tmp_path)

    assert house.run("db", "upgrade").stderr == "database schema is up to date\n"
    assert house.run("status", "--json").json["filling"] == []

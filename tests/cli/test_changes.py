"""`changes`, and what `status` and `doctor` say of the feed, as real processes."""

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from syncworker.clock import SystemClock
from syncworker.standard.values import ConsentId
from syncworker.store import migrate
from syncworker.store.keyring import KeyRing
from syncworker.store.unit_of_work import Store
from tests.cli.house import House
from tests.cli.test_items import SETTINGS
from tests.ground.clock import ManualClock
from tests.ground.processes import Nursery
from tests.web.kept import IBAN, Kept

pytestmark = pytest.mark.live

ONE, TWO = (ConsentId(f"c0ffee00-0000-4000-8000-00000000000{number}") for number in (1, 2))
TO_GO_ON = "to go on: --cursor "


def within(url: str, keyring: Path, work: Callable[[Kept, Kept], Awaitable[None]], clock: Any = None) -> None:
    """Let two connections of two users sync into a database."""
    ring = KeyRing.load(keyring) if keyring.exists() else KeyRing.generate(keyring)

    async def inside() -> None:
        store = Store(url, keyring=ring, clock=clock or SystemClock())
        one, two = (
            Kept(store, clock or ManualClock(), name, f"customer-{place}", transactions={"1001": {"t1": {}}})
            for place, name in enumerate((ONE, TWO))
        )
        try:
            await work(one, two)
        finally:
            await store.close()

    asyncio.run(inside())


async def both(one: Kept, two: Kept) -> None:
    for each in (one, two):
        await each.file()
        await each.sync()


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A folder with two connections that were synced once."""
    house = House(tmp_path)
    house.toml.write_text(SETTINGS)
    url = f"sqlite:///{house.database}"
    migrate.upgrade(url)
    within(url, house.keyring, both)
    return house


def cursor_said(stderr: str) -> str:
    (line,) = [one for one in stderr.splitlines() if one.startswith(TO_GO_ON)]
    return line.removeprefix(TO_GO_ON)


def test_changes_are_printed_one_a_line_and_the_cursor_goes_on(house: House) -> None:
    """As the API has them; personal data only where it is asked for."""
    found = house.run("changes", "--json")
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert (found.code, len(lines), {one["op"] for one in lines}) == (0, 6, {"added"})
    assert IBAN not in found.said
    assert IBAN in house.run("changes", "--json", "--personal").stdout
    assert house.run("changes", "--json", "--cursor", cursor_said(found.stderr)).stdout == ""
    screen = house.run("changes").stdout.splitlines()
    assert len(screen) == 6
    assert all(one["id"] in line for one, line in zip(lines, screen, strict=True))


def test_filters_and_refusals(house: House) -> None:
    """By connection, user and resource; what is wrong is named, without a traceback."""
    for filter_ in (("--connection", TWO), ("--user-ref", "customer-1")):
        lines = [json.loads(line) for line in house.run("changes", "--json", *filter_).stdout.splitlines()]
        assert {one["connection_id"] for one in lines} == {TWO}
    tx = house.run("changes", "--json", "--resource", "transactions")
    assert {json.loads(line)["list"] for line in tx.stdout.splitlines()} == {"transactions"}
    cursor = cursor_said(house.run("changes", "--now").stderr)
    for arguments, code in (
        (("--now", "--cursor", cursor), "bad_request"),
        (("--connection", "none-such"), "not_found"),
        (("--cursor", "none-such"), "cursor_unknown"),
        (("--cursor", cursor, "--user-ref", "customer-1"), "cursor_filter"),
    ):
        refused = house.run("changes", *arguments)
        assert (refused.code, refused.stdout) == (2, "")
        assert f"error [{code}]" in refused.stderr


@pytest.fixture
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.clear()


def test_follow_prints_what_comes_and_ends_cleanly(house: House, nursery: Nursery) -> None:
    """Ctrl-C ends it with the cursor to go on with: nothing is lost between two calls."""
    cursor = cursor_said(house.run("changes", "--now").stderr)
    child = nursery.syncworker(
        "changes", "--follow", "--json", "--cursor", cursor, cwd=house.folder, ready=lambda _child: True
    )

    async def more(one: Kept, _two: Kept) -> None:
        one.consent_id, one.gen = ONE, 1
        one.transactions["1001"] |= {"t2": {}}
        await one.sync()

    within(f"sqlite:///{house.database}", house.keyring, more)
    child.until(lambda one: ":t2" in one.output())
    child.signal(signal.SIGINT)
    assert child.wait() == 0, child.output()
    first, *rest = child.output().splitlines()
    assert json.loads(first)["op"] == "added"
    assert house.run("changes", "--json", "--cursor", cursor_said("\n".join(rest))).stdout == ""


def test_what_holds_the_feed_back_is_named(tmp_path: Path, postgresql_url: str) -> None:
    """By `status` and `doctor`, once, with the process and what to do; only while it does."""
    house = House(tmp_path)
    house.toml.write_text(SETTINGS)
    house.set("database_url", postgresql_url)
    clock = ManualClock(datetime.now(UTC) - timedelta(minutes=5))
    engine = sa.create_engine(postgresql_url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as other:
        other.execute(sa.text("SET application_name = 'a-report'"))
        pid = other.scalar(sa.text("SELECT pg_backend_pid() FROM pg_current_xact_id()"))
        within(postgresql_url, house.keyring, both, clock)
        status, doctor = house.run("status", "--json").json, house.run("doctor", "--json").json
        other.rollback()
    engine.dispose()
    (wrong,) = [one for one in status["wrong"] if "feed" in one]
    assert f"process {pid} (a-report)" in wrong
    assert any(f"pg_terminate_backend({pid})" in one for one in status["todo"])
    assert status["feed_lag"] > 60
    assert status["feed_held_by"][0]["pid"] == pid
    (check,) = [one for one in doctor["checks"] if one["check"] == "feed"]
    assert not check["good"]
    assert f"process {pid} (a-report)" in check["said"]
    after = house.run("status", "--json").json
    assert (after["feed_lag"], after["feed_held_by"]) == (0, [])

"""A hint is sent after the commit of what it names: never before, and never when the commit failed.

A hint that arrives before its claim is committed finds nothing to take, and one whose claim was rolled back names a
claim that another dispatcher may hold.
"""

import json
import sys
from typing import Any

import pytest
import redis

from syncworker.store.unit_of_work import Store
from tests.ground.commits import refuse_commits
from tests.ground.processes import Nursery
from tests.live.test_delivery import PROJECT, SYNC, TOKEN, Site
from tests.live.tiny import due

pytestmark = pytest.mark.live

CLAIMING = "NEW.gen > OLD.gen"
ASKING = "NEW.canary_asked_at IS NOT NULL AND OLD.canary_asked_at IS NULL"


@pytest.fixture
def site(worker_process: Nursery, database_url: str, broker_url: str, tmp_path: Any) -> Site:
    return Site(worker_process, database_url, broker_url, tmp_path / "notes")


def run(site: Site, act: str, **env: str) -> list[dict[str, Any]]:
    """One act in a process of its own: what it wrote down."""
    argv = (sys.executable, "-m", "tests.live.publishing", act)
    child = site.nursery.spawn(argv, cwd=PROJECT, env={**site.env, **env})
    assert child.wait() == 0, child.output()
    return [json.loads(line) for line in site.notes.read_text().splitlines() if line.startswith("{")]


def waiting(site: Site) -> set[str]:
    """Queues with a message in them."""
    client = redis.Redis.from_url(site.broker_url)
    names = {str(name) for name in client.keys("*") if client.type(name) == b"list"}
    client.close()
    return names


async def a_worker(site: Site, name: str) -> None:
    store = Store(site.database_url)
    await store.atomically(lambda unit: unit.workers.arrive(name))
    await store.close()


async def test_the_claims_of_a_tick_are_visible_to_others_when_their_hints_go_out(site: Site) -> None:
    """Syncs, tokens and a canary: each message names what another connection can already see."""
    await due(site.database_url, SYNC, *(f"connection-{n}" for n in range(7)))
    await due(site.database_url, TOKEN, "consent-1", "consent-2", lfi="waha")
    await a_worker(site, "host/1")

    *sent, ended = run(site, "tick")

    assert ended == {"ended": "well"}
    assert sorted((one["task"], tuple(one["seen"])) for one in sent) == [
        ("canary", (True,)),  # of the worker that ticks
        ("canary", (True,)),
        ("sync_batch", (True, True)),
        ("sync_batch", (True,) * 5),
        ("token_batch", (True, True)),
    ]


async def test_the_claims_of_a_refill_are_visible_to_others_when_their_hint_goes_out(site: Site) -> None:
    """A batch that ends lets the next one follow: also its claims are committed first."""
    await due(site.database_url, SYNC, *(f"connection-{n}" for n in range(10)))

    *sent, ended = run(site, "refill")

    assert (sent, ended) == ([{"task": "sync_batch", "seen": [True] * 5}], {"ended": "well"})


@pytest.mark.parametrize(
    ("act", "table", "when"),
    [
        pytest.param("tick", "work", CLAIMING, id="a tick's claims"),
        pytest.param("tick", "worker", ASKING, id="a canary"),
        pytest.param("refill", "work", CLAIMING, id="a refill's claims"),
    ],
)
async def test_what_was_not_committed_is_not_published(site: Site, act: str, table: str, when: str) -> None:
    """The statement succeeds and the commit fails: no message is sent, and every row is as it was."""
    await a_worker(site, "host/1")
    subjects = [f"connection-{n}" for n in range(10)] if table == "work" else []
    await due(site.database_url, SYNC, *subjects)
    env = {"PUBLISHING_REFUSED": when} if act == "refill" else {}  # only once its first batch is claimed
    if act == "tick":
        refuse_commits(site.database_url, table, when=when)

    noted = run(site, act, **env)

    begun = 5 if act == "refill" else 0
    rows = [await site.row(SYNC, subject) for subject in subjects]
    assert noted == [{"ended": "store_refused"}]
    assert waiting(site) == set()
    assert [(row.gen, row.lease_until) for row in rows[begun:]] == [(0, None)] * len(rows[begun:])

"""The scenarios, each with its size as arguments.  Each ends in `audit` and gives what it measured."""

import asyncio
import hashlib
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from syncworker.schedule.limits import BURST_S
from syncworker.simulator.books import Books
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.freshness import freshness
from syncworker.store.work import WorkKind
from tests.ground.processes import Spawned
from tests.ground.proxy import FaultProxy
from tests.ground.valkey import ValkeyServer
from tests.live.scenarios.audit import Audited, audit
from tests.live.scenarios.installation import LEASE_S, PATIENCE_S, TICK_S, Installation

SYNC: Final = WorkKind.SYNC
DATA: Final = frozenset(ResourceName)
GATE_GRACE: Final = timedelta(seconds=2)
"""From a 429 until every worker knows: its run has to end and be filed, then a tick."""
MISSES: Final = 6
"""Times as many kills as wanted, while only idle workers were met."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a scenario measured.

    Attributes:
        facts: numbers by name, for people.
    """

    audited: Audited
    facts: dict[str, Any] = field(default_factory=dict)


async def killed_again_and_again(site: Installation, *, kills: int, syncs: int = 0) -> Told:
    """1. `kill -9` of a worker in the middle of its work, again and again: nothing is lost, nothing is parked.

    One of two workers is killed while claims are begun, its own or the other's; another one takes its place.  The next
    kill waits until every connection has been synced since: that is the recovery.

    Args:
        kills: how many.
        syncs: least number of good syncs before the last kill.
    """
    for bank in site.books.values():
        await bank.do("latency", seconds=0.15)
    await site.run()
    await site.all_synced("the first sync of all")
    recoveries: list[float] = []
    caught = 0
    while len(recoveries) < (kills if caught else MISSES * kills) or await site.good_runs() < syncs:
        await site.until(lambda: _any_begun(site), "work to kill", every=0.01)
        site.kill(site.workers[len(recoveries) % len(site.workers)])  # the older and the younger by turns
        at = time.monotonic()
        open_claims = {(row.id, row.gen) for row in await site.rows() if row.lease_until is not None}
        newcomer = asyncio.ensure_future(site.worker())
        await site.all_synced("a sync of all after a kill")
        recoveries.append(time.monotonic() - at)
        caught += len(open_claims - await _ended(site))
        await newcomer
    assert caught  # otherwise nothing was ever killed in the middle
    audited = await audit(site)
    facts = {"kills": len(recoveries), "claims caught": caught, "slowest recovery s": round(max(recoveries), 1)}
    return Told(audited, facts)


async def poisoned(site: Installation, *, crashes: int = 5) -> Told:
    """2. A consent whose sync ends its worker, every time: it is parked, the others never are."""
    connections = await site.connections()
    poison = connections[len(connections) // 2]
    await site.beat()
    await asyncio.gather(*(site.worker(poison=poison) for _ in range(2)))
    deaths = 0

    async def row() -> Any:
        return next(row for row in await site.rows() if row.subject == poison)

    deadline = time.monotonic() + crashes * PATIENCE_S
    while (await row()).parked_at is None:
        assert time.monotonic() < deadline, await site.story()
        for dead in [worker for worker in site.workers if not worker.running()]:
            assert dead.process.returncode == -signal.SIGKILL, dead.output()[-3000:]
            deaths += 1
            site.workers.remove(dead)
            await site.worker(poison=poison)
        await asyncio.sleep(0.05)
    parked = await row()
    assert (parked.crashes, parked.last_error) == (crashes, "crashed")
    audited = await audit(site, poisoned=poison)
    return Told(audited, {"deaths": deaths})


async def emptied_broker(site: Installation, valkey: ValkeyServer) -> Told:
    """3. The broker forgets everything, twice: hints are lost, due rows are not.

    First it is emptied while claims wait in it that no worker takes; then it is killed and comes back without its data
    while the workers run.
    """
    await site.beat()
    dispatcher = await site.worker("--queue", "tick")
    total = len(await site.connections())

    async def claimed() -> bool:
        return sum(row.lease_until is not None for row in await site.rows()) == total

    await site.until(claimed, "claims of every connection")
    lost = {row.id: row.gen for row in await site.rows()}
    valkey.flush()
    at = await site.now()
    await asyncio.gather(site.worker(), site.worker())
    first = await site.all_synced("a sync of all after FLUSHALL")
    assert all(row.gen > lost[row.id] and row.crashes == 0 for row in await site.rows())
    begun = await site.query(
        "SELECT max(m) AS last FROM (SELECT min(started_at) AS m FROM run GROUP BY connection_id) AS firsts"
    )
    valkey.restart()  # in this thread: the server dies with the thread that started it
    second = await site.all_synced("a sync of all after a restart without data")
    assert dispatcher.running()
    audited = await audit(site)
    facts = {
        "due again after FLUSHALL s": round((begun[0].last - at).total_seconds(), 1),
        "bound s": LEASE_S + 2 * TICK_S,
        "all synced s": (round(first, 1), round(second, 1)),
    }
    return Told(audited, facts)


async def broken_lines(
    site: Installation, proxy: FaultProxy, *, cuts: int, cut_over_s: float, refused_s: float, frozen_s: float
) -> Told:
    """4 and 5. Connections to the broker are cut, refused, frozen, half-open: work goes on, nothing is lost."""
    await site.run()
    await site.all_synced("the first sync of all")
    facts: dict[str, Any] = {}

    async def resumed(what: str) -> None:
        facts[f"all synced after {what} s"] = round(await site.all_synced(f"a sync of all after {what}"), 1)

    for _ in range(cuts):
        proxy.cut()
        await asyncio.sleep(cut_over_s / cuts)
    await resumed(f"{cuts} cuts")
    await proxy.refuse()
    await asyncio.sleep(refused_s)
    await proxy.heal()
    await resumed(f"{refused_s:g} s refused")
    proxy.blackhole()
    await asyncio.sleep(frozen_s)
    await proxy.heal()
    await resumed(f"{frozen_s:g} s frozen")
    proxy.blackhole(existing_only=True)
    await resumed("its connections went dead and new ones worked")
    return Told(await audit(site), facts)


async def two_of_each(site: Installation, *, apart_s: float, rounds: int) -> Told:
    """6. Two dispatchers and two beats whose clocks differ by minutes: each generation is claimed once."""
    half = apart_s / 2
    await asyncio.gather(*(site.worker(clock_s=clock) for clock in (-half, half)))
    await asyncio.gather(*(site.beat(clock_s=clock) for clock in (-half, half)))
    begun = await site.now()
    for number in range(rounds):
        await site.all_synced(f"round {number}")
    took = (await site.now() - begun).total_seconds()
    audited = await audit(site)
    names = await site.query("SELECT count(DISTINCT lfi) AS n FROM run")
    assert names[0].n == len(site.banks)
    gens = sum(row.gen for row in await site.rows())
    return Told(audited, {"generations": gens, "seconds": round(took, 1)})


async def paused_holder(site: Installation) -> Told:
    """7. A worker stands still three leases long between a bank's answer and its commit; another one takes over.

    What the first one read is old by then.  It wakes, tries to write, and changes nothing.
    """
    (books,) = site.books.values()
    connection = (await site.connections())[1]
    await site.beat()
    await site.worker()
    await site.all_synced("the first sync of all")
    await asyncio.to_thread(site.workers.pop().stop)
    await site.rest()
    sleeper = await site.worker("--queue", "sync")
    site.workers.remove(sleeper)
    await site.worker("--queue", "tick")
    await books.do("latency", seconds=1.5, operation="balances")
    mark = (await books.log())["next"]
    await site.ask(SYNC, [connection])

    async def asking() -> bool:
        log = await books.log(mark)
        walked = {entry["operation"] for entry in log["entries"] if entry["consent_id"] == connection}
        return "accounts" in walked and log["in_flight"] > 0

    await site.until(asking, "the walk's balances", every=0.02)
    await asyncio.sleep(0.2)  # its other accounts' calls are on their way too
    sleeper.signal(signal.SIGSTOP)
    return await _overtaken(site, books, connection, sleeper, mark=mark, leases=3)


async def orderly_end(site: Installation, *, token_s: float, walk_s: float) -> Told:
    """13. SIGTERM in the middle of refreshes and walks: no grant is lost, what is unfinished is due at once.

    Half of the consents refresh their tokens, the other half walk; the bank takes its time for both.

    Args:
        token_s: how long the bank takes for a refresh.
        walk_s: how long it takes for each page.
    """
    (books,) = site.books.values()
    connections = await site.connections()
    refreshing, walking = connections[::2], connections[1::2]
    await site.beat()
    await site.worker()
    await site.all_synced("the first sync of all")
    await asyncio.to_thread(site.workers.pop().stop)
    await site.rest()
    worker = await site.worker()
    await books.do("latency", seconds=token_s, operation="token")
    for resource in DATA:
        await books.do("latency", seconds=walk_s, operation=resource.value)
    await site.ask(WorkKind.TOKEN, refreshing)
    await site.ask(SYNC, walking)

    async def all_begun() -> bool:
        rows = [*await site.rows(), *await site.rows(WorkKind.TOKEN)]
        begun = {(row.kind, row.subject) for row in rows if row.lease_until is not None and row.started_gen == row.gen}
        wanted = {*(("token", one) for one in refreshing), *(("sync", one) for one in walking)}
        return begun >= wanted and int((await books.log())["in_flight"]) > len(refreshing) // 2

    await site.until(all_begun, "refreshes and walks under way", every=0.02)
    began = time.monotonic()
    status = await asyncio.to_thread(worker.stop, grace=40)
    took = time.monotonic() - began
    site.workers.remove(worker)
    assert status == 0, worker.output()[-3000:]
    now = await site.now()
    rows = await site.rows()
    left = [row for row in rows if row.due_at <= now]
    assert {row.subject for row in left} <= set(walking)
    kept = [row for row in rows if row.lease_until is not None or row.crashes]
    assert not kept, [(row.lease_until, row.gen, row.started_gen, row.crashes, row.due_at) for row in kept]
    assert await _grants_lost(site, books) == []
    await books.do("clear_faults")
    await site.worker()
    await site.ask(SYNC, connections)
    facts = {
        "refreshes": len(refreshing),
        "walks": len(walking),
        "given back": len(left),
        "ended after s": round(took, 1),
    }
    return Told(await audit(site), facts)


async def sick_neighbours(
    site: Installation, *, window_s: float, retry_after_s: int, deadline_s: float, healthy: Sequence[str]
) -> Told:
    """17. One bank answers after 30 s, one says 429, one drips: the others hardly notice.

    Args:
        window_s: how long syncs are counted, without trouble and with it.
        retry_after_s: what the second bank asks for.
        deadline_s: of one call, as the settings have it.
    """
    slow, busy, dripping = (site.books[Slug(name)] for name in ("slow", "busy", "dripping"))
    await site.run()
    await site.all_synced("the first sync of all")
    before = await _counted(site, healthy, window_s)
    begun = await site.now()
    mark = (await busy.log())["next"]
    await slow.do("latency", seconds=30)
    await busy.do("answers", status=429, retry_after=retry_after_s, times=1)
    await dripping.do("drip", operation="balances", seconds=1, times=None)
    during = await _counted(site, healthy, window_s)
    share = min(during[name] / before[name] for name in healthy)
    assert share >= 0.8, (before, during)
    closed = await _gate_kept(site, busy, mark, retry_after_s)
    longest = max(await _broken_calls(site, Slug("dripping"), begun))
    assert longest < (deadline_s + 5) * 1000
    await site.execute("UPDATE work SET due_at = now() WHERE lease_until IS NULL")  # not after the ladder's minutes
    await site.execute("UPDATE breaker SET until = now() WHERE closed_at IS NULL")  # nor after the breaker's
    for books in site.books.values():
        await books.do("clear_faults")
    facts = {
        "syncs without trouble": before,
        "with trouble": during,
        "share": round(share, 2),
        "gate closed s": closed,
        "longest dripped call s": round(longest / 1000, 1),
    }
    return Told(await audit(site), facts)


async def shared_rate(site: Installation, *, rate: float, calls: int) -> Told:
    """Two workers, one LFI that takes so many calls a second: together they keep to it, by the bank's own log."""
    (books,) = site.books.values()
    mark = (await books.log())["next"]
    await site.run()
    await site.until(lambda: _answered(books, mark, calls), f"{calls} calls")
    entries = _data((await books.log(mark))["entries"])[:calls]
    starts = sorted(_start(entry) for entry in entries)
    took = (starts[-1] - starts[0]).total_seconds()
    burst = rate * BURST_S + 2  # and the one call each process may have reserved ahead
    assert took >= (len(starts) - 1 - burst) / rate
    _both_worked(site)
    return Told(
        await audit(site), {"calls": len(starts), "seconds": round(took, 1), "a second": round(len(starts) / took, 1)}
    )


async def shared_slots(site: Installation, *, slots: int, rounds: int) -> Told:
    """Two workers, one LFI with so many slots: never more consents in work at once, by the bank's own log."""
    (books,) = site.books.values()
    await books.do("latency", seconds=0.2)
    mark = (await books.log())["next"]
    await site.run()
    for number in range(rounds):
        await site.all_synced(f"round {number}")
    entries = _data((await books.log(mark))["entries"])
    spans = [(_start(entry), _at(entry), str(entry["consent_id"])) for entry in entries]
    most = max(len({consent for begun, end, consent in spans if begun <= at <= end}) for at, _, _ in spans)
    assert most <= slots
    _both_worked(site)
    return Told(await audit(site), {"most consents at once": most, "calls": len(spans)})


async def shared_gate(site: Installation, *, retry_after_s: int) -> Told:
    """Two workers, one 429: both keep away until the LFI's own time is over, then both go on."""
    (books,) = site.books.values()
    await site.run()
    await site.all_synced("the first sync of all")
    _both_worked(site)
    mark = (await books.log())["next"]
    await books.do("answers", status=429, retry_after=retry_after_s, times=1)
    closed = await _gate_kept(site, books, mark, retry_after_s)
    return Told(await audit(site), {"gate closed s": closed})


async def _gate_kept(site: Installation, books: Books, mark: int, retry_after_s: int) -> float:
    """From the first 429 on no call begins until `Retry-After` is over; the seconds until the next one did.

    Calls that had begun when the first worker filed the 429 are not counted: nobody could have called them back.
    """

    async def refused() -> bool:
        return any(entry["status"] == 429 for entry in (await books.log(mark))["entries"])

    await site.until(refused, "a 429")
    entries = (await books.log(mark))["entries"]
    said = min(_at(entry) for entry in entries if entry["status"] == 429)
    opens = said + timedelta(seconds=retry_after_s)

    async def again() -> bool:
        return any(_start(entry) > opens for entry in _data((await books.log(mark))["entries"]))

    await site.until(again, "calls after the gate", within=retry_after_s + PATIENCE_S)
    starts = sorted(_start(entry) for entry in _data((await books.log(mark))["entries"]))
    early = [start for start in starts if said + GATE_GRACE < start < opens]
    assert early == [], [(start - said).total_seconds() for start in early]
    return round((min(start for start in starts if start >= opens) - said).total_seconds(), 1)


async def _broken_calls(site: Installation, lfi: Slug, since: datetime) -> list[int]:
    """Milliseconds of the calls of runs at an LFI, begun since then, that ended with an error."""
    async with site.store.reading() as unit:
        runs = await unit.runs.find(lfi=lfi, since=since, limit=10_000)
        calls = [one for filed in runs for one in await unit.runs.calls_of(filed)]
    return [one.duration_ms for one in calls if one.error is not None and one.started_at > since]


async def _counted(site: Installation, lfis: Sequence[str], window_s: float) -> dict[str, int]:
    since = await site.now()
    await asyncio.sleep(window_s)
    return {lfi: await site.good_runs(since, lfi) for lfi in lfis}


async def _answered(books: Books, mark: int, calls: int) -> bool:
    return len(_data((await books.log(mark))["entries"])) >= calls


async def _grants_lost(site: Installation, books: Books) -> list[ConsentId]:
    """Consents whose stored refresh token is not the one the bank takes."""
    lost = []
    for consent_id in await site.connections():
        async with site.store.reading() as unit:
            token = await unit.tokens.read(consent_id)
        assert token is not None
        assert token.refresh_token is not None
        digest = hashlib.sha256(token.refresh_token.get_secret_value().encode()).hexdigest()
        if not await books.do("is_current", consent_id=consent_id, refresh_token_sha256=digest):
            lost.append(consent_id)
    return lost


def _both_worked(site: Installation) -> None:
    assert len([worker for worker in site.workers if "consent synced" in worker.output()]) == 2


def _data(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry["operation"] in DATA]


def _at(entry: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(entry["at"])


def _start(entry: dict[str, Any]) -> datetime:
    return _at(entry) - timedelta(milliseconds=entry["duration_ms"])


async def _overtaken(
    site: Installation, books: Books, connection: ConsentId, sleeper: Spawned, *, mark: int, leases: float
) -> Told:
    """The second half: the world goes on while the first holder sleeps."""

    async def answered() -> bool:
        return int((await books.log())["in_flight"]) == 0

    await site.until(answered, "the bank's answers to the sleeper")
    asleep = time.monotonic()
    old = [entry for entry in (await books.log(mark))["entries"] if entry["consent_id"] == connection]
    assert {entry["operation"] for entry in old} >= {"balances"}
    await books.do("clear_faults")
    account_id = next(one for one in await books.consents() if one["consent_id"] == connection)["account_ids"][0]
    await books.do("change_balance", account_id=account_id, amount="777777.77")
    gen = (await _row(site, connection)).gen
    await site.worker("--queue", "sync")

    async def taken_over() -> bool:
        row = await _row(site, connection)
        return row.gen > gen and row.lease_until is None and row.last_outcome == "ok"

    await site.until(taken_over, "the second holder's end")
    newer = (await _row(site, connection)).gen
    await asyncio.sleep(max(0.0, leases * LEASE_S - (time.monotonic() - asleep)))
    pause = time.monotonic() - asleep
    before = await _written(site, connection)
    sleeper.signal(signal.SIGCONT)
    site.workers.append(sleeper)

    async def told() -> bool:
        return "lease_lost" in sleeper.output()

    await site.until(told, "the sleeper's end")
    assert await _written(site, connection) == before
    async with site.store.reading() as unit:
        found = (await freshness(unit, [connection]))[connection]
    older = [
        listing
        for listing, cursor in found.items()
        if cursor.gen < newer and listing.resource in (ResourceName.ACCOUNTS, ResourceName.BALANCES)
    ]
    assert older == []
    await site.ask(SYNC, await site.connections())
    return Told(await audit(site), {"paused s": round(pause, 1), "generations": (gen, newer)})


async def _written(site: Installation, connection: ConsentId) -> list[Any]:
    """What the tables hold of a connection; its cursors move on with each newer run that finds nothing new."""
    return [
        await site.query(f"SELECT * FROM {table} WHERE connection_id = :it ORDER BY 1, 2, 3, 4", it=connection)
        for table in ("account", "balance", "change")
    ]


async def _row(site: Installation, connection: ConsentId) -> Any:
    return next(row for row in await site.rows() if row.subject == connection)


async def _any_begun(site: Installation) -> bool:
    return any(row.lease_until is not None and row.started_gen == row.gen for row in await site.rows())


async def _ended(site: Installation) -> set[tuple[int, int]]:
    """Claims `(id, gen)` that were ended by whoever held them."""
    rows = await site.query(
        "SELECT work.id, run.gen FROM run JOIN work ON work.subject = run.connection_id AND work.kind = 'sync'"
    )
    return {(row.id, row.gen) for row in rows}

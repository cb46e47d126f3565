"""The program of docs/how-to/mirror.md under hypothesis: it ends with what the lists show, whatever happened meanwhile.

Rows of three connections are written through `sync.apply` on PostgreSQL, in transactions that may stay open while
others commit.  Consents end, are renewed and given anew; data is erased; changes are pruned; the database is restored
to an earlier state.  Mirrors ask the web application: something may happen before each request, each request may be the
last of its process, and a mirror may go on from a copy of an earlier day.  The limits of pages are drawn.
"""

import asyncio
import os
import random
import re
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from syncworker import settings as settings_module
from syncworker.opening import load_keyring
from syncworker.settings import CONFIG_VARIABLE, Settings
from syncworker.standard.consents import ConsentView, Status
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store import tables
from syncworker.store.api_keys import Scope
from syncworker.store.changes import MARKER_FROM
from syncworker.store.erasure import DataClass
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.views.questions import LISTINGS
from syncworker.web.app import opened
from tests.ground.clock import ManualClock
from tests.web.house import PUBLIC_URL
from tests.web.kept import Kept
from tests.web.test_mirror import PAGE, Row, held

pytestmark = [pytest.mark.store, pytest.mark.timeout(300)]

T = TypeVar("T")
Name = tuple[str, str]
Rows = dict[Name, Row]
CONNECTIONS = 3
ACCOUNTS = ("1001", "1002")
EXAMPLES, STEPS = 10, 18
LIMITS = (1, 2, 3, 7, 40, 500)
LISTED = (2, 7, 50, 200)
OF_TENANT = [
    one for one in tables.metadata.sorted_tables if "tenant" in one.c and one.name not in {"api_key", "worker"}
]
"""Tables whose rows go back when the database is restored; parents first."""
LISTS = {
    ResourceName.ACCOUNT_PARTIES: "parties",
    **{one.resource: name for name, one in LISTINGS.items() if one.resource is not None and name != "balance_history"},
}

ACTS = ("sync", "sync", "sync", "open", "close", "end", "new chain", "renew", "erase personal", "erase", "prune")
acts = st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, CONNECTIONS - 1), st.integers(0, 2**16)), max_size=5)
Act = tuple[str, int, int]


class ProcessDiedError(httpx.TransportError):
    """The mirror's process ended before this request."""


@dataclass
class Mirror:
    """A mirror's store, and the process that fills it.

    Attributes:
        cursor: as it was published last; `None`: none was.
        copies: of earlier days: rows with their cursor.
    """

    program: dict[str, Any]
    rows: Rows = field(default_factory=dict)
    cursor: str | None = None
    copies: list[tuple[Rows, str]] = field(default_factory=list)


class Way(httpx.BaseTransport):
    """Carries requests of the program, in a thread, to the machine on its loop."""

    def __init__(self, carry: Callable[[httpx.Request], Awaitable[httpx.Response]]) -> None:
        self._carry = carry
        self._loop = asyncio.get_running_loop()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return asyncio.run_coroutine_threadsafe(_awaited(self._carry(request)), self._loop).result(60)


async def _awaited(answer: Awaitable[T]) -> T:
    return await answer


class Replay(RuleBasedStateMachine):
    """Three connections of two users, and mirrors of all of them."""

    def __init__(self, config: Settings) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.stack = AsyncExitStack()
        self.config = config.model_copy(update={"tenant": uuid.uuid4().hex})
        self.mirrors: list[Mirror] = []
        self.open: dict[int, tuple[Any, UnitOfWork]] = {}
        self.ended: set[int] = set()
        self.saved: dict[str, Any] | None = None
        self.before: list[Act] = []
        self.dies_in: int | None = None
        self.limits = (500, 200)
        self.seen: set[str] = set()
        self.met: set[str] = set()
        (text,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
        self.code = compile(text, str(PAGE), "exec")

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @initialize()
    def begin(self) -> None:
        self.run(self._begin())

    async def _begin(self) -> None:
        store = Store(
            self.config.database, tenant=self.config.tenant, keyring=load_keyring(self.config), clock=self.clock
        )
        self.store = store
        self.stack.push_async_callback(store.close)
        app = await self.stack.enter_async_context(opened(self.config.for_web()))
        async with store.writing() as unit:
            scopes = [Scope.DATA_READ, Scope.DATA_PERSONAL, Scope.CHANGES_READ]
            _, key = await unit.api_keys.create("mirror", scopes, at=await unit.now())
            await unit.commit()
        os.environ["KEY"] = key.get_secret_value()
        transport = httpx.ASGITransport(app, client=("192.0.2.1", 50_000))
        self.client = await self.stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url=PUBLIC_URL))
        self.way = Way(self._carry)
        self.kept = []
        for number in range(CONNECTIONS):
            connection_id = ConsentId(f"c0ffee00-0000-4000-8000-{number:012}")
            one = Kept(store, self.clock, connection_id, f"customer-{min(number, 1)}", accounts=list(ACCOUNTS))
            one.transactions = {account: {} for account in ACCOUNTS}
            await one.file()
            self.kept.append(one)
            await self._act("sync", number, number)
        self.mirrors.append(Mirror(await self._program()))
        await self._turn(self.mirrors[0], [], None, publishes=True)

    def teardown(self) -> None:
        try:
            self.run(self._end())
        finally:
            self.run(self.stack.aclose())
            self.runner.close()

    # -- what happens ------------------------------------------------------------------------------------------------

    @rule(act=st.tuples(st.sampled_from(ACTS), st.integers(0, CONNECTIONS - 1), st.integers(0, 2**16)))
    def something_happens(self, act: Act) -> None:
        self.run(self._act(*act))

    @rule(days=st.sampled_from([0, 0, 1, 3]), milliseconds=st.integers(0, 1))
    def time_passes(self, days: int, milliseconds: int) -> None:
        self.clock.advance(days=days, milliseconds=milliseconds)

    @precondition(lambda self: any(one.cursor for one in self.mirrors))
    @rule(number=st.integers(0, CONNECTIONS - 1), limit=st.sampled_from([3, 1000]))
    def what_mirrors_have_not_read_is_pruned(self, number: int, limit: int) -> None:
        """Two syncs three days apart, and the changes of the older one go."""

        async def pruned() -> None:
            await self._act("sync", number, limit)
            self.clock.advance(days=3)
            await self._act("sync", number, limit + 1)
            before = self.clock.now() - timedelta(days=2)
            await self.store.atomically(lambda unit: unit.changes.prune(before=before, limit=limit))

        self.run(pruned())

    @precondition(lambda self: any(one.cursor for one in self.mirrors))
    @rule(before=acts, after=acts, publishes=st.booleans())
    def the_database_goes_back_behind_mirrors(self, before: list[Act], after: list[Act], publishes: bool) -> None:
        """It is saved, something happens, mirrors read it, it is restored, and something else happens.

        A mirror that did not publish holds rows of a history that is no more, with a cursor that both have.
        """
        self.run(self._save())
        for act in before:
            self.run(self._act(*act))
        for mirror in self.mirrors:
            self.run(self._turn(mirror, [], None, publishes=publishes))
        self.run(self._restore())
        for act in after:
            self.run(self._act(*act))

    @rule()
    def the_database_is_saved(self) -> None:
        self.run(self._save())

    @precondition(lambda self: self.saved is not None)
    @rule()
    def the_database_is_restored(self) -> None:
        """From a dump: every row is written again, by another transaction, and the processes start anew."""
        self.run(self._restore())

    # -- mirrors -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.mirrors) < 3)
    @rule(before=acts, listed=st.sampled_from(LISTED), dies_in=st.none() | st.integers(1, 12))
    def a_mirror_begins(self, before: list[Act], listed: int, dies_in: int | None) -> None:
        mirror = Mirror(self.run(self._program()))
        self.mirrors.append(mirror)
        self.limits = (500, listed)
        self.run(self._turn(mirror, before, dies_in, publishes=True))

    @precondition(lambda self: self.mirrors)
    @rule(
        data=st.data(), before=acts, limit=st.sampled_from(LIMITS), listed=st.sampled_from(LISTED),
        pages=st.integers(1, 4), publishes=st.booleans(), dies_in=st.none() | st.integers(1, 4),
    )  # fmt: skip
    def a_mirror_reads(
        self, data: st.DataObject, before: list[Act], limit: int, listed: int, pages: int, publishes: bool,
        dies_in: int | None,
    ) -> None:  # fmt: skip
        """Some pages.  Where it does not publish, its process ends between applying a page and keeping its cursor."""
        mirror = data.draw(st.sampled_from(self.mirrors))
        self.limits = (limit, listed)
        for page in range(pages):
            if not self.run(self._turn(mirror, before if page == 0 else [], dies_in, publishes=publishes)):
                break

    @precondition(lambda self: any(one.copies for one in self.mirrors))
    @rule(data=st.data())
    def a_mirror_goes_on_from_a_copy(self, data: st.DataObject) -> None:
        mirror = data.draw(st.sampled_from([one for one in self.mirrors if one.copies]))
        rows, mirror.cursor = data.draw(st.sampled_from(mirror.copies))
        mirror.rows = dict(rows)

    async def _turn(self, mirror: Mirror, before: Sequence[Act], dies_in: int | None, *, publishes: bool) -> bool:
        """Begin, or read one page; whether there is more."""
        self.before, self.dies_in = list(before), dies_in
        program = mirror.program
        try:
            if mirror.cursor is None:
                cursor, more = await asyncio.to_thread(program["begin"], mirror.rows), True
            else:
                cursor, more = await asyncio.to_thread(program["step"], mirror.rows, mirror.cursor)
        except ProcessDiedError:
            return False
        finally:
            self.before, self.dies_in = [], None
        if publishes:
            if mirror.cursor is not None:
                mirror.copies.append((dict(mirror.rows), cursor))
            mirror.cursor = cursor
        return more and publishes

    async def _program(self) -> dict[str, Any]:
        """The program of the page, whose client asks this machine."""
        program: dict[str, Any] = {"__name__": "mirror"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(httpx, "Client", partial(httpx.Client, transport=self.way))
            exec(self.code, program)
        return program

    async def _carry(self, request: httpx.Request) -> httpx.Response:
        """One request of a mirror, after what happens before it; with the limits that were drawn."""
        if self.before:
            await self._act(*self.before.pop(0))
        if self.dies_in is not None:
            self.dies_in -= 1
            if self.dies_in == 0:
                raise ProcessDiedError("the mirror's process ended")
        feed, listed = self.limits
        url = request.url
        if url.path != "/v1/balances":  # these come whole
            url = url.copy_set_param("limit", feed if url.path == "/v1/changes" else listed)
        answer = await self.client.get(url, headers=request.headers)
        if answer.status_code >= 400:
            self.seen.add(answer.json()["code"])
        elif url.path == "/v1/changes":
            self.met |= {one["op"] for one in answer.json()["changes"]}
        return httpx.Response(answer.status_code, headers={"content-type": "application/json"}, content=answer.content)

    # -- how it happens ----------------------------------------------------------------------------------------------

    async def _act(self, what: str, number: int, seed: int) -> None:
        kept, dice = self.kept[number], random.Random(seed)
        if what == "prune":
            before = self.clock.now() - timedelta(days=2)
            await self.store.atomically(lambda unit: unit.changes.prune(before=before, limit=dice.randrange(1, 30)))
        elif what == "close" and self.open:
            await self._close(dice.choice(sorted(self.open)), well=dice.random() < 0.7)
        elif number in self.open:
            return
        elif what == "erase personal":
            await kept.erase(DataClass.PERSONAL)
        elif number in self.ended:
            if what == "new chain":
                await kept.file(str(uuid.UUID(int=dice.getrandbits(128), version=4)))
                self.ended.discard(number)
            elif what == "erase":
                await kept.erase()
        elif what in ("sync", "open"):
            change(kept, dice)
            await self._sync(number, stays_open=what == "open")
        elif what == "end":
            await kept.end()
            self.ended.add(number)
        elif what == "renew":
            old = kept.consent_id
            await kept.file(str(uuid.UUID(int=dice.getrandbits(128), version=4)))
            assert old is not None
            view = ConsentView(consent_id=old, status=Status.Revoked.value)

            async def replaced(unit: UnitOfWork) -> None:
                await unit.consents.observe(view, at=await unit.now())

            await self.store.atomically(replaced)

    async def _sync(self, number: int, *, stays_open: bool) -> None:
        kept = self.kept[number]
        kept.gen += 1
        manager = self.store.writing()
        unit = await manager.__aenter__()
        await kept.walk(unit)
        await unit.send()  # what waits for the commit as well: the transaction has its number from here on
        self.open[number] = (manager, unit)
        if not stays_open:
            await self._close(number, well=True)

    async def _close(self, number: int, *, well: bool) -> None:
        manager, unit = self.open.pop(number)
        if well:
            await unit.commit()
        await manager.__aexit__(None, None, None)

    async def _save(self) -> None:
        async with self.store.reading() as unit:
            rows = {}
            for table in OF_TENANT:
                mine = sa.select(table).where(table.c.tenant == self.store.tenant)
                rows[table.name] = [dict(row) for row in (await unit.connection.execute(mine)).mappings()]
        self.saved = {
            "rows": rows,
            "kept": [(one.gen, one.consent_id) for one in self.kept],
            "ended": set(self.ended),
        }

    async def _restore(self) -> None:
        assert self.saved is not None
        for number in list(self.open):
            await self._close(number, well=False)
        async with self.store.writing() as unit:
            for table in reversed(OF_TENANT):
                await unit.connection.execute(sa.delete(table).where(table.c.tenant == self.store.tenant))
            for table in OF_TENANT:
                if rows := self.saved["rows"][table.name]:
                    await unit.connection.execute(sa.insert(table), rows)
            await unit.connection.execute(sa.text("UPDATE feed_epoch SET epoch = epoch"))
            await unit.commit()
        await self.store.keep_history()
        for one, (gen, consent_id) in zip(self.kept, self.saved["kept"], strict=True):
            one.gen, one.consent_id = gen, consent_id
        self.ended = set(self.saved["ended"])

    # -- what must be ------------------------------------------------------------------------------------------------

    async def _end(self) -> None:
        for number in list(self.open):
            await self._close(number, well=True)
        self.limits = (500, 200)
        fresh = Mirror(await self._program())
        await self._turn(fresh, [], None, publishes=True)
        assert set(fresh.rows) == await self._readable()
        for mirror in self.mirrors:
            for _ in range(100):
                if not await self._turn(mirror, [], None, publishes=True):
                    break
            assert held(mirror.rows) == held(fresh.rows)
        SEEN.update(self.seen)
        MET.update(self.met)

    async def _readable(self) -> set[Name]:
        """Names of the rows of the tables that may be read: an account's while the account is shown."""
        found: set[Name] = set()
        async with self.store.reading() as unit:
            mine = sa.select(tables.connection.c.connection_id).where(
                tables.connection.c.tenant == self.store.tenant, tables.connection.c.restricted_at.is_(None)
            )
            for connection_id in (await unit.connection.scalars(mine)).all():
                references = await unit.account_references.of_connections([connection_id])
                names = {str(one.lfi_account_id): one.account_id for one in references}
                rows = [row async for row in unit.records.all_rows(connection_id)]
                shown = {row.key for row in rows if row.resource is ResourceName.ACCOUNTS}
                for row in rows:
                    if row.resource is ResourceName.ACCOUNTS:
                        found.add(("accounts", names[row.key]))
                    elif not row.account_id or row.account_id in shown:
                        whose = names[row.account_id] if row.account_id else connection_id
                        found.add((LISTS[row.resource], f"{whose}:{row.key}"))
        return found


SEEN: set[str] = set()
"""Codes of the refusals that mirrors met."""
MET: set[str] = set()
"""Kinds of changes that mirrors met."""


def change(one: Kept, dice: random.Random) -> None:
    """The bank shows something else: more, less, other text, one account more or less, another balance."""
    one.accounts = dice.choice([list(ACCOUNTS), list(ACCOUNTS), list(ACCOUNTS[:1])])
    one.balances = {account: f"{dice.randrange(100)}.00" for account in ACCOUNTS}
    one.party = dice.choice(["A. Person", "B. Person"])
    those = one.transactions[dice.choice(ACCOUNTS)]
    for key in dice.sample(sorted(those), min(2, len(those))):
        those[key] = {"TransactionInformation": f"tea {dice.random()}"}
    for key in dice.sample(sorted(those), min(dice.randrange(3), len(those))):
        del those[key]
    for _ in range(dice.choice([0, 1, 2, MARKER_FROM])):
        those[f"u{dice.randrange(10**6):06}"] = {"Status": dice.choice(["Booked", "Pending"])}


@pytest.fixture
def config(postgresql_url: str, keyring_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A web process of an installation without LFIs."""
    file = tmp_path / "syncworker.toml"
    file.write_text(
        f'database_url = "{postgresql_url}"\nbroker_url = "redis://127.0.0.1:9/0"\nkeyring = "{keyring_path}"\n'
        f'data_dir = "{tmp_path}"\n[web]\nurl = "{PUBLIC_URL}"\nkey_per_second = 1000\nreads_per_second = 10000\n'
    )
    monkeypatch.setenv(CONFIG_VARIABLE, str(file))
    monkeypatch.setenv("URL", PUBLIC_URL)
    monkeypatch.setenv("KEY", "")
    return settings_module.load()


def test_a_mirror_ends_with_what_the_lists_show(config: Settings) -> None:
    """Wherever it began, whatever was written while it read, and wherever its process ended."""

    class Here(Replay):
        def __init__(self) -> None:
            super().__init__(config)

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
            phases=[Phase.generate],
        ),
    )
    assert {"cursor_unknown", "cursor_too_old"} <= SEEN
    assert {"added", "modified", "removed", "restricted", "erased"} == MET

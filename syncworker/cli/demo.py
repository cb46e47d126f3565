"""`syncworker demo`: the whole way on this machine, with proofs.

Three sandbox banks on three versions of the standard, a broker, a worker and beat run as processes of their own; two
dozen customers give consent; their data comes into the database and stays fresh.  Nothing about the demo is special but
its cadences and token life, which are seconds: same engine, same tables, same worker.  What it claims it proves: from
the banks' own books, from the banks' log of what they served, and from the database's own counters.
"""

import asyncio
import contextlib
import fcntl
import os
import secrets
import shlex
import shutil
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from syncworker import private, wiring
from syncworker import settings as settings_module
from syncworker.cli import act_two, bank_settings, frame, show
from syncworker.cli.audit import audit_sandboxes, print_report, read_facts
from syncworker.clock import monotonic
from syncworker.errors import RequestError, SetupError, SyncWorkerError
from syncworker.processes import EmbeddedBroker, Program, Supervisor, end_with_parent, spawn
from syncworker.settings import CONFIG_VARIABLE, EMBEDDED, ENVIRONMENT_PREFIX, Settings
from syncworker.simulator.books import Books
from syncworker.simulator.browser import Browser
from syncworker.standard.consents import ConsentRequest, Purpose
from syncworker.standard.permissions import Permission, in_words_of
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import Slug
from syncworker.standard.versions import Version
from syncworker.store import migrate
from syncworker.store.changes import Op
from syncworker.store.counters import RowCounters
from syncworker.store.work import WorkKind

LFIS: Final = {
    Slug("bank-one"): Version.V2_1,
    Slug("bank-two"): Version.V2_0,
    Slug("bank-three"): Version.V1_2,
}
"""The banks and what they serve; all in one process: three would spend their first seconds importing the same."""
KEPT_FROM_ENVIRONMENT: Final = frozenset(
    {f"{ENVIRONMENT_PREFIX}{name}" for name in ("DATABASE_URL", "DATABASE_POOLER", "BROKER_URL")}
)
ACCESS_TOKEN_SECONDS: Final = 30
CADENCE_SECONDS: Final = 8
STORM_PER_CUSTOMER: Final = 10
REWALK_DAYS: Final = 62
"""Every walk reaches so far back: rows that the bank files late are found by the next one, not within a week."""
START_SECONDS_MAX: Final = 300
"""How long the banks may take to start: they import and make keys, and the machine may have other work."""

STILL_SECONDS_MAX: Final = 90
"""How long nothing may move at all: no call at a bank, no run, no token refresh."""

ROUNDS_MAX: Final = 12
"""How often every connection may be synced while the demo waits for one thing; a slow machine is slow in both."""

WAIT_SECONDS_MAX: Final = 900
LOOK_SECONDS: Final = 2.0
"""How often the demo looks whether something moved."""

PERMISSIONS: Final = (
    Permission.ReadAccountsDetail,
    Permission.ReadBalances,
    Permission.ReadTransactionsDetail,
    Permission.ReadBeneficiariesDetail,
    Permission.ReadStandingOrdersDetail,
    Permission.ReadDirectDebits,
    Permission.ReadScheduledPaymentsDetail,
    Permission.ReadStatements,
    Permission.ReadProduct,
    Permission.ReadProductFinanceRates,
    Permission.ReadParty,
    Permission.ReadPartyUser,
)
DATA: Final = frozenset(ResourceName)
ORDERS: Final = (
    ResourceName.BENEFICIARIES,
    ResourceName.DIRECT_DEBITS,
    ResourceName.STANDING_ORDERS,
    ResourceName.SCHEDULED_PAYMENTS,
)
"""What the customer arranged for the future, shown as one number."""


class DemoFailedError(SyncWorkerError):
    """The demo could not show what it promises."""

    code = "demo_failed"


def demo(
    customers: Annotated[int, typer.Option(min=1, max=200, help="How many customers give consent.")] = 24,
    folder: Annotated[Path, typer.Option(help="Where it keeps its files; emptied at the start.")] = Path(
        ".syncworker/demo"
    ),
    stay: Annotated[
        bool | None, typer.Option("--stay/--leave", help="Keep running until Ctrl-C; the default on a terminal.")
    ] = None,
) -> None:
    """Run the whole way on this machine: bank, consents, tokens, sync, proof.

    SYNCWORKER_DATABASE_URL and SYNCWORKER_BROKER_URL put it on a PostgreSQL and a Redis of yours.
    """
    end_with_parent()
    staying = sys.stdout.isatty() if stay is None else stay
    with _held(folder.absolute()) as own:
        failures = asyncio.run(_run(own, customers=customers, stay=staying))
    if failures:
        for failure in failures:
            show.say(f"failed: {failure}")
        raise typer.Exit(frame.FAILED)


async def _run(folder: Path, *, customers: int, stay: bool) -> list[str]:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    showing = asyncio.create_task(_show(folder, customers, stay, ended))
    stopping = asyncio.create_task(ended.wait())
    await asyncio.wait({showing, stopping}, return_when=asyncio.FIRST_COMPLETED)
    interrupted = not showing.done()
    if interrupted:
        show.say("stopping …")
        showing.cancel()
    stopping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        return await showing
    return []


async def _next_commands(stage: "Stage") -> None:
    """Commands about a customer whose data can be read: they work as printed."""
    async with stage.application.store.reading() as unit:
        held = await unit.reads.connections(limit=1_000)
    user = next((one.user_ref for one in held if one.restricted_at is None), None)
    if user is not None:
        whose = shlex.quote(user)
        for line in (f"syncworker balances {whose}", f"syncworker transactions {whose} --limit 10"):
            show.OUT.print(f"  {line}", markup=False)


async def _show(folder: Path, customers: int, stay: bool, ended: asyncio.Event) -> list[str]:
    began = monotonic()
    async with _stage(folder, customers) as stage:
        await _consents(stage)
        await _first_sync(stage)
        await _overview(stage)
        await _check_books(stage, "after the first sync")
        await _second_sync(stage)
        await _change(stage)
        await _storm(stage)
        await _token_proof(stage)
        await _check_books(stage, "at the end")
        await act_two.play(stage)
        await _export(stage)
        show.OUT.print(f"\ndone in {monotonic() - began:.0f} s; the data is in {stage.where}", markup=False)
        show.OUT.print(
            f"look around with: export {CONFIG_VARIABLE}={shlex.quote(str(folder / 'syncworker.toml'))}", markup=False
        )
        await _next_commands(stage)
        if stay and not stage.failures:
            show.OUT.print("everything keeps running and stays fresh; Ctrl-C ends it", markup=False)
            while not ended.is_set():
                stage.supervisor.poll()
                await asyncio.sleep(0.5)
        return stage.failures


@dataclass(frozen=True)
class Bank:
    """One of the banks: what it says about itself, and the reader of its books."""

    slug: Slug
    facts: Mapping[str, Any]
    books: Books

    @property
    def users(self) -> Sequence[str]:
        users: Sequence[str] = self.facts["users"]
        return users


@dataclass
class Stage:
    """Everything that runs, and what was found wanting."""

    folder: Path
    settings: Settings
    application: wiring.Application
    supervisor: Supervisor
    banks: Sequence[Bank]
    counters: RowCounters
    failures: list[str] = field(default_factory=list)
    _marks: dict[Slug, int] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"{settings_module.masked(self.settings.database_url)} (tenant {self.settings.tenant})"

    @property
    def customers(self) -> int:
        """How many give consent, at all banks together."""
        return sum(len(bank.users) for bank in self.banks)

    async def served(self, since: Mapping[Slug, int] | None = None) -> "Served":
        """What the banks logged from a mark on; from the beginning without one."""
        logs = {bank.slug: await bank.books.log((since or {}).get(bank.slug, 0)) for bank in self.banks}
        return Served(
            entries=[entry for log in logs.values() for entry in log["entries"]],
            mark={slug: log["next"] for slug, log in logs.items()},
        )

    def claim(self, holds: bool, said: str) -> None:
        """Print a finding; remember it when it does not hold."""
        show.OUT.print(f"  {'✓' if holds else '✗'} {said}", markup=False)
        if not holds:
            self.failures.append(said)

    async def wait_for(self, what: str, ready: Callable[[], Any]) -> float:
        """Wait until `await ready()` is true, for as long as the work goes on; gives the seconds it took.

        A busy machine makes everything slow, and nothing wrong.  So the wait ends when nothing moves any more, or when
        so much has happened meanwhile that this should have happened too.

        Raises:
            DemoFailedError: it did not become true; says whether the machine or the product is to blame.
        """
        began = moved_at = looked_at = monotonic()
        seen = first = await self._moved()
        while not await ready():
            self.supervisor.poll()
            now = monotonic()
            if now - looked_at >= LOOK_SECONDS:
                looked_at, moved = now, await self._moved()
                if moved != seen:
                    seen, moved_at = moved, now
            rounds = (seen.runs - first.runs) / max(self.customers, 1)
            if rounds > ROUNDS_MAX:
                raise DemoFailedError(
                    f"{what} did not happen while every consent was synced {ROUNDS_MAX} times; {self._log}"
                )
            if now - moved_at > STILL_SECONDS_MAX or now - began > WAIT_SECONDS_MAX:
                raise DemoFailedError(f"{what} did not happen: {_stood_still(now - moved_at)}; {self._log}")
            await asyncio.sleep(0.1)
        return monotonic() - began

    async def _moved(self) -> "Moved":
        """How much has happened so far: calls the banks answered, runs filed."""
        for bank in self.banks:
            self._marks[bank.slug] = (await bank.books.log(self._marks.get(bank.slug, 0)))["next"]
        async with self.application.store.reading() as unit:
            return Moved(calls=sum(self._marks.values()), runs=await unit.runs.newest())

    @property
    def _log(self) -> str:
        return f"see {self.folder / 'demo.log'}"

    async def synced_since(self, since: datetime) -> int:
        """Connections with a complete sync that began after an instant."""
        async with self.application.store.reading() as unit:
            runs = await unit.runs.latest(limit=10_000)
        return len({run.connection_id for run in runs if run.started_at > since and run.outcome in {"ok", "unchanged"}})

    async def now(self) -> datetime:
        async with self.application.store.reading() as unit:
            return await unit.now()


class Moved(NamedTuple):
    """What has happened since the demo began."""

    calls: int
    runs: int


@dataclass(frozen=True)
class Served:
    """The banks' answers, and where to read on."""

    entries: list[dict[str, Any]]
    mark: Mapping[Slug, int]


@contextlib.asynccontextmanager
async def _stage(folder: Path, customers: int) -> AsyncIterator[Stage]:
    """Start the banks, the broker, worker and beat; stop them all in the end."""
    async with contextlib.AsyncExitStack() as stack:
        facts = await _sandboxes(stack, folder, _shared_out(customers))
        settings = _settings(folder, facts)
        migrate.upgrade(settings.database)
        application = await wiring.build_application(settings)
        stack.push_async_callback(application.close)
        counters = RowCounters(application.store)
        await counters.install()
        banks = [Bank(slug, one, await stack.enter_async_context(Books.of(one))) for slug, one in facts.items()]
        supervisor = _supervisor(stack, folder, settings)
        stage = Stage(folder, settings, application, supervisor, banks, counters)
        for bank in banks:
            show.OUT.print(f"{bank.slug} {LFIS[bank.slug]} {bank.facts['issuer']}", markup=False)
        show.OUT.print(
            f"database {settings_module.masked(settings.database_url)} · "
            f"broker {settings_module.masked(settings.broker_url)} · "
            f"{', '.join(f'{name} {pid}' for name, pid in supervisor.children().items())}",
            markup=False,
        )
        yield stage


def _shared_out(customers: int) -> dict[Slug, int]:
    """Customers of each bank, as even as may be; a bank without any is left out."""
    each, rest = divmod(customers, len(LFIS))
    shares = {slug: each + (number < rest) for number, slug in enumerate(LFIS)}
    return {slug: share for slug, share in shares.items() if share}


async def _sandboxes(
    stack: contextlib.AsyncExitStack, folder: Path, customers: Mapping[Slug, int]
) -> Mapping[Slug, Mapping[str, Any]]:
    """Start the banks and give their facts when every one of them answers."""
    options = ["--access-token-seconds", str(ACCESS_TOKEN_SECONDS)]
    for slug, count in customers.items():
        options += ["--lfi", slug, LFIS[slug], str(count)]
    log = stack.enter_context((folder / "sandbox.log").open("wb"))
    data = folder / "banks"
    child = spawn(
        [sys.executable, "-m", "syncworker.simulator", "--data-dir", str(data), *options], stdout=log, stderr=log
    )
    stack.callback(child.stop, 5)
    began = monotonic()
    while True:
        facts = {slug: ready for slug in customers if (ready := _ready(data / slug)) and ready["pid"] == child.pid}
        if len(facts) == len(customers):
            return facts
        if child.status() is not None or monotonic() - began > START_SECONDS_MAX:
            raise SetupError(f"sandbox: the banks did not start; see {folder / 'sandbox.log'}")
        await asyncio.sleep(0.05)


def _ready(data: Path) -> Mapping[str, Any] | None:
    with contextlib.suppress(RequestError):
        return read_facts(data)
    return None


def _supervisor(stack: contextlib.AsyncExitStack, folder: Path, settings: Settings) -> Supervisor:
    log = stack.enter_context((folder / "demo.log").open("w", encoding="utf-8", buffering=1))
    run = (sys.executable, "-m", "syncworker")
    names = ("worker", "beat", *(("web",) if settings.events.senders else ()))
    supervisor = Supervisor(
        [Program(name=name, argv=(*run, name)) for name in names],
        broker=EmbeddedBroker(settings.data_folder) if settings.broker_url == EMBEDDED else None,
        write=lambda line: print(line, file=log),
    )
    stack.callback(supervisor.stop)
    supervisor.start()
    return supervisor


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[Path]:
    """An empty folder that this demo alone uses until the block ends; the lock ends with the process.

    Raises:
        SetupError: another demo runs in it, or there is something else in it.
    """
    marker = folder / ".syncworker-demo"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise SetupError(f"folder: {folder} holds files that are not the demo's; give another --folder")
    private.make_folder(folder)
    with marker.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SetupError(f"folder: another demo runs in {folder}; end it, or give another --folder") from None
        for entry in folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry != marker:
                entry.unlink()
        yield folder


def _settings(folder: Path, facts: Mapping[Slug, Mapping[str, Any]]) -> Settings:
    """Write the demo's settings and read them back: this process and its children see the same."""
    cadence = "\n".join(f"{name.value} = {CADENCE_SECONDS}" for name in ResourceName)
    own = f"""tenant = "demo-{secrets.token_hex(4)}"
tick_seconds = 1
threads = 16
token_timeout = 10
lease_seconds = 30
rewalk_days = {REWALK_DAYS}
rewalk_every = 1

[cadence]
{cadence}

{act_two.settings(folder, facts, LFIS)}
"""
    database = None if f"{ENVIRONMENT_PREFIX}DATABASE_URL" in os.environ else f"sqlite:///{folder / 'demo.db'}"
    file = bank_settings.write_several(folder, facts, database_url=database, own=own)
    for name in settings_module.variables_set() - KEPT_FROM_ENVIRONMENT:
        del os.environ[name]
    os.environ[CONFIG_VARIABLE] = str(file)
    return settings_module.load()


# -- the acts ---------------------------------------------------------------------------------------------------------


async def _consents(stage: Stage) -> None:
    """Each customer goes through PAR, the bank's consent page and the callback."""
    _headline(f"{stage.customers} customers give consent")
    began = monotonic()
    for bank in stage.banks:
        async with Browser(Path(bank.facts["ca_bundle"])) as browser:
            for user in bank.users:
                await _consent(stage, bank, browser, user)
    show.OUT.print(
        f"  PAR → consent page → callback → tokens, {stage.customers} times in {monotonic() - began:.1f} s",
        markup=False,
    )


async def _consent(stage: Stage, bank: Bank, browser: Browser, user: str) -> None:
    request = ConsentRequest(
        permissions=in_words_of(LFIS[bank.slug], PERMISSIONS),
        expires_at=datetime.now(UTC) + timedelta(days=180),
        purpose=Purpose.AccountAggregation,
    )
    authorize = stage.application.authorize
    started = await authorize.begin(bank.slug, request, user_ref=f"{user}@{bank.slug}")
    await authorize.complete(await browser.decide(started.url, user=user))


async def _first_sync(stage: Stage) -> None:
    """The worker syncs what the callbacks made due; we only watch."""
    _headline("first sync, by the worker")
    start = datetime.min.replace(tzinfo=UTC)
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=show.OUT, transient=not show.OUT.is_terminal) as progress:
        bar = progress.add_task("consents synced", total=stage.customers)

        async def ready() -> bool:
            done = await stage.synced_since(start)
            progress.update(bar, completed=done)
            return done == stage.customers

        took = await stage.wait_for("the first sync", ready)
    stage.claim(True, f"all {stage.customers} consents synced {took:.1f} s after the last callback")


async def _overview(stage: Stage) -> None:
    async with stage.application.store.reading() as unit:
        connections = await unit.consents.connections()
        versions = {one.connection_id: one.version for one in await unit.consents.find()}
        now = await unit.now()
        counts = {one.connection_id: await unit.records.count(one.connection_id) for one in connections}
    show.rows(
        [
            {
                "LFI": one.lfi,
                "version": versions[one.connection_id].value,
                "customer": one.user_ref.partition("@")[0],
                "consent": f"{one.connection_id[:8]}…",
                "accounts": counts[one.connection_id][ResourceName.ACCOUNTS],
                "balances": counts[one.connection_id][ResourceName.BALANCES],
                "transactions": counts[one.connection_id][ResourceName.TRANSACTIONS],
                "parties": counts[one.connection_id][ResourceName.PARTIES]
                + counts[one.connection_id][ResourceName.ACCOUNT_PARTIES],
                "orders": sum(counts[one.connection_id][name] for name in ORDERS),
                "statements": counts[one.connection_id][ResourceName.STATEMENTS],
                "products": counts[one.connection_id][ResourceName.PRODUCT],
                "fresh": "never" if one.last_data_at is None else f"{show.span(now - one.last_data_at)} ago",
            }
            for one in connections
        ],
        as_json=False,
        title="\nWhat is in the database",
        empty="nothing",
    )


async def _check_books(stage: Stage, when: str) -> None:
    _headline(f"the banks' own books against our tables, {when}")
    report = await audit_sandboxes(stage.application.store, [bank.books for bank in stage.banks])
    print_report(report)
    if report.differences:
        stage.failures.append(f"{len(report.differences)} differences {when}")


async def _second_sync(stage: Stage) -> None:
    """Everything is asked again on schedule; since nothing changed, the database is left alone."""
    _headline("second sync, on schedule: nothing changed at the banks")
    served = await stage.served()
    first = _listings(served.entries)
    mark = await stage.now()
    before = await stage.counters.read()
    total = stage.customers
    await stage.wait_for("the second sync", lambda: _is(stage.synced_since(mark), total))
    after = await stage.counters.read()
    second = _listings((await stage.served(served.mark)).entries)
    written = sum(after.values()) - sum(before.values())
    missing = first.keys() - second.keys()
    stage.claim(
        not missing,
        f"the banks served the same {len(second)} listings again ({sum(second.values())} GETs; "
        f"it was {sum(first.values())} with the whole history)",
    )
    stage.claim(written == 0, f"{written} resource rows written, by the database's own counters")


async def _change(stage: Stage) -> None:
    """A payment happens at the bank; the product asks for a sync now."""
    _headline("a payment happens at the bank")
    async with stage.application.store.reading() as unit:
        connection = (await unit.consents.connections())[0]
        cursor = await unit.changes.head()
    books = next(bank.books for bank in stage.banks if bank.slug == connection.lfi)
    facts = next(one for one in await books.consents() if one["consent_id"] == connection.connection_id)
    item = await books.do("insert_transaction", account_id=facts["account_ids"][0], amount="42.50")
    async with stage.application.store.writing() as unit:
        await unit.work.ask_now(WorkKind.SYNC, connection.connection_id)
        await unit.commit()

    async def seen() -> bool:
        async with stage.application.store.reading() as unit:
            rows = await unit.changes.read(after=cursor, limit=10_000)
        return any(row.change.key == item["TransactionId"] and row.change.op is Op.ADDED for row in rows)

    took = await stage.wait_for("the change", seen)
    stage.claim(True, f"in the table and in the change feed {took:.1f} s after “sync now”")


async def _storm(stage: Stage) -> None:
    """Many things change at the banks, late and dated back, in listings of all kinds; then two syncs of quiet."""
    count = STORM_PER_CUSTOMER * stage.customers
    _headline(f"a storm at the banks: {count} things change, then it is quiet for two syncs")
    kinds: Counter[str] = Counter()
    for seed, bank in enumerate(stage.banks, 7):
        changes = await bank.books.do("storm", seed=seed, n=STORM_PER_CUSTOMER * len(bank.users))
        kinds.update(one["verb"] for one in changes)
    show.OUT.print("  " + ", ".join(f"{n} {verb}" for verb, n in kinds.most_common()), markup=False)
    total = stage.customers
    for which in ("first", "second"):
        mark = await stage.now()

        async def quiet(mark: datetime = mark) -> bool:
            return await stage.synced_since(mark) == total

        await stage.wait_for(f"the {which} sync after the storm", quiet)
    await _check_books(stage, "after the storm")


async def _export(stage: Stage) -> None:
    """The tables as files, and how to open them."""
    if find_spec("pyarrow") is None:
        return  # the extra `exports` is not installed
    from syncworker.exports.layout import Format
    from syncworker.exports.plans import wanted_of
    from syncworker.exports.run import run

    _headline("the tables as files for analysts")
    began = monotonic()
    wanted = wanted_of("demo", None, stage.settings, to=str(stage.folder / "exports"), format_=Format.PARQUET)
    manifest = await run(stage.application.store, wanted)
    rows = sum(one.rows for one in manifest.tables)
    folder = f"{wanted.target.text}/demo/{manifest.folder}"
    took = monotonic() - began
    show.OUT.print(f"  {rows} rows of {len(manifest.tables)} tables in {took:.1f} s: {folder}", markup=False)
    show.OUT.print("  open them in DuckDB (pip install duckdb), in Python:", markup=False)
    show.OUT.print("    import duckdb", markup=False)
    spent = "SELECT merchant_category_code AS mcc, count(*) AS n, sum(amount) AS aed"
    of = f"FROM '{folder}/transaction/*.parquet' WHERE currency = 'AED' GROUP BY 1 ORDER BY 3 LIMIT 5"
    show.OUT.print(f'    print(duckdb.sql("{spent} {of}"))', markup=False)


async def _token_proof(stage: Stage) -> None:
    """The banks' own log says whether tokens were refreshed in time."""
    _headline("tokens, by the banks' own log")
    consents = {one["consent_id"] for bank in stage.banks for one in await bank.books.consents()}

    async def refreshes() -> list[dict[str, Any]]:
        entries = [entry for bank in stage.banks for entry in (await bank.books.tokens())["entries"]]
        return [entry for entry in entries if entry["grant_type"] == "refresh_token"]

    async def all_refreshed() -> bool:
        return {entry["consent_id"] for entry in await refreshes()} >= consents

    await stage.wait_for("a refresh of every consent", all_refreshed)
    done = await refreshes()
    refused = [entry for entry in done if entry["outcome"] != "issued"]
    least = min((entry["early_s"] for entry in done), default=0.0)
    stage.claim(
        not refused,
        f"{len(consents)} consents refreshed by beat, {len(done)} times, {len(refused)} of them refused; "
        f"{_margin(least)} the {ACCESS_TOKEN_SECONDS} s of a token were over",
    )
    data = [entry for entry in (await stage.served()).entries if entry["operation"] in DATA]
    expired = sum(1 for entry in data if entry["token_expired"])
    stage.claim(expired == 0, f"{len(data)} data calls, {expired} of them with an expired token")


def _margin(least_s: float) -> str:
    """The least margin in words.  A busy machine may be late; what counts is that no such token was used."""
    return f"each at least {least_s:.1f} s before" if least_s > 0 else f"the latest {-least_s:.1f} s after"


def _stood_still(seconds: float) -> str:
    """Why a wait ended, with how busy the machine is: load is not a fault of ours."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    busy = f"the machine has {load:.1f} processes for {cores} cores"
    if seconds > STILL_SECONDS_MAX:
        return f"nothing moved for {seconds:.0f} s ({busy})"
    return f"{WAIT_SECONDS_MAX} s are over and it still moves ({busy}): too slow for the demo's cadence"


def _listings(entries: Sequence[Mapping[str, Any]]) -> Counter[tuple[str, str, str]]:
    """GETs by (consent, account, operation), successful data calls only."""
    return Counter(
        (entry["consent_id"], entry["account_id"] or "", entry["operation"])
        for entry in entries
        if entry["operation"] in DATA and entry["status"] == 200
    )


async def _is(found: Any, expected: object) -> bool:
    return bool(await found == expected)


def _headline(text: str) -> None:
    show.OUT.print(f"\n[bold]{text}[/bold]")

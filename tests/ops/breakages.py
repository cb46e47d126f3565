"""Break an installation for real, one thing at a time, and note when each view names the cause.

    python -m tests.ops.breakages [NAME …]

prints the table of docs/operations.md.  Each breakage is made (a process is killed or stopped, a disk filled, a
transaction left open, the sandbox bank told to fail), the four views are asked until each names the cause, and after
mending until none does.  Seconds count from the breakage to the end of the view's answer, and hold its own waits for
what is silent.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import psycopg

from tests.ops.installation import FAKETIME, TICK_S, Installation, Views, environment_of_clock

PATIENCE_S: Final = 240.0
"""So long a view is asked before it counts as silent."""

CALM_S: Final = 180.0
HOST_CLOCK: Final = "+30s\n"


@dataclass(frozen=True)
class Breakage:
    """One thing that breaks.

    Attributes:
        done: what is done, for the table.
        key: how the key of its cause begins.
        servers: on PostgreSQL and Valkey, with a process for each part; otherwise `syncworker up` on SQLite.
        make: break it; `mend`: undo that.
        rule: why it cannot be named at once, for the table.
        fits: whether it can be made on this machine.
    """

    name: str
    done: str
    key: str
    make: Callable[[Installation], None]
    mend: Callable[[Installation], None]
    servers: bool = True
    rule: str = ""
    fits: Callable[[], bool] = lambda: True


# -- how each is made --------------------------------------------------------------------------------------------------


def _killed(part: str) -> tuple[Callable[[Installation], None], Callable[[Installation], None]]:
    return lambda site: site.end(part), lambda site: site.start(part)


def _trouble(kind: str) -> tuple[Callable[[Installation], None], Callable[[Installation], None]]:
    def mend(site: Installation) -> None:
        site.sandbox("mend", "sandbox")
        site.retry()

    return lambda site: site.sandbox("break", "sandbox", kind), mend


def _short_of_retries(site: Installation) -> None:
    """Every other call fails once: short retries mend each, until their budget is spent."""
    for _ in range(40):
        site.door.verb("answers", status=503, times=1, operation="balances")
        time.sleep(0.4)


def _stop_broker(site: Installation) -> None:
    assert site.valkey is not None
    site.valkey.freeze()


def _thaw_broker(site: Installation) -> None:
    assert site.valkey is not None
    site.valkey.thaw()


def _foreign_broker(site: Installation) -> None:
    assert site.valkey is not None
    site.valkey.end()
    argv = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(site.valkey.port))
    site.kept["foreign"] = site.nursery.spawn(argv, cwd=site.bank, ready=lambda child: child.running())


def _own_broker(site: Installation) -> None:
    assert site.valkey is not None
    site.kept.pop("foreign").kill()
    site.valkey.restart()


def _read_only(site: Installation) -> None:
    site.psql("ALTER DATABASE syncworker_ops SET default_transaction_read_only = on")
    _end_sessions(site)


def _writable(site: Installation) -> None:
    site.psql("ALTER DATABASE syncworker_ops RESET default_transaction_read_only")
    _end_sessions(site)


def _end_sessions(site: Installation) -> None:
    """A session keeps the settings it began with."""
    site.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
              " WHERE datname = 'syncworker_ops' AND pid <> pg_backend_pid()")  # fmt: skip


def _database_away(site: Installation) -> None:
    assert site.postgres is not None
    site.postgres.stop()


def _database_back(site: Installation) -> None:
    assert site.postgres is not None
    site.postgres.start_again()


def _fill(site: Installation) -> None:
    assert site.disk is not None
    with suppress(OSError), (site.disk / "filler").open("wb", buffering=0) as file:
        while file.write(b"\0" * 65_536):
            pass


def _empty(site: Installation) -> None:
    assert site.disk is not None
    (site.disk / "filler").unlink()


def _hold_feed(site: Installation) -> None:
    """Leave a transaction open that has written, and have a balance change: that one waits until it ends."""
    site.kept["open"] = site.psql("CREATE TABLE left_open (id int)", keep=True)
    before = site.changes()
    account_id = site.door.get("/consents")[0]["account_ids"][0]
    site.door.verb("change_balance", account_id=account_id, amount="17.25")
    assert _when(time.monotonic(), lambda: site.changes() > before) is not None


def _release_feed(site: Installation) -> None:
    site.kept.pop("open").close()


def _refuse_deliveries(site: Installation) -> None:
    site.receiver.answer = 500
    for one in site.run("webhooks", "list", "--json").json:
        site.run("webhooks", "test", one["endpoint_id"])


def _take_deliveries(site: Installation) -> None:
    site.receiver.answer = 200
    for one in site.run("webhooks", "list", "--json").json:
        site.run("webhooks", "enable", one["endpoint_id"])


def _block_export(site: Installation) -> None:
    """Put a file where the exports' folder is, and wait until the next export falls due."""
    folder = site.house.folder / "exports"
    folder.rename(site.house.folder / "exports-away")
    folder.write_text("in the way\n")
    [series] = site.house.run("status", "--json").json["exports"]
    due = datetime.fromisoformat(series["due"])
    time.sleep(max((due - datetime.now(UTC)).total_seconds(), 0))


def _unblock_export(site: Installation) -> None:
    folder = site.house.folder / "exports"
    folder.unlink()
    (site.house.folder / "exports-away").rename(folder)
    site.house.run("export", "run", "--name", "nightly")  # refused where a worker is just making one


def _jump(site: Installation) -> None:
    """The clock of the worker's host goes 30 s ahead."""
    (site.house.folder / "clock").write_text(HOST_CLOCK)


def _jump_back(site: Installation) -> None:
    (site.house.folder / "clock").write_text("+0s\n")


BREAKAGES: Final = (
    Breakage("retries", "the bank fails 40 calls once each", "budget_spent:sandbox", _short_of_retries,
             lambda site: None, rule="told from 50 calls on"),
    Breakage("worker", "worker killed (SIGKILL)", "workers_dead", *_killed("worker")),
    Breakage("beat", "beat killed (SIGKILL)", "beat_dead", *_killed("beat")),
    Breakage("broker", "Valkey stopped (SIGSTOP)", "broker_silent", _stop_broker, _thaw_broker),
    Breakage("foreign", "an HTTP server at Valkey's address", "broker_foreign", _foreign_broker, _own_broker),
    Breakage("away", "PostgreSQL stopped", "database_away", _database_away, _database_back),
    Breakage("read-only", "PostgreSQL: default_transaction_read_only", "database_read_only", _read_only, _writable),
    Breakage("down", "bank cuts every connection", "lfi_down:sandbox", *_trouble("down")),
    Breakage("500", "bank answers 500", "lfi_down:sandbox", *_trouble("500")),
    Breakage("429", "bank answers 429", "lfi_gated:sandbox", *_trouble("429")),
    Breakage("slow", "bank answers 3 s later", "lfi_slow:sandbox", *_trouble("slow"),
             rule="told by five calls of runs that ended"),
    Breakage("certificate", "signing certificate that ends in 3 days", "certificate_ends",
             lambda site: site.certify(days=3), lambda site: site.certify(days=300)),
    Breakage("clock", "the worker's clock goes 30 s ahead", "clock_apart", _jump, _jump_back, fits=FAKETIME.is_file),
    Breakage("feed", "a transaction that wrote is left open; a change waits", "feed_held", _hold_feed, _release_feed),
    Breakage("deliveries", "the product's endpoint answers 500", "deliveries_stuck", _refuse_deliveries,
             _take_deliveries),
    Breakage("export", "a file in the place of the exports' folder", "export_late:nightly", _block_export,
             _unblock_export),
    Breakage("full", "SQLite on a full disk", "database_full", _fill, _empty, servers=False),
)  # fmt: skip


# -- what is measured --------------------------------------------------------------------------------------------------


@dataclass
class Measured:
    """How a breakage was named, in seconds from it.

    Attributes:
        status, dashboard, metric: when the view named it; `None`: it did not.
        number: of the cause, in `status` and on the dashboard; `None`: they differ.
        alert: that a scrape of then lets fire, and how long it must last.
        over: seconds from mending until no view named it any more.
        left: causes that `status` still names after that.
    """

    breakage: Breakage
    key: str = ""
    status: float | None = None
    dashboard: float | None = None
    metric: float | None = None
    number: int | None = None
    alert: str = ""
    over: float | None = None
    left: Sequence[str] = field(default_factory=tuple)

    @property
    def in_time(self) -> bool:
        """Whether every view named it within two ticks."""
        return all(one is not None and one <= 2 * TICK_S for one in (self.status, self.dashboard, self.metric))


def _measure(site: Installation, views: Views, breakage: Breakage) -> Measured:
    """Break, look, mend, look."""
    found = Measured(breakage)
    kind = breakage.key.partition(":")[0]
    breakage.make(site)
    began = time.monotonic()
    try:
        with ThreadPoolExecutor(3) as pool:
            asked = [
                pool.submit(_when, began, lambda: _by_status(views, breakage.key, found)),
                pool.submit(_when, began, lambda: _on_dashboard(views, found)),
                pool.submit(_when, began, lambda: _in_metrics(views, kind, found)),
            ]
            found.status, found.dashboard, found.metric = (one.result() for one in asked)
        found.number = _agreed(views, found.key)
    finally:
        breakage.mend(site)
        mended = time.monotonic()
    found.over = _when(mended, lambda: not _named(views, breakage.key, kind))
    _when(mended, lambda: not views.status(), patience=CALM_S)
    found.left = sorted(views.status())
    return found


def _when(began: float, holds: Callable[[], bool], *, patience: float = PATIENCE_S) -> float | None:
    while not holds():
        if time.monotonic() - began > patience:
            return None
        time.sleep(0.25)
    return time.monotonic() - began


def _by_status(views: Views, key: str, found: Measured) -> bool:
    found.key = next((one for one in views.status() if one.startswith(key)), "")
    return bool(found.key)


_WORDS: Final = {
    "workers_dead": "no worker lives", "beat_dead": "no beat lives", "broker_silent": "the broker does not answer",
    "broker_foreign": "what answers at broker_url", "database_away": "the database does not answer",
    "database_read_only": "the database takes no writes", "database_full": "the database is full",
    "lfi_down": "sandbox does not answer", "lfi_gated": "sandbox all calls the lfi said",
    "lfi_slow": "sandbox is slow",
    "certificate_ends": "signing certificate for sandbox ends", "clock_apart": "clock of",
    "feed_held": "the feed of changes is held back", "deliveries_stuck": "deliveries to",
    "export_late": "export nightly", "budget_spent": "calls were short retries",
}  # fmt: skip
"""By what a reader of the dashboard knows the cause; as `Named` has it, without figures and their signs."""


def _on_dashboard(views: Views, found: Measured) -> bool:
    kind = found.breakage.key.partition(":")[0]
    return any(_WORDS[kind] in one.what for one in views.dashboard())


def _in_metrics(views: Views, kind: str, found: Measured) -> bool:
    if not views.scraped:
        return True
    kinds = views.metrics() - ({"unreachable"} if kind != "database_away" else set())  # its alert is that of the target
    found.alert = views.alert(kinds, kind)
    return bool(found.alert)


def _named(views: Views, key: str, kind: str) -> bool:
    return (
        any(one.startswith(key) for one in views.status())
        or any(_WORDS[kind] in one.what for one in views.dashboard())
        or (views.scraped and bool({kind, "unreachable"} & views.metrics()))
    )


def _agreed(views: Views, key: str) -> int | None:
    """The number that `status` and the dashboard give the cause; `None` where they do not become the same."""
    for _ in range(10):
        by_status, shown = views.status().get(key), views.dashboard()
        if by_status is not None and by_status in shown:
            return by_status.number
        time.sleep(1)
    return None


# -- the table ---------------------------------------------------------------------------------------------------------


def table(those: Sequence[Measured]) -> Iterator[str]:
    """The lines of the table."""
    yield "| breakage | cause | no. | `status` | dashboard | metric | alert (after) | over once mended |"
    yield f"|{'---|' * 8}"
    for one in those:
        breakage = one.breakage
        words = [
            f"{breakage.done}{f' ({breakage.rule})' if breakage.rule else ''}",
            f"`{one.key or breakage.key}`",
            "differs" if one.number is None else str(one.number),
            *(_seconds(at) for at in (one.status, one.dashboard, one.metric)),
            one.alert or "–",
            ("not over" if one.over is None else f"{one.over:.1f} s")
            + (f"; then {', '.join(one.left)}" if one.left else ""),
        ]
        yield f"| {' | '.join(words)} |"


def _seconds(at: float | None) -> str:
    return "not named" if at is None else f"{at:.1f} s{'' if at <= 2 * TICK_S else ' (!)'}"


@contextmanager
def standing(*, servers: bool) -> Iterator[tuple[Installation, Views]]:
    """An installation whose first syncs are done, and its views."""
    with tempfile.TemporaryDirectory(prefix="syncworker-breakages-") as folder:
        site = Installation.build(Path(folder), servers=servers)
        try:
            views = Views(site)
            views.sign_in()
            assert _when(time.monotonic(), lambda: not views.status(), patience=CALM_S), views.status()
            yield site, views
            views.close()
        finally:
            site.close()


def main(names: Sequence[str]) -> int:
    """Measure and print."""
    chosen = [one for one in BREAKAGES if not names or one.name in names]
    found: list[Measured] = []
    for servers in (True, False):
        those = [one for one in chosen if one.servers is servers]
        if not those:
            continue
        try:
            with standing(servers=servers) as (site, views):
                for one in those:
                    if not one.fits():
                        _say(f"{one.name}: cannot be made on this machine")
                        continue
                    found.append(measured(site, views, one))
                    _say("\n".join(list(table(found[-1:]))[2:]))
        except (OSError, psycopg.Error) as error:
            _say(f"{', '.join(one.name for one in those)}: {error}")
    sys.stdout.write("\n".join([*table(found), ""]))
    return 0 if all(one.in_time or one.breakage.rule for one in found) else 1


def measured(site: Installation, views: Views, one: Breakage) -> Measured:
    """Measure a breakage; a worker whose clock can be moved is started for the one that moves it."""
    if one.key != "clock_apart":
        return _measure(site, views, one)
    site.parts["worker"].stop()
    site.start("worker", **environment_of_clock(site.house.folder))
    assert _when(time.monotonic(), lambda: not views.status(), patience=CALM_S) is not None
    found = _measure(site, views, one)
    site.parts["worker"].stop()
    site.start("worker")
    return found


def _say(line: str) -> None:
    """How it goes, while it goes; the table alone is output."""
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

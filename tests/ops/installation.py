"""A whole installation on this machine, to be broken: worker, beat, web process, broker, database and a sandbox bank.

Each part is a process of its own, so that each can be killed, stopped and started again.  `Views` reads what the four
views say of it: `syncworker status`, the dashboard's first page, `GET /metrics`, the rules of deploy/alerts.yml.
"""

import ctypes
import html
import json
import re
import shutil
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import psycopg
import yaml

from syncworker.cli.breaking import Door
from tests.cli.house import ROOT, Ended, House, approve, settings_toml
from tests.ground.postgres import PostgresServer, free_port
from tests.ground.processes import Nursery, Spawned
from tests.ground.valkey import ValkeyServer

PERMISSIONS: Final = ("ReadAccountsBasic", "ReadBalances")
CUSTOMERS: Final = 3
TICK_S: Final = 5.0
"""`tick_seconds`, as it is by default."""

ALERTS: Final = ROOT / "deploy" / "alerts.yml"
FAKETIME: Final = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
DISK: Final = "48m"
"""Of the small file system: 32 MiB free count as full."""


class Named(NamedTuple):
    """A cause as a view shows it; `what` without figures, which move on between two looks."""

    number: int
    what: str


def _words(text: str) -> str:
    """A cause's line without its figures."""
    return " ".join(re.sub(r"[\d,.:]+Z?( (d|h|min|s|ms)\b)?", "", text).lower().split())


class Receiver:
    """The product's webhook endpoint, which answers what it is told to."""

    def __init__(self) -> None:
        self.answer = 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self.send_response(receiver.answer)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hooks"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Installation:
    """Everything that runs.

    Attributes:
        house: the folder of its settings.
        bank: the folder of the sandbox.
        postgres, valkey: servers of its own; without them SQLite on a small file system and the broker of `up`.
        parts: processes by name: `worker`, `beat`, `web`, or `up` for all three.
    """

    folder: Path
    nursery: Nursery
    house: House
    bank: Path
    facts: Mapping[str, Any]
    receiver: Receiver
    port: int
    postgres: PostgresServer | None = None
    valkey: ValkeyServer | None = None
    disk: Path | None = None
    parts: dict[str, Spawned] = field(default_factory=dict)
    consents: list[str] = field(default_factory=list)
    key: str = ""
    kept: dict[str, Any] = field(default_factory=dict)
    """What a breakage keeps until it is mended."""

    # -- the whole ----------------------------------------------------------------------------------------------------

    @classmethod
    def build(cls, folder: Path, *, servers: bool) -> "Installation":
        """Start everything.

        Args:
            servers: PostgreSQL, Valkey, and a process for each part; otherwise `syncworker up` on SQLite, whose file
                lies on a small file system of its own.
        """
        nursery, bank, home = Nursery(folder), folder / "bank", folder / "home"
        home.mkdir()
        words = ("sandbox", "--folder", str(bank), "--customers", str(CUSTOMERS), "--base-port", "0")
        nursery.syncworker(*words, cwd=folder, ready=lambda _: (bank / "sandbox.json").is_file())
        facts = json.loads((bank / "sandbox.json").read_text())
        made = cls(
            folder=folder, nursery=nursery, house=House(home), bank=bank, facts=facts, receiver=Receiver(),
            port=free_port(), postgres=PostgresServer() if servers else None,
            valkey=ValkeyServer() if servers else None,
        )  # fmt: skip
        try:
            made._settle()
        except BaseException:
            made.close()
            raise
        return made

    def _settle(self) -> None:
        self.run("keys", "generate", ".", "--keyring-only")
        shutil.copy(self.facts["client"]["signing_key"], self.house.folder / "signing.key")
        self._certify(days=300)
        self.house.toml.write_text(self._toml())
        self.run("db", "upgrade")
        for user in self.facts["users"][:CUSTOMERS]:
            wanted = [part for permission in PERMISSIONS for part in ("--permission", permission)]
            begun = self.run("consents", "authorize", "sandbox", *wanted, "--user-ref", user, "--json").json
            self.house.run("consents", "callback", "-", stdin=approve(self.facts, begun["url"], user=user) + "\n")
            self.consents.append(begun["consent"])
        scopes = ("--scope", "ops:read", *(("--scope", "metrics:read") if ALERTS.is_file() else ()))
        self.key = self.run("apikeys", "create", *scopes, "--json").json["key"]
        self.run("webhooks", "add", self.receiver.url)
        if self.postgres is None:
            self.start("up")
        else:
            for name in ("worker", "beat", "web"):
                self.start(name)

    def _toml(self) -> str:
        files = {name: self.facts["client"][name] for name in ("transport_certificate", "transport_key")}
        files |= {"signing_key": "signing.key", "signing_certificate": "signing.pem"}
        lines = ["cadence = { accounts = 3, balances = 3 }"]
        database = f"sqlite:///{self._small_disk()}/syncworker.db" if self.postgres is None else self._database()
        if self.valkey is not None:
            lines.append(f'broker_url = "{self.valkey.url}"')
        text = settings_toml(self.facts, files=files, more="\n".join(lines))
        text = text.replace('"sqlite:///syncworker.db"', json.dumps(database), 1)
        return f"""{text}
[web]
enabled = true
port = {self.port}
key_per_second = 1000
address_per_second = 1000

[webhooks]
allow_private_hosts = true

[exports.nightly]
to = "exports"
format = "ndjson"
every = 60
"""

    def _database(self) -> str:
        assert self.postgres is not None
        return self.postgres.make_template("syncworker_ops")

    def _small_disk(self) -> Path:
        """A file system of its own; needs the right to mount one.

        Raises:
            OSError: that right is missing.
        """
        disk = self.folder / "disk"
        disk.mkdir(exist_ok=True)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"tmpfs", str(disk).encode(), b"tmpfs", 0, f"size={DISK}".encode()):
            raise OSError(ctypes.get_errno(), "no file system may be mounted here")
        self.disk = disk
        return disk

    def close(self) -> None:
        """End every process and leave no mount."""
        self.nursery.clear()
        self.receiver.close()
        for server in (self.postgres, self.valkey):
            if server is not None:
                server.close()
        if self.disk is not None:
            ctypes.CDLL(None).umount2(str(self.disk).encode(), 2)

    # -- its parts ----------------------------------------------------------------------------------------------------

    def start(self, name: str, **env: str) -> None:
        """Start a part, and wait until it is there; that of a broken installation may take until it is mended."""
        self.parts[name] = self.nursery.syncworker(name, cwd=self.house.folder, env={**self.house.environment(), **env})

    def end(self, name: str) -> None:
        """SIGKILL to a part."""
        self.parts[name].kill()

    def run(self, *words: str) -> Ended:
        """Run a command to its good end."""
        ended = self.house.run(*words)
        assert ended.code == 0, ended
        return ended

    def sandbox(self, *words: str) -> None:
        """`syncworker sandbox …` for this bank."""
        self.run("sandbox", "--folder", str(self.bank), *words)

    @property
    def door(self) -> Door:
        """The bank's door for tests."""
        return Door(self.bank, "sandbox")

    def retry(self) -> None:
        """The bank is well again: have it tried at once, as an operator may."""
        self.house.run("lfis", "retry", "sandbox")
        for consent_id in self.consents:
            self.house.run("consents", "sync", consent_id)

    def psql(self, statement: str, *, keep: bool = False) -> Any:
        """A statement on PostgreSQL, by its superuser; with `keep` the connection, its transaction open."""
        assert self.postgres is not None
        options = "-c default_transaction_read_only=off"
        connection = psycopg.connect(self.postgres.url("syncworker_ops"), autocommit=not keep, options=options)
        connection.execute(statement)
        if keep:
            return connection
        return connection.close()

    def changes(self) -> int:
        """The last number of the feed's table, of rows that wait too."""
        assert self.postgres is not None
        with psycopg.connect(self.postgres.url("syncworker_ops")) as connection:
            row = connection.execute("SELECT coalesce(max(seq), 0) FROM change").fetchone()
        assert row is not None
        return int(row[0])

    def _certify(self, *, days: float) -> None:
        """Put a certificate of our signing key beside it, from the sandbox's authority."""
        from tests.ops.certifying import certified

        certificate = certified(self.bank, self.house.folder / "signing.key", days=days)
        (self.house.folder / "signing.pem").write_bytes(certificate)

    def certify(self, *, days: float) -> None:
        """Put another certificate over the one of our signing key."""
        self._certify(days=days)


class Views:
    """What the four views say."""

    def __init__(self, site: Installation) -> None:
        self._site = site
        self._base = f"http://127.0.0.1:{site.port}"
        self._browser = httpx.Client(base_url=self._base, timeout=60, trust_env=False)
        self._scraper = httpx.Client(
            base_url=self._base, timeout=60, trust_env=False, headers={"authorization": f"Bearer {site.key}"}
        )
        self.alerts = _alerts()
        self.scraped = True

    def close(self) -> None:
        self._browser.close()
        self._scraper.close()

    def sign_in(self) -> None:
        """Sign in to the dashboard; the web process may only just be starting."""

        def signed(_: Spawned) -> bool:
            with suppress(httpx.TransportError):
                return self._browser.post(
                    "/ops/sign-in", data={"key": self._site.key}, headers={"origin": self._base}
                ).is_redirect
            return False

        next(iter(self._site.parts.values())).until(signed, timeout=90)
        self.scraped = self._scraper.get("/metrics").status_code == 200

    def status(self) -> dict[str, Named]:
        """Causes of `syncworker status --json`, by key."""
        ended = self._site.house.run("status", "--json")
        return {one["key"]: Named(one["number"], _words(one["what"])) for one in ended.json["causes"]}

    def dashboard(self) -> list[Named]:
        """Causes of the first page, in its order; a page that says that the database is away is one."""
        with suppress(httpx.TransportError):
            page = self._browser.get("/ops/")
            if page.status_code == 503:
                return [Named(1, _words("the database does not answer"))]
            found = re.findall(r'id="cause-(\d+)">.*?<h2>(.*?)</h2>', page.text, re.DOTALL)
            return [Named(int(number), _words(html.unescape(re.sub(r"<[^>]+>", "", h2)))) for number, h2 in found]
        return []

    def metrics(self) -> set[str]:
        """Kinds of causes at `GET /metrics`; `unreachable` where it answers no scrape."""
        with suppress(httpx.TransportError):
            answer = self._scraper.get("/metrics")
            if answer.status_code == 200:
                return set(re.findall(r'^syncworker_cause\{[^}]*kind="(\w+)"[^}]*\} 1', answer.text, re.MULTILINE))
        return {"unreachable"}

    def alert(self, kinds: set[str], kind: str) -> str:
        """The alert that a scrape of these kinds lets fire for one of them, and how long it must last."""
        if kind in kinds and kind in self.alerts:
            return self.alerts[kind]
        return self.alerts.get("unreachable", "") if "unreachable" in kinds else ""


def _alerts() -> dict[str, str]:
    """Alerts by the kind of cause that their expression asks for."""
    if not ALERTS.is_file():
        return {}
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    found = {}
    for rule in rules:
        kind = re.fullmatch(r'syncworker_cause\{kind="(\w+)"\} == 1', rule["expr"])
        if kind is not None:
            found[kind[1]] = f"{rule['alert']} ({rule['for']})"
        elif rule["alert"] == "SyncworkerUnreachable":
            found["unreachable"] = f"{rule['alert']} ({rule['for']})"
    return found


def environment_of_clock(folder: Path) -> dict[str, str]:
    """Environment of a process whose clock is what the file `clock` in a folder says, as `+30s`."""
    file = folder / "clock"
    file.write_text("+0s\n")
    return {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }

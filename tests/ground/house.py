"""A tiny bank and one consent: the product's own client over real mTLS, decode, diff, apply and a real database.

A test, or a script for a case from the field, writes down what the bank says path by path, syncs, and looks.  Only what
stands for the product's surroundings is made here: a token that is always good, a Hub that says what it is told to, and
a clock moved by hand.  `case` plays such a script and prints its checks; names and signatures are kept stable for
scripts that live outside this repository.
"""

import asyncio
import json
import os
import secrets
import sys
import tempfile
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import structlog
from pydantic import SecretStr

from syncworker.consents.lifecycle import noted
from syncworker.lfi.api import LFIClient
from syncworker.lfi.directory import LFIConfig
from syncworker.lfi.keys import SigningKey, TransportCertificate
from syncworker.standard.consents import ConsentView, Status
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store import migrate
from syncworker.store.consents import Connection, StoredConsent
from syncworker.store.cursors import Cursor, Listing
from syncworker.store.findings import Finding
from syncworker.store.keyring import KeyRing
from syncworker.store.records import StoredRecord
from syncworker.store.unit_of_work import Store
from syncworker.store.work import WorkKind, WorkRow
from syncworker.sync.engine import Engine, Parts
from syncworker.sync.plan import PlanSettings
from syncworker.sync.reports import RunReport, StepReport
from syncworker.sync.run import SyncSettings
from tests.ground.clock import ManualClock
from tests.lfi.raw_bank import BASE_PATH, CLIENT_ID, REDIRECT_URI, Identities, RawBank, Reply, Request, http

__all__ = [
    "ALL", "CONSENT", "HTML", "ITEMS", "House", "N", "body", "case", "error_body", "given", "http", "json", "told",
]  # fmt: skip

N = ResourceName
Query = dict[str, str]
Answer = bytes | Callable[[Query], bytes | None] | None
Check = Callable[..., None]
Play = Callable[["House", Check], Awaitable[None]]

LFI: Final = Slug("raw")
CONSENT: Final = ConsentId("c0ffee00-0000-4000-8000-000000000001")
ALL: Final = [
    "ReadAccountsDetail", "ReadBalances", "ReadTransactionsDetail", "ReadBeneficiariesDetail",
    "ReadStandingOrdersDetail", "ReadDirectDebits", "ReadScheduledPaymentsDetail", "ReadStatements", "ReadProduct",
    "ReadParty",
]  # fmt: skip
CADENCE: Final = dict.fromkeys(N, timedelta(days=7)) | {
    N.ACCOUNTS: timedelta(hours=24),
    N.BALANCES: timedelta(hours=6),
    N.TRANSACTIONS: timedelta(hours=12),
}
ITEMS: Final = {
    "accounts": "Account",
    "balances": "Balance",
    "transactions": "Transaction",
    "beneficiaries": "Beneficiary",
    "standing-orders": "StandingOrder",
    "direct-debits": "DirectDebit",
    "scheduled-payments": "ScheduledPayment",
    "statements": "Statements",
    "product": "Product",
    "parties": "Party",
}
"""Member of `Data` that holds the items, by the last segment of the path."""

START: Final = datetime(2026, 10, 20, 8, tzinfo=UTC)
HTML: Final = b"<html><head><title>Error</title></head><body><h2>HTTP ERROR</h2></body></html>"


def body(data: Any, *, next_url: str | None = None, links: Mapping[str, Any] | None = None, **meta: Any) -> bytes:
    """An envelope as the standard has it."""
    members = {"Self": "https://rs1.bank.example/self", **(links or {}), **({"Next": next_url} if next_url else {})}
    return json.dumps({"Data": data, "Links": members, "Meta": {"TotalPages": 1} | meta}, ensure_ascii=False).encode()


def error_body(code: str, message: str = "m") -> bytes:
    """The standard's error body."""
    return json.dumps({"Errors": [{"Code": code, "Message": message}]}).encode()


class _Replies(dict[str, Reply]):
    """What the bank says: every path of the data API goes through the house."""

    def __init__(self, replies: Mapping[str, Reply], house: "House") -> None:
        super().__init__(replies)
        self._house = house

    def get(self, path: str, default: Any = None) -> Any:
        """The reply for a path."""
        if not path.startswith(BASE_PATH):
            return super().get(path, default)

        async def reply(request: Request, writer: asyncio.StreamWriter) -> None:
            await self._house.reply(path.removeprefix(BASE_PATH), request, writer)

        return reply


class House:
    """Bank, store, engine.

    Attributes:
        answers: by path: the bytes of a whole HTTP answer, or a function of the query that gives them; without one, or
            where it gives `None`, the bank shows an empty listing.
        log: every data request, path and query.
        refreshed: forced refreshes of the token.
        hub_asked: how often the Hub was asked for the consent.
        hub_says: the status it gives and the product files; `None`: as it is stored.
        backfill_days: how far back history is wanted; just what the first walk reads, unless a test wants more.
        delay_s: how long the bank takes for an answer.
    """

    def __init__(self, folder: Path, start: datetime = START) -> None:
        self.folder, self.clock = folder, ManualClock(start)
        self.answers: dict[str, Answer] = {}
        self.log: list[tuple[str, Query]] = []
        self.refreshed = 0
        self.hub_asked = 0
        self.hub_says: Status | None = None
        self.backfill_days: float = 89
        self.delay_s = 0.0

    async def open(
        self,
        permissions: Sequence[str] = ALL,
        *,
        url: str | None = None,
        identities: Identities | None = None,
        version: Version = Version.V2_1,
        **settings: Any,
    ) -> None:
        """Start the bank, and file an Authorized consent whose first sync is due.

        Args:
            url: of a migrated database; `None` makes an SQLite file in the folder.
            identities: keys and certificates; `None` makes them, which takes a second.
            settings: of `SyncSettings`, over those of the house.
        """
        if url is None:
            url = f"sqlite:///{self.folder / 'case.db'}"
            await asyncio.to_thread(migrate.upgrade, url)
        self.store = Store(url, keyring=KeyRing({"k": secrets.token_bytes(32)}), clock=self.clock)
        self.identities = identities or Identities(self.folder)
        self.bank = RawBank(self.identities)
        await self.bank.start()
        self.base = self.bank.base_url
        self.bank.replies = _Replies(self.bank.replies, self)
        self.client = LFIClient(self._config(version), clock=self.clock, sleep=_no_wait)
        plan = PlanSettings(cadence=CADENCE, backfill_max=timedelta(days=self.backfill_days))
        self.settings = SyncSettings(**{"plan": plan, "retry_after": _a_minute_each, **settings})
        self.restart()
        now = self.clock.now()
        async with self.store.writing() as unit:
            await unit.consents.add_connection(Connection(connection_id=CONSENT, lfi=LFI, user_ref="u", created_at=now))
            await unit.consents.add(
                StoredConsent(
                    consent_id=CONSENT,
                    connection_id=CONSENT,
                    lfi=LFI,
                    user_ref="u",
                    version=version,
                    status=Status.Authorized.value,
                    status_updated_at=now,
                    status_seen_at=now,
                    permissions=tuple(permissions),
                    expires_at=now + timedelta(days=300),
                    user_type="Retail",
                    purpose="AccountAggregation",
                    created_at=now,
                )
            )
            await unit.work.schedule(WorkKind.SYNC, CONSENT, lfi=LFI, due_at=now)
            await unit.commit()

    def restart(self) -> None:
        """Go on with the engine of another process, which knows of no gate that a 429 closed."""
        parts = Parts(store=self.store, clients=self._clients, tokens=self._tokens, ask=self._ask, clock=self.clock)
        self.engine = Engine(parts, self.settings)

    async def close(self) -> None:
        """Give everything back."""
        await self.client.close()
        await self.bank.stop()
        await self.store.close()

    def _config(self, version: Version) -> LFIConfig:
        return LFIConfig(
            slug=LFI,
            issuer=self.bank.origin,
            discovery_url=f"{self.bank.origin}/.well-known/openid-configuration",
            base_urls={version: self.base},
            client_id=CLIENT_ID,
            redirect_uri=REDIRECT_URI,
            signing_key=SigningKey.load(self.identities.signing_key, "sig-1"),
            transport=TransportCertificate.load(
                self.identities.client_certificate, self.identities.client_key, now=datetime.now(UTC)
            ),
            ca_bundle=self.identities.ca_bundle,
            allow_private_hosts=True,
        )

    async def _clients(self, _: Slug) -> LFIClient:
        return self.client

    async def _ask(self, consent_id: ConsentId) -> StoredConsent:
        self.hub_asked += 1
        async with self.store.writing() as unit:
            if self.hub_says is not None:
                await noted(unit, ConsentView(consent_id=consent_id, status=self.hub_says), at=await unit.now())
            found = await unit.consents.get(consent_id)
            await unit.commit()
        assert found is not None
        return found

    def _tokens(self, _consent: ConsentId, _seen: object, _age: float) -> Any:
        async def source(*, rejected: SecretStr | None = None) -> SecretStr:
            if rejected is not None and rejected.get_secret_value() == f"token-{self.refreshed}":
                self.refreshed += 1  # as the vault: a newer one only when the rejected one is the current one
            return SecretStr(f"token-{self.refreshed}")

        return source

    # -- the bank --------------------------------------------------------------------------------------------------

    async def reply(self, path: str, request: Request, writer: asyncio.StreamWriter) -> None:
        """Answer one data request."""
        query = dict(parse_qsl(urlsplit(request.target).query))
        self.log.append((path, query))
        await asyncio.sleep(self.delay_s)
        writer.write(self.say(path, query))

    def say(self, path: str, query: Query) -> bytes:
        """What the bank says now."""
        answer = self.answers.get(path)
        if callable(answer):
            answer = answer(query)
        if answer is not None:
            return answer
        items, scope = _place(path)
        empty: Any = {"PartyId": "p-1"} if path == "/parties" else []
        return http(body=body(scope | {items: empty}))

    def shows(self, path: str, *items: Any, next_url: str | None = None, **meta: Any) -> None:
        """A listing of one page."""
        name, scope = _place(path)
        self.answers[path] = http(body=body(scope | {name: list(items)}, next_url=next_url, **meta))

    def url(self, path: str) -> str:
        """A path as a link of the bank."""
        return self.base + path

    def asked(self, path: str) -> int:
        """How often the bank was asked for a path."""
        return sum(one == path for one, _ in self.log)

    # -- the product -----------------------------------------------------------------------------------------------

    async def sync(self, *, asked: bool = True, **later: float) -> Any:
        """One run, some time later; `None` when none was due.

        Args:
            asked: a person asked for it.
            later: as `ManualClock.advance`.
        """
        self.clock.advance(**later)
        async with self.store.writing() as unit:
            if asked:
                await unit.work.ask_now(WorkKind.SYNC, CONSENT)
            claims = await unit.work.claim(WorkKind.SYNC, slots={LFI: 10})
            await unit.commit()
        report = await self.engine.sync_batch([(claim.id, claim.gen) for claim in claims])
        return report.runs[0] if report.runs else None

    async def rows(self, resource: ResourceName, *, gone: bool = False) -> dict[str, StoredRecord]:
        """Rows by key."""
        async with self.store.reading() as unit:
            found = unit.records.all_rows(CONSENT, resources=(resource,), gone=gone)
            return {row.key: row async for row in found}

    def step(self, report: RunReport, resource: ResourceName) -> StepReport:
        """The one listing of a resource that a run read."""
        (step,) = [one for one in report.steps if one.resource is resource]
        return step

    async def cursors(self) -> dict[Listing, Cursor]:
        """How far each listing was read."""
        async with self.store.reading() as unit:
            return await unit.cursors.of(CONSENT)

    async def findings(self, *, only_open: bool = True) -> list[Finding]:
        """What a person has to look at."""
        async with self.store.reading() as unit:
            return await unit.findings.all(only_open=only_open)

    async def work(self) -> WorkRow:
        """The row that schedules the connection's sync."""
        async with self.store.reading() as unit:
            row = await unit.work.find(WorkKind.SYNC, CONSENT)
        assert row is not None
        return row


def _place(path: str) -> tuple[str, dict[str, Any]]:
    """The member that holds the items of a path, and what else stands in `Data`."""
    parts = path.strip("/").split("/")
    return ITEMS[parts[-1]], {"AccountId": parts[1]} if len(parts) == 3 else {}


async def _no_wait(_seconds: float) -> None:
    await asyncio.sleep(0)


def _a_minute_each(attempts: int) -> timedelta:
    return timedelta(minutes=max(attempts, 1))


# -- scripts -----------------------------------------------------------------------------------------------------------


def told(report: RunReport | None) -> str:
    """A run in a line for people."""
    if report is None:
        return "no run was due"
    steps = ", ".join(
        f"{one.resource.value}={one.outcome.value}"
        + (f"[{one.error}]" if one.error else "")
        + (f"{dict(one.notes)}" if one.notes else "")
        + f" p{one.pages} i{one.items} +{one.added}~{one.modified}-{one.removed}"
        for one in report.steps
    )
    return f"run {report.outcome.value} error={report.error} good={report.good} calls={report.calls}: {steps}"


def given(script: str) -> Any:
    """`input.json` beside a script."""
    return json.loads((Path(script).parent / "input.json").read_text())


def case(*plays: Play, permissions: Sequence[str] = ALL, backfill_days: float = 89, start: datetime = START) -> None:
    """Play a script, each part with a bank and a store of its own.

    Prints each check, and PASS or FAIL; ends the process with 0 or 1.
    """
    if not os.environ.get("CASE_LOG"):
        structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), cache_logger_on_first_use=False)
    checks: list[bool] = []

    def check(what: str, holds: object, saw: object = "") -> None:
        checks.append(bool(holds))
        say(f"  {'ok  ' if holds else 'NOT '} {what}" + (f"   (saw: {saw})" if saw != "" else ""))

    def say(line: str) -> None:
        sys.stdout.write(f"{line}\n")

    async def whole() -> None:
        for play in plays:
            with tempfile.TemporaryDirectory(prefix="case-") as folder:
                house = House(Path(folder), start)
                house.backfill_days = backfill_days
                await house.open(permissions)
                try:
                    await play(house, check)
                finally:
                    await house.close()

    try:
        asyncio.run(whole())
    except Exception:  # noqa: BLE001  a script that breaks has failed, and says how
        traceback.print_exc()
        checks.append(False)
    good = bool(checks) and all(checks)
    say("PASS" if good else "FAIL")
    sys.exit(0 if good else 1)

"""Connections whose rows the tests of `web` write themselves, through the same code as a sync."""

from dataclasses import dataclass, field
from typing import Any

from syncworker.standard.consents import ConsentView, Status
from syncworker.standard.json_text import json_bytes
from syncworker.standard.resources import BY_NAME, ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store.erasure import DataClass
from syncworker.store.runs import RunRow
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import Claim, WorkKind
from syncworker.sync.apply import Scope, apply, show
from syncworker.sync.fetch import Walk
from syncworker.sync.pages import NOTHING
from syncworker.sync.plan import Step, Window
from tests.ground.clock import ManualClock
from tests.web.rows import LFI, file, held

N = ResourceName
IBAN = "AE070331234567890123456"


@dataclass
class Kept:
    """One connection, and what its bank shows: accounts, their balances and transactions, the user.

    Attributes:
        transactions: by account, key and members that are not as usual.
    """

    store: Store
    clock: ManualClock
    connection_id: ConsentId
    user_ref: str = "customer-1"
    accounts: list[str] = field(default_factory=lambda: ["1001"])
    transactions: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    balances: dict[str, str] = field(default_factory=dict)
    party: str = "A. Person"
    gen: int = 0
    consent_id: ConsentId | None = None

    async def file(self, consent_id: str | None = None) -> None:
        """Its connection and a consent, in use."""
        self.consent_id = ConsentId(consent_id or self.connection_id)
        one = held(self.consent_id, self.connection_id, now=self.clock.now(), user_ref=self.user_ref)
        await self.store.atomically(lambda unit: file(unit, one))

    async def sync(self) -> int:
        """`walk` in a transaction of its own; the number of the claim."""
        self.gen += 1
        await self.store.atomically(self.walk)
        return self.gen

    async def walk(self, unit: UnitOfWork) -> None:
        assert self.consent_id is not None
        claim = Claim(1, WorkKind.SYNC, self.connection_id, LFI, self.gen)
        scope = Scope(connection_id=self.connection_id, consent_id=self.consent_id, claim=claim)
        walks = [self._read(N.ACCOUNTS, "", [self._account(one) for one in self.accounts])]
        walks += [self._read(N.PARTIES, "", {"PartyId": "p1", "PartyType": "Sole", "Name": self.party})]
        for account_id in self.accounts:
            those = self.transactions.get(account_id, {})
            walks.append(self._read(N.TRANSACTIONS, account_id, [_transaction(key, **at) for key, at in those.items()]))
            if account_id in self.balances:
                walks.append(self._read(N.BALANCES, account_id, [_balance(self.balances[account_id])]))
        cursors = await unit.cursors.of(self.connection_id)
        showings = [show(one, NOTHING) for one in walks]
        now = await unit.now()
        await apply(unit, scope, showings, cursors, due={one.listing: now for one in showings}, now=now)

    def _read(self, resource: ResourceName, account_id: str, items: Any) -> Walk:
        row = BY_NAME[resource]
        data = {"AccountId": account_id, row.items: items}
        window = Window() if row.window is not None else None
        return Walk(step=Step(row, account_id, {}, window), pages=(json_bytes(data),))

    def _account(self, account_id: str) -> dict[str, Any]:
        numbers = [{"SchemeName": "IBAN", "Identification": IBAN, "Name": self.party}]
        return {"AccountId": account_id, "Currency": "AED", "Nickname": "Holidays", "AccountIdentifiers": numbers}

    async def end(self) -> None:
        """The Hub shows its consent Revoked."""
        view = ConsentView(consent_id=self.consent_id or self.connection_id, status=Status.Revoked.value)

        async def step(unit: UnitOfWork) -> None:
            await unit.consents.observe(view, at=await unit.now())

        await self.store.atomically(step)

    async def erase(self, of: DataClass | None = None) -> None:
        """Destroy its data, of one class or all of it."""
        await self.store.atomically(lambda unit: unit.erasure.erase(self.connection_id, of=of))

    async def ran(self, outcome: str = "ok") -> None:
        """A run of it ended."""
        now = self.clock.now()
        run = RunRow(
            connection_id=self.connection_id, consent_id=self.consent_id or self.connection_id, lfi=LFI, gen=self.gen,
            started_at=now, ended_at=now, outcome=outcome, error=None, calls=1, pages=1, pages_unchanged=0, added=0,
            modified=0, removed=0, steps=(),
        )  # fmt: skip
        await self.store.atomically(lambda unit: unit.runs.add(run))


def _transaction(key: str, **facts: Any) -> dict[str, Any]:
    return {
        "TransactionId": key,
        "BookingDateTime": "2026-10-01T12:00:00Z",
        "Status": "Booked",
        "CreditDebitIndicator": "Debit",
        "Amount": {"Amount": "12.34", "Currency": "AED"},
        "TransactionInformation": "coffee",
        **facts,
    }


def _balance(amount: str) -> dict[str, Any]:
    return {
        "Type": "InterimBooked",
        "DateTime": "2026-10-01T00:00:00Z",
        "CreditDebitIndicator": "Debit" if amount.startswith("-") else "Credit",
        "Amount": {"Amount": amount.removeprefix("-"), "Currency": "AED"},
    }

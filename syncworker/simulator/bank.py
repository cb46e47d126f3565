"""The bank as its own staff see it: the books, and verbs to change data, consents, the clock, and to order faults.

Every verb takes what JSON can say (amounts as text, instants as ISO text) as well as Python's own types, so that the
door and a test in the same process speak alike.
"""

from collections.abc import Callable
from dataclasses import fields
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from syncworker.simulator.clock import BankClock
from syncworker.simulator.consents import Consent, Consents
from syncworker.simulator.faults import Fault, Faults, Kind
from syncworker.simulator.grants import Grants, Reuse, Rotation
from syncworker.simulator.ledger import (
    Account,
    Balance,
    Counterparty,
    Ledger,
    Merchant,
    PartyRole,
    Style,
    Transaction,
)
from syncworker.simulator.render import Item, balance_item, book_rows, party_book_row, transaction_item
from syncworker.simulator.resources import Resources
from syncworker.simulator.served import Log
from syncworker.standard.resources import BY_NAME, ResourceName, permitted
from syncworker.standard.values import local_date
from syncworker.standard.versions import Version

_TRANSACTION_MEMBERS: Final = frozenset(one.name for one in fields(Transaction))


class Bank:
    """Everything the sandbox keeps in memory, and what may be done to it."""

    def __init__(
        self, *, clock: BankClock, ledger: Ledger, consents: Consents, grants: Grants, faults: Faults, log: Log
    ) -> None:
        self.clock = clock
        self.ledger = ledger
        self.consents = consents
        self.grants = grants
        self.faults = faults
        self.log = log
        self.resources: Resources | None = None
        self._made = 0

    # -- the books ----------------------------------------------------------------------------------------------------

    def customers(self) -> list[Item]:
        """`[{user, name, accounts: [AccountId]}]`, in order."""
        return [
            {"user": one.user, "name": one.person.full_name, "accounts": [each.account_id for each in one.accounts]}
            for one in self.ledger.customers()
        ]

    def consent_facts(self) -> list[Item]:
        """What the Hub knows of each consent, without tokens."""
        return [self._consent_facts(consent) for consent in self.consents]

    def books(self, consent_id: str | None = None) -> Item:
        """What the bank has for each consent, or for one.

        Returns:
            `{as_of, consents: [{…facts, resources: {name: [{account_id, key, item, columns}]}}]}`; `key` lists the
            parts of the natural key, `item` is the JSON the API serves, `columns` are named in `render`.  Only what the
            consent's permissions, accounts and FromDate/ToDate show; nothing for a consent nobody agreed to.

        Raises:
            KeyError: no such consent.
        """
        chosen = list(self.consents) if consent_id is None else [self.consents.get(consent_id)]
        return {
            "as_of": self.clock.now(),
            "consents": [self._consent_facts(one) | {"resources": self._shown(one)} for one in chosen],
        }

    def _shown(self, consent: Consent) -> dict[str, list[Item]]:
        shown: dict[str, list[Item]] = {}
        if consent.user is None:
            return shown
        for resource in permitted(consent.permissions, version=Version.V2_1):
            if resource.name is ResourceName.PARTIES:
                shown[resource.name] = [party_book_row(self.ledger.customer(consent.user).person)]
                continue
            rows = shown[resource.name] = []
            for account_id in consent.account_ids:
                account = self.ledger.account(account_id)
                listed = book_rows(resource.name, account)
                if resource.name is ResourceName.TRANSACTIONS:
                    listed = [
                        row
                        for row, known in zip(listed, account.transactions, strict=True)
                        if consent.shows(local_date(known.booked_at))
                    ]
                rows += listed
        return shown

    def _consent_facts(self, consent: Consent) -> Item:
        grant = self.grants.grant_of(consent.consent_id)
        return {
            "consent_id": consent.consent_id,
            "base_consent_id": consent.base_consent_id,
            "status": consent.status.value,
            "status_updated_at": consent.status_updated_at,
            "expires_at": consent.expires_at,
            "permissions": sorted(consent.permissions),
            "from_date": consent.from_date,
            "to_date": consent.to_date,
            "user": consent.user,
            "account_ids": list(consent.account_ids),
            "grant": grant
            and {
                "version": grant.version,
                "access_token_expires_at": grant.access.expires_at,
                "revoked_because": grant.revoked_because,
            },
        }

    # -- data ---------------------------------------------------------------------------------------------------------

    def insert_transaction(self, account_id: str, *, amount: str | Decimal, **facts: Any) -> Item:
        """Add a transaction and give its API item; without other facts it is a booked card payment of now in AED.

        Args:
            facts: members of `ledger.Transaction`; a merchant or counterparty may be an object of its members.
        """
        self._made += 1
        now = self.clock.now()
        plain: dict[str, Any] = {
            "transaction_id": f"NEW{self._made:06d}{int(now.timestamp())}",
            "happened_at": now,
            "booked_at": now,
            "currency": self.ledger.account(account_id).currency,
            "credit": False,
            "kind": "POS",
            "sub_kind": "Purchase",
            "narration": "Inserted",
        }
        row = Transaction(**(plain | _typed(facts) | {"amount": Decimal(amount)}))
        return transaction_item(self.ledger.insert_transaction(account_id, row))

    def amend_transaction(self, account_id: str, transaction_id: str, **facts: Any) -> Item:
        """Change facts of a transaction and give its API item."""
        return transaction_item(self.ledger.amend_transaction(account_id, transaction_id, **_typed(facts)))

    def book(self, account_id: str, transaction_id: str | None = None) -> Item:
        """Book a pending transaction, the first one unless named, as of now.

        Raises:
            KeyError: none is pending.
        """
        if transaction_id is None:
            rows = self.ledger.account(account_id).transactions
            pending = next((row for row in rows if row.status == "Pending"), None)
            if pending is None:
                raise KeyError("nothing is pending")
            transaction_id = pending.transaction_id
        return transaction_item(self.ledger.book(account_id, transaction_id, at=self.clock.now()))

    def drop_transaction(self, account_id: str, transaction_id: str) -> Item:
        """Stop listing a transaction."""
        return transaction_item(self.ledger.drop_transaction(account_id, transaction_id))

    def change_balance(
        self,
        account_id: str,
        *,
        amount: str | Decimal,
        type: str = "InterimBooked",  # noqa: A002 - the standard's word
        currency: str | None = None,
    ) -> Item:
        """Set one balance as of now; the amount carries its sign."""
        balance = self.ledger.change_balance(
            account_id,
            type=type,
            currency=currency or self.ledger.account(account_id).currency,
            amount=Decimal(amount),
            at=self.clock.now(),
        )
        return balance_item(balance)

    def add_party(self, account_id: str, user: str, role: str = "PowerOfAttorney") -> str:
        """Give another customer a part in an account and tell their PartyId."""
        person = self.ledger.customer(user).person
        self.ledger.add_party(account_id, PartyRole(person=person, party_type="Delegate", role=role))
        return person.party_id

    def remove_party(self, account_id: str, party_id: str) -> None:
        """End a part in an account."""
        self.ledger.remove_party(account_id, party_id)

    def rename_account(self, account_id: str, nickname: str | None) -> None:
        """Give an account another nickname."""
        self.ledger.rename_account(account_id, nickname)

    # -- consents and tokens ------------------------------------------------------------------------------------------

    def suspend(self, consent_id: str) -> None:
        """The LFI blocks a consent; its tokens stay."""
        self.consents.suspend(consent_id)

    def lift(self, consent_id: str) -> None:
        """The LFI lifts the block."""
        self.consents.lift(consent_id)

    def revoke(self, consent_id: str, by: str = "LFI.InitiatedByUser") -> None:
        """The user, at the bank, takes the consent back; its tokens end."""
        self.consents.revoke(consent_id, by=by)
        self.grants.end(consent_id, "consent_revoked")

    def expire(self, consent_id: str) -> None:
        """The consent ends as if ExpirationDateTime had come."""
        self.consents.expire(consent_id)
        self.grants.end(consent_id, "consent_expired")

    def end_grant(self, consent_id: str) -> None:
        """Revoke all tokens of a consent that stays Authorized."""
        self.grants.end(consent_id, "revoked_by_staff")

    def configure(
        self,
        *,
        access_token_seconds: float | None = None,
        rotation: str | None = None,
        reuse: str | None = None,
        page_size: int | None = None,
    ) -> None:
        """Change how the bank behaves from now on; what is not given stays."""
        if access_token_seconds is not None:
            self.grants.access_token_seconds = access_token_seconds
        if rotation is not None:
            self.grants.rotation = Rotation(rotation)
        if reuse is not None:
            self.grants.reuse = Reuse.read(reuse)
        if page_size is not None and self.resources is not None:
            self.resources.page_size = page_size

    def is_current(self, consent_id: str, refresh_token_sha256: str) -> bool:
        """Whether the SHA-256 (hexadecimal) is that of the consent's live refresh token."""
        return self.grants.is_current(consent_id, refresh_token_sha256=refresh_token_sha256)

    def advance(self, seconds: float) -> datetime:
        """Move the bank's clock and tell its time."""
        return self.clock.advance(timedelta(seconds=seconds))

    def forget_peaks(self) -> None:
        """Start counting the most requests in flight anew."""
        self.log.forget()

    # -- faults -------------------------------------------------------------------------------------------------------

    def latency(self, seconds: float, operation: str = "*") -> None:
        """Answer an operation this much later, until cleared."""
        self.faults.latency[operation] = seconds

    def answers(
        self,
        status: int,
        *,
        retry_after: int | None = None,
        times: int | None = None,
        operation: str = "*",
        code: str = "GenericRecoverableError",
        consent_id: str | None = None,
    ) -> Fault:
        """Answer with a status instead; `code` is the error's code where the status has a body."""
        return self.faults.order(
            Fault(
                kind=Kind.ANSWERS, operation=operation, times=times, consent_id=consent_id, status=status,
                retry_after=retry_after, code=code,
            )
        )  # fmt: skip

    def drop_response(
        self,
        operation: str = "token",
        *,
        after_processing: bool = True,
        times: int | None = 1,
        consent_id: str | None = None,
    ) -> Fault:
        """Process the request fully (or not at all), then cut the connection without an answer."""
        return self.faults.order(
            Fault(
                kind=Kind.DROP, operation=operation, times=times, consent_id=consent_id,
                after_processing=after_processing,
            )
        )  # fmt: skip

    def hang(self, operation: str = "*", *, times: int | None = 1, consent_id: str | None = None) -> Fault:
        """Never answer, until the faults are cleared or the bank stops."""
        return self.faults.order(Fault(kind=Kind.HANG, operation=operation, times=times, consent_id=consent_id))

    def html(self, operation: str = "*", *, times: int | None = 1) -> Fault:
        """Answer 200 with a web page."""
        return self.faults.order(Fault(kind=Kind.HTML, operation=operation, times=times))

    def truncated(self, operation: str = "*", *, times: int | None = 1) -> Fault:
        """Send half of the body, then cut the connection."""
        return self.faults.order(Fault(kind=Kind.TRUNCATED, operation=operation, times=times))

    def foreign_link(self, operation: str = "transactions", *, times: int | None = 1) -> Fault:
        """Let `Links.Next` lead to another host."""
        return self.faults.order(Fault(kind=Kind.FOREIGN_LINK, operation=operation, times=times))

    def loop_link(self, operation: str = "transactions", *, times: int | None = None) -> Fault:
        """Let `Links.Next` lead to the page itself."""
        return self.faults.order(Fault(kind=Kind.LOOP_LINK, operation=operation, times=times))

    def clear_faults(self) -> None:
        """Take all faults and latencies back."""
        self.faults.clear()

    def account_of(self, user: str, number: int = 0) -> Account:
        """The n-th account of a customer, for tests in this process."""
        return self.ledger.customer(user).accounts[number]

    def balance_of(self, account_id: str, type: str = "InterimBooked") -> Balance:  # noqa: A002 - the standard's word
        """The first balance of a type, for tests in this process."""
        return next(one for one in self.ledger.account(account_id).balances if one.type == type)


VERBS: Final[dict[str, Callable[..., Any]]] = {
    name: getattr(Bank, name)
    for name in (
        "insert_transaction", "amend_transaction", "book", "drop_transaction", "change_balance", "add_party",
        "remove_party", "rename_account", "suspend", "lift", "revoke", "expire", "end_grant", "configure", "is_current",
        "advance", "forget_peaks", "latency", "answers", "drop_response", "hang", "html", "truncated", "foreign_link",
        "loop_link", "clear_faults",
    )
}  # fmt: skip
"""What may be asked for through the door."""


def data_operations() -> tuple[str, ...]:
    """The operations that count as data calls in the log."""
    return (*(name.value for name in BY_NAME), "account")


def _typed(facts: dict[str, Any]) -> dict[str, Any]:
    """Facts of a transaction in Python's types.

    Raises:
        ValueError: not a member of a transaction.
    """
    for name in facts.keys() - _TRANSACTION_MEMBERS:
        raise ValueError(f"{name}: not a member of a transaction")
    typed = dict(facts)
    for name in ("happened_at", "booked_at", "value_at"):
        if isinstance(typed.get(name), str):
            typed[name] = datetime.fromisoformat(typed[name])
    for name in ("amount", "charge"):
        if isinstance(typed.get(name), str):
            typed[name] = Decimal(typed[name])
    if "style" in typed:
        typed["style"] = Style(typed["style"])
    for name, made in (("merchant", Merchant), ("counterparty", Counterparty)):
        if isinstance(typed.get(name), dict):
            typed[name] = made(**typed[name])
    return typed

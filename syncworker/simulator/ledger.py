"""What the bank knows: customers, their accounts, and the verbs that change them.

Domain objects only: amounts are `Decimal`, instants are aware.  How they are written is `render`'s business.  Each
account counts its versions, so that what was rendered from it can be kept until it changes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from syncworker.simulator.arrangements import Arrangement, Statement, id_of
from syncworker.standard.resources import ResourceName


class Style(StrEnum):
    """How a bank writes an instant; real ones differ even within one answer."""

    MILLIS = "millis"
    """`2026-05-01T09:30:00.123Z`"""
    SECONDS = "seconds"
    """`2026-05-01T09:30:00Z`"""
    UAE = "uae"
    """`2026-05-01T13:30:00.123+04:00`"""
    LOCAL = "local"
    """`2026-05-01T13:30:00`: without an offset, outside the standard, and seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merchant:
    """`MerchantDetails`; the id may have 20 digits and more than 64 bits (D-28)."""

    merchant_id: int
    name: str
    category_code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterparty:
    """The other side of a transfer."""

    name: str
    iban: str
    bic: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A transaction in another currency: what was paid there, and at which rate."""

    currency: str
    amount: Decimal
    rate: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """One line of an account.

    Attributes:
        amount: unsigned; `credit` tells the direction.
        booked_at: the expected instant while the status is Pending.
        supplementary: free JSON under `SupplementaryData`.
        stray: members at the top of the item that the standard does not list, or whose value it does not.
    """

    transaction_id: str
    happened_at: datetime
    booked_at: datetime
    amount: Decimal
    currency: str
    credit: bool
    kind: str
    sub_kind: str
    status: str = "Booked"
    narration: str | None = None
    reference: str | None = None
    merchant: Merchant | None = None
    terminal_id: int | None = None
    counterparty: Counterparty | None = None
    card: tuple[str, str, str] | None = None
    exchange: Exchange | None = None
    charge: Decimal | None = None
    value_at: datetime | None = None
    flags: tuple[str, ...] = ()
    style: Style = Style.MILLIS
    supplementary: Mapping[str, Any] | None = None
    stray: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """One balance; (type, currency) names it within its account.  `amount` carries its sign."""

    type: str
    currency: str
    amount: Decimal
    at: datetime
    credit_line: Decimal | None = None
    components: tuple[tuple[str, Decimal], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Business:
    """A company a customer acts for.  All synthetic."""

    name: str
    licence: str
    tax_number: str
    incorporated: date
    industry: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A customer's identity; with a `business` that is the party and the person acts for it.  All synthetic."""

    party_id: str
    party_number: str
    given_name: str
    surname: str
    emirates_id: str
    emirates_id_expiry: date
    born: date
    nationality: str
    mobile: str
    email: str
    employer: str
    salary: Decimal
    street: str
    town: str
    emirate: str
    business: Business | None = None

    @property
    def full_name(self) -> str:
        """Given name and surname."""
        return f"{self.given_name} {self.surname}"

    @property
    def category(self) -> str:
        """`PartyCategory`."""
        return "SME" if self.business else "Retail"

    @property
    def legal_name(self) -> str:
        """Whose account it is: the business's name or the person's."""
        return self.business.name if self.business else self.full_name


@dataclass(frozen=True, slots=True, kw_only=True)
class PartyRole:
    """A person's part in an account."""

    person: Person
    party_type: str
    role: str


@dataclass(slots=True, kw_only=True)
class Account:
    """One account; `transactions` are kept in the order in which the API lists them, newest booking first.

    Attributes:
        references: further identifiers: (scheme, identification).
        listings: what lies beside the transactions; a listing that is not there does not apply to this account (404).
    """

    account_id: str
    holder: Person
    sub_type: str
    currency: str
    description: str
    nickname: str | None
    iban: str
    number: str
    opened_at: datetime
    account_type: str = "Retail"
    masked_pan: str | None = None
    references: tuple[tuple[str, str], ...] = ()
    matures_at: datetime | None = None
    status: str = "Active"
    sharia: bool | None = False
    balances: list[Balance] = field(default_factory=list)
    transactions: list[Transaction] = field(default_factory=list)
    parties: list[PartyRole] = field(default_factory=list)
    listings: dict[ResourceName, list[Arrangement]] = field(default_factory=dict)
    version: int = 0

    def sort(self) -> None:
        """Bring transactions and statements into listing order: the newest first."""
        self.transactions.sort(key=lambda row: (row.booked_at, row.transaction_id), reverse=True)
        if statements := self.listings.get(ResourceName.STATEMENTS):
            statements.sort(key=lambda one: one.opening_date if isinstance(one, Statement) else date.min, reverse=True)


@dataclass(slots=True, kw_only=True)
class Customer:
    """One customer as the bank knows them; `user` is the name they log in with."""

    user: str
    person: Person
    accounts: list[Account]


_OWN_VERBS: Final = frozenset({"account_id", "balances", "transactions", "parties", "listings", "version"})


class Ledger:
    """All customers, made when first asked for, and the verbs that change what they own.

    Args:
        users: login names, in order.
        make: gives the customer of a login name; called once each.
    """

    def __init__(self, users: tuple[str, ...], make: Callable[[str], Customer]) -> None:
        self.users = users
        self._make = make
        self._customers: dict[str, Customer] = {}
        self._accounts: dict[str, Account] = {}

    def customer(self, user: str) -> Customer:
        """The customer of a login name.

        Raises:
            KeyError: nobody has this name.
        """
        if user not in self._customers:
            if user not in self.users:
                raise KeyError(user)
            customer = self._customers[user] = self._make(user)
            for account in customer.accounts:
                self._accounts[account.account_id] = account
        return self._customers[user]

    def account(self, account_id: str) -> Account:
        """An account of any customer who has been asked for.

        Raises:
            KeyError: no such account, or its customer has not been seen yet.
        """
        return self._accounts[account_id]

    def customers(self) -> Iterator[Customer]:
        """Every customer, in order of their login names."""
        return (self.customer(user) for user in self.users)

    def insert_transaction(self, account_id: str, row: Transaction) -> Transaction:
        """Add a transaction.  Balances stay as they are: one verb, one change.

        Raises:
            ValueError: the account has a transaction of this id.
        """
        account = self.account(account_id)
        if any(known.transaction_id == row.transaction_id for known in account.transactions):
            raise ValueError("TransactionId: taken")
        account.transactions.append(row)
        self._changed(account)
        return row

    def book(self, account_id: str, transaction_id: str, *, at: datetime) -> Transaction:
        """Turn a pending transaction into a booked one; its BookingDateTime moves to `at`."""
        return self.amend_transaction(account_id, transaction_id, status="Booked", booked_at=at, value_at=at)

    def amend_transaction(self, account_id: str, transaction_id: str, **facts: Any) -> Transaction:
        """Change facts of a transaction, given as members of `Transaction`.

        Raises:
            KeyError: no such transaction.
        """
        account = self.account(account_id)
        place = self._place(account, transaction_id)
        row = account.transactions[place] = replace(account.transactions[place], **facts)
        self._changed(account)
        return row

    def drop_transaction(self, account_id: str, transaction_id: str) -> Transaction:
        """Forget a transaction: the API does not list it any more."""
        account = self.account(account_id)
        row = account.transactions.pop(self._place(account, transaction_id))
        self._changed(account)
        return row

    def change_balance(self, account_id: str, *, type: str, currency: str, amount: Decimal, at: datetime) -> Balance:  # noqa: A002 - the standard's word
        """Set one balance, or add it when the account has none of this type and currency."""
        account = self.account(account_id)
        new = Balance(type=type, currency=currency, amount=amount, at=at)
        for place, known in enumerate(account.balances):
            if (known.type, known.currency) == (type, currency):
                new = account.balances[place] = replace(known, amount=amount, at=at)
                break
        else:
            account.balances.append(new)
        self._changed(account)
        return new

    def add_party(self, account_id: str, role: PartyRole) -> PartyRole:
        """Give a person a part in an account."""
        account = self.account(account_id)
        account.parties.append(role)
        self._changed(account)
        return role

    def remove_party(self, account_id: str, party_id: str) -> None:
        """End a person's part in an account.

        Raises:
            KeyError: no such party.
        """
        account = self.account(account_id)
        left = [role for role in account.parties if role.person.party_id != party_id]
        if len(left) == len(account.parties):
            raise KeyError(party_id)
        account.parties = left
        self._changed(account)

    def change_party(self, account_id: str, party_id: str, **facts: Any) -> None:
        """Change somebody's part in an account, given as members of `PartyRole`.

        Raises:
            KeyError: no such party.
        """
        account = self.account(account_id)
        for place, known in enumerate(account.parties):
            if known.person.party_id == party_id:
                account.parties[place] = replace(known, **facts)
                self._changed(account)
                return
        raise KeyError(party_id)

    def drop_balance(self, account_id: str, type: str, currency: str) -> None:  # noqa: A002 - the standard's word
        """Stop listing a balance.

        Raises:
            KeyError: no such balance.
            ValueError: it is the only one, and the standard wants one at least.
        """
        account = self.account(account_id)
        left = [one for one in account.balances if (one.type, one.currency) != (type, currency)]
        if len(left) == len(account.balances):
            raise KeyError(f"{type}|{currency}")
        if not left:
            raise ValueError("an account has one balance at least")
        account.balances = left
        self._changed(account)

    def change_account(self, account_id: str, **facts: Any) -> Account:
        """Change facts of an account, given as members of `Account`.

        Raises:
            ValueError: its id, or a part of it that has verbs of its own.
        """
        account = self.account(account_id)
        for name, value in facts.items():
            if name in _OWN_VERBS or name not in Account.__slots__:
                raise ValueError(f"{name}: not to be changed here")
            setattr(account, name, value)
        self._changed(account)
        return account

    def change_person(self, user: str, **facts: Any) -> Person:
        """Change facts of a customer, wherever they have a part."""
        customer = self.customer(user)
        person = replace(customer.person, **facts)
        for account in self._accounts.values():
            known = [role.person.party_id for role in account.parties]
            if person.party_id in known:
                account.parties = [
                    replace(role, person=person) if role.person.party_id == person.party_id else role
                    for role in account.parties
                ]
            if account.holder.party_id == person.party_id:
                account.holder = person
            self._changed(account)
        customer.person = person
        return person

    def insert(
        self, resource: ResourceName, account_id: str, row: Arrangement, *, place: int | None = None
    ) -> Arrangement:
        """List one more arrangement: last, or at a place counted from 0; the account has the listing from now on.

        Raises:
            ValueError: the listing has one of this id.
        """
        account = self.account(account_id)
        listed = account.listings.setdefault(resource, [])
        if id_of(row) is not None and id_of(row) in {id_of(known) for known in listed}:
            raise ValueError(f"{resource}: the id is taken")
        listed.insert(len(listed) if place is None else place, row)
        self._changed(account)
        return row

    def change(self, resource: ResourceName, account_id: str, key: str, **facts: Any) -> Arrangement:
        """Change facts of an arrangement, given as members of its class.

        Args:
            key: its id; for one without, its place from 1.

        Raises:
            KeyError: no such arrangement.
        """
        account = self.account(account_id)
        listed = account.listings.get(resource, [])
        place = _place_of(listed, key)
        listed[place] = replace(listed[place], **facts)
        self._changed(account)
        return listed[place]

    def drop(self, resource: ResourceName, account_id: str, key: str) -> Arrangement:
        """Stop listing an arrangement; the listing stays, be it empty.

        Raises:
            KeyError: no such arrangement.
        """
        account = self.account(account_id)
        listed = account.listings.get(resource, [])
        row = listed.pop(_place_of(listed, key))
        self._changed(account)
        return row

    def withhold(self, resource: ResourceName, account_id: str) -> None:
        """Take a whole listing away: the account knows no such thing any more (404)."""
        account = self.account(account_id)
        account.listings.pop(resource, None)
        self._changed(account)

    @staticmethod
    def _place(account: Account, transaction_id: str) -> int:
        for place, row in enumerate(account.transactions):
            if row.transaction_id == transaction_id:
                return place
        raise KeyError(transaction_id)

    @staticmethod
    def _changed(account: Account) -> None:
        account.version += 1
        account.sort()


def _place_of(listed: Sequence[Arrangement], key: str) -> int:
    for place, row in enumerate(listed):
        if key == (id_of(row) or str(place + 1)):
            return place
    raise KeyError(key)

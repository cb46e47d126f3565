"""Many small things that happen at a bank, by chance and yet the same for the same seed and state.

Each of them is one verb of `bank.Bank` with its arguments, so that a storm can be read, and one of its drops repeated.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Protocol

from syncworker.simulator.arrangements import KINDS
from syncworker.simulator.clock import BankClock
from syncworker.simulator.dice import Dice
from syncworker.simulator.ledger import Account, Ledger, Transaction
from syncworker.simulator.listings import LISTINGS
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import local_date

N = ResourceName
Drop = tuple[str, dict[str, Any]]
"""A verb and its arguments."""

TRIES_MAX: Final = 50
PAGE_SIZES: Final = (10, 25, 60, 100, None)


class Doer(Protocol):
    """Who knows the bank and uses its verbs."""

    ledger: Ledger
    clock: BankClock

    def do(self, verb: str, arguments: dict[str, Any]) -> Any:
        """Use a verb."""


class Storm:
    """Chooses what happens.

    Args:
        account_ids: where it may happen.
        reach_days: nothing older is touched or inserted.
        pages: sizes of pages change too.
    """

    def __init__(self, bank: Doer, seed: int, *, account_ids: Sequence[str], reach_days: int, pages: bool) -> None:
        self._bank = bank
        self._dice = Dice(f"storm/{seed}")
        self._accounts = account_ids
        self._reach_days = reach_days
        self._kinds: Sequence[tuple[int, Callable[[Account], Drop | None]]] = (
            (4, self._insert),
            (2, self._insert_pending),
            (2, self._insert_late),
            (4, self._book),
            (3, self._re_id),
            (1, self._drop_pending),
            (1, self._drop_booked),
            (1, self._back_date),
            (2, self._amend),
            (3, self._change_balance),
            (1, self._rename),
            (2, self._change_party),
            (3, self._insert_item),
            (3, self._change_item),
            (3, self._drop_item),
            *(((1, self._page_size),) if pages else ()),
        )

    def blow(self, count: int) -> list[Drop]:
        """Let so many things happen, one behind the other, and tell them.

        Raises:
            ValueError: there is no account, or nothing that could happen on them.
        """
        if not self._accounts:
            raise ValueError("no account: nobody has consented yet")
        return [self._one() for _ in range(count)]

    def _one(self) -> Drop:
        weights = [weight for weight, _ in self._kinds]
        for _ in range(TRIES_MAX):
            account = self._bank.ledger.account(self._dice.choice(self._accounts))
            drop = self._dice.choices(self._kinds, weights)[0][1](account)
            if drop is not None:
                self._bank.do(*drop)
                return drop
        raise ValueError("nothing can happen on these accounts")

    # -- transactions -------------------------------------------------------------------------------------------------

    def _rows(self, account: Account, *, pending: bool) -> list[Transaction]:
        since = self._bank.clock.now() - timedelta(days=self._reach_days)
        return [row for row in account.transactions if (row.status == "Pending") == pending and row.booked_at >= since]

    def _row(self, account: Account, *, pending: bool) -> str | None:
        rows = self._rows(account, pending=pending)
        return self._dice.choice(rows).transaction_id if rows else None

    def _amount(self) -> str:
        return str(self._dice.price(1, 400))

    def _at(self, days_ago: float) -> datetime:
        return self._bank.clock.now() - timedelta(days=days_ago)

    def _insert(self, account: Account) -> Drop:
        facts = {"amount": self._amount(), "credit": self._dice.random() < 0.2, "narration": "Storm"}
        return "insert_transaction", {"account_id": account.account_id, **facts}

    def _insert_pending(self, account: Account) -> Drop:
        facts = {"amount": self._amount(), "status": "Pending", "booked_at": self._at(-2).isoformat()}
        return "insert_transaction", {"account_id": account.account_id, **facts}

    def _insert_late(self, account: Account) -> Drop:
        days = self._dice.randint(1, max(1, self._reach_days - 1))
        return "insert_late", {"account_id": account.account_id, "days": days, "amount": self._amount()}

    def _book(self, account: Account) -> Drop | None:
        return self._on_row("book", account, pending=True)

    def _re_id(self, account: Account) -> Drop | None:
        return self._on_row("re_id", account, pending=True)

    def _drop_pending(self, account: Account) -> Drop | None:
        return self._on_row("drop_transaction", account, pending=True)

    def _drop_booked(self, account: Account) -> Drop | None:
        return self._on_row("drop_transaction", account, pending=False)

    def _amend(self, account: Account) -> Drop | None:
        text = f"Amended {self._dice.digits(4)}"
        return self._on_row("amend_transaction", account, pending=self._dice.random() < 0.3, narration=text)

    def _back_date(self, account: Account) -> Drop | None:
        rows = self._rows(account, pending=False)
        if not rows:
            return None
        row = self._dice.choice(rows)
        room = (row.booked_at - self._at(self._reach_days)).days
        days = self._dice.randint(1, min(room, 30)) if room > 0 else 0
        arguments = {"account_id": account.account_id, "transaction_id": row.transaction_id, "days": days}
        return ("back_date", arguments) if days else None

    def _on_row(self, verb: str, account: Account, *, pending: bool, **facts: Any) -> Drop | None:
        transaction_id = self._row(account, pending=pending)
        if transaction_id is None:
            return None
        return verb, {"account_id": account.account_id, "transaction_id": transaction_id, **facts}

    # -- the other listings -------------------------------------------------------------------------------------------

    def _change_balance(self, account: Account) -> Drop:
        balance = self._dice.choice(account.balances)
        amount = str(self._dice.price(-500, 9000))
        arguments = {"type": balance.type, "currency": balance.currency, "amount": amount}
        return "change_balance", {"account_id": account.account_id, **arguments}

    def _rename(self, account: Account) -> Drop:
        name = self._dice.choice((None, "Everyday", "الرئيسي", f"Pot {self._dice.digits(3)}"))
        return "rename_account", {"account_id": account.account_id, "nickname": name}

    def _change_party(self, account: Account) -> Drop | None:
        delegates = [role.person.party_id for role in account.parties if role.party_type == "Delegate"]
        if delegates and self._dice.random() < 0.6:
            return "remove_party", {"account_id": account.account_id, "party_id": self._dice.choice(delegates)}
        known = {role.person.party_id for role in account.parties}
        strangers = [
            user for user in self._bank.ledger.users if self._bank.ledger.customer(user).person.party_id not in known
        ]
        if not strangers:
            return None
        return "add_party", {"account_id": account.account_id, "user": self._dice.choice(strangers)}

    def _listing(self, account: Account) -> ResourceName | None:
        """A listing that applies to the account and may be touched at will."""
        names = [name for name in KINDS if name in account.listings and name is not N.STATEMENTS]
        return self._dice.choice(names) if names else None

    def _insert_item(self, account: Account) -> Drop | None:
        name = self._listing(account)
        if name is None or name is N.PRODUCT:  # an account has one product
            return None
        return "insert_item", {"resource": name.value, "account_id": account.account_id}

    def _change_item(self, account: Account) -> Drop | None:
        name = N.STATEMENTS if self._dice.random() < 0.2 else self._listing(account)
        key = None if name is None else self._key(name, account)
        if name is None or key is None:
            return None
        return "change_item", {
            "resource": name.value,
            "account_id": account.account_id,
            "key": key,
            **self._facts(name),
        }

    def _drop_item(self, account: Account) -> Drop | None:
        name = self._listing(account)
        key = None if name is None or name is N.PRODUCT else self._key(name, account)
        if name is None or key is None:
            return None
        return "drop_item", {"resource": name.value, "account_id": account.account_id, "key": key}

    def _key(self, name: ResourceName, account: Account) -> str | None:
        rows = LISTINGS[name].rows(account) or ()
        if name is N.STATEMENTS:
            since = local_date(self._at(self._reach_days))
            rows = [row for row in rows if row.opening_date >= since]
        if not rows:
            return None
        place = self._dice.randrange(len(rows))
        key = LISTINGS[name].key
        return str(place + 1) if key is None else "|".join(key(rows[place]))

    def _facts(self, name: ResourceName) -> dict[str, Any]:
        """A change of one fact."""
        dice = self._dice
        match name:
            case N.BENEFICIARIES:
                return {"reference": f"REF {dice.digits(6)}"}
            case N.DIRECT_DEBITS | N.STANDING_ORDERS:
                return {"status": dice.choice(("Active", "Inactive"))}
            case N.SCHEDULED_PAYMENTS:
                return {"instructed": {"amount": self._amount(), "currency": "AED"}}
            case N.STATEMENTS:
                return {"closing_balance": str(Decimal(dice.randint(-99_999, 999_999)) / 100)}
            case _:
                return {"is_secured": dice.random() < 0.5}

    def _page_size(self, _account: Account) -> Drop:
        name = self._dice.choice((N.TRANSACTIONS, N.TRANSACTIONS, N.BENEFICIARIES, N.STANDING_ORDERS, N.STATEMENTS))
        return "paginate", {"resource": name.value, "size": self._dice.choice(PAGE_SIZES)}

"""Invent customers and their money lives, the same for the same seed and anchor date.

A life has a salary near the end of the month, rent by cheque or transfer, DEWA, telephone, groceries, fuel, coffee,
delivery, a savings plan, remittances home, now and then a refund; some card payments are still pending.  Nothing here
is a real person, merchant or account: names come from short lists, IBANs carry the bank code 999 of the sandbox.

Each person also gets, on purpose, what makes readers stumble though the standard allows it: five decimals, dinars with
three, `+04:00` beside `Z`, instants without a fraction, 20-digit merchant ids, a 210-character TransactionId, Arabic,
an account nothing ever happened on.  `strays` adds three items that break the standard as real LFIs do (trap 31): an
unknown enum value, an unknown member, an instant without offset.
"""

import random
import string
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Final

from syncworker.simulator.ledger import (
    Account,
    Balance,
    Counterparty,
    Customer,
    Exchange,
    Merchant,
    PartyRole,
    Person,
    Style,
    Transaction,
)
from syncworker.standard.values import UAE

GIVEN: Final = ("Aisha", "Omar", "Fatima", "Yousef", "Mariam", "Khalid", "Layla", "Rashid", "Priya", "Arjun", "Grace",
                "Miguel", "Noor", "Samir", "Hana", "Tariq", "Elena", "Joseph", "Salma", "Imran")  # fmt: skip
SURNAMES: Final = ("Testani", "Sandboxi", "Al Mithali", "Examplewala", "Probeson", "Al Tajribi", "Demopoulos",
                   "Sampleton", "Fixturi", "Mockridge", "Al Namoodhaj", "Specimen")  # fmt: skip
NATIONALITIES: Final = ("AE", "IN", "PK", "PH", "EG", "JO", "GB", "LB")
EMPLOYERS: Final = ("Palm & Dune Trading LLC", "Gulf Sample Logistics", "Oasis Test Engineering", "Falcon Demo Retail")
TOWNS: Final = (("Dubai", "Dubai"), ("Abu Dhabi", "AbuDhabi"), ("Sharjah", "Sharjah"), ("Ajman", "Ajman"))
STREETS: Final = ("Specimen Street 12", "Sandbox Boulevard 7", "Test Tower, Flat 1204", "Example Villas 33")
# name, merchant category code, least and most in AED, visits a month
SHOPS: Final = (
    ("Loulou Hyper (sandbox)", "5411", 60, 620, 5),
    ("Karfoor Market (sandbox)", "5411", 35, 480, 4),
    ("Date & Cardamom Coffee", "5814", 14, 48, 6),
    ("Desert Fuel Station", "5541", 70, 190, 3),
    ("Souq Online (sandbox)", "5942", 25, 900, 2),
    ("Taxi Al Khaleej", "4121", 12, 75, 3),
    ("Pharmacy Al Shifa (sandbox)", "5912", 20, 240, 1),
    ("صيدلية النموذج", "5912", 18, 120, 1),
    ("Shawarma Sandbox", "5812", 22, 130, 4),
)
LONG_ID: Final = 210


class People:
    """Makes the customers of one sandbox.

    Args:
        seed: chooses the lives.
        anchor: the last day lived; a UAE date.
        strays: add the items that break the standard.
    """

    def __init__(self, *, customers: int, seed: int, anchor: date, strays: bool) -> None:
        self._seed = seed
        self._anchor = anchor
        self._strays = strays
        self.users = tuple(self._user(number) for number in range(customers))

    def make(self, user: str) -> Customer:
        """The customer of a login name.

        Raises:
            ValueError: not one of `users`.
        """
        number = self.users.index(user)
        # a string seed is hashed by SHA-512 inside `random`: the same on every machine
        return _Life(random.Random(f"{self._seed}/{number}"), number, user, self._anchor, strays=self._strays).live()  # noqa: S311 - a play, not a secret

    def _user(self, number: int) -> str:
        return f"{GIVEN[number % len(GIVEN)].lower()}-{number + 1}"


class _Life:
    """One person's months up to the anchor, in order."""

    def __init__(self, dice: random.Random, number: int, user: str, anchor: date, *, strays: bool) -> None:
        self.dice, self.number, self.user, self.anchor, self.strays = dice, number, user, anchor, strays
        self.months = dice.randint(6, 9)
        self.salary = Decimal(dice.randrange(7_000, 32_000, 250))
        self.person = self._person()
        self.counter = 0

    def live(self) -> Customer:
        current = self._account("CurrentAccount", "AED", "Current account", Decimal(self.dice.randint(4_000, 30_000)))
        savings = self._account("Savings", "AED", "Savings account", Decimal(self.dice.randint(10_000, 90_000)))
        accounts = [current, savings]
        for month in self._month_starts():
            self._month(current, savings, month)
        self._pending(current)
        self._awkward(current)
        if self.number % 2 == 0:
            accounts.append(self._travel_wallet())
        else:
            accounts.append(self._account("Savings", "AED", "Goal account", Decimal(0)))
        if self.strays:
            self._stray(current)
        if self.number % 4 == 1:
            spouse = replace(
                self.person, party_id=f"{self.person.party_id}-2", party_number=f"{self.person.party_number}2",
                given_name="Noor", emirates_id=self._emirates_id(1991),
            )  # fmt: skip
            savings.parties.append(PartyRole(person=spouse, party_type="Joint", role="SecondaryOwner"))
        for account in accounts:
            self._close_books(account)
        return Customer(user=self.user, person=self.person, accounts=accounts)

    # -- who ----------------------------------------------------------------------------------------------------------

    def _person(self) -> Person:
        dice = self.dice
        given, surname = GIVEN[self.number % len(GIVEN)], dice.choice(SURNAMES)
        born = date(dice.randint(1960, 2001), dice.randint(1, 12), dice.randint(1, 28))
        town, emirate = dice.choice(TOWNS)
        return Person(
            party_id=f"P{self._digits(11)}",
            party_number=self._digits(8),
            given_name=given,
            surname=surname,
            emirates_id=self._emirates_id(born.year),
            emirates_id_expiry=self.anchor + timedelta(days=dice.randint(200, 900)),
            born=born,
            nationality=dice.choice(NATIONALITIES),
            mobile=f"+97150{self._digits(7)}",
            email=f"{self.user}@customers.example",
            employer=dice.choice(EMPLOYERS),
            salary=self.salary,
            street=dice.choice(STREETS),
            town=town,
            emirate=emirate,
        )

    def _emirates_id(self, year: int) -> str:
        return f"784-{year}-{self._digits(7)}-{self._digits(1)}"

    def _account(self, sub_type: str, currency: str, description: str, opening: Decimal) -> Account:
        opened = self._at(self._first_day() - timedelta(days=self.dice.randint(90, 2500)), hour=10)
        account = Account(
            account_id=self._digits(24),
            holder=self.person,
            sub_type=sub_type,
            currency=currency,
            description=description,
            nickname=self.dice.choice((None, "Everyday", "الرئيسي", "Rainy days")),
            iban=_iban(self._digits(16)),
            number=self._digits(12),
            opened_at=opened,
            masked_pan=f"4{self._digits(3)}********{self._digits(4)}" if sub_type == "CurrentAccount" else None,
            sharia=self.dice.random() < 0.3,
        )
        account.parties.append(PartyRole(person=self.person, party_type="Sole", role="Principal"))
        account.balances.append(Balance(type="InterimBooked", currency=currency, amount=opening, at=opened))
        return account

    # -- months -------------------------------------------------------------------------------------------------------

    def _first_day(self) -> date:
        year, month = divmod(self.anchor.year * 12 + self.anchor.month - 1 - (self.months - 1), 12)
        return date(year, month + 1, 1)

    def _month_starts(self) -> list[date]:
        first = self._first_day()
        counted = (first.year * 12 + first.month - 1 + number for number in range(self.months))
        return [date(number // 12, number % 12 + 1, 1) for number in counted]

    def _month(self, current: Account, savings: Account, first: date) -> None:
        dice = self.dice
        payday = first + timedelta(days=dice.randint(24, 27))
        self._transfer(current, payday, self.salary, credit=True, name=self.person.employer,
                       narration=f"SALARY {first:%b %Y}".upper(), flags=("Payroll",))  # fmt: skip
        rent = (self.salary * Decimal("0.28")).quantize(Decimal(1))
        if self.number % 2:
            self._transfer(current, first, rent, credit=False, name="Sandbox Properties LLC", narration="Rent")
        elif first.month % 3 == 1:
            self._line(current, first + timedelta(days=1), rent * 3, kind="Cheque", sub_kind="Withdrawal",
                       narration=f"CHEQUE {self._digits(6)} RENT 4 CHEQUES")  # fmt: skip
        self._bill(current, first + timedelta(days=dice.randint(3, 9)), "DEWA (sandbox)", "4900", 180, 900)
        self._bill(current, first + timedelta(days=dice.randint(5, 12)), self._phone(), "4814", 199, 499)
        for name, code, least, most, visits in SHOPS:
            for _ in range(dice.randint(max(0, visits - 2), visits + 1)):
                self._purchase(current, first + timedelta(days=dice.randint(0, 27)), name, code, least, most)
        self._line(current, first + timedelta(days=dice.randint(6, 20)), Decimal(dice.choice((200, 300, 500, 1000))),
                   kind="ATM", sub_kind="Withdrawal", narration="ATM CASH")  # fmt: skip
        saved = (self.salary * Decimal("0.10")).quantize(Decimal(1))
        moved = payday + timedelta(days=1)
        own = self.person.full_name
        self._transfer(current, moved, saved, credit=False, name=own, narration="To savings", same=True)
        self._transfer(savings, moved, saved, credit=True, name=own, narration="Saving", same=True)
        interest = Decimal(dice.randint(900, 9999)) / Decimal(100)
        self._line(savings, first + timedelta(days=27), interest, credit=True, kind="Other", sub_kind="Profit",
                   narration="Profit for the month")  # fmt: skip
        if dice.random() < 0.5:
            self._remittance(current, payday + timedelta(days=2))
        if dice.random() < 0.25:
            self._line(current, first + timedelta(days=15), Decimal(dice.randint(2000, 20000)) / 100, credit=True,
                       kind="ECommerce", sub_kind="Refund", narration="REFUND Souq Online (sandbox)")  # fmt: skip

    def _phone(self) -> str:
        return "Etisalaat (sandbox)" if self.number % 2 else "Dú Mobile (sandbox)"

    def _bill(self, account: Account, day: date, name: str, code: str, least: int, most: int) -> None:
        self._line(account, day, self._price(least, most), kind="BillPayments", sub_kind="Purchase", narration=name,
                   merchant=self._merchant(name, code), flags=("DirectDebit",))  # fmt: skip

    def _purchase(self, account: Account, day: date, name: str, code: str, least: int, most: int) -> Transaction | None:
        online = code == "5942"
        return self._line(
            account, day, self._price(least, most), kind="ECommerce" if online else "POS", sub_kind="Purchase",
            narration=f"{name} {self._digits(4)}", merchant=self._merchant(name, code),
            terminal=None if online else int(f"7{self._digits(9)}"),
            card=("VISA", "Other" if online else self.dice.choice(("Contactless", "Chip", "ApplePay")),
                  (account.masked_pan or "4000********0000")[:16]),
        )  # fmt: skip

    def _remittance(self, account: Account, day: date) -> None:
        amount, rate = Decimal(self.dice.randrange(500, 4000, 50)), Decimal("0.04391")
        family = Counterparty(name="Beneficiary Sample", iban=_iban(self._digits(16)), bic="SANDINBB")
        abroad = (amount / rate).quantize(Decimal("0.01"))
        self._line(account, day, amount, kind="InternationalTransfer", sub_kind="MoneyTransfer",
                   narration="Family support", charge=Decimal("15.75"),
                   exchange=Exchange(currency="INR", amount=abroad, rate=rate),
                   counterparty=family)  # fmt: skip

    def _transfer(self, account: Account, day: date, amount: Decimal, *, credit: bool, name: str, narration: str,
                  flags: tuple[str, ...] = (), same: bool = False) -> None:  # fmt: skip
        self._line(account, day, amount, credit=credit, kind="SameBankTransfer" if same else "LocalBankTransfer",
                   sub_kind="MoneyTransfer", narration=narration, flags=flags,
                   counterparty=Counterparty(name=name[:70], iban=_iban(self._digits(16)), bic="SANDAEAD"))  # fmt: skip

    def _line(self, account: Account, day: date, amount: Decimal, *, kind: str, sub_kind: str, credit: bool = False,
              narration: str | None = None, merchant: Merchant | None = None, terminal: int | None = None,
              card: tuple[str, str, str] | None = None, exchange: Exchange | None = None,
              charge: Decimal | None = None, counterparty: Counterparty | None = None,
              flags: tuple[str, ...] = ()) -> Transaction | None:  # fmt: skip
        """Add one booked line, unless its day has not come yet."""
        happened = self._at(day, hour=self.dice.randint(7, 22))
        booked = self._at(day + timedelta(days=self.dice.randint(0, 2) if card else 0), hour=23)
        if booked.astimezone(UAE).date() > self.anchor:
            return None
        row = Transaction(
            transaction_id=self._id(), happened_at=happened, booked_at=max(booked, happened), value_at=booked,
            amount=amount, currency=account.currency, credit=credit, kind=kind, sub_kind=sub_kind,
            narration=narration, reference=f"REF{self._digits(12)}", merchant=merchant, terminal_id=terminal,
            card=card, exchange=exchange, charge=charge, counterparty=counterparty, flags=flags,
            style=self.dice.choices((Style.MILLIS, Style.UAE, Style.SECONDS), (6, 3, 1))[0],
        )  # fmt: skip
        account.transactions.append(row)
        return row

    # -- special lines ------------------------------------------------------------------------------------------------

    def _pending(self, account: Account) -> None:
        for _ in range(self.dice.randint(1, 4)):
            happened = self._at(self.anchor - timedelta(days=1), hour=self.dice.randint(8, 20))
            account.transactions.append(Transaction(
                transaction_id=self._id(), happened_at=happened, booked_at=happened + timedelta(days=2),
                amount=self._price(10, 300), currency=account.currency, credit=False, kind="POS", sub_kind="Purchase",
                status="Pending", narration="Date & Cardamom Coffee",
                merchant=self._merchant("Date & Cardamom Coffee", "5814"),
                card=("VISA", "Contactless", (account.masked_pan or "4000********0000")[:16]),
            ))  # fmt: skip

    def _awkward(self, account: Account) -> None:
        """What the standard allows and readers get wrong."""
        day = self.anchor - timedelta(days=12)
        oddities: tuple[dict[str, object], ...] = (
            {"amount": Decimal("0.12345"), "narration": "Five decimals", "sub_kind": "Profit", "credit": True},
            {"amount": Decimal("12.305"), "currency": "KWD", "narration": "ثلاث خانات عشرية"},
            {"amount": Decimal("9007199254740.99301"), "narration": "Beyond a double", "status": "Rejected"},
            {"amount": Decimal("41.00"), "narration": "Long id", "transaction_id": self._long_id()},
            {"amount": Decimal("77.10"), "narration": "قهوة وتمر ☕ 'O''Hara' \"=1+1\"", "style": Style.UAE},
            {"amount": Decimal("64.00"), "narration": "Beyond 64 bits", "style": Style.SECONDS,
             "merchant": Merchant(merchant_id=10**20 - 1 - self.number, name="Nines Trading", category_code="5999")},
            {"amount": Decimal("5.00"), "narration": "=HYPERLINK(0)", "supplementary": {"Unlisted": [1, None]}},
            {"amount": Decimal("88.88"), "narration": "Near midnight in the UAE", "booked_at": self._at(day, hour=0)},
        )  # fmt: skip
        for number, facts in enumerate(oddities):
            happened = self._at(day, hour=9) + timedelta(minutes=number)
            plain = Transaction(
                transaction_id=self._id(), happened_at=happened, booked_at=happened, amount=Decimal(1),
                currency=account.currency, credit=False, kind="Other", sub_kind="NotApplicable",
            )  # fmt: skip
            account.transactions.append(replace(plain, **facts))  # type: ignore[arg-type]  # a table of members

    def _stray(self, account: Account) -> None:
        """What the standard forbids and LFIs send."""
        happened = self._at(self.anchor - timedelta(days=9), hour=11)
        strays: tuple[dict[str, object], ...] = (
            {"stray": {"TransactionType": "WalletTopUp"}, "narration": "Unknown enum value"},
            {"stray": {"LoyaltyPoints": {"Earned": 12}}, "narration": "Unknown member"},
            {"style": Style.LOCAL, "narration": "No offset"},
        )
        for facts in strays:
            plain = Transaction(
                transaction_id=self._id(), happened_at=happened, booked_at=happened, amount=Decimal("10.00"),
                currency=account.currency, credit=False, kind="Other", sub_kind="Fee",
            )  # fmt: skip
            account.transactions.append(replace(plain, **facts))  # type: ignore[arg-type]  # a table of members

    def _travel_wallet(self) -> Account:
        """One account with balances in four currencies."""
        account = self._account("CurrentAccount", "AED", "Travel wallet", Decimal("150.00"))
        opened = account.opened_at
        for currency, amount in (("USD", "420.50"), ("EUR", "-12.30"), ("KWD", "18.125")):
            account.balances.append(Balance(type="InterimBooked", currency=currency, amount=Decimal(amount), at=opened))
        for currency, price in (("USD", "19.99"), ("EUR", "7.40"), ("KWD", "1.250"), ("USD", "130.00")):
            day = self.anchor - timedelta(days=self.dice.randint(10, 80))
            self._line(replace_currency(account, currency), day, Decimal(price), kind="POS", sub_kind="Purchase",
                       narration=f"Abroad {currency}")  # fmt: skip
        return account

    def _close_books(self, account: Account) -> None:
        """Bring the balances to the anchor: booked lines count at once, pending ones against what is available."""
        account.sort()
        at = self._at(self.anchor, hour=6)
        closed: list[Balance] = []
        for balance in account.balances:
            rows = [row for row in account.transactions if row.currency == balance.currency and row.amount < 10**9]
            booked = sum((row.amount if row.credit else -row.amount) for row in rows if row.status == "Booked")
            pending = sum(row.amount for row in rows if row.status == "Pending" and not row.credit)
            amount = balance.amount + booked
            line = Decimal(5000) if account.sub_type == "CurrentAccount" and balance.currency == "AED" else None
            closed.append(replace(balance, amount=amount, at=at))
            closed.append(replace(balance, type="InterimAvailable", amount=amount - pending, at=at, credit_line=line))
        account.balances = closed

    # -- small things -------------------------------------------------------------------------------------------------

    def _at(self, day: date, *, hour: int) -> datetime:
        moment = time(hour, self.dice.randint(0, 59), self.dice.randint(0, 59), self.dice.randrange(1000) * 1000)
        return datetime.combine(day, moment, tzinfo=UAE)

    def _price(self, least: int, most: int) -> Decimal:
        return Decimal(self.dice.randint(least * 100, most * 100)) / Decimal(100)

    def _merchant(self, name: str, code: str) -> Merchant:
        number = sum(name.encode()) * 7919 + self.number % 3
        return Merchant(merchant_id=10**11 + number, name=name, category_code=code)

    def _id(self) -> str:
        self.counter += 1
        return f"T{self.number:05d}{self.counter:06d}{self._digits(9)}"

    def _long_id(self) -> str:
        alphabet = string.ascii_letters + string.digits + "-_./:"
        return "L" + "".join(self.dice.choices(alphabet, k=LONG_ID - 1))

    def _digits(self, count: int) -> str:
        return f"{self.dice.randrange(10**count):0{count}d}"


def replace_currency(account: Account, currency: str) -> Account:
    """The same account seen in another of its currencies: its lines are shared."""
    seen = replace(account, currency=currency)
    seen.transactions = account.transactions
    return seen


def _iban(number: str) -> str:
    """An AE IBAN of the sandbox's bank code 999 with valid check digits.

    Source: ISO 13616: `AE`, two check digits, three for the bank, sixteen for the account.
    """
    check = 98 - int(f"999{number}101400") % 97
    return f"AE{check:02d}999{number}"

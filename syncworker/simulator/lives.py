"""One person's months up to the anchor: what came in, what went out, what they signed.

A life has a salary near the end of the month, rent by cheque or transfer, DEWA, telephone, groceries, fuel, coffee,
delivery, a savings plan, remittances home, now and then a refund; some card payments are still pending.  Nothing here
is a real person, merchant or account: names come from short lists, IBANs carry the bank code 999 of the sandbox.

Each person with transactions also gets, on purpose, what makes readers stumble though the standard allows it: five
decimals, dinars with three, `+04:00` beside `Z`, instants without a fraction, 20-digit merchant ids, a 210-character
TransactionId, a 256-character DirectDebitId, Arabic.  `strays` adds items that break the standard as real LFIs do (trap
31): three transactions (an unknown enum value, an unknown member, an instant without offset), and on every account of
every day a beneficiary and a direct debit with enum values of the bank's own.
"""

import string
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final

from syncworker.simulator.arrangements import Product
from syncworker.simulator.arranging import Arranger
from syncworker.simulator.dice import Dice
from syncworker.simulator.ledger import (
    Account,
    Balance,
    Business,
    Counterparty,
    Customer,
    Exchange,
    Merchant,
    PartyRole,
    Person,
    Style,
    Transaction,
)
from syncworker.standard.resources import ResourceName
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
TRADES: Final = ("Trading", "Catering", "Motors", "Textiles")
LINES: Final = {"CurrentAccount": Decimal(5_000), "CreditCard": Decimal(25_000)}
"""Credit lines by account sub-type."""

N = ResourceName


class Kind(StrEnum):
    """Kinds of lives, in the order in which customers come."""

    SALARIED = "salaried"
    """Salary, savings, and a travel wallet in four currencies."""
    SAVER = "saver"
    """Salary, a savings account with a second owner, and an account nothing ever happened on."""
    CARDS = "cards"
    SME = "sme"
    JOINT = "joint"
    SPOUSE = "spouse"
    """Sees the joint account of the customer before them."""
    LENDING = "lending"
    """A mortgage and Islamic finance: Murabaha and Ijara in turn."""
    THIN = "thin"
    """One empty account."""


LONG: Final = frozenset({Kind.CARDS, Kind.SME, Kind.LENDING})
"""Lives of more than a year."""


def kind_of(number: int) -> Kind:
    """The kind of the n-th customer."""
    return tuple(Kind)[number % len(Kind)]


class Life:
    """One person's months up to the anchor, in order."""

    def __init__(self, number: int, user: str, *, seed: int, anchor: date, strays: bool) -> None:
        self.dice = Dice(f"{seed}/{number}")
        self.number, self.user, self.anchor, self.strays = number, user, anchor, strays
        self.terms = Arranger(Dice(f"{seed}/{number}/terms"), today=anchor)
        self.kind = kind_of(number)
        self.months = self.dice.randint(6, 9)
        if self.kind in LONG:
            self.months = 13 + self.months % 2
        self.salary = Decimal(self.dice.randrange(7_000, 32_000, 250))
        self.person = self._person()
        self.counter = 0

    def live(self, *, partner: Person | None = None, joint: Account | None = None) -> Customer:
        """The customer this life made.

        Args:
            partner: who shares the joint account of a `Kind.JOINT`.
            joint: the account a `Kind.SPOUSE` shares.
        """
        match self.kind:
            case Kind.CARDS:
                accounts = self._cards()
            case Kind.SME:
                accounts = self._business()
            case Kind.JOINT:
                accounts = self._joint(partner)
            case Kind.LENDING:
                accounts = self._lending()
            case Kind.THIN:
                accounts = [self._arranged(self._account("CurrentAccount", "AED", "First account", Decimal(0)))]
            case _:
                accounts = self._salaried()
        for account in accounts:
            self._close_books(account)
        return Customer(user=self.user, person=self.person, accounts=[*accounts, joint] if joint else accounts)

    # -- kinds of lives -----------------------------------------------------------------------------------------------

    def _salaried(self) -> list[Account]:
        current = self._account("CurrentAccount", "AED", "Current account", Decimal(self.dice.randint(4_000, 30_000)))
        savings = self._account("Savings", "AED", "Savings account", Decimal(self.dice.randint(10_000, 90_000)))
        self._months_of(current, savings, spending=current, visits=0.4 if self.kind is Kind.SPOUSE else 1)
        third = self._travel_wallet() if self.kind is Kind.SALARIED else self._goal_account()
        if self.kind is Kind.SAVER:
            spouse = replace(
                self.person, party_id=f"{self.person.party_id}-2", party_number=f"{self.person.party_number}2",
                given_name="Noor", emirates_id=self._emirates_id(1991),
            )  # fmt: skip
            savings.parties.append(PartyRole(person=spouse, party_type="Joint", role="SecondaryOwner"))
        self._everyday(current, locked=self.kind is Kind.SALARIED)
        self._arranged(savings, product=self.terms.savings_product(sharia=bool(savings.sharia)))
        return [current, savings, third]

    def _cards(self) -> list[Account]:
        """A current account that pays a credit card off, never quite."""
        current = self._account("CurrentAccount", "AED", "Current account", Decimal(self.dice.randint(4_000, 30_000)))
        savings = self._account("Savings", "AED", "Savings account", Decimal(self.dice.randint(10_000, 90_000)))
        card = self._account("CreditCard", "AED", "Credit card", Decimal(self.dice.randint(-4_000, -500)))
        card = replace(card, masked_pan=f"5{self.dice.digits(3)}********{self.dice.digits(4)}")
        self._months_of(current, savings, spending=card, visits=0.45)
        for first in self._month_starts():
            paid = self.dice.price(900, 2600)
            day = first + timedelta(days=24)
            self._transfer(
                current, day, paid, credit=False, name=self.person.full_name, narration="Card payment", same=True
            )
            self._line(
                card, day, paid, credit=True, kind="SameBankTransfer", sub_kind="Repayments", narration="Thank you"
            )
            if self.dice.random() < 0.3:
                self._line(card, day, Decimal("241.50"), kind="Other", sub_kind="Fee", narration="Late payment")
        self._everyday(current, locked=True)
        self._arranged(savings, product=self.terms.savings_product(sharia=bool(savings.sharia)))
        return [current, self._arranged(card, product=self.terms.card_product()), savings]

    def _business(self) -> list[Account]:
        """A small company: what customers pay, suppliers, wages, rent, VAT."""
        name = f"{self.person.surname} {self.dice.choice(TRADES)} LLC"
        human = self.person
        licence, tax = f"CN-{self.dice.digits(7)}", f"100{self.dice.digits(12)}"
        founded = date(self.dice.randint(2005, 2023), self.dice.randint(1, 12), 1)
        business = Business(name=name, licence=licence, tax_number=tax, incorporated=founded, industry="Trading")
        self.person = replace(human, business=business, email=f"office-{human.email}")
        delegate = replace(human, party_id=f"{human.party_id}-D", party_number=f"{human.party_number}9")
        opening = Decimal(self.dice.randint(40_000, 200_000))
        current = replace(self._account("CurrentAccount", "AED", "Business account", opening), account_type="SME")
        reserve = replace(self._account("Savings", "AED", "VAT reserve", Decimal(20_000)), account_type="SME")
        for account in (current, reserve):
            account.parties.append(PartyRole(person=delegate, party_type="Delegate", role="Administrator"))
        for first in self._month_starts():
            self._business_month(current, reserve, first)
        self._pending(current)
        self._odd(current)
        self._everyday(current, locked=True)
        return [current, self._arranged(reserve, product=self.terms.savings_product(sharia=False))]

    def _business_month(self, current: Account, reserve: Account, first: date) -> None:
        dice = self.dice
        for _ in range(dice.randint(8, 12)):
            day = first + timedelta(days=dice.randint(0, 27))
            self._transfer(current, day, dice.price(500, 13_000), credit=True, name=dice.choice(EMPLOYERS),
                           narration=f"INV {dice.digits(5)}")  # fmt: skip
        for _ in range(dice.randint(5, 8)):
            day = first + timedelta(days=dice.randint(0, 27))
            self._transfer(current, day, dice.price(400, 9_000), credit=False, name="Supplier Sample FZCO",
                           narration=f"PO {dice.digits(5)}")  # fmt: skip
        for _ in range(3):
            self._transfer(current, first + timedelta(days=26), dice.price(3_000, 6_500), credit=False,
                           name="Worker Sample", narration="WPS WAGES", flags=("Payroll",))  # fmt: skip
        self._transfer(
            current, first, Decimal(8_500), credit=False, name="Sandbox Properties LLC", narration="Warehouse"
        )
        self._bill(current, first + timedelta(days=dice.randint(3, 9)), "DEWA (sandbox)", "4900", 400, 2_400)
        vat = dice.price(800, 4_000)
        for account, credit in ((current, False), (reserve, True)):
            self._transfer(account, first + timedelta(days=20), vat, credit=credit, name=self.person.legal_name,
                           narration="VAT reserve", same=True)  # fmt: skip

    def _joint(self, partner: Person | None) -> list[Account]:
        """One's own account, and one shared with a partner who is a customer too: theirs is the daily spending."""
        current = self._account("CurrentAccount", "AED", "Current account", Decimal(self.dice.randint(4_000, 30_000)))
        joint = self._account("CurrentAccount", "AED", "Family account", Decimal(self.dice.randint(2_000, 9_000)))
        self._months_of(current, joint, spending=joint)
        joint.parties[:] = [PartyRole(person=self.person, party_type="Joint", role="Principal")]
        if partner is not None:
            joint.parties.append(PartyRole(person=partner, party_type="Joint", role="SecondaryOwner"))
        self._everyday(current, locked=False)
        self._everyday(joint, locked=False)
        return [current, joint]

    def _lending(self) -> list[Account]:
        """A current account, a mortgage and Islamic finance, each paid back month by month."""
        current = self._account("CurrentAccount", "AED", "Current account", Decimal(self.dice.randint(9_000, 30_000)))
        elsewhere = self._account("Savings", "AED", "Savings at another bank", Decimal(0))
        self._months_of(current, elsewhere, spending=current, visits=0.3)
        structure = "Murabaha" if self.number // len(Kind) % 2 == 0 else "Ijara"
        mortgage = self._loan(
            "Mortgage", "Home loan", Decimal(self.dice.randint(-1_400_000, -600_000)), "MortgageReference"
        )
        finance = self._loan(
            "Finance", f"{structure} finance", Decimal(self.dice.randint(-140_000, -60_000)), "FinanceReference"
        )
        finance.sharia, mortgage.sharia = True, False
        repaid = "LeaseRepayment" if structure == "Ijara" else "Repayments"
        cost = {"Mortgage": ("Interest", Decimal("0.0033")), "Finance": ("Profit", Decimal("0.0037"))}
        house, other = ((self.salary * Decimal(part)).quantize(Decimal(1)) for part in ("0.28", "0.11"))
        for first in self._month_starts():
            for loan, sub_kind, amount in ((mortgage, "Repayments", house), (finance, repaid, other)):
                day = first + timedelta(days=1)
                self._transfer(current, day, amount, credit=False, name="Sandbox LFI", narration=loan.description,
                               flags=("Finance",), same=True)  # fmt: skip
                self._line(loan, day, amount, credit=True, kind="SameBankTransfer", sub_kind=sub_kind,
                           narration="Instalment", flags=("Finance",))  # fmt: skip
                cost_kind, rate = cost[loan.sub_type]
                charged = (-loan.balances[0].amount * rate).quantize(Decimal("0.01"))
                self._line(loan, first + timedelta(days=27), charged, kind="Other", sub_kind=cost_kind)
        self._everyday(current, locked=False)
        self._arranged(mortgage, product=self.terms.mortgage_product())
        locked = self.number // len(Kind) % 4 >= 2
        self._arranged(finance, product=self.terms.sharia_product(structure, locked=locked))
        return [current, mortgage, finance]

    def _loan(self, sub_type: str, description: str, opening: Decimal, scheme: str) -> Account:
        account = self._account(sub_type, "AED", description, opening)
        ends = self.dice.at(self.anchor + timedelta(days=self.dice.randint(1_000, 8_000)), hour=12)
        return replace(account, references=((scheme, f"LN{self.dice.digits(10)}"),), matures_at=ends)

    def _goal_account(self) -> Account:
        """Opened once; nothing ever happened on it."""
        return self._arranged(self._account("Savings", "AED", "Goal account", Decimal(0)))

    def _months_of(self, current: Account, savings: Account, *, spending: Account, visits: float = 1) -> None:
        for month in self._month_starts():
            self._month(current, savings, month, spending=spending, visits=visits)
        self._pending(spending)
        self._odd(current)

    def _odd(self, account: Account) -> None:
        self._awkward(account)
        if self.strays:
            self._stray(account)

    # -- what lies beside the transactions ----------------------------------------------------------------------------

    def _everyday(self, account: Account, *, locked: bool) -> None:
        """Everything an account of every day has: payees, mandates, orders."""
        dice, terms = self.terms.dice, self.terms
        self._arranged(account, product=terms.current_product(locked=locked, salary=account.account_type == "Retail"))
        account.listings |= {
            N.BENEFICIARIES: [terms.beneficiary() for _ in range(dice.randint(3, 6))],
            N.DIRECT_DEBITS: [terms.direct_debit(longest=number == 0) for number in range(dice.randint(2, 3))],
            N.STANDING_ORDERS: [terms.standing_order() for _ in range(dice.randint(1, 3))],
            N.SCHEDULED_PAYMENTS: [terms.scheduled_payment() for _ in range(dice.randint(1, 3))],
        }

        if self.strays:
            odd = terms.beneficiary()
            payee = replace(odd.payee, agent_scheme="OTHER")
            account.listings[N.BENEFICIARIES].append(replace(odd, beneficiary_type="CoolingOff", payee=payee))
            account.listings[N.DIRECT_DEBITS].append(replace(terms.direct_debit(), frequency="EverySecondFriday"))

    def _arranged(self, account: Account, *, product: Product | None = None) -> Account:
        """The least an account has: listings that may be empty but never lack, and its product when there is one."""
        account.listings[N.BENEFICIARIES] = []
        if product is not None:
            account.listings[N.PRODUCT] = [product]
        return account

    # -- who ----------------------------------------------------------------------------------------------------------

    def _person(self) -> Person:
        dice = self.dice
        given, surname = GIVEN[self.number % len(GIVEN)], dice.choice(SURNAMES)
        born = date(dice.randint(1960, 2001), dice.randint(1, 12), dice.randint(1, 28))
        town, emirate = dice.choice(TOWNS)
        return Person(
            party_id=f"P{self.dice.digits(11)}",
            party_number=self.dice.digits(8),
            given_name=given,
            surname=surname,
            emirates_id=self._emirates_id(born.year),
            emirates_id_expiry=self.anchor + timedelta(days=dice.randint(200, 900)),
            born=born,
            nationality=dice.choice(NATIONALITIES),
            mobile=f"+97150{self.dice.digits(7)}",
            email=f"{self.user}@customers.example",
            employer=dice.choice(EMPLOYERS),
            salary=self.salary,
            street=dice.choice(STREETS),
            town=town,
            emirate=emirate,
        )

    def _emirates_id(self, year: int) -> str:
        return f"784-{year}-{self.dice.digits(7)}-{self.dice.digits(1)}"

    def _account(self, sub_type: str, currency: str, description: str, opening: Decimal) -> Account:
        opened = self.dice.at(self._first_day() - timedelta(days=self.dice.randint(90, 2500)), hour=10)
        account = Account(
            account_id=self.dice.digits(24),
            holder=self.person,
            sub_type=sub_type,
            currency=currency,
            description=description,
            nickname=self.dice.choice((None, "Everyday", "الرئيسي", "Rainy days")),
            iban=self.dice.iban(),
            number=self.dice.digits(12),
            opened_at=opened,
            masked_pan=f"4{self.dice.digits(3)}********{self.dice.digits(4)}" if sub_type == "CurrentAccount" else None,
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

    def _month(self, current: Account, savings: Account, first: date, *, spending: Account, visits: float) -> None:
        dice = self.dice
        payday = first + timedelta(days=dice.randint(24, 27))
        self._transfer(current, payday, self.salary, credit=True, name=self.person.employer,
                       narration=f"SALARY {first:%b %Y}".upper(), flags=("Payroll",))  # fmt: skip
        rent = (self.salary * Decimal("0.28")).quantize(Decimal(1))
        if self.kind is Kind.LENDING:
            pass  # lives in the house that is lent on
        elif self.number % 2:
            self._transfer(current, first, rent, credit=False, name="Sandbox Properties LLC", narration="Rent")
        elif first.month % 3 == 1:
            self._line(current, first + timedelta(days=1), rent * 3, kind="Cheque", sub_kind="Withdrawal",
                       narration=f"CHEQUE {self.dice.digits(6)} RENT 4 CHEQUES")  # fmt: skip
        self._bill(spending, first + timedelta(days=dice.randint(3, 9)), "DEWA (sandbox)", "4900", 180, 900)
        self._bill(spending, first + timedelta(days=dice.randint(5, 12)), self._phone(), "4814", 199, 499)
        for name, code, least, most, usual in SHOPS:
            for _ in range(round(dice.randint(max(0, usual - 2), usual + 1) * visits)):
                self._purchase(spending, first + timedelta(days=dice.randint(0, 27)), name, code, least, most)
        self._line(current, first + timedelta(days=dice.randint(6, 20)), Decimal(dice.choice((200, 300, 500, 1000))),
                   kind="ATM", sub_kind="Withdrawal", narration="ATM CASH")  # fmt: skip
        saved = (self.salary * (Decimal("0.45") if spending is savings else Decimal("0.10"))).quantize(Decimal(1))
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
        self._line(account, day, self.dice.price(least, most), kind="BillPayments", sub_kind="Purchase", narration=name,
                   merchant=self._merchant(name, code), flags=("DirectDebit",))  # fmt: skip

    def _purchase(self, account: Account, day: date, name: str, code: str, least: int, most: int) -> Transaction | None:
        online = code == "5942"
        return self._line(
            account, day, self.dice.price(least, most), kind="ECommerce" if online else "POS", sub_kind="Purchase",
            narration=f"{name} {self.dice.digits(4)}", merchant=self._merchant(name, code),
            terminal=None if online else int(f"7{self.dice.digits(9)}"),
            card=("VISA", "Other" if online else self.dice.choice(("Contactless", "Chip", "ApplePay")),
                  (account.masked_pan or "4000********0000")[:16]),
        )  # fmt: skip

    def _remittance(self, account: Account, day: date) -> None:
        amount, rate = Decimal(self.dice.randrange(500, 4000, 50)), Decimal("0.04391")
        family = Counterparty(name="Beneficiary Sample", iban=self.dice.iban(), bic="SANDINBB")
        abroad = (amount / rate).quantize(Decimal("0.01"))
        self._line(account, day, amount, kind="InternationalTransfer", sub_kind="MoneyTransfer",
                   narration="Family support", charge=Decimal("15.75"),
                   exchange=Exchange(currency="INR", amount=abroad, rate=rate),
                   counterparty=family)  # fmt: skip

    def _transfer(self, account: Account, day: date, amount: Decimal, *, credit: bool, name: str, narration: str,
                  flags: tuple[str, ...] = (), same: bool = False) -> None:  # fmt: skip
        self._line(account, day, amount, credit=credit, kind="SameBankTransfer" if same else "LocalBankTransfer",
                   sub_kind="MoneyTransfer", narration=narration, flags=flags,
                   counterparty=Counterparty(name=name[:70], iban=self.dice.iban(), bic="SANDAEAD"))  # fmt: skip

    def _line(self, account: Account, day: date, amount: Decimal, *, kind: str, sub_kind: str, credit: bool = False,
              narration: str | None = None, merchant: Merchant | None = None, terminal: int | None = None,
              card: tuple[str, str, str] | None = None, exchange: Exchange | None = None,
              charge: Decimal | None = None, counterparty: Counterparty | None = None,
              flags: tuple[str, ...] = ()) -> Transaction | None:  # fmt: skip
        """Add one booked line, unless its day has not come yet."""
        happened = self.dice.at(day, hour=self.dice.randint(7, 22))
        booked = self.dice.at(day + timedelta(days=self.dice.randint(0, 2) if card else 0), hour=23)
        if booked.astimezone(UAE).date() > self.anchor:
            return None
        row = Transaction(
            transaction_id=self._id(), happened_at=happened, booked_at=max(booked, happened), value_at=booked,
            amount=amount, currency=account.currency, credit=credit, kind=kind, sub_kind=sub_kind,
            narration=narration, reference=f"REF{self.dice.digits(12)}", merchant=merchant, terminal_id=terminal,
            card=card, exchange=exchange, charge=charge, counterparty=counterparty, flags=flags,
            style=self.dice.choices((Style.MILLIS, Style.UAE, Style.SECONDS), (6, 3, 1))[0],
        )  # fmt: skip
        account.transactions.append(row)
        return row

    # -- special lines ------------------------------------------------------------------------------------------------

    def _pending(self, account: Account) -> None:
        for _ in range(self.dice.randint(1, 4)):
            happened = self.dice.at(self.anchor - timedelta(days=1), hour=self.dice.randint(8, 20))
            account.transactions.append(Transaction(
                transaction_id=self._id(), happened_at=happened, booked_at=happened + timedelta(days=2),
                amount=self.dice.price(10, 300), currency=account.currency, credit=False, kind="POS",
                sub_kind="Purchase", status="Pending", narration="Date & Cardamom Coffee",
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
            {"amount": Decimal("88.88"), "narration": "Near midnight in the UAE",
             "booked_at": self.dice.at(day, hour=0)},
        )  # fmt: skip
        for number, facts in enumerate(oddities):
            happened = self.dice.at(day, hour=9) + timedelta(minutes=number)
            plain = Transaction(
                transaction_id=self._id(), happened_at=happened, booked_at=happened, amount=Decimal(1),
                currency=account.currency, credit=False, kind="Other", sub_kind="NotApplicable",
            )  # fmt: skip
            account.transactions.append(replace(plain, **facts))  # type: ignore[arg-type]  # a table of members

    def _stray(self, account: Account) -> None:
        """What the standard forbids and LFIs send."""
        happened = self.dice.at(self.anchor - timedelta(days=9), hour=11)
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
        self._arranged(account)
        for currency, price in (("USD", "19.99"), ("EUR", "7.40"), ("KWD", "1.250"), ("USD", "130.00")):
            day = self.anchor - timedelta(days=self.dice.randint(10, 80))
            self._line(replace_currency(account, currency), day, Decimal(price), kind="POS", sub_kind="Purchase",
                       narration=f"Abroad {currency}")  # fmt: skip
        return account

    def _close_books(self, account: Account) -> None:
        """Bring the balances to the anchor: booked lines count at once, pending ones against what is available."""
        opening = account.balances[0].amount
        account.listings[N.STATEMENTS] = [*self.terms.statements(account, opening=opening, until=self.anchor)]
        account.sort()
        at = self.dice.at(self.anchor, hour=6)
        closed: list[Balance] = []
        for balance in account.balances:
            rows = [row for row in account.transactions if row.currency == balance.currency and row.amount < 10**9]
            booked = sum((row.amount if row.credit else -row.amount) for row in rows if row.status == "Booked")
            pending = sum(row.amount for row in rows if row.status == "Pending" and not row.credit)
            amount = balance.amount + booked
            line = LINES.get(account.sub_type) if balance.currency == "AED" else None
            closed.append(replace(balance, amount=amount, at=at, components=_components(account, amount)))
            closed.append(replace(balance, type="InterimAvailable", amount=amount - pending, at=at, credit_line=line))
        account.balances = closed

    # -- small things -------------------------------------------------------------------------------------------------

    def _merchant(self, name: str, code: str) -> Merchant:
        number = sum(name.encode()) * 7919 + self.number % 3
        return Merchant(merchant_id=10**11 + number, name=name, category_code=code)

    def _id(self) -> str:
        self.counter += 1
        return f"T{self.number:05d}{self.counter:06d}{self.dice.digits(9)}"

    def _long_id(self) -> str:
        alphabet = string.ascii_letters + string.digits + "-_./:"
        return "L" + "".join(self.dice.choices(alphabet, k=LONG_ID - 1))


def replace_currency(account: Account, currency: str) -> Account:
    """The same account seen in another of its currencies: its lines are shared."""
    seen = replace(account, currency=currency)
    seen.transactions = account.transactions
    return seen


def _components(account: Account, amount: Decimal) -> tuple[tuple[str, Decimal], ...]:
    """Of what is owed on a loan: what was lent, and what it costs."""
    if account.sub_type not in ("Mortgage", "Finance"):
        return ()
    cost = Decimal("120.55")
    return (("Principal", abs(amount) - cost), ("Profit" if account.sharia else "Interest", cost))

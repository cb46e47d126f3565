"""Invent what lies beside the transactions of an account: payees, mandates, orders, statements, terms.

The same maker serves the people of the sandbox and the verbs that add one more later.
"""

import base64
import json
import string
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Final

from syncworker.simulator.arrangements import (
    Arrangement,
    Beneficiary,
    DirectDebit,
    Money,
    Payee,
    Product,
    ScheduledPayment,
    StandingOrder,
    Statement,
    Total,
)
from syncworker.simulator.dice import Dice
from syncworker.simulator.ledger import Account
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import local_date

N = ResourceName
PAYEES: Final = (
    "Sample Landlord FZE",
    "Noor Testani",
    "Sandbox School",
    "عائلة النموذج",
    "Mockridge & Sons",
    "Car Park 12",
)
BILLERS: Final = (
    "DEWA (sandbox)",
    "Dú Mobile (sandbox)",
    "Etisalaat (sandbox)",
    "Gym Oasis (sandbox)",
    "Takaful Sample",
)
FREQUENCIES: Final = ("IntervalMonthDay:1:1", "IntervalMonthDay:1:28", "IntervalWeekDay:2:1", "EveryDay", "BiAnnual")
DIRECT_DEBIT_ID_MAX: Final = 256
CHARGE: Final[Mapping[str, Any]] = {
    "Type": "MonthlyFees", "Name": "Monthly fee", "Description": "Below the minimum balance",
    "Charge": [{"Amount": {"Amount": "26.25", "Currency": "AED"}, "ApplicationFrequency": "Monthly"}],
}  # fmt: skip


class Arranger:
    """Makes arrangements.

    Args:
        today: the day they are made on; orders to come lie behind it.
    """

    def __init__(self, dice: Dice, *, today: date) -> None:
        self.dice, self._today = dice, today
        self._makers: Mapping[ResourceName, Callable[[Account], Arrangement]] = {
            N.BENEFICIARIES: lambda _: self.beneficiary(),
            N.DIRECT_DEBITS: lambda _: self.direct_debit(),
            N.STANDING_ORDERS: lambda _: self.standing_order(),
            N.SCHEDULED_PAYMENTS: lambda _: self.scheduled_payment(),
            N.STATEMENTS: self.next_statement,
            N.PRODUCT: lambda _: self.current_product(locked=False),
        }

    def make(self, resource: ResourceName, account: Account) -> Arrangement:
        """One more of a kind.

        Raises:
            KeyError: not a listing of arrangements.
        """
        return self._makers[resource](account)

    def beneficiary(self) -> Beneficiary:
        """Somebody to pay: by IBAN, now and then by mobile number."""
        dice = self.dice
        mobile = dice.random() < 0.2
        payee = Payee(
            name=dice.choice(PAYEES),
            identification=f"+97150{dice.digits(7)}" if mobile else dice.iban(),
            scheme="MobileNumber" if mobile else "IBAN",
        )
        return Beneficiary(
            beneficiary_id=f"BEN-{dice.digits(12)}",
            payee=payee,
            beneficiary_type=dice.choice(("Activated", "Activated", "NotActivated")),
            added_via_of=dice.random() < 0.3,
            reference=dice.choice((None, "Rent", "مدرسة", f"REF {dice.digits(6)}")),
            supplementary={"Since": dice.randint(2015, 2026)} if dice.random() < 0.2 else None,
        )

    def direct_debit(self, *, longest: bool = False) -> DirectDebit:
        """A mandate; with `longest` its id has as many characters as the standard allows."""
        dice = self.dice
        name = dice.choice(BILLERS)
        drawn = dice.random() < 0.8
        alphabet, length = string.ascii_letters + string.digits + "-_./:", DIRECT_DEBIT_ID_MAX if longest else 16
        return DirectDebit(
            direct_debit_id="".join(dice.choices(alphabet, k=length)),
            mandate=f"MAND-{dice.digits(8)}",
            name=name,
            status="Active" if dice.random() < 0.85 else "Inactive",
            frequency=dice.choice(("Monthly", "Monthly", "Quarterly", "Annual", "NotKnown")),
            previous_at=dice.at(self._today - timedelta(days=dice.randint(2, 30)), hour=5) if drawn else None,
            previous=Money(amount=dice.price(50, 900)) if drawn else None,
        )  # fmt: skip

    def standing_order(self) -> StandingOrder:
        """A payment that repeats; some have an end."""
        dice = self.dice
        first = self._today - timedelta(days=dice.randint(40, 700))
        amount = Money(amount=dice.price(100, 4000))
        ends = dice.random() < 0.3
        return StandingOrder(
            standing_order_id=f"SO{dice.digits(14)}",
            frequency=dice.choice(FREQUENCIES),
            first_at=dice.at(first, hour=6),
            first=amount,
            payee=self._payee(),
            status="Active" if dice.random() < 0.85 else "Inactive",
            kind=dice.choice(("LocalBankTransfer", "SameBankTransfer", "BetweenMyAccounts", "Charity", None)),
            next_at=dice.at(self._today + timedelta(days=dice.randint(1, 30)), hour=6),
            next=amount,
            last_at=dice.at(self._today - timedelta(days=dice.randint(1, 30)), hour=6),
            last=amount,
            final_at=dice.at(self._today + timedelta(days=dice.randint(90, 400)), hour=6) if ends else None,
            final=Money(amount=dice.price(1, 99)) if ends else None,
            payments=str(dice.randint(6, 36)) if ends else None,
            reference=dice.choice((None, "SAVE", "زكاة")),
            purpose=dice.choice((None, "Rent", "School fees")),
        )

    def scheduled_payment(self) -> ScheduledPayment:
        """A payment within two months; some in another currency."""
        dice = self.dice
        currency = dice.choice(("AED", "AED", "USD", "KWD"))
        amount = Decimal(dice.randint(10_000, 900_000)) / Decimal(1000 if currency == "KWD" else 100)
        return ScheduledPayment(
            scheduled_payment_id=f"SP{dice.digits(14)}",
            scheduled_at=dice.at(self._today + timedelta(days=dice.randint(1, 60)), hour=9),
            instructed=Money(amount=amount, currency=currency),
            payee=self._payee(),
            scheduled_type=dice.choice(("Arrival", "Execution")),
            reference=dice.choice((None, "Invoice 17", "دفعة")),
        )

    # -- statements ---------------------------------------------------------------------------------------------------

    def statements(self, account: Account, *, opening: Decimal, until: date) -> list[Statement]:
        """One statement for each whole month from the first line to `until`, newest first.

        Args:
            opening: the balance before the first line, with its sign.
        """
        days = [local_date(row.booked_at) for row in account.transactions]
        made: list[Statement] = []
        first = min(days, default=until).replace(day=1)
        while (following := next_month(first)) <= until:
            made.append(self._statement(account, first, opening))
            opening, first = made[-1].closing_balance, following
        return made[::-1]

    def next_statement(self, account: Account) -> Statement:
        """The statement behind the newest one, or, when its month has not begun, the one before the oldest."""
        listed = [one for one in account.listings.get(N.STATEMENTS, []) if isinstance(one, Statement)]
        this_month = self._today.replace(day=1)
        if not listed:
            return self._statement(account, this_month, Decimal(0))
        newest, oldest = (choose(listed, key=lambda one: one.opening_date) for choose in (max, min))
        following = next_month(newest.opening_date.replace(day=1))
        if following <= this_month:
            return self._statement(account, following, newest.closing_balance)
        before = (oldest.opening_date.replace(day=1) - timedelta(days=1)).replace(day=1)
        return self._statement(account, before, Decimal(0))

    def _statement(self, account: Account, first: date, opening: Decimal) -> Statement:
        following = next_month(first)
        sums: dict[tuple[bool, str, str], tuple[Decimal, int]] = {}
        for row in account.transactions:
            if (
                row.status == "Booked"
                and row.currency == account.currency
                and first <= local_date(row.booked_at) < following
            ):
                kind = (row.credit, row.kind, row.sub_kind)
                amount, count = sums.get(kind, (Decimal(0), 0))
                sums[kind] = (amount + row.amount, count + 1)
        totals = tuple(
            Total(credit=credit, kind=kind, sub_kind=sub_kind, amount=amount, count=count)
            for (credit, kind, sub_kind), (amount, count) in sorted(sums.items())
        )
        closing = opening + sum((one.amount if one.credit else -one.amount for one in totals), Decimal(0))
        owed = max(-closing, Decimal(0))
        card, lending = account.sub_type == "CreditCard", account.sub_type in ("Mortgage", "Finance")
        least = max(owed / 20, Decimal(100)).quantize(Decimal("0.01"))
        return Statement(
            statement_id=f"ST-{first:%Y%m}-{self.dice.digits(10)}",
            issued_on=following,
            opening_date=first,
            closing_date=following - timedelta(days=1),
            opening_balance=opening,
            closing_balance=closing,
            currency=account.currency,
            totals=totals,
            credit_line=Decimal(25_000) if card else None,
            components=(("Principal", owed),) if lending else (),
            minimum=(following + timedelta(days=24), least) if card else None,
        )  # fmt: skip

    # -- terms --------------------------------------------------------------------------------------------------------

    def current_product(self, *, locked: bool, salary: bool = True) -> Product:
        """A current account with an overdraft, its rates open or locked."""
        open_rates = {
            "RateType": "VariableInterest", "Description": "Overdraft", "Rate": Decimal("9.75"),
            "BenchMark": "EIBOR 3M", "Margin": Decimal("5.5"), "RateReviewFrequency": "P3M",
            "InterestCalculationMethod": "OutstandingBalance",
        }  # fmt: skip
        rewards = [{"Type": "Points", "Name": "Dunes", "PointsType": "Dune", "Balance": self.dice.digits(5)}]
        return Product(
            finance_rates=self.locked() if locked else open_rates,
            is_secured=False,
            is_salary_transfer_required=salary,
            terms={"Charges": [CHARGE], "RewardsBenefits": rewards},
        )

    def savings_product(self, *, sharia: bool) -> Product:
        """Deposit rates, and no finance at all."""
        rate = {
            "RateCategory": "Standard",
            "AnnualRate": Decimal("2.125"),
            "Tier": {"MinBalance": "3000", "MaxBalance": "1000000", "Currency": "AED"},
            "CalculationFrequency": "Daily",
            "ApplicationFrequency": "Monthly",
        }
        kind = "VariableProfit" if sharia else "VariableInterest"
        return Product(
            terms={"DepositRates": {"RateType": kind, "RateDetails": [rate]}},
            product_id="SA-2",
            product_type="Savings",
            product_name="Growing savings",
            is_islamic=sharia,
        )

    def card_product(self) -> Product:
        """A credit card; what it costs is locked."""
        cashback = {"Type": "Cashback", "Name": "Two percent", "Balance": {"Amount": "12.40", "Currency": "AED"}}
        late = {
            "Type": "LatePayment", "Name": "Late payment", "Description": "For each month in arrears",
            "Charge": [{"Amount": {"Amount": "241.50", "Currency": "AED"}}],
        }  # fmt: skip
        return Product(
            finance_rates=self.locked(),
            is_secured=False,
            terms={"Charges": [late], "RewardsBenefits": [cashback]},
            product_id="CC-3",
            product_type="CreditCard",
            product_name="Cashback card",
        )

    def mortgage_product(self) -> Product:
        """A conventional mortgage: fixed first, then variable."""
        house = {
            "Type": "Collateral", "AssetType": "Property", "Description": "Apartment",
            "Valuation": [{"Date": "2024-02-01", "Amount": {"Amount": "1450000.00", "Currency": "AED"}}],
        }  # fmt: skip
        rates = {
            "RateType": "HybridInterest",
            "FixedRate": {"Description": "Three years", "Rate": Decimal("3.99"), "FixedRateEnd": "2027-02-01",
                          "Notes": "Fixed", "CalculationFrequency": "Daily"},
            "VariableRate": {"Rate": Decimal("5.125"), "BenchMark": "EIBOR 6M", "VariableTerm": "P22Y",
                             "Notes": "After that"},
            "AnnualPercentageRate": {"UpTo": Decimal("5.31")},
        }  # fmt: skip
        return Product(
            finance_rates=rates,
            is_secured=True,
            is_salary_transfer_required=True,
            terms={"Tenor": {"OriginalTenor": "P25Y", "RemainingTenor": "P22Y4M"}, "AssetBacked": [house]},
            product_id="MO-4",
            product_type="Mortgage",
            product_name=None,
        )

    def sharia_product(self, structure: str, *, locked: bool) -> Product:
        """Islamic finance: `Murabaha` on a car, or `Ijara` that ends in ownership."""
        rates = {"RateType": "FixedProfit", "Rate": Decimal("4.49"), "ProfitCalculationMethod": "InitialDrawdownAmount",
                 "CalculationFrequency": "Monthly", "Notes": "Agreed at the sale"}  # fmt: skip
        asset: dict[str, Any] = {"Type": "Collateral", "AssetType": "Vehicle", "Description": "Car"}
        if structure == "Ijara":
            ownership = {"Type": "Gift", "Method": "EndOfLease", "TransferConditions": ["AllLeasePaymentsCompleted"]}
            asset = {"Type": "OwnershipTransfer", "AssetType": "Property", "Description": "Villa",
                     "OwnershipTransfer": ownership}  # fmt: skip
        return Product(
            finance_rates=self.locked() if locked else rates,
            sharia_structure=structure,
            is_secured=True,
            is_salary_transfer_required=structure == "Murabaha",
            terms={"Tenor": {"OriginalTenor": "P5Y", "RemainingTenor": "P3Y2M"}, "AssetBacked": [asset]},
            product_id=f"IF-5-{structure}",
            product_type="PersonalLoan",
            product_name=f"{structure} finance",
            is_islamic=True,
        )

    def locked(self) -> str:
        """Rates the bank locked for its customer: five parts, opaque to everybody else."""
        header = json.dumps({"alg": "RSA-OAEP-256", "enc": "A256GCM", "kid": f"customer-{self.dice.digits(6)}"})
        parts = (self.dice.digits(size).encode() for size in (64, 16, 180, 16))
        return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (header.encode(), *parts))

    def _payee(self) -> Payee:
        return Payee(name=self.dice.choice(PAYEES), identification=self.dice.iban())


def next_month(day: date) -> date:
    """The first of the month behind a day's."""
    return (day.replace(day=28) + timedelta(days=4)).replace(day=1)

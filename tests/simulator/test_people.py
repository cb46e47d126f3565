"""The people of the sandbox: always the same, plausible, and awkward on purpose."""

from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest

from syncworker.simulator.arrangements import KINDS, MAY_LACK, Statement
from syncworker.simulator.ledger import Customer, Transaction
from syncworker.simulator.lives import LONG, LONG_ID, Kind, kind_of
from syncworker.simulator.people import People
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import UAE, local_date

pytestmark = pytest.mark.unit

N = ResourceName
ANCHOR = date(2026, 11, 21)


def people(*, seed: int = 1, customers: int = 12) -> list[Customer]:
    made = People(customers=customers, seed=seed, anchor=ANCHOR, strays=True)
    return [made.make(user) for user in made.users]


EVERYONE = people()
ACCOUNTS = {account.account_id: account for one in EVERYONE for account in one.accounts}
EVERYTHING = [row for account in ACCOUNTS.values() for row in account.transactions]
BUSY = [one for number, one in enumerate(EVERYONE) if kind_of(number) is not Kind.THIN]


def of_kind(kind: Kind) -> list[Customer]:
    return [one for number, one in enumerate(EVERYONE) if kind_of(number) is kind]


def test_the_same_seed_makes_the_same_lives() -> None:
    """Whenever and in whatever order they are made."""
    made = People(customers=12, seed=1, anchor=ANCHOR, strays=True)
    assert [made.make(user) for user in reversed(made.users)] == EVERYONE[::-1]


def test_another_seed_makes_other_lives() -> None:
    """No account is shared between two sandboxes of different seeds."""
    ids = [{account.account_id for one in made for account in one.accounts} for made in (EVERYONE, people(seed=2))]
    assert ids[0].isdisjoint(ids[1])


def test_everyone_has_a_few_accounts_and_some_hundred_lines() -> None:
    """Two to four accounts, 150 to 400 transactions, over half a year or more; but for the thin file."""
    for one in BUSY:
        rows = [row for account in one.accounts for row in account.transactions]
        assert 2 <= len(one.accounts) <= 4
        assert 150 <= len(rows) <= 400
        assert max(row.booked_at for row in rows) - min(row.booked_at for row in rows) > timedelta(days=150)


def test_some_histories_are_longer_than_a_year() -> None:
    """A backfill in slices of 90 days has five of them to fetch."""
    spans = {
        kind: max(
            ANCHOR - min(local_date(row.booked_at) for account in one.accounts for row in account.transactions)
            for one in of_kind(kind)
        )
        for kind in LONG
    }
    assert all(span > timedelta(days=4 * 90) for span in spans.values())


def test_a_thin_file_is_one_empty_account() -> None:
    """With a balance of zero and hardly a listing."""
    (thin,) = of_kind(Kind.THIN)
    (account,) = thin.accounts
    assert (account.transactions, {balance.amount for balance in account.balances}) == ([], {Decimal(0)})
    assert account.listings == {N.BENEFICIARIES: [], N.STATEMENTS: []}


def test_two_customers_see_one_joint_account() -> None:
    """The same object, with both of them as its parties."""
    (first, *_), (second, *_) = of_kind(Kind.JOINT), of_kind(Kind.SPOUSE)
    assert first.accounts[-1] is second.accounts[-1]
    roles = {(role.person.party_id, role.party_type) for role in first.accounts[-1].parties}
    assert roles == {(first.person.party_id, "Joint"), (second.person.party_id, "Joint")}


def test_a_business_is_a_party_and_a_person_acts_for_it() -> None:
    """Accounts of type SME, held by the company."""
    for one in of_kind(Kind.SME):
        assert {account.account_type for account in one.accounts} == {"SME"}
        assert [(role.person.category, role.party_type) for role in one.accounts[0].parties] == [
            ("SME", "Sole"), ("Retail", "Delegate"),
        ]  # fmt: skip


def test_finance_is_islamic_of_both_structures() -> None:
    """Murabaha for one customer, Ijara for the next; both pay back."""
    lent = [account for one in people(customers=16) for account in one.accounts if account.sub_type == "Finance"]
    structures = [product.sharia_structure for account in lent for product in account.listings[N.PRODUCT]]  # type: ignore[union-attr]
    assert structures == ["Murabaha", "Ijara"]
    assert all(account.sharia and account.balances[0].amount < 0 for account in lent)


def test_some_rates_are_locked_and_some_open() -> None:
    """A JWE has five parts."""
    rates = [product.finance_rates for one in ACCOUNTS.values() for product in one.listings.get(N.PRODUCT, [])]  # type: ignore[union-attr]
    assert {type(one) for one in rates} == {str, dict, type(None)}
    assert {one.count(".") for one in rates if isinstance(one, str)} == {4}


def test_statements_follow_one_another() -> None:
    """Newest first, month by month, each opening with what the one before closed with."""
    for account in ACCOUNTS.values():
        listed = account.listings[N.STATEMENTS]
        for newer, older in pairwise(listed):
            assert isinstance(newer, Statement)
            assert isinstance(older, Statement)
            assert older.closing_date + timedelta(days=1) == newer.opening_date
            assert older.closing_balance == newer.opening_balance


def test_an_account_lacks_what_does_not_apply_to_it() -> None:
    """404 for some, and never where the standard has none."""
    lacking = {name for one in ACCOUNTS.values() for name in KINDS if name not in one.listings}
    assert lacking == MAY_LACK


def test_salaries_come_near_the_end_of_the_month() -> None:
    """From the 25th to the 28th, one a month."""
    for one in BUSY:
        paid = [row for row in one.accounts[0].transactions if "Payroll" in row.flags and row.credit]
        days = [local_date(row.booked_at) for row in paid]
        assert {row.amount for row in paid} == (set() if one.person.business else {one.person.salary})
        assert all(25 <= day.day <= 28 for day in days)
        assert max(Counter((day.year, day.month) for day in days).values(), default=1) == 1


def test_nothing_is_booked_after_the_anchor() -> None:
    """Only pending lines look ahead."""
    assert {row.status for row in EVERYTHING if row.booked_at.astimezone(UAE).date() > ANCHOR} == {"Pending"}


def test_balances_are_what_the_lines_add_up_to() -> None:
    """Between opening and anchor, an account moves by its booked lines; pending debits are held back."""
    for account in ACCOUNTS.values():
        by_type = {(b.type, b.currency): b.amount for b in account.balances}
        for currency in {b.currency for b in account.balances}:
            rows = [row for row in account.transactions if row.currency == currency]
            pending = sum((row.amount for row in rows if row.status == "Pending"), Decimal(0))
            held = by_type["InterimBooked", currency] - by_type["InterimAvailable", currency]
            assert held == pending


def test_ids_are_unique() -> None:
    """TransactionIds across the whole bank, AccountIds as well."""
    shared = sum(len(one.accounts) for one in EVERYONE) - len(of_kind(Kind.SPOUSE))
    assert len({row.transaction_id for row in EVERYTHING}) == len(EVERYTHING)
    assert len(ACCOUNTS) == shared


def test_ibans_have_a_valid_shape_and_the_sandboxs_bank_code() -> None:
    """ISO 13616: the number modulo 97 is 1."""
    for one in EVERYONE:
        for account in one.accounts:
            digits = "".join(str(int(sign, 36)) for sign in account.iban[4:] + account.iban[:4])
            assert (len(account.iban), account.iban[4:7], int(digits) % 97) == (23, "999", 1)


@pytest.mark.parametrize(
    "awkward",
    [
        pytest.param(lambda row: row.amount.as_tuple().exponent == -5, id="five decimals"),
        pytest.param(lambda row: row.currency == "KWD" and row.amount.as_tuple().exponent == -3, id="three for dinars"),
        pytest.param(lambda row: len(row.transaction_id) == LONG_ID, id="the longest id"),
        pytest.param(lambda row: row.merchant and row.merchant.merchant_id > 2**64, id="a merchant beyond 64 bits"),
        pytest.param(lambda row: row.narration and not row.narration.isascii(), id="not ASCII"),
        pytest.param(lambda row: row.amount > 2**43 and float(row.amount) != row.amount, id="beyond a double"),
        pytest.param(lambda row: row.status == "Pending", id="pending"),
        pytest.param(lambda row: row.stray, id="a member or value the standard does not know"),
    ],
)
def test_everyone_has_awkward_values(awkward: Callable[[Transaction], object]) -> None:
    """Each person with transactions is a trap of their own."""
    for one in BUSY:
        assert any(awkward(row) for account in one.accounts for row in account.transactions)


def test_some_accounts_are_empty_and_some_have_many_currencies() -> None:
    """Both kinds exist among the first two people already."""
    kinds = {
        (not account.transactions, len({b.currency for b in account.balances}))
        for one in EVERYONE[:2]
        for account in one.accounts
    }
    assert {(True, 1), (False, 4)} <= kinds

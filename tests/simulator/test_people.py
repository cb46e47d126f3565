"""The people of the sandbox: always the same, plausible, and awkward on purpose."""

from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal

import pytest

from syncworker.simulator.ledger import Customer, Transaction
from syncworker.simulator.people import LONG_ID, People
from syncworker.standard.values import UAE, local_date

pytestmark = pytest.mark.unit

ANCHOR = date(2026, 11, 21)


def people(*, seed: int = 1, customers: int = 12) -> list[Customer]:
    made = People(customers=customers, seed=seed, anchor=ANCHOR, strays=True)
    return [made.make(user) for user in made.users]


EVERYONE = people()
EVERYTHING = [row for one in EVERYONE for account in one.accounts for row in account.transactions]


def test_the_same_seed_makes_the_same_lives() -> None:
    """Whenever and in whatever order they are made."""
    made = People(customers=12, seed=1, anchor=ANCHOR, strays=True)
    assert [made.make(user) for user in reversed(made.users)] == EVERYONE[::-1]


def test_another_seed_makes_other_lives() -> None:
    """No account is shared between two sandboxes of different seeds."""
    ids = [{account.account_id for one in made for account in one.accounts} for made in (EVERYONE, people(seed=2))]
    assert ids[0].isdisjoint(ids[1])


def test_everyone_has_a_few_accounts_and_some_hundred_lines() -> None:
    """Two or three accounts, 150 to 400 transactions, over half a year or more."""
    for one in EVERYONE:
        rows = [row for account in one.accounts for row in account.transactions]
        assert 2 <= len(one.accounts) <= 3
        assert 150 <= len(rows) <= 400
        assert max(row.booked_at for row in rows) - min(row.booked_at for row in rows) > timedelta(days=150)


def test_salaries_come_near_the_end_of_the_month() -> None:
    """From the 25th to the 28th, one a month."""
    for one in EVERYONE:
        paid = [row for row in one.accounts[0].transactions if "Payroll" in row.flags]
        days = [local_date(row.booked_at) for row in paid]
        assert {row.amount for row in paid} == {one.person.salary}
        assert all(25 <= day.day <= 28 for day in days)
        assert max(Counter((day.year, day.month) for day in days).values()) == 1


def test_nothing_is_booked_after_the_anchor() -> None:
    """Only pending lines look ahead."""
    assert {row.status for row in EVERYTHING if row.booked_at.astimezone(UAE).date() > ANCHOR} == {"Pending"}


def test_balances_are_what_the_lines_add_up_to() -> None:
    """Between opening and anchor, an account moves by its booked lines; pending debits are held back."""
    for one in EVERYONE:
        for account in one.accounts:
            by_type = {(b.type, b.currency): b.amount for b in account.balances}
            for currency in {b.currency for b in account.balances}:
                pending = sum(
                    (
                        row.amount
                        for row in account.transactions
                        if row.status == "Pending" and row.currency == currency
                    ),
                    Decimal(0),
                )
                held = by_type["InterimBooked", currency] - by_type["InterimAvailable", currency]
                assert held == pending


def test_ids_are_unique() -> None:
    """TransactionIds across the whole bank, AccountIds as well."""
    accounts = [account.account_id for one in EVERYONE for account in one.accounts]
    assert len({row.transaction_id for row in EVERYTHING}) == len(EVERYTHING)
    assert len(set(accounts)) == len(accounts)


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
    """Each person is a trap of their own."""
    for one in EVERYONE:
        assert any(awkward(row) for account in one.accounts for row in account.transactions)


def test_some_accounts_are_empty_and_some_have_many_currencies() -> None:
    """Both kinds exist among the first two people already."""
    kinds = {
        (not account.transactions, len({b.currency for b in account.balances}))
        for one in EVERYONE[:2]
        for account in one.accounts
    }
    assert {(True, 1), (False, 4)} <= kinds

"""A consent's permissions open exactly the calls they open, none other: from the bank's own log."""

from collections.abc import Iterable, Mapping
from itertools import combinations
from itertools import product as pairs_of
from random import Random
from typing import Final

import pytest

from syncworker.standard.permissions import P, Permission, askable, faults_of
from syncworker.standard.versions import Version
from tests.sync.house import Product

pytestmark = pytest.mark.flow

# Bank Data Sharing Requirements, "consent.Permissions", written out once more: the catalogue is what is tested.
OPENS: Final[Mapping[Permission, tuple[str, ...]]] = {
    P.ReadAccountsBasic: ("accounts",),
    P.ReadAccountsDetail: ("accounts",),
    P.ReadBalances: ("balances",),
    P.ReadBeneficiariesBasic: ("beneficiaries",),
    P.ReadBeneficiariesDetail: ("beneficiaries",),
    P.ReadFXTransactionsBasic: (),
    P.ReadFXTransactionsDetail: (),
    P.ReadFXRemittanceCharges: (),
    P.ReadTransactionsBasic: ("transactions",),
    P.ReadTransactionsDetail: ("transactions",),
    P.ReadProduct: ("product",),
    P.ReadProductFinanceRates: (),
    P.ReadScheduledPaymentsBasic: ("scheduled_payments",),
    P.ReadScheduledPaymentsDetail: ("scheduled_payments",),
    P.ReadDirectDebits: ("direct_debits",),
    P.ReadStandingOrdersBasic: ("standing_orders",),
    P.ReadStandingOrdersDetail: ("standing_orders",),
    P.ReadStatements: ("statements",),
    P.ReadParty: ("account_parties", "parties"),
    P.ReadPartyUser: ("account_parties", "parties"),
    P.ReadPartyUserIdentity: ("account_parties", "parties"),
}


def opened(permissions: Iterable[Permission]) -> set[str]:
    """Operations that may be called; without `/accounts` there is no account to ask for."""
    calls = {operation for code in permissions for operation in OPENS[code]}
    return calls if "accounts" in calls else calls & {"parties"}


def pairwise() -> list[frozenset[Permission]]:
    """Sets in which every two permissions occur in all four ways, as far as the Hub takes the set."""
    dice, codes = Random(7), sorted(OPENS)
    open_pairs = {
        (one, other, states) for one, other in combinations(codes, 2) for states in pairs_of((True, False), repeat=2)
    }
    chosen: list[frozenset[Permission]] = [frozenset({code}) for code in codes if not faults_of([code])]

    def covers(held: frozenset[Permission]) -> set[tuple[Permission, Permission, tuple[bool, bool]]]:
        return {(one, other, (one in held, other in held)) for one, other in combinations(codes, 2)}

    for held in chosen:
        open_pairs -= covers(held)
    while open_pairs:
        drawn = [frozenset(code for code in codes if dice.random() < 0.5) for _ in range(60)]
        valid = [held for held in drawn if held and not faults_of(held)]
        best = max(valid, key=lambda held: len(covers(held) & open_pairs))
        if not covers(best) & open_pairs:
            break  # what is left the Hub refuses: neither of ReadAccounts* beside something that needs it
        chosen.append(best)
        open_pairs -= covers(best)
    refused = {pair for pair in open_pairs if pair[:2] != (P.ReadAccountsBasic, P.ReadAccountsDetail)}
    assert not refused
    return chosen


@pytest.mark.parametrize(
    "permissions", [pytest.param(one, id=f"{number}-of-{len(one)}") for number, one in enumerate(pairwise())]
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_exactly_the_permitted_calls_are_made(product: Product, permissions: frozenset[Permission]) -> None:
    """Every call the permissions open was made, and no other; what came is what the bank would show."""
    begin = product.mark()
    connection = await product.consented(permissions=tuple(sorted(permissions)))
    await product.sync(connection)
    assert {operation for operation, _ in product.gets(begin)} == opened(permissions)
    assert await product.differences() == () if opened(permissions) else True


def test_every_permission_of_the_standard_is_told() -> None:
    """A new one must say here what it opens."""
    assert set(OPENS) == set(askable(Version.V2_1))

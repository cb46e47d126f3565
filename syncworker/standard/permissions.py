"""Permission codes a data-sharing consent may carry.

Source: Account Information API v2.1-errata2 and Pushed Authorization Endpoint v2.1-errata2, `Permissions`;
Bank Data Sharing Requirements, "consent.Permissions".
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final


class Permission(StrEnum):
    """One permission, in the standard's spelling (v2.1-errata2, 21 codes)."""

    ReadAccountsBasic = "ReadAccountsBasic"
    ReadAccountsDetail = "ReadAccountsDetail"
    ReadBalances = "ReadBalances"
    ReadBeneficiariesBasic = "ReadBeneficiariesBasic"
    ReadBeneficiariesDetail = "ReadBeneficiariesDetail"
    ReadFXTransactionsBasic = "ReadFXTransactionsBasic"
    ReadFXTransactionsDetail = "ReadFXTransactionsDetail"
    ReadFXRemittanceCharges = "ReadFXRemittanceCharges"
    ReadTransactionsBasic = "ReadTransactionsBasic"
    ReadTransactionsDetail = "ReadTransactionsDetail"
    ReadProduct = "ReadProduct"
    ReadScheduledPaymentsBasic = "ReadScheduledPaymentsBasic"
    ReadScheduledPaymentsDetail = "ReadScheduledPaymentsDetail"
    ReadDirectDebits = "ReadDirectDebits"
    ReadStandingOrdersBasic = "ReadStandingOrdersBasic"
    ReadStandingOrdersDetail = "ReadStandingOrdersDetail"
    ReadStatements = "ReadStatements"
    ReadPartyUser = "ReadPartyUser"
    ReadPartyUserIdentity = "ReadPartyUserIdentity"
    ReadParty = "ReadParty"
    ReadProductFinanceRates = "ReadProductFinanceRates"


P = Permission

READ_ACCOUNTS: Final = frozenset({P.ReadAccountsBasic, P.ReadAccountsDetail})
"""Without one of these `/accounts` and all that lies below it stay closed."""

STAND_ALONE: Final = READ_ACCOUNTS | {P.ReadParty, P.ReadPartyUser, P.ReadPartyUserIdentity}
"""Permissions that may be asked for without `READ_ACCOUNTS`."""


def faults_of(permissions: Iterable[str]) -> list[str]:
    """Say in words what the Hub would refuse about a set of permissions; empty when it would accept it.

    Source: Bank Data Sharing Requirements, "consent.Permissions"; `domain.md` trap 40.
    """
    asked = list(permissions)
    if not asked:
        return ["permissions: at least one is needed"]
    faults = [f"permissions: {code!r} is not a permission of the standard" for code in asked if code not in set(P)]
    known = {P(code) for code in asked if code in set(P)}
    needy = sorted(known - STAND_ALONE)
    if needy and not known & READ_ACCOUNTS:
        faults.append(f"permissions: {', '.join(needy)} need ReadAccountsBasic or ReadAccountsDetail beside them")
    return faults

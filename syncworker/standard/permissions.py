"""Permission codes a data-sharing consent may carry, and the versions that have them.

Sources: Account Information API and Pushed Authorization Endpoint, v1.2-errata1, v2.0-errata1 and v2.1-errata2,
`Permissions`; Bank Data Sharing Requirements, "consent.Permissions"; `domain.md` §3.2.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from syncworker.standard.versions import Version


class Permission(StrEnum):
    """One permission, in the standard's spelling; which version has it says `CODES`."""

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
    ReadTransactionsCredits = "ReadTransactionsCredits"
    ReadTransactionsDebits = "ReadTransactionsDebits"
    ReadProduct = "ReadProduct"
    ReadScheduledPaymentsBasic = "ReadScheduledPaymentsBasic"
    ReadScheduledPaymentsDetail = "ReadScheduledPaymentsDetail"
    ReadDirectDebits = "ReadDirectDebits"
    ReadStandingOrdersBasic = "ReadStandingOrdersBasic"
    ReadStandingOrdersDetail = "ReadStandingOrdersDetail"
    ReadStatements = "ReadStatements"
    ReadConsents = "ReadConsents"
    ReadPartyUser = "ReadPartyUser"
    ReadPartyUserIdentity = "ReadPartyUserIdentity"
    ReadParty = "ReadParty"
    ReadProductLendingRates = "ReadProductLendingRates"
    ReadProductFinanceRates = "ReadProductFinanceRates"


P = Permission
V = Version


@dataclass(frozen=True, slots=True)
class Code:
    """Where a permission exists, and what it is for.

    Attributes:
        asked: versions whose pushed request may carry it.
        granted: versions whose consents may carry it.
        shows: the fields it opens, in words.  No published file says which permission opens which field; these are the
            words of the guidance for consent screens.
    """

    permission: Permission
    asked: frozenset[Version]
    granted: frozenset[Version]
    shows: str


_NEVER: Final[frozenset[Version]] = frozenset()
_ALL: Final = frozenset(Version)
_TO_2_0: Final = frozenset({V.V1_2, V.V2_0})
_FROM_2_0: Final = frozenset({V.V2_0, V.V2_1})
_2_0: Final = frozenset({V.V2_0})
_2_1: Final = frozenset({V.V2_1})

# fmt: off
CODES: Final[tuple[Code, ...]] = (
    #    code                           asked for  granted    what it shows
    Code(P.ReadAccountsBasic,           _ALL,      _ALL,      "accounts"),
    Code(P.ReadAccountsDetail,          _ALL,      _ALL,      "accounts, with description and opening date"),
    Code(P.ReadBalances,                _ALL,      _ALL,      "balances and credit lines"),
    Code(P.ReadBeneficiariesBasic,      _ALL,      _ALL,      "beneficiaries"),
    Code(P.ReadBeneficiariesDetail,     _ALL,      _ALL,      "beneficiaries, with address"),
    Code(P.ReadFXTransactionsBasic,     _FROM_2_0, _FROM_2_0, "transactions: exchanges of currency"),
    Code(P.ReadFXTransactionsDetail,    _FROM_2_0, _FROM_2_0, "transactions: exchanges of currency, in detail"),
    Code(P.ReadFXRemittanceCharges,     _2_1,      _FROM_2_0, "transactions: remittance charges; unused in production"),
    Code(P.ReadTransactionsBasic,       _ALL,      _ALL,      "transactions"),
    Code(P.ReadTransactionsDetail,      _ALL,      _ALL,      "transactions, with payee or merchant and category"),
    Code(P.ReadTransactionsCredits,     _NEVER,    _NEVER,    "transactions: credits; only before v1.2-errata1"),
    Code(P.ReadTransactionsDebits,      _NEVER,    _NEVER,    "transactions: debits; only before v1.2-errata1"),
    Code(P.ReadProduct,                 _ALL,      _ALL,      "product"),
    Code(P.ReadScheduledPaymentsBasic,  _ALL,      _ALL,      "scheduled payments"),
    Code(P.ReadScheduledPaymentsDetail, _ALL,      _ALL,      "scheduled payments, with payee account and references"),
    Code(P.ReadDirectDebits,            _ALL,      _ALL,      "direct debits"),
    Code(P.ReadStandingOrdersBasic,     _ALL,      _ALL,      "standing orders"),
    Code(P.ReadStandingOrdersDetail,    _ALL,      _ALL,      "standing orders, in detail"),
    Code(P.ReadStatements,              _2_1,      _2_1,      "statements"),
    Code(P.ReadConsents,                _TO_2_0,   _NEVER,    "nothing that is read; in requests alone"),
    Code(P.ReadPartyUser,               _ALL,      _ALL,      "parties: name, birth date, contact, address"),
    Code(P.ReadPartyUserIdentity,       _ALL,      _ALL,      "parties: the same, Emirates ID, nationality, employer"),
    Code(P.ReadParty,                   _ALL,      _ALL,      "parties: legal name"),
    Code(P.ReadProductLendingRates,     _2_0,      _2_0,      "product: rates; may be locked by a code of the user"),
    Code(P.ReadProductFinanceRates,     _2_1,      _2_1,      "product: rates; may be locked by a code of the user"),
)
# fmt: on

BY_CODE: Final[dict[Permission, Code]] = {code.permission: code for code in CODES}

RENAMED: Final[dict[Permission, Permission]] = {P.ReadProductLendingRates: P.ReadProductFinanceRates}
"""Old name → new name of the same right."""

READ_ACCOUNTS: Final = frozenset({P.ReadAccountsBasic, P.ReadAccountsDetail})
"""Without one of these `/accounts` and all that lies below it stay closed."""

STAND_ALONE: Final = READ_ACCOUNTS | {P.ReadParty, P.ReadPartyUser, P.ReadPartyUserIdentity, P.ReadConsents}
"""Permissions that may be asked for without `READ_ACCOUNTS`."""


def askable(version: Version) -> tuple[Permission, ...]:
    """Every permission a pushed request of a version may carry."""
    return tuple(code.permission for code in CODES if version in code.asked)


def in_words_of(version: Version, permissions: Iterable[Permission]) -> tuple[Permission, ...]:
    """The same wish as a version can say it: renamed codes by their name there, codes it lacks left out."""
    names = RENAMED | {new: old for old, new in RENAMED.items()}
    spoken = (one if version in BY_CODE[one].asked else names.get(one, one) for one in permissions)
    return tuple(dict.fromkeys(one for one in spoken if version in BY_CODE[one].asked))


def faults_of(permissions: Iterable[str], *, version: Version | None = None) -> list[str]:
    """Say in words what the Hub would refuse about a set of permissions; empty when it would accept it.

    Args:
        version: of the request; `None` while it is not chosen: then a code of any version passes.

    Source: Bank Data Sharing Requirements, "consent.Permissions"; `domain.md` trap 40.
    """
    asked = list(permissions)
    if not asked:
        return ["permissions: at least one is needed"]
    faults = [f"permissions: {code!r} is not a permission of the standard" for code in asked if code not in set(P)]
    known = {P(code) for code in asked if code in set(P)}
    if version is not None:
        faults += [_missing(code, version) for code in sorted(known) if version not in BY_CODE[code].asked]
    needy = sorted(known - STAND_ALONE)
    if needy and not known & READ_ACCOUNTS:
        faults.append(f"permissions: {', '.join(needy)} need ReadAccountsBasic or ReadAccountsDetail beside them")
    return faults


def _missing(code: Permission, version: Version) -> str:
    """A permission that cannot be asked for in this version: what to do about it."""
    (here,) = in_words_of(version, [code]) or (None,)
    if here is not None:
        return f"permissions: {code} is not in {version.value}; ask for {here} there"
    elsewhere = " or ".join(one.value for one in Version if one in BY_CODE[code].asked)
    fix = f"leave it out, or ask on {elsewhere}" if elsewhere else "leave it out"
    return f"permissions: {code} is not in {version.value}; {fix}"


DETAIL_OF: Final[dict[Permission, Permission]] = {
    one: P(one.replace("Basic", "Detail")) for one in P if one.endswith("Basic")
}
"""A permission that shows the basics → the one that shows them and more."""

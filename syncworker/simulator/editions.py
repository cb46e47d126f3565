"""What the versions before v2.1 say differently of the same bank: one row for each resource that differs.

`render` and `arrangement_items` write v2.1.  For an older version an `Edition` first takes from the row what that
version has no word for, so that the item and the books lose it together, and then, where the shape is another, writes
the item itself.  What is not listed is the same in all versions.

Sources: Account Information API v1.2-errata1 and v2.0-errata1, `AEAccount`, `AETransaction`, `AEProduct`,
`AEPartyIdentityAssurance2`, `Claims`; `domain.md` §5.4.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

from syncworker.simulator.arrangements import Beneficiary, Product
from syncworker.simulator.ledger import Account, Balance, PartyRole, Person, Transaction
from syncworker.simulator.render import Item, account_party_item, party_item, present
from syncworker.standard.permissions import Permission
from syncworker.standard.resources import ResourceName
from syncworker.standard.versions import Version

N = ResourceName
RATES: Final[Mapping[Version, Permission]] = {
    Version.V1_2: Permission.ReadProduct,
    Version.V2_0: Permission.ReadProductLendingRates,
    Version.V2_1: Permission.ReadProductFinanceRates,
}
"""The permission that shows what lending costs."""

SUB_TYPES: Final = {"Finance": "PersonalLoan"}
SCHEMES: Final = {"FinanceReference": "PersonalLoanReference"}
FLAGS: Final[Mapping[str, str | None]] = {"Finance": "Loan", "OpenFinance": None}
SUB_KINDS: Final = frozenset(
    {"Purchase", "Reversal", "Refund", "Withdrawal", "WithdrawalReversal", "Deposit", "DepositReversal",
     "MoneyTransfer", "NotApplicable"}
)  # fmt: skip
"""`SubTransactionType` before v2.1; whatever else a line is, is `NotApplicable`."""
DURATIONS: Final = {"Daily": "P1D", "Monthly": "P1M", "Quarterly": "P3M", "HalfYearly": "P6M", "Annually": "P1Y"}
WORD_MAX: Final = 10
"""Characters of a `ChargeType`, a `LendingRateType`, a `DepositRateType`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edition:
    """How one version shows one resource.

    Attributes:
        row: what is left of a row.
        item: writes the row; `None`: as v2.1 does.
        lacks: columns of the books that are null whatever the row says.
    """

    row: Callable[[Any], Any] = lambda row: row
    item: Callable[[Any], Item] | None = None
    lacks: frozenset[str] = frozenset()


# -- what is taken away ----------------------------------------------------------------------------------------------


def _account(account: Account) -> Account:
    references = tuple((SCHEMES.get(scheme, scheme), text) for scheme, text in account.references)
    sub_type = SUB_TYPES.get(account.sub_type, account.sub_type)
    return replace(account, sub_type=sub_type, references=references, sharia=None)


def _account_v1_2(account: Account) -> Account:
    """IBAN and account number alone identify an account."""
    return replace(_account(account), masked_pan=None, references=())


def _balance(balance: Balance) -> Balance:
    return replace(balance, components=())


def _transaction(row: Transaction) -> Transaction:
    flags = tuple(word for flag in row.flags if (word := FLAGS.get(flag, flag)) is not None)
    sub_kind = row.sub_kind if row.sub_kind in SUB_KINDS else "NotApplicable"
    return replace(row, sub_kind=sub_kind, flags=flags, supplementary=None)  # the schema's object has no members


def _beneficiary(row: Beneficiary) -> Beneficiary:
    return replace(row, added_via_of=None, supplementary=None)


def _product(row: Product) -> Product:
    return replace(row, sharia_structure=None, is_salary_transfer_required=None)


def _product_v1_2(row: Product) -> Product:
    """Rates are a list or nothing: what is locked is not shown."""
    rates = None if isinstance(row.finance_rates, str) else row.finance_rates
    return replace(_product(row), is_secured=None, finance_rates=rates)


def _person_v1_2(person: Person) -> Person:
    """Parties are persons."""
    return replace(person, business=None)


# -- what has another shape ------------------------------------------------------------------------------------------


def _product_item(row: Product) -> Item:
    rates = row.finance_rates
    return present(
        {
            "ProductId": row.product_id,
            "ProductType": row.product_type,
            "ProductName": row.product_name,
            "IsIslamic": row.is_islamic,
            "Charges": [_charge(one) for one in row.terms.get("Charges", ())] or None,
            "LendingRates": rates if rates is None or isinstance(rates, str) else _lending_rates(rates),
            "DepositRates": _deposit_rates(row.terms.get("DepositRates")),
            "IsSecured": row.is_secured,
        }
    )


def _charge(charge: Mapping[str, Any]) -> Item:
    first = charge["Charge"][0]
    return present(
        {
            "Name": charge["Name"],
            "ChargeType": charge["Type"][:WORD_MAX],
            "Amount": first["Amount"],
            "Frequency": DURATIONS.get(first.get("ApplicationFrequency", "")),
            "Notes": charge.get("Description"),
        }
    )


def _lending_rates(rates: Mapping[str, Any]) -> list[Item]:
    """One entry for each rate: a hybrid has two."""
    parts = {"Fixed": rates.get("FixedRate"), "Variable": rates.get("VariableRate")}
    found = {word: part for word, part in parts.items() if part} or {
        rates["RateType"].removesuffix("Interest").removesuffix("Profit"): rates
    }
    return [
        present(
            {
                "LendingRateType": word[:WORD_MAX],
                "Rate": _rate(part["Rate"]),
                "CalculationFrequency": DURATIONS.get(part.get("CalculationFrequency", "")),
                "Notes": part.get("Notes") or part.get("Description"),
            }
        )
        for word, part in found.items()
    ]


def _deposit_rates(rates: Mapping[str, Any] | None) -> list[Item] | None:
    if rates is None:
        return None
    return [
        present(
            {
                "DepositRateType": rates["RateType"].removesuffix("Interest").removesuffix("Profit")[:WORD_MAX],
                "Rate": _rate(one["AnnualRate"]),
                "CalculationFrequency": DURATIONS.get(one.get("CalculationFrequency", "")),
                "ApplicationFrequency": DURATIONS.get(one.get("ApplicationFrequency", "")),
                "Notes": one.get("RateCategory"),
            }
        )
        for one in rates["RateDetails"]
    ]


def _rate(rate: Decimal) -> str:
    return format(rate, "f")


def _party_v1_2(person: Person) -> Item:
    return _plain_party(party_item(person))


def _account_party_v1_2(role: PartyRole) -> Item:
    return _plain_party(account_party_item(role))


def _plain_party(item: Item) -> Item:
    """A person without a category, their address in one line."""
    (claim,) = _trusted(item)["VerifiedClaims"]
    claims = {name: value for name, value in claim["Claims"].items() if name != "IdentityType"}
    address = claims["ResidentialAddress"]
    claims["ResidentialAddress"] = {
        "Formatted": ", ".join(address["AddressLine"]),
        "Locality": address["TownName"],
        "Region": address["CountrySubDivision"],
        "Country": {"CountryCode": address["Country"]},
    }
    plain = {name: value for name, value in item.items() if name != "PartyCategory"}
    return plain | {"VerifiedClaims": [claim | {"Claims": claims}]}


def _trusted(item: Item) -> Item:
    """The trust framework had no name before v2.1."""
    (claim,) = item["VerifiedClaims"]
    verification = claim["Verification"] | {"TrustFramework": "Undefined"}
    return item | {"VerifiedClaims": [claim | {"Verification": verification}]}


# -- the table -------------------------------------------------------------------------------------------------------

_ACCOUNT: Final = Edition(row=_account)
_ACCOUNT_V1_2: Final = Edition(row=_account_v1_2)
_COMMON: Final[Mapping[ResourceName, Edition]] = {
    N.BALANCES: Edition(row=_balance),
    N.TRANSACTIONS: Edition(row=_transaction),
    N.BENEFICIARIES: Edition(row=_beneficiary),
}

EDITIONS: Final[Mapping[Version, Mapping[ResourceName, Edition]]] = {
    Version.V1_2: {
        **_COMMON,
        N.ACCOUNTS: _ACCOUNT_V1_2,
        N.ACCOUNT: _ACCOUNT_V1_2,
        N.PRODUCT: Edition(row=_product_v1_2, item=_product_item),
        N.PARTIES: Edition(row=_person_v1_2, item=_party_v1_2, lacks=frozenset({"party_category"})),
        N.ACCOUNT_PARTIES: Edition(
            row=lambda role: replace(role, person=_person_v1_2(role.person)),
            item=_account_party_v1_2,
            lacks=frozenset({"party_category"}),
        ),
    },
    Version.V2_0: {
        **_COMMON,
        N.ACCOUNTS: _ACCOUNT,
        N.ACCOUNT: _ACCOUNT,
        N.PRODUCT: Edition(row=_product, item=_product_item),
        N.PARTIES: Edition(item=lambda person: _trusted(party_item(person))),
        N.ACCOUNT_PARTIES: Edition(item=lambda role: _trusted(account_party_item(role))),
    },
    Version.V2_1: {},
}

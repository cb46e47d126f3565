"""Judge the authorisation details of a pushed request by the published schema of their version.

One row of `SCHEMAS` for each version, written from its file of the Pushed Authorization Endpoint and from nothing of
the client's: what both took from one table, neither could find wrong.

Sources: Pushed Authorization Endpoint v1.2-errata1 and v2.0-errata1, Authorization Endpoints v2.1-errata2; Bank Data
Sharing Requirements, "consent.Permissions"; `domain.md` §3.
"""

import re
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

from syncworker.standard.values import local_date, read_instant
from syncworker.standard.versions import Version

YEAR: Final = timedelta(days=365)
ID_MAX: Final = 128
_TYPE: Final = "urn:openfinanceuae:account-access-consent:"
_WEBHOOK: Final = re.compile(r"https://.+")

_V1_2_CODES: Final = frozenset(
    {"ReadAccountsBasic", "ReadAccountsDetail", "ReadBalances", "ReadBeneficiariesBasic", "ReadBeneficiariesDetail",
     "ReadTransactionsBasic", "ReadTransactionsDetail", "ReadProduct", "ReadScheduledPaymentsBasic",
     "ReadScheduledPaymentsDetail", "ReadDirectDebits", "ReadStandingOrdersBasic", "ReadStandingOrdersDetail",
     "ReadConsents", "ReadPartyUser", "ReadPartyUserIdentity", "ReadParty"}
)  # fmt: skip
_V2_0_CODES: Final = _V1_2_CODES | {"ReadFXTransactionsBasic", "ReadFXTransactionsDetail", "ReadProductLendingRates"}
_V2_1_CODES: Final = _V2_0_CODES - {"ReadConsents", "ReadProductLendingRates"} | {
    "ReadFXRemittanceCharges", "ReadStatements", "ReadProductFinanceRates"
}  # fmt: skip
_NEEDS_ACCOUNTS: Final = frozenset(
    {"ReadBalances", "ReadBeneficiariesBasic", "ReadBeneficiariesDetail", "ReadTransactionsBasic",
     "ReadTransactionsDetail", "ReadProduct", "ReadScheduledPaymentsBasic", "ReadScheduledPaymentsDetail",
     "ReadDirectDebits", "ReadStandingOrdersBasic", "ReadStandingOrdersDetail", "ReadStatements",
     "ReadProductFinanceRates", "ReadProductLendingRates"}
)  # fmt: skip
_USER_TYPES: Final = frozenset({"Retail", "SME", "Corporate"})
_PURPOSES: Final = frozenset(
    {"AccountAggregation", "RiskAssessment", "TaxFiling", "Onboarding", "Verification", "QuoteComparison",
     "BudgetingAnalysis", "FinancialAdvice", "AuditReconciliation"}
)  # fmt: skip
_LENDING: Final = frozenset({"CreditCard", "Mortgage"})
_PLAIN: Final = frozenset({"CurrentAccount", "Savings"})


class DetailsError(Exception):
    """What is wrong, and with which member (`''`: the whole)."""

    def __init__(self, member: str, cause: str) -> None:
        super().__init__(f"authorization_details{'.' if member else ''}{member} {cause}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """What one version's file lists.

    Attributes:
        window: names of the two members that limit transactions.
        instants: the window is two date-times; otherwise two dates.
        uuids: ids must be UUIDs; otherwise text of 1 to 128 characters.
    """

    permissions: frozenset[str]
    sub_types: frozenset[str]
    window: tuple[str, str]
    instants: bool
    uuids: bool


SCHEMAS: Final[Mapping[Version, Schema]] = {
    Version.V1_2: Schema(
        permissions=_V1_2_CODES,
        sub_types=_PLAIN,
        window=("TransactionFromDateTime", "TransactionToDateTime"),
        instants=True,
        uuids=False,
    ),
    Version.V2_0: Schema(
        permissions=_V2_0_CODES,
        sub_types=_PLAIN | _LENDING | {"PersonalLoan"},
        window=("TransactionFromDateTime", "TransactionToDateTime"),
        instants=True,
        uuids=False,
    ),
    Version.V2_1: Schema(
        permissions=_V2_1_CODES,
        sub_types=_PLAIN | _LENDING | {"Finance"},
        window=("FromDate", "ToDate"),
        instants=False,
        uuids=True,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Authorisation details that fit.

    Attributes:
        consent: as pushed.
        from_date, to_date: the window in UAE days, both inclusive.
    """

    version: Version
    consent: Mapping[str, Any]
    subscription: Mapping[str, Any] | None
    expires_at: datetime
    from_date: date | None
    to_date: date | None


def read_details(details: Any, *, versions: Collection[Version], now: datetime) -> Asked:
    """Read the claim `authorization_details`.

    Args:
        versions: those the bank serves.

    Raises:
        DetailsError: the first thing that does not fit.
    """
    if not isinstance(details, list) or len(details) != 1 or not isinstance(details[0], dict):
        raise DetailsError("", "must hold exactly one object")
    rar = details[0]
    _members(rar, {"type", "consent"}, {"subscription"})
    version = next((one for one in versions if rar["type"] == _TYPE + one.value), None)
    if version is None:
        raise DetailsError("type", "is not a type of this server")
    consent, schema = rar["consent"], SCHEMAS[version]
    if not isinstance(consent, dict):
        raise DetailsError("consent", "must be an object")
    may = {"BaseConsentId", *schema.window, "AccountType", "AccountSubType", "OnBehalfOf"}
    _members(consent, {"ConsentId", "Permissions", "ExpirationDateTime", "OpenFinanceBilling"}, may)
    _ids(consent, schema)
    _permissions(consent["Permissions"], schema)
    _billing(consent["OpenFinanceBilling"])
    from_date, to_date = _window(consent, schema)
    for name, values in (("AccountType", _USER_TYPES), ("AccountSubType", schema.sub_types)):
        given = consent.get(name, [])
        if not isinstance(given, list) or not all(isinstance(word, str) and word in values for word in given):
            raise DetailsError(name, "holds an unknown value")
    _on_behalf(consent.get("OnBehalfOf", {}))
    _subscription(rar.get("subscription"))
    return Asked(
        version=version,
        consent=consent,
        subscription=rar.get("subscription"),
        expires_at=_expiry(consent["ExpirationDateTime"], now),
        from_date=from_date,
        to_date=to_date,
    )


def is_uuid(text: Any) -> bool:
    """Whether a value is a UUID in its usual spelling."""
    try:
        return isinstance(text, str) and str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def is_webhook(url: Any) -> bool:
    """Whether a value is an address events may be sent to: https, no more is published."""
    return isinstance(url, str) and _WEBHOOK.fullmatch(url) is not None


def _members(value: Mapping[str, Any], needs: set[str], may: set[str]) -> None:
    for name in sorted(needs - value.keys()):
        raise DetailsError(name, "is missing")
    for name in sorted(value.keys() - needs - may):
        raise DetailsError(name, "is not a member of the published schema")


def _ids(consent: Mapping[str, Any], schema: Schema) -> None:
    for name in ("ConsentId", "BaseConsentId"):
        given = consent.get(name, "absent" if name == "BaseConsentId" else None)
        if schema.uuids and name in consent and not is_uuid(given):
            raise DetailsError(name, "must be a UUID")
        if not isinstance(given, str) or not 1 <= len(given) <= ID_MAX:
            raise DetailsError(name, f"must be text of 1 to {ID_MAX} characters")


def _permissions(codes: Any, schema: Schema) -> None:
    if not isinstance(codes, list) or not codes or not all(isinstance(code, str) for code in codes):
        raise DetailsError("Permissions", "must be a list of codes, one at least")
    for code in codes:
        if code not in schema.permissions:
            raise DetailsError("Permissions", f"{code!r} is not a permission of this version")
    if _NEEDS_ACCOUNTS.intersection(codes) and not {"ReadAccountsBasic", "ReadAccountsDetail"}.intersection(codes):
        raise DetailsError("Permissions", "need ReadAccountsBasic or ReadAccountsDetail beside them")


def _billing(billing: Any) -> None:
    if not isinstance(billing, dict):
        raise DetailsError("OpenFinanceBilling", "must be an object")
    _members(billing, {"UserType", "Purpose"}, set())
    if billing["UserType"] not in _USER_TYPES or billing["Purpose"] not in _PURPOSES:
        raise DetailsError("OpenFinanceBilling", "holds an unknown value")


def _window(consent: Mapping[str, Any], schema: Schema) -> tuple[date | None, date | None]:
    read: Callable[[Any, str], date] = _day_of_instant if schema.instants else _day
    first, last = (read(consent[name], name) if name in consent else None for name in schema.window)
    if first is not None and last is not None and first > last:
        raise DetailsError(schema.window[0], f"lies after {schema.window[1]}")
    return first, last


def _day(text: Any, name: str) -> date:
    try:
        return date.fromisoformat(text)
    except (TypeError, ValueError):
        raise DetailsError(name, "must be a date without time") from None


def _day_of_instant(text: Any, name: str) -> date:
    return local_date(_instant(text, name))


def _instant(text: Any, name: str) -> datetime:
    try:
        moment, without_offset = read_instant(text)
    except (TypeError, ValueError):
        raise DetailsError(name, "is not a date-time") from None
    if without_offset:
        raise DetailsError(name, "must have an offset")
    return moment


def _expiry(text: Any, now: datetime) -> datetime:
    expires_at = _instant(text, "ExpirationDateTime")
    if not now < expires_at < now + YEAR:
        raise DetailsError("ExpirationDateTime", "must lie in the future, less than one year ahead")
    return expires_at


def _on_behalf(value: Any) -> None:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise DetailsError("OnBehalfOf", "must hold text only")
    _members(value, set(), {"TradingName", "LegalName", "IdentifierType", "Identifier"})
    if value.get("IdentifierType", "Other") != "Other":
        raise DetailsError("IdentifierType", "must be Other")


def _subscription(value: Any) -> None:
    if value is None:
        return
    webhook = value.get("Webhook") if isinstance(value, dict) and len(value) == 1 else None
    if not isinstance(webhook, dict) or webhook.keys() != {"Url", "IsActive"}:
        raise DetailsError("subscription", "must be {Webhook: {Url, IsActive}}")
    if type(webhook["IsActive"]) is not bool or not is_webhook(webhook["Url"]):
        raise DetailsError("subscription", "needs an https Url and a boolean IsActive")

"""A consent: its states, the arrows between them, how it is asked for and how it is read.

The Hub is the system of record: we notice a surprising move, we never refuse it.

Sources: Consent, "Consent States"; Bank Data Sharing – API Guide v2.1, "authorization_details";
Account Information API v2.1-errata2, `AEConsentsByBaseConsentIdResponse`; `domain.md` §3 and §4.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from syncworker.standard.permissions import faults_of
from syncworker.standard.values import ConsentId, read_instant, write_instant
from syncworker.standard.versions import Version


class Status(StrEnum):
    """The states of the API.  *Paused* is ours alone and not among them."""

    AwaitingAuthorization = "AwaitingAuthorization"
    Authorized = "Authorized"
    Suspended = "Suspended"
    Rejected = "Rejected"
    Revoked = "Revoked"
    Expired = "Expired"
    Consumed = "Consumed"


S = Status

ARROWS: Final[Mapping[Status, frozenset[Status]]] = {
    # a status without arrows is terminal; a data-sharing consent is never Consumed
    S.AwaitingAuthorization: frozenset({S.Authorized, S.Rejected, S.Revoked}),  # Revoked: PatchConsentStatus
    S.Authorized: frozenset({S.Suspended, S.Revoked, S.Expired}),
    S.Suspended: frozenset({S.Authorized, S.Revoked, S.Expired}),
}

TERMINAL: Final = frozenset(Status) - frozenset(ARROWS)

EXPIRY_MAX: Final = timedelta(days=364)
"""The Hub wants less than one year; 365 days is borderline (D-15)."""


class UserType(StrEnum):
    """`OpenFinanceBilling.UserType`."""

    Retail = "Retail"
    SME = "SME"
    Corporate = "Corporate"


class Purpose(StrEnum):
    """`OpenFinanceBilling.Purpose`."""

    AccountAggregation = "AccountAggregation"
    RiskAssessment = "RiskAssessment"
    TaxFiling = "TaxFiling"
    Onboarding = "Onboarding"
    Verification = "Verification"
    QuoteComparison = "QuoteComparison"
    BudgetingAnalysis = "BudgetingAnalysis"
    FinancialAdvice = "FinancialAdvice"
    AuditReconciliation = "AuditReconciliation"


class Revoker(StrEnum):
    """`RevokedBy`, of which a TPP sends its own two."""

    LFI = "LFI"
    LFI_USER = "LFI.InitiatedByUser"
    TPP = "TPP"
    TPP_USER = "TPP.InitiatedByUser"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentRequest:
    """What we ask a user to agree to: the content of `authorization_details[0].consent`.

    Attributes:
        expires_at: `ExpirationDateTime`; at most `EXPIRY_MAX` ahead.
        from_date, to_date: limits of transactions and statements, inclusive; `None` is open-ended.
        base_consent_id: root of the chain, for a successor only.
    """

    permissions: tuple[str, ...]
    expires_at: datetime
    user_type: UserType = UserType.Retail
    purpose: Purpose = Purpose.AccountAggregation
    consent_id: ConsentId = field(default_factory=lambda: ConsentId(str(uuid.uuid4())))
    base_consent_id: ConsentId | None = None
    from_date: date | None = None
    to_date: date | None = None

    def faults(self, *, now: datetime) -> list[str]:
        """Say in words what the Hub would refuse; empty when nothing.  Each line opens with the field's name."""
        faults = faults_of(self.permissions)
        if self.expires_at <= now:
            faults.append("expires_at: lies in the past; give an instant in the future")
        elif self.expires_at - now > EXPIRY_MAX:
            faults.append(f"expires_at: must be less than one year ahead; give at most {EXPIRY_MAX.days} days")
        if self.from_date and self.to_date and self.from_date > self.to_date:
            faults.append("from_date: lies after to_date")
        return faults


def root_of(consent_id: ConsentId, base_consent_id: ConsentId | None) -> ConsentId:
    """The root of a chain of consents: never the latest (trap 10)."""
    return base_consent_id or consent_id


def rar_type(version: Version) -> str:
    """`authorization_details[0].type` of a data-sharing consent."""
    return f"urn:openfinanceuae:account-access-consent:{version.value}"


def authorization_details(request: ConsentRequest, *, version: Version) -> list[dict[str, Any]]:
    """The `authorization_details` claim of the request object: exactly one RAR, no member the schema does not list."""
    consent: dict[str, Any] = {
        "ConsentId": request.consent_id,
        "Permissions": list(request.permissions),
        "ExpirationDateTime": write_instant(request.expires_at),
        "OpenFinanceBilling": {"UserType": request.user_type.value, "Purpose": request.purpose.value},
    }
    if request.base_consent_id:
        consent["BaseConsentId"] = request.base_consent_id
    if request.from_date:
        consent["FromDate"] = request.from_date.isoformat()
    if request.to_date:
        consent["ToDate"] = request.to_date.isoformat()
    return [{"type": rar_type(version), "consent": consent}]


def revocation(by: Revoker) -> dict[str, Any]:
    """The body of a PATCH that revokes a consent: `Revoked` is the only status a TPP may set.

    Raises:
        ValueError: only the LFI may say so.
    """
    if by not in (Revoker.TPP, Revoker.TPP_USER):
        raise ValueError("RevokedBy: a TPP revokes as TPP or TPP.InitiatedByUser")
    return {"Data": {"Status": Status.Revoked.value, "RevokedBy": by.value}}


def subscription_change(*, is_active: bool, url: str | None = None) -> dict[str, Any]:
    """The body of a PATCH that switches a consent's event notifications; the address only when it changes."""
    return {"Subscription": {"Webhook": {"IsActive": is_active} | ({"Url": url} if url else {})}}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentView:
    """A consent as the Hub shows it, in a consent answer, a token answer or an event.

    Attributes:
        status: as sent; a value outside `Status` is kept as text.
        raw: the `Data` object as sent.
    """

    consent_id: ConsentId
    status: str
    status_updated_at: datetime | None = None
    base_consent_id: ConsentId | None = None
    permissions: tuple[str, ...] = ()
    expires_at: datetime | None = None
    from_date: date | None = None
    to_date: date | None = None
    revoked_by: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)


def read_consent(payload: Mapping[str, Any]) -> ConsentView:
    """Read a consent resource, wrapped in `Data` or bare; older names and nested permissions are understood.

    Raises:
        ValueError: no ConsentId, no Status, or an instant or date that is none.
    """
    data = payload.get("Data", payload)
    if not isinstance(data, Mapping) or not data.get("ConsentId") or not data.get("Status"):
        raise ValueError("consent: ConsentId or Status is missing")
    base = data.get("BaseConsentId")
    return ConsentView(
        consent_id=ConsentId(str(data["ConsentId"])),
        status=str(data["Status"]),
        status_updated_at=_instant(data.get("StatusUpdateDateTime")),
        base_consent_id=ConsentId(str(base)) if base else None,
        permissions=tuple(_flat(data.get("Permissions") or ())),
        expires_at=_instant(data.get("ExpirationDateTime")),
        from_date=_date(data.get("FromDate") or data.get("TransactionFromDateTime")),
        to_date=_date(data.get("ToDate") or data.get("TransactionToDateTime")),
        revoked_by=data.get("RevokedBy"),
        raw=dict(data),
    )


def usable(status: str, expires_at: datetime, *, now: datetime) -> bool:
    """Whether data may be asked for: Authorized, and not past its end even if the status lags (trap 16)."""
    return status == S.Authorized and now < expires_at


def _flat(codes: Sequence[Any]) -> list[str]:
    """D-27: v2.1 before its errata nested permissions in arrays."""
    return [str(code) for item in codes for code in (item if isinstance(item, list) else [item])]


def _instant(text: str | None) -> datetime | None:
    return read_instant(text)[0] if text else None


def _date(text: str | None) -> date | None:
    return date.fromisoformat(text[:10]) if text else None

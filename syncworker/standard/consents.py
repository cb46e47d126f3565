"""A consent: its states, the arrows between them, how it is asked for and how it is read.

The Hub is the system of record: we notice a surprising move, we never refuse it.

Sources: Consent, "Consent States"; Bank Data Sharing – API Guide v2.1, "authorization_details"; Pushed Authorization
Endpoint v1.2-errata1 and v2.0-errata1, `AEAccountAccessAuthorizationDetailConsentProperties`; Account Information API
of all versions, `AEReadConsentResponse`; `domain.md` §3 and §4.
"""

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from typing import Any, Final

from syncworker.standard import accounts
from syncworker.standard.calendar import at_time, fault_of_day, read_day
from syncworker.standard.permissions import faults_of
from syncworker.standard.values import UAE, ConsentId, local_date, read_id, read_instant, write_instant
from syncworker.standard.versions import Version, rar_type


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

IN_USE: Final = (S.Authorized, S.Suspended)
"""Agreed to, and not at its end: there is a token to keep."""

EXPIRY_MAX: Final = timedelta(days=364)
"""The Hub wants less than one year; 365 days is borderline (D-15)."""

CLOCKS_APART: Final = timedelta(minutes=5)
"""An end is counted by one clock (the database's, a product's) and judged by another: 364 days by either will do."""


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
class OnBehalfOf:
    """`OnBehalfOf`: for which other firm the TPP asks.  A member that is `None` is left out."""

    trading_name: str | None = None
    legal_name: str | None = None
    identifier_type: str | None = None
    identifier: str | None = None

    def written(self) -> dict[str, str]:
        """As the standard spells it; empty when there is no member."""
        named = ((name, getattr(self, member)) for member, name in ON_BEHALF_OF.items())
        return {name: text for name, text in named if text is not None}

    def faults(self) -> list[str]:
        """Say in words what the Hub would refuse; empty when nothing."""
        faults = [f"on_behalf_of.{member}: is empty" for member in ON_BEHALF_OF if getattr(self, member) == ""]
        if not self.written():
            faults.append("on_behalf_of: names nothing; give a name or an identifier, or leave it out")
        if self.identifier_type not in (None, IDENTIFIER_TYPE):
            faults.append(f"on_behalf_of.identifier_type: must be {IDENTIFIER_TYPE}")
        return faults


ON_BEHALF_OF: Final = {
    "trading_name": "TradingName",
    "legal_name": "LegalName",
    "identifier_type": "IdentifierType",
    "identifier": "Identifier",
}
"""Our name of each member of `OnBehalfOf` → the standard's."""

IDENTIFIER_TYPE: Final = "Other"
"""The one `IdentifierType` there is."""


def read_on_behalf_of(value: Any) -> OnBehalfOf | None:
    """`OnBehalfOf` as the Hub or a file shows it; `None` when it says nothing.  Members that are no text count not."""
    if not isinstance(value, Mapping):
        return None
    read = OnBehalfOf(
        **{ours: text for ours, name in ON_BEHALF_OF.items() if isinstance(text := value.get(name), str) and text}
    )
    return read if read.written() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentRequest:
    """What we ask a user to agree to: the content of `authorization_details[0].consent`.

    Attributes:
        expires_at: `ExpirationDateTime`; at most `EXPIRY_MAX` ahead, `CLOCKS_APART` aside.
        from_date, to_date: limits of transactions and statements, inclusive; `None` is open-ended.
        account_types, account_sub_types: the kinds of account to be shown; `None` is every kind.
        base_consent_id: root of the chain, for a successor only.
        connection_id: the connection the consent is to belong to; `None`: that of its root.  Given without
            `base_consent_id` it begins a new chain there.  Not sent.
    """

    permissions: tuple[str, ...]
    expires_at: datetime
    user_type: UserType = UserType.Retail
    purpose: Purpose = Purpose.AccountAggregation
    consent_id: ConsentId = field(default_factory=lambda: ConsentId(str(uuid.uuid4())))
    base_consent_id: ConsentId | None = None
    connection_id: ConsentId | None = None
    from_date: date | None = None
    to_date: date | None = None
    account_types: tuple[str, ...] | None = None
    account_sub_types: tuple[str, ...] | None = None
    on_behalf_of: OnBehalfOf | None = field(default=None, repr=False)

    def faults(
        self, *, now: datetime, version: Version | None = None, offered: Collection[Version] = tuple(Version)
    ) -> list[str]:
        """Say in words what the Hub would refuse; empty when nothing.  Each line opens with the field's name.

        Args:
            version: of the request; `None` while it is not chosen: then a permission of any version passes.
            offered: versions a way out may name.
        """
        faults = faults_of(self.permissions, version=version)
        if self.expires_at <= now:
            faults.append("expires_at: lies in the past; give an instant in the future")
        elif self.expires_at - now > EXPIRY_MAX + CLOCKS_APART:
            faults.append(f"expires_at: must be less than one year ahead; give at most {EXPIRY_MAX.days} days")
        for name, day in (("from_date", self.from_date), ("to_date", self.to_date)):
            if day is not None and (fault := fault_of_day(day)):
                faults.append(f"{name}: {fault}")
        if self.from_date and self.to_date and self.from_date > self.to_date:
            faults.append("from_date: lies after to_date")
        if self.on_behalf_of is not None:
            faults += self.on_behalf_of.faults()
        return faults + self.unsaid(version=version, offered=offered)

    def unsaid(self, *, version: Version | None, offered: Collection[Version] = tuple(Version)) -> list[str]:
        """What a version has no word for, permissions aside, as in `faults`."""
        faults = accounts.faults_of(self.account_types, self.account_sub_types, version=version)
        if version in UUID_BASE and self.base_consent_id is not None and not _is_uuid(self.base_consent_id):
            others = [one.value for one in offered if one not in UUID_BASE]
            older = f"ask on {' or '.join(sorted(others))} (version), or " if others else ""
            faults.append(
                f"base_consent_id: {self.base_consent_id} is not a UUID, and {version.value} takes no other; "
                f"{older}begin a new chain in the same connection (new_chain)"
            )
        return faults


UUID_BASE: Final = frozenset({Version.V2_1})
"""Versions whose pushed request takes a `BaseConsentId` only if it is a UUID; the others take 1 to 128 characters."""


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def root_of(consent_id: ConsentId, base_consent_id: ConsentId | None) -> ConsentId:
    """The root of a chain of consents: never the latest (trap 10)."""
    return base_consent_id or consent_id


# -- how a consent is asked for --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Member:
    """One member of `authorization_details[0].consent`.

    Attributes:
        write: its value; `None` leaves the member out.
        versions: those whose pushed request has it.
    """

    name: str
    write: Callable[[ConsentRequest, Version], Any]
    versions: frozenset[Version] = frozenset(Version)


def _first_instant(day: date | None) -> str | None:
    return None if day is None else at_time(day, zone=UAE).isoformat()


def _last_instant(day: date | None) -> str | None:
    return None if day is None else at_time(day, time(23, 59, 59), UAE).isoformat()


def _sub_types(wish: Sequence[str] | None, version: Version) -> list[str] | None:
    return None if not wish else list(accounts.words_for(version, wish)[0])


_TO_2_0: Final = frozenset({Version.V1_2, Version.V2_0})
_2_1: Final = frozenset({Version.V2_1})

# fmt: off
MEMBERS: Final[tuple[Member, ...]] = (
    #      member                     its value                                                               versions
    Member("ConsentId",               lambda asked, _: asked.consent_id),
    Member("BaseConsentId",           lambda asked, _: asked.base_consent_id),
    Member("Permissions",             lambda asked, _: list(asked.permissions)),
    Member("ExpirationDateTime",      lambda asked, _: write_instant(asked.expires_at)),
    # with the UAE's offset: an LFI that ignores it still reads the day that is meant
    Member("TransactionFromDateTime", lambda asked, _: _first_instant(asked.from_date),                       _TO_2_0),
    Member("TransactionToDateTime",   lambda asked, _: _last_instant(asked.to_date),                          _TO_2_0),
    Member("FromDate",                lambda asked, _: asked.from_date and asked.from_date.isoformat(),       _2_1),
    Member("ToDate",                  lambda asked, _: asked.to_date and asked.to_date.isoformat(),           _2_1),
    Member("AccountType",             lambda asked, _: asked.account_types and list(asked.account_types)),
    Member("AccountSubType",          lambda asked, version: _sub_types(asked.account_sub_types, version)),
    Member("OnBehalfOf",              lambda asked, _: asked.on_behalf_of and asked.on_behalf_of.written()),
    Member("OpenFinanceBilling",
           lambda asked, _: {"UserType": asked.user_type.value, "Purpose": asked.purpose.value}),
)
# fmt: on


def authorization_details(
    request: ConsentRequest, *, version: Version, events_url: str | None = None
) -> list[dict[str, Any]]:
    """The `authorization_details` claim of the request object: exactly one RAR, no member the schema does not list.

    Args:
        events_url: where the consent's event notifications are to be sent; `None`: none are asked for.  The member is
            spelled in lower case here in every version, and with a capital in the consent (D-19).
    """
    written = {member.name: member.write(request, version) for member in MEMBERS if version in member.versions}
    consent = {name: value for name, value in written.items() if value is not None}
    details: dict[str, Any] = {"type": rar_type(version), "consent": consent}
    if events_url is not None:
        details["subscription"] = {"Webhook": {"Url": events_url, "IsActive": True}}
    return [details]


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


# -- how a consent is read -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentView:
    """A consent as the Hub shows it, in a consent answer, a token answer or an event.

    Attributes:
        status: as sent; a value outside `Status` is kept as text.
        from_date … purpose: its terms; `None` where the view does not show them, as an event does not show the dates.
        webhook_active: whether events are sent for it; `None` when its `Subscription` does not say.
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
    account_types: tuple[str, ...] | None = None
    account_sub_types: tuple[str, ...] | None = None
    on_behalf_of: OnBehalfOf | None = field(default=None, repr=False)
    user_type: str | None = None
    purpose: str | None = None
    revoked_by: str | None = None
    webhook_active: bool | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)


def read_consent(payload: Mapping[str, Any]) -> ConsentView:
    """Read a consent resource of any version, wrapped in `Data` or bare; nested permissions are understood.

    Before v2.1 `BaseConsentId` is required, so a root may name itself: that is no base.  The window has two spellings:
    dates since v2.1, instants before; of an instant the day in the UAE counts.

    Raises:
        ValueError: no ConsentId, no Status, or an instant or date that is none.
    """
    data = payload.get("Data", payload)
    consent_id = read_id(data.get("ConsentId")) if isinstance(data, Mapping) else None
    if consent_id is None or not data.get("Status"):
        raise ValueError("consent: ConsentId or Status is missing")
    base = read_id(data.get("BaseConsentId"))
    billing = data.get("OpenFinanceBilling")
    return ConsentView(
        consent_id=ConsentId(consent_id),
        status=str(data["Status"]),
        status_updated_at=_instant(data.get("StatusUpdateDateTime")),
        base_consent_id=ConsentId(base) if base is not None and base != consent_id else None,
        permissions=tuple(_flat(data.get("Permissions") or ())),
        expires_at=_instant(data.get("ExpirationDateTime")),
        from_date=_date(data.get("FromDate") or data.get("TransactionFromDateTime")),
        to_date=_date(data.get("ToDate") or data.get("TransactionToDateTime")),
        account_types=_words(data.get("AccountType")),
        account_sub_types=_words(data.get("AccountSubType")),
        on_behalf_of=read_on_behalf_of(data.get("OnBehalfOf")),
        user_type=_word(billing, "UserType"),
        purpose=_word(billing, "Purpose"),
        revoked_by=data.get("RevokedBy"),
        webhook_active=read_subscription(payload),
        raw=dict(data),
    )


def usable(status: str, expires_at: datetime, *, now: datetime) -> bool:
    """Whether data may be asked for: Authorized, and not past its end even if the status lags (trap 16)."""
    return status == S.Authorized and now < expires_at


INSTANTS: Final = (
    "CreationDateTime",
    "StatusUpdateDateTime",
    "ExpirationDateTime",
    "TransactionFromDateTime",
    "TransactionToDateTime",
)
"""The members of a consent that are instants, in all versions."""


def without_offset(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Members of a consent whose instant the LFI wrote without an offset: they were read as UAE time."""
    found = []
    for name in INSTANTS:
        try:
            bare = isinstance(text := data.get(name), str) and read_instant(text)[1]
        except ValueError:
            bare = False
        if bare:
            found.append(name)
    return tuple(found)


def read_subscription(payload: Mapping[str, Any]) -> bool | None:
    """Whether events are sent for a consent, from the `Subscription` beside it; `None` when it does not say.

    The member has a capital in consents and, in v1.1, in requests too; later requests spell it `subscription`.
    """
    subscription = payload.get("Subscription", payload.get("subscription"))
    webhook = subscription.get("Webhook") if isinstance(subscription, Mapping) else None
    active = webhook.get("IsActive") if isinstance(webhook, Mapping) else None
    return active if isinstance(active, bool) else None


def _words(values: Any) -> tuple[str, ...] | None:
    """A list of words, each once; `None` when there is none.  One word alone counts as a list of one."""
    listed = _flat([values] if isinstance(values, str) else values) if isinstance(values, str | list | tuple) else ()
    return tuple(dict.fromkeys(word for word in listed if word)) or None


def _word(billing: Any, name: str) -> str | None:
    word = billing.get(name) if isinstance(billing, Mapping) else None
    return word if isinstance(word, str) and word else None


def _flat(codes: Sequence[Any]) -> list[str]:
    """D-27: v2.1 before its errata nested permissions in arrays."""
    return [str(code) for item in codes for code in (item if isinstance(item, list) else [item])]


def _instant(text: str | None) -> datetime | None:
    return read_instant(text)[0] if text else None


def _date(text: str | None) -> date | None:
    if not text or "T" not in text:
        return read_day(text[:10]) if text else None
    return local_date(read_instant(text)[0])

"""The consents the Hub keeps: staged by a pushed request, moved by users, the TPP, the LFI and the clock.

Source: Consent, "Consent States"; Account Information API, `AEReadConsentResponse` (v1.2-errata1, v2.0-errata1) and
`AEBankDataSharingConsentPropertiesV21` (v2.1-errata2).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

from syncworker.simulator.clock import BankClock
from syncworker.simulator.details import Asked
from syncworker.simulator.editions import SUB_TYPES
from syncworker.simulator.ledger import Account
from syncworker.simulator.render import instant
from syncworker.standard.consents import ARROWS, Status
from syncworker.standard.versions import Version

TPP_REVOKERS: Final = frozenset({"TPP", "TPP.InitiatedByUser"})
"""What a TPP may say of a revocation; the other two values of `RevokedBy` are the LFI's."""
ROOT_NAMES_ITSELF: Final = frozenset({Version.V1_2, Version.V2_0})
"""Versions whose consent answers require `BaseConsentId`, also of a consent that has none."""
REQUEST_ONLY: Final = frozenset({"ReadConsents"})
"""Permissions no consent answer may show."""


class MoveError(Exception):
    """A consent cannot go from its status to the one asked for."""


@dataclass(slots=True, kw_only=True)
class Consent:
    """One consent.

    Attributes:
        version: it was asked for in, for as long as it lives.
        asked: the RAR's `consent` object as pushed; immutable.
        user: who agreed; `None` until someone did.
        account_ids: what they agreed to show.
        held: a second authoriser is needed, and has not agreed.
    """

    consent_id: str
    version: Version
    base_consent_id: str | None
    asked: Mapping[str, Any]
    subscription: Mapping[str, Any] | None
    permissions: frozenset[str]
    expires_at: datetime
    from_date: date | None
    to_date: date | None
    created_at: datetime
    status: Status
    status_updated_at: datetime
    revoked_by: str | None = None
    user: str | None = None
    account_ids: tuple[str, ...] = ()
    held: bool = False

    @property
    def agreed(self) -> bool:
        """Whether everybody who has to agree did, at some time."""
        return self.user is not None and not self.held

    def fits(self, account: Account) -> bool:
        """Whether an account is of the kinds the consent is narrowed to; an empty list narrows nothing."""
        word = account.sub_type if self.version is Version.V2_1 else SUB_TYPES.get(account.sub_type, account.sub_type)
        of = {"AccountType": account.account_type, "AccountSubType": word}
        return all(not (wanted := self.asked.get(name)) or kind in wanted for name, kind in of.items())

    def shows(self, local_day: date) -> bool:
        """Whether a transaction booked on this UAE date lies within FromDate and ToDate, both inclusive."""
        return (self.from_date is None or self.from_date <= local_day) and (
            self.to_date is None or local_day <= self.to_date
        )


class Consents:
    """All consents of the Hub, by ConsentId.

    Attributes:
        on_move: is told each consent whose status has moved; staging one is no move.
    """

    def __init__(self, clock: BankClock) -> None:
        self.on_move: Callable[[Consent], None] = lambda _: None
        self._clock = clock
        self._consents: dict[str, Consent] = {}

    def __iter__(self) -> Iterator[Consent]:
        return iter([self.get(consent_id) for consent_id in self._consents])

    def __contains__(self, consent_id: object) -> bool:
        return consent_id in self._consents

    def get(self, consent_id: str) -> Consent:
        """A consent, Expired if its end has come.

        Raises:
            KeyError: no such consent.
        """
        consent = self._consents[consent_id]
        if consent.status in ARROWS and consent.expires_at <= self._clock.now():
            self._set(consent, Status.Expired, at=consent.expires_at)
        return consent

    def settle(self) -> None:
        """Let every consent whose end has come be Expired, as of that instant."""
        for consent_id in tuple(self._consents):
            self.get(consent_id)

    def stage(self, asked: Asked) -> Consent:
        """File a new consent as AwaitingAuthorization.

        Raises:
            MoveError: the ConsentId is taken.
        """
        consent_id = asked.consent["ConsentId"]
        if consent_id in self._consents:
            raise MoveError("ConsentId is taken")
        now = self._clock.now()
        consent = self._consents[consent_id] = Consent(
            consent_id=consent_id,
            version=asked.version,
            base_consent_id=asked.consent.get("BaseConsentId"),
            asked=asked.consent,
            subscription=asked.subscription,
            permissions=frozenset(asked.consent["Permissions"]) - REQUEST_ONLY,
            expires_at=asked.expires_at,
            from_date=asked.from_date,
            to_date=asked.to_date,
            created_at=now,
            status=Status.AwaitingAuthorization,
            status_updated_at=now,
        )
        return consent

    def authorize(self, consent_id: str, *, user: str, account_ids: tuple[str, ...], second: bool = False) -> Consent:
        """The user agreed, showing these accounts.

        Args:
            second: a second authoriser has to agree too; until `agree` the consent stays AwaitingAuthorization.

        Raises:
            MoveError: not AwaitingAuthorization, agreed to already, or the chain belongs to another user.
        """
        consent = self.get(consent_id)
        root = self._consents.get(consent.base_consent_id or "")
        if root is not None and root.user not in (None, user):
            raise MoveError("the BaseConsentId was authorised by another user")
        if consent.status is not Status.AwaitingAuthorization or consent.user is not None:
            raise MoveError(f"{consent.status} cannot be agreed to")
        consent.user, consent.account_ids, consent.held = user, account_ids, second
        return consent if second else self._set(consent, Status.Authorized)

    def agree(self, consent_id: str) -> Consent:
        """The second authoriser agreed.

        Raises:
            MoveError: nobody waits for one.
        """
        consent = self.get(consent_id)
        if not consent.held:
            raise MoveError("no second authoriser is waited for")
        self._move(consent, Status.Authorized, frozenset({Status.AwaitingAuthorization}))
        consent.held = False
        return consent

    def reject(self, consent_id: str) -> Consent:
        """The user declined, the second authoriser did, or the LFI refused."""
        return self._move(self.get(consent_id), Status.Rejected)

    def revoke(self, consent_id: str, *, by: str = "LFI.InitiatedByUser") -> Consent:
        """End the consent for good."""
        return self._move(self.get(consent_id), Status.Revoked, revoked_by=by)

    def suspend(self, consent_id: str) -> Consent:
        """Block the consent; the LFI may lift it again."""
        return self._move(self.get(consent_id), Status.Suspended)

    def lift(self, consent_id: str) -> Consent:
        """Authorized again after Suspended."""
        return self._move(self.get(consent_id), Status.Authorized, frozenset({Status.Suspended}))

    def expire(self, consent_id: str) -> Consent:
        """Expired at once, as if ExpirationDateTime had come."""
        return self._move(self.get(consent_id), Status.Expired)

    def chain(self, base_consent_id: str) -> list[Consent]:
        """The root and every consent that names it."""
        return [one for one in self if base_consent_id in (one.consent_id, one.base_consent_id)]

    def body(self, consent: Consent, *, self_link: str) -> dict[str, Any]:
        """The consent resource: `{Data, Subscription?, Links}`."""
        data = {
            **consent.asked,
            "Permissions": [code for code in consent.asked["Permissions"] if code not in REQUEST_ONLY],
            "Status": consent.status.value,
            "CreationDateTime": instant(consent.created_at),
            "StatusUpdateDateTime": instant(consent.status_updated_at),
        }
        if consent.version in ROOT_NAMES_ITSELF:
            data.setdefault("BaseConsentId", consent.consent_id)
        if consent.revoked_by:
            data["RevokedBy"] = consent.revoked_by
        body: dict[str, Any] = {"Data": data, "Links": {"Self": self_link}}
        if consent.subscription:
            body["Subscription"] = consent.subscription
        return body

    def _move(
        self,
        consent: Consent,
        to: Status,
        origins: frozenset[Status] | None = None,
        *,
        revoked_by: str | None = None,
    ) -> Consent:
        allowed = ARROWS.get(consent.status, frozenset())
        if to not in allowed or (origins is not None and consent.status not in origins):
            raise MoveError(f"{consent.status} does not become {to}")
        consent.revoked_by = revoked_by
        return self._set(consent, to)

    def _set(self, consent: Consent, status: Status, *, at: datetime | None = None) -> Consent:
        consent.status, consent.status_updated_at = status, at or self._clock.now()
        self.on_move(consent)
        return consent

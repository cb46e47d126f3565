"""An account opening: its versions, the states of all of them in one list, how it is read and how it is watched.

Three published shapes are alive: v2.0 as the API guide and the base file show it, v2.0-errata1 under the same base
path, and v2.1.  What differs is a row of `DIALECTS`; the body to send is in `opening_request`.

v2.0 is built from the guide: its official file is not at hand.

Sources: Account Opening Service Initiation API Guide v2.0; Account Opening API v2.0-errata1 and v2.1;
`domain.md` §8, D-22, D-23, D-25.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from syncworker.standard.values import AccountId, read_id, read_instant

SCOPE: Final = "account-opening"
"""Of the client-credentials token; no role lists it, so an LFI may not offer it (D-24)."""

ACCOUNT_ID_MAX: Final = 128
"""The schema says 40; read from a link it may be longer."""


class OpeningVersion(StrEnum):
    """A published version of the account-opening API, oldest first."""

    V2_0 = "v2.0"
    V2_0_ERRATA1 = "v2.0-errata1"
    V2_1 = "v2.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What one version does its own way.

    Attributes:
        read: where a request's status is asked for, first …
        read_else: … and where when that is not there (404, 405): documents of one version disagree.
        subscription: where event notifications are switched; `None`: this version cannot.
        subscription_member: what wraps `Webhook` in the body of that PATCH.
    """

    version: OpeningVersion
    read: str
    read_else: str
    subscription: str | None
    subscription_member: str


_PLAIN: Final = "/accounts/{AccountId}"
_STATUS: Final = "/accounts/{AccountId}/status"
V = OpeningVersion

# fmt: off
DIALECTS: Final[Mapping[OpeningVersion, Dialect]] = {
    row.version: row for row in (
        Dialect(version=V.V2_0,         read=_PLAIN,  read_else=_STATUS, subscription=_PLAIN,                                subscription_member="Subscription"),  # noqa: E501
        Dialect(version=V.V2_0_ERRATA1, read=_STATUS, read_else=_PLAIN,  subscription=None,                                  subscription_member=""),  # noqa: E501
        Dialect(version=V.V2_1,         read=_STATUS, read_else=_PLAIN,  subscription="/accounts/{AccountId}/subscription",  subscription_member="Data"),  # noqa: E501
    )
}
# fmt: on


class OpeningState(StrEnum):
    """Where an opening stands, whatever its version calls it.

    The first three and `NOT_CREATED` are a TPP's own: the POST has no idempotency, so it is never sent twice, and one
    without a definite answer is `UNKNOWN` until a person has found out.
    """

    SENDING = "sending"
    """Noted before the POST; no answer has been filed yet."""
    UNKNOWN = "unknown"
    """The POST was made and nobody knows whether the LFI took it."""
    REFUSED = "refused"
    """The LFI said no to the POST: nothing was created."""
    PENDING = "pending"
    USER_ACTION = "user_action"
    """The LFI waits for the user."""
    LFI_PROCESSING = "lfi_processing"
    OTHER = "other"
    """A status no version lists: followed like one under way."""
    COMPLETED = "completed"
    REJECTED = "rejected"
    NOT_CREATED = "not_created"
    """It was `UNKNOWN`, and a person found that the LFI has no such request."""


S = OpeningState

STATES: Final[Mapping[str, OpeningState]] = {
    # OpeningStatus          version
    "Pending": S.PENDING,  # all
    "AwaitingPartyData": S.USER_ACTION,  # v2.0
    "AwaitingUserInput": S.USER_ACTION,  # v2.1
    "AwaitingLFIProcesses": S.LFI_PROCESSING,  # v2.1
    "Created": S.COMPLETED,  # v2.0
    "Completed": S.COMPLETED,  # v2.1
    "Rejected": S.REJECTED,  # all
}

UNDER_WAY: Final = frozenset({S.PENDING, S.USER_ACTION, S.LFI_PROCESSING, S.OTHER})
"""States the LFI may still leave.  No transition table is published: any of them may become any other."""

ENDED: Final = frozenset({S.REFUSED, S.COMPLETED, S.REJECTED, S.NOT_CREATED})
"""States nothing leaves."""


def state_of(status: str | None) -> OpeningState:
    """A version's `OpeningStatus` in our words; v2.0 may leave it out, which says no more than that it is pending."""
    return S.PENDING if not status else STATES.get(status, S.OTHER)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpeningView:
    """An account opening as the LFI shows it.

    Attributes:
        status: `OpeningStatus` as sent; `None` when v2.0 left it out.
        information: `AdditionalStatusInformation`, the LFI's words about the status.
        redirect_url: where the user must be sent; `None` when the LFI needs nothing of them.
        raw: `Data` as sent: account identifiers once it is completed.
    """

    account_id: AccountId
    status: str | None
    status_updated_at: datetime | None = None
    information: str | None = field(default=None, repr=False)
    redirect_url: str | None = field(default=None, repr=False)
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def state(self) -> OpeningState:
        """The status in our words."""
        return state_of(self.status)


def read_opening(payload: Mapping[str, Any]) -> OpeningView:
    """Read `{Data, Links, Meta}` of a creation or a status answer, of any version.

    Raises:
        ValueError: no AccountId anywhere, or an instant that is none.  The message repeats no value.
    """
    data, links = payload.get("Data"), payload.get("Links")
    if not isinstance(data, Mapping):
        raise ValueError("Data: is not an object")  # noqa: TRY004  one kind of fault for all that cannot be read
    links = links if isinstance(links, Mapping) else {}
    account_id = read_id(data.get("AccountId")) or _named_by(links.get("Self"))
    if not account_id or len(account_id) > ACCOUNT_ID_MAX or not account_id.isprintable():
        raise ValueError("AccountId: neither in Data nor in Links.Self")
    status, redirect = data.get("OpeningStatus"), links.get("AccountOpeningRedirectUrl")
    moved_at, information = data.get("OpeningStatusUpdateDateTime"), data.get("AdditionalStatusInformation")
    return OpeningView(
        account_id=AccountId(account_id),
        status=str(status) if status else None,
        status_updated_at=read_instant(str(moved_at))[0] if moved_at else None,
        information=str(information) if information else None,
        redirect_url=redirect if isinstance(redirect, str) and redirect.startswith("https://") else None,
        raw=dict(data),
    )


def _named_by(link: object) -> str:
    """The AccountId in a Self link: what follows `/accounts/`, without the sub-resource's name."""
    if not isinstance(link, str):
        return ""
    segments = [unquote(segment) for segment in urlsplit(link).path.split("/") if segment]
    if segments and segments[-1] in ("status", "subscription"):
        segments.pop()
    if "accounts" in segments:
        segments = segments[len(segments) - segments[::-1].index("accounts") :]
        return "/".join(segments)
    return segments[-1] if segments else ""


def subscription_change(version: OpeningVersion, *, is_active: bool, url: str | None = None) -> dict[str, Any]:
    """The body of a PATCH that switches an opening's event notifications; the address only when it changes.

    Raises:
        ValueError: the version cannot switch them.
    """
    dialect = DIALECTS[version]
    if dialect.subscription is None:
        raise ValueError(f"subscription: cannot be changed in {version.value}")
    return {dialect.subscription_member: {"Webhook": {"IsActive": is_active} | ({"Url": url} if url else {})}}

"""Event notifications of all versions → one `Event`.

An event announces that a consent, a payment, a quote or an account opening changed; none tells of transactions or
balances.  It has no id of its own and no discriminator: what it is about follows from the member of `Meta` that names
the subject, from members only one kind of `Data` has, and from `EventResource`.  Older senders leave `Meta` empty
(D-18), so the subject is looked for in `Data` and in the path too.

Source: Webhook Template v2.1-errata2, `AEWebhookEventTypes`; Account Opening API Guide v2.0; `domain.md` §7.3.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from syncworker.standard.values import read_id, read_instant

SUBJECT_CHARACTERS_MAX: Final = 128
WORD_CHARACTERS_MAX: Final = 40


class EventKind(StrEnum):
    """What an event is about."""

    CONSENT = "consent"
    """A data-sharing consent: ours to act on."""
    PAYMENT_CONSENT = "payment_consent"
    INSURANCE_CONSENT = "insurance_consent"
    PAYMENT = "payment"
    OPENING = "opening"
    """An account opening: ours to act on."""
    FX_QUOTE = "fx_quote"
    INSURANCE_QUOTE = "insurance_quote"
    UNKNOWN = "unknown"
    """Names no subject we could read; filed, like every kind a later version may add."""


@dataclass(frozen=True, slots=True)
class Variant:
    """How one kind is told from the others.

    Attributes:
        identifier: the member that names the subject, in `Meta` and again in `Data`.
        mark: a member that only this kind's `Data` has (`.` steps into it, arrays included); '' when there is none.
        paths: segments of an `EventResource` before the id; no document lists them, so they count least.
    """

    kind: EventKind
    identifier: str
    mark: str
    paths: tuple[str, ...]


# Webhook Template v2.1-errata2, `AEWebhook…EventProperties`; of one identifier, the plainest comes last.
# fmt: off
VARIANTS: Final = (
    #       kind                         names its subject  only its Data has            EventResource opens with
    Variant(EventKind.PAYMENT,           "ConsentId",       "PaymentId",                 ("payments", "file-payments")),
    Variant(EventKind.PAYMENT_CONSENT,   "ConsentId",       "ControlParameters",         ("payment-consents",)),
    Variant(EventKind.INSURANCE_CONSENT, "ConsentId",       "Permissions.InsuranceType", ("insurance-consents",)),
    Variant(EventKind.CONSENT,           "ConsentId",       "",                          ("account-access-consents",)),
    Variant(EventKind.OPENING,           "AccountId",       "OpeningStatus",             ("accounts",)),
    Variant(EventKind.FX_QUOTE,          "FxQuoteId",       "Trade",                     ("fx-quotes",)),
    Variant(EventKind.INSURANCE_QUOTE,   "QuoteId",         "BrokerInstructions",        ()),
)
# fmt: on

_STATUS: Final = ("Status", "OpeningStatus", "QuoteStatus")
_UPDATED: Final = ("StatusUpdateDateTime", "OpeningStatusUpdateDateTime")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event, read.

    Attributes:
        subject: the id `Meta` names: a ConsentId, an AccountId, a quote's id; '' when none could be read.
        type: `EventType` as sent; '' when absent.
        happened_at: `EventDateTime`; `None` when absent or no instant.
        status: the status in `Data` as sent.
        status_updated_at: since when the subject has that status.
        digest: SHA-256 by which the same event is known again.
    """

    kind: EventKind
    subject: str
    type: str = ""
    happened_at: datetime | None = None
    status: str | None = None
    status_updated_at: datetime | None = None
    digest: bytes = field(repr=False)


def read_event(message: Mapping[str, Any], *, signed: bytes) -> Event:
    """Read the `message` of an event; unknown kinds, members and values are kept, never refused.

    Args:
        signed: the payload the sender signed, envelope included.  An event that does not date itself is known again by
            these bytes; one that carries `EventDateTime` by its message alone, so that a retry which the sender signed
            anew is the same event.

    Raises:
        ValueError: neither `Data` nor `Meta` is an object.
    """
    data, meta = _object(message.get("Data")), _object(message.get("Meta"))
    if data is None and meta is None:
        raise ValueError("message: holds neither Data nor Meta")
    data, meta = data or {}, meta or {}
    resource = meta.get("EventResource")
    path = resource if isinstance(resource, str) else _self_link(message)
    variant = _variant(meta, data, path)
    happened_at = _instant(meta.get("EventDateTime"))
    canonical = json.dumps(message, sort_keys=True, separators=(",", ":"), default=str).encode()
    return Event(
        kind=EventKind.UNKNOWN if variant is None else variant.kind,
        subject="" if variant is None else _subject(variant, meta, data, path),
        type=_word(meta.get("EventType")) or "",
        happened_at=happened_at,
        status=next((word for name in _STATUS if (word := _word(data.get(name)))), None),
        status_updated_at=next((at for name in _UPDATED if (at := _instant(data.get(name), name))), None),
        digest=hashlib.sha256(signed if happened_at is None else canonical).digest(),
    )


def _variant(meta: Mapping[str, Any], data: Mapping[str, Any], path: str) -> Variant | None:
    """The variant whose identifier is there: told by its mark, else by the path, else the plainest of them."""
    for source in (meta, data):
        named = [one for one in VARIANTS if _id(source.get(one.identifier))]
        if named:
            marked = (one for one in named if one.mark and _has(data, one.mark.split(".")))
            placed = (one for one in named if not set(_segments(path)).isdisjoint(one.paths))
            return next(marked, None) or next(placed, None) or named[-1]
    return next((one for one in VARIANTS if not set(_segments(path)[:-1]).isdisjoint(one.paths)), None)


def _subject(variant: Variant, meta: Mapping[str, Any], data: Mapping[str, Any], path: str) -> str:
    named = (_id(source.get(variant.identifier)) for source in (meta, data))
    segments = [segment for segment in _segments(path) if segment != "status"]  # v2.0-errata1: /accounts/{id}/status
    return next((word for word in named if word), None) or _id(segments[-1]) or ""


def _self_link(message: Mapping[str, Any]) -> str:
    link = (_object(message.get("Links")) or {}).get("Self")
    return link if isinstance(link, str) else ""


def _segments(path: str) -> list[str]:
    return [segment for segment in path.partition("?")[0].split("/") if segment]


def _has(value: Any, names: list[str]) -> bool:
    if not names:
        return True
    if isinstance(value, list):
        return any(_has(one, names) for one in value)
    return isinstance(value, Mapping) and names[0] in value and _has(value[names[0]], names[1:])


def _object(value: Any) -> Mapping[str, Any] | None:
    return value if isinstance(value, Mapping) else None


def _id(value: Any) -> str | None:
    """An id that fits its column and every database."""
    return _word(read_id(value), SUBJECT_CHARACTERS_MAX)


def _word(value: Any, length: int = WORD_CHARACTERS_MAX) -> str | None:
    """Text that fits its column and every database; `None` for anything else."""
    fits = isinstance(value, str) and 0 < len(value) <= length and value.isprintable()
    return value if fits else None


def _instant(value: Any, nested: str = "") -> datetime | None:
    """An instant; payment consents wrap theirs in an object of the same name (D-29)."""
    if isinstance(value, Mapping):
        value = value.get(nested)
    if not isinstance(value, str):
        return None
    try:
        return read_instant(value)[0]
    except ValueError:
        return None

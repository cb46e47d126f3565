"""What to do about a run that ended with a code."""

from collections.abc import Mapping
from typing import Final

ADVICE: Final[Mapping[str, str]] = {
    "client_rejected": "`doctor` looks at keys, certificate and clock; is our registration active?  then `lfis retry`",
    "consent_deadline": "time mends it; if it repeats, raise consent_deadline or calls_per_second",
    "consent_not_usable": "the customer has to act at the bank; `consents show` has the status",
    "crashed": "it ended its worker each time: read the workers' logs, then `consents sync` puts it back",
    "deadline_exceeded": "time mends it; if it repeats, raise batch_deadline",
    "grant_lost": "ask the customer for a new consent: `consents authorize`",
    "item.": "the LFI must mend it: report the items with the interaction id of the finding",
    "lease_lost": "nothing: a newer run has taken over",
    "lfi_breaker_open": "nothing was sent; `status` says when it is tried again",
    "lfi_gate_closed": "nothing was sent; `status` says when the LFI lets us in again",
    "lfi_rate_limited": "time mends it; if it repeats, lower lfis.<slug>.calls_per_second",
    "lfi_unavailable": "time mends it; if it lasts, ask the LFI with the interaction ids of `syncs show`",
    "listing.": "the LFI must mend it: report the listing with the interaction id of the finding",
    "listing.ends_early": "time mends it; if it lasts, report it: TotalPages says more pages than the links show",
    "not_allowed": "nothing was sent: `allow.lfis` or `allow.user_refs` does not name it",
    "page.": "the LFI must mend it: report the page with the interaction id of the finding",
    "refused_401": "the LFI takes the token for other listings and not for this one: report it with the interaction id",
    "refused_404": "a gateway's answer, or a listing that was there before: report it with the interaction id",
    "refused": "the LFI refuses this listing to this consent; ask it with the interaction ids of `syncs show`",
    "seal": "the key ring lacks a key: restore it",
    "settings": "`doctor` names the setting",
    "setup": "`doctor` names what is missing",
    "standard_violation": "the LFI must mend it: report it with the interaction ids of `syncs show`",
    "store_": "look after the database; the work comes back by itself",
    "stopping": "nothing: the worker ended, and the row is due again at once",
    "token_busy": "time mends it",
    "truncated": "the listing is larger than we take, leads astray or never ends: report it with the interaction ids",
    "unexpected": "a bug of ours: report it with the worker's log",
}
"""What to do about a run that ended with a code, by the code's first part."""

OURS: Final = ("client_rejected", "crashed", "not_allowed", "seal", "settings", "setup", "store_", "unexpected")
"""Codes that are mended on our side; the others are the LFI's."""

OTHERWISE: Final = "`syncs show` has the details"


def advice_of(code: str | None) -> str:
    """What to do about an error's code, alone or with what a run adds to it (`refused_403:Consent.Suspended`)."""
    known = [(name, advice) for name, advice in ADVICE.items() if (code or "").startswith(name)]
    return max(known, key=lambda one: len(one[0]))[1] if known else OTHERWISE

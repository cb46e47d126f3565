"""Which operations share a fate: the class of an operation, by its `operationId`.

An LFI's data API, its token side, the consents of the API Hub and the opening of accounts stand on different machines;
one may be away while the others answer.  What is kept back after trouble is therefore kept back by class.

Source: `operationId` of the Account Information API v2.1-errata2, the Authorization Server v2.1 and the Account Opening
API v2.1; `reliability.md` rule 31.
"""

from enum import StrEnum
from functools import lru_cache
from typing import Final


class OperationClass(StrEnum):
    """What a call belongs to: what fails with it when it fails."""

    DATA = "data"
    """Accounts and everything below them, at the resource server."""
    TOKEN = "token"  # noqa: S105
    """Tokens and PAR at the authorisation server, with its discovery document and keys."""
    CONSENT = "consent"
    """The record of consents."""
    OPENING = "opening"
    """Requests to open an account."""


TOKEN_OPERATIONS: Final = frozenset(
    {
        "CreateAccessTokenRequest",
        "CreatePushedAuthorizationRequest",
        "GetOpenIdConfiguration",  # the names of these two are ours
        "GetJwks",
    }
)
OPENING_OPERATIONS: Final = frozenset(
    {"CreateAccount_signedRequest", "Account_read", "UpdateWebhookSubscription_update"}
)
CONSENT_NAME: Final = "AccountAccessConsents"
"""Part of the `operationId` of every operation on consents."""


@lru_cache(maxsize=256)  # asked for each call; there are some fifty
def class_of(operation: str) -> OperationClass:
    """The class of an operation; one we do not know counts as data."""
    if operation in TOKEN_OPERATIONS:
        return OperationClass.TOKEN
    if operation in OPENING_OPERATIONS:
        return OperationClass.OPENING
    return OperationClass.CONSENT if CONSENT_NAME in operation else OperationClass.DATA

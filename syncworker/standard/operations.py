"""Which operations share a fate: the class of an operation, by its `operationId`.

An LFI's data API, its token side and the consents of the API Hub stand on different machines; one may be away while the
others answer.  What is kept back after trouble is therefore kept back by class.

Source: Account Information API v2.1-errata2, Authorization Server v2.1, `operationId`; `reliability.md` rule 31.
"""

from enum import StrEnum
from typing import Final


class OperationClass(StrEnum):
    """What a call belongs to: what fails with it when it fails."""

    DATA = "data"
    """Accounts and everything below them, at the resource server."""
    TOKEN = "token"  # noqa: S105
    """Tokens and PAR at the authorisation server, with its discovery document and keys."""
    CONSENT = "consent"
    """The record of consents."""


TOKEN_OPERATIONS: Final = frozenset(
    {
        "CreateAccessTokenRequest",
        "CreatePushedAuthorizationRequest",
        "GetOpenIdConfiguration",  # the names of these two are ours
        "GetJwks",
    }
)
CONSENT_NAME: Final = "AccountAccessConsents"
"""Part of the `operationId` of every operation on consents."""


def class_of(operation: str) -> OperationClass:
    """The class of an operation; one we do not know counts as data."""
    if operation in TOKEN_OPERATIONS:
        return OperationClass.TOKEN
    return OperationClass.CONSENT if CONSENT_NAME in operation else OperationClass.DATA

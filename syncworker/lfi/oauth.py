"""Read what the token side of an LFI answers: pushed authorisations, tokens, redirects and refusals.

Pure functions over answers; `api` does the calling.  The distinction that matters is between a refusal and no definite
answer: only a refusal may end a grant, everything else leaves the token in doubt.

Sources: RFC 6749 §5, 9126, 9207; `domain.md` §2.3 – §2.7; `reliability.md` rules 19 – 21.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
import structlog
from pydantic import SecretStr

from syncworker.errors import (
    AuthorizationFailedError,
    Body,
    ClientRejectedError,
    GrantLostError,
    LFIRateLimitedError,
    LFIUnavailableError,
    RefusedError,
    StandardViolationError,
    SyncWorkerError,
)
from syncworker.lfi.bounds import check_json
from syncworker.lfi.reasons import reason_of
from syncworker.lfi.transport import Answer
from syncworker.standard.calendar import http_date, shifted, span
from syncworker.standard.consents import ConsentView, read_consent
from syncworker.standard.reasons import cleaned

RETRY_AFTER_MAX_S: Final = 3600.0
ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
BEARER: Final = "bearer"
_EXPIRES_IN_MAX_S: Final = 366 * 86_400
_REDIRECT_CHARACTERS_MAX: Final = 8 * 1024
_CLIENT_FAULTS: Final = frozenset({"invalid_client", "unauthorized_client", "invalid_scope", "unsupported_grant_type"})
_CODE: Final = re.compile(r"[A-Za-z0-9_.\-]{1,64}")  # as long as the columns that keep it
UNREADABLE: Final = "unreadable"
"""The code of an error whose own code is not fit for logs and metrics."""

_HEADER_SAFE: Final = re.compile(r"[\x21-\x7e]+")

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenAnswer:
    """What a token call brought.

    Attributes:
        refresh_token: `None` when the answer has none: then the old one stays valid (D-5).
        expires_in: seconds, as sent; 0 when the answer does not say, so nobody trusts the token for longer.
        expires_at: `received_at + expires_in`.
        consent: the consent's state, free with each answer; `None` when absent or unreadable.
        received_at: when the answer was complete.
        certificate: `x5t#S256` of the transport certificate the call was made with: what the access token is bound to.
    """

    access_token: SecretStr
    refresh_token: SecretStr | None
    expires_in: int
    expires_at: datetime
    id_token: SecretStr | None
    consent: ConsentView | None
    received_at: datetime
    certificate: str = ""


@dataclass(frozen=True, slots=True)
class PushedAuthorization:
    """A pushed request, good for one visit of the authorisation page before `expires_at`."""

    request_uri: str
    expires_at: datetime

    def __repr__(self) -> str:
        return f"PushedAuthorization(expires_at={self.expires_at.isoformat()})"


@dataclass(frozen=True, slots=True)
class Redirect:
    """What came back with the user: either `code`, or `error` with what the LFI said about it, cleaned."""

    state: str
    code: SecretStr | None
    issuer: str | None
    error: str | None
    error_description: str | None = field(repr=False)


_ABSENT: Final = msgspec.Raw(b"null")


class _PushedBody(msgspec.Struct):
    request_uri: str
    expires_in: msgspec.Raw = _ABSENT


class _TokenBody(msgspec.Struct):
    """A token answer.  What lies beside the tokens is read apart: nothing odd about it may cost us the tokens."""

    access_token: str
    refresh_token: str | None = None
    token_type: msgspec.Raw = _ABSENT
    id_token: str | None = None
    expires_in: msgspec.Raw = _ABSENT
    authorization_details: msgspec.Raw = _ABSENT


class _OAuthErrorBody(msgspec.Struct):
    error: str


class _DataError(msgspec.Struct):
    Code: str


class _DataErrorsBody(msgspec.Struct):
    Errors: list[_DataError]


def read_redirect(url_or_query: str) -> Redirect:
    """Read the redirect a user came back with: a whole URL, or its query with or without `?`.

    State and issuer are not judged here: the authorisation they belong to is in the store.

    Raises:
        AuthorizationFailedError: too long, not a query, a parameter twice, no `state`, or not exactly one of `code`
            and `error`.

    Source: `domain.md` §2.4; RFC 6749 §3.1 (a parameter must not be repeated).
    """
    text = url_or_query.strip()
    if len(text) > _REDIRECT_CHARACTERS_MAX:
        raise _failed_redirect("longer than any redirect")
    try:
        query = (
            urlsplit(text).query
            if text.startswith(("https://", "http://"))
            else text.partition("#")[0].removeprefix("?")
        )
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, max_num_fields=20, errors="strict")
    except ValueError:
        raise _failed_redirect("not the query of a redirect") from None  # the cause would quote the code
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _failed_redirect("carries a parameter twice")
    state, code, error = found.get("state"), found.get("code"), found.get("error")
    if not state:
        raise _failed_redirect("has no state")
    if bool(code) == bool(error):
        raise _failed_redirect("must carry either a code or an error")
    return Redirect(
        state=state,
        code=SecretStr(code) if code else None,
        issuer=found.get("iss") or None,
        error=_code(error) if error else None,
        error_description=cleaned(found.get("error_description") or "") or None,
    )


def authorization_url(endpoint: str, *, client_id: str, request_uri: str) -> str:
    """The address a user opens to give consent: the four parameters of the API guide, appended to any there are."""
    query = {"client_id": client_id, "response_type": "code", "scope": "openid", "request_uri": request_uri}
    return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(query)}"


def read_pushed(answer: Answer, *, received_at: datetime) -> PushedAuthorization:
    """Read the answer to a PAR; any 2xx is success (D-7), `expires_in` is obeyed.

    Raises:
        ClientRejectedError, RefusedError, LFIRateLimitedError, LFIUnavailableError: the LFI's refusal.
        StandardViolationError: success without a usable `request_uri`.
    """
    if not _is_success(answer):
        fault = refusal(answer, what="pushed authorisation", now=received_at)
        if isinstance(fault, LFIUnavailableError) and 400 <= answer.status < 500:  # 405, 413: no token is in doubt here
            said = fault.lfi_reason
            fault = RefusedError(f"pushed authorisation: status {answer.status}", status=answer.status).saying(said)
        raise fault
    try:
        text = check_json(answer.body, answer.headers.get("content-type", ""))
        body = msgspec.json.decode(text, type=_PushedBody, strict=False)
    except (msgspec.MsgspecError, RecursionError):
        raise StandardViolationError("pushed authorisation: the answer holds no request_uri") from None
    seconds = _seconds(_read(body.expires_in), interaction_id=answer.interaction_id)
    if not body.request_uri:
        raise StandardViolationError("pushed authorisation: the answer holds no request_uri")
    return PushedAuthorization(request_uri=body.request_uri, expires_at=shifted(received_at, span(seconds=seconds)))


def read_tokens(answer: Answer, *, received_at: datetime) -> TokenAnswer:
    """Read the answer to a token call.

    Raises:
        GrantLostError: `invalid_grant`.
        ClientRejectedError: the LFI does not accept us as a client.
        RefusedError: another refusal in OAuth's words, such as `invalid_request`.
        LFIRateLimitedError: 429.
        LFIUnavailableError: no definite answer: 5xx, or a body nobody can read.  The token is in doubt.
    """
    if not _is_success(answer):
        raise refusal(answer, what="token call", now=received_at)
    try:
        text = check_json(answer.body, answer.headers.get("content-type", ""))
        body = msgspec.json.decode(text, type=_TokenBody, strict=False)
    except (msgspec.MsgspecError, RecursionError, StandardViolationError):
        raise LFIUnavailableError("token call: the answer cannot be read; the token is in doubt") from None
    if not _HEADER_SAFE.fullmatch(body.access_token):
        raise LFIUnavailableError("token call: the answer holds no usable access token; the token is in doubt")
    if str(_read(body.token_type) or BEARER).lower() != BEARER:
        # a refusal here would cost the grant, which may have been rotated; the data API will say what it thinks of it
        log.warning("token answer of another token type than Bearer", interaction_id=answer.interaction_id)
    seconds = _seconds(_read(body.expires_in), interaction_id=answer.interaction_id)
    return TokenAnswer(
        access_token=SecretStr(body.access_token),
        refresh_token=SecretStr(body.refresh_token) if body.refresh_token else None,
        expires_in=seconds,
        expires_at=shifted(received_at, span(seconds=seconds)),
        id_token=SecretStr(body.id_token) if body.id_token else None,
        consent=_harvest(_read(body.authorization_details), interaction_id=answer.interaction_id),
        received_at=received_at,
        certificate=answer.certificate,
    )


def refusal(answer: Answer, *, what: str, now: datetime) -> SyncWorkerError:
    """The error that says who has to act after an answer of the token side that is no success, with the LFI's words."""
    return _refusal(answer, what=what, now=now).saying(reason_of(answer.body))


def _refusal(answer: Answer, *, what: str, now: datetime) -> SyncWorkerError:
    code = oauth_error_code(answer)
    if answer.status == 429:
        return LFIRateLimitedError(f"{what}: 429", retry_after=retry_after(answer.headers, now=now))
    if not 400 <= answer.status < 500:
        wait = retry_after(answer.headers, now=now)
        return LFIUnavailableError(f"{what}: status {answer.status}", retry_after=wait)
    if code == "invalid_grant":
        return GrantLostError(f"{what}: invalid_grant", cause="invalid_grant")
    if is_client_fault(answer.status, code):
        return ClientRejectedError(
            f"{what}: {code or f'status {answer.status}'}; check client id, signing key and its kid, transport "
            "certificate, this machine's clock, and whether the LFI has activated the registration"
        )
    if code:
        return RefusedError(f"{what}: {code}", status=answer.status, error_code=code)
    return LFIUnavailableError(f"{what}: status {answer.status} without an OAuth error")


def is_client_fault(status: int | None, code: str) -> bool:
    """Whether a refusal of the token side is about us as a client and not about what was asked.

    Args:
        code: the OAuth `error`; empty when the answer had none.
    """
    return code in _CLIENT_FAULTS or (status in (401, 403) and not code)


def oauth_error_code(answer: Answer) -> str:
    """The `error` member of an OAuth error body; empty when there is none to read."""
    try:
        return _code(msgspec.json.decode(_text(answer), type=_OAuthErrorBody).error)
    except (ValueError, RecursionError):
        return ""


def data_error_code(answer: Answer) -> str:
    """`Errors[0].Code` of a data API's error body; empty when there is none to read."""
    try:
        errors = msgspec.json.decode(_text(answer), type=_DataErrorsBody).Errors
    except (ValueError, RecursionError):
        return ""
    return _code(errors[0].Code) if errors else ""


def data_error_body(answer: Answer) -> Body:
    """Whether a refusal of the data API has a body, and whether that is the standard's error body.

    Source: Account Information API v2.1-errata2, `AEErrorResponse`: at least one item of `Errors`, each with a `Code`.
    """
    if not answer.body.strip():
        return Body.NONE
    return Body.STANDARD if data_error_code(answer) not in ("", UNREADABLE) else Body.FOREIGN


def retry_after(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """Seconds to wait by `Retry-After`, a number or a date, at most an hour; `None` when absent or unreadable."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:10]), RETRY_AFTER_MAX_S)
    moment = http_date(text)
    if moment is None:
        return None
    return min(max(0.0, (moment - now).total_seconds()), RETRY_AFTER_MAX_S)


def _text(answer: Answer) -> bytes:
    """An error's body; whatever media type a gateway gave it."""
    return answer.body.removeprefix(b"\xef\xbb\xbf")


def _is_success(answer: Answer) -> bool:
    return 200 <= answer.status < 300


def _read(member: msgspec.Raw) -> object:
    """A member of an answer that is not needed for the rest of it; `None` when it cannot be read."""
    try:
        return msgspec.json.decode(member)
    except (ValueError, RecursionError):
        return None


def _seconds(value: object, *, interaction_id: str) -> int:
    """`expires_in` as whole seconds, tolerating text; 0 when it says nothing usable."""
    try:
        seconds = int(str(value)) if not isinstance(value, float) else int(value)
    except (ValueError, OverflowError):
        log.warning("answer without a usable expires_in", interaction_id=interaction_id)
        return 0
    return max(0, min(seconds, _EXPIRES_IN_MAX_S))


def _harvest(details: object, *, interaction_id: str) -> ConsentView | None:
    """The consent inside `authorization_details[0]`; nothing odd about it may cost us the tokens beside it.

    Its `Subscription` stands in the wrapped consent, or beside the consent (v1.1).
    """
    first = details[0] if isinstance(details, list) and details else None
    consent = first.get("consent") if isinstance(first, dict) else None
    if not isinstance(first, dict) or not isinstance(consent, dict):
        return None
    beside = {name: first[name] for name in ("Subscription", "subscription") if name in first}
    try:
        return read_consent(beside | consent)
    except (ValueError, TypeError, AttributeError, OverflowError):
        log.warning("consent of a token answer cannot be read", interaction_id=interaction_id)
        return None


def _code(text: str) -> str:
    """An error code fit for logs and metrics; anything else becomes `unreadable`."""
    return text if _CODE.fullmatch(text) else UNREADABLE


def _failed_redirect(why: str) -> AuthorizationFailedError:
    return AuthorizationFailedError(f"redirect: {why}", cause="redirect_unreadable")

"""Every refusal in one shape: a problem (RFC 9457) with a stable `code`, what is wrong, and what to do about it.

The codes are those of the error tree (`errors.py`) and the few of `Code`, which only a request can meet.  A problem
repeats names of fields, ids and codes, never a value that was sent: it may be a secret.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from syncworker.errors import (
    AuthorizationFailedError,
    ConsentError,
    CursorFilterError,
    CursorTooOldError,
    CursorUnknownError,
    NotAllowedError,
    RefusedError,
    RequestError,
    SetupError,
    StandardViolationError,
    SyncWorkerError,
    TransientError,
)
from syncworker.views.questions import RestrictedError, UnknownError

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 5
"""For what time mends, where nobody said how long."""

log = structlog.stdlib.get_logger(__name__)


class Code(StrEnum):
    """Refusals of a request as such."""

    KEY_MISSING = "key_missing"
    KEY_REFUSED = "key_refused"
    SCOPE_MISSING = "scope_missing"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    BAD_JSON = "bad_json"
    BAD_MEDIA_TYPE = "bad_media_type"
    BAD_REQUEST = RequestError.code
    TOO_LARGE = "too_large"
    TOO_SLOW = "too_slow"
    TOO_MANY_REQUESTS = "too_many_requests"
    WRONG_STATE = "wrong_state"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    PREFETCH = "prefetch"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Fault:
    """One field that is wrong.

    Attributes:
        field: its place in the request: `permissions.0`, `user_ref`.
        detail: what is wrong and what would be right.
    """

    field: str
    detail: str


@dataclass(kw_only=True, eq=False)  # not frozen: Python writes a traceback into what is raised
class Problem(Exception):  # noqa: N818  it is the standard's word, and raised to be answered
    """A refusal, to be raised or rendered.

    Attributes:
        detail: what is wrong, for a person.
        fix: what the caller can do.
        headers: further headers of the answer.
    """

    status: HTTPStatus
    code: str
    detail: str
    fix: str
    faults: Sequence[Fault] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> Response:
        """The answer.  Its `instance` is in the log."""
        instance = f"urn:uuid:{uuid.uuid4()}"
        body: dict[str, Any] = {
            "type": f"urn:syncworker:problem:{self.code}",
            "title": self.status.phrase,
            "status": self.status.value,
            "detail": self.detail,
            "instance": instance,
            "code": self.code,
            "fix": self.fix,
        }
        if self.faults:
            body["errors"] = [{"field": one.field, "detail": one.detail} for one in self.faults]
        (log.error if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR else log.info)(
            "refused", code=self.code, status=self.status.value, instance=instance
        )
        return Response(
            json.dumps(body, ensure_ascii=False),
            status_code=self.status.value,
            headers=dict(self.headers),
            media_type=MEDIA_TYPE,
        )


SCHEMA: Final[Mapping[str, Any]] = {
    "title": "Problem",
    "description": "A refusal (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance", "code", "fix"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong."},
        "instance": {"type": "string", "description": "Names this refusal in the log."},
        "code": {"type": "string", "description": "Stable; what programs look at."},
        "fix": {"type": "string", "description": "What the caller can do."},
        "errors": {
            "type": "array",
            "description": "Fields that are wrong.",
            "items": {
                "type": "object",
                "required": ["field", "detail"],
                "properties": {"field": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}
"""What `Problem.response` sends, for the OpenAPI description."""

REFUSALS: Final[dict[int | str, dict[str, Any]]] = {
    "default": {
        "description": "A problem (RFC 9457) with a stable `code` and a `fix`.",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}
"""What any operation may answer in place of what was asked for."""

NOT_FOUND_FIX: Final = "check the id and the path; what belongs to another tenant is not found here either"

CANNOT_BE_SHOWN: Final = Problem(
    status=HTTPStatus.INTERNAL_SERVER_ERROR,
    code=Code.INTERNAL,
    detail="something went wrong on our side",
    fix="try again; if it happens again, look for this instance in the log of the web process",
)

_NO_JSON: Final = (Code.BAD_JSON, "the body is not JSON", "send one JSON object in UTF-8")
_OF_STATUS: Final[Mapping[int, tuple[Code, str, str]]] = {
    400: _NO_JSON,  # FastAPI's word for a body that no parser could read
    404: (Code.NOT_FOUND, "there is nothing at this path", NOT_FOUND_FIX),
    405: (Code.METHOD_NOT_ALLOWED, "this path does not know the method", "use a method that `allow` names"),
}


def not_found(what: str, *, name: str | None = None) -> Problem:
    """Nothing of that id is held for this tenant.

    Args:
        name: of the field that gives the id; `None`: the path does.
    """
    said = f"no {what} of that id is held"
    return Problem(
        status=HTTPStatus.NOT_FOUND,
        code=Code.NOT_FOUND,
        detail=said if name is None else f"{name}: {said}",
        fix=NOT_FOUND_FIX,
        faults=() if name is None else (Fault(name, said),),
    )


def bad_request(*faults: Fault) -> Problem:
    """Fields are wrong."""
    return Problem(
        status=HTTPStatus.UNPROCESSABLE_ENTITY,
        code=Code.BAD_REQUEST,
        detail="; ".join(f"{one.field}: {one.detail}" for one in faults),
        fix="correct the fields that `errors` names and send the request again",
        faults=faults,
    )


def of_error(error: SyncWorkerError) -> Problem:
    """The problem an error of ours makes: who has to act decides the status."""
    match error:
        case TransientError():
            wait = str(max(1, round(error.retry_after or RETRY_AFTER_S)))
            return Problem(
                status=HTTPStatus.SERVICE_UNAVAILABLE,
                code=error.code,
                detail=str(error),
                fix=f"try again after {wait} s",
                headers={"retry-after": wait},
            )
        case RestrictedError():
            return Problem(
                status=HTTPStatus.FORBIDDEN,
                code=error.code,
                detail=str(error),
                fix="ask the user to consent again: POST /v1/connections/{connection_id}/renew",
                faults=_faults(str(error)),
            )
        case UnknownError():
            return Problem(
                status=HTTPStatus.NOT_FOUND,
                code=error.code,
                detail=str(error),
                fix=NOT_FOUND_FIX,
                faults=_faults(str(error)),
            )
        case CursorTooOldError() | CursorUnknownError():
            return Problem(
                status=HTTPStatus.GONE,
                code=error.code,
                detail=str(error),
                fix="begin again: GET /v1/changes?cursor=now, drop the rows you hold, read the lists, then the feed",
                faults=_faults(str(error)),
            )
        case CursorFilterError():
            return Problem(
                status=HTTPStatus.UNPROCESSABLE_ENTITY,
                code=error.code,
                detail=str(error),
                fix="give the filter the cursor was given for, or begin again with the new one: cursor=now",
                faults=_faults(str(error)),
            )
        case RequestError():
            return bad_request(*_faults(str(error)))
        case AuthorizationFailedError() | ConsentError():
            return Problem(
                status=HTTPStatus.CONFLICT, code=error.code, detail=str(error), fix="ask the user for a new consent"
            )
        case NotAllowedError():
            return Problem(
                status=HTTPStatus.FORBIDDEN,
                code=error.code,
                detail=str(error),
                fix="ask the operator to add it to [allow] in the settings",
            )
        case RefusedError() | StandardViolationError():
            return Problem(
                status=HTTPStatus.BAD_GATEWAY,
                code=error.code,
                detail=str(error),
                fix="the LFI refused; the operator finds the call in the log by its x-fapi-interaction-id",
            )
        case SetupError():  # its message names settings: for the operator's eyes
            log.error("set up wrongly", code=error.code, why=str(error))
            return Problem(
                status=HTTPStatus.INTERNAL_SERVER_ERROR,
                code=error.code,
                detail="the web process or the LFI's declaration is set up wrongly",
                fix="the operator finds the setting and its fix in the log of the web process",
            )
    return CANNOT_BE_SHOWN


def install(app: FastAPI) -> None:
    """Have an application answer every refusal as a problem."""

    @app.exception_handler(Problem)
    async def problem(_: Request, error: Problem) -> Response:
        return error.response()

    @app.exception_handler(SyncWorkerError)
    async def ours(_: Request, error: SyncWorkerError) -> Response:
        return of_error(error).response()

    @app.exception_handler(HTTPException)
    async def routing(_: Request, error: HTTPException) -> Response:
        code, detail, fix = _OF_STATUS.get(error.status_code, (Code.INTERNAL, "refused", "check the request"))
        status = HTTPStatus(error.status_code)
        headers = error.headers or {}
        return Problem(status=status, code=code, detail=detail, fix=fix, headers=headers).response()

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, __: Exception) -> Response:  # the guard says in the log what it was
        return CANNOT_BE_SHOWN.response()

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> Response:
        return _invalid(request, error).response()


def _invalid(request: Request, error: RequestValidationError) -> Problem:
    """What is wrong with the fields of a request; of the values nothing is repeated."""
    faults = error.errors()
    if any(fault["loc"][:1] == ("body",) for fault in faults) and not _is_json(request):
        return Problem(
            status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            code=Code.BAD_MEDIA_TYPE,
            detail="the body is not marked as JSON",
            fix="send JSON with content-type: application/json",
        )
    if any(fault["type"] == "json_invalid" for fault in faults):
        code, detail, fix = _NO_JSON
        return Problem(status=HTTPStatus.BAD_REQUEST, code=code, detail=detail, fix=fix)
    return bad_request(*(_fault(fault) for fault in faults))


def _fault(fault: Mapping[str, Any]) -> Fault:
    place = ".".join(str(part) for part in fault["loc"][1:]) or str(fault["loc"][0])
    if fault["type"] == "extra_forbidden":
        return Fault(place, "is not a field of this request; remove it or correct its name")
    return Fault(place, str(fault["msg"]).removeprefix("Value error, "))


def _faults(message: str) -> list[Fault]:
    """An error's message, which names its fields: `expires_at: lies in the past; permissions: …`."""
    found: list[Fault] = []
    for part in message.split("; "):
        name, colon, detail = part.partition(": ")
        if colon and name.replace("_", "").replace(".", "").isalnum():
            found.append(Fault(name, detail))
        elif found:  # the fix of the field before it
            found[-1] = Fault(found[-1].field, f"{found[-1].detail}; {part}")
        else:
            found.append(Fault("request", part))
    return found


def _is_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json"

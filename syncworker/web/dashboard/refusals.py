"""Refusals below the dashboard's path as pages: a browser shows them to a person.

Whatever refuses a request there, the dashboard's door, the router or the guard around the application, answers with a
problem; on its way out it becomes a page with the same status and headers, and with the dashboard's own policy.
"""

import json
from collections.abc import MutableMapping
from http import HTTPStatus
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.types import Scope, Send

from syncworker.web.dashboard import render
from syncworker.web.problems import MEDIA_TYPE

_OF_BODY: Final = frozenset({b"content-type", b"content-length", *(name.encode() for name in render.HEADERS)})


def paged(scope: Scope, send: Send) -> Send:
    """How an answer to this request is sent: a problem as a page, anything else as it is."""
    path: str = scope["path"]
    if path != render.PATH and not path.startswith(f"{render.PATH}/"):
        return send
    held: MutableMapping[str, Any] | None = None
    body = bytearray()

    async def shown(message: MutableMapping[str, Any]) -> None:
        nonlocal held
        if message["type"] == "http.response.start":
            if Headers(raw=message["headers"]).get("content-type", "").startswith(MEDIA_TYPE):
                held = message
                return
        elif held is not None and message["type"] == "http.response.body":
            body.extend(message.get("body", b""))
            if not message.get("more_body", False):
                await _page(held, bytes(body))(scope, _nothing, send)
            return
        await send(message)

    return shown


def _page(start: MutableMapping[str, Any], body: bytes) -> Any:
    problem = json.loads(body)
    status = HTTPStatus(start["status"])
    why = f"{problem['detail']}: {problem['fix']}."
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        why = f"{why} In the log it is {problem['instance']}."
    page = render.page("refused.html", status, what=status.phrase, why=f"{why[:1].upper()}{why[1:]}")
    page.raw_headers += [(name, value) for name, value in start["headers"] if name.lower() not in _OF_BODY]
    return page


async def _nothing() -> MutableMapping[str, Any]:
    return {"type": "http.disconnect"}

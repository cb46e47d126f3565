"""The pages a user meets on the way to their bank and back: one state each, plain words, no script.

A page says what happened, that nothing else did, and what to do now.  It shows ids and our words alone: nothing that
came with the request is repeated on it.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from importlib import resources
from typing import Final

import jinja2
from fastapi import Response
from markupsafe import Markup

BACK_AFTER_S: Final = 5
"""After so many seconds the user is taken back to the product."""


class State(StrEnum):
    """Where an authorisation stands when its user is shown a page; also `result` of the URL they go back to."""

    AUTHORIZED = "authorized"
    AWAITING_AUTHORIZATION = "awaiting_authorization"
    NOT_AUTHORIZED = "not_authorized"
    DECLINED = "declined"
    USED = "used"
    TOO_OLD = "too_old"
    UNKNOWN_STATE = "unknown_state"
    WRONG_BROWSER = "wrong_browser"
    WRONG_ISSUER = "wrong_issuer"
    REDIRECT_UNREADABLE = "redirect_unreadable"
    CODE_REFUSED = "code_refused"
    CODE_UNANSWERED = "code_unanswered"
    FAILED = "failed"
    UNKNOWN_INTENT = "unknown_intent"
    INTENT_EXPIRED = "intent_expired"
    INTENT_COMPLETED = "intent_completed"
    OPENED_TOO_OFTEN = "opened_too_often"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Words:
    """What a page says.

    Attributes:
        tone: `good`, `wait` or `bad`.
        leads_back: whether the user is taken back by themselves; otherwise a link waits for them.
    """

    state: State
    status: HTTPStatus
    tone: str
    title: str
    lines: tuple[str, ...]
    leads_back: bool = True

    @property
    def mark(self) -> str:
        return {"good": "✓", "wait": "…"}.get(self.tone, "!")


_BEGIN_AGAIN: Final = "Begin again in the app."
_NOTHING_SHARED: Final = "Nothing was shared."

_OK, _BAD, _GONE, _CONFLICT = HTTPStatus.OK, HTTPStatus.BAD_REQUEST, HTTPStatus.GONE, HTTPStatus.CONFLICT
_GATEWAY, _FORBIDDEN, _NOT_FOUND = HTTPStatus.BAD_GATEWAY, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND
_MANY, _AWAY = HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE

S = State

# fmt: off
WORDS: Final[Mapping[State, Words]] = {words.state: words for words in (
    Words(S.AUTHORIZED, _OK, "good", "Your bank is connected",
          ("You agreed to share your data, and your bank confirmed it.",
           "You can pause or stop sharing in the app at any time.")),
    Words(S.AWAITING_AUTHORIZATION, _OK, "wait", "Waiting for another approval",
          ("You approved. This account needs the approval of someone else too, and your bank is asking them.",
           "Nothing is shared before they approve. You do not have to do anything more.")),
    Words(S.NOT_AUTHORIZED, _OK, "bad", "Your bank ended this consent",
          ("Your bank took your answer and did not put the consent into use.", _NOTHING_SHARED, _BEGIN_AGAIN)),
    Words(S.DECLINED, _OK, "bad", "You did not agree",
          ("The request was declined at your bank.", _NOTHING_SHARED)),
    Words(S.USED, _CONFLICT, "wait", "This step was already taken",
          ("This page was opened before, and nothing was done a second time.",
           "The app shows where your consent stands.")),
    Words(S.TOO_OLD, _GONE, "bad", "This took too long",
          ("Your answer came more than ten minutes after the request was made.", _NOTHING_SHARED, _BEGIN_AGAIN)),
    Words(S.UNKNOWN_STATE, _BAD, "bad", "This request is not known",
          ("Your bank sent you here with a request that was not made here.", _NOTHING_SHARED, _BEGIN_AGAIN)),
    Words(S.WRONG_BROWSER, _FORBIDDEN, "bad", "Begun in another browser",
          ("The request was not begun in this browser, or its cookie is gone. To keep you safe, it ends here.",
           _NOTHING_SHARED, "Begin again in the app, and stay in one browser.")),
    Words(S.WRONG_ISSUER, _BAD, "bad", "The answer is not from your bank",
          ("The answer did not come from the bank the request was made to.", _NOTHING_SHARED, _BEGIN_AGAIN)),
    Words(S.REDIRECT_UNREADABLE, _BAD, "bad", "The answer cannot be read",
          ("Your bank sent you here without a readable answer.", _NOTHING_SHARED, _BEGIN_AGAIN)),
    Words(S.CODE_REFUSED, _BAD, "bad", "Your bank did not complete it",
          ("Your bank did not accept its own answer any more.", _NOTHING_SHARED, _BEGIN_AGAIN)),
    Words(S.CODE_UNANSWERED, _GATEWAY, "bad", "Your bank did not answer",
          ("You agreed, and then your bank did not answer us. Such an answer is good only once.", _BEGIN_AGAIN)),
    Words(S.FAILED, _GATEWAY, "bad", "It did not work",
          ("You agreed, and then something went wrong between your bank and us. We have been told.", _BEGIN_AGAIN)),
    Words(S.UNKNOWN_INTENT, _NOT_FOUND, "bad", "This link leads nowhere",
          ("The link is not complete, or was not made here.", _BEGIN_AGAIN)),
    Words(S.INTENT_EXPIRED, _GONE, "bad", "This link has expired",
          (_NOTHING_SHARED, _BEGIN_AGAIN)),
    Words(S.INTENT_COMPLETED, _CONFLICT, "good", "This is done already",
          ("The consent this link asks for was given.",)),
    Words(S.OPENED_TOO_OFTEN, _MANY, "bad", "This link was opened too often",
          (_NOTHING_SHARED, _BEGIN_AGAIN)),
    Words(S.UNAVAILABLE, _AWAY, "wait", "Not possible at the moment",
          ("Your bank or this page cannot be reached right now.", _NOTHING_SHARED,
           "Try again in a few minutes: reload this page, or begin again in the app."), leads_back=False),
)}
# fmt: on

_STYLE: Final = resources.files("syncworker.web").joinpath("templates/page.css").read_text(encoding="utf-8")
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_PAGES: Final = jinja2.Environment(
    loader=jinja2.PackageLoader("syncworker.web"), autoescape=True, undefined=jinja2.StrictUndefined
)


def page(state: State, *, facts: Mapping[str, str] | None = None, back: str | None = None) -> Response:
    """The page of a state.

    Args:
        facts: names and ids to show.
        back: where the product wants its user, query included; `None`: it did not say.
    """
    words = WORDS[state]
    html = _PAGES.get_template("page.html").render(
        words=words,
        facts=facts or {},
        back=back,
        back_after_s=BACK_AFTER_S,
        style=Markup(_STYLE),  # noqa: S704  our own file
    )
    return Response(
        html,
        status_code=words.status.value,
        headers={"content-security-policy": POLICY},
        media_type="text/html; charset=utf-8",
    )

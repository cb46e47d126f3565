"""The bank's counter: a page where a customer sees their consents and takes them back, for a person with a browser.

At `/consents` of auth1.  Who is a second authoriser finds there what waits for them.  Since this is a sandbox, the
bank's own hand is on the same page: block a consent, lift the block.  A script has the same as verbs (`bank`).
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import parse_qsl

from syncworker.simulator import pages
from syncworker.simulator.asgi import Answer, Request
from syncworker.simulator.clock import BankClock
from syncworker.simulator.consents import Consent, Consents, MoveError
from syncworker.simulator.ledger import Ledger
from syncworker.standard.consents import Status

PATH: Final = "/consents"
VISIT: Final = timedelta(minutes=15)

Act = Callable[[str], None]
"""What a button does with a consent, by its id; raises `MoveError` when it cannot."""

BUTTONS: Final[Mapping[Status, tuple[tuple[str, str], ...]]] = {
    Status.Authorized: (("revoke", "Take it back"), ("suspend", "As the bank: block it")),
    Status.Suspended: (("revoke", "Take it back"), ("lift", "As the bank: lift the block")),
}
"""Acts and what their buttons say, by the status of one's own consent."""
SECOND: Final = (("agree", "Agree"), ("reject", "Refuse"))
"""The same of somebody else's consent that waits for a second authoriser."""


@dataclass(frozen=True, slots=True)
class _Visit:
    user: str
    until: datetime


class Counter:
    """Answers below `/consents`.

    Args:
        acts: by the names in `BUTTONS` and `SECOND`.
    """

    def __init__(self, *, ledger: Ledger, consents: Consents, clock: BankClock, acts: Mapping[str, Act]) -> None:
        self._ledger = ledger
        self._consents = consents
        self._clock = clock
        self._acts = acts
        self._visits: dict[str, _Visit] = {}

    def answer(self, request: Request) -> Answer:
        """Log in, look, act."""
        form = dict(parse_qsl(request.body.decode("utf-8", "replace"), max_num_fields=20))
        key, _, step = request.path.removeprefix(PATH).lstrip("/").partition("/")
        match request.method, key, step:
            case "GET", "", "":
                names = ((user, user.partition("-")[0].title()) for user in self._ledger.users)
                return _html(pages.choose(f"{PATH}/login", names))
            case "POST", "login", "":
                return self._login(form.get("user", ""))
            case "GET" | "POST", _, "" if (visit := self._visit(key)) is not None:
                if request.method == "GET":
                    return _html(pages.own_consents(f"{PATH}/{key}", visit.user, self._shown(visit.user)))
                request.trace.consent_id = form.get("consent")
                return self._act(key, visit.user, form.get("consent", ""), form.get("act", ""))
        return _html(pages.sorry("This visit is over. Please log in again."), 400)

    def _login(self, user: str) -> Answer:
        if user not in self._ledger.users:
            return _html(pages.sorry("Nobody has this name."), 400)
        now, key = self._clock.now(), secrets.token_urlsafe(24)
        self._visits = {known: one for known, one in self._visits.items() if one.until > now}
        self._visits[key] = _Visit(user, now + VISIT)
        return _back(key)

    def _visit(self, key: str) -> _Visit | None:
        visit = self._visits.get(key)
        return visit if visit is not None and self._clock.now() < visit.until else None

    def _shown(self, user: str) -> list[tuple[Consent, tuple[tuple[str, str], ...]]]:
        """The customer's consents and those that wait for a second authoriser, each with its buttons; newest first."""
        shown = []
        for consent in self._consents:
            waits = consent.held and consent.status is Status.AwaitingAuthorization and consent.user != user
            if waits or consent.user == user:
                shown.append((consent, SECOND if waits else BUTTONS.get(consent.status, ())))
        return shown[::-1]

    def _act(self, key: str, user: str, consent_id: str, act: str) -> Answer:
        offered = {one.consent_id: dict(buttons) for one, buttons in self._shown(user)}
        if act not in offered.get(consent_id, {}):
            return _html(pages.sorry("This is not possible any more."), 409)
        try:
            self._acts[act](consent_id)
        except MoveError as fault:
            return _html(pages.sorry(str(fault)), 409)
        return _back(key)


def _back(key: str) -> Answer:
    return Answer(303, headers={"location": f"{PATH}/{key}", **pages.headers()})


def _html(page: bytes, status: int = 200) -> Answer:
    return Answer(status, page, pages.headers(), "text/html; charset=utf-8")

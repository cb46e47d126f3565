"""What an operator may do: each action with a preview, a reason, and its audit row.

An action calls what the command line and `/v1` call, in one transaction with its audit row; there is no second way.  A
preview says what will happen, what holds it back and the same as a command.  Nothing is done without a reason.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from fastapi import Response
from fastapi.responses import RedirectResponse

from syncworker import webhooks
from syncworker.consents import pausing, revoking
from syncworker.errors import RequestError
from syncworker.refreshes import Asked, Refreshes, Refusal
from syncworker.standard.consents import Revoker
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.connections import Action as ConnectionAction
from syncworker.store.connections import ConnectionShown
from syncworker.store.messages import Outcome
from syncworker.store.ops_lists import MessageLine, WorkLine
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import WorkKind, WorkRow
from syncworker.web.dashboard import paging, render, words
from syncworker.web.dashboard.connections import callable_at
from syncworker.web.dashboard.door import Form, RefusedError, Visit, not_found
from syncworker.web.dashboard.frame import Frame
from syncworker.web.dashboard.lists import QUARANTINE
from syncworker.web.dashboard.render import link

REASON_LENGTH: Final = 500

Note = Callable[..., Awaitable[int]]
"""Writes the audit row in a transaction; gives its number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What an action will do.

    Attributes:
        title: with the subject's name.
        facts: what will happen, at what cost, what holds it back; in order.
        command: the same on the command line.
        back: the page it was begun on, and leads back to.
        button: word on the button that does it.
        typed: what the operator must type; empty: nothing.
        refused: why it is not possible now; empty: it is.
    """

    title: str
    facts: Mapping[str, str]
    command: str
    back: str
    button: str
    typed: str = ""
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Act:
    """One action.

    Attributes:
        what: word of its audit row.
        preview: reads what it would do to a subject.
        do: does it; takes the transaction's way to write the audit row.
    """

    what: str
    preview: Callable[[UnitOfWork, Visit, str], Awaitable[Preview]]
    do: Callable[[Visit, str, Note], Awaitable[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What the actions call.

    Attributes:
        hurry: asks the workers to look for what is due.
        senders: whose events are taken.
        receiver: takes events in; `None`: none are taken.
    """

    store: Store
    refreshes: Refreshes
    hurry: Callable[[], None]
    senders: Mapping[str, Any] = field(default_factory=dict)
    receiver: webhooks.Receiver | None = None


class Actions:
    """The form of each action, and what it does."""

    def __init__(self, frame: Frame, tools: Tools) -> None:
        self._frame = frame
        self._tools = tools
        self.by_name: Final[Mapping[str, Act]] = {
            "sync": Act("ops_sync_now", self._see_sync, self._sync),
            "pause": Act("ops_pause", self._see_pause, partial(self._moved, pausing.pause_all)),
            "resume": Act("ops_resume", self._see_resume, partial(self._moved, pausing.resume_all)),
            "revoke": Act("ops_revoke", self._see_revoke, partial(self._moved, _revoked)),
            "unpark": Act("ops_unpark", self._see_unpark, self._unpark),
            "retry": Act("ops_lfi_retry", self._see_retry, self._retry),
            "replay": Act("ops_replay", self._see_replay, self._replay),
            "redeliver": Act("ops_redeliver", self._see_redeliver, self._redeliver),
        }

    async def form(self, visit: Visit, unit: UnitOfWork) -> Response:
        """The preview of an action, with the form that does it."""
        name, act, subject = self._asked(visit)
        seen = await act.preview(unit, visit, subject)
        return await self._page(visit, unit, name, subject, seen)

    async def do(self, visit: Visit, form: Form) -> Response:
        """Do it: once, with its audit row, and lead back to where it was begun."""
        name, act, subject = self._asked(visit)
        async with self._tools.store.reading() as unit:
            seen = await act.preview(unit, visit, subject)
            reason = " ".join(form.get("reason", "").split())
            wrong = _wrong(seen, reason, form.get("typed", "").strip())
            if wrong:
                return await self._page(visit, unit, name, subject, seen, wrong=wrong, reason=reason)

        async def note(unit: UnitOfWork, about: str, **facts: Any) -> int:
            given = {"key_id": visit.session.key_id, "reason": reason, **facts}
            return await unit.consents.note(act.what, subject=about, facts=given, at=await unit.now())

        try:
            number = await act.do(visit, subject, note)
        except RequestError as error:  # it moved meanwhile
            raise RefusedError(HTTPStatus.CONFLICT, "Not done", f"{error}.") from None
        self._frame.looker.forget()
        mark = "&" if "?" in seen.back else "?"
        return RedirectResponse(
            f"{seen.back}{mark}done={number}", status_code=HTTPStatus.SEE_OTHER, headers=dict(render.HEADERS)
        )

    def _asked(self, visit: Visit) -> tuple[str, Act, str]:
        name, subject = str(visit.request.path_params["action"]), str(visit.request.path_params["subject"])
        act = self.by_name.get(name)
        if act is None or not paging.is_id(subject):
            raise not_found("action")
        return name, act, subject

    async def _page(
        self,
        visit: Visit,
        unit: UnitOfWork,
        name: str,
        subject: str,
        seen: Preview,
        *,
        wrong: str = "",
        reason: str = "",
    ) -> Response:
        status = HTTPStatus.UNPROCESSABLE_ENTITY if wrong else HTTPStatus.OK
        return await self._frame.page(
            visit,
            unit,
            "action.html",
            here="",
            http_status=status,
            seen=seen,
            action=link("actions", name, subject),
            wrong=wrong,
            reason=reason,
            reason_length=REASON_LENGTH,
        )

    # -- connections ----------------------------------------------------------------------------------------------

    async def _see_sync(self, unit: UnitOfWork, visit: Visit, subject: str) -> Preview:
        one = await _connection(unit, subject)
        listings = (await unit.cursors.of(one.connection_id)).keys()
        refused = "" if callable_at(one.consent, visit.now) else f"its consent is {one.consent.label}"
        work = await unit.work.find(WorkKind.SYNC, one.connection_id)
        if work is not None and work.parked_at is not None:
            refused = "it is parked; put it back first"
        facts = {
            "Will do": f"make its sync due now and read all {len(listings)} listings, those that are young too",
            "At most": f"{len(listings)} calls, and one for each further page",
            "Held back": "by the LFI’s gate or breaker, if one is closed: the row then waits for it",
        }
        command = f"syncworker consents sync {one.consent.consent_id}"
        return Preview(
            title=f"Sync {one.user_ref} at {one.lfi} now",
            facts=facts,
            command=command,
            back=link("connections", one.connection_id),
            button="Sync now",
            refused=refused,
        )

    async def _sync(self, visit: Visit, subject: str, note: Note) -> int:
        numbers: list[int] = []

        async def along(unit: UnitOfWork, refresh_id: str) -> None:
            numbers[:] = [await note(unit, subject, refresh_id=refresh_id)]

        asked = Asked(key_id=visit.session.key_id, connection_id=ConsentId(subject))
        filed = await self._tools.refreshes.ask(asked, along=along)
        if isinstance(filed, Refusal):
            raise RequestError(f"connection_id: nothing was asked for ({filed.value})")
        self._tools.hurry()
        return numbers[0]

    async def _see_pause(self, unit: UnitOfWork, _: Visit, subject: str) -> Preview:
        one = await _connection(unit, subject)
        return Preview(
            title=f"Pause {one.user_ref} at {one.lfi}",
            facts={
                "Will do": "stop all calls of its consents, for data and for tokens; the LFI is not told",
                "Stays": "consents, tokens and data; it goes on by Resume without asking the customer",
            },
            command=f"syncworker consents pause {one.consent.consent_id}",
            back=link("connections", one.connection_id),
            button="Pause",
            refused=_impossible(one, ConnectionAction.PAUSE),
        )

    async def _see_resume(self, unit: UnitOfWork, _: Visit, subject: str) -> Preview:
        one = await _connection(unit, subject)
        return Preview(
            title=f"Resume {one.user_ref} at {one.lfi}",
            facts={"Will do": "let its paused consents go on; what is due is read at once"},
            command=f"syncworker consents resume {one.consent.consent_id}",
            back=link("connections", one.connection_id),
            button="Resume",
            refused=_impossible(one, ConnectionAction.REACTIVATE),
        )

    async def _see_revoke(self, unit: UnitOfWork, _: Visit, subject: str) -> Preview:
        one = await _connection(unit, subject)
        return Preview(
            title=f"Revoke {one.user_ref} at {one.lfi}",
            facts={
                "Will do": "end every consent of the connection for good: no call from now on, its tokens destroyed; a "
                "worker tells the Hub",
                "Undone by": "nothing; the customer would have to consent again",
            },
            command=f"syncworker consents revoke {one.consent.consent_id} --by-us --yes",
            back=link("connections", one.connection_id),
            button="Revoke for good",
            typed=one.user_ref,
            refused=_impossible(one, ConnectionAction.STOP),
        )

    async def _moved(
        self, step: Callable[[UnitOfWork, ConsentId], Awaitable[Any]], _: Visit, subject: str, note: Note
    ) -> int:
        async def moved(unit: UnitOfWork) -> int:
            await step(unit, ConsentId(subject))
            return await note(unit, subject)

        number = await self._tools.store.atomically(moved)
        self._tools.hurry()
        return number

    # -- work -----------------------------------------------------------------------------------------------------

    async def _see_unpark(self, unit: UnitOfWork, _: Visit, subject: str) -> Preview:
        row = await _row(unit, subject)
        if row is None:
            raise not_found("row of work")
        is_sync = row.kind == WorkKind.SYNC
        return Preview(
            title=f"Put {row.kind} {words.head(row.subject, 18)} back into the schedule",
            facts={
                "Parked for": row.last_error or "–",
                "Will do": f"make the row due now at {row.lfi or 'no LFI'}; parked again if it ends its worker",
            },
            command=f"syncworker consents sync {row.subject}" if is_sync else "",
            back=link("work", state="parked") if subject.isdigit() else link("connections", subject),
            button="Put back",
            refused="" if row.parked_at is not None else "it is not parked",
        )

    async def _unpark(self, _: Visit, subject: str, note: Note) -> int:
        async def unparked(unit: UnitOfWork) -> int:
            row = await _row(unit, subject)
            if row is None or not await unit.work.ask_now(WorkKind(row.kind), row.subject):
                raise RequestError("subject: there is no such row of work any more")
            return await note(unit, row.subject, kind=str(row.kind))

        number = await self._tools.store.atomically(unparked)
        self._tools.hurry()
        return number

    # -- LFIs -----------------------------------------------------------------------------------------------------

    async def _see_retry(self, unit: UnitOfWork, visit: Visit, subject: str) -> Preview:
        slug = Slug(subject)
        waiting = [
            operations.value
            for (lfi, operations), one in (await unit.breakers.all()).items()
            if lfi == slug and one.closed_at is None
        ]
        due = sum(one.due for one in await unit.work.summary() if one.lfi == slug)
        return Preview(
            title=f"Retry {slug} now",
            facts={
                "Will do": f"let one row of each class through as a trial ({', '.join(waiting) or 'none'})",
                "Waiting": f"{words.count(due)} due rows wait for its outcome",
                "On success": "rate and slots come back gradually",
                "Stays": "a gate that a 429 closed: that is the LFI’s own word",
            },
            command=f"syncworker lfis retry {slug}",
            back=link("lfis", slug),
            button="Retry now",
            refused="" if waiting else "no breaker keeps calls back",
        )

    async def _retry(self, _: Visit, subject: str, note: Note) -> int:
        async def tried(unit: UnitOfWork) -> int:
            waited = await unit.breakers.try_now(Slug(subject))
            if not waited:
                raise RequestError("lfi: no breaker keeps calls back any more")
            return await note(unit, subject, breakers=waited)

        number = await self._tools.store.atomically(tried)
        self._tools.hurry()
        return number

    # -- events and messages --------------------------------------------------------------------------------------

    async def _see_replay(self, unit: UnitOfWork, _: Visit, subject: str) -> Preview:
        number = paging.number(subject.removeprefix(QUARANTINE), "event")
        refused, why = "", ""
        if subject.startswith(QUARANTINE):
            entry = await unit.ops_lists.refused_row(number)
            if entry is None:
                raise not_found("event")
            why = "verify its body again with today’s keys and senders, and file it if it verifies"
            if not entry.kept:
                refused = f"it failed the check {entry.why}, which no replay can mend; its body was not kept"
            elif self._tools.receiver is None:
                refused = "no events are taken: [events.senders] is empty"
        else:
            event = await unit.ops_lists.event(number)
            if event is None:
                raise not_found("event")
            why = "act on it once more: the Hub is asked how its subject stands"
        return Preview(
            title=f"Replay event {subject}",
            facts={"Will do": why, "Twice": "harmless: the event is a hint, and the Hub’s answer counts"},
            command=f"syncworker events replay {subject}",
            back=link("events", subject),
            button="Replay",
            refused=refused,
        )

    async def _replay(self, _: Visit, subject: str, note: Note) -> int:
        tools = self._tools
        number = paging.number(subject.removeprefix(QUARANTINE), "event")
        numbers: list[int] = []

        async def along(unit: UnitOfWork) -> None:
            numbers[:] = [await note(unit, subject)]

        if subject.startswith(QUARANTINE):
            if tools.receiver is None:
                raise RequestError("events.senders: no events are taken")
            await webhooks.verified_again(tools.store, tools.receiver, number, shown=subject, along=along)
        else:

            async def replayed(unit: UnitOfWork) -> None:
                await webhooks.replay(unit, number, tools.senders)
                await along(unit)

            await tools.store.atomically(replayed)
        tools.hurry()
        return numbers[0]

    async def _see_redeliver(self, unit: UnitOfWork, _: Visit, subject: str) -> Preview:
        one = await unit.ops_lists.message(paging.number(subject, "message"))
        if one is None:
            raise not_found("message")
        return Preview(
            title=f"Send message {one.id} again",
            facts={
                "Will do": f"send {one.type} to endpoint {one.endpoint_id} once more, under its own webhook-id",
                "Order": "behind what waits",
                "Receiver": "knows a repeat by the webhook-id",
            },
            command=f"syncworker webhooks redeliver {one.endpoint_id} --message {one.id}",
            back=link("webhooks", endpoint=one.endpoint_id),
            button="Send again",
            refused=_not_sent_again(one),
        )

    async def _redeliver(self, _: Visit, subject: str, note: Note) -> int:
        number = paging.number(subject, "message")

        async def again(unit: UnitOfWork) -> int:
            one = await unit.ops_lists.message(number)
            if one is None:
                raise RequestError("message: it is not kept any more")
            sent = await unit.messages.redeliver(one.endpoint_id, numbers=[number], since=None, at=await unit.now())
            if not sent:
                raise RequestError("message: it has not ended, and is sent by itself")
            return await note(unit, one.endpoint_id, message=number)

        written = await self._tools.store.atomically(again)
        self._tools.hurry()
        return written


def _not_sent_again(one: MessageLine) -> str:
    if one.ended_at is None:
        return "it waits already, and is sent by itself"
    return "another message tells what it told" if one.outcome == Outcome.FOLDED else ""


async def _row(unit: UnitOfWork, subject: str) -> WorkLine | WorkRow | None:
    """A row of work by its number, or the sync of a connection by its id."""
    if subject.isdigit() and len(subject) <= 18:
        found = await unit.ops_lists.work_row(int(subject))
        if found is not None:
            return found
    return await unit.work.find(WorkKind.SYNC, subject)


async def _revoked(unit: UnitOfWork, connection_id: ConsentId) -> None:
    await revoking.ordered_all(unit, connection_id, by=Revoker.TPP)


async def _connection(unit: UnitOfWork, subject: str) -> ConnectionShown:
    found = await unit.connections.get(ConsentId(subject))
    if found is None:
        raise not_found("connection")
    return found[0]


def _impossible(one: ConnectionShown, action: ConnectionAction) -> str:
    return "" if action in one.consent.actions else f"the connection is {one.consent.label}"


def _wrong(seen: Preview, reason: str, typed: str) -> str:
    """What keeps a form from being done, for the person who sent it; empty: nothing."""
    if seen.refused:
        return f"Not possible now: {seen.refused}."
    if not reason:
        return "Give a reason: it is kept in the audit."
    if len(reason) > REASON_LENGTH or not reason.isprintable():
        return f"The reason takes at most {REASON_LENGTH} printable characters."
    if seen.typed and typed != seen.typed:
        return "What was typed is not the user_ref; nothing was done."
    return ""

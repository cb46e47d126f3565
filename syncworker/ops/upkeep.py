"""Causes in what goes out and in what is kept: feed, deliveries, exports, events, consents, account openings.

In: a `Status`.  Out: causes without number and effect.  No I/O.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

from syncworker.ops.cause import Cause, CauseKind, Effect, Side, key_of
from syncworker.ops.status import FEED_LAGS, FEED_LAGS_IDLE, ExportFact, FeedFact, Status
from syncworker.ops.words import instant, several, span
from syncworker.standard.consents import Status as ConsentStatus
from syncworker.store.overview import CONSUMED_FOR, OddConsent

UNTOLD: Final = timedelta(minutes=10)
"""A revocation the Hub does not have by then is worth a look; the first tries come within so long."""

UNACTED: Final = timedelta(minutes=10)
"""An event that nothing acted on by then waits for something."""

EXPORT_LATE: Final = timedelta(minutes=5)
"""An export that is due is begun by then, while workers live."""

IDS_SHOWN: Final = 3
BY_OPERATOR: Final = "operator"


def upkeep(status: Status) -> list[Cause]:
    """Every such cause."""
    if status.overview is None:
        return []
    return [
        *feed(status.feed, at=status.at),
        *_deliveries(status),
        *exports(status.exports, at=status.at),
        *_inbox(status),
        *consents(status.overview.odd, at=status.at),
        *openings(*status.overview.openings),
    ]


def feed(fact: FeedFact, *, at: datetime) -> list[Cause]:
    """What holds the feed back, where committed changes have waited for long: the oldest transaction alone.

    One that was left open is told at once, one that is at work after a minute.
    """
    first = next(iter(fact.held_by), None)
    idle = None if first is None or first.idle_since is None else at - first.idle_since
    if fact.lag <= (FEED_LAGS if idle is None or idle <= FEED_LAGS_IDLE else FEED_LAGS_IDLE):
        return []
    what = f"the feed of changes is held back for {span(fact.lag)}"
    step = "the transaction has just ended, or our role may not see it: look at pg_stat_activity"
    if first is not None:
        name = first.application or "an unnamed program"
        since = "" if first.since is None else f" since {instant(first.since)}"
        if first.pid is None:
            what = f"{what} by a {name}{since}"
            step = "commit or roll it back: `SELECT gid FROM pg_prepared_xacts` names it"
        else:
            what = f"{what} by a transaction of process {first.pid} ({name}) open{since}"
            if idle is not None:
                what = f"{what}, which does nothing"
            step = f"let it end, or end it: `SELECT pg_terminate_backend({first.pid})` in the database"
    return [
        Cause(
            kind=CauseKind.FEED_HELD,
            key=key_of(CauseKind.FEED_HELD),
            what=what,
            since=at - fact.lag,
            step=step,
            command="syncworker doctor",
        )
    ]


def _deliveries(status: Status) -> Iterator[Cause]:
    assert status.overview is not None
    for one in status.overview.backlogs:
        stopped = one.disabled_at is not None and one.disabled_why != BY_OPERATOR
        if not one.waiting or not (stopped or (one.disabled_at is None and one.failing_since is not None)):
            continue
        host = urlsplit(one.url).hostname or "?"
        since = one.disabled_at if stopped else one.failing_since
        oldest = "" if one.oldest is None else f", the oldest for {span(max(status.at - one.oldest, timedelta()))}"
        how = f"is disabled ({one.disabled_why})" if stopped else "does not take them"
        yield Cause(
            kind=CauseKind.DELIVERIES_STUCK,
            key=key_of(CauseKind.DELIVERIES_STUCK, one.endpoint_id),
            what=f"deliveries to {one.endpoint_id} ({host}) are stuck",
            why=f"the endpoint {how}; {several(one.waiting, 'message')} wait{'s' if one.waiting == 1 else ''}{oldest}",
            since=since,
            side=Side.PRODUCT,
            step="mend the endpoint, then enable it" if stopped else "the product mends its endpoint; tries go on",
            command=f"syncworker webhooks {'enable' if stopped else 'deliveries'} {one.endpoint_id}",
            by_itself=not stopped,
            effect=Effect(waiting=one.waiting),
        )


def late_export(one: ExportFact, *, at: datetime) -> str | None:
    """What is wrong with a series of exports; `None`: nothing, or one is being made."""
    if one.going:
        return None
    if one.error is not None:
        return f"failed ({one.error})"
    if one.due_at is None:
        return "was seen by no worker yet"
    return f"is late for {span(at - one.due_at)}" if at - one.due_at > EXPORT_LATE else None


def exports(those: Sequence[ExportFact], *, at: datetime) -> list[Cause]:
    """Series of exports that are late or failed."""
    found = []
    for one in those:
        wrong = late_export(one, at=at)
        if wrong is None:
            continue
        unseen = one.due_at is None and one.error is None
        found.append(
            Cause(
                kind=CauseKind.EXPORT_LATE,
                key=key_of(CauseKind.EXPORT_LATE, one.name),
                what=f"export {one.name} {wrong}",
                why="none was made yet" if one.last_at is None else f"the last is of {instant(one.last_at)}",
                since=one.due_at,
                step="restart the workers, or make it now" if unseen else "make it now; it says what is wrong",
                command=f"syncworker export run --name {one.name}",
                effect=Effect(waiting=1),
            )
        )
    return found


def _inbox(status: Status) -> Iterator[Cause]:
    assert status.overview is not None
    inbox = status.overview.inbox
    if inbox.oldest is not None and status.at - inbox.oldest > UNACTED:
        yield Cause(
            kind=CauseKind.INBOX_STUCK,
            key=key_of(CauseKind.INBOX_STUCK),
            what=f"{several(inbox.waiting, 'event')} of the Hub wait{'s' if inbox.waiting == 1 else ''}",
            why=f"the oldest for {span(status.at - inbox.oldest)}",
            since=inbox.oldest,
            step="`events list` says why; an event is asked about again by itself",
            command="syncworker events list",
            by_itself=True,
            grave=False,
            effect=Effect(waiting=inbox.waiting),
        )


def consents(odd: Sequence[OddConsent], *, at: datetime) -> list[Cause]:
    """What a person should look at among consents, worst first."""
    found = []
    consumed = [one for one in odd if one.status == ConsentStatus.Consumed and at - (one.ended_at or at) < CONSUMED_FOR]
    if consumed:
        kind = CauseKind.CONSENTS_CONSUMED
        found.append(
            Cause(
                kind=kind,
                key=key_of(kind),
                what=f"{several(len(consumed), 'data consent is', 'data consents are')} Consumed, as only payments may "
                f"be ({_some(consumed)})",
                since=min((one.ended_at for one in consumed if one.ended_at is not None), default=None),
                side=Side.LFI,
                step="ask the LFI: its data can no longer be read; the customer has to consent again",
                command="syncworker consents list",
            )
        )
    asked = [one.revoke_asked_at for one in odd if one.revoke_asked_at is not None and not one.terminal]
    if asked and at - min(asked) > UNTOLD:
        kind = CauseKind.REVOCATIONS_PENDING
        found.append(
            Cause(
                kind=kind,
                key=key_of(kind),
                what=f"{several(len(asked), 'revocation is', 'revocations are')} not at the Hub"
                f"{'' if len(asked) == 1 else ', the oldest'} for {span(at - min(asked))}",
                since=min(asked),
                side=Side.HUB,
                step="nothing is called for them; `consents reconcile` names them, ask the LFI",
                command="syncworker consents reconcile",
                by_itself=True,
            )
        )
    drifted = [one for one in odd if one.drift is not None]
    if drifted:
        kind = CauseKind.CONSENTS_DRIFTED
        kinds = ", ".join(sorted({word for one in drifted for word in (one.drift or "").split()}))
        found.append(
            Cause(
                kind=kind,
                key=key_of(kind),
                what=several(len(drifted), "consent is not as the Hub has it", "consents are not as the Hub has them")
                + f" ({kinds})",
                side=Side.HUB,
                step="`consents reconcile` names them",
                command="syncworker consents reconcile",
            )
        )
    return found


def _some(those: Sequence[OddConsent]) -> str:
    """The first few ids."""
    ids = sorted(one.consent_id for one in those)
    return ", ".join(ids[:IDS_SHOWN]) + (" …" if len(ids) > IDS_SHOWN else "")


def openings(unknown: int, overdue: int) -> list[Cause]:
    """What a person should look at among account openings."""
    found = []
    if unknown:
        found.append(
            Cause(
                kind=CauseKind.OPENINGS_UNKNOWN,
                key=key_of(CauseKind.OPENINGS_UNKNOWN),
                what=f"{several(unknown, 'account opening is', 'account openings are')} unknown: the LFI may have "
                f"{'it' if unknown == 1 else 'them'} or not",
                side=Side.LFI,
                step="`openings list --state unknown`; ask the LFI, then `openings settle`",
                command="syncworker openings list --state unknown",
            )
        )
    if overdue:
        found.append(
            Cause(
                kind=CauseKind.OPENINGS_OVERDUE,
                key=key_of(CauseKind.OPENINGS_OVERDUE),
                what=several(overdue, "account opening is overdue", "account openings are overdue"),
                side=Side.LFI,
                step="`openings list` names them; ask the LFI, or the user it waits for",
                command="syncworker openings list",
            )
        )
    return found

"""Causes in what goes out and in what is kept: feed, deliveries, exports, events, consents, account openings.

In: a `Status`.  Out: causes without number and effect.  No I/O.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

from syncworker.ops.cause import Cause, CauseKind, Effect, Side, key_of
from syncworker.ops.status import FEED_LAGS, FeedFact, Status
from syncworker.ops.words import instant, several, span
from syncworker.standard.consents import Status as ConsentStatus
from syncworker.store.overview import CONSUMED_FOR, OddConsent

UNTOLD: Final = timedelta(minutes=10)
"""A revocation the Hub does not have by then is worth a look; the first tries come within so long."""

UNACTED: Final = timedelta(minutes=10)
"""An event that nothing acted on by then waits for something."""

IDS_SHOWN: Final = 3
BY_OPERATOR: Final = "operator"


def upkeep(status: Status) -> list[Cause]:
    """Every such cause."""
    if status.overview is None:
        return []
    return [
        *feed(status.feed, at=status.at),
        *_deliveries(status),
        *_exports(status),
        *_inbox(status),
        *consents(status.overview.odd, at=status.at),
        *openings(*status.overview.openings),
    ]


def feed(fact: FeedFact, *, at: datetime) -> list[Cause]:
    """What holds the feed back, where committed changes have waited for long: the oldest transaction alone."""
    if fact.lag <= FEED_LAGS:
        return []
    what = f"the feed of changes is held back for {span(fact.lag)}"
    step = "the transaction has just ended, or our role may not see it: look at pg_stat_activity"
    first = next(iter(fact.held_by), None)
    if first is not None:
        name = first.application or "an unnamed program"
        since = "" if first.since is None else f" since {instant(first.since)}"
        if first.pid is None:
            what = f"{what} by a {name}{since}"
            step = "commit or roll it back: `SELECT gid FROM pg_prepared_xacts` names it"
        else:
            what = f"{what} by a transaction of process {first.pid} ({name}) open{since}"
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


def _exports(status: Status) -> Iterator[Cause]:
    for one in status.exports:
        yield Cause(
            kind=CauseKind.EXPORT_LATE,
            key=key_of(CauseKind.EXPORT_LATE, one.name),
            what=f"export {one.name} is late",
            why=f"due {instant(one.due_at)}" + ("" if one.error is None else f", last try: {one.error}"),
            since=one.due_at,
            step="look at its last run, and make it by hand",
            command=f"syncworker exports show {one.name}",
            effect=Effect(waiting=1),
        )


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
                what=f"{len(consumed)} data consents are Consumed, as only payments may be ({_some(consumed)})",
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
                what=f"{len(asked)} revocations are not at the Hub, the oldest for {span(at - min(asked))}",
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
                what=f"{len(drifted)} consents are not as the Hub has them ({kinds})",
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
                what=f"{unknown} account openings are unknown: the LFI may have them or not",
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
                what=f"{overdue} account openings are overdue",
                side=Side.LFI,
                step="`openings list` names them; ask the LFI, or the user it waits for",
                command="syncworker openings list",
            )
        )
    return found

"""Say what is wrong and what to do about it, from what the tables hold: for whoever is called at three in the morning.

In: plain values.  Out: lines, worst first.  No I/O.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from syncworker.cli.show import cell, span
from syncworker.schedule.breaker import RETRY_SHARE, standing
from syncworker.schedule.claims import OPERATIONS
from syncworker.standard.consents import Status
from syncworker.standard.openings import OpeningState
from syncworker.standard.operations import OperationClass
from syncworker.standard.values import Slug
from syncworker.store.breakers import Breaker
from syncworker.store.changes import Blocker
from syncworker.store.clocks import ClockOffset
from syncworker.store.consents import StoredConsent
from syncworker.store.findings import Finding
from syncworker.store.lfis import Gate
from syncworker.store.openings import StoredOpening
from syncworker.store.runs import TrafficRow
from syncworker.store.work import WorkKind, WorkSummary

LATE: Final = timedelta(minutes=5)
LASTING: Final = timedelta(minutes=30)
"""An LFI that is away for longer is worth a call to it; before that most come back by themselves."""

RETRIES_TOLD_FROM: Final = 50
"""Calls in the time looked at; of fewer a tenth is a few."""

UNTOLD: Final = timedelta(minutes=10)
"""A revocation the Hub does not have by then is worth a look; the first tries come within so long."""

ALARMED_FOR: Final = timedelta(days=7)
"""How long `status` speaks of a consent that ended as none may."""

FEED_LAGS: Final = timedelta(seconds=60)
"""The feed waits for every transaction that writes; most last far less than this."""

OF_KIND: Final[Mapping[WorkKind, str]] = {
    WorkKind.CONSENT: "`consents show` says why; the Hub is asked again by itself",
    WorkKind.EVENT: "`events list` says why; an event is asked about again by itself",
    WorkKind.OPENING: "`openings list` says why",
    WorkKind.DIRECTORY: "`doctor` looks at the directory's address",
    WorkKind.EXPORT: "`export list` says why; `export run --name NAME` makes it now",
    WorkKind.FILL: "the workers' logs say why; the columns of rows held are filled later, syncs go on",
}
"""Where rows of a kind that ended badly say why; the others are tokens."""

OF_NO_LFI: Final = frozenset({WorkKind.DIRECTORY, WorkKind.FILL, WorkKind.EXPORT})
"""Kinds whose rows belong to no LFI: a tick does them, and no slot of an LFI."""

ADVICE: Final[Mapping[str, str]] = {
    "client_rejected": "`doctor` looks at keys, certificate and clock; is our registration active?  then `lfis retry`",
    "consent_deadline": "time mends it; if it repeats, raise consent_deadline or calls_per_second",
    "consent_not_usable": "the customer has to act at the bank; `consents show` has the status",
    "crashed": "it ended its worker each time: read the workers' logs, then `consents sync` puts it back",
    "deadline_exceeded": "time mends it; if it repeats, raise batch_deadline",
    "grant_lost": "ask the customer for a new consent: `consents authorize`",
    "item.": "the LFI must mend it: report the items with the interaction id of the finding",
    "lease_lost": "nothing: a newer run has taken over",
    "lfi_breaker_open": "nothing was sent; `status` says when it is tried again",
    "lfi_gate_closed": "nothing was sent; `status` says when the LFI lets us in again",
    "lfi_rate_limited": "time mends it; if it repeats, lower lfis.<slug>.calls_per_second",
    "lfi_unavailable": "time mends it; if it lasts, ask the LFI with the interaction ids of `syncs show`",
    "listing.": "the LFI must mend it: report the listing with the interaction id of the finding",
    "listing.ends_early": "time mends it; if it lasts, report it: TotalPages says more pages than the links show",
    "not_allowed": "nothing was sent: `allow.lfis` or `allow.user_refs` does not name it",
    "page.": "the LFI must mend it: report the page with the interaction id of the finding",
    "refused_401": "the LFI takes the token for other listings and not for this one: report it with the interaction id",
    "refused_404": "a gateway's answer, or a listing that was there before: report it with the interaction id",
    "refused": "the LFI refuses this listing to this consent; ask it with the interaction ids of `syncs show`",
    "seal": "the key ring lacks a key: restore it",
    "settings": "`doctor` names the setting",
    "setup": "`doctor` names what is missing",
    "standard_violation": "the LFI must mend it: report it with the interaction ids of `syncs show`",
    "store_": "look after the database; the work comes back by itself",
    "stopping": "nothing: the worker ended, and the row is due again at once",
    "token_busy": "time mends it",
    "truncated": "the listing is larger than we take, leads astray or never ends: report it with the interaction ids",
    "unexpected": "a bug of ours: report it with the worker's log",
}
"""What to do about a run that ended with a code, by the code's first part."""

IDS_SHOWN: Final = 3

OTHERWISE: Final = "`syncs show` has the details"


def advice_of(code: str | None) -> str:
    """What to do about an error's code, alone or with what a run adds to it (`refused_403:Consent.Suspended`)."""
    known = [(name, advice) for name, advice in ADVICE.items() if (code or "").startswith(name)]
    return max(known, key=lambda one: len(one[0]))[1] if known else OTHERWISE


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong, and what to do."""

    what: str
    do: str

    def __str__(self) -> str:
        return f"{self.what} → {self.do}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Why one class of calls at one LFI gets less than all of it.

    Attributes:
        state: `gated`, `open`, `trial` or `ramp`.
        until: when it is let through again, or tried; `None` on the ramp.
        why: stable code of what tripped the breaker; `rate_limited` behind a gate, `recovering` on the ramp.
        share: of rate and slots.
        since: when the trouble began.
    """

    lfi: Slug
    operations: OperationClass
    state: str
    until: datetime | None
    why: str
    share: float
    since: datetime | None


def holds(
    gates: Mapping[Slug, Gate], breakers: Mapping[tuple[Slug, OperationClass], Breaker], *, now: datetime
) -> list[Hold]:
    """Every class of calls that gets less than all now; by LFI and class."""
    keys = {(slug, operations) for slug in gates for operations in OperationClass} | set(breakers)
    found = []
    for slug, operations in sorted(keys):
        gate, breaker = gates.get(slug), breakers.get((slug, operations))
        held = standing(gate, breaker, now=now)
        if held.share >= 1.0:
            continue
        is_open = breaker is not None and breaker.closed_at is None and not held.gated
        found.append(
            Hold(
                lfi=slug,
                operations=operations,
                state="gated" if held.gated else "open" if held.until else "trial" if held.trial else "ramp",
                until=held.until,
                why=breaker.reason if is_open and breaker else "rate_limited" if held.gated else "recovering",
                share=held.share,
                since=breaker.opened_at if is_open and breaker else gate.closed_at if held.gated and gate else None,
            )
        )
    return found


def finding_troubles(findings: Sequence[Finding]) -> list[Trouble]:
    """What needs a person, once for each LFI, operation and code, however many consents meet it."""
    return [
        Trouble(
            f"{one.lfi} {one.operation or 'runs'}: needs a person: {one.code}, "
            f"{one.times} times since {cell(one.first_seen_at)}",
            advice_of(one.code),
        )
        for one in findings
    ]


def why_late(row: WorkSummary, held: Sequence[Hold], *, slots: int, declared: Collection[str], working: bool) -> str:
    """Why due rows of a kind at an LFI wait; the first reason that holds."""
    if row.kind not in OF_NO_LFI and row.lfi not in declared:
        return "the LFI is not declared any more"
    for hold in held:
        if hold.lfi == row.lfi and hold.operations is OPERATIONS.get(row.kind):
            return _held(hold)
    if not working:
        return "nobody works"
    if row.leased >= slots:
        return f"all {slots} slots are in work"
    return "more is due than the workers get done"


def troubles(
    *,
    now: datetime,
    workers: int,
    beats: int,
    work: Sequence[WorkSummary],
    held: Sequence[Hold],
    traffic: Sequence[TrafficRow],
    lost: int,
    clocks: Sequence[ClockOffset],
    slots: int,
    declared: Collection[str],
    observers: int = 0,
) -> list[Trouble]:
    """What a person should look at, worst first.

    Args:
        lost: consents that need the user again.
        slots: `consents_at_once`.
        declared: slugs of the LFIs we can call.
        observers: how often an observer of calls failed, in all processes.
    """
    found = []
    working = workers > 0 and beats > 0
    if work and not workers:
        found.append(Trouble("no worker lives", "run `syncworker up` or `syncworker worker`"))
    if work and not beats:
        found.append(Trouble("no beat lives", "run `syncworker up` or `syncworker beat`"))
    found += [_of_hold(hold, now=now) for hold in held if _is_told(hold)]
    work = [row for row in work if row.kind is not WorkKind.EXPORT]  # `export_troubles` names the series
    for row in work:
        if row.late > LATE:
            why = why_late(row, held, slots=slots, declared=declared, working=working)
            what = f"{row.lfi} {row.kind.value}: {row.due} due, the oldest for {span(row.late)}: {why}"
            found.append(Trouble(what, _do_about_late(why)))
        if row.parked:
            what = f"{row.lfi} {row.kind.value}: {row.parked} parked after crashes"
            found.append(Trouble(what, "`syncs failed` names them; `consents sync` puts one back"))
    for row in work:
        if row.failing and row.kind is not WorkKind.SYNC:  # of syncs the findings say what needs a person
            what = f"{row.lfi} {row.kind.value}: {row.failing} of {row.rows} ended badly"
            found.append(Trouble(what, OF_KIND.get(row.kind, "`tokens status`")))
    for one in traffic:
        if one.retried > max(one.calls * RETRY_SHARE, 1) and one.calls >= RETRIES_TOLD_FROM:
            what = f"{one.lfi}: {one.retried} of {one.calls} calls were short retries"
            found.append(Trouble(what, "the budget is spent: failures are final until the row's next try"))
    if lost:
        found.append(Trouble(f"{lost} consents need the user again", "`syncworker consents list` says why"))
    for clock in clocks:
        if clock.wrong:
            what = f"clock of {clock.host} is {span(abs(clock.offset))} from {clock.peer.rstrip(':')}"
            found.append(Trouble(what, "set the clock (NTP): assertions and leases depend on it"))
    if observers:
        what = f"observers of calls failed {observers} times; the calls themselves stand"
        found.append(Trouble(what, "a bug: the log names observer and error once; report it"))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentCounts:
    """Consents as an operator counts them.

    Attributes:
        states: living ones by the Hub's word, or by why the user has to act; ended ones by the Hub's word.
        paused: by us or our user, and alive.
        revocations: revoked here, and not yet at the Hub.
        subscriptions: switched here, and not yet at the Hub.
        drifted: not as the Hub has them, at the last comparison.
    """

    states: Mapping[str, int]
    paused: int
    revocations: int
    subscriptions: int
    drifted: int


def counted(consents: Sequence[StoredConsent]) -> ConsentCounts:
    """Count consents."""
    living = [one for one in consents if not one.terminal]
    return ConsentCounts(
        states=dict(Counter((not one.terminal and one.needs_consent) or one.status for one in consents)),
        paused=sum(one.paused_at is not None for one in living),
        revocations=sum(one.revoke_asked_at is not None for one in living),
        subscriptions=sum(one.webhook_wanted is not None for one in living),
        drifted=sum(one.drift is not None for one in consents),
    )


def consent_troubles(consents: Sequence[StoredConsent], *, now: datetime) -> list[Trouble]:
    """What a person should look at among consents, worst first."""
    found = []
    consumed = [one for one in consents if one.status == Status.Consumed and now - (one.ended_at or now) < ALARMED_FOR]
    if consumed:
        what = f"{len(consumed)} data consents are Consumed, as only payments may be ({_some(consumed)})"
        found.append(Trouble(what, "ask the LFI: its data can no longer be read; the customer has to consent again"))
    asked = [one.revoke_asked_at for one in consents if one.revoke_asked_at is not None and not one.terminal]
    if asked and now - min(asked) > UNTOLD:
        what = f"{len(asked)} revocations are not at the Hub, the oldest for {span(now - min(asked))}"
        found.append(Trouble(what, "nothing is called for them; `consents reconcile` names them, ask the LFI"))
    drifted = [one for one in consents if one.drift is not None]
    if drifted:
        kinds = ", ".join(sorted({word for one in drifted for word in (one.drift or "").split()}))
        what = f"{len(drifted)} consents are not as the Hub has them ({kinds})"
        found.append(Trouble(what, "`consents reconcile` names them"))
    return found


def feed_troubles(lag: timedelta, held_by: Sequence[Blocker]) -> list[Trouble]:
    """What holds the feed back, where committed changes have waited for long.

    Args:
        lag: how long the oldest of them has.
        held_by: open transactions that have written, the oldest first.
    """
    if lag <= FEED_LAGS:
        return []
    what = f"the feed of changes is held back for {span(lag)}"
    if not held_by:
        return [Trouble(what, "the transaction has just ended, or our role may not see it: look at pg_stat_activity")]
    first = held_by[0]
    name, since = (
        first.application or "an unnamed program",
        "" if first.since is None else f" since {cell(first.since)}",
    )
    if first.pid is None:
        do = "commit or roll it back: `SELECT gid FROM pg_prepared_xacts` names it"
        return [Trouble(f"{what} by a {name}{since}", do)]
    what = f"{what} by a transaction of process {first.pid} ({name}) open{since}"
    return [Trouble(what, f"let it end, or end it: `SELECT pg_terminate_backend({first.pid})` in the database")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A series of exports that is set.

    Attributes:
        due_at: when the next is due; `None`: no worker has seen the series yet.
        going: one is being made.
        last_at: snapshot of the newest that came to be; `None`: none did.
        error: stable code, where the last attempt failed.
    """

    name: str
    due_at: datetime | None
    going: bool
    last_at: datetime | None
    error: str | None


def export_troubles(series: Sequence[Series], *, now: datetime) -> list[Trouble]:
    """Exports that are late or failed."""
    found = []
    for one in series:
        last = "none was made yet" if one.last_at is None else f"the last is of {cell(one.last_at)}"
        make = f"`syncworker export run --name {one.name}` makes it now"
        if one.error is not None and not one.going:
            found.append(Trouble(f"export {one.name}: failed ({one.error}); {last}", f"{make} and says why"))
        elif one.due_at is None:
            found.append(Trouble(f"export {one.name}: no worker has seen it; {last}", f"restart the workers; {make}"))
        elif not one.going and now - one.due_at > LATE:
            found.append(Trouble(f"export {one.name}: late for {span(now - one.due_at)}; {last}", make))
    return found


def opening_troubles(openings: Sequence[StoredOpening]) -> list[Trouble]:
    """What a person should look at among account openings: of those unknown or overdue."""
    unknown = sum(one.state is OpeningState.UNKNOWN for one in openings)
    found = []
    if unknown:
        what = f"{unknown} account openings are unknown: the LFI may have them or not"
        found.append(Trouble(what, "`openings list --state unknown`; ask the LFI, then `openings settle`"))
    if overdue := len(openings) - unknown:
        what = f"{overdue} account openings are overdue"
        found.append(Trouble(what, "`openings list` names them; ask the LFI, or the user it waits for"))
    return found


def _some(consents: Sequence[StoredConsent]) -> str:
    """The first few ids."""
    ids = sorted(one.consent_id for one in consents)
    return ", ".join(ids[:IDS_SHOWN]) + (" …" if len(ids) > IDS_SHOWN else "")


def _is_told(hold: Hold) -> bool:
    """A gate is closed for all classes: told once."""
    return hold.state in ("open", "trial") or (hold.state == "gated" and hold.operations is OperationClass.DATA)


def _of_hold(hold: Hold, *, now: datetime) -> Trouble:
    what = f"{hold.lfi} {'all' if hold.state == 'gated' else hold.operations.value} calls: {_held(hold)}"
    if hold.why.startswith("client_rejected"):
        return Trouble(what, ADVICE["client_rejected"])
    if hold.state == "gated":
        return Trouble(what, "nothing; if it repeats, lower calls_per_second for this LFI")
    lasting = hold.since is not None and now - hold.since >= LASTING
    return Trouble(what, "ask the LFI" if lasting else "nothing yet: it is tried again by itself")


def _held(hold: Hold) -> str:
    until = "" if hold.until is None else f" until {cell(hold.until)}"
    match hold.state:
        case "gated":
            return f"the LFI said 429, gate closed{until}"
        case "open" if hold.why.startswith("client_rejected"):
            return f"not activated or keys wrong ({hold.why}), kept back{until}"
        case "open":
            return f"the LFI does not answer ({hold.why}), kept back{until}"
        case "trial":
            return f"one trial at a time after {hold.why}"
    return f"on the way back, {hold.share:.0%} of its rate"


def _do_about_late(why: str) -> str:
    if why.startswith("more is due"):
        return "add workers, or raise the LFI's calls_per_second"
    if why.startswith("all "):
        return "the LFI is slow or calls_per_second low; raise consents_at_once if it allows more"
    if "not declared" in why:
        return "declare it again, or end its consents"
    return "see above"

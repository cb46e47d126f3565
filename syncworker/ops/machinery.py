"""Causes in our own machinery: database, key ring, broker, processes, clocks, certificates.

In: a `Status`.  Out: causes without number and effect.  No I/O.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from syncworker.ops.cause import Cause, CauseKind, Side, key_of
from syncworker.ops.status import BrokerState, DatabaseState, Status
from syncworker.ops.words import instant, several, span
from syncworker.schedule.health import quiet_max
from syncworker.standard.operations import OperationClass
from syncworker.standard.values import Slug
from syncworker.store.clocks import DATABASE, OFFSET_MAX
from syncworker.store.workers import CANARY_AGAIN, GIVEN_UP, WORKER, WorkerRow

CERTIFICATE_ENDS_WITHIN: Final = timedelta(days=30)
BEAT: Final = "beat"
EVERY_CALL: Final = frozenset(OperationClass)

_DATABASE: Final = {
    DatabaseState.AWAY: (
        CauseKind.DATABASE_AWAY,
        "the database does not answer",
        "look after the database; all work goes on by itself when it answers",
        "syncworker db check",
    ),
    DatabaseState.FULL: (
        CauseKind.DATABASE_FULL,
        "the database is full",
        "free room on its disk or enlarge it; the work comes back by itself",
        "syncworker doctor",
    ),
    DatabaseState.READ_ONLY: (
        CauseKind.DATABASE_READ_ONLY,
        "the database takes no writes",
        "end the standby or default_transaction_read_only, or name the host that takes writes in database_url",
        "syncworker db check",
    ),
}


def machinery(status: Status) -> list[Cause]:
    """Every cause of our own machinery."""
    return [
        *_database(status),
        *_keyring(status),
        *_broker(status),
        *_processes(status),
        *_clocks(status),
        *_certificates(status),
        *_observers(status),
    ]


def _database(status: Status) -> Iterator[Cause]:
    if status.database.state is DatabaseState.OK:
        return
    kind, what, step, command = _DATABASE[status.database.state]
    yield Cause(
        kind=kind,
        key=key_of(kind),
        what=what,
        why=status.database.said,
        step=step,
        command=command,
        by_itself=kind is CauseKind.DATABASE_AWAY,
        stops_all=True,
        codes=("store_",),
    )


def _keyring(status: Status) -> Iterator[Cause]:
    if status.keyring_fault:
        yield Cause(
            kind=CauseKind.KEYRING,
            key=key_of(CauseKind.KEYRING),
            what="the key ring cannot be used",
            why=status.keyring_fault,
            step="restore the key ring's file; without it no token opens",
            command="syncworker doctor",
            stops_all=True,
            codes=("seal",),
        )


def _broker(status: Status) -> Iterator[Cause]:
    broker = status.broker
    if broker.state is BrokerState.FOREIGN:
        yield Cause(
            kind=CauseKind.BROKER_FOREIGN,
            key=key_of(CauseKind.BROKER_FOREIGN),
            what="what answers at broker_url is not our broker",
            why=broker.said,
            step="correct broker_url, or the authority in broker_ca",
            command="syncworker doctor",
            stops_all=True,
        )
    runs = any(alive(status, kind) for kind in (WORKER, BEAT))
    if broker.state is BrokerState.SILENT and (runs or not broker.embedded):  # the embedded one ends with `up`
        yield Cause(
            kind=CauseKind.BROKER_SILENT,
            key=key_of(CauseKind.BROKER_SILENT),
            what="the broker does not answer",
            why=broker.said,
            step="start the broker, or correct broker_url; workers and beat come back to it by themselves",
            command="syncworker doctor",
            by_itself=True,
            stops_all=True,
        )


# -- processes ---------------------------------------------------------------------------------------------------------


def alive(status: Status, kind: str) -> list[WorkerRow]:
    """Processes of a kind that got on lately, and are not known to be gone."""
    rows = status.overview.workers if status.overview is not None else ()
    lately = [one for one in rows if one.kind == kind and status.at - one.progress_at <= status.alive_within]
    return [one for one in lately if one.name not in status.gone]


def _processes(status: Status) -> Iterator[Cause]:
    if status.overview is None or not status.overview.work:
        return
    for kind, of_kind, what, step, command in (
        (CauseKind.WORKERS_DEAD, WORKER, "no worker lives", "run `syncworker up` or `syncworker worker`", "worker"),
        (CauseKind.BEAT_DEAD, BEAT, "no beat lives", "run `syncworker up` or `syncworker beat`", "beat"),
    ):
        if not alive(status, of_kind):
            last = max((one.progress_at for one in status.overview.workers if one.kind == of_kind), default=None)
            yield Cause(
                kind=kind,
                key=key_of(kind),
                what=what,
                why="" if last is None else f"the last sign of one was {span(status.at - last)} ago",
                since=last,
                step=step,
                command=f"syncworker {command}",
                stops_all=True,
            )
    if living := alive(status, WORKER):
        yield from _hanging(status, living)


def _hanging(status: Status, living: list[WorkerRow]) -> Iterator[Cause]:
    """Workers that do not get on while others do; those that were replaced or given up are none."""
    assert status.overview is not None
    for one in status.overview.workers:
        if one.kind != WORKER or not hangs(status, one) or _replaced(status, one):
            continue
        gone = one.name in status.gone
        canary = one.canary_asked_at is not None and (one.canary_at is None or one.canary_at < one.canary_asked_at)
        why = f"no progress for {span(status.at - one.progress_at)}"
        yield Cause(
            kind=CauseKind.WORKER_HANGS,
            key=key_of(CauseKind.WORKER_HANGS, one.name),
            what=f"worker {one.name} {'is gone' if gone else 'hangs'}",
            why=f"{why}{', canary unanswered' if canary else ''}; {several(len(living), 'other goes', 'others go')} on",
            since=one.progress_at,
            step="start another one" if gone else f"end it on host {one.name.rpartition('/')[0]}; start a new one",
            command="syncworker worker" if gone else "syncworker health --this-host --end-hung",
        )


def hangs(status: Status, one: WorkerRow) -> bool:
    """Whether a process is gone, or made no progress for longer than a busy one may go without; not if given up."""
    quiet = status.at - one.progress_at
    silent = quiet > max(quiet_max(0), status.alive_within) + CANARY_AGAIN
    return (silent or one.name in status.gone) and quiet < GIVEN_UP


def _replaced(status: Status, one: WorkerRow) -> bool:
    """Whether it is gone, and another one of its host began since."""
    assert status.overview is not None
    host = one.name.rpartition("/")[0]
    return any(
        other.kind == WORKER and other.name.rpartition("/")[0] == host and other.started_at >= one.progress_at
        for other in status.overview.workers
        if other.name != one.name
    )


def _observers(status: Status) -> Iterator[Cause]:
    failed = sum(one.observers_failed for one in status.overview.workers) if status.overview is not None else 0
    if failed:
        yield Cause(
            kind=CauseKind.OBSERVERS,
            key=key_of(CauseKind.OBSERVERS),
            what=f"observers of calls failed {several(failed, 'time')}; the calls themselves stand",
            step="a bug: the log names observer and error once; report it",
            grave=False,
        )


# -- clocks and certificates -------------------------------------------------------------------------------------------


def _clocks(status: Status) -> Iterator[Cause]:
    apart: dict[str, tuple[str, timedelta]] = {}
    for one in status.overview.clocks if status.overview is not None else ():
        if one.wrong and (one.host not in apart or one.peer == DATABASE):
            apart[one.host] = (one.peer.rstrip(":"), one.offset)
    if status.clock_offset is not None and abs(status.clock_offset) > OFFSET_MAX:
        apart.setdefault(status.host, (DATABASE.rstrip(":"), status.clock_offset))
    for host, (peer, offset) in sorted(apart.items()):
        yield Cause(
            kind=CauseKind.CLOCK_APART,
            key=key_of(CauseKind.CLOCK_APART, host),
            what=f"clock of {host} is {span(abs(offset))} from {peer}",
            step="set the clock (NTP): assertions and leases depend on it",
            command="timedatectl",
            codes=("client_rejected",),
        )


def _certificates(status: Status) -> Iterator[Cause]:
    """One cause for each certificate, however many LFIs share it; those that ended by the LFIs they stop."""
    by_field: dict[tuple[str, datetime | None, str], list[Slug]] = {}
    for one in status.certificates:
        by_field.setdefault((one.field, one.expires_at, one.fault), []).append(one.lfi)
    for (field, end, fault), lfis in sorted(by_field.items(), key=lambda one: one[0][0]):
        whose = lfis[0] if len(lfis) == 1 else f"{len(lfis)} LFIs"
        alone = lfis[0] if len(lfis) == 1 else None
        step = "request a new one from the directory and put it over the old files; no restart is needed"
        if end is None:
            yield Cause(
                kind=CauseKind.CERTIFICATE_UNFIT,
                key=key_of(CauseKind.CERTIFICATE_UNFIT, field),
                what=f"{field} cannot be used",
                why=fault,
                step="correct the setting or the file; workers that run keep what they loaded",
                command="syncworker doctor",
                grave=False,
                lfi=alone,
                codes=("settings",),
            )
            continue
        transport = field.endswith("transport_certificate")
        name = "transport certificate" if transport else "signing certificate"
        if end <= status.at:
            yield Cause(
                kind=CauseKind.CERTIFICATE_ENDED,
                key=key_of(CauseKind.CERTIFICATE_ENDED, field),
                what=f"{name} for {whose} has ended",
                why=f"{field} ended {instant(end)}",
                since=end,
                step=step,
                command="syncworker doctor",
                lfi=alone,
                operations=EVERY_CALL if transport and alone else frozenset(),
                stops_all=transport and alone is None,
                codes=("client_rejected", "lfi_unavailable"),
            )
        elif end - status.at <= CERTIFICATE_ENDS_WITHIN:
            yield Cause(
                kind=CauseKind.CERTIFICATE_ENDS,
                key=key_of(CauseKind.CERTIFICATE_ENDS, field),
                what=f"{name} for {whose} ends in {span(end - status.at)}",
                why=f"after {instant(end)} no call {'to ' + whose if alone else 'there'} succeeds ({field})",
                side=Side.US,
                step=step,
                command="syncworker doctor",
                grave=False,
                lfi=alone,
            )

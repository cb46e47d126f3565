"""Runs: the list, and one: what was called, what came, where time and money went."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from fastapi import Response

from syncworker.standard.resources import RESOURCES
from syncworker.standard.values import ConsentId
from syncworker.store.unit_of_work import UnitOfWork
from syncworker.sync.reports import NEEDS_A_PERSON, RunOutcome, facts_of_run
from syncworker.web.dashboard import charts, paging
from syncworker.web.dashboard.door import Visit, not_found
from syncworker.web.dashboard.frame import Frame
from syncworker.web.dashboard.render import link
from syncworker.web.dashboard.words import tail

_NUMBERS: Final = ("pages", "items", "added", "modified", "removed")


class Runs:
    """The two pages."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    async def every(self, visit: Visit, unit: UnitOfWork) -> Response:
        """Runs, newest first."""
        request = visit.request
        lfi, outcome = paging.asked(request, "lfi"), paging.chosen(request, "outcome", RunOutcome)
        connection = paging.asked(request, "connection")
        rows, more = paging.cut(
            await unit.ops_traffic.runs(
                lfi=lfi,
                connection_id=connection,
                outcome=None if outcome is None else outcome.value,
                before=paging.number_asked(request, "before"),
                limit=paging.PAGE + 1,
            )
        )
        names = await unit.consents.connections_named([ConsentId(one.connection_id) for one in rows])
        filters = paging.kept(request, ("lfi", "outcome", "connection"))
        return await self._frame.page(
            visit,
            unit,
            "runs.html",
            here="runs",
            runs=rows,
            names=names,
            lfi=lfi,
            outcome_asked=outcome,
            outcomes=list(RunOutcome),
            connection=connection,
            lfis=sorted(await unit.ops_connections.counts()),
            filtered=bool(filters),
            further=link("runs", **filters, before=rows[-1].id) if more else None,
        )

    async def one(self, visit: Visit, unit: UnitOfWork) -> Response:
        """One run with its calls in order."""
        number = paging.number(str(visit.request.path_params["number"]), "run")
        filed = await unit.runs.get(number)
        if filed is None:
            raise not_found("run")
        run = filed.run
        calls = await unit.runs.calls_of(filed)
        before, after = await unit.ops_traffic.beside(number, run.connection_id)
        fall = charts.waterfall(calls, began=run.started_at)
        facts = facts_of_run(run.outcome, run.error, run.steps)
        bad = run.outcome in (RunOutcome.PARTIAL, RunOutcome.FAILED)
        return await self._frame.page(
            visit,
            unit,
            "run.html",
            here="runs",
            number=number,
            run=run,
            connection=await unit.consents.connection(run.connection_id),
            took=run.ended_at - run.started_at,
            usual=await unit.ops_traffic.usual_duration(run.connection_id),
            calls=calls,
            fall=fall,
            listing_of=listings_of(run.steps),
            waits=any(one.waited_from is not None for one in fall.calls),
            retried=sum(one.attempt > 1 for one in calls),
            unanswered=sum(one.status is None or one.status >= 500 for one in calls),
            octets=sum(one.bytes_in for one in calls),
            attended=any(one.attended for one in calls),
            millifils=sum(one.price_millifils for one in calls),
            free=sum(one.price_millifils == 0 and one.status == 200 for one in calls),
            steps=[_step(one) for one in run.steps],
            read=sum(one.get("complete", True) and one["outcome"] in _READ for one in run.steps),
            facts=facts,
            before=before,
            after=after,
            cause=await self._frame.cause_of(connection_id=run.connection_id) if bad and after is None else None,
            said=[one for one in calls if one.reason],
        )


class Listed(NamedTuple):
    """What an operation of a run reads.

    Attributes:
        account: tail of its AccountId; empty: of none, or of several.
    """

    said: str
    account: str


def listings_of(steps: Sequence[Mapping[str, Any]]) -> dict[str, Listed]:
    """What each operation of a run reads: its resource, and the account.

    A call is kept without its account.  Where a run reads a resource of one account only it is that one; of several
    only their number is known, since they are read at the same time.
    """
    accounts: dict[str, set[str]] = {}
    for one in steps:
        accounts.setdefault(one["resource"], set()).add(one.get("account_id") or "")
    found = {}
    for resource in RESOURCES:
        those = accounts.get(resource.name.value)
        if those is not None:
            only = next(iter(those)) if len(those) == 1 else ""
            of = f", one of {len(those)} accounts" if len(those) > 1 else f" of {tail(only)}" if only else ""
            found[resource.operation] = Listed(f"{resource.name.value}{of}", tail(only))
    return found


_READ: Final = frozenset({"ok", "unchanged", "absent"})


def _step(step: Any) -> dict[str, Any]:
    """One listing of a run; what is empty was left out when it was filed."""
    return {
        "account": step.get("account_id") or None,
        "resource": step["resource"],
        "outcome": step["outcome"],
        "retry": step.get("retry", False),
        "person": step.get(NEEDS_A_PERSON, False),
        "error": step.get("error"),
        **{name: step.get(name, 0) for name in _NUMBERS},
        "notes": ", ".join(f"{name} {times}" for name, times in sorted(step.get("notes", {}).items())),
    }

"""Every state a consent can be in, and everything that can happen to it: what becomes of it, in one table.

A cell reads: the status (two letters, `??` for one the standard does not know), then what we do:
`+` calls are made, `=` none are, everything is kept, `-` the tokens are destroyed;
then what is ours alone: `p` paused, `r` revoked here and the Hub not told yet, `n` the user has to consent again;
then `!` when `audit` calls the move surprising, or `x` when the person who asked for it is refused.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import pytest

from syncworker.consents.lifecycle import NEVER, Lifecycle, noted
from syncworker.consents.pausing import pause, resume
from syncworker.consents.polling import Cadence, Polling
from syncworker.consents.revoking import Revoking
from syncworker.consents.revoking import ordered as revoked
from syncworker.errors import RequestError, SyncWorkerError
from syncworker.standard.consents import Revoker, Status
from syncworker.standard.values import ConsentId
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import Claim, WorkKind
from tests.consents.hub import LFI, Hub, filed
from tests.ground.clock import ManualClock

pytestmark = pytest.mark.store

ODD: Final = "OnHold"
SHORT: Final = {
    "AwaitingAuthorization": "AA", "Authorized": "Au", "Suspended": "Su", "Rejected": "Rj", "Revoked": "Rv",
    "Expired": "Ex", "Consumed": "Co", ODD: "??",
}  # fmt: skip
LONG: Final = {short: long for long, short in SHORT.items()}

STATES: Final = ("AA", "Au", "Su", "p", "r", "??", "Rj", "Rv", "Ex", "Co")
"""`p`: Authorized and paused; `r`: Authorized and revoked here, the Hub not told yet."""

TABLE: Final = """
                       AA      Au      Su      p       r       ??      Rj      Rv      Ex      Co
shown AA               AA=     AA=!    AA=!    AA=p!   AA-r!   AA=!    AA-!    AA-!    AA-!    AA-!
shown Au               Au+     Au+     Au+     Au=p    Au-r    Au+!    Au-n!   Au-n!   Au-n!   Au-n!
shown Su               Su=!    Su=     Su=     Su=p    Su-r    Su=!    Su-!    Su-!    Su-!    Su-!
shown ??               ??=!    ??=!    ??=!    ??=p!   ??-r!   ??=     ??-!    ??-!    ??-!    ??-!
shown Rj               Rj-     Rj-!    Rj-!    Rj-p!   Rj-r!   Rj-!    Rj-     Rj-!    Rj-!    Rj-!
shown Rv               Rv-     Rv-     Rv-     Rv-p    Rv-r    Rv-!    Rv-!    Rv-     Rv-!    Rv-!
shown Ex               Ex-!    Ex-     Ex-     Ex-p    Ex-r    Ex-!    Ex-!    Ex-!    Ex-     Ex-!
shown Co               Co-!    Co-!    Co-!    Co-p!   Co-r!   Co-!    Co-!    Co-!    Co-!    Co-
shown late: Au         AA=     Au+     Su=     Au=p    Au-r    ??=     Rj-     Rv-     Ex-     Co-
shown late: Rv         Rv-!    Rv-!    Rv-!    Rv-p!   Rv-r!   Rv-!    Rj-     Rv-     Ex-     Co-
shown at once: Au      Au+     Au+     Au+     Au=p    Au-r    Au+!    Rj-     Rv-     Ex-     Co-
hint, the Hub has Rv   Rv-     Rv-     Rv-     Rv-p    Rv-r    Rv-!    Rj-     Rv-     Ex-     Co-
hint, the Hub is away  AA=     Au+     Su=     Au=p    Au-r    ??=     Rj-     Rv-     Ex-     Co-
its end has come       AA=n    Ex-     Ex-     Ex-p    Ex-r    Ex-!    Rj-     Rv-     Ex-     Co-
a day and a look       AA=n    Au+     Su=     Au=p    Rv-r    ??=     Rj-     Rv-     Ex-     Co-
we revoke              AA-r    Au-r    Su-r    Au-pr   Au-r    ??-r    Rj-x    Rv-x    Ex-x    Co-x
we revoke, and a look  Rv-r    Rv-r    Rv-r    Rv-pr   Rv-r    ??-r    Rj-x    Rv-x    Ex-x    Co-x
we pause               AA=x    Au=p    Su=x    Au=p    Au-rx   ??=x    Rj-x    Rv-x    Ex-x    Co-x
we resume              AA=     Au+     Su=     Au+     Au-r    ??=     Rj-     Rv-     Ex-     Co-
"""

House = Callable[[str, str], Awaitable[str]]


def cells() -> dict[str, dict[str, str]]:
    """The table, by stimulus and state."""
    lines = TABLE.strip("\n").splitlines()
    assert tuple(lines[0].split()) == STATES
    rows = {line[:23].strip(): line[23:].split() for line in lines[1:]}
    return {stimulus: dict(zip(STATES, row, strict=True)) for stimulus, row in rows.items()}


@pytest.fixture
def house(store: Store, clock: ManualClock) -> House:
    """`await house(state, stimulus)`: the cell a fresh consent ends in."""
    hub = Hub(clock)
    lifecycle = Lifecycle(store, hub.clients)
    polling = Polling(store, lifecycle, Revoking(store, hub.clients, lifecycle), cadence=Cadence(), retention={})

    async def by_hand(step: Callable[[UnitOfWork], Awaitable[object]]) -> None:
        await store.atomically(step)

    async def look(consent_id: ConsentId, *, asked: bool = False) -> None:
        await polling.look(Claim(1, WorkKind.CONSENT, consent_id, LFI, 1, asked=asked))

    async def happens(consent_id: ConsentId, stimulus: str) -> None:
        late = hub.consents[consent_id]
        word, _, said = stimulus.partition(" ")
        match word, said:
            case "shown", said if said in LONG:
                clock.advance(minutes=1)
                hub.has(consent_id, LONG[said])
                await lifecycle.ask(consent_id)
            case "shown", said if said.startswith("late"):
                assert late.status_updated_at is not None
                before = late.status_updated_at - timedelta(seconds=1)
                view = replace(late, status=LONG[said[-2:]], status_updated_at=before)
                await by_hand(lambda unit: noted(unit, view, at=clock.now()))
            case "shown", "at once: Au":
                view = replace(late, status="Authorized")
                await by_hand(lambda unit: noted(unit, view, at=clock.now()))
            case "hint,", "the Hub has Rv":
                clock.advance(minutes=1)
                hub.has(consent_id, "Revoked")
                await look(consent_id, asked=True)
            case "hint,", "the Hub is away":
                hub.away = 3
                await look(consent_id, asked=True)
            case "its", _:
                clock.set(late.expires_at or clock.now())
                await look(consent_id)
            case "a", _:
                clock.advance(days=1)
                await look(consent_id)
            case "we", "revoke":
                await by_hand(lambda unit: revoked(unit, consent_id, by=Revoker.TPP_USER))
            case "we", "revoke, and a look":
                await by_hand(lambda unit: revoked(unit, consent_id, by=Revoker.TPP_USER))
                clock.advance(minutes=1)
                await look(consent_id)
            case "we", "pause":
                await by_hand(lambda unit: pause(unit, consent_id))
            case "we", "resume":
                await by_hand(lambda unit: resume(unit, consent_id))
            case _:
                raise AssertionError(stimulus)

    async def cell(state: str, stimulus: str) -> str:
        hub.away = 0
        consent_id = await _made(store, hub, state, f"{state} {stimulus}")
        refused = False
        try:
            await happens(consent_id, stimulus)
        except RequestError:
            refused = True
        except SyncWorkerError:
            pass  # the Hub was away, or refused: the look comes again
        return await _read(store, clock, consent_id) + "x" * refused

    return cell


async def _made(store: Store, hub: Hub, state: str, name: str) -> ConsentId:
    status = LONG.get(state, "Authorized")
    alive = status == ODD or Status(status) in {Status.AwaitingAuthorization, Status.Authorized, Status.Suspended}
    changes: dict[str, Any] = {"paused_at": hub.clock.now()} if state == "p" else {}
    consent_id = await filed(store, hub, name, status=status, tokens=alive, **changes)
    async with store.writing() as unit:
        if state == "r":
            await revoked(unit, consent_id, by=Revoker.TPP)
        if state == "p" or (status != "Authorized"):
            for kind in (WorkKind.TOKEN, WorkKind.SYNC):
                await unit.work.schedule(kind, consent_id, lfi=LFI, due_at=NEVER)
        await unit.commit()
    return consent_id


async def _read(store: Store, clock: ManualClock, consent_id: ConsentId) -> str:
    """The cell of a consent as it stands."""
    async with store.reading() as unit:
        held = await unit.consents.get(consent_id)
        tokens = await unit.tokens.exists(consent_id)
        work = [await unit.work.find(kind, consent_id) for kind in (WorkKind.TOKEN, WorkKind.SYNC)]
        surprising = await unit.consents.notes(subject=consent_id, what="consent_moved_surprisingly")
    assert held is not None
    due = {row is not None and row.due_at != NEVER for row in work}
    assert len(due) == 1, "token and sync rest together"
    calls = held.callable_at(clock.now()) and tokens
    assert calls in due, "what may be called is due, what may not rests"
    ours = "p" * (held.paused_at is not None) + "r" * (held.revoke_asked_at is not None)
    ours += "n" * (held.needs_consent is not None)
    return SHORT[held.status] + ("+" if calls else "=" if tokens else "-") + ours + "!" * bool(surprising)


@pytest.mark.parametrize("stimulus", cells())
async def test_every_state_meets_every_stimulus(house: House, stimulus: str) -> None:
    """Nothing is refused that the Hub says, no token outlives an end, and only what may be called is due."""
    assert {state: await house(state, stimulus) for state in STATES} == cells()[stimulus]

"""Our view of a consent against the Hub's, after any sequence of events, losses, duplicates and delays.

One consent, in-process.  The Hub moves it as the standard draws; hints and token answers about it arrive late, twice
or never; looks fail; people pause, resume and revoke.  What may never be is checked after every step; what must be in
the end is checked whenever the Hub answers and every look that is due was made.
"""

import asyncio
import contextlib
import shutil
import uuid
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from syncworker.consents.lifecycle import Lifecycle, noted
from syncworker.consents.pausing import pause, resume
from syncworker.consents.polling import Cadence, Polling
from syncworker.consents.revoking import Revoking
from syncworker.consents.revoking import ordered as revoked
from syncworker.errors import RequestError, SyncWorkerError
from syncworker.schedule.handlers import Ended, Handlers
from syncworker.standard.consents import TERMINAL, ConsentView, Revoker, Status
from syncworker.standard.values import ConsentId
from syncworker.store.consents import ON_ITS_WAY_MAX, StoredConsent
from syncworker.store.keyring import KeyRing
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import WorkKind
from tests.consents.hub import LFI, Hub, filed
from tests.ground.clock import ManualClock

pytestmark = [pytest.mark.store, pytest.mark.timeout(300)]

T = TypeVar("T")
LIFE = timedelta(days=3)
CADENCE = Cadence()


class Life(RuleBasedStateMachine):
    """One consent, seen from both sides."""

    def __init__(self, template: Path, folder: Path, keyring: KeyRing) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        database = folder / f"{uuid.uuid4()}.db"
        shutil.copyfile(template, database)
        self.clock = ManualClock()
        self.hub = Hub(self.clock)
        self.store = Store(f"sqlite:///{database}", keyring=keyring, clock=self.clock)
        lifecycle = self.lifecycle = Lifecycle(self.store, self.hub.clients)
        revoking = Revoking(self.store, self.hub.clients, lifecycle)
        polling = Polling(self.store, lifecycle, revoking, cadence=CADENCE, retention={})

        async def look(claim: Any) -> Ended:
            return Ended(*await polling.look(claim))

        self.handlers = Handlers(
            self.store, {WorkKind.CONSENT: look}, retry_after=lambda attempts: timedelta(minutes=attempts)
        )
        self.answers: list[tuple[datetime, ConsentView]] = []
        self.newest: datetime | None = None
        self.ended = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def act(self, step: Callable[[UnitOfWork], Coroutine[Any, Any, object]]) -> None:
        """What a person asks for; a refusal that says why is an answer too."""

        async def done() -> None:
            with contextlib.suppress(RequestError):
                await self.store.atomically(step)

        self.run(done())

    @property
    def held(self) -> StoredConsent:
        async def read() -> StoredConsent | None:
            async with self.store.reading() as unit:
                return await unit.consents.get(self.consent_id)

        held = self.run(read())
        assert held is not None
        return held

    @property
    def under_way(self) -> list[tuple[datetime, ConsentView]]:
        """Answers nobody has stopped waiting for."""
        return [one for one in self.answers if self.clock.now() - one[0] <= ON_ITS_WAY_MAX]

    async def _due_looks(self) -> int:
        """The looks that are due, as tick and worker make them."""
        async with self.store.writing() as unit:
            claims = await unit.work.claim(WorkKind.CONSENT, slots={LFI: 10})
            await unit.commit()
        await self.handlers.batch(WorkKind.CONSENT, [(claim.id, claim.gen) for claim in claims])
        return len(claims)

    # -- what happens ------------------------------------------------------------------------------------------------

    @initialize(status=st.sampled_from([Status.AwaitingAuthorization, Status.Authorized]))
    def begin(self, status: Status) -> None:
        self.consent_id = ConsentId("one")
        end = self.clock.now() + LIFE
        self.run(filed(self.store, self.hub, self.consent_id, status=status.value, expires_at=end))

    @rule(seconds=st.sampled_from([0, 1, 30, 600, 3600, 6 * 3600]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds=seconds)

    @rule(to=st.sampled_from([Status.Authorized, Status.Suspended, Status.Revoked, Status.Rejected]))
    def the_hub_moves(self, to: Status) -> None:
        self.hub.moves(self.consent_id, to)

    @rule(calls=st.integers(1, 4))
    def the_hub_goes_away(self, calls: int) -> None:
        self.hub.away = calls

    @rule()
    def answers_get_lost(self) -> None:
        self.hub.lost = 1

    @rule()
    def a_token_answer_leaves(self) -> None:
        """It carries the consent as it is now, and arrives whenever it can still be on its way."""
        self.answers.append((self.clock.now(), self.hub.shows(self.consent_id)))

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), again=st.booleans())
    def a_token_answer_arrives(self, data: st.DataObject, again: bool) -> None:
        answer = self.under_way[data.draw(st.integers(0, len(self.under_way) - 1))]
        if not again:
            self.answers.remove(answer)
        _, view = answer
        self.act(lambda unit: noted(unit, view, at=self.clock.now()))

    @rule(times=st.integers(1, 2))
    def a_hint_arrives(self, times: int) -> None:
        """Late ones say nothing else than early ones: the Hub is asked."""

        async def hinted() -> None:
            for _ in range(times):
                with contextlib.suppress(SyncWorkerError):
                    await self.lifecycle.ask(self.consent_id)

        self.run(hinted())

    @rule()
    def a_tick(self) -> None:
        self.run(self._due_looks())

    @rule(by=st.sampled_from([Revoker.TPP, Revoker.TPP_USER]))
    def we_revoke(self, by: Revoker) -> None:
        self.act(lambda unit: revoked(unit, self.consent_id, by=by))

    @rule()
    def we_pause(self) -> None:
        self.act(lambda unit: pause(unit, self.consent_id))

    @rule()
    def we_resume(self) -> None:
        self.act(lambda unit: resume(unit, self.consent_id))

    # -- what must be ------------------------------------------------------------------------------------------------

    @rule()
    def one_polling_interval_with_the_hub_there(self) -> None:
        """After it our view is the Hub's, and the Hub has our revocation."""
        self.hub.away = self.hub.lost = 0
        self.clock.advance(hours=1)

        async def caught_up() -> None:
            for _ in range(5):
                if not await self._due_looks():
                    return
            raise AssertionError("looks do not come to an end")

        self.run(caught_up())
        held, there = self.held, self.hub.shows(self.consent_id)
        given_up = held.needs_consent is not None
        assert given_up or held.status == there.status
        assert held.revoke_asked_at is None or given_up or there.status in TERMINAL

    @invariant()
    def what_may_never_be(self) -> None:
        if not hasattr(self, "consent_id"):
            return

        async def look() -> tuple[StoredConsent | None, bool, set[bool]]:
            async with self.store.reading() as unit:
                rows = [await unit.work.find(kind, self.consent_id) for kind in (WorkKind.TOKEN, WorkKind.SYNC)]
                due = {row is not None and row.due_at.year < 9000 for row in rows}
                return await unit.consents.get(self.consent_id), await unit.tokens.exists(self.consent_id), due

        held, tokens, due = self.run(look())
        assert held is not None
        stopped = held.terminal or held.revoke_asked_at is not None
        assert not (stopped and tokens), "tokens outlived the end"
        assert not (stopped and True in due), "work outlived the end"
        assert not (self.ended and not held.terminal), "an ended consent lives again, and the Hub never said so"
        assert self.newest is None or (held.status_updated_at is not None and held.status_updated_at >= self.newest)
        assert held.terminal == (held.ended_at is not None)
        self.newest, self.ended = held.status_updated_at, held.terminal

    def teardown(self) -> None:
        self.run(self.store.close())
        self.runner.close()


def test_our_view_follows_the_hubs(sqlite_template: Path, tmp_path: Path, keyring: KeyRing) -> None:
    """Within one polling interval, whatever was lost; and no token or call outlives what we have seen."""

    class Here(Life):
        def __init__(self) -> None:
            super().__init__(sqlite_template, tmp_path, keyring)

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=15,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )

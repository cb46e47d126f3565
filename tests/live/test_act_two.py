"""The bank's own sender and our own receiver: two codes that share nothing, over TLS on loopback, one database.

The demo as a whole is proved in `test_demo`; here is what it cannot show: the forger beside the bank, whose events
never act, and the events that are lost, whose revocations are found all the same.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from syncworker import settings as settings_module
from syncworker import wiring
from syncworker.cli import act_two, bank_settings
from syncworker.consents.subscribing import ordered
from syncworker.settings import CONFIG_VARIABLE
from syncworker.simulator.events import Events, Forgery
from syncworker.simulator.sandbox import Sandbox
from syncworker.simulator.servers import Listener, bind, tls
from syncworker.standard.consents import ConsentRequest
from syncworker.standard.permissions import Permission
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store.work import WorkKind
from syncworker.web.app import opened

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

LFI = Slug("sandbox")
SMALL = (WorkKind.CONSENT, WorkKind.EVENT)


@dataclass
class Town:
    """A bank, the web process's application behind a port, and a worker's parts on the same database."""

    bank: Sandbox
    application: wiring.Application
    _before: int = 0

    def told(self) -> list[tuple[str, list[int]]]:
        """What became of each event since the consents were made; making one may be told too."""
        return [(one["fate"], one["answers"]) for one in self.bank.bank.event_facts()[self._before :]]

    @property
    def events(self) -> Events:
        assert self.bank.bank.events is not None
        return self.bank.bank.events

    async def consents(self, count: int) -> Sequence[ConsentId]:
        """Authorised ones, to be told of by events."""
        authorize = self.application.authorize
        made = []
        for _ in range(count):
            request = ConsentRequest(
                permissions=(Permission.ReadAccountsBasic,), expires_at=datetime.now(UTC) + timedelta(days=90)
            )
            started = await authorize.begin(LFI, request)
            completed = await authorize.complete(await self.bank.approve(started.url, user=self.bank.users[0]))
            made.append(completed.consent_id)
        async with self.application.store.writing() as unit:
            for consent_id in made:
                await ordered(unit, consent_id, active=True)
            await unit.commit()
        await self.events.quiet()
        await self.work()
        self._before = len(self.bank.bank.event_facts())
        return made

    async def work(self) -> Counter[str]:
        """One tick, and what a worker makes of its looks and events."""
        outcomes: Counter[str] = Counter()
        for batch in await self.application.tick():
            if batch.kind in SMALL:
                report = await self.application.small_batch(batch.kind, batch.claims)
                if batch.kind is WorkKind.EVENT:
                    outcomes.update(report.outcomes)
        return outcomes

    async def statuses(self, consent_ids: Sequence[ConsentId]) -> list[str]:
        async with self.application.store.reading() as unit:
            held = await unit.consents.get_many(consent_ids)
        return [held[one].status for one in consent_ids]

    async def refused(self) -> Counter[str]:
        """Why events lie in the quarantine."""
        async with self.application.store.reading() as unit:
            return Counter(str(one.why) for one in await unit.inbox.refused(limit=1_000))


Opener = Callable[[Version], Awaitable[Town]]


@pytest.fixture
async def open_town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sqlite_url: str) -> AsyncIterator[Opener]:
    """`await open_town(version)`: everything that runs, closed at the end.  The settings are those of the demo."""
    async with AsyncExitStack() as stack:

        async def opened_town(version: Version) -> Town:
            bank = await stack.enter_async_context(Sandbox(tmp_path / "bank", customers=1, versions=[version]))
            facts = {LFI: bank.facts()}
            own = act_two.settings(tmp_path, facts, {LFI: version})
            file = bank_settings.write_several(tmp_path, facts, database_url=sqlite_url, own=own)
            monkeypatch.setenv(CONFIG_VARIABLE, str(file))
            settings = settings_module.load()
            app: Any = await stack.enter_async_context(opened(settings))
            listener = Listener(app, bind(settings.web.port), tls(bank.identity, clients=False))
            await listener.start()
            stack.push_async_callback(listener.stop)
            application = await wiring.build_application(settings)
            stack.push_async_callback(application.close)
            return Town(bank, application)

        yield opened_town


@pytest.mark.parametrize("version", Version)
async def test_what_the_bank_tells_acts_in_every_version(open_town: Opener, version: Version) -> None:
    """Taken at once; the next tick asks the Hub and draws the consequences."""
    town = await open_town(version)
    (consent_id,) = await town.consents(1)

    town.bank.bank.revoke(consent_id)
    await town.events.quiet()
    outcomes = await town.work()

    async with town.application.store.reading() as unit:
        tokens = await unit.tokens.exists(consent_id)
    assert town.told() == [("taken", [202])]
    assert (outcomes, await town.statuses([consent_id]), tokens) == ({"moved": 1}, ["Revoked"], False)


async def test_no_forgery_of_the_banks_forger_is_taken(open_town: Opener) -> None:
    """Each fails at the check it was made for, and nothing is asked because of it."""
    town = await open_town(Version.V2_1)
    (consent_id,) = await town.consents(1)

    for how in Forgery:
        town.bank.bank.forge_event(consent_id, how=how.value)
    await town.events.quiet()

    assert town.told() == [("refused", [400])] * len(Forgery)
    assert await town.refused() == {"signature": 2, "audience": 1, "jws_header": 2}
    assert (await town.work(), await town.statuses([consent_id])) == ({}, ["Authorized"])


async def test_a_sender_that_loses_repeats_and_is_mocked_by_a_forger_leaves_nothing_wrong(open_town: Opener) -> None:
    """Some events are lost, some come twice, out of order, and a forger speaks of consents nobody touched: what was
    revoked is known, by event or by the next look, and nothing else is."""
    town = await open_town(Version.V2_1)
    consents = await town.consents(6)
    revoked, untouched = consents[:4], consents[4:]
    town.bank.bank.configure_events(drop=0.5, duplicate=0.5, reorder=2, seed="act two")

    for consent_id in revoked:
        town.bank.bank.revoke(consent_id)
    for consent_id in untouched:
        town.bank.bank.forge_event(consent_id)
    town.bank.bank.release_events()
    await town.events.quiet()
    by_event = await town.work()
    async with town.application.store.writing() as unit:  # the next scheduled look, without the wait
        for consent_id in consents:
            await unit.work.ask_now(WorkKind.CONSENT, consent_id)
        await unit.commit()
    await town.work()

    fates = Counter(one["fate"] for one in town.bank.bank.event_facts() if one["forgery"] is None)
    assert fates["dropped"] > 0
    assert 0 < by_event["moved"] == len(revoked) - fates["dropped"]
    assert await town.statuses(consents) == ["Revoked"] * len(revoked) + ["Authorized"] * len(untouched)
    assert await town.refused() == {"signature": len(untouched)}

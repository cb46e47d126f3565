"""How far ahead a consent may end: less than one year, at every door of the library, first consent and successor alike.

The Hub refuses an `ExpirationDateTime` of a year or more, so what reaches it is bounded here, 364 days ahead at most.
"""

from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from syncworker.consents.authorize import Authorizer, Completed
from syncworker.consents.renewal import Renewals, Wishes
from syncworker.errors import RequestError
from syncworker.lfi.api import LFIClient
from syncworker.standard.consents import CLOCKS_APART, EXPIRY_MAX, ConsentRequest
from syncworker.standard.permissions import Permission
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.tables import authorization_intent, consent
from tests.consents.house import LFI, House, request, token_due
from tests.ground.clock import ManualClock

pytestmark = pytest.mark.flow

YEAR = timedelta(days=365)


@pytest.fixture
async def renewals(house: House) -> Renewals:
    """Renewals as one process has them."""
    client = await house.client()

    async def clients(_: Slug) -> LFIClient:
        return client

    return Renewals(house.store, clients, await house.authorizer())


async def lives_for(house: House, held: Completed, life: timedelta, **raw: str) -> None:
    """Let a consent have been given for so long, as one of another system or an older standard may be.

    Args:
        raw: members of its `Data` as the Hub showed it last.
    """
    async with house.store.writing() as unit:
        await unit.connection.execute(
            sa.update(consent)
            .where(consent.c.consent_id == held.consent_id)
            .values(created_at=house.clock.now(), expires_at=house.clock.now() + life, raw=raw)
        )
        await unit.commit()


async def intents(house: House) -> int:
    async with house.store.reading() as unit:
        return await unit.connection.scalar(sa.select(sa.func.count()).select_from(authorization_intent)) or 0


def asked_end(house: House, consent_id: str) -> datetime:
    """`ExpirationDateTime` as it reached the bank."""
    return house.bank.bank.consents.get(consent_id).expires_at


@pytest.mark.parametrize(
    ("life", "asked"),
    [
        pytest.param(timedelta(days=90), timedelta(days=90), id="a shorter life is kept"),
        pytest.param(EXPIRY_MAX, EXPIRY_MAX, id="the longest life is kept"),
        pytest.param(YEAR, EXPIRY_MAX, id="a whole year is cut"),
        pytest.param(2 * YEAR, EXPIRY_MAX, id="years are cut"),
    ],
)
async def test_a_successor_lasts_as_long_as_before_and_less_than_a_year(
    house: House, renewals: Renewals, life: timedelta, asked: timedelta
) -> None:
    """Without an end of its own, a successor of a consent of years is asked for 364 days, and the Hub takes it."""
    first = await house.consented()
    await lives_for(house, first, life)

    intended = await renewals.renew(first.consent_id)
    authorizer = await house.authorizer()
    started = await authorizer.open(intended.intent_id)

    assert intended.request.expires_at - house.clock.now() == asked
    assert asked_end(house, started.consent_id) - house.clock.now() == asked


async def test_a_consent_whose_beginning_cannot_be_read_is_renewed(house: House, renewals: Renewals) -> None:
    """The Hub shows the year 1 as its `CreationDateTime`: it began when we filed it."""
    first = await house.consented()
    await lives_for(house, first, timedelta(days=90), CreationDateTime="0001-01-01T00:00:00")

    wanted = await renewals.successor(first.consent_id)

    assert wanted.request.expires_at - house.clock.now() == timedelta(days=90)


async def test_a_successor_that_would_end_in_a_year_is_refused(house: House, renewals: Renewals) -> None:
    """An end that is named is not cut: it is refused by its field, and nothing is written or sent."""
    first = await house.consented()
    pushed = house.bank.bank.log.counters["par 200"]

    with pytest.raises(RequestError, match=r"^expires_at: must be less than one year ahead; give at most 364 days$"):
        await renewals.renew(first.consent_id, Wishes(expires_at=house.clock.now() + YEAR))

    assert (await intents(house), house.bank.bank.log.counters["par 200"]) == (0, pushed)


async def test_an_intent_that_would_end_in_a_year_is_refused(house: House) -> None:
    """The product hears it when it asks, not the user who opens the link tomorrow."""
    authorizer = await house.authorizer()

    with pytest.raises(RequestError, match=r"^expires_at: "):
        await authorizer.intend(LFI, request(house.clock, expires_at=house.clock.now() + YEAR))

    assert await intents(house) == 0


async def test_a_first_consent_may_last_364_days(house: House) -> None:
    """The bound itself is good, on both ways to ask."""
    authorizer = await house.authorizer()
    asked = request(house.clock, expires_at=house.clock.now() + EXPIRY_MAX)

    started = await authorizer.begin(LFI, asked)
    opened = await authorizer.open((await authorizer.intend(LFI, asked)).intent_id)

    assert {asked_end(house, one.consent_id) for one in (started, opened)} == {asked.expires_at}


async def test_a_database_ahead_of_us_refuses_no_successor(house: House) -> None:
    """A successor's end is counted in database time and judged by this process's clock, two seconds behind."""
    first = await house.consented()
    await lives_for(house, first, EXPIRY_MAX)
    client = await house.client()

    async def clients(_: Slug) -> LFIClient:
        return client

    behind = ManualClock(house.clock.now() - timedelta(seconds=2))
    renewals = Renewals(house.store, clients, Authorizer(house.store, clients, behind, token_due=token_due))
    intended = await renewals.renew(first.consent_id)

    assert intended.request.expires_at == house.clock.now() + EXPIRY_MAX


@pytest.mark.unit
@pytest.mark.parametrize(
    ("ahead", "refused"),
    [
        pytest.param(EXPIRY_MAX, False, id="364 days"),
        pytest.param(EXPIRY_MAX + CLOCKS_APART, False, id="364 days by a clock that is ahead"),
        pytest.param(EXPIRY_MAX + CLOCKS_APART + timedelta(seconds=1), True, id="more than that"),
        pytest.param(YEAR - timedelta(hours=1), True, id="nearly a year"),
        pytest.param(YEAR, True, id="a year"),
    ],
)
def test_the_bound_is_364_days_by_a_clock_like_ours(ahead: timedelta, refused: bool) -> None:
    """Never as much as a year, whatever the clocks say of each other."""
    now = datetime.fromisoformat("2026-10-01T00:00:00+00:00")
    asked = ConsentRequest(
        permissions=(Permission.ReadAccountsBasic,), expires_at=now + ahead, consent_id=ConsentId("c")
    )

    assert bool(asked.faults(now=now)) == refused
    assert EXPIRY_MAX + CLOCKS_APART < YEAR

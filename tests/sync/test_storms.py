"""Truth while the bank moves: mutations between and within walks (`reliability.md` §9, scenario 14)."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from syncworker.standard.resources import BY_NAME, ResourceName, Shape
from syncworker.sync.plan import PlanSettings
from tests.sync.house import CADENCE, SETTINGS, Product

pytestmark = [pytest.mark.flow, pytest.mark.timeout(120)]

N = ResourceName
Opener = Callable[..., Awaitable[Product]]
REACH_DAYS = 28
"""Nothing older changes at the bank: the deep walk reaches as far."""

DEEP = replace(
    SETTINGS, plan=PlanSettings(cadence=CADENCE, rewalk=timedelta(days=REACH_DAYS + 2), rewalk_every=timedelta(hours=9))
)
SEEDS = st.integers(0, 2**31)
WEATHER = st.lists(
    st.one_of(
        st.tuples(st.just("storm"), SEEDS, st.integers(1, 25)),
        st.tuples(st.just("drift"), SEEDS, st.integers(1, 4)),
        st.tuples(st.just("pages"), st.sampled_from(list(N)), st.sampled_from([2, 3, 7, 25, None])),
        st.tuples(st.just("sync"), st.booleans(), st.integers(1, 30)),
    ),
    min_size=4,
    max_size=12,
)


async def synced(product: Product) -> None:
    """Sync everything; nothing that the bank showed all the while may have been buried by it."""
    before, known = product.listed(), await product.buried()
    await product.sync_all(*product.consents)
    assert (await product.buried() - known) & before & product.listed() == set()


async def blow(product: Product, weather: list[tuple[str, object, object]]) -> None:
    bank = product.bank.bank
    for kind, what, much in weather:
        match kind:
            case "storm":
                bank.storm(what, much, reach_days=REACH_DAYS)  # type: ignore[arg-type]
            case "drift":
                bank.drift(
                    "storm",
                    {"seed": what, "n": much, "reach_days": REACH_DAYS},
                    operation="*",
                    after_page=None,
                    times=3,
                )
            case "pages" if BY_NAME[what].shape is Shape.LIST:  # type: ignore[index]
                bank.paginate(str(what), much)  # type: ignore[arg-type]
            case "sync":
                product.clock.advance(hours=much)  # type: ignore[arg-type]
                await synced(product)


@pytest.mark.parametrize("examples", [5])
async def test_the_tables_are_the_books_once_the_bank_is_quiet(open_product: Opener, examples: int) -> None:
    """Whatever happened, in whatever order, between and within walks: after two quiet syncs nothing differs.

    Nothing live was ever buried, and the feed replays to the tables.  One bank lives through all the weathers.
    """
    product = await open_product(customers=3, page_size=20, settings=DEEP)
    for user in range(2):
        await product.consented(user)
    await product.sync_all(*product.consents)
    for weather in weathers(examples):
        await blow(product, weather)
        product.bank.bank.drifts.clear()
        for _ in range(2):
            product.clock.advance(hours=10)
            await synced(product)
        assert await product.differences() == ()
        live = {(row.connection_id, row.account_id, row.resource.value, row.key) for row in await product.rows()}
        assert await product.replayed() == live


def weathers(examples: int) -> list[list[tuple[str, object, object]]]:
    """As many as are wanted, by hypothesis; the same each time."""
    drawn: list[list[tuple[str, object, object]]] = []

    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(WEATHER)
    def draw(weather: list[tuple[str, object, object]]) -> None:
        drawn.append(weather)

    draw()
    return drawn[:examples]


async def test_two_hundred_walks_while_items_come_go_and_are_booked(open_product: Opener) -> None:
    """Between any two pages something happens; no live item is buried, none is held twice, the end is the bank's."""
    product = await open_product(customers=2, page_size=4, settings=DEEP)
    await product.consented()
    bank = product.bank.bank
    await product.sync_all(*product.consents)
    for number in range(12):
        product.clock.advance(hours=13)
        bank.drift(
            "storm", {"seed": number, "n": 1, "reach_days": REACH_DAYS, "pages": False}, after_page=None, times=20
        )
        await synced(product)
        bank.drifts.clear()
    for _ in range(2):
        product.clock.advance(hours=13)
        await synced(product)
    assert await product.differences() == ()

"""An account is asked for only once the asking is written down."""

import pytest

from syncworker.store.failures import StoreRefusedError
from tests.ground.commits import refuse_commits
from tests.openings.house import LFI, House

pytestmark = pytest.mark.flow


async def test_no_account_is_asked_for_whose_asking_was_not_committed(house_on_each: House, database_url: str) -> None:
    """A POST without a row would open an account that is never followed: the bank hears none."""
    house = house_on_each
    openings = await house.openings()
    refuse_commits(database_url, "opening", on="INSERT")

    with pytest.raises(StoreRefusedError):
        await openings.create(LFI, house.order(user_ref="customer-7"))

    assert (house.posts(), house.desk.facts()) == (0, [])

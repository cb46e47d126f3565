"""Every resource of the catalogue has a cadence of its own."""

from datetime import timedelta

import pytest

from syncworker.settings import CadenceSettings
from syncworker.standard.resources import RESOURCES, ResourceName, permitted
from syncworker.standard.versions import Version

pytestmark = pytest.mark.unit

N = ResourceName


def test_every_resource_has_a_cadence() -> None:
    """The group names all of them and nothing else."""
    assert set(CadenceSettings.model_fields) == set(N)


def test_the_cadences_are_those_of_the_design() -> None:
    """Six hours, twelve, a day, a week."""
    week, day = timedelta(days=7), timedelta(days=1)
    special = {N.BALANCES: timedelta(hours=6), N.TRANSACTIONS: timedelta(hours=12)}
    daily = dict.fromkeys((N.ACCOUNTS, N.ACCOUNT, N.SCHEDULED_PAYMENTS), day)
    assert CadenceSettings().as_mapping() == dict.fromkeys(N, week) | daily | special


@pytest.mark.parametrize("repeats", [True, False])
def test_what_repeats_another_listing_is_left_out_unless_asked_for(repeats: bool) -> None:
    """`/accounts/{AccountId}` shows the items of `/accounts` once more, at the price of a call each."""
    permissions = {code for resource in RESOURCES for code in resource.permissions}
    names = {resource.name for resource in permitted(permissions, version=Version.V2_1, repeats=repeats)}
    assert names == set(N) - (set() if repeats else {N.ACCOUNT})

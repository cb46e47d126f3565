"""The transport certificate gives way to its successor in the middle of 200 syncs: none fails."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from syncworker.simulator.identity import thumbprint_of
from syncworker.standard.permissions import Permission
from syncworker.standard.resources import ResourceName
from syncworker.sync.reports import RunOutcome
from tests.sync.house import Product

pytestmark = pytest.mark.flow

CONNECTIONS = 20
ROUNDS = 10
PERMISSIONS = (Permission.ReadAccountsBasic, Permission.ReadBalances)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_certificate_rolled_over_in_the_middle_of_200_syncs_fails_none(
    open_product: Callable[..., Awaitable[Product]],
) -> None:
    """Once as a pair, once in two halves with pages read in between.

    The bank binds access tokens to the certificate they were asked for with, and refuses them over another (401).
    Calls under way end on the old connections; the access tokens bound to the old certificate are asked for anew, with
    the refresh tokens that stay.
    """
    product = await open_product(customers=4, client={"look_every": timedelta(0)})
    bank, files = product.bank, product.bank.client
    connections = [await product.consented(user % 4, permissions=PERMISSIONS) for user in range(CONNECTIONS)]
    certificates = [thumbprint_of(files.transport_certificate)]
    pages = 0

    async def roll(_resource: ResourceName, _number: int) -> None:
        """Roll over behind certain pages, in the middle of whatever the other connections are doing."""
        nonlocal pages
        pages += 1
        match pages:
            case 150:
                bank.bank.renew_certificate()
            case 300:
                following = bank.identity.renew_client_certificate("following")
                following[0].replace(files.transport_certificate)
            case 330:
                (bank.data_dir / "following.key").replace(files.transport_key)
        if pages in (151, 331):
            certificates.append(thumbprint_of(files.transport_certificate))
        await asyncio.sleep(0)

    product.between = roll
    outcomes: Counter[RunOutcome] = Counter()
    for _ in range(ROUNDS):
        report = await product.sync_all(*connections)
        outcomes.update(run.outcome for run in report.runs)

    assert outcomes == {RunOutcome.OK: CONNECTIONS, RunOutcome.UNCHANGED: CONNECTIONS * (ROUNDS - 1)}
    assert len(set(certificates)) == 3
    grants = [bank.bank.grants.grant_of(connection) for connection in connections]
    assert {grant.access.certificate for grant in grants if grant} == {certificates[-1]}
    refreshed = [one for one in bank.bank.log.tokens() if one.grant_type == "refresh_token"]
    assert Counter((one.consent_id, one.outcome) for one in refreshed) == {(one, "issued"): 2 for one in connections}
    assert {entry.status for entry in bank.bank.log.served() if entry.host == "rs"} <= {200, 401}
    assert await product.differences() == ()

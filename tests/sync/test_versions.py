"""Banks on older versions: the same sync, the same tables, no difference to what that version shows."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import date, timedelta

import pytest

from syncworker.errors import RequestError, SetupError
from syncworker.standard.consents import ConsentRequest
from syncworker.standard.permissions import Permission, askable
from syncworker.standard.resources import BY_NAME, ResourceName
from syncworker.standard.versions import Version
from syncworker.store.unit_of_work import Store
from tests.sync.house import EVERYTHING, LFI, Product

pytestmark = pytest.mark.flow

Opener = Callable[..., Awaitable[Product]]
KINDS = 8
"""Customers until every kind of life has come once."""
OLDER = [Version.V1_2, Version.V2_0]
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.mark.parametrize("version", OLDER)
@on_sqlite
async def test_every_kind_of_customer_syncs_completely(open_product: Opener, version: Version) -> None:
    """Cards, business, lending, joint accounts: keys, typed columns and raw items as the books of that version."""
    product = await open_product(versions=[version], customers=KINDS)
    connections = [
        await product.consented(number, permissions=askable(version), version=version) for number in range(KINDS)
    ]
    report = await product.sync_all(*connections)
    assert (report.outcomes, await product.differences()) == ({"ok": KINDS}, ())
    rows = {row.resource for row in await product.rows()}
    assert rows == set(ResourceName) - {ResourceName.ACCOUNT, ResourceName.STATEMENTS}


@pytest.mark.parametrize("version", OLDER)
async def test_what_changes_at_an_older_bank_appears(open_product: Opener, version: Version) -> None:
    """A storm over everything it lists, on each database, and no difference afterwards."""
    product = await open_product(versions=[version])
    connections = [await product.consented(0), await product.consented(1)]
    await product.sync_all(*connections)
    product.clock.advance(hours=1)
    product.bank.bank.storm(7, 60, reach_days=5, pages=False)
    await product.sync_all(*connections)
    await product.sync_all(*connections)  # what longer listings lost takes two walks
    assert await product.differences() == ()


@on_sqlite
async def test_three_versions_run_side_by_side_at_one_bank(open_product: Opener) -> None:
    """Each consent keeps the version it was asked for in, and is read under that version's base path alone."""
    product = await open_product(versions=list(Version), customers=3)
    connections = [await product.consented(number, version=version) for number, version in enumerate(Version)]
    report = await product.sync_all(*connections)
    assert (report.outcomes, await product.differences()) == ({"ok": 3}, ())
    kept = {one["consent_id"]: one["version"] for one in product.bank.bank.consent_facts()}
    assert [kept[connection] for connection in connections] == ["v1.2", "v2.0", "v2.1"]


@pytest.mark.parametrize("version", Version)
@on_sqlite
async def test_the_window_of_a_consent_is_the_same_in_each_version(open_product: Opener, version: Version) -> None:
    """Two dates, or two date-times: what is kept and what is shown are the same days, both included."""
    product = await open_product(versions=[version])
    today = product.clock.now().date()
    first, last = today - timedelta(days=60), today - timedelta(days=20)
    connection = await product.consented(from_date=first, to_date=last)
    await product.sync(connection)
    async with product.store.reading() as unit:
        held = await unit.consents.get(connection)
    booked = [row.columns["booking_date"] for row in await product.rows() if row.resource is ResourceName.TRANSACTIONS]
    assert held is not None
    assert (held.from_date, held.to_date, held.base_consent_id) == (first, last, None)
    assert len(booked) > 20
    assert first <= min(booked) <= max(booked) <= last
    assert await product.differences() == ()


@on_sqlite
async def test_a_successor_on_a_newer_version_goes_on_with_the_rows(open_product: Opener) -> None:
    """The LFI moved from v1.2 to v2.1: same connection, same keys; items written anew are modified, none is lost."""
    product = await open_product(versions=[Version.V1_2, Version.V2_1])
    root = await product.consented(version=Version.V1_2)
    await product.sync(root)
    before = {(row.resource, row.account_id, row.key) for row in await product.rows()}
    product.clock.advance(hours=1)
    await product.consented(version=Version.V2_1, base_consent_id=root)
    await product.sync(root)
    after = {(row.resource, row.account_id, row.key) for row in await product.rows()}
    assert before < after
    assert {resource for resource, _, _ in after - before} == {ResourceName.STATEMENTS}


@on_sqlite
async def test_a_new_consent_takes_the_highest_version_offered(open_product: Opener) -> None:
    """Of those that are declared, the highest that the discovery document lists."""
    product = await open_product(versions=[Version.V1_2, Version.V2_0])
    product.client.config = replace(
        product.client.config,
        base_urls={**product.bank.resource_base_urls, Version.V2_1: product.bank.resource_base_url},
    )
    connection = await product.consented()
    async with product.store.reading() as unit:
        held = await unit.consents.get(connection)
    assert held is not None
    assert held.version is Version.V2_0


@on_sqlite
async def test_a_version_nobody_offers_is_named(open_product: Opener) -> None:
    """Declared for v2.1 alone, while the bank's discovery document lists v1.2: the operator must act."""
    product = await open_product(versions=[Version.V1_2])
    urls = {Version.V2_1: product.bank.resource_base_url}
    product.client.config = replace(product.client.config, base_urls=urls)
    with pytest.raises(SetupError, match=r"lfis\.sandbox\.base_urls: declares v2\.1, .* declare a version it lists"):
        await product.consented(permissions=(Permission.ReadAccountsBasic,))


@pytest.mark.parametrize("chosen", [None, Version.V1_2], ids=["by the LFI", "by name"])
@on_sqlite
async def test_a_permission_of_another_version_is_a_fault_before_anything_is_sent(
    open_product: Opener, chosen: Version | None
) -> None:
    """Statements and finance rates came with v2.1: each is named with what to do, and the bank saw no request."""
    product = await open_product(versions=[Version.V1_2])
    with pytest.raises(RequestError) as refused:
        await product.consented(version=chosen, permissions=EVERYTHING)
    assert str(refused.value).split("; ", maxsplit=1) == [
        "permissions: ReadProductFinanceRates is not in v1.2",
        "leave it out, or ask on v2.1; permissions: ReadStatements is not in v1.2; leave it out, or ask on v2.1",
    ]
    assert [one.operation for one in product.bank.bank.log.served() if one.operation != "discovery"] == []


def test_every_listing_of_the_tests_is_in_the_catalogue() -> None:
    """Statements alone came late: what the first test leaves out is what older versions lack."""
    assert {row.name for row in BY_NAME.values() if row.since is not Version.V1_2} == {ResourceName.STATEMENTS}


@on_sqlite
async def test_a_date_of_the_window_is_the_day_meant_in_the_uae(open_product: Opener, store: Store) -> None:
    """The pushed instants carry the UAE's offset: whoever drops it still reads the same day."""
    product = await open_product(versions=[Version.V2_0])
    request = ConsentRequest(
        permissions=(Permission.ReadAccountsBasic,),
        expires_at=product.clock.now() + timedelta(days=30),
        from_date=date(2026, 1, 1),
        to_date=date(2026, 6, 30),
    )
    await product.authorizer.begin(LFI, request)
    (consent,) = product.bank.bank.consents
    assert (consent.asked["TransactionFromDateTime"], consent.asked["TransactionToDateTime"]) == (
        "2026-01-01T00:00:00+04:00",
        "2026-06-30T23:59:59+04:00",
    )

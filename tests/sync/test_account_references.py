"""An account gets its reference with its first row, and keeps it whatever becomes of the account or its consent."""

import json
from typing import Any, Final

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from syncworker.errors import LeaseLostError
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store.account_references import AccountReference
from syncworker.store.erasure import DataClass
from syncworker.store.tables import account_reference
from syncworker.store.unit_of_work import Store
from syncworker.sync.decode import iban_of
from tests.sync.books import CONSENT, Desk, claim, page, steal, walk
from tests.sync.house import Product
from tests.sync.test_successor import Desk as RenewalDesk

pytestmark = pytest.mark.flow

N = ResourceName
IBAN, OTHER = "AE070331234567890123456", "AE460090000000123456789"


def account(key: str = "acc-1", iban: str | None = IBAN, **facts: Any) -> dict[str, Any]:
    shown = [] if iban is None else [{"SchemeName": "IBAN", "Identification": iban}]
    return {"AccountId": key, "AccountIdentifiers": shown, **facts}


def listed(*accounts: dict[str, Any]) -> Any:
    return walk(N.ACCOUNTS, page(N.ACCOUNTS, *accounts))


async def references(store: Store, connection: ConsentId = CONSENT) -> list[AccountReference]:
    async with store.reading() as unit:
        return await unit.account_references.of_connections([connection])


async def test_the_first_row_brings_the_reference(desk: Desk) -> None:
    """With the walk that brings it, in one transaction; the log says nothing of the IBAN."""
    with capture_logs() as said:
        await desk.apply(listed(account("a"), account("b", OTHER), account("c", None)))
    found = await references(desk.store)

    assert [(one.lfi_account_id, one.identity is None) for one in found] == [("a", False), ("b", False), ("c", True)]
    assert {one.created_at for one in found} == {desk.clock.now()}
    assert IBAN not in repr(said)


async def test_a_walk_that_may_not_be_written_leaves_neither_row_nor_reference(desk: Desk) -> None:
    """A newer claim took over meanwhile."""
    stale = await claim(desk.store)
    await steal(desk.store, desk.clock)
    with pytest.raises(LeaseLostError):
        await desk.apply(listed(account()), by=stale)

    assert (await references(desk.store), await desk.rows()) == ([], {})


async def test_it_stays_while_the_account_changes_goes_and_returns(desk: Desk) -> None:
    """Renamed, not shown any more, shown again: the same reference.  A new IBAN is a new identity under it."""
    seen = []
    for shown in (
        [account()], [account(Nickname="New")], [account("other", OTHER)], [account(), account("other", OTHER)],
        [account(iban=OTHER), account("other", OTHER)],
    ):  # fmt: skip
        desk.clock.advance(days=1)
        await desk.apply(listed(*shown))
        seen.append(next(one for one in await references(desk.store) if one.lfi_account_id == "acc-1"))
    rows = await desk.rows(N.ACCOUNTS)

    assert rows["acc-1"].gone_at is None
    assert len({(one.account_id, one.created_at) for one in seen}) == 1
    assert [one.identity == seen[0].identity for one in seen] == [True, True, True, True, False]


async def test_an_unchanged_walk_writes_no_reference(desk: Desk) -> None:
    """What stands in the row is left there."""
    await desk.apply(listed(account()))
    before = await references(desk.store)
    async with desk.store.writing() as unit:
        await unit.connection.execute(sa.update(account_reference).values(identity="idn_sentinel"))
        await unit.commit()
    await desk.apply(listed(account()))
    (after,) = await references(desk.store)

    assert (after.account_id, after.identity) == (before[0].account_id, "idn_sentinel")


@pytest.mark.parametrize("new_chain", [False, True])
async def test_it_stays_through_renewal_and_through_a_second_chain(product: Product, new_chain: bool) -> None:
    """Another consent of the same connection."""
    desk = RenewalDesk.of(product)
    first = await product.consented()
    await product.sync(first)
    before = await references(product.store, first)
    product.clock.advance(days=80)
    second = (await desk.renewed(first, new_chain=new_chain)).consent_id
    await desk.tick()
    await product.sync(first)

    assert second != first
    assert before
    assert await references(product.store, first) == before


async def test_a_customer_who_links_the_account_anew_is_given_the_same_identity(product: Product) -> None:
    """Two consents without a common root: two connections, other references, equal identities."""
    first, second = await product.consented(), await product.consented()
    await product.sync_all(first, second)
    one, other = [await references(product.store, connection) for connection in (first, second)]

    assert {held.identity for held in one} == {held.identity for held in other}
    assert not {held.account_id for held in one} & {held.account_id for held in other}
    assert all(held.identity for held in one)


@pytest.mark.parametrize(("of", "kept"), [(DataClass.PERSONAL, True), (DataClass.DATA, False), (None, False)], ids=str)
async def test_erasure_takes_the_identity_and_leaves_the_reference(
    desk: Desk, of: DataClass | None, kept: bool
) -> None:
    """The identity goes with the account's row, counted; a reader can still be told which account is erased."""
    await desk.apply(listed(account()))
    (before,) = await references(desk.store)
    async with desk.store.writing() as unit:
        said = await unit.erasure.count(CONSENT, of=of)
        done = await unit.erasure.erase(CONSENT, of=of)
        again = await unit.erasure.count(CONSENT, of=of)
        await unit.commit()
    (after,) = await references(desk.store)

    assert (said, again) == (done, {})
    assert (after.account_id, done.get("account_reference.identity", 0)) == (before.account_id, 0 if kept else 1)
    assert (after.identity is not None) == kept


UNREAD: Final = {"SchemeName": "MaskedPAN", "Identification": "4111********1111"}


@pytest.mark.parametrize(
    ("shown", "iban"),
    [
        ([{"SchemeName": "IBAN", "Identification": IBAN}], IBAN),
        ([UNREAD, {"SchemeName": "IBAN", "Identification": "ae07 0331 2345 6789 0123 456"}], IBAN),
        ([{"SchemeName": "IBAN", "Identification": one} for one in (OTHER, IBAN)], IBAN),
        ([{"SchemeName": "IBAN", "Identification": one} for one in (IBAN, OTHER)], IBAN),
        ([UNREAD], None),
        ([{"SchemeName": "IBAN"}, None, 7, "IBAN", []], None),
        ({"SchemeName": "IBAN", "Identification": IBAN}, IBAN),
        (None, None),
    ],
)
def test_the_iban_is_found_among_an_accounts_identifiers(shown: object, iban: str | None) -> None:
    """Of several the same one in whatever order; what is not as the standard says is passed over."""
    assert iban_of(json.dumps({"AccountIdentifiers": shown}).encode()) == iban

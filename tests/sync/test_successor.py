"""A connection is renewed: another consent, the same history."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from syncworker.consents.authorize import Completed, Intended
from syncworker.consents.polling import Cadence, Polling
from syncworker.consents.renewal import ACCOUNTS_COMPARED, SUCCEEDED, Flagging, Renewals, Wishes
from syncworker.consents.revoking import Revoking
from syncworker.errors import RequestError
from syncworker.lfi.api import LFIClient
from syncworker.schedule.handlers import Ended, Handlers
from syncworker.simulator.ledger import Account
from syncworker.standard.consents import ConsentRequest
from syncworker.standard.permissions import Permission
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.consents import StoredConsent
from syncworker.store.cursors import Listing
from syncworker.store.failures import StoreRefusedError
from syncworker.store.work import Claim, WorkKind
from tests.sync.house import LFI, Product, retry_after

pytestmark = pytest.mark.flow

Opener = Callable[..., Awaitable[Product]]


@dataclass
class Desk:
    """A product with the small kinds of work a worker does beside its syncs."""

    product: Product
    renewals: Renewals
    handlers: Handlers

    @classmethod
    def of(cls, product: Product) -> "Desk":
        async def clients(_: Slug) -> LFIClient:
            return product.client

        store = product.store
        revoking = Revoking(store, clients, product.lifecycle)
        polling = Polling(store, product.lifecycle, revoking, cadence=Cadence(), retention={})
        flagging = Flagging(store)

        async def look(claim: Claim) -> Ended:
            return Ended(*await polling.look(claim))

        async def flag(claim: Claim) -> Ended:
            return Ended(*await flagging.flag(claim))

        handlers = Handlers(store, {WorkKind.CONSENT: look, WorkKind.FLAG: flag}, retry_after=retry_after)
        return cls(product, Renewals(store, clients, product.authorizer), handlers)

    async def tick(self) -> None:
        """What is due of the small kinds, once: flags first, then what they ordered."""
        for kind in (WorkKind.FLAG, WorkKind.CONSENT):
            async with self.product.store.writing() as unit:
                claims = await unit.work.claim(kind, slots={LFI: 100})
                await unit.commit()
            await self.handlers.batch(kind, [(claim.id, claim.gen) for claim in claims])

    async def renewed(self, consent_id: ConsentId, *, user: int = 0, accounts: Any = None, **changes: Any) -> Completed:
        """The user follows the link of a renewal and agrees."""
        intended = await self.renewals.renew(consent_id, Wishes(**changes))
        return await self.agreed(intended, user=user, accounts=accounts)

    async def agreed(self, intended: Intended, *, user: int = 0, accounts: Any = None) -> Completed:
        product = self.product
        started = await product.authorizer.open(intended.intent_id)
        redirect = await product.bank.decide(started.url, user=product.bank.users[user], accounts=accounts)
        return await product.authorizer.complete(redirect)

    async def consent(self, consent_id: ConsentId) -> StoredConsent:
        async with self.product.store.reading() as unit:
            held = await unit.consents.get(consent_id)
        assert held is not None
        return held

    async def note(self, what: str, subject: ConsentId) -> Any:
        async with self.product.store.reading() as unit:
            (note,) = await unit.consents.notes(what=what, subject=subject)
        return note["facts"]

    def at_the_bank(self, *consent_ids: ConsentId) -> list[str]:
        """Their states as the Hub keeps them."""
        held = {one["consent_id"]: one["status"] for one in self.product.bank.bank.consent_facts()}
        return [held[one] for one in consent_ids]


@pytest.fixture
def desk(product: Product) -> Desk:
    return Desk.of(product)


def account_of(product: Product, user: int = 0, number: int = 0) -> Account:
    return product.bank.bank.account_of(product.bank.users[user], number)


async def test_the_successor_takes_over_and_then_what_it_follows_is_revoked(desk: Desk) -> None:
    """In this order; same terms, same root, same life, and the sync goes on with the new consent."""
    product = desk.product
    first = await product.consented()
    await product.sync(first)
    product.clock.advance(days=80)
    second = (await desk.renewed(first)).consent_id
    between = (await desk.consent(first)).status
    await desk.tick()

    old, new = await desk.consent(first), await desk.consent(second)
    assert (between, old.status, old.revoked_by, desk.at_the_bank(first)) == (
        "Authorized",
        "Revoked",
        "TPP",
        ["Revoked"],
    )
    assert (new.connection_id, new.base_consent_id, new.user_ref) == (first, first, old.user_ref)
    assert (new.status, set(new.permissions)) == ("Authorized", set(old.permissions))
    assert abs(new.expires_at - product.clock.now() - timedelta(days=90)) < timedelta(minutes=1)
    assert await desk.note(SUCCEEDED, second) == {"follows": [first], "revoked": [first]}
    assert (await product.sync(first)).consent_id == second


async def test_a_chain_names_its_root_for_ever(desk: Desk) -> None:
    """Also the third consent, asked for by the id of the second; and the database takes none that names itself."""
    product = desk.product
    first = await product.consented()
    product.clock.advance(days=1)
    second = (await desk.renewed(first)).consent_id
    await desk.tick()
    product.clock.advance(days=1)
    third = (await desk.renewed(second)).consent_id
    await desk.tick()

    held = await desk.consent(third)
    assert (held.base_consent_id, held.connection_id) == (first, first)
    assert desk.at_the_bank(first, second, third) == ["Revoked", "Revoked", "Authorized"]
    with pytest.raises(StoreRefusedError):
        async with product.store.writing() as unit:
            await unit.consents.add_new([_naming_itself(held)])


def _naming_itself(held: StoredConsent) -> StoredConsent:
    itself = ConsentId("itself")
    return replace(held, consent_id=itself, base_consent_id=itself)


async def test_the_gap_after_an_expiry_is_filled(desk: Desk) -> None:
    """Twenty days without a consent: every transaction of them is there, and no row from before was seen anew."""
    product = desk.product
    first = await product.consented(expires_at=product.clock.now() + timedelta(days=10))
    account = account_of(product).account_id
    await product.sync(first)
    before = {row.key: (row.first_seen_at, row.gen) for row in await product.rows(first)}
    generation = (await product.work(first)).gen
    keys = []
    for day in range(30):
        product.clock.advance(days=1)
        keys.append(product.bank.bank.insert_transaction(account, amount="1.00", transaction_id=f"GAP-{day}"))
        if day == 9:
            await desk.tick()  # the clock ends it
    ended = (await desk.consent(first)).status

    await desk.renewed(first)
    report = await product.sync(first)

    rows = {row.key: row for row in await product.rows(first)}
    cursor = (await product.cursors(first))[Listing(account, ResourceName.TRANSACTIONS)]
    assert ended == "Expired"
    assert {f"GAP-{day}" for day in range(30)} <= rows.keys()
    assert report.total("added") >= 30
    assert {key: rows[key].first_seen_at for key in before} == {key: seen for key, (seen, _) in before.items()}
    assert min(row.gen for row in rows.values() if row.key.startswith("GAP-")) > generation
    assert cursor.covered_from is not None
    assert cursor.high_water is not None
    assert cursor.high_water > product.clock.now() - timedelta(days=2)


async def test_a_successor_with_nothing_new_writes_no_row(desk: Desk) -> None:
    """Its pages are known: history goes on as if nothing had happened."""
    product = desk.product
    first = await product.consented()
    await product.sync(first)
    before = {(row.resource, row.account_id, row.key): row.gen for row in await product.rows(first)}
    product.clock.advance(minutes=5)
    await desk.renewed(first)
    await desk.tick()
    report = await product.sync(first)

    after = {(row.resource, row.account_id, row.key): row.gen for row in await product.rows(first)}
    assert (report.total("added"), report.total("modified"), report.total("removed"), after == before) == (
        0,
        0,
        0,
        True,
    )
    async with product.store.reading() as unit:
        granted = await unit.records.granted(report.consent_id)
        of_old = await unit.records.granted(first)
    assert (set(granted), set(of_old)) == ({row[2] for row in after if row[0] is ResourceName.ACCOUNTS}, set())


async def test_accounts_that_vanish_or_appear_are_reported(desk: Desk) -> None:
    """In the audit and in the feed; the rows of an account no longer shown stay."""
    product = desk.product
    one, other = (account_of(product, number=number).account_id for number in (0, 1))
    request = await product.authorizer.intend(LFI, _request(product), user_ref="customer-0")
    first = (await desk.agreed(request, accounts=[one])).consent_id
    await product.sync(first)
    kept = [row.key for row in await product.rows(first) if row.account_id == one and row.resource != "accounts"]
    product.clock.advance(days=1)
    second = (await desk.renewed(first, accounts=[other])).consent_id
    await desk.tick()
    report = await product.sync(first)

    rows = await product.rows(first, gone=True)
    shown = {row.key: row.gone_at is None for row in rows if row.resource is ResourceName.ACCOUNTS}
    assert report.consent_id == second
    assert await desk.note(ACCOUNTS_COMPARED, second) == {"vanished": [one], "appeared": [other]}
    assert shown == {one: False, other: True}
    assert set(kept) <= {row.key for row in rows if row.account_id == one and row.gone_at is None}


def _request(product: Product, **changes: Any) -> Any:
    asked: dict[str, Any] = {
        "permissions": (Permission.ReadAccountsDetail, Permission.ReadTransactionsDetail),
        "expires_at": product.clock.now() + timedelta(days=90),
    }
    return ConsentRequest(**asked | changes)


async def test_a_run_of_the_old_consent_does_not_delay_the_successor(desk: Desk) -> None:
    """The user agrees while a sync is under way: it writes nothing more, and the next one is due at once."""
    product = desk.product
    first = await product.consented()
    acted = False

    async def meanwhile(_resource: ResourceName, _page: int) -> None:
        nonlocal acted
        if not acted:
            acted = True
            product.clock.advance(seconds=1)
            await desk.renewed(first)
            await desk.tick()

    product.between = meanwhile
    report = await product.sync(first)
    product.between = None

    assert (report.outcome.value, await product.rows(first)) == ("failed", [])
    assert (await product.work(first)).due_at <= product.clock.now()
    assert (await product.sync(first, asked=False)).outcome.value == "ok"


async def test_other_permissions_are_a_new_consent_and_end_the_old(desk: Desk) -> None:
    """What the successor no longer opens is not read any more; what was read stays."""
    product = desk.product
    first = await product.consented()
    await product.sync(first)
    product.clock.advance(hours=1)
    fewer = (Permission.ReadAccountsDetail,)
    second = (await desk.renewed(first, permissions=fewer)).consent_id
    await desk.tick()
    begin = product.mark()
    await product.sync(first)

    assert set((await desk.consent(second)).permissions) == set(fewer)
    assert {operation for operation, _ in product.gets(begin)} == {"accounts"}
    assert ResourceName.BALANCES in {row.resource for row in await product.rows(first)}


async def test_a_revoked_consent_can_be_followed(desk: Desk) -> None:
    """The user changed their mind again: same connection."""
    product = desk.product
    first = await product.consented()
    product.bank.bank.revoke(first)
    product.clock.advance(hours=1)
    await desk.tick()
    ended = (await desk.consent(first)).status

    completed = await desk.renewed(first)

    assert (ended, completed.connection_id, completed.status) == ("Revoked", first, "Authorized")


async def test_what_nobody_agreed_to_cannot_be_renewed(desk: Desk) -> None:
    """There is nothing to follow: a new consent is begun instead."""
    product = desk.product
    intended = await product.authorizer.intend(LFI, _request(product), user_ref="u")
    started = await product.authorizer.open(intended.intent_id)
    redirect = await product.bank.decide(started.url, user=product.bank.users[0], approve=False)
    with pytest.raises(Exception, match="declined"):
        await product.authorizer.complete(redirect)

    with pytest.raises(RequestError, match=r"^consent_id: the consent is Rejected .* begin a new one$"):
        await desk.renewals.renew(started.consent_id)
    with pytest.raises(RequestError, match=r"^consent_id: no consent of that id is held$"):
        await desk.renewals.renew(ConsentId("nobody"))


@pytest.mark.parametrize("days", [365, -1])
async def test_a_successor_lasts_less_than_a_year(desk: Desk, days: int) -> None:
    """The product hears it before the user does."""
    first = await desk.product.consented()

    with pytest.raises(RequestError, match=r"^expires_at: "):
        await desk.renewals.renew(first, Wishes(expires_at=desk.product.clock.now() + timedelta(days=days)))


async def test_a_joint_account_is_two_rows_in_two_connections(open_product: Opener) -> None:
    """Neither customer's rows depend on the other's consent."""
    product = await open_product(customers=12)
    desk = Desk.of(product)
    users = list(product.bank.users)
    owners: dict[str, list[int]] = {}
    for facts in product.bank.bank.customers():
        for account_id in facts["accounts"]:
            owners.setdefault(account_id, []).append(users.index(facts["user"]))
    account_id, (one, other) = next((name, held) for name, held in owners.items() if len(held) == 2)
    mine, theirs = await product.consented(one), await product.consented(other)
    await product.sync_all(mine, theirs)
    product.bank.bank.revoke(mine)
    product.clock.advance(hours=1)
    await desk.tick()
    product.bank.bank.rename_account(account_id, "ours")
    await product.sync(theirs)

    rows = {
        row.connection_id: row.columns.get("nickname")
        for row in await product.rows()
        if row.key == account_id and row.resource is ResourceName.ACCOUNTS
    }
    assert rows.keys() == {mine, theirs}
    assert (rows[theirs], rows[mine] == "ours") == ("ours", False)

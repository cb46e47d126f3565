"""What a successor asks for: the same as the consent before it, in a window that moves along, in an old chain or a new.

What is asked is read from the requests that reached the bank, not from what we keep of them.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest

from syncworker.consents.reconciling import Reconciling
from syncworker.consents.renewal import SUCCEEDED, Wishes
from syncworker.errors import AuthorizationFailedError, RequestError
from syncworker.lfi.api import LFIClient
from syncworker.simulator.asgi import Request
from syncworker.standard.consents import ConsentRequest, OnBehalfOf, Purpose, UserType
from syncworker.standard.permissions import Permission
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId, Slug, local_date
from syncworker.standard.versions import Version
from syncworker.store.consents import StoredConsent
from tests.contract.test_requests import claims_of, form_of
from tests.sync.house import LFI, Product
from tests.sync.test_successor import Desk, account_of

pytestmark = pytest.mark.flow

Opener = Callable[..., Awaitable[Product]]
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

MOVING = {"ConsentId", "BaseConsentId", "ExpirationDateTime"}
"""Members that say which consent it is and when it ends."""

NARROWED: dict[str, Any] = {
    "permissions": (Permission.ReadAccountsBasic, Permission.ReadTransactionsBasic),
    "user_type": UserType.SME,
    "purpose": Purpose.TaxFiling,
    "account_types": ("Retail",),
    "account_sub_types": ("CurrentAccount", "Savings"),
    "on_behalf_of": OnBehalfOf(trading_name="Al Waha", identifier_type="Other", identifier="CN-7"),
}


class Bank:
    """A product at a bank that keeps what was pushed to it."""

    def __init__(self) -> None:
        self.pushed: list[dict[str, Any]] = []

    def __call__(self, _host: str, request: Request) -> None:
        if request.path == "/par":
            (details,) = claims_of(form_of(request)["request"])["authorization_details"]
            self.pushed.append(details)

    async def opened(self, open_product: Opener, *versions: Version, **options: Any) -> Desk:
        return Desk.of(await open_product(versions=list(versions), witness=self, **options))


@pytest.fixture
def bank() -> Bank:
    return Bank()


@pytest.mark.parametrize("version", Version)
@on_sqlite
async def test_a_renewal_asks_for_exactly_the_same(open_product: Opener, bank: Bank, version: Version) -> None:
    """Kinds of account, firm, purpose, user type, permissions, and a window that moved with the consent."""
    desk = await bank.opened(open_product, version)
    product = desk.product
    today = local_date(product.clock.now())
    first = await product.consented(
        version=version, from_date=today - timedelta(days=365), to_date=today + timedelta(days=90), **NARROWED
    )
    product.clock.advance(days=40)
    await desk.renewed(first)

    before, after = bank.pushed
    window = {name for name in before["consent"] if "Date" in name} - MOVING
    assert before["type"] == after["type"]
    assert {name: value for name, value in before["consent"].items() if name not in MOVING | window} == {
        name: value for name, value in after["consent"].items() if name not in MOVING | window
    }
    assert after["consent"]["BaseConsentId"] == first
    assert len(window) == 2
    for name in window:
        then, now = (date.fromisoformat(one["consent"][name][:10]) for one in (before, after))
        assert now - then == timedelta(days=40), name


@on_sqlite
async def test_a_kind_of_account_is_renewed_in_the_words_of_the_newer_version(open_product: Opener, bank: Bank) -> None:
    """PersonalLoan of v2.0 is Finance on v2.1; what v1.2 has no word for is named, and nothing is sent."""
    desk = await bank.opened(open_product, Version.V2_0, Version.V2_1, customers=8)
    debtor = _debtor(desk)
    first = await desk.product.consented(debtor, version=Version.V2_0, account_sub_types=("PersonalLoan",))
    second = (await desk.renewed(first, user=debtor)).consent_id

    held = [await desk.consent(one) for one in (first, second)]
    assert [one["consent"]["AccountSubType"] for one in bank.pushed] == [["PersonalLoan"], ["Finance"]]
    assert [one.account_sub_types for one in held] == [("PersonalLoan",), ("Finance",)]


def _debtor(desk: Desk) -> int:
    """The number of a customer who owes the bank something."""
    ledger = desk.product.bank.bank.ledger
    customers = [ledger.customer(user) for user in desk.product.bank.users]
    return next(n for n, one in enumerate(customers) if any(each.sub_type == "Finance" for each in one.accounts))


@on_sqlite
async def test_what_the_lfis_version_cannot_say_is_named_before_anything_is_sent(
    open_product: Opener, bank: Bank
) -> None:
    """A consent of another version is not renewed with less than it had, unless told to."""
    desk = await bank.opened(open_product, Version.V1_2, Version.V2_1)
    first = await desk.product.consented(version=Version.V2_1, account_sub_types=("CurrentAccount", "CreditCard"))

    with pytest.raises(RequestError, match=r"^account_sub_types: v1\.2 has no word for CreditCard; .* or v2\.1$"):
        await desk.renewals.renew(first, Wishes(version=Version.V1_2))
    assert len(bank.pushed) == 1
    fewer = Wishes(
        version=Version.V1_2, account_sub_types=("CurrentAccount",), permissions=(Permission.ReadAccountsBasic,)
    )
    await desk.agreed(await desk.renewals.renew(first, fewer))
    assert bank.pushed[1]["consent"]["AccountSubType"] == ["CurrentAccount"]


@on_sqlite
async def test_kinds_an_lfi_does_not_support_are_refused_before_anything_is_sent(
    open_product: Opener, bank: Bank
) -> None:
    """By the field's name, with what it supports; at a link too, before its user sees it."""
    desk = await bank.opened(open_product, Version.V2_1)
    product = desk.product
    product.client.config = replace(product.client.config, account_types=("Retail",), account_sub_types=("Savings",))
    asked = ConsentRequest(
        permissions=(Permission.ReadAccountsBasic,),
        expires_at=product.clock.now() + timedelta(days=30),
        account_types=("Corporate",),
        account_sub_types=("Finance",),
    )
    for ask in (product.authorizer.begin, product.authorizer.intend):
        with pytest.raises(RequestError) as refused:
            await ask(LFI, asked, user_ref="u")
        assert str(refused.value) == (
            "account_types: this LFI does not support Corporate; the directory says it supports Retail; "
            "account_sub_types: this LFI does not support Finance; the directory says it supports Savings"
        )
    assert bank.pushed == []


@on_sqlite
async def test_a_user_without_such_an_account_is_sent_back(open_product: Opener, bank: Bank) -> None:
    """The bank ends the flow; the consent is Rejected, and a narrowed one shows its kinds alone."""
    desk = await bank.opened(open_product, Version.V2_1)
    product = desk.product
    with pytest.raises(AuthorizationFailedError, match="declined"):
        await product.consented(account_types=("Corporate",))
    narrowed = await product.consented(account_sub_types=("Savings",))
    await product.sync(narrowed)

    rows = [row for row in await product.rows(narrowed) if row.resource is ResourceName.ACCOUNTS]
    assert {row.columns["account_sub_type"] for row in rows} == {"Savings"}


# -- the window -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", Version)
async def test_a_window_that_moved_on_buries_nothing(open_product: Opener, bank: Bank, version: Version) -> None:
    """Rows before the successor's first day are outside of what it shows: they stay, whatever is read afterwards."""
    desk = await bank.opened(open_product, version)
    product = desk.product
    today = local_date(product.clock.now())
    first = await product.consented(version=version, from_date=today - timedelta(days=60), expires_at=_in(product, 364))
    await product.sync(first)
    before = {(row.resource, row.key) for row in await product.rows(first)}
    dated = {row.key: row.columns["booking_date"] for row in await _transactions(product, first)}
    product.clock.advance(days=50)
    await desk.renewed(first)
    await desk.tick()
    account = account_of(product).account_id
    new = {f"NEW-{number}" for number in range(3)}
    for key in sorted(new):  # the newest part, and walks that reach far back; each of them brings something
        product.bank.bank.insert_transaction(account, amount="1.00", transaction_id=key)
        assert (await product.sync(first)).outcome.value == "ok"
        product.clock.advance(days=8)

    held = await desk.consent((await _chain(product, first))[-1].consent_id)
    outside = {key for key, day in dated.items() if day < held.from_date}
    assert held.from_date == today - timedelta(days=10)
    assert len(outside) > 10
    assert before | {(ResourceName.TRANSACTIONS, key) for key in new} <= {
        (row.resource, row.key) for row in await product.rows(first)
    }
    assert await product.buried() == set()


def _in(product: Product, days: int) -> Any:
    return product.clock.now() + timedelta(days=days)


async def _transactions(product: Product, connection: ConsentId) -> list[Any]:
    return [row for row in await product.rows(connection) if row.resource is ResourceName.TRANSACTIONS]


async def _chain(product: Product, connection: ConsentId) -> list[StoredConsent]:
    async with product.store.reading() as unit:
        return list(await unit.consents.find(connection_id=connection))


@on_sqlite
async def test_a_window_can_be_pinned_given_or_opened(open_product: Opener, bank: Bank) -> None:
    """Pinned days stay, unless the last of them has passed: then the way out is named."""
    desk = await bank.opened(open_product, Version.V2_1)
    product = desk.product
    today = local_date(product.clock.now())
    first = await product.consented(from_date=today - timedelta(days=90), to_date=today + timedelta(days=20))
    product.clock.advance(days=10)
    day = timedelta(days=1)

    async def window(**wishes: Any) -> tuple[date | None, date | None]:
        request = (await desk.renewals.successor(first, Wishes(**wishes))).request
        return request.from_date, request.to_date

    assert await window() == (today - 80 * day, today + 30 * day)
    assert await window(pin_window=True) == (today - 90 * day, today + 20 * day)
    assert await window(from_date=None, to_date=today + 60 * day) == (None, today + 60 * day)
    assert await window(pin_window=True, to_date=None) == (today - 90 * day, None)
    product.clock.advance(days=30)
    assert await window() == (today - 50 * day, today + 60 * day)
    with pytest.raises(RequestError, match=r"^to_date: .* has passed, .* \(no pin_window\)$"):
        await window(pin_window=True)


# -- a new chain ------------------------------------------------------------------------------------------------------


async def _with_an_old_root(desk: Desk) -> ConsentId:
    """A consent of v1.2 whose id is no UUID, synced once."""
    old = ConsentId("aac-7f3c")
    assert await desk.product.consented(version=Version.V1_2, consent_id=old) == old
    await desk.product.sync(old)
    desk.product.clock.advance(days=1)
    return old


@on_sqlite
async def test_a_root_that_v2_1_does_not_take_is_named_with_the_ways_out(open_product: Opener, bank: Bank) -> None:
    """Nothing is sent; the older version takes it."""
    desk = await bank.opened(open_product, Version.V1_2, Version.V2_1)
    old = await _with_an_old_root(desk)
    for attempt in (desk.renewals.renew(old), _begun(desk, old, Wishes())):
        with pytest.raises(RequestError) as refused:
            await attempt
        assert str(refused.value) == (
            "base_consent_id: aac-7f3c is not a UUID, and v2.1 takes no other; ask on v1.2 (version), or begin a new "
            "chain in the same connection (new_chain)"
        )
    assert len(bank.pushed) == 1

    second = (await desk.renewed(old, version=Version.V1_2)).consent_id
    assert bank.pushed[1]["consent"]["BaseConsentId"] == old
    assert (await desk.consent(second)).version is Version.V1_2


async def _begun(desk: Desk, consent_id: ConsentId, wishes: Wishes) -> Any:
    """A renewal pushed at once, as from a terminal."""
    wanted = await desk.renewals.successor(consent_id, wishes)
    return await desk.product.authorizer.begin(
        wanted.lfi, wanted.request, user_ref=wanted.user_ref, version=wanted.version
    )


async def test_a_new_chain_goes_on_with_the_old_history(open_product: Opener, bank: Bank) -> None:
    """Rows, cursors and grants go on, the old consent is revoked, and the next one names the new root."""
    desk = await bank.opened(open_product, Version.V1_2, Version.V2_1)
    product = desk.product
    old = await _with_an_old_root(desk)
    rows = {(row.resource, row.account_id, row.key): row.first_seen_at for row in await product.rows(old)}
    cursors = set(await product.cursors(old))
    accounts = {key for resource, _, key in rows if resource is ResourceName.ACCOUNTS}

    second = (await desk.renewed(old, new_chain=True)).consent_id
    await desk.tick()
    report = await product.sync(old)

    root, new = await desk.consent(old), await desk.consent(second)
    after = {(row.resource, row.account_id, row.key): row.first_seen_at for row in await product.rows(old)}
    async with product.store.reading() as unit:
        granted = {consent: set(await unit.records.granted(consent)) for consent in (old, second)}
    assert "BaseConsentId" not in bank.pushed[1]["consent"]
    assert (new.connection_id, new.base_consent_id, new.user_ref, new.root) == (old, None, root.user_ref, second)
    assert (root.status, new.status, report.consent_id, report.outcome.value) == (
        "Revoked", "Authorized", second, "ok",
    )  # fmt: skip
    assert await desk.note(SUCCEEDED, second) == {"follows": [old], "revoked": [old]}
    assert {name: after[name] for name in rows} == rows
    assert cursors <= set(await product.cursors(old))
    assert granted == {old: set(), second: accounts}

    product.clock.advance(days=1)
    third = (await desk.renewed(old)).consent_id
    await desk.tick()
    assert bank.pushed[2]["consent"]["BaseConsentId"] == second
    assert ((await desk.consent(third)).connection_id, desk.at_the_bank(old, second, third)) == (
        old, ["Revoked", "Revoked", "Authorized"],
    )  # fmt: skip
    assert (await product.sync(old)).consent_id == third


async def test_the_chains_of_a_connection_are_compared_each_by_its_own_root(open_product: Opener, bank: Bank) -> None:
    """The Hub lists them apart; nothing of either is a stranger to the connection."""
    desk = await bank.opened(open_product, Version.V1_2, Version.V2_1)
    product = desk.product
    old = await _with_an_old_root(desk)
    await desk.renewed(old, new_chain=True)
    product.clock.advance(days=1)
    await desk.renewed(old)
    await desk.tick()

    async def clients(_: Slug) -> LFIClient:
        return product.client

    found = await Reconciling(product.store, clients).connection(old)
    assert (found.consents, found.chains, found.differences, found.unanswered) == (3, 2, (), ())


@on_sqlite
async def test_a_new_chain_begins_only_in_a_connection_of_the_same_user(open_product: Opener, bank: Bank) -> None:
    """Neither another user's nor one that is not there; and a base must belong to the connection it is named with."""
    desk = await bank.opened(open_product, Version.V2_1)
    product = desk.product
    mine, theirs = await product.consented(0), await product.consented(1)
    plain: dict[str, Any] = {
        "permissions": (Permission.ReadAccountsBasic,), "expires_at": product.clock.now() + timedelta(days=9)
    }  # fmt: skip
    wrong: list[tuple[dict[str, Any], str, str]] = [
        ({"connection_id": mine}, "customer-1", "user_ref: is not that of the connection connection_id names"),
        ({"connection_id": ConsentId("none")}, "u", "connection_id: is not the root ConsentId of a connection at"),
        ({"connection_id": mine, "base_consent_id": theirs}, "customer-0", "connection_id: is not the connection base"),
    ]
    for asked, user_ref, says in wrong:
        with pytest.raises(RequestError, match=says):
            await product.authorizer.intend(LFI, ConsentRequest(**plain, **asked), user_ref=user_ref)

"""An account has one name of ours for ever, and an identity that follows its IBAN; both are the tenant's own."""

import asyncio
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from syncworker.errors import SealError
from syncworker.standard.values import ConsentId, read_iban
from syncworker.store.account_references import AccountReference, NamedAccount, fresh_account_id
from syncworker.store.keyring import KeyRing
from syncworker.store.tables import tenant_key
from syncworker.store.tenant_keys import Purpose
from syncworker.store.unit_of_work import Store, UnitOfWork
from tests.ground.clock import ManualClock

pytestmark = pytest.mark.store

C1, C2 = ConsentId("c1"), ConsentId("c2")
IBAN, OTHER = "AE070331234567890123456", "AE460090000000123456789"
OLD, BOTH = KeyRing({"k1": b"1" * 32}), KeyRing({"k2": b"2" * 32, "k1": b"1" * 32})
NEW = KeyRing({"k2": b"2" * 32})


async def keep(store: Store, *accounts: NamedAccount) -> None:
    async def step(unit: UnitOfWork) -> None:
        await unit.account_references.keep(accounts, at=await unit.now())

    await store.atomically(step)


async def all_of(store: Store, *connections: ConsentId) -> list[AccountReference]:
    async with store.reading() as unit:
        return await unit.account_references.of_connections(connections or (C1, C2))


async def identity_key(store: Store) -> bytes:
    return await store.atomically(lambda unit: unit.tenant_keys.key(Purpose.IDENTITY))


async def test_a_reference_stays_and_its_identity_follows_the_iban(store: Store, clock: ManualClock) -> None:
    """Kept again it has the same id and instant; another IBAN is another identity, none is none."""
    seen = []
    for iban in (IBAN, IBAN, OTHER, None, IBAN):
        await keep(store, NamedAccount(C1, "a", iban))
        seen += await all_of(store)
        clock.advance(days=1)

    assert {(one.account_id, one.lfi_account_id, one.created_at) for one in seen} == {
        (seen[0].account_id, "a", seen[0].created_at)
    }
    first, same, other, none, again = [one.identity for one in seen]
    assert (first, first, None) == (same, again, none)
    assert other not in {first, None}


async def test_one_account_is_known_again_through_every_connection(store: Store) -> None:
    """Two joint holders at one LFI, each with a connection: two references, one identity."""
    accounts = [NamedAccount(C1, "a", IBAN), NamedAccount(C2, "b", IBAN), NamedAccount(C2, "c", OTHER)]
    await keep(store, *accounts, NamedAccount(C1, "z", None))
    mine, without, theirs, another = await all_of(store)
    async with store.reading() as unit:
        same = await unit.account_references.with_identities([mine.identity or ""])
        found = await unit.account_references.get([another.account_id, "acc_unknown"])
        by_lfi = await unit.account_references.of_lfi(C2, "b")
        unknown = await unit.account_references.of_lfi(C1, "b")

    assert (same, found, by_lfi, unknown) == ([mine, theirs], {another.account_id: another}, theirs, None)
    assert without.identity is None
    assert len({one.account_id for one in (mine, without, theirs, another)}) == 4


async def test_tenants_share_no_identity(store: Store, database_url: str, open_store: Callable[..., Store]) -> None:
    """The same IBAN under the same ids."""
    stores = [store, open_store(database_url, tenant="other")]
    for one in stores:
        await keep(one, NamedAccount(C1, "a", IBAN))
    (ours,), (theirs,) = [await all_of(one) for one in stores]

    assert ours.identity != theirs.identity
    assert ours.account_id != theirs.account_id


async def test_the_key_survives_another_ring(database_url: str, open_store: Callable[..., Store]) -> None:
    """Sealed anew with the newest key, it is the same key, and opens without the old one; before, it does not."""
    first, both, new = (open_store(database_url, keyring=ring) for ring in (OLD, BOTH, NEW))
    made = await identity_key(first)
    with pytest.raises(SealError, match="put its line back"):
        await identity_key(new)
    resealed = [await both.atomically(lambda unit: unit.tenant_keys.reseal()) for _ in range(2)]

    assert (resealed, await identity_key(both), await identity_key(new)) == ([1, 0], made, made)


async def test_processes_that_make_the_key_at_once_make_one(
    database_url: str, open_store: Callable[..., Store]
) -> None:
    """Four of them; all end with the same."""
    stores = [open_store(database_url) for _ in range(4)]
    made = await asyncio.gather(*(identity_key(one) for one in stores))

    assert len(set(made)) == 1
    assert len(made[0]) == 32


async def test_a_key_that_was_never_committed_is_not_used(store: Store) -> None:
    """The transaction that made it is undone: the next one makes another, which is the one kept."""
    async with store.writing() as unit:
        undone = await unit.tenant_keys.key(Purpose.IDENTITY)
        assert await unit.tenant_keys.key(Purpose.IDENTITY) == undone
    made = await identity_key(store)
    async with store.reading() as unit:
        rows = await unit.connection.scalar(sa.select(sa.func.count()).select_from(tenant_key))

    assert (made != undone, rows, await identity_key(store)) == (True, 1, made)


async def test_neither_iban_nor_identity_is_shown(store: Store) -> None:
    """In no repr; the IBAN in no column either."""
    account = NamedAccount(C1, "a", IBAN)
    await keep(store, account)
    (held,) = await all_of(store)
    async with store.reading() as unit:
        row = (await unit.connection.exec_driver_sql("SELECT * FROM account_reference")).one()

    assert IBAN not in f"{account!r} {held!r} {row!r}"
    assert held.identity is not None
    assert held.identity not in repr(held)


def test_ids_of_accounts_are_random_letters_and_digits() -> None:
    """No two of many are the same."""
    made = {fresh_account_id() for _ in range(1_000)}

    assert len(made) == 1_000
    assert {(len(one), one[:4], one[4:].isalnum(), one.isascii()) for one in made} == {(24, "acc_", True, True)}


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (IBAN, IBAN),
        ("ae07 0331 2345 6789 0123 456", IBAN),
        ("\tAE07 0331\u00a02345 6789 0123 456 ", IBAN),
        ("GB29NWBK60161331926819", "GB29NWBK60161331926819"),
        ("AE07XXXXXXXXXXXXXXX3456", None),
        ("AE07***************3456", None),
        ("1015234567890", None),
        ("", None),
        (None, None),
        (70331234567890123456, None),
        (["AE070331234567890123456"], None),
        ("AE07\x00331234567890123456", None),
        ("\ud800", None),
    ],
)
def test_an_iban_is_read_in_whatever_way_it_is_written(sent: object, read: str | None) -> None:
    """Spaces and case do not count; what several accounts may share is no IBAN."""
    assert read_iban(sent) == read

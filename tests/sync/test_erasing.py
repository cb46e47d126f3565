"""What a consent brought is destroyed when it must go, of its connection alone, and the proof of it stays."""

from datetime import timedelta

import pytest

from syncworker.consents import erasing
from syncworker.consents.polling import Cadence, Polling
from syncworker.consents.revoking import Revoking
from syncworker.errors import RequestError
from syncworker.standard.values import ConsentId
from syncworker.store.erasure import DataClass
from syncworker.store.work import Claim, WorkKind
from tests.sync.house import LFI, Product

pytestmark = pytest.mark.flow

DAY = timedelta(days=1)


async def held(product: Product, connection_id: ConsentId) -> tuple[int, int]:
    """Rows of parties, and of everything else."""
    async with product.store.reading() as unit:
        counts = [await unit.erasure.count(connection_id, of=kind) for kind in (DataClass.PERSONAL, DataClass.DATA)]
    return sum(counts[0].values()), sum(counts[1].values())


async def test_erased_is_what_the_count_said_and_nobody_elses(product: Product) -> None:
    """A living consent protects its data; of an ended one everything goes, counted, and its neighbour keeps all."""
    ended, living = await product.consented(0), await product.consented(1)
    await product.sync_all(ended, living)
    product.bank.bank.revoke(ended)
    await product.lifecycle.ask(ended)
    before = await held(product, living)

    async with product.store.writing() as unit:
        with pytest.raises(RequestError, match="is Authorized; revoke it first"):
            await erasing.erasable(unit, living)
        connection_id = await erasing.erasable(unit, ended)
        said = await unit.erasure.count(connection_id)
        done = await erasing.erase(unit, connection_id)
        await unit.commit()
    async with product.store.reading() as unit:
        (proof,) = await unit.consents.notes(what=erasing.ERASED)
        consent = await unit.consents.get(ended)

    assert said == done
    assert {"account", "balance", "transaction", "party", "cursor", "change"} <= done.keys()
    assert (proof["subject"], proof["facts"]) == (ended, {"rows": done, "class": "all"})
    assert consent is not None
    assert (consent.status, await held(product, ended), await held(product, living)) == ("Revoked", (0, 0), before)


async def test_each_class_of_data_goes_at_its_own_time(product: Product) -> None:
    """Personal data after ten days, the rest after thirty; a second look destroys nothing more."""
    consent_id = await product.consented()
    await product.sync(consent_id)
    polling = Polling(
        product.store,
        product.lifecycle,
        Revoking(product.store, product.clients, product.lifecycle),
        cadence=Cadence(),
        retention={DataClass.PERSONAL: 10 * DAY, DataClass.DATA: 30 * DAY},
    )
    product.bank.bank.revoke(consent_id)
    await product.lifecycle.ask(consent_id)
    ended_at = product.clock.now()
    full = await held(product, consent_id)
    seen = []
    for _ in range(4):
        due, _ = await polling.look(Claim(1, WorkKind.CONSENT, consent_id, LFI, 1))
        personal, data = await held(product, consent_id)
        seen.append((due and due - ended_at, personal == 0, data == 0))
        product.clock.advance(days=10)

    assert min(full) > 0
    assert seen == [
        (10 * DAY, False, False),
        (30 * DAY, True, False),
        (30 * DAY, True, False),
        (None, True, True),
    ]

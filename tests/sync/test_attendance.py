"""Nobody is present in the background: no call of ours says that a customer is."""

import ast
from datetime import timedelta
from pathlib import Path

import pytest

import syncworker
from syncworker.standard.values import ConsentId
from syncworker.store.work import WorkKind
from tests.sync.house import LFI, Product

pytestmark = pytest.mark.flow

BACKGROUND = (
    "accounts",
    "balances",
    "transactions",
    "beneficiaries",
    "direct_debits",
    "standing_orders",
    "scheduled_payments",
    "statements",
    "product",
    "account_parties",
    "parties",
    "consent",
    "consents",
    "par",
    "token.authorization_code",
    "token.client_credentials",
    "token.refresh_token",
    "discovery",
    "jwks",
)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_no_background_path_says_that_the_customer_is_present(product: Product) -> None:
    """Trap 13, at the bank's log of every host: authorising, syncing, refreshing, asking the Hub, trying again.

    A page costs more, or breaks a rule of the standard, when it is declared as attended.
    """
    connection = await product.consented()
    product.bank.bank.answers(500, times=1, operation="transactions")
    await product.sync(connection)
    product.clock.advance(seconds=700)  # past the access token
    product.bank.bank.answers(401, times=1, operation="balances")
    await product.sync(connection)
    await _scheduled_refresh(product, connection)
    await product.lifecycle.ask(connection)
    await product.client.consents_of_base(connection, calls=lambda _: None)

    served = product.bank.bank.log.served()
    assert set(BACKGROUND) <= {entry.operation for entry in served}
    assert [entry.operation for entry in served if entry.attended] == []


async def _scheduled_refresh(product: Product, connection: ConsentId) -> None:
    async with product.store.writing() as unit:
        await unit.work.schedule(WorkKind.TOKEN, connection, lfi=LFI, due_at=await unit.now() - timedelta(seconds=1))
        claims = await unit.work.claim(WorkKind.TOKEN, slots={LFI: 10})
        await unit.commit()
    report = await product.vault.token_batch([(claim.id, claim.gen) for claim in claims])
    assert sum(report.outcomes.values()) == 1


def test_only_a_caller_with_a_customer_present_could_say_so() -> None:
    """`Attendance` is made in one place: where a run that serves a refresh opens what its customer's session said."""
    package = Path(syncworker.__file__).parent
    makers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "Attendance"
    }

    assert makers == {"sync/engine.py"}

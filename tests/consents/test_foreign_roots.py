"""`BaseConsentId` joins a consent to a chain: only to one of the same customer, at the same LFI, of the same tenant.

A consent that joined another customer's chain would file one customer's accounts among the other's.  So each door by
which a consent comes in looks at the root it names: a new authorisation, a renewal, an intent when it is written and
when it is opened, an imported line, and what the Hub sends along.
"""

import io
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from syncworker.consents.authorize import Authorizer
from syncworker.consents.import_file import KnownLFI, numbered
from syncworker.consents.importing import Importer
from syncworker.consents.lifecycle import noted
from syncworker.consents.reconciling import Reconciling
from syncworker.consents.renewal import Renewals
from syncworker.consents.tokens import Outcome
from syncworker.errors import RequestError, StandardViolationError
from syncworker.lfi.api import LFIClient
from syncworker.standard.consents import ConsentView
from syncworker.standard.permissions import Permission
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store.tables import authorization_intent, connection
from syncworker.store.unit_of_work import Store
from tests.consents.house import LFI, House, request, token_due
from tests.consents.test_importing import file_of, member_values, spread
from tests.ground.clock import ManualClock

OTHER = Slug("other")
OURS, THEIRS = "customer-0", "customer-1"


async def filed(store: Store) -> Any:
    """Every connection and consent, and how many intents."""
    async with store.reading() as unit:
        intents = await unit.connection.scalar(sa.select(sa.func.count()).select_from(authorization_intent))
        return list(await unit.consents.connections()), list(await unit.consents.find()), intents


def pushed(house: House) -> int:
    return house.bank.bank.log.counters["par 200"]


async def desk(house: House, store: Store) -> tuple[Authorizer, Renewals]:
    """Authorisations and renewals of another process, on any store."""
    client = await house.client()

    async def clients(_: Slug) -> LFIClient:
        return client

    authorizer = Authorizer(store, clients, house.clock, token_due=token_due)
    return authorizer, Renewals(store, clients, authorizer)


# -- authorising and renewing -----------------------------------------------------------------------------------------


@pytest.mark.flow
@pytest.mark.parametrize("door", ["begin", "intend"])
@pytest.mark.parametrize(
    ("lfi", "user_ref", "field"),
    [
        pytest.param(LFI, THEIRS, "user_ref", id="of another customer"),
        pytest.param(OTHER, OURS, "base_consent_id", id="at another LFI"),
        pytest.param(OTHER, None, "base_consent_id", id="at another LFI, no customer named"),
    ],
)
async def test_a_root_that_is_not_the_customers_is_refused(
    house: House, door: str, lfi: Slug, user_ref: str | None, field: str
) -> None:
    """By the field that is wrong; nothing is written, and the bank hears nothing."""
    root = (await house.consented(user=0)).consent_id
    authorizer, _ = await desk(house, house.store)
    before = await filed(house.store), pushed(house)

    with pytest.raises(RequestError, match=rf"^{field}: is not "):
        await getattr(authorizer, door)(lfi, request(house.clock, base_consent_id=root), user_ref=user_ref)

    assert (await filed(house.store), pushed(house)) == before


@pytest.mark.flow
@pytest.mark.parametrize("door", ["begin", "intend"])
async def test_a_successor_is_no_root(house: House, door: str) -> None:
    """The second consent of a chain is held, and names a root of its own: it may not be named as one."""
    root = (await house.consented(user=0)).consent_id
    house.clock.advance(minutes=1)
    second = (await house.consented(user=0, base_consent_id=root)).consent_id
    authorizer, _ = await desk(house, house.store)

    with pytest.raises(RequestError, match=r"^base_consent_id: is not the root ConsentId "):
        await getattr(authorizer, door)(LFI, request(house.clock, base_consent_id=second), user_ref=OURS)


@pytest.mark.flow
@pytest.mark.parametrize("door", ["begin", "intend"])
async def test_a_root_of_another_tenant_is_refused(
    house: House, door: str, open_store: Callable[..., Store], database_url: str
) -> None:
    """Though customer and LFI have the same names there."""
    root = (await house.consented(user=0)).consent_id
    elsewhere = open_store(database_url, tenant="another")
    authorizer, renewals = await desk(house, elsewhere)

    with pytest.raises(RequestError, match=r"^base_consent_id: is not the root ConsentId "):
        await getattr(authorizer, door)(LFI, request(house.clock, base_consent_id=root), user_ref=OURS)
    with pytest.raises(RequestError, match=r"^consent_id: no consent of that id is held$"):
        await renewals.renew(root)

    assert await filed(elsewhere) == ([], [], 0)


@pytest.mark.flow
async def test_an_intent_looks_at_its_root_again_when_it_is_opened(house: House) -> None:
    """A link may wait a day: a root that belongs to another customer by then is refused, and the bank hears nothing."""
    root = (await house.consented(user=0)).consent_id
    authorizer, renewals = await desk(house, house.store)
    intended = await renewals.renew(root)
    async with house.store.writing() as unit:
        await unit.connection.execute(
            sa.update(connection).where(connection.c.connection_id == root).values(user_ref=THEIRS)
        )
        await unit.commit()
    before = pushed(house)

    with pytest.raises(RequestError, match=r"^user_ref: is not that of the connection base_consent_id names$"):
        await authorizer.open(intended.intent_id)

    assert (intended.user_ref, pushed(house)) == (OURS, before)


@pytest.mark.flow
async def test_a_renewal_asks_the_connections_own_customer(house: House) -> None:
    """By whichever consent of the chain it is named, and beside another customer's chain at the same LFI."""
    root = (await house.consented(user=0)).consent_id
    await house.consented(user=1)
    house.clock.advance(minutes=1)
    second = (await house.consented(user=0, base_consent_id=root)).consent_id
    _, renewals = await desk(house, house.store)

    wanted = [await renewals.successor(one) for one in (root, second)]

    assert [(one.user_ref, one.connection_id, one.request.base_consent_id) for one in wanted] == [
        (OURS, root, root)
    ] * 2


# -- what the Hub sends along -----------------------------------------------------------------------------------------


def shows(house: House, consent_id: ConsentId, **members: Any) -> None:
    """Let the bank show a consent with other members than it was asked for with."""
    kept = house.bank.bank.consents.get(consent_id)
    kept.asked = {**kept.asked, **members}


@pytest.mark.flow
async def test_what_the_hub_sends_along_joins_no_chain(house: House) -> None:
    """A token answer, a refresh and a look that name another customer's root: the consent stays where it was asked for.

    The difference is for the comparison with the Hub to report.
    """
    theirs = (await house.consented(user=1)).consent_id
    authorizer = await house.authorizer()
    started = await authorizer.begin(LFI, request(house.clock), user_ref=OURS)
    redirect = await house.bank.approve(started.url, user=house.bank.users[0])
    shows(house, started.consent_id, BaseConsentId=theirs)

    completed = await authorizer.complete(redirect)
    outcome = await (await house.vault()).refresh(started.consent_id, reason="asked")
    looked = await (await house.lifecycle()).ask(started.consent_id)

    connections, _, _ = await filed(house.store)
    assert (completed.connection_id, outcome) == (started.consent_id, Outcome.ROTATED)
    assert (looked.connection_id, looked.base_consent_id, looked.user_ref) == (started.consent_id, None, OURS)
    assert {(one.connection_id, one.user_ref) for one in connections} == {(started.consent_id, OURS), (theirs, THEIRS)}


@pytest.mark.flow
@pytest.mark.parametrize("answer", ["exchange", "refresh", "look"])
async def test_an_answer_about_another_consent_is_not_filed(house: House, answer: str) -> None:
    """A bank that sends another customer's ConsentId along: the tokens are kept, that consent stays as it was."""
    theirs = (await house.consented(user=1)).consent_id
    before = await house.consent(theirs)
    asked = request(house.clock, permissions=(Permission.ReadAccountsDetail,))
    authorizer = await house.authorizer()
    started = await authorizer.begin(LFI, asked, user_ref=OURS)
    redirect = await house.bank.approve(started.url, user=house.bank.users[0])
    house.clock.advance(seconds=5)
    if answer == "exchange":
        shows(house, started.consent_id, ConsentId=theirs)
        with pytest.raises(StandardViolationError, match="about another consent"):
            await (await house.client()).read_consent(started.consent_id, calls=lambda _: None)
    await authorizer.complete(redirect)
    if answer == "refresh":
        shows(house, started.consent_id, ConsentId=theirs, Permissions=["ReadAccountsBasic"])
        assert await (await house.vault()).refresh(started.consent_id, reason="asked") is Outcome.ROTATED
    if answer == "look":
        shows(house, started.consent_id, ConsentId=theirs)
        with pytest.raises(StandardViolationError, match="about another consent"):
            await (await house.lifecycle()).ask(started.consent_id)

    assert await house.consent(theirs) == before
    assert await house.stored_is_current(started.consent_id)


@pytest.mark.flow
async def test_a_listed_chain_that_holds_another_customers_consent_is_not_followed(house: House) -> None:
    """The Hub's list of a chain names another root: the answer is a violation of the standard, and nothing is filed."""
    theirs = (await house.consented(user=1)).consent_id
    root = (await house.consented(user=0)).consent_id
    house.clock.advance(minutes=1)
    second = (await house.consented(user=0, base_consent_id=root)).consent_id
    shows(house, second, BaseConsentId=theirs)
    client = await house.client()

    async def clients(_: Slug) -> LFIClient:
        return client

    found = await Reconciling(house.store, clients).every()

    connections, consents, _ = await filed(house.store)
    assert [(one.subject, type(one.error)) for one in found.unanswered] == [(root, StandardViolationError)]
    assert {(one.connection_id, one.user_ref) for one in connections} == {(root, OURS), (theirs, THEIRS)}
    assert {one.consent_id: one.connection_id for one in consents} == {theirs: theirs, root: root, second: root}


@pytest.mark.store
async def test_a_view_of_a_consent_that_is_not_held_files_nothing(store: Store, clock: ManualClock) -> None:
    """Whatever root it names: only an authorisation of ours, or a person with a file, brings a consent in."""
    view = ConsentView(consent_id=ConsentId("stray"), status="Authorized", base_consent_id=ConsentId("root"))

    moved = await store.atomically(lambda unit: noted(unit, view, at=clock.now()))

    assert (moved, await filed(store)) == (None, ([], [], 0))


# -- importing --------------------------------------------------------------------------------------------------------


def both(slug: Slug) -> KnownLFI:
    """Two LFIs, declared alike."""
    assert slug in {LFI, OTHER}
    return KnownLFI(versions=frozenset({Version.V2_1}), certificate="thumbprint")


async def taken(store: Store, *lines: dict[str, Any], batch: int) -> dict[int, str]:
    """Import lines; the refused ones with their reasons."""
    refused: dict[int, str] = {}
    importer = Importer(store, both, sync_due=spread, token_due=token_due, batch=batch)
    await importer.take(numbered(io.BytesIO(file_of(*lines))), refused=refused.__setitem__)
    return refused


NOT_HELD_SO = "not as we hold it; nothing was changed"
NO_ROOT = "BaseConsentId: names a successor; give the root ConsentId of its chain"
HAS_SUCCESSORS = "BaseConsentId: other consents are held with this ConsentId as their root"


@pytest.mark.store
@pytest.mark.parametrize("batch", [1, 10], ids=["a transaction each", "one transaction"])
@pytest.mark.parametrize(
    ("members", "reason"),
    [
        pytest.param({"BaseConsentId": "root", "user_ref": THEIRS}, f"user_ref: {NOT_HELD_SO}", id="another customer"),
        pytest.param({"BaseConsentId": "root", "lfi": OTHER}, f"lfi: {NOT_HELD_SO}", id="another LFI"),
        pytest.param(
            {"BaseConsentId": "root", "lfi": OTHER, "user_ref": THEIRS}, f"lfi, user_ref: {NOT_HELD_SO}", id="both"
        ),
        pytest.param({"BaseConsentId": "second", "user_ref": THEIRS}, NO_ROOT, id="a successor of another customer"),
        pytest.param({"BaseConsentId": "second", "user_ref": OURS}, NO_ROOT, id="a successor of the same customer"),
        pytest.param({"BaseConsentId": "second"}, NO_ROOT, id="a successor, no customer named"),
    ],
)
async def test_a_line_joins_no_chain_that_is_not_its_customers(
    store: Store, clock: ManualClock, batch: int, members: dict[str, Any], reason: str
) -> None:
    """Whether the chain is held already or came with the same file; the lines beside it go in."""
    refused = await taken(
        store,
        member_values(clock, "root", user_ref=OURS),
        member_values(clock, "second", BaseConsentId="root"),
        member_values(clock, "stray", **members),
        member_values(clock, "third", BaseConsentId="root", user_ref=OURS),
        batch=batch,
    )

    connections, consents, _ = await filed(store)
    assert refused == {3: reason}
    assert [(one.connection_id, one.lfi, one.user_ref) for one in connections] == [("root", LFI, OURS)]
    assert sorted((one.consent_id, one.connection_id) for one in consents) == [
        ("root", "root"),
        ("second", "root"),
        ("third", "root"),
    ]


@pytest.mark.store
@pytest.mark.parametrize("batch", [1, 10], ids=["a transaction each", "one transaction"])
async def test_a_root_that_turns_out_to_be_a_successor_is_refused(store: Store, clock: ManualClock, batch: int) -> None:
    """The order of the lines does not matter: what others name as their root has no root of its own."""
    refused = await taken(
        store,
        member_values(clock, "stray", BaseConsentId="second", user_ref=THEIRS),
        member_values(clock, "root", user_ref=OURS),
        member_values(clock, "second", BaseConsentId="root", user_ref=OURS),
        batch=batch,
    )

    assert refused == {3: HAS_SUCCESSORS}


@pytest.mark.store
async def test_a_line_does_not_reach_into_another_tenant(
    store: Store, open_store: Callable[..., Store], database_url: str, clock: ManualClock
) -> None:
    """A root of the same id there is another chain: neither tenant's rows change by the other's import."""
    elsewhere = open_store(database_url, tenant="another")
    await taken(elsewhere, member_values(clock, "root", user_ref=THEIRS), batch=10)
    before = await filed(elsewhere)

    refused = await taken(store, member_values(clock, "next", BaseConsentId="root", user_ref=OURS), batch=10)

    connections, _, _ = await filed(store)
    assert (refused, [(one.connection_id, one.user_ref) for one in connections]) == ({}, [("root", OURS)])
    assert await filed(elsewhere) == before

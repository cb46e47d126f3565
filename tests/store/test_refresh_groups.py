"""What refreshes that meet do in one transaction is what each would do alone, on every way a statement may take."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from syncworker.errors import SealError
from syncworker.standard.consents import ConsentView
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store.consents import Connection, StoredConsent
from syncworker.store.keyring import KeyRing
from syncworker.store.situations import before_call, before_calls, before_swaps
from syncworker.store.tables import token
from syncworker.store.tokens import Beginning, NewToken, StoredToken
from syncworker.store.unit_of_work import Store
from syncworker.store.work import End, WorkKind
from tests.ground.clock import ManualClock

pytestmark = pytest.mark.store

LFI = Slug("bank")
LEASE = timedelta(seconds=120)
A, B, C, D = (ConsentId(f"consent-{name}") for name in "abcd")


def answer(name: str, at: datetime, *, rotates: bool = True) -> NewToken:
    return NewToken(
        access_token=SecretStr(f"access {name}"),
        refresh_token=SecretStr(f"refresh {name}") if rotates else None,
        issued_at=at,
        expires_at=at + timedelta(seconds=600),
        certificate="x",
    )


@pytest.fixture(params=["sqlite", "postgresql by SQLAlchemy", "postgresql by its driver"])
async def store(request: pytest.FixtureRequest, keyring: KeyRing) -> AsyncIterator[Store]:
    """Three consents with tokens, by each way: a test's clock keeps statements from the driver."""
    url = request.getfixturevalue(f"{request.param.split()[0]}_url")
    store = Store(url, keyring=keyring, clock=None if "driver" in request.param else ManualClock())
    async with store.writing() as unit:
        now = await unit.now()
        for one in (A, B, C):
            await unit.consents.add_connection(Connection(connection_id=one, lfi=LFI, user_ref="user", created_at=now))
            await unit.consents.add(
                StoredConsent(
                    consent_id=one, connection_id=one, lfi=LFI, user_ref="user", version=Version.V2_1,
                    status="Authorized", status_updated_at=now, status_seen_at=now, permissions=("ReadBalances",),
                    expires_at=now + timedelta(days=90), user_type="Retail", purpose="AccountAggregation",
                    created_at=now, raw={"ConsentId": one},
                )
            )  # fmt: skip
            await unit.tokens.put_first(one, answer(f"first {one}", now))
        await unit.commit()
    yield store
    await store.close()


async def held(store: Store, *those: ConsentId) -> list[StoredToken]:
    async with store.reading() as unit:
        found = await unit.tokens.read_many(those)
    return [found[one] for one in those]


async def broken(store: Store, consent_id: ConsentId) -> None:
    async with store.writing() as unit:
        condition = token.c.consent_id == consent_id
        await unit.connection.execute(sa.update(token).where(condition).values(access_token=b"\x01nothing sealed"))
        await unit.commit()


async def test_a_group_begins_as_each_alone(store: Store) -> None:
    """Lease and intent for each whose version holds and that nobody is at; the others are told, in their places."""
    async with store.writing() as unit:
        assert await unit.tokens.begin(B, version=1, holder="another", lease=LEASE) is not None
        await unit.commit()
    wanted = [Beginning(D, 1, LEASE), Beginning(C, 1, LEASE), Beginning(B, 1, LEASE), Beginning(A, 7, LEASE)]
    before = await held(store, A, B, C)

    begun = await store.atomically(lambda unit: unit.tokens.begin_many(wanted, holder="me"))

    after = await held(store, A, B, C)
    mine = after[2]
    assert begun == [None, before[2], None, None]
    assert (after[:2], mine.holder, mine.intent_version, mine.attempts) == (before[:2], "me", 1, 1)
    assert mine.lease_until is not None
    assert mine.intent_at is not None
    assert mine.lease_until - mine.intent_at == LEASE


async def test_a_seal_that_does_not_open_keeps_nobody_else_from_beginning(store: Store) -> None:
    """It is told to whom it concerns, and nothing is written for it: nothing will be sent."""
    await broken(store, B)

    begun = await store.atomically(
        lambda unit: unit.tokens.begin_many([Beginning(one, 1, LEASE) for one in (A, B, C)], holder="me")
    )

    async with store.reading() as unit:
        intents = (await unit.connection.execute(sa.select(token.c.attempts).order_by(token.c.consent_id))).scalars()
        assert list(intents) == [1, 0, 1]
    assert [type(one) for one in begun] == [StoredToken, SealError, StoredToken]


async def test_looks_at_many_say_what_looks_at_each_say(store: Store) -> None:
    """But for a token that does not open, which is left out."""
    await broken(store, B)
    async with store.looking() as unit:
        found = await before_calls(unit, [A, B, C, D])
        alone = {one: await before_call(unit, one) for one in (A, C, D)}

    assert {one: look[:2] for one, look in found.items()} == {one: look[:2] for one, look in alone.items()}


async def test_a_group_of_answers_is_stored_as_each_alone(store: Store) -> None:
    """The lease ends with the version it was for, whichever process holds it; an answer without a refresh token keeps
    the old one.
    """
    async with store.writing() as unit:
        for one, holder in ((A, "me"), (B, "another")):
            await unit.tokens.begin(one, version=1, holder=holder, lease=LEASE)
        now = await unit.now()
        await unit.commit()
    new = [(A, 1, answer("a", now)), (B, 1, answer("b", now, rotates=False)), (C, 1, answer("c", now))]
    before = await held(store, A, B, C)

    async with store.writing() as unit:
        found = await before_swaps(unit, [A, B, C, D])
        unit.tokens.swap_locked(new)
        await unit.commit()

    after = await held(store, A, B, C)
    assert (sorted(found.consents), found.versions) == ([A, B, C], {A: (1, "me"), B: (1, "another"), C: (1, None)})
    assert [(one.holder, one.lease_until) for one in after] == [(None, None)] * 3
    free = [one.swapped(answered) for one, (_, _, answered) in zip(before, new, strict=True)]
    assert [after[0], after[2]] == [free[0], free[2]]
    assert (after[1].refresh_token, after[1].version, after[1].in_doubt) == (before[1].refresh_token, 2, False)


async def test_a_swap_compares_the_version_in_a_group_too(store: Store) -> None:
    """One whose version moved is left as it is; a group in which no answer brought a refresh token keeps them all."""
    before = await held(store, A, B)
    async with store.writing() as unit:
        new = answer("new", await unit.now(), rotates=False)
        unit.tokens.swap_locked([(A, 7, new), (B, 1, new)])
        await unit.commit()

    assert await held(store, A, B) == [before[0], before[1].swapped(new)]


async def test_due_times_and_ends_of_many_are_as_of_each(store: Store) -> None:
    """A row is made where there is none; a claim that was given back meanwhile is not ended."""
    async with store.writing() as unit:
        now = await unit.now()
        for one in (A, B):
            await unit.work.schedule(WorkKind.TOKEN, one, lfi=LFI, due_at=now)
        await unit.commit()
    async with store.writing() as unit:
        claims = await unit.work.claim(WorkKind.TOKEN, slots={LFI: 9})
        await unit.commit()
    taken = await store.atomically(
        lambda unit: unit.work.take_many([*((claim.id, claim.gen) for claim in reversed(claims)), (claims[0].id, 99)])
    )
    back = next(claim for claim in taken if claim.subject == B)
    later = now + timedelta(minutes=7)

    async with store.writing() as unit:
        await unit.work.give_back([back])
        ends = [End(claim=claim, due_at=later, outcome="rotated", good=True) for claim in taken]
        dues = [(one, LFI, later) for one in (C, B, A)]
        unit.with_commit([unit.work.scheduling(WorkKind.TOKEN, dues), unit.work.finishing(ends)])
        await unit.commit()

    async with store.reading() as unit:
        rows = [await unit.work.find(WorkKind.TOKEN, one) for one in (A, B, C)]
    assert [claim.subject for claim in taken] == [claim.subject for claim in reversed(claims)]
    assert [row and (row.due_at, row.last_outcome, row.lease_until) for row in rows] == [
        (later, "rotated", None),
        (later, None, None),
        (later, None, None),
    ]


@pytest.mark.parametrize(
    ("change", "again"),
    [
        pytest.param({}, True, id="the same"),
        pytest.param({"raw": {"Odd": "\x00"}}, True, id="other words, among them what no database takes"),
        pytest.param({"status": "Suspended"}, False, id="another status"),
        pytest.param({"permissions": ("ReadParty",)}, False, id="other permissions"),
        pytest.param({"expires_at": datetime.fromisoformat("2027-01-01T00:00:00Z")}, False, id="another end"),
        pytest.param({"revoked_by": "LFI"}, False, id="somebody revoked it"),
        pytest.param({"webhook_active": True}, False, id="its events switched on"),
        pytest.param({"status_updated_at": datetime.fromisoformat("2020-01-01T00:00:00Z")}, False, id="an older view"),
    ],
)
async def test_a_view_that_shows_nothing_new_is_filed_as_any_other(
    store: Store, change: dict[str, object], again: bool
) -> None:
    """What the quick way takes it files as `observe` does; the rest it leaves alone."""
    shown: dict[str, object] = {"status": "Authorized", "status_updated_at": None, "permissions": ("ReadBalances",)}
    views = {one: ConsentView(consent_id=one, **{"raw": {"Seen": "now"}} | shown | change) for one in (A, B)}  # type: ignore[arg-type]
    async with store.writing() as unit:
        at = await unit.now()
        before = await unit.consents.get(A, lock=True)
        assert before is not None
        taken = unit.consents.seen_again(before, views[A], at=at)
        await unit.consents.observe(views[B], at=at)
        await unit.commit()

    async with store.reading() as unit:
        quick, observed = [await unit.consents.get(one) for one in (A, B)]
    assert observed is not None
    expected = replace(observed, consent_id=A, connection_id=A) if again else before
    assert (taken, quick) == (again, expected)

"""What needs no LFI is done by the clock, whoever may be called and whether or not anything wakes it."""

from datetime import timedelta

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from syncworker.consents.authorize import AGE_MAX
from syncworker.consents.erasing import ERASED
from syncworker.consents.sweeping import AUTHORIZATIONS_KEPT, EVERY, Sweeping
from syncworker.standard.consents import ConsentRequest
from syncworker.standard.openings import OpeningState, OpeningVersion
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store.authorizations import StoredAuthorization, StoredIntent
from syncworker.store.erasure import DataClass
from syncworker.store.openings import StoredOpening
from syncworker.store.tables import authorization, balance_history
from syncworker.store.unit_of_work import Store
from syncworker.store.work import WorkKind
from tests.consents.hub import LFI, Hub, filed
from tests.ground.clock import ManualClock

pytestmark = pytest.mark.store

DAY = timedelta(days=1)
KEEP = {DataClass.DATA: None, DataClass.PERSONAL: None}


def sweeping(store: Store, **days: int) -> Sweeping:
    """With these retentions: `data` and `personal`, in days."""
    retention = KEEP | {DataClass(kind): timedelta(days=stays) for kind, stays in days.items()}
    return Sweeping(store, retention=retention, openings_followed_for=90 * DAY)


async def data_of(store: Store, clock: ManualClock, consent_id: ConsentId) -> None:
    """A row of data of a connection."""
    async with store.writing() as unit:
        await unit.connection.execute(
            sa.insert(balance_history).values(
                tenant=unit.tenant,
                connection_id=consent_id,
                account_id="a",
                key="k",
                date_time=clock.now(),
                seen_at=clock.now(),
                gen=1,
            )
        )
        await unit.commit()


async def rows(store: Store, consent_id: ConsentId) -> tuple[int, int]:
    """Rows of data, and how often it was written down that some were destroyed."""
    async with store.reading() as unit:
        count = await unit.erasure.count(consent_id)
        notes = await unit.consents.notes(subject=consent_id, what=ERASED)
    return sum(count.values()), len(notes)


async def test_a_consent_past_its_end_is_ended_for_an_lfi_nobody_may_call(store: Store, clock: ManualClock) -> None:
    """No claim comes for it; its tokens go all the same, and so does one revoked here and never decided about."""
    hub = Hub(clock)
    consent_id = await filed(store, hub, "one")
    undecided = await filed(store, hub, "two", status="AwaitingAuthorization")
    waits = await filed(store, hub, "three", status="AwaitingAuthorization")
    async with store.writing() as unit:
        await unit.consents.order_revocation(undecided, by="TPP", at=clock.now())
        await unit.commit()
    clock.advance(days=90)

    await sweeping(store).look()

    async with store.reading() as unit:
        held = await unit.consents.get_many([consent_id, undecided, waits])
        tokens = await unit.tokens.exists(consent_id)
    assert ([held[one].status for one in (consent_id, undecided, waits)], tokens, hub.asked) == (
        ["Expired", "Expired", "AwaitingAuthorization"],
        False,
        [],
    )


async def test_a_retention_set_later_reaches_what_ended_before(store: Store, clock: ManualClock) -> None:
    """Also a consent without any row of work; what still lives, or ended lately, keeps its data."""
    hub = Hub(clock)
    old = await filed(store, hub, "old", status="Revoked", tokens=False)
    clock.advance(days=20)
    lately = await filed(store, hub, "lately", status="Revoked", tokens=False)
    alive = await filed(store, hub, "alive")
    everybody = (old, lately, alive)
    for one in everybody:
        await data_of(store, clock, one)
    async with store.writing() as unit:
        for one in everybody:
            await unit.work.forget(WorkKind.CONSENT, one)
        await unit.commit()
    clock.advance(days=15)
    await sweeping(store).look()
    before = [await rows(store, one) for one in everybody]

    sweep = sweeping(store, data=30)
    for _ in range(2):
        await sweep.sweep()

    assert before == [(1, 0)] * 3
    assert [await rows(store, one) for one in everybody] == [(0, 1), (1, 0), (1, 0)]


async def test_it_sweeps_once_an_hour(store: Store, clock: ManualClock) -> None:
    """A tick in between costs a look at the clock."""
    hub = Hub(clock)
    sweep = sweeping(store)
    await sweep.look()
    consent_id = await filed(store, hub, "one", expires_at=clock.now() + timedelta(minutes=1))
    statuses = []
    for wait in (EVERY / 2, EVERY / 2):
        clock.advance(hours=wait / timedelta(hours=1))
        await sweep.look()
        async with store.reading() as unit:
            held = await unit.consents.get(consent_id)
        statuses.append(held and held.status)

    assert statuses == ["Authorized", "Expired"]


async def test_secrets_of_requests_nobody_came_home_with_are_destroyed(store: Store, clock: ManualClock) -> None:
    """First verifier, request_uri and nonce; a month later request and intent are gone.

    One that was used stays, and so does that of a renewal, whose consent the Hub lists under its root.
    """
    await _asked(store, clock, "unused")
    await _asked(store, clock, "renewal", base="root")
    await _asked(store, clock, "used")
    async with store.writing() as unit:
        await unit.authorizations.use("used", at=clock.now(), outcome="authorized")
        await unit.commit()

    clock.advance(seconds=AGE_MAX / timedelta(seconds=1) + 1)
    await sweeping(store).sweep()
    async with store.reading() as unit:
        late = await unit.authorizations.get("unused")
        sealed = (await unit.connection.execute(sa.select(authorization.c.nonce))).scalars().all()
    clock.advance(days=(AUTHORIZATIONS_KEPT + 2 * DAY) / DAY)
    await sweeping(store).sweep()

    async with store.reading() as unit:
        left = [await unit.authorizations.get(one) for one in ("unused", "used", "renewal")]
        intents = [await unit.intents.get(one) for one in ("unused", "used")]
    assert late is not None
    assert (late.code_verifier, late.request_uri, list(sealed)) == (None, None, [""] * 3)
    assert ([one is not None for one in left], intents) == ([False, True, True], [None, None])


async def test_what_lies_sealed_of_an_opening_goes_without_a_claim(store: Store, clock: ManualClock) -> None:
    """Of one that ended, and of one that never did, counted from when nobody followed it any more.

    One that is unknown keeps it for the person who settles it.
    """
    at = clock.now()
    async with store.writing() as unit:
        for name, state in (
            ("ended", OpeningState.REJECTED),
            ("never", OpeningState.PENDING),
            ("unknown", OpeningState.UNKNOWN),
        ):
            opening = StoredOpening(
                opening_id=name, lfi=LFI, version=OpeningVersion.V2_1, user_ref="u", state=state, state_since=at,
                created_at=at,
            )  # fmt: skip
            await unit.openings.add(opening, request=b"{}")
        await unit.commit()
    sweep = sweeping(store, personal=30)
    left = []
    for days in (29, 1, 89, 1):
        clock.advance(days=days)
        await sweep.sweep()
        async with store.reading() as unit:
            kept = [(await unit.openings.contents(one)).request is not None for one in ("ended", "never")]
        left.append(kept)

    async with store.reading() as unit:
        unsettled = await unit.openings.contents("unknown")
    assert left == [[True, True], [False, True], [False, True], [False, False]]
    assert unsettled.request == b"{}"


async def _asked(store: Store, clock: ManualClock, name: str, *, base: str | None = None) -> None:
    at = clock.now()
    details = {"consent": {"ConsentId": name} | ({"BaseConsentId": base} if base else {})}
    request = ConsentRequest(permissions=("ReadAccountsBasic",), expires_at=at + 90 * DAY)
    row = StoredAuthorization(
        state=name, consent_id=ConsentId(name), lfi=LFI, version=Version.V2_1, user_ref="u", issuer="i", nonce="n",
        code_verifier=SecretStr("v"), request_uri=SecretStr("r"), request=[details], created_at=at, expires_at=at,
        intent_id=name,
    )  # fmt: skip
    intent = StoredIntent(
        intent_id=name,
        lfi=Slug("noor"),
        user_ref="u",
        version=None,
        request=request,
        created_at=at,
        expires_at=at + DAY,
    )
    async with store.writing() as unit:
        await unit.authorizations.add(row)
        await unit.intents.add(intent)
        await unit.commit()

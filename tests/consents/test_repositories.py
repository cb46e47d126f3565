"""What the tables of consents, tokens and authorisations hold and what they let happen."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from syncworker.errors import SealError
from syncworker.standard.consents import ConsentView, OnBehalfOf
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store import tables
from syncworker.store.authorizations import StoredAuthorization
from syncworker.store.consents import TERMS as STANDARD_TERMS
from syncworker.store.consents import Connection, Moved, StoredConsent
from syncworker.store.tokens import SPARES_MAX, NewToken
from syncworker.store.unit_of_work import Store
from tests.ground.clock import ManualClock

pytestmark = pytest.mark.store

CONSENT = ConsentId("consent-1")
LEASE = timedelta(seconds=120)


def a_consent(clock: ManualClock, consent_id: ConsentId = CONSENT, **changes: Any) -> StoredConsent:
    now = clock.now()
    consent = StoredConsent(
        consent_id=consent_id,
        connection_id=consent_id,
        lfi=Slug("bank"),
        user_ref="customer",
        version=Version.V2_1,
        status="Authorized",
        status_updated_at=now,
        status_seen_at=now,
        permissions=("ReadAccountsBasic",),
        expires_at=now + timedelta(days=90),
        user_type="Retail",
        purpose="AccountAggregation",
        created_at=now,
        raw={"Status": "Authorized"},
    )
    return replace(consent, **changes)


async def add(store: Store, *consents: StoredConsent) -> None:
    async with store.writing() as unit:
        for consent in consents:
            await unit.consents.add_connection(
                Connection(
                    connection_id=consent.connection_id,
                    lfi=consent.lfi,
                    user_ref=consent.user_ref,
                    created_at=consent.created_at,
                )
            )
            await unit.consents.add(consent)
        await unit.commit()


def new(clock: ManualClock, access: str = "access", refresh: str | None = "refresh") -> NewToken:
    return NewToken(
        access_token=SecretStr(access),
        refresh_token=None if refresh is None else SecretStr(refresh),
        issued_at=clock.now(),
        expires_at=clock.now() + timedelta(seconds=600),
        certificate="thumbprint",
    )


@pytest.fixture
async def held(store: Store, clock: ManualClock) -> Store:
    """One consent with its first tokens."""
    await add(store, a_consent(clock))
    async with store.writing() as unit:
        assert await unit.tokens.put_first(CONSENT, new(clock))
        await unit.commit()
    return store


async def test_first_tokens_are_stored_once(held: Store, clock: ManualClock) -> None:
    """A commit whose confirmation was lost is tried again and changes nothing."""
    async with held.writing() as unit:
        assert not await unit.tokens.put_first(CONSENT, new(clock, "other", "other"))
        token = await unit.tokens.read(CONSENT)
        await unit.commit()
    assert token is not None
    assert (token.version, token.access_token) == (1, SecretStr("access"))


# -- consents ---------------------------------------------------------------------------------------------------------


async def test_a_consent_comes_back_as_it_went_in(store: Store, clock: ManualClock) -> None:
    """Every member."""
    consent = a_consent(clock, **TERMS, made_in="v1.1", raw={"Status": "Authorized", "Other": [1, "x"]})
    await add(store, consent)
    async with store.reading() as unit:
        assert await unit.consents.get(CONSENT) == consent


async def test_adding_twice_changes_nothing(store: Store, clock: ManualClock) -> None:
    """A commit whose confirmation was lost is simply tried again."""
    await add(store, a_consent(clock))
    async with store.writing() as unit:
        assert not await unit.consents.add(a_consent(clock, status="Suspended"))
        await unit.commit()
    async with store.reading() as unit:
        assert await unit.consents.get(CONSENT) == a_consent(clock)


@pytest.mark.parametrize(
    ("statuses", "live"),
    [
        pytest.param(["Authorized", "Authorized"], "c-1", id="the newest Authorized"),
        pytest.param(["Authorized", "Rejected"], "c-0", id="Authorized before a newer one"),
        pytest.param(["Expired", "Revoked"], "c-1", id="else the newest"),
    ],
)
async def test_the_live_consent_of_a_connection(
    store: Store, clock: ManualClock, statuses: Sequence[str], live: str
) -> None:
    """Newest Authorized, else newest."""
    root = ConsentId("c-0")
    for number, status in enumerate(statuses):
        base = root if number else None
        consent = a_consent(clock, ConsentId(f"c-{number}"), connection_id=root, base_consent_id=base, status=status)
        await add(store, consent)
        clock.advance(seconds=1)
    async with store.reading() as unit:
        found = await unit.consents.live(root)
    assert found is not None
    assert found.consent_id == live


async def test_consents_are_found_by_filter(store: Store, clock: ManualClock) -> None:
    """By LFI, status and customer."""
    await add(
        store,
        a_consent(clock, ConsentId("c-1"), user_ref="ann"),
        a_consent(clock, ConsentId("c-2"), user_ref="bob", lfi=Slug("other")),
        a_consent(clock, ConsentId("c-3"), user_ref="bob", status="Revoked"),
    )
    async with store.reading() as unit:
        by_user = [one.consent_id for one in await unit.consents.find(user_ref="bob")]
        by_both = [one.consent_id for one in await unit.consents.find(user_ref="bob", status="Revoked")]
        by_lfi = [one.consent_id for one in await unit.consents.find(lfi=Slug("other"))]
    assert (by_user, by_both, by_lfi) == (["c-2", "c-3"], ["c-3"], ["c-2"])


@pytest.mark.parametrize(
    ("before", "after", "surprising"),
    [
        pytest.param("AwaitingAuthorization", "Authorized", False, id="an arrow of the standard"),
        pytest.param("Revoked", "Authorized", True, id="out of a terminal state"),
        pytest.param("Authorized", "Consumed", True, id="a state data sharing does not have"),
        pytest.param("Authorized", "Frozen", True, id="a word nobody knows"),
    ],
)
async def test_a_move_is_followed_and_a_surprising_one_written_down(
    store: Store, clock: ManualClock, before: str, after: str, surprising: bool
) -> None:
    """The Hub is the record: nothing is refused."""
    await add(store, a_consent(clock, status=before))
    clock.advance(seconds=1)
    async with store.writing() as unit:
        moved = await unit.consents.observe(
            ConsentView(consent_id=CONSENT, status=after, status_updated_at=clock.now()), at=clock.now()
        )
        await unit.commit()
    async with store.reading() as unit:
        consent = await unit.consents.get(CONSENT)
        notes = [note["what"] for note in await unit.consents.notes(subject=CONSENT)]
    assert consent is not None
    assert moved == Moved(
        consent_id=CONSENT,
        connection_id=CONSENT,
        lfi=Slug("bank"),
        before=before,
        after=after,
        surprising=surprising,
    )
    assert consent.status == after
    assert notes == (["consent_moved_surprisingly"] if surprising else [])


async def test_a_view_older_than_ours_changes_nothing(store: Store, clock: ManualClock) -> None:
    """Answers overtake each other."""
    await add(store, a_consent(clock, status="Revoked"))
    view = ConsentView(consent_id=CONSENT, status="Authorized", status_updated_at=clock.now() - timedelta(seconds=1))
    async with store.writing() as unit:
        assert await unit.consents.observe(view, at=clock.now()) is None
        await unit.commit()
    async with store.reading() as unit:
        assert await unit.consents.get(CONSENT) == a_consent(clock, status="Revoked")


async def test_changed_terms_are_taken_over_and_written_down(store: Store, clock: ManualClock) -> None:
    """Permissions and expiry are immutable after staging; when they move all the same, the Hub is right."""
    await add(store, a_consent(clock))
    view = ConsentView(consent_id=CONSENT, status="Authorized", permissions=("ReadBalances",))
    async with store.writing() as unit:
        assert await unit.consents.observe(view, at=clock.now()) is None
        await unit.commit()
    async with store.reading() as unit:
        consent = await unit.consents.get(CONSENT)
        notes = [(note["what"], note["facts"]) for note in await unit.consents.notes(subject=CONSENT)]
    assert consent is not None
    assert consent.permissions == ("ReadBalances",)
    assert notes == [("consent_terms_changed", {"members": ["Permissions"]})]


TERMS: dict[str, Any] = {
    "from_date": date(2025, 1, 1),
    "to_date": date(2026, 1, 1),
    "account_types": ("SME", "Retail"),
    "account_sub_types": ("Savings",),
    "on_behalf_of": OnBehalfOf(legal_name="Al Waha"),
    "user_type": "SME",
    "purpose": "TaxFiling",
}


async def test_terms_nothing_was_known_of_are_taken_from_what_the_hub_shows(store: Store, clock: ManualClock) -> None:
    """As of a consent from another system.  They are no change, and a view without them takes none away."""
    await add(store, a_consent(clock, user_type="", purpose=""))
    shown = ConsentView(consent_id=CONSENT, status="Authorized", **TERMS)
    for view in (shown, ConsentView(consent_id=CONSENT, status="Authorized")):
        async with store.writing() as unit:
            held = await unit.consents.get(CONSENT, lock=True)
            assert held is not None
            assert unit.consents.seen_again(held, view, at=clock.now()) == (view is not shown)
            await unit.consents.observe(view, at=clock.now())
            await unit.commit()

    async with store.reading() as unit:
        held = await unit.consents.get(CONSENT)
        notes = await unit.consents.notes(subject=CONSENT)
    assert held is not None
    assert ({name: getattr(held, name) for name in TERMS}, notes) == (TERMS, [])


@pytest.mark.parametrize("name", TERMS)
async def test_a_term_that_changed_is_taken_over_and_written_down(store: Store, clock: ManualClock, name: str) -> None:
    """The standard forbids it; the order of a list is no change."""
    await add(store, a_consent(clock, **TERMS))
    other: dict[str, Any] = {
        **dict.fromkeys(("from_date", "to_date"), date(2025, 6, 1)),
        **dict.fromkeys(("account_types", "account_sub_types"), ("CreditCard",)),
        "on_behalf_of": OnBehalfOf(legal_name="Another"),
        **dict.fromkeys(("user_type", "purpose"), "Another"),
    }
    same = ConsentView(consent_id=CONSENT, status="Authorized", **TERMS | {"account_types": ("Retail", "SME")})
    changed = ConsentView(consent_id=CONSENT, status="Authorized", **TERMS | {name: other[name]})
    for view in (same, changed):
        async with store.writing() as unit:
            await unit.consents.observe(view, at=clock.now())
            await unit.commit()

    async with store.reading() as unit:
        held = await unit.consents.get(CONSENT)
        (note,) = await unit.consents.notes(subject=CONSENT)
    assert held is not None
    assert getattr(held, name) == other[name]
    assert (note["what"], note["facts"]) == ("consent_terms_changed", {"members": [STANDARD_TERMS[name]]})


async def test_nothing_a_bank_writes_into_a_consent_can_keep_it_from_being_filed(
    store: Store, clock: ManualClock
) -> None:
    """NULs, lone surrogates, endless words, odd numbers."""
    await add(store, a_consent(clock))
    raw = {"Note": "a\x00b\ud800", "Odd\x00": float("nan"), "Deep": [{"x": 10**40}], "Status": "Authorized"}
    view = ConsentView(consent_id=CONSENT, status="x" * 500, permissions=("a\x00",), revoked_by="y" * 500, raw=raw)
    async with store.writing() as unit:
        await unit.consents.observe(view, at=clock.now())
        await unit.commit()
    async with store.reading() as unit:
        consent = await unit.consents.get(CONSENT)
    assert consent is not None
    assert consent.status == "x" * 40
    assert consent.raw["Note"] == "a�b?"


async def test_the_date_of_last_data_never_runs_back(store: Store, clock: ManualClock) -> None:
    """Two runs may end out of order."""
    await add(store, a_consent(clock))
    later = clock.now() + timedelta(seconds=5)
    async with store.writing() as unit:
        await unit.consents.data_received(CONSENT, at=later)
        await unit.consents.data_received(CONSENT, at=clock.now())
        await unit.commit()
    async with store.reading() as unit:
        connection = await unit.consents.connection(CONSENT)
    assert connection is not None
    assert connection.last_data_at == later


# -- tokens -----------------------------------------------------------------------------------------------------------


async def test_tokens_lie_sealed(held: Store) -> None:
    """Neither token is in the table as it is, nor in a repr."""
    async with held.reading() as unit:
        row = (await unit.connection.execute(sa.select(tables.token))).one()
        token = await unit.tokens.read(CONSENT)
    assert b"access" not in row.access_token
    assert b"refresh" not in row.refresh_token
    assert token is not None
    assert token.refresh_token == SecretStr("refresh")
    assert "SecretStr('refresh')" not in repr(token)


async def test_a_token_moved_to_another_consent_does_not_open(held: Store, clock: ManualClock) -> None:
    """The seal names its row."""
    other = ConsentId("consent-2")
    await add(held, a_consent(clock, other))
    async with held.writing() as unit:
        await unit.tokens.put_first(other, new(clock, "other", "other"))
        stolen = sa.select(tables.token.c.refresh_token).where(tables.token.c.consent_id == other).scalar_subquery()
        await unit.connection.execute(
            sa.update(tables.token).where(tables.token.c.consent_id == CONSENT).values(refresh_token=stolen)
        )
        await unit.commit()
    async with held.reading() as unit:
        with pytest.raises(SealError, match=r"token\.refresh_token"):
            await unit.tokens.read(CONSENT)


async def test_one_of_many_gets_the_lease(held: Store, database_url: str, open_store: Callable[..., Store]) -> None:
    """Eight holders at once, from two processes: one."""
    stores = [held, open_store(database_url)]

    async def begin(number: int) -> bool:
        async with stores[number % 2].writing() as unit:
            begun = await unit.tokens.begin(CONSENT, version=1, holder=f"holder-{number}", lease=LEASE)
            await unit.commit()
            return begun is not None

    assert sum(await asyncio.gather(*(begin(number) for number in range(8)))) == 1


async def test_a_lease_that_ran_out_is_taken_over_with_its_traces(held: Store, clock: ManualClock) -> None:
    """The next holder sees who began before it and that nobody knows how that ended."""
    async with held.writing() as unit:
        await unit.tokens.begin(CONSENT, version=1, holder="first", lease=LEASE)
        await unit.commit()
    clock.advance(seconds=120)
    async with held.writing() as unit:
        before = await unit.tokens.begin(CONSENT, version=1, holder="second", lease=LEASE)
        now = await unit.tokens.read(CONSENT)
        extended = await unit.tokens.extend(CONSENT, version=1, holder="first", lease=LEASE)
        await unit.commit()
    assert before is not None
    assert now is not None
    assert (before.holder, before.in_doubt, before.attempts) == ("first", True, 1)
    assert (now.holder, now.attempts, extended) == ("second", 2, False)


async def test_the_swap_compares_the_version_and_not_the_lease(held: Store, clock: ManualClock) -> None:
    """A holder whose lease was taken over still stores its answer; the other's lease stays."""
    async with held.writing() as unit:
        await unit.tokens.begin(CONSENT, version=1, holder="first", lease=LEASE)
        await unit.commit()
    clock.advance(seconds=121)
    async with held.writing() as unit:
        await unit.tokens.begin(CONSENT, version=1, holder="second", lease=LEASE)
        first = await unit.tokens.swap(CONSENT, version=1, new=new(clock, "a2", "r2"))
        second = await unit.tokens.swap(CONSENT, version=1, new=new(clock, "a3", "r3"))
        await unit.commit()
        token = await unit.tokens.read(CONSENT)
    assert token is not None
    assert (first, second, token.version, token.refresh_token) == (True, False, 2, SecretStr("r2"))
    assert (token.holder, token.lease_until, token.in_doubt) == (None, None, False)


async def test_a_swap_without_a_refresh_token_keeps_the_old_one(held: Store, clock: ManualClock) -> None:
    """Trap 1."""
    async with held.writing() as unit:
        await unit.tokens.swap(CONSENT, version=1, new=new(clock, "a2", None))
        token = await unit.tokens.read(CONSENT)
        await unit.commit()
    assert token is not None
    assert (token.access_token, token.refresh_token) == (SecretStr("a2"), SecretStr("refresh"))


async def test_spares_are_kept_newest_first_and_not_without_bound(held: Store) -> None:
    """Known ones are not kept twice."""
    async with held.writing() as unit:
        kept = [await unit.tokens.keep_spare(CONSENT, SecretStr(f"r{number}")) for number in range(5)]
        again = await unit.tokens.keep_spare(CONSENT, SecretStr("r4"))
        stored = await unit.tokens.keep_spare(CONSENT, SecretStr("refresh"))
        await unit.tokens.drop_spare(CONSENT, SecretStr("r3"))
        token = await unit.tokens.read(CONSENT)
        await unit.commit()
    assert token is not None
    assert (kept, again, stored, SPARES_MAX) == ([True] * 5, False, False, 3)
    assert token.spares == (SecretStr("r4"), SecretStr("r2"))


async def test_giving_up_does_not_outlive_a_swap(held: Store, clock: ManualClock) -> None:
    """A loss named for version 1 does not strike version 2; a late answer for version 1 heals it."""
    async with held.writing() as unit:
        assert await unit.tokens.give_up(CONSENT, version=1, cause="answer_lost")
        assert await unit.tokens.begin(CONSENT, version=1, holder="me", lease=LEASE) is None
        assert await unit.tokens.swap(CONSENT, version=1, new=new(clock, "a2", "r2"))
        assert not await unit.tokens.give_up(CONSENT, version=1, cause="answer_lost")
        token = await unit.tokens.read(CONSENT)
        await unit.commit()
    assert token is not None
    assert (token.version, token.lost_cause) == (2, None)


async def test_destroyed_tokens_cannot_be_swapped_back(held: Store, clock: ManualClock) -> None:
    """An answer that arrives after a revocation is nobody's."""
    async with held.writing() as unit:
        assert await unit.tokens.destroy(CONSENT)
        assert not await unit.tokens.swap(CONSENT, version=1, new=new(clock))
        assert not await unit.tokens.keep_spare(CONSENT, SecretStr("r2"))
        await unit.commit()
    async with held.reading() as unit:
        assert await unit.tokens.read(CONSENT) is None


async def test_states_show_no_secret(held: Store) -> None:
    """What `tokens status` prints is read without opening anything."""
    async with held.reading() as unit:
        (state,) = await unit.tokens.states()
    assert (state.consent_id, state.access_token, state.refresh_token) == (CONSENT, None, None)


async def test_another_tenant_sees_nothing(
    held: Store, database_url: str, open_store: Callable[..., Store], clock: ManualClock
) -> None:
    """Ids are looked up within the tenant."""
    async with open_store(database_url, tenant="another").writing() as unit:
        seen = [
            await unit.consents.get(CONSENT),
            await unit.consents.live(CONSENT),
            await unit.tokens.read(CONSENT),
            await unit.tokens.begin(CONSENT, version=1, holder="me", lease=LEASE),
            *await unit.consents.find(),
            *await unit.tokens.states(),
        ]
        assert not await unit.tokens.swap(CONSENT, version=1, new=new(clock))
    assert seen == [None] * 4


# -- authorisations ---------------------------------------------------------------------------------------------------


def an_authorization(clock: ManualClock) -> StoredAuthorization:
    return StoredAuthorization(
        state="state-1",
        consent_id=CONSENT,
        lfi=Slug("bank"),
        version=Version.V2_1,
        user_ref="customer",
        issuer="https://issuer.example",
        nonce="nonce-1",
        code_verifier=SecretStr("verifier"),
        request_uri=SecretStr("urn:secret"),
        request=({"type": "x", "consent": {}},),
        created_at=clock.now(),
        expires_at=clock.now() + timedelta(seconds=90),
    )


async def test_an_authorisation_is_used_once(store: Store, clock: ManualClock) -> None:
    """Of two users one; its secrets are gone with it."""
    row = an_authorization(clock)
    async with store.writing() as unit:
        await unit.authorizations.add(row)
        stored = await unit.authorizations.get("state-1")
        used = [await unit.authorizations.use("state-1", at=clock.now(), outcome="authorized") for _ in range(2)]
        after = await unit.authorizations.of(CONSENT)
        await unit.commit()
    assert (stored, used) == (row, [True, False])
    assert after == replace(
        row, code_verifier=None, request_uri=None, nonce="", used_at=clock.now(), outcome="authorized"
    )
    assert "verifier-" not in repr(row)
    assert "state-1" not in repr(row)

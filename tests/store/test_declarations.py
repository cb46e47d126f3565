"""LFIs declared from the directory, and what becomes of them when it says something else; on both databases."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest

from syncworker.declarations import (
    SUBJECT,
    Follower,
    What,
    declare,
    directory_facts,
    follow,
)
from syncworker.errors import LFIUnavailableError, RequestError, SettingsError
from syncworker.lfi.participants import Dropped, Participant, Reading, Reason, Rules, read_participants
from syncworker.simulator.participants import participants
from syncworker.standard.values import Slug
from syncworker.standard.versions import Version
from syncworker.store.unit_of_work import Store
from syncworker.store.work import WorkKind, WorkRow
from tests.ground.clock import ManualClock

pytestmark = pytest.mark.store

BANK = Slug("bank")
DATA = "https://rs1.bank.apihub.openfinance.ae/open-finance/account-information"
HOUR = timedelta(hours=1)


def participant(**changes: Any) -> Participant:
    """One LFI on v1.2 with two endpoints."""
    plain = Participant(
        server_id="as-1",
        organisation_id="org-1",
        organisation="Bank PJSC",
        name="Bank",
        issuer="https://auth1.bank.apihub.openfinance.ae",
        discovery_url="https://auth1.bank.apihub.openfinance.ae/.well-known/openid-configuration",
        base_urls={Version.V1_2: f"{DATA}/v1.2"},
        published={Version.V1_2: frozenset({"/accounts", "/parties"})},
        over_limit_millifils={Version.V1_2: 50_000},
    )
    return replace(plain, **changes)


def fine(_slug: Slug, _declared: Mapping[str, Any]) -> None:
    """Every declaration can be used."""


@pytest.fixture
async def declared(store: Store) -> Store:
    """A store that holds `participant()`, with a limit of calls the operator gave it."""
    await declare(store, {BANK: participant()}, check=fine)
    async with store.writing() as unit:
        held = await unit.lfis.get(BANK)
        assert held is not None
        assert held.directory is not None
        limited = {**held.declared, "calls_per_second": 3}
        await unit.lfis.follow(BANK, limited, directory=held.directory, at=await unit.now())
        await unit.commit()
    return store


def reading(*shown: Participant, dropped: tuple[Dropped, ...] = ()) -> Reading:
    return Reading({Slug(f"n{number}"): one for number, one in enumerate(shown)}, dropped)


async def said(store: Store, what: Reading) -> list[tuple[str, str, str]]:
    return [(one.what, one.version, one.detail) for one in await follow(store, what)]


async def declaration(store: Store) -> Mapping[str, Any]:
    async with store.reading() as unit:
        held = await unit.lfis.get(BANK)
    assert held is not None
    return held.declared


async def test_a_reading_that_says_the_same_changes_nothing(declared: Store) -> None:
    """No change is reported, and what the operator added stays."""
    before = await declaration(declared)

    assert await said(declared, reading(participant())) == []
    assert await declaration(declared) == before


async def test_endpoints_fees_and_dates_are_taken_over_and_reported_once(declared: Store) -> None:
    """What is new in the directory is used from now on; a second reading of the same says nothing."""
    new = participant(
        published={Version.V1_2: frozenset({"/accounts", "/accounts/{AccountId}/balances"})},
        over_limit_millifils={},
        retires_on=date(2027, 6, 30),
    )

    assert await said(declared, reading(new)) == [
        (What.RETIRES, "", "none → 2027-06-30"),
        (What.ENDPOINT_APPEARED, "v1.2", "/accounts/{AccountId}/balances"),
        (What.ENDPOINT_VANISHED, "v1.2", "/parties"),
        (What.FEE, "v1.2", "50000 → 0 milli-fils"),
    ]
    assert await said(declared, reading(new)) == []
    held = await declaration(declared)
    assert held["published"] == {"v1.2": ["/accounts", "/accounts/{AccountId}/balances"]}
    facts = (await directory_facts(declared))[BANK]
    assert facts.warnings() == ["migrate before 2027-06-30: the directory retires it then"]


async def test_a_version_that_vanished_keeps_its_base_url(declared: Store) -> None:
    """Consents of v1.2 live until they end; new ones find v2.0."""
    new = participant(base_urls={Version.V2_0: f"{DATA}/v2.0"}, published={Version.V2_0: frozenset({"/accounts"})})

    assert [one[:2] for one in await said(declared, reading(new))] == [
        (What.VERSION_VANISHED, "v1.2"),
        (What.VERSION_APPEARED, "v2.0"),
    ]
    held = await declaration(declared)
    assert held["base_urls"] == {"v1.2": f"{DATA}/v1.2", "v2.0": f"{DATA}/v2.0"}


async def test_another_issuer_is_reported_and_never_taken_over(declared: Store) -> None:
    """Nor anything else of that entry: the whole declaration stays as it was."""
    before = await declaration(declared)
    new = participant(issuer="https://auth1.other.apihub.openfinance.ae", base_urls={Version.V1_2: f"{DATA}/x/v1.2"})

    assert [one[0] for one in await said(declared, reading(new))] == [What.ISSUER, What.BASE_URL]
    assert await declaration(declared) == before


async def test_an_lfi_that_left_stays_declared(declared: Store) -> None:
    """Reported once with the reason, shown from then on, and taken back when it returns."""
    gone = Dropped(organisation="Bank PJSC", server_id="as-1", reason=Reason.INACTIVE, said="its Status is Inactive")
    before = await declaration(declared)

    first, second = await said(declared, reading(dropped=(gone,))), await said(declared, reading())
    missing = (await directory_facts(declared))[BANK].missing_since
    back = await said(declared, reading(participant()))

    assert (first, second, back) == ([(What.LEFT, "", "its Status is Inactive")], [], [(What.CAME_BACK, "", "")])
    assert missing is not None
    assert (await directory_facts(declared))[BANK].missing_since is None
    assert await declaration(declared) == before


async def test_changes_are_kept_newest_first(declared: Store, clock: ManualClock) -> None:
    """What `lfis show` lists."""
    await follow(declared, reading())
    clock.advance(hours=1)
    await follow(declared, reading(participant()))
    async with declared.reading() as unit:
        kept = [one.what for one in await unit.lfis.changes(BANK)]

    assert kept == [What.CAME_BACK, What.LEFT]


async def test_lfis_added_by_hand_are_left_alone(store: Store) -> None:
    """They did not come from the directory, whatever it says about their issuer."""
    async with store.writing() as unit:
        await unit.lfis.add(BANK, {"issuer": participant().issuer}, at=await unit.now())
        await unit.commit()

    assert await follow(store, reading(participant(name="Another"))) == []
    assert await declaration(store) == {"issuer": participant().issuer}


async def test_a_name_of_another_issuer_is_never_taken(declared: Store) -> None:
    """The other participant of that call is not declared either."""
    both = {Slug("new"): participant(server_id="as-2"), BANK: participant(issuer="https://other.example")}
    with pytest.raises(RequestError, match="bank is declared already, with another issuer"):
        await declare(declared, both, check=fine)

    assert list(await directory_facts(declared)) == [BANK]


async def test_a_declaration_that_cannot_be_used_leaves_nothing(store: Store) -> None:
    """Keys are looked at before anything is written."""

    def refuse(slug: Slug, _declared: Mapping[str, Any]) -> None:
        if slug == "second":
            raise SettingsError("client.signing_key: is not set")

    with pytest.raises(SettingsError):
        await declare(store, {BANK: participant(), Slug("second"): participant()}, check=refuse)
    assert await directory_facts(store) == {}


# -- once a day --------------------------------------------------------------------------------------------------------


class Library:
    """A directory that counts how often it is read, and answers when it may."""

    def __init__(self) -> None:
        self.read = 0
        self.away = False

    async def __call__(self) -> object:
        self.read += 1
        if self.away:
            raise LFIUnavailableError("away")
        data = {Version.V1_2: f"{DATA}/v1.2"}
        issuer = "https://auth1.bank.apihub.openfinance.ae"
        return participants(issuer=issuer, discovery_url=f"{issuer}/d", base_urls=data, today=date(2026, 11, 21))


@pytest.fixture
def library() -> Library:
    return Library()


@pytest.fixture
def follower(clock: ManualClock, library: Library) -> Callable[..., Follower]:
    """`follower(store)`: as one process has it."""

    def make(store: Store, **changes: Any) -> Follower:
        fetch = changes.pop("fetch", library)
        options: dict[str, Any] = {"every": 24 * HOUR, "retry_after": lambda attempts: attempts * HOUR, **changes}
        return Follower(store, fetch, rules=Rules(), now=clock.now, **options)

    return make


async def row(store: Store) -> WorkRow | None:
    async with store.reading() as unit:
        return await unit.work.find(WorkKind.DIRECTORY, SUBJECT)


async def test_two_hosts_read_the_directory_once_a_day(
    store: Store, open_store: Callable[..., Store], database_url: str, clock: ManualClock, library: Library,
    follower: Callable[..., Follower],
) -> None:  # fmt: skip
    """Whoever looks first reads; nobody reads again before the next day."""
    hosts = [follower(store), follower(open_store(database_url))]
    reads = []
    for _ in range(3):
        began = [await host.look() for host in hosts]
        for host in hosts:
            await host.finished()
        reads.append((sum(began), library.read))
        clock.advance(hours=12)

    assert reads == [(1, 1), (0, 1), (1, 2)]


async def test_a_reading_under_way_is_nobody_elses(
    store: Store, clock: ManualClock, library: Library, follower: Callable[..., Follower]
) -> None:
    """A second look while the row is leased begins nothing, in this process or another."""
    one, other = follower(store), follower(store)

    assert [await one.look(), await one.look(), await other.look()] == [True, False, False]
    await one.finished()


async def test_a_directory_that_is_away_is_asked_again_sooner(
    store: Store, clock: ManualClock, library: Library, follower: Callable[..., Follower]
) -> None:
    """The row counts the attempts and keeps the error's code; a good reading clears both."""
    one = follower(store)
    library.away = True
    seen = []
    for away, hours in ((True, 1), (True, 2), (False, 24)):
        library.away = away
        await one.look()
        await one.finished()
        held = await row(store)
        assert held is not None
        seen.append((held.last_error, held.attempts, held.due_at - clock.now()))
        clock.advance(hours=hours, seconds=1)

    assert seen == [("lfi_unavailable", 1, HOUR), ("lfi_unavailable", 2, 2 * HOUR), (None, 0, 24 * HOUR)]


async def test_a_reading_cut_short_is_due_again(
    store: Store, library: Library, follower: Callable[..., Follower]
) -> None:
    """A process that ends in order gives its claim back."""
    one = follower(store)
    await one.look()
    await one.close()
    held = await row(store)

    assert held is not None
    assert (held.lease_until, held.last_ended_at) == (None, None)


async def test_without_a_directory_nothing_is_due(
    store: Store, library: Library, follower: Callable[..., Follower]
) -> None:
    """A row left from when one was followed would be late for ever."""
    before = follower(store)
    await before.look()
    await before.finished()
    began = await follower(store, fetch=None).look()

    assert (began, await row(store)) == (False, None)


def test_the_reading_of_the_tests_is_one() -> None:
    """The participants used here pass through the real reader."""
    issuer = "https://auth1.bank.apihub.openfinance.ae"
    document = participants(
        issuer=issuer, discovery_url=f"{issuer}/d", base_urls={Version.V1_2: f"{DATA}/v1.2"}, today=date(2026, 11, 21)
    )
    found = read_participants(document, rules=Rules(), now=ManualClock().now()).found
    assert [one.base_urls for one in found.values()] == [{Version.V1_2: f"{DATA}/v1.2"}]


async def test_the_kinds_of_account_follow_the_directory(declared: Store) -> None:
    """What it says is declared; when it says nothing any more, neither do we, unless the operator did."""
    told = participant(account_types=("Retail",), account_sub_types=("Savings",))
    await said(declared, reading(told))
    first = await declaration(declared)
    await said(declared, reading(participant(account_types=("Retail", "SME"))))
    second = await declaration(declared)
    async with declared.writing() as unit:
        held = await unit.lfis.get(BANK)
        assert held is not None
        assert held.directory is not None
        own = {**held.declared, "account_types": ["Corporate"]}
        await unit.lfis.follow(BANK, own, directory=held.directory, at=await unit.now())
        await unit.commit()
    await said(declared, reading(participant()))
    third = await declaration(declared)

    kinds = [(one.get("account_types"), one.get("account_sub_types")) for one in (first, second, third)]
    assert kinds == [(["Retail"], ["Savings"]), (["Retail", "SME"], None), (["Corporate"], None)]

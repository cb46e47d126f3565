"""Consents of another system come in line by line: whole or not at all, once, and never over a younger token."""

import asyncio
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from syncworker.consents.import_file import LINE_BYTES_MAX, KnownLFI, numbered, read_line
from syncworker.consents.importing import Importer, ImportReport, Verdict
from syncworker.consents.lifecycle import NEVER
from syncworker.consents.tokens import Outcome
from syncworker.errors import RequestError, SettingsError
from syncworker.schedule import due
from syncworker.standard.consents import OnBehalfOf, Status
from syncworker.standard.values import ConsentId, Slug, write_instant
from syncworker.standard.versions import Version
from syncworker.store.unit_of_work import Store
from syncworker.store.work import WorkKind
from tests.consents.house import LFI, House, token_due
from tests.ground.clock import ManualClock

SPREAD: Final = timedelta(hours=1)
CERTIFICATE: Final = "thumbprint-of-ours"
SECRET: Final = "rt-marked-8f2c71"


def member_values(clock: ManualClock, consent_id: str = "c-1", **changes: Any) -> dict[str, Any]:
    """A good line; a member changed to `...` is left out."""
    values: dict[str, Any] = {
        "ConsentId": consent_id,
        "lfi": LFI,
        "Permissions": ["ReadAccountsBasic", "ReadBalances"],
        "ExpirationDateTime": write_instant(clock.now() + timedelta(days=90)),
        "refresh_token": f"rt-{consent_id}",
        "standard_version": "v2.1",
    }
    return {name: value for name, value in (values | changes).items() if value is not ...}


def file_of(*lines: dict[str, Any] | bytes) -> bytes:
    return b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)


def known(slug: Slug) -> KnownLFI:
    if slug != LFI:
        raise SettingsError(f"is not declared (known: {LFI})")
    return KnownLFI(versions=frozenset({Version.V2_0, Version.V2_1}), certificate=CERTIFICATE)


Take = Callable[..., Any]


@pytest.fixture
def take(store: Store) -> Take:
    """`await take(content)`: the counts, and the refused lines with their reasons."""

    async def taken(content: bytes, **options: Any) -> tuple[dict[str, int], dict[int, str]]:
        refused: dict[int, str] = {}
        options = {"sync_due": spread, "token_due": token_due, **options}
        report = await Importer(store, known, **options).take(
            numbered(io.BytesIO(content)), refused=refused.__setitem__
        )
        return {verdict.value: count for verdict, count in report.counts.items() if count}, refused

    return taken


def spread(connection_id: ConsentId, at: datetime) -> datetime:
    return due.spread(at, connection_id, over=SPREAD)


async def tables(store: Store) -> dict[str, Any]:
    """Everything an import writes, tokens unsealed."""
    async with store.reading() as unit:
        consents = await unit.consents.find()
        return {
            "connections": list(await unit.consents.connections()),
            "consents": list(consents),
            "tokens": [await unit.tokens.read(one.consent_id) for one in consents],
            "work": [await unit.work.find(WorkKind.SYNC, one.connection_id) for one in consents]
            + [
                await unit.work.find(kind, one.consent_id)
                for kind in (WorkKind.TOKEN, WorkKind.CONSENT, WorkKind.FLAG)
                for one in consents
            ],
            "notes": await unit.consents.notes(),
        }


# -- reading a line ---------------------------------------------------------------------------------------------------


@pytest.mark.unit
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"ConsentId": ...}, "ConsentId: is missing", id="no id"),
        pytest.param({"ConsentId": None}, "ConsentId: is missing", id="null is missing"),
        pytest.param({"ConsentId": 7}, "ConsentId: must be 1 to 128 printable characters", id="id is a number"),
        pytest.param({"ConsentId": "x" * 129}, "ConsentId: must be 1 to 128 printable characters", id="id too long"),
        pytest.param({"user_ref": "a\x00b"}, "user_ref: must be 1 to 128 printable characters", id="NUL"),
        pytest.param({"lfi": "No Slug"}, "lfi: must be the slug of a declared LFI", id="no slug"),
        pytest.param({"Permissions": "ReadBalances"}, "Permissions: must be a list of permission codes", id="no list"),
        pytest.param({"Permissions": [SECRET * 9]}, "Permissions: must be a list of permission codes", id="no code"),
        pytest.param(
            {"ExpirationDateTime": "2027-01-31"},
            "ExpirationDateTime: must be an instant, as 2027-01-31T00:00:00Z",
            id="a date alone",
        ),
        pytest.param(
            {"ExpirationDateTime": SECRET},
            "ExpirationDateTime: must be an instant, as 2027-01-31T00:00:00Z",
            id="no instant",
        ),
        pytest.param(
            {"standard_version": "v9"}, "standard_version: must be one of v1.1, v1.2, v2.0, v2.1", id="version"
        ),
        pytest.param(
            {"refresh_token": SECRET + " "},
            "refresh_token: is not a token (printable ASCII without spaces)",
            id="token with a space",
        ),
        pytest.param(
            {"access_token": SECRET},
            "access_token: comes with access_token_expires_at, or both are left out",
            id="no end of the access token",
        ),
        pytest.param(
            {"tenant": "another"},
            "tenant: is not 'ours', the one of these settings; import it where its tenant is served",
            id="another tenant",
        ),
        pytest.param({"Status": "Revoked"}, "Status: is Revoked; only Authorized consents are imported", id="ended"),
        pytest.param({"FromDate": "31.1.2026"}, "FromDate: must be a date, as 2027-01-31", id="no date"),
        pytest.param(
            {"ToDate": "9999-12-31", "ExpirationDateTime": "9999-12-31T00:00:00Z"},
            "ExpirationDateTime: lies outside 1900-01-01 to 2199-12-31; give the instant that is meant; ToDate: lies "
            "outside 1900-01-01 to 2199-12-31; give the date that is meant, or leave it out for no limit",
            id="end of time",
        ),
        pytest.param({"OpenFinanceBilling": []}, "OpenFinanceBilling: must be an object", id="no object"),
        pytest.param(
            {"lfi": ..., "refresh_token": ...}, "lfi: is missing; refresh_token: is missing", id="every fault at once"
        ),
    ],
)
def test_a_fault_is_named_by_its_member_and_shows_no_value(
    changes: dict[str, Any], says: str, clock: ManualClock
) -> None:
    """What somebody wrote into the wrong member may be a secret."""
    with pytest.raises(RequestError) as fault:
        read_line(1, json.dumps(member_values(clock, **changes)).encode(), tenant="ours")
    assert str(fault.value) == says


@pytest.mark.unit
@pytest.mark.parametrize(
    "content",
    [b"{", b"[" * 5_000, b'{"a": 1} {"b": 2}', b"\xff\xfe", b"9" * 5_000, b"null", b"[]", b'"eyJ"'],
    ids=["cut", "nested", "two", "no UTF-8", "endless number", "null", "list", "text"],
)
def test_what_is_no_object_is_refused_in_a_few_words(content: bytes) -> None:
    with pytest.raises(RequestError, match="line: is not") as fault:
        read_line(1, content, tenant="ours")
    assert fault.value.__cause__ is None


@pytest.mark.unit
def test_older_shapes_of_the_standard_are_read(clock: ManualClock) -> None:
    """Nested permissions, a root that names itself, a window of instants, an offset without colon, a foreign id."""
    values = member_values(
        clock,
        "aac-17",
        BaseConsentId="aac-17",
        Permissions=[["ReadAccountsBasic"], ["ReadBalances"]],
        ExpirationDateTime="2027-05-01T03:00:00+0300",
        TransactionFromDateTime="2026-01-31T21:00:00Z",
        standard_version="v1.2",
        Meta={},
    )
    line = read_line(1, json.dumps(values).encode(), tenant="ours")
    assert (line.consent_id, line.base_consent_id, line.permissions) == (
        "aac-17",
        None,
        ("ReadAccountsBasic", "ReadBalances"),
    )
    assert (line.expires_at.isoformat(), str(line.from_date), line.ignored) == (
        "2027-05-01T00:00:00+00:00",
        "2026-02-01",
        frozenset({"Meta"}),
    )


@pytest.mark.unit
def test_what_a_consent_is_narrowed_to_and_its_subscription_are_read(clock: ManualClock) -> None:
    """In the standard's members; an instant without an offset is UAE time, and said to be."""
    values = member_values(
        clock,
        AccountType=["Retail"],
        AccountSubType=["Savings", "Gold"],
        OnBehalfOf={"LegalName": "Al Waha LLC"},
        Subscription={"Webhook": {"Url": "https://tpp.example/events", "IsActive": True}},
        ExpirationDateTime="2027-05-01T03:00:00",
    )
    line = read_line(1, json.dumps(values).encode(), tenant="ours")
    assert (line.account_types, line.account_sub_types, line.on_behalf_of, line.webhook_active) == (
        ("Retail",),
        ("Savings", "Gold"),
        OnBehalfOf(legal_name="Al Waha LLC"),
        True,
    )
    assert (line.expires_at.isoformat(), line.uae_time, line.ignored) == (
        "2027-04-30T23:00:00+00:00",
        frozenset({"ExpirationDateTime"}),
        frozenset(),
    )


@pytest.mark.store
async def test_a_consent_of_v1_1_is_read_on_the_oldest_version_its_lfi_serves(
    store: Store, take: Take, clock: ManualClock
) -> None:
    """It stays valid until it ends; what it was made in is kept, and the second run of the file changes nothing."""
    values = member_values(
        clock,
        "aac-17",
        standard_version="v1.1",
        Permissions=["ReadAccountsBasic", "ReadTransactionsBasic", "ReadTransactionsCredits"],
        AccountType=["Retail"],
    )
    assert await take(file_of(values)) == ({"imported": 1}, {})
    assert await take(file_of(values)) == ({"unchanged": 1}, {})

    async with store.reading() as unit:
        held = await unit.consents.get(ConsentId("aac-17"))
    assert held is not None
    assert (held.version, held.made_in, held.account_types) == (Version.V2_0, "v1.1", ("Retail",))
    _, refused = await take(file_of({**values, "standard_version": "v2.0"}))
    assert refused == {1: "standard_version: not as we hold it; nothing was changed"}
    later = member_values(clock, "aac-18", standard_version="v1.1", Permissions=["ReadAccountsBasic", "ReadStatements"])
    assert (await take(file_of(later)))[1] == {1: "Permissions: ReadStatements is not in v1.1"}


@pytest.mark.store
async def test_a_successor_of_a_later_chain_joins_the_connection_of_its_root(
    store: Store, take: Take, clock: ManualClock
) -> None:
    """The root of a later chain does not name the connection; it is held, so it says where it belongs."""
    await take(file_of(member_values(clock, "aac-1", standard_version="v2.0", user_ref="customer-1")))
    async with store.writing() as unit:
        first = await unit.consents.get(ConsentId("aac-1"))
        assert first is not None
        await unit.consents.add(replace(first, consent_id=ConsentId("root-2")))
        await unit.commit()

    assert await take(file_of(member_values(clock, "next", BaseConsentId="root-2"))) == ({"imported": 1}, {})

    async with store.reading() as unit:
        held = await unit.consents.get(ConsentId("next"))
    assert held is not None
    assert (held.connection_id, held.root, held.user_ref) == ("aac-1", "root-2", "customer-1")


@pytest.mark.unit
def test_lines_are_numbered_as_an_editor_does(clock: ManualClock) -> None:
    """A byte order mark and blank lines do no harm; a line beyond the limit is passed over; the last needs no end."""
    content = b"\xef\xbb\xbf{}\n\n" + b"x" * (3 * LINE_BYTES_MAX) + b"\r\n  \r\n{}"
    assert list(numbered(io.BytesIO(content))) == [(1, b"{}\n"), (3, None), (5, b"{}")]


@pytest.mark.unit
def test_a_line_shows_no_token(clock: ManualClock) -> None:
    line = read_line(1, json.dumps(member_values(clock, refresh_token=SECRET)).encode(), tenant="ours")
    assert SECRET not in repr(line) + line.fingerprint


# -- into the tables --------------------------------------------------------------------------------------------------


@pytest.mark.store
async def test_a_line_becomes_connection_consent_token_and_work(store: Store, take: Take, clock: ManualClock) -> None:
    """A successor of a root we never saw, with both tokens."""
    at, ends = clock.now(), clock.now() + timedelta(minutes=8)
    line = member_values(
        clock,
        "c-2",
        BaseConsentId="c-1",
        user_ref="customer-7",
        FromDate="2026-01-01",
        access_token="at-c-2",
        access_token_expires_at=write_instant(ends),
        OpenFinanceBilling={"UserType": "SME", "Purpose": "TaxFiling"},
    )

    assert await take(file_of(line)) == ({"imported": 1}, {})

    held = await tables(store)
    (connection,), (consent,), (token,) = held["connections"], held["consents"], held["tokens"]
    assert (connection.connection_id, connection.lfi, connection.user_ref) == ("c-1", LFI, "customer-7")
    assert (consent.connection_id, consent.base_consent_id, consent.version) == ("c-1", "c-1", Version.V2_1)
    assert (consent.status, consent.expires_at, str(consent.from_date)) == (
        Status.Authorized,
        at + timedelta(days=90),
        "2026-01-01",
    )
    assert (consent.user_type, consent.purpose) == ("SME", "TaxFiling")
    assert (token.refresh_token, token.access_token) == (SecretStr("rt-c-2"), SecretStr("at-c-2"))
    assert (token.version, token.issued_at, token.expires_at, token.certificate) == (1, at, ends, CERTIFICATE)
    assert [(row.kind, row.subject, row.due_at) for row in held["work"]] == [
        (WorkKind.SYNC, "c-1", spread(ConsentId("c-1"), at)),
        (WorkKind.TOKEN, "c-2", token_due(ConsentId("c-2"), at, ends)),
        (WorkKind.CONSENT, "c-2", spread(ConsentId("c-1"), at)),
        (WorkKind.FLAG, "c-2", spread(ConsentId("c-1"), at)),
    ]


@pytest.mark.store
@pytest.mark.parametrize("ends_in", [None, timedelta(seconds=-1)], ids=["none came", "it is over"])
async def test_without_a_live_access_token_the_first_sync_gets_one(
    store: Store, take: Take, clock: ManualClock, ends_in: timedelta | None
) -> None:
    """Nothing is refreshed before it is needed: many refreshes at once would be no better than as many syncs."""
    tokens: dict[str, Any] = {}
    if ends_in is not None:
        tokens = {"access_token": "at-1", "access_token_expires_at": write_instant(clock.now() + ends_in)}

    await take(file_of(member_values(clock, **tokens)))

    held = await tables(store)
    assert (held["tokens"][0].access_token, held["tokens"][0].expires_at) == (None, None)
    assert {row.due_at for row in held["work"]} == {spread(ConsentId("c-1"), clock.now())}


@pytest.mark.store
async def test_refresh_on_demand_schedules_no_refresh(store: Store, take: Take, clock: ManualClock) -> None:
    await take(file_of(member_values(clock)), token_due=None)
    first = spread(ConsentId("c-1"), clock.now())
    assert {row.kind: row.due_at for row in (await tables(store))["work"]} == {
        WorkKind.SYNC: first,
        WorkKind.TOKEN: NEVER,
        WorkKind.CONSENT: first,
        WorkKind.FLAG: first,
    }


@pytest.mark.store
async def test_bad_lines_stay_out_by_number_and_good_ones_go_in(store: Store, take: Take, clock: ManualClock) -> None:
    past = write_instant(clock.now())
    content = file_of(
        member_values(clock, "good-1"),
        b"{",
        member_values(clock, "c-3", lfi="elsewhere"),
        member_values(clock, "c-4", ExpirationDateTime=past),
        member_values(clock, "c-5", standard_version="v1.2"),
        member_values(clock, "c-6", standard_version="v2.0", Permissions=["ReadAccountsBasic", "ReadStatements"]),
        member_values(clock, "c-7", Permissions=["ReadBalances", "ReadMinds"]),
        member_values(clock, "c-8", Permissions=["ReadBalances"]),
        member_values(clock, "good-2"),
    )

    counts, refused = await take(content)

    assert counts == {"imported": 2, "refused": 7}
    assert refused == {
        2: "line: is not JSON; write one object per line",
        3: "lfi: is not declared (known: sandbox)",
        4: "ExpirationDateTime: has passed; a consent that ended has nothing left to import",
        5: "standard_version: sandbox is declared for v2.0, v2.1 only; add v1.2 to its base_urls",
        6: "Permissions: ReadStatements is not in v2.0",
        7: "Permissions: what stands at place 2 is not a permission of the standard",
        8: "Permissions: ReadBalances need ReadAccountsBasic or ReadAccountsDetail beside them",
    }
    assert [one.consent_id for one in (await tables(store))["consents"]] == ["good-1", "good-2"]


@pytest.mark.store
async def test_a_second_run_changes_nothing(store: Store, take: Take, clock: ManualClock) -> None:
    content = file_of(*(member_values(clock, f"c-{number}", BaseConsentId="c-0") for number in range(5)))
    await take(content)
    before = await tables(store)
    clock.advance(minutes=5)

    assert await take(content) == ({"unchanged": 5}, {})
    assert await tables(store) == before


@pytest.mark.store
async def test_a_consent_named_twice_in_one_file_comes_in_once(store: Store, take: Take, clock: ManualClock) -> None:
    """The same again is unchanged, another token is a conflict, whichever batch the lines fall into."""
    line = member_values(clock)
    content = file_of(line, line, member_values(clock, refresh_token="rt-another"))
    conflict = {
        3: "refresh_token: another one is held for this ConsentId and may be the younger; nothing was changed "
        "(--replace-tokens puts the file's in its place)"
    }
    assert await take(content) == ({"imported": 1, "unchanged": 1, "refused": 1}, conflict)
    assert await take(content, batch=1) == ({"unchanged": 2, "refused": 1}, conflict)
    assert [token.refresh_token for token in (await tables(store))["tokens"]] == [SecretStr("rt-c-1")]


@pytest.mark.store
@pytest.mark.parametrize(
    ("changes", "names"),
    [
        pytest.param({"standard_version": "v2.0"}, "standard_version", id="version"),
        pytest.param({"Permissions": ["ReadAccountsDetail"]}, "Permissions", id="permissions"),
        pytest.param({"ExpirationDateTime": "2099-01-01T00:00:00Z"}, "ExpirationDateTime", id="end"),
        pytest.param({"user_ref": "another"}, "user_ref", id="customer"),
        pytest.param({"BaseConsentId": "c-0"}, "BaseConsentId", id="root"),
        pytest.param({"user_ref": "another", "standard_version": "v2.0"}, "user_ref, standard_version", id="two"),
    ],
)
@pytest.mark.parametrize("replace", [False, True], ids=["", "replacing tokens"])
async def test_other_terms_than_those_held_are_refused_by_name(
    store: Store, take: Take, clock: ManualClock, changes: dict[str, Any], names: str, replace: bool
) -> None:
    """A consent's terms never change after it was given: one of the two is wrong, and a person has to look."""
    await take(file_of(member_values(clock, user_ref="customer-1")))
    before = await tables(store)
    line = member_values(clock, **{"user_ref": "customer-1", "refresh_token": "rt-another", **changes})

    _, refused = await take(file_of(line), replace_tokens=replace)

    assert refused == {1: f"{names}: not as we hold it; nothing was changed"}
    assert await tables(store) == before


@pytest.mark.store
async def test_a_successor_joins_the_connection_we_hold(store: Store, take: Take, clock: ManualClock) -> None:
    """Its customer needs not be named again; at another LFI, or of another customer, it is none of ours."""
    await take(file_of(member_values(clock, "root", user_ref="customer-1")))

    counts, refused = await take(
        file_of(
            member_values(clock, "next", BaseConsentId="root"),
            member_values(clock, "wrong", BaseConsentId="root", user_ref="customer-2"),
        )
    )

    assert (counts, refused) == (
        {"imported": 1, "refused": 1},
        {2: "user_ref: not as we hold it; nothing was changed"},
    )
    held = await tables(store)
    assert [(one.consent_id, one.connection_id, one.user_ref) for one in held["consents"]] == [
        ("next", "root", "customer-1"),
        ("root", "root", "customer-1"),
    ]
    assert len(held["connections"]) == 1


@pytest.mark.store
async def test_an_ended_consent_does_not_come_back(store: Store, take: Take, clock: ManualClock) -> None:
    await take(file_of(member_values(clock)))
    async with store.writing() as unit:
        await unit.consents.expire(ConsentId("c-1"), at=clock.now())
        await unit.tokens.destroy(ConsentId("c-1"))
        await unit.commit()

    assert await take(file_of(member_values(clock)), replace_tokens=True) == (
        {"refused": 1},
        {1: "ConsentId: is held, and ended (Expired)"},
    )


@pytest.mark.store
async def test_first_syncs_are_spread_evenly(store: Store, take: Take, clock: ManualClock) -> None:
    """A thousand imported consents: never more than a few in one second of the hour, and none past it."""
    await take(file_of(*(member_values(clock, f"c-{number}") for number in range(1_000))))

    async with store.reading() as unit:
        rows = [await unit.work.find(WorkKind.SYNC, f"c-{number}") for number in range(0, 1_000, 10)]
        summary = await unit.work.summary()
    ours = sorted((row.due_at - clock.now()) / SPREAD for row in rows if row is not None)
    assert {one.kind: one.rows for one in summary} == dict.fromkeys(
        (WorkKind.SYNC, WorkKind.TOKEN, WorkKind.CONSENT, WorkKind.FLAG), 1_000
    )
    assert (len(ours), ours[0] >= 0, ours[-1] < 1) == (100, True, True)
    assert max(after - before for before, after in pairwise(ours)) < 0.1


@pytest.mark.store
async def test_two_imports_of_one_file_at_once_bring_each_line_once(
    store: Store, open_store: Callable[..., Store], database_url: str, take: Take, clock: ManualClock
) -> None:
    """Where the other one was faster the database refuses the batch; its lines are looked at again, one by one."""
    content = file_of(*(member_values(clock, f"c-{number}") for number in range(60)))

    async def beside() -> ImportReport:
        importer = Importer(open_store(database_url), known, sync_due=spread, token_due=token_due)
        return await importer.take(numbered(io.BytesIO(content)), refused=lambda *_: None)

    (ours, refused), theirs = await asyncio.gather(take(content), beside())

    assert refused == {}
    assert ours.get("imported", 0) + theirs.counts[Verdict.IMPORTED] == 60
    assert ours.get("unchanged", 0) + theirs.counts[Verdict.UNCHANGED] == 60
    assert len((await tables(store))["tokens"]) == 60


@pytest.mark.store
async def test_batches_before_a_fault_stay(store: Store, clock: ManualClock) -> None:
    """What breaks in the middle of a file keeps what was committed, and the second run brings the rest."""
    lines = [member_values(clock, f"c-{number}") for number in range(6)]

    def cut() -> Iterator[tuple[int, bytes | None]]:
        yield from list(numbered(io.BytesIO(file_of(*lines))))[:5]
        raise OSError

    seen: list[int] = []
    importer = Importer(store, known, sync_due=spread, token_due=token_due, batch=2)

    def progress(report: ImportReport) -> None:
        seen.append(report.lines)

    with pytest.raises(OSError):
        await importer.take(cut(), refused=lambda *_: None, progress=progress)
    assert (seen, len((await tables(store))["consents"])) == ([2, 4], 4)
    report = await importer.take(numbered(io.BytesIO(file_of(*lines))), refused=lambda *_: None)
    assert (report.counts[Verdict.UNCHANGED], report.counts[Verdict.IMPORTED]) == (4, 2)


# -- from bank to table -----------------------------------------------------------------------------------------------


@pytest.fixture
def moved(house: House, open_store: Callable[..., Store], sqlite_template: Path, tmp_path: Path) -> Store:
    """The store of the system the consents come from."""
    file = tmp_path / "elsewhere.db"
    file.write_bytes(sqlite_template.read_bytes())
    return open_store(f"sqlite:///{file}")


async def given_elsewhere(house: House, elsewhere: Store) -> dict[str, Any]:
    """A consent that another system got, as the line it exports."""
    here, house.store = house.store, elsewhere
    completed = await house.consented()
    token, consent = await house.token(completed.consent_id), await house.consent(completed.consent_id)
    house.store = here
    assert token.refresh_token is not None
    return {
        "ConsentId": completed.consent_id,
        "lfi": completed.lfi,
        "Permissions": list(consent.permissions),
        "ExpirationDateTime": write_instant(consent.expires_at),
        "refresh_token": token.refresh_token.get_secret_value(),
        "standard_version": consent.version.value,
    }


@pytest.mark.flow
async def test_an_imported_consent_is_refreshed_and_its_old_file_stays_harmless(
    house: House, moved: Store, take: Take
) -> None:
    """The first refresh rotates the imported token away; the same file again is not mistaken for news."""
    line = await given_elsewhere(house, moved)
    consent_id = ConsentId(line["ConsentId"])
    await take(file_of(line))
    vault = await house.vault()

    assert await vault.refresh(consent_id, reason="asked") is Outcome.ROTATED
    assert await house.stored_is_current(consent_id)
    assert await take(file_of(line), replace_tokens=True) == ({"unchanged": 1}, {})
    assert await house.stored_is_current(consent_id)


@pytest.mark.flow
async def test_replace_tokens_brings_a_lost_grant_back_to_life(house: House, moved: Store, take: Take) -> None:
    """A wrong token was imported and the bank refused it; the file with the right one heals the consent, once asked."""
    line = await given_elsewhere(house, moved)
    consent_id = ConsentId(line["ConsentId"])
    await take(file_of({**line, "refresh_token": "rt-of-somebody-else"}))
    vault = await house.vault()
    assert await vault.refresh(consent_id, reason="asked") is Outcome.LOST

    unasked = await take(file_of(line))
    asked = await take(file_of(line), replace_tokens=True)

    assert (unasked[0], asked) == ({"refused": 1}, ({"replaced": 1}, {}))
    assert (await house.consent(consent_id)).needs_consent is None
    assert await vault.refresh(consent_id, reason="asked") is Outcome.ROTATED
    assert await house.stored_is_current(consent_id)


@pytest.mark.flow
async def test_an_older_token_put_in_by_mistake_costs_nothing(house: House, moved: Store, take: Take) -> None:
    """`replace_tokens` keeps the token it displaced: the bank refuses the file's, and the vault falls back on ours."""
    completed = await house.consented()
    consent = await house.consent(completed.consent_id)
    line = {
        "ConsentId": completed.consent_id,
        "lfi": LFI,
        "Permissions": list(consent.permissions),
        "ExpirationDateTime": write_instant(consent.expires_at),
        "refresh_token": "rt-unknown-to-the-bank",
        "standard_version": consent.version.value,
    }
    assert await take(file_of(line), replace_tokens=True) == ({"replaced": 1}, {})

    vault = await house.vault()
    assert await vault.refresh(completed.consent_id, reason="asked") is Outcome.ROTATED
    assert await house.stored_is_current(completed.consent_id)


@pytest.mark.store
async def test_the_database_knows_how_much_an_import_added(store: Store, take: Take, clock: ManualClock) -> None:
    """PostgreSQL plans by it; an import that adds nothing gathers nothing."""
    content = file_of(*(member_values(clock, f"c-{number}") for number in range(3)))
    known: list[int | None] = []
    for _ in range(2):
        await take(content)
        async with store.writing() as unit:
            if unit.dialect.is_postgresql:
                known.append(
                    await unit.connection.scalar(sa.text("SELECT reltuples FROM pg_class WHERE relname = 'token'"))
                )
                await unit.connection.execute(sa.text("UPDATE pg_class SET reltuples = -1 WHERE relname = 'token'"))
                await unit.commit()

    assert known in ([], [3, -1])

"""What a user is shown about their connections, and what they may do to them."""

from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from syncworker import wiring
from syncworker.errors import RequestError
from syncworker.standard.consents import Status
from syncworker.standard.values import ConsentId, Slug
from syncworker.store import tables
from syncworker.store.api_keys import Scope
from syncworker.store.connections import Action, Label, Place, Tab, masked_iban
from syncworker.store.unit_of_work import Store
from syncworker.store.work import WorkKind
from syncworker.web.api import grouped, repeated, short_id
from tests.ground.clock import ManualClock
from tests.web.house import WebHouse
from tests.web.rows import file, held

HOUR = timedelta(hours=1)
RENEW, STOP, PAUSE, REACTIVATE = Action.RENEW, Action.STOP, Action.PAUSE, Action.REACTIVATE


@pytest.mark.store
@pytest.mark.parametrize(
    ("changes", "label", "tab", "actions"),
    [
        pytest.param({}, Label.ACTIVE, Tab.CURRENT, (PAUSE, STOP, RENEW), id="Authorized"),
        pytest.param({"paused_at": 0}, Label.PAUSED, Tab.CURRENT, (REACTIVATE, STOP, RENEW), id="paused"),
        pytest.param({"revoke_asked_at": 0}, Label.CANCELLED, Tab.HISTORY, (RENEW,), id="revoked here"),
        pytest.param({"expires_at": 0}, Label.EXPIRED, Tab.HISTORY, (RENEW,), id="past its end, the Hub lags"),
        pytest.param({"status": "AwaitingAuthorization"}, Label.PENDING, Tab.CURRENT, (STOP,), id="awaiting"),
        pytest.param({"status": "Suspended"}, Label.SUSPENDED, Tab.CURRENT, (STOP, RENEW), id="suspended"),
        pytest.param({"status": "Suspended", "paused_at": 0}, Label.SUSPENDED, Tab.CURRENT, (STOP, RENEW), id="both"),
        pytest.param({"status": "Revoked"}, Label.CANCELLED, Tab.HISTORY, (RENEW,), id="revoked"),
        pytest.param({"status": "Rejected"}, Label.REJECTED, Tab.HISTORY, (), id="rejected"),
        pytest.param({"status": "Expired"}, Label.EXPIRED, Tab.HISTORY, (RENEW,), id="expired"),
        pytest.param({"status": "Consumed"}, Label.CONSUMED, Tab.HISTORY, (), id="consumed"),
        pytest.param({"status": "Dreaming"}, "Dreaming", Tab.CURRENT, (), id="an unknown status"),
    ],
)
async def test_a_state_has_its_label_tab_and_actions(
    store: Store, clock: ManualClock, changes: dict[str, Any], label: str, tab: Tab, actions: tuple[Action, ...]
) -> None:
    """The table of the consent-management screens, also as a filter."""
    now = clock.now()
    facts = {name: now if value == 0 else value for name, value in changes.items()}
    async with store.writing() as unit:
        await file(unit, held("one", "one", now=now, **facts))
        await unit.commit()
        found = await unit.connections.get(ConsentId("one"))
        filtered = [
            [one.connection_id for one in await unit.connections.page(**wanted)]
            for wanted in ({"label": label}, {"tab": tab}, {"label": "Other"})
        ]

    assert found is not None
    shown = found[0].consent
    assert (shown.label, shown.tab, shown.actions) == (label, tab, actions)
    assert filtered == [["one"], ["one"], []]


@pytest.mark.store
async def test_a_connection_is_shown_by_the_consent_that_counts(store: Store, clock: ManualClock) -> None:
    """In use before waiting, waiting before ended, newer before older; the whole chain is its lineage."""
    now = clock.now()
    cases = {
        "use": ("Authorized", "Rejected", "AwaitingAuthorization"),
        "block": ("Suspended", "Rejected", "Rejected"),
        "wait": ("Expired", "AwaitingAuthorization", "Rejected"),
        "end": ("Expired", "Revoked", "Expired"),
        "next": ("Authorized", "Authorized", "Rejected"),
    }
    async with store.writing() as unit:
        for root, statuses in cases.items():
            names = (root, f"{root}-2", f"{root}-3")
            rows = [
                held(name, root, now=now + number * HOUR, status=status)
                for number, (name, status) in enumerate(zip(names, statuses, strict=True))
            ]
            await file(unit, *rows)
        await unit.commit()
        found = {root: await unit.connections.get(ConsentId(root)) for root in cases}

    shown = {root: one[0].consent.consent_id for root, one in found.items() if one is not None}
    assert shown == {"use": "use", "block": "block", "wait": "wait-2", "end": "end-3", "next": "next-2"}
    assert [one.consent_id for one in found["use"][1]] == ["use", "use-2", "use-3"]  # type: ignore[index]


@pytest.mark.store
async def test_pages_follow_each_other_without_gap_or_repeat(store: Store, clock: ManualClock) -> None:
    """Newest first; connections of the same instant are told apart by their id."""
    now = clock.now()
    async with store.writing() as unit:
        await file(unit, *(held(f"c{number}", f"c{number}", now=now + number // 3 * HOUR) for number in range(10)))
        await unit.commit()
        walked, after = [], None
        while page := await unit.connections.page(after=after, limit=4):
            walked += [one.connection_id for one in page]
            after = Place(page[-1].created_at, page[-1].connection_id)

    assert walked == ["c9", "c8", "c7", "c6", "c5", "c4", "c3", "c2", "c1", "c0"]


@pytest.mark.store
async def test_filters_are_joined(store: Store, clock: ManualClock) -> None:
    """User and LFI; the LFI by the name its customers know, where the directory says one."""
    now = clock.now()
    other = Slug("other")
    async with store.writing() as unit:
        await unit.lfis.add(other, {}, at=now, directory={"name": "The Other Bank"})
        await file(
            unit,
            held("a", "a", now=now),
            held("b", "b", now=now, user_ref="customer-2"),
            held("c", "c", now=now, lfi=other),
        )
        await unit.commit()
        found = await unit.connections.page(user_ref="customer-1", lfi_slug=other)
        named = {one.connection_id: one.lfi_name for one in await unit.connections.page()}

    assert [one.connection_id for one in found] == ["c"]
    assert named == {"a": "noor", "b": "noor", "c": "The Other Bank"}


@pytest.mark.unit
@pytest.mark.parametrize(
    ("iban", "masked"),
    [("AE070331234567890123456", "AE07***************3456"), ("NO9386011117947", "NO93*******7947"), ("AE07", "****")],
)
def test_an_iban_is_masked(iban: str, masked: str) -> None:
    """Country, check digits and the last four stay."""
    assert masked_iban(iban) == masked


@pytest.mark.unit
def test_permissions_are_grouped_by_what_they_are_about() -> None:
    """In the order a user reads them; an unknown permission is last."""
    codes = ["ReadParty", "ReadBalances", "ReadDreams", "ReadFXTransactionsBasic", "ReadAccountsBasic"]

    assert [(one.group, one.permissions) for one in grouped(codes)] == [
        ("Accounts", ["ReadAccountsBasic"]),
        ("Balances", ["ReadBalances"]),
        ("Transactions", ["ReadFXTransactionsBasic"]),
        ("Personal details", ["ReadParty"]),
        ("Other", ["ReadDreams"]),
    ]


class Counted(str):
    """A name that counts how often it is compared."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


@pytest.mark.unit
def test_names_given_more_than_once_are_found_in_one_pass() -> None:
    """However many there are: their number is a stranger's to choose."""
    names = [Counted(f"f{number % 1_000}") for number in range(1_500)]

    assert repeated(names) == sorted(f"f{number}" for number in range(500))
    assert Counted.compared < 10_000


@pytest.mark.unit
def test_a_consent_id_is_shortened_for_a_screen() -> None:
    """Eight characters, and the last four."""
    assert [short_id("f47ac10b-58cc-4372-a567-0e02b2c3d479"), short_id("short")] == ["f47ac10b...d479", "short"]


async def synced(web: WebHouse, **changes: Any) -> str:
    """A connection whose data came."""
    consent = await web.connect(**changes)
    application = await wiring.build_application(web.settings)
    try:
        assert await application.sync_now(consent.connection_id) is not None
    finally:
        await application.close()
    return consent.connection_id


@pytest.mark.flow
async def test_a_card_and_its_detail(web: WebHouse) -> None:
    """Accounts counted and listed, the date of last data received, IBANs masked; whole ones for who may see them."""
    connection_id = await synced(web)
    (card,) = (await web.product.get("/v1/connections?user_ref=customer-1&state=Active")).json()["connections"]
    detail = (await web.product.get(f"/v1/connections/{connection_id}")).json()
    whole = (await web.product.get(f"/v1/connections/{connection_id}?ibans=whole")).json()
    consent = (await web.product.get(f"/v1/consents/{connection_id}")).json()
    ibans = [one["iban"] for one in whole["connected_accounts"]]

    assert (card["accounts"], len(ibans)) == (len(detail["connected_accounts"]), card["accounts"])
    assert card["accounts"] > 0
    assert card["last_data_at"] is not None
    assert (card["label"], card["tab"], card["actions"]) == ("Active", "Current", ["pause", "stop", "renew"])
    assert all(iban.startswith("AE") and "*" not in iban for iban in ibans)
    assert [one["iban"] for one in detail["connected_accounts"]] == [masked_iban(iban) for iban in ibans]
    assert [one["group"] for one in detail["consent"]["permissions"]] == ["Accounts", "Balances"]
    assert (consent["connection_id"], consent["lfi"]) == (connection_id, "sandbox")
    assert {name: detail[name] for name in card} == card


@pytest.mark.flow
async def test_each_connected_account_is_named_by_its_account_id(small_web: WebHouse) -> None:
    """By our id, as the lists have it, and by the LFI's: the key of the account's row, which lies below no account."""
    connection_id = await synced(small_web)
    detail = (await small_web.product.get(f"/v1/connections/{connection_id}")).json()
    async with small_web.store.reading() as unit:
        granted = await unit.records.granted(ConsentId(connection_id))
        held = [row async for row in unit.records.all_rows()]

    listed = (await small_web.product.get("/v1/accounts", params={"connection_id": connection_id})).json()["accounts"]
    named = {(one["account_id"], one["lfi_account_id"]) for one in detail["connected_accounts"]}
    assert [one["lfi_account_id"] for one in detail["connected_accounts"]] == sorted(granted)
    assert named == {(one["account_id"], one["lfi_account_id"]) for one in listed}
    assert {row.account for row in held} == granted


@pytest.mark.flow
async def test_what_is_kept_of_an_ended_connection_shows_no_whole_iban(small_web: WebHouse) -> None:
    """For every key: its data is restricted."""
    connection_id = await synced(small_web)
    at = f"/v1/connections/{connection_id}"
    await small_web.product.post(f"{at}/stop")
    shown = (await small_web.product.get(f"{at}?ibans=whole")).json()

    ibans = [one["iban"] for one in shown["connected_accounts"]]
    assert (shown["tab"], len(ibans) > 0) == ("History", True)
    assert all("*" in iban for iban in ibans)


@pytest.mark.flow
async def test_pause_reactivate_and_stop_take_effect_at_once(small_web: WebHouse) -> None:
    """The answer shows it; the Hub is told by a worker, and of a pause never."""
    consent = await small_web.connect()
    at = f"/v1/connections/{consent.connection_id}"
    labels = [
        (await small_web.product.post(f"{at}/{action}")).json()["label"] for action in ("pause", "reactivate", "stop")
    ]
    stopped = (await small_web.product.get(at)).json()
    async with small_web.store.reading() as unit:
        tokens = await unit.tokens.exists(consent.consent_id)
        due = await unit.work.find(WorkKind.CONSENT, consent.consent_id)

    assert labels == ["Paused", "Active", "Cancelled"]
    assert (stopped["tab"], stopped["consent"]["revocation_pending"], stopped["consent"]["status"]) == (
        "History",
        True,
        "Authorized",
    )
    assert (tokens, due is not None) == (False, True)


@pytest.mark.flow
async def test_a_renewal_is_a_successor_in_the_same_connection(small_web: WebHouse) -> None:
    """The same way as the first time, with the root as its base."""
    consent = await small_web.connect()
    answer = await small_web.product.post(f"/v1/connections/{consent.connection_id}/renew")
    begun = answer.json()
    shown = await small_web.come_back(await small_web.answer(await small_web.set_out(begun)))
    detail = (await small_web.product.get(f"/v1/connections/{consent.connection_id}")).json()

    assert (answer.status_code, begun["connection_id"], shown.status_code) == (201, consent.connection_id, 200)
    assert len(detail["lineage"]) == 2
    assert [one["base_consent_id"] for one in detail["lineage"]] == [None, consent.connection_id]
    assert detail["consent"]["consent_id"] == detail["lineage"][1]["consent_id"]


@pytest.mark.flow
async def test_a_renewal_may_ask_for_something_else(small_web: WebHouse) -> None:
    """Other permissions; what the Hub would refuse is told by field."""
    consent = await small_web.connect()
    at = f"/v1/connections/{consent.connection_id}/renew"
    other = await small_web.product.post(at, json={"permissions": ["ReadAccountsBasic"]})
    wrong = await small_web.product.post(at, json={"permissions": ["ReadBalances"]})

    assert (other.status_code, other.json()["permissions"]) == (201, ["ReadAccountsBasic"])
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "permissions")


@pytest.mark.flow
async def test_a_successor_ends_within_364_days(web: WebHouse) -> None:
    """Without an end it lasts as long as before and less than a year; an end that is given is not cut but refused."""
    consent = await web.connect()
    async with web.store.writing() as unit:
        now = await unit.now()
        years = sa.update(tables.consent).values(expires_at=now + timedelta(days=730), created_at=now)
        await unit.connection.execute(years)
        await unit.commit()
    at = f"/v1/connections/{consent.connection_id}/renew"
    begun = await web.product.post(at)
    refused = await web.product.post(at, json={"expires_at": (now + timedelta(days=365)).isoformat()})

    assert (begun.status_code, refused.status_code) == (201, 422)
    assert [error["field"] for error in refused.json()["errors"]] == ["expires_at"]
    ends = datetime.fromisoformat(begun.json()["consent_expires_at"])
    assert timedelta(days=363, hours=23) < ends - now <= timedelta(days=364, minutes=1)
    pushed = web.bank.bank.log.counters["par 200"]
    await web.set_out(begun.json())
    assert web.bank.bank.log.counters["par 200"] == pushed + 1


@pytest.mark.flow
async def test_what_was_declined_from_the_start_cannot_be_renewed(small_web: WebHouse) -> None:
    """The user never agreed to it: a new consent is begun instead."""
    begun = await small_web.begin()
    await small_web.come_back(await small_web.answer(await small_web.set_out(begun), approve=False))
    (card,) = (await small_web.product.get("/v1/connections")).json()["connections"]
    answer = await small_web.product.post(f"/v1/connections/{card['connection_id']}/renew")

    assert (card["label"], card["actions"]) == (Label.REJECTED, [])
    assert (answer.status_code, answer.json()["code"]) == (409, "wrong_state")


@pytest.mark.flow
async def test_stopping_revokes_every_living_consent_of_the_chain(small_web: WebHouse) -> None:
    """Also the old one while a successor is there already."""
    consent = await small_web.connect()
    at = f"/v1/connections/{consent.connection_id}"
    begun = (await small_web.product.post(f"{at}/renew")).json()
    await small_web.come_back(await small_web.answer(await small_web.set_out(begun)))
    await small_web.product.post(f"{at}/stop")
    lineage = (await small_web.product.get(at)).json()["lineage"]

    assert [one["label"] for one in lineage] == ["Cancelled", "Cancelled"]
    assert [(await small_web.consent(one["consent_id"])).revoke_by for one in lineage] == ["TPP.InitiatedByUser"] * 2


@pytest.mark.store
async def test_a_key_is_known_by_its_hash_in_its_tenant_alone(store: Store, clock: ManualClock) -> None:
    """The table holds no key; another secret under its id opens nothing; last use is kept to the minute."""
    async with store.writing() as unit:
        stored, key = await unit.api_keys.create("product", [Scope.CONSENTS_READ], at=clock.now())
        await unit.commit()
        rows = repr((await unit.connection.exec_driver_sql("SELECT * FROM api_key")).all())
        found = await unit.api_keys.find(key)
        forged = await unit.api_keys.find(SecretStr(f"swk_{stored.key_id}_{'x' * 43}"))
        with pytest.raises(RequestError, match=r"^scope: "):
            await unit.api_keys.create("without scopes", [], at=clock.now())

    assert (found, forged) == (stored, None)
    assert key.get_secret_value().split("_", 2)[2] not in rows
    assert key.get_secret_value() not in f"{stored!r}{key!r}"


@pytest.mark.unit
def test_the_terminal_states_are_history() -> None:
    """Every state of the standard has a label."""
    assert {status.value for status in Status} - {"Authorized", "AwaitingAuthorization", "Revoked"} <= set(Label)


@pytest.mark.flow
async def test_a_narrowed_consent_is_asked_for_shown_and_renewed_as_it_is(small_web: WebHouse) -> None:
    """Kinds of account and the firm, through every route; null takes a narrowing away, and the rest stays."""
    narrowed: dict[str, Any] = {
        "account_types": ["Retail"],
        "account_sub_types": ["CurrentAccount", "PersonalLoan"],
        "on_behalf_of": {"trading_name": "Al Waha", "identifier_type": "Other", "identifier": "7"},
    }
    behalf = {"trading_name": "Al Waha", "legal_name": None, "identifier_type": "Other", "identifier": "7"}
    consent = await small_web.connect(**narrowed)
    at = f"/v1/connections/{consent.connection_id}"
    shown = (await small_web.product.get(at)).json()["consent"]
    same = (await small_web.product.post(f"{at}/renew")).json()
    wider = (await small_web.product.post(f"{at}/renew", json={"account_types": None, "on_behalf_of": None})).json()

    members = ("account_types", "account_sub_types", "on_behalf_of")
    as_asked = (["Retail"], ["CurrentAccount", "Finance"], behalf)
    assert tuple(shown[name] for name in members) == as_asked
    assert tuple(same[name] for name in members) == as_asked
    assert tuple(wider[name] for name in members) == (None, ["CurrentAccount", "Finance"], None)


@pytest.mark.flow
@pytest.mark.parametrize(
    ("members", "field"),
    [
        pytest.param({"account_types": ["Private"]}, "account_types", id="an unknown type"),
        pytest.param({"account_sub_types": []}, "account_sub_types", id="an empty list"),
        pytest.param({"on_behalf_of": {}}, "on_behalf_of", id="a firm without a name"),
        pytest.param({"on_behalf_of": {"legal_name": ""}}, "on_behalf_of", id="an empty name"),
        pytest.param({"version": "v1.2", "new_chain": True}, "version", id="a version the LFI is not declared for"),
    ],
)
async def test_what_a_renewal_cannot_ask_for_is_told_by_field(
    small_web: WebHouse, members: dict[str, object], field: str
) -> None:
    """Before anything is sent."""
    consent = await small_web.connect()
    answer = await small_web.product.post(f"/v1/connections/{consent.connection_id}/renew", json=members)

    assert (answer.status_code, {one["field"].partition(".")[0] for one in answer.json()["errors"]}) == (422, {field})


@pytest.mark.flow
async def test_a_new_chain_shows_in_the_same_connection(small_web: WebHouse) -> None:
    """The lineage goes on; the new consent names no base."""
    consent = await small_web.connect()
    at = f"/v1/connections/{consent.connection_id}"
    begun = (await small_web.product.post(f"{at}/renew", json={"new_chain": True})).json()
    await small_web.come_back(await small_web.answer(await small_web.set_out(begun)))
    detail = (await small_web.product.get(at)).json()

    assert begun["connection_id"] == consent.connection_id
    assert [one["base_consent_id"] for one in detail["lineage"]] == [None, None]
    assert detail["consent"]["consent_id"] == detail["lineage"][1]["consent_id"]

"""Asking for an account: sent exactly once, and every way that may end has a name."""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from syncworker.consents.allowed import Allowed
from syncworker.errors import (
    GateClosedError,
    NotAllowedError,
    RefusedError,
    RequestError,
    SettingsError,
    SetupError,
    SyncWorkerError,
)
from syncworker.lfi.api import LFIClient
from syncworker.lfi.directory import Discovery
from syncworker.lfi.transport import Answer
from syncworker.openings import SENDING_MAX, Openings, doubts
from syncworker.schedule.limits import LocalAdmission
from syncworker.schedule.traffic import TrafficControl
from syncworker.standard.openings import OpeningState, OpeningVersion
from syncworker.store.openings import ShareWish
from tests.openings.house import LFI, PERSONAL, House, body, guide_body

pytestmark = pytest.mark.flow

S, V = OpeningState, OpeningVersion


@pytest.mark.parametrize("signed", [False, True], ids=["json", "jws"])
@pytest.mark.parametrize("version", V)
async def test_an_account_is_asked_for_in_every_version(house: House, version: OpeningVersion, signed: bool) -> None:
    """The bank judges the JWS strictly; its answer is read as JSON and as JWS, with AccountId in Data or the link."""
    openings = await house.openings(version)
    house.desk.configure(signed=signed)

    opening = await openings.create(LFI, house.order(user_ref="customer-7"))

    (held,) = house.desk.facts()
    assert (opening.state, opening.status, opening.version) == (S.PENDING, "Pending", version)
    assert (opening.account_id, opening.http_status, opening.user_ref) == (held["account_id"], 201, "customer-7")
    assert await house.history(opening.opening_id) == [
        (S.SENDING, None, "ours"),
        (S.PENDING, "Pending", "answer"),
    ]
    assert await house.notes(opening.opening_id) == ["opening_noted", "opening_moved"]


async def test_the_guides_own_request_goes_out_in_v2_0(house: House) -> None:
    """The bank that follows the guide takes it, as it was written; the same request is refused for the errata."""
    asked = guide_body()
    opening = await (await house.openings(OpeningVersion.V2_0)).create(LFI, house.order(body=asked))

    order = house.order(body=asked)
    sent = house.desk.held(str(opening.account_id)).asked
    assert (opening.state, opening.version, sent["Data"].keys()) == (
        OpeningState.PENDING, OpeningVersion.V2_0, asked["Data"].keys(),
    )  # fmt: skip
    assert doubts(order, OpeningVersion.V2_0) == [
        "Data.AnnualTransactionVolume: is not a member of the published schema"
    ]
    with pytest.raises(RequestError, match=r"^body: not a request of v2\.0-errata1: Data\.AnnualTransactionVolume: "):
        await (await house.openings(OpeningVersion.V2_0_ERRATA1)).create(LFI, order)
    assert house.posts() == 1


async def test_it_is_followed_from_then_on(house: House) -> None:
    """Its row of work is due when its state deserves a look."""
    opening = await (await house.openings()).create(LFI, house.order())

    due = (await house.work(opening.opening_id)).due_at

    assert timedelta(minutes=13) < due - house.clock.now() <= timedelta(minutes=15)


async def test_without_a_user_ref_the_opening_stands_for_its_user(house: House) -> None:
    """So that every row has one."""
    opening = await (await house.openings()).create(LFI, house.order())

    assert opening.user_ref == opening.opening_id


async def test_a_number_is_sent_with_every_digit(house: House) -> None:
    """Money is no float, not even on its way through JSON."""
    sent: list[bytes] = []

    class Overheard(LFIClient):
        async def own_call_once(self, *args: Any, **options: Any) -> Answer:
            sent.append(options["body"])
            return await super().own_call_once(*args, **options)

    openings = await house.openings(kind=Overheard)
    opening = await openings.create(LFI, house.order(body=body(Salary=Decimal("12345678901234567890.12345"))))

    _, payload, _ = sent[0].split(b".")
    expected = b'"Salary":12345678901234567890.12345'
    assert expected in base64.urlsafe_b64decode(payload + b"==")
    assert expected in ((await house.contents(opening.opening_id)).request or b"")


async def test_what_is_personal_lies_sealed_and_comes_back(house: House) -> None:
    """Nothing of it is readable in the table."""
    openings = await house.openings()
    opening = await openings.create(LFI, house.order())
    house.desk.move(str(opening.account_id), "AwaitingUserInput", information="Ask Noor Al Farsi", redirect=True)
    await openings.ask(opening)

    contents = await house.contents(opening.opening_id)
    rows = await house.rows()

    assert contents.request is not None
    assert PERSONAL[0].encode() in contents.request
    assert contents.information == "Ask Noor Al Farsi"
    assert contents.redirect_url is not None
    assert contents.redirect_url.startswith("https://")
    assert contents.raw is not None
    assert contents.raw["AccountId"] == opening.account_id
    assert [secret for secret in (*PERSONAL, "https://") if secret.encode() in rows] == []


# -- a definite no -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [False, True], ids=["json", "jws"])
async def test_a_refusal_is_an_end_with_its_code(house: House, signed: bool) -> None:
    """The bank's own code, in a signed refusal too."""
    house.bank.bank.configure(signed_answers="always" if signed else "asked")
    house.bank.bank.answers(400, operation="opening_create", code="Body.InvalidFormat", times=1)

    opening = await (await house.openings()).create(LFI, house.order())

    async with house.store.reading() as unit:
        contents = await unit.openings.contents(opening.opening_id)
    assert (opening.state, opening.http_status, opening.error) == (S.REFUSED, 400, "Body.InvalidFormat")
    assert opening.ended_at is not None
    assert contents.information  # the bank's words, sealed with the rest


@pytest.mark.parametrize(
    ("status", "error"), [(401, "http_401"), (404, "http_404"), (415, "http_415"), (429, "lfi_rate_limited")]
)
async def test_a_refusal_without_a_word_has_its_status(house: House, status: int, error: str) -> None:
    """Nothing was created, and nothing is sent again by itself."""
    house.bank.bank.answers(status, operation="opening_create", retry_after=7, times=1)

    opening = await (await house.openings()).create(LFI, house.order())

    assert (opening.state, opening.http_status, opening.error) == (S.REFUSED, status, error)
    assert house.posts() == 1


async def test_a_token_the_bank_no_longer_takes_is_not_used_for_the_next_one(house: House) -> None:
    """The POST is not repeated, but the next person who asks gets through."""
    openings = await house.openings()
    house.bank.bank.answers(401, operation="opening_create", times=1)

    first = await openings.create(LFI, house.order())
    second = await openings.create(LFI, house.order())

    minted = [one.operation for one in house.calls if one.operation == "CreateAccount_signedRequest"]
    tokens = [one for one in house.bank.bank.log.tokens() if one.grant_type == "client_credentials"]
    assert (first.state, second.state) == (S.REFUSED, S.PENDING)
    assert (len(minted), len(tokens)) == (2, 2)


# -- in doubt ----------------------------------------------------------------------------------------------------------


def _drop(house: House) -> None:
    house.bank.bank.drop_response("opening_create")


def _refuse_late(house: House) -> None:
    house.bank.bank.answers(503, operation="opening_create", times=1)


def _time_out(house: House) -> None:
    house.bank.bank.answers(408, operation="opening_create", times=1)


def _page(house: House) -> None:
    house.bank.bank.html("opening_create")


def _cut(house: House) -> None:
    house.bank.bank.truncated("opening_create")


def _hang(house: House) -> None:
    house.bank.bank.hang("opening_create")


@pytest.mark.parametrize(
    ("trouble", "status"),
    [(_drop, None), (_refuse_late, 503), (_time_out, 408), (_page, 200), (_cut, 201), (_hang, None)],
)
async def test_without_a_definite_answer_it_is_unknown_and_sent_once(
    house: House, trouble: Callable[[House], None], status: int | None
) -> None:
    """The bank may have it: no retry, no work, a named state for a person."""
    openings = await house.openings(config={"call_timeout": 1.0})
    trouble(house)

    opening = await openings.create(LFI, house.order())
    house.bank.bank.clear_faults()
    house.clock.advance(days=2)
    outcomes = await house.turn(openings)

    assert (opening.state, opening.http_status, opening.account_id) == (S.UNKNOWN, status, None)
    assert opening.error is not None
    assert house.posts() == 1
    assert outcomes == {"unknown": 1}
    assert (await house.stored(opening.opening_id)).state is S.UNKNOWN


async def test_a_signed_yes_that_is_forged_is_in_doubt(house: House) -> None:
    """Somebody said yes, and it was not the LFI: whether it has the request nobody knows."""
    house.desk.configure(signed=True)
    house.bank.bank.forged("opening_create")

    opening = await (await house.openings()).create(LFI, house.order())

    assert (opening.state, opening.error) == (S.UNKNOWN, "standard_violation")


async def test_a_process_that_dies_before_its_answer_leaves_an_unknown(house: House) -> None:
    """The intent was committed before the POST, so it is found; two minutes later nobody waits any more."""

    async def die(name: str) -> None:
        if name == "answered":
            raise asyncio.CancelledError

    dying, living = await house.openings(checkpoint=die), await house.openings()
    with pytest.raises(asyncio.CancelledError):
        await dying.create(LFI, house.order())
    opening_id = (await house.only()).opening_id

    early = await house.turn(living)
    house.clock.advance(seconds=SENDING_MAX.total_seconds())
    late = await house.turn(living)

    opening = await house.stored(opening_id)
    assert (early, late) == ({}, {"unknown": 1})
    assert (opening.state, opening.error) == (S.UNKNOWN, "interrupted")
    assert house.posts() == 1


async def test_an_answer_that_comes_after_it_was_given_up_still_counts(house: House) -> None:
    """Only a person could have found that out otherwise."""
    living = await house.openings()

    async def slow(name: str) -> None:
        if name == "answered":
            house.clock.advance(seconds=SENDING_MAX.total_seconds())
            assert await house.turn(living) == {"unknown": 1}

    opening = await (await house.openings(checkpoint=slow)).create(LFI, house.order())

    assert [state for state, _, _ in await house.history(opening.opening_id)] == [S.SENDING, S.UNKNOWN, S.PENDING]
    assert opening.error is None


# -- what a person finds out -------------------------------------------------------------------------------------------


async def unknown(house: House, openings: Openings) -> str:
    """The id of an opening the bank has and we do not know of."""
    house.bank.bank.drop_response("opening_create")
    return (await openings.create(LFI, house.order())).opening_id


async def test_an_unknown_one_is_followed_once_a_person_knows_its_account_id(house: House) -> None:
    """The bank is asked before anything changes."""
    openings = await house.openings()
    opening_id = await unknown(house, openings)
    (held,) = house.desk.facts()

    settled = await openings.settle(opening_id, account_id=held["account_id"])

    assert (settled.state, settled.account_id, settled.error) == (S.PENDING, held["account_id"], None)
    assert (await house.history(opening_id))[-1] == (S.PENDING, "Pending", "person")
    assert (await house.work(opening_id)).due_at < house.clock.now() + timedelta(minutes=16)


async def test_a_wrong_account_id_settles_nothing(house: House) -> None:
    """A slip of a person must not bind an opening to somebody else's."""
    openings = await house.openings()
    opening_id = await unknown(house, openings)

    with pytest.raises(RefusedError):
        await openings.settle(opening_id, account_id="4711")

    assert (await house.stored(opening_id)).state is S.UNKNOWN


async def test_an_unknown_one_that_the_lfi_has_not_is_closed(house: House) -> None:
    """An end like the others; a new request is a new opening."""
    openings = await house.openings()
    opening_id = await unknown(house, openings)

    settled = await openings.settle(opening_id, account_id=None)

    assert settled.state is S.NOT_CREATED
    with pytest.raises(RequestError, match="is not_created, not unknown"):
        await openings.settle(opening_id, account_id=None)


# -- what is never sent ------------------------------------------------------------------------------------------------


async def refused(house: House, create: Awaitable[object], error: type[SyncWorkerError], says: str) -> None:
    with pytest.raises(error, match=says):
        await create
    assert house.posts() == 0
    async with house.store.reading() as unit:
        assert await unit.openings.find() == []


async def test_switched_off_nothing_is_sent(house: House) -> None:
    """The switch is per LFI, and off unless it is set."""
    openings = await house.openings(None)

    await refused(house, openings.create(LFI, house.order()), SettingsError, r"lfis\.sandbox\.openings: .*is off")


async def test_an_lfi_whose_scopes_lack_it_is_not_asked(house: House) -> None:
    """D-24: a server that lists its scopes without this one does not offer it."""

    class Elsewhere(LFIClient):
        async def discovery(self) -> Discovery:
            found = await super().discovery()
            return replace(found, raw={**found.raw, "scopes_supported": ["openid", "accounts"]})

    openings = await house.openings(kind=Elsewhere)

    await refused(house, openings.create(LFI, house.order()), SetupError, "scopes_supported does not list")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"body": {}}, "body: not a request of v2.1: Data: is missing"),
        ({"user_ref": ""}, "user_ref: must have 1 to 128"),
        ({"user_ref": "x" * 129}, "user_ref: must have 1 to 128"),
        ({"share": ShareWish(permissions=("ReadBalance",), days=30)}, "share: "),
        ({"share": ShareWish(permissions=("ReadAccountsBasic",), days=365)}, "days: must be 1 to 364"),
        ({"body": body(FullName="\ud800")}, "body: holds text that is not Unicode"),
    ],
)
async def test_a_bad_order_is_refused_before_anything_is_sent(house: House, changes: dict[str, Any], says: str) -> None:
    """With the field and the fix."""
    openings = await house.openings()

    await refused(house, openings.create(LFI, house.order(**changes)), RequestError, says)


@pytest.mark.parametrize(
    ("allowed", "user_ref"),
    [
        (Allowed(lfis=frozenset({"other"})), "customer-1"),
        (Allowed(user_refs=frozenset({"customer-2"})), "customer-1"),
        (Allowed(user_refs=frozenset({"customer-2"})), None),
    ],
)
async def test_outside_the_allow_lists_nothing_is_sent(house: House, allowed: Allowed, user_ref: str | None) -> None:
    """Live proving opens no account of anybody else."""
    openings = await house.openings(allowed=allowed)

    await refused(house, openings.create(LFI, house.order(user_ref=user_ref)), NotAllowedError, r"^allow\.")


async def test_behind_a_closed_gate_nothing_is_noted_and_nothing_sent(house: House) -> None:
    """A request that was never made must not look like one in doubt."""
    async with house.store.writing() as unit:
        await unit.lfis.close_gate(LFI, until=house.clock.now() + timedelta(minutes=5))
        await unit.commit()
    control = TrafficControl(house.store, LocalAdmission({}), clock=house.clock)
    house.stack.push_async_callback(control.close)
    openings = await house.openings(traffic=control.of(LFI))

    await refused(house, openings.create(LFI, house.order()), GateClosedError, "the gate is closed")


async def test_an_lfi_is_followed_in_the_version_it_was_asked_in(house: House) -> None:
    """The switch moves on; what is under way stays where it began."""
    before = await house.openings(V.V2_0_ERRATA1)
    opening = await before.create(LFI, house.order())
    after = await house.openings(V.V2_1)

    asked = await after.ask(opening)

    assert asked == replace(opening, heard_at=house.clock.now())

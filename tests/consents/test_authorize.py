"""A consent is asked for once, comes home once, and nothing foreign comes with it."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pytest

from syncworker.consents.authorize import Completed, Ending
from syncworker.errors import AuthorizationFailedError, RequestError
from syncworker.standard.permissions import Permission
from syncworker.standard.values import ConsentId
from syncworker.store.unit_of_work import Store
from syncworker.store.work import WorkKind
from tests.consents.house import LFI, House, request, token_due
from tests.ground.clock import ManualClock

pytestmark = pytest.mark.flow


def changed(url: str, **parameters: str | None) -> str:
    """The same URL with other parameters; `None` takes one away."""
    parts = urlsplit(url)
    query = {name: value for name, value in {**dict(parse_qsl(parts.query)), **parameters}.items() if value is not None}
    return urlunsplit(parts._replace(query=urlencode(query)))


async def outcome(house: House, consent_id: ConsentId) -> str | None:
    async with house.store.reading() as unit:
        row = await unit.authorizations.of(consent_id)
    assert row is not None
    return row.outcome


async def test_a_consent_comes_home_with_tokens_and_work(house: House) -> None:
    """Connection, consent, tokens and both work rows are there at once, and the sync is due now."""
    now = house.clock.now()
    completed = await house.consented(user=1)

    consent, token = await house.consent(completed.consent_id), await house.token(completed.consent_id)
    async with house.store.reading() as unit:
        connection = await unit.consents.connection(completed.connection_id)
        sync = await unit.work.find(WorkKind.SYNC, completed.connection_id)
        refresh = await unit.work.find(WorkKind.TOKEN, completed.consent_id)
    assert completed == Completed(
        consent_id=completed.consent_id, connection_id=completed.consent_id, lfi=LFI, status="Authorized"
    )
    assert connection is not None
    assert sync is not None
    assert refresh is not None
    assert token.issued_at is not None
    assert token.expires_at is not None
    assert (connection.user_ref, connection.lfi) == ("customer-1", LFI)
    assert (consent.status, consent.permissions) == ("Authorized", ("ReadAccountsBasic", "ReadBalances"))
    assert (token.version, token.issued_at, token.expires_at) == (1, now, now + timedelta(seconds=600))
    assert (sync.due_at, refresh.due_at) == (now, token_due(completed.consent_id, token.issued_at, token.expires_at))
    assert await house.stored_is_current(completed.consent_id)


async def test_the_verifier_is_destroyed_with_the_first_use(house: House) -> None:
    """After the exchange neither code_verifier nor request_uri is left in the table."""
    completed = await house.consented()
    async with house.store.reading() as unit:
        row = await unit.authorizations.of(completed.consent_id)
    assert row is not None
    assert (row.code_verifier, row.request_uri, row.outcome) == (None, None, Ending.AUTHORIZED)
    assert row.used_at is not None


async def test_without_a_user_ref_the_root_consent_stands_for_the_user(house: House) -> None:
    """The product may have no id of its own for the customer."""
    authorizer = await house.authorizer()
    started = await authorizer.begin(LFI, request(house.clock))
    await authorizer.complete(await house.bank.approve(started.url, user=house.bank.users[0]))
    assert (await house.consent(started.consent_id)).user_ref == started.consent_id


@pytest.mark.parametrize(
    ("parameters", "cause"),
    [
        pytest.param({"state": "not-ours"}, Ending.UNKNOWN_STATE, id="a state that is not ours"),
        pytest.param({"state": "\x00"}, Ending.UNKNOWN_STATE, id="a state no database takes"),
        pytest.param({"iss": "https://mallory.example"}, Ending.WRONG_ISSUER, id="another issuer"),
        pytest.param({"iss": None}, Ending.WRONG_ISSUER, id="no issuer"),
    ],
)
async def test_a_redirect_that_is_not_ours_changes_nothing(
    house: House, parameters: dict[str, Any], cause: Ending
) -> None:
    """It is refused with a named cause, and the genuine redirect still works afterwards."""
    authorizer = await house.authorizer()
    started = await authorizer.begin(LFI, request(house.clock))
    redirect = await house.bank.approve(started.url, user=house.bank.users[0])

    with pytest.raises(AuthorizationFailedError) as failed:
        await authorizer.complete(changed(redirect, **parameters))

    assert failed.value.cause == cause
    assert (await authorizer.complete(redirect)).status == "Authorized"


async def test_a_redirect_works_once(house: House) -> None:
    """The second use is refused before the code is sent anywhere."""
    authorizer = await house.authorizer()
    started = await authorizer.begin(LFI, request(house.clock))
    redirect = await house.bank.approve(started.url, user=house.bank.users[0])
    await authorizer.complete(redirect)
    asked = len(house.bank.bank.log.tokens())

    with pytest.raises(AuthorizationFailedError) as failed:
        await authorizer.complete(redirect)

    assert (failed.value.cause, len(house.bank.bank.log.tokens())) == (Ending.USED, asked)
    assert await house.stored_is_current(started.consent_id)


async def test_two_processes_with_one_redirect_send_one_code(house: House) -> None:
    """A code sent twice would revoke what came of it; the row decides who sends it."""
    started = await (await house.authorizer()).begin(LFI, request(house.clock))
    redirect = await house.bank.approve(started.url, user=house.bank.users[0])
    others = [await house.authorizer() for _ in range(4)]

    ended = await asyncio.gather(*(one.complete(redirect) for one in others), return_exceptions=True)

    causes = sorted(end.cause or "" if isinstance(end, AuthorizationFailedError) else "completed" for end in ended)
    codes = [entry for entry in house.bank.bank.log.tokens() if entry.grant_type == "authorization_code"]
    assert causes == ["completed", "used", "used", "used"]
    assert [entry.outcome for entry in codes] == ["issued"]


async def test_a_declined_consent_is_filed_with_the_hubs_status(house: House) -> None:
    """The user said no: named, filed as Rejected, no tokens."""
    authorizer = await house.authorizer()
    started = await authorizer.begin(LFI, request(house.clock), user_ref="customer-9")
    redirect = await house.bank.decide(started.url, user=house.bank.users[0], approve=False)

    with pytest.raises(AuthorizationFailedError) as failed:
        await authorizer.complete(redirect)

    assert (failed.value.cause, failed.value.consent_id) == (Ending.DECLINED, started.consent_id)
    assert (await house.consent(started.consent_id)).status == "Rejected"
    assert await outcome(house, started.consent_id) == Ending.DECLINED
    async with house.store.reading() as unit:
        assert await unit.tokens.read(started.consent_id) is None


async def test_the_words_of_a_refusal_stay_with_the_authorisation(house: House) -> None:
    """For the operator: cleaned, beside the outcome, never in the error's text; erased with the personal data."""
    authorizer = await house.authorizer()
    started = await authorizer.begin(LFI, request(house.clock), user_ref="customer-9")
    redirect = await house.bank.decide(started.url, user=house.bank.users[0], approve=False)

    with pytest.raises(AuthorizationFailedError) as failed:
        await authorizer.complete(changed(redirect, error_description="limit\u202e reached\r\nfor ali@bank.ae"))
    async with house.store.reading() as unit:
        row = await unit.authorizations.of(started.consent_id)
    async with house.store.writing() as unit:
        erased = await unit.erasure.erase(started.consent_id)
        after = await unit.authorizations.of(started.consent_id)

    assert row is not None
    assert after is not None
    assert (failed.value.lfi_reason, row.reason) == ("limit reached for [masked]", "limit reached for [masked]")
    assert "limit" not in str(failed.value)
    assert (erased, after.outcome, after.reason) == ({"authorization.reason": 1}, Ending.DECLINED, None)


async def test_a_redirect_after_ten_minutes_is_too_old(house: House) -> None:
    """The code is not even tried, and the authorisation is used up."""
    authorizer = await house.authorizer()
    started = await authorizer.begin(LFI, request(house.clock))
    redirect = await house.bank.approve(started.url, user=house.bank.users[0])
    house.clock.advance(minutes=10, seconds=1)

    with pytest.raises(AuthorizationFailedError) as failed:
        await authorizer.complete(redirect)

    assert failed.value.cause == Ending.TOO_OLD
    assert await outcome(house, started.consent_id) == Ending.TOO_OLD


async def test_an_expired_code_is_named(house: House) -> None:
    """`invalid_grant` of a code: the user begins again."""
    authorizer = await house.authorizer()
    started = await authorizer.begin(LFI, request(house.clock))
    redirect = await house.bank.approve(started.url, user=house.bank.users[0])
    house.clock.advance(minutes=5)

    with pytest.raises(AuthorizationFailedError) as failed:
        await authorizer.complete(redirect)

    assert failed.value.cause == Ending.CODE_REFUSED


async def test_an_unanswered_exchange_is_named_and_not_repeated(house: House) -> None:
    """A code is good once: sending it again would revoke the grant it may have brought."""
    authorizer = await house.authorizer()
    started = await authorizer.begin(LFI, request(house.clock))
    redirect = await house.bank.approve(started.url, user=house.bank.users[0])
    house.bank.bank.drop_response("token.authorization_code")

    with pytest.raises(AuthorizationFailedError) as failed:
        await authorizer.complete(redirect)

    codes = [entry for entry in house.bank.bank.log.tokens() if entry.grant_type == "authorization_code"]
    assert (failed.value.cause, len(codes)) == (Ending.CODE_UNANSWERED, 1)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        pytest.param({"permissions": ()}, "permissions", id="no permission"),
        pytest.param({"permissions": ("ReadMinds",)}, "permissions", id="unknown permission"),
        pytest.param({"permissions": (Permission.ReadBalances,)}, "permissions", id="sub-resource without accounts"),
        pytest.param({"expires": timedelta(days=365)}, "expires_at", id="a year ahead"),
        pytest.param({"expires": timedelta(0)}, "expires_at", id="in the past"),
        pytest.param({"base_consent_id": ConsentId("nobody")}, "base_consent_id", id="a root we do not hold"),
    ],
)
async def test_a_request_the_hub_would_refuse_is_not_sent(house: House, changes: dict[str, Any], field: str) -> None:
    """The message names the field; the bank hears nothing."""
    if (ahead := changes.pop("expires", None)) is not None:
        changes["expires_at"] = house.clock.now() + ahead
    authorizer = await house.authorizer()

    with pytest.raises(RequestError, match=rf"^{field}: "):
        await authorizer.begin(LFI, request(house.clock, **changes))

    assert "par 200" not in house.bank.bank.log.counters


async def test_a_user_ref_must_fit_its_column(house: House) -> None:
    """1 to 128 printable characters."""
    with pytest.raises(RequestError, match=r"^user_ref: "):
        await (await house.authorizer()).begin(LFI, request(house.clock), user_ref="x" * 129)


async def test_a_successor_joins_the_connection_of_its_root(house: House) -> None:
    """A renewed consent belongs to the same connection and becomes its live consent."""
    first = await house.consented(user=0)
    house.clock.advance(minutes=1)
    second = await house.consented(user=0, base_consent_id=first.consent_id)

    async with house.store.reading() as unit:
        live = await unit.consents.live(first.connection_id)
    assert live is not None
    assert (second.connection_id, live.consent_id, live.base_consent_id) == (
        first.consent_id,
        second.consent_id,
        first.consent_id,
    )


async def test_tokens_of_an_exchange_are_stored_though_the_caller_leaves(
    house: House, open_store: Callable[..., Store], clock: ManualClock
) -> None:
    """A cancelled callback request does not cost the user their consent."""
    reached = asyncio.Event()

    def mark(name: str) -> None:
        if name == "answer-received":
            reached.set()

    authorizer = await house.authorizer(checkpoint=mark)
    started = await authorizer.begin(LFI, request(house.clock))
    redirect = await house.bank.approve(started.url, user=house.bank.users[0])
    caller = asyncio.create_task(authorizer.complete(redirect))
    await reached.wait()
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    await authorizer.drain()

    assert await house.stored_is_current(started.consent_id)

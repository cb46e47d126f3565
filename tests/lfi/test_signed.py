"""Signed answers (`application/jwt`): what is believed, what is not, and what is inside."""

import base64
import gzip
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from syncworker.errors import LFIUnavailableError, RefusedError, StandardViolationError
from syncworker.lfi.api import LFIClient, Page
from syncworker.lfi.directory import SignedAnswers
from syncworker.lfi.jose import UnknownKeyError, open_answer, read_keys
from syncworker.lfi.splitting import PartlyReadable
from syncworker.lfi.transport import Call
from syncworker.standard.resources import BY_NAME, ResourceName
from syncworker.standard.values import AccountId, ConsentId
from syncworker.standard.versions import Version
from tests.lfi.conftest import ClientMaker, MovableClock
from tests.lfi.raw_bank import BASE_PATH, CLIENT_ID, Identities, RawBank, http, json_of, says

pytestmark = pytest.mark.live

PATH = "/accounts/a-1/transactions"
DATA = b'{ "Transaction" : [ {"TransactionId":"1", "Rate":1.10, "New":{"x":[null]}} ] }'
MESSAGE = b'{"Data":' + DATA + b',"Links":{"Self":"https://x.example"},"Meta":{"TotalPages":1}}'
TYPES = ("application/jwt", "application/jwt; charset=utf-8", "Application/JWT", " APPLICATION/jwt ;x=y")

Answers = Callable[..., bytes]


async def _token(*, rejected: SecretStr | None = None) -> SecretStr:
    return SecretStr("t-1")


async def _read(client: LFIClient, calls: list[Call]) -> list[Page]:
    walk = client.pages(
        BY_NAME[ResourceName.TRANSACTIONS],
        AccountId("a-1"),
        version=Version.V2_1,
        params={},
        token=_token,
        calls=calls.append,
    )
    return [page async for page in walk]


def _claims(**changes: Any) -> dict[str, Any]:
    now = int(datetime.now(UTC).timestamp())
    plain = {"iss": "https://bank.example", "aud": [CLIENT_ID], "iat": now, "nbf": now, "exp": now + 300}
    return {name: value for name, value in (plain | changes).items() if value is not None}


@pytest.fixture
def signed(identities: Identities) -> Answers:
    """Makes the bytes of a signed answer."""

    def made(
        message: bytes = MESSAGE, *, status: int = 200, content_type: str = "application/jwt", **claims: Any
    ) -> bytes:
        return http(status, identities.signed_answer(_claims(**claims), message), content_type=content_type)

    return made


@pytest.mark.parametrize("content_type", TYPES)
async def test_a_signed_page_is_the_same_page(
    content_type: str, bank: RawBank, signed: Answers, client: LFIClient, calls: list[Call]
) -> None:
    """`Data` byte for byte, so that its digest is that of the unsigned page; media types in any spelling."""
    bank.says_pages(PATH, signed(content_type=content_type))

    (page,) = await _read(client, calls)

    assert (page.data, page.total_pages, page.next_url) == (DATA, 1, None)
    assert [(call.operation, call.price_class) for call in calls if call.price_class == "data"] == [
        ("GetAccountsAccountIdTransactions", "data")
    ]


async def test_a_signed_page_may_come_in_several_gzip_members(
    bank: RawBank, identities: Identities, client: LFIClient, calls: list[Call]
) -> None:
    """The signature is looked at once all members are read."""
    token = identities.signed_answer(_claims(), MESSAGE)
    members = b"".join(gzip.compress(token[at : at + 100]) for at in range(0, len(token), 100))
    bank.says_pages(PATH, http(body=members, content_type="application/jwt", content_encoding="gzip"))

    (page,) = await _read(client, calls)

    assert page.data == DATA


async def test_an_envelope_that_changes_changes_no_data(
    bank: RawBank, signed: Answers, client: LFIClient, calls: list[Call]
) -> None:
    """Every token has other times and another signature; what is compared is inside."""
    bank.says_pages(PATH, signed(), signed(iat=1, jti="x"), http(body=MESSAGE))

    pages = [(await _read(client, calls))[0].data for _ in range(3)]

    assert pages == [DATA] * 3


async def test_json_is_asked_for_unless_signed_answers_are_required(
    bank: RawBank, signed: Answers, client_of: ClientMaker, calls: list[Call]
) -> None:
    """The form is chosen by `Accept`; tokens and discovery stay JSON."""
    bank.says_pages(PATH, signed())
    for mode in (SignedAnswers.ACCEPT, SignedAnswers.REQUIRE):
        await _read(client_of(signed_answers=mode), calls)

    assert [request.headers["accept"] for request in bank.heard(f"{BASE_PATH}{PATH}")] == [
        "application/json",
        "application/jwt",
    ]
    assert {request.headers["accept"] for request in bank.requests if BASE_PATH not in request.path} == {
        "application/json"
    }


async def test_where_signed_answers_are_required_no_other_is_taken(
    bank: RawBank, signed: Answers, client_of: ClientMaker, calls: list[Call]
) -> None:
    """Nor one that lacks a claim the schema requires."""
    client = client_of(signed_answers=SignedAnswers.REQUIRE)
    bank.says_pages(PATH, http(body=MESSAGE), signed(exp=None), signed(nbf=None), signed(iss=None), signed())
    said = []
    for _ in range(4):
        with pytest.raises(StandardViolationError) as caught:
            await _read(client, calls)
        said.append(str(caught.value).partition(": ")[2])

    assert said == [
        "the answer is not signed, and signed_answers is require",
        "signed answer: exp is missing",
        "signed answer: nbf is missing",
        "signed answer: iss is missing",
    ]
    assert len(await _read(client, calls)) == 1


async def test_where_signed_answers_are_refused_json_alone_is_taken(
    bank: RawBank, signed: Answers, client_of: ClientMaker, calls: list[Call]
) -> None:
    """No key of the LFI is even fetched."""
    bank.says_pages(PATH, signed())
    with pytest.raises(StandardViolationError, match="Content-Type is not JSON"):
        await _read(client_of(signed_answers=SignedAnswers.REFUSE), calls)

    assert bank.heard("/jwks") == []


async def test_claims_may_be_missing_where_the_answer_might_be_unsigned(
    bank: RawBank, signed: Answers, client: LFIClient, calls: list[Call]
) -> None:
    """A signature alone says more than plain JSON; `aud` may be text."""
    bank.says_pages(
        PATH, signed(iss=None, aud=None, exp=None, nbf=None, iat=None), signed(aud=CLIENT_ID), signed(aud=[])
    )

    assert [len(await _read(client, calls)) for _ in range(3)] == [1, 1, 1]


PAST = int((datetime.now(UTC) - timedelta(minutes=5)).timestamp())
FALSE_CLAIMS = [
    pytest.param({"exp": PAST}, "exp has passed", id="expired"),
    pytest.param({"exp": "soon"}, "exp has passed", id="exp as words"),
    pytest.param({"nbf": PAST + 3600}, "nbf lies in the future", id="not yet"),
    pytest.param({"aud": ["another"]}, "aud does not contain our client id", id="for another"),
    pytest.param({"aud": {"a": 1}}, "aud does not contain our client id", id="aud as object"),
]


@pytest.mark.parametrize(("changes", "says_what"), FALSE_CLAIMS)
async def test_claims_that_do_not_hold_are_a_violation(
    changes: dict[str, Any], says_what: str, bank: RawBank, signed: Answers, client: LFIClient, calls: list[Call]
) -> None:
    """The page is left out, with the resource and the claim named."""
    bank.says_pages(PATH, signed(**changes))

    with pytest.raises(StandardViolationError, match=f"^GetAccountsAccountIdTransactions: signed answer: {says_what}"):
        await _read(client, calls)


def _spoilt(token: bytes) -> bytes:
    head, payload, signature = token.split(b".")
    return b".".join((head, payload, (b"B" if signature[:1] == b"A" else b"A") + signature[1:]))


def _without_signature(token: bytes) -> bytes:
    payload = token.split(b".")[1]
    return b"eyJhbGciOiJub25lIiwia2lkIjoiYmFuay0xIn0." + payload + b"."


FORGERIES = [
    pytest.param(_spoilt, id="another signature"),
    pytest.param(_without_signature, id="alg none"),
    pytest.param(lambda token: token.rpartition(b".")[0], id="two parts"),
    pytest.param(lambda _: b"", id="empty"),
    pytest.param(lambda _: MESSAGE, id="JSON that says it is a JWT"),
    pytest.param(lambda token: b"!" + token, id="not base64url"),
]


@pytest.mark.parametrize("forge", FORGERIES)
async def test_a_signature_that_does_not_hold_is_a_violation(
    forge: Callable[[bytes], bytes],
    bank: RawBank,
    identities: Identities,
    client: LFIClient,
    calls: list[Call],
) -> None:
    """Whatever is wrong with it, and at once."""
    token = forge(identities.signed_answer(_claims(), MESSAGE))
    bank.says_pages(PATH, http(body=token, content_type="application/jwt"))

    with pytest.raises(StandardViolationError, match=r"^GetAccountsAccountIdTransactions: signed answer: "):
        await _read(client, calls)

    assert len(bank.heard(f"{BASE_PATH}{PATH}")) == 1


def _with_hmac(secret: bytes) -> bytes:
    """Made by hand: no decent library takes a public key for a secret."""
    parts = (json_of({"alg": "HS256", "kid": "bank-1"}), b'{"message":' + MESSAGE + b"}")
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    return signed + b"." + base64.urlsafe_b64encode(hmac.digest(secret, signed, "sha256")).rstrip(b"=")


@pytest.mark.parametrize("algorithm", ["RS256", "PS384", "HS256"])
def test_ps256_alone_is_taken(algorithm: str, identities: Identities) -> None:
    """Also with a key the LFI has: an HMAC keyed with the public key is the old trick."""
    keys = read_keys(identities.jwks("bank-1"))
    if algorithm == "HS256":
        token = _with_hmac(keys["bank-1"].as_pem(private=False))
    else:
        token = identities.signed_answer(_claims(), MESSAGE, alg=algorithm)

    with pytest.raises(StandardViolationError, match="not signed with PS256"):
        open_answer(token, keys, client_id=CLIENT_ID, now=datetime.now(UTC), complete=False)


def test_the_key_is_the_one_its_kid_names(identities: Identities) -> None:
    """None is tried in turn."""
    keys = read_keys(identities.jwks("bank-1"))
    token = identities.signed_answer(_claims(), MESSAGE, kid="bank-2")

    with pytest.raises(UnknownKeyError):
        open_answer(token, keys, client_id=CLIENT_ID, now=datetime.now(UTC), complete=False)


async def test_a_new_key_of_the_lfi_is_looked_up_once(
    bank: RawBank, identities: Identities, client: LFIClient, clock: MovableClock, calls: list[Call]
) -> None:
    """The LFI rolled its key over: after at most a minute its answers are believed again."""
    bank.replies["/jwks"] = says(
        http(body=json_of(identities.jwks("bank-1"))), http(body=json_of(identities.jwks("bank-1", "bank-2")))
    )
    bank.says_pages(
        PATH, *(http(body=identities.signed_answer(_claims(), MESSAGE, kid=kid), content_type="application/jwt")
                for kid in ("bank-1", "bank-2"))
    )  # fmt: skip
    await _read(client, calls)
    clock.advance(seconds=61)

    assert (len(await _read(client, calls)), len(bank.heard("/jwks"))) == (1, 2)


async def test_keys_nobody_can_fetch_make_the_answer_wait(
    bank: RawBank, signed: Answers, client: LFIClient, calls: list[Call]
) -> None:
    """Not a violation of the LFI's: time mends it."""
    bank.says_pages(PATH, signed())
    bank.replies["/jwks"] = says(http(503))

    with pytest.raises(LFIUnavailableError):
        await _read(client, calls)


@pytest.mark.parametrize("good", [True, False], ids=["signed well", "signed badly"])
async def test_a_signed_refusal_keeps_its_status_and_its_code_if_the_signature_holds(
    good: bool, bank: RawBank, identities: Identities, client: LFIClient, calls: list[Call]
) -> None:
    """A code nobody vouches for moves nothing; the status alone counts then."""
    message = json_of({"Errors": [{"Code": "Consent.TransientAccountAccessFailure", "Message": "m"}]})
    token = identities.signed_answer(_claims(), message)
    bank.says_pages(PATH, http(403, token if good else _spoilt(token), content_type="application/jwt"))

    with pytest.raises(RefusedError) as caught:
        await _read(client, calls)

    assert (caught.value.status, caught.value.error_code) == (
        403,
        "Consent.TransientAccountAccessFailure" if good else "",
    )


async def test_what_is_inside_is_bounded_as_everything_is(
    bank: RawBank, signed: Answers, client: LFIClient, calls: list[Call]
) -> None:
    """A signature is no reason to nest 200,000 deep."""
    deep = b'{"Data":{},"Links":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    long = b'{"Data":{},"Links":{"Next":' + b"9" * 5000 + b"}}"
    bank.says_pages(PATH, signed(deep), signed(long), signed(b"[1]"))
    for _ in range(3):
        with pytest.raises(StandardViolationError):
            await _read(client, calls)

    assert len(bank.heard(f"{BASE_PATH}{PATH}")) == 3


async def test_an_item_nobody_can_read_leaves_the_signed_page_readable(
    bank: RawBank, signed: Answers, client: LFIClient, calls: list[Call]
) -> None:
    """Half a surrogate pair in it: `Data` byte for byte, for its items to be read one by one."""
    data = rb'{"Transaction":[{"TransactionId":"a \ud83c"},{"TransactionId":"b"}]}'
    bank.says_pages(PATH, signed(b'{"Data":' + data + b',"Links":{},"Meta":{"TotalPages":3}}'))

    (page,) = await _read(client, calls)

    assert (page.data, page.total_pages, type(page.data)) == (data, 3, PartlyReadable)


async def test_a_large_signed_page_is_read(
    bank: RawBank, signed: Answers, client: LFIClient, calls: list[Call]
) -> None:
    """Longer than any token: the limit is the one of pages."""
    items = [{"TransactionId": str(number), "Text": "x" * 500} for number in range(2000)]
    bank.says_pages(PATH, signed(json_of({"Data": {"Transaction": items}})))

    (page,) = await _read(client, calls)

    assert len(json.loads(page.data)["Transaction"]) == 2000


async def test_another_issuer_is_told_once_and_taken(
    bank: RawBank, signed: Answers, client: LFIClient, calls: list[Call]
) -> None:
    """Which of its names an LFI puts into `iss` is not published; the key is the proof."""
    bank.says_pages(PATH, signed(iss="https://other.example"))
    with structlog.testing.capture_logs() as events:
        for _ in range(3):
            await _read(client, calls)

    assert [event["event"] for event in events if event["log_level"] == "warning"] == [
        "signed answers name another issuer than the LFI's"
    ]


async def test_a_signed_consent_and_a_signed_chain_are_read(
    bank: RawBank, signed: Answers, client: LFIClient, calls: list[Call]
) -> None:
    """The chain's message is the bare array of the standard (D-33)."""
    one = {"Data": {"ConsentId": "c-1", "Status": "Authorized"}}
    bank.replies["/token"] = says(http(body=json_of({"access_token": "cc", "expires_in": 600})))
    bank.replies[f"{BASE_PATH}/account-access-consents/c-1"] = says(signed(json_of(one)))
    bank.replies[f"{BASE_PATH}/account-access-consents"] = says(signed(json_of([one])))

    view = await client.read_consent(ConsentId("c-1"), calls=calls.append)

    assert (view,) == await client.consents_of_base(ConsentId("c-1"), calls=calls.append)

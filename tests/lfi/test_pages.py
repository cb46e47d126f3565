"""Paged reads over real mTLS, against a bank that behaves as badly as it likes."""

import asyncio
import gzip
import json
import time
import tracemalloc
import uuid
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from pydantic import SecretStr

from syncworker.errors import (
    Body,
    ConsentNotUsableError,
    LFIRateLimitedError,
    LFIUnavailableError,
    RefusedError,
    SettingsError,
    SetupError,
    StandardViolationError,
    SyncWorkerError,
    TruncatedError,
)
from syncworker.lfi.api import Attendance, LFIClient, Page
from syncworker.lfi.directory import LFIConfig
from syncworker.lfi.splitting import PartlyReadable
from syncworker.lfi.traffic import FreeTraffic
from syncworker.lfi.transport import Call
from syncworker.standard.operations import OperationClass
from syncworker.standard.resources import BY_NAME, ResourceName
from syncworker.standard.values import AccountId
from syncworker.standard.versions import Version
from tests.lfi.conftest import ClientMaker, MovableClock
from tests.lfi.raw_bank import BASE_PATH, Identities, RawBank, Reply, Request, cuts, hangs, http, json_of, says

pytestmark = pytest.mark.live

TRANSACTIONS = BY_NAME[ResourceName.TRANSACTIONS]
ACCOUNTS = BY_NAME[ResourceName.ACCOUNTS]
PATH = "/accounts/a-1/transactions"


class Tokens:
    """A token source that counts: `t-1`, and one number more for each rejected one."""

    def __init__(self) -> None:
        self.number = 1
        self.rejected: list[str] = []

    async def __call__(self, *, rejected: SecretStr | None = None) -> SecretStr:
        if rejected is not None:
            self.rejected.append(rejected.get_secret_value())
            self.number += 1
        return SecretStr(f"t-{self.number}")


@pytest.fixture
def tokens() -> Tokens:
    return Tokens()


def _page(data: object, *, next_url: str | None = None, **meta: object) -> bytes:
    links = {"Self": "https://elsewhere.example/ignored"} | ({"Next": next_url} if next_url else {})
    return http(body=json_of({"Data": data, "Links": links, "Meta": {"TotalPages": 1} | meta}))


async def _read(
    client: LFIClient,
    tokens: Tokens,
    calls: list[Call],
    *,
    params: Mapping[str, str] | None = None,
    pages_max: int = 500,
    account: str = "a-1",
    attendance: Attendance | None = None,
) -> list[Page]:
    walk = client.pages(
        TRANSACTIONS,
        AccountId(account),
        version=Version.V2_1,
        params=params or {},
        token=tokens,
        calls=calls.append,
        pages_max=pages_max,
        attendance=attendance,
    )
    return [page async for page in walk]


async def test_pages_come_in_order_and_their_data_untouched(
    bank: RawBank, client: LFIClient, tokens: Tokens, calls: list[Call]
) -> None:
    """`Data` byte for byte: its digest decides whether anything changed."""
    raw = b'{ "Transaction" : [ {"Amount":{"Amount":"1.50000"},"X":1.10, "U":"\\u0644"} ] }'
    second = f"{bank.base_url}{PATH}?page=2&after=a%2Fb%3D"
    bank.replies[f"{BASE_PATH}{PATH}"] = says(
        http(body=b'{"Data":' + raw + b',"Links":{"Next":"' + second.encode() + b'"},"Meta":{"TotalPages":2}}'),
        _page({"Transaction": []}, FirstAvailableDateTime="2026-01-01T00:00:00+04:00", TotalPages=2),
    )

    first, last = await _read(client, tokens, calls)

    assert (first.number, first.data, first.next_url, first.total_pages) == (1, raw, second, 2)
    assert (last.number, last.data, last.next_url, last.first_available, last.last_available) == (
        2,
        b'{"Transaction": []}',
        None,
        datetime(2025, 12, 31, 20, tzinfo=UTC),
        None,
    )
    assert [request.target for request in bank.requests] == [f"{BASE_PATH}{PATH}", second.removeprefix(bank.origin)]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(rb'"gift \ud83c"', id="half a surrogate pair"),
        pytest.param(b'"\xff"', id="not UTF-8"),
        pytest.param(b"[" * 200_000 + b"]" * 200_000, id="200,000 nested arrays"),
        pytest.param(b"9" * 5000, id="5,000 digits"),
        pytest.param(b"NaN", id="NaN"),
    ],
)
async def test_what_cannot_be_read_inside_data_is_left_there(
    value: bytes, bank: RawBank, client: LFIClient, tokens: Tokens, calls: list[Call]
) -> None:
    """Links and Meta are read all the same, and the walk goes on."""
    data = b'{"Transaction":[{"TransactionId":"a","X":' + value + b'},{"TransactionId":"b"}]}'
    second = f"{bank.base_url}{PATH}?page=2"
    body = b'{"Data": ' + data + b' ,"Links":{"Next":"' + second.encode() + b'"},"Meta":{"TotalPages":2}}'
    bank.replies[f"{BASE_PATH}{PATH}"] = says(http(body=body), _page({"Transaction": []}))

    first, last = await _read(client, tokens, calls)

    assert (first.data, first.next_url, first.total_pages) == (data, second, 2)
    assert (type(first.data), type(last.data)) == (PartlyReadable, bytes)


async def test_a_request_carries_what_the_standard_wants_and_no_more(
    bank: RawBank, client: LFIClient, tokens: Tokens, calls: list[Call]
) -> None:
    """Trap 13: nothing about a customer from a background job; ids encoded, `+` and `:` too."""
    bank.replies[f"{BASE_PATH}/accounts/a%2F..%2F%3F%C3%A9/transactions"] = says(_page({}))

    await _read(client, tokens, calls, account="a/../?é", params={"fromBookingDateTime": "2026-01-01T00:00:00+04:00"})

    (request,) = bank.requests
    interaction_id = request.headers.pop("x-fapi-interaction-id")
    assert request.target == (
        f"{BASE_PATH}/accounts/a%2F..%2F%3F%C3%A9/transactions?fromBookingDateTime=2026-01-01T00%3A00%3A00%2B04%3A00"
    )
    assert {name: value for name, value in request.headers.items() if name and name != "host"} == {
        "authorization": "Bearer t-1",
        "accept": "application/json",
        "accept-encoding": "gzip",
        "user-agent": "syncworker/0.1.0",
    }
    assert interaction_id == calls[0].interaction_id
    assert (uuid.UUID(interaction_id).version, str(uuid.UUID(interaction_id))) == (4, interaction_id)


async def test_an_attended_call_says_so(bank: RawBank, client: LFIClient, tokens: Tokens, calls: list[Call]) -> None:
    """Only then the customer's headers go out, and the call is marked."""
    bank.says_pages(PATH, _page({}))
    seen = datetime(2026, 11, 21, 10, tzinfo=UTC)

    await _read(client, tokens, calls, attendance=Attendance(ip="192.0.2.1", auth_date=seen, user_agent="Phone/1"))

    sent = bank.requests[0].headers
    assert (
        sent["x-fapi-customer-ip-address"],
        sent["x-fapi-auth-date"],
        sent["x-customer-user-agent"],
        calls[0].attended,
    ) == ("192.0.2.1", "Sat, 21 Nov 2026 10:00:00 GMT", "Phone/1", True)


async def test_each_attempt_leaves_a_call(bank: RawBank, client: LFIClient, tokens: Tokens, calls: list[Call]) -> None:
    """Two failures and a success: three interaction ids, only the success has a price."""
    bank.says_pages(
        PATH, http(503), http(500, json_of({"Errors": [{"Code": "GenericError", "Message": "m"}]})), _page({})
    )

    await _read(client, tokens, calls, params={"fromBookingDateTime": "2026-01-01"})

    assert [(c.operation, c.method, c.status, c.error_code, c.price_class, c.attended) for c in calls] == [
        ("GetAccountsAccountIdTransactions", "GET", 503, "http_503", "free", False),
        ("GetAccountsAccountIdTransactions", "GET", 500, "GenericError", "free", False),
        ("GetAccountsAccountIdTransactions", "GET", 200, "", "data", False),
    ]
    assert len({call.interaction_id for call in calls}) == 3
    assert [request.headers["x-fapi-interaction-id"] for request in bank.requests] == [c.interaction_id for c in calls]


async def test_a_lost_connection_is_tried_again_with_another_interaction_id(
    bank: RawBank, client: LFIClient, tokens: Tokens, calls: list[Call]
) -> None:
    """Also on a connection that was kept open: nothing is sent twice behind our back."""
    turns = [says(_page({})), cuts, says(_page({}))]

    async def reply(request: Request, writer: asyncio.StreamWriter) -> None:
        await turns.pop(0)(request, writer)

    bank.replies[f"{BASE_PATH}{PATH}"] = reply
    await _read(client, tokens, calls)
    await _read(client, tokens, calls)

    assert [(call.status, call.error_code) for call in calls] == [(200, ""), (None, "lost"), (200, "")]
    assert len({request.headers["x-fapi-interaction-id"] for request in bank.requests}) == len(bank.requests) == 3


def _errors(code: str) -> bytes:
    return json_of({"Errors": [{"Code": code, "Message": "m"}]})


SCOPE = "AccessToken.InvalidScope"
FAULTS = [
    pytest.param([http(400, _errors("Consent.Invalid"))], (RefusedError, 400, "Consent.Invalid", 1), id="400"),
    pytest.param([http(403, _errors(SCOPE))], (RefusedError, 403, SCOPE, 1), id="403"),
    pytest.param([http(404)], (RefusedError, 404, "", 1), id="404"),
    pytest.param([http(406)], (RefusedError, 406, "", 1), id="406"),
    pytest.param([http(401)], (RefusedError, 401, "", 2), id="401 twice"),
    pytest.param([http(429, retry_after="60")], (LFIRateLimitedError, 60.0, None, 1), id="429"),
    pytest.param([http(500)], (LFIUnavailableError, None, None, 3), id="500 three times"),
    pytest.param([http(503, retry_after="120")], (LFIUnavailableError, 120.0, None, 1), id="503 with a long wait"),
    pytest.param([http(302, location="https://evil.example/")], (StandardViolationError, None, None, 1), id="redirect"),
    pytest.param([http(204)], (StandardViolationError, None, None, 1), id="204"),
]  # fmt: skip


@pytest.mark.parametrize(("answers", "expected"), FAULTS)
async def test_an_answer_that_is_no_page_says_who_has_to_act(
    answers: list[bytes],
    expected: tuple[type[Exception], object, object, int],
    bank: RawBank,
    client: LFIClient,
    tokens: Tokens,
    calls: list[Call],
) -> None:
    """Error class, its facts, and how many requests it took."""
    bank.says_pages(PATH, *answers)
    with pytest.raises(SyncWorkerError) as caught:
        await _read(client, tokens, calls)

    error = caught.value
    facts = (getattr(error, "status", getattr(error, "retry_after", None)), getattr(error, "error_code", None))
    assert (type(error), *facts, len(bank.requests)) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(http(404), (Body.NONE, "application/json", "", ""), id="no body"),
        pytest.param(http(404, b" \r\n"), (Body.NONE, "application/json", "", ""), id="blanks"),
        pytest.param(
            http(403, _errors(SCOPE)), (Body.STANDARD, "application/json", SCOPE, "m"), id="the standard's error body"
        ),
        pytest.param(
            http(400, _errors("not a code"), content_type="text/plain"),
            (Body.FOREIGN, "text/plain", "unreadable", "m"),
            id="a code that is none",
        ),
        pytest.param(http(400, b'{"Errors": []}'), (Body.FOREIGN, "application/json", "", ""), id="no error in it"),
        pytest.param(
            http(404, b"<html>", content_type="text/html; charset=ISO-8859-1"),
            (Body.FOREIGN, "text/html", "", ""),
            id="a gateway's page",
        ),
    ],
)
async def test_a_refusal_says_what_its_body_was(
    answer: bytes,
    expected: tuple[Body, str, str, str],
    bank: RawBank,
    client: LFIClient,
    tokens: Tokens,
    calls: list[Call],
) -> None:
    """The standard's, a foreign one, or none: a gateway's page says nothing about a listing."""
    bank.says_pages(PATH, answer)
    with pytest.raises(RefusedError) as caught:
        await _read(client, tokens, calls)

    error = caught.value
    assert (error.body, error.content_type, error.error_code, error.lfi_reason, error.page) == (*expected, 1)


async def test_a_refusal_says_on_which_page_it_was_met(
    bank: RawBank, client: LFIClient, tokens: Tokens, calls: list[Call]
) -> None:
    """On a later one the walk was cut."""
    bank.says_pages(PATH, _page({}, next_url=f"{bank.base_url}{PATH}?page=2"), http(404))
    with pytest.raises(RefusedError) as caught:
        await _read(client, tokens, calls)

    assert caught.value.page == 2


async def test_a_401_whose_token_is_to_be_kept_is_not_repeated(
    bank: RawBank, client: LFIClient, calls: list[Call]
) -> None:
    """The source gives the same token back: the 401 says nothing about it."""

    async def kept(*, rejected: SecretStr | None = None) -> SecretStr:
        return rejected or SecretStr("t-1")

    bank.says_pages(PATH, http(401))
    walk = client.pages(ACCOUNTS, None, version=Version.V2_1, params={}, token=kept, calls=calls.append)
    with pytest.raises(RefusedError):
        await anext(walk)

    assert len(bank.requests) == 1


async def test_an_unauthorized_code_is_a_401_whatever_the_status(
    bank: RawBank, client: LFIClient, tokens: Tokens, calls: list[Call]
) -> None:
    """v1.2 has one list of codes for all statuses."""
    bank.says_pages(PATH, http(403, _errors("AccessToken.Unauthorized")), _page({}))

    await _read(client, tokens, calls)

    assert tokens.rejected == ["t-1"]


async def test_a_401_asks_once_for_a_newer_token(
    bank: RawBank, client: LFIClient, tokens: Tokens, calls: list[Call]
) -> None:
    """And names the one that was refused."""
    bank.says_pages(PATH, http(401), _page({}))

    await _read(client, tokens, calls)

    assert (tokens.rejected, [request.headers["authorization"] for request in bank.requests]) == (
        ["t-1"],
        ["Bearer t-1", "Bearer t-2"],
    )


async def test_without_a_token_nothing_is_sent(bank: RawBank, client: LFIClient, calls: list[Call]) -> None:
    """The token source's own error comes through."""

    async def none(*, rejected: SecretStr | None = None) -> SecretStr:
        raise ConsentNotUsableError("revoked", consent_id="c-1")

    walk = client.pages(ACCOUNTS, None, version=Version.V2_1, params={}, token=none, calls=calls.append)
    with pytest.raises(ConsentNotUsableError):
        await anext(walk)

    assert (bank.requests, calls) == ([], [])


HTML = b"<html>" + b"x" * 2000


def _deep() -> bytes:
    return http(body=b'{"Data":{},"Links":' + b"[" * 200_000 + b"]" * 200_000 + b"}")


def _bomb() -> bytes:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = b"".join(squeeze.compress(b" " * 1_000_000) for _ in range(300)) + squeeze.flush()
    return http(body=packed, content_encoding="gzip")


VIOLATIONS = [
    pytest.param(lambda: http(body=HTML, content_type="text/html"), "Content-Type is not JSON", id="HTML with 200"),
    pytest.param(lambda: http(body=HTML), "no JSON object", id="HTML that says it is JSON"),
    pytest.param(_deep, "nested deeper than 50", id="200,000 nested arrays"),
    pytest.param(
        lambda: http(body=b'{"Data":{},"Links":{"Next":%s}}' % (b"9" * 5000)), "a number of more", id="5,000 digits"
    ),
    pytest.param(lambda: http(body=b'{"Data":{},"Links":{"Next":"\xff"}}'), "not UTF-8", id="a link that is not UTF-8"),
    pytest.param(lambda: http(body=b'{"Data":{"a":"\\ud83c"},"Links":7}'), "no JSON object", id="no links to read"),
    pytest.param(lambda: http(body=b'{"Data":{"a":"\\ud83c"'), "no JSON object", id="cut off"),
    pytest.param(_bomb, "larger than 10485760 bytes when decoded", id="gzip bomb"),
    pytest.param(lambda: http(body=b"x" * 11_000_000), "larger than 10485760 bytes", id="11 MB"),
    pytest.param(lambda: http(body=b"x", content_encoding="br"), "neither gzip nor identity", id="brotli"),
    pytest.param(lambda: http(body=b"x", content_encoding="gzip"), "gzip", id="not gzip"),
    pytest.param(lambda: http(x_long="v" * 9000), "not HTTP as we read it", id="a header of 9 KB"),
    pytest.param(lambda: http(more={f"x-{i}": "v" * 800 for i in range(110)}), "headers: larger", id="88 KB"),
    pytest.param(lambda: http(more={f"x-{i}": "v" for i in range(5000)}), "not HTTP as we read it", id="5,000 headers"),
    pytest.param(lambda: b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP as we read it", id="another protocol"),
    pytest.param(lambda: http(body=b'{"Links":{}}'), "no JSON object with Data", id="no Data"),
    pytest.param(lambda: http(body=b'{"Data":null}'), "Data: not an object", id="null Data"),
    pytest.param(lambda: http(body=b'{"Data":[1]}'), "Data: not an object", id="list Data"),
    pytest.param(lambda: http(body=b'{"Data":{},"Links":{"Next":7}}'), "no JSON object with Data", id="number as link"),
    pytest.param(lambda: _page({}, next_url="https://evil.example/x"), "another path", id="foreign link"),
]


@pytest.mark.parametrize(("make", "says_what"), VIOLATIONS)
async def test_an_unfit_page_is_a_violation_at_once_and_in_little_memory(
    make: object, says_what: str, bank: RawBank, client: LFIClient, tokens: Tokens, calls: list[Call]
) -> None:
    """One request, no retry, memory bounded, and the client works on afterwards."""
    assert callable(make)
    bank.says_pages(PATH, make(), _page({}))
    tracemalloc.start()
    try:
        with pytest.raises(StandardViolationError, match=says_what):
            await _read(client, tokens, calls)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert (len(bank.requests), peak < 60_000_000) == (1, True)
    assert len(await _read(client, tokens, calls)) == 1


async def test_a_link_to_another_host_is_followed_at_home(
    bank: RawBank, identities: Identities, client: LFIClient, tokens: Tokens, calls: list[Call]
) -> None:
    """LFIs write the host they know themselves by.  The other host hears nothing: the token never leaves."""
    other = RawBank(identities)
    await other.start()
    bank.says_pages(PATH, _page({"n": 1}, next_url=f"{other.base_url}{PATH}?after=a%2Fb%3D"), _page({"n": 2}))
    try:
        pages = await _read(client, tokens, calls)
    finally:
        await other.stop()

    assert [json.loads(page.data)["n"] for page in pages] == [1, 2]
    assert [request.target for request in bank.requests if BASE_PATH in request.path] == [
        f"{BASE_PATH}{PATH}",
        f"{BASE_PATH}{PATH}?after=a%2Fb%3D",
    ]
    assert (other.requests, other.connections) == ([], 0)


async def test_a_link_to_another_path_is_refused(
    bank: RawBank, identities: Identities, client: LFIClient, tokens: Tokens, calls: list[Call]
) -> None:
    """The page stays good, no host hears more of us, and the link is not repeated in the message."""
    other = RawBank(identities)
    await other.start()
    bank.says_pages(PATH, _page({}, next_url=f"{other.base_url}/accounts?secret-cursor"))
    try:
        with pytest.raises(TruncatedError) as caught:
            await _read(client, tokens, calls)
    finally:
        await other.stop()

    assert (other.requests, other.connections, len(bank.requests)) == ([], 0, 1)
    assert "secret-cursor" not in str(caught.value)


@pytest.mark.parametrize("account", ["a b", "a/b", "100%", "%2e%2e", "\u0644-\U0001f600", "a+b", "a?b#c", ";x"])
async def test_an_id_of_any_characters_is_walked_to_its_last_page(
    account: str, bank: RawBank, client: LFIClient, tokens: Tokens, calls: list[Call]
) -> None:
    """Our own encoding of it stays valid in the link, whole or relative."""
    path = f"/accounts/{quote(account, safe='')}/transactions"
    bank.says_pages(
        path, _page({}, next_url=f"{bank.base_url}{path}?p=2"), _page({}, next_url=f"{BASE_PATH}{path}?p=3"), _page({})
    )

    assert len(await _read(client, tokens, calls, account=account)) == 3
    assert [request.target for request in bank.requests] == [f"{BASE_PATH}{path}{q}" for q in ("", "?p=2", "?p=3")]


async def test_a_circle_of_links_ends(bank: RawBank, client: LFIClient, tokens: Tokens, calls: list[Call]) -> None:
    """Three pages that lead round and round: each is read once."""
    first = f"{bank.base_url}{PATH}"
    bank.says_pages(PATH, *(_page({}, next_url=url) for url in (f"{first}?p=2", f"{first}?p=3", f"{first}?p=2")))

    with pytest.raises(StandardViolationError, match="in a circle"):
        await _read(client, tokens, calls)

    assert len(bank.requests) == 3


async def test_an_endless_walk_ends_at_its_limit(
    bank: RawBank, client: LFIClient, tokens: Tokens, calls: list[Call]
) -> None:
    """Pages already yielded stay valid."""
    bank.says_pages(PATH, *(_page({"n": n}, next_url=f"{bank.base_url}{PATH}?p={n}") for n in range(10)))
    seen: list[int] = []
    walk = client.pages(
        TRANSACTIONS, AccountId("a-1"), version=Version.V2_1, params={}, token=tokens, calls=calls.append, pages_max=5
    )

    async def collect() -> None:
        async for page in walk:
            seen.append(page.number)  # noqa: PERF401  a comprehension would lose what came before the error

    with pytest.raises(StandardViolationError, match="more than 5 pages"):
        await collect()

    assert (seen, len(bank.requests)) == ([1, 2, 3, 4, 5], 5)


def _drips(total: int) -> Reply:
    async def reply(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(http(length=total))
        for _ in range(total):
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)

    return reply


NO_ANSWERS = [
    pytest.param(_drips(10_000), "timeout", 200, id="a byte at a time"),
    pytest.param(hangs, "timeout", None, id="hangs"),
    pytest.param(cuts, "lost", None, id="cut after the request"),
]


@pytest.mark.parametrize(("reply", "code", "status"), NO_ANSWERS)
async def test_a_call_ends_at_its_deadline_however_the_bytes_come(
    reply: Reply,
    code: str,
    status: int | None,
    bank: RawBank,
    client_of: ClientMaker,
    tokens: Tokens,
    calls: list[Call],
) -> None:
    """Rule 14: the deadline is for the whole answer; three attempts, each of them a call."""
    bank.replies[f"{BASE_PATH}{PATH}"] = reply
    started = time.monotonic()
    with pytest.raises(LFIUnavailableError):
        await _read(client_of(call_timeout=0.3), tokens, calls)

    assert [(call.error_code, call.status) for call in calls] == [(code, status)] * 3
    assert time.monotonic() - started < 3


async def test_a_body_shorter_than_promised_is_no_answer(
    bank: RawBank, client: LFIClient, tokens: Tokens, calls: list[Call]
) -> None:
    """A wrong Content-Length followed by the end of the connection: tried again, then unavailable."""

    async def reply(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(http(body=b'{"Data":{}}', length=500))
        await writer.drain()
        writer.close()

    bank.replies[f"{BASE_PATH}{PATH}"] = reply
    with pytest.raises(LFIUnavailableError):
        await _read(client, tokens, calls)

    assert [(call.error_code, call.status) for call in calls] == [("lost", 200)] * 3


async def test_a_gzipped_page_is_read_and_counted_as_it_travelled(
    bank: RawBank, client: LFIClient, tokens: Tokens, calls: list[Call]
) -> None:
    """`bytes_in` is the size on the wire."""
    packed = gzip.compress(json_of({"Data": {"Transaction": ["x"] * 1000}}))
    bank.says_pages(PATH, http(body=packed, content_encoding="gzip"))

    (page,) = await _read(client, tokens, calls)

    assert (len(json.loads(page.data)["Transaction"]), calls[0].bytes_in) == (1000, len(packed))


def _in_members(document: bytes, size: int = 40) -> bytes:
    """As a server that compresses chunk by chunk sends it (RFC 1952 \u00a72.2)."""
    return b"".join(gzip.compress(document[at : at + size]) for at in range(0, len(document), size))


async def test_gzip_of_several_members_is_read_on_both_transports(
    bank: RawBank, client: LFIClient, tokens: Tokens, calls: list[Call]
) -> None:
    """The discovery document over the one for control calls, the page over the one for data."""
    discovery = "/.well-known/openid-configuration"
    bank.replies[discovery] = says(http(body=_in_members(json_of(bank.discovery())), content_encoding="gzip"))
    bank.says_pages(PATH, http(body=_in_members(json_of({"Data": {"n": "x" * 500}})), content_encoding="gzip"))

    await client.discovery()
    (page,) = await _read(client, tokens, calls)

    assert json.loads(page.data) == {"n": "x" * 500}


async def test_a_bomb_in_a_later_member_is_stopped(
    bank: RawBank, client: LFIClient, tokens: Tokens, calls: list[Call]
) -> None:
    """The bound is on all members together."""
    members = [gzip.compress(b'{"Data":'), gzip.compress(b" "), gzip.compress(b" " * 64_000_000)]
    bank.says_pages(PATH, http(body=b"".join(members), content_encoding="gzip"))

    with pytest.raises(TruncatedError, match="when decoded"):
        await _read(client, tokens, calls)


async def test_a_meta_nobody_can_read_counts_as_none(
    bank: RawBank, client: LFIClient, tokens: Tokens, calls: list[Call]
) -> None:
    """It is information, not the page."""
    bank.says_pages(
        PATH,
        http(body=b'{"Data":{},"Meta":["odd"]}'),
        http(body=b'{"Data":{},"Links":null,"Meta":{"TotalPages":"3","FirstAvailableDateTime":"soon"},"More":{}}'),
    )

    pages = [*await _read(client, tokens, calls), *await _read(client, tokens, calls)]

    assert [(page.total_pages, page.first_available) for page in pages] == [(None, None), (3, None)]


TOLERATED = [
    pytest.param(b'{"Data":{}}', {}, id="nothing but an empty Data"),
    pytest.param(b"\xef\xbb\xbf" + b'{"Data":{"a":1}}', {"a": 1}, id="byte order mark"),
    pytest.param(b' \r\n{"Data": {"a":1}}\n', {"a": 1}, id="white space around it"),
    pytest.param(b'{"Data":{},"Links":{"Self":"x","Next":""}}', {}, id="empty Next"),
    pytest.param(b'{"Data":{},"Links":{"Self":7,"Next":null}}', {}, id="null Next, odd Self"),
    pytest.param(b'{"Data":{},"Links":{},"Meta":null}', {}, id="null Meta"),
    pytest.param(b'{"Data":{"a":1,"New":{"b":[]}},"More":[1],"Risk":{}}', {"a": 1, "New": {"b": []}}, id="extra"),
    pytest.param(b'{"data":{"x":1},"Data":{"a":1}}', {"a": 1}, id="a member in another case beside it"),
]


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON ; Charset=UTF-8", "application/x+json"])
@pytest.mark.parametrize(("body", "data"), TOLERATED)
async def test_a_page_that_is_a_little_odd_is_read(
    body: bytes,
    data: dict[str, object],
    content_type: str,
    bank: RawBank,
    client: LFIClient,
    tokens: Tokens,
    calls: list[Call],
) -> None:
    """Fields missing or extra, media types in any spelling: what is needed is there."""
    bank.says_pages(PATH, http(body=body, content_type=content_type))

    (page,) = await _read(client, tokens, calls)

    assert (json.loads(page.data), page.next_url) == (data, None)


async def test_cookies_are_neither_kept_nor_sent(
    bank: RawBank, client: LFIClient, tokens: Tokens, calls: list[Call]
) -> None:
    """One customer's would go out with the next one's call."""
    bank.says_pages(PATH, http(body=b'{"Data":{}}', set_cookie="session=1; Path=/; Secure"))

    await _read(client, tokens, calls)
    await _read(client, tokens, calls)

    assert ["cookie" in request.headers for request in bank.requests] == [False, False]


async def test_the_environment_sets_no_proxy(
    bank: RawBank, client: LFIClient, tokens: Tokens, calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`trust_env` is off: a variable cannot send our token through someone else."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    bank.says_pages(PATH, _page({}))

    await client.discovery()

    assert len(await _read(client, tokens, calls)) == 1


async def test_connections_are_kept_and_never_more_than_allowed(
    bank: RawBank, client_of: ClientMaker, tokens: Tokens, calls: list[Call]
) -> None:
    """40 reads over 4 connections; the rest wait in front of the pool."""

    async def reply(_request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.005)
        writer.write(_page({}))

    bank.replies[f"{BASE_PATH}{PATH}"] = reply
    client = client_of(connections=4)
    await asyncio.gather(*(_read(client, tokens, calls) for _ in range(40)))

    assert (bank.connections, len(bank.requests)) == (4, 40)


async def test_a_bank_we_cannot_verify_hears_nothing(
    bank: RawBank, client_of: ClientMaker, tokens: Tokens, calls: list[Call]
) -> None:
    """Rule 35: without its root the handshake fails, and the operator is told about ca_bundle."""
    with pytest.raises(SetupError, match=r"^lfis\.raw\.ca_bundle: "):
        await _read(client_of(ca_bundle=None), tokens, calls)

    assert (bank.requests, [call.error_code for call in calls]) == ([], ["untrusted"])


async def test_a_certificate_for_another_host_is_not_trusted(
    bank: RawBank, client_of: ClientMaker, tokens: Tokens, calls: list[Call]
) -> None:
    """The host name is checked, also on loopback: the certificate is for 127.0.0.1, not 127.0.0.2."""
    other = RawBank(bank.identities)
    await other.start("127.0.0.2")
    try:
        client = client_of(base_urls={Version.V2_1: other.base_url})
        with pytest.raises(SetupError, match=r"^lfis\.raw\.ca_bundle: "):
            await _read(client, tokens, calls)
    finally:
        await other.stop()

    assert other.requests == []


def test_a_bundle_that_is_none_is_refused_by_field(client_of: ClientMaker, identities: Identities) -> None:
    """At construction, before anything is called."""
    with pytest.raises(SettingsError, match=r"lfis\.raw\.ca_bundle: cannot use"):
        client_of(ca_bundle=identities.signing_key)


async def test_the_limiter_is_asked_before_each_attempt(
    bank: RawBank, config: LFIConfig, clock: MovableClock, tokens: Tokens, calls: list[Call]
) -> None:
    """The seam for the rate limit that all workers share."""
    admitted: list[tuple[str, int]] = []

    class Limiter(FreeTraffic):
        async def admit(self, operations: OperationClass) -> None:
            admitted.append((operations.value, len(bank.requests)))

    async def no_wait(_seconds: float) -> None:
        return None

    client = LFIClient(config, clock=clock, traffic=Limiter(), sleep=no_wait)
    bank.says_pages(PATH, http(500), _page({}))
    try:
        await _read(client, tokens, calls)
    finally:
        await client.close()

    assert admitted == [("data", 0), ("data", 1)]


async def test_beyond_the_retry_budget_the_first_failure_is_final(
    bank: RawBank, config: LFIConfig, clock: MovableClock, tokens: Tokens, calls: list[Call]
) -> None:
    """One retry is granted and one is not; what was sent is on record with its number, and was told to the limits."""
    granted = [True, False]
    told: list[tuple[int, int | None]] = []

    class Limiter(FreeTraffic):
        def may_retry(self) -> bool:
            return granted.pop(0)

        def note(self, call: Call, headers: Mapping[str, str]) -> None:
            told.append((call.attempt, call.status))

    async def no_wait(_seconds: float) -> None:
        return None

    client = LFIClient(config, clock=clock, traffic=Limiter(), sleep=no_wait)
    bank.says_pages(PATH, http(500), http(503), _page({}))
    try:
        with pytest.raises(LFIUnavailableError):
            await _read(client, tokens, calls)
    finally:
        await client.close()

    assert (told, [call.attempt for call in calls], granted) == ([(1, 500), (2, 503)], [1, 2], [])


async def test_a_cancelled_call_is_on_record(
    bank: RawBank, client: LFIClient, tokens: Tokens, calls: list[Call]
) -> None:
    """It may have been answered and billed."""
    bank.replies[f"{BASE_PATH}{PATH}"] = hangs
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await _read(client, tokens, calls)

    assert [call.error_code for call in calls] == ["cancelled"]


@pytest.mark.parametrize("account", [".", "..", ""])
async def test_an_id_that_cannot_stand_in_a_path_is_refused(
    account: str, bank: RawBank, client: LFIClient, tokens: Tokens, calls: list[Call]
) -> None:
    """Ids come from a payload: `..` would lead to another resource."""
    with pytest.raises(StandardViolationError, match=r"^id: "):
        await _read(client, tokens, calls, account=account)

    assert bank.requests == []


@pytest.mark.parametrize(
    "made",
    [
        lambda: Attendance(ip="1.2.3.4\r\nx: y", auth_date=datetime(2026, 1, 1, tzinfo=UTC)),
        lambda: Attendance(ip="1.2.3.4", auth_date=datetime(2026, 1, 1)),  # noqa: DTZ001  the point of the case
        lambda: Attendance(ip="1.2.3.4", auth_date=datetime(2026, 1, 1, tzinfo=UTC), user_agent="a\r\nb: c"),
    ],
    ids=["ip", "naive date", "agent"],
)
def test_an_attendance_cannot_smuggle_headers(made: object) -> None:
    """Its values come from a browser."""
    assert callable(made)
    with pytest.raises(ValueError, match=r"^(auth_date|user_agent): |IPv4 or IPv6"):
        made()

"""Troubles come when ordered, as often as ordered, and to nobody else."""

import asyncio
import gzip
import json
import time

import httpx
import pytest

from syncworker.simulator.books import Books, BooksError
from syncworker.simulator.sandbox import Sandbox
from tests.simulator.conftest import until
from tests.simulator.tpp import TPP, Tokens

pytestmark = pytest.mark.flow


async def test_an_ordered_status_comes_so_many_times(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """429 with Retry-After twice, then all is well; other operations never notice."""
    sandbox.bank.answers(429, retry_after=7, times=2, operation="accounts")
    answers = [await tpp.get("/accounts", tokens.access) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert [answer.headers.get("retry-after") for answer in answers] == ["7", "7", None]


async def test_a_fault_for_one_operation_spares_the_others(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """And one for a consent spares other consents."""
    other = await tpp.consent(user=sandbox.users[1])
    sandbox.bank.answers(500, operation="accounts", consent_id=tokens.consent_id)
    statuses = [
        (await tpp.get("/accounts", tokens.access)).status_code,
        (await tpp.get("/parties", tokens.access)).status_code,
        (await tpp.get("/accounts", other.access)).status_code,
    ]
    assert statuses == [500, 200, 200]


async def test_a_lost_answer_was_processed(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """The token has rotated, the line was cut, and the strict bank knows no pardon."""
    sandbox.bank.drop_response(operation="token", times=1)
    with pytest.raises(httpx.TransportError):
        await tpp.refresh(tokens.refresh)
    assert sandbox.bank.log.tokens()[-1].outcome == "issued"
    assert (await tpp.refresh(tokens.refresh)).json()["error"] == "invalid_grant"
    assert sandbox.bank.log.served()[-2].status == 0


async def test_within_grace_a_lost_answer_can_be_asked_for_again(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """The repeated answer holds the server's current tokens."""
    sandbox.bank.configure(reuse="grace:30")
    sandbox.bank.drop_response(operation="token.refresh_token", times=1)
    with pytest.raises(httpx.TransportError):
        await tpp.refresh(tokens.refresh)
    again = (await tpp.refresh(tokens.refresh)).json()
    assert (await tpp.get("/accounts", again["access_token"])).status_code == 200
    assert (await tpp.refresh(again["refresh_token"])).status_code == 200


async def test_a_request_cut_before_processing_changed_nothing(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """The old token still works."""
    sandbox.bank.drop_response(operation="token", after_processing=False, times=1)
    with pytest.raises(httpx.TransportError):
        await tpp.refresh(tokens.refresh)
    assert (await tpp.refresh(tokens.refresh)).status_code == 200


async def test_latency_delays_one_operation_and_requests_overlap(
    tpp: TPP, sandbox: Sandbox, tokens: Tokens, books: Books
) -> None:
    """Eight delayed requests take little longer than one, and the log saw eight in flight."""
    await books.do("latency", seconds=0.2, operation="accounts")
    await books.do("forget_peaks")
    started = time.perf_counter()
    await asyncio.gather(*(tpp.get("/accounts", tokens.access) for _ in range(8)))
    took = time.perf_counter() - started
    assert 0.2 <= took < 8 * 0.2
    assert (await books.log())["max_data_in_flight"] == 8


async def test_a_hanging_request_ends_when_the_fault_is_cleared(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """Until then nothing comes."""
    sandbox.bank.hang("accounts")
    hanging = asyncio.create_task(tpp.get("/accounts", tokens.access))
    await until(lambda: sandbox.bank.log.in_flight)
    sandbox.bank.clear_faults()
    with pytest.raises(httpx.TransportError):
        await hanging


async def test_a_bank_with_hanging_requests_stops_within_a_second(tpp: TPP, sandbox: Sandbox) -> None:
    """Whatever its clients wait for."""
    tokens = await tpp.consent()
    sandbox.bank.hang("*", times=None)
    hanging = [asyncio.create_task(tpp.get("/accounts", tokens.access)) for _ in range(5)]
    await until(lambda: sandbox.bank.log.in_flight == 5)
    started = time.perf_counter()
    await sandbox.stop()
    took = time.perf_counter() - started
    outcomes = await asyncio.gather(*hanging, return_exceptions=True)
    assert took < 1
    assert all(isinstance(outcome, httpx.TransportError) for outcome in outcomes)


async def test_a_web_page_with_status_200(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """As a bank's maintenance page."""
    sandbox.bank.html("accounts")
    answer = await tpp.get("/accounts", tokens.access)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")


async def test_a_truncated_body_breaks_off(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """Fewer bytes than announced."""
    sandbox.bank.truncated("accounts")
    with pytest.raises(httpx.RemoteProtocolError):
        await tpp.get("/accounts", tokens.access)


async def test_links_astray(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """To another host once, then to the page itself; the data is what it was."""
    path = f"/accounts/{sandbox.bank.account_of(sandbox.users[0]).account_id}/transactions"
    plain = (await tpp.get(path, tokens.access)).json()
    sandbox.bank.foreign_link()
    foreign = (await tpp.get(path, tokens.access)).json()
    sandbox.bank.loop_link(times=1)
    loop = (await tpp.get(path, tokens.access)).json()
    assert foreign["Links"]["Next"].startswith("https://elsewhere.example/")
    assert loop["Links"]["Next"] == loop["Links"]["Self"]
    assert plain["Data"] == foreign["Data"] == loop["Data"]


@pytest.fixture
def transactions(sandbox: Sandbox) -> str:
    return f"/accounts/{sandbox.bank.account_of(sandbox.users[0]).account_id}/transactions"


async def test_links_of_another_host_or_none_are_right_otherwise(
    tpp: TPP, sandbox: Sandbox, tokens: Tokens, transactions: str
) -> None:
    """What is behind the host is the bank's own link; the last page has none."""
    sandbox.bank.paginate("transactions", 5)
    plain = await tpp.walk(transactions, tokens.access)
    following = plain[0]["Links"]["Next"]
    path = "/" + following.split("/", 3)[3]
    sandbox.bank.other_host(times=1)
    elsewhere = (await tpp.get(transactions, tokens.access)).json()
    sandbox.bank.relative_link(times=1)
    relative = (await tpp.get(transactions, tokens.access)).json()
    sandbox.bank.other_host(times=1)
    last = (await tpp.get(plain[-1]["Links"]["Self"], tokens.access)).json()
    assert elsewhere["Links"]["Next"] == f"https://elsewhere.example{path}"
    assert relative["Links"]["Next"] == path
    assert "Next" not in last["Links"]


async def test_a_listing_without_end(tpp: TPP, sandbox: Sandbox, tokens: Tokens, transactions: str) -> None:
    """Behind the last page come empty ones, or the first one again, each with a link to the next."""
    sandbox.bank.paginate("transactions", 10_000)
    sandbox.bank.next_for_ever()
    first = (await tpp.get(transactions, tokens.access)).json()
    second = (await tpp.get(first["Links"]["Next"], tokens.access)).json()
    third = (await tpp.get(second["Links"]["Next"], tokens.access)).json()
    sandbox.bank.next_for_ever(repeats=True)
    again = (await tpp.get(first["Links"]["Next"], tokens.access)).json()
    sandbox.bank.clear_faults()
    ended = (await tpp.get(transactions, tokens.access)).json()
    assert (len(first["Data"]["Transaction"]) > 0, first["Meta"]["TotalPages"]) == (True, 1)
    assert (second["Data"]["Transaction"], third["Data"]["Transaction"]) == ([], [])
    assert "Next" in third["Links"]
    assert (again["Data"], "Next" in ended["Links"]) == (first["Data"], False)


async def test_a_filter_that_is_ignored(tpp: TPP, sandbox: Sandbox, tokens: Tokens, transactions: str) -> None:
    """Everything is shown of a window that holds nothing; silent, also without a word on where the history begins."""
    query = "?toBookingDateTime=1999-01-01T00:00:00Z"
    nothing = (await tpp.get(transactions + query, tokens.access)).json()
    everything = (await tpp.get(transactions, tokens.access)).json()
    sandbox.bank.ignores_filter()
    ignored = (await tpp.get(transactions + query, tokens.access)).json()
    sandbox.bank.ignores_filter(silent=True)
    silent = (await tpp.get(transactions + query, tokens.access)).json()
    assert (nothing["Data"]["Transaction"], ignored["Data"]) == ([], everything["Data"])
    assert ("FirstAvailableDateTime" in ignored["Meta"], silent["Meta"].keys()) == (True, {"TotalPages"})


async def test_gzip_in_members(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """As many as ordered, each a stream by itself; together the body."""
    plain = (await tpp.get("/accounts", tokens.access)).content
    sandbox.bank.gzip_members("accounts", members=4, times=1)
    headers = {"authorization": f"Bearer {tokens.access}", "accept": "application/json"}
    async with tpp.http.stream("GET", f"{sandbox.resource_base_url}/accounts", headers=headers) as answer:
        packed = b"".join([part async for part in answer.aiter_raw()])
    assert (answer.headers["content-encoding"], packed.count(b"\x1f\x8b\x08")) == ("gzip", 4)
    assert gzip.decompress(packed) == plain


# -- a hostile bank ---------------------------------------------------------------------------------------------------


async def test_a_gzip_bomb_is_small_until_it_is_opened(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """A valid stream: a thousandth of what it unpacks to."""
    sandbox.bank.gzip_bomb("accounts", megabytes=8)
    headers = {"authorization": f"Bearer {tokens.access}", "accept": "application/json"}
    async with tpp.http.stream("GET", f"{sandbox.resource_base_url}/accounts", headers=headers) as answer:
        packed = b"".join([part async for part in answer.aiter_raw()])
    assert (answer.status_code, answer.headers["content-encoding"]) == (200, "gzip")
    assert len(packed) < 2**17
    assert len(gzip.decompress(packed)) > 8 * 2**20


async def test_arrays_nest_too_deep(tpp: TPP, sandbox: Sandbox, tokens: Tokens, transactions: str) -> None:
    """In the first item, as deep as ordered."""
    sandbox.bank.deep(depth=150_000)
    body = (await tpp.get(transactions, tokens.access)).content
    assert b'"Nested":' + b"[" * 150_000 + b"]" * 150_000 in body
    with pytest.raises(RecursionError):
        json.loads(body)


@pytest.mark.parametrize("bare", [False, True])
async def test_an_amount_of_five_thousand_digits(
    tpp: TPP, sandbox: Sandbox, tokens: Tokens, transactions: str, bare: bool
) -> None:
    """As text, or as a JSON number that Python's int refuses."""
    sandbox.bank.giant_amount(bare=bare)
    body = (await tpp.get(transactions, tokens.access)).content
    quote = b"" if bare else b'"'
    assert b'"Amount":' + quote + b"9" * 5_000 + quote in body


async def test_more_bytes_are_announced_than_come(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """The line is closed before the announced end."""
    sandbox.bank.wrong_length("accounts", by=10)
    with pytest.raises(httpx.RemoteProtocolError):
        await tpp.get("/accounts", tokens.access)


async def test_fewer_bytes_are_announced_than_come(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """What is read breaks off; what is left over lies in the connection."""
    good = await tpp.get("/accounts", tokens.access)
    sandbox.bank.wrong_length("accounts", by=-10)
    broken = await tpp.get("/accounts", tokens.access)
    assert broken.content == good.content[:-10]


async def test_an_item_comes_twice_on_its_page(tpp: TPP, sandbox: Sandbox, tokens: Tokens, transactions: str) -> None:
    """One key, two contents."""
    sandbox.bank.duplicate()
    rows = (await tpp.get(transactions, tokens.access)).json()["Data"]["Transaction"]
    assert rows[-1] == rows[0] | {"Copy": True}


async def test_an_item_has_a_member_twice(tpp: TPP, sandbox: Sandbox, tokens: Tokens, transactions: str) -> None:
    """The later one contradicts the first."""
    sandbox.bank.duplicate(member=True)
    body = (await tpp.get(transactions, tokens.access)).content
    plain = (await tpp.get(transactions, tokens.access)).content
    assert json.loads(body)["Data"]["Transaction"][0]["TransactionId"] == "again"
    assert body.count(b'"TransactionId":') == plain.count(b'"TransactionId":') + 1


async def test_a_wrong_content_type(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """The body is good."""
    sandbox.bank.wrong_type("accounts", content_type="application/xml")
    wrong, right = [await tpp.get("/accounts", tokens.access) for _ in range(2)]
    assert (wrong.headers["content-type"], wrong.content) == ("application/xml", right.content)


async def test_a_dripping_answer_ends_when_the_fault_is_cleared(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """Byte by byte until then."""
    sandbox.bank.drip("accounts", seconds=0.02)
    headers = {"authorization": f"Bearer {tokens.access}", "accept": "application/json"}
    async with tpp.http.stream("GET", f"{sandbox.resource_base_url}/accounts", headers=headers) as answer:
        parts = answer.aiter_raw()
        slow = [await anext(parts) for _ in range(5)]
        sandbox.bank.clear_faults()
        rest = [part async for part in parts]
    whole = (await tpp.get("/accounts", tokens.access)).content
    assert [len(part) for part in slow] == [1] * 5
    assert b"".join([*slow, *rest]) == whole


async def test_a_client_that_hangs_up_ends_the_drip(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """The bank keeps nothing running for it and stops at once."""
    sandbox.bank.drip("accounts", seconds=0.02)
    headers = {"authorization": f"Bearer {tokens.access}", "accept": "application/json"}
    async with tpp.http.stream("GET", f"{sandbox.resource_base_url}/accounts", headers=headers) as answer:
        await anext(answer.aiter_raw())
    started = time.perf_counter()
    await sandbox.stop()
    assert time.perf_counter() - started < 1


async def test_orders_in_force_can_be_read_and_taken_back(books: Books) -> None:
    """Through the door, like everything."""
    await books.do("answers", status=503, operation="balances")
    await books.do("latency", seconds=0.5)
    facts = await books.faults()
    await books.do("clear_faults")
    assert (facts["latency"], [one["operation"] for one in facts["faults"]]) == ({"*": 0.5}, ["balances"])
    assert await books.faults() == {"latency": {}, "faults": [], "drifts": []}


async def test_a_verb_that_does_not_exist_is_refused(books: Books) -> None:
    """404; unknown arguments are 400."""
    with pytest.raises(BooksError, match="404"):
        await books.do("rob")
    with pytest.raises(BooksError, match="400"):
        await books.do("latency", seconds=1, colour="red")

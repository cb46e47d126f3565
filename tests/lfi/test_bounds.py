"""Bounds: what may come in and where links may lead."""

import gzip
import json
import time
import tracemalloc
import zlib
from urllib.parse import unquote_to_bytes, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncworker.errors import StandardViolationError
from syncworker.lfi.api import first_url
from syncworker.lfi.bounds import (
    Inflater,
    check_headers,
    check_json,
    climbs,
    has_endless_number,
    home_link,
    is_private_host,
    nests_too_deep,
)
from syncworker.standard.resources import BY_NAME, ResourceName
from syncworker.standard.values import AccountId

pytestmark = pytest.mark.unit

HOME = "https://rs1.bank.example/open-finance/account-information/v2.1"


def _inflate(encoding: str, *chunks: bytes, limit: int = 1000) -> bytes:
    inflater = Inflater(encoding, limit=limit)
    for chunk in chunks:
        inflater.feed(chunk)
    return inflater.finish()


@pytest.mark.parametrize("encoding", ["", "identity", "gzip", "GZIP", "x-gzip"])
def test_gzip_and_identity_are_read(encoding: str) -> None:
    """In chunks of any size, and whatever the spelling."""
    sent = gzip.compress(b"hello" * 10) if "gzip" in encoding.lower() else b"hello" * 10

    assert _inflate(encoding, *(sent[i : i + 3] for i in range(0, len(sent), 3))) == b"hello" * 10


@pytest.mark.parametrize(
    ("encoding", "chunks", "says"),
    [
        pytest.param("br", [b"x"], "neither gzip nor identity", id="brotli"),
        pytest.param("deflate", [b"x"], "neither gzip nor identity", id="deflate"),
        pytest.param("gzip, gzip", [b"x"], "neither gzip nor identity", id="twice"),
        pytest.param("gzip", [b"plain text"], "not the gzip it claims", id="not gzip"),
        pytest.param("gzip", [gzip.compress(b"hello")[:-4]], "gzip ends early", id="cut gzip"),
        pytest.param("", [b"x" * 600, b"x" * 600], "larger than 1000 bytes", id="large"),
        pytest.param("gzip", [gzip.compress(b"x" * 1001)], "larger than 1000 bytes when decoded", id="large decoded"),
        pytest.param(
            "gzip", [gzip.compress(b"x" * 400)] * 3, "larger than 1000 bytes when decoded", id="members large"
        ),
        pytest.param("gzip", [gzip.compress(b"hello"), b"\x1f"], "gzip ends early", id="a member that only begins"),
        pytest.param("gzip", [gzip.compress(b"hello") * 2 + b"more"], "from member 3 on", id="bytes behind the last"),
        pytest.param("gzip", [gzip.compress(b"hello"), b"\x00\x00more"], "from member 2 on", id="bytes behind padding"),
        pytest.param("gzip", [b"\x00" + gzip.compress(b"hello")], "not the gzip it claims", id="padding in front"),
    ],
)
def test_other_bodies_are_refused(encoding: str, chunks: list[bytes], says: str) -> None:
    """Each by the name of the bound it broke."""
    with pytest.raises(StandardViolationError, match=says):
        _inflate(encoding, *chunks)


@given(
    parts=st.lists(st.binary(max_size=60), min_size=1, max_size=5), size=st.integers(1, 80), zeros=st.integers(0, 40)
)
def test_gzip_of_several_members_is_read_whole(parts: list[bytes], size: int, zeros: int) -> None:
    """RFC 1952 §2.2, whichever way the members are cut into chunks, empty ones and padding of zeros included."""
    sent = b"".join(map(gzip.compress, parts)) + bytes(zeros)

    assert _inflate("gzip", *(sent[at : at + size] for at in range(0, len(sent), size))) == b"".join(parts)


def test_members_are_counted() -> None:
    """Empty ones cost no bytes of the limit, but each an inflater."""
    empty = gzip.compress(b"")

    assert _inflate("gzip", empty * 40) == b""
    with pytest.raises(StandardViolationError, match="more than 10000 gzip members"):
        Inflater("gzip").feed(empty * 10_001)


@pytest.mark.parametrize("members_before", [0, 2])
def test_a_bomb_is_stopped_while_it_inflates(members_before: int) -> None:
    """300 MB in 300 KB, in the first member or the third: memory stays near the limit, not near the content."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(squeeze.compress(bytes(1_000_000)) for _ in range(300)) + squeeze.flush()
    tracemalloc.start()
    try:
        with pytest.raises(StandardViolationError, match="when decoded"):
            Inflater("gzip").feed(gzip.compress(b'{"Data":') * members_before + bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 32_000_000


def test_headers_are_bounded() -> None:
    """64 KB in all."""
    with pytest.raises(StandardViolationError, match="headers: larger"):
        check_headers({f"x-{i}": "v" * 1000 for i in range(70)})


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON;charset=UTF-8",
        "application/jwk-set+json",
    ],
)
def test_json_is_known_by_its_media_type_without_parameters(content_type: str) -> None:
    """Trap 42: `application/json; charset=utf-8` is JSON."""
    check_json(b'{"Data":{}}', content_type)


@pytest.mark.parametrize(
    ("body", "content_type", "says"),
    [
        pytest.param(b"<html>", "text/html", "Content-Type is not JSON", id="html"),
        pytest.param(b"{}", "", "Content-Type is not JSON", id="no type"),
        pytest.param(b"a.b.c", "application/jwt", "Content-Type is not JSON", id="signed form"),
        pytest.param(b'{"a":"\xff"}', "application/json", "not UTF-8", id="not UTF-8"),
        pytest.param(b"[" * 51 + b"]" * 51, "application/json", "nested deeper than 50", id="51 deep"),
        pytest.param(b'{"a":%s}' % (b"1" * 5000), "application/json", "a number of more than", id="5,000 digits"),
    ],
)
def test_what_is_not_fit_json_is_refused(body: bytes, content_type: str, says: str) -> None:
    """Before any decoder sees it."""
    with pytest.raises(StandardViolationError, match=says):
        check_json(body, content_type)


@pytest.mark.parametrize(
    ("body", "too_deep"),
    [
        pytest.param(b"[" * 50 + b"]" * 50, False, id="50 is the limit"),
        pytest.param(b'{"a":' * 50 + b"1" + b"}" * 50, False, id="50 objects"),
        pytest.param(b'{"a":[' * 26 + b"]}" * 26, True, id="52 mixed"),
        pytest.param(b"[" * 200_000, True, id="200,000 open"),
        pytest.param(json.dumps(["[" * 1000, "]" * 1000, '\\"[{']).encode(), False, id="brackets in strings"),
        pytest.param(b'["]",' * 60 + b'"[["' + b"]" * 60, True, id="closers in strings do not hide depth"),
        pytest.param(rb'["\\","\"[[","\u005b\\\"{"]', False, id="escapes"),
    ],
)
def test_nesting_is_counted_outside_strings(body: bytes, too_deep: bool) -> None:
    """A string may say what it likes."""
    assert nests_too_deep(body) is too_deep


def _depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max((_depth(member) for member in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((_depth(member) for member in value), default=0)
    return 0


TEXT = st.text(alphabet='ab"\\[]{}:,\u00e9\n', max_size=8)
DOCUMENTS = st.recursive(
    st.none() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=30,
)


@given(document=DOCUMENTS, limit=st.integers(0, 6), ascii_only=st.booleans())
def test_the_measured_nesting_is_the_nesting(document: object, limit: int, ascii_only: bool) -> None:
    """For every document: refused exactly when its true depth exceeds the limit."""
    body = json.dumps(document, ensure_ascii=ascii_only).encode()

    assert nests_too_deep(body, nesting_max=limit) is (_depth(document) > limit)


@given(digits=st.integers(1, 2000), before=st.integers(0, 700))
def test_a_run_of_digits_is_found_wherever_it_lies(digits: int, before: int) -> None:
    """Under half the limit never, from the limit on always."""
    found = has_endless_number(b"x" * before + b"7" * digits + b"y")

    assert found if digits >= 1000 else True
    assert not found if digits < 500 else True


def test_the_checks_of_a_normal_page_are_cheap() -> None:
    """100 transactions, 70 KB: far below the time its decoding takes in Python, best of 20."""
    item = {"TransactionId": "9" * 24, "Amount": {"Amount": "12.50", "Currency": "AED"}, "Info": "Lulu – شكرا [1]"}
    body = json.dumps({"Data": {"Transaction": [item | {"Note": "x" * 500}] * 100}}, ensure_ascii=False).encode()
    best = 1.0
    for _ in range(20):
        started = time.perf_counter()
        check_json(body, "application/json")
        best = min(best, time.perf_counter() - started)

    assert best < 0.002


LISTING = f"{HOME}/accounts/a-1/transactions"
PATH = LISTING.removeprefix("https://rs1.bank.example")


@pytest.mark.parametrize(
    "link",
    [
        pytest.param(f"{LISTING}?page=2&after=a%2Fb%3D%3D", id="verbatim"),
        pytest.param(f"https://RS1.bank.example:443{PATH}?page=2&after=a%2Fb%3D%3D", id="the host otherwise written"),
        pytest.param(f"https://core.bank.internal:8443{PATH}?page=2&after=a%2Fb%3D%3D", id="another host"),
        pytest.param(f"http://rs1.bank.example{PATH}?page=2&after=a%2Fb%3D%3D", id="the scheme behind a proxy"),
        pytest.param(f"//rs1.bank.example{PATH}?page=2&after=a%2Fb%3D%3D", id="without scheme"),
        pytest.param(f"{PATH}?page=2&after=a%2Fb%3D%3D", id="without host"),
        pytest.param("transactions?page=2&after=a%2Fb%3D%3D", id="the last segment alone"),
        pytest.param("?page=2&after=a%2Fb%3D%3D", id="the query alone"),
        pytest.param(f"https://[::1]{PATH.replace('a-1', 'a%2D1')}?page=2&after=a%2Fb%3D%3D", id="encoded otherwise"),
    ],
)
def test_a_link_to_the_listing_leads_home_with_its_query_verbatim(link: str) -> None:
    """Whatever host it names, or none: the continuation is the LFI's own, character by character."""
    assert home_link(link, listing_url=LISTING) == f"{LISTING}?page=2&after=a%2Fb%3D%3D"


@pytest.mark.parametrize("query", ["?next=/a/../b", "?at=%2e%2e%2F%252e", "?token=a+b%2B==&u=https://x.example/..", ""])
def test_the_query_of_a_link_is_the_lfis_own(query: str) -> None:
    """Dots, slashes and addresses in it lead nowhere: they are its page token."""
    assert home_link(LISTING + query, listing_url=LISTING) == LISTING + query
    assert home_link(f"https://elsewhere.example{PATH}{query}", listing_url=LISTING) == LISTING + query


@pytest.mark.parametrize(
    ("link", "says"),
    [
        pytest.param(
            "https://evil.example/open-finance/account-information/v2.1/x", "another path", id="host and path"
        ),
        pytest.param(f"{HOME}/accounts/a-1/balances", "another path", id="another listing"),
        pytest.param(f"{HOME}/accounts/a-2/transactions", "another path", id="another account"),
        pytest.param(f"{HOME}?cursor=1", "another path", id="the base path alone"),
        pytest.param(f"{LISTING}/2", "another path", id="below the listing"),
        pytest.param(f"{LISTING}x?p=2", "another path", id="a longer name"),
        pytest.param(HOME + "x/accounts/a-1/transactions", "another path", id="sibling path"),
        pytest.param("https://rs1.bank.example?p=2", "another path", id="host alone"),
        pytest.param("/accounts/a-1/transactions?p=2", "another path", id="without the base path"),
        pytest.param("accounts/a-1/transactions?p=2", "another path", id="relative to something else"),
        pytest.param(f"{PATH}/", "another path", id="a slash behind it"),
        pytest.param(HOME.replace("https://", "https://user:word@") + "/x", "another path", id="user info"),
        pytest.param("https://rs1.bank.example@evil.example" + PATH, "another path", id="host as user"),
        pytest.param("https://rs1.bank.example\\@evil.example" + PATH, "not a plain", id="backslash"),
        pytest.param("ftp://rs1.bank.example" + PATH, "another path|climbs", id="another scheme"),
        pytest.param("javascript:alert(1)", "another path", id="no address"),
        pytest.param(f"{HOME}/accounts/a-1/../a-1/transactions", "climbs", id="dots that come back"),
        pytest.param(f"{HOME}/accounts/./a-1/transactions", "climbs", id="one dot"),
        pytest.param("./transactions?p=2", "climbs", id="one dot in front"),
        pytest.param(f"{HOME}/accounts//a-1/transactions", "climbs", id="an empty segment"),
        pytest.param(f"{HOME}/accounts/a-1/%2e%2E/transactions", "climbs", id="encoded dots"),
        pytest.param(f"{HOME}/accounts/a-1/%252e%252e/transactions", "climbs", id="dots encoded twice"),
        pytest.param(f"{HOME}/accounts%2fa-1/transactions", "climbs", id="an encoded slash"),
        pytest.param(f"{HOME}/accounts%252fa-1/transactions", "climbs", id="a slash encoded twice"),
        pytest.param(f"{HOME}/accounts/a-1%5c..%5ctransactions", "climbs", id="an encoded backslash"),
        pytest.param(LISTING + "#part", "not a plain", id="fragment"),
        pytest.param(LISTING + "?p=2#part", "not a plain", id="fragment behind the query"),
        pytest.param(LISTING + "?p=2\r\nHost: evil", "not a plain", id="line break"),
        pytest.param(LISTING + "?p=2\n", "not a plain", id="line end"),
        pytest.param(LISTING + "?p=\u00e9", "not a plain", id="not ASCII"),
        pytest.param("https://[::1/x", "another path", id="broken address"),
    ],
)
def test_a_link_that_leads_elsewhere_is_refused(link: str, says: str) -> None:
    """It is not followed at all, and the message does not repeat the link, which may hold a token."""
    with pytest.raises(StandardViolationError, match=says) as caught:
        home_link(link, listing_url=LISTING)

    assert link not in str(caught.value)


ACCOUNT_IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(
    lambda text: text not in (".", "..")
)
QUERIES = st.text("abz019-._~!$&'()*+,;=:@/?%", max_size=40)
HOSTS = st.sampled_from(["evil.example", "core.bank.internal:8443", "rs1.bank.example.evil.example", "[::1]:1"])
MESSY = st.text("./%25eEfFcC\\a1-;", max_size=12)


@given(account_id=ACCOUNT_IDS, query=QUERIES, host=HOSTS)
def test_every_way_to_write_a_listings_own_link_leads_to_it(account_id: str, query: str, host: str) -> None:
    """Ids with spaces, slashes, percent signs, any characters: verbatim, elsewhere, without host, without scheme."""
    listing_url = first_url(HOME, BY_NAME[ResourceName.TRANSACTIONS], AccountId(account_id), {})
    path = urlsplit(listing_url).path
    forms = (listing_url, f"https://{host}{path}", f"http://{host}{path}", f"//{host}{path}", path, "transactions", "")

    assert {home_link(f"{form}?{query}", listing_url=listing_url) for form in forms} == {f"{listing_url}?{query}"}


@given(account_id=ACCOUNT_IDS, messy=MESSY, at=st.integers(0, 200), cut=st.integers(0, 3), host=HOSTS)
def test_no_other_path_is_followed(account_id: str, messy: str, at: int, cut: int, host: str) -> None:
    """A listing's own path with something put in, or taken out, leads home only if each segment means the same."""
    listing_url = first_url(HOME, BY_NAME[ResourceName.TRANSACTIONS], AccountId(account_id), {})
    path = urlsplit(listing_url).path
    at = 1 + at % len(path)
    other = path[:at] + messy + path[at + cut :]
    same = [unquote_to_bytes(one) for one in other.split("/")] == [unquote_to_bytes(one) for one in path.split("/")]
    for link in (f"https://rs1.bank.example{other}", f"https://{host}{other}", other):
        try:
            assert home_link(link, listing_url=listing_url) == listing_url
            assert same
        except StandardViolationError:
            assert not same or "\\" in other


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/banks/done", False),
        ("/banks/done/", False),
        ("/", False),
        ("", False),
        ("/a.b/..c/...", False),
        ("/100%25/a%20b/%C3%BC/a+b", False),
        ("/a/../b", True),
        ("/a/.", True),
        ("/a//b", True),
        ("//a", True),
        ("/a/%2e%2E/b", True),
        ("/a/.%2e", True),
        ("/a/%252e%252e/b", True),
        ("/a/%25252e%25252e/b", True),
        ("/a%2fb", True),
        ("/a%252Fb", True),
        ("/a\\..\\b", True),
        ("/a/..%5cb", True),
        ("/a/..;x=1/b", True),
        ("/a/%2e%2e%3bx/b", True),
        ("/a/%c0%ae%c0%ae/b", True),
        ("/a%c0%afb", True),
        ("/a/%252525252525252e", True),
    ],
)
def test_a_path_that_climbs_is_known_in_any_encoding(path: str, expected: bool) -> None:
    """Plain, encoded, encoded again, in forms that are no UTF-8, and with the parameters some servers cut off."""
    assert climbs(path) is expected


@pytest.mark.parametrize(
    ("host", "private"),
    [
        ("rs1.bank.apihub.openfinance.ae", False),
        ("8.8.8.8", False),
        ("localhost", True),
        ("api.localhost.", True),
        ("127.0.0.1", True),
        ("127.1", True),
        ("0x7f000001", True),
        ("2130706433", True),
        ("10.1.2.3", True),
        ("192.168.1.1", True),
        ("169.254.169.254", True),
        ("100.64.0.1", True),
        ("[::1]", True),
        ("[::ffff:127.0.0.1]", True),
        ("[fd00::1]", True),
        ("[2001:4860:4860::8888]", False),
    ],
)
def test_private_addresses_are_known_in_any_spelling(host: str, private: bool) -> None:
    """So that a discovery document cannot send us to our own network."""
    assert is_private_host(f"https://{host}/token") is private

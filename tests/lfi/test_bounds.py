"""Bounds: what may come in and where links may lead."""

import gzip
import json
import time
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncworker.errors import StandardViolationError
from syncworker.lfi.bounds import (
    Inflater,
    check_headers,
    check_json,
    has_endless_number,
    home_link,
    is_private_host,
    nests_too_deep,
)

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
    ],
)
def test_other_bodies_are_refused(encoding: str, chunks: list[bytes], says: str) -> None:
    """Each by the name of the bound it broke."""
    with pytest.raises(StandardViolationError, match=says):
        _inflate(encoding, *chunks)


def test_a_bomb_is_stopped_while_it_inflates() -> None:
    """300 MB in 300 KB: memory stays near the limit, not near the content."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(squeeze.compress(bytes(1_000_000)) for _ in range(300)) + squeeze.flush()
    tracemalloc.start()
    try:
        with pytest.raises(StandardViolationError, match="when decoded"):
            Inflater("gzip").feed(bomb)
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


@pytest.mark.parametrize(
    "link",
    [
        f"{HOME}/accounts/1/transactions?page=2&after=a%2Fb%3D%3D",
        f"{HOME}?cursor=1",
        "https://RS1.bank.example:443/open-finance/account-information/v2.1/accounts",
    ],
)
def test_a_link_home_is_followed_verbatim(link: str) -> None:
    """The continuation is the LFI's own, character by character."""
    assert home_link(link, base_url=HOME) == link


@pytest.mark.parametrize(
    ("link", "says"),
    [
        pytest.param("https://evil.example/open-finance/account-information/v2.1/x", "another host", id="host"),
        pytest.param(HOME.replace("bank.example", "bank.example.evil.example") + "/x", "another host", id="suffix"),
        pytest.param(HOME.replace("bank.example", "bank.example:8443") + "/x", "another host", id="port"),
        pytest.param(HOME.replace("https", "http") + "/x", "not a plain", id="scheme"),
        pytest.param(HOME.replace("https://", "https://user:word@") + "/x", "not a plain", id="user info"),
        pytest.param(HOME.replace("https://", "https://rs1.bank.example@") + "/x", "not a plain", id="host as user"),
        pytest.param("https://rs1.bank.example\\@evil.example/x", "not a plain", id="backslash"),
        pytest.param(HOME + "/../../../admin", "not a plain", id="dots"),
        pytest.param(HOME + "/%2e%2E/%2e./admin", "not a plain", id="encoded dots"),
        pytest.param(HOME + "x/accounts", "out of the LFI's base path", id="sibling path"),
        pytest.param("https://rs1.bank.example/other", "out of the LFI's base path", id="other path"),
        pytest.param("/open-finance/account-information/v2.1/x", "not a plain", id="relative"),
        pytest.param("//rs1.bank.example/x", "not a plain", id="without scheme"),
        pytest.param(HOME + "/x#part", "not a plain", id="fragment"),
        pytest.param(HOME + "/x\r\nHost: evil", "not a plain", id="line break"),
        pytest.param(HOME + "/x\n", "not a plain", id="line end"),
        pytest.param(HOME + "/é", "not a plain", id="not ASCII"),
        pytest.param("https://[::1/x", "not a plain", id="broken address"),
        pytest.param("https://rs1.bank.example:99999/open-finance", "not a plain", id="impossible port"),
    ],
)
def test_a_link_that_leads_elsewhere_is_refused(link: str, says: str) -> None:
    """Trap 29: the token stays at home, and the message does not repeat the link."""
    with pytest.raises(StandardViolationError, match=says) as caught:
        home_link(link, base_url=HOME)

    assert link not in str(caught.value)


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

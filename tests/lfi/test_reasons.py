"""The words of an error body, of either family, come home beside the error and never in its text."""

import json
from datetime import UTC, datetime
from typing import Any, Final

import pytest

from syncworker.errors import LFIRateLimitedError, SyncWorkerError, told
from syncworker.lfi import oauth
from syncworker.lfi.api import fault_of_get
from syncworker.lfi.reasons import BODY_BYTES_MAX, reason_of
from syncworker.lfi.transport import Answer

pytestmark = pytest.mark.unit

NOW: Final = datetime(2026, 10, 20, tzinfo=UTC)


def answer(status: int, body: Any) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, {"content-type": "application/json"}, raw, len(raw))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"error": "invalid_request", "error_description": "redirect_uri differs"}, "redirect_uri differs"),
        ({"Errors": [{"Code": "C", "Message": "no such", "Path": "Data.X"}]}, "no such (at Data.X)"),
        ({"Errors": [{"Code": "C", "Message": "one"}, {"Message": "two"}]}, "one; two"),
        ({"Errors": [{"Code": "C"}], "error_description": 5}, ""),
        ({"Errors": [None, {"Path": "Data"}]}, "(at Data)"),
        ([], ""),
        (b"<html>", ""),
        (b'{"error_description":"caf\xe9"}', "caf\ufffd"),
        (b"", ""),
        (b'{"error_description":"' + b"x" * BODY_BYTES_MAX + b'"}', ""),
        (b"[" * 10_000, ""),
    ],
    ids=["oauth", "data", "several", "types", "entries", "list", "html", "not-UTF-8", "empty", "large", "deep"],
)  # fmt: skip
def test_the_words_are_read(body: Any, reason: str) -> None:
    """Whatever the body is, reading it does not fail."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert reason_of(raw) == reason


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
@pytest.mark.parametrize("code", ["invalid_grant", "invalid_client", "invalid_request", ""])
def test_every_refusal_of_the_token_side_carries_them(status: int, code: str) -> None:
    """As an attribute; `str()` goes to logs and to callers."""
    body = {"error": code, "error_description": "the words"} if code else {"error_description": "the words"}
    error = oauth.refusal(answer(status, body), what="token call", now=NOW)
    assert (error.lfi_reason, "words" in str(error), told(error)) == (
        "the words",
        False,
        f"{error}; the LFI says: the words",
    )


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 405, 429, 500])
def test_every_refusal_of_the_data_side_carries_them(status: int) -> None:
    """Also where the code decides: the words never do."""
    error = fault_of_get(answer(status, {"Errors": [{"Code": "C", "Message": "the words"}]}), what="GetX", now=NOW)
    assert (error.lfi_reason, "words" in str(error)) == ("the words", False)


def test_a_refused_push_carries_them() -> None:
    """Also a status that OAuth does not know."""
    with pytest.raises(SyncWorkerError) as caught:
        oauth.read_pushed(answer(405, {"error_description": "the words"}), received_at=NOW)
    assert caught.value.lfi_reason == "the words"


def test_an_error_without_words_says_no_more_than_before() -> None:
    """Nothing is appended."""
    error = LFIRateLimitedError("token call: 429")
    assert told(error) == "token call: 429"


def test_the_words_of_a_redirect_are_cleaned() -> None:
    """They come through the user's browser."""
    redirect = oauth.read_redirect("state=s&error=access_denied&error_description=no%0d%0aali%40bank.ae%E2%80%AE")
    assert redirect.error_description == "no [masked]"


def test_a_body_that_is_not_utf8_has_no_code_and_does_no_harm() -> None:
    """A gateway's Latin-1 error is a refusal like any other."""
    error = oauth.refusal(answer(400, b'{"error":"caf\xe9"}'), what="token call", now=NOW)
    assert error.code == "lfi_unavailable"

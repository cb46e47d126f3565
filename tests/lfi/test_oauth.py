"""What the token side says: redirects, tokens, refusals."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from syncworker.errors import (
    AuthorizationFailedError,
    ClientRejectedError,
    GrantLostError,
    LFIRateLimitedError,
    LFIUnavailableError,
    RefusedError,
    StandardViolationError,
    SyncWorkerError,
)
from syncworker.lfi.oauth import (
    authorization_url,
    data_error_code,
    read_pushed,
    read_redirect,
    read_tokens,
    retry_after,
)
from syncworker.lfi.transport import Answer
from tests.lfi.raw_bank import json_of

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)


def _answer(status: int, document: Any = None, *, body: bytes | None = None, **headers: str) -> Answer:
    content = json_of(document) if body is None else body
    received = {"content-type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
    return Answer(status, received, content, len(content))


@pytest.mark.parametrize(
    "text",
    [
        "https://tpp.example/callback?code=c%2F1&state=s-1&iss=https%3A%2F%2Fauth1.bank.example",
        "?code=c%2F1&state=s-1&iss=https%3A%2F%2Fauth1.bank.example",
        "  code=c%2F1&state=s-1&iss=https://auth1.bank.example\n",
        "https://tpp.example/callback?code=c%2F1&state=s-1&iss=https%3A%2F%2Fauth1.bank.example&unknown=x#_=_",
    ],
    ids=["whole URL", "query with mark", "query pasted", "extra parameter and fragment"],
)
def test_a_redirect_is_read_from_a_url_or_its_query(text: str) -> None:
    """As a person pastes it."""
    found = read_redirect(text)

    assert found.code is not None
    assert (found.code.get_secret_value(), found.state, found.issuer, found.error) == (
        "c/1",
        "s-1",
        "https://auth1.bank.example",
        None,
    )


def test_a_redirect_hides_its_code() -> None:
    """It may be logged or land in a traceback."""
    assert "secret-code" not in repr(read_redirect("code=secret-code&state=s"))


def test_a_declined_redirect_carries_the_reason() -> None:
    """In the LFI's words, made printable."""
    found = read_redirect("error=access_denied&error_description=user%20said%0Ano&state=s-1&iss=https%3A%2F%2Fi")

    assert (found.code, found.error, found.error_description) == (None, "access_denied", "user said no")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("", "has no state", id="empty"),
        pytest.param("hello", "not the query", id="no query"),
        pytest.param("https://tpp.example/callback", "has no state", id="URL without query"),
        pytest.param("https://tpp.example/callback#code=c&state=s", "has no state", id="fragment"),
        pytest.param("code=c&iss=i", "has no state", id="no state"),
        pytest.param("state=s", "either a code or an error", id="neither"),
        pytest.param("state=s&code=", "either a code or an error", id="empty code"),
        pytest.param("state=s&code=c&error=e", "either a code or an error", id="both"),
        pytest.param("state=s&code=c&code=d", "a parameter twice", id="code twice"),
        pytest.param("state=s&state=s&code=c", "a parameter twice", id="state twice"),
        pytest.param("state=s&code=%ff", "not the query", id="not UTF-8"),
        pytest.param("state=s&code=" + "c" * 9000, "longer than any redirect", id="huge"),
        pytest.param("&".join(f"p{i}=1" for i in range(30)), "not the query", id="30 parameters"),
    ],
)
def test_garbage_is_no_redirect(text: str, says: str) -> None:
    """Refused in words that do not repeat it."""
    with pytest.raises(AuthorizationFailedError, match=says) as caught:
        read_redirect(text)

    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("endpoint", "joined"), [("https://b.example/a", "?"), ("https://b.example/a?channel=of", "&")]
)
def test_the_authorisation_address_has_the_four_parameters(endpoint: str, joined: str) -> None:
    """Appended to whatever query the endpoint has."""
    url = authorization_url(endpoint, client_id="c-1", request_uri="urn:x:y z")

    assert url == f"{endpoint}{joined}client_id=c-1&response_type=code&scope=openid&request_uri=urn%3Ax%3Ay+z"


@pytest.mark.parametrize("status", [200, 201])
def test_a_pushed_request_lives_as_long_as_the_answer_says(status: int) -> None:
    """200 in v2.1, 201 before; its URI is not shown."""
    pushed = read_pushed(_answer(status, {"request_uri": "urn:secret", "expires_in": 90}), received_at=NOW)

    assert (pushed.request_uri, pushed.expires_at, "secret" in repr(pushed)) == (
        "urn:secret",
        NOW + timedelta(seconds=90),
        False,
    )


@pytest.mark.parametrize("document", [{}, {"request_uri": ""}, {"request_uri": 7}, []])
def test_a_push_without_a_request_uri_is_a_violation(document: object) -> None:
    """There is nothing to send the user to."""
    with pytest.raises(StandardViolationError):
        read_pushed(_answer(201, document), received_at=NOW)


@pytest.mark.parametrize("status", [404, 405, 413, 415])
def test_a_push_refused_without_a_word_is_a_definite_refusal(status: int) -> None:
    """405 and 413 of the PAR endpoint have no body; nothing is in doubt, and asking again would not help."""
    with pytest.raises(RefusedError) as caught:
        read_pushed(_answer(status, body=b""), received_at=NOW)

    assert (caught.value.status, caught.value.error_code) == (status, "")


@pytest.mark.parametrize("token_type", ["Bearer", "bearer", "BEARER", None, "DPoP", 7])
def test_a_token_of_another_type_does_not_cost_the_grant(token_type: object) -> None:
    """The refresh token beside it may be the only live one; the data API will refuse what it does not take."""
    document = {"access_token": "at", "refresh_token": "rt", "token_type": token_type, "expires_in": 600}

    assert read_tokens(_answer(200, document), received_at=NOW).refresh_token is not None


def test_an_answer_behind_a_byte_order_mark_is_read() -> None:
    """Tokens, pushed requests and refusals alike."""
    mark = b"\xef\xbb\xbf"
    tokens = read_tokens(_answer(200, body=mark + json_of({"access_token": "at", "expires_in": 1})), received_at=NOW)
    pushed = read_pushed(_answer(201, body=mark + json_of({"request_uri": "urn:x", "expires_in": 1})), received_at=NOW)

    assert (tokens.access_token.get_secret_value(), pushed.request_uri) == ("at", "urn:x")
    with pytest.raises(GrantLostError):
        read_tokens(_answer(400, body=mark + json_of({"error": "invalid_grant"})), received_at=NOW)


CONSENT = {"Data": {"ConsentId": "c-1", "Status": "Authorized", "Permissions": [["ReadBalances"], "ReadStatements"]}}


def test_a_subscription_beside_the_consent_of_a_token_answer_is_read() -> None:
    """v1.1 has it beside the consent; later versions inside, where it wins."""
    beside = {"Subscription": {"Webhook": {"IsActive": True}}}
    inside = {"Data": {"ConsentId": "c", "Status": "Authorized"}, "Subscription": {"Webhook": {"IsActive": False}}}
    for consent, active in (({"ConsentId": "c", "Status": "Authorized"}, True), (inside, False)):
        body = {"access_token": "a", "expires_in": 600, "authorization_details": [{"consent": consent, **beside}]}
        found = read_tokens(_answer(200, body), received_at=NOW)
        assert found.consent is not None
        assert found.consent.webhook_active is active


def test_a_token_answer_is_read_with_its_consent() -> None:
    """The consent's state comes free with each answer."""
    document = {
        "access_token": "at",
        "refresh_token": "rt",
        "id_token": "it",
        "token_type": "Bearer",
        "expires_in": 600,
        "authorization_details": [{"type": "t", "consent": CONSENT}],
        "status": "Authorized",
    }
    found = read_tokens(_answer(200, document), received_at=NOW)

    assert found.refresh_token is not None
    assert found.consent is not None
    assert (
        found.access_token.get_secret_value(),
        found.refresh_token.get_secret_value(),
        found.expires_at,
        found.consent.consent_id,
        found.consent.permissions,
    ) == ("at", "rt", NOW + timedelta(seconds=600), "c-1", ("ReadBalances", "ReadStatements"))


def test_a_token_answer_without_a_refresh_token_says_so() -> None:
    """Trap 1: absent means the old one stays, not that there is none."""
    found = read_tokens(_answer(200, {"access_token": "at", "expires_in": 600}), received_at=NOW)

    assert (found.refresh_token, found.id_token, found.consent) == (None, None, None)


@pytest.mark.parametrize(
    ("expires_in", "seconds"),
    [
        (600, 600),
        ("300", 300),
        (599.9, 599),
        (None, 0),
        ("soon", 0),
        (-5, 0),
        (10**12, 366 * 86_400),
        (float("1e30"), 366 * 86_400),
    ],
)
def test_a_lifetime_is_taken_from_the_answer_whatever_its_form(expires_in: object, seconds: int) -> None:
    """A strange lifetime must not cost us a rotated token: unknown is 0, so that nobody trusts it."""
    found = read_tokens(_answer(200, {"access_token": "at", "expires_in": expires_in}), received_at=NOW)

    assert (found.expires_in, found.expires_at) == (seconds, NOW + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    "details",
    [None, {}, [], ["x"], [{"consent": "x"}], [{"consent": {"Data": {"ConsentId": "c"}}}],
     [{"consent": {"Data": {"ConsentId": "c", "Status": "Authorized", "ExpirationDateTime": "soon"}}}],
     [{"consent": {"Data": {"ConsentId": "c", "Status": "Authorized", "ExpirationDateTime": 7, "FromDate": 9}}}],
     [{"consent": {"Data": {"ConsentId": "c", "Status": "Authorized", "Permissions": 5}}}]],
)  # fmt: skip
def test_an_odd_consent_does_not_cost_the_tokens_beside_it(details: object) -> None:
    """Rotated tokens are irreplaceable, a consent can be asked for."""
    found = read_tokens(
        _answer(200, {"access_token": "at", "expires_in": 1, "authorization_details": details}), received_at=NOW
    )

    assert (found.access_token.get_secret_value(), found.consent) == ("at", None)


def test_a_token_answer_hides_its_tokens() -> None:
    """In its repr."""
    document = {"access_token": "secret-at", "refresh_token": "secret-rt", "id_token": "secret-it", "expires_in": 1}

    assert "secret" not in repr(read_tokens(_answer(200, document), received_at=NOW)).replace("SecretStr", "")


REFUSALS = [
    pytest.param(_answer(400, {"error": "invalid_grant"}), GrantLostError, id="invalid_grant"),
    pytest.param(_answer(401, {"error": "invalid_grant"}), GrantLostError, id="invalid_grant with 401"),
    pytest.param(_answer(400, {"error": "invalid_client"}), ClientRejectedError, id="invalid_client"),
    pytest.param(_answer(401, {"error": "invalid_client"}), ClientRejectedError, id="invalid_client with 401"),
    pytest.param(_answer(400, {"error": "unauthorized_client"}), ClientRejectedError, id="unauthorized_client"),
    pytest.param(_answer(400, {"error": "invalid_scope"}), ClientRejectedError, id="invalid_scope"),
    pytest.param(_answer(400, {"error": "unsupported_grant_type"}), ClientRejectedError, id="unsupported_grant_type"),
    pytest.param(_answer(401, body=b""), ClientRejectedError, id="401 without body"),
    pytest.param(_answer(403, body=b"<html>"), ClientRejectedError, id="403 with HTML: not activated yet"),
    pytest.param(_answer(400, {"error": "invalid_request"}), RefusedError, id="invalid_request"),
    pytest.param(_answer(400, {"error": "something_new"}), RefusedError, id="unknown error"),
    pytest.param(_answer(429, body=b"", retry_after="7"), LFIRateLimitedError, id="429"),
    pytest.param(_answer(400, body=b"<html>"), LFIUnavailableError, id="400 without an OAuth error"),
    pytest.param(_answer(400, body=b"[" * 100_000), LFIUnavailableError, id="400 with a nest"),
    pytest.param(_answer(302, body=b""), LFIUnavailableError, id="redirect"),
    pytest.param(_answer(500, {"error": "invalid_grant"}), LFIUnavailableError, id="500 whatever it says"),
    pytest.param(_answer(503, body=b""), LFIUnavailableError, id="503"),
    pytest.param(_answer(200, body=b"<html>", content_type="text/html"), LFIUnavailableError, id="200 with HTML"),
    pytest.param(_answer(200, {"expires_in": 1}), LFIUnavailableError, id="200 without a token"),
    pytest.param(_answer(200, {"access_token": 7}), LFIUnavailableError, id="200 with a number for a token"),
    pytest.param(_answer(200, {"access_token": "a\r\nb: c"}), LFIUnavailableError, id="200 with a line break"),
    pytest.param(_answer(200, body=b'{"access_token":"a'), LFIUnavailableError, id="200 cut short"),
]


@pytest.mark.parametrize(("answer", "error"), REFUSALS)
def test_a_refusal_says_who_has_to_act(answer: Answer, error: type[Exception]) -> None:
    """Only OAuth's own word ends a grant; whatever nobody can read leaves the token in doubt."""
    with pytest.raises(SyncWorkerError) as caught:
        read_tokens(answer, received_at=NOW)

    assert type(caught.value) is error


def test_a_lost_grant_names_its_cause() -> None:
    """The vault asks for it (rule 21)."""
    with pytest.raises(GrantLostError) as caught:
        read_tokens(_answer(400, {"error": "invalid_grant", "error_description": "secret words"}), received_at=NOW)

    assert (caught.value.cause, "secret words" in str(caught.value)) == ("invalid_grant", False)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ({}, None),
        ({"retry-after": "30"}, 30.0),
        ({"retry-after": " 0 "}, 0.0),
        ({"retry-after": "9" * 400}, 3600.0),
        ({"retry-after": "Sat, 21 Nov 2026 10:00:30 GMT"}, 30.0),
        ({"retry-after": "Sat, 21 Nov 2026 09:00:00 GMT"}, 0.0),
        ({"retry-after": "Sat, 21 Nov 2099 09:00:00 GMT"}, 3600.0),
        ({"retry-after": "Sat, 21 Nov 2026 10:00:30"}, 30.0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "1.5"}, None),
        ({"retry-after": "٣"}, None),
    ],
)
def test_the_wait_is_read_as_seconds_or_date_and_capped(header: dict[str, str], seconds: float | None) -> None:
    """At most an hour; what cannot be read is no wait."""
    assert retry_after(header, now=NOW) == seconds


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"Errors":[{"Code":"AccessToken.InvalidScope","Message":"m"},{"Code":"x.y"}]}', "AccessToken.InvalidScope"),
        (b'{"Errors":[]}', ""),
        (b'{"Errors":[{"Code":"Mr Smith\\n"}]}', "unreadable"),
        (b'{"Errors":[{"Code":"' + b"x" * 65 + b'"}]}', "unreadable"),
        (b'{"Errors":{}}', ""),
        (b"", ""),
        (b"[" * 100_000, ""),
    ],
)
def test_an_error_code_is_a_code_or_nothing(body: bytes, code: str) -> None:
    """It goes into metrics and logs, so free text stays out."""
    assert data_error_code(_answer(400, body=body)) == code

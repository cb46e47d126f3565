"""Where users may be sent back to."""

from urllib.parse import parse_qsl, urlsplit

import pytest
from pydantic import ValidationError

from syncworker.settings import WebSettings
from syncworker.web.callbacks import ReturnURLs

pytestmark = pytest.mark.unit

ALLOWED = ReturnURLs(("https://app.example/banks", "http://127.0.0.1:3000"))


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/banks/done",
        "http://app.example/banks/done",
        "https://app.example/banksy",
        "https://app.example:444/banks/done",
        "https://app.example/banks/../admin",
        "https://app.example/banks/%2e%2E/admin",
        "https://app.example/banks/%252e%252e/admin",
        "https://app.example/banks/..%2fadmin",
        "https://app.example/banks%2f..%2fadmin",
        "https://app.example/banks/%2e%2e%5cadmin",
        "https://app.example/banks/..;/admin",
        "https://app.example/banks//admin",
        "https://app.example/banks/./done",
        "https://user@app.example/banks/done",
        "https://app.example/banks/done#fragment",
        "https://app.example\\@evil.example/banks/done",
        "https://app.example/banks\\..\\admin",
        "//app.example/banks/done",
        "javascript:alert(1)",
        "https://app.example:x/banks/done",
        "https://app.example/banks/done\r\nx: y",
        "https://app.example/banks/ü",
        "https://[app.example/banks",
        "http://127.0.0.1:3001/",
        "",
    ],
)
def test_what_leads_elsewhere_is_refused(url: str) -> None:
    """Another scheme, host, port or path, and what browsers read differently from us."""
    assert ALLOWED.fault(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://app.example/banks",
        "https://app.example/banks/",
        "https://app.example/banks/done?a=b",
        "https://app.example/banks?a=b",
        "https://app.example/banks/100%25/%C3%BC/a%20b/v1.2..3?back=/a/../b&to=%2e%2e%2f",
        "http://127.0.0.1:3000/anything",
    ],
)
def test_what_lies_below_an_allowed_beginning_passes(url: str) -> None:
    """Down to a whole segment of the path."""
    assert ALLOWED.fault(url) is None


def test_nothing_is_allowed_where_nothing_was_said() -> None:
    """The default allows no address to return to."""
    assert ReturnURLs(()).fault("https://app.example/")


def test_a_result_is_added_and_cannot_be_forged_by_the_query_that_was_there() -> None:
    """What the product had in its query stays, but for the names of the result."""
    back = ALLOWED.with_result("https://app.example/banks?page=2&result=authorized", {"result": "declined"})

    assert back is not None
    assert parse_qsl(urlsplit(back).query) == [("page", "2"), ("result", "declined")]


def test_a_url_that_is_no_longer_allowed_leads_nowhere() -> None:
    """The settings changed between the wish and the return."""
    assert ALLOWED.with_result("https://gone.example/", {"result": "authorized"}) is None


@pytest.mark.parametrize(
    "url", ["https://app.example/banks/../x", "https://app.example/%2e%2e", "https://app.example//"]
)
def test_the_setting_itself_does_not_climb(url: str) -> None:
    """A beginning that a server reads as another path would allow what it does not say."""
    with pytest.raises(ValidationError, match="must not climb its path"):
        WebSettings(return_urls=(url,))

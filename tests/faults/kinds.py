"""The kinds of faults: what goes wrong with one request, and what a run that met it may say.

A `Kind` bends the way of one request.  Its `verdict` is what the answer is worth to the oracle:

    OWED   the request brought nothing, or not all: a run whose last word on it was this owes the listing
    LIE    a whole answer that is wrong and cannot be told from a right one: the run owes nothing, the next walks mend
    TRUE   an odd answer with the right content in it: the run owes nothing, and nothing may be missing
    SHORT  a whole answer with an item that cannot be kept: the run read to the end and owes that item
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from email.utils import format_datetime
from enum import StrEnum
from random import Random
from typing import Any, Final

from syncworker.clock import Clock
from syncworker.standard.resources import BY_NAME, ResourceName, Shape
from tests.faults.wire import Asked, Sent

HTML: Final = b"<!doctype html><html><head><title>Gateway</title></head><body>Service moved</body></html>"


class Verdict(StrEnum):
    """What an answer is worth."""

    TRUE = "true"
    OWED = "owed"
    LIE = "lie"
    SHORT = "short"


class Where(StrEnum):
    """Which requests a kind can strike."""

    DATA = "data"  # pages of listings
    LATER = "later"  # pages of listings, from the second on
    TOKEN = "token"  # refreshes
    HUB = "hub"  # consents, discovery and tokens of our own
    LISTS = "lists"  # pages that hold a list, with an item at least
    DATED = "dated"  # pages of transactions
    ACCOUNTS = "accounts"  # pages of /accounts


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What a kind knows beside the request."""

    dice: Random
    clock: Clock
    earlier: Mapping[str, Sent]


Bend = Callable[[Asked, Moment], Awaitable[Sent]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of fault.

    Attributes:
        lasts: strikes of the same listing, for as long as the bank is sick, not the one request.
    """

    name: str
    where: Where
    verdict: Verdict
    bend: Bend
    lasts: bool = False


def _answer(status: int, body: bytes = b"", content_type: str = "", **headers: str) -> Bend:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    if content_type:
        named["content-type"] = content_type

    async def bend(_asked: Asked, _moment: Moment) -> Sent:
        return Sent(status=status, headers=dict(named), body=body)

    return bend


def _gateway(status: int) -> Bend:
    return _answer(status, HTML, "text/html; charset=ISO-8859-1")


def _refusal(status: int, code: str) -> Bend:
    body = json.dumps({"Errors": [{"Code": code, "Message": "ordered"}]}).encode()
    return _answer(status, body, "application/json")


def _oauth(status: int, error: str) -> Bend:
    return _answer(status, json.dumps({"error": error}).encode(), "application/json")


async def _lost_before(_asked: Asked, _moment: Moment) -> Sent:
    return Sent.gone("lost")


async def _lost_after(asked: Asked, _moment: Moment) -> Sent:
    await asked.process()
    return Sent.gone("lost")


async def _timeout(asked: Asked, moment: Moment) -> Sent:
    if moment.dice.random() < 0.5:
        await asked.process()
    return Sent.gone("timeout")


async def _half(asked: Asked, _moment: Moment) -> Sent:
    sent = await asked.process()
    return replace(sent, body=sent.body[: len(sent.body) // 2], lost="lost")


async def _half_of_gzip(asked: Asked, _moment: Moment) -> Sent:
    sent = (await asked.process()).zipped(members=1)
    return replace(sent, body=sent.body[: len(sent.body) // 2])


async def _half_as_whole(asked: Asked, _moment: Moment) -> Sent:
    """A body cut in two by a proxy that announces what it sends."""
    sent = await asked.process()
    return replace(sent, body=sent.body[: len(sent.body) // 2])


async def _gzip(asked: Asked, _moment: Moment) -> Sent:
    return (await asked.process()).zipped(members=1)


async def _gzip_members(asked: Asked, moment: Moment) -> Sent:
    return (await asked.process()).zipped(members=moment.dice.randint(2, 4))


async def _not_gzip(asked: Asked, _moment: Moment) -> Sent:
    sent = await asked.process()
    return replace(sent, headers={**sent.headers, "content-encoding": "gzip"})


async def _other_type(asked: Asked, _moment: Moment) -> Sent:
    sent = await asked.process()
    return replace(sent, headers={**sent.headers, "content-type": "text/plain"})


async def _retry_date(_asked: Asked, moment: Moment) -> Sent:
    until = moment.clock.now() + timedelta(seconds=moment.dice.randint(1, 300))
    return Sent(status=429, headers={"retry-after": format_datetime(until, usegmt=True)})


async def _retry_seconds(_asked: Asked, moment: Moment) -> Sent:
    return Sent(status=429, headers={"retry-after": str(moment.dice.choice((0, 1, 30, 600)))})


# -- bodies ------------------------------------------------------------------------------------------------------------

Change = Callable[[dict[str, Any], Asked, Moment], None]


def _changed(change: Change) -> Bend:
    """The right page with something changed in it; the bank's own answer where there was nothing to change."""

    async def bend(asked: Asked, moment: Moment) -> Sent:
        sent = await asked.process()
        if sent.status != 200:
            return sent
        page = json.loads(sent.body)
        change(page, asked, moment)
        if page == json.loads(sent.body):
            return sent
        return replace(sent, body=json.dumps(page).encode())  # as ASCII: half a surrogate pair can be written

    return bend


def items_of(page: Mapping[str, Any], asked: Asked) -> list[dict[str, Any]]:
    """The items of a page; none where it holds no list."""
    try:
        resource = BY_NAME[ResourceName(asked.operation)]
    except ValueError:
        return []
    listed = page.get("Data", {}).get(resource.items) if resource.shape is Shape.LIST else None
    return listed if isinstance(listed, list) else []


def _foreign_link(page: dict[str, Any], _asked: Asked, _moment: Moment) -> None:
    page.setdefault("Links", {})["Next"] = "https://elsewhere.example/accounts?page=2"


def _self_link(page: dict[str, Any], asked: Asked, _moment: Moment) -> None:
    page.setdefault("Links", {})["Next"] = asked.url


def _without_id(page: dict[str, Any], asked: Asked, moment: Moment) -> None:
    items, key = items_of(page, asked), BY_NAME[ResourceName(asked.operation)].key
    if items and len(key) == 1:
        moment.dice.choice(items).pop(key[0], None)


def _blank_id(page: dict[str, Any], asked: Asked, moment: Moment) -> None:
    items, key = items_of(page, asked), BY_NAME[ResourceName(asked.operation)].key
    if items and len(key) == 1:
        moment.dice.choice(items)[key[0]] = " "


def _half_a_pair(page: dict[str, Any], asked: Asked, moment: Moment) -> None:
    items = items_of(page, asked)
    if items:
        moment.dice.choice(items)["Description"] = "cut here \ud83d"


def _twice(page: dict[str, Any], asked: Asked, moment: Moment) -> None:
    items = items_of(page, asked)
    if items:
        items.append(dict(moment.dice.choice(items)))


def _one_less(page: dict[str, Any], asked: Asked, moment: Moment) -> None:
    items = items_of(page, asked)
    if items:
        items.pop(moment.dice.randrange(len(items)))


def _empty(page: dict[str, Any], asked: Asked, _moment: Moment) -> None:
    items_of(page, asked).clear()


def _history(written: str) -> Change:
    def change(page: dict[str, Any], _asked: Asked, _moment: Moment) -> None:
        page.setdefault("Meta", {})["FirstAvailableDateTime"] = written

    return change


def _more_pages(page: dict[str, Any], _asked: Asked, _moment: Moment) -> None:
    page.setdefault("Meta", {})["TotalPages"] = int(page.get("Meta", {}).get("TotalPages", 1)) + 1
    page.get("Links", {}).pop("Next", None)


async def _page_again(asked: Asked, moment: Moment) -> Sent:
    """The page before it once more, with the link it had: this page's own items are never shown."""
    sent = await asked.process()
    before = moment.earlier.get(asked.url)
    if before is None or sent.status != 200:
        return sent
    page, again = json.loads(sent.body), json.loads(before.body)
    page["Data"] = again["Data"]
    return replace(sent, body=json.dumps(page).encode())


async def _endless(asked: Asked, moment: Moment) -> Sent:
    """Every page has a next one."""
    sent = await asked.process()
    if sent.status != 200:
        return sent
    page = json.loads(sent.body)
    if "Next" not in page.get("Links", {}):
        joint = "&" if "?" in asked.url else "?"
        page.setdefault("Links", {})["Next"] = f"{asked.url}{joint}more={moment.dice.randrange(10**6)}"
    return replace(sent, body=json.dumps(page).encode())


async def _unfiltered(asked: Asked, _moment: Moment) -> Sent:
    """The whole listing, whatever dates were asked for."""
    return (
        await asked.elsewhere(asked.url.partition("?")[0])
        if "continuation=" not in asked.url
        else await asked.process()
    )


D, L, T, H = Where.DATA, Where.LATER, Where.TOKEN, Where.HUB
OWED, LIE, TRUE, SHORT = Verdict.OWED, Verdict.LIE, Verdict.TRUE, Verdict.SHORT
CODES_403: Final = (
    "AccessToken.InvalidScope",
    "Consent.TransientAccountAccessFailure",
    "Consent.AccountTemporarilyBlocked",
    "Consent.PermanentAccountAccessFailure",
    "GenericRecoverableError",
    "GenericError",
)
CODES_400: Final = ("Consent.Invalid", "GenericRecoverableError", "GenericError", "Resource.InvalidFormat")


def _kind(name: str, where: Where, verdict: Verdict, bend: Bend, *, lasts: bool = False) -> Kind:
    return Kind(name=name, where=where, verdict=verdict, bend=bend, lasts=lasts)


KINDS: Final[Mapping[str, Kind]] = {
    one.name: one
    for one in (
        # the line
        _kind("lost-before", D, OWED, _lost_before),
        _kind("lost-after", D, OWED, _lost_after),
        _kind("timeout", D, OWED, _timeout),
        _kind("half-a-body", D, OWED, _half),
        _kind("half-a-body-announced", D, OWED, _half_as_whole),
        _kind("half-of-gzip", D, OWED, _half_of_gzip),
        _kind("gzip", D, TRUE, _gzip),
        _kind("gzip-members", D, TRUE, _gzip_members),
        _kind("not-gzip", D, OWED, _not_gzip),
        _kind("other-type", D, OWED, _other_type),
        # the server
        *(_kind(f"{status}-bare", D, OWED, _answer(status)) for status in (500, 502, 503, 504)),
        _kind("500-body", D, OWED, _refusal(500, "GenericRecoverableError")),
        *(_kind(f"{status}-html", D, OWED, _gateway(status)) for status in (502, 503)),
        _kind("503-retry-after", D, OWED, _answer(503, retry_after="3")),
        _kind("200-html", D, OWED, _gateway(200)),
        _kind("302", D, OWED, _answer(302, location="https://login.example/")),
        _kind("429-seconds", D, OWED, _retry_seconds),
        _kind("429-date", D, OWED, _retry_date),
        _kind("429-bare", D, OWED, _answer(429)),
        # refusals
        _kind("401-once", D, OWED, _answer(401)),
        _kind("401-for-ever", D, OWED, _answer(401, b"policy handler", "text/plain"), lasts=True),
        *(_kind(f"403-{code}", D, OWED, _refusal(403, code)) for code in CODES_403),
        *(_kind(f"403-{code}-lasting", D, OWED, _refusal(403, code), lasts=True) for code in CODES_403[1:3]),
        _kind("403-html", D, OWED, _gateway(403)),
        _kind("403-bare", D, OWED, _answer(403)),
        *(_kind(f"400-{code}", D, OWED, _refusal(400, code)) for code in CODES_400),
        _kind("400-html", D, OWED, _gateway(400)),
        _kind("404-bare", D, OWED, _answer(404)),
        _kind("404-body", D, OWED, _refusal(404, "Resource.InvalidResourceId")),
        _kind("404-html", D, OWED, _gateway(404)),
        _kind("404-html-lasting", D, OWED, _gateway(404), lasts=True),
        _kind("410-bare", D, OWED, _answer(410)),
        *(_kind(f"later-{status}", L, OWED, _refusal(status, "Resource.InvalidFormat")) for status in (400, 403, 404)),
        *(_kind(f"later-{status}-html", L, OWED, _gateway(status)) for status in (400, 404)),
        _kind("later-410", L, OWED, _answer(410)),
        # links
        _kind("foreign-link", Where.LISTS, OWED, _changed(_foreign_link)),
        _kind("self-link", Where.LISTS, OWED, _changed(_self_link)),
        _kind("next-for-ever", Where.LISTS, OWED, _endless, lasts=True),
        _kind("ends-early", Where.LISTS, OWED, _changed(_more_pages)),
        # what the pages hold
        _kind("page-again", L, LIE, _page_again),
        _kind("one-less", Where.LISTS, LIE, _changed(_one_less)),
        _kind("empty-once", Where.LISTS, LIE, _changed(_empty)),
        _kind("accounts-empty", Where.ACCOUNTS, LIE, _changed(_empty)),
        _kind("twice", Where.LISTS, TRUE, _changed(_twice)),
        _kind("half-a-pair", Where.LISTS, LIE, _changed(_half_a_pair)),
        _kind("without-id", Where.LISTS, SHORT, _changed(_without_id)),
        _kind("blank-id", Where.LISTS, SHORT, _changed(_blank_id)),
        _kind("without-id-lasting", Where.LISTS, SHORT, _changed(_without_id), lasts=True),
        _kind("history-9999", Where.DATED, LIE, _changed(_history("9999-12-31T23:59:59Z"))),
        _kind("history-0001", Where.DATED, LIE, _changed(_history("0001-01-01T00:00:00Z"))),
        _kind("history-0001-east", Where.DATED, LIE, _changed(_history("0001-01-01T00:00:00+04:00"))),
        _kind("filter-ignored", Where.DATED, TRUE, _unfiltered, lasts=True),
        # tokens and the Hub
        _kind("token-lost-before", T, OWED, _lost_before),
        _kind("token-lost-after", T, OWED, _lost_after),
        _kind("token-timeout", T, OWED, _timeout),
        _kind("token-500", T, OWED, _answer(500)),
        _kind("token-html", T, OWED, _gateway(200)),
        _kind("token-429", T, OWED, _retry_seconds),
        _kind("token-invalid-client", T, OWED, _oauth(400, "invalid_client")),
        _kind("token-401", T, OWED, _oauth(401, "invalid_client")),
        _kind("token-invalid-request", T, OWED, _oauth(400, "invalid_request")),
        _kind("hub-500", H, OWED, _answer(500)),
        _kind("hub-403", H, OWED, _refusal(403, "GenericError")),
        _kind("hub-lost", H, OWED, _lost_before),
    )
}

"""A user's way: the link, the bank, the callback, and every way it can end."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import cast
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
import sqlalchemy as sa

from syncworker.consents.authorize import Authorizer, Completed, Ending
from syncworker.lfi.oauth import read_redirect
from syncworker.opening import load_keyring
from syncworker.standard.consents import Status
from syncworker.store.tables import authorization, authorization_intent
from syncworker.store.unit_of_work import Store, StoreUnavailableError
from syncworker.web.callbacks import _complete
from syncworker.web.pages import State
from tests.web.house import HTML, PUBLIC_URL, WebHouse

pytestmark = pytest.mark.flow


def title(page: httpx.Response) -> str:
    found = re.search(r"<h1>(.*?)</h1>", page.text)
    assert found is not None, page.text
    return found[1]


def back(page: httpx.Response) -> dict[str, str]:
    """The query a page sends the user back with; empty when it does not."""
    found = re.search(r'<a class="go" href="([^"]*)"', page.text)
    return dict(parse_qsl(urlsplit(found[1].replace("&amp;", "&")).query)) if found else {}


async def test_a_user_gives_consent_and_returns_to_the_product(web: WebHouse) -> None:
    """From `POST /v1/consents` to a stored consent; the product is told ids and a word, never a code."""
    begun = await web.begin()
    back_with = await web.answer(await web.set_out(begun))
    shown = await web.come_back(back_with)
    stands = (await web.product.get(f"/v1/authorizations/{begun['authorization_id']}")).json()

    consent = await web.consent(stands["consent_id"])
    assert (shown.status_code, title(shown)) == (200, "Your bank is connected")
    assert back(shown) == {
        "page": "2",
        "result": "authorized",
        "consent_id": consent.consent_id,
        "connection_id": consent.consent_id,
    }
    assert (consent.status, consent.user_ref, stands["state"]) == (Status.Authorized, "customer-1", "completed")
    assert dict(parse_qsl(urlsplit(back_with).query))["code"] not in shown.text


async def test_nothing_is_sent_to_the_bank_before_the_click(small_web: WebHouse) -> None:
    """The product's wish alone makes no call; the click makes one pushed request."""

    def pushed() -> int:
        return sum(entry.operation == "par" for entry in small_web.bank.bank.log.served())

    begun = await small_web.begin()
    before = pushed()
    await small_web.set_out(begun)

    assert (before, pushed()) == (0, 1)


async def test_reloading_the_callback_exchanges_nothing_again(small_web: WebHouse) -> None:
    """The same address again: the page says that it was taken, the bank is given no second code."""
    begun = await small_web.begin()
    address = await small_web.answer(await small_web.set_out(begun))
    await small_web.come_back(address)
    again = await small_web.come_back(address)

    assert (again.status_code, title(again), small_web.exchanges()) == (409, "This step was already taken", 1)
    assert back(again)["result"] == "authorized"


async def test_declining_ends_in_a_page_of_its_own(small_web: WebHouse) -> None:
    """The user said no: the product hears it, the consent is filed as the Hub has it."""
    begun = await small_web.begin()
    shown = await small_web.come_back(await small_web.answer(await small_web.set_out(begun), approve=False))
    stands = (await small_web.product.get(f"/v1/authorizations/{begun['authorization_id']}")).json()

    assert (shown.status_code, title(shown), back(shown)["result"]) == (200, "You did not agree", "declined")
    assert stands["state"] == "declined"
    assert (await small_web.consent(stands["consent_id"])).status == Status.Rejected


@dataclass
class Faulty:
    """Uses a redirect up, and then the database is gone."""

    store: Store
    ending: Ending | None

    async def complete(self, query: str) -> Completed:
        if self.ending is not None:
            state, ending = read_redirect(query).state, self.ending.value
            async with self.store.writing() as unit:
                await unit.authorizations.use(state, at=await unit.now(), outcome=ending)
                await unit.commit()
        raise StoreUnavailableError("database unavailable")


@pytest.mark.parametrize(
    ("ending", "shown"),
    [
        (Ending.DECLINED, State.DECLINED),
        (Ending.TOO_OLD, State.TOO_OLD),
        (Ending.FAILED, State.FAILED),
        (None, StoreUnavailableError),
    ],
)
async def test_a_fault_after_the_end_does_not_change_the_end(
    small_web: WebHouse, open_store: Callable[..., Store], ending: Ending | None, shown: State | type[Exception]
) -> None:
    """Who declined is not told that they agreed; what was not used may be tried again."""
    arrived = await small_web.answer(await small_web.set_out(await small_web.begin()))
    back_with = f"?{urlsplit(arrived).query}"
    settings = small_web.settings
    store = open_store(settings.database_url, keyring=load_keyring(settings), clock=None)
    async with store.reading() as unit:
        row = await unit.authorizations.get(read_redirect(back_with).state)
    assert row is not None
    authorizer = cast("Authorizer", Faulty(store, ending))
    found: State | type[Exception]
    try:
        found = await _complete(store, authorizer, row, back_with)
    except StoreUnavailableError as error:
        found = type(error)

    assert found == shown


async def test_a_second_authoriser_is_waited_for(small_web: WebHouse) -> None:
    """After the exchange the Hub still says AwaitingAuthorization: the page says that another person is asked."""
    begun = await small_web.begin()
    address = await small_web.answer(await small_web.set_out(begun))
    stands = (await small_web.product.get(f"/v1/authorizations/{begun['authorization_id']}")).json()
    hold(small_web, stands["consent_id"])
    shown = await small_web.come_back(address)

    assert (shown.status_code, title(shown)) == (200, "Waiting for another approval")
    assert back(shown)["result"] == "awaiting_authorization"
    assert (await small_web.consent(stands["consent_id"])).status == Status.AwaitingAuthorization


async def test_an_answer_after_ten_minutes_is_too_old(web: WebHouse) -> None:
    """The page says that it took too long; the code is not used."""
    address = await web.answer(await web.set_out(await web.begin()))
    async with web.store.writing() as unit:
        earlier = await unit.now() - timedelta(minutes=11)
        await unit.connection.execute(sa.update(authorization).values(created_at=earlier))
        await unit.commit()
    shown = await web.come_back(address)

    assert (shown.status_code, title(shown), web.exchanges()) == (410, "This took too long", 0)


async def test_another_browser_is_refused_and_the_first_may_still_come(small_web: WebHouse) -> None:
    """A browser that did not set out gets nothing, and uses nothing up."""
    address = await small_web.answer(await small_web.set_out(await small_web.begin()))
    stranger = await small_web.come_back(address, browser=small_web.another())
    exchanged = small_web.exchanges()
    own = await small_web.come_back(address)

    assert (stranger.status_code, title(stranger), back(stranger)) == (403, "Begun in another browser", {})
    assert (exchanged, title(own)) == (0, "Your bank is connected")


async def test_a_cookie_of_another_request_does_not_serve(small_web: WebHouse) -> None:
    """The seal in the cookie is of one state: put under another's name it opens nothing."""
    first = await small_web.answer(await small_web.set_out(await small_web.begin()))
    thief = small_web.another()
    await small_web.set_out(await small_web.begin(user_ref="thief"), browser=thief)
    (name,) = small_web.browser.cookies.keys()
    (stolen,) = thief.cookies.values()
    thief.cookies.clear()
    thief.cookies.set(name, stolen, domain="tpp.example")
    shown = await small_web.come_back(first, browser=thief)

    assert (shown.status_code, title(shown)) == (403, "Begun in another browser")


async def test_the_cookie_is_bound_to_host_and_browser(small_web: WebHouse) -> None:
    """`__Host-`, Secure, HttpOnly, Lax, ten minutes; the answer is never stored."""
    begun = await small_web.begin()
    answer = await small_web.browser.get(begun["authorize_url"], headers=HTML)
    name, *attributes = answer.headers["set-cookie"].split("; ")

    assert re.fullmatch(r"__Host-syncworker-[0-9a-f]{16}=\S+", name)
    assert sorted(attributes) == ["HttpOnly", "Max-Age=600", "Path=/", "SameSite=lax", "Secure"]
    assert answer.headers["cache-control"] == "no-store"


async def test_a_state_that_is_not_ours_is_told_so(small_web: WebHouse) -> None:
    """Nothing of the request is repeated on the page."""
    shown = await small_web.come_back("/callback?code=SECRETCODE&state=FOREIGNSTATE&iss=https://bank.example")

    assert (shown.status_code, title(shown)) == (400, "This request is not known")
    assert ("SECRETCODE" in shown.text, "FOREIGNSTATE" in shown.text) == (False, False)


async def test_another_issuer_is_refused(small_web: WebHouse) -> None:
    """`iss` is not the one the request was pushed to: the code is not used."""
    address = await small_web.answer(await small_web.set_out(await small_web.begin()))
    mixed = re.sub(r"iss=[^&]*", "iss=https%3A%2F%2Fother.example", address)
    shown = await small_web.come_back(mixed)

    assert (shown.status_code, title(shown), small_web.exchanges()) == (400, "The answer is not from your bank", 0)


@pytest.mark.parametrize("query", ["", "?", "?code=a", "?state=a", "?code=a&state=b&state=c", "?code=%ff&state=x"])
async def test_an_unreadable_answer_is_told_so(small_web: WebHouse, query: str) -> None:
    """Neither code nor error, no state, a parameter twice."""
    shown = await small_web.come_back(f"/callback{query}")

    assert (shown.status_code, title(shown)) == (400, "The answer cannot be read")


async def test_a_refused_code_is_told_so(small_web: WebHouse) -> None:
    """The bank takes the code for none of its own."""
    address = await small_web.answer(await small_web.set_out(await small_web.begin()))
    shown = await small_web.come_back(re.sub(r"code=[^&]*", "code=forged", address))

    assert (shown.status_code, title(shown)) == (400, "Your bank did not complete it")


async def test_a_bank_that_is_away_is_told_so_and_the_link_stays_good(small_web: WebHouse) -> None:
    """No PAR, no page of the bank; later the same link serves."""
    begun = await small_web.begin()
    small_web.bank.bank.answers(503, operation="par", times=None)
    away = await small_web.browser.get(begun["authorize_url"], headers=HTML)
    small_web.bank.bank.faults.clear()
    there = await small_web.browser.get(begun["authorize_url"], headers=HTML)

    assert (away.status_code, title(away)) == (503, "Not possible at the moment")
    assert (away.headers["retry-after"], there.status_code) == ("30", 303)


async def test_a_link_that_has_expired_was_completed_or_is_unknown(web: WebHouse) -> None:
    """Each has words of its own; a client that reads no HTML gets a problem."""
    done = await web.begin()
    await web.come_back(await web.answer(await web.set_out(done)))
    old = await web.begin()
    async with web.store.writing() as unit:
        past = await unit.now() - timedelta(seconds=1)
        table = authorization_intent
        await unit.connection.execute(
            sa.update(table).where(table.c.intent_id == old["authorization_id"]).values(expires_at=past)
        )
        await unit.commit()
    pages = [
        await web.browser.get(url, headers=HTML)
        for url in (done["authorize_url"], old["authorize_url"], f"{PUBLIC_URL}/v1/authorize/none")
    ]
    problem = await web.browser.get(f"{PUBLIC_URL}/v1/authorize/none")

    assert [(page.status_code, title(page)) for page in pages] == [
        (409, "This is done already"),
        (410, "This link has expired"),
        (404, "This link leads nowhere"),
    ]
    assert (problem.headers["content-type"], problem.json()["code"]) == ("application/problem+json", "unknown_intent")


async def test_a_link_fetched_ahead_pushes_nothing(small_web: WebHouse) -> None:
    """A browser that prefetches must not use up what is good once."""
    begun = await small_web.begin()
    answer = await small_web.browser.get(begun["authorize_url"], headers=HTML | {"sec-purpose": "prefetch"})

    assert (answer.status_code, answer.json()["code"]) == (403, "prefetch")
    assert [entry for entry in small_web.bank.bank.log.served() if entry.operation == "par"] == []


async def test_without_a_return_url_the_page_says_to_close_it(small_web: WebHouse) -> None:
    """No link, no refresh."""
    begun = await small_web.begin(return_url=None)
    shown = await small_web.come_back(await small_web.answer(await small_web.set_out(begun)))

    assert ("http-equiv" in shown.text, "You can close this page" in shown.text) == (False, True)


def hold(web: WebHouse, consent_id: str) -> None:
    """The bank waits for a second authoriser."""
    web.bank.bank.consents.get(consent_id).status = Status.AwaitingAuthorization

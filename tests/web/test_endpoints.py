"""`/v1/webhook-endpoints`: added, changed, changed over, removed; nothing secret is shown twice."""

import pytest

from syncworker.store.api_keys import Scope
from syncworker.store.messages import MessageType, Outcome
from syncworker.store.unit_of_work import UnitOfWork
from tests.web.house import WebHouse

PATH = "/v1/webhook-endpoints"
URL = "https://product.example/hooks"


async def test_an_endpoint_lives(web: WebHouse) -> None:
    """Made with a secret that is shown once; changed, disabled, enabled, changed over, removed."""
    answer = await web.product.post(PATH, json={"url": URL, "types": ["sync.failed"], "description": "main"})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert made["secret"].startswith("whsec_")
    place = answer.headers["location"]
    shown = (await web.product.get(place)).json()
    assert shown == {name: value for name, value in made.items() if name != "secret"}
    assert (await web.product.get(PATH)).json() == {"webhook_endpoints": [shown]}
    changed = await web.product.put(place, json={"url": f"{URL}/2"})
    assert changed.json() == shown | {"url": f"{URL}/2", "types": [], "description": None}
    assert (await web.product.post(f"{place}/disable")).json()["disabled_why"] == "operator"
    assert (await web.product.post(f"{place}/enable")).json()["disabled_at"] is None
    other = await web.product.post(f"{place}/secrets")
    assert other.status_code == 201
    assert other.json()["secret"] != made["secret"]
    assert (await web.product.get(place)).json()["secrets"] == 2
    assert (await web.product.delete(f"{place}/secrets/old")).json()["secrets"] == 1
    assert (await web.product.delete(place)).status_code == 204
    assert (await web.product.get(place)).status_code == 404


async def test_messages_are_shown_and_sent_again(web: WebHouse) -> None:
    """A test message waits for the workers; one that was delivered can be sent once more."""
    place = (await web.product.post(PATH, json={"url": URL})).headers["location"]
    assert (await web.product.post(f"{place}/test")).status_code == 202
    (message,) = (await web.product.get(f"{place}/messages?waiting=true")).json()["messages"]
    assert (message["type"], message["outcome"], message["attempts"]) == ("test", "waiting", 0)

    async def step(unit: UnitOfWork) -> None:
        at = await unit.now()
        await unit.messages.end(message["message"], Outcome.DELIVERED, at=at, status=200, error=None)

    await web.store.atomically(step)
    again = await web.product.post(f"{place}/redeliver", json={"messages": [message["message"]]})
    assert (again.status_code, again.json()) == (202, {"again": 1})
    two = (await web.product.get(f"{place}/messages")).json()["messages"]
    assert [one["outcome"] for one in two] == ["waiting", "delivered"]
    assert two[0]["webhook_id"] == two[1]["webhook_id"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"url": "http://product.example/"}, "url"),
        ({"url": "https://10.0.0.1/"}, "url"),
        ({"url": URL, "types": ["sync.unknown"]}, "types.0"),
        ({"url": URL, "secret": "whsec_mine"}, "secret"),
        ({}, "url"),
    ],
)
async def test_what_cannot_be_is_named(small_web: WebHouse, body: dict[str, object], field: str) -> None:
    """422 with the field."""
    answer = await small_web.product.post(PATH, json=body)
    assert answer.status_code == 422, answer.text
    assert [one["field"] for one in answer.json()["errors"]] == [field]


async def test_what_is_unknown_is_not_found(small_web: WebHouse) -> None:
    """Every path of an endpoint that is none, or another tenant's."""
    place = f"{PATH}/whe_unknown"
    body = {"url": URL}
    asked = [
        ("GET", "", None), ("PUT", "", body), ("DELETE", "", None), ("POST", "/disable", None),
        ("POST", "/enable", None), ("POST", "/secrets", None), ("DELETE", "/secrets/old", None),
        ("POST", "/test", None), ("GET", "/messages", None), ("POST", "/redeliver", {"messages": [1]}),
    ]  # fmt: skip
    for method, path, sent in asked:
        answer = await small_web.product.request(method, place + path, json=sent)
        assert answer.status_code == 404, (method, path, answer.text)


async def test_other_scopes_open_nothing_here(small_web: WebHouse) -> None:
    """A key for consents may not redirect the product's messages."""
    key = await small_web.key([scope for scope in Scope if scope is not Scope.WEBHOOKS_WRITE])
    answer = await small_web.browser.post(PATH, json={"url": URL}, headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 403


def test_every_type_is_documented() -> None:
    """`docs/webhooks.md` names each type once at the head of a row."""
    from pathlib import Path

    text = (Path(__file__).resolve().parents[2] / "docs" / "webhooks.md").read_text(encoding="utf-8")
    for one in MessageType:
        assert f"\n| `{one.value}` |" in text, one

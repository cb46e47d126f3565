"""The OpenAPI description against the process that serves it: requests drawn from it, and every route's door."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis.core.result
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from syncworker.store.api_keys import Scope
from syncworker.store.unit_of_work import Store
from tests.ground.processes import Nursery
from tests.web.house import WebHouse
from tests.web.live import Town, town

DESCRIPTION = "/v1/openapi.json"
CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)
DRAWS = hypothesis.settings(
    max_examples=15, deadline=None, database=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
)


def draw(place: Town, key: str) -> dict[str, int]:
    """Requests of every operation, as its description allows them; how many were sent to each."""
    sent: dict[str, int] = {}
    trusted = str(place.bank.ca_bundle)
    sending = {"headers": {"authorization": f"Bearer {key}"}, "verify": trusted, "timeout": 60}
    description = schemathesis.openapi.from_url(place.url + DESCRIPTION, verify=trusted)
    for found in description.get_all_operations():
        assert isinstance(found, schemathesis.core.result.Ok)  # else the description itself is wrong
        operation = found.ok()

        def send(case: Any) -> None:
            name = case.operation.label
            sent[name] = sent.get(name, 0) + 1
            case.call_and_validate(checks=list(CHECKS), **sending)

        hypothesis.given(case=operation.as_strategy())(DRAWS(send))()
    return sent


@pytest.mark.live
@pytest.mark.timeout(400)
async def test_answers_are_as_described(tmp_path: Path, worker_process: Nursery) -> None:
    """Whatever request the description allows is answered with a status, a type and a body that it names."""
    async with town(tmp_path, worker_process) as place:
        wanted = [part for scope in Scope for part in ("--scope", scope.value)]
        made = (await asyncio.to_thread(place.house.run, "apikeys", "create", *wanted, "--json")).json
        sent = await asyncio.to_thread(draw, place, made["key"])
    assert len(sent) >= 9
    assert all(times >= 1 for times in sent.values()), sent


async def operations(web: WebHouse) -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of every operation that needs a key; the links of users' browsers do not."""
    described = (await web.product.get(DESCRIPTION)).json()
    return [
        (method, re.sub(r"\{[^}]*\}", "unknown", path), operation)
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
        if not path.startswith("/v1/authorize/")
    ]


async def test_every_route_asks_for_a_key(
    small_web: WebHouse, sqlite_url: str, open_store: Callable[..., Store]
) -> None:
    """Without a key, with a wrong one and with one of another tenant: 401, before anything of the request is read."""
    other = await _key_of(open_store(sqlite_url, tenant="another", clock=None))
    for method, path, _ in await operations(small_web):
        for sent in ({}, {"authorization": "Bearer swk_unknown_unknown"}, {"authorization": f"Bearer {other}"}):
            answer = await small_web.browser.request(method, path, headers=sent, content=b"{not json")
            assert answer.status_code == 401, (method, path, sent.keys(), answer.status_code)


async def test_every_route_asks_for_its_scope(small_web: WebHouse) -> None:
    """A key with none of the scopes that the description names is refused with 403, and so is each scope left out."""
    for method, path, operation in await operations(small_web):
        ((needed,),) = [requirement.values() for requirement in operation["security"]]
        assert needed, (method, path)
        for left_out in needed:
            others = [scope for scope in Scope if scope.value != left_out]
            key = await small_web.key(others)
            answer = await small_web.browser.request(method, path, headers={"authorization": f"Bearer {key}"}, json={})
            assert answer.status_code == 403, (method, path, left_out, answer.status_code, answer.text)


async def _key_of(store: Store) -> str:
    async with store.writing() as unit:
        _, key = await unit.api_keys.create("another", tuple(Scope), at=await unit.now())
        await unit.commit()
    return str(key.get_secret_value())

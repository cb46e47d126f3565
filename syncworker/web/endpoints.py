"""`/v1/webhook-endpoints`: where the product is told what happened."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from syncworker.delivery.sending import URL_MAX, check_url
from syncworker.errors import RequestError
from syncworker.store.api_keys import Scope
from syncworker.store.messages import Disabled, Endpoint, MessageType
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.views import webhooks
from syncworker.web import problems
from syncworker.web.guard import Keys, Principal
from syncworker.web.problems import Fault, bad_request, not_found

PATH = "/v1/webhook-endpoints"
SHOWN_MAX = 200


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EndpointAsked(_Asked):
    """An endpoint to send messages to."""

    url: Annotated[str, Field(min_length=1, max_length=URL_MAX, description="https://… of yours.")]
    types: Annotated[
        tuple[MessageType, ...], Field(max_length=len(MessageType), description="Those wanted; empty: every type.")
    ] = ()
    description: (
        Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")] | None
    ) = None


class RedeliveryAsked(_Asked):
    """Messages to send once more."""

    messages: Annotated[tuple[Annotated[int, Field(ge=1, lt=2**63)], ...], Field(max_length=SHOWN_MAX)] = ()
    since: Annotated[AwareDatetime | None, Field(description="Every message written since then.")] = None


class EndpointOut(BaseModel):
    """An endpoint."""

    endpoint_id: str
    url: str
    description: str | None
    types: list[str] = Field(description="Those wanted; empty: every type.")
    secrets: int = Field(description="Each signs; two while a receiver changes over.")
    created_at: datetime
    failing_since: datetime | None = Field(description="First failed attempt since the last one that succeeded.")
    disabled_at: datetime | None = Field(description="Nothing is sent since then; messages are kept.")
    disabled_why: str | None = Field(description="operator, gone (it answered 410) or failing.")


class EndpointMade(EndpointOut):
    """An endpoint and its signing secret, which is shown once."""

    secret: str = Field(description="For a library of Standard Webhooks; it is not shown again.")


class Secret(BaseModel):
    """A signing secret, which is shown once."""

    endpoint_id: str
    secret: str


class EndpointsOut(BaseModel):
    """Every endpoint, oldest first."""

    webhook_endpoints: list[EndpointOut]


class MessageOut(BaseModel):
    """A message and what became of it."""

    message: int
    webhook_id: str = Field(description="The same with every attempt.")
    endpoint_id: str
    type: str
    connection_id: str | None
    created_at: datetime
    attempts: int = Field(description="Begun so far.")
    status: int | None = Field(description="HTTP status of the last answer.")
    error: str | None = Field(description="Stable code of the last failure.")
    outcome: str = Field(description="waiting, delivered, folded (another message tells it) or given_up.")
    ended_at: datetime | None
    next_attempt_at: datetime | None


class MessagesOut(BaseModel):
    """Messages, newest first."""

    messages: list[MessageOut]


class Redelivered(BaseModel):
    """How many messages are sent once more."""

    again: int


def routes(*, store: Store, keys: Keys, allow_private_hosts: bool) -> APIRouter:
    """The routes of endpoints.

    Args:
        allow_private_hosts: endpoints may lie in a private network.
    """
    router = APIRouter(prefix=PATH, tags=["webhooks"], responses=problems.REFUSALS, route_class=keys.route_class())
    writes = Annotated[Principal, Depends(keys.needs(Scope.WEBHOOKS_WRITE))]

    def checked(url: str) -> str:
        try:
            return check_url(url, allow_private_hosts=allow_private_hosts)
        except RequestError as error:
            raise bad_request(Fault("url", str(error).removeprefix("url: "))) from None

    async def changed(endpoint_id: str, step: Callable[[UnitOfWork], Awaitable[object]]) -> EndpointOut:
        async def whole(unit: UnitOfWork) -> Endpoint | None:
            await step(unit)
            return await unit.messages.endpoint(endpoint_id)

        found = await store.atomically(whole)
        if found is None:
            raise not_found("webhook endpoint")
        return _shown(found)

    @router.post("", status_code=HTTPStatus.CREATED)
    async def add(_: writes, asked: EndpointAsked, response: Response) -> EndpointMade:
        """Add an endpoint; its secret is in this answer and never again."""
        url = checked(asked.url)

        async def step(unit: UnitOfWork) -> EndpointMade:
            at = await unit.now()
            made, secret = await unit.messages.add_endpoint(
                url, types=asked.types, description=asked.description, at=at
            )
            return EndpointMade(**_shown(made).model_dump(), secret=secret.get_secret_value())

        made = await store.atomically(step)
        response.headers["location"] = f"{PATH}/{made.endpoint_id}"
        return made

    @router.get("")
    async def every(_: writes) -> EndpointsOut:
        """Every endpoint of this tenant."""
        async with store.reading() as unit:
            return EndpointsOut(webhook_endpoints=[_shown(one) for one in await unit.messages.endpoints()])

    @router.get("/{endpoint_id}")
    async def one(_: writes, endpoint_id: str) -> EndpointOut:
        """One endpoint."""
        async with store.reading() as unit:
            found = await unit.messages.endpoint(endpoint_id)
        if found is None:
            raise not_found("webhook endpoint")
        return _shown(found)

    @router.put("/{endpoint_id}")
    async def put(_: writes, endpoint_id: str, asked: EndpointAsked) -> EndpointOut:
        """Change where and what is sent; secrets, and messages that wait, stay."""
        url = checked(asked.url)
        return await changed(
            endpoint_id,
            lambda unit: unit.messages.change_endpoint(
                endpoint_id, url=url, types=asked.types, description=asked.description
            ),
        )

    @router.delete("/{endpoint_id}", status_code=HTTPStatus.NO_CONTENT)
    async def remove(_: writes, endpoint_id: str) -> None:
        """Remove an endpoint with every message kept for it."""
        if not await store.atomically(lambda unit: unit.messages.remove_endpoint(endpoint_id)):
            raise not_found("webhook endpoint")

    @router.post("/{endpoint_id}/disable")
    async def disable(_: writes, endpoint_id: str) -> EndpointOut:
        """Send nothing there for now; messages are kept."""

        async def step(unit: UnitOfWork) -> None:
            await unit.messages.disable(endpoint_id, Disabled.OPERATOR, at=await unit.now())

        return await changed(endpoint_id, step)

    @router.post("/{endpoint_id}/enable")
    async def enable(_: writes, endpoint_id: str) -> EndpointOut:
        """Send there again, what waits first."""

        async def step(unit: UnitOfWork) -> None:
            await unit.messages.enable(endpoint_id, at=await unit.now())

        return await changed(endpoint_id, step)

    @router.post("/{endpoint_id}/secrets", status_code=HTTPStatus.CREATED)
    async def add_secret(_: writes, endpoint_id: str) -> Secret:
        """Sign with another secret too, so that your receiver can change over."""
        try:
            secret = await store.atomically(lambda unit: unit.messages.add_secret(endpoint_id))
        except RequestError as error:
            raise bad_request(Fault("endpoint_id", str(error).removeprefix("endpoint_id: "))) from None
        if secret is None:
            raise not_found("webhook endpoint")
        return Secret(endpoint_id=endpoint_id, secret=secret.get_secret_value())

    @router.delete("/{endpoint_id}/secrets/old")
    async def drop_secrets(_: writes, endpoint_id: str) -> EndpointOut:
        """Sign with the newest secret alone."""
        return await changed(endpoint_id, lambda unit: unit.messages.drop_old_secrets(endpoint_id))

    @router.post("/{endpoint_id}/test", status_code=HTTPStatus.ACCEPTED)
    async def test(_: writes, endpoint_id: str) -> EndpointOut:
        """Send a message of type `test`, as any other."""

        async def step(unit: UnitOfWork) -> None:
            if await unit.messages.endpoint(endpoint_id) is not None:
                await unit.messages.add_test(endpoint_id, at=await unit.now())

        return await changed(endpoint_id, step)

    @router.get("/{endpoint_id}/messages")
    async def messages(
        _: writes,
        endpoint_id: str,
        waiting: bool | None = None,
        limit: Annotated[int, Query(ge=1, le=SHOWN_MAX)] = 50,
    ) -> MessagesOut:
        """Messages of an endpoint, newest first, with what became of them."""
        async with store.reading() as unit:
            if await unit.messages.endpoint(endpoint_id) is None:
                raise not_found("webhook endpoint")
            found = await unit.messages.find(endpoint_id=endpoint_id, waiting=waiting, limit=limit)
        return MessagesOut(messages=[MessageOut(**webhooks.message(one)) for one in found])

    @router.post("/{endpoint_id}/redeliver", status_code=HTTPStatus.ACCEPTED)
    async def redeliver(_: writes, endpoint_id: str, asked: RedeliveryAsked) -> Redelivered:
        """Send messages that have ended once more, under their own ids and behind what waits."""
        if not asked.messages and asked.since is None:
            raise bad_request(Fault("messages", "give numbers of messages, or since"))

        async def step(unit: UnitOfWork) -> int | None:
            if await unit.messages.endpoint(endpoint_id) is None:
                return None
            return await unit.messages.redeliver(
                endpoint_id, numbers=asked.messages, since=asked.since, at=await unit.now()
            )

        again = await store.atomically(step)
        if again is None:
            raise not_found("webhook endpoint")
        return Redelivered(again=again)

    return router


def _shown(one: Endpoint) -> EndpointOut:
    return EndpointOut(**webhooks.endpoint(one))

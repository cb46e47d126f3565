"""`syncworker webhooks`: where the product is told what happened, and what was sent there."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, TypeVar

import typer

from syncworker.cli import frame, show
from syncworker.delivery.sending import check_url
from syncworker.errors import RequestError
from syncworker.standard.values import read_instant
from syncworker.store.messages import Disabled, Endpoint, MessageType
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.views import webhooks

app = typer.Typer(help="Webhooks to the product.", no_args_is_help=True)

T = TypeVar("T")

EndpointId = Annotated[str, typer.Argument(help="As `webhooks list` shows it.")]
UNKNOWN = "endpoint_id: there is no such endpoint; `syncworker webhooks list` shows those there are"
KEEP = "keep the secret now: it is not shown again"


@app.command()
def add(
    url: Annotated[str, typer.Argument(help="https://… of the product.")],
    of_type: Annotated[
        list[MessageType] | None, typer.Option("--type", help="Repeatable; without it every type is sent.")
    ] = None,
    description: Annotated[str | None, typer.Option(help="In your words, at most 200 characters.")] = None,
    as_json: frame.AsJson = False,
) -> None:
    """Add an endpoint.  Its signing secret is printed now and never again."""
    check_url(url, allow_private_hosts=frame.settings().webhooks.allow_private_hosts)
    if description is not None and not 1 <= len(description) <= 200:
        raise RequestError("description: must be 1 to 200 characters")

    async def step(unit: UnitOfWork) -> dict[str, Any]:
        at = await unit.now()
        made, secret = await unit.messages.add_endpoint(url, types=of_type or (), description=description, at=at)
        return _endpoint(made) | {"secret": secret.get_secret_value()}

    show.facts(_write(step), as_json=as_json)
    show.say(KEEP)


@app.command("list")
def list_(as_json: frame.AsJson = False) -> None:
    """Every endpoint, and what waits for it."""

    async def read(store: Store) -> list[dict[str, Any]]:
        async with store.reading() as unit:
            backlog = await unit.messages.backlog()
            return [
                _endpoint(one) | dict(zip(("waiting", "oldest"), backlog.get(one.endpoint_id, (0, None)), strict=True))
                for one in await unit.messages.endpoints()
            ]

    empty = "no endpoint yet: `syncworker webhooks add https://…`"
    show.rows(frame.with_store(read, sealed=True), as_json=as_json, title="webhook endpoints", empty=empty)


@app.command()
def remove(endpoint_id: EndpointId, yes: frame.Yes = False, as_json: frame.AsJson = False) -> None:
    """Remove an endpoint with every message kept for it."""

    async def count(store: Store) -> int:
        async with store.reading() as unit:
            return (await unit.messages.backlog()).get(endpoint_id, (0, None))[0]

    waiting = frame.with_store(count)
    if not yes:
        raise RequestError(f"yes: {waiting} messages that wait would not be sent; say --yes to remove the endpoint")

    async def step(unit: UnitOfWork) -> dict[str, Any]:
        if not await unit.messages.remove_endpoint(endpoint_id):
            raise RequestError(UNKNOWN)
        return {"endpoint_id": endpoint_id, "removed": True, "waiting": waiting}

    show.facts(_write(step), as_json=as_json)


@app.command()
def disable(endpoint_id: EndpointId, as_json: frame.AsJson = False) -> None:
    """Send nothing there for now; messages are kept."""

    async def step(unit: UnitOfWork) -> dict[str, Any]:
        await unit.messages.disable(endpoint_id, Disabled.OPERATOR, at=await unit.now())
        return await _shown(unit, endpoint_id)

    show.facts(_write(step), as_json=as_json)


@app.command()
def enable(endpoint_id: EndpointId, as_json: frame.AsJson = False) -> None:
    """Send there again, what waits first."""

    async def step(unit: UnitOfWork) -> dict[str, Any]:
        await unit.messages.enable(endpoint_id, at=await unit.now())
        return await _shown(unit, endpoint_id)

    show.facts(_write(step), as_json=as_json)


@app.command()
def rotate(
    endpoint_id: EndpointId,
    finish: Annotated[
        bool, typer.Option("--finish", help="The receiver knows the new secret: sign with it alone.")
    ] = False,
    as_json: frame.AsJson = False,
) -> None:
    """Sign with another secret beside the old one; `--finish` ends the old one."""

    async def begin(unit: UnitOfWork) -> dict[str, Any]:
        secret = await unit.messages.add_secret(endpoint_id)
        if secret is None:
            raise RequestError(UNKNOWN)
        return {"endpoint_id": endpoint_id, "secret": secret.get_secret_value()}

    async def end(unit: UnitOfWork) -> dict[str, Any]:
        await _shown(unit, endpoint_id)
        return {"endpoint_id": endpoint_id, "dropped": await unit.messages.drop_old_secrets(endpoint_id)}

    show.facts(_write(end if finish else begin), as_json=as_json)
    if not finish:
        show.say(KEEP)


@app.command("test")
def send_test(endpoint_id: EndpointId, as_json: frame.AsJson = False) -> None:
    """Send a message of type `test`, by the workers, as any other."""

    async def step(unit: UnitOfWork) -> dict[str, Any]:
        await _shown(unit, endpoint_id)
        number = await unit.messages.add_test(endpoint_id, at=await unit.now())
        return {"endpoint_id": endpoint_id, "message": number}

    show.facts(_write(step), as_json=as_json)
    show.say(f"what became of it: `syncworker webhooks deliveries {endpoint_id}`")


@app.command()
def deliveries(
    endpoint_id: Annotated[str | None, typer.Argument(help="Only this endpoint's.")] = None,
    waiting: Annotated[
        bool | None, typer.Option("--waiting/--ended", help="Only those that wait, or that have ended.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    as_json: frame.AsJson = False,
) -> None:
    """Messages, newest first, with what became of them."""

    async def read(store: Store) -> list[dict[str, Any]]:
        async with store.reading() as unit:
            found = await unit.messages.find(endpoint_id=endpoint_id, waiting=waiting, limit=limit)
            return [webhooks.message(one) for one in found]

    show.rows(frame.with_store(read), as_json=as_json, title="webhook messages", empty="no message")


@app.command()
def redeliver(
    endpoint_id: EndpointId,
    message: Annotated[list[int] | None, typer.Option(help="Number of a message; repeatable.")] = None,
    since: Annotated[str | None, typer.Option(help="Every message written since this instant (ISO 8601).")] = None,
    as_json: frame.AsJson = False,
) -> None:
    """Send messages that have ended once more, under their own ids and behind what waits."""
    if not message and since is None:
        raise RequestError("message: give --message N, or --since 2026-11-30T08:00:00Z")
    begins = None if since is None else _instant(since)

    async def step(unit: UnitOfWork) -> dict[str, Any]:
        await _shown(unit, endpoint_id)
        at = await unit.now()
        again = await unit.messages.redeliver(endpoint_id, numbers=message or (), since=begins, at=at)
        return {"endpoint_id": endpoint_id, "again": again}

    show.facts(_write(step), as_json=as_json)


def _instant(text: str) -> datetime:
    try:
        moment, _ = read_instant(text)
    except ValueError:
        raise RequestError("since: is no instant; write it as 2026-11-30T08:00:00Z") from None
    return moment


def _write(step: Callable[[UnitOfWork], Awaitable[T]]) -> T:
    return frame.with_store(lambda store: store.atomically(step), sealed=True)


async def _shown(unit: UnitOfWork, endpoint_id: str) -> dict[str, Any]:
    found = await unit.messages.endpoint(endpoint_id)
    if found is None:
        raise RequestError(UNKNOWN)
    return _endpoint(found)


def _endpoint(one: Endpoint) -> dict[str, Any]:
    found = webhooks.endpoint(one)
    return found | {"types": found["types"] or ["every"]}

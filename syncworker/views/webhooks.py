"""Endpoints of webhooks and the messages for them, as doors show them.  Pure: values in, values out."""

from typing import Any

from syncworker.store.messages import Endpoint, Message

WAITING = "waiting"
"""The outcome of a message that has not ended."""


def endpoint(one: Endpoint) -> dict[str, Any]:
    """An endpoint; `types` is empty where it wants every one."""
    return {
        "endpoint_id": one.endpoint_id,
        "url": one.url,
        "description": one.description,
        "types": sorted(one.types),
        "secrets": one.secrets,
        "created_at": one.created_at,
        "failing_since": one.failing_since,
        "disabled_at": one.disabled_at,
        "disabled_why": one.disabled_why,
    }


def message(one: Message) -> dict[str, Any]:
    """A message and what became of it, without what it says."""
    return {
        "message": one.id,
        "webhook_id": one.message_id,
        "endpoint_id": one.endpoint_id,
        "type": one.type,
        "connection_id": one.connection_id or None,
        "created_at": one.created_at,
        "attempts": one.attempts,
        "status": one.last_status,
        "error": one.last_error,
        "outcome": one.outcome or WAITING,
        "ended_at": one.ended_at,
        "next_attempt_at": one.not_before if one.ended_at is None else None,
    }

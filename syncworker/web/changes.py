"""`GET /v1/changes`: what changed, in the order it was committed, for mirrors of the data."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from syncworker.feed.cursor import LENGTH_MAX
from syncworker.standard.json_text import json_bytes
from syncworker.standard.resources import ResourceName
from syncworker.store.api_keys import Scope
from syncworker.store.unit_of_work import Store
from syncworker.views import changes
from syncworker.web import problems
from syncworker.web.data import Id, Text, check_repeated
from syncworker.web.guard import Keys, Principal

PATH: Final = "/v1/changes"
LIMIT: Final = 100


class ChangesAsked(BaseModel):
    """Which changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cursor: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=LENGTH_MAX,
            description="next_cursor of the page before, the cursor of a webhook, or `now`: what comes from now on. "
            "Absent: from the oldest change that is kept.",
        ),
    ] = None
    limit: Annotated[int, Field(ge=1, le=changes.LIMIT, description="Most changes of a page.")] = LIMIT
    connection_id: Annotated[Id | None, Field(description="Changes of this connection alone.")] = None
    user_ref: Annotated[
        Text | None, Field(description="Changes of this user's connections alone, those that are still to come too.")
    ] = None
    resources: Annotated[
        Annotated[str, StringConstraints(pattern=r"^[a-z_]+(,[a-z_]+)*$", max_length=300)] | None,
        Field(
            description="Changes of these alone, and of whole connections: names with commas between, as "
            "`transactions,balances`."
        ),
    ] = None

    @field_validator("resources")
    @classmethod
    def _known(cls, given: str | None) -> str | None:
        unknown = sorted(set(given.split(",")) - {one.value for one in ResourceName}) if given else []
        if unknown:
            raise ValueError(
                f"no resource is called {unknown[0]}; there are {', '.join(one.value for one in ResourceName)}"
            )
        return given

    @property
    def names(self) -> frozenset[ResourceName]:
        """The resources asked for; empty: every one."""
        return frozenset(ResourceName(one) for one in self.resources.split(",")) if self.resources else frozenset()


class ChangeOut(BaseModel):
    """One change."""

    op: Literal["added", "modified", "removed", "erased", "restricted"] = Field(
        description="added, modified: put the item there; removed: take it away, of an account all its rows too; "
        "restricted: take all rows of the connection away; erased: destroy what `classes` names of it."
    )
    history: bool = Field(description="Added by a first walk or a backfill, or shown again: no news at the LFI.")
    resource: str | None = Field(description="As freshness names it; null: of the whole connection.")
    list: str | None = Field(description="Name of the list that holds the row; null: none does.")
    id: str | None = Field(description="Of the row in its list.")
    connection_id: str
    account_id: str | None
    at: datetime = Field(description="When it was written.")
    previous_status: str | None = Field(description="Pending, of a transaction that was booked under the same id.")
    classes: Sequence[str] | None = Field(description="Of erased: data, personal.")
    item: dict[str, Any] | None = Field(
        description="The row as its list shows it now; null: it is gone, or the key has no data:read."
    )


class CompleteOut(BaseModel):
    """How far a connection's data has come."""

    initial_complete: bool = Field(description="Its first data is in: every listing was seen whole once.")
    history_complete: bool = Field(description="All of its history that is wanted is in.")


class ChangesOut(BaseModel):
    """A page of changes, in the order they were committed."""

    changes: list[ChangeOut]
    connections: dict[str, CompleteOut] = Field(
        description="Connections of this page that may be read, by connection_id."
    )
    next_cursor: str = Field(description="Go on from here, now or later.")
    has_more: bool = Field(description="There is more now.")
    lag_seconds: int = Field(
        description="How long the oldest committed change has waited for a transaction that is open in the database."
    )


def routes(*, store: Store, keys: Keys) -> APIRouter:
    """The route of the feed."""
    router = APIRouter(tags=["changes"], responses=problems.REFUSALS, route_class=keys.route_class(reads=True))
    reads = Annotated[Principal, Depends(keys.needs(Scope.CHANGES_READ))]

    @router.get(PATH, response_model=ChangesOut)
    async def feed(request: Request, principal: reads, asked: Annotated[ChangesAsked, Query()]) -> Response:
        """What changed behind a cursor.

        Apply a page, keep its `next_cursor`, ask again.  A row stands once in a page, as it is now: applying a page
        twice is harmless.  A cursor that leads nowhere any more is refused with 410; begin the mirror again then.
        """
        check_repeated(request)
        async with store.looking() as unit:
            only = await changes.filter_of(
                unit, connection_id=asked.connection_id, user_ref=asked.user_ref, resources=asked.names
            )
            page = await changes.page(
                unit,
                cursor=asked.cursor,
                only=only,
                limit=asked.limit,
                items=principal.may(Scope.DATA_READ),
                personal=principal.may(Scope.DATA_PERSONAL) or principal.may(Scope.DATA_RAW),
            )
        body = {
            "changes": [one.as_json() for one in page.changes],
            "connections": {
                name: {"initial_complete": one.initial, "history_complete": one.history}
                for name, one in sorted(page.complete.items())
            },
            "next_cursor": page.next_cursor,
            "has_more": page.has_more,
            "lag_seconds": page.lag_seconds,
        }
        return Response(json_bytes(body), media_type="application/json")

    return router

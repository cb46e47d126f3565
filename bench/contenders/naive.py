"""How it is often begun: an httpx client, a loop, and SQLAlchemy's ORM with `merge`.

As the quickstarts of both have it: one client for all calls, one session per consent, one commit.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import sqlalchemy as sa
import xxhash
from sqlalchemy.orm import Session, registry

from bench.contenders.program import job, serve
from syncworker.bench.books import columns_of, compared_columns, key_of
from syncworker.standard.resources import RESOURCES, Resource, Shape
from syncworker.store.tables import RECORD_TABLES

JOB = job()
REGISTRY: Any = registry()
MODELS: dict[str, Any] = {}
for table in {table.name: table for table in RECORD_TABLES.values()}.values():
    MODELS[table.name] = type(table.name.title().replace("_", ""), (), {})
    REGISTRY.map_imperatively(MODELS[table.name], table)


def listing(client: httpx.Client, token: str, resource: Resource, account_id: str = "") -> Iterator[dict[str, Any]]:
    """All items of a listing, page by page."""
    url = JOB.base_url + resource.path.replace("{AccountId}", account_id)
    while url:
        answer = client.get(url, headers={"Authorization": f"Bearer {token}"}).raise_for_status().json()
        found = answer["Data"][resource.items]
        yield from [found] if resource.shape is Shape.ONE else found
        url = answer["Links"].get("Next", "")


def record(name: str, resource: Resource, account_id: str, item: dict[str, Any], number: int) -> Any:
    """One item as an object of its model."""
    table, now = RECORD_TABLES[resource.name], datetime.now(UTC)
    raw = json.dumps(item, separators=(",", ":"), ensure_ascii=False).encode()
    values = dict(zip(compared_columns(table), columns_of(resource.name, item), strict=True))
    made = MODELS[table.name]()
    frame = {
        "raw": b"\0" + raw,
        "digest": xxhash.xxh3_128_digest(raw),
        "first_seen_at": now,
        "changed_at": now,
        "gen": 1,
    }
    key = key_of(resource.name, item, number)
    place = {"tenant": "default", "connection_id": name, "account_id": account_id, "key": key}
    for column, value in (place | values | frame).items():
        setattr(made, column, value)
    return made


def sync_consent(client: httpx.Client, session: Session, name: str, token: str) -> None:
    """Read everything of one consent and merge it."""
    resources = [one for one in RESOURCES if one.repeats is None]
    accounts: list[str] = []
    for resource in resources:
        for account_id in accounts if resource.per_account else [""]:
            for number, item in enumerate(listing(client, token, resource, account_id), start=1):
                session.merge(record(name, resource, account_id, item, number))
                if not resource.per_account and "AccountId" in item:
                    accounts.append(item["AccountId"])
    session.commit()


def main() -> None:
    """Sync one consent after the other, whenever told to."""
    engine = sa.create_engine(JOB.database_url.replace("postgresql:", "postgresql+psycopg:"))
    with httpx.Client(verify=JOB.tls(), timeout=60) as client:

        def sync() -> None:
            for name, token in JOB.consents:
                with Session(engine) as session:
                    sync_consent(client, session, name, token)

        serve(sync)


if __name__ == "__main__":
    main()

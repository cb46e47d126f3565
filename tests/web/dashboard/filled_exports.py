"""Exports as the tables hold them: a series that failed, one that is being made, and what was made before."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from syncworker.store import tables as t
from syncworker.store.unit_of_work import UnitOfWork

TARGET = "s3://AKIAEXAMPLE:sealed-token@bucket.example/of/analysts?key=sealed-token"
EXPORTS = """
[exports.nightly]
to = "s3://AKIAEXAMPLE:sealed-token@bucket.example/of/analysts?key=sealed-token"
at = "02:00"

[exports.hourly]
to = "/srv/exports"
every = 3600
format = "ndjson"
privacy = "pseudonymous"
"""
"""Settings of two series: one is late, the other being made."""


async def _insert(unit: UnitOfWork, table: sa.Table, row: Mapping[str, Any]) -> None:
    await unit.connection.execute(sa.insert(table).values(tenant=unit.tenant, **row))


async def exports(unit: UnitOfWork, now: datetime) -> None:
    """One series that is late since its last try failed, and one that is being made."""
    for name, due, leased in (("nightly", now - timedelta(hours=3), None), ("hourly", now, now + timedelta(minutes=1))):
        await _insert(
            unit,
            t.work,
            {
                "kind": "export", "subject": name, "lfi": "(exports)", "due_at": due, "lease_until": leased,
                "last_outcome": "ok" if leased else "failed", "last_error": None if leased else "export_target",
            },
        )  # fmt: skip
    for number in range(1, 4):
        at = now - timedelta(days=3 - number, hours=4)
        good = number < 3
        await _insert(
            unit,
            t.export,
            {
                "name": "nightly", "number": number, "target": TARGET, "format": "parquet",
                "kind": "full" if number == 1 else "incremental" if good else None, "base": 1 if good else None,
                "as_of": at if good else None, "rows": 48_211 * number if good else None,
                "bytes": 3_400_000_000 // number if good else None, "started_at": at,
                "ended_at": at + timedelta(minutes=4), "outcome": "done" if good else "failed",
                "error": None if good else "export_target",
            },
        )  # fmt: skip
    await _insert(
        unit,
        t.export,
        {
            "name": "hourly", "number": 1, "target": "/srv/exports", "format": "ndjson", "started_at": now,
            "lease_until": now + timedelta(minutes=1),
        },
    )  # fmt: skip

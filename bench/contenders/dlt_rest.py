"""dlt's rest_api source into its postgres destination, merged by primary key.

As its documentation has it: resources declared, children resolved from their parent, `json_link` paging, parallel
extraction, `processing_steps` for the columns people query, one `pipeline.run` for the sources of all consents.
"""

import json
import os
from typing import Any

import dlt
import requests
from dlt.sources.rest_api import rest_api_source
from sqlalchemy.dialects import postgresql

from bench.contenders.program import job, serve
from syncworker.bench.books import columns_of, compared_columns, key_of
from syncworker.standard.resources import RESOURCES, Resource
from syncworker.store.tables import RECORD_TABLES

JOB = job()
KINDS = {"NUMERIC": "decimal", "TIMESTAMP": "timestamp", "DATE": "date", "BOOLEAN": "bool"}
DIALECT: Any = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped
PLACE = ["connection_id", "account_id", "key"]


def step(name: str, resource: Resource) -> Any:
    """What turns an item into a row: place, typed columns, the item as sent."""
    numbers: dict[str, int] = {}
    typed = compared_columns(RECORD_TABLES[resource.name])

    def row(item: dict[str, Any]) -> dict[str, Any]:
        account_id = item.pop("_accounts_key", "")
        numbers[account_id] = numbers.get(account_id, 0) + 1
        values = dict(zip(typed, columns_of(resource.name, item), strict=True))
        raw = json.dumps(item, separators=(",", ":"), ensure_ascii=False)
        key = key_of(resource.name, item, numbers[account_id])
        return {"connection_id": name, "account_id": account_id, "key": key, **values, "raw": raw}

    return row


def declared(name: str, resource: Resource) -> dict[str, Any]:
    """One endpoint."""
    table = RECORD_TABLES[resource.name]
    columns: dict[str, Any] = {"raw": {"data_type": "text"}}
    for column in compared_columns(table):
        kind = str(table.c[column].type.dialect_impl(DIALECT).compile(DIALECT)).split("(")[0].split()[0]
        columns[column] = {"data_type": KINDS.get(kind, "text")}
    path = resource.path.lstrip("/").replace("{AccountId}", "{resources.accounts.key}")
    one = {
        "name": resource.name.value,
        "table_name": table.name,
        "primary_key": PLACE,
        "write_disposition": "merge",
        "columns": columns,
        "parallelized": True,
        "endpoint": {
            "path": path,
            "data_selector": f"Data.{resource.items}",
            "paginator": {"type": "json_link", "next_url_path": "Links.Next"},
        },
        "processing_steps": [{"map": step(name, resource)}],
        "max_table_nesting": 0,
    }
    return one | ({"include_from_parent": ["key"]} if resource.per_account else {})


def source(name: str, token: str) -> Any:
    """Everything of one consent."""
    session = requests.Session()
    session.cert, session.verify, session.trust_env = (JOB.certificate, JOB.key), JOB.ca, False
    client = {"base_url": JOB.base_url + "/", "auth": {"type": "bearer", "token": token}, "session": session}
    resources = [declared(name, one) for one in RESOURCES if one.repeats is None]
    configured: Any = {"client": client, "resources": resources}
    return rest_api_source(configured, name=f"consent_{name[-6:]}")


def main() -> None:
    """One pipeline, run for all consents whenever told to."""
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
    os.environ["EXTRACT__WORKERS"] = str(JOB.in_flight)
    destination = dlt.destinations.postgres(JOB.database_url.replace("@", ":unused@"))  # dlt insists on a password
    pipeline = dlt.pipeline("bench", destination=destination, dataset_name="dlt", pipelines_dir=str(JOB.folder / "dlt"))

    def sync() -> None:
        pipeline.run([source(name, token) for name, token in JOB.consents]).raise_on_failed_jobs()

    serve(sync)


if __name__ == "__main__":
    main()

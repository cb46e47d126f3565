"""Complete answers of seven synthetic people decode into typed rows without loss.

The files lie outside the project: `SYNCWORKER_PERSONAS`, or `../shared/personas` beside it.  Absent, these tests skip.
"""

import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from syncworker.standard.resources import RESOURCES, Resource
from syncworker.store.tables import RECORD_TABLES, typed_columns
from syncworker.sync.decode import columns_of, decode, identifiers_of

pytestmark = pytest.mark.unit

FOLDER = Path(os.environ.get("SYNCWORKER_PERSONAS") or Path(__file__).parents[2].parent / "shared" / "personas")
FILES = sorted(FOLDER.glob("*.json"))


def answers(file: Path) -> list[tuple[Resource, str, Any]]:
    """Every answer in a file: its row of the catalogue, its account, its `Data`."""
    found = []
    for path, answer in json.loads(file.read_bytes(), parse_float=Decimal)["endpoints"].items():
        parts = path.strip("/").split("/")
        for resource in RESOURCES:
            template = resource.path.strip("/").split("/")
            if len(template) == len(parts) and all(
                want in (part, "{AccountId}") for want, part in zip(template, parts, strict=True)
            ):
                found.append((resource, parts[1] if resource.per_account else "", answer["Data"]))
    assert found
    return found


@pytest.mark.skipif(not FILES, reason="no personas beside the project: set SYNCWORKER_PERSONAS to their folder")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_answer_of_a_persona_decodes_without_loss(file: Path) -> None:
    """Each item is a row with its own key, its raw bytes say what the answer said, and no column was unreadable."""
    for resource, account_id, data in answers(file):
        items = data[resource.items]
        items = items if isinstance(items, list) else [items]
        decoded = decode(resource, account_id, json.dumps(data, default=float).encode())
        raw = [json.loads(record.raw, parse_float=Decimal) for record in decoded.records]
        assert raw == json.loads(json.dumps(items, default=float), parse_float=Decimal)
        assert (decoded.violations, dict(decoded.notes)) == (0, {})
        assert len({record.key for record in decoded.records}) == len(items)
        assert [columns_of(resource.name, record.raw) for record in decoded.records] == [
            record.columns for record in decoded.records
        ]
        for item, record in zip(items, decoded.records, strict=True):
            sent = item.get("AccountIdentifiers", ())
            told = [(one.scheme, one.identification, one.name) for one in identifiers_of(record.raw)]
            assert told == [(one["SchemeName"], one["Identification"], one.get("Name")) for one in sent]


@pytest.mark.skipif(not FILES, reason="no personas beside the project: set SYNCWORKER_PERSONAS to their folder")
def test_personas_fill_columns_of_every_resource() -> None:
    """Which of the newer ones people without a bank's test data can rely on: these have a value somewhere."""
    filled: set[tuple[str, str]] = set()
    for file in FILES:
        for resource, account_id, data in answers(file):
            names = typed_columns(RECORD_TABLES[resource.name])
            for record in decode(resource, account_id, json.dumps(data, default=float).encode()).records:
                filled |= {(resource.name, name) for name, value in zip(names, record.columns, strict=True) if value}
    expected = {("accounts", "holder_name"), ("accounts", "servicer_identification"), ("parties", "name")}
    assert expected <= filled

"""The published OpenAPI files as a judge: does this answer of this operation fit the schema?

Found at `../shared/openapi` beside the project, or where `SYNCWORKER_OPENAPI` says.
"""

import os
import uuid
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import yaml
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry
from referencing.jsonschema import DRAFT202012

ROOT: Final = Path(os.environ.get("SYNCWORKER_OPENAPI") or Path(__file__).parents[3] / "shared" / "openapi")
FOLDER: Final = ROOT / "v2.1-errata2"
ACCOUNTS: Final = "uae-account-information-openapi.yaml"
AUTHORIZATION: Final = "uae-authorization-endpoints-openapi.yaml"
LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C, where PyYAML was built with it
METHODS: Final = frozenset({"get", "post", "patch", "put", "delete"})

FORMATS: Final = FormatChecker(formats=())


@FORMATS.checks("date-time", raises=ValueError)
def _date_time(text: object) -> bool:
    """RFC 3339: a `T` and an offset."""
    return not isinstance(text, str) or ("T" in text and datetime.fromisoformat(text).tzinfo is not None)


@FORMATS.checks("date", raises=ValueError)
def _date(text: object) -> bool:
    return not isinstance(text, str) or date.fromisoformat(text).isoformat() == text


@FORMATS.checks("uuid", raises=ValueError)
def _uuid(text: object) -> bool:
    return not isinstance(text, str) or bool(uuid.UUID(text))


@FORMATS.checks("uri", raises=ValueError)
def _uri(text: object) -> bool:
    return not isinstance(text, str) or bool(urlsplit(text).scheme)


class Official:
    """One published file."""

    def __init__(self, name: str) -> None:
        self.document: dict[str, Any] = yaml.load((FOLDER / name).read_bytes(), Loader=LOADER)
        self._uri = f"urn:official:{name}"
        resource = DRAFT202012.create_resource(_as_json_schema(self.document))
        self._registry = Registry().with_resource(self._uri, resource)

    def schema(self, name: str) -> dict[str, Any]:
        """A named schema, as published."""
        found: dict[str, Any] = self.document["components"]["schemas"][name]
        return found

    def operations(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """(method, path, operation) of the whole file, without webhooks."""
        for path, members in self.document["paths"].items():
            for method, operation in members.items():
                if method in METHODS:
                    yield method, path, operation

    def operation(self, operation_id: str) -> dict[str, Any]:
        """An operation by its id."""
        return next(one for _, _, one in self.operations() if one["operationId"] == operation_id)

    def response(self, operation_id: str, status: int) -> dict[str, Any] | None:
        """The answer published for a status; `None` when none is."""
        response: dict[str, Any] | None = self.operation(operation_id)["responses"].get(str(status))
        if response is not None and "$ref" in response:
            response = self.document["components"]["responses"][response["$ref"].rpartition("/")[2]]
        return response

    def faults(self, schema: str, value: Any) -> list[str]:
        """What is wrong with a value by a named schema; empty when it fits."""
        return self._faults({"$ref": f"{self._uri}#/components/schemas/{schema}"}, value)

    def faults_of_answer(self, operation_id: str, status: int, value: Any) -> list[str]:
        """What is wrong with an answer; `value` is `None` for an answer without a body."""
        response = self.response(operation_id, status)
        if response is None:
            return [f"{operation_id}: {status} is not published"]
        content = response.get("content")
        if content is None or value is None:
            return (
                [] if content is None and value is None else [f"{operation_id} {status}: body expected or not allowed"]
            )
        return self._faults(_absolute(_as_json_schema(content["application/json"]["schema"]), self._uri), value)

    def _faults(self, schema: dict[str, Any], value: Any) -> list[str]:
        validator = Draft202012Validator(schema, registry=self._registry, format_checker=FORMATS)
        return [f"{fault.json_path}: {fault.message[:200]}" for fault in validator.iter_errors(value)]


def _as_json_schema(node: Any) -> Any:
    """OpenAPI 3.0 read as JSON Schema.

    `nullable` becomes a type.  `additionalProperties: false` beside `allOf` and no properties of its own would refuse
    every object (`OAuthBadRequestErrorResponse`); meant is that nothing beyond the parts is allowed.
    """
    if isinstance(node, list):
        return [_as_json_schema(one) for one in node]
    if not isinstance(node, dict):
        return node
    schema = {name: _as_json_schema(value) for name, value in node.items()}
    if schema.pop("nullable", False) is True:
        schema["type"] = [schema["type"], "null"]
    if schema.get("additionalProperties") is False and "allOf" in schema and "properties" not in schema:
        del schema["additionalProperties"]
        schema["unevaluatedProperties"] = False
    return schema


def _absolute(node: Any, uri: str) -> Any:
    if isinstance(node, list):
        return [_absolute(one, uri) for one in node]
    if not isinstance(node, dict):
        return node
    return {name: f"{uri}{one}" if name == "$ref" else _absolute(one, uri) for name, one in node.items()}

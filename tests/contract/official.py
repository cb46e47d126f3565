"""The published OpenAPI files of each version as a judge: does this answer, or this request, fit the schema?

Found at `../shared/openapi` beside the project, or where `SYNCWORKER_OPENAPI` says.
"""

import os
import re
import uuid
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import yaml
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from syncworker.standard.versions import Version

ROOT: Final = Path(os.environ.get("SYNCWORKER_OPENAPI") or Path(__file__).parents[3] / "shared" / "openapi")
_ACCOUNTS: Final = "uae-account-information-openapi.yaml"
_PAR: Final = "uae-pushed-authorization-endpoint-openapi.yaml"
_AUTHORIZATION: Final = "uae-authorization-endpoints-openapi.yaml"
LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C, where PyYAML was built with it
METHODS: Final = frozenset({"get", "post", "patch", "put", "delete"})


class Part(StrEnum):
    """What a file is about."""

    ACCOUNTS = "account information"
    PAR = "pushed authorization"
    TOKEN = "token"


FILES: Final[Mapping[Version, Mapping[Part, str]]] = {
    Version.V1_2: {
        Part.ACCOUNTS: f"v1.2-errata1/{_ACCOUNTS}",
        Part.PAR: f"v1.2-errata1/{_PAR}",
        Part.TOKEN: f"v1.2-errata1/{_AUTHORIZATION}",
    },
    Version.V2_0: {
        Part.ACCOUNTS: f"v2.0-errata1/{_ACCOUNTS}",
        Part.PAR: f"v2.0-errata1/{_PAR}",
    },
    Version.V2_1: {
        Part.ACCOUNTS: f"v2.1-errata2/{_ACCOUNTS}",
        Part.PAR: f"v2.1-errata2/{_AUTHORIZATION}",
        Part.TOKEN: f"v2.1-errata2/{_AUTHORIZATION}",
    },
}
"""The file of each part, by version; a part without one is not published here."""

SUPERSEDED: Final = {f"v1.2/{_ACCOUNTS}": "v1.2-errata1 replaces it in place"}
PROSE: Final[Mapping[tuple[Version, str], str]] = {
    (Version.V1_2, "client_credentials"): "the token file of v1.2 has the two user grants alone; after v2.1 and prose",
    (Version.V2_0, Part.TOKEN): "no file of v2.0 is here: fields and members after prose (AUTH v2.0, client_id "
    "required); the consent in an answer is held against the account information file",
}
"""Parts built from prose alone, and what is known of them."""

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

    def __init__(self, version: Version, name: str) -> None:
        self.version = version
        self.document: dict[str, Any] = yaml.load((ROOT / name).read_bytes(), Loader=LOADER)
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

    def at(self, method: str, path: str) -> tuple[dict[str, Any], dict[str, str]] | None:
        """The operation of a path below the base path, and the parts of the path; `None` when there is none."""
        for one_method, template, operation in self.operations():
            pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(template))
            if one_method == method.lower() and (match := re.fullmatch(pattern, path)):
                return operation, match.groupdict()
        return None

    @property
    def base_path(self) -> str:
        """The path under which the file's paths lie."""
        url: str = self.document["servers"][0]["url"]
        return url

    def faults_of_parameters(
        self, operation: Mapping[str, Any], given: Mapping[str, Mapping[str, str]], *, strict: frozenset[str]
    ) -> list[str]:
        """What is wrong with the parameters of a request.

        Args:
            given: by place (`path`, `query`, `header`): name → value; names of headers in lower case.
            strict: places where a parameter that is not listed is a fault.
        """
        listed = [self._parameter(one) for one in operation.get("parameters", ())]
        known = {(one["in"], one["name"].lower() if one["in"] == "header" else one["name"]): one for one in listed}
        faults = [
            f"{place} {name}: is missing"
            for (place, name), one in known.items()
            if one.get("required") and name not in given.get(place, {})
        ]
        for place, values in given.items():
            for name, value in values.items():
                if one := known.get((place, name)):
                    schema = _absolute(_as_json_schema(one["schema"]), self._uri)
                    faults += [f"{place} {name}: {fault}" for fault in self._faults(schema, value)]
                elif place in strict:
                    faults.append(f"{place} {name}: is not listed")
        return faults

    def faults_of_form(self, operation: Mapping[str, Any], form: Mapping[str, Any]) -> list[str]:
        """What is wrong with a form; a signed member is given as its claims."""
        body = operation["requestBody"]
        schema = body["content"]["application/x-www-form-urlencoded"]["schema"]
        return self._faults(_absolute(_as_json_schema(schema), self._uri), form)

    def _parameter(self, one: dict[str, Any]) -> dict[str, Any]:
        if "$ref" not in one:
            return one
        found: dict[str, Any] = self.document["components"]["parameters"][one["$ref"].rpartition("/")[2]]
        return found

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

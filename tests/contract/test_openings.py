"""The account-opening API against its published files: what we send, what we read, what the simulator answers.

v2.0-errata1 and v2.1 have official files.  v2.0 has none at hand: it is built from the API guide and the comparison of
the domain sheet, and only what it shares with v2.0-errata1 is held against a file.
"""

import base64
import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
import yaml

from syncworker.lfi.api import LFIClient
from syncworker.lfi.transport import Answer
from syncworker.simulator.openings import STATUSES
from syncworker.standard import opening_request as forms
from syncworker.standard.openings import DIALECTS, STATES, OpeningVersion, read_opening
from syncworker.standard.versions import Version
from tests.contract.official import LOADER, ROOT, Official
from tests.openings.conftest import bank_identity, house
from tests.openings.house import LFI, House

__all__ = ["bank_identity", "house"]  # fixtures of the openings' tests
pytestmark = pytest.mark.contract

FILE: Final = "uae-account-opening-service-initiation-openapi.yaml"
PUBLISHED: Final = (OpeningVersion.V2_0_ERRATA1, OpeningVersion.V2_1)
OURS: Final = {"Data.Party.Verification.TrustFramework", "Subscription.Webhook.Url"}
"""Otherwise on purpose: documents disagree about the enum (D-38), and https is wanted of every version (D-20)."""


@pytest.fixture(params=PUBLISHED)
def version(request: pytest.FixtureRequest) -> OpeningVersion:
    assert isinstance(request.param, OpeningVersion)
    return request.param


@pytest.fixture
def published(version: OpeningVersion) -> dict[str, Any]:
    """The official file of a version."""
    path = ROOT / version.value / FILE
    if not path.exists():
        pytest.skip(f"the published {version.value}/{FILE} is not here: put it at ../shared/openapi")
    document: dict[str, Any] = yaml.load(path.read_bytes(), Loader=LOADER)
    return document


class Comparison:
    """Finds where our table and a published schema say different things."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._schemas = document["components"]["schemas"]
        self.compared = 0

    def __call__(self, name: str, shape: forms.Shape) -> list[str]:
        return list(self._differ(self._schemas[name], shape, ""))

    def _whole(self, schema: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in schema or len(schema.get("allOf", ())) == 1:
            if "$ref" in schema:
                schema = self._schemas[schema["$ref"].rpartition("/")[2]]
            else:
                schema = {name: one for name, one in schema.items() if name != "allOf"} | schema["allOf"][0]
        return schema

    def _differ(self, schema: dict[str, Any], shape: forms.Shape, path: str) -> Iterator[str]:
        schema = self._whole(schema)
        self.compared += 1
        if path in OURS:
            return
        ours, theirs = _facts(shape), _published_facts(schema)
        if ours != theirs:
            yield f"{path}: ours {ours}, published {theirs}"
            return
        match shape:
            case forms.Object():
                for name, inner in shape.members.items():
                    yield from self._differ(schema["properties"][name], inner, f"{path}.{name}".lstrip("."))
            case forms.Many():
                yield from self._differ(schema["items"], shape.of, f"{path}[]")
            case forms.Either():
                kinds = schema.get("oneOf") or schema["anyOf"]
                for number, (kind, inner) in enumerate(zip(kinds, shape.of, strict=True)):
                    yield from self._differ(kind, inner, f"{path}({number})")


def _facts(shape: forms.Shape) -> dict[str, Any]:
    match shape:
        case forms.Object():
            found = {"type": "object", "members": set(shape.members), "needed": set(shape.needed), "least": shape.least}
        case forms.Many():
            found = {"type": "array", "least": shape.least, "most": shape.most}
        case forms.Text():
            found = {"type": "string", "least": shape.least, "most": shape.most, "pattern": shape.pattern,
                     "form": shape.form, "one_of": set(shape.one_of)}  # fmt: skip
        case forms.Either():
            found = {"type": "either", "kinds": len(shape.of)}
        case forms.Anything():
            found = {"type": None}
        case _:
            found = {"type": {forms.Whole: "integer", forms.Number: "number", forms.Flag: "boolean"}[type(shape)]}
    return found


def _published_facts(schema: dict[str, Any]) -> dict[str, Any]:
    kinds = schema.get("oneOf") or schema.get("anyOf")
    if kinds:
        return {"type": "either", "kinds": len(kinds)}
    match schema.get("type"):
        case "object":
            assert schema["additionalProperties"] is False
            return {"type": "object", "members": set(schema["properties"]), "needed": set(schema.get("required", ())),
                    "least": schema.get("minProperties", 0)}  # fmt: skip
        case "array":
            return {"type": "array", "least": schema.get("minItems", 0), "most": schema.get("maxItems")}
        case "string":
            return {"type": "string", "least": schema.get("minLength", 0), "most": schema.get("maxLength"),
                    "pattern": schema.get("pattern"), "form": schema.get("format"),
                    "one_of": set(schema.get("enum", ()))}  # fmt: skip
        case other:
            return {"type": other}


def test_the_request_table_is_the_published_schema(version: OpeningVersion, published: dict[str, Any]) -> None:
    """Every member, whether it must be there, every length, pattern, format and value."""
    compare = Comparison(published)

    differences = compare("AECreateAccountRequestBody1", forms.request_shape(version))

    assert differences == []
    assert compare.compared > 100


def test_the_paths_are_the_published_ones(version: OpeningVersion, published: dict[str, Any]) -> None:
    """Where a status is read, and where events are switched, if anywhere."""
    dialect = DIALECTS[version]
    paths = {f"{method} {path}" for path, members in published["paths"].items() for method in members}

    ours = {"post /accounts", f"get {dialect.read}"}
    assert paths == ours | ({f"patch {dialect.subscription}"} if dialect.subscription else set())


def test_the_published_statuses_are_all_known(version: OpeningVersion, published: dict[str, Any]) -> None:
    """None of them is read as `other`."""
    found = set(_statuses(published["components"]["schemas"]["AEAccount"], published["components"]["schemas"]))

    assert found >= {"Pending", "Rejected"}
    assert found <= set(STATES)


def _statuses(node: Any, schemas: dict[str, Any], *, inside: bool = False) -> Iterator[str]:
    if isinstance(node, list):
        for one in node:
            yield from _statuses(one, schemas, inside=inside)
    elif isinstance(node, dict):
        if inside and "enum" in node:
            yield from node["enum"]
        if "$ref" in node:
            yield from _statuses(schemas[node["$ref"].rpartition("/")[2]], schemas, inside=inside)
        for name, one in node.items():
            if name != "$ref" and (inside or name in ("anyOf", "oneOf", "allOf", "properties", "OpeningStatus")):
                yield from _statuses(one, schemas, inside=inside or name == "OpeningStatus")


def test_the_published_examples_are_taken(version: OpeningVersion, published: dict[str, Any]) -> None:
    """Its example requests have no fault; its example answers are read, and name an account."""
    examples = [one["value"] for one in published["components"]["examples"].values() if isinstance(one["value"], dict)]
    messages = [one.get("message", one) for one in examples]
    requests = [one for one in messages if "Party" in one.get("Data", {})]
    answers = [one for one in messages if "OpeningStatus" in one.get("Data", {})]

    assert [forms.faults(one, version) for one in requests] == [[] for _ in requests]
    assert len(requests) >= 1
    assert len(answers) >= 4
    assert all(read_opening(one).account_id for one in answers)


@pytest.fixture
def official(version: OpeningVersion, published: dict[str, Any]) -> Official:
    """The same file as a judge of values."""
    assert published
    return Official(Version(version.value.partition("-")[0]), f"{version.value}/{FILE}")


async def test_a_request_as_sent_is_what_its_file_wants(
    version: OpeningVersion, official: Official, house: House
) -> None:
    """The claims of the JWS, with the message inside them."""
    sent: list[bytes] = []

    class Overheard(LFIClient):
        async def own_call_once(self, *args: Any, **options: Any) -> Answer:
            sent.append(options["body"])
            return await super().own_call_once(*args, **options)

    openings = await house.openings(version, kind=Overheard)
    await openings.create(LFI, house.order(webhook="https://tpp.example/events"))

    claims = json.loads(base64.urlsafe_b64decode(sent[0].split(b".")[1] + b"=="))
    content = official.operation("CreateAccount_signedRequest")["requestBody"]["content"]
    assert set(content) == {"application/jwt"}
    assert official.faults_of_claims(content["application/jwt"]["schema"], claims) == []


async def test_what_the_sandbox_answers_is_what_the_file_says(
    version: OpeningVersion, official: Official, house: House
) -> None:
    """An answer for each status of the version, to the creation and to a look."""
    openings = await house.openings(version)
    faults, seen = [], set()
    for status in sorted(STATUSES[version]):
        opening = await openings.create(LFI, house.order())
        held = house.desk.held(str(opening.account_id))
        faults += official.faults("AECreateAccountResponseBody1", house.desk.body(held))
        if status != held.status:
            house.desk.move(held.account_id, status, information="In words", redirect=True)
        faults += official.faults_of_answer("Account_read", 200, house.desk.body(held))
        seen.add(held.status)

    assert faults == []
    assert seen == STATUSES[version]

"""Event notifications against the official template: each of its variants, made from the schema, is recognised.

v2.1-errata2 has an official file.  Of v1.2 and v2.0 none is at hand: what is read of them is built from the domain
sheet and the account-opening guide alone (§7.3, D-18), and `tests/standard/test_events.py` holds those shapes.
"""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import pytest

from syncworker.lfi import jose
from syncworker.lfi.keys import SigningKey
from syncworker.standard.events import Event, EventKind, read_event
from syncworker.standard.versions import Version
from syncworker.webhooks import ERROR_CODES
from tests.contract.official import ROOT, Official
from tests.webhooks.sender import new_key

pytestmark = pytest.mark.contract

FILE: Final = "v2.1-errata2/uae-webhook-template-openapi.yaml"
INSTANT: Final = "2026-11-21T10:00:00+00:00"
SAMPLES: Final[tuple[str, ...]] = ("AE", "AED", "P1Y", "1.00", "A.a")
"""One fits each pattern of the file."""

FORMATS: Final[Mapping[str, str]] = {
    "date-time": INSTANT,
    "date": INSTANT[:10],
    "uuid": "47409fec-4b04-4356-b3a1-6f5508524a5a",
    "uri": "https://example.org",
}
EXPECTED: Final = {
    ("AEWebhookAccountOpeningEventProperties", 0): (EventKind.OPENING, "AccountId"),
    ("AEWebhookConsentedEventProperties", 0): (EventKind.CONSENT, "ConsentId"),
    ("AEWebhookConsentedEventProperties", 1): (EventKind.PAYMENT_CONSENT, "ConsentId"),
    ("AEWebhookConsentedEventProperties", 2): (EventKind.INSURANCE_CONSENT, "ConsentId"),
    ("AEWebhookFxQuoteEventProperties", 0): (EventKind.FX_QUOTE, "FxQuoteId"),
    ("AEWebhookInsuranceEventProperties", 0): (EventKind.INSURANCE_QUOTE, "QuoteId"),
    ("AEWebhookPaymentInitiationEventProperties", 0): (EventKind.PAYMENT, "ConsentId"),
}
"""Kind, and the member of `Meta` that names the subject, by schema and by the member of its Data's `anyOf`."""


class Made:
    """Makes values from the schemas of a file: one for each way through `anyOf` and `oneOf`."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._schemas = document["components"]["schemas"]

    def values(self, schema: Mapping[str, Any], *, full: bool) -> Iterator[Any]:
        """A value for each alternative; inside of objects the first one serves.

        Args:
            full: with every member, not only those that must be there.
        """
        for one in self.alternatives(schema):
            yield self._built(one, full=full)

    def alternatives(self, schema: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The schema without references and compositions."""
        if "$ref" in schema:
            return self.alternatives(self._schemas[schema["$ref"].rpartition("/")[2]])
        found = [{name: one for name, one in schema.items() if name not in ("allOf", "anyOf", "oneOf")}]
        for part in schema.get("allOf", ()):
            found = [_merged(one, other) for one in found for other in self.alternatives(part)]
        for kinds in (schema.get("anyOf"), schema.get("oneOf")):
            if kinds:
                others = [other for kind in kinds for other in self.alternatives(kind)]
                found = [_merged(one, other) for one in found for other in others]
        return found

    def _built(self, schema: Mapping[str, Any], *, full: bool) -> Any:
        if "enum" in schema:
            return schema["enum"][0]
        match schema.get("type"):
            case "object":
                needed = schema.get("required", ())
                members = schema.get("properties", {})
                return {name: self._first(one, full) for name, one in members.items() if full or name in needed}
            case "array":
                least = max(schema.get("minItems", 0), int(full))
                return [self._first(schema["items"], full)] * least
            case "string":
                return _text(schema)
            case "integer" | "number":
                return schema.get("minimum", 1)
            case "boolean":
                return True
        raise AssertionError(f"a schema of no known type: {sorted(schema)}")

    def _first(self, schema: Mapping[str, Any], full: bool) -> Any:
        return next(self.values(schema, full=full))


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    whole = {**one, **other}
    for name, empty in (("properties", {}), ("required", [])):
        if name in one or name in other:
            joined = [one.get(name, empty), other.get(name, empty)]
            whole[name] = joined[0] | joined[1] if name == "properties" else [*joined[0], *joined[1]]
    return whole


def _text(schema: Mapping[str, Any]) -> str:
    if shape := FORMATS.get(schema.get("format", "")):
        return shape
    if pattern := schema.get("pattern"):
        return next(text for text in SAMPLES if re.search(pattern, text))
    return "x".ljust(schema.get("minLength", 1), "x")


@pytest.fixture(scope="module")
def template() -> Official:
    """The official template."""
    if not (ROOT / FILE).exists():
        pytest.skip(f"the published {FILE} is not here: put it at ../shared/openapi or set SYNCWORKER_OPENAPI")
    return Official(Version.V2_1, FILE)


def messages(template: Official, schema: str, *, full: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each message of a variant, with which member of its Data's `anyOf` it was made from."""
    made = Made(template.document)
    whole = template.schema(schema)
    meta = next(made.values(whole["properties"]["Meta"], full=True))
    data = whole["properties"]["Data"]
    for number, kind in enumerate(data.get("anyOf") or [data]):
        for value in made.values(kind, full=full):
            yield number, {"Data": value, "Meta": meta}


def read(message: Mapping[str, Any]) -> Event:
    """What we make of a message after its way as JSON."""
    return read_event(json.loads(json.dumps(message)), signed=b"")


def test_the_table_names_every_variant_of_the_template(template: Official) -> None:
    """A variant a later file adds must be decided about."""
    named = {one["$ref"].rpartition("/")[2] for one in template.schema("AEWebhookEventTypes")["anyOf"]}

    assert named == {schema for schema, _ in EXPECTED}


@pytest.mark.parametrize("full", [False, True], ids=["least", "full"])
@pytest.mark.parametrize("schema", sorted({schema for schema, _ in EXPECTED}))
def test_every_variant_is_recognised(template: Official, schema: str, full: bool) -> None:
    """By Meta's member and by what only its Data has; `EventResource` helps in none of these.  What is made fits."""
    made = list(messages(template, schema, full=full))
    faults = [fault for _, message in made for fault in template.faults(schema, message)]
    taken = {(number, event.kind, event.subject) for number, message in made for event in [read(message)]}

    assert faults == []
    assert taken == {
        (number, kind, message["Meta"][identifier])
        for number, message in made
        for kind, identifier in [EXPECTED[schema, number]]
    }
    assert {number for number, _ in made} == {number for name, number in EXPECTED if name == schema}


def test_status_and_instants_are_read_where_the_template_has_them(template: Official) -> None:
    """Under three names, and of payment consents one level deeper."""
    moment = datetime.fromisoformat(INSTANT).astimezone(UTC)
    seen = {}
    for schema, number in EXPECTED:
        message = next(message for place, message in messages(template, schema, full=True) if place == number)
        event = read(message)
        seen[event.kind.value] = (event.status is not None, event.status_updated_at == moment, event.happened_at)

    quotes = {EventKind.FX_QUOTE.value: (True, False, moment), EventKind.INSURANCE_QUOTE.value: (True, False, moment)}
    assert seen == {kind.value: (True, True, moment) for kind, _ in EXPECTED.values()} | quotes


@pytest.mark.parametrize("schema", ["AEWebhookConsentedEventProperties", "AEWebhookPaymentInitiationEventProperties"])
def test_a_deleted_resource_comes_without_data(template: Official, schema: str) -> None:
    """Then `EventResource` alone tells a payment from a consent."""
    _, message = next(messages(template, schema, full=False))
    kind, path = {
        "AEWebhookConsentedEventProperties": (EventKind.CONSENT, "/account-access-consents/x"),
        "AEWebhookPaymentInitiationEventProperties": (EventKind.PAYMENT, "/payments/p"),
    }[schema]
    deleted = {"Meta": message["Meta"] | {"EventType": "Resource.Deleted", "EventResource": path}}

    assert template.faults(schema, deleted) == []
    assert (read(deleted).kind, read(deleted).type) == (kind, "Resource.Deleted")


def test_our_refusals_fit_the_template(template: Official) -> None:
    """The claims we sign for each check, and the code of a recoverable error."""
    key, now = SigningKey.of(new_key(), "k"), datetime(2026, 11, 21, 10, tzinfo=UTC)
    faults = []
    for code in sorted(set(ERROR_CODES.values())):
        body = jose.signed_refusal([{"Code": code, "Message": "m"}], key=key, issuer="us", now=now)
        claims = jose.read_claims(jose.verified_payload(body, key.jwk))
        faults += template.faults("AEError400ResponseBodySigned", claims)
    published = set(template.schema("AEError400Codes")["enum"])

    assert (faults, set(ERROR_CODES.values()) - published) == ([], set())
    assert "GenericRecoverableError" in template.schema("AEErrorGenericCodes")["enum"]

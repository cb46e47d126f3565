"""Settings: one file, overridden by the environment, overridden by the command line.

The file is `syncworker.toml`, or what `SYNCWORKER_CONFIG` names; the environment spells a setting
`SYNCWORKER_DATABASE_URL`, with `__` between levels (`SYNCWORKER_CADENCE__BALANCES`).  URLs with passwords may lie in
files of their own, in the folder `SYNCWORKER_SECRETS` names: they win over `syncworker.toml`, the environment wins over
them.  No value is read anywhere else.
Relative paths count from the folder of the file, or from the working folder when there is none.

`wiring` alone sees the whole; every part gets the two or three plain values it needs.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as UnreadableVariable

from syncworker.errors import RequestError, SettingsError
from syncworker.lfi.bounds import climbs
from syncworker.standard.calendar import DURATION_MAX
from syncworker.standard.openings import OpeningVersion
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import Slug
from syncworker.standard.versions import Version
from syncworker.store.address import Address, Pooler, address_of
from syncworker.store.ended import EndedConsents

ENVIRONMENT_PREFIX: Final = "SYNCWORKER_"
CONFIG_VARIABLE: Final = "SYNCWORKER_CONFIG"
SECRETS_VARIABLE: Final = "SYNCWORKER_SECRETS"
"""Names a folder of files, each holding one setting of `SECRET_FIELDS` and called like it, as containers mount them."""

CONFIG_FILE: Final = "syncworker.toml"
EMBEDDED: Final = "embedded"
SECRET_FIELDS: Final = frozenset({"database_url", "web_database_url", "broker_url", "limits_url"})
"""Settings that may carry a password: shown without it."""


LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "::1", "localhost"})


def _https(url: str) -> str:
    if not url.startswith("https://"):
        raise ValueError("must be an https:// URL")
    return url


def _secure(url: str) -> SplitResult:
    """A URL a browser may be sent to: `https://`, or `http://` on this machine."""
    parts = urlsplit(url)
    here = parts.scheme == "http" and parts.hostname in LOOPBACK_HOSTS
    if not (parts.scheme == "https" or here) or not parts.hostname or parts.username is not None:
        raise ValueError("must be an https:// URL without user name; http:// only on this machine")
    return parts


def _origin(url: str) -> str:
    parts = _secure(url)
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("must end after host and port: the web process serves the root")
    return f"{parts.scheme}://{parts.netloc}"


def _return_url(url: str) -> str:
    parts = _secure(url)
    if parts.query or parts.fragment:
        raise ValueError("must have neither query nor fragment: it is the beginning of the URLs that are allowed")
    if climbs(parts.path):
        raise ValueError("must not climb its path: no dot segments, empty segments or encoded separators")
    return url


HttpsUrl = Annotated[str, AfterValidator(_https)]
CALLS_PER_SECOND_MIN: Final = 0.001
"""A call every quarter of an hour; what an LFI that takes fewer is asked for would never come round."""

Seconds = Annotated[float, Field(gt=0, le=DURATION_MAX.total_seconds())]


SLUG: Final = r"^[a-z0-9][a-z0-9-]{0,62}$"
EXPORT: Final = r"^[a-z0-9][a-z0-9_-]{0,62}$"
HOST: Final = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClientSettings(_Group):
    """Who we are at an LFI: given once for all under `[client]`, or for one LFI under `[lfis.<slug>]`.

    Attributes:
        signing_key: the one key that signs, published under `signing_kid`.
        signing_keys: instead of it, several by kid, while an old key gives way to a new one.
        signing_kid: which of them signs.
        signing_certificate: the signing key's certificate; only its end is watched.
    """

    client_id: str | None = None
    redirect_uri: HttpsUrl | None = None
    signing_key: Path | None = None
    signing_keys: dict[Annotated[str, Field(min_length=1)], Path] = {}
    signing_kid: str | None = None
    signing_certificate: Path | None = None
    transport_certificate: Path | None = None
    transport_key: Path | None = None
    ca_bundle: Path | None = None

    @model_validator(mode="after")
    def _one_way_of_giving_keys(self) -> Self:
        if self.signing_key is not None and self.signing_keys:
            raise ValueError("signing_key and signing_keys are both given; move the one key there, under its kid")
        return self


class LFISettings(ClientSettings):
    """One LFI we are registered with.

    Attributes:
        issuer: the authorisation server's issuer, exactly as its discovery document says.
        base_urls: the Account Information base URL of each version the LFI serves.
        allow_private_hosts: loopback and private addresses, for a sandbox of your own.
        published: path templates the LFI publishes, for all versions or for each; absent means all.
        account_types, account_sub_types: the kinds of account the LFI supports; a consent for others is not asked for.
            Absent: unknown, and every kind may be asked for.
        openings: the switch for account opening: the version new requests are made in; absent: off.
        openings_urls: base URL of the account-opening API per version; those already asked for are followed at theirs.
        openings_iss, openings_aud: of the signed request; our client id and the issuer unless given.
        par_client_id: send `client_id` beside the assertion of a PAR, for a server that wants it (D-9).
        signed_answers: whether data may (accept), must (require) or must not (refuse) come as signed `application/jwt`.
    """

    issuer: HttpsUrl
    base_urls: dict[Version, HttpsUrl] = Field(min_length=1)
    discovery_url: HttpsUrl | None = None
    allow_private_hosts: bool = False
    connections: Annotated[int, Field(ge=1, le=512)] = 8
    calls_per_second: Annotated[float, Field(ge=CALLS_PER_SECOND_MIN)] = 10.0
    published: frozenset[str] | dict[Version, frozenset[str]] | None = None
    account_types: tuple[str, ...] = ()
    account_sub_types: tuple[str, ...] = ()
    par_client_id: bool = False
    signed_answers: Literal["accept", "require", "refuse"] = "accept"
    openings: OpeningVersion | None = None
    openings_urls: dict[OpeningVersion, HttpsUrl] = {}
    openings_iss: str | None = None
    openings_aud: str | None = None

    @model_validator(mode="after")
    def _opening_has_its_url(self) -> Self:
        if self.openings is not None and self.openings not in self.openings_urls:
            version = self.openings.value
            raise ValueError(f'openings: is {version}; give its base URL too, openings_urls = {{ "{version}" = "…" }}')
        return self


class DirectorySettings(_Group):
    """The participants directory, followed for the LFIs that `lfis discover` declared.

    Attributes:
        url: of the participants document; absent: nothing is followed.
        refresh: seconds between two readings.
        hosts: an address of the directory is trusted when its host is one of these or lies below one.
        ca_bundle: roots trusted for the directory itself, beside the system's own.
        allow_private_hosts: loopback and private addresses pass too, for a sandbox's directory.
    """

    url: HttpsUrl | None = None
    refresh: Seconds = 24 * 3600
    hosts: tuple[Annotated[str, Field(pattern=HOST)], ...] = ("apihub.openfinance.ae",)
    ca_bundle: Path | None = None
    allow_private_hosts: bool = False


class AllowSettings(_Group):
    """Live proving: outside these lists no authorisation is begun and no call is made.

    Attributes:
        lfis: slugs; absent: every LFI.
        user_refs: the product's ids of its customers; absent: everybody.
    """

    lfis: frozenset[Annotated[str, Field(pattern=SLUG)]] | None = None
    user_refs: frozenset[Annotated[str, Field(min_length=1, max_length=128)]] | None = None


class CadenceSettings(_Group):
    """How old each resource may grow, in seconds."""

    accounts: Seconds = 24 * 3600
    account: Seconds = 24 * 3600
    balances: Seconds = 6 * 3600
    transactions: Seconds = 12 * 3600
    scheduled_payments: Seconds = 24 * 3600
    standing_orders: Seconds = 7 * 24 * 3600
    direct_debits: Seconds = 7 * 24 * 3600
    beneficiaries: Seconds = 7 * 24 * 3600
    statements: Seconds = 7 * 24 * 3600
    product: Seconds = 7 * 24 * 3600
    account_parties: Seconds = 7 * 24 * 3600
    parties: Seconds = 7 * 24 * 3600

    def as_mapping(self) -> Mapping[ResourceName, timedelta]:
        """Every resource of the catalogue with its cadence."""
        return {name: timedelta(seconds=getattr(self, name.value)) for name in ResourceName}


class LifecycleSettings(_Group):
    """How often the Hub is asked about a consent, in seconds, by its state; each token answer counts as a look.

    Attributes:
        compared: from one complete comparison of a connection to the next, counted in nights.
    """

    authorized: Seconds = 3600
    suspended_first: Seconds = 15 * 60
    suspended_first_for: Seconds = 24 * 3600
    suspended: Seconds = 3600
    awaiting_first: Seconds = 2 * 60
    awaiting_first_for: Seconds = 30 * 60
    awaiting: Seconds = 3600
    awaiting_for: Seconds = 24 * 3600
    compared: Seconds = 24 * 3600


class OpeningsSettings(_Group):
    """How often an LFI is asked about an account opening, in seconds, by its state, and how long a state may last.

    A state that lasts longer than its `…_for` is overdue: noted once, and asked about every `overdue`.
    """

    pending: Seconds = 15 * 60
    user_action_first: Seconds = 60
    user_action_first_for: Seconds = 30 * 60
    user_action: Seconds = 30 * 60
    lfi_processing: Seconds = 30 * 60
    other: Seconds = 30 * 60
    overdue: Seconds = 6 * 3600
    pending_for: Seconds = 24 * 3600
    user_action_for: Seconds = 3 * 24 * 3600
    lfi_processing_for: Seconds = 5 * 24 * 3600
    other_for: Seconds = 24 * 3600
    follow_for: Seconds = 90 * 24 * 3600


class RenewalSettings(_Group):
    """How users are asked again.

    Attributes:
        thresholds: days before a consent's end at which that is flagged, once each.
        link_hours: how long a link may wait for its user.
    """

    thresholds: tuple[Annotated[int, Field(ge=1, le=363)], ...] = (30, 14, 7, 1)
    link_hours: Annotated[float, Field(gt=0, le=30 * 24)] = 24.0

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.thresholds)) != len(self.thresholds):
            raise ValueError("thresholds: names a number of days twice")
        return self


class RetentionSettings(_Group):
    """How many days data stays after the last consent of its connection has ended; absent: until `consents erase`."""

    data_days: Annotated[int, Field(ge=0, le=DURATION_MAX.days)] | None = None
    personal_days: Annotated[int, Field(ge=0, le=DURATION_MAX.days)] | None = None


class FreshnessSettings(_Group):
    """When data counts as stale, and how long it can be seen what made it so.

    Attributes:
        margin: a listing may be older than its cadence by this factor: a sync takes its turn, and is retried.
        causes_days: how long causes of trouble are kept after their end.
    """

    margin: Annotated[float, Field(ge=1, le=100)] = 1.25
    causes_days: Annotated[int, Field(ge=1, le=DURATION_MAX.days)] = 30


class FeedSettings(_Group):
    """The feed of changes.

    Attributes:
        kept_days: how long changes are kept; a reader whose cursor is older has to begin again.
    """

    kept_days: Annotated[int, Field(ge=1, le=DURATION_MAX.days)] = 90


class SenderSettings(_Group):
    """One issuer whose events we take; its name in the settings is its `iss`, to the letter.

    Attributes:
        jwks_url: where it publishes its signature keys.
        lfis: whose consents it may speak of; absent means every LFI's.
        bearer: whether its events must come with a bearer JWT; absent: where no LFI it may speak of serves v2.1, since
            v1.2 and v2.0 demand one and v2.1 does not declare it any more.
        allow_private_hosts: for a sandbox of your own.
    """

    jwks_url: HttpsUrl
    lfis: frozenset[Annotated[str, Field(pattern=SLUG)]] | None = None
    bearer: bool | None = None
    allow_private_hosts: bool = False


class EventSettings(_Group):
    """Event notifications: who may send them, and how they are taken.

    Attributes:
        url: the address they come to, as the LFIs know it.
        senders: trusted issuers; nobody else's events are taken.
        encryption_keys: files of private keys by the `kid` the directory gave them; keep the old one during a rotation.
        audiences: further names of ours in `aud`, such as the organisation's id; client ids and `url` are always among
            them.
        acknowledge: the status of a taken event.
        accept_unencrypted: whether a signed body may come without encryption.
        per_second: events taken of one address, ten seconds' worth at once; more are told to wait.
        retention_days: how long events and quarantine are kept.
    """

    url: HttpsUrl | None = None
    senders: dict[str, SenderSettings] = {}
    encryption_keys: dict[str, Path] = {}
    audiences: frozenset[str] = frozenset()
    acknowledge: Literal[202, 204] = 202
    accept_unencrypted: bool = False
    per_second: Annotated[float, Field(gt=0)] = 50.0
    retention_days: Annotated[int, Field(ge=1, le=DURATION_MAX.days)] = 90


class DashboardSettings(_Group):
    """The dashboard under `/ops/` of the web process.

    Attributes:
        enabled: whether it is there; it is never where browsers could reach it unencrypted from another machine.
        idle_minutes: a session without a request for so long has ended; live refresh is no request in this sense.
        hours: a session ends so long after its beginning, whatever happens in it.
    """

    enabled: bool = True
    idle_minutes: Annotated[float, Field(ge=1, le=24 * 60)] = 30.0
    hours: Annotated[float, Field(gt=0, le=7 * 24)] = 12.0


class WebSettings(_Group):
    """The web process: authorisation as a service, callbacks, events in, connections.

    Attributes:
        enabled: `up` runs it too.
        url: where users' browsers reach it, without a path; what it listens on unless given.
        certificate, key: PEM files, to speak TLS itself; without them a reverse proxy does.
        proxies: addresses of reverse proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.
        return_urls: where users may be sent back to: each the beginning of a URL, down to a whole path segment.
        key_per_second, address_per_second: requests taken of one API key, and of one address without one; ten seconds'
            worth at once.
        reads_per_second: requests for data taken of one API key, counted by themselves.
        dashboard: the pages for operators.
    """

    enabled: bool = False
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    url: Annotated[str, AfterValidator(_origin)] | None = None
    certificate: Path | None = None
    key: Path | None = None
    proxies: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    return_urls: tuple[Annotated[str, AfterValidator(_return_url)], ...] = ()
    key_per_second: Annotated[float, Field(gt=0)] = 20.0
    reads_per_second: Annotated[float, Field(gt=0)] = 200.0
    address_per_second: Annotated[float, Field(gt=0)] = 20.0
    dashboard: DashboardSettings = DashboardSettings()

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key: give both, or neither behind a reverse proxy that speaks TLS")
        return self


class RefreshMode(StrEnum):
    """Who asks for a new access token."""

    SCHEDULED = "scheduled"
    """Beat, before the old one ends."""
    ON_DEMAND = "on_demand"
    """Whoever needs one and finds none that is good."""


class WebhookSettings(_Group):
    """Webhooks to the product.

    Attributes:
        timeout: seconds for one attempt.
        give_up_days: days of attempts without success after which an endpoint is disabled, or a message given up.
        keep_days: days for which messages are kept, sent or not.
        allow_private_hosts: endpoints may lie on this machine or in a private network, and be reached by http.
        ca_bundle: PEM file of roots trusted beside the system's own.
    """

    timeout: Annotated[float, Field(gt=0, le=30)] = 10.0
    give_up_days: Annotated[float, Field(gt=0, le=30)] = 3.0
    keep_days: Annotated[int, Field(ge=1, le=365)] = 30
    allow_private_hosts: bool = False
    ca_bundle: Path | None = None


class ExportSettings(_Group):
    """One series of exports, made by the workers; its name is the key under `exports`.

    Attributes:
        to: a folder, or `s3://bucket/prefix`; keys of an object store come from the environment, as AWS's tools do.
        tables: names without `v_`, as `transaction`; empty: all.
        every: seconds between two exports.
        at: time of day in the UAE, as `02:00`, at which one is made; either this or `every`.
        full_every_days: a full export takes the place of an increment when the last is so old.
        keep_full: full exports kept, with the increments behind the oldest of them; older ones go after each export.
        vacuum_days: of Delta tables: files that no version since then needs go after each export; with less than
            `full_every_days` an increment may find files of earlier exports gone, and becomes a full one.
        compact: of Delta tables: small files are put together after each export.
        endpoint: of an object store that is not AWS's.
    """

    to: Annotated[str, Field(min_length=1, max_length=1024)]
    format: Literal["parquet", "ndjson", "csv", "delta"] = "parquet"
    tables: tuple[str, ...] = ()
    privacy: Literal["full", "pseudonymous"] = "full"
    every: Annotated[float, Field(ge=60, le=DURATION_MAX.total_seconds())] | None = None
    at: Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")] | None = None
    full_every_days: Annotated[float, Field(gt=0, le=366)] = 7.0
    keep_full: Annotated[int, Field(ge=1, le=1000)] = 3
    vacuum_days: Annotated[float, Field(ge=0, le=366)] = 14.0
    compact: bool = False
    endpoint: str | None = None
    region: str | None = None

    @model_validator(mode="after")
    def _one_cadence(self) -> Self:
        if (self.every is None) == (self.at is None):
            raise ValueError('every: give either `every` (seconds) or `at` (time of day in the UAE, as "02:00")')
        return self


class TokenSettings(_Group):
    """How tokens are kept; what each costs stands in docs/operations.md.

    Attributes:
        keep_warm: by schedule also for consents that no sync will call for within the next token's life.
    """

    refresh: RefreshMode = RefreshMode.SCHEDULED
    keep_warm: bool = True


class PriceSettings(_Group):
    """The rate card, in milli-fils (1 AED = 100,000); `domain.md` §14."""

    data_get: Annotated[int, Field(ge=0)] = 2_500


class Settings(BaseSettings):
    """Everything an operator may set.

    Attributes:
        web_database_url: the same database under the web process's own role (`db roles`); absent: `database_url`.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    database_url: str = "sqlite:///syncworker.db"
    web_database_url: str | None = None
    database_pooler: Pooler = Pooler.NONE
    broker_url: str = EMBEDDED
    broker_ca: Path | None = None
    broker_certificate: Path | None = None
    broker_key: Path | None = None
    broker_verify: bool = True
    limits_url: str | None = None
    keyring: Path | None = None
    data_dir: Path = Path(".syncworker")
    tenant: Annotated[str, Field(min_length=1, max_length=64)] = "default"
    client: ClientSettings = ClientSettings()
    lfis: dict[Annotated[str, Field(pattern=SLUG)], LFISettings] = {}
    directory: DirectorySettings = DirectorySettings()
    allow: AllowSettings = AllowSettings()
    cadence: CadenceSettings = CadenceSettings()
    lifecycle: LifecycleSettings = LifecycleSettings()
    openings: OpeningsSettings = OpeningsSettings()
    renewal: RenewalSettings = RenewalSettings()
    retention: RetentionSettings = RetentionSettings()
    ended_consents: EndedConsents = EndedConsents.HIDDEN
    feed: FeedSettings = FeedSettings()
    freshness: FreshnessSettings = FreshnessSettings()
    prices: PriceSettings = PriceSettings()
    events: EventSettings = EventSettings()
    web: WebSettings = WebSettings()
    webhooks: WebhookSettings = WebhookSettings()
    exports: dict[Annotated[str, Field(pattern=EXPORT)], ExportSettings] = {}
    tokens: TokenSettings = TokenSettings()
    overlap_days: Annotated[int, Field(ge=0, le=90)] = 7
    first_sync_days: Annotated[int, Field(ge=1, le=3650)] = 90
    backfill_slice_days: Annotated[int, Field(ge=1, le=3650)] = 90
    backfill_max_days: Annotated[int, Field(ge=1, le=36500)] = 3650
    rewalk_days: Annotated[int, Field(ge=0, le=365)] = 30
    rewalk_every: Seconds = 7 * 24 * 3600
    tick_seconds: Annotated[float, Field(gt=0, le=60)] = 5.0
    batch_size: Annotated[int, Field(ge=1, le=500)] = 16
    threads: Annotated[int, Field(ge=1, le=256)] = 8
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    lease_seconds: Annotated[float, Field(ge=1, le=DURATION_MAX.total_seconds())] = 120.0
    connect_timeout: Seconds = 5.0
    call_timeout: Seconds = 30.0
    token_timeout: Seconds = 15.0
    consent_deadline: Seconds = 600.0
    batch_deadline: Seconds = 900.0
    consents_at_once: Annotated[int, Field(ge=1, le=1000)] = 50
    account_details: bool = False
    seal_raw: bool = False

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = _config_file()
        values = _read_toml(file) if file else {}
        given = (InitSettingsSource(settings_cls, init_kwargs=layer) for layer in (_secrets(), values))
        return init_settings, env_settings, *given

    def resolved(self, path: Path) -> Path:
        """A path of the settings, counted from the folder of the file."""
        file = _config_file()
        return path if path.is_absolute() else (file.parent if file else Path.cwd()) / path

    @property
    def data_folder(self) -> Path:
        return self.resolved(self.data_dir)

    @property
    def database(self) -> Address:
        """Where the database is.

        Raises:
            SettingsError: `database_url` is no URL of a database we know, or has a parameter that is none.
        """
        return address_of(self.database_url, pooler=self.database_pooler)

    def for_web(self) -> Self:
        """The settings of the web process: its database is the one that `web_database_url` names."""
        return self if self.web_database_url is None else self.with_values(database_url=self.web_database_url)

    def targets(self) -> Mapping[ResourceName, timedelta]:
        """How old a listing of each resource may grow before it is stale: its cadence times `freshness.margin`."""
        return {name: every * self.freshness.margin for name, every in self.cadence.as_mapping().items()}

    def with_values(self, **values: Any) -> Self:
        """The same settings with some replaced, checked again."""
        return self.model_copy(update=values)


def load(**overrides: Any) -> Settings:
    """Read the settings.

    Args:
        overrides: what the command line said; wins over everything.

    Raises:
        SettingsError: one line for each wrong value, naming field and fault, never the value.
    """
    try:
        settings = Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        raise SettingsError("; ".join(faults_of(error))) from None
    except UnreadableVariable as error:  # its text has the field's name, its cause the value
        variable = ENVIRONMENT_PREFIX + str(error).partition('field "')[2].partition('"')[0].upper()
        raise SettingsError(f"{variable}: is not JSON; write one value as {variable}__NAME, or correct it") from None
    return settings.with_values(database_url=_placed(settings))


def faults_of(error: ValidationError) -> list[str]:
    """What is wrong with values, a line each: field, fault and the environment variable that set it, if one did.

    Never the value: it may be a secret.
    """
    return [_fault([str(part) for part in fault["loc"]], fault["type"], fault["msg"]) for fault in error.errors()]


def _fault(place: Sequence[str], kind: str, message: str) -> str:
    words = "is no setting; remove it or correct its name" if kind == "extra_forbidden" else message
    variable = ENVIRONMENT_PREFIX + "__".join(place).upper()
    origin = f" (environment {variable})" if variable in os.environ else ""
    return f"{'.'.join(place)}: {words.removeprefix('Value error, ')}{origin}"


def origins(settings: Settings, overrides: Mapping[str, Any] | None = None) -> Iterator[tuple[str, str, str]]:
    """Yield (setting, value, where it came from), passwords masked, in the order of the class."""
    file = _config_file()
    in_file = dict(_flat(_read_toml(file))) if file else {}
    secrets = _secrets()
    for name, value in _flat(settings.model_dump(mode="json", exclude_none=True)):
        variable = ENVIRONMENT_PREFIX + name.upper().replace(".", "__")
        if overrides and name in overrides:
            origin = "command line"
        elif variable in os.environ or ENVIRONMENT_PREFIX + name.split(".")[0].upper() in os.environ:
            origin = f"environment {variable}"
        elif name in secrets:
            origin = f"file {name} in {os.environ[SECRETS_VARIABLE]}"
        elif name in in_file:
            origin = str(file)
        else:
            origin = "default"
        yield name, masked(str(value)) if name in SECRET_FIELDS else str(value), origin


def variables_set() -> set[str]:
    """Environment variables that set a setting of ours."""
    return {
        name
        for name in os.environ
        if name.startswith(ENVIRONMENT_PREFIX)
        and name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")[0] in Settings.model_fields
    }


def variables_unknown() -> list[tuple[str, str]]:
    """Environment variables in our name that set nothing, each with the one it was perhaps meant to be (or empty)."""
    known = {ENVIRONMENT_PREFIX + name.upper(): name for name in Settings.model_fields}
    unknown = {
        name
        for name in os.environ
        if name.startswith(ENVIRONMENT_PREFIX) and name not in {CONFIG_VARIABLE, SECRETS_VARIABLE}
    } - variables_set()
    found = []
    for name in sorted(unknown):
        first, separator, rest = name.partition("__")
        close = difflib.get_close_matches(first, known, n=1)
        found.append((name, close[0] + separator + rest if close else ""))
    return found


def masked(url: str) -> str:
    """A URL without its password."""
    scheme, separator, rest = url.partition("://")
    user, at, host = rest.rpartition("@")
    shown = f"{scheme}{separator}{user.split(':')[0]}:***{at}{host}" if at and ":" in user else url
    return re.sub(r"(?i)\b(\w*password=)[^&]*", r"\1***", shown)


def read_slug(text: str) -> Slug:
    """Our short name for an LFI.

    Raises:
        RequestError: not such a name.
    """
    if not re.fullmatch(SLUG, text):
        raise RequestError(f"slug: {text!r} is not a name; use a-z, 0-9 and -, at most 63 characters")
    return Slug(text)


def _placed(settings: Settings) -> str:
    """The database URL; a SQLite file is counted from the folder of the settings like every other path."""
    scheme, separator, file = settings.database_url.partition(":///")
    if scheme != "sqlite" or not file or file.startswith((":", "/", "file:")):
        return settings.database_url
    return f"{scheme}{separator}{settings.resolved(Path(file))}"


def _secrets() -> dict[str, str]:
    """Settings that lie in files of their own."""
    named = os.environ.get(SECRETS_VARIABLE)
    if not named:
        return {}
    folder = Path(named)
    if not folder.is_dir():
        raise SettingsError(f"{SECRETS_VARIABLE}: {named} is not a folder; correct the path or unset the variable")
    try:
        files = [file for name in sorted(SECRET_FIELDS) if (file := folder / name).is_file()]
        return {file.name: file.read_text(encoding="utf-8").strip() for file in files}
    except OSError as error:
        raise SettingsError(f"{SECRETS_VARIABLE}: a file in {named} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{SECRETS_VARIABLE}: a file in {named} is not UTF-8 text") from None


def _config_file() -> Path | None:
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        file = Path(named)
        if not file.is_file():
            raise SettingsError(f"{CONFIG_VARIABLE}: {named} is not a file; correct the path or unset the variable")
        return file.absolute()
    file = Path(CONFIG_FILE)
    return file.absolute() if file.is_file() else None


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as handle:
            return tomllib.load(handle)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file.name}: not valid TOML: {error}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{file.name}: not valid TOML: it is not UTF-8 text") from None
    except OSError as error:
        raise SettingsError(f"{file.name}: cannot be read ({error.strerror})") from None


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, Mapping):
            yield f"{prefix}{name}", value

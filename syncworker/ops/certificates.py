"""When the certificates of the settings end, as they lie in their files now."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from syncworker.errors import SettingsError
from syncworker.lfi.keys import certificate_end, days_announced
from syncworker.settings import LFISettings, Settings
from syncworker.standard.values import Slug


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFinding:
    """What is to be said about one certificate.

    Attributes:
        field: the setting that names its file.
        expires_at: `None` when it cannot be used; `fault` says why.
        days: the smallest of `EXPIRY_DAYS` that has begun, 0 when it has ended; `None` while its end is far off.
    """

    lfi: Slug
    field: str
    expires_at: datetime | None = None
    days: int | None = None
    fault: str = ""


def certificate_findings(
    settings: Settings, declared: Mapping[Slug, LFISettings], *, now: datetime
) -> list[CertificateFinding]:
    """Each LFI's certificates as they lie in their files now: transport, and signing where its file is given."""
    return [finding for slug in sorted(declared) for finding in _certificates_of(settings, slug, declared[slug], now)]


def _certificates_of(
    settings: Settings, slug: Slug, declared: LFISettings, now: datetime
) -> Iterator[CertificateFinding]:
    for name in ("transport_certificate", "signing_certificate"):
        file = getattr(declared, name) or getattr(settings.client, name)
        if file is None:
            continue
        field = f"lfis.{slug}.{name}" if getattr(declared, name) else f"client.{name}"
        try:
            end = certificate_end(settings.resolved(file), field=field)
        except SettingsError as error:
            yield CertificateFinding(lfi=slug, field=field, fault=str(error))
        else:
            yield CertificateFinding(lfi=slug, field=field, expires_at=end, days=days_announced(end, now=now))

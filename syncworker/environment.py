"""Environment variables of other programs that must not steer ours.

Celery, libpq, HTTP libraries and OpenSSL read variables by themselves and prefer some of them to what a program says.
A process of ours takes its values from the settings alone, so each entry point removes those variables before anything
else runs: `CELERY_BROKER_URL` would win over `broker_url`, `PGHOST` would fill a gap of `database_url`, a proxy
variable would carry a bank's traffic elsewhere, and `SSLKEYLOGFILE` would write the keys of TLS into a file.
"""

import os
from collections.abc import MutableMapping
from typing import Final

PREFIXES: Final = ("CELERY_", "PG")
"""`PG…`: libpq has some forty (`PGHOST`, `PGPASSWORD`, `PGOPTIONS`, `PGSERVICE`, `PGSSLMODE`, …)."""

PROXIES: Final = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "FTP_PROXY"})
OTHERS: Final = frozenset({"SSLKEYLOGFILE"})


def is_foreign(name: str) -> bool:
    """Whether a library would read this variable in the place of a setting.  Proxies count in both spellings."""
    return name.startswith(PREFIXES) or name.upper() in PROXIES or name in OTHERS


def forget_foreign(environment: MutableMapping[str, str] = os.environ) -> list[str]:
    """Remove the variables of other programs from this process and its children.

    Returns:
        Their names, sorted; never a value.
    """
    found = sorted(name for name in environment if is_foreign(name))
    for name in found:
        del environment[name]
    return found

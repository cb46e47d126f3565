"""The frame of a contender: it is told where everything is, then syncs once for each line on its standard input.

    python -m bench.contenders.NAME JSON      then "sync\n" → "done\n", as often as the harness likes

A contender stays up between syncs, so its connections, caches and workers are as warm as a daemon's.
"""

import json
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every contender is told, and nothing else.

    Attributes:
        base_url: of the data API.
        consents: (ConsentId, access token) of those it has to sync.
        in_flight: calls it may have open at the bank at once.
        broker_url: a Redis for those that need one.
        folder: for its own files.
    """

    base_url: str
    ca: str
    certificate: str
    key: str
    database_url: str
    broker_url: str
    folder: Path
    in_flight: int
    consents: list[tuple[str, str]]

    def tls(self) -> ssl.SSLContext:
        """mTLS as the bank wants it."""
        context = ssl.create_default_context(cafile=self.ca)
        context.load_cert_chain(self.certificate, self.key)
        return context


def job() -> Job:
    """The job on the command line."""
    told = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    return Job(**told | {"folder": Path(told["folder"]), "consents": [tuple(pair) for pair in told["consents"]]})


def serve(sync: Callable[[], object]) -> None:
    """Answer the harness until it closes the pipe."""
    print("ready", flush=True)
    for _ in sys.stdin:
        sync()
        print("done", flush=True)

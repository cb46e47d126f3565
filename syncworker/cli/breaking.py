"""`syncworker sandbox break` and `mend`: a trouble at a running sandbox bank, and its end."""

import http.client
import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from syncworker.cli import bank_settings, show
from syncworker.errors import RequestError, SetupError
from syncworker.simulator.sandbox import FACTS

ANSWER_S: Final = 10.0
SLOW_S: Final = 3.0
RETRY_AFTER_S: Final = 10


class Trouble(StrEnum):
    """What a bank can be made to do."""

    LIMITED = "429"
    """Answer 429 to every call, with Retry-After."""
    FAILING = "500"
    """Answer 500 to every call."""
    SLOW = "slow"
    """Answer every call some seconds later."""
    DOWN = "down"
    """Cut every connection without an answer."""
    REVOKE = "revoke"
    """Every customer takes the consent back at the bank."""


_VERBS: Final[Mapping[Trouble, tuple[str, Mapping[str, Any]]]] = {
    Trouble.LIMITED: ("answers", {"status": 429, "retry_after": RETRY_AFTER_S}),
    Trouble.FAILING: ("answers", {"status": 500}),
    Trouble.SLOW: ("latency", {"seconds": SLOW_S}),
    Trouble.DOWN: ("drop_response", {"operation": "*", "after_processing": False, "times": None}),
}


def run(folder: Path, words: list[str]) -> None:
    """Do what the words behind `sandbox` say.

    Raises:
        RequestError: they are neither `break LFI TROUBLE` nor `mend [LFI]`.
        SetupError: no such bank runs.
    """
    match words:
        case ["break", lfi, trouble] if trouble in set(Trouble):
            _break(Door(folder, lfi), lfi, Trouble(trouble))
        case ["mend", lfi]:
            Door(folder, lfi).verb("clear_faults")
            show.say(f"{lfi} is mended; what was revoked stays revoked")
        case _:
            troubles = "|".join(Trouble)
            raise RequestError(f"sandbox: write `sandbox break LFI {troubles}` or `sandbox mend LFI`")


def _break(door: "Door", lfi: str, trouble: Trouble) -> None:
    if trouble is not Trouble.REVOKE:
        verb, arguments = _VERBS[trouble]
        door.verb("clear_faults")
        door.verb(verb, **arguments)
        show.say(f"{lfi}: {trouble.value}, until `syncworker sandbox mend {lfi}`")
        return
    held = [one["consent_id"] for one in door.get("/consents") if one["status"] in ("Authorized", "Suspended")]
    for consent_id in held:
        door.verb("revoke", consent_id=consent_id)
    show.say(f"{lfi}: {len(held)} consents revoked by their customers, for good")


class Door:
    """The door of a running bank for holders of its key.

    Args:
        folder: of the sandbox: a bank alone, whose slug is `sandbox`, or a folder for each bank by its name.

    Raises:
        RequestError: no such bank has run there.
        SetupError: none runs there now.
    """

    def __init__(self, folder: Path, lfi: str) -> None:
        files = [folder / lfi / FACTS] + ([folder / FACTS] if lfi == bank_settings.SLUG else [])
        file = next((one for one in files if one.is_file()), None)
        if file is None or "/" in lfi:
            raise RequestError(f"LFI: no sandbox bank {lfi} runs in {folder}; name its folder with --folder")
        try:
            facts = json.loads(file.read_text(encoding="utf-8"))
            self._address = urlsplit(facts["books_url"])
            self._key = Path(facts["books_key"]).read_text(encoding="utf-8").strip()
        except (OSError, ValueError, LookupError, TypeError):
            raise SetupError(f"{file}: cannot be read; start the sandbox again") from None

    def get(self, path: str) -> Any:
        """What the bank says at a path."""
        return self._asked("GET", path, None)

    def verb(self, name: str, **arguments: Any) -> Any:
        """Have the bank do something."""
        return self._asked("POST", f"/verbs/{name}", json.dumps(arguments))

    def _asked(self, method: str, path: str, body: str | None) -> Any:
        connection = http.client.HTTPConnection(
            self._address.hostname or "", self._address.port or 80, timeout=ANSWER_S
        )
        try:
            connection.request(method, path, body=body, headers={"Authorization": f"Bearer {self._key}"})
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise SetupError(f"the sandbox bank does not answer ({type(error).__name__}); start it again") from None
        finally:
            connection.close()
        if answer.status != 200:
            raise SetupError(f"the sandbox bank answered {answer.status} to {path}")
        return json.loads(content)

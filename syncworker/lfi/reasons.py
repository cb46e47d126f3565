"""Read the words an LFI gives for a refusal, cleaned (`standard.reasons`).  Nothing decides by them."""

from collections.abc import Iterator
from typing import Final

import msgspec

from syncworker.standard.reasons import cleaned

BODY_BYTES_MAX: Final = 64 * 1024
"""A larger body is no explanation of an error."""

ERRORS_MAX: Final = 5


def reason_of(body: bytes) -> str:
    """What the body of an error says in words, of either family; empty when it says nothing, or cannot be read.

    `error_description` of OAuth; `Message` and `Path` of the first few `Errors`, joined by `; `.
    """
    if not 0 < len(body) <= BODY_BYTES_MAX:
        return ""
    try:
        document = msgspec.json.decode(body.removeprefix(b"\xef\xbb\xbf").decode(errors="replace"))
    except (ValueError, RecursionError):
        return ""
    return cleaned("; ".join(_words(document)))


def _words(document: object) -> Iterator[str]:
    if not isinstance(document, dict):
        return
    description = document.get("error_description")
    if isinstance(description, str) and description.strip():
        yield description
    errors = document.get("Errors")
    for error in errors[:ERRORS_MAX] if isinstance(errors, list) else ():
        if not isinstance(error, dict):
            continue
        message, path = error.get("Message"), error.get("Path")
        said = message if isinstance(message, str) else ""
        if isinstance(path, str) and path.strip():
            said = f"{said} (at {path})"
        if said.strip():
            yield said.strip()

"""`syncworker permissions`: what each permission opens, and in which versions it can be asked for."""

from typing import Annotated, Any

import typer

from syncworker.cli import frame, show
from syncworker.standard.permissions import CODES
from syncworker.standard.resources import opened_by, readable, versions_of
from syncworker.standard.versions import Version


def permissions(
    version: Annotated[
        Version | None, typer.Option("--version", help="Only those a request on this version may carry.")
    ] = None,
    as_json: frame.AsJson = False,
) -> None:
    """Every permission: the resources and fields it opens, and the versions that have it.

    `asked by default`: versions in which `consents authorize` asks for it when no --permission is given.
    """
    ours = {one: readable(one) for one in Version}
    rows: list[dict[str, Any]] = [
        {
            "permission": code.permission.value,
            "opens": [row.name.value for row in opened_by(code.permission)],
            "shows": code.shows,
            "versions": [one.value for one in versions_of(code.permission)],
            "granted_in": [one.value for one in Version if one in code.granted],
            "asked_by_default": [one.value for one, wanted in ours.items() if code.permission in wanted],
        }
        for code in CODES
        if version is None or version in code.asked
    ]
    show.rows(rows, as_json=as_json, title="Permissions", empty="no permission is known")

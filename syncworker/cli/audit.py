"""`syncworker audit`: the tables against a sandbox bank's own books, row by row, both ways."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from syncworker.audit import AuditedRow, AuditReport, RowName, compare
from syncworker.cli import frame, show
from syncworker.errors import RequestError, SetupError
from syncworker.simulator.books import Books, BooksError
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store.unit_of_work import Store
from syncworker.sync.decode import whole_columns

DIFFERENCES_SHOWN_MAX: Final = 20


def audit(
    sandbox: Annotated[
        list[Path],
        typer.Option(help="Data folder of a running sandbox bank (it holds sandbox.json); repeat it for several."),
    ],
    as_json: frame.AsJson = False,
) -> None:
    """Compare keys, typed columns and raw items with the books of sandbox banks; exit 1 when anything differs."""
    facts = [read_facts(folder) for folder in sandbox]

    async def compared(store: Store) -> AuditReport:
        try:
            async with AsyncExitStack() as stack:
                books = [await stack.enter_async_context(Books.of(one)) for one in facts]
                return await audit_sandboxes(store, books)
        except (BooksError, OSError) as error:
            where = ", ".join(map(str, sandbox))
            raise SetupError(f"sandbox: {where}: {error}; start it again with `syncworker sandbox`") from None

    report = frame.with_store(compared, sealed=True)
    print_report(report, as_json=as_json)
    if report.differences:
        raise typer.Exit(frame.FAILED)


def read_facts(sandbox: Path) -> dict[str, Any]:
    """What a running sandbox says about itself.

    Raises:
        RequestError: no sandbox runs in this folder.
    """
    try:
        facts: dict[str, Any] = json.loads((sandbox / "sandbox.json").read_text(encoding="utf-8"))
        facts["books_url"], facts["books_key"]  # a bank of ours names its door
    except (OSError, ValueError, LookupError, TypeError):
        raise RequestError(f"sandbox: {sandbox} holds no sandbox.json; start one with `syncworker sandbox`") from None
    return facts


async def audit_sandboxes(store: Store, books: Sequence[Books]) -> AuditReport:
    """Compare every consent of this tenant that the sandbox banks know, and every row of this tenant."""
    async with store.reading() as unit:
        chains = {consent.consent_id: consent.connection_id for consent in await unit.consents.find()}
        held = [row async for row in _held_rows(unit.records.all_rows())]
    shown = [consent for one in books for consent in await one.books() if consent["consent_id"] in chains]
    return compare(_book_rows(shown, chains), held)


def print_report(report: AuditReport, *, as_json: bool = False) -> None:
    """The rows compared, the differences, and their number as the last line."""
    if as_json:
        show.value(
            {
                "rows": report.rows,
                "columns": report.columns,
                "differences": [
                    {"kind": one.kind, "columns": list(one.columns), **_named(one.name)} for one in report.differences
                ],
            }
        )
        return
    if report.differences:
        shown = report.differences[:DIFFERENCES_SHOWN_MAX]
        show.rows(
            [{"difference": one.kind.value, **_named(one.name), "columns": list(one.columns)} for one in shown],
            as_json=False,
            title=f"Differences between the bank's books and the tables (the first {len(shown)})",
            empty="",
        )
    counted = ", ".join(f"{count} {resource}" for resource, count in report.rows.items())
    show.OUT.print(f"compared keys, {report.columns} typed values and raw items, both ways: {counted}", markup=False)
    show.OUT.print(f"{len(report.differences)} differences", markup=False)


def _named(name: RowName) -> dict[str, str]:
    return {"consent": name.connection_id, "account": name.account_id, "resource": name.resource, "key": name.key}


def _book_rows(consents: list[dict[str, Any]], chains: Mapping[ConsentId, ConsentId]) -> Iterator[AuditedRow]:
    for consent in consents:
        chain = chains[ConsentId(consent["consent_id"])]
        for resource, rows in consent["resources"].items():
            for row in rows:
                key = "|".join(row["key"])
                account_id = row["account_id"] or (key if resource == ResourceName.ACCOUNTS else "")
                yield AuditedRow(RowName(chain, account_id, resource, key), row["item"], row["columns"])


async def _held_rows(rows: AsyncIterator[Any]) -> AsyncIterator[AuditedRow]:
    async for row in rows:
        yield AuditedRow(
            RowName(row.connection_id, row.account, row.resource.value, row.key), row.item, whole_columns(row)
        )

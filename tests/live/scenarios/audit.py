"""What must be true after every scenario, whatever happened in it.

Every due consent was synced; the tables equal the banks' books, both ways; no older generation wrote after a newer
one; each generation ended at most once; the feed tells what the tables hold; nothing is left leased, nothing parked
but what the scenario poisoned; and no secret reached any output of any process.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from syncworker.audit import AuditedRow, RowName, compare
from syncworker.store.changes import Op
from syncworker.store.work import WorkKind
from syncworker.sync.decode import whole_columns
from tests.ground.feed import name_of, whole_feed
from tests.live.scenarios.installation import Installation

NAMED: Final = ("FullName", "AccountHolderName", "AccountHolderShortName", "Name", "Identification")
"""Members of an item whose text identifies a person or an account."""

WORDS_MIN: Final = 9
"""Shorter names may stand in a log by chance."""

AMOUNT: Final = re.compile(r"\d{5,}\.\d{2}")
"""Amounts that cannot be a part of an instant or a duration."""

_JSON: Final = msgspec.json.Encoder(decimal_format="number")


@dataclass(frozen=True, slots=True)
class Audited:
    """What was looked at.

    Attributes:
        runs: syncs that ended well since the database was cloned.
        rows: rows compared with the books.
        changes: entries of the feed.
        secrets: texts searched for in the outputs.
    """

    runs: int
    rows: int
    changes: int
    secrets: int


async def audit(site: Installation, *, poisoned: str = "") -> Audited:
    """Wait for a good sync of every connection, end every process in order, and look at everything.

    Args:
        poisoned: the connection that had to be parked, if the scenario had one.
    """
    for books in site.books.values():
        await books.do("clear_faults")
    await site.all_synced("a sync of every consent, after the fault", but=poisoned)
    statuses = await site.stop()
    assert set(statuses) == {0}, f"ended with {statuses}\n{site.outputs()[-6000:]}"
    rows = await _compared(site, poisoned)
    await _generations(site)
    await _nothing_left(site, poisoned)
    changes = await _feed(site)
    return Audited(await site.good_runs(), rows, changes, await _secrets(site))


async def _compared(site: Installation, poisoned: str) -> int:
    connections = set(await site.connections()) - {poisoned}
    books = [
        AuditedRow(
            RowName(consent["consent_id"], row["account_id"], resource, "|".join(row["key"])),
            _JSON.encode(row["item"]),
            row["columns"],
        )
        for door in site.books.values()
        for consent in await door.books()
        if consent["consent_id"] in connections
        for resource, rows in consent["resources"].items()
        for row in rows
    ]
    async with site.store.reading() as unit:
        tables = [
            AuditedRow(
                RowName(row.connection_id, row.account_id, row.resource.value, row.key), row.item, whole_columns(row)
            )
            async for row in unit.records.all_rows()
            if row.connection_id != poisoned
        ]
    assert books
    assert {row.name.connection_id for row in books} == connections
    report = compare(books, tables)
    assert report.differences == ()
    return sum(report.rows.values())


async def _generations(site: Installation) -> None:
    """A generation is claimed once, ends once, and never writes after a newer one."""
    ends = await site.query("SELECT connection_id, gen, count(*) AS n FROM run GROUP BY 1, 2 HAVING count(*) > 1")
    assert ends == []
    newest = {row.subject: row.gen for row in await site.rows()}
    reached: dict[str, int] = {}
    for row in await site.query("SELECT connection_id, gen, seq FROM change WHERE resource <> '' ORDER BY seq"):
        assert reached.get(row.connection_id, 0) <= row.gen <= newest[row.connection_id], row
        reached[row.connection_id] = row.gen
    for table in ("cursor", "connection_check"):
        ahead = await site.query(
            f"SELECT held.connection_id FROM {table} AS held JOIN work ON work.subject = held.connection_id"
            " AND work.kind = 'sync' WHERE held.gen > work.gen"
        )
        assert ahead == []


async def _nothing_left(site: Installation, poisoned: str) -> None:
    """All processes ended in order: what one had begun it ended or gave back.  A hint nobody took keeps its lease."""
    rows = [*await site.rows(), *await site.rows(WorkKind.TOKEN)]
    assert [row.subject for row in rows if row.lease_until is not None and row.started_gen == row.gen] == []
    assert [row.subject for row in rows if row.parked_at is not None] == ([poisoned] if poisoned else [])


async def _feed(site: Installation) -> int:
    """Each row was added once; who reads the feed from its beginning believes what the tables hold."""
    async with site.store.reading() as unit:
        changes = await whole_feed(unit)
    live: set[tuple[str, str, str, str]] = set()
    for row in changes:
        name = name_of(row)
        if row.change.op is Op.REMOVED:
            live.remove(name)
        else:
            assert (name in live) == (row.change.op is Op.MODIFIED), f"{row.change.op} twice: {name[2]}"
            live.add(name)
    async with site.store.reading() as unit:
        held = {
            (row.connection_id, row.account_id, row.resource.value, row.key) async for row in unit.records.all_rows()
        }
    assert live == held
    return len(changes)


async def _secrets(site: Installation) -> int:
    """Search what the processes said; a finding is told by its kind and length, not by its text."""
    said = site.outputs()
    kinds: Counter[str] = Counter()
    found: list[tuple[str, int]] = []
    for kind, secret in {*_keys(site), *await _tokens(site), *await _personal(site)}:
        kinds[kind] += 1
        if secret in said:
            found.append((kind, len(secret)))
    assert found == []
    assert {"key", "token", "name", "amount"} <= kinds.keys()
    return kinds.total()


def _keys(site: Installation) -> Iterator[tuple[str, str]]:
    yield "key", site.prepared.keyring.read_text().split()[-1]
    for bank in site.banks.values():
        for name in ("signing_key", "transport_key"):
            lines = Path(bank.facts["client"][name]).read_text().splitlines()
            yield from (("key", line) for line in lines[1:-1] if len(line) > 30)


async def _tokens(site: Installation) -> set[tuple[str, str]]:
    held: set[tuple[str, str]] = set()
    async with site.store.reading() as unit:
        for row in await site.query("SELECT consent_id FROM token"):
            token = await unit.tokens.read(row.consent_id)
            assert token is not None
            secrets = [token.access_token, token.refresh_token]
            held |= {("token", secret.get_secret_value()) for secret in secrets if secret is not None}
    return held


async def _personal(site: Installation) -> set[tuple[str, str]]:
    """Names, account numbers and large amounts of the banks' customers."""
    texts: set[tuple[str, str]] = set()

    def look(item: Any, member: str = "") -> None:
        if isinstance(item, dict):
            for name, value in item.items():
                look(value, name)
        elif isinstance(item, list):
            for value in item:
                look(value, member)
        elif isinstance(item, str) and member in NAMED and len(item) >= WORDS_MIN:
            texts.add(("name", item))
        elif isinstance(item, str) and member == "Amount" and AMOUNT.fullmatch(item):
            texts.add(("amount", item))

    for door in site.books.values():
        for consent in await door.books():
            for rows in consent["resources"].values():
                for row in rows:
                    look(row["item"])
    return texts

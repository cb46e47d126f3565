"""Take over consents that another system held until now, from a file of JSON lines.

    read      one JSON object → `Line`, or every fault of it by name (`import_file`)
    judge     what the line means beside what we hold → `Verdict`; a pure decision
    file      a batch of lines in one transaction: connection, consent, sealed tokens, work; of each line all or nothing

The rule that matters: a refresh token here is younger than any file.  A line that brings another one than we hold is a
named conflict, unless it is the very token that was imported before (it has been rotated since), and only
`replace_tokens` puts the file's in the place of ours.  So the second run of a file changes nothing.

An imported consent counts as Authorized until the Hub says otherwise, as it does with the first token answer.  Its
first sync is spread: ten thousand imported consents never share an instant (`reliability.md` rule 22).

Source: `domain.md` §4.2, §4.4; `reliability.md` rules 16, 19, 22, 26.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from itertools import islice
from typing import Final

from syncworker.consents.import_file import KnownLFI, Line, read_line, terms_faults
from syncworker.consents.lifecycle import NEVER
from syncworker.consents.tokens import TokenDue
from syncworker.errors import RequestError, SetupError
from syncworker.standard.consents import Status
from syncworker.standard.values import ConsentId, Slug, write_instant
from syncworker.standard.versions import oldest
from syncworker.store.consents import Connection, StoredConsent
from syncworker.store.failures import StoreRefusedError
from syncworker.store.statistics import IMPORTED as IMPORTED_TABLES
from syncworker.store.tokens import ImportedToken, StoredToken
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import WorkKind

BATCH_LINES: Final = 200
"""Lines in one transaction, and in memory."""

STATISTICS_FROM: Final = 1_000
"""Consents added after which the database gathers its statistics while an import runs; at its end it always does."""

STATISTICS_AGAIN: Final = 4
"""It does so again each time that there are so many times as many."""

MEMBERS_SHOWN_MAX: Final = 20
IMPORTED: Final = "consent_imported"
"""The audit's word for a token that came from a file; its fact `token` is `fingerprint`."""

SyncDue = Callable[[ConsentId, datetime], datetime]
"""When the first sync of a connection imported at that instant is due."""


class Verdict(StrEnum):
    """What became of a line."""

    IMPORTED = "imported"
    UNCHANGED = "unchanged"
    """We hold what it says, or a younger token than it brings."""
    REPLACED = "replaced"
    """The consent was held; the file's tokens took the place of ours, as asked."""
    REFUSED = "refused"


LFIs = Callable[[Slug], KnownLFI]
"""Gives a declared LFI; raises `SetupError` when it is not declared, or its declaration cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What we hold of a line's consent; everything `None` when it is new.

    Attributes:
        connection: the chain it belongs to, which may be there without it.
        base: the consent that its `BaseConsentId` names.
        followed: a chain that has this very consent as its root.
        imported: fingerprint of the refresh token that the newest import of it brought.
    """

    connection: Connection | None = None
    consent: StoredConsent | None = None
    base: StoredConsent | None = None
    followed: Connection | None = None
    token: StoredToken | None = None
    imported: str | None = None


@dataclass(slots=True)
class ImportReport:
    """Lines by what became of them, blank ones not counted.

    Attributes:
        ignored: members that mean nothing to us, each once; the first few.
        uae_time: lines with an instant without an offset, by the member; it was read as UAE time.
        read_on: consents of a version no LFI serves any more: (it, the one they are read on) → how many.
    """

    counts: dict[Verdict, int] = field(default_factory=lambda: dict.fromkeys(Verdict, 0))
    ignored: set[str] = field(default_factory=set)
    uae_time: Counter[str] = field(default_factory=Counter)
    read_on: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def lines(self) -> int:
        return sum(self.counts.values())

    @property
    def good(self) -> int:
        """Lines that are in the tables now, whoever put them there."""
        return self.lines - self.counts[Verdict.REFUSED]


class Importer:
    """Takes lines into the store.

    Args:
        store: opened with a key ring, for the tenant the consents are to belong to.
        lfis: gives a declared LFI.
        sync_due: when a first sync is due.
        token_due: when an access token that came along is refreshed by schedule; `None` schedules no refresh.
        replace_tokens: put the file's tokens in the place of ours where they differ.
        batch: lines in one transaction.
    """

    def __init__(
        self,
        store: Store,
        lfis: LFIs,
        *,
        sync_due: SyncDue,
        token_due: TokenDue | None,
        replace_tokens: bool = False,
        batch: int = BATCH_LINES,
    ) -> None:
        self._store = store
        self._lfis = lfis
        self._sync_due = sync_due
        self._token_due = token_due
        self._replace = replace_tokens
        self._batch = batch

    async def take(
        self,
        lines: Iterable[tuple[int, bytes | None]],
        *,
        refused: Callable[[int, str], None],
        progress: Callable[[ImportReport], None] = lambda _report: None,
    ) -> ImportReport:
        """Take every line, a batch a transaction; what is committed stays, whatever happens to the rest.

        Args:
            lines: as `numbered` gives them.
            refused: is told number and reasons of each line that does not go in.
            progress: is told the counts after each batch.

        Raises:
            StoreUnavailableError: the database is away; the batches before are in.  Running again is harmless.
        """
        report, gather_at = ImportReport(), STATISTICS_FROM
        for chunk in _chunks(lines, self._batch):
            good: list[Line] = []
            for number, content in chunk:
                try:
                    good.append(self._read(number, content))
                except RequestError as error:
                    report.counts[Verdict.REFUSED] += 1
                    refused(number, str(error))
            for line in good:
                report.uae_time.update(line.uae_time)
                if line.made_in is not None and line.version is not None:
                    report.read_on[line.made_in, line.version.value] += 1
                report.ignored.update(islice(sorted(line.ignored), MEMBERS_SHOWN_MAX - len(report.ignored)))
            for number, verdict, reason in await self._filed(good):
                report.counts[verdict] += 1
                if verdict is Verdict.REFUSED:
                    refused(number, reason)
            if self._added(report) >= gather_at:
                gather_at = self._added(report) * STATISTICS_AGAIN
                await self._gather_statistics()
            progress(report)
        if self._added(report):
            await self._gather_statistics()
        return report

    def _added(self, report: ImportReport) -> int:
        return report.counts[Verdict.IMPORTED]

    async def _gather_statistics(self) -> None:
        """Let the database know how much there is now: workers sync the first consents while the last are filed."""
        await self._store.atomically(lambda unit: unit.statistics.gather(*IMPORTED_TABLES))

    def _read(self, number: int, content: bytes | None) -> Line:
        line = read_line(number, content, tenant=self._store.tenant)
        try:
            known = self._lfis(line.lfi)
        except SetupError as error:
            raise RequestError(f"lfi: {error}") from error
        faults = terms_faults(line, known)
        if faults:
            raise RequestError("; ".join(faults))
        return line if line.version is not None else replace(line, version=oldest(known.versions))

    async def _filed(self, lines: Sequence[Line]) -> list[tuple[int, Verdict, str]]:
        """The batch in one transaction; where the database refuses it, each line in one of its own."""
        if not lines:
            return []
        try:
            return await self._store.atomically(lambda unit: self._file(unit, lines))
        except StoreRefusedError as error:
            if len(lines) == 1:
                return [(lines[0].number, Verdict.REFUSED, f"the database did not take it ({error})")]
        return [ended for line in lines for ended in await self._filed([line])]

    async def _file(self, unit: UnitOfWork, lines: Sequence[Line]) -> list[tuple[int, Verdict, str]]:
        at = await unit.now()
        lines = await _joining(unit, lines)
        held = await _held(unit, lines)
        fresh: list[_Fresh] = []
        ended: list[tuple[int, Verdict, str]] = []
        for line in lines:
            beside = held.of(line)
            verdict, reason = judge(line, beside, now=at, replace_tokens=self._replace)
            if verdict is Verdict.IMPORTED:
                fresh.append(one := self._fresh(line, beside.connection, at))
                held.add(one)
            elif verdict is Verdict.REPLACED and not await self._replaced(unit, line, beside, at):
                verdict, reason = Verdict.REFUSED, "refresh_token: was rotated just now; run the import again"
            ended.append((line.number, verdict, reason))
        await self._add(unit, fresh, at)
        return ended

    def _fresh(self, line: Line, connection: Connection | None, at: datetime) -> "_Fresh":
        connection = connection or Connection(
            connection_id=line.connection_id,
            lfi=line.lfi,
            user_ref=line.user_ref or line.connection_id,
            created_at=at,
        )
        return _Fresh(line, connection, _consent(line, connection, at), self._token(line, at))

    async def _add(self, unit: UnitOfWork, fresh: Sequence["_Fresh"], at: datetime) -> None:
        """Consents nobody held: a statement per table, rows in the order of their keys (rule 26)."""
        fresh = sorted(fresh, key=lambda one: one.line.consent_id)
        connections = {one.connection.connection_id: one.connection for one in fresh}
        await unit.consents.add_connections([connections[root] for root in sorted(connections)])
        await unit.consents.add_new([one.consent for one in fresh])
        await unit.tokens.put_imported([one.token for one in fresh])
        await unit.work.schedule_sooner([entry for one in fresh for entry in self._due(one.line, at)])
        notes = [(one.line.consent_id, {"token": one.line.fingerprint}) for one in fresh]
        await unit.consents.note_many(IMPORTED, notes, at=at)

    async def _replaced(self, unit: UnitOfWork, line: Line, held: Held, at: datetime) -> bool:
        """The file's tokens instead of ours; `False` when ours were refreshed in this moment."""
        assert held.token is not None
        if not await unit.tokens.replace(self._token(line, at), version=held.token.version):
            return False
        await unit.consents.set_needs_consent(line.consent_id, None)
        await unit.work.schedule_sooner(self._due(line, at))
        await unit.consents.note_many(IMPORTED, [(line.consent_id, {"token": line.fingerprint})], at=at)
        return True

    def _token(self, line: Line, at: datetime) -> ImportedToken:
        """Both tokens, or the refresh token alone when no access token came that is still good."""
        if not _access_token_lives(line, at):
            return ImportedToken(consent_id=line.consent_id, refresh_token=line.refresh_token)
        return ImportedToken(
            consent_id=line.consent_id,
            refresh_token=line.refresh_token,
            access_token=line.access_token,
            issued_at=at,
            expires_at=line.access_token_expires_at,
            certificate=self._lfis(line.lfi).certificate,
        )

    def _due(self, line: Line, at: datetime) -> list[tuple[WorkKind, str, Slug, datetime]]:
        """First sync, first refresh, first look at the Hub and at the consent's end.

        Without an access token sync and refresh are due together, whichever comes first asks.
        """
        sync = token = self._sync_due(line.connection_id, at)
        if self._token_due is None:
            token = NEVER
        elif _access_token_lives(line, at) and line.access_token_expires_at is not None:
            token = self._token_due(line.consent_id, at, line.access_token_expires_at)
        return [
            (WorkKind.SYNC, line.connection_id, line.lfi, sync),
            (WorkKind.TOKEN, line.consent_id, line.lfi, token),
            (WorkKind.CONSENT, line.consent_id, line.lfi, sync),
            (WorkKind.FLAG, line.consent_id, line.lfi, sync),
        ]


# -- what a line means ------------------------------------------------------------------------------------------------


def judge(line: Line, held: Held, *, now: datetime, replace_tokens: bool) -> tuple[Verdict, str]:
    """What becomes of a line beside what we hold, and why it is refused (empty otherwise)."""
    if line.expires_at <= now:
        return Verdict.REFUSED, "ExpirationDateTime: has passed; a consent that ended has nothing left to import"
    if held.base is not None and held.base.base_consent_id is not None:
        return Verdict.REFUSED, "BaseConsentId: names a successor; give the root ConsentId of its chain"
    differing = _differing(line, held)
    if differing:
        return Verdict.REFUSED, f"{', '.join(differing)}: not as we hold it; nothing was changed"
    if line.base_consent_id is not None and held.followed is not None:
        return Verdict.REFUSED, "BaseConsentId: other consents are held with this ConsentId as their root"
    if held.consent is None:
        return Verdict.IMPORTED, ""
    if held.consent.terminal:
        return Verdict.REFUSED, f"ConsentId: is held, and ended ({held.consent.status})"
    if held.token is None or held.token.refresh_token is None:
        return Verdict.REFUSED, f"ConsentId: is held without tokens ({held.consent.status}); bring its redirect home"
    if line.refresh_token == held.token.refresh_token or line.fingerprint == held.imported:
        return Verdict.UNCHANGED, ""
    if replace_tokens:
        return Verdict.REPLACED, ""
    return Verdict.REFUSED, (
        "refresh_token: another one is held for this ConsentId and may be the younger; nothing was changed "
        "(--replace-tokens puts the file's in its place)"
    )


def _differing(line: Line, held: Held) -> list[str]:
    """Members that contradict the consent or the connection we hold."""
    said: list[tuple[str, object, object]] = []
    if held.connection is not None:
        said.append(("lfi", line.lfi, held.connection.lfi))
        said.append(("user_ref", line.user_ref or held.connection.user_ref, held.connection.user_ref))
    if held.consent is not None:
        said.append(("BaseConsentId", line.connection_id, held.consent.connection_id))
        said.append(("standard_version", _made_in(line), held.consent.made_in or held.consent.version))
        said.append(("Permissions", set(line.permissions), set(held.consent.permissions)))
        said.append(("ExpirationDateTime", write_instant(line.expires_at), write_instant(held.consent.expires_at)))
        for name, ours, theirs in (
            ("AccountType", line.account_types, held.consent.account_types),
            ("AccountSubType", line.account_sub_types, held.consent.account_sub_types),
            ("OnBehalfOf", line.on_behalf_of, held.consent.on_behalf_of),
        ):
            if ours is not None and theirs is not None:  # what one of them does not say contradicts nothing
                said.append((name, _as_set(ours), _as_set(theirs)))
    return [name for name, ours, theirs in said if ours != theirs]


def _made_in(line: Line) -> str:
    return line.made_in or (line.version.value if line.version else "")


def _as_set(term: object) -> object:
    return frozenset(term) if isinstance(term, tuple) else term


def _access_token_lives(line: Line, now: datetime) -> bool:
    expires_at = line.access_token_expires_at
    return line.access_token is not None and expires_at is not None and expires_at > now


# -- what we hold -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Fresh:
    """The rows of a consent nobody held."""

    line: Line
    connection: Connection
    consent: StoredConsent
    token: ImportedToken


@dataclass(frozen=True, slots=True)
class _Holdings:
    """What we hold of the consents of a batch, and what the batch itself has added."""

    connections: dict[ConsentId, Connection]
    consents: dict[ConsentId, StoredConsent]
    tokens: dict[ConsentId, StoredToken]
    imported: dict[ConsentId, str]

    def of(self, line: Line) -> Held:
        return Held(
            connection=self.connections.get(line.connection_id),
            consent=self.consents.get(line.consent_id),
            base=None if line.base_consent_id is None else self.consents.get(line.base_consent_id),
            followed=self.connections.get(line.consent_id),
            token=self.tokens.get(line.consent_id),
            imported=self.imported.get(line.consent_id),
        )

    def add(self, one: _Fresh) -> None:
        """A file may name a consent twice, and a root before its successor."""
        consent_id = one.line.consent_id
        self.connections[one.connection.connection_id] = one.connection
        self.consents[consent_id] = one.consent
        self.tokens[consent_id] = StoredToken(
            consent_id=consent_id, version=1, access_token=None, refresh_token=one.line.refresh_token
        )
        self.imported[consent_id] = one.line.fingerprint


async def _joining(unit: UnitOfWork, lines: Sequence[Line]) -> list[Line]:
    """The lines, each with the connection its root is held in: a later chain's root does not name the connection."""
    roots = await unit.consents.get_many({line.base_consent_id for line in lines if line.base_consent_id is not None})
    return [
        line if (root := roots.get(line.base_consent_id or ConsentId(""))) is None
        else replace(line, joins=root.connection_id)
        for line in lines
    ]  # fmt: skip


async def _held(unit: UnitOfWork, lines: Sequence[Line]) -> _Holdings:
    named = {line.consent_id for line in lines} | {line.connection_id for line in lines}
    named |= {line.base_consent_id for line in lines if line.base_consent_id is not None}
    consents = await unit.consents.get_many(named)
    notes = await unit.consents.newest_notes(IMPORTED, subjects=list(consents))
    return _Holdings(
        connections=await unit.consents.connections_named(named),
        consents=consents,
        tokens=await unit.tokens.read_many(list(consents)),
        imported={ConsentId(subject): str(facts.get("token")) for subject, facts in notes.items()},
    )


def _consent(line: Line, connection: Connection, at: datetime) -> StoredConsent:
    assert line.version is not None  # its LFI is declared for one at least
    return StoredConsent(
        consent_id=line.consent_id,
        connection_id=connection.connection_id,
        lfi=line.lfi,
        user_ref=connection.user_ref,
        version=line.version,
        status=Status.Authorized.value,
        status_updated_at=None,
        status_seen_at=at,
        permissions=line.permissions,
        expires_at=line.expires_at,
        from_date=line.from_date,
        to_date=line.to_date,
        account_types=line.account_types,
        account_sub_types=line.account_sub_types,
        on_behalf_of=line.on_behalf_of,
        made_in=line.made_in,
        webhook_active=line.webhook_active,
        base_consent_id=line.base_consent_id,
        user_type=line.user_type,
        purpose=line.purpose,
        created_at=at,
    )


def _chunks(lines: Iterable[tuple[int, bytes | None]], size: int) -> Iterator[list[tuple[int, bytes | None]]]:
    rest = iter(lines)
    while chunk := list(islice(rest, size)):
        yield chunk

"""Compare every consent we hold with the Hub's record, and follow the record.

Polls ask about a consent that may have moved.  A comparison trusts nothing: each consent is read by its id, and the
chain it belongs to by its root, so that what polls cannot see shows too: a consent the Hub does not know, a successor
nobody told us of, terms that changed.  What differs is filed in `audit`, followed as after any look, and kept in
`consent.drift` where following the Hub did not mend it.

`differences` and `strangers` decide, without I/O.  `Reconciling` acts, one connection in one transaction.

Source: Account Information API, `GetAccountAccessConsentsConsentId`, `GetAccountAccessConsentsByBaseConsentId`;
`domain.md` §4.2, §4.3.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Final

import structlog

from syncworker.consents.allowed import EVERYBODY, Allowed
from syncworker.consents.lifecycle import Clients, OnCall, ended_by_clock, noted, untold
from syncworker.errors import NotAllowedError, RefusedError, SyncWorkerError
from syncworker.lfi.transport import Call
from syncworker.standard.consents import IN_USE, TERMINAL, ConsentView, Status
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store.consents import Connection, StoredConsent, terms_changed
from syncworker.store.unit_of_work import Store, UnitOfWork

DRIFTED: Final = "consent_drifted"
"""Audit: what we held of a consent was not what the Hub shows."""

NOT_KNOWN: Final = frozenset({400, 403, 404})
"""How the Hub may say that it does not know a ConsentId (`domain.md` §4.2)."""

AT_ONCE: Final = 16
"""Connections compared side by side; each LFI's own limit stands behind it."""

log = structlog.stdlib.get_logger(__name__)


class Drift(StrEnum):
    """What differs."""

    STATUS = "status"
    TERMS = "terms"
    """Permissions, `ExpirationDateTime`, dates, kinds of account …, which never change after staging."""
    BASE = "base"
    """The Hub names another `BaseConsentId`."""
    REVOCATION = "revocation_pending"
    """Revoked here, and it still stands at the Hub."""
    UNKNOWN_THERE = "unknown_there"
    """We hold it, the Hub does not know its id."""
    NOT_IN_CHAIN = "not_in_chain"
    """We hold it as a successor, the Hub's list of the chain lacks it."""
    NOT_HELD = "not_held"
    """The Hub's list of the chain has it, we do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that is not the same on both sides.

    Attributes:
        held, hub: what each side says, in ids, codes and instants; `None`: nothing.
        heard_at: when we had last heard of the consent; `None` for one we do not hold.
    """

    consent_id: ConsentId
    connection_id: ConsentId
    lfi: Slug
    what: Drift
    held: str | None
    hub: str | None
    heard_at: datetime | None

    @property
    def kept_with(self) -> ConsentId:
        """The consent whose row keeps it: its own, or the root's where we hold none."""
        return self.connection_id if self.what is Drift.NOT_HELD else self.consent_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Unanswered:
    """A question the Hub gave no usable answer to.

    Attributes:
        subject: the ConsentId, or the root whose chain was asked for.
    """

    subject: ConsentId
    lfi: Slug
    error: SyncWorkerError


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a comparison found.

    Attributes:
        consents: read by their id.
        chains: lists read, one for each version of the standard that a chain was made in.
        not_allowed: connections outside the allow-lists; nobody was asked about them.
    """

    consents: int = 0
    chains: int = 0
    differences: tuple[Difference, ...] = ()
    unanswered: tuple[Unanswered, ...] = ()
    not_allowed: int = 0

    def plus(self, other: "Comparison") -> "Comparison":
        """Both together."""
        return Comparison(
            consents=self.consents + other.consents,
            chains=self.chains + other.chains,
            differences=self.differences + other.differences,
            unanswered=self.unanswered + other.unanswered,
            not_allowed=self.not_allowed + other.not_allowed,
        )


@dataclass(slots=True, kw_only=True)
class Answers:
    """What the Hub said about one connection.

    Attributes:
        at: when we began to ask.
        by_id: each consent read by its id; the refusal's HTTP status where the Hub does not know it.
        chains: the list of each chain, by its root and the version it was asked for in.
    """

    at: datetime
    by_id: dict[ConsentId, ConsentView | int] = field(default_factory=dict)
    chains: dict[tuple[ConsentId, Version], Mapping[ConsentId, ConsentView]] = field(default_factory=dict)
    unanswered: list[Unanswered] = field(default_factory=list)

    def views_of(self, held: StoredConsent) -> Iterator[ConsentView]:
        """What the Hub said of a consent: in its chain's list, then by its id."""
        listed = self.chains.get((held.root, held.version), {}).get(held.consent_id)
        if listed is not None:
            yield listed
        by_id = self.by_id.get(held.consent_id)
        if isinstance(by_id, ConsentView):
            yield by_id


def differences(held: StoredConsent, answers: Answers, *, now: datetime) -> Iterator[Difference]:
    """What the Hub says of a consent otherwise than we hold it.

    A consent past its `ExpirationDateTime` counts as Expired on both sides: either may lag (trap 16).  Where we heard
    of it again since we began to ask, ours is the newer word about its status.
    """
    refused = answers.by_id.get(held.consent_id)
    if isinstance(refused, int):
        yield _difference(held, Drift.UNKNOWN_THERE, held.status, f"HTTP {refused}")
    for view in answers.views_of(held):
        end = view.expires_at or held.expires_at
        ours, theirs = _in_effect(held.status, held.expires_at, now), _in_effect(view.status, end, now)
        if ours != theirs and held.status_seen_at <= answers.at:
            yield _difference(held, Drift.STATUS, held.status, view.status)
        if held.revoke_asked_at is not None and not held.terminal and theirs not in TERMINAL:
            yield _difference(held, Drift.REVOCATION, "Revoked", view.status)
        if view.permissions and sorted(view.permissions) != sorted(held.permissions):
            yield _difference(held, Drift.TERMS, ",".join(held.permissions), ",".join(view.permissions))
        if end != held.expires_at:
            yield _difference(held, Drift.TERMS, held.expires_at.isoformat(), end.isoformat())
        for name, ours, theirs in terms_changed(held, view):
            yield _difference(held, Drift.TERMS, f"{name}={ours}", f"{name}={theirs}")
        if view.base_consent_id != held.base_consent_id:
            yield _difference(held, Drift.BASE, held.base_consent_id, view.base_consent_id)


def strangers(
    one: Connection, consents: Sequence[StoredConsent], answers: Answers, *, begun: Collection[ConsentId]
) -> Iterator[Difference]:
    """What the Hub's lists of a chain lack, and what they have too much.

    The root itself may be missing from the list: it is asked for by the root's id, and the root names no base.

    Args:
        begun: consents whose authorisation we began, and of which no redirect came home: it is no surprise that the
            Hub has them, unless the user has agreed.
    """
    known = {held.consent_id for held in consents}
    for asked, listed in answers.chains.items():
        for held in consents:
            successor = held.base_consent_id is not None and held.created_at <= answers.at
            if successor and (held.root, held.version) == asked and held.consent_id not in listed:
                yield _difference(held, Drift.NOT_IN_CHAIN, held.status, None)
        for consent_id in sorted(listed.keys() - known):
            if consent_id in begun and listed[consent_id].status not in IN_USE:
                continue
            yield Difference(
                consent_id=consent_id,
                connection_id=one.connection_id,
                lfi=one.lfi,
                what=Drift.NOT_HELD,
                held=None,
                hub=listed[consent_id].status,
                heard_at=None,
            )


class Reconciling:
    """Compares.  Lives on one event loop.

    Args:
        on_call: is told each call made.
    """

    def __init__(
        self, store: Store, clients: Clients, *, on_call: OnCall = untold, allowed: Allowed = EVERYBODY
    ) -> None:
        self._store = store
        self._clients = clients
        self._on_call = on_call
        self._allowed = allowed

    async def every(
        self, *, lfi: Slug | None = None, progress: Callable[[int, int], None] = lambda _done, _all: None
    ) -> Comparison:
        """Compare every consent of every connection.  What cannot be asked is a value in the report.

        Args:
            lfi: only this LFI's.
            progress: is told how many connections of how many are done.

        Raises:
            StoreUnavailableError: the database is away.
        """
        async with self._store.reading() as unit:
            connections = await unit.consents.connections(lfi=lfi)
        waiting = iter(connections)
        whole, done = Comparison(), 0

        async def compare() -> None:
            nonlocal whole, done
            for one in waiting:
                found = await self._or_why_not(one)
                whole, done = whole.plus(found), done + 1
                progress(done, len(connections))

        await asyncio.gather(*(compare() for _ in range(min(AT_ONCE, len(connections)))))
        return whole

    async def connection(self, connection_id: ConsentId, *, ended: bool = True) -> Comparison:
        """Compare the consents of one connection; an empty comparison when there are none.

        Args:
            ended: read those by their id too that have ended; else the list of their chain alone speaks of them.

        Raises:
            NotAllowedError: it is outside the allow-lists.
            SetupError: the LFI is not set up.
        """
        async with self._store.reading() as unit:
            one = await unit.consents.connection(connection_id)
            consents = await unit.consents.find(connection_id=connection_id)
            answers = Answers(at=await unit.now())
        if one is None or not consents:
            return Comparison()
        self._allowed.check(one.lfi, one.user_ref)
        await self._ask_chains(one, consents, answers)
        await self._ask_each(one, [held for held in consents if ended or not held.terminal], answers)
        found = await self._store.atomically(partial(self._file, one, answers))
        return Comparison(
            consents=len(answers.by_id),
            chains=len(answers.chains),
            differences=tuple(found),
            unanswered=tuple(answers.unanswered),
        )

    async def _or_why_not(self, one: Connection) -> Comparison:
        try:
            return await self.connection(one.connection_id)
        except NotAllowedError:
            return Comparison(not_allowed=1)
        except SyncWorkerError as error:
            return Comparison(unanswered=(Unanswered(subject=one.connection_id, lfi=one.lfi, error=error),))

    async def _ask_chains(self, one: Connection, consents: Sequence[StoredConsent], answers: Answers) -> None:
        client = await self._clients(one.lfi)
        for root, version in sorted({(held.root, held.version) for held in consents}, key=_oldest_first):
            try:
                listed = await client.consents_of_base(root, version=version, calls=self._calls_of(one, root))
            except SyncWorkerError as error:
                answers.unanswered.append(Unanswered(subject=root, lfi=one.lfi, error=error))
            else:
                answers.chains[root, version] = {view.consent_id: view for view in listed}

    async def _ask_each(self, one: Connection, consents: Sequence[StoredConsent], answers: Answers) -> None:
        client = await self._clients(one.lfi)
        for held in consents:
            try:
                answers.by_id[held.consent_id] = await client.read_consent(
                    held.consent_id, version=held.version, calls=self._calls_of(one, held.consent_id)
                )
            except SyncWorkerError as error:
                if isinstance(error, RefusedError) and error.status in NOT_KNOWN:
                    answers.by_id[held.consent_id] = error.status
                else:
                    answers.unanswered.append(Unanswered(subject=held.consent_id, lfi=one.lfi, error=error))

    def _calls_of(self, one: Connection, consent_id: ConsentId) -> Callable[[Call], None]:
        return lambda call: self._on_call(one.lfi, consent_id, call)

    async def _file(self, one: Connection, answers: Answers, unit: UnitOfWork) -> list[Difference]:
        """Say what differs, follow what the Hub shows, and keep what is left of the difference."""
        at = await unit.now()
        before = await unit.consents.chain_locked(one.connection_id)
        begun = await _begun(unit, before, answers)
        found = _found(one, before, answers, begun=begun, now=at)
        for held in before:
            for view in answers.views_of(held):
                await noted(unit, view, at=at)
        for held in await unit.consents.chain_locked(one.connection_id):
            await ended_by_clock(unit, held, at=at)
        left = _found(one, await unit.consents.chain_locked(one.connection_id), answers, begun=begun, now=at)
        for held in before:
            await _note(unit, held, [each for each in found if each.kept_with == held.consent_id], at=at)
            drift = _words([each for each in left if each.kept_with == held.consent_id])
            if held.consent_id in answers.by_id or drift != held.drift:
                await unit.consents.compared(held.consent_id, drift=drift, at=at)
        return found


def _oldest_first(asked: tuple[ConsentId, Version]) -> tuple[int, ConsentId]:
    return asked[1].rank, asked[0]


async def _begun(unit: UnitOfWork, consents: Sequence[StoredConsent], answers: Answers) -> set[ConsentId]:
    """Those of the lists' consents whose authorisation we began and that never came home."""
    known = {held.consent_id for held in consents}
    listed = {consent_id for views in answers.chains.values() for consent_id in views}
    return {
        consent_id for consent_id in listed - known if await unit.authorizations.of(ConsentId(consent_id)) is not None
    }


def _found(
    one: Connection,
    consents: Sequence[StoredConsent],
    answers: Answers,
    *,
    begun: Collection[ConsentId],
    now: datetime,
) -> list[Difference]:
    """Every difference once, also where a list and the answer by id both show it."""
    each = [difference for held in consents for difference in differences(held, answers, now=now)]
    return list(dict.fromkeys([*each, *strangers(one, consents, answers, begun=begun)]))


async def _note(unit: UnitOfWork, held: StoredConsent, found: Sequence[Difference], *, at: datetime) -> None:
    """File a consent's differences; one that stays is filed once, and not every night."""
    words = _words(found)
    if words is None or words == held.drift:
        return
    log.warning("consent drifted", consent_id=held.consent_id, lfi=held.lfi, what=words)
    said = [
        {"what": each.what.value, "consent_id": each.consent_id, "held": each.held, "hub": each.hub} for each in found
    ]
    await unit.consents.note(DRIFTED, subject=held.consent_id, facts={"differences": said}, at=at)


def _words(found: Sequence[Difference]) -> str | None:
    """The kinds of some differences, for a consent's row."""
    return " ".join(sorted({each.what.value for each in found})) or None


def _difference(held: StoredConsent, what: Drift, ours: str | None, theirs: str | None) -> Difference:
    return Difference(
        consent_id=held.consent_id,
        connection_id=held.connection_id,
        lfi=held.lfi,
        what=what,
        held=ours,
        hub=theirs,
        heard_at=held.status_seen_at,
    )


def _in_effect(status: str, end: datetime, now: datetime) -> str:
    return Status.Expired.value if now >= end and status in IN_USE else status

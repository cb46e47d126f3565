"""What must be known before anything begins, read in one trip to the database.

A sync begins with the consent, its cursors, its grants and its token; a call with the consent and its token; a write
with the consent locked and the claim held, and goes on with what is held of what walks showed.  Each is a few small
statements that belong together, and for a consent that turns out unchanged they are a good part of all it costs.  So
they are asked for many at once where many are at hand.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from syncworker.errors import SealError, SettingsError
from syncworker.standard.values import AccountId, ConsentId
from syncworker.store import changes, consents, cursors, freshness, records, refreshes, tokens, work
from syncworker.store.changes import Newest
from syncworker.store.consents import Standing, StoredConsent
from syncworker.store.cursors import Covered
from syncworker.store.freshness import Cursor, Listing
from syncworker.store.records import Holdings, Wanted, WantedKeys
from syncworker.store.refreshes import Waiting
from syncworker.store.statements import NOW, Answer, Told, run_all
from syncworker.store.tokens import StoredToken
from syncworker.store.work import Claim

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork


class BeforeSync(NamedTuple):
    """What a run needs to know.

    Attributes:
        consent: the one data is asked with; `None` when the connection has none.
        granted: accounts that consent showed so far.
        token: of that consent; `None` also when it does not open: who asks for it by itself hears why.
        now: database time.
        waiting: parts of refreshes that have not ended, oldest first; read where a sync was asked for.
    """

    consent: StoredConsent | None
    cursors: Mapping[Listing, Cursor]
    granted: frozenset[AccountId]
    token: StoredToken | None
    now: datetime
    waiting: Sequence[Waiting] = ()


class BeforeSwaps(NamedTuple):
    """What is known, and held, before answers to token calls are stored.

    Attributes:
        consents: by id, each locked.
        versions: of their tokens, each locked, with the process that holds the lease.
        now: database time.
    """

    consents: Mapping[ConsentId, StoredConsent]
    versions: Mapping[ConsentId, tuple[int, str | None]]
    now: datetime


class BeforeCall(NamedTuple):
    """What is known before a call with a consent's token.

    Attributes:
        consent, token: `None` when there is none.
        now: database time when they were read.
    """

    consent: StoredConsent | None
    token: StoredToken | None
    now: datetime


class BeforeApply(NamedTuple):
    """What is known before walks are written.

    Attributes:
        held: the rows that were wanted.
        granted: accounts the consent showed so far.
        coverage: the windows walked so far, earliest first.
        newest: the last of the connection's feed.
    """

    held: Holdings
    granted: frozenset[AccountId]
    coverage: Mapping[Listing, tuple[Covered, ...]]
    newest: Newest | None


async def before_syncs(
    unit: "UnitOfWork", connection_ids: Sequence[ConsentId], *, asked: Collection[ConsentId] = ()
) -> dict[ConsentId, BeforeSync]:
    """As `consents.live`, `cursors.of`, `records.granted`, `tokens.read` and `now` together, of each connection.

    Args:
        asked: those whose sync was asked for, so that refreshes may wait for it.
    """
    place = {"tenant": unit.tenant, "connection_ids": list(connection_ids)}
    statements = (consents.LIVE, freshness.OF, freshness.CHECKS, records.GRANTED_TO_LIVE, tokens.OF_LIVE)
    told: list[Told] = [*((one, place) for one in statements), (NOW, {})]
    if asked:
        told.append((refreshes.WAITING, {"tenant": unit.tenant, "connection_ids": sorted(set(asked))}))
    live, held, checks, granted, sealed, now, *more = await run_all(unit, told)
    waiting = refreshes.read_waiting(more[0]) if more else {}
    by_connection = {one.connection_id: one for one in consents.read_consents(live)}
    read = freshness.read_freshness(held, checks)
    grants: dict[str, list[AccountId]] = {}
    for consent_id, account_id in granted.rows:
        grants.setdefault(consent_id, []).append(AccountId(account_id))
    opened = _opened(unit, sealed)
    found: dict[ConsentId, BeforeSync] = {}
    for connection_id in connection_ids:
        consent = by_connection.get(connection_id)
        found[connection_id] = BeforeSync(
            consent=consent,
            cursors=read.get(connection_id, {}),
            granted=frozenset(grants.get(consent.consent_id, ()) if consent else ()),
            token=opened.get(consent.consent_id) if consent else None,
            now=now.rows[0][0],
            waiting=waiting.get(connection_id, ()),
        )
    return found


async def before_call(unit: "UnitOfWork", consent_id: ConsentId) -> BeforeCall:
    """As `consents.get`, `tokens.read` and `now` together.

    Raises:
        SealError: the token does not open.
    """
    place = {"tenant": unit.tenant, "consent_id": consent_id}
    consent, token, now = await run_all(unit, [(consents.GET, place), (tokens.READ, place), (NOW, {})])
    return BeforeCall(consents.read_consent(consent), unit.tokens.opened(token), now.rows[0][0])


async def before_calls(unit: "UnitOfWork", consent_ids: Collection[ConsentId]) -> dict[ConsentId, BeforeCall]:
    """`before_call` for many; those whose token does not open are left out: who asks for one alone hears why."""
    place = {"tenant": unit.tenant, "consent_ids": sorted(consent_ids)}
    shown, held, now = await run_all(unit, [(consents.GET_MANY, place), (tokens.READ_MANY, place), (NOW, {})])
    opened = unit.tokens.opened_many(held)
    known = {one.consent_id: one for one in consents.read_consents(shown)}
    return {
        one: BeforeCall(known.get(one), token, now.rows[0][0])
        for one in consent_ids
        if not isinstance(token := opened.get(one), SealError)
    }


async def before_swaps(unit: "UnitOfWork", consent_ids: Collection[ConsentId]) -> BeforeSwaps:
    """Consents, then the versions of their tokens, locked until the transaction ends.

    In that order, as who files a status.  Nobody is waited for: what another transaction holds is left out.
    """
    place = {"tenant": unit.tenant, "consent_ids": sorted(consent_ids)}
    shown, held, now = await run_all(unit, [(consents.GET_FREE, place), (tokens.VERSIONS_FREE, place), (NOW, {})])
    return BeforeSwaps(
        consents={one.consent_id: one for one in consents.read_consents(shown)},
        versions=tokens.read_versions(held),
        now=now.rows[0][0],
    )


async def before_writes(
    unit: "UnitOfWork", those: Sequence[tuple[ConsentId, Claim]]
) -> tuple[Mapping[ConsentId, Standing], frozenset[int], datetime]:
    """Consents, locked until the transaction ends, then `work.holds`: in that order, as who files a status.

    Returns:
        How each consent stands that is there; the ids of the claims that hold; database time.
    """
    named = {"tenant": unit.tenant, "consent_ids": [consent_id for consent_id, _ in those]}
    claims = unit.work.of_claims(claim for _, claim in those)
    now, standing, held = await run_all(unit, [(NOW, {}), (consents.STANDING, named), (work.HOLDS, claims)])
    by_id = {ConsentId(row[0]): Standing(**dict(zip(Standing.__slots__, row, strict=True))) for row in standing.rows}
    return by_id, frozenset(work_id for (work_id,) in held.rows), now.rows[0][0]


async def before_apply(
    unit: "UnitOfWork",
    connection_id: ConsentId,
    consent_id: ConsentId,
    wanted: Sequence[Wanted],
    keys: Sequence[WantedKeys],
) -> BeforeApply:
    """As `records.held`, `records.granted` and `cursors.coverage` together, with the last of the connection's feed."""
    tenant = {"tenant": unit.tenant}
    granted, coverage, newest, *held = await run_all(
        unit,
        [
            (records.GRANTED, tenant | {"consent_id": consent_id}),
            (cursors.COVERAGE, tenant | {"connection_id": connection_id}),
            (changes.NEWEST, tenant | {"connection_id": connection_id}),
            *unit.records.holding(connection_id, wanted, keys),
        ],
    )
    return BeforeApply(
        held=records.read_holdings(wanted, keys, held),
        granted=records.read_granted(granted),
        coverage=cursors.read_coverage(coverage),
        newest=changes.read_newest(newest),
    )


def _opened(unit: "UnitOfWork", answer: Answer) -> Mapping[ConsentId, StoredToken]:
    """The tokens that open."""
    try:
        opened = unit.tokens.opened_many(answer)
    except SettingsError:  # this process has no key ring
        return {}
    return {consent_id: token for consent_id, token in opened.items() if not isinstance(token, SealError)}

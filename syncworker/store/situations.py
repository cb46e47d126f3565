"""What must be known before anything begins, read in one trip to the database.

A sync begins with the consent, its cursors, its grants and its token; a call with the consent and its token; a write
with the consent locked and the claim held.  Each is a few small statements that belong together, and for a consent that
turns out unchanged they are a good part of all it costs.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from syncworker.errors import SealError, SettingsError
from syncworker.standard.values import AccountId, ConsentId
from syncworker.store import consents, cursors, records, tokens, work
from syncworker.store.consents import StoredConsent
from syncworker.store.cursors import Cursor, Listing
from syncworker.store.many import Many
from syncworker.store.statements import NOW, Answer, run_all
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
    """

    consent: StoredConsent | None
    cursors: Mapping[Listing, Cursor]
    granted: frozenset[AccountId]
    token: StoredToken | None
    now: datetime


class BeforeSwaps(NamedTuple):
    """What is known, and held, before answers to token calls are stored.

    Attributes:
        consents: by id, each locked.
        versions: of their tokens, each locked.
        now: database time.
    """

    consents: Mapping[ConsentId, StoredConsent]
    versions: Mapping[ConsentId, int]
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


async def before_sync(unit: "UnitOfWork", connection_id: ConsentId) -> BeforeSync:
    """As `consents.live`, `cursors.of`, `records.granted`, `tokens.read` and `now` together."""
    place = {"tenant": unit.tenant, "connection_id": connection_id}
    statements = (consents.LIVE, cursors.OF, records.GRANTED_TO_LIVE, tokens.OF_LIVE)
    consent, held, granted, token, now = await run_all(unit, [*((one, place) for one in statements), (NOW, {})])
    return BeforeSync(
        consent=consents.read_consent(consent),
        cursors=cursors.read_cursors(held),
        granted=frozenset(AccountId(name) for (name,) in granted.rows),
        token=_opened(unit, token),
        now=now.rows[0][0],
    )


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
    shown, held, now = await _two_of_many(unit, consents.GET_MANY, tokens.READ_MANY, consent_ids)
    opened = unit.tokens.opened_many(held)
    known = consents.read_consents(shown)
    return {
        one: BeforeCall(known.get(one), token, now)
        for one in consent_ids
        if not isinstance(token := opened.get(one), SealError)
    }


async def before_swaps(unit: "UnitOfWork", consent_ids: Collection[ConsentId]) -> BeforeSwaps:
    """Consents, then the versions of their tokens, locked until the transaction ends.

    In that order, as who files a status.  Nobody is waited for: what another transaction holds is left out.
    """
    shown, versions, now = await _two_of_many(unit, consents.GET_FREE, tokens.VERSIONS_FREE, consent_ids)
    return BeforeSwaps(consents.read_consents(shown), tokens.read_versions(versions), now)


async def _two_of_many(
    unit: "UnitOfWork", first: Many, second: Many, consent_ids: Collection[ConsentId]
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]], datetime]:
    """The rows of two statements about the same consents, asked one after the other in one trip, and database time."""
    rows = [{"of_consent": one} for one in sorted(consent_ids)]
    told = [statement.told(unit, rows, of_tenant=unit.tenant) for statement in (first, second)]
    answers = await run_all(unit, [*told[0], *told[1], (NOW, {})])
    split = len(told[0])
    found = [[row for answer in some for row in answer.rows] for some in (answers[:split], answers[split:-1])]
    return found[0], found[1], answers[-1].rows[0][0]


async def before_write(
    unit: "UnitOfWork", consent_id: ConsentId, claim: Claim
) -> tuple[StoredConsent | None, bool, datetime]:
    """The consent, locked until the transaction ends, then `work.holds`: in that order, as who files a status.

    Comes with database time.
    """
    place = {"tenant": unit.tenant, "consent_id": consent_id}
    mine = {"tenant": unit.tenant, "id": claim.id, "gen": claim.gen}
    now, consent, held = await run_all(unit, [(NOW, {}), (consents.GET_LOCKED, place), (work.HOLDS, mine)])
    return consents.read_consent(consent), bool(held.rows), now.rows[0][0]


def _opened(unit: "UnitOfWork", answer: Answer) -> StoredToken | None:
    try:
        return unit.tokens.opened(answer)
    except (SealError, SettingsError):
        return None

"""What must be known before anything begins, read in one trip to the database.

A sync begins with the consent, its cursors, its grants and its token; a call with the consent and its token; a write
with the consent locked and the claim held, and goes on with what is held of what walks showed.  Each is a few small
statements that belong together, and for a consent that turns out unchanged they are a good part of all it costs.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from syncworker.errors import SealError, SettingsError
from syncworker.standard.values import AccountId, ConsentId
from syncworker.store import consents, cursors, records, tokens, work
from syncworker.store.consents import StoredConsent
from syncworker.store.cursors import Covered, Cursor, Listing
from syncworker.store.records import Holdings, Wanted, WantedKeys
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
    """

    held: Holdings
    granted: frozenset[AccountId]
    coverage: Mapping[Listing, tuple[Covered, ...]]


async def before_sync(unit: "UnitOfWork", connection_id: ConsentId) -> BeforeSync:
    """As `consents.live`, `cursors.of`, `records.granted`, `tokens.read` and `now` together."""
    place = {"tenant": unit.tenant, "connection_id": connection_id}
    statements = (consents.LIVE, cursors.OF, records.GRANTED_TO_LIVE, tokens.OF_LIVE)
    consent, held, granted, token, now = await run_all(unit, [*((one, place) for one in statements), (NOW, {})])
    return BeforeSync(
        consent=consents.read_consent(consent),
        cursors=cursors.read_cursors(held),
        granted=records.read_granted(granted),
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


async def before_apply(
    unit: "UnitOfWork",
    connection_id: ConsentId,
    consent_id: ConsentId,
    wanted: Sequence[Wanted],
    keys: Sequence[WantedKeys],
) -> BeforeApply:
    """As `records.held`, `records.granted` and `cursors.coverage` together."""
    tenant = {"tenant": unit.tenant}
    granted, coverage, *held = await run_all(
        unit,
        [
            (records.GRANTED, tenant | {"consent_id": consent_id}),
            (cursors.COVERAGE, tenant | {"connection_id": connection_id}),
            *unit.records.holding(connection_id, wanted, keys),
        ],
    )
    return BeforeApply(
        held=records.read_holdings(wanted, keys, held),
        granted=records.read_granted(granted),
        coverage=cursors.read_coverage(coverage),
    )


def _opened(unit: "UnitOfWork", answer: Answer) -> StoredToken | None:
    try:
        return unit.tokens.opened(answer)
    except (SealError, SettingsError):
        return None

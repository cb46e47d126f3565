"""A call that belongs to no sync run, as a row of the table `call`."""

from datetime import datetime

from syncworker.lfi.transport import Call
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.calls import CallRow
from syncworker.store.tokens import IN_DOUBT, TOKEN_CALL


def free_call(lfi: Slug, consent_id: ConsentId, call: Call) -> CallRow:
    """The row of a call that costs nothing: for tokens, authorisations, consents and documents of the LFI.

    Args:
        consent_id: empty for a call that belongs to no consent.
    """
    return CallRow(
        lfi=lfi,
        consent_id=consent_id,
        operation=call.operation,
        status=call.status,
        error=call.error_code or None,
        interaction_id=call.interaction_id,
        started_at=call.started_at,
        duration_ms=call.duration_ms,
        bytes_in=call.bytes_in,
        attended=call.attended,
        price_millifils=0,
        attempt=call.attempt,
        reason=call.reason or None,
    )


def announced(lfi: Slug, consent_id: ConsentId, *, interaction_id: str, at: datetime) -> CallRow:
    """The row of a token call that is about to be sent: in doubt, until it says how it went (`Runs.settle`).

    Args:
        at: now, by the clock that dates the call itself.
    """
    return CallRow(
        lfi=lfi,
        consent_id=consent_id,
        operation=TOKEN_CALL,
        status=None,
        error=IN_DOUBT,
        interaction_id=interaction_id,
        started_at=at,
        duration_ms=0,
        bytes_in=0,
        attended=False,
        price_millifils=0,
    )

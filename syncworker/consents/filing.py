"""A call that belongs to no sync run, as a row of the table `call`."""

from syncworker.lfi.transport import Call
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.calls import CallRow


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

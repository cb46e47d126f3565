"""The Hub as a table of consents: what the state tests ask instead of a bank.

It answers the three calls of a client that the consents' life makes, moves as the standard draws it, ends what is past
its `ExpirationDateTime`, and dates its moves by whole seconds.  `away` calls in a row get no answer; an answer that is
`lost` was acted on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from pydantic import SecretStr

from syncworker.errors import LFIUnavailableError, RefusedError
from syncworker.standard.consents import ARROWS, TERMINAL, ConsentView, Status
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store.consents import Connection, StoredConsent
from syncworker.store.tokens import NewToken
from syncworker.store.unit_of_work import Store
from syncworker.store.work import WorkKind
from tests.ground.clock import ManualClock

LFI = Slug("noor")
PERMISSIONS = ("ReadAccountsBasic", "ReadBalances")


@dataclass
class Hub:
    """What the Hub holds.

    Attributes:
        asked: calls it got, by name.
    """

    clock: ManualClock
    consents: dict[ConsentId, ConsentView] = field(default_factory=dict)
    away: int = 0
    lost: int = 0
    refuses: bool = False
    asked: list[str] = field(default_factory=list)

    async def clients(self, _: Slug) -> Any:
        """Stands where a process keeps its clients."""
        return self

    def has(self, consent_id: ConsentId, status: str, **changes: Any) -> ConsentView:
        """File a consent, or move it, whatever the standard draws."""
        known = self.consents.get(consent_id) or ConsentView(consent_id=consent_id, status=status)
        moved = replace(known, status=status, status_updated_at=self._now(), **changes)
        self.consents[consent_id] = moved
        return moved

    def moves(self, consent_id: ConsentId, to: Status, **changes: Any) -> bool:
        """Move a consent as the standard draws it; says whether it did."""
        known = self.shows(consent_id).status
        possible = known in set(Status) and to in ARROWS.get(Status(known), frozenset())
        if possible:
            self.has(consent_id, to, **changes)
        return possible

    def shows(self, consent_id: ConsentId) -> ConsentView:
        """A consent, Expired if its end has come."""
        view = self.consents[consent_id]
        if view.expires_at is not None and self.clock.now() >= view.expires_at and view.status not in TERMINAL:
            view = self.consents[consent_id] = replace(view, status="Expired", status_updated_at=view.expires_at)
        return view

    async def read_consent(self, consent_id: ConsentId, *, version: Version, calls: Any) -> ConsentView:
        self._called("read")
        if consent_id not in self.consents:
            raise RefusedError("unknown", status=404)
        return self.shows(consent_id)

    async def consents_of_base(
        self, base_consent_id: ConsentId, *, version: Version, calls: Any
    ) -> tuple[ConsentView, ...]:
        self._called("chain")
        return tuple(
            self.shows(one) for one, view in self.consents.items() if base_consent_id in (one, view.base_consent_id)
        )

    async def patch_consent(
        self, consent_id: ConsentId, body: Mapping[str, Any], *, version: Version, calls: Any
    ) -> None:
        self._called("patch")
        if self.refuses:
            raise RefusedError("no", status=400, error_code="Consent.BusinessRuleViolation")
        if "Data" in body:
            standing = self.shows(consent_id).status != "Revoked"
            if standing and not self.moves(consent_id, Status.Revoked, revoked_by=body["Data"]["RevokedBy"]):
                raise RefusedError("ended", status=400)
        if "Subscription" in body:
            active = body["Subscription"]["Webhook"]["IsActive"]
            self.consents[consent_id] = replace(self.shows(consent_id), webhook_active=active)
        if self.lost:
            self.lost -= 1
            raise LFIUnavailableError("cut")

    def _called(self, name: str) -> None:
        self.asked.append(name)
        if self.away:
            self.away -= 1
            raise LFIUnavailableError("away")

    def _now(self) -> datetime:
        return self.clock.now().replace(microsecond=0)


async def filed(
    store: Store, hub: Hub, name: str, *, status: str = "Authorized", tokens: bool = True, **changes: Any
) -> ConsentId:
    """A consent of ninety days that both sides hold, with its work; the latest move a minute ago."""
    now = hub.clock.now()
    consent_id = ConsentId(name)
    facts: dict[str, Any] = {
        "consent_id": consent_id, "connection_id": changes.get("base_consent_id") or consent_id, "lfi": LFI,
        "user_ref": "u", "version": Version.V2_1, "status": status,
        "status_updated_at": now.replace(microsecond=0) - timedelta(minutes=1), "status_seen_at": now,
        "permissions": PERMISSIONS, "expires_at": now.replace(microsecond=0) + timedelta(days=90),
        "user_type": "Retail", "purpose": "AccountAggregation", "created_at": now,
    }  # fmt: skip
    row = StoredConsent(**facts | changes)
    hub.consents[consent_id] = ConsentView(
        consent_id=consent_id,
        status=status,
        status_updated_at=row.status_updated_at,
        base_consent_id=row.base_consent_id,
        permissions=row.permissions,
        expires_at=row.expires_at,
    )
    async with store.writing() as unit:
        await unit.consents.add_connection(
            Connection(connection_id=row.connection_id, lfi=LFI, user_ref="u", created_at=now)
        )
        await unit.consents.add(row)
        if tokens:
            secret = SecretStr(f"token of {name}")
            await unit.tokens.put_first(
                consent_id,
                NewToken(
                    access_token=secret,
                    refresh_token=secret,
                    issued_at=now,
                    expires_at=now + timedelta(minutes=10),
                    certificate="x",
                ),
            )
        for kind, subject in (
            (WorkKind.TOKEN, consent_id),
            (WorkKind.SYNC, row.connection_id),
            (WorkKind.CONSENT, consent_id),
        ):
            await unit.work.schedule(kind, subject, lfi=LFI, due_at=now)
        await unit.commit()
    return consent_id

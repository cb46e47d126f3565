"""Databases filled with so many rows of every table that statements look keys up in, and what those statements ask.

`CASES` says for each statement of the store that takes keys what a run gives it; `OTHERS` says of the rest why they
look nothing up.  `found()` walks the modules, so that neither list can miss one.
"""

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Any, Final

import sqlalchemy as sa

import syncworker.store as package
from syncworker.standard.json_text import instant_text
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store import (
    account_references,
    changes,
    connections,
    consents,
    cursors,
    findings,
    freshness,
    inbox,
    open_claims,
    ops_connections,
    reads,
    records,
    refreshes,
    renewals,
    tables,
    tokens,
    work,
)
from syncworker.store.dialect import Instant, Money
from syncworker.store.many import Many
from syncworker.store.statements import Statement, Told
from syncworker.store.unit_of_work import UnitOfWork

NOW: Final = datetime(2026, 11, 21, 10, tzinfo=UTC)
TENANT: Final = "default"
CURSORS: Final = 4
"""Cursors of a connection, and windows covered."""

ACCOUNT: Final = "a1"
CHECKS: Final = [[[ACCOUNT]], [[1, instant_text(NOW), [[instant_text(NOW), [0], ["r0", "r1"]]]]]]
ONE: Final = "c1"
"""A connection whose one account holds every transaction there is."""

_MINUTE: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Case:
    """One statement as it is run.

    Attributes:
        told: statements for numbers of rows, from 1.
        tables: where keys are looked up.
        rows: rows that belong to one key.
        aliases: of the tables, where the statement reads them through a view.
    """

    told: Callable[[UnitOfWork, Sequence[int]], Sequence[Told]]
    tables: tuple[sa.Table, ...]
    rows: int = 1
    aliases: frozenset[str] = frozenset()


def found() -> dict[str, object]:
    """Every statement of the store, and every function that makes one, by module and name."""
    seen: dict[str, object] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for name in _names(ast.parse(inspect.getsource(module))):
            value = getattr(module, name, None)
            if isinstance(value, Statement | Many) or _makes_one(value):
                seen[f"{info.name}.{name}"] = value
    return seen


def _names(module: ast.Module) -> Iterator[str]:
    """What a module defines itself."""
    for node in module.body:
        match node:
            case ast.FunctionDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))


def _makes_one(value: object) -> bool:
    plain = inspect.unwrap(value) if callable(value) else None
    return inspect.isfunction(plain) and inspect.signature(plain).return_annotation in (Statement, "Statement")


# -- what is in the tables -------------------------------------------------------------------------------------------


def fill(own: sa.Connection, rows: int, *, after: int = 0) -> None:
    """Fill the tables with the rows from `after` + 1 to `rows`; those of a tenant that asks nothing come along."""
    first = sa.select(sa.literal(after + 1).label("i")).cte("n", recursive=True)
    n = first.union_all(sa.select(first.c.i + 1).where(first.c.i < rows))
    m = sa.union_all(*(sa.select(sa.literal(place).label("j")) for place in range(CURSORS))).subquery("m")
    i = sa.cast(n.c.i, sa.String)
    consent, resource = "c" + i, "r" + sa.cast(m.c.j, sa.String)
    lfi = "lfi" + sa.cast(n.c.i % 10, sa.String)
    a, one, sync = sa.literal(ACCOUNT), sa.literal(ONE), sa.literal("sync")
    digest = sa.func.sha256(sa.cast(consent, sa.LargeBinary)) if own.dialect.name == "postgresql" else consent
    until = sa.literal(NOW + _MINUTE, tables.work.c.lease_until.type)
    listing = {"connection_id": consent, "account_id": a, "resource": resource}
    those: list[tuple[sa.Table, dict[str, Any]]] = [
        (tables.connection, {"connection_id": consent}),
        (tables.consent, {"consent_id": consent, "connection_id": consent, "status": sa.literal("Authorized")}),
        (tables.token, {"consent_id": consent}),
        (tables.cursor, listing),
        (tables.coverage, listing),
        (tables.connection_check, {"connection_id": consent, "listings": sa.literal(CHECKS, sa.JSON())}),
        (tables.account_grant, {"consent_id": consent, "account_id": a, "connection_id": consent}),
        (tables.account_reference, {"connection_id": consent, "lfi_account_id": a, "account_id": "acc_" + i,
                                    "identity": "idn_" + i}),
        (tables.account, {"connection_id": consent, "account_id": a, "key": a}),
        (tables.account_identifier, {"connection_id": consent, "account_id": a}),
        (tables.transaction, {"connection_id": one, "account_id": a, "key": "k" + i}),
        (tables.change, {"seq": n.c.i, "connection_id": consent, "op": sa.literal("added")}),
        (tables.work, {"kind": sync, "subject": consent, "lfi": lfi,
                       "lease_until": until, "gen": sa.literal(1)}),
        (tables.open_claims, {"kind": sync, "lfi": consent, "work_ids": sa.literal([], sa.JSON())}),
        (tables.event, {"digest": digest, "issuer": sa.literal("issuer"), "state": sa.literal("filed"),
                        "subject": consent}),
        (tables.finding, {"lfi": lfi, "operation": consent}),
        (tables.audit, {"subject": consent}),
        (tables.expiry_flag, {"consent_id": consent}),
        (tables.authorization, {"state": consent, "consent_id": consent}),
        (tables.refresh_part, {"refresh_id": consent, "connection_id": consent}),
    ]  # fmt: skip
    for table, values in those:
        facts = {
            column.name: values.get(column.name, _plain(column))
            for column in table.columns
            if column.name in values or (not column.nullable and column.name != "id" and column.server_default is None)
        }
        query = sa.select(*facts.values()).select_from(n.join(m, sa.true()) if "resource" in values else n)
        own.execute(sa.insert(table).from_select(list(facts), query))


def _plain(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    if column.name == "tenant":
        return sa.literal(TENANT)
    kind = column.type
    values: list[tuple[type, Any]] = [
        (sa.String, "x"), (sa.Integer, 1), (sa.LargeBinary, b"0123456789abcdef"), (sa.Date, NOW.date()),
        (sa.JSON, {}), (sa.Boolean, True), (Instant, NOW), (Money, Decimal(1)),
    ]  # fmt: skip
    value = next(plain for type_, plain in values if isinstance(kind, type_))
    return sa.literal(value, kind)


# -- what statements ask ---------------------------------------------------------------------------------------------


def _consent_ids(numbers: Sequence[int]) -> list[str]:
    return [f"c{number}" for number in numbers]


def _statement(statement: object, **values: Any) -> list[Told]:
    assert isinstance(statement, Statement)
    return [(statement, values)]


def _among(statement: object, name: str, **frame: Any) -> Callable[[UnitOfWork, Sequence[int]], Sequence[Told]]:
    """A statement about consents by their ids, in the parameter of that name."""
    return lambda _unit, numbers: _statement(
        statement, **({"tenant": TENANT} if "of_tenant" not in frame else {}), **frame, **{name: _consent_ids(numbers)}
    )


def _rows(
    statement: object, name: str, row: Callable[[int], Mapping[str, Any]], **frame: Any
) -> Callable[[UnitOfWork, Sequence[int]], Sequence[Told]]:
    """A statement about rows (`Dialect.keys`), in the parameter of that name."""
    return lambda unit, numbers: _statement(
        statement, of_tenant=TENANT, **frame, **{name: unit.dialect.rows([row(number) for number in numbers])}
    )


def _many(
    many: object, row: Callable[[int], Mapping[str, Any]], **frame: Any
) -> Callable[[UnitOfWork, Sequence[int]], Sequence[Told]]:
    assert isinstance(many, Many)
    return lambda unit, numbers: many.told(unit, [row(number) for number in numbers], of_tenant=TENANT, **frame)


def _keys(statement: Statement, **frame: Any) -> Callable[[UnitOfWork, Sequence[int]], Sequence[Told]]:
    place = {"of_tenant": TENANT, "of_connection": ONE, "account": ACCOUNT}
    return lambda _unit, numbers: _statement(statement, **place, **frame, keys=[f"k{number}" for number in numbers])


def _kept(unit: UnitOfWork, numbers: Sequence[int]) -> Sequence[Told]:
    return unit.records.keeping_before(
        ResourceName.TRANSACTIONS,
        ConsentId(ONE),
        {ACCOUNT: [f"k{number}" for number in numbers]},
        op=records.Ended.MODIFIED,
        gen=1,
        at=NOW,
    )


_SWAP: Final[Mapping[str, Any]] = {
    "new_access_token": b"a", "new_refresh_token": b"r", "new_issued_at": NOW, "new_expires_at": NOW,
    "new_certificate": "x",
}  # fmt: skip


def _claim(number: int) -> dict[str, Any]:
    return {"id": number, "gen": 1}


def _version(number: int) -> dict[str, Any]:
    return {"of_consent": f"c{number}", "of_version": 1}


def _end(number: int) -> dict[str, Any]:
    ended = {"due_at": NOW, "outcome": "same", "error": None, "good": True, "counted": False, "retry": False}
    return {**_claim(number), **ended}


def _ended(number: int) -> dict[str, Any]:
    ended = {"run_gen": 1, "outcome": "same", "reason": None, "error": None, "retry_at": NOW, "listings": [{"a": 1}]}
    return {"refresh_id": f"c{number}", "connection_id": f"c{number}", **ended}


def _cleared(number: int) -> dict[str, Any]:
    return {
        "lfi": f"lfi{number % 10}", "operation": f"c{number}", "connection_id": "x", "last_seen_before": NOW - _MINUTE,
    }  # fmt: skip


def _checked(number: int) -> dict[str, Any]:
    return {"connection_id": f"c{number}", "account_id": ACCOUNT, "resource": "r1", "due_at": NOW, "gen": 1}


def _references(statement: object, name: str, prefix: str) -> Callable[[UnitOfWork, Sequence[int]], Sequence[Told]]:
    return lambda _unit, numbers: _statement(
        statement, tenant=TENANT, **{name: [f"{prefix}{number}" for number in numbers]}
    )


_REFERENCE: Final = (tables.account_reference,)


def _listed(number: int) -> dict[str, Any]:
    return {"connection_id": f"c{number}", "account_id": ACCOUNT, "resource": "r1"}


_TOUCHED: Final = (tables.consent, tables.connection)
_DONE: Final = {"as_state": "done", "as_outcome": "x"}
_MARKED: Final = {"by_gen": 1, "as_missed_since": NOW}

CASES: Final[Mapping[str, Case]] = {
    "account_references._BY_ID": Case(_references(account_references._BY_ID, "account_ids", "acc_"), _REFERENCE),
    "account_references._BY_IDENTITY": Case(
        _references(account_references._BY_IDENTITY, "identities", "idn_"), _REFERENCE
    ),
    "account_references._OF_CONNECTIONS": Case(
        _among(account_references._OF_CONNECTIONS, "connection_ids"), _REFERENCE
    ),
    "account_references._OF_LFI": Case(
        lambda _unit, numbers: [
            (account_references._OF_LFI, {"tenant": TENANT, "connection_id": one, "lfi_account_id": ACCOUNT})
            for one in _consent_ids(numbers)
        ],
        _REFERENCE,
    ),
    "changes.NEWEST": Case(
        lambda _unit, numbers: [
            (changes.NEWEST, {"tenant": TENANT, "connection_id": one}) for one in _consent_ids(numbers)
        ],
        (tables.change,),
    ),
    "connections._ACCOUNTS": Case(_among(connections._ACCOUNTS, "connection_ids"), (tables.account,)),
    "consents.GET": Case(
        lambda _unit, numbers: [(consents.GET, {"tenant": TENANT, "consent_id": one}) for one in _consent_ids(numbers)],
        _TOUCHED,
    ),
    "consents.GET_FREE": Case(_among(consents.GET_FREE, "consent_ids"), _TOUCHED),
    "consents.GET_LOCKED": Case(
        lambda _unit, numbers: [
            (consents.GET_LOCKED, {"tenant": TENANT, "consent_id": one}) for one in _consent_ids(numbers)
        ],
        _TOUCHED,
    ),
    "consents.GET_MANY": Case(_among(consents.GET_MANY, "consent_ids"), _TOUCHED),
    "consents.LIVE": Case(_among(consents.LIVE, "connection_ids"), _TOUCHED),
    "consents.STANDING": Case(_among(consents.STANDING, "consent_ids"), (tables.consent,)),
    "consents._DATA_RECEIVED": Case(
        _rows(consents._DATA_RECEIVED, "received", lambda number: {"connection_id": f"c{number}"}, at=NOW),
        (tables.connection,),
    ),
    "consents._NAMED": Case(_among(consents._NAMED, "connection_ids"), (tables.connection,)),
    "consents._NOTES": Case(_among(consents._NOTES, "subjects", word="x"), (tables.audit,)),
    "consents._SEEN_AGAIN": Case(
        lambda _unit, numbers: [
            (
                consents._SEEN_AGAIN,
                {"of_tenant": TENANT, "of_consent": one, "as_updated_at": NOW, "at": NOW, "as_raw": {}},
            )
            for one in _consent_ids(numbers)
        ],
        (tables.consent,),
    ),
    "cursors.COVERAGE": Case(
        lambda _unit, numbers: [
            (cursors.COVERAGE, {"tenant": TENANT, "connection_id": one}) for one in _consent_ids(numbers)
        ],
        (tables.coverage,),
        rows=CURSORS,
    ),
    "cursors._FOLD": Case(
        lambda unit, numbers: [
            (
                cursors._FOLD,
                {
                    "of_tenant": TENANT,
                    "of_connection": f"c{number}",
                    "listed": unit.dialect.rows([_listed(number)]),
                },
            )
            for number in numbers
        ],
        (tables.cursor, tables.connection_check),
    ),
    "cursors._RECOVER": Case(
        _rows(cursors._RECOVER, "checked", _checked, at=NOW), (tables.cursor, tables.connection_check)
    ),
    "cursors._noting": Case(
        _rows(cursors._noting(("pages",)), "listed", _listed, as_pages=None, by_gen=1),
        (tables.cursor, tables.connection_check),
    ),
    "cursors._UNCOVER": Case(
        lambda _unit, numbers: [
            (
                cursors._UNCOVER,
                {
                    "tenant": TENANT,
                    "connection_id": one,
                    "account_id": ACCOUNT,
                    "resource": "r1",
                    "from_date": date(1, 1, 1),
                    "to_date": NOW.date(),
                    "gen": 1,
                },
            )
            for one in _consent_ids(numbers)
        ],
        (tables.coverage,),
    ),
    "findings._CLEAR": Case(_rows(findings._CLEAR, "cleared", _cleared, now=NOW), (tables.finding,)),
    "freshness.CHECKS": Case(_among(freshness.CHECKS, "connection_ids"), (tables.connection_check,)),
    "freshness.OF": Case(_among(freshness.OF, "connection_ids"), (tables.cursor, tables.coverage), rows=2 * CURSORS),
    "inbox._ASKED": Case(_among(inbox._ASKED, "consent_ids"), (tables.authorization,)),
    "inbox._COUNT_AGAIN": Case(
        _many(
            inbox._COUNT_AGAIN,
            lambda number: {"of_digest": sha256(f"c{number}".encode()).digest()},
            of_issuer="issuer",
            times=1,
        ),
        (tables.event,),
    ),
    "inbox._END_FILED": Case(
        lambda _unit, numbers: _statement(
            inbox._END_FILED, of_tenant=TENANT, ids=list(numbers), at=NOW, as_asked_at=NOW, **_DONE
        ),
        (tables.event,),
    ),
    "inbox._FILED": Case(
        lambda _unit, numbers: [
            (inbox._FILED, {"tenant": TENANT, "of_subject": one, "of_kind": "x", "until": NOW, "most": 10})
            for one in _consent_ids(numbers)
        ],
        (tables.event,),
    ),
    "inbox._FORGET": Case(
        lambda _unit, numbers: _statement(inbox._FORGET, tenant=TENANT, ids=list(numbers)), (tables.event,)
    ),
    "inbox._FORGET_WORK": Case(_among(inbox._FORGET_WORK, "subjects", of_kind="sync"), (tables.work,)),
    "inbox._HELD": Case(_among(inbox._HELD, "consent_ids"), (tables.consent,)),
    "inbox._NOTE_ASKED": Case(
        lambda _unit, numbers: _statement(inbox._NOTE_ASKED, of_tenant=TENANT, ids=list(numbers), as_asked_at=NOW),
        (tables.event,),
    ),
    "open_claims._KEEP": Case(
        lambda _unit, numbers: [
            (open_claims._KEEP, {"of_tenant": TENANT, "of_kind": "sync", "of_lfi": one, "ids": []})
            for one in _consent_ids(numbers)
        ],
        (tables.open_claims,),
    ),
    "open_claims._LIVING": Case(
        lambda _unit, numbers: _statement(open_claims._LIVING, tenant=TENANT, ids=list(numbers), now=NOW),
        (tables.work,),
    ),
    "open_claims._LOCK": Case(_among(open_claims._LOCK, "lfis", kind="sync"), (tables.open_claims,)),
    "open_claims._LOCK_FREE": Case(_among(open_claims._LOCK_FREE, "lfis", kind="sync"), (tables.open_claims,)),
    "records.GRANTED": Case(
        lambda _unit, numbers: [
            (records.GRANTED, {"tenant": TENANT, "consent_id": one}) for one in _consent_ids(numbers)
        ],
        (tables.account_grant,),
    ),
    "records.GRANTED_TO_LIVE": Case(
        _among(records.GRANTED_TO_LIVE, "connection_ids"), (tables.consent, tables.account_grant)
    ),
    "records._END_GRANTS": Case(
        lambda _unit, numbers: _statement(
            records._END_GRANTS, of_tenant=TENANT, of_consent=f"c{numbers[0]}", account_ids=[ACCOUNT], at=NOW
        ),
        (tables.account_grant,),
    ),
    "records._FORGET_IDENTIFIERS": Case(
        lambda _unit, numbers: _statement(
            records._FORGET_IDENTIFIERS,
            of_tenant=TENANT,
            of_connection=f"c{numbers[0]}",
            account_ids=[ACCOUNT],
            by_gen=9,
        ),
        (tables.account_identifier,),
    ),
    "records._holding": Case(
        lambda unit, numbers: [
            told
            for one in _consent_ids(numbers)
            for told in unit.records.holding(
                ConsentId(one), [records.Wanted(resource=ResourceName.ACCOUNTS, account_ids=[ACCOUNT])], []
            )
        ],
        (tables.account,),
    ),
    "records._living": Case(
        _rows(
            records._living(ResourceName.TRANSACTIONS),
            "those",
            lambda number: {"connection_id": ONE, "account_id": ACCOUNT, "key": f"k{number}"},
        ),
        (tables.transaction, tables.connection),
    ),
    "ops_connections._CONSENTS": Case(_among(ops_connections._CONSENTS, "connection_ids"), (tables.consent,)),
    "reads._of_keys": Case(
        _rows(
            reads._of_keys(ResourceName.TRANSACTIONS),
            "those",
            lambda number: {"connection_id": ONE, "lfi_account_id": ACCOUNT, "key": f"k{number}"},
        ),
        (tables.transaction, tables.connection, tables.account, tables.account_reference, tables.cursor),
        aliases=frozenset("tcgak"),
    ),
    "records._holding_keys": Case(
        _keys(records._holding_keys(ResourceName.TRANSACTIONS, None, None)), (tables.transaction,)
    ),
    "records._keeping": Case(_kept, (tables.transaction,)),
    "records._marking": Case(
        _keys(records._marking(ResourceName.TRANSACTIONS, ("missed_since",)), **_MARKED), (tables.transaction,)
    ),
    "records._resting": Case(
        lambda _unit, numbers: [
            (
                records._resting(ResourceName.ACCOUNTS, None, None, frozenset()),
                {"of_tenant": TENANT, "of_connection": one, "accounts": [ACCOUNT]},
            )
            for one in _consent_ids(numbers)
        ],
        (tables.account,),
    ),
    "refreshes.WAITING": Case(_among(refreshes.WAITING, "connection_ids"), (tables.refresh_part,)),
    "refreshes._END": Case(_rows(refreshes._END, "ends", _ended, at=NOW), (tables.refresh_part,)),
    "freshness._footings": Case(
        _among(freshness._footings(freshness.Ask.CONNECTIONS), "connection_ids"),
        (tables.consent, tables.connection, tables.connection_check),
    ),
    "freshness.COMPLETE": Case(_among(freshness.COMPLETE, "connection_ids"), (tables.cursor, tables.connection)),
    "freshness._listed": Case(
        _among(freshness._listed(freshness.Ask.CONNECTIONS), "connection_ids", resources=["r1"]),
        (tables.cursor, tables.account_reference, tables.coverage),
        rows=CURSORS,
    ),
    "reads._rows_asked": Case(
        _among(
            reads._rows_asked("v_account", ("account_id", "currency"), freshness.Ask.CONNECTIONS, (), 10),
            "connection_ids",
        ),
        (tables.account, tables.connection, tables.account_reference),
        aliases=frozenset("tca"),
    ),
    "renewals._FLAGS": Case(_among(renewals._FLAGS, "consent_ids"), (tables.expiry_flag,)),
    "tokens.OF_LIVE": Case(_among(tokens.OF_LIVE, "connection_ids"), (tables.consent, tables.token)),
    "tokens.READ": Case(
        lambda _unit, numbers: [(tokens.READ, {"tenant": TENANT, "consent_id": one}) for one in _consent_ids(numbers)],
        (tables.token,),
    ),
    "tokens.READ_LOCKED": Case(
        lambda _unit, numbers: [
            (tokens.READ_LOCKED, {"tenant": TENANT, "consent_id": one}) for one in _consent_ids(numbers)
        ],
        (tables.token,),
    ),
    "tokens.READ_MANY": Case(_among(tokens.READ_MANY, "consent_ids"), (tables.token,)),
    "tokens.VERSIONS_FREE": Case(_among(tokens.VERSIONS_FREE, "consent_ids"), (tables.token,)),
    "tokens._BEGIN": Case(
        _many(tokens._BEGIN, lambda number: {**_version(number), "at": NOW, "until": NOW, "call": "i"}, me="me"),
        (tables.token,),
    ),
    "tokens._LEFT_IN_DOUBT": Case(
        _many(tokens._LEFT_IN_DOUBT, lambda number: {"of_consent": f"c{number}"}), (tables.token, tables.consent)
    ),
    "tokens._FREE": Case(_many(tokens._FREE, _version, me="me"), (tables.token,)),
    "tokens._SWAP": Case(_many(tokens._SWAP, lambda number: {**_version(number), **_SWAP}, me="me"), (tables.token,)),
    "work.HOLDS": Case(_rows(work.HOLDS, "claims", _claim), (tables.work,)),
    "work._ASK_AGAIN": Case(
        _rows(work._ASK_AGAIN, "claims", lambda number: {**_claim(number), "everything": False}), (tables.work,)
    ),
    "work._FINISH": Case(_rows(work._FINISH, "ends", _end), (tables.work,)),
    "work._FREE": Case(_rows(work._FREE, "claims", _claim), (tables.work,)),
    "work._FREE_NOT_BEGUN": Case(_rows(work._FREE_NOT_BEGUN, "claims", _claim), (tables.work,)),
    "work._leasing": Case(
        lambda unit, numbers: [
            *_rows(work._leasing(work._taking, _MINUTE), "claims", _claim)(unit, numbers),
            *_rows(work._leasing(work._extending, _MINUTE), "claims", _claim)(unit, numbers),
        ],
        (tables.work,),
        rows=2,
    ),
}

OTHERS: Final[Mapping[str, str]] = {
    "api_keys._FIND": "one row by its key, in a table of a few",
    "reads._reach": "one row so many behind another, by the index of dates",
    "reads._page": "a page of a view, in an order that an index gives",
    "breakers.ALL": "every breaker of the tenant",
    "changes._APPEND": "appends",
    "cursors._CHECK": "upserts",
    "findings._MEET": "upserts",
    "lfis._CLOSED_GATES": "every LFI of the tenant",
    "lfis.GATES": "every LFI of the tenant",
    "lfis._IGNORED": "every ignored filter of the tenant",
    "messages._TELL": "every endpoint of the tenant",
    "overview._BACKLOGS": "counts and lists the tenant's rows",
    "overview._CLOCKS": "counts and lists the tenant's rows",
    "overview._CONSENTS": "counts and lists the tenant's rows",
    "overview._FINDINGS": "counts and lists the tenant's rows",
    "overview._INBOX": "counts and lists the tenant's rows",
    "overview._IN_WORK": "counts and lists the tenant's rows",
    "overview._LAST_CAUSE": "counts and lists the tenant's rows",
    "overview._LAST_RUN": "counts and lists the tenant's rows",
    "overview._LOOKED": "counts and lists the tenant's rows",
    "overview._ODD": "counts and lists the tenant's rows",
    "overview._OPENINGS": "counts and lists the tenant's rows",
    "overview._OPEN_CAUSES": "counts and lists the tenant's rows",
    "overview._RECENT": "counts and lists the tenant's rows",
    "overview._USUAL": "counts and lists the tenant's rows",
    "overview._WORKERS": "counts and lists the tenant's rows",
    "runs._ADD": "appends",
    "runs._ADD_CALLS": "appends",
    "runs._ADD_PACKED": "appends",
    "runs._FILE": "appends",
    "runs._FILE_BOTH": "appends",
    "standings.AGES": "every connection of the tenant",
    "standings.STANDING": "every connection of the tenant",
    "tally._COUNT": "upserts",
    "tally._READ": "every counter of the tenant",
    "statements.NOW": "no table",
    "work.SUMMARY": "counts every row of the tenant",
    "work._BEAT": "upserts one row",
    "work._CLAIM_DUE": "the due rows of one LFI, in the order of an index",
    "work._GATED": "every LFI of the tenant",
    "work._PARK_CRASHED": "every row that crashed",
    "work._SCHEDULE": "upserts",
    "work._SUSPECTS": "every row that crashed",
    "work._WAITING": "whether one row of an LFI is due",
}
"""Statements that look no keys up, and what they do instead."""

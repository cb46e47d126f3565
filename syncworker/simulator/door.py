"""The fourth door: the bank's books, its log and its verbs, over plain HTTP on loopback, for holders of the key.

    GET  /customers                 login names and their accounts
    GET  /consents                  facts of each consent
    GET  /openings                  facts of each account opening
    GET  /events                    what was told to the TPP, and how it was answered
    GET  /books[?consent_id=…]      what the bank has, per consent (`bank.Bank.books`); `repeats=1` for all of it
    GET  /log[?since=n]             what was served after entry n, counters, peaks
    GET  /tokens[?since=n]          the token log
    GET  /faults                    orders in force
    GET  /clock                     the bank's time
    POST /verbs/{verb}              a verb of `bank.VERBS`; the body is a JSON object of its arguments

401 without the key, 404 for what is not there, 400 with `{error}` for arguments that do not fit.
"""

import hmac
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from syncworker.simulator.asgi import Answer, Receive, Scope, Send, deliver, json_answer, read_body
from syncworker.simulator.bank import VERBS, Bank
from syncworker.simulator.consents import MoveError


class BooksDoor:
    """An ASGI application for those who may read the books.

    Args:
        key: the bearer key.
    """

    def __init__(self, bank: Bank, *, key: str) -> None:
        self._bank = bank
        self._key = key
        self._readings: dict[str, Callable[[dict[str, str]], Any]] = {
            "/customers": lambda _: bank.customers(),
            "/consents": lambda _: bank.consent_facts(),
            "/openings": lambda _: bank.opening_facts(),
            "/events": lambda _: bank.event_facts(),
            "/books": lambda query: bank.books(query.get("consent_id"), repeats="repeats" in query),
            "/log": lambda query: bank.log.facts(int(query.get("since", "0"))),
            "/tokens": lambda query: bank.log.token_facts(int(query.get("since", "0"))),
            "/faults": lambda _: bank.fault_facts(),
            "/clock": lambda _: {"now": bank.clock.now(), "offset_s": bank.clock.offset.total_seconds()},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = await read_body(receive)
        headers = dict(scope["headers"])
        given = headers.get(b"authorization", b"").decode("latin-1")
        if not hmac.compare_digest(given.encode(), f"Bearer {self._key}".encode()):
            answer = Answer(401)
        else:
            query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
            answer = self._answer(scope["method"], scope["path"], query, body or b"{}")
        await deliver(answer, None, scope, receive, send)

    def _answer(self, method: str, path: str, query: dict[str, str], body: bytes) -> Answer:
        try:
            if method == "GET" and path in self._readings:
                return json_answer(self._readings[path](query))
            verb = VERBS.get(path.removeprefix("/verbs/"))
            if method == "POST" and verb is not None:
                return json_answer({"result": verb(self._bank, **msgspec.json.decode(body, type=dict[str, Any]))})
        except KeyError as fault:
            return json_answer({"error": f"unknown: {fault}"}, 404)
        except (MoveError, TypeError, ValueError, ArithmeticError, msgspec.MsgspecError) as fault:
            return json_answer({"error": str(fault)}, 400)
        return Answer(404)

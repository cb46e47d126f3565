"""What an export of a million transactions takes, by format, beside `COPY … TO` and a dlt pipeline to Parquet.

    python -m bench.exports [--transactions 1000000] [--rounds 3] [--dlt PYTHON] [--json]

Fills a PostgreSQL of its own.  In each round every contender writes the rows of `v_transaction` to files, each in a
process of its own that does nothing else; the best round of each counts.  `COPY` is PostgreSQL's own, of the same
columns, as CSV, through psycopg into a file; once in whatever order the server likes, once in the order of an export.
`--dlt` names the Python of an environment with `dlt[parquet,postgres,sql_database]==1.31.0`; without it dlt takes no
part.

Afterwards every export is verified, and DuckDB adds up each one's amounts, which must be the table's to the last digit.
"""

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import duckdb
import psycopg

from syncworker.bench.databases import Databases
from syncworker.bench.drive import environment_for
from syncworker.bench.measure import cost_of
from syncworker.exports.layout import Format
from syncworker.exports.schema import TABLES
from syncworker.store.sql_views import Kind
from tests.ground.postgres import PostgresServer

CONNECTIONS: Final = 100
ACCOUNTS: Final = 10
LFIS: Final = 3
SERVER: Final = {"max_wal_size": "4GB", "checkpoint_timeout": "1h"}
TRANSACTION: Final = TABLES["transaction"]
DLT_BACKENDS: Final = ("pyarrow", "sqlalchemy")
FORMATS: Final = (Format.CSV, Format.PARQUET, Format.NDJSON, Format.DELTA)
_FILL: Final = (
    """INSERT INTO connection (tenant, connection_id, lfi, user_ref, created_at)
       SELECT 'default', md5(i::text), 'bank-' || i %% %(lfis)s, 'customer-' || i, now()
       FROM generate_series(1, %(connections)s) i""",
    """INSERT INTO account_reference (tenant, connection_id, lfi_account_id, account_id, created_at)
       SELECT 'default', md5(i::text), lpad(a::text, 10, '0'), 'acc_' || left(md5(i || '/' || a), 20), now()
       FROM generate_series(1, %(connections)s) i, generate_series(1, %(accounts)s) a""",
    """INSERT INTO account (tenant, connection_id, account_id, key, status, currency, raw, digest, first_seen_at,
                            changed_at, gen)
       SELECT 'default', md5(i::text), '', lpad(a::text, 10, '0'), 'Active', 'AED', 'x'::bytea,
              decode(md5(i || '/' || a), 'hex'), now(), now(), 1
       FROM generate_series(1, %(connections)s) i, generate_series(1, %(accounts)s) a""",
    """INSERT INTO cursor (tenant, connection_id, account_id, resource, due_at, checked_at, gen)
       SELECT 'default', md5(i::text), lpad(a::text, 10, '0'), 'transactions', now(), now(), 1
       FROM generate_series(1, %(connections)s) i, generate_series(1, %(accounts)s) a""",
    """INSERT INTO transaction (tenant, connection_id, account_id, key, status, credit_debit_indicator, amount,
                                signed_amount, currency, booking_date_time, booking_date, value_date_time,
                                transaction_type, transaction_reference, transaction_information, merchant_name,
                                merchant_category_code, counterparty_name, payment_mode, flags, raw, digest,
                                first_seen_at, changed_at, gen)
       SELECT 'default', md5(i::text), lpad(a::text, 10, '0'), 'T' || lpad(n::text, 12, '0'),
              CASE n %% 20 WHEN 0 THEN 'Pending' ELSE 'Booked' END, 'Debit', e5::numeric / 100000,
              -e5::numeric / 100000, 'AED', booked, booked::date, booked + interval '3 minutes', 'POS',
              'REF' || md5(i || '/' || a || n), 'Card purchase "' || n * i %% 977 || '" كارفور ' || e5,
              'Merchant ' || n * 31 %% 2000, lpad((n %% 300)::text, 4, '0'),
              CASE n %% 3 WHEN 0 THEN 'Person ' || e5 %% 50000 END, 'Online',
              CASE n %% 10 WHEN 0 THEN '["Cashback"]'::jsonb END, 'x'::bytea, decode(md5(i || '/' || a || n), 'hex'),
              now(), now(), 1
       FROM generate_series(1, %(connections)s) i, generate_series(1, %(accounts)s) a,
            generate_series(1, %(each)s) n,
            LATERAL (SELECT n::bigint * 7919 * i * a %% 10000000 AS e5,
                            now() - n * i * interval '3.7 seconds' - a * interval '1 hour' AS booked) made""",
)
_COPY: Final = """
import os, sys, psycopg
with psycopg.connect(sys.argv[1]) as connection, open(sys.argv[2], "wb") as file:
    with connection.cursor().copy(sys.argv[3]) as copied:
        for block in copied:
            file.write(block)
    file.flush()
    os.fsync(file.fileno())
"""

_RUNNER: Final = """
import json, os, subprocess, sys
child = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL)
_, status, used = os.wait4(child.pid, 0)
facts = {"code": os.waitstatus_to_exitcode(status), "cpu_s": used.ru_utime + used.ru_stime, "peak_kb": used.ru_maxrss}
with open(sys.argv[1], "w") as file:
    json.dump(facts, file)
"""
"""Starts a contender: of a child the kernel counts the memory of the process that started it, so that one is small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One contender's best round.

    Attributes:
        cpu_s: processor time of its process and those it started.
        server_s: processor time of PostgreSQL meanwhile.
        peak_mb: most memory of its process.
        mb: of its files.
    """

    name: str
    seconds: float
    cpu_s: float
    server_s: float
    peak_mb: float
    mb: float


def fill(url: str, transactions: int) -> None:
    """Rows as banks send them."""
    values = {
        "connections": CONNECTIONS,
        "accounts": ACCOUNTS,
        "lfis": LFIS,
        "each": transactions // (CONNECTIONS * ACCOUNTS),
    }
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in _FILL:
            connection.execute(statement.encode(), values)
        connection.execute("VACUUM ANALYZE")


def run(
    name: str, argv: Sequence[str], folder: Path, server: Sequence[int], environment: Mapping[str, str]
) -> Measured:
    """One contender once, into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    before, began = cost_of(server).cpu_s, time.perf_counter()
    output, facts = folder.with_suffix(".log"), folder.with_suffix(".json")
    with output.open("wb") as told:
        runner = [sys.executable, "-S", "-c", _RUNNER, str(facts), *argv]
        subprocess.run(runner, env=dict(environment), stdout=told, stderr=told, check=True)
    seconds = time.perf_counter() - began
    used = json.loads(facts.read_text())
    if used["code"] != 0:
        raise SystemExit(f"{name} failed:\n{output.read_text(errors='replace')[-2000:]}")
    return Measured(
        name=name,
        seconds=seconds,
        cpu_s=used["cpu_s"],
        server_s=cost_of(server).cpu_s - before,
        peak_mb=used["peak_kb"] / 1024,
        mb=sum(one.stat().st_size for one in folder.rglob("*") if one.is_file()) / 1e6,
    )


def contenders(url: str, folder: Path, dlt: str | None) -> Iterator[tuple[str, list[str]]]:
    """Name and command of each."""
    columns = ", ".join(one.name for one in TRANSACTION.columns)
    query = f"SELECT {columns} FROM v_transaction WHERE tenant = 'default'"
    ordered = f'{query} ORDER BY lfi, connection_id COLLATE "C", account_id COLLATE "C", key COLLATE "C"'
    for name, rows in (("COPY", query), ("COPY in order", ordered)):
        copy = f"COPY ({rows}) TO STDOUT (FORMAT csv, HEADER)"
        yield name, [sys.executable, "-c", _COPY, url, str(folder / name / "transaction.csv"), copy]
    for one in FORMATS:
        yield one.value, [
            sys.executable, "-m", "syncworker", "export", "run", "--to", str(folder / one.value), "--name", "bench",
            "--format", one.value, "--tables", "transaction", "--full", "--json",
        ]  # fmt: skip
    if dlt is not None:
        program = Path(__file__).parent / "contenders/dlt_parquet.py"
        for backend in DLT_BACKENDS:
            yield f"dlt, {backend}", [dlt, str(program), url, str(folder / f"dlt, {backend}"), backend]


def check(url: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Every export is whole, and its amounts add up to the table's."""
    chosen = [one.name for one in TRANSACTION.columns if one.kind is Kind.AMOUNT]
    sums = ", ".join(f"coalesce(sum({one}), 0)" for one in chosen)
    with psycopg.connect(url) as connection:
        wanted = connection.execute(f"SELECT count(*), {sums} FROM v_transaction".encode()).fetchone()
    for one in FORMATS:
        argv = [sys.executable, "-m", "syncworker", "export", "verify", "bench", "--to", str(folder / one.value)]
        subprocess.run(argv, env=dict(environment), check=True, stdout=subprocess.DEVNULL)
        with duckdb.connect() as database:
            found = database.execute(f"SELECT count(*), {sums} FROM {_source(folder, one)}").fetchone()
        exact = [Decimal(str(value)) for value in found or ()]
        assert exact == [Decimal(str(value)) for value in wanted or ()], f"{one}: other sums than the table's"


def _source(folder: Path, format_: Format) -> str:
    types = {Kind.AMOUNT: "DECIMAL(18,5)", Kind.INSTANT: "TIMESTAMPTZ", Kind.DATE: "DATE", Kind.FLAG: "BOOLEAN"}
    columns = ", ".join(f"'{one.name}': '{types.get(one.kind, 'VARCHAR')}'" for one in TRANSACTION.columns)
    files = f"{folder}/{format_.value}/bench/full-*/transaction/*.{format_.value}"
    match format_:
        case Format.CSV:
            return f"read_csv('{files}', header=true, columns={{{columns}}})"
        case Format.NDJSON:
            return f"read_json('{files}', format='newline_delimited', columns={{{columns}}})"
        case Format.DELTA:
            return f"read_parquet('{folder}/delta/bench-delta/transaction/*.parquet')"
        case _:
            return f"read_parquet('{files}')"


def shown(measured: Sequence[Measured]) -> None:
    """A table, with ratios."""
    by_name = {one.name: one for one in measured}
    print("| | seconds | of COPY | processor | server's | peak MB | files MB |")
    print("|---|---|---|---|---|---|---|")
    for one in measured:
        ratio = one.seconds / by_name["COPY"].seconds
        print(
            f"| {one.name} | {one.seconds:.1f} | {ratio:.2f} | {one.cpu_s:.1f} | {one.server_s:.1f}"
            f" | {one.peak_mb:.0f} | {one.mb:.0f} |"
        )
    ours = by_name["parquet"]
    for name in (f"dlt, {backend}" for backend in DLT_BACKENDS):
        if name in by_name:
            slower, work = by_name[name].seconds / ours.seconds, by_name[name].cpu_s / ours.cpu_s
            print(f"\n{name}: {slower:.1f} times as long as Parquet, and {work:.1f} times its processor time.")


def measure(server: PostgresServer, folder: Path, options: argparse.Namespace) -> list[Measured]:
    """All rounds of all contenders, which take turns."""
    with contextlib.ExitStack() as stack:
        databases = Databases(folder, server.url("postgres"))
        stack.callback(databases.close)
        url = stack.enter_context(databases.fresh()).replace("postgresql+psycopg://", "postgresql://")
        fill(url, options.transactions)
        settings = folder / "settings.toml"
        settings.write_text(f'database_url = "{url}"\n')
        environment = environment_for(settings)
        best: dict[str, Measured] = {}
        for _ in range(options.rounds):
            for name, argv in contenders(url, folder, options.dlt):
                found = run(name, argv, folder / name, databases.server_pids(), environment)
                if name not in best or found.seconds < best[name].seconds:
                    best[name] = found
        check(url, folder, environment)
    return list(best.values())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--transactions", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dlt", help="Python with dlt 1.31.0")
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    server = PostgresServer(settings=SERVER)
    try:
        with tempfile.TemporaryDirectory(prefix="swexports-") as made:
            measured = measure(server, Path(made), options)
    finally:
        server.close()
    if options.as_json:
        document: list[dict[str, Any]] = [asdict(one) for one in measured]
        print(json.dumps(document, indent=1))
    else:
        shown(measured)


if __name__ == "__main__":
    main()

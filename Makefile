# Two commands on a fresh machine: `make demo` and `make test`.  The environment is .venv.
PYTHON ?= python3
PYTEST_ARGS ?=
BENCH_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all check lint lock clean bench micro-bench scenarios
.DEFAULT_GOAL := help

help:
	@echo "make demo   a customer's consents become rows in a database, kept fresh, on this machine alone"
	@echo "make test   the whole test suite; brings its own PostgreSQL and Valkey"
	@echo "make test-all  the same, each test of a database on PostgreSQL and on SQLite"
	@echo "make check  what CI runs: format, lint, types, import contracts, tests"
	@echo "make bench  one table: the product and four other ways to do the same; BENCH_ARGS=--quick is a short one"
	@echo "make micro-bench  the measurements behind the choices, part by part"
	@echo "make scenarios  the fault scenarios, failing handshakes, 2,000 seeds of random faults, the virtual year: half an hour"
	@echo "make lock   renew requirements.lock from pyproject.toml"

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "syncworker needs Python 3.11 or newer; name one with: make PYTHON=python3.12 demo" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (pinned, with hashes) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv: $(VENV)/.installed

demo: $(VENV)/.installed
	@exec $(BIN)/syncworker demo

test: $(VENV)/.installed
	@exec $(BIN)/python -m pytest -n 3 --dist worksteal $(PYTEST_ARGS)

test-all: $(VENV)/.installed
	@exec $(BIN)/python -m pytest -n 3 --dist worksteal --all-databases $(PYTEST_ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

bench: $(VENV)/.installed
	@exec $(BIN)/python -m bench.compare $(BENCH_ARGS)

micro-bench: $(VENV)/.installed
	$(BIN)/python bench/transport.py
	$(BIN)/python -m bench.calls
	$(BIN)/python -m bench.decode
	$(BIN)/python -m bench.writing
	$(BIN)/python -m bench.ends
	$(BIN)/python -m bench.checks
	$(BIN)/python -m bench.signing
	$(BIN)/python -m bench.memory
	$(BIN)/python bench/concurrency.py
	$(BIN)/python bench/dispatcher.py
	$(BIN)/python bench/refresh.py
	$(BIN)/python bench/events.py

scenarios: $(VENV)/.installed
	$(BIN)/python -m tests.live.scenarios.full
	$(BIN)/python -m tests.lfi.storm
	$(BIN)/python -m tests.faults.full
	$(BIN)/python -m tests.store.test_plans
	$(BIN)/python -m tests.store.test_sql_views
	SYNCWORKER_TEST_YEAR_USERS=46 $(BIN)/python -m pytest -q tests/consents/test_virtual_year.py

lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet \
		--extra embedded --extra postgres --extra web --extra dev pyproject.toml --output-file requirements.lock

clean:
	rm -rf $(VENV) .syncworker build dist

"""The official files as fixtures, and a line at the end that says how much was held against them."""

from pathlib import Path

import pytest

from tests.contract.official import ACCOUNTS, AUTHORIZATION, FOLDER, Official

VALIDATED = "validated (operation, answer)"


@pytest.fixture(scope="session")
def account_information() -> Official:
    """The Account Information API v2.1-errata2."""
    return _official(ACCOUNTS)


@pytest.fixture(scope="session")
def authorization_endpoints() -> Official:
    """The authorization endpoints (PAR, token) v2.1-errata2."""
    return _official(AUTHORIZATION)


@pytest.fixture(scope="session")
def bank_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory whose keys every bank of this run uses again."""
    return tmp_path_factory.mktemp("bank")


def _official(name: str) -> Official:
    if not (FOLDER / name).exists():
        pytest.skip(f"the published {name} is not here: put it at ../shared/openapi or set SYNCWORKER_OPENAPI")
    return Official(name)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    pairs = {
        value
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
        for name, value in getattr(report, "user_properties", ())
        if name == VALIDATED
    }
    if FOLDER.exists():
        terminalreporter.write_line(f"contract: {len(pairs)} (operation, answer) pairs validated against {FOLDER.name}")
    else:
        terminalreporter.write_line("contract: nothing validated, the published OpenAPI files are not here")

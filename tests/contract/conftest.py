"""The official files as fixtures, and lines at the end that say how much was held against them, and what was not."""

from collections import Counter
from pathlib import Path

import pytest

from syncworker.standard.versions import Version
from tests.contract.official import FILES, PROSE, ROOT, Official, Part

VALIDATED = "validated"


@pytest.fixture(params=Version, ids=str)
def version(request: pytest.FixtureRequest) -> Version:
    """Each version in turn."""
    chosen: Version = request.param
    return chosen


@pytest.fixture(scope="session")
def published() -> "Published":
    """The files, each read once."""
    return Published()


@pytest.fixture
def account_information(published: "Published", version: Version) -> Official:
    """The Account Information API of the version."""
    return published(version, Part.ACCOUNTS)


@pytest.fixture
def pushed_authorization(published: "Published", version: Version) -> Official:
    """The PAR endpoint of the version."""
    return published(version, Part.PAR)


@pytest.fixture(scope="session")
def bank_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory whose keys every bank of this run uses again."""
    return tmp_path_factory.mktemp("bank")


class Published:
    """Finds a file, or skips the test that wants it and says why."""

    def __init__(self) -> None:
        self._read: dict[tuple[Version, str], Official] = {}

    def __call__(self, version: Version, part: Part) -> Official:
        name = FILES[version].get(part)
        if name is None:
            pytest.skip(f"{version.value} {part}: {PROSE[version, part]}")
        if not (ROOT / name).exists():
            pytest.skip(f"the published {name} is not here: put it at ../shared/openapi or set SYNCWORKER_OPENAPI")
        if (version, name) not in self._read:
            self._read[version, name] = Official(version, name)
        return self._read[version, name]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    found = {
        value
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
        for name, value in getattr(report, "user_properties", ())
        if name == VALIDATED
    }
    if not any((ROOT / name).exists() for files in FILES.values() for name in files.values()):
        terminalreporter.write_line("contract: nothing validated, the published OpenAPI files are not here")
        return
    counts = Counter((what, version) for what, version, *_ in found)
    for version in Version:
        answers, requests = counts["answer", version.value], counts["request", version.value]
        terminalreporter.write_line(
            f"contract {version.value}: {answers} (operation, status) answers and {requests} (operation, grant) "
            "requests validated against its published files"
        )
    for (version, part), known in PROSE.items():
        terminalreporter.write_line(f"contract {version.value} {part}: built from prose alone; {known}")

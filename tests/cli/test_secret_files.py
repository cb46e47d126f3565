"""Settings with passwords from files of their own, as containers mount them."""

from pathlib import Path

import pytest

from syncworker import settings
from syncworker.errors import SettingsError

pytestmark = pytest.mark.unit

URL = "redis://user:hunter2@broker:6379/0"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one secret, beside a file of settings that says something else."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "broker_url").write_text(URL + "\n")
    (tmp_path / "secrets" / "keyring").write_text("no setting of this kind")
    (tmp_path / "syncworker.toml").write_text('broker_url = "redis://elsewhere:6379/0"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(settings.SECRETS_VARIABLE, str(tmp_path / "secrets"))
    return tmp_path


def test_a_file_wins_over_the_settings_file_and_its_origin_is_told(folder: Path) -> None:
    """The end of the line does not count; the password is masked wherever it is shown."""
    found = settings.load()
    shown = {name: (value, origin) for name, value, origin in settings.origins(found)}

    assert (found.broker_url, shown["broker_url"]) == (
        URL,
        ("redis://user:***@broker:6379/0", f"file broker_url in {folder / 'secrets'}"),
    )


def test_the_environment_wins_over_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it wins over everything but the command line."""
    monkeypatch.setenv("SYNCWORKER_BROKER_URL", "embedded")

    assert settings.load().broker_url == "embedded"


def test_a_folder_that_is_none_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount that was forgotten must not fall back to defaults in silence."""
    monkeypatch.setenv(settings.SECRETS_VARIABLE, str(folder / "nothing"))

    with pytest.raises(SettingsError, match=r"SYNCWORKER_SECRETS: .*nothing is not a folder"):
        settings.load()


def test_the_variable_is_not_taken_for_a_misspelt_one(folder: Path) -> None:
    """`doctor` warns of what is ignored; this is not."""
    assert settings.variables_unknown() == []

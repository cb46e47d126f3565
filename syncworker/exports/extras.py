"""Says which extra is missing where an export needs a library that is not installed."""

from importlib.util import find_spec
from typing import Final

from syncworker.errors import SettingsError

_MODULES: Final = {"exports": "pyarrow", "delta": "deltalake"}


def require(extra: str) -> None:
    """
    Raises:
        SettingsError: the library of an extra is not installed; says how to install it.
    """
    module = _MODULES[extra]
    if find_spec(module) is None:
        raise SettingsError(f"exports: {module} is not installed; install syncworker[{extra}]")

"""Tests reach loopback and Unix sockets, nothing else.

An audit hook sees each connect of Python's own sockets (asyncio's and httpx's are such).  Libraries that connect in C
(libpq, uvloop) get loopback addresses from the fixtures.
"""

import ipaddress
import socket
import sys
from typing import Any

_CONNECTS = frozenset({"socket.connect", "socket.sendto"})


class NotLoopbackError(AssertionError):
    """A test tried to leave the machine."""


def _local(host: Any) -> bool:
    if host in (None, "", b""):
        return True
    name = host.decode() if isinstance(host, bytes) else str(host)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if event in _CONNECTS:
        kind, address = args[0], args[1]
        inet = getattr(kind, "family", None) in (socket.AF_INET, socket.AF_INET6)
        if inet and isinstance(address, tuple) and not _local(address[0]):
            raise NotLoopbackError(f"a test connects to {address[0]!r}; only loopback is allowed")
    elif event == "socket.getaddrinfo" and not _local(args[0]):
        raise NotLoopbackError(f"a test looks up {args[0]!r}; only loopback is allowed")


def forbid_other_networks() -> None:
    """From now on, and for the life of this process."""
    if not getattr(sys, "_syncworker_loopback_only", False):
        sys._syncworker_loopback_only = True  # type: ignore[attr-defined]  # an audit hook cannot be removed or found
        sys.addaudithook(_watch)

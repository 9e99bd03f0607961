"""Free loopback ports."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

LOOPBACK = "127.0.0.1"
_LOWEST = 10_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_ports(start: int | None = None) -> Iterator[int]:
    """Yield ports that nothing listens on, each once.

    They are below the range of ephemeral ports: one of the tens of thousands of outgoing connections of a benchmark
    could otherwise occupy the port of the next server. Concurrent runs start at different ports.
    """
    highest = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 32_768
    span = highest - _LOWEST
    if start is None:
        start = os.getpid() * 1_009
    for step in range(span):
        port = _LOWEST + (start + step) % span
        if free(port):
            yield port
    raise RuntimeError(f"no free port between {_LOWEST} and {highest}")

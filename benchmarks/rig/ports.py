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
    """Ports that nothing listens on, each given once.

    They lie under the range from which the kernel takes the near end of outgoing connections: one of the tens of
    thousands that a benchmark opens could otherwise sit on the port that the next server wants. Two runs at the
    same time begin in different places.
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

"""What systemd passes to a service in its environment: sockets, the address of its notifications, the watchdog.

The formats are those of sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, MutableMapping

_FIRST = 3  # SD_LISTEN_FDS_START
_MOST = 1024  # the most descriptors that are accepted
_SEND_SECONDS = 0.5  # seconds for which a message waits while the queue of systemd is full
_UNKNOWN = "unknown"  # the name of a descriptor without one

_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")


class Notifier:
    """Sends the state of the service to systemd, if ``address`` is not empty. A message that cannot be sent is lost.

    ``watchdog`` is the time in seconds within which systemd expects a sign of life; None without a watchdog.
    """

    def __init__(self, address: str = "", watchdog: float | None = None) -> None:
        # "@" is the abstract namespace, whose names begin with a zero byte (unix(7)).
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog = watchdog if address else None

    def ready(self, status: str) -> None:
        """Report that requests are served, with ``status``, one line."""
        self._send(f"READY=1\nSTATUS={status}")

    @contextlib.contextmanager
    def reload(self) -> Iterator[None]:
        """Report that a reload is in progress during the body of the ``with`` statement."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        try:
            yield
        finally:
            self._send("READY=1")

    def stopping(self) -> None:
        """Report that the service stops."""
        self._send("STOPPING=1")

    async def feed_watchdog(self) -> None:
        """Report to the watchdog that the event loop runs, twice in the time that it allows, until cancelled."""
        while self.watchdog is not None:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self.watchdog / 2)

    def _send(self, text: str) -> None:
        if self._address:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(_SEND_SECONDS)
                sock.sendto(text.encode(), self._address)


class PassedSockets:
    """The listening sockets that systemd has passed, in their order, each with its name."""

    def __init__(self, sockets: list[tuple[str, socket.socket]] | None = None) -> None:
        self.all = sockets or []

    def named(self, name: str) -> list[socket.socket]:
        """Return the sockets with the name ``name``."""
        return [sock for known, sock in self.all if known == name]

    def bound_to(self, matches: Callable[[object], bool]) -> list[socket.socket]:
        """Return the sockets whose address, as :meth:`socket.socket.getsockname` returns it, ``matches``."""
        return [sock for _, sock in self.all if matches(sock.getsockname())]


def take(environ: MutableMapping[str, str] = os.environ) -> tuple[PassedSockets, Notifier]:
    """Return what systemd has passed to this process, and remove it from ``environ``, which child processes inherit."""
    found = {name: environ.pop(name, "") for name in _VARIABLES}
    pid = str(os.getpid())
    passed = PassedSockets(list(_sockets(found))) if found["LISTEN_PID"] == pid else PassedSockets()
    watchdog = None
    if found["WATCHDOG_USEC"].isdecimal() and found["WATCHDOG_PID"] in ("", pid):
        watchdog = int(found["WATCHDOG_USEC"]) / 1_000_000 or None
    return passed, Notifier(found["NOTIFY_SOCKET"], watchdog)


def _sockets(found: dict[str, str]) -> Iterator[tuple[str, socket.socket]]:
    number = int(found["LISTEN_FDS"]) if found["LISTEN_FDS"].isdecimal() else 0
    names = found["LISTEN_FDNAMES"].split(":") if found["LISTEN_FDNAMES"] else []
    for index in range(min(number, _MOST)):
        descriptor = _FIRST + index
        try:
            os.set_inheritable(descriptor, False)
            sock = socket.socket(fileno=descriptor)
        except OSError:
            continue  # not a socket
        if sock.type == socket.SOCK_STREAM and sock.family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            yield (names[index] if index < len(names) else _UNKNOWN), sock
        else:
            sock.detach()

"""The addresses behind the name of a target."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket

from passerelle.http1.clock import Clock

# Seconds between two lookups of a name while its addresses are in use.
LOOKUP_SECONDS = 10.0


def is_name(host: str) -> bool:
    """Return whether ``host`` is a name that must be looked up, not an address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


class NameLookup:
    """The addresses of ``host``, looked up again at most every LOOKUP_SECONDS; a failure keeps the last good ones."""

    __slots__ = ("_clock", "_host", "_loop", "_pending", "_port", "_tried", "addresses")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, host: str, port: int) -> None:
        self._loop = loop
        self._clock = clock
        self._host = host
        self._port = port
        self._pending: asyncio.Task[None] | None = None
        self._tried = 0.0
        self.addresses: tuple[str, ...] = ()

    async def known(self) -> tuple[str, ...]:
        """Return the addresses. Raises OSError if none was ever found."""
        pending = self.refresh()
        if not self.addresses and pending is not None:
            await asyncio.shield(pending)
        return self.addresses

    def refresh(self) -> asyncio.Task[None] | None:
        """Start a lookup if one is due. Return the lookup in progress, if there is one."""
        if self._pending is None and (not self.addresses or self._clock.now - self._tried >= LOOKUP_SECONDS):
            self._tried = self._clock.now
            self._pending = self._loop.create_task(self._look_up())
            self._pending.add_done_callback(self._ended)
        return self._pending

    async def _look_up(self) -> None:
        found = await self._loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
        if addresses:
            self.addresses = addresses

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._pending = None
        with contextlib.suppress(asyncio.CancelledError, OSError):
            task.result()

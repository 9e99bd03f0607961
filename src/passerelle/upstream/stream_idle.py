"""Answers whose bodies stand still."""

from __future__ import annotations

from collections.abc import Iterable

from passerelle.upstream.interfaces import ResponseStream
from passerelle.upstream.service import Service

# The default limit for the time without a byte of a response body, in seconds.
STREAM_IDLE = 300.0


class StreamIdleMonitor:
    """Gives up answers of whose bodies nothing comes for too long: how far each was, and since when."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[ResponseStream, tuple[int, float]] = {}

    def check(self, services: Iterable[Service], now: float) -> None:
        """Look at all that these services are sending at ``now`` (monotonic seconds): O(of them)."""
        seen = {}
        for service in services:
            for forward in list(service.streaming):
                progress, since = self._seen.get(forward, (-1, now))
                if forward.progress != progress:
                    since = now
                if now - since > forward.idle_timeout:
                    forward.on_idle_timeout()
                else:
                    seen[forward] = (forward.progress, since)
        self._seen = seen

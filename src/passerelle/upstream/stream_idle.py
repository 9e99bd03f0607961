"""A time limit for responses whose bodies stall."""

from __future__ import annotations

from collections.abc import Iterable

from passerelle.upstream.interfaces import ResponseStream
from passerelle.upstream.service import Service

# The default limit for the time without a byte of a response body, in seconds.
STREAM_IDLE = 300.0


class StreamIdleMonitor:
    """Aborts responses of whose bodies no byte was received for too long.

    For each response the monitor keeps its progress at the last check and the time since when that is unchanged.
    """

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[ResponseStream, tuple[int, float]] = {}

    def check(self, services: Iterable[Service], now: float) -> None:
        """Check all responses in flight of ``services`` at ``now`` (monotonic seconds). O(n) in their number."""
        seen = {}
        for service in services:
            for stream in list(service.streaming):
                progress, since = self._seen.get(stream, (-1, now))
                if stream.progress != progress:
                    since = now
                if now - since > stream.idle_timeout:
                    stream.on_idle_timeout()
                else:
                    seen[stream] = (stream.progress, since)
        self._seen = seen

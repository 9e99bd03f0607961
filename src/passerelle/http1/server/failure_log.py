"""Log of failures that any client can cause as often as it likes."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

# Minimum seconds between two log lines.
REPORT_INTERVAL = 10.0


class FailureLog:
    """At most one line every :data:`REPORT_INTERVAL` seconds; ``what`` is its beginning, with ``{}`` for the peer."""

    def __init__(self, what: str, warn: Callable[[str], None], clock: Callable[[], float] = monotonic) -> None:
        self._what = what
        self._warn = warn
        self._clock = clock
        self._count = 0
        self._since = -REPORT_INTERVAL

    def add(self, peer: str, why: str) -> None:
        """Record a failure with ``peer``."""
        self._count += 1
        now = self._clock()
        if now - self._since >= REPORT_INTERVAL:
            more = f" ({self._count} since the last such line)" if self._count > 1 else ""
            self._warn(f"{self._what.format(peer)}: {why}{more}")
            self._count, self._since = 0, now

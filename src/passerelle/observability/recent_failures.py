"""The last failed requests of a worker, as lines of the access log; kept whether or not the access log is written."""

from __future__ import annotations

from collections import deque

from passerelle.errors import Failure, Side
from passerelle.observability.access_log import AccessLog, RouteLog

MOST_FAILURES = 50


def has_failed(status: int, failure: Failure | None) -> bool:
    """Whether a request has failed for a reason that is not its client: a status 5xx, or a response that was cut."""
    return failure.side is not Side.CLIENT if failure is not None else status >= 500


class RecentFailures:
    """Keeps the lines of the last ``most`` failed requests, which :meth:`log` writes. ``number`` counts all of them."""

    def __init__(self, most: int = MOST_FAILURES) -> None:
        self.number = 0
        self._taken = 0
        self._lines: deque[str] = deque(maxlen=most)
        self._log = AccessLog(self._put, lambda seconds, flush: None)  # flushed when the lines are taken

    def log(self, route: str, service: str | None) -> RouteLog:
        """Return the writer for one failed request of the route ``route``."""
        return self._log.route(route, service)

    def _put(self, lines: list[bytes], size: int) -> None:
        self.number += len(lines)
        self._lines.extend(line.decode("ascii").rstrip("\n") for line in lines)

    def take(self, *, full: bool) -> list[tuple[int, str]]:
        """Return the lines that are kept since the last call, or with ``full`` all, each with its number."""
        self._log.flush()
        first = self.number - len(self._lines) + 1
        since, self._taken = 0 if full else self._taken, self.number
        return [(number, line) for number, line in enumerate(self._lines, first) if number > since]

"""The response field ``Server-Timing`` (W3C Server Timing): where a service reports that its time went."""

from __future__ import annotations

import re

MOST_NAMES = 16  # of one service; the time of all others is added up as OTHER
OTHER = "other"
_MOST_BYTES = 2048
_MOST_METRICS = 16
_METRIC = re.compile(rb"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32})\s*((?:;(?:[^,\"]|\"(?:[^\"\\]|\\.)*\")*)?)(?:,|$)")
_PARAMETER = re.compile(rb";\s*([^;=\s\"]*)\s*(?:=\s*(\"(?:[^\"\\]|\\.)*\"|[^;\"]*))?")
_DURATION = re.compile(rb"[0-9]{1,7}(?:\.[0-9]{1,9})?")  # milliseconds


def parse(value: bytes) -> list[tuple[str, float]]:
    """Return the names and durations (seconds) in ``value``; what is malformed ends the list.

    Names are in lower case. At most the first 2048 bytes and 16 metrics are read.
    """
    found: list[tuple[str, float]] = []
    place, value = 0, value[:_MOST_BYTES]
    while place < len(value) and len(found) < _MOST_METRICS:
        metric = _METRIC.match(value, place)
        if metric is None:
            break
        place = metric.end()
        if (seconds := _duration(metric[2])) is not None:
            found.append((metric[1].decode("ascii").lower(), seconds))
    return found


def _duration(parameters: bytes) -> float | None:
    """Return the first ``dur`` in seconds; None without a valid one."""
    for name, value in _PARAMETER.findall(parameters):
        if name.lower() == b"dur":
            number = value.strip(b' \t"')
            return float(number) / 1000.0 if _DURATION.fullmatch(number) else None
    return None


class ServerTimings:
    """Sums over the responses that were sampled, with the time of the attempts as the gateway saw it."""

    __slots__ = ("parts", "responses", "seconds")

    def __init__(self) -> None:
        self.responses = 0
        self.seconds = 0.0
        self.parts: dict[str, float] = {}

    def add(self, value: bytes, seconds: float) -> None:
        """Add the field ``value`` of a response that took ``seconds``; one without durations is not counted."""
        found = parse(value)
        if not found:
            return
        self.responses += 1
        self.seconds += seconds
        for name, duration in found:
            if name not in self.parts and len(self.parts) >= MOST_NAMES:
                name = OTHER
            self.parts[name] = self.parts.get(name, 0.0) + duration

    def live(self) -> dict[str, object]:
        """Return the sums as JSON values."""
        return {"responses": self.responses, "seconds": self.seconds, "parts": dict(self.parts)}

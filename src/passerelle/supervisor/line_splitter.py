"""Split the output of a child process into lines, in bounded memory. Pure."""

from __future__ import annotations

# Docker has the same bound: long enough for a stack trace on one line, short enough for a terminal.
LIMIT = 16 * 1024


class LineSplitter:
    """Splits a stream at newlines. Lines are truncated to ``limit`` bytes, with a note of how many are missing."""

    __slots__ = ("_dropped", "_kept", "limit")

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._kept = bytearray()
        self._dropped = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that ``data`` completes, without their ends (``\\n`` or ``\\r\\n``)."""
        *ends, rest = data.split(b"\n")
        lines = []
        for part in ends:
            self._add(part)
            lines.append(self._take())
        self._add(rest)
        return lines

    def flush(self) -> list[bytes]:
        """Return the rest after the end of the stream: one line without a newline, or none."""
        return [self._take()] if self._kept or self._dropped else []

    def _add(self, part: bytes) -> None:
        room = self.limit - len(self._kept)
        self._kept += part[:room]
        self._dropped += max(0, len(part) - room)

    def _take(self) -> bytes:
        line = bytes(self._kept)
        if self._dropped:
            line += b" ... [%d bytes more]" % self._dropped
        elif line.endswith(b"\r"):
            line = line[:-1]
        self._kept.clear()
        self._dropped = 0
        return line


class LineBuffer:
    """Passes a stream on in large pieces that end at the end of a line, so that lines are not interleaved with others.

    It is for the access log, for which splitting every line is too expensive. A line longer than ``limit`` bytes is
    passed on in pieces.
    """

    __slots__ = ("_held", "limit")

    def __init__(self, limit: int = 4 * LIMIT) -> None:
        self.limit = limit
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Return what can be passed on now; may be empty."""
        end = data.rfind(b"\n") + 1
        if end:
            out = self._held + data[:end]
            self._held = data[end:]
            return out
        self._held += data
        if len(self._held) < self.limit:
            return b""
        return self.flush()

    def flush(self) -> bytes:
        """Return the rest after the end of the stream."""
        out, self._held = self._held, b""
        return out

"""A child's output cut into lines, in bounded memory whatever the child writes. Pure."""

from __future__ import annotations

# The same bound as Docker's: long enough for a stack trace on one line, short enough for a terminal.
LIMIT = 16 * 1024


class LineSplitter:
    """Splits a stream at newlines. Of a longer line the first ``limit`` bytes are kept and the rest is counted."""

    __slots__ = ("_dropped", "_kept", "limit")

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._kept = bytearray()
        self._dropped = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that ``data`` completes, without their ends (``\\n`` or ``\\r\\n``)."""
        *ends, rest = data.split(b"\n")
        lines = []
        for part in ends:
            self._add(part)
            lines.append(self._take())
        self._add(rest)
        return lines

    def flush(self) -> list[bytes]:
        """What is left when the stream has ended without a newline: one line or none."""
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
    """Passes a stream on in large pieces that end where a line ends, so that nothing else is written inside one.

    Made for the access log, where cutting up every line would cost more than it is worth. A single line longer than
    ``limit`` bytes is passed on in pieces rather than held.
    """

    __slots__ = ("_held", "limit")

    def __init__(self, limit: int = 4 * LIMIT) -> None:
        self.limit = limit
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What may be written now (perhaps nothing)."""
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
        """What is left when the stream has ended."""
        out, self._held = self._held, b""
        return out

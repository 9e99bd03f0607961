"""The boundaries of WebSocket frames (RFC 6455 §5.2) in a tunnel, for one purpose: a Close frame at the right place."""

from __future__ import annotations

# The server's frame with status 1001, going away (RFC 6455 §5.5.1, §7.4.1).
GOING_AWAY = b"\x88\x02\x03\xe9"
_CLOSE = 8  # the opcode


class FrameTracker:
    """Follows the frames of one direction, in which it sees every byte. Its memory is one incomplete frame header."""

    __slots__ = ("_closed", "_header", "_left")

    def __init__(self) -> None:
        self._header = b""  # the incomplete header of the current frame
        self._left = 0  # bytes left of the payload of the current frame
        self._closed = False

    @property
    def may_close(self) -> bool:
        """Whether a Close frame may follow: all frames so far are complete, and none was a Close."""
        return not self._left and not self._header and not self._closed

    def feed(self, data: bytes) -> None:
        """Follow ``data``, the next bytes of this direction."""
        position = self._left
        if len(data) <= position:
            self._left = position - len(data)
            return
        if self._header:
            data = self._header + data
            self._header = b""
        while position < len(data):
            start = _payload_start(data, position)
            if start is None:
                self._header, self._left = data[position:], 0
                return
            if data[position] & 15 == _CLOSE:
                self._closed = True
            position = start[0] + start[1]
        self._left = position - len(data)


def _payload_start(data: bytes, position: int) -> tuple[int, int] | None:
    """Return the start and the length of the payload of the frame at ``position``; None if its header is incomplete."""
    if len(data) < position + 2:
        return None
    second = data[position + 1]
    length, start = second & 127, position + 2
    if length > 125:
        end = start + (2 if length == 126 else 8)
        length, start = int.from_bytes(data[start:end]), end
    if second & 128:
        start += 4  # the masking key, which servers do not use
    return (start, length) if len(data) >= start else None

"""Transport in place of a socket, for connections whose time and peer the test controls."""

from __future__ import annotations

from typing import Any

from passerelle.http1.server.connection import ClientConnection

# The protocol is paused above the first number of unsent bytes and resumed below the second.
HIGH, LOW = 65_536, 16_384


class Wire:
    """Transport whose peer reads under control of the test: at first ``room`` bytes, then those of :meth:`take`."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.unsent: list[memoryview] = []
        self.taken = b""
        self.connection: ClientConnection | None = None
        self.paused = self.closing = self.aborted = self.ended = False

    def write(self, data: bytes | memoryview) -> None:
        assert not self.closing
        self.unsent.append(memoryview(data))
        self._flush()
        if self.get_write_buffer_size() > HIGH and not self.paused:
            self.paused = True
            assert self.connection is not None
            self.connection.pause_writing()

    def take(self, count: int) -> None:
        """Let the peer read ``count`` more bytes."""
        self.room += count
        self._flush()
        if self.paused and self.get_write_buffer_size() <= LOW:
            self.paused = False
            assert self.connection is not None
            self.connection.resume_writing()

    def _flush(self) -> None:
        while self.unsent and self.room:
            piece = self.unsent.pop(0)
            count = min(self.room, len(piece))
            self.taken += piece[:count]
            self.room -= count
            if count < len(piece):
                self.unsent.insert(0, piece[count:])

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self.unsent))

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 50_000) if name == "peername" else None

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

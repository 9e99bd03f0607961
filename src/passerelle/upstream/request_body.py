"""A request body on its way from a client to an upstream: framed, bounded, and kept while it may be sent again."""

from __future__ import annotations

from collections.abc import Callable

from passerelle.http1.body import LAST_CHUNK, encode_chunk
from passerelle.http1.client.connection import UpstreamConnection
from passerelle.http1.interfaces import ServerConnection

# What is kept for another attempt, in bytes. A longer body goes out once: sending a part of it again would be an
# empty or cut message that the upstream takes for a whole one.
REPLAY_LIMIT = 65_536


class RequestBody:
    """``limit`` is the most that a client may send, in bytes; ``chunked`` says how the body is framed upstream."""

    __slots__ = ("_chunked", "_client", "_kept", "_kept_size", "_limit", "complete", "received", "replayable", "sink")

    def __init__(self, client: ServerConnection, limit: int, chunked: bool) -> None:
        self._client = client
        self._chunked = chunked
        self._limit = limit
        self._kept: list[bytes] = []
        self._kept_size = 0
        self.received = 0
        self.complete = False
        self.replayable = True
        self.sink: UpstreamConnection | None = None

    def add(self, data: bytes) -> bool:
        """Take payload from the client and pass it on. False when it is more than allowed; then nothing was passed."""
        self.received += len(data)
        if self.received > self._limit:
            return False
        framed = encode_chunk(data) if self._chunked else data
        sink = self.sink
        if self.replayable:
            self._kept_size += len(framed)
            if self._kept_size <= REPLAY_LIMIT or sink is None:
                self._kept.append(framed)
            else:
                self.replayable = False
                self._kept = []
            if sink is None and self._kept_size > REPLAY_LIMIT:
                self._client.pause_reading()  # nobody takes it yet: what is held stays bounded
        if sink is not None:
            sink.send_body(framed)
        return True

    def finish(self) -> None:
        """The client sent all of it."""
        self.complete = True
        if self.sink is not None:
            if self._chunked:
                self.sink.send_body(LAST_CHUNK)
            self.sink.end_request()

    def attach(self, sink: UpstreamConnection) -> bytes:
        """Let ``sink`` take the body; gives what it must send first, right after the head."""
        self.sink = sink
        sink.expect_body()
        first = b"".join(self._kept)
        if self._kept_size > REPLAY_LIMIT:
            self.replayable = False
            self._kept = []
        if self.complete and self._chunked:
            first += LAST_CHUNK
        self._client.resume_reading()
        return first

    def pause(self) -> None:
        """The upstream does not keep up."""
        self._client.pause_reading()

    def resume(self) -> None:
        """The upstream keeps up again."""
        self._client.resume_reading()

    def detach(self) -> None:
        """The attempt failed."""
        self.sink = None

    def cut_short(self) -> None:
        """No more of it comes, though an instance that has answered early still waits for it."""
        if self.sink is not None and not self.complete:
            self.sink.abort()
            self.sink = None


class BufferedBody(RequestBody):
    """A body that the gateway itself reads; ``limit`` is its most bytes, no more than a body that can be kept."""

    __slots__ = ("_on_complete",)

    def __init__(self, client: ServerConnection, limit: int) -> None:
        super().__init__(client, limit, False)
        self._on_complete: Callable[[bytes], None] | None = None

    def when_complete(self, call: Callable[[bytes], None]) -> None:
        """Call ``call`` once with all of it, at once if it is there."""
        if self.complete:
            call(b"".join(self._kept))
        else:
            self._on_complete = call

    def finish(self) -> None:
        """The client sent all of it."""
        self.complete = True
        then, self._on_complete = self._on_complete, None
        if then is not None:
            then(b"".join(self._kept))

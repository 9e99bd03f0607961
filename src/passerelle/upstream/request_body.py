"""The body of a request: received from the client, framed and sent upstream, bounded, and kept for a retry."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from passerelle.http1.body import LAST_CHUNK, encode_chunk
from passerelle.http1.client.connection import UpstreamConnection
from passerelle.http1.interfaces import ServerConnection

# The longest body that is kept for another attempt, in bytes. A longer body is sent once: the part of it that is still
# there would be a truncated message, which the upstream may take for a complete one.
REPLAY_LIMIT = 65_536

# How long a client may send before a connection that the instance closes is no failure of the instance, in seconds.
PATIENCE = 1.0


class RequestBody:
    """The body of a request.

    ``limit`` is the longest body that the client may send, in bytes. ``chunked`` is whether the body is sent upstream
    in chunks.

    While the client sends, the instance cannot respond: that time is the client's, which has limits of its own. The
    time is the service's before a connection takes the body, while the instance does not read, and once the body is
    complete.
    """

    __slots__ = (
        "_blocked",
        "_chunked",
        "_client",
        "_kept",
        "_kept_size",
        "_limit",
        "complete",
        "received",
        "replayable",
        "service_since",
        "sink",
        "sink_since",
    )

    def __init__(self, client: ServerConnection, limit: int, chunked: bool) -> None:
        self._client = client
        self._chunked = chunked
        self._limit = limit
        self._kept: list[bytes] = []
        self._kept_size = 0
        self.received = 0
        self.complete = False
        self.replayable = True
        self._blocked = False  # the instance does not read
        self.sink: UpstreamConnection | None = None
        # Since when `sink` takes the body, and since when the service has what it needs to make progress: the time of
        # the last byte from the client, or of the last change between the client and the service (perf_counter).
        self.sink_since = self.service_since = 0.0

    @property
    def awaits_client(self) -> bool:
        """Whether a connection takes the body, and only the client can make progress."""
        return self.sink is not None and not self.complete and not self._blocked

    @property
    def client_is_slow(self) -> bool:
        """Whether the instance has waited for the client for so long that it may give up.

        A piece of the body that finds the connection reset already is deferred. It does not make the instance slow.
        """
        sink = self.sink
        if sink is None or self.complete or (self._blocked and not sink.defers):
            return False
        return perf_counter() - self.sink_since > PATIENCE

    def limit_since(self, since: float, limit: float) -> float | None:
        """Return since when the service's ``limit`` (seconds) runs, which began at ``since`` without a body.

        None if the limit has expired. Values of ``perf_counter``.
        """
        now = perf_counter()
        since = now if self.awaits_client else max(since, self.service_since)
        return since if now - since < limit else None

    def add(self, data: bytes) -> bool:
        """Send ``data``, received from the client, upstream. False if the body is too long; then nothing is sent."""
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
                self._client.pause_reading()  # no connection takes the body yet: what is kept stays bounded
        if sink is not None:
            if not self._blocked:
                self.service_since = perf_counter()
            sink.send_body(framed)
        return True

    def finish(self) -> None:
        """End the body: the client has sent all of it."""
        self.complete = True
        if self.sink is not None:
            if not self._blocked:
                self.service_since = perf_counter()
            if self._chunked:
                self.sink.send_body(LAST_CHUNK)
            self.sink.end_request()

    def attach(self, sink: UpstreamConnection) -> bytes:
        """Send the body over ``sink`` from now on. Return the bytes that must follow the head at once."""
        self.sink = sink
        self._blocked = False
        self.sink_since = perf_counter()
        sink.expect_body()
        first = b"".join(self._kept)
        if self._kept_size > REPLAY_LIMIT:
            self.replayable = False
            self._kept = []
        if self.complete and self._chunked:
            first += LAST_CHUNK
        self._client.resume_reading()
        return first

    def whole(self) -> bytes | None:
        """Return the whole body, framed as for upstream; None if it is incomplete or was too long to be kept."""
        if not self.complete or not self.replayable:
            return None
        return b"".join(self._kept) + (LAST_CHUNK if self._chunked else b"")

    def pause(self) -> None:
        """Stop reading from the client: the upstream does not keep up."""
        if not self._blocked and not self.complete:
            self._blocked = True
            self.service_since = perf_counter()
        self._client.pause_reading()

    def resume(self) -> None:
        """Read from the client again: the upstream keeps up."""
        if self._blocked and not self.complete:
            self.service_since = perf_counter()
        self._blocked = False
        self._client.resume_reading()

    def detach(self) -> None:
        """Stop sending the body: the attempt is over."""
        if self.awaits_client:
            self.service_since = perf_counter()
        self.sink = None

    def cut_short(self) -> None:
        """Abort the upstream connection if the body is incomplete: no more of it will be received.

        An instance that has responded early may still be waiting for the rest.
        """
        if self.sink is not None and not self.complete:
            self.sink.abort()
            self.sink = None


class BufferedBody(RequestBody):
    """A body that the gateway itself reads. ``limit`` is at most :data:`REPLAY_LIMIT` bytes, so that all is kept."""

    __slots__ = ("_on_complete",)

    def __init__(self, client: ServerConnection, limit: int) -> None:
        super().__init__(client, limit, False)
        self._on_complete: Callable[[bytes], None] | None = None

    def when_complete(self, call: Callable[[bytes], None]) -> None:
        """Call ``call`` once with the whole body, immediately if the body is complete."""
        if self.complete:
            call(b"".join(self._kept))
        else:
            self._on_complete = call

    def finish(self) -> None:
        """End the body: the client has sent all of it."""
        self.complete = True
        call, self._on_complete = self._on_complete, None
        if call is not None:
            call(b"".join(self._kept))

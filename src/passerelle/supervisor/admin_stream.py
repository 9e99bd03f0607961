"""Streams of server-sent events (HTML Living Standard §9.2) on the admin port.

The number of streams is bounded. A stream queues nothing: while its client does not read, events wait in the event log,
and samples are left out. A client that does not read at all is disconnected by the time limit of the listener for
writing; it may connect again with ``Last-Event-ID``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

import orjson

from passerelle.http1.head import ResponseHead
from passerelle.http1.interfaces import ServerConnection
from passerelle.http1.server.passive_exchange import PassiveExchange
from passerelle.observability.events import Event, EventLog
from passerelle.supervisor.live_sampler import LiveSampler

MOST_STREAMS = 20
KEEP_ALIVE = 15.0  # seconds between two comments that show that the stream lives
RETRY = 2000  # milliseconds until a client connects again

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n%b\r\n"


def _nothing() -> None:
    """Do nothing: the stream has ended before it began."""


def message(event: str, data: bytes, number: int | None = None) -> bytes:
    """Encode a server-sent event; ``data`` is one line."""
    head = b"event: %b\n" % event.encode()
    if number is not None:
        head += b"id: %d\n" % number
    return b"%bdata: %b\n\n" % (head, data)


class EventStream(PassiveExchange):
    """The exchange of one stream. ``pump`` is called when a client that has fallen behind reads again."""

    def __init__(self, connection: ServerConnection, on_close: Callable[[EventStream], None]) -> None:
        self.paused = False
        self.closed = False
        self.pump: Callable[[], None] = lambda: None
        self._connection = connection
        self._on_close = on_close

    @property
    def is_ready(self) -> bool:
        """Whether the client takes more; otherwise nothing must be sent."""
        return not (self.paused or self.closed)

    def begin(self, fields: bytes) -> None:
        """Send the head of the response with the further field lines ``fields``."""
        self._connection.send_response(ResponseHead(_HEAD % fields), b"retry: %d\n\n" % RETRY, False)

    def send(self, data: bytes) -> None:
        """Send ``data``, complete messages."""
        self._connection.send_body(data)

    def on_client_paused(self) -> None:
        """Send nothing more: the client reads too slowly."""
        self.paused = True

    def on_client_resumed(self) -> None:
        """Send what was left out."""
        self.paused = False
        self.pump()

    def on_client_lost(self) -> None:
        """Release the stream: the client has disconnected."""
        self.closed = True
        self._on_close(self)


class StreamHub:
    """The open streams of an admin port: at most ``most``, with a comment every ``keep_alive`` seconds."""

    def __init__(self, most: int = MOST_STREAMS, keep_alive: float = KEEP_ALIVE) -> None:
        self._most = most
        self._keep_alive = keep_alive
        self._streams: dict[EventStream, Callable[[], None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_full(self) -> bool:
        """Whether no further stream may be opened."""
        return len(self._streams) >= self._most

    def __len__(self) -> int:
        return len(self._streams)

    def open(
        self, connection: ServerConnection, fields: bytes, feed: Callable[[EventStream], EventFeed | LiveFeed]
    ) -> None:
        """Begin a stream on ``connection``; ``feed`` makes what it sends."""
        stream = EventStream(connection, self._close)
        connection.adopt(stream)
        stream.begin(fields)
        self._streams[stream] = feed(stream).begin()
        if self._timer is None:
            self._arm()

    def _close(self, stream: EventStream) -> None:
        self._streams.pop(stream, _nothing)()
        if not self._streams and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._keep_alive, self._tick)

    def _tick(self) -> None:
        for stream in tuple(self._streams):
            if stream.is_ready:
                stream.send(b": keep-alive\n\n")
        if self._streams:
            self._arm()
        else:
            self._timer = None


class EventFeed:
    """Sends the events after ``since`` to ``stream``, of all ``kinds`` (None) or the given ones.

    A client that has fallen behind by more events than the log keeps does not receive the oldest.
    """

    def __init__(self, stream: EventStream, events: EventLog, since: int, kinds: Collection[str] | None = None) -> None:
        self._stream = stream
        self._events = events
        self._kinds = kinds
        self._sent = since

    def begin(self) -> Callable[[], None]:
        """Begin to send. Returns a function that ends this."""
        self._stream.pump = self.pump
        self.pump()
        return self._events.listen(self._on_event)

    def _on_event(self, event: Event) -> None:
        self.pump()

    def pump(self) -> None:
        """Send the events that the client has not received, as long as it reads."""
        if not self._stream.is_ready:
            return
        for event in self._events.since(self._sent, self._kinds):
            self._sent = event.seq
            self._stream.send(message("event", orjson.dumps(event._asdict()), event.seq))
            if not self._stream.is_ready:
                return


class LiveFeed:
    """Sends the last sample to ``stream``, then the changes of each second.

    It also sends the failed requests that are kept, further ones, and all events after ``since``.
    """

    def __init__(self, stream: EventStream, events: EventLog, live: LiveSampler, since: int) -> None:
        self._stream = stream
        self._live = live
        self._events = EventFeed(stream, events, since)
        self._failed = 0  # the number of the last failed request that was sent
        self._is_behind = True  # the client has missed samples and needs a whole one

    def begin(self) -> Callable[[], None]:
        """Begin to send. Returns a function that ends this."""
        ends = self._events.begin(), self._live.listen(self._on_sample)
        self._stream.pump = self._pump
        self._pump()

        def end() -> None:
            for each in ends:
                each()

        return end

    def _on_sample(self, number: int, patch: bytes) -> None:
        if not self._stream.is_ready:
            self._is_behind = True
        elif self._is_behind:
            self._pump()
        else:
            self._stream.send(message("change", patch))
            self._send_failures()

    def _send_failures(self) -> None:
        if self._live.failures and self._live.failures[-1].number > self._failed:
            found = self._live.failures_since(self._failed)
            self._failed = found[-1]["number"]
            self._stream.send(message("failures", orjson.dumps(found)))

    def _pump(self) -> None:
        if self._is_behind and self._stream.is_ready:
            self._is_behind = False
            self._stream.send(message("snapshot", self._live.snapshot()))
            self._send_failures()
        self._events.pump()

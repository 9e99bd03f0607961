"""An HTTP/1.1 server for one WSGI application in one process: an event loop for sockets, a few threads for calls.

docs/decisions/002-application-server.md has the reasons for this server. Threads get complete requests only, so
a slow upload does not occupy a thread. A response of up to ``_WINDOW`` bytes leaves its thread at once, so a slow
download does not occupy it either. httptools (llhttp in strict mode) parses requests.

The file is longer than 400 lines because a connection parses requests, sends their responses, and can be given to the
application (a WebSocket).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import IO, cast

import httptools

from passerelle.appserver import raw_socket, refusal, wsgi
from passerelle.appserver.gateway_peer import is_gateway
from passerelle.appserver.thread_pool import THREADS, Caller, ThreadPool
from passerelle.appserver.thread_stats import ThreadStats

# Seconds. The gateway keeps an idle connection for 4 s, so it closes connections first.
IDLE_TIMEOUT = 75.0
READ_TIMEOUT = 30.0  # seconds without a byte in the middle of a request
WRITE_TIMEOUT = 300.0  # seconds in which the client reads no byte of a response; the limits of the gateway are shorter
_SWEEP = 1.0  # seconds between two checks for connections that have timed out
_HEAD_LIMIT = 64 * 1024  # bytes; twice the default limit of the gateway
_SPOOL = 256 * 1024  # bytes of a body in memory; a longer body goes to a temporary file
_WINDOW = 256 * 1024  # bytes of a response that may wait for the client
_BACKLOG = 512
_FLUSH = 1.0  # seconds for the responses of an instance that ends because it is hung
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})  # RFC 9110, section 9.2.2


class WsgiServer:
    """Serves ``application`` on the listening ``sock``. To be created and used in a running event loop."""

    def __init__(
        self,
        application: wsgi.Application,
        sock: socket.socket,
        *,
        threads: int = THREADS,
        idle_timeout: float = IDLE_TIMEOUT,
        read_timeout: float = READ_TIMEOUT,
        write_timeout: float = WRITE_TIMEOUT,
        stats: ThreadStats | None = None,
        streams: int | None = None,
        hung_after: float | None = None,
        keep_host: bool = False,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        is_unix = sock.family == socket.AF_UNIX
        host, port = ("localhost", 80) if is_unix else sock.getsockname()[:2]
        self.base = wsgi.base_environ(host, port)
        self.keep_host = keep_host
        self.stopping = False
        self.idle_timeout = idle_timeout
        self.read_timeout = read_timeout
        self.write_timeout = write_timeout
        self.connections: set[WsgiConnection] = set()
        self.emptied = asyncio.Event()  # the last connection has ended during the stop
        self.stuck = asyncio.Event()  # no thread will ever be free again (see ThreadPool.check)
        self.hung = asyncio.Event()  # each thread is in a call that takes too long (see ThreadPool.hung)
        self._sock = sock
        self.pool = ThreadPool(application, threads, stats=stats, streams=streams, hung_after=hung_after)
        self.call = self.pool.call
        self._listener: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Start to accept connections."""
        self.pool.start()
        if self._sock.family == socket.AF_UNIX:
            self._listener = await self.loop.create_unix_server(
                lambda: WsgiConnection(self), sock=self._sock, backlog=_BACKLOG
            )
        else:
            self._listener = await self.loop.create_server(
                lambda: WsgiConnection(self), sock=self._sock, backlog=_BACKLOG
            )
        self._sweep()

    async def stop(self, grace: float) -> bool:
        """Accept no more connections, and return whether all requests have finished within ``grace`` seconds."""
        assert self._listener is not None and self._sweeper is not None
        self.stopping = True
        self._listener.close()
        for connection in list(self.connections):
            connection.close_if_idle()
        if self.connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.emptied.wait(), grace)
        self._sweeper.cancel()
        finished = not self.connections
        for connection in list(self.connections):
            connection.abort()
        self.pool.stop()
        return finished

    def join(self, timeout: float) -> None:
        """Wait for the work of the application after its last responses, for at most ``timeout`` seconds."""
        self.pool.join(timeout)

    async def answer_hung(self) -> None:
        """Respond to all requests of a hung instance, which is about to end.

        Calls that are hung are 504: on another instance, they would probably hang as well. Requests that have not begun
        are not responded to if they are idempotent, so that the gateway retries them (RFC 9110, section 9.2.2).
        """
        self.stopping = True
        assert self._listener is not None
        self._listener.close()
        statuses: dict[Caller, int | None] = dict.fromkeys(self.pool.hung(), 504)
        for environ, caller in self.pool.take_waiting():
            statuses[caller] = None if environ["REQUEST_METHOD"] in _IDEMPOTENT else 504
        for connection in list(self.connections):
            connection.give_up(statuses.get(connection))
        if self.connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.emptied.wait(), _FLUSH)

    def _sweep(self) -> None:
        now = self.loop.time()
        for connection in list(self.connections):
            connection.check(now)
        if self.pool.check():
            self.stuck.set()
        if self.pool.hung():
            self.hung.set()
        self._sweeper = self.loop.call_later(_SWEEP, self._sweep)


class WsgiConnection(asyncio.Protocol):
    """A client connection. Its requests are handled one at a time, in order."""

    def __init__(self, server: WsgiServer) -> None:
        self._server = server
        self._loop = server.loop
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # set before anything else is called
        self._peer = ("127.0.0.1", 0)
        self._from_gateway = False
        self._gone = False
        self.gone_since = 0.0  # of time.monotonic, as the next one (see thread_pool.Caller)
        self.streaming_since = 0.0
        self._last_activity = 0.0  # time of the loop of the last byte from the client or the last response
        # The request that is being read:
        self._reading = False
        self._in_head = True
        self._head_size = 0
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._body: IO[bytes] | None = None
        self._body_size = 0
        self._unstored = False  # the body could not be stored; the rest of it is read and dropped
        self._websocket: wsgi.Environ | None = None  # of a request for a WebSocket
        self._raw: raw_socket.RawSocket | None = None  # given to the application
        # The request that is being handled, and complete ones behind it:
        self._busy = False
        self._waiting: deque[tuple[wsgi.Environ, bool]] = deque()
        self._reading_paused = False  # reading is paused until the responses are sent
        self._input_done = False  # no more requests are read
        self._writing_paused = False  # the transport has more than _WINDOW unsent bytes
        self._sent_ahead = 0  # bytes that the thread has sent since it last waited for the client
        self._writable: Callable[[], None] | None = None
        self._unsent = -1  # bytes in the transport at the last check

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the connection."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WINDOW)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self._peer = (peer[0], peer[1])
        self._from_gateway = is_gateway(transport)
        self._last_activity = self._loop.time()
        self._server.connections.add(self)
        if self._server.stopping:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Parse ``data``. An invalid request is rejected and ends the connection."""
        if self._input_done:
            return
        self._last_activity = self._loop.time()
        if self._in_head:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # Without a WebSocket, the request is handled without the upgrade, and no more is read.
            self._input_done = True
            if self._websocket is not None:
                # A client sends nothing before the handshake is done (RFC 6455, section 4.1).
                self._start_websocket(self._websocket, is_alone=upgrade.args[0] >= len(data))
        except httptools.HttpParserError:
            self._refuse(501 if refusal.has_unknown_method(data) else 400)
            return
        if self._in_head and self._head_size > _HEAD_LIMIT:
            self._refuse(431)

    def eof_received(self) -> bool:
        """Read no more requests. True keeps the connection open for a pending response, unless it is streamed.

        The gateway never closes only its side of a connection, so its client is gone.
        """
        self._input_done = True
        self.gone_since = time.monotonic()
        return self._busy and not self.streaming_since

    def connection_lost(self, exc: Exception | None) -> None:
        """Free the resources of the connection, and release a thread that waits for the client."""
        self._gone = True
        self.gone_since = self.gone_since or time.monotonic()
        self.resume_writing()
        self._waiting.clear()
        self._drop_body()
        server = self._server
        server.connections.discard(self)
        if server.stopping and not server.connections:
            server.emptied.set()

    def pause_writing(self) -> None:
        """Record that more than ``_WINDOW`` bytes wait for the client."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """Release a thread that waits for the client."""
        self._writing_paused = False
        if self._writable is not None:
            self._writable()
            self._writable = None

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        """Start a request."""
        self._reading = True
        self._target = b""
        self._fields = []

    def on_url(self, url: bytes) -> None:
        """Append to the request target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header field."""
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """Send 100 (Continue) if the client expects it (RFC 9110, section 10.1.1)."""
        self._in_head = False
        expected = any(name.lower() == b"expect" and value.lower() == b"100-continue" for name, value in self._fields)
        if expected and not self._busy:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Append to the body."""
        if self._unstored:
            return
        try:
            if self._body is None:
                self._body = tempfile.SpooledTemporaryFile(_SPOOL)  # noqa: SIM115 - closed by wsgi.run or _drop_body
            self._body.write(body)
        except OSError as error:
            self._on_storage_error(error)
        self._body_size += len(body)

    def on_message_complete(self) -> None:
        """Start the request, or queue it behind earlier ones."""
        parser = self._parser
        if self._body is not None:
            try:
                self._body.seek(0)  # writes what is still in the file's buffer
            except OSError as error:
                self._on_storage_error(error)
        if self._unstored:
            if not self._input_done:
                self._refuse(507)
            return
        environ = wsgi.environ_of(
            self._server.base,
            parser.get_method(),
            self._target,
            parser.get_http_version(),
            self._fields,
            *self._peer,
            from_gateway=self._from_gateway,
            keep_host=self._server.keep_host,
        )
        if self._body is not None:
            wsgi.add_body(environ, self._body, self._body_size)
            self._body = None
            self._body_size = 0
        self._reading = False
        self._in_head = True
        self._head_size = 0
        if "HTTP_SEC_WEBSOCKET_KEY" in environ and parser.should_upgrade():
            self._websocket = environ  # the parser raises HttpParserUpgrade next
            return
        keep = parser.should_keep_alive()
        if self._busy:
            self._waiting.append((environ, keep))
            if not self._reading_paused:
                self._reading_paused = True
                self._transport.pause_reading()
        else:
            self._start(environ, keep)

    def _on_storage_error(self, error: OSError) -> None:
        """Log that the body cannot be stored, and drop it.

        The request is refused when the client has sent all of the body: the reset after a close with unread data could
        destroy an earlier response.
        """
        wsgi.log.error("the body of a request cannot be stored: %s", error.strerror or error)
        self._unstored = True
        self._drop_body()

    def _drop_body(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            with contextlib.suppress(OSError):  # closing writes what is still in the file's buffer
                body.close()

    # The response: a worker thread calls send and finish; the event loop calls everything else

    def send(self, data: bytes) -> bool:
        """Implement :class:`passerelle.appserver.wsgi.ResponseSink`."""
        if self._gone:
            return False
        self._post(self._write, data)
        if not self.streaming_since:
            self.streaming_since = time.monotonic()
        self._sent_ahead += len(data)
        if self._sent_ahead >= _WINDOW:
            self._sent_ahead = 0
            ready = threading.Event()
            self._post(self._when_writable, ready.set)
            ready.wait()
        return not self._gone

    def is_open(self) -> bool:
        """Implement :class:`passerelle.appserver.wsgi.ResponseSink`."""
        return not self._gone

    def begin_stream(self) -> bool:
        """Implement :class:`passerelle.appserver.wsgi.ResponseSink`."""
        return self._server.pool.admit_stream(self)

    def finish(self, data: bytes, keep: bool) -> None:
        """Implement :class:`passerelle.appserver.wsgi.ResponseSink`."""
        self._post(self._finish, data, keep)

    def _post(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            # The loop is closed: the instance has stopped without this response.
            self._gone = True
            if callback == self._when_writable:
                cast(Callable[[], None], arguments[0])()

    def _start(self, environ: wsgi.Environ, keep: bool) -> None:
        self._busy = True
        self._sent_ahead = 0
        self.streaming_since = 0.0
        self._server.call(environ, self, keep and not self._input_done and not self._server.stopping)

    def _start_websocket(self, environ: wsgi.Environ, *, is_alone: bool) -> None:
        """Call the application with the socket of the connection, in a thread for streams."""
        if not is_alone or self._busy:
            self._refuse(400)
            return
        try:
            self._raw = raw_socket.RawSocket.of(self._transport.get_extra_info("socket").fileno())
        except OSError as error:
            wsgi.log.error("a WebSocket was refused with 503: %s", error.strerror or error)
            self._refuse(503)
            return
        environ[raw_socket.KEY] = self._raw
        self._transport.pause_reading()
        self._busy = True
        if not self._server.pool.call_stream(environ, self, keep=False):
            self._busy = False
            self._end_websocket()
            self._refuse(503)

    def _end_websocket(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.end()

    def _is_taken(self) -> bool:
        """Whether the application has used the socket, so that the response of the call is not sent."""
        return self._raw is not None and self._raw.taken

    def _write(self, data: bytes) -> None:
        if not self._gone and not self._is_taken():
            self._transport.write(data)

    def _when_writable(self, callback: Callable[[], None]) -> None:
        if self._gone or not self._writing_paused:
            callback()
        else:
            self._writable = callback
            self._unsent = -1

    def _finish(self, data: bytes, keep: bool) -> None:
        if self._gone:
            self._end_websocket()
            return
        if self._is_taken():
            self._end_websocket()
            self._transport.abort()
            return
        self._end_websocket()
        if data:
            self._transport.write(data)
        self._busy = False
        self._last_activity = self._loop.time()
        if keep and self._waiting:
            self._start(*self._waiting.popleft())
        elif not keep or self._input_done or (self._server.stopping and not self._reading):
            self._transport.close()
        elif self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()

    def _refuse(self, status: int) -> None:
        """Reject an invalid request and read no more. A response in progress is finished instead."""
        self._input_done = True
        if self._busy:
            return
        self._transport.write(refusal.response(status))
        self._transport.close()

    # Called by the server

    def close_if_idle(self) -> None:
        """Close the connection, unless a request is being read or handled. A WebSocket gets the end of its input."""
        if self._raw is not None and self._raw.taken:
            self._raw.end_input()
        if not self._busy and not self._reading:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once, even during a request."""
        if self._is_taken():
            self._end_websocket()
        self._transport.abort()

    def give_up(self, status: int | None) -> None:
        """Close the connection, with ``status`` unless the response has begun."""
        self._gone = True
        if status is not None and not self.streaming_since:
            self._transport.write(refusal.response(status))
        self._transport.close()

    def check(self, now: float) -> None:
        """Close the connection if it has timed out at ``now``, a time of the loop."""
        waited = now - self._last_activity
        if self._writable is not None:
            unsent = self._transport.get_write_buffer_size()
            if unsent != self._unsent:
                self._unsent = unsent
                self._last_activity = now
            elif waited > self._server.write_timeout:
                self.abort()
        elif self._busy:
            return
        elif self._reading:
            if waited > self._server.read_timeout:
                self._refuse(408)
        elif waited > self._server.idle_timeout:
            self._transport.close()

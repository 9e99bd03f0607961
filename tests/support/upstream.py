"""A scripted upstream: each connection runs a plain function in a thread of its own.

A script says byte for byte what the upstream does::

    def script(conn):
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\nhel")
        conn.close()

Requests are read strictly, so an ambiguous or malformed one that the gateway forwarded fails the test by itself. A
script may return at any time; its connection is then read until the gateway closes it (and what comes is kept).
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence

from tests.support.wire import DEADLINE, Closed, Request, Wire, wait_until

PATIENCE = 30.0
"""Seconds that an upstream waits for the next request or for the gateway to close: longer than any test."""


class Connection(Wire):
    """One accepted connection. ``index`` counts from 0 in order of acceptance."""

    def __init__(self, sock: socket.socket, upstream: Upstream, index: int) -> None:
        super().__init__(sock)
        self.upstream = upstream
        self.index = index
        self.requests: list[Request] = []
        self.sent = 0  # bytes handed to the kernel
        self.gone = threading.Event()  # the gateway closed, or the script did

    def read_request(self, within: float = PATIENCE, on_head: Callable[[Request], None] | None = None) -> Request:
        """One whole request; it counts as executed (in ``requests``) when it is whole."""

        def arrived(request: Request) -> None:
            self.upstream.heads.append(request)
            if on_head:
                on_head(request)

        request = super().read_request(within, arrived)
        self.requests.append(request)
        self.upstream.requests.append(request)
        return request

    def read_head(self, within: float = PATIENCE) -> Request:
        """The head alone of the next request; its body stays unread."""
        start, fields, raw = self._head(within)
        request = Request(start, fields, raw)
        self.upstream.heads.append(request)
        return request

    def stream(self, data: bytes, times: int, step: int = 1 << 16) -> None:
        """Write ``data`` ``times`` times, counting in :attr:`sent`, for as long as the gateway takes it."""
        self.sock.settimeout(PATIENCE)
        for _ in range(times):
            view = memoryview(data)
            while view:
                self.sent += (n := self.sock.send(view[:step]))
                view = view[n:]

    def wait(self, event: threading.Event) -> None:
        """Wait until the test sets ``event``."""
        assert event.wait(DEADLINE), "the test never set the event"


Script = Callable[[Connection], None]


class Upstream:
    """A listening server on a free port of the loopback interface, run by a script or one script per connection.

    With a sequence the n-th connection runs the n-th script, and those after the last run the last.
    ``heads``: requests whose head arrived; ``requests``: those that arrived whole.
    """

    def __init__(self, script: Script | Sequence[Script], *, send_buffer: int | None = None) -> None:
        self.scripts: Sequence[Script] = [script] if callable(script) else script
        self.connections: list[Connection] = []
        self.heads: list[Request] = []
        self.requests: list[Request] = []
        self.errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self._send_buffer = send_buffer
        self._stopping = False
        self._listener: socket.socket | None = None
        self.port = 0
        self.listen()

    def listen(self) -> None:
        """Begin (or, after :meth:`refuse`, begin again) to accept on the same port."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._send_buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        self.port = listener.getsockname()[1]
        self._listener = listener
        thread = threading.Thread(target=self._accept, args=(listener,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def refuse(self) -> None:
        """Stop accepting: new connections are refused, open ones go on."""
        if self._listener:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            conn = Connection(sock, self, len(self.connections))
            self.connections.append(conn)
            script = self.scripts[min(conn.index, len(self.scripts) - 1)]
            thread = threading.Thread(target=self._run, args=(conn, script), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, conn: Connection, script: Script) -> None:
        try:
            script(conn)
            if conn.sock.fileno() >= 0:
                conn.rest(PATIENCE)
        except (Closed, OSError):
            pass  # the gateway left, or the test closed it: what came before counts
        except BaseException as error:
            if not self._stopping:
                self.errors.append(error)
        finally:
            conn.gone.set()
            if conn.sock.fileno() >= 0:
                conn.close()

    def wait_requests(self, count: int, within: float = DEADLINE) -> list[Request]:
        """The whole requests, once there are ``count`` of them."""
        wait_until(lambda: len(self.requests) >= count or self.errors, f"{count} requests upstream", within)
        self.check()
        return self.requests

    def wait_heads(self, count: int, within: float = DEADLINE) -> list[Request]:
        """The heads, once there are ``count`` of them."""
        wait_until(lambda: len(self.heads) >= count or self.errors, f"{count} heads upstream", within)
        self.check()
        return self.heads

    def wait_all_closed(self, within: float = DEADLINE) -> None:
        """Every connection accepted so far has ended."""
        wait_until(lambda: all(c.gone.is_set() for c in self.connections), "upstream connections closed", within)

    def open_connections(self) -> list[Connection]:
        """The connections that neither side has closed yet."""
        return [c for c in self.connections if not c.gone.is_set()]

    def check(self) -> None:
        """Fail if a script did: it read something malformed, or an assertion in it was wrong."""
        if self.errors:
            raise self.errors[0]

    def close(self) -> None:
        """Stop everything and join the threads."""
        self._stopping = True
        self.refuse()
        for conn in self.connections:
            with contextlib.suppress(OSError):  # closed already
                conn.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(DEADLINE)


def answering(*parts: bytes) -> Script:
    """A script that answers every request of its connection with these bytes."""

    def script(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.send(*parts)

    return script


def ok(body: bytes = b"ok", *fields: bytes) -> bytes:
    """A plain 200 with a Content-Length."""
    lines = [b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def once(raw: bytes, how: str = "keep") -> Script:
    """A script that answers one request with ``raw`` and then keeps the connection open, closes or resets it."""

    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(raw)
        if how == "close":
            conn.close()
        elif how == "reset":
            conn.reset()

    return script


def echo(conn: Connection) -> None:
    """A script that sends each request's body back."""
    while True:
        request = conn.read_request()
        conn.send(ok(request.body))

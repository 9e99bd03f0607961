"""Scripted upstream: each connection runs a plain function in its own thread.

A script defines byte for byte what the upstream sends::

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
from pathlib import Path

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
        """Read one complete request, and record it as executed in ``requests``."""

        def arrived(request: Request) -> None:
            self.upstream.heads.append(request)
            if on_head:
                on_head(request)

        request = super().read_request(within, arrived)
        self.requests.append(request)
        self.upstream.requests.append(request)
        return request

    def read_head(self, within: float = PATIENCE) -> Request:
        """Read the head of the next request; its body remains unread."""
        start, fields, raw = self._head(within)
        request = Request(start, fields, raw)
        self.upstream.heads.append(request)
        return request

    def stream(self, data: bytes, times: int, step: int = 1 << 16) -> None:
        """Write ``data`` ``times`` times, counting in :attr:`sent`, as long as the gateway reads."""
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
    """Server on a free loopback port, controlled by one script, or by one script per connection.

    With a sequence, the n-th connection runs the n-th script, and those after the last run the last. ``heads``:
    requests whose head arrived; ``requests``: requests that arrived completely.
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
        # Bound for the whole life: while nothing listens on the port, no other program is given it.
        self._holder = self._bound(0)
        self.port = self._holder.getsockname()[1]
        self.listen()

    def listen(self) -> None:
        """Start accepting on the same port, initially or after :meth:`refuse`."""
        listener = self._bound(self.port)
        if self._send_buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer)
        self._accept_on(listener)

    @staticmethod
    def _bound(port: int) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        return sock

    def listen_on(self, path: Path) -> None:
        """Accept on a Unix socket, and no longer on the port."""
        self.refuse()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        self._accept_on(listener)

    def _accept_on(self, listener: socket.socket) -> None:
        listener.listen(64)
        self._listener = listener
        thread = threading.Thread(target=self._accept, args=(listener,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def refuse(self) -> None:
        """Stop accepting: new connections are refused, open ones continue."""
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
            pass  # the gateway or the test closed the connection; earlier requests count
        except BaseException as error:
            if not self._stopping:
                self.errors.append(error)
        finally:
            conn.gone.set()
            if conn.sock.fileno() >= 0:
                conn.close()

    def wait_requests(self, count: int, within: float = DEADLINE) -> list[Request]:
        """Wait for ``count`` complete requests; return all of them."""
        wait_until(lambda: len(self.requests) >= count or self.errors, f"{count} requests upstream", within)
        self.check()
        return self.requests

    def wait_heads(self, count: int, within: float = DEADLINE) -> list[Request]:
        """Wait for ``count`` heads; return all of them."""
        wait_until(lambda: len(self.heads) >= count or self.errors, f"{count} heads upstream", within)
        self.check()
        return self.heads

    def wait_all_closed(self, within: float = DEADLINE) -> None:
        """Wait until every accepted connection has ended."""
        wait_until(lambda: all(c.gone.is_set() for c in self.connections), "upstream connections closed", within)

    def open_connections(self) -> list[Connection]:
        """Return the connections that neither side has closed."""
        return [c for c in self.connections if not c.gone.is_set()]

    def check(self) -> None:
        """Fail if a script failed: it read something malformed, or one of its assertions failed."""
        if self.errors:
            raise self.errors[0]

    def close(self) -> None:
        """Stop everything and join the threads."""
        self._stopping = True
        self.refuse()
        self._holder.close()
        for conn in self.connections:
            with contextlib.suppress(OSError):  # already closed
                conn.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(DEADLINE)


def answering(*parts: bytes) -> Script:
    """Return a script that responds to every request of its connection with these bytes."""

    def script(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.send(*parts)

    return script


def ok(body: bytes = b"ok", *fields: bytes) -> bytes:
    """Return a plain 200 with a Content-Length."""
    lines = [b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def once(raw: bytes, how: str = "keep") -> Script:
    """Return a script that responds to one request with ``raw``, then keeps, closes or resets the connection."""

    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(raw)
        if how == "close":
            conn.close()
        elif how == "reset":
            conn.reset()

    return script


def echo(conn: Connection) -> None:
    """Send each request's body back."""
    while True:
        request = conn.read_request()
        conn.send(ok(request.body))

"""Destinations of the access log that are sockets: syslog servers (RFC 5424) and journald.

No request waits for them. A thread sends the lines; those that wait are limited in bytes, and further ones are dropped
and counted. A server that is down or slow is tried again, with pauses. A line that was partly written to a TCP
connection that broke is sent again, so that a server may see it twice, but never a half of one.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import orjson

from passerelle.observability.log_formats import Convert
from passerelle.observability.log_sink import LIMIT_BYTES, to_stderr

_RETRY_SECONDS = 1.0
_TIMEOUT_SECONDS = 5.0  # for a connection, and for each write
_WARN_SECONDS = 60.0

# <PRI> of RFC 5424 §6.2.1: facility 16 (local0) × 8 + severity 6 (informational) or 4 (warning).
_INFORMATIONAL, _WARNING = 6, 4
_FACILITY = 16
_APP = "passerelle"

Encode = Callable[[bytes], bytes]
"""Makes a message of a line of JSON."""


def _severity(entry: dict[str, object]) -> int:
    status = entry["status"]
    return _WARNING if isinstance(status, int) and status >= 500 else _INFORMATIONAL


def syslog_message(convert: Convert | None, *, host: str, pid: int) -> Encode:
    """Return what makes messages of RFC 5424 whose text is the line; ``host`` and ``pid`` are the sender's."""
    name = "".join(c for c in host if "!" <= c <= "~")[:255] or "-"

    def encode(line: bytes) -> bytes:
        entry = orjson.loads(line)
        head = f"<{_FACILITY * 8 + _severity(entry)}>1 {entry['time']} {name} {_APP} {pid} access - "
        return head.encode("ascii") + (convert(line) if convert is not None else line)

    return encode


def journal_message(convert: Convert | None) -> Encode:
    """Return what makes entries of journald's native protocol: the line as MESSAGE, and a field for each value."""

    def encode(line: bytes) -> bytes:
        entry = orjson.loads(line)
        fields = {
            "MESSAGE": convert(line) if convert is not None else line,
            "PRIORITY": str(_severity(entry)).encode(),
            "SYSLOG_IDENTIFIER": _APP.encode(),
        }
        for name, value in entry.items():
            if value is not None and value != "":
                fields[f"PASSERELLE_{name.upper()}"] = str(value).encode()
        # Each value with its length, so that none can begin a field of its own.
        return b"".join(
            name.encode("ascii") + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
            for name, value in fields.items()
        )

    return encode


class SocketTarget:
    """A socket that messages are sent to; it is opened when it is needed.

    ``kind`` is ``udp``, ``tcp``, ``unix`` (a datagram or stream socket) or ``journald``. Messages on streams are
    preceded by their length (RFC 6587 §3.4.1).
    """

    def __init__(self, kind: str, host: str, port: int, timeout: float = _TIMEOUT_SECONDS) -> None:
        self._kind, self._host, self._port, self._timeout = kind, host, port, timeout
        self._socket: socket.socket | None = None

    def __str__(self) -> str:
        if self._kind == "journald":
            return f"journald:{self._host}"
        where = f":{self._host}" if self._kind == "unix" else f"://{self._host}:{self._port}"
        return f"syslog+{self._kind}{where}"

    def send(self, message: bytes) -> None:
        """Send ``message`` as a whole. :raises OSError: if that failed; the next call opens the socket again."""
        try:
            if self._socket is None:
                self._socket = self._open()
            if self._socket.type == socket.SOCK_STREAM:
                self._reject_closed(self._socket)
                self._socket.sendall(b"%d " % len(message) + message)
            else:
                self._socket.send(message)
        except OSError:
            self.close()
            raise

    def _open(self) -> socket.socket:
        if self._kind == "tcp":
            return socket.create_connection((self._host, self._port), self._timeout)
        if self._kind == "udp":
            family, kind, proto, _, address = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)[0]
            return self._connected(socket.socket(family, kind, proto), address)
        try:
            return self._connected(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), self._host)
        except OSError:
            if self._kind == "journald":
                raise
        return self._connected(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), self._host)

    def _connected(self, sock: socket.socket, address: str | tuple[Any, ...]) -> socket.socket:
        try:
            sock.settimeout(self._timeout)
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        return sock

    @staticmethod
    def _reject_closed(sock: socket.socket) -> None:
        """Detect the end of the stream, after which the kernel would still accept one message and lose it."""
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        if poll.poll(0) and not sock.recv(4096):
            raise ConnectionResetError("the server has closed the connection")

    def close(self) -> None:
        """Close the socket, if it is open."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class QueuedSink:
    """Sends lines to ``target`` in a thread of its own; ``encode`` makes the messages, in that thread.

    The methods are those of :class:`.log_sink.LogSink`. At most ``limit`` bytes of lines wait.
    """

    def __init__(
        self,
        target: SocketTarget,
        encode: Encode,
        *,
        limit: int = LIMIT_BYTES,
        warn: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        retry: float = _RETRY_SECONDS,
    ) -> None:
        self._target = target
        self._encode = encode
        self._limit = limit
        self._warn = warn or to_stderr
        self._clock = clock
        self._retry = retry
        self._changed = threading.Condition()
        # Guarded by the condition:
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._sent = self._dropped = 0
        self._closing = self._abandoned = False
        # Of the thread alone:
        self._reported = 0
        self._quiet_until = float("-inf")
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def put(self, lines: list[bytes], size: int) -> None:
        """Take over complete lines, ``size`` bytes in total; drop them if too many wait."""
        with self._changed:
            if self._closing or self._waiting_bytes + size > self._limit:
                self._dropped += len(lines)
                return
            self._waiting.extend(lines)
            self._waiting_bytes += size
            self._changed.notify()

    def reopen(self) -> None:
        """Do nothing: a socket that has broken is opened again by itself."""

    def counts(self) -> tuple[int, int]:
        """Return the number of lines sent and of lines dropped."""
        with self._changed:
            return self._sent, self._dropped

    def close(self, timeout: float) -> None:
        """Send waiting lines for at most ``timeout`` seconds, and drop the rest."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        with self._changed:
            self._abandoned = True
            self._dropped += len(self._waiting)
            self._waiting.clear()
            self._changed.notify()

    def _run(self) -> None:
        try:
            self._send_all()
        finally:
            self._target.close()

    def _send_all(self) -> None:
        while (line := self._next()) is not None:
            try:
                message = self._encode(line.rstrip(b"\n"))
            except (KeyError, ValueError) as error:  # a defect of ours: the line is lost, and the log goes on
                self._warn_once(f"a line cannot be converted: {error}")
                self._taken(line, sent=False)
                continue
            while not self._try(message):
                with self._changed:
                    # Closing does not end the pause: the server would be tried in a tight loop.
                    self._changed.wait_for(lambda: self._abandoned, self._retry)
                    if self._abandoned:
                        return
            self._taken(line)

    def _next(self) -> bytes | None:
        """Return the oldest line, which stays in the queue until it is sent; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            return self._waiting[0] if self._waiting else None

    def _taken(self, line: bytes, *, sent: bool = True) -> None:
        with self._changed:
            if self._waiting:  # close() has dropped it otherwise
                self._waiting.popleft()
                self._waiting_bytes -= len(line)
                self._sent += sent
                self._dropped += not sent
            dropped = self._dropped
        if dropped > self._reported and self._warn_once("could not keep up"):
            self._reported = dropped

    def _try(self, message: bytes) -> bool:
        try:
            self._target.send(message)
        except (OSError, UnicodeError) as error:  # IDNA refuses some names with a UnicodeError
            self._warn_once(getattr(error, "strerror", None) or str(error) or type(error).__name__)
            return False
        return True

    def _warn_once(self, what: str) -> bool:
        now = self._clock()
        if now < self._quiet_until:
            return False
        self._quiet_until = now + _WARN_SECONDS
        self._warn(f"access log ({self._target}): {what}; {self.counts()[1]} lines dropped so far")
        return True


def host_and_pid() -> tuple[str, int]:
    """Return the name of this machine and the id of this process, for the head of syslog messages."""
    return socket.gethostname(), os.getpid()

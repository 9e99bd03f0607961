"""Clients for what wrk cannot do: single bodies of any size, and thousands of idle connections."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from contextlib import ExitStack
from typing import BinaryIO, Self

from benchmarks.rig.ports import LOOPBACK
from benchmarks.rig.server import RigError

_HEAD_END = b"\r\n\r\n"
_CHUNK = 1 << 18
_SECONDS = 60.0
# Close with a reset: the ports of ten thousand closed connections would otherwise stay in use for another minute.
_RESET = struct.pack("ii", 1, 0)


class Answer:
    """Head of a response, and the number of body bytes that arrived with it."""

    def __init__(self, head: bytes, early: int):
        status_line, *fields = head.split(b"\r\n")
        self.status = int(status_line.split(b" ", 2)[1])
        self.early = early
        self.length: int | None = None
        for name, _, value in (field.partition(b":") for field in fields):
            if name.lower() == b"content-length":
                self.length = int(value)


def request_head(method: str, path: str, headers: Mapping[str, str]) -> bytes:
    """Return a request head in bytes, with a Host."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {LOOPBACK}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def read_answer(connection: socket.socket, buffer: memoryview) -> Answer:
    """Read a head, possibly with the start of its body. Raises ``RigError`` if the connection ends first."""
    got = b""
    while _HEAD_END not in got:
        count = connection.recv_into(buffer)
        if not count:
            raise RigError(f"the connection ended within a head: {got[:200]!r}")
        got += bytes(buffer[:count])
    head, _, body = got.partition(_HEAD_END)
    return Answer(head, len(body))


def _skip_body(connection: socket.socket, answer: Answer, buffer: memoryview) -> int:
    """Read the rest of a body of known length; return its length. Raises ``RigError`` if it is truncated."""
    if answer.length is None:
        raise RigError("a response without Content-Length")
    received = answer.early
    while received < answer.length:
        count = connection.recv_into(buffer)
        if not count:
            raise RigError(f"a body of {answer.length} bytes ended after {received}")
        received += count
    return received


def _connect(port: int) -> socket.socket:
    return socket.create_connection((LOOPBACK, port), timeout=_SECONDS)


def download(port: int, path: str, headers: Mapping[str, str]) -> int:
    """GET ``path`` and discard its body; return its length. Raises ``RigError`` unless it is a complete 200."""
    buffer = memoryview(bytearray(_CHUNK))
    with _connect(port) as connection:
        connection.sendall(request_head("GET", path, headers))
        answer = read_answer(connection, buffer)
        _check(answer)
        return _skip_body(connection, answer, buffer)


def upload(port: int, path: str, headers: Mapping[str, str], file: BinaryIO, size: int) -> int:
    """PUT the first ``size`` bytes of an open file, sent by the kernel; return ``size``.

    Raises ``RigError`` unless the whole body is received and the response is 200.
    """
    buffer = memoryview(bytearray(_CHUNK))
    with _connect(port) as connection:
        connection.sendall(request_head("PUT", path, {**headers, "Content-Length": str(size)}))
        try:
            connection.sendfile(file, 0, size)
        except OSError as error:
            raise RigError(f"an upload of {size} bytes was cut short: {error}") from error
        answer = read_answer(connection, buffer)
        _check(answer)
        _skip_body(connection, answer, buffer)
        return size


def _check(answer: Answer) -> None:
    if answer.status != 200:
        raise RigError(f"answered with {answer.status}")


class IdleConnections:
    """Many persistent connections to one server, each used for one request on demand."""

    def __init__(self, port: int, count: int):
        self._stack = ExitStack()
        self._sockets: list[socket.socket] = []
        try:
            for _ in range(count):
                connection = self._stack.enter_context(_connect(port))
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                self._sockets.append(connection)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def ask_each(self, path: str, headers: Mapping[str, str]) -> int:
        """GET ``path`` once on each connection in turn; return how many responses were not 200."""
        head = request_head("GET", path, headers)
        buffer = memoryview(bytearray(_CHUNK))
        wrong = 0
        for connection in self._sockets:
            connection.sendall(head)
            answer = read_answer(connection, buffer)
            _skip_body(connection, answer, buffer)
            wrong += answer.status != 200
        return wrong

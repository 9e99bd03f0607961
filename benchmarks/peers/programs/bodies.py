"""Upstream of the scenario ``bodies``: sends and receives bodies of any size at minimal CPU cost.

Usage: ``bodies.py PORT FILE``, where ``FILE`` is as large as the largest requested body. The response to ``GET /N`` is
the file's first N bytes, sent by the kernel; any other request is read to its end and gets ``{"received": N}``. A
request with a body must have a Content-Length: this is a tool for the rig, not a general server.
"""

from __future__ import annotations

import os
import socket
import sys
import threading

PORT, FILE = int(sys.argv[1]), sys.argv[2]
HEAD_END = b"\r\n\r\n"
CHUNK = 1 << 20


def serve(connection: socket.socket, source: int) -> None:
    """Handle one request after another until the client closes the connection."""
    buffer = memoryview(bytearray(CHUNK))
    with connection:
        pending = b""
        while True:
            while HEAD_END not in pending:
                more = connection.recv(65_536)
                if not more:
                    return
                pending += more
            head, _, body = pending.partition(HEAD_END)
            pending = b""
            first, *fields = head.split(b"\r\n")
            method, target, _version = first.split(b" ")
            headers = {name.lower(): value.strip() for name, _, value in (field.partition(b":") for field in fields)}
            if b"transfer-encoding" in headers:
                connection.sendall(b"HTTP/1.1 411 Length Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            length = int(headers.get(b"content-length", b"0"))
            received = len(body)
            while received < length:
                count = connection.recv_into(buffer)
                if not count:
                    return
                received += count
            if method == b"GET":
                send_file(connection, source, int(target[1:]))
            else:
                answer = b'{"received": %d}' % received
                connection.sendall(_head(len(answer)) + answer)


def send_file(connection: socket.socket, source: int, size: int) -> None:
    connection.sendall(_head(size))
    offset = 0
    while offset < size:
        offset += os.sendfile(connection.fileno(), source, offset, size - offset)


def _head(length: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n" % length


def main() -> None:
    source = os.open(FILE, os.O_RDONLY)
    listener = socket.create_server(("127.0.0.1", PORT), backlog=1024)
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(connection, source), daemon=True).start()


if __name__ == "__main__":
    main()

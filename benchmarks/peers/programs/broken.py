"""A service with a fault: ``python broken.py PORT hang|reset|huge``.

It never responds, resets each connection after a request, or responds with 1 GiB of JSON that never closes.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import threading

HUGE = 1 << 30
_PIECE = bytes(1 << 16)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % HUGE


def serve(listener: socket.socket, fault: str) -> None:
    """Accept connections, each with the fault."""
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=respond, args=(connection, fault), daemon=True).start()


def respond(connection: socket.socket, fault: str) -> None:
    """Respond to one request: properly to ``/ready``, otherwise with the fault."""
    with contextlib.suppress(OSError), connection:
        request = connection.recv(65536)
        if request.startswith(b"GET /ready "):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        elif fault == "hang":
            connection.recv(65536)  # until the gateway closes the connection
        elif fault == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            connection.sendall(_HEAD)
            for _ in range(HUGE // len(_PIECE)):
                connection.sendall(_PIECE)


if __name__ == "__main__":
    serve(socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=1024), sys.argv[2])

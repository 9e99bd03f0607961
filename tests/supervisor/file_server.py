"""Serve the files of the current folder: ``python -S file_server.py PORT``, and nothing for ``/``.

Like ``python -m http.server``, whose import takes four times as long; the tests start more than a hundred servers.
"""

import _thread
import os
import socket
import sys

REASONS = {200: "OK", 404: "Not Found"}


def serve(connection: socket.socket) -> None:
    """Respond to the requests of one connection."""
    with connection:
        while head := connection.recv(65536):
            path = head.split(b" ", 2)[1].partition(b"?")[0].decode("latin-1").removeprefix("/")
            status, body = 200, b""
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    body = file.read()
            elif path:
                status = 404
            fields = f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(fields.encode() + body)


def main(port: int) -> None:
    """Listen on ``port`` of 127.0.0.1 until the process is ended."""
    listener = socket.create_server(("127.0.0.1", port))
    print(f"Serving HTTP on 127.0.0.1 port {port}")  # not flushed: the supervisor must not hold it back
    while True:
        _thread.start_new_thread(serve, (listener.accept()[0],))


if __name__ == "__main__":
    main(int(sys.argv[1]))

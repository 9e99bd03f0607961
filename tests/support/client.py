"""Raw HTTP client: it writes the given bytes and reads strictly (see :mod:`tests.support.wire`)."""

from __future__ import annotations

import socket

from tests.support.wire import DEADLINE, Closed, Response, Wire


class Client(Wire):
    """One connection to the gateway."""

    def __init__(self, port: int, *, receive_buffer: int | None = None, host: str = "127.0.0.1") -> None:
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(DEADLINE)
        try:
            sock.connect((host, port))
        except OSError:
            sock.close()
            raise
        super().__init__(sock)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(
        self,
        method: str = "GET",
        target: str = "/",
        *fields: tuple[str, str],
        body: bytes | None = None,
        within: float = DEADLINE,
    ) -> Response:
        """Send one ordinary request (``Host: gw``) and read its response; ``body`` adds a Content-Length."""
        self.send(head(method, target, *fields, length=None if body is None else len(body)) + (body or b""))
        return self.read_response(method, within)

    def rest_or_response(self) -> int:
        """Return the status of the next response, or 0 if the connection was closed instead."""
        try:
            return self.read_response().status
        except (Closed, OSError):
            return 0


def head(method: str = "GET", target: str = "/", *fields: tuple[str, str], length: int | None = None) -> bytes:
    """Return the bytes of a plain request head."""
    lines = [f"{method} {target} HTTP/1.1", "Host: gw", *(f"{name}: {value}" for name, value in fields)]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def chunks(*parts: bytes, last: bytes = b"0\r\n\r\n") -> bytes:
    """Return the parts in the chunked coding."""
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part) + last

"""Slow-loris clients: each sends one more byte of a request head from time to time, and reconnects when refused."""

from __future__ import annotations

import select
import socket
import threading
from typing import Self

from benchmarks.rig.ports import LOOPBACK
from benchmarks.rig.server import RigError
from benchmarks.rig.sockets import request_head

_SECONDS = 60.0  # timeout for connecting
_TICKS = 20  # rounds per period: the bytes are spread over it
_JOIN_SECONDS = 30.0


class SlowClients:
    """``count`` connections to one server that each send a byte every ``period`` seconds while the block runs.

    ``refused`` counts the connections that the server closed; each is replaced, so there are always ``count``.
    """

    def __init__(self, port: int, count: int, path: str, period: float = 1.0):
        self._port = port
        self._count = count
        self._begin = request_head("GET", path, {})[:-2] + b"X-Slow: "
        self._period = period
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._drip, daemon=True)
        self._clients: list[socket.socket] = []
        self._failure: OSError | None = None
        self.refused = 0

    def __enter__(self) -> Self:
        try:
            for _ in range(self._count):
                self._clients.append(self._connect())
        except BaseException:
            self._close()
            raise
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(_JOIN_SECONDS)
        self._close()
        if self._failure is not None:
            raise RigError(f"slow clients could not connect again: {self._failure}")

    def _close(self) -> None:
        for client in self._clients:
            client.close()

    def _connect(self) -> socket.socket:
        client = socket.create_connection((LOOPBACK, self._port), timeout=_SECONDS)
        client.sendall(self._begin)
        client.setblocking(False)
        return client

    def _drip(self) -> None:
        number = 0
        while not self._stop.wait(self._period / _TICKS):
            for index in range(number % _TICKS, self._count, _TICKS):
                try:
                    self._send(index)
                except OSError as error:
                    self._failure = error
                    return
            number += 1

    def _send(self, index: int) -> None:
        """Send one more byte, or reconnect if the server responded or closed the connection."""
        client = self._clients[index]
        if not _ended(client):
            try:
                client.send(b"x")
                return
            except OSError:
                pass  # just closed
        self.refused += 1
        client.close()
        self._clients[index] = self._connect()


def _ended(client: socket.socket) -> bool:
    """Return whether the socket has received data or the end of the stream."""
    poll = select.poll()
    poll.register(client, select.POLLIN)
    return bool(poll.poll(0))

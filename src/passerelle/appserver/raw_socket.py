"""The socket of a WSGI connection, for applications with WebSockets.

WSGI has no WebSockets. Packages such as simple-websocket (below flask-sock and Flask-SocketIO) take the socket of the
server from the environ and speak the protocol themselves, in the thread of the call.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any

KEY = "werkzeug.socket"
"""The key of the environ. With that of gunicorn, applications would end with an exception for gunicorn."""


class RawSocket(socket.socket):
    """A second descriptor of the connection ``fd``. ``taken`` is whether the application has used it.

    Both descriptors share one mode. It is blocking from the first use on, and from then on the event loop leaves the
    connection alone.
    """

    taken = False

    @classmethod
    def of(cls, fd: int) -> RawSocket:
        """Return another descriptor of the socket ``fd``. :raises OSError: if there is none left."""
        return cls(fileno=os.dup(fd))

    def _take(self) -> None:
        if not self.taken:
            self.taken = True
            os.set_blocking(self.fileno(), True)

    def send(self, *arguments: Any) -> int:
        """Send as socket.socket does."""
        self._take()
        return super().send(*arguments)

    def sendall(self, *arguments: Any) -> None:
        """Send as socket.socket does."""
        self._take()
        super().sendall(*arguments)

    def recv(self, *arguments: Any) -> bytes:
        """Receive as socket.socket does."""
        self._take()
        return super().recv(*arguments)

    def recv_into(self, *arguments: Any) -> int:
        """Receive as socket.socket does."""
        self._take()
        return super().recv_into(*arguments)

    def end_input(self) -> None:
        """Let the application read the end of the connection, also while it waits in another thread."""
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_RD)

    def end(self) -> None:
        """End the connection, also for threads that wait for it."""
        if self.fileno() >= 0:
            if self.taken:
                with contextlib.suppress(OSError):
                    self.shutdown(socket.SHUT_RDWR)
            self.close()

"""The bound sockets that the supervisor passes to a worker while it runs (SCM_RIGHTS, unix(7))."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping, Sequence

from passerelle.errors import CannotStart
from passerelle.gateway.endpoints import BoundSocket

_KEY_BYTES = 20


class SocketSender:
    """The supervisor's side. Each socket is sent once, before the message of the control channel that names its key."""

    def __init__(self, channel: socket.socket, known: Iterable[int]) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._known = set(known)

    def send(self, sockets: Iterable[BoundSocket]) -> None:
        """Send the sockets that the worker does not have. :raises OSError: if the worker reads none."""
        for _, key, sock in sockets:
            if key not in self._known:
                socket.send_fds(self._channel, [b"%d" % key], [sock.fileno()])
                self._known.add(key)

    def keep(self, sockets: Iterable[BoundSocket]) -> None:
        """Note that the worker has closed all sockets but these: a closed one is sent again when it is needed."""
        self._known = {key for _, key, _ in sockets}

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


class ReceivedSockets:
    """The worker's side: ``given`` are the descriptors that it was started with, by key."""

    def __init__(self, given: Mapping[int, int], channel: int) -> None:
        self._sockets = {key: socket.socket(fileno=descriptor) for key, descriptor in given.items()}
        self._channel = socket.socket(fileno=channel)
        self._channel.setblocking(False)

    def select(self, wanted: Sequence[Sequence[int]]) -> list[BoundSocket]:
        """Return the sockets of ``wanted``, pairs of the index of a listener and a key.

        :raises CannotStart: if a socket was not received.
        """
        # Those after the last wanted one belong to a later message, which is not to lose them to close_others().
        missing = {key for _, key in wanted} - self._sockets.keys()
        while missing:
            received = self._receive()
            if not received:
                raise CannotStart(f"the socket {min(missing)} was not received")
            missing -= received
        return [BoundSocket(index, key, self._sockets[key]) for index, key in wanted]

    def close_others(self, wanted: Sequence[Sequence[int]]) -> None:
        """Close all sockets but those of ``wanted``."""
        kept = {key for _, key in wanted}
        for key in self._sockets.keys() - kept:
            self._sockets.pop(key).close()

    def _receive(self) -> set[int]:
        """Take the next socket, and return its key. Nothing is returned if there is none, or no supervisor any more."""
        try:
            text, descriptors, _, _ = socket.recv_fds(self._channel, _KEY_BYTES, 1)
        except BlockingIOError:
            return set()
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
            self._sockets[int(text)] = socket.socket(fileno=descriptor)
        return {int(text)} if descriptors else set()

"""Faulty Redis: a proxy to a real Redis that forwards traffic until a test configures a fault.

The proxy splits the traffic into commands and replies (RESP 2 and 3), so a fault affects complete replies to chosen
commands. A connection that a fault has silenced stays silent: after :meth:`behave`, only new connections work.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

Words = Sequence[bytes]
When = Callable[[Words], bool]

_STEP: Final = 0.05
_DRIP: Final = 0.05
_RESET: Final = b"\x01\0\0\0\0\0\0\0"
_SIMPLE: Final = b"+-:_#,("
_BULK: Final = b"$!="
_MANY: Final = {b"*"[0]: 1, b"~"[0]: 1, b">"[0]: 1, b"%"[0]: 2}


def always(words: Words) -> bool:
    """Match every command, including those that set up a connection."""
    return True


_OF_REQUESTS = re.compile(rb"passerelle:1:(limits:(?!gateways)|session:|keys:|logins:|[a-z]+:[eld]:)")


def later(words: Words) -> bool:
    """Match the commands of requests: connections can be set up, but are of no use."""
    return any(_OF_REQUESTS.match(word) for word in words)


def subscriptions(words: Words) -> bool:
    """Match subscriptions and published messages."""
    return words[0] == b"SUBSCRIBE"


class Link:
    """One connection of a client. A fault is called with the link and the reply that would have been forwarded."""

    def __init__(self, door: BadRedis, client: socket.socket) -> None:
        self.silent = False
        self._door = door
        self._client = client
        self._redis = socket.create_connection(("127.0.0.1", door.behind))
        self._commands: deque[list[bytes]] = deque()
        self._over = False

    def send(self, data: bytes) -> None:
        """Send data to the client."""
        self._client.sendall(data)

    def drip(self, data: bytes) -> None:
        """Send data to the client slowly, one byte at a time."""
        for byte in data:
            self.send(bytes([byte]))
            if self._door.closing.wait(_DRIP):
                return

    def flood(self, data: bytes, most: int) -> None:
        """Send data to the client repeatedly, as long as the client reads."""
        sent = 0
        while sent < most and not self._door.closing.is_set():
            self.send(data)
            sent += len(data)

    def close(self, *, reset: bool = False) -> None:
        """Close the connection."""
        self._over = True
        if reset:
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def run(self) -> None:
        """Forward data until either side closes."""
        asked, answered = bytearray(), bytearray()
        with self._client, self._redis, contextlib.suppress(OSError):
            while not self._over and not self._door.closing.is_set():
                for ready in select.select([self._client, self._redis], [], [], _STEP)[0]:
                    data = ready.recv(1 << 16)
                    if not data:
                        return
                    if ready is self._client:
                        asked += data
                        self._commands += map(_words, _frames(asked))
                        self._redis.sendall(data)
                    else:
                        answered += data
                        for answer in _frames(answered):
                            self._answer(answer)

    def _answer(self, answer: bytes) -> None:
        # Published messages follow the reply to a subscription.
        command = self._commands[0]
        if command[0] != b"SUBSCRIBE":
            self._commands.popleft()
        if self.silent or self._over:
            return
        fault, when = self._door.fault, self._door.when
        if fault is not None and when(command):
            self._door.faults += 1
            fault(self, answer)
        else:
            self.send(answer)


Fault = Callable[[Link, bytes], None]


class BadRedis:
    """Proxy to the Redis on port ``behind``. ``faults`` counts the faults applied to its clients."""

    def __init__(self, behind: int) -> None:
        self.behind = behind
        self.fault: Fault | None = None
        self.when: When = always
        self.hangs_up = False
        self.faults = 0
        self.closing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def misbehave(self, fault: Fault, when: When = always) -> None:
        """From now on, apply ``fault`` to the replies to commands that ``when`` matches."""
        self.when, self.fault = when, fault

    def hang_up(self) -> None:
        """From now on, close every new connection at once."""
        self.hangs_up = True

    def behave(self) -> None:
        """Stop all faults."""
        self.fault, self.hangs_up = None, False

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.hangs_up:
                self.faults += 1
                client.close()
                continue
            thread = threading.Thread(target=Link(self, client).run, daemon=True)
            thread.start()
            self._threads = [each for each in self._threads if each.is_alive()] + [thread]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)


# ---- faults


def never(link: Link, answer: bytes) -> None:
    """Send no reply on this connection, now or later."""
    link.silent = True


def half(link: Link, answer: bytes) -> None:
    """Send half of the reply."""
    link.send(answer[: len(answer) // 2])
    link.silent = True


def closes(link: Link, answer: bytes) -> None:
    """Close the connection."""
    link.close()


def closes_within(link: Link, answer: bytes) -> None:
    """Close the connection in the middle of a reply."""
    link.send(answer[: len(answer) // 2])
    link.close()


def resets_within(link: Link, answer: bytes) -> None:
    """Reset the connection in the middle of a reply."""
    link.send(answer[: len(answer) // 2])
    link.close(reset=True)


def drips(link: Link, answer: bytes) -> None:
    """Send the reply a byte at a time."""
    link.drip(answer)


def floods(link: Link, answer: bytes) -> None:
    """Announce half a gigabyte and begin to send it."""
    link.send(b"$536870911\r\n")
    link.flood(b"x" * (1 << 16), 536_870_911)
    link.silent = True


def twice(link: Link, answer: bytes) -> None:
    """Send the reply twice, so that each later reply answers an earlier command."""
    link.send(answer * 2)


def says(text: bytes, *, then_silent: bool = False) -> Fault:
    """Send this text in place of the reply."""

    def say(link: Link, answer: bytes) -> None:
        link.send(text)
        link.silent = then_silent

    return say


# ---- RESP


def _end(data: bytearray, at: int) -> int:
    """Return the end of the frame that begins at ``at``, or -1 if the frame is incomplete."""
    line = data.find(b"\r\n", at)
    if line < 0:
        return -1
    kind, end = data[at], line + 2
    if kind in _SIMPLE:
        return end
    size = int(data[at + 1 : line])
    if kind in _BULK:
        end += size + 2 if size >= 0 else 0
        return end if end <= len(data) else -1
    for _ in range(max(size, 0) * _MANY[kind]):
        end = _end(data, end) if end < len(data) else -1
        if end < 0:
            return -1
    return end


def _frames(data: bytearray) -> list[bytes]:
    """Return the complete frames in ``data``, which keeps the rest."""
    found: list[bytes] = []
    at = 0
    while at < len(data) and (end := _end(data, at)) >= 0:
        found.append(bytes(data[at:end]))
        at = end
    del data[:at]
    return found


def _words(command: bytes) -> list[bytes]:
    words: list[bytes] = []
    at = command.index(b"\r\n") + 2
    while at < len(command):
        line = command.index(b"\r\n", at)
        end = line + 2 + int(command[at + 1 : line])
        words.append(command[line + 2 : end])
        at = end + 2
    return words

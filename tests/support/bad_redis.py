"""A Redis that misbehaves: a door to a real one, which passes on what is said until a test tells it to do worse.

What goes through it is cut into commands and answers (RESP 2 and 3), so a fault happens to whole answers of chosen
commands. A connection that a fault has silenced stays silent: only a new one is well again after :meth:`behave`.
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
    """Every command, those with which a client begins a connection included."""
    return True


_OF_REQUESTS = re.compile(rb"passerelle:1:(limits:(?!gateways)|session:|keys:|logins:|[a-z]+:[eld]:)")


def later(words: Words) -> bool:
    """What requests cause: a connection comes to stand, and is of no use."""
    return any(_OF_REQUESTS.match(word) for word in words)


def subscriptions(words: Words) -> bool:
    """What is published, and that it will be."""
    return words[0] == b"SUBSCRIBE"


class Link:
    """One connection of a client. Faults are told the link and the answer that would have been passed on."""

    def __init__(self, door: BadRedis, client: socket.socket) -> None:
        self.silent = False
        self._door = door
        self._client = client
        self._redis = socket.create_connection(("127.0.0.1", door.behind))
        self._commands: deque[list[bytes]] = deque()
        self._over = False

    def send(self, data: bytes) -> None:
        """To the client."""
        self._client.sendall(data)

    def drip(self, data: bytes) -> None:
        """To the client, slowly, one byte at a time."""
        for byte in data:
            self.send(bytes([byte]))
            if self._door.closing.wait(_DRIP):
                return

    def flood(self, data: bytes, most: int) -> None:
        """To the client, again and again, for as long as it takes it."""
        sent = 0
        while sent < most and not self._door.closing.is_set():
            self.send(data)
            sent += len(data)

    def close(self, *, reset: bool = False) -> None:
        """End the connection."""
        self._over = True
        if reset:
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def run(self) -> None:
        """Pass on, until either side closes."""
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
        # Behind a subscription comes whatever is published.
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
    """The door to the Redis on port ``behind``. ``faults`` counts what was done to its clients."""

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
        """From now on, ``fault`` happens to the answers to the commands that are chosen by ``when``."""
        self.when, self.fault = when, fault

    def hang_up(self) -> None:
        """From now on, every new connection is closed at once."""
        self.hangs_up = True

    def behave(self) -> None:
        """Be well again."""
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


# ---- what it can do


def never(link: Link, answer: bytes) -> None:
    """It does not answer, and never will on this connection."""
    link.silent = True


def half(link: Link, answer: bytes) -> None:
    """It says half of it."""
    link.send(answer[: len(answer) // 2])
    link.silent = True


def closes(link: Link, answer: bytes) -> None:
    """It ends the connection."""
    link.close()


def closes_within(link: Link, answer: bytes) -> None:
    """It ends the connection in the middle of an answer."""
    link.send(answer[: len(answer) // 2])
    link.close()


def resets_within(link: Link, answer: bytes) -> None:
    """The same by a reset."""
    link.send(answer[: len(answer) // 2])
    link.close(reset=True)


def drips(link: Link, answer: bytes) -> None:
    """It says it a byte at a time."""
    link.drip(answer)


def floods(link: Link, answer: bytes) -> None:
    """It says that half a gigabyte comes, and begins to send it."""
    link.send(b"$536870911\r\n")
    link.flood(b"x" * (1 << 16), 536_870_911)
    link.silent = True


def twice(link: Link, answer: bytes) -> None:
    """It says it twice: every later answer is that to an earlier command."""
    link.send(answer * 2)


def says(text: bytes, *, then_silent: bool = False) -> Fault:
    """It says this in the place of the answer."""

    def say(link: Link, answer: bytes) -> None:
        link.send(text)
        link.silent = then_silent

    return say


# ---- RESP


def _end(data: bytearray, at: int) -> int:
    """Where the frame that begins at ``at`` ends; -1 when it is not whole."""
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
    """The whole frames in ``data``, which keeps the rest."""
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

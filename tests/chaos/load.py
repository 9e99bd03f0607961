"""Constant load of GETs on many connections, in a thread with its own event loop.

Every connection sends a request, waits for the complete response, pauses, and repeats. Every response except 200 is a
failure, and so are a connection that ends before its response and a missing response. A connection may be closed
between two responses (RFC 9112 §9.6): it is replaced by a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter

LIMIT = 25.0  # seconds until a response times out


class Load:
    """``connections`` clients of ``port``, each requesting ``path`` every ``pause`` seconds.

    Without ``keep``, each request has a connection of its own.
    """

    def __init__(
        self, port: int, path: str = "/", *, connections: int = 32, pause: float = 0.05, keep: bool = True
    ) -> None:
        self.failures: list[str] = []
        self.bodies: Counter[bytes] = Counter()
        self.slowest = 0.0
        self.times: list[float] = []
        self._port = port
        option = "" if keep else "Connection: close\r\n"
        self._request = f"GET {path} HTTP/1.1\r\nHost: gw\r\n{option}\r\n".encode()
        self._connections = connections
        self._pause = pause
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()), daemon=True)

    @property
    def answered(self) -> int:
        """Return the number of good responses so far."""
        return sum(self.bodies.values())

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(LIMIT + 5)

    async def _all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._connections):
                group.create_task(self._client(number))

    async def _client(self, number: int) -> None:
        await asyncio.sleep(self._pause * number / self._connections)
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self._stopping.is_set():
            begun = time.monotonic()
            try:
                async with asyncio.timeout(LIMIT):
                    if streams is None:
                        streams = await asyncio.open_connection("127.0.0.1", self._port)
                    keep = await self._ask(*streams)
            except (OSError, TimeoutError, EOFError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                keep = False
            self.times.append(time.monotonic() - begun)
            self.slowest = max(self.slowest, self.times[-1])
            if not keep and streams is not None:
                streams[1].close()
                streams = None
            await asyncio.sleep(self._pause)
        if streams is not None:
            streams[1].close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Send one request; return whether the connection stays open."""
        writer.write(self._request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        if head.startswith(b"http/1.1 200 "):
            self.bodies[body] += 1
        else:
            self.failures.append(f"{head[:40]!r} {body!r}")
        return b"connection: close" not in head


def percentile(times: list[float], part: float) -> float:
    """Return the time that ``part`` of the responses do not exceed."""
    with contextlib.suppress(IndexError):
        return sorted(times)[int(len(times) * part)]
    return 0.0

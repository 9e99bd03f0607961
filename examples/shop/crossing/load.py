"""Visitors of the shop: requests at a steady rate, whatever the responses do, and what each visitor saw."""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import quantiles

from crossing.services import SERVED_BY

CONNECTIONS = 48
USERS, PRODUCTS = 10_000, 1_000
_FIELD = SERVED_BY.lower().encode() + b":"
COMPOSED = "gateway"
"""Who has served a response without the field of a service: the gateway has joined it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request. ``seconds`` count from the time at which it was due; ``status`` is 0 without a response."""

    at: float
    visitor: int
    kind: str
    status: int
    seconds: float
    served_by: str


@dataclass(slots=True)
class Figures:
    """What happened in some seconds."""

    requests: int = 0
    failed: int = 0
    p50: float = 0.0  # milliseconds
    p99: float = 0.0
    served_by: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> Figures:
        """Summarize ``outcomes``."""
        found = list(outcomes)
        if not found:
            return cls()
        times = sorted(outcome.seconds * 1000 for outcome in found)
        cuts = quantiles(times, n=100, method="inclusive") if len(times) > 1 else times * 99
        served = Counter(outcome.served_by for outcome in found if outcome.status == 200)
        failed = sum(outcome.status != 200 for outcome in found)
        return cls(len(found), failed, round(cuts[49], 1), round(cuts[98], 1), dict(served.most_common()))


class Visitors:
    """Sends requests from a thread of its own until it is closed."""

    def __init__(self, port: int, rate: int, visitors: int, kinds: tuple[str, ...], seed: int = 1) -> None:
        self.outcomes: list[Outcome] = []
        self._port = port
        self._rate = rate
        self._visitors = visitors
        self._kinds = kinds
        self._random = random.Random(seed)
        self._end = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Visitors:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(15)

    def between(self, begin: float, end: float = math.inf) -> list[Outcome]:
        """Return the outcomes of the requests that were due between two times of ``time.monotonic()``."""
        return [outcome for outcome in list(self.outcomes) if begin <= outcome.at < end]

    async def _run(self) -> None:
        due: asyncio.Queue[float | None] = asyncio.Queue()
        workers = [asyncio.create_task(self._work(due)) for _ in range(CONNECTIONS)]
        following = time.monotonic()
        while not self._end.is_set():
            await asyncio.sleep(max(0.0, following - time.monotonic()))
            due.put_nowait(following)
            following += 1 / self._rate
        for _ in workers:
            due.put_nowait(None)
        await asyncio.gather(*workers)

    async def _work(self, due: asyncio.Queue[float | None]) -> None:
        """Send one request after the other over one connection, which is opened again after a failure."""
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while (at := await due.get()) is not None:
            visitor, kind = self._random.randrange(self._visitors), self._random.choice(self._kinds)
            user, product = self._random.randint(1, USERS), self._random.randint(1, PRODUCTS)
            path = {"user": f"/user/{user}", "product": f"/product/{product}", "api": f"/api/{user}/{product}"}[kind]
            status, served_by = 0, ""
            try:
                async with asyncio.timeout(10):
                    if streams is None:
                        streams = await asyncio.open_connection("127.0.0.1", self._port)
                    status, served_by = await _exchange(*streams, path, visitor)
            except (OSError, asyncio.IncompleteReadError, ValueError):
                if streams is not None:
                    streams[1].close()
                streams = None
            self.outcomes.append(Outcome(at, visitor, kind, status, time.monotonic() - at, served_by))
        if streams is not None:
            streams[1].close()


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, visitor: int
) -> tuple[int, str]:
    """Send a request; return the status, and the name of the service that has responded."""
    address = f"10.0.{visitor >> 8}.{visitor & 255}"
    fields = f"Host: shop.example\r\nCookie: visitor={visitor}\r\nX-Forwarded-For: {address}\r\n"
    writer.write(f"GET {path} HTTP/1.1\r\n{fields}\r\n".encode())
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    served_by, length = COMPOSED, 0
    for line in lines:
        lower = line.lower()
        if lower.startswith(_FIELD):
            served_by = line.split(b":", 1)[1].strip().decode()
        elif lower.startswith(b"content-length:"):
            length = int(lower.split(b":", 1)[1])
    await reader.readexactly(length)
    return int(first.split(b" ", 2)[1]), served_by

"""Load for measurements: a number of clients with one connection each, which send one request after the other."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections import Counter
from dataclasses import dataclass, field

import httptools

from passerelle.system import process_stats

_CONNECT_LIMIT = 5.0  # seconds


@dataclass
class Measurement:
    """What clients have measured in ``seconds``: ended requests by status, and the sum of their times.

    Requests without a response are counted as ``failed``, with the reason of the last one as ``problem``. ``cpus`` is
    the mean number of busy CPUs of the machine; None if it is not known.
    """

    clients: int
    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    failed: int = 0
    problem: str = ""
    busy: float = 0.0
    cpus: float | None = None

    @property
    def served(self) -> int:
        """The number of successful responses: 2xx and 3xx."""
        return sum(count for status, count in self.statuses.items() if status < 400)

    @property
    def errors(self) -> int:
        """The number of all other requests."""
        return self.failed + sum(self.statuses.values()) - self.served

    @property
    def throughput(self) -> float:
        """Successful requests per second."""
        return self.served / self.seconds if self.seconds else 0.0

    @property
    def concurrency(self) -> float:
        """The mean number of requests in flight."""
        return self.busy / self.seconds if self.seconds else 0.0


class _Response(asyncio.Protocol):
    """One connection: parses responses, and completes ``done`` with the status of each."""

    def __init__(self) -> None:
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"the response is malformed: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionError("the connection was closed"))

    def _fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # it is no defect if no request is in flight

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200 and not self.done.done():
            self.done.set_result(status)


class ClosedLoop:
    """Sends ``request``, the bytes of a complete request without a body, to ``host``:``port``.

    Clients keep their connections from one measurement to the next one.
    """

    def __init__(self, host: str, port: int, request: bytes, tls: ssl.SSLContext | None = None) -> None:
        self._host = host
        self._port = port
        self._request = request
        self._tls = tls
        self._connections: list[tuple[asyncio.Transport, _Response]] = []

    async def measure(self, clients: int, warm_up: float, seconds: float) -> Measurement:
        """Run ``clients`` for ``warm_up`` + ``seconds`` and return what they have measured after the warm-up."""
        found = Measurement(clients)
        before, started = process_stats.read_machine(), time.perf_counter()
        begun = started + warm_up
        end = begun + seconds
        tasks = [asyncio.create_task(self._run(found, begun, end)) for _ in range(clients)]
        await asyncio.wait(tasks, timeout=warm_up + seconds + 0.05)
        now = time.perf_counter()
        found.seconds = min(now, end) - begun
        if before is not None and (after := process_stats.read_machine()) is not None:
            found.cpus = (after.busy - before.busy) / (now - started)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return found

    def close(self) -> None:
        """Close all connections."""
        for transport, _ in self._connections:
            transport.abort()
        self._connections.clear()

    async def _run(self, found: Measurement, begun: float, end: float) -> None:
        connection: tuple[asyncio.Transport, _Response] | None = None
        sent = 0.0
        try:
            while (sent := time.perf_counter()) < end:
                try:
                    connection = connection or await self._connect()
                    transport, response = connection
                    response.done = asyncio.get_running_loop().create_future()
                    transport.write(self._request)
                    status = await response.done
                except OSError as error:
                    if connection is not None:
                        connection[0].abort()
                        connection = None
                    found.problem = str(error) or type(error).__name__
                    found.failed += time.perf_counter() >= begun
                    await asyncio.sleep(0.05)
                    continue
                now = time.perf_counter()
                if begun <= now < end:
                    found.statuses[status] += 1
                found.busy += max(0.0, min(now, end) - max(sent, begun))
                if transport.is_closing():
                    connection = None
            if connection is not None:
                self._connections.append(connection)
        except asyncio.CancelledError:
            # A request is still in flight: it counts in the concurrency, and its connection cannot be used again.
            found.busy += max(0.0, end - max(sent, begun))
            if connection is not None:
                connection[0].abort()
            raise

    async def _connect(self) -> tuple[asyncio.Transport, _Response]:
        while self._connections:
            transport, response = self._connections.pop()
            if not transport.is_closing():
                return transport, response
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_CONNECT_LIMIT):
            return await loop.create_connection(
                _Response, self._host, self._port, ssl=self._tls, server_hostname="localhost" if self._tls else None
            )


def without_verification() -> ssl.SSLContext:
    """Return the TLS settings for one's own gateway on this machine, whose certificate has another name."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with contextlib.suppress(NotImplementedError):
        context.set_alpn_protocols(["http/1.1"])
    return context

"""Scenario ``shadowed``: what a broken shadow does to the p99 of clients, and what an unsampled request costs.

Clients send requests at a steady rate, whatever the responses do, and slices with and without the shadow alternate.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import statistics
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

from benchmarks.figures import CPU_US, P99, Figure, Target
from benchmarks.peers import upstreams
from benchmarks.rig import procfs
from benchmarks.rig.ports import LOOPBACK
from benchmarks.rig.server import Server
from benchmarks.rig.slices import State, compare
from benchmarks.rig.wrk import Load
from benchmarks.scenarios.base import Bench

LOAD = Load("/user/{}", varying=True)
RATE = 500  # requests per second
SECONDS = 2.0  # of a slice
SLICES = 10  # of each state, for each of the pairs of the command line
PLACES = 32  # connections of the clients
MOST_RATIO = 1.1
MOST_US = 3.0
HUGE: Final = 1 << 30  # bytes of a response that does not end soon
_PIECE: Final = bytes(1 << 16)


class Shadowed:
    """The gateway with a shadow that hangs, resets, sends 1 GiB or is gone, beside the same without a shadow."""

    name = "shadowed"
    about = "p99 of clients beside a broken shadow, and the cost of requests that are not sampled"
    peers: tuple[str, ...] = ()

    def run(self, bench: Bench) -> Iterable[Figure]:
        _, addresses = upstreams.start(bench.rig)
        plain = self._start(bench, "plain", addresses, None)
        with contextlib.ExitStack() as stack:
            ports = {fault: stack.enter_context(broken(fault)) for fault in ("hangs", "resets", "1 GiB")}
            ports["gone"] = bench.rig.port()
            for fault, port in ports.items():
                server = self._start(bench, f"shadow {fault}", addresses, {"targets": [f"http://{LOOPBACK}:{port}"]})
                yield _p99(bench, plain, server, fault)
        rare = {"targets": [f"http://{address}" for address in addresses]}
        server = self._start(bench, "shadow rare", addresses, rare, sample="0.01%")
        found = compare(
            bench.rig, State("plain", plain), State("rare", server), LOAD, 2 * SLICES * bench.pairs, bench.progress
        )
        yield Figure(
            self.name,
            "not sampled",
            CPU_US,
            found.difference,
            pairs=found.pairs,
            errors=found.errors,
            noisy=found.noisy,
            target=Target(MOST_US, absolute=True),
            more={"low": found.low, "high": found.high, "without_us": found.first, "with_us": found.second},
        )

    def _start(
        self, bench: Bench, name: str, addresses: Iterable[str], shadow: dict[str, Any] | None, sample: str = "100%"
    ) -> Server:
        site = bench.site(name, list(addresses))
        targets = [f"http://{address}" for address in site.upstreams]
        services = {"user": {"targets": targets}} | ({"shadow": shadow} if shadow is not None else {})
        on_route = {"shadow": {"service": "shadow", "sample": sample}} if shadow is not None else None
        command = bench.ours().forward(site, more={"services": services}, on_route=on_route)
        return bench.start(name, site, command, LOAD.sample(), upstreams.USER)


def _p99(bench: Bench, plain: Server, shadowed: Server, fault: str) -> Figure:
    """Compare the p99 of all slices of both servers; each has as many as the other, in turn."""
    for server in (plain, shadowed):
        asyncio.run(_send(server.port, 1.0))
    before = procfs.memory(shadowed.pid).rss
    times: dict[int, list[float]] = {plain.port: [], shadowed.port: []}
    errors = 0
    for number in range(SLICES * bench.pairs):
        order = (plain, shadowed) if number % 2 == 0 else (shadowed, plain)
        for server in order:
            found = asyncio.run(_send(server.port, SECONDS))
            errors += sum(each is None for each in found)
            times[server.port] += [each for each in found if each is not None]
        bench.progress(f"{number + 1}/{SLICES * bench.pairs} shadow {fault}")
    without, with_shadow = (_percentile(times[server.port]) * 1e6 for server in (plain, shadowed))
    return Figure(
        Shadowed.name,
        f"shadow {fault}",
        P99,
        with_shadow,
        "without",
        without,
        with_shadow / without,
        pairs=SLICES * bench.pairs,
        errors=errors,
        target=Target(MOST_RATIO),
        more={
            "growth_mib": round((procfs.memory(shadowed.pid).rss - before) / 2**20, 1),
            "requests": len(times[shadowed.port]),
        },
    )


def _percentile(times: list[float]) -> float:
    return statistics.quantiles(times, n=100, method="inclusive")[98]


async def _send(port: int, seconds: float) -> list[float | None]:
    """Send requests at ``RATE``; return their seconds since they were due, and None for each that failed."""
    due: asyncio.Queue[float | None] = asyncio.Queue()
    found: list[float | None] = []

    async def work() -> None:
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        while (at := await due.get()) is not None:
            try:
                async with asyncio.timeout(10):
                    writer.write(b"GET /user/42 HTTP/1.1\r\nHost: a.example\r\n\r\n")
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                    await reader.readexactly(length)
                found.append(time.perf_counter() - at if head.startswith(b"HTTP/1.1 200 ") else None)
            except (OSError, asyncio.IncompleteReadError):
                found.append(None)
                writer.close()
                reader, writer = await asyncio.open_connection(LOOPBACK, port)
        writer.close()

    workers = [asyncio.create_task(work()) for _ in range(PLACES)]
    begin = time.perf_counter()
    for number in range(int(RATE * seconds)):
        at = begin + number / RATE
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        due.put_nowait(at)
    for _ in workers:
        due.put_nowait(None)
    await asyncio.gather(*workers)
    return found


@contextlib.contextmanager
def broken(fault: str) -> Iterator[int]:
    """Serve with a fault on a port of this machine; give the port."""
    with socket.create_server((LOOPBACK, 0), backlog=1024) as listener:
        threading.Thread(target=_serve, args=(listener, fault), daemon=True).start()
        yield listener.getsockname()[1]


def _serve(listener: socket.socket, fault: str) -> None:
    kept: list[socket.socket] = []
    with contextlib.suppress(OSError):  # until the listener is closed
        while True:
            connection, _ = listener.accept()
            if fault == "hangs":
                kept.append(connection)
            elif fault == "resets":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
            else:
                threading.Thread(target=_send_much, args=(connection,), daemon=True).start()


def _send_much(connection: socket.socket) -> None:
    """Respond with ``HUGE`` bytes of JSON that never closes."""
    with contextlib.suppress(OSError), connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % HUGE)
        for _ in range(HUGE // len(_PIECE)):
            connection.sendall(_PIECE)

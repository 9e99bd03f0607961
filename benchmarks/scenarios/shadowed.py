"""Scenario ``shadowed``: what a broken shadow does to the p99 of clients, and what an unsampled request costs.

Clients send requests at a steady rate, whatever the responses do, and slices with and without the shadow alternate.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from benchmarks.figures import CPU_US, P99, Figure, Target
from benchmarks.peers import upstreams
from benchmarks.rig import procfs
from benchmarks.rig.ports import LOOPBACK
from benchmarks.rig.server import Server
from benchmarks.rig.slices import State, compare
from benchmarks.rig.timing import in_turn
from benchmarks.rig.wrk import Load
from benchmarks.scenarios.base import Bench
from passerelle.upstream.shadow import Shadow, ShadowResults, ShadowSettings

CALL_NS = "call_ns"  # nanoseconds of CPU
LOAD = Load("/user/{}", varying=True)
RATE = 500  # requests per second
SECONDS = 2.0  # of a slice
SLICES = 10  # of each state, for each of the pairs of the command line
PLACES = 32  # connections of the clients
FAULTS: Final = {"hangs": "hang", "resets": "reset", "1 GiB": "huge", "gone": None}
"""What the shadow does, and the word of the program for it."""
MOST_RATIO = 1.1
MOST_US = 3.0
_PROGRAM: Final = Path(__file__).parents[1] / "peers" / "programs" / "broken.py"


class Shadowed:
    """The gateway with a shadow that hangs, resets, sends 1 GiB or is gone, beside the same without a shadow."""

    name = "shadowed"
    about = "p99 of clients beside a broken shadow, and the cost of requests that are not sampled"
    peers: tuple[str, ...] = ()

    def run(self, bench: Bench) -> Iterable[Figure]:
        _, addresses = upstreams.start(bench.rig)
        plain = self._start(bench, "plain", addresses, None)
        for fault, word in FAULTS.items():
            port = bench.rig.port()
            if word is not None:
                argv = ["nice", "-n", "10", sys.executable, str(_PROGRAM), str(port), word]
                folder = bench.rig.subfolder(f"broken-{word}")
                bench.rig.start(f"broken {word}", argv, port, folder, ready="/ready", under_test=False)
            server = self._start(bench, f"shadow {fault}", addresses, {"targets": [f"http://{LOOPBACK}:{port}"]})
            yield _p99(bench, plain, server, fault)
        yield _call(bench)
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


def _call(bench: Bench) -> Figure:
    """Time what a request that is not sampled passes through, besides making it: nanoseconds of CPU."""
    policy: Any = SimpleNamespace(make_request=_make)
    settings = ShadowSettings(0.0, frozenset({b"GET"}), 0.0, 0, 1, frozenset())
    comparer: Any = None
    shadow: Any = Shadow(policy, policy, settings, comparer, ShadowResults(bytes(16)))

    def calls(make: Callable[..., object]) -> Callable[[], int]:
        def work() -> int:
            for _ in range(10_000):
                make(policy, None, b"GET", b"", None, 0.0)
            return 10_000

        return work

    found = in_turn({"plain": calls(_make), "shadow": calls(shadow)}, 10 * bench.pairs)
    each = [with_shadow - without for without, with_shadow in zip(found["plain"], found["shadow"], strict=True)]
    target = Target(MOST_US * 1000, absolute=True)
    return Figure(Shadowed.name, "not sampled, alone", CALL_NS, statistics.median(each), pairs=len(each), target=target)


def _make(*_: object) -> None:
    return None


def _p99(bench: Bench, plain: Server, shadowed: Server, fault: str) -> Figure:
    """Compare the p99 of neighbouring slices of both servers: the median of their ratios drops what is disturbed."""
    for server in (plain, shadowed):
        asyncio.run(_send(server.port, 1.0))
    before = procfs.memory(shadowed.pid).rss
    p99: list[tuple[float, float]] = []
    errors = requests = 0
    for number in range(SLICES * bench.pairs):
        order = (plain, shadowed) if number % 2 == 0 else (shadowed, plain)
        slices = {server.port: asyncio.run(_send(server.port, SECONDS)) for server in order}
        errors += sum(each is None for found in slices.values() for each in found)
        requests += len(slices[shadowed.port])
        p99.append((_percentile(slices[plain.port]), _percentile(slices[shadowed.port])))
        bench.progress(f"{number + 1}/{SLICES * bench.pairs} shadow {fault}: {p99[-1][1] / p99[-1][0]:.2f} x")
    return Figure(
        Shadowed.name,
        f"shadow {fault}",
        P99,
        statistics.median(with_shadow for _, with_shadow in p99) * 1e6,
        "without",
        statistics.median(without for without, _ in p99) * 1e6,
        statistics.median(with_shadow / without for without, with_shadow in p99),
        pairs=len(p99),
        errors=errors,
        target=Target(MOST_RATIO),
        more={
            "growth_mib": round((procfs.memory(shadowed.pid).rss - before) / 2**20, 1),
            "requests": requests,
        },
    )


def _percentile(times: list[float | None]) -> float:
    """Return the p99; a failed request counts as one of ten seconds."""
    return statistics.quantiles([10.0 if each is None else each for each in times], n=100, method="inclusive")[98]


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

"""Compare predicted with measured peaks of three systems, and write the plots of ``docs/explanation/capacity.md``.

The systems: the shop without its cache, a service that uses the CPU, and one whose requests take turns for a lock. Each
is started behind ``passerelle up``, and measured with up to 48 clients. The law is fitted to the steps with at most
half of the concurrency of the measured peak. ``make up`` prepares the databases of the shop.

Each number of clients is measured in several short slices, which go up and down through the numbers, so that a machine
that becomes slower or faster does so for all. A slice in which other processes, or other virtual machines, took the CPU
is discarded and measured again; the median of the others counts. The CPU time of the system itself bounds the
prediction (see ``cpu_limit`` in passerelle/scaling/usl.py).

The times of the two services are drawn at random, as those of real services vary. With constant ones, nothing waits
until the limit is reached, and the throughput is a broken line: no measurement below the limit shows where it ends.
Takes about three minutes a system on an idle machine:
``.venv/bin/python scripts/predict_capacity.py [--write] [shop] [cpu] [lock]``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from passerelle.cli.capacity_plot import svg_plot
from passerelle.cli.closed_loop import ClosedLoop
from passerelle.scaling.usl import Capacity, CpuUse, Point, Undetermined, capacity, cpu_limit
from passerelle.system import process_stats

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
LEVELS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48)
SECONDS = 1.0  # of a slice
WARM_UP = 0.3
SLICES = 9  # undisturbed ones for each number of clients
MOST_ROUNDS = 4 * SLICES
FOREIGN = 0.08  # CPUs that others may use during a slice

_CPU = """
import hashlib, random, time
def app(environ, start_response):
    time.sleep(random.expovariate(1 / 0.02))
    for _ in range(round(random.expovariate(1 / 60))):
        hashlib.sha256(bytes(20000)).digest()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
_LOCK = """
import fcntl, random, time
def app(environ, start_response):
    time.sleep(random.expovariate(1 / 0.02))
    with open("lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        time.sleep(random.expovariate(1 / 0.004))
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
_OWN = """
listen: 127.0.0.1:{port}
admin: 'off'
access_log: 'off'
services:
  s: {{app: application:app, instances: 8, slow_start: 'off'}}
routes: [{{path: "/{{rest*}}", service: s}}]
"""
_SHOP = """
listen: 127.0.0.1:{port}
admin: 'off'
access_log: 'off'
services:
  user: {{app: users:app, cwd: {cwd}, instances: 5, slow_start: 'off', health: {{path: /healthz}}}}
routes: [{{path: "/user/{{user_id}}", service: user}}]
"""


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Slice(NamedTuple):
    """What one slice has measured, how many CPUs others have used meanwhile, and how many the system itself."""

    concurrency: float
    throughput: float
    foreign: float
    own: float


def order(number: int) -> tuple[int, ...]:
    """Return the numbers of clients in the order of round ``number``: up, down, up, ..."""
    return LEVELS if number % 2 == 0 else LEVELS[::-1]


def medians_of(slices: Mapping[int, Sequence[Slice]]) -> tuple[list[Point], list[CpuUse]]:
    """Return the medians of the undisturbed slices of each number of clients.

    :raises SystemExit: if there are too few of them.
    """
    points, uses = [], []
    for level, measured in sorted(slices.items()):
        quiet = [each for each in measured if each.foreign <= FOREIGN]
        if len(quiet) < SLICES:
            others = median(each.foreign for each in measured)
            raise SystemExit(
                f"{len(quiet)} of {len(measured)} slices with {level} clients were undisturbed, {SLICES} are needed:"
                f" other processes used {others:.2f} CPUs; run this on a machine that does nothing else"
            )
        throughput = median(each.throughput for each in quiet)
        points.append(Point(median(each.concurrency for each in quiet), throughput))
        uses.append(CpuUse(throughput, median(each.own for each in quiet)))
    return points, uses


class ForeignUse:
    """The CPU time of all processes but this one and its descendants, and the time that the hypervisor has taken."""

    def __init__(self) -> None:
        self._began, self._used = time.monotonic(), self._read()

    @staticmethod
    def _read() -> float:
        parents, ticks = {}, {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                parents[int(folder.name)] = int(fields[1])
                ticks[int(folder.name)] = sum(map(int, fields[11:15]))  # with those of children that have ended
        foreign = sum(used for pid, used in ticks.items() if not _is_own(pid, parents))
        stolen = int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8])
        return (foreign + stolen) / os.sysconf("SC_CLK_TCK")

    def cpus(self) -> float:
        """Return the mean number of CPUs that others have used since the beginning."""
        return max(0.0, (self._read() - self._used) / (time.monotonic() - self._began))


def _is_own(pid: int, parents: Mapping[int, int]) -> bool:
    while pid in parents:
        if pid == os.getpid():
            return True
        pid = parents[pid]
    return False


def measure(folder: Path, text: str, target: str) -> tuple[list[Point], list[CpuUse]]:
    """Run the configuration ``text``, written to ``folder``, and return the points of ``target`` and their CPU use."""
    port = free_port()
    path = folder / "gateway.yaml"
    path.write_text(text.format(port=port, cwd=ROOT / "examples" / "shop"))
    command = [sys.executable, "-m", "passerelle", "up", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()

    async def run() -> tuple[list[Point], list[CpuUse]]:
        load = ClosedLoop("127.0.0.1", port, request)
        for _ in range(600):
            if (await load.measure(1, 0.0, 0.1)).served:
                break
        await load.measure(LEVELS[-1], 0.0, 2.0)  # all instances have compiled what they need
        slices: dict[int, list[Slice]] = {level: [] for level in LEVELS}
        for number in range(MOST_ROUNDS):
            for level in order(number):
                if sum(each.foreign <= FOREIGN for each in slices[level]) < SLICES:
                    slices[level].append(await slice_of(load, level))
        load.close()
        return medians_of(slices)

    async def slice_of(load: ClosedLoop, level: int) -> Slice:
        others = ForeignUse()
        step = await load.measure(level, WARM_UP, SECONDS)
        if step.errors:
            raise SystemExit(f"{target} failed at {level} clients: {step}")
        foreign = others.cpus()
        return Slice(step.concurrency, step.throughput, foreign, max(0.0, (step.cpus or 0.0) - foreign))

    try:
        return asyncio.run(run())
    finally:
        process.terminate()
        process.wait(30)


def predict(points: list[Point], uses: list[CpuUse]) -> tuple[Point, int, Capacity | str]:
    """Return the measured peak, how many points have at most half of its concurrency, and what these predict."""
    peak = max(points, key=lambda point: point.throughput)
    used = [point for point in points if point.concurrency <= peak.concurrency / 2 * 1.02]
    try:
        return peak, len(used), capacity(used, limit=cpu_limit(uses[: len(used)], process_stats.cpus()))
    except Undetermined as problem:
        return peak, len(used), str(problem)


def main() -> None:
    """Measure and compare; with ``--write``, write the plots."""
    systems = {"shop": (None, _SHOP, "/user/1"), "cpu": (_CPU, _OWN, "/"), "lock": (_LOCK, _OWN, "/")}
    if names := [name for name in sys.argv[1:] if not name.startswith("-")]:
        systems = {name: systems[name] for name in names}
    for name, (application, text, target) in systems.items():
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            if application is not None:
                (Path(folder) / "application.py").write_text(application)
            points, uses = measure(Path(folder), text, target)
        peak, used, found = predict(points, uses)
        print(f"{name}: {', '.join(f'{p.concurrency:.1f}:{p.throughput:.0f}' for p in points)}")
        print(f"  measured peak {peak.throughput:.0f}/s at {peak.concurrency:.0f}; {used} points used", end="; ")
        if isinstance(found, str):
            print(f"refused: {found}", end="")
        else:
            predicted = found.peak
            print(
                f"predicted {predicted.value:.0f} ({predicted.low:.0f} to {predicted.high:.0f}),"
                f" {predicted.value / peak.throughput - 1:+.1%}",
                end="",
            )
            if "--write" in sys.argv:
                plot = svg_plot(points, found, f"{name}: predicted from the filled points", used)
                (IMAGES / f"capacity-{name}.svg").write_text(plot)
        print(f" ({time.monotonic() - begun:.0f} s)")


if __name__ == "__main__":
    main()

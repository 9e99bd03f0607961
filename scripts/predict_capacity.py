"""Compare predicted with measured peaks of three systems, and write the plots of ``docs/explanation/capacity.md``.

The systems: the shop without its cache, a service that uses the CPU, and one whose requests take turns for a lock. Each
is started behind ``passerelle up``, and measured with up to 48 clients. The law is fitted to the steps with at most
half of the concurrency of the measured peak. ``make up`` prepares the databases of the shop. Takes about four minutes
on an idle machine: ``.venv/bin/python scripts/predict_capacity.py [--write]``.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from passerelle.cli.capacity_plot import svg_plot
from passerelle.cli.closed_loop import ClosedLoop
from passerelle.scaling.usl import Capacity, Point, Undetermined, capacity

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
LEVELS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48)
SECONDS = 4.0

_CPU = """
import hashlib, time
def app(environ, start_response):
    time.sleep(0.02)
    for _ in range(60):
        hashlib.sha256(bytes(20000)).digest()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
_LOCK = """
import fcntl, time
def app(environ, start_response):
    time.sleep(0.02)
    with open("lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        time.sleep(0.004)
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


def measure(folder: Path, text: str, target: str) -> list[Point]:
    """Run the configuration ``text``, written to ``folder``, and return the points of ``target``."""
    port = free_port()
    path = folder / "gateway.yaml"
    path.write_text(text.format(port=port, cwd=ROOT / "examples" / "shop"))
    command = [sys.executable, "-m", "passerelle", "up", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()

    async def run() -> list[Point]:
        load = ClosedLoop("127.0.0.1", port, request)
        for _ in range(600):
            if (await load.measure(1, 0.0, 0.1)).served:
                break
        found = []
        for level in LEVELS:
            step = await load.measure(level, 1.0, SECONDS)
            if step.errors:
                raise SystemExit(f"{target} failed at {level} clients: {step}")
            found.append(Point(step.concurrency, step.throughput))
        load.close()
        return found

    try:
        return asyncio.run(run())
    finally:
        process.terminate()
        process.wait(30)


def predict(points: list[Point]) -> tuple[Point, int, Capacity | str]:
    """Return the measured peak, how many points have at most half of its concurrency, and what these predict."""
    peak = max(points, key=lambda point: point.throughput)
    used = [point for point in points if point.concurrency <= peak.concurrency / 2 * 1.02]
    try:
        return peak, len(used), capacity(used)
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
            points = measure(Path(folder), text, target)
        peak, used, found = predict(points)
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

"""Measure application servers on the shop's user service: the figures of docs/decisions/002-application-server.md.

``python measure_servers.py [SERVER…] [--rounds 5] [--seconds 2]`` from this folder, on Linux with taskset and wrk. The
server is pinned to CPU 0, the load (``wrk -t1 -c16``) to CPU 1. Servers are measured in turn, and figures are medians
over the rounds, because other work on the machine disturbs single measurements. Servers that are not installed are
skipped: ``pip install gunicorn gevent granian waitress a2wsgi hypercorn cheroot bjoern fastwsgi pyuwsgi``.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

TICK = os.sysconf("SC_CLK_TCK")
APPS = {"SQLite": "users:app", "memory": "founding.users:app"}
START_LIMIT = 20.0  # seconds
PYTHON = sys.executable
LOAD = "import importlib, os, sys; sys.path.insert(0, os.getcwd()); m, a = '{app}'.split(':'); "
LOAD += "app = getattr(importlib.import_module(m), a); "
COMMANDS = {
    "passerelle": "{python} -m passerelle.appserver.main {app} --port {port}",
    "granian": "granian --interface wsgi --no-ws --http 1 --blocking-threads 4 --no-log --port {port} {app}",
    "gunicorn gthread": "gunicorn -k gthread -w 1 --threads 4 -b 127.0.0.1:{port} {app}",
    "gunicorn gevent": "gunicorn -k gevent -w 1 -b 127.0.0.1:{port} {app}",
    "waitress": "waitress-serve --threads 4 --listen 127.0.0.1:{port} {app}",
    "uvicorn + a2wsgi": LOAD + "import uvicorn, a2wsgi; uvicorn.run(a2wsgi.WSGIMiddleware(app, workers=4), port={port},"
    " log_level='error', access_log=False, lifespan='off')",
    "hypercorn": "hypercorn -w 0 -b 127.0.0.1:{port} wsgi:{app}",
    "cheroot": "cheroot --bind 127.0.0.1:{port} --threads 4 --max 4 {app}",
    "bjoern": LOAD + "import bjoern; bjoern.run(app, '127.0.0.1', {port})",
    "fastwsgi": LOAD + "import fastwsgi; fastwsgi.run(app, '127.0.0.1', {port})",
    "uwsgi": "pyuwsgi --http11-socket 127.0.0.1:{port} --module {app} --threads 4 --disable-logging --die-on-term",
}


class Failed(Exception):
    """A server did not start, or responded with errors; the message states the reason."""


class Figures(NamedTuple):
    """One run; CPU time and memory are the sums over all processes of one instance."""

    per_second: float
    cpu: float  # microseconds per request, user and system
    idle: float  # MiB of proportional set size before the first load
    loaded: float  # MiB after the load
    resident: float  # MiB of resident set size after the load, as shown by process monitors
    start: float  # seconds from the command to the first response
    processes: int


def command(server: str, app: str, port: int) -> list[str] | None:
    """Return the command line of ``server``, or None if it is not installed."""
    text = COMMANDS[server].format(python=PYTHON, app=app, port=port)
    if text.startswith("import"):
        module = re.findall(r"; import (\w+)", text)[-1]
        installed = subprocess.run([PYTHON, "-c", f"import {module}"], capture_output=True).returncode == 0  # noqa: S603
        return [PYTHON, "-c", text] if installed else None
    words = text.split()
    program = shutil.which(words[0], path=f"{Path(PYTHON).parent}:{os.environ['PATH']}")
    return [program, *words[1:]] if program else None


def tree(pid: int) -> list[int]:
    """Return ``pid`` and all processes below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += tree(int(child))
    return found


def cpu_seconds(pids: list[int]) -> float:
    """Return the CPU time that the processes have used."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(field[11]) + int(field[12]) for field in fields) / TICK


def memory(pids: list[int], kind: str) -> float:
    """Return the memory of the processes, in MiB; ``kind`` is ``Pss`` (shared pages divided) or ``Rss``."""
    texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    return sum(int(text.split(f"\n{kind}:")[1].split()[0]) for text in texts) / 1024


def wrk(port: int, seconds: int) -> tuple[int, float]:
    """Load the server; return the number of responses and the requests per second."""
    load = ["taskset", "-c", "1", "wrk", "-t1", "-c16", f"-d{seconds}", f"http://127.0.0.1:{port}/user/1"]
    out = subprocess.run(load, capture_output=True, text=True, check=True).stdout  # noqa: S603
    errors = re.search(r"Non-2xx.*|Socket errors.*", out)
    if errors:
        raise Failed(errors[0])
    return int(re.findall(r"(\d+) requests in", out)[0]), float(re.findall(r"Requests/sec:\s+([\d.]+)", out)[0])


def measure(arguments: list[str], port: int, seconds: int) -> Figures:
    """Start the server, load it and stop it."""
    begun = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(  # noqa: S603
            ["taskset", "-c", "0", *arguments],  # noqa: S607
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
        )
        try:
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/user/1").close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > begun + START_LIMIT:
                        log.seek(0)
                        raise Failed(log.read().decode()) from None
                    time.sleep(0.01)
            start = time.monotonic() - begun
            idle = memory(tree(process.pid), "Pss")
            wrk(port, 1)
            pids = tree(process.pid)
            before = cpu_seconds(pids)
            count, per_second = wrk(port, seconds)
            used = cpu_seconds(pids) - before
            resident = memory(pids, "Rss")
            return Figures(per_second, used / count * 1e6, idle, memory(pids, "Pss"), resident, start, len(pids))
        finally:
            process.terminate()
            try:
                process.wait(15)
            finally:
                process.kill()
                process.wait()


def main() -> None:
    """Measure, and print a Markdown table for each application."""
    parser = argparse.ArgumentParser(description="Measure application servers on the shop's user service.")
    parser.add_argument("servers", nargs="*", choices=[[], *COMMANDS], metavar="SERVER", help=", ".join(COMMANDS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    options = parser.parse_args()
    runs: dict[tuple[str, str], list[Figures]] = {}
    for turn in range(options.rounds):
        for server in options.servers or COMMANDS:
            for kind, app in APPS.items():
                with socket.create_server(("127.0.0.1", 0)) as free:
                    port = free.getsockname()[1]
                arguments = command(server, app, port)
                if arguments is None:
                    continue
                print(f"round {turn + 1}: {server}, {kind}", file=sys.stderr)
                try:
                    runs.setdefault((kind, server), []).append(measure(arguments, port, options.seconds))
                except Failed as error:
                    print(f"{server}, {kind}: skipped in this round: {error}", file=sys.stderr)
    for kind in APPS:
        print(f"\n| {kind} | µs | req/s | PSS idle | PSS loaded | RSS loaded | start | processes |")
        print("|---|---|---|---|---|---|---|---|")
        for (measured, server), figures in runs.items():
            if measured == kind:
                middle = Figures(*(statistics.median(column) for column in zip(*figures, strict=True)))
                print(
                    f"| {server} | {middle.cpu:.0f} | {middle.per_second:.0f} | {middle.idle:.0f} |"
                    f" {middle.loaded:.0f} | {middle.resident:.0f} | {middle.start:.2f} | {middle.processes:.0f} |"
                )


if __name__ == "__main__":
    main()

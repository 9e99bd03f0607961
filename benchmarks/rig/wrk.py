"""The load: wrk, one thread, with a script that this module writes and a report that it reads.

The counts come from wrk's own ``done`` hook rather than from its prose, so that none is rounded or missing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.rig.ports import LOOPBACK
from benchmarks.rig.server import RigError

# What a browser sends with a call of a page's script, Host (which wrk adds) not counted; X-Trace stands for the
# trace identifier that such scripts add.
BROWSER: Mapping[str, str] = {
    "Authorization": "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1c2VyXzQyIn0.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36",
    "Accept": "application/json, text/plain, */*",
    "Accept-Encoding": "gzip, deflate, br",
    "Accept-Language": "fr-FR,fr;q=0.9,en;q=0.8",
    "Cache-Control": "no-cache",
    "Connection": "keep-alive",
    "Referer": "https://shop.example/catalog",
    "Sec-Fetch-Mode": "cors",
    "X-Trace": "4bf92f3577b34da6a3ce929d0e0e4736",
}
_MARK = "WRK-JSON "
_TIMEOUT = "10s"
_DONE = f"""
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format('{_MARK}{{"requests":%d,"microseconds":%d,"bytes":%d,"p50":%.1f,"p99":%.1f,' ..
    '"errors":{{"connect":%d,"read":%d,"write":%d,"timeout":%d,"status":%d}}}}\\n',
    summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99),
    e.connect, e.read, e.write, e.timeout, e.status))
end
"""


@dataclass(frozen=True)
class Load:
    """What is asked of a server, over and over, on ``connections`` kept-alive connections.

    With ``varying``, every request has its own number n = 1, 2, ... in place of each ``{}`` in the path and, where the
    headers have one, in X-Trace, so nothing that was worked out for one request can be used for the next. ``spread``
    bounds n (1 to ``spread``, then again) where the server knows only so many; the first is the one after ``start``.
    With ``hot``, nine requests of ten have an n of 1 to ``hot``, the others one of the rest of ``spread``, drawn anew
    each time. With ``wrap``, all places but the first have n % ``wrap`` + 1.
    """

    path: str
    varying: bool = False
    spread: int = 0
    start: int = 0
    hot: int = 0
    wrap: int = 0
    connections: int = 64
    method: str = "GET"
    body: int = 0  # bytes
    headers: Mapping[str, str] = field(default_factory=lambda: BROWSER)

    def sample(self) -> str:
        """One path of this load."""
        return self.path.replace("{}", "1")


@dataclass(frozen=True)
class Answers:
    """What came back: ``seconds`` of load, completed ``requests``, latencies in microseconds."""

    requests: int
    seconds: float
    bytes: int
    p50_us: float
    p99_us: float
    errors: int  # answers with a status over 399, and failures of the sockets

    @property
    def rps(self) -> float:
        return self.requests / self.seconds


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def script(load: Load) -> str:
    """The Lua script for wrk that makes this load and reports its figures."""
    lines = [f"wrk.method = {_quote(load.method)}"]
    lines += [f"wrk.headers[{_quote(name)}] = {_quote(value)}" for name, value in load.headers.items()]
    if load.body:
        lines.append(f'wrk.body = string.rep("x", {load.body})')
    if load.varying:
        lines.append(_varying(load))
    return "\n".join(lines) + _DONE


def _varying(load: Load) -> str:
    """Lua that builds each request by concatenation: wrk's own formatting would take half of the load's CPU."""
    first, *others = load.path.split("{}")
    places = ["n"] + [f"(n % {load.wrap} + 1)" if load.wrap else "n"] * (len(others) - 1)
    path = _quote(first) + "".join(f" .. {n} .. {_quote(other)}" for n, other in zip(places, others, strict=True))
    traced = "X-Trace" in load.headers
    to = 'select(2, string.find(whole, "X-Trace: ", 1, true))' if traced else "from"
    rest = '(string.find(whole, "\\r", to, true))' if traced else "to + 1"
    following = f"n % {load.spread} + 1" if load.spread else "n + 1"
    if load.hot:
        drawn = f"math.random({load.hot}) or math.random({load.hot + 1}, {load.spread})"
        following = f"math.random(10) < 10 and {drawn}"
    number = '.. string.format("%032x", n) ' if traced else ""
    return f"""
local n, head, tail = {load.start}, nil, nil
request = function()
  if head == nil then
    local whole = wrk.format(nil, "/")
    local from = string.find(whole, " HTTP/1.1", 1, true)
    local to = {to}
    head = string.sub(whole, from, to)
    tail = string.sub(whole, {rest})
  end
  n = {following}
  return wrk.method .. " " .. {path} .. head {number}.. tail
end
"""


def parse(output: str) -> Answers:
    """Read wrk's output. Raises ``RigError`` when the report is missing."""
    for line in output.splitlines():
        if line.startswith(_MARK):
            return _answers(json.loads(line.removeprefix(_MARK)))
    raise RigError(f"wrk reported nothing:\n{output}")


def _answers(report: dict[str, Any]) -> Answers:
    return Answers(
        report["requests"],
        report["microseconds"] / 1e6,
        report["bytes"],
        report["p50"],
        report["p99"],
        sum(report["errors"].values()),
    )


def missing() -> str | None:
    """What to install when wrk is not there."""
    return None if shutil.which("wrk") else "wrk (apt-get install wrk)"


def run(load: Load, port: int, seconds: int, cpu: int, folder: Path) -> Answers:
    """Load the server on ``port`` for whole ``seconds`` from ``cpu``; the script is left in ``folder``."""
    file = folder / "load.lua"
    file.write_text(script(load))
    command = ["taskset", "-c", str(cpu), "wrk", "-t1", f"-c{load.connections}", f"-d{seconds}s"]
    command += ["--timeout", _TIMEOUT, "-s", str(file), f"http://{LOOPBACK}:{port}{load.sample()}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if done.returncode:
        raise RigError(f"wrk failed with {done.returncode}: {done.stdout}{done.stderr}")
    return parse(done.stdout)


def own_cpu_seconds() -> float:
    """CPU seconds of this process and of its finished children: the load's, while servers still run."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system

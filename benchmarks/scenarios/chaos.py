"""Scenario ``chaos``: the shop under constant load while instances are killed, replaced, scaled and frozen.

64 clients always have one request in flight each: users, products, and compositions of both, none of them cached, so
that every request reaches an instance. For each event the scenario reports how many requests failed after the event
began, and the 99th percentile from 5 s after the event compared with the one before. For events with a duration, the 5
s start at the end; the frozen instance stays frozen.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, Target
from benchmarks.peers.base import Command, Site
from benchmarks.peers.founding import SHOP
from benchmarks.rig.clients import Steady, p99
from benchmarks.rig.pairs import FOREIGN_LIMIT
from benchmarks.rig.ports import LOOPBACK
from benchmarks.rig.server import RigError, Server
from benchmarks.scenarios.base import OURS, Bench

CONNECTIONS = 64
INSTANCES = 5
RELOADS = 20
RECOVERY = 5.0  # seconds
CALM = 11.0  # seconds after which no instance is in slow start
PATHS = [path for n in range(1, 31) for path in (f"/user/{n}", f"/product/{n}", f"/api/{n}/{31 - n}")]
TARGET = Target(2.0)
_SERVICES = {"user": "users", "product": "products"}
_SECONDS = 120.0


@dataclass(frozen=True)
class Seen:
    """Observation of one event by the clients; percentiles are in microseconds."""

    requests: int  # since the event began
    failed: int
    before_us: float
    after_us: float
    slowest_us: float
    seconds: float  # duration of the event
    foreign: float


class Chaos:
    """All events in turn, ``pairs`` times."""

    name = "chaos"
    about = "the shop while instances are killed, replaced, scaled, frozen: failed requests, and p99 before and after"
    peers = ()

    def run(self, bench: Bench) -> Iterable[Figure]:
        shop = Shop(bench)
        events: dict[str, Callable[[], None]] = {
            f"kill -9 of 3 of {INSTANCES}": shop.kill,
            "rolling restart of both": shop.restart,
            f"scale {INSTANCES}, 8, 3": shop.scale,
            f"{RELOADS} reloads": shop.reload,
            "one frozen": shop.freeze,
        }
        seen: dict[str, list[Seen]] = {label: [] for label in events}
        for number in range(1, bench.pairs + 1):
            for label, event in events.items():
                shop.calm()
                seen[label].append(observe(bench, shop, event))
                shop.restore()
                last = seen[label][-1]
                bench.progress(
                    f"{number}/{bench.pairs} {label}: {last.failed} of {last.requests:,} failed; "
                    f"p99 {last.before_us:,.0f} us before, {last.after_us:,.0f} us after"
                )
        bench.rig.stop(shop.server, seconds=30)
        for label, each in seen.items():
            bench.keep(label, [vars(one) for one in each])
            yield figure(label, each)


class Shop:
    """The example shop with five instances of both services, and its own databases."""

    def __init__(self, bench: Bench) -> None:
        self._admin = bench.rig.port()
        self._site = bench.site(OURS, ())
        databases = {
            f"{name.upper()}_DATABASE_URL": f"sqlite:///{self._site.folder / name}.db" for name in _SERVICES.values()
        }
        for name in _SERVICES.values():
            command = [sys.executable, "-m", "shopkit.prepare", name]
            subprocess.run(command, cwd=SHOP, env={**os.environ, **databases}, check=True, capture_output=True)
        self._file = write(self._site, self._admin, databases)
        argv = [str(Path(sys.executable).with_name("passerelle")), "up", str(self._file)]
        bench.ours()  # for its version
        self.server: Server = bench.start(OURS, self._site, Command(argv), PATHS[0])
        self._frozen: int | None = None

    @property
    def port(self) -> int:
        return self._site.port

    def kill(self) -> None:
        for pid in self._pids("user")[:3]:
            os.kill(pid, signal.SIGKILL)

    def restart(self) -> None:
        for service in _SERVICES:
            self._change(f"/restart?service={service}")

    def scale(self) -> None:
        for number in (8, 3):
            self._change(f"/scale?service=user&instances={number}")

    def reload(self) -> None:
        text = self._file.read_text()
        for number in range(RELOADS):
            self._file.write_text(text.replace("p2c", ("least_inflight", "p2c")[number % 2]))
            self._change("/reload")

    def freeze(self) -> None:
        self._frozen = self._pids("user")[0]
        os.kill(self._frozen, signal.SIGSTOP)

    def restore(self) -> None:
        """Restore the initial state."""
        if self._frozen is not None:
            os.kill(self._frozen, signal.SIGCONT)
            self._frozen = None
        if len(self._pids("user")) != INSTANCES:
            self._change(f"/scale?service=user&instances={INSTANCES}")

    def calm(self) -> None:
        """Wait until all instances have been up for a while."""
        self.server.wait_until(self._all_up, _SECONDS, "all instances being up")
        time.sleep(CALM)

    def _all_up(self) -> bool:
        return all(i["state"] == "up" for name in _SERVICES for i in self._instances(name))

    def _pids(self, service: str) -> list[int]:
        return [instance["pid"] for instance in self._instances(service)]

    def _instances(self, service: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._ask("GET", "/status")["services"][service]["instances"]
        return found

    def _change(self, path: str) -> None:
        self._ask("POST", path)

    def _ask(self, method: str, path: str) -> Any:
        connection = http.client.HTTPConnection(LOOPBACK, self._admin, timeout=_SECONDS)
        try:
            connection.request(method, path, headers={"Passerelle-Admin": "1"})
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise RigError(f"{method} {path} was answered with {response.status}: {body!r}")
        return json.loads(body)


def write(site: Site, admin: int, env: Mapping[str, str]) -> Path:
    """Write the example's configuration without its caches, with the access log in a file."""
    services = {
        name: {
            "app": f"{package}:app",
            "cwd": str(SHOP),
            "instances": INSTANCES,
            "env": dict(env),
            "health": {"path": "/healthz"},
            "balance": "p2c",
        }
        for name, package in _SERVICES.items()
    }
    parts = {name: {"service": name, "path": f"/{name}/{{{name}_id}}", "pass_status": [404]} for name in _SERVICES}
    config = {
        "listen": f"{LOOPBACK}:{site.port}",
        "admin": f"{LOOPBACK}:{admin}",
        "access_log": str(site.folder / "access.log"),
        "services": services,
        "routes": [
            *({"path": f"/{name}/{{{name}_id}}", "service": name} for name in _SERVICES),
            {"path": "/api/{user_id}/{product_id}", "methods": ["GET", "HEAD"], "compose": parts},
        ],
    }
    return site.write("gateway.yaml", json.dumps(config, indent=1))


def observe(bench: Bench, shop: Shop, event: Callable[[], None]) -> Seen:
    """Observe one event under load."""
    watch = bench.rig.watch()
    with Steady(shop.port, PATHS, CONNECTIONS) as load:
        time.sleep(1 + bench.seconds)
        begun = time.monotonic()
        event()
        ended = time.monotonic()
        time.sleep(RECOVERY + bench.seconds)
        last = time.monotonic()
        before = load.between(begun - bench.seconds, begun)
        during = load.between(begun, last)
        after = load.between(ended + RECOVERY, last)
    if not before or not after:
        raise RigError("the shop did not respond")
    return Seen(
        len(during),
        sum(answer.status != 200 for answer in during),
        p99([answer.seconds for answer in before]) * 1e6,
        p99([answer.seconds for answer in after]) * 1e6,
        max(answer.seconds for answer in during) * 1e6,
        ended - begun,
        watch.foreign(),
    )


def figure(label: str, each: list[Seen]) -> Figure:
    """Compare the 99th percentile after an event with the one before; every failed request counts as an error."""
    return Figure(
        Chaos.name,
        label,
        "p99_us",
        statistics.median(one.after_us for one in each),
        "before",
        statistics.median(one.before_us for one in each),
        statistics.median(one.after_us / one.before_us for one in each),
        len(each),
        sum(one.failed for one in each),
        any(one.foreign > FOREIGN_LIMIT for one in each),
        TARGET,
        {"requests": sum(one.requests for one in each), "slowest_us": max(one.slowest_us for one in each)},
    )

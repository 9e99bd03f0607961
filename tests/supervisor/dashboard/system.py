"""A gateway of any size for the dashboard: the admin port, the sampler and the events are real, the traffic is not."""

from __future__ import annotations

import asyncio
import json
import math
import random
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from passerelle.config.loader import load_text
from passerelle.config.models.admin import AdminPort
from passerelle.config.models.config import Config
from passerelle.crossing.latency import LatencyHistogram
from passerelle.errors import Kind
from passerelle.observability.events import EventLog
from passerelle.observability.metrics import Metrics, RouteMetrics, ServiceMetrics, Snapshot
from passerelle.supervisor.admin import Admin, PurgeResult
from passerelle.supervisor.errors import ChangeRefused
from passerelle.supervisor.live_sampler import LiveSampler, Reading
from passerelle.supervisor.rollouts import Rollouts
from passerelle.supervisor.split_store import FileStore
from passerelle.supervisor.splits import Settings, Splits
from passerelle.system import ports
from passerelle.upstream.shadow import ShadowResults

T = TypeVar("T")

START = 1796040000.0
SHOP = """
services:
  user: {targets: ["http://127.0.0.1:5001", "http://127.0.0.1:5002", "http://127.0.0.1:5003"]}
  product: {targets: ["http://127.0.0.1:6001", "http://127.0.0.1:6002"]}
  search: {targets: ["http://127.0.0.1:7001"]}
routes:
  - {path: "/user/{user_id}", service: user, cache: {ttl: 10s}}
  - {path: "/product/{product_id}", service: product, cache: {ttl: 10s}}
  - {path: "/search", service: search, rate_limit: {rate: 100/s}}
  - path: "/home/{user_id}"
    compose:
      user: {service: user, path: "/user/{user_id}"}
      products: {service: product, path: "/products"}
"""


class System:
    """The subject of the admin port, and the source of its samples.

    ``tick`` makes a second of traffic, about ``rate`` requests for each route. ``folder`` keeps the state of rollouts.
    """

    is_ready = True

    def __init__(
        self,
        config: str = SHOP,
        instances: int | None = None,
        seed: int = 7,
        rate: int = 26,
        folder: Path = Path("/nonexistent"),
    ) -> None:
        self.config: Config = load_text(config)
        self.now = START
        self.events = EventLog(clock=lambda: self.now)
        self.live = LiveSampler(self, clock=lambda: self.now)
        self.splits = Splits(self.config, self.events, lambda text: None, self._on_splits, self._split_counts)
        self.rollouts = Rollouts(
            lambda: self.config,
            self.splits,
            lambda: self.shadows(reset=False),
            lambda: FileStore(folder, lambda text: None, lambda: self.now),
            self.events,
            lambda text: None,
            lambda: self.now,
        )
        self.split_counts: dict[str, dict[str, dict[str, Any]]] = {}
        self.changes: list[tuple[str, dict[str, str]]] = []
        self.shadow_results: dict[str, ShadowResults] = {}
        self.refusal = ""
        self.is_idle = False
        self.failing: dict[str, float] = {}  # share of failed attempts by service
        self.metrics_of_worker = Metrics()
        self.failures: list[tuple[int, str]] = []
        self._rng = random.Random(seed)
        self._rate = rate
        self._services: dict[str, ServiceMetrics] = {}
        self.counters: dict[str, dict[str, dict[str, float]]] = {}
        self.states: dict[str, dict[str, dict[str, Any]]] = {}
        for name, service in self.config.services.items():
            self._services[name] = self.metrics_of_worker.service(name, lambda: 3)
            number = instances or len(service.targets or ())
            names = [f"{name}-{index}" for index in range(1, number + 1)]
            zero = {"requests": 0, "errors": 0, "in_flight": 0, "ended": 0, "seconds": 0.0}
            self.counters[name] = {each: dict(zero) for each in names}
            self.states[name] = {
                each: {"state": "up", "address": f"127.0.0.1:{24000 + index}", "weight": 1.0}
                for index, each in enumerate(names)
            }

    def local(self, service: str) -> None:
        """Make the instances of ``service`` processes that the gateway has started."""
        for index, state in enumerate(self.states[service].values()):
            state.update(restarts=0, pid=4200 + index)
            state.pop("weight")

    def tick(self) -> None:
        self.now += 1.0
        if self.is_idle:
            return
        rng, wave = self._rng, 1.0 + 0.3 * math.sin(self.now / 90)
        for route in self.config.routes:
            found: RouteMetrics = self.metrics_of_worker.route(route.label)
            services = [route.service] if route.service else [part.service for part in (route.compose or {}).values()]
            for _ in range(int(rng.gauss(self._rate, self._rate / 6.5) * wave)):
                if route.cache is not None and rng.random() < 0.6:
                    found.hit(200, 0.0003)
                    continue
                if route.cache is not None:
                    found.cache["miss"] = found.cache.get("miss", 0) + 1
                slowest, failed = 0.0, False
                for service in services:
                    seconds, ok = self._attempt(service)
                    slowest, failed = max(slowest, seconds), failed or not ok
                found.observe(502 if failed else 200, slowest + 0.0004)
                if failed:
                    self._fail(route.label, services[0])
            if route.rate_limit:
                for _ in range(rng.randrange(4)):
                    found.observe(429, 0.0001)
                    found.count_failure(Kind.RATE_LIMITED)
            found.in_flight = rng.randrange(5)

    def _attempt(self, service: str) -> tuple[float, bool]:
        rng = self._rng
        up = [name for name, state in self.states[service].items() if state["state"] == "up"]
        seconds = rng.lognormvariate(-5.4, 0.6)
        ok = bool(up) and rng.random() >= self.failing.get(service, 0.0)
        if up:
            counters = self.counters[service][rng.choice(up)]
            counters["requests"] += 1
            counters["ended"] += 1
            counters["seconds"] += seconds
            counters["errors"] += not ok
            counters["in_flight"] = rng.randrange(4)
        if ok:
            self._services[service].observe(200, seconds)
        else:
            self._services[service].count_failure(Kind.UPSTREAM_CLOSED, seconds)
        return seconds, ok

    def _fail(self, route: str, service: str) -> None:
        number = self.failures[-1][0] + 1 if self.failures else 1
        line = {
            "time": "2026-11-30T12:00:00.000Z", "request_id": f"a1-{number:x}", "client": "10.0.0.9", "method": "GET",
            "host": "shop.example", "target": f"/user/{number}", "status": 502, "attempts": 2,
            "instance": f"{service}-1", "route": route, "service": service, "failure": "upstream_closed",
            "side": "upstream", "why": "the connection was closed before the response",
        }  # fmt: skip
        self.failures = [*self.failures, (number, json.dumps(line))][-50:]

    # LiveSource

    async def live_readings(self) -> list[Reading]:
        live = self.metrics_of_worker.live(full=False)
        live["process"].update(cpu=(self.now - START) * (0.0 if self.is_idle else 0.31), lag=0.001, connections=24)
        instances = {name: {i: dict(c) for i, c in found.items()} for name, found in self.counters.items()}
        return [Reading("gateway", 7, self.now, {**live, "instances": instances, "failures": self.failures})]

    def live_states(self) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, dict[str, Any]]]]:
        states = {name: {i: dict(s) for i, s in found.items()} for name, found in self.states.items()}
        return {"gateway": {"state": "up", "pid": 7, "restarts": 0}}, states

    async def _on_splits(self, settings: Settings) -> None:
        """Take no notice: the traffic is not real."""

    async def _split_counts(self) -> Snapshot:
        return {"splits": self.split_counts}

    # AdminSubject

    async def metrics(self) -> Snapshot:
        return self.metrics_of_worker.snapshot()

    async def shadows(self, *, reset: bool) -> list[dict[str, Any]]:
        return [{route: results.to_json() for route, results in self.shadow_results.items()}]

    async def status(self) -> dict[str, Any]:
        return {
            "version": "0.1.0", "state": "running", "config": "gateway.yaml", "config_problems": [],
            "listen": "127.0.0.1:8080", "pid": 7, "uptime": 1.0, "workers": [], "services": {},
        }  # fmt: skip

    async def change(self, name: str, arguments: Mapping[str, str]) -> dict[str, Any]:
        self.changes.append((name, dict(arguments)))
        if self.refusal:
            raise ChangeRefused(self.refusal)
        if name == "scale":
            return {"message": f"{arguments['service']}: scaled", "before": 3, "instances": int(arguments["instances"])}
        return {"message": f"{name}: done"}

    async def purge(self, kind: str, value: str) -> PurgeResult:
        self.changes.append(("purge", {kind: value}))
        return PurgeResult(12, [])


def counted(requests: int, failed: int = 0) -> dict[str, Any]:
    """Return what workers count of one side of a split."""
    times = LatencyHistogram()
    times.add(0.01)
    return {
        "requests": requests,
        "failed": failed,
        "failed_users": failed,
        "slow_users": 0,
        "latency": [each * requests for each in times.counts],
    }


class Served:
    """The admin port of ``system``, on an event loop in a thread of its own: Playwright has one in this thread."""

    def __init__(self, system: System, settings: AdminPort | None = None, host: str = "127.0.0.1") -> None:
        self.system = system
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        (self._sock,) = ports.reserve(host, 0)
        self.port = self._sock.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self._settings = settings

        async def start() -> Admin:
            admin = Admin(self._sock, system, settings)
            await admin.start()
            return admin

        self.admin = self.do(start())

    def do(self, work: Coroutine[Any, Any, T], limit: float = 60.0) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(limit)

    def seconds(self, number: int = 1) -> None:
        """Let so many seconds of traffic happen."""

        async def run(number: int) -> None:
            for _ in range(number):
                self.system.tick()
                await self.system.live.take()
                await asyncio.sleep(0)

        for begin in range(0, number, 20):  # each has the time that `do` waits at most
            self.do(run(min(20, number - begin)))

    def record(self, kind: str, text: str, **more: Any) -> None:
        """Record an event in the loop of the admin port."""

        async def run() -> None:
            self.system.events.record(kind, text, **more)

        self.do(run())

    def drop_streams(self) -> None:
        """Close the connections of all streams."""

        async def run() -> None:
            for connection in list(self.admin._listener.connections):
                connection.abort()

        self.do(run())

    def close(self) -> None:
        self.do(self.admin.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

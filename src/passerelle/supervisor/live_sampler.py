"""The live view: once a second, the counters of all workers become a sample, which is kept and sent to streams.

The workers count anyway; a reading has only the routes and services whose counters have changed. So the data path does
nothing for it, and it runs whether or not a client watches: a dashboard that is opened has ten minutes of history.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, Protocol

import orjson

from passerelle.config.models.config import Config
from passerelle.observability.live import History, LiveSample, Sample, merge_patch
from passerelle.observability.recent_failures import MOST_FAILURES
from passerelle.supervisor.process_sampler import ProcessSampler

logger = logging.getLogger("passerelle")

INTERVAL = 1.0  # seconds
RECENT = 60  # samples that are kept whole, for the diagnosis


class Reading(NamedTuple):
    """A reading of a worker: the pid of its process, and its counters (see :mod:`passerelle.observability.live`)."""

    worker: str
    pid: int
    at: float
    counters: Mapping[str, Any]


class FailedRequest(NamedTuple):
    """A failed request: its number, the worker that served it, and its line of the access log."""

    number: int
    worker: str
    line: str


class LiveSource(Protocol):
    """Where samples come from: a supervisor, or a gateway without one."""

    @property
    def config(self) -> Config:
        """The configuration in force."""

    async def live_readings(self) -> list[Reading]:
        """Read the counters of the workers that reply in time."""

    def live_states(self) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, dict[str, Any]]]]:
        """Return the states of the workers by name, and those of the instances by service and name."""


class LiveSampler:
    """Takes samples from ``source``, keeps them in ``history``, and passes changes to listeners.

    ``latest`` is the last sample, ``recent`` has the last minute of them; ``number`` counts the samples.
    ``failures`` are the last failed requests of all workers.
    """

    def __init__(
        self,
        source: LiveSource,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.history = History()
        self.latest: Sample = {}
        self.recent: deque[Sample] = deque(maxlen=RECENT)
        self.number = 0
        self.failures: deque[FailedRequest] = deque(maxlen=MOST_FAILURES)
        self._failed = 0
        self._taken: dict[str, tuple[int, int]] = {}  # by worker, the pid and the number of its last failure
        self._source = source
        self._clock = clock
        self._sleep = sleep
        self._sample = LiveSample()
        self._listeners: list[Callable[[int, bytes], None]] = []
        self._services_of_routes: dict[str, str] = {}
        self._destinations: dict[str, list[str]] = {}  # all services of each route
        self._config: Config | None = None
        self._watchers: list[Callable[[Sample], None]] = []
        self._processes = ProcessSampler()

    async def run(self) -> None:
        """Take a sample every second, until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + INTERVAL, loop.time())  # after a pause of the process, samples are not caught up
            await self._sleep(max(0.0, due - loop.time()))
            try:
                await self.take()
            except Exception as error:  # a defect of the live view must not end the gateway
                logger.error("the live view failed", exc_info=error)

    async def take(self) -> None:
        """Take one sample."""
        readings = await self._source.live_readings()
        for reading in readings:
            self._sample.add(reading.worker, reading.pid, reading.at, reading.counters)
            self._add_failures(reading)
        config = self._source.config
        if config is not self._config:
            self._config = config
            self._services_of_routes = {
                r.label: r.service for r in config.routes if r.service is not None and r.split is None
            }
            self._destinations = {route.label: route.destinations for route in config.routes}
        sample = self._sample.finish(self._clock(), self._services_of_routes)
        for name, values in sample["routes"].items():
            values["services"] = self._destinations.get(name, [])
        self._add_states(sample)
        self._processes.add(sample)
        before, self.latest = self.latest, sample
        self.number += 1
        self.history.add(sample)
        self.recent.append(sample)
        for watcher in self._watchers:
            watcher(sample)
        if self._listeners:
            patch = orjson.dumps(merge_patch(before, sample))
            for listener in tuple(self._listeners):
                listener(self.number, patch)

    def _add_failures(self, reading: Reading) -> None:
        """Add the failed requests of a reading, except those that are known from an earlier one."""
        pid, last = self._taken.get(reading.worker, (0, 0))
        if pid != reading.pid:
            last = 0
        for number, line in reading.counters.get("failures", ()):
            if number > last:
                last = number
                self._failed += 1
                self.failures.append(FailedRequest(self._failed, reading.worker, line))
        self._taken[reading.worker] = reading.pid, last

    def failures_since(self, number: int) -> list[dict[str, Any]]:
        """Return the failed requests that are kept with a greater number, the oldest first, as JSON-able values."""
        return [failed._asdict() for failed in self.failures if failed.number > number]

    def _add_states(self, sample: Sample) -> None:
        """Add the states of workers and instances, and remove those that exist no longer."""
        workers, instances = self._source.live_states()
        for name in set(sample["workers"]) - set(workers):
            del sample["workers"][name]
        for name, state in workers.items():
            sample["workers"][name] = {**sample["workers"].get(name, {}), **state}
            if state["state"] != "up":
                self._sample.forget(name)
        for service in set(sample["services"]) - set(instances):
            del sample["services"][service]
        for service, states in instances.items():
            values = sample["services"].setdefault(service, {"instances": {}})
            found = values["instances"]
            values["instances"] = {name: {**found.get(name, {}), **state} for name, state in states.items()}
            values["up"] = sum(state["state"] == "up" for state in states.values())

    def listen(self, listener: Callable[[int, bytes], None]) -> Callable[[], None]:
        """Call ``listener(number, patch)`` with the merge patch of each sample. Returns a function that ends this."""
        self._listeners.append(listener)

        def end() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return end

    def watch(self, watcher: Callable[[Sample], None]) -> None:
        """Call ``watcher`` with each sample, for what decides by it: alerts and automatic scaling."""
        self._watchers.append(watcher)

    def snapshot(self) -> bytes:
        """Return the last sample as JSON."""
        return orjson.dumps(self.latest)

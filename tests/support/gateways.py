"""Gateways for tests: each with its own configuration on a free port, all on one event loop in one thread.

Only two public entry points are used: ``passerelle.config.load_text(text)`` and ``passerelle.gateway.gateway.Gateway``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import uvloop

from passerelle.config import load_text
from passerelle.gateway.gateway import Gateway, InstanceSpec
from tests.support.client import Client
from tests.support.upstream import Script, Upstream
from tests.support.wire import DEADLINE, wait_until

T = TypeVar("T")


class Loop:
    """uvloop in a thread. Every call of its exception handler is a defect and is recorded in ``errors``."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.errors: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def run(self, coroutine: Coroutine[Any, Any, T], within: float = 2 * DEADLINE) -> T:
        """Run the coroutine on the loop; return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(within)

    def call(self, function: Callable[[], T]) -> T:
        """Call a function on the loop; return its result."""

        async def inner() -> T:
            return function()

        return self.run(inner())

    def close(self) -> None:
        """Stop the thread and close the loop."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE)
        self.loop.close()


class Log(logging.Handler):
    """Records log records that have a traceback or are errors: no request may cause one unless a test expects it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def defects(self) -> list[str]:
        """Return the records that are defects of the gateway."""
        return [r.getMessage() for r in self.records if r.exc_info or r.levelno >= logging.ERROR]


class Running:
    """Started gateway."""

    def __init__(self, loop: Loop, settings: dict[str, Any]) -> None:
        self._loop = loop
        self._settings = settings
        self.gateway = loop.call(lambda: Gateway(load_text(json.dumps(settings))))
        _, self.port = loop.run(self.gateway.start())
        self._targets = {name: list(s.get("targets", ())) for name, s in settings.get("services", {}).items()}
        self._stopped = False

    def connect(self, *, receive_buffer: int | None = None) -> Client:
        """Open a client connection."""
        return Client(self.port, receive_buffer=receive_buffer)

    def snapshot(self) -> dict[str, Any]:
        """Return the gateway's metrics snapshot."""
        return self._loop.call(self.gateway.snapshot)

    def set_instances(self, service: str, *upstreams: Upstream) -> None:
        """Replace the service's instances by these upstreams, named by their ports."""
        specs = [InstanceSpec(self._name(service, u), "127.0.0.1", u.port, 1.0) for u in upstreams]
        self._loop.call(lambda: self.gateway.set_instances(service, specs))

    def reload(self, services: dict[str, Any], routes: list[dict[str, Any]], **top: Any) -> None:
        """Apply another configuration."""
        settings = {**self._settings, **top, "services": services, "routes": routes}
        self._loop.call(lambda: self.gateway.reload(load_text(json.dumps(settings))))

    def _name(self, service: str, upstream: Upstream) -> str:
        """Return the name that the configuration gave to a target (its position, from 1), or a new one."""
        targets = self._targets.setdefault(service, [])
        if upstream.url not in targets:
            targets.append(upstream.url)
        return f"{service}-{targets.index(upstream.url) + 1}"

    def stop(self, grace: float = 0.0) -> None:
        """Stop the gateway (once)."""
        if not self._stopped:
            self._stopped = True
            self._loop.run(self.gateway.stop(grace))


class Rig:
    """Creates upstreams and gateways for one test, and stops all of them afterwards."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.log = Log()
        self.upstreams: list[Upstream] = []
        self.gateways: list[Running] = []
        self.clients: list[Client] = []
        self.allowed_defects = 0

    def upstream(self, script: Script | Sequence[Script], *, send_buffer: int | None = None) -> Upstream:
        """Start a scripted upstream (see :mod:`tests.support.upstream`)."""
        upstream = Upstream(script, send_buffer=send_buffer)
        self.upstreams.append(upstream)
        return upstream

    def gateway(self, services: dict[str, Any], routes: list[dict[str, Any]], **top: Any) -> Running:
        """Start a gateway with these services and routes; ``top`` has the other top-level keys."""
        settings = {
            "listen": "127.0.0.1:0",
            "admin": "off",
            "access_log": "off",
            **({"services": services} if services else {}),
            "routes": routes,
            **top,
        }
        running = Running(self.loop, settings)
        self.gateways.append(running)
        return running

    def forward(
        self,
        *upstreams: Upstream,
        service: dict[str, Any] | None = None,
        route: dict[str, Any] | None = None,
        **top: Any,
    ) -> Running:
        """Start a gateway with one route that forwards everything to these upstreams."""
        return self.gateway(
            {"u": {"targets": [u.url for u in upstreams], **(service or {})}},
            [{"path": "/{rest*}", "service": "u", **(route or {})}],
            **top,
        )

    def connect(self, gateway: Running, *, receive_buffer: int | None = None) -> Client:
        """Open a client connection that is closed after the test."""
        client = gateway.connect(receive_buffer=receive_buffer)
        self.clients.append(client)
        return client

    def close(self) -> None:
        """Stop everything; fail on any error that the test did not notice."""
        for client in self.clients:
            client.close()
        for upstream in self.upstreams:
            upstream.close()
        for running in self.gateways:
            running.stop()
        errors, self.loop.errors = self.loop.errors, []
        for upstream in self.upstreams:
            upstream.check()
        assert not errors, f"the loop's exception handler was called: {errors}"
        assert not self.log.defects(), f"logged as defects: {self.log.defects()}"


def settle(running: Running, within: float = DEADLINE) -> None:
    """Wait until the gateway has no request in flight."""
    wait_until(lambda: in_flight(running) == 0, "no request in flight", within)


def in_flight(running: Running) -> int:
    """Return the number of requests in flight according to the gateway."""
    return sum(route["in_flight"] for route in running.snapshot()["routes"].values())

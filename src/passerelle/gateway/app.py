"""A gateway worker: the listener, the services, the plans, and the clock that they share."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterable
from ipaddress import ip_address
from itertools import count
from pathlib import Path
from typing import Any

from passerelle.balancing.group import Group
from passerelle.balancing.policies import POLICIES, Node, Policy
from passerelle.config.models import Config
from passerelle.config.models import Service as ServiceConfig
from passerelle.errors import Failure, Kind
from passerelle.gateway.cache import Cache
from passerelle.gateway.deadlines import Deadlines
from passerelle.gateway.forward import Forward
from passerelle.gateway.hits import answer_hit
from passerelle.gateway.invalidation import Invalidator
from passerelle.gateway.pipeline import Exchange
from passerelle.gateway.plan import Environment, RoutePlan, build_router, cache_of, is_cached
from passerelle.gateway.service import InstanceSpec, Members, PoolSettings, Service
from passerelle.http1.clock import Clock
from passerelle.http1.connection import ClientConnection
from passerelle.http1.head import RequestHead
from passerelle.http1.listener import Limits, Listener
from passerelle.observability.access_log import AccessLog, RouteLog
from passerelle.observability.log_sink import LogSink
from passerelle.observability.metrics import UNMATCHED, Metrics

__all__ = ["Gateway", "InstanceSpec"]

logger = logging.getLogger("passerelle")

# How often deadlines are looked at (seconds): a deadline is late by at most this.
TICK = 0.05
# How often connections, pools and streams are looked at.
SWEEP = 1.0
# An answer's body of which no byte comes for this long is given up (seconds). Server-sent events and long polls that
# mean it send a comment sooner.
STALL = 300.0
BACKLOG = 4096
# How long the last log lines may take at the end.
LOG_SECONDS = 2.0


class Gateway:
    """One worker. Everything runs on the event loop that :meth:`start` is awaited on."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.metrics = Metrics()
        self._deadlines: dict[float, Deadlines] = {}
        destination = config.access_log
        self._sink = None if destination == "off" else LogSink(None if destination == "stdout" else Path(destination))
        self._log = AccessLog(self._sink.put, self.loop.call_later) if self._sink is not None else None
        if self._sink is not None:
            self.metrics.access_log = self._sink.counts
        self._clock = Clock()
        self._members: dict[str, Members] = {}
        self._services = {name: self._service(name, service) for name, service in config.services.items()}
        self.cache = Cache(config.cache.memory) if any(map(is_cached, config.routes)) else None
        environment = Environment(self._services, self._deadlines_for, self.metrics.route, self._route_log, self.cache)
        self.router = build_router(config, environment)
        if self.cache is not None:
            self.invalidator = Invalidator(self.cache, self.router.match, cache_of)
            self.metrics.cache = self.cache.snapshot
        self.unmatched = RoutePlan(self.metrics.route(UNMATCHED), self._route_log(UNMATCHED, None), 0)
        limits = config.limits
        self._listener = Listener(
            self,
            Limits(
                head=limits.head,
                fields=limits.headers,
                head_timeout=limits.head_timeout,
                idle_timeout=limits.idle_timeout,
                body_timeout=limits.body_timeout,
                connections=limits.connections,
            ),
            self._clock,
        )
        self._sweep = min(SWEEP, min(limits.head_timeout, limits.idle_timeout, limits.body_timeout) / 4)
        self._stalled: dict[Forward, tuple[int, float]] = {}
        self._trust: dict[bytes, bool] = {}
        self._id_prefix = os.urandom(6).hex().encode("ascii") + b"-%x"
        self._ids = count(1).__next__
        self._server: asyncio.Server | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # ---- life

    async def start(self, sock: socket.socket | None = None) -> tuple[str, int]:
        """Begin on ``sock``, bound already, or bind what the configuration says; gives the address bound.

        OSError when it is taken.
        """
        listen = self._config.listen
        listener = self._listener

        def connection() -> ClientConnection:
            return ClientConnection(listener)

        if sock is not None:
            self._server = await self.loop.create_server(connection, sock=sock, backlog=BACKLOG)
        else:
            self._server = await self.loop.create_server(
                connection, listen.host, listen.port, backlog=BACKLOG, reuse_port=self._config.workers > 1
            )
        self._tick()
        self._sweep_all()
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    async def stop(self, grace: float) -> None:
        """Accept no more, let requests in flight end for up to ``grace`` seconds, then end the rest."""
        if self._server is not None:
            self._server.close()
        self._listener.drain()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._listener.empty(), grace)
        for connection in list(self._listener.connections):
            connection.abort()
        for members in self._members.values():
            members.close()
        await asyncio.sleep(0)
        for timer in self._timers.values():
            timer.cancel()
        if self._log is not None:
            self._log.flush()
        if self._sink is not None:
            self._sink.close(LOG_SECONDS)

    def set_instances(self, service: str, instances: Iterable[InstanceSpec]) -> None:
        """Let ``service`` have these instances: those that are up. KeyError for an unknown service."""
        self._members[service].replace(instances)

    def reopen_log(self) -> None:
        """Open the access log's file anew, after it was moved away."""
        if self._sink is not None:
            self._sink.reopen()

    def purge(self, what: str, value: str) -> int:
        """Let the cache go of what has a tag, a path, or of all (``what``: tag, path, all); how many there were."""
        return self.cache.purge(what, value) if self.cache is not None else 0

    def snapshot(self) -> dict[str, Any]:
        """Counters as JSON-able values (see :mod:`passerelle.observability.metrics`)."""
        listener = self._listener
        self.metrics.connections_open = len(listener.connections)
        self.metrics.connections_accepted = listener.accepted
        self.metrics.connections_refused = listener.refused
        return self.metrics.snapshot()

    def status(self) -> dict[str, Any]:
        """Services and their instances as this worker sees them, as JSON-able values."""
        return {
            name: [
                {"name": i.name, "address": i.address, "up": i.up, "in_flight": i.in_flight, "total": i.total}
                for i in members.instances
            ]
            for name, members in self._members.items()
        }

    # ---- requests (the Handler of http1)

    def on_request(self, connection: ClientConnection, method: bytes, target: bytes, head: RequestHead) -> None:
        """Carry a request out."""
        if self.cache is not None and answer_hit(self, self.cache, connection, method, target, head):
            return
        exchange = Exchange(self, connection, method, target, head)
        try:
            exchange.start()
        except Exception as error:
            # A defect of ours: the client gets an answer and the process goes on; the traceback is for the log alone.
            logger.exception("request failed within the gateway")
            exchange.on_failure(Failure(Kind.INTERNAL, repr(error)))

    def on_refused(self, connection: ClientConnection, failure: Failure) -> bytes:
        """Count and log what was no request; gives its id."""
        request_id = self.next_id()
        self.metrics.malformed(failure.kind)
        log = self.unmatched.log
        if log is not None:
            log.add(request_id, connection.peer, b"", b"", b"", b"", failure.status, 0, 0, 0.0, 0.0, 0, None, failure)
        return request_id

    def next_id(self) -> bytes:
        """A request id that no other request of any worker has."""
        return self._id_prefix % self._ids()

    def trusts(self, peer: bytes) -> bool:
        """Whether ``peer`` (an address) is a trusted proxy."""
        networks = self._config.trusted_proxies
        if not networks:
            return False
        known = self._trust.get(peer)
        if known is None:
            if len(self._trust) > 10_000:
                self._trust.clear()
            try:
                address = ip_address(peer.decode("ascii"))
            except ValueError:
                return False
            known = self._trust[peer] = any(address in network for network in networks)
        return known

    # ---- parts

    def _service(self, name: str, service: ServiceConfig) -> Service:
        policy = POLICIES[service.balance]
        leaves: dict[str, Policy]
        node: Node
        if service.zones is not None:
            leaves = {zone: policy() for zone in service.zones}
            node = Group((leaves[zone], float(settings.weight)) for zone, settings in service.zones.items())
        else:
            leaf = policy()
            leaves, node = {"": leaf}, leaf
        settings = PoolSettings(
            service.max_connections, service.max_waiting, service.connect_timeout, service.keepalive
        )
        members = self._members[name] = Members(self.loop, self._clock, leaves, settings)
        members.replace(configured_instances(name, service))
        return Service(name, node, self.metrics.service(name, members.in_flight))

    def _deadlines_for(self, limit: float) -> Deadlines:
        return self._deadlines.setdefault(limit, Deadlines(limit))

    def _route_log(self, route: str, service: str | None) -> RouteLog | None:
        return self._log.route(route, service) if self._log is not None else None

    # ---- time

    def _tick(self) -> None:
        now = time.perf_counter()
        for deadlines in self._deadlines.values():
            deadlines.expire(now)
        self._clock.tick(now, time.time())
        self._timers["tick"] = self.loop.call_later(TICK, self._tick)

    def _sweep_all(self) -> None:
        self._listener.sweep()
        for members in self._members.values():
            members.sweep()
        self._check_streams(time.perf_counter())
        self._timers["sweep"] = self.loop.call_later(self._sweep, self._sweep_all)

    def _check_streams(self, now: float) -> None:
        """Give up answers whose bodies stand still."""
        seen = {}
        for service in self._services.values():
            for forward in list(service.streaming):
                progress, since = self._stalled.get(forward, (-1, now))
                if forward.progress != progress:
                    since = now
                if now - since > STALL:
                    forward.on_stalled()
                else:
                    seen[forward] = (forward.progress, since)
        self._stalled = seen


def configured_instances(name: str, service: ServiceConfig) -> list[InstanceSpec]:
    """The instances that the configuration names itself: targets and zones; none where the runner starts them."""
    zones = service.zones
    groups = [("", service.targets or ())] if zones is None else [(zone, z.targets) for zone, z in zones.items()]
    return [
        InstanceSpec(
            f"{name}-{zone}-{index}" if zone else f"{name}-{index}",
            target.url.host,
            target.url.port,
            float(target.weight),
            zone,
        )
        for zone, targets in groups
        for index, target in enumerate(targets, 1)
    ]

"""One gateway worker: the listener, the services, the plans, and the clock that they share.

The file is longer than 400 lines because starting, reloading and stopping one worker are one class.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from secrets import token_bytes
from typing import Any

from passerelle.balancing.health import HealthChange
from passerelle.balancing.instance import Instance
from passerelle.config.models.config import Config
from passerelle.config.models.config import Service as ServiceConfig
from passerelle.errors import Failure
from passerelle.gateway.assembly.access_log import Sink, open_access_log
from passerelle.gateway.assembly.actions import error_pages
from passerelle.gateway.assembly.caching import evict_changed_routes, open_cache
from passerelle.gateway.assembly.certificates import Certificates
from passerelle.gateway.assembly.guards import GuardFactory
from passerelle.gateway.assembly.https_redirects import with_redirects
from passerelle.gateway.assembly.listeners import endpoint_settings
from passerelle.gateway.assembly.query_keys import take_query_keys
from passerelle.gateway.assembly.routes import PlanResources, Plans, build_plans, build_router, unmatched_plan
from passerelle.gateway.assembly.second_level import SecondLevel
from passerelle.gateway.assembly.services import (
    apply_settings,
    balancing_inputs,
    build_nodes,
    configured_instances,
    health_settings,
    listener_limits,
    pool_settings,
    sweep_seconds,
)
from passerelle.gateway.assembly.splits import SplitCounts, SplitFactory, slow_after
from passerelle.gateway.assembly.tracing import Tracing
from passerelle.gateway.challenges import Challenges
from passerelle.gateway.context import Context
from passerelle.gateway.endpoints import BoundSocket, Endpoints
from passerelle.gateway.error_pages import ErrorPages
from passerelle.gateway.exchange import Exchange
from passerelle.gateway.fast_hit import serve_fresh_hit
from passerelle.gateway.plans import cache_of, stored_part_tags
from passerelle.gateway.splitter import Splitter
from passerelle.http1.clock import Clock
from passerelle.http1.head import RequestHead
from passerelle.http1.interfaces import ServerConnection
from passerelle.http1.server.descriptor_limit import DescriptorLimit
from passerelle.http1.server.listener import Listener
from passerelle.observability.access_log import AccessLog, RouteLog
from passerelle.observability.metrics import Metrics, no_cache
from passerelle.proxy_cache.cache import Cache
from passerelle.proxy_cache.invalidation import Invalidator
from passerelle.security.addresses import Proxies
from passerelle.system import descriptors, ports
from passerelle.upstream.deadlines import DeadlineQueue
from passerelle.upstream.members import InstanceSet, InstanceSpec
from passerelle.upstream.passive_health import PassiveHealth
from passerelle.upstream.request import UpstreamRequest
from passerelle.upstream.service import Service
from passerelle.upstream.shadow import ShadowResults
from passerelle.upstream.stream_idle import StreamIdleMonitor

__all__ = ["Gateway", "InstanceSpec"]

# How often deadlines are checked (seconds): the most by which a deadline is late.
TICK = 0.05
# How far the clock may be set back (seconds) before the cache is emptied: its responses would live longer.
SET_BACK = 3.0
# The longest time between checks of connections, pools and streams (seconds).
SWEEP = 1.0
# How long clients have at a stop to close their event streams and WebSockets (seconds).
STREAM_END_SECONDS = 1.0
# How long writing the last log lines may take when the worker stops (seconds).
LOG_SECONDS = 2.0
# How long sending the last spans may take when the worker stops (seconds).
TRACE_SECONDS = 1.0
# How long plugins may take to stop when the worker stops (seconds).
PLUGIN_SECONDS = 2.0

_BREAKERS = {"closed": "closed", "open": "open", "half_open": "half-open"}

logger = logging.getLogger("passerelle")


class Gateway:
    """One worker. All of it runs on the event loop in which :meth:`start` is awaited."""

    def __init__(self, config: Config, stderr: int = 2) -> None:
        self._config = config
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.metrics = Metrics()
        self._deadlines: dict[float, DeadlineQueue] = {}
        self._sink: Sink | None = None
        self._log: AccessLog | None = None
        if (opened := open_access_log(config, stderr)) is not None:
            self._sink, put = opened
            self._log = AccessLog(put, self.loop.call_later)
            self.metrics.access_log = self._sink.counts
        self.clock = Clock()
        self._health: PassiveHealth | None = PassiveHealth(self.loop.time)
        self._health_listener: Callable[[str, str, str], None] | None = None
        self._event_listener: Callable[[str, str, str], object] | None = None
        self._lag = 0.0  # the most by which a tick was late since the last live() (seconds)
        self._next_tick = inf
        self._paused = 0.0  # the integral of the number of clients that read too slowly over time
        self._services: dict[str, Service] = {}
        self._members: dict[str, InstanceSet] = {}
        # Services that a reload has removed while requests to them are in flight.
        self._retiring: dict[str, tuple[Service, InstanceSet]] = {}
        self._shadows: dict[str, ShadowResults] = {}
        self._split_counts: dict[str, SplitCounts] = {}
        self._splitters: dict[str, Splitter] = {}
        self._maintenance: frozenset[str] | None = frozenset()
        self._era: object = None  # of the plans in force
        self._guards = GuardFactory(config, self.loop, self.metrics.plugin)
        self._certificates = Certificates(config)
        for name, service in config.services.items():
            self._services[name], self._members[name] = self._make_service(name, service, self._certificates)
            self._set_instances(name, service, configured_instances(name, service))
        cache, era = open_cache(config), object()
        splits, pages = SplitFactory(config, self._split_counts), error_pages(config)
        self._splitters = splits.splitters
        self._plans = self._make_plans(config, self._services, self._deadlines, self._guards, cache, era, splits, pages)
        self.context = Context(
            self.loop,
            self.clock,
            Proxies(config.trusted_proxies),
            build_router(self._plans, self._maintenance),
            unmatched_plan(config, self.metrics, self._route_log, pages),
            cache,
        )
        self.second_level = SecondLevel(self.loop)
        self._use_cache(cache, era, config)
        self._listener = Listener(self, listener_limits(config), self.clock)
        self._tracing = Tracing(self)
        self._challenges = Challenges()
        self._use_handler(config)
        self.metrics.traces = self._tracing.counts
        self._listener.descriptors = DescriptorLimit(descriptors.limit(), logger.warning)
        self._sweep = sweep_seconds(config, SWEEP)
        self._stream_idle_monitor = StreamIdleMonitor()
        self._endpoints = Endpoints(self._listener, lambda: self._certificates.accept(self._listener))
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # ---- life

    async def start(self, sock: socket.socket | Sequence[BoundSocket] | None = None) -> tuple[str, int]:
        """Listen on bound sockets, or bind the address of the only listener; return the first host and port.

        :raises OSError: if a socket cannot listen.
        :raises PortTaken: if the address cannot be bound.
        """
        if sock is None:
            (sock,) = ports.reserve(self._config.address.host, self._config.address.port)
        sockets = [BoundSocket(0, 0, sock)] if isinstance(sock, socket.socket) else sock
        await self._endpoints.apply(endpoint_settings(self._config), sockets)
        self.second_level.start()
        self._tick()
        self._sweep_all()
        self._guards.start()
        return ports.name_of(sockets[0].sock)

    async def listen(self, sockets: Sequence[BoundSocket]) -> None:
        """After a reload, accept connections on ``sockets`` only, with the listeners of the configuration in force.

        :raises OSError: if a socket cannot listen. Then nothing has changed.
        """
        await self._endpoints.apply(endpoint_settings(self._config), sockets)

    async def stop(self, grace: float) -> None:
        """Stop accepting, wait up to ``grace`` seconds for requests in flight, then abort the others.

        The last part of that time is for event streams and WebSockets, which are ended in order.
        """
        self._endpoints.close()
        self._listener.drain()
        ending = min(STREAM_END_SECONDS, grace / 4)
        try:
            await asyncio.wait_for(self._listener.wait_until_empty(), grace - ending)
        except TimeoutError:
            for connection in list(self._listener.connections):
                connection.end_stream()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._listener.wait_until_empty(), ending)
        for connection in list(self._listener.connections):
            connection.abort()
        for members in [*self._members.values(), *(members for _, members in self._retiring.values())]:
            members.close()
        await asyncio.sleep(0)
        for timer in self._timers.values():
            timer.cancel()
        self._guards.stop()
        await self._guards.plugins.host.wait_until_stopped(PLUGIN_SECONDS)
        await self.second_level.stop()
        if self.context.cache is not None:
            self.context.cache.store.close()
        self._tracing.stop(TRACE_SECONDS)
        if self._log is not None:
            self._log.flush()
        if self._sink is not None:
            self._sink.close(LOG_SECONDS)

    def set_instances(self, service: str, instances: Iterable[InstanceSpec]) -> None:
        """Replace the instances of ``service``.

        :raises KeyError: if there is no such service.
        """
        self._set_instances(service, self._config.services[service], instances)

    def reload(
        self,
        config: Config,
        instances: Mapping[str, Iterable[InstanceSpec]] | None = None,
        splits: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Apply ``config`` from the next request on, also on open connections; requests in flight continue.

        Services that remain keep the connections, counters and health of their instances. ``instances`` are those of
        each service; without it, services have the instances that the configuration names. For ``splits`` see
        :meth:`set_splits`. An error leaves everything unchanged. ``admin``, ``workers``, ``access_log`` and
        ``access_log_format`` are ignored. If ``listen`` has changed, :meth:`listen` is to be called next.
        """
        before = self._config
        certificates = Certificates(config, self._certificates)
        made = {
            n: self._make_service(n, c, certificates) for n, c in config.services.items() if n not in self._services
        }
        services = {n: made[n][0] if n in made else self._services[n] for n in config.services}
        deadlines: dict[float, DeadlineQueue] = {}
        guards = GuardFactory(config, self.loop, self.metrics.plugin, self._guards)
        context = self.context
        cache = open_cache(config, context.cache)
        era = object()
        factory, pages = SplitFactory(config, self._split_counts), error_pages(config)
        plans = self._make_plans(config, services, deadlines, guards, cache, era, factory, pages)
        router = build_router(plans, self._maintenance)
        # From here on nothing fails, and no request is handled in between.
        self._certificates = certificates
        self._plans = plans
        self._splitters = factory.splitters
        self.set_splits(splits or {})
        for name in before.services.keys() - config.services.keys():
            self._retire_service(name)
        for name, (service, members) in made.items():
            self._services[name], self._members[name] = service, members
            if self._retiring.pop(name, None) is not None:
                self._reconfigure_service(name, None, config.services[name])
        self._services = services
        self._members = {name: self._members[name] for name in services}
        for name, settings in config.services.items():
            if name not in made:
                self._reconfigure_service(name, before.services[name], settings)
            given = instances.get(name) if instances is not None else None
            self._set_instances(name, settings, configured_instances(name, settings) if given is None else given)
        # Requests in flight keep their deadlines.
        deadlines.update((limit, old) for limit, old in self._deadlines.items() if old.entries)
        self._deadlines = deadlines
        self._config = config
        self._listener.apply_limits(listener_limits(config))
        self._sweep = sweep_seconds(config, SWEEP)
        if before.trusted_proxies != config.trusted_proxies:
            context.trust(Proxies(config.trusted_proxies))
        self._guards.stop(guards, self._listener.waiting_now())
        guards.start(self._guards)
        self._guards = guards
        context.router = router
        context.unmatched = unmatched_plan(config, self.metrics, self._route_log, pages)
        self._use_cache(cache, era, config)
        self._use_handler(config)
        if config.listen == before.listen:
            self._endpoints.configure(endpoint_settings(config))

    def _use_handler(self, config: Config) -> None:
        context = self.context
        handler = take_query_keys(config, self._tracing.handler(config, context))
        self._handler = with_redirects(config, handler, context, self.metrics, self._route_log)
        self._respond_to_challenges()

    def _retire_service(self, name: str) -> None:
        """Retire a service that is no longer configured: it finishes its requests in flight and receives no others."""
        members = self._members[name]
        members.replace(())
        self._services[name].breaker = None  # requests in flight have references of their own
        self._retiring[name] = self._services[name], members
        if self._health is not None:
            self._health.forget(name)

    def report_health_to(self, listener: Callable[[str, str, str], None]) -> None:
        """Leave the health of instances to the supervisor, and report to it what requests observe.

        For ``listener(event, service, instance)`` see :meth:`passerelle.upstream.passive_health.PassiveHealth.report`.
        """
        self._health = None
        self._health_listener = listener
        for service in self._services.values():
            service.supervised = True

    def report_events_to(
        self, listener: Callable[[str, str, str], object], on_health: Callable[[str, HealthChange], None] | None = None
    ) -> None:
        """Report circuit breakers to ``listener(kind, service, text)``.

        Without a supervisor, ``on_health(service, change)`` is called when the health of an instance changes.
        """
        self._event_listener = listener
        if self._health is not None:
            self._health.on_change = on_health

    def set_splits(self, settings: Mapping[str, Mapping[str, Any]]) -> None:
        """Apply settings by split from the next request on: ``weights`` in per mille by side, and ``slow_after``, the
        time in seconds from which requests count as slow, or None. Unknown splits are ignored.
        """
        for name, splitter in self._splitters.items():
            found = settings.get(name)
            if found is not None:
                splitter.set_weights(found["weights"])
                for counters in self._split_counts[name].sides.values():
                    counters.slow_after = slow_after(found["slow_after"])

    def reopen_log(self) -> None:
        """Reopen the file of the access log after a rotation."""
        if self._sink is not None:
            self._sink.reopen()

    def purge(self, what: str, value: str) -> int:
        """Delete the stored responses with a tag or path, or all (``what``: tag, path, all); return their number."""
        cache = self.context.cache
        return cache.purge(what, value) if cache is not None else 0

    def set_maintenance(self, routes: frozenset[str] | None) -> None:
        """Refuse the requests to the ``routes`` with these labels (None: to all) from now on, and to no others.

        Requests in flight continue. A reload does not change it.
        """
        if routes == self._maintenance:
            return
        self._maintenance = routes
        context = self.context
        context.router = build_router(self._plans, routes)
        if context.cache is not None:
            context.invalidator = Invalidator(context.cache, context.router.all_matches, cache_of, stored_part_tags)
            self._allow_fast_hits(context.cache)

    def set_challenges(self, pending: Iterable[Mapping[str, str]]) -> None:
        """Respond to these challenges of orders for certificates from now on, and to no others. A reload keeps them.

        See :mod:`passerelle.acme.challenge`.

        :raises ssl.SSLError: if a proof cannot be used; then it responds to none.
        """
        self._challenges.replace(pending)
        try:
            self._respond_to_challenges()
        except OSError:
            self._challenges.replace(())
            self._respond_to_challenges()
            raise

    def _respond_to_challenges(self) -> None:
        self._listener.handler = self._challenges.before(self._handler)
        self._certificates.validate(self._challenges.proofs)

    def snapshot(self) -> dict[str, Any]:
        """Return the counters as JSON values (see :mod:`passerelle.observability.metrics`)."""
        listener = self._listener
        self.metrics.connections_open = len(listener.connections)
        self.metrics.connections_accepted = listener.accepted
        self.metrics.connections_refused = listener.refused
        if listener.descriptors is not None:
            self.metrics.connections_without_descriptor = listener.descriptors.refused
        instances = {name: members.counters() for name, members in self._members.items()}
        splits = {
            name: {side: counters.snapshot() for side, counters in counts.sides.items()}
            for name, counts in self._split_counts.items()
        }
        shadows = {route: results.metrics() for route, results in self._shadows.items()}
        return self.metrics.snapshot() | {"instances": instances, "splits": splits, "shadows": shadows}

    def live(self, *, full: bool) -> dict[str, Any]:
        """Return the sums for a live view (see :meth:`passerelle.observability.metrics.Metrics.live`)."""
        self.metrics.connections_open = len(self._listener.connections)
        lag, self._lag = self._lag, 0.0
        live = self.metrics.live(full=full)
        live["process"].update(lag=lag, paused=self._paused)
        live["failures"] = self.context.failures.take(full=full)
        live["instances"] = {name: members.live() for name, members in self._members.items()}
        return live

    def shadows(self, *, reset: bool = False) -> dict[str, Any]:
        """Return what the shadow requests of each route found, as JSON values; with ``reset``, counts begin again."""
        found = {route: results.to_json() for route, results in self._shadows.items()}
        if reset:
            for results in self._shadows.values():
                results.reset()
        return found

    def status(self) -> dict[str, Any]:
        """Return the services and their instances as this worker sees them, as JSON values."""
        return {name: members.status() for name, members in self._members.items()}

    def service_snapshots(self) -> dict[str, dict[str, Any]]:
        """Return the state of the services apart from their instances, as JSON values.

        See :meth:`passerelle.upstream.service.Service.snapshot`.
        """
        return {name: service.snapshot() for name, service in self._services.items()}

    # ---- requests (the RequestHandler of http1)

    def on_request(self, connection: ServerConnection, method: bytes, target: bytes, head: RequestHead) -> None:
        """Handle a request."""
        context = self.context
        cache = context.cache
        if cache is not None and method == b"GET" and head.plain:
            # This test makes no call: a request on a route that stores nothing must not pay for the routes that do.
            origin = head.cache_origin
            if (origin is None or origin + target in cache.store.keys) and serve_fresh_hit(
                context, cache, connection, target, head
            ):
                return
        exchange = Exchange(context, connection, method, target, head)
        try:
            exchange.start()
        except Exception as error:
            exchange.on_defect(error)

    def on_refused(self, connection: ServerConnection, failure: Failure) -> bytes:
        """Count and log a message that is not a valid request; return the id given to it."""
        request_id = self.context.next_id()
        self.metrics.malformed(failure.kind)
        log = self.context.unmatched.log
        if log is not None:
            log.add(request_id, connection.peer, b"", b"", b"", b"", failure.status, 0, 0, 0.0, 0.0, 0, None, failure)
        return request_id

    # ---- parts

    def _make_service(
        self, name: str, config: ServiceConfig, certificates: Certificates
    ) -> tuple[Service, InstanceSet]:
        """Create a service; one that is being retired is returned as it is."""
        leaving = self._retiring.get(name)
        if leaving is not None:
            return leaving
        leaves, node, cookie = build_nodes(name, config)
        members = InstanceSet(self.loop, self.clock, leaves, pool_settings(config, certificates.for_service(name)))
        service = Service(name, node, self.metrics.service(name, members.in_flight))
        service.metrics.breaker = service.breaker_state
        service.metrics.concurrency = service.concurrency
        service.metrics.tunnels = service.tunnels.counts
        service.cookie = cookie
        service.report = self._report
        service.supervised = self._health is None
        apply_settings(service, config, None)
        return service, members

    def _make_plans(
        self,
        config: Config,
        services: Mapping[str, Service],
        deadlines: dict[float, DeadlineQueue],
        guards: GuardFactory,
        cache: Cache | None,
        era: object,
        splits: SplitFactory,
        pages: ErrorPages | None,
    ) -> Plans:
        """Build the plans of the routes of ``config``, and add the deadline queues that they need to ``deadlines``."""

        def queue(limit: float) -> DeadlineQueue:
            if limit not in deadlines:
                known = self._deadlines.get(limit)
                deadlines[limit] = DeadlineQueue(limit) if known is None else known
            return deadlines[limit]

        environment = PlanResources(
            services,
            queue,
            self.metrics.route,
            self._route_log,
            guards,
            cache,
            era,
            self._shadow_results,
            splits,
            pages,
        )
        return build_plans(config, environment)

    def _shadow_results(self, route: str) -> ShadowResults:
        """Return the results of the shadow requests of ``route``; a reload keeps them."""
        return self._shadows.setdefault(route, ShadowResults(token_bytes(16)))

    def _use_cache(self, cache: Cache | None, era: object, config: Config) -> None:
        """Use ``cache`` with the router in force, and close the cache in use before."""
        context = self.context
        if context.cache is not None and context.cache is not cache:
            context.cache.store.close()
        context.cache = cache
        self.second_level.configure(config, cache)
        self.metrics.cache = cache.snapshot if cache is not None else no_cache
        if cache is not None:
            evict_changed_routes(cache, config, era)
            self._era = era
            self._allow_fast_hits(cache)
            context.invalidator = Invalidator(cache, context.router.all_matches, cache_of, stored_part_tags)

    def _allow_fast_hits(self, cache: Cache) -> None:
        """Allow hits before routing, unless a route is in maintenance: routing refuses its requests."""
        cache.era = self._era if self._maintenance == frozenset() else object()

    def _reconfigure_service(self, name: str, before: ServiceConfig | None, config: ServiceConfig) -> None:
        """Apply ``config`` to a service that remains; ``before`` is its previous configuration, if known."""
        service, members = self._services[name], self._members[name]
        if before is None or balancing_inputs(before) != balancing_inputs(config):
            leaves, service.node, service.cookie = build_nodes(name, config)
            members.reconfigure(leaves, pool_settings(config, self._certificates.for_service(name)))
        else:
            members.reconfigure(None, pool_settings(config, self._certificates.for_service(name)))
        apply_settings(service, config, before)

    def _set_instances(self, name: str, config: ServiceConfig, specs: Iterable[InstanceSpec]) -> None:
        members = self._members[name]
        down = members.replace(specs)
        if self._health is not None:
            self._health.set_instances(name, health_settings(config, probed=False), members.instances)
        for instance in down:
            self._retry_elsewhere(instance)

    def _retry_elsewhere(self, instance: Instance) -> None:
        """Let requests that wait for ``instance``, which fails its probes, try another instance."""
        for deadlines in self._deadlines.values():
            for waiting in list(deadlines.entries):
                if isinstance(waiting, UpstreamRequest) and waiting.instance is instance:
                    waiting.on_instance_down()

    def _report(self, event: str, service: str, instance: str) -> None:
        if event == "breaker":
            if self._event_listener is not None:
                self._event_listener(event, service, f"the circuit breaker of {service} is {_BREAKERS[instance]}")
        elif self._health is not None:
            self._health.report(event, service, instance)
        elif self._health_listener is not None:
            self._health_listener(event, service, instance)

    def _route_log(self, route: str, service: str | None, which: str = "all") -> RouteLog | None:
        if self._log is None or which == "off":
            return None
        return self._log.route(route, service, errors_only=which == "errors")

    # ---- time

    def _tick(self) -> None:
        now = time.perf_counter()
        if now - self._next_tick > self._lag:
            self._lag = now - self._next_tick
        self._sample_occupancy(now + TICK - self._next_tick)
        self._next_tick = now + TICK
        for deadlines in self._deadlines.values():
            deadlines.expire(now)
        moved = self.clock.tick(now, time.time())
        if moved < -SET_BACK and self.context.cache is not None:
            logger.warning("the clock was set back by %.0f s: the cache is emptied", -moved)
            self.purge("all", "")
        self._timers["tick"] = self.loop.call_later(TICK, self._tick)

    def _sample_occupancy(self, seconds: float) -> None:
        """Record what requests wait for now as the state of the last ``seconds``, for the live view."""
        if not 0.0 < seconds < inf:
            return  # the first tick
        self._paused += seconds * self._listener.paused
        for name, service in self._services.items():
            self._members[name].sample(seconds)
            service.metrics.streaming += seconds * len(service.streaming)
            service.samples_timing = True

    def _sweep_all(self) -> None:
        self._listener.sweep()
        for name, tls in self._certificates.reload_changed():
            self._members[name].secure(tls)
        for members in self._members.values():
            members.sweep()
        for name, (_, members) in list(self._retiring.items()):
            members.sweep()
            if members.is_empty:
                del self._retiring[name]
        now = time.perf_counter()
        for service in self._services.values():
            service.record_requests(now)
        if self._health is not None:
            self._health.tick()
        self._stream_idle_monitor.check(
            [*self._services.values(), *(service for service, _ in self._retiring.values())], now
        )
        self._timers["sweep"] = self.loop.call_later(self._sweep, self._sweep_all)

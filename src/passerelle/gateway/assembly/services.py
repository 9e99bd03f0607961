"""Builds the balancing, limits and settings of services from the configuration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from hashlib import blake2b

from passerelle.balancing.group import Child, Group
from passerelle.balancing.health import HealthSettings
from passerelle.balancing.policies import PickerNode
from passerelle.balancing.priority_tiers import PriorityTiers
from passerelle.balancing.registry import make
from passerelle.balancing.sticky import Sticky
from passerelle.config.models.addresses import Lookup
from passerelle.config.models.config import Config, Health, Target
from passerelle.config.models.config import Service as ServiceConfig
from passerelle.gateway.assembly.hash_keys import key_of
from passerelle.http.messages import IDEMPOTENT_METHODS
from passerelle.http1.server.listener import ListenerLimits
from passerelle.http1.tls_contexts import UpstreamTls
from passerelle.resilience.adaptive_limit import AdaptiveLimit
from passerelle.resilience.circuit_breaker import BreakerSettings, CircuitBreaker
from passerelle.resilience.retry_budget import RetryBudget
from passerelle.security.addresses import Proxies, Subscribers
from passerelle.upstream.concurrency_limiter import ConcurrencyLimiter
from passerelle.upstream.forwarding_fields import ForwardingFields
from passerelle.upstream.members import InstanceSpec, Leaf, PoolSettings
from passerelle.upstream.service import RetryRules, Service, StickyCookie

# Higher than every priority that a configuration can give a zone.
NEAREST = -1


def build_nodes(name: str, config: ServiceConfig) -> tuple[dict[str, Leaf], PickerNode, StickyCookie | None]:
    """Build the leaves by zone, the node above them, and the sticky cookie or None."""
    policy = config.balance.policy
    leaves: dict[str, Leaf]
    node: PickerNode
    if config.zones is not None:
        leaves = {zone: _leaf(policy, settings.targets) for zone, settings in config.zones.items()}
        node = Group(
            Child(leaves[zone], float(settings.weight), NEAREST if zone == config.near else settings.priority, zone)
            for zone, settings in config.zones.items()
        )
    else:
        leaf = _leaf(policy, config.targets or ())
        leaves, node = {"": leaf}, leaf
    cookie = None
    sticky = config.balance.sticky
    if sticky is not None:
        # The same secret must yield different tokens for different services.
        secret = blake2b(b"%b\0%b" % (name.encode(), sticky.secret.encode()), digest_size=32).digest()
        node = Sticky(node, secret)
        cookie = StickyCookie(sticky.cookie.encode("ascii"), node)
    return leaves, node, cookie


def _leaf(policy: str, targets: Iterable[Target]) -> Leaf:
    """Build a policy, or one for each priority where SRV records may define several."""
    return PriorityTiers(partial(make, policy)) if _may_have_tiers(targets) else make(policy)


def _may_have_tiers(targets: Iterable[Target]) -> bool:
    return any(isinstance(target.url, Lookup) and target.url.srv for target in targets)


def balancing_inputs(config: ServiceConfig) -> object:
    """Return the inputs of :func:`build_nodes`: a reload that does not change them keeps the nodes."""
    zones = config.zones
    if zones is None:
        return config.balance, _may_have_tiers(config.targets or ())
    return (
        config.balance,
        config.near,
        [(n, z.weight, z.priority, _may_have_tiers(z.targets)) for n, z in zones.items()],
    )


def pool_settings(config: ServiceConfig, tls: UpstreamTls | None) -> PoolSettings:
    """Build the settings of the connection pools of a service."""
    return PoolSettings(
        config.max_connections,
        config.max_waiting,
        config.connect_timeout,
        config.keepalive,
        config.max_connections if config.max_streams is None else config.max_streams,
        config.client_share,
        tls,
    )


def health_settings(config: ServiceConfig, *, probed: bool) -> HealthSettings:
    """Build the health settings of a service; ``probed`` is whether its instances are probed."""
    slow_start = 0.0 if config.slow_start == "off" else config.slow_start
    health = config.health or Health.model_construct()
    usual = HealthSettings(probed, health.rise, health.fall, slow_start=slow_start, panic=config.panic)
    eject = config.eject
    if eject is None:
        return replace(usual, ejected_part=0.0)
    return replace(
        usual,
        failures=eject.failures,
        ejection=eject.time,
        ejection_max=eject.max_time,
        ejected_part=eject.at_most,
    )


def apply_settings(service: Service, config: ServiceConfig, before: ServiceConfig | None) -> None:
    """Apply ``config`` to ``service``; what is unchanged since ``before`` keeps its state."""
    service.key = key_of(config.balance)
    service.host = config.host_name.encode("ascii") if config.host_name is not None else None
    service.keeps_host = config.host == "client"
    service.path = config.path.encode("ascii")
    service.forwarding = ForwardingFields(config.forwarding) if config.forwarding else None
    service.tunnels.configure(config.max_tunnels, config.client_share)
    service.eject_after = config.eject.failures if config.eject is not None else 0
    retries = config.retries
    methods = IDEMPOTENT_METHODS if retries.methods is None else frozenset(m.encode() for m in retries.methods)
    service.retries = RetryRules(methods, frozenset(retries.on_status), retries.backoff, retries.max_backoff)
    if before is None or before.retries != retries:
        service.budget = RetryBudget(retries.budget, float(retries.floor))
    concurrency = config.concurrency
    if before is None or (before.concurrency, before.max_waiting) != (concurrency, config.max_waiting):
        service.limiter = None
        if concurrency is not None:
            limit = AdaptiveLimit(
                concurrency.first,
                least=concurrency.min,
                most=concurrency.max,
                tolerance=1 + concurrency.tolerance,
            )
            service.limiter = ConcurrencyLimiter(limit, config.max_waiting)
    if before is None or before.breaker != config.breaker:
        settings = config.breaker
        service.breaker = None
        if settings is not None:
            service.breaker = CircuitBreaker(
                BreakerSettings(
                    settings.threshold,
                    settings.minimum,
                    settings.window,
                    settings.open,
                    settings.max_open,
                    settings.probes,
                )
            )
            service.breaker.on_change = lambda state: service.report("breaker", service.name, state.value)


def configured_instances(name: str, service: ServiceConfig) -> list[InstanceSpec]:
    """Return the instances that the configuration itself names, not those that are started or discovered."""
    zones = service.zones
    groups = [("", service.targets or ())] if zones is None else [(zone, z.targets) for zone, z in zones.items()]
    return [
        InstanceSpec(
            f"{name}-{zone}-{index}" if zone else f"{name}-{index}",
            target.url.host,
            target.url.port,
            float(target.weight),
            zone,
            secure=target.url.secure,
        )
        for zone, targets in groups
        for index, target in enumerate(targets, 1)
        if target.url is not None and not target.is_found
    ]


def listener_limits(config: Config) -> ListenerLimits:
    """Build the limits of client connections and requests."""
    limits = config.limits
    proxies, subscribers = Proxies(config.trusted_proxies), Subscribers()

    def client_of(peer: bytes) -> bytes | None:
        # A trusted proxy forwards for many clients.
        return None if proxies.trusts(peer) else subscribers.of(peer)

    return ListenerLimits(
        head=limits.head,
        fields=limits.headers,
        head_timeout=limits.head_timeout,
        idle_timeout=limits.idle_timeout,
        body_timeout=limits.body_timeout,
        body_rate=limits.body_rate,
        write_timeout=limits.write_timeout,
        connections=limits.connections,
        per_client=limits.connections_per_address,
        client_of=client_of,
    )


def sweep_seconds(config: Config, most: float) -> float:
    """Return how often connections are checked (seconds): a quarter of the shortest time limit, at most ``most``."""
    limits = config.limits
    times: list[float | str] = [limits.head_timeout, limits.idle_timeout, limits.body_timeout, limits.write_timeout]
    for route in config.routes:
        times += (route.stream_idle_timeout, route.tunnel_idle_timeout)
    return min(most, min(seconds for seconds in times if not isinstance(seconds, str)) / 4)

"""The guards of each route, made when its plan is built."""

from __future__ import annotations

from passerelle.config.guards import RateLimit
from passerelle.config.models import Config, Route
from passerelle.observability.metrics import RouteMetrics
from passerelle.security.addresses import Subscribers
from passerelle.security.guard import Asked, Guard
from passerelle.security.limits import SECOND, KeyOf, Limit, Rate, RateLimits, by_header


class Guards:
    """Makes the guards of every route of ``config``."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._subscribers = Subscribers()

    def of(self, route: Route, metrics: RouteMetrics) -> tuple[Guard, ...]:
        """The guards of ``route`` in the order in which they are asked."""
        guards: list[Guard] = []
        # Limits by address and field come first: they are cheap, and what guesses credentials must be slowed down too.
        guards += self._limits(route, metrics, ("address", "header"))
        return tuple(guards)

    def _limits(self, route: Route, metrics: RouteMetrics, kinds: tuple[str, ...]) -> list[Guard]:
        chosen = [limit for limit in route.rate_limit if limit.by.partition(":")[0] in kinds]
        if not chosen:
            return []

        def would_refuse() -> None:
            metrics.would_refuse += 1

        return [RateLimits([self._limit(limit) for limit in chosen], would_refuse)]

    def _limit(self, settings: RateLimit) -> Limit:
        whole = Rate(settings.rate.number, settings.rate.seconds * SECOND, settings.size)
        rate = whole.share(self._config.workers, settings.cost)
        return Limit(settings.label, rate, self._key_of(settings.by), cost=settings.cost, dry=settings.dry_run)

    def _key_of(self, by: str) -> KeyOf:
        if by == "address":
            return self._by_address
        return by_header(by.removeprefix("header:").lower().encode("ascii"))

    def _by_address(self, asked: Asked) -> bytes:
        return self._subscribers.of(asked.address)

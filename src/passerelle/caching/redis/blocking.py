"""A client of Redis with blocking calls, for commands: gateways have asynchronous ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from passerelle.caching.redis.location import locate

if TYPE_CHECKING:
    from redis import Redis


def blocking_client(url: str, seconds: float) -> Redis:
    """Return a client for a checked URL of the configuration. ``seconds`` is the limit for a connection and a reply."""
    from redis import Redis
    from redis.sentinel import Sentinel

    location = locate(url)
    limits: dict[str, Any] = {"socket_connect_timeout": seconds, "socket_timeout": seconds}
    options = location.options | limits
    if location.master:
        known: Any = cast(Callable[..., Any], Sentinel)(location.nodes, sentinel_kwargs=location.tls | limits)
        return cast("Redis", known.master_for(location.master, redis_class=Redis, **options))
    host, port = location.nodes[0]
    return Redis(host=host, port=port, **options)

"""Clients of the package ``redis`` for a Redis, found by its address or by Sentinels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from passerelle.caching.redis.location import RedisLocation
from passerelle.caching.redis.reconnect import CONNECT


def connect(location: RedisLocation) -> tuple[Redis, Sequence[Redis]]:
    """Return a client of the Redis at ``location``, and those of its Sentinels."""
    options: dict[str, Any] = {
        **location.options,
        "socket_timeout": None,
        "socket_connect_timeout": CONNECT,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "max_connections": 64,
    }
    if not location.master:
        host, port = location.nodes[0]
        return Redis(host=host, port=port, **options), ()
    # One that hangs must leave time for the next.
    limits = {"socket_timeout": CONNECT / 4, "socket_connect_timeout": CONNECT / 4, "retry": Retry(NoBackoff(), 0)}
    known: Any = cast(Callable[..., Any], Sentinel)(location.nodes, sentinel_kwargs=location.tls | limits)
    return known.master_for(location.master, redis_class=Redis, **options), known.sentinels

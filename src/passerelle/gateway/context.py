"""What exchanges and fast hits use of the worker that they run in."""

from __future__ import annotations

import asyncio
import os
from itertools import count

from passerelle.gateway.plans import RoutePlan
from passerelle.http1.clock import Clock
from passerelle.proxy_cache.cache import Cache
from passerelle.proxy_cache.invalidation import Invalidator
from passerelle.routing.router import Router
from passerelle.security.addresses import Proxies


class Context:
    """The state that the requests of one worker share. The gateway replaces its attributes when it reloads.

    ``router`` holds the plans in force; ``unmatched`` is the plan of requests that match no route. ``cache`` is None
    where no route is cached; ``invalidator`` is None until a route has been cached. ``proxies`` are the trusted ones.
    """

    __slots__ = (
        "_id_prefix",
        "_next_number",
        "cache",
        "clock",
        "invalidator",
        "loop",
        "proxies",
        "router",
        "unmatched",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        proxies: Proxies,
        router: Router,
        unmatched: RoutePlan,
        cache: Cache | None,
    ) -> None:
        self.loop = loop
        self.clock = clock
        self.proxies = proxies
        self.router = router
        self.unmatched = unmatched
        self.cache = cache
        self.invalidator: Invalidator | None = None
        self._id_prefix = os.urandom(6).hex().encode("ascii") + b"-%x"
        self._next_number = count(1).__next__

    def next_id(self) -> bytes:
        """A request id that is unique among all workers."""
        return self._id_prefix % self._next_number()

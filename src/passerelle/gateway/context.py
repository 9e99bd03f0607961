"""What exchanges and fast hits use of the worker that they run in."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Final

from passerelle.errors import Failure
from passerelle.gateway.plans import ForwardPlan, RoutePlan
from passerelle.http1.clock import Clock
from passerelle.observability.access_log import RouteLog
from passerelle.observability.recent_failures import RecentFailures, has_failed
from passerelle.proxy_cache.cache import Cache
from passerelle.proxy_cache.invalidation import Invalidator
from passerelle.routing.router import Router
from passerelle.security.addresses import Proxies, Subscribers

if TYPE_CHECKING:
    from passerelle.http1.head import RequestHead

# The ids that are taken from trusted proxies: they need no quoting in a header field, a log line or JSON.
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._~:/+=@-]{1,128}")


class Context:
    """The state that the requests of one worker share. The gateway replaces its attributes when it reloads.

    ``router`` holds the plans in force; ``unmatched`` is the plan of requests that match no route. ``cache`` is None
    where no route is cached; ``invalidator`` is None until a route has been cached. ``proxies`` are the trusted ones.
    ``failures`` keeps the last failed requests. ``id_of(head, peer)`` returns the id of a request from ``peer``.
    """

    __slots__ = (
        "_id_prefix",
        "_next_number",
        "_subscribers",
        "cache",
        "clock",
        "failures",
        "id_of",
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
        self.trust(proxies)
        self.router = router
        self.unmatched = unmatched
        self.cache = cache
        self.invalidator: Invalidator | None = None
        self.failures = RecentFailures()
        self._id_prefix = os.urandom(6).hex().encode("ascii") + b"-%x"
        self._next_number = count(1).__next__
        self._subscribers = Subscribers()

    def client_key(self, address: bytes) -> bytes | None:
        """Return the client that ``address`` is counted as; None for a trusted proxy, which forwards for many."""
        return None if self.proxies.trusts(address) else self._subscribers.of(address)

    def count_failure(
        self,
        plan: RoutePlan,
        status: int,
        seconds: float,
        failure: Failure | None,
        write: Callable[[RouteLog, int, float, Failure | None], None],
    ) -> None:
        """Count a failed request of ``plan``, and keep its line, which ``write`` makes, unless its client caused it."""
        if failure is not None:
            plan.metrics.count_failure(failure.kind)
        if has_failed(status, failure):
            service = plan.policy.service.name if isinstance(plan, ForwardPlan) else None
            write(self.failures.log(plan.metrics.route, service), status, seconds, failure)

    def trust(self, proxies: Proxies) -> None:
        """Trust ``proxies`` from now on: their addresses of clients, and their request ids."""
        self.proxies = proxies
        # Without proxies no request pays for a look at its fields.
        self.id_of: Callable[[RequestHead, bytes], bytes] = self._forwarded_id if proxies else self._new_id

    def _new_id(self, head: RequestHead, peer: bytes) -> bytes:
        return self._id_prefix % self._next_number()

    def _forwarded_id(self, head: RequestHead, peer: bytes) -> bytes:
        """Return the valid X-Request-Id that a trusted proxy has sent, or a new id."""
        given = [line.value for line in head.named(b"x-request-id")]
        if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]) and self.proxies.trusts(peer):
            return given[0]
        return self.next_id()

    def next_id(self) -> bytes:
        """A request id that is unique among all workers."""
        return self._id_prefix % self._next_number()

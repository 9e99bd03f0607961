"""Fast hits: serve a fresh stored response before routing, without an exchange.

An entry qualifies when its ``owner`` is the plan of a route without guards and its key is the origin, path and query as
received. Such a key has one canonical path and therefore one route: routing a request with the same key would lead to
the same plan. A path in another spelling is not found here; the request is then routed as usual.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from passerelle.caching.entry import Entry
from passerelle.caching.request import RequestView
from passerelle.caching.serving import fresh_hit_bytes, fresh_hit_tail
from passerelle.gateway.compression import coding_of, encoded_form
from passerelle.gateway.plans import RoutePlan
from passerelle.proxy_cache.cache import Cache, request_view
from passerelle.upstream.request_headers import cache_origin, client_address, client_hosts, is_client_secure

if TYPE_CHECKING:
    from passerelle.gateway.context import Context
    from passerelle.http1.head import RequestHead
    from passerelle.http1.interfaces import ServerConnection


def serve_fresh_hit(context: Context, cache: Cache, client: ServerConnection, target: bytes, head: RequestHead) -> bool:
    """Serve a plain GET from a fresh entry. Returns False, and has no effect, where that is not possible.

    A plain GET without fields that select among responses identifies no client and has no directives and conditions.
    """
    host = head.host
    if host is None:
        return False
    started = perf_counter()
    now = started + context.clock.offset
    place = head.cache_origin
    if place is None:
        place = head.cache_origin = cache_origin(head, client.peer, context.proxies, client.scheme) + b" "
    item = cache.store.get(place + target)
    if item is None:
        return False
    if type(item) is Entry and not head.layout.selecting:
        entry, needs = item, 0  # as with the view of this request, whose creation would take 4,000 instructions
    else:
        view: RequestView | None = head.cache_view
        if view is None or view.method != b"GET" or view.consumer:
            view = request_view(head, b"GET")
        found = cache.variants.select(item, view)
        if found is None:
            return False
        entry, needs = found, view.needs
    # The same condition as that of `policy.lookup` for HIT.
    if now >= entry.fresh_until or needs & entry.needs_excluded:
        return False
    plan = entry.owner
    if not isinstance(plan, RoutePlan) or plan.cache is None or plan.cache.era is not cache.era:
        return False
    if plan.coding is not None:
        entry = encoded_form(entry, plan.coding, coding_of(head, plan.coding), cache.store)
    body = entry.body
    rules = plan.response_rules
    request_id: bytes | None = None
    if rules is None:
        message = fresh_hit_bytes(entry, now)
    else:
        request_id = context.id_of(head, client.peer)
        edited = rules.apply(entry.head, _Request(context, client, head, request_id))
        message = edited + fresh_hit_tail(entry, now) + body
    if not client.send_ready(message, len(body)):
        return False
    seconds = perf_counter() - started
    plan.metrics.hit(entry.status, seconds)
    if plan.log is not None:
        peer = client_address(head, client.peer, context.proxies) if head.forwarded else client.peer
        request_id = request_id or context.id_of(head, client.peer)
        plan.log.add_hit(request_id, peer, target, host, head.user_agent, entry.status, len(body), seconds)
    return True


class _Request:
    """A plain GET as response header rules see it."""

    __slots__ = ("_client", "_context", "_head", "request_id")

    method = b"GET"
    sees_timing = False

    def __init__(self, context: Context, client: ServerConnection, head: RequestHead, request_id: bytes) -> None:
        self._context = context
        self._client = client
        self._head = head
        self.request_id = request_id

    @property
    def origin(self) -> bytes | None:
        return self._head.get(b"origin")

    @property
    def hosts(self) -> tuple[bytes, ...]:
        return client_hosts(self._head, self._client.peer, self._context.proxies)

    @property
    def secure(self) -> bool:
        return is_client_secure(self._head, self._client.peer, self._context.proxies, self._client.scheme)

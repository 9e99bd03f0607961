"""What receives a response between its source, a service or the cache, and the exchange: filters, then the encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from passerelle.gateway.compression import ResponseEncoder
from passerelle.gateway.plans import RoutePlan
from passerelle.gateway.response_filter import FilteredResponse, FilterExchange
from passerelle.http1.head import RequestHead
from passerelle.proxy_cache.cache import Cache
from passerelle.proxy_cache.interfaces import CacheClient

if TYPE_CHECKING:
    from typing import Protocol

    class Exchange(CacheClient, FilterExchange, Protocol):
        """The exchange of a client."""


def receiver_of(
    exchange: Exchange, plan: RoutePlan, method: bytes, head: RequestHead, cache: Cache | None
) -> CacheClient:
    """Return the receiver of the response for ``exchange``, on a route with ``plan`` that is not direct."""
    receiver: CacheClient = exchange
    if plan.coding is not None:
        receiver = ResponseEncoder(exchange, plan.coding, method, head, cache.store if cache is not None else None)
    for step in reversed(plan.filters):
        receiver = FilteredResponse(receiver, exchange, step, method)
    return receiver

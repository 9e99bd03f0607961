"""The requests for the parts of one composed request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy

from passerelle.compose.composition import Gather
from passerelle.compose.part import PartRequest
from passerelle.compose.plans import PartPlan
from passerelle.http1.head import RequestHead
from passerelle.proxy_cache.cache import part_view
from passerelle.proxy_cache.request import CacheRequest
from passerelle.upstream.request import UpstreamRequest


class PartRequests:
    """Creates the requests for the ``parts`` of one composed request.

    ``fields`` are the field lines that every request has. ``address`` returns the address of the client,
    ``cache_origin`` the requested origin as cache keys have it. Without ``cached`` the caches are bypassed.
    ``trace_lines`` continue the trace of the client; no stored response depends on them.
    """

    __slots__ = (
        "_address",
        "_cache_origin",
        "_cached",
        "_consumer",
        "_fields",
        "_head",
        "_origin",
        "_rest",
        "_revalidate",
        "params",
        "parts",
    )

    def __init__(
        self,
        parts: Sequence[PartPlan],
        params: Mapping[str, bytes],
        head: RequestHead,
        fields: bytes,
        request_id: bytes,
        consumer: bytes,
        address: Callable[[], bytes],
        cache_origin: Callable[[], bytes],
        cached: bool,
        trace_lines: bytes = b"",
    ) -> None:
        self.parts = parts
        self.params = params
        self._head = head
        self._fields = fields
        self._rest = b" HTTP/1.1\r\n%bX-Request-Id: %b\r\n%b\r\n" % (fields, request_id, trace_lines)
        self._consumer = consumer
        self._address = address
        self._cache_origin = cache_origin
        self._cached = cached
        self._origin: bytes | None = None
        self._revalidate = False

    def for_revalidation(self) -> PartRequests:
        """Return a copy that uses no stale responses."""
        copied = copy(self)
        copied._revalidate = True
        return copied

    def make(self, index: int, gather: Gather, started: float) -> PartRequest:
        """Create the request for part number ``index``, not started.

        ``started`` is when the whole was requested (of ``perf_counter``).
        """
        part = self.parts[index]
        policy = part.policy
        service = policy.service
        params = self.params
        path = part.path.fill(params)
        message = b"GET " + path + self._rest
        key = service.key
        node_key = key(self._head, params, self._address()) if key is not None else None
        request = None
        if part.cache is not None and self._cached:
            view = part_view(self._head, self._fields, self._consumer)
            prefix = part.key
            if part.cache.settings.key.hosts is None:
                origin = self._origin
                if origin is None:
                    origin = self._origin = self._cache_origin()
                prefix = b"%b#%b" % (prefix, origin)  # services receive the origin, so a response may depend on it
            arguments = (policy, part.cache, view, b"%b %b" % (prefix, path), message, params, started)
            request = CacheRequest(
                *arguments, node_key=node_key, sources=((service.name, path),), revalidate=self._revalidate
            )
        part_request = part.make_part(gather, index, policy, message, started, request)
        if key is not None and isinstance(part_request.source, UpstreamRequest):
            part_request.source.key = node_key
            part_request.sticky = service.cookie
        return part_request

    def sources(self) -> tuple[tuple[str, bytes], ...]:
        """Return the services and targets whose responses the whole is made of."""
        return tuple((part.policy.service.name, part.path.fill(self.params)) for part in self.parts)

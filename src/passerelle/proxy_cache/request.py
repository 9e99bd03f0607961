"""A request to the cache, and the message that it sends upstream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from passerelle.caching.entry import SPECIAL, Entry
from passerelle.caching.keys import TargetUri
from passerelle.caching.policy import Miss, Stale
from passerelle.caching.request import RequestView
from passerelle.http.messages import Fields
from passerelle.http1.server.body_writer import SLICE
from passerelle.proxy_cache.cache import CachePlan, path_tag
from passerelle.upstream.interfaces import CacheOrigin, ResponseReceiver, ResponseSource
from passerelle.upstream.request_body import RequestBody


@dataclass(frozen=True, slots=True)
class CacheRequest:
    """A request to the cache. ``message`` is sent to ``origin`` on a miss; ``started_at`` is of ``perf_counter``.

    ``host`` is the Host in normal form without a port, ``cache_origin`` what stands for it in keys, ``authority`` the
    Host as sent, in lower case. ``owner`` is the plan of the route where fast hits are possible (see
    :mod:`passerelle.gateway.fast_hit`). ``node_key`` is the key that the balancer hashes, if any. ``sources`` are the
    services and targets whose responses a composition is made of: they become tags. ``revalidate`` forbids stale
    responses, whatever the policy allows. ``route`` is the plan of the route; a part of a composition has none.
    """

    origin: CacheOrigin
    plan: CachePlan
    view: RequestView
    key: bytes
    message: bytes
    params: Mapping[str, bytes]
    started_at: float
    host: bytes = b""
    cache_origin: bytes = b""
    authority: bytes = b""
    target: TargetUri | None = None
    owner: object = None
    node_key: bytes | None = None
    sources: tuple[tuple[str, bytes], ...] = ()
    revalidate: bool = False
    route: object = None

    def remember_route(self, entry: Entry) -> None:
        """Let fast hits serve ``entry`` with the plan of the route, unless its body is sent in slices."""
        entry.owner = self.owner if len(entry.body) <= SLICE else None

    def tags(self) -> tuple[bytes, ...]:
        """Return the tags of the response, apart from those that the response itself contains."""
        return (*self.plan.fill_tags(self.params), *(path_tag(service, target) for service, target in self.sources))


def make_upstream_request(
    request: CacheRequest, receiver: ResponseReceiver, message: bytes, body: RequestBody | None
) -> ResponseSource:
    """Create the upstream request that sends ``message``; it is not started."""
    origin = request.origin
    source = origin.make_request(origin, receiver, request.view.method, message, body, request.started_at)
    if request.node_key is not None:
        source.key = request.node_key
    return source


def conditional_request(message: bytes, decision: Miss | Stale, view: RequestView) -> bytes:
    """Return the request for upstream: without the fields that the cache evaluates, with its validators."""
    fields: Fields = decision.fields if isinstance(decision, Stale) else []
    if decision.drop and view.needs & SPECIAL:  # the dropped fields are preconditions, and the request has one
        line, _, section = message.partition(b"\r\n")
        kept = [f for f in section[:-4].split(b"\r\n") if f.partition(b":")[0].lower() not in decision.drop]
        message = b"\r\n".join([line, *kept, b"", b""])
    if fields:
        added = b"".join(b"%b: %b\r\n" % (_SPELLED.get(name, name), value) for name, value in fields)
        message = message[:-2] + added + b"\r\n"
    return message


_SPELLED = {b"if-none-match": b"If-None-Match", b"if-modified-since": b"If-Modified-Since"}

"""The cache of one worker, and the plan by which a route uses it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from passerelle.caching.entry import Entry
from passerelle.caching.memory_store import MemoryStore
from passerelle.caching.request import PlainRequestView, RequestView
from passerelle.caching.settings import CacheSettings
from passerelle.caching.single_flight import Flight, Flights
from passerelle.caching.tags import stored_tag
from passerelle.caching.variants import VariantStore
from passerelle.http1.head import RequestHead
from passerelle.routing.paths import purged_path

if TYPE_CHECKING:
    from passerelle.proxy_cache.interfaces import RunningFetch
    from passerelle.proxy_cache.redis_tier import RedisTier


class StorageRules(NamedTuple):
    """The rules by which one route, or one part of a composition, stores responses.

    Rules with the same ``identity`` store alike; its first item is ``route`` or ``part``. ``path`` is the path pattern
    that purges what the rules have stored.
    """

    identity: tuple[Any, ...]
    path: str


# The outcomes of requests on cached routes: labels of metrics, and values of the field `cache` of the access log.
OUTCOMES: Final = ("hit", "stale", "miss", "revalidated", "coalesced", "bypass", "refused")

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


class Cache:
    """The store of one worker, and the fetches in flight that several requests wait for (``fetches``, by flight key).

    ``era`` identifies the plans in force: an entry stored under an earlier plan is not served as a fast hit.
    ``redis_tier`` is the second level, if there is one. ``on_invalidated`` is called with the keys and tags that a
    request has invalidated. ``sources`` names the services whose responses are stored as parts of compositions, or
    within them. ``max_refreshes`` bounds the background revalidations in flight. ``rules`` are those of the present
    routes, by name; ``rules_seen`` are the identities of all rules by which stored responses may have been stored.
    """

    __slots__ = (
        "_refreshing",
        "era",
        "fetches",
        "flights",
        "max_refreshes",
        "on_invalidated",
        "redis_tier",
        "rules",
        "rules_seen",
        "sources",
        "store",
        "variants",
    )

    def __init__(self, capacity: int, max_refreshes: int) -> None:
        self._refreshing = 0
        self.max_refreshes = max_refreshes
        self.store = MemoryStore(capacity)
        self.variants = VariantStore(self.store)
        self.flights: Flights[Entry] = Flights()
        self.fetches: dict[bytes, RunningFetch] = {}
        self.era: object = None
        self.redis_tier: RedisTier | None = None
        self.on_invalidated: Callable[[Sequence[bytes], Sequence[bytes]], None] | None = None
        self.sources: set[str] = set()
        self.rules: dict[tuple[str, ...], StorageRules] = {}
        self.rules_seen: set[tuple[Any, ...]] = set()

    def may_refresh(self) -> bool:
        """Return whether one more background revalidation may start; if not, a later request starts it."""
        return self._refreshing < self.max_refreshes

    def count_refresh(self, flight: Flight[Entry]) -> None:
        """Count ``flight`` as a background revalidation until it ends."""
        self._refreshing += 1
        flight.wait(self._on_refreshed)

    def _on_refreshed(self, _: Entry | None) -> None:
        self._refreshing -= 1

    def invalidate(self, keys: Sequence[bytes], tags: Sequence[bytes]) -> None:
        """Invalidate by key and by tag in this worker, in the second level and in all other workers."""
        self.invalidate_local(keys, tags)
        if self.redis_tier is not None:
            for key in keys:
                self.redis_tier.invalidate("key", key)
            for tag in tags:
                self.redis_tier.invalidate("tag", tag)
        if self.on_invalidated is not None:
            self.on_invalidated(keys, tags)

    def invalidate_local(self, keys: Sequence[bytes], tags: Sequence[bytes]) -> None:
        """Invalidate by key and by tag in the memory of this worker."""
        for key in keys:
            self.store.delete(key)
        for tag in tags:
            self.store.purge_tag(tag)

    def purge(self, what: str, value: str) -> int:
        """Delete the responses with the tag or path ``value``, or all (``what``: tag, path, all); return their number.

        The number is that of responses in the memory of this worker. With a second level, the purge reaches Redis and
        all other workers a moment later.

        :raises PatternError: if ``what`` is ``path`` and ``value`` is not a path.
        """
        if what == "path":
            value = purged_path(value)
        subject = value.encode()
        if what == "tag":
            subject = stored_tag(subject)
        if self.redis_tier is not None:
            self.redis_tier.invalidate(what, subject)
        if what == "tag":
            return self.store.purge_tag(subject)
        if what == "path":
            return self.store.purge_path(subject) + sum(self.purge("tag", tag) for tag in self._composed_tags(value))
        return self.store.clear()

    def _composed_tags(self, path: str) -> list[str]:
        """Return the tags of parts and compositions made of responses to ``path``; a final ``*`` is a wildcard."""
        if not path.endswith("*"):
            return [path_tag(service, path.encode()).decode() for service in self.sources]
        prefixes = [f"{service}:{path[:-1]}".encode() for service in self.sources]
        return [tag.decode("latin-1") for prefix in prefixes for tag in self.store.tags_starting(prefix)]

    def snapshot(self) -> dict[str, Any]:
        """Return figures of the store as JSON values."""
        store = self.store
        return {
            "bytes": store.held_bytes,
            "capacity_bytes": store.capacity,
            "entries": len(store),
            "evictions": store.evictions,
            "redis": self.redis_tier.snapshot() if self.redis_tier is not None else {},
        }


def path_tag(service: str, target: bytes) -> bytes:
    """Return the tag of everything made of a service's response to ``target``, without its query.

    An unsafe request to the same path invalidates by this tag.
    """
    return stored_tag(b"%b:%b" % (service.encode(), target.partition(b"?")[0]))


class Tag:
    """A configured tag such as ``user:{user_id}``; parameters are filled in percent-encoded, as in the path."""

    __slots__ = ("_format", "_names")

    def __init__(self, text: str) -> None:
        self._names = tag_names(text)
        self._format = _PLACEHOLDER.sub("%b", text.replace("%", "%%")).encode()

    def fill(self, params: Mapping[str, bytes]) -> bytes:
        """Return the tag with the values of ``params``, in the form in which tags are stored."""
        return stored_tag(self._format % tuple(params[name] for name in self._names))


def tag_names(text: str) -> tuple[str, ...]:
    """Return the names of the parameters in a configured tag, in order."""
    return tuple(_PLACEHOLDER.findall(text))


@dataclass(frozen=True, slots=True)
class CachePlan:
    """How a route uses the cache.

    ``stores`` is false for a route without a cache of its own: its unsafe requests invalidate, and nothing is stored.
    ``whole_uri`` is true where the key is host, path and query as received. ``counts`` has a counter for each outcome,
    ``not_stored`` one for each reason why a response was not stored. ``era`` is the same object
    for all plans of one configuration.
    """

    cache: Cache
    settings: CacheSettings
    tags: tuple[Tag, ...]
    counts: dict[str, int]
    not_stored: dict[str, int]
    stores: bool
    whole_uri: bool
    era: object

    def fill_tags(self, params: Mapping[str, bytes]) -> tuple[bytes, ...]:
        """Return the tags of the route for a request with the path parameters ``params``."""
        return tuple(tag.fill(params) for tag in self.tags)


def request_view(head: RequestHead, method: bytes, consumer: bytes = b"") -> RequestView:
    """Return the cache's view of a request, which is kept with ``head``: a client repeats its head on a connection.

    ``consumer`` is the identity that a guard has established, whatever the credential.
    """
    view = head.cache_view
    if view is None or view.method != method or view.consumer != consumer:
        if head.plain and method == b"GET" and not consumer and not head.layout.selecting:
            view = PlainRequestView(head.end_to_end)
        else:
            has_body = head.chunked or head.content_length > 0
            view = RequestView(method, head.selecting(), has_body=has_body, consumer=consumer, read=head.end_to_end)
        head.cache_view = view
    known: RequestView = view
    return known


def part_view(head: RequestHead, lines: bytes, consumer: bytes = b"") -> RequestView:
    """Return the cache's view of a request for a part with these field ``lines``, which is kept with ``head``.

    The lines are those of ``head`` after the changes of a route, and therefore differ among routes.
    """
    remembered: tuple[bytes, RequestView] | None = head.part_view
    if remembered is not None and remembered[0] == lines and remembered[1].consumer == consumer:
        return remembered[1]
    pairs = [line.partition(b":")[::2] for line in lines.split(b"\r\n") if line]
    fields = [(name.lower(), value.strip(b" \t")) for name, value in pairs]
    view = RequestView(b"GET", fields, consumer=consumer)
    head.part_view = lines, view
    return view

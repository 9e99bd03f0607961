"""What a worker's cached routes share, and what a route's plan says of caching."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from passerelle.caching.entry import Entry
from passerelle.caching.memory_store import MemoryStore
from passerelle.caching.request import PlainRequestView, RequestView
from passerelle.caching.settings import CacheSettings
from passerelle.caching.single_flight import Flight, Flights
from passerelle.caching.tags import stored_tag
from passerelle.caching.variants import VariantStore
from passerelle.http.messages import Fields, end_to_end
from passerelle.http1.field_lines import FieldLine
from passerelle.http1.head import RequestHead
from passerelle.routing.paths import purged_path

if TYPE_CHECKING:
    from passerelle.proxy_cache.interfaces import RunningFetch
    from passerelle.proxy_cache.redis_tier import RedisTier


class StorageRules(NamedTuple):
    """The rules of one route, or part (``identity`` begins with which): those with the same ``identity`` store alike.
    ``path`` is what it is purged by."""

    identity: tuple[Any, ...]
    path: str


# What became of a request on a cached route: the labels of metrics and the values of the access log's field `cache`.
OUTCOMES: Final = ("hit", "stale", "miss", "revalidated", "coalesced", "bypass", "refused")

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


class Cache:
    """One worker's store, and the requests upstream that several clients wait for (``fetches`` by flight key).

    ``era`` is that of the plans in force: what an earlier plan stored is answered by the rules of the present one.
    ``redis_tier`` is the second level, if there is one; ``on_invalidated`` is told of keys and tags that a request
    changed. ``sources`` are the services of whose answers parts of compositions, or whole ones, are stored.
    ``max_refreshes`` bounds how many stale answers are fetched anew at once while they are still used.
    ``rules`` are those of the routes now, by name, ``rules_seen`` all by which anything held may have been stored.
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
        """Whether one more stale answer may be fetched anew now; if not, it is used as it is and another asks again."""
        return self._refreshing < self.max_refreshes

    def count_refresh(self, flight: Flight[Entry]) -> None:
        """Count ``flight`` as one that fetches a stale answer anew, until it ends."""
        self._refreshing += 1
        flight.wait(self._on_refreshed)

    def _on_refreshed(self, _: Entry | None) -> None:
        self._refreshing -= 1

    def invalidate(self, keys: Sequence[bytes], tags: Sequence[bytes]) -> None:
        """Let go of what a request has changed, by key and by tag, here and wherever else it may be."""
        self.invalidate_local(keys, tags)
        if self.redis_tier is not None:
            for key in keys:
                self.redis_tier.invalidate("key", key)
            for tag in tags:
                self.redis_tier.invalidate("tag", tag)
        if self.on_invalidated is not None:
            self.on_invalidated(keys, tags)

    def invalidate_local(self, keys: Sequence[bytes], tags: Sequence[bytes]) -> None:
        """Let go of it in this worker's memory."""
        for key in keys:
            self.store.delete(key)
        for tag in tags:
            self.store.purge_tag(tag)

    def purge(self, what: str, value: str) -> int:
        """Let go of what has the tag ``value``, or that path, or of everything (``what``: tag, path, all); how many.

        Those in this worker's memory are counted. With Redis it goes on to there and to all others, a moment later.
        :class:`.PatternError` when it is to be a path and is none.
        """
        if what == "path":
            value = purged_path(value)
        about = value.encode()
        if what == "tag":
            about = stored_tag(about)
        if self.redis_tier is not None:
            self.redis_tier.invalidate(what, about)
        if what == "tag":
            return self.store.purge_tag(about)
        if what == "path":
            return self.store.purge_path(about) + sum(self.purge("tag", tag) for tag in self._composed_tags(value))
        return self.store.clear()

    def _composed_tags(self, path: str) -> list[str]:
        """The tags of what is made of services' answers to ``path``, or, where it ends in ``*``, to paths below it."""
        if not path.endswith("*"):
            return [path_tag(service, path.encode()).decode() for service in self.sources]
        starts = [f"{service}:{path[:-1]}".encode() for service in self.sources]
        return [tag.decode("latin-1") for start in starts for tag in self.store.tags_starting(start)]

    def snapshot(self) -> dict[str, Any]:
        """What the store holds, as JSON-able values."""
        store = self.store
        return {
            "bytes": store.held_bytes,
            "capacity_bytes": store.capacity,
            "entries": len(store),
            "evictions": store.evictions,
            "redis": self.redis_tier.snapshot() if self.redis_tier is not None else {},
        }


def path_tag(service: str, target: bytes) -> bytes:
    """The tag of what is made of a service's answer to ``target``, whatever the query: updates reach it so."""
    return stored_tag(b"%b:%b" % (service.encode(), target.partition(b"?")[0]))


class Tag:
    """A tag such as ``user:{user_id}``, filled with a match's raw parameters (still percent-encoded)."""

    __slots__ = ("_format", "_names")

    def __init__(self, text: str) -> None:
        self._names = tag_names(text)
        self._format = _PLACEHOLDER.sub("%b", text.replace("%", "%%")).encode()

    def fill(self, params: Mapping[str, bytes]) -> bytes:
        """The tag with the values of ``params``, as it is held."""
        return stored_tag(self._format % tuple(params[name] for name in self._names))


def tag_names(text: str) -> tuple[str, ...]:
    """The parameters that a tag's text names, in order."""
    return tuple(_PLACEHOLDER.findall(text))


@dataclass(frozen=True, slots=True)
class CachePlan:
    """How a route is cached. ``stores`` is false for a route without a cache of its own: what its unsafe requests
    change is let go of, and nothing else. ``whole_uri`` tells that the key is host, path and query as they are.
    ``counts`` has a number per outcome. ``era`` is the same for all plans that are in force together.
    """

    cache: Cache
    settings: CacheSettings
    tags: tuple[Tag, ...]
    counts: dict[str, int]
    stores: bool
    whole_uri: bool
    era: object

    def fill_tags(self, params: Mapping[str, bytes]) -> tuple[bytes, ...]:
        """The route's tags for a request with these parameters."""
        return tuple(tag.fill(params) for tag in self.tags)


def request_view(head: RequestHead, method: bytes, consumer: bytes = b"") -> RequestView:
    """What ``head`` says to a cache, remembered with it: a kept-alive client repeats its head.

    ``consumer`` is whom a guard has found behind it, by whatever credential.
    """
    view = head.cache_view
    if view is None or view.method != method or view.consumer != consumer:
        if head.plain and not head.selects and method == b"GET" and not consumer:
            view = PlainRequestView(partial(_end_to_end, head.lines))
        else:
            has_body = head.chunked or head.content_length > 0
            view = RequestView(method, _end_to_end(head.lines), has_body=has_body, consumer=consumer)
        head.cache_view = view
    known: RequestView = view
    return known


def _end_to_end(lines: Sequence[FieldLine]) -> Fields:
    return end_to_end([(line.name, line.value) for line in lines])


def part_view(head: RequestHead, lines: bytes, consumer: bytes = b"") -> RequestView:
    """What a part's field ``lines`` say to a cache, remembered with ``head``.

    The lines are the client's as a route changes them: another route makes others of the same head.
    """
    remembered: tuple[bytes, RequestView] | None = head.part_view
    if remembered is not None and remembered[0] == lines and remembered[1].consumer == consumer:
        return remembered[1]
    pairs = [line.partition(b":")[::2] for line in lines.split(b"\r\n") if line]
    fields = [(name.lower(), value.strip(b" \t")) for name, value in pairs]
    view = RequestView(b"GET", fields, consumer=consumer)
    head.part_view = lines, view
    return view

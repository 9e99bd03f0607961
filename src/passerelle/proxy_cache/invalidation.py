"""Invalidation by unsafe requests, on all routes that may have stored the changed resource (RFC 9111 §4.4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from passerelle.caching.entry import Entry
from passerelle.caching.keys import WHOLE_URI, TargetUri
from passerelle.caching.storing import EntryDraft
from passerelle.errors import Failure
from passerelle.proxy_cache.cache import Cache, CachePlan
from passerelle.proxy_cache.request import CacheRequest
from passerelle.routing.paths import canonical_path
from passerelle.routing.router import RouteMatch


class Invalidator:
    """Invalidates URIs and tags.

    ``matches`` returns the matches of all routes that may serve a URI (see :meth:`.Router.all_matches`). ``plan_of``
    returns the cache plan of a matched route, ``part_tags`` the tags of the parts of compositions that are made of
    responses of the route to a path (see :mod:`passerelle.gateway.plans`).
    """

    __slots__ = ("_cache", "_matches", "_part_tags", "_plan_of")

    def __init__(
        self,
        cache: Cache,
        matches: Callable[[bytes, bytes, bytes], Sequence[RouteMatch]],
        plan_of: Callable[[object], CachePlan | None],
        part_tags: Callable[[object, bytes, Mapping[str, bytes]], tuple[bytes, ...]],
    ) -> None:
        self._cache = cache
        self._matches = matches
        self._plan_of = plan_of
        self._part_tags = part_tags

    def invalidate(self, request: CacheRequest, targets: tuple[TargetUri, ...]) -> None:
        """Invalidate the ``targets`` of an unsafe ``request``.

        Everything with a tag of the route of ``request``, or of the route of a target, is invalidated too, and so are
        the parts and compositions made of responses to their paths.
        """
        keys: list[bytes] = []
        tags = dict.fromkeys(request.plan.fill_tags(request.params))
        host = request.host
        own = request.target.path if request.target is not None else b""
        tags.update(dict.fromkeys(self._part_tags(request.route, own, request.params)))
        for target in targets:
            try:
                path = canonical_path(target.path, keep_slashes=True)
            except Failure:
                continue
            # A resource is one, whichever routes serve it: all that they have stored of it is invalidated.
            for match in self._matches(host, b"GET", path):
                plan = self._plan_of(match.value)
                rule = plan.settings.key if plan is not None else WHOLE_URI
                keys += rule.keys(request.cache_origin, path, target.query)
                if plan is not None:
                    tags.update(dict.fromkeys(plan.fill_tags(match.params)))
                tags.update(dict.fromkeys(self._part_tags(match.value, path, match.params)))
        self._cache.invalidate(keys, tuple(tags))

    def store(self, request: CacheRequest, draft: EntryDraft, body: bytes) -> Entry | None:
        """Store the response to a POST about its own URI, for later GETs (RFC 9110 §9.3.3)."""
        entry = draft.complete(body)
        if entry is not None:
            self._cache.variants.place(request.key, request.view, draft.names, entry)
        return entry

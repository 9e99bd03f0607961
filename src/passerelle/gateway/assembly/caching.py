"""Cache plans from the configuration, and the eviction of responses stored under rules that a reload has changed.

The rules of a route determine the keys of its stored responses, how variants are selected, and who shares them. Under
other rules a stored response could be served to a client for whom it was not meant, so a reload evicts it by the path
of its route. Settings that concern lifetimes alone are not among these rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b
from itertools import product
from typing import Any, Final

from passerelle.caching.keys import KeyRule, RouteKeyRule, parameters
from passerelle.caching.settings import CacheSettings, IdentitySharing
from passerelle.config.models.cache import RouteCache
from passerelle.config.models.config import Config, Route
from passerelle.config.models.split import Split
from passerelle.proxy_cache.cache import OUTCOMES, Cache, CachePlan, StorageRules, Tag
from passerelle.routing.paths import Pattern

# The most purges by path, each of which scans the whole store; beyond that everything is evicted.
_MOST_PURGES: Final = 8


def evict_changed_routes(cache: Cache, config: Config, era: object) -> None:
    """Apply ``config`` to ``cache``, and evict what was stored under rules that its routes do not have any more."""
    cache.era = era
    cache.store.resize(config.cache.memory)
    cache.max_refreshes = config.cache.refreshes
    before, seen = cache.rules, cache.rules_seen
    now = cache.rules = dict(_route_rules(config))
    in_force = {rules.identity for rules in now.values()}
    paths = set()
    for name, rules in (before | now).items():
        old, new = before.get(name), now.get(name)
        # The URIs of a new route may have been those of others, also in an earlier configuration; the URIs of a removed
        # route become those of others.
        others = seen if old is None else in_force if new is None else {old.identity}
        if any(by != rules.identity and by[0] == rules.identity[0] for by in others):
            paths.add(rules.path)
    if len(paths) <= _MOST_PURGES:
        cache.rules_seen = seen | in_force
        for path in paths:
            cache.purge("path", path)
    else:
        cache.rules_seen = in_force
        cache.purge("all", "")


def _route_rules(config: Config) -> Iterator[tuple[tuple[str, ...], StorageRules]]:
    default = _selection(RouteCache())
    for route in config.routes:
        identity_fields = (
            frozenset(n.lower() for n in route.forward_auth.copy_headers) if route.forward_auth is not None else None
        )
        parts = (route.compose or {}).items()
        if route.cache is not None:
            # The parts determine who may share the whole.
            part_rules = frozenset(_selection(part.cache) for _, part in parts if part.cache is not None) - {default}
            yield (
                (route.label,),
                StorageRules(
                    ("route", identity_fields, _selection(route.cache), part_rules, _sides(route.splits.values())),
                    _purge_pattern(route.path),
                ),
            )
        for name, part in parts:
            if part.cache is not None:
                yield (
                    (route.label, name, part.path),
                    StorageRules(
                        ("part", identity_fields, _selection(part.cache), _sides([(part.service, part.split)])),
                        _purge_pattern(part.path),
                    ),
                )


def _sides(splits: Iterable[tuple[str, Split | None]]) -> frozenset[tuple[bool, tuple[str, ...]]]:
    """Return by which sides responses are stored apart."""
    return frozenset(
        (split.shared_cache, tuple(split.sides(service))) for service, split in splits if split is not None
    )


def _selection(cache: RouteCache) -> tuple[Any, ...]:
    """Return the settings that determine to which requests a stored response may be served."""
    query = frozenset(cache.query) if cache.query is not None else None
    vary_on = frozenset(name.lower() for name in cache.vary_on)
    return cache.per_host, query, vary_on, cache.identity, cache.store_set_cookie


def _purge_pattern(path: str) -> str:
    """Return a purge pattern that covers every path of a route pattern or template."""
    literal, brace, _ = path.partition("?")[0].partition("{")
    return (literal.rstrip("/") or "/") + "*" if brace else literal


def open_cache(config: Config, before: Cache | None = None) -> Cache | None:
    """Return the cache of a worker, ``before`` where there is one already; None if no route is cached."""
    if not any(route.is_cached for route in config.routes):
        return None
    return Cache(config.cache.memory, config.cache.refreshes) if before is None else before


def make_plan(
    cache: Cache,
    era: object,
    route: RouteCache | None,
    counts: dict[str, int],
    not_stored: dict[str, int],
    identity_fields: frozenset[bytes] = frozenset(),
    host: str | None = None,
) -> CachePlan:
    """Build the cache plan of a route for ``host``, or of a part; ``route`` is None where nothing is stored.

    For ``identity_fields`` see :class:`CacheSettings`.
    """
    for outcome in OUTCOMES if route is not None else ():
        counts.setdefault(outcome, 0)
    settings = cache_settings(route, identity_fields, host) if route is not None else CacheSettings()
    tags = tuple(Tag(text) for text in route.tags) if route is not None else ()
    whole = settings.key == KeyRule()
    return CachePlan(cache, settings, tags, counts, not_stored, route is not None, whole, era)


def told_apart(config: Config, route: Route, plan: CachePlan | None) -> CachePlan | None:
    """Return the ``plan`` of ``route`` such that it shares no response with other routes to the same URIs.

    Hits before routing would not see conditions, so neither routes with conditions have them, nor those that serve what
    is left of the same URIs.
    """
    if plan is None:
        return None
    if route.conditions:
        digest = blake2b(route.label.encode(), digest_size=8).hexdigest().encode("ascii")
        key = RouteKeyRule.of(plan.settings.key, digest)
        return replace(plan, settings=replace(plan.settings, key=key), whole_uri=False)
    others = (other for other in config.routes if other.conditions)
    return replace(plan, whole_uri=False) if any(_may_meet(route, other) for other in others) else plan


def _may_meet(one: Route, other: Route) -> bool:
    """Return whether both routes may serve the same URI."""
    hosts = product(one.host, other.host) if one.host is not None and other.host is not None else ()
    if hosts and not any(_same_hosts(*pair) for pair in hosts):
        return False
    return _parsed(one.path).overlaps(_parsed(other.path))


_parsed = lru_cache(maxsize=1024)(Pattern.parse)


def _same_hosts(one: str, other: str) -> bool:
    return one == other or any(a.startswith("*.") and b.endswith(a[1:]) for a, b in ((one, other), (other, one)))


def cache_settings(route: RouteCache, identity_fields: frozenset[bytes], host: str | None) -> CacheSettings:
    """Convert the configuration of a cache to the settings of :mod:`passerelle.caching`."""
    query = None if route.query is None else parameters(route.query)
    given: dict[str, Any] = {}
    if route.statuses is not None:
        given["statuses"] = frozenset(route.statuses)
    return CacheSettings(
        key=KeyRule(None if route.per_host else (host or "").encode("ascii"), query),
        ttl=route.ttl,
        ttl_by_status=route.ttl_by_status,
        stale_while_revalidate=_whole_seconds(route.stale_while_revalidate),
        stale_if_error=_whole_seconds(route.stale_if_error),
        stale_if_disconnected=_whole_seconds(route.stale_if_disconnected) or 0,
        vary_on=tuple(name.lower().encode() for name in route.vary_on),
        identity_fields=identity_fields,
        identity=IdentitySharing(route.identity),
        obey_client_directives=not route.ignore_client_directives,
        store_set_cookie=route.store_set_cookie,
        heuristic=route.heuristic,
        max_body=route.max_body,
        **given,
    )


def _whole_seconds(seconds: float | None) -> int | None:
    """Round a window up to whole seconds (RFC 5861 §3)."""
    return None if seconds is None else -int(-seconds // 1)

"""By which rules answers were stored, and what a reload that changes them lets go of.

What is stored was keyed, chosen and shared by the rules of its route. Under others it could reach somebody for whom it
was not made: so it goes, found by the paths of the route. What only concerns lifetimes changes nothing about that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from passerelle.caching.keys import KeyRule, parameters
from passerelle.caching.settings import CacheSettings, IdentitySharing
from passerelle.config.models.cache import RouteCache
from passerelle.config.models.config import Config
from passerelle.proxy_cache.cache import OUTCOMES, Cache, CachePlan, StorageRules, Tag

# A purge by path looks through everything that is stored; for more of them everything goes.
_MOST_PURGES: Final = 8


def evict_changed_routes(cache: Cache, config: Config, era: object) -> None:
    """Let ``cache`` go by ``config`` from now on; what was stored by other rules than its routes have now goes."""
    cache.era = era
    cache.store.resize(config.cache.memory)
    before, seen = cache.rules, cache.rules_seen
    now = cache.rules = dict(_route_rules(config))
    in_force = {rules.identity for rules in now.values()}
    paths = set()
    for name, rules in (before | now).items():
        old, new = before.get(name), now.get(name)
        # Where it comes, others may have had its URIs, in an earlier configuration too; where it goes, others get them.
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
            # What a whole may be shared by is for its parts to say.
            made_of = frozenset(_selection(part.cache) for _, part in parts if part.cache is not None) - {default}
            yield (
                (route.label,),
                StorageRules(("route", identity_fields, _selection(route.cache), made_of), _purge_pattern(route.path)),
            )
        for name, part in parts:
            if part.cache is not None:
                yield (
                    (route.label, name, part.path),
                    StorageRules(("part", identity_fields, _selection(part.cache)), _purge_pattern(part.path)),
                )


def _selection(cache: RouteCache) -> tuple[Any, ...]:
    """What says which request an answer is for."""
    query = frozenset(cache.query) if cache.query is not None else None
    vary_on = frozenset(name.lower() for name in cache.vary_on)
    return cache.per_host, query, vary_on, cache.identity, cache.store_set_cookie


def _purge_pattern(path: str) -> str:
    """What finds all that a pattern or template may stand for, and perhaps more."""
    literal, brace, _ = path.partition("?")[0].partition("{")
    return (literal.rstrip("/") or "/") + "*" if brace else literal


def open_cache(config: Config, before: Cache | None = None) -> Cache | None:
    """The memory of a worker whose routes are cached, ``before`` where there is one already; None without such."""
    if not any(route.is_cached for route in config.routes):
        return None
    if before is None:
        return Cache(config.cache.memory, config.cache.refreshes)
    before.max_refreshes = config.cache.refreshes
    return before


def make_plan(
    cache: Cache,
    era: object,
    route: RouteCache | None,
    counts: dict[str, int],
    identity_fields: frozenset[bytes] = frozenset(),
    host: str | None = None,
) -> CachePlan:
    """The plan of a route for ``host``, or of a part, with these cache settings; ``identity_fields`` as in
    :class:`CacheSettings`."""
    for outcome in OUTCOMES if route is not None else ():
        counts.setdefault(outcome, 0)
    settings = cache_settings(route, identity_fields, host) if route is not None else CacheSettings()
    tags = tuple(Tag(text) for text in route.tags) if route is not None else ()
    whole = settings.key == KeyRule()
    return CachePlan(cache, settings, tags, counts, route is not None, whole, era)


def cache_settings(route: RouteCache, identity_fields: frozenset[bytes], host: str | None) -> CacheSettings:
    """What the configuration says, as the settings of :mod:`passerelle.caching`."""
    query = None if route.query is None else parameters(route.query)
    given: dict[str, Any] = {}
    if route.statuses is not None:
        given["statuses"] = frozenset(route.statuses)
    return CacheSettings(
        key=KeyRule(None if route.per_host else (host or "").encode("ascii"), query),
        ttl=route.ttl,
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
    """Windows are whole seconds (RFC 5861 §3); a part of one counts as one."""
    return None if seconds is None else -int(-seconds // 1)

"""One route in nginx: what a location does with a request."""

from __future__ import annotations

from collections.abc import Callable

from passerelle.config.models.cache import RouteCache
from passerelle.config.models.compress import Compress
from passerelle.config.models.config import Config, Route
from passerelle.config.models.guards import RateLimit
from passerelle.export.deployment import Deployment, RouteExport, ServiceExport
from passerelle.export.nginx_actions import CLOSED, Lose, write_action
from passerelle.export.nginx_headers import ResponseMaps, request_fields, usual_fields, write_response_fields
from passerelle.export.nginx_routes import accepted_methods
from passerelle.export.nginx_text import MOST_GROUPS, path_regex, regex, replacement, variable, whole_seconds
from passerelle.export.nginx_upstream import host_of, write_sending
from passerelle.export.nginx_writer import Writer
from passerelle.export.secret_places import SECRET_NAME
from passerelle.routing.paths import Pattern

_GUARDS = ("auth", "require", "forward_auth", "identity_token", "plugins")
_UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_CACHED_STATUSES = (200, 203, 204, 300, 301, 308)
_COMPRESSED = (
    *("text/plain", "text/css", "text/csv", "text/javascript", "application/javascript", "application/json"),
    *("application/problem+json", "application/xml", "application/manifest+json", "image/svg+xml"),
)
# A field with such a name may have a secret as its value, which a configuration of nginx would show.


def is_closed(route: Route) -> bool:
    """Whether nginx cannot serve the route, or could serve it only without a guard."""
    if route.is_action and route.static is None and (route.clients is not None or route.rate_limit):
        return True
    return (route.service is None and not route.is_action) or any(getattr(route, key) for key in _GUARDS)


def limit_zone(item: RouteExport, index: int) -> str:
    """Return the name of the zone of a rate limit."""
    return f"route_{item.index}_{index}"


def limit_rate(limit: RateLimit) -> str | None:
    """Return the rate as nginx writes it, or None if it cannot."""
    number, seconds = limit.rate.number, limit.rate.seconds
    if seconds <= 1:
        return f"{number}r/s"
    a_minute = number * 60 / seconds
    return f"{a_minute:.0f}r/m" if a_minute >= 1 and a_minute == int(a_minute) else None


def is_limited(limit: RateLimit) -> bool:
    """Whether nginx can have the limit."""
    return limit.by == "address" and limit_rate(limit) is not None


class LocationWriter:
    """Writes the content of locations."""

    def __init__(self, deployment: Deployment, upstreams: dict[str, str], maps: ResponseMaps) -> None:
        self._deployment = deployment
        self._config: Config = deployment.config
        self._upstreams = upstreams
        self._services = {item.name: item for item in deployment.services}
        self._maps = maps
        self._usual = usual_fields(deployment.config)

    def write(self, out: Writer, item: RouteExport, lose: Lose, lose_service: Callable[[ServiceExport], Lose]) -> None:
        """Write what a location does with the requests of a route."""
        route = item.route
        if route.log == "off":
            out.add("access_log", "off")
        elif route.log == "errors":
            lose("log", why="nginx logs all requests of the route; access_log with a condition is the nearest")
        if is_closed(route):
            if route.is_action and not any(getattr(route, key) for key in _GUARDS):
                key = "clients" if route.clients is not None else "rate_limit"
                lose(key, why=f"return of nginx comes before its checks of clients; the export responds {CLOSED}")
            write_response_fields(out, self._maps, self._config, route)
            out.add("return", str(CLOSED))
            return
        if route.is_action:
            if route.static is not None:
                _write_clients(out, route)
                _write_rate_limits(out, item, lose)
            if route.compress is not None:
                _write_compression(out, route.compress, lose)
            write_response_fields(out, self._maps, self._config, route)
            write_action(out, route, lose, self._deployment.path)
            return
        if route.encoded_slashes == "keep":
            lose("encoded_slashes", why="nginx decodes them; the export refuses paths with %2F")
        _write_clients(out, route)
        _write_rate_limits(out, item, lose)
        assert route.service is not None
        service = self._services[route.service]
        _write_rewrite(out, route, service.service.path, lose)
        if route.cache is not None:
            _write_cache(out, route, route.cache, lose)
        if route.compress is not None:
            _write_compression(out, route.compress, lose)
        of_service = lose_service(service)
        if "Forwarded" in service.service.forwarding:
            of_service("forwarding", why="nginx writes no Forwarded")
        write_sending(out, service, route, self._upstreams[service.name], self._deployment.path, of_service)
        fields = self._request_fields(item, host_of(service, of_service), lose)
        if fields != self._usual:
            # nginx inherits either all fields from `http`, or none.
            for name, value in fields.items():
                out.add("proxy_set_header", name, value)
        write_response_fields(out, self._maps, self._config, route)

    def _request_fields(self, item: RouteExport, host: str, lose: Lose) -> dict[str, str]:
        fields = request_fields(self._config, item.route, host)
        rules = item.route.request_headers
        for name, value in (rules.set if rules is not None else {}).items():
            loc = ("request_headers", "set", name)
            if self._deployment.refers((*item.loc, *loc)) or SECRET_NAME(name):
                lose(*loc, why="it may be a secret, which the export does not show; set the field in nginx yourself")
            elif "{" in value:
                lose(*loc, why="nginx decodes parameters of the path, and a decoded one may end the field")
            else:
                continue
            fields[name] = '""'
        return fields


def _write_clients(out: Writer, route: Route) -> None:
    if route.clients is None:
        return
    for network in route.clients.deny:
        out.add("deny", str(network))
    for network in route.clients.allow:
        out.add("allow", str(network))
    if route.clients.allow:
        out.add("deny", "all")


def _write_rate_limits(out: Writer, item: RouteExport, lose: Lose) -> None:
    limits = item.route.rate_limit
    for index, limit in enumerate(limits):
        if limit.by != "address":
            lose("rate_limit", index, "by", why="nginx knows no consumers, and does not count requests without a field")
        elif limit_rate(limit) is None:
            lose("rate_limit", index, "rate", why="nginx has whole numbers of requests per second or minute only")
        else:
            burst = [f"burst={limit.size - 1}", "nodelay"] if limit.size > 1 else []
            out.add("limit_req", f"zone={limit_zone(item, index)}", *burst)
    possible = [limit for limit in limits if is_limited(limit)]
    if possible and all(limit.dry_run for limit in possible):
        out.add("limit_req_dry_run", "on")
    elif any(limit.dry_run for limit in possible):
        lose("rate_limit", why="nginx has dry_run for all limits of a route, or for none; all of them refuse")


def _write_rewrite(out: Writer, route: Route, path: str, lose: Lose) -> None:
    """Write the change of the path: the rewrite of the route, and ``path``, that of the targets, before it."""
    if route.rewrite is None:
        if path:
            out.add("rewrite", regex("^(/.*)$"), f"{path}$1", "break")
        return
    pattern = Pattern.parse(route.path)
    if len(pattern.names) > MOST_GROUPS:
        lose("rewrite", why=f"nginx has at most {MOST_GROUPS} groups; the export responds {CLOSED}")
        out.add("return", str(CLOSED))
        return
    out.add("rewrite", regex(path_regex(pattern)), replacement(path + route.rewrite, pattern), "break")


def _write_cache(out: Writer, route: Route, cache: RouteCache, lose: Lose) -> None:
    accepted = accepted_methods(RouteExport(0, route))
    if accepted is None or accepted & _UNSAFE:
        lose("cache", why="nginx does not remove stored responses after POST, PUT, PATCH and DELETE")
    if cache.identity == "consumer":
        lose("cache", "identity", why="nginx knows no consumers; responses to requests with credentials are not stored")
    out.add("proxy_cache", "responses")
    varying = []
    for name in cache.vary_on:
        found = variable("http_", name)
        if found is None:
            lose("cache", "vary_on", why=f"nginx has no variable for {name}; responses are not stored")
            out.add("proxy_no_cache", "1")
        else:
            varying.append(found)
    host = "$host" if cache.per_host else ""
    out.add("proxy_cache_key", f'"{"|".join(["$scheme", f"{host}$request_uri", *varying])}"')
    out.add("proxy_cache_lock", "on")
    ignored = ["Set-Cookie"] if cache.store_set_cookie else []
    refused = []
    for status, seconds in cache.ttl_by_status.items():
        out.add("proxy_cache_valid", str(status), whole_seconds(seconds))
        if seconds != int(seconds):
            lose("cache", "ttl_by_status", why="nginx has whole seconds; the export rounds down")
    if cache.ttl_by_status and cache.ttl is None:
        lose("cache", "ttl_by_status", why="without `ttl`, nginx uses it for responses without a lifetime only")
    if cache.ttl is not None:
        statuses = set(cache.statuses or _CACHED_STATUSES) - cache.ttl_by_status.keys()
        if statuses:
            out.add("proxy_cache_valid", *map(str, sorted(statuses)), whole_seconds(cache.ttl))
        if cache.ttl != int(cache.ttl):
            lose("cache", "ttl", why="nginx has whole seconds; the export rounds down")
        # The lifetime of the response is ignored, but not that it must not be shared.
        ignored += ["Cache-Control", "Expires", "X-Accel-Expires"]
        refused.append("$unshared")
    if ignored:
        out.add("proxy_ignore_headers", *ignored)
    bypassed = []
    if cache.identity != "shared":
        bypassed.append("$http_authorization")
    if not cache.ignore_client_directives:
        bypassed.append("$client_refuses_stored")
    if bypassed:
        out.add("proxy_cache_bypass", *bypassed)
    if cache.identity != "shared":
        refused.append("$http_authorization")
    if refused:
        out.add("proxy_no_cache", *refused)


def _write_compression(out: Writer, compress: Compress, lose: Lose) -> None:
    if "codings" in compress.model_fields_set and compress.codings != ("gzip",):
        lose("compress", "codings", why="nginx has gzip only")
    if "gzip" not in compress.codings:
        return
    types = compress.types or _COMPRESSED
    if any("*" in each for each in types):
        lose("compress", "types", why="nginx has no ranges of media types; list each type")
    # text/html is always included, and a warning if it is listed.
    plain = [each for each in types if "*" not in each and each != "text/html"]
    out.add("gzip", "on")
    out.add("gzip_proxied", "any")
    out.add("gzip_vary", "on")
    out.add("gzip_min_length", str(compress.min_size))
    if plain:
        out.add("gzip_types", *plain)

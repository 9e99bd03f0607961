"""What a configuration says that cannot work, although each of its values is allowed. All findings at once.

A check sees a :class:`PartialConfig`: what could be made of the file, even when parts of it are broken, so that one run
tells everything. What was repaired on the way is named (``touched``) and not judged again.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from passerelle.config.checks import balance
from passerelle.config.checks.files import folder_errors, list_warnings, log_errors, store_file_errors, unreadable
from passerelle.config.checks.guards import (
    guard_warnings,
    jwt_errors,
    redis_errors,
    route_guards,
    session_errors,
    store_errors,
)
from passerelle.config.checks.headers import header_warnings, parameter_values, route_headers
from passerelle.config.checks.hedge import hedge_errors, hedge_warnings
from passerelle.config.checks.tls import listener_errors, listener_warnings, service_errors, service_warnings
from passerelle.config.models.addresses import Address, Lookup
from passerelle.config.models.base import given
from passerelle.config.models.config import Config, Part, Route, RouteCache, Service
from passerelle.config.models.guards import Keys
from passerelle.config.models.identity_token import IdentityToken
from passerelle.config.models.jwt import Jwt
from passerelle.config.models.sessions import Sessions
from passerelle.config.models.tls import ListenerTls
from passerelle.config.models.units import duration_text
from passerelle.config.problems import Finding, Loc, key_of
from passerelle.config.reading.wording import hint
from passerelle.routing.paths import REST, Pattern, PatternError, Template
from passerelle.routing.router import Router, RouteRule

_WILDCARD_ADDRESSES = ("0.0.0.0", "::")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_MOST_NAMES = 12
_PARAMETER = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class PartialRoute:
    """A route, its place in the list, and which of its keys had to be left out."""

    index: int
    route: Route
    repaired: frozenset[str]


@dataclass(frozen=True, slots=True)
class PartialConfig:
    """What the checks look at. A service is None where nothing could be made of it; its name counts all the same."""

    listen: Address | None
    admin: Address | None
    services: dict[str, Service | None]
    routes: list[PartialRoute]
    blocks: frozenset[str]
    jwt: Jwt | None
    tls: ListenerTls | None
    sessions: Sessions | None
    keys: Keys | None
    identity_token: IdentityToken | None
    log: Path | None

    @classmethod
    def of(cls, config: Config) -> PartialConfig:
        """The draft of a whole configuration."""
        routes = [PartialRoute(index, route, frozenset()) for index, route in enumerate(config.routes)]
        blocks = frozenset(given(config))
        log = config.access_log if isinstance(config.access_log, Path) else None
        of_file = (config.jwt, config.tls, config.sessions, config.keys, config.identity_token, log)
        return cls(config.listen, config.admin, dict(config.services), routes, blocks, *of_file)


def errors(draft: PartialConfig) -> Iterator[Finding]:
    """Everything that cannot work."""
    yield from _addresses(draft)
    for name, service in draft.services.items():
        if service is not None:
            yield from _service(name, service, draft.listen)
            yield from balance.errors(name, service, draft.routes)
            yield from service_errors(name, service)
            yield from folder_errors(name, service)
    # "tls" stands among the places of credentials where clients are asked for certificates.
    no_clients = draft.tls is not None and draft.tls.client_ca is None
    blocks = draft.blocks - {"tls"} if no_clients else draft.blocks
    for each in draft.routes:
        yield from _route(each, draft.services, blocks)
    yield from _duplicates(draft.routes)
    if draft.jwt is not None:
        yield from jwt_errors(draft.jwt)
    if draft.tls is not None:
        yield from listener_errors(draft.tls)
    if draft.sessions is not None:
        yield from session_errors(draft.sessions, draft.listen)
    for block, kept in (("keys", draft.keys), ("sessions", draft.sessions)):
        if kept is not None:
            yield from store_errors(block, kept.store, "store" in given(kept), draft.blocks)
    yield from redis_errors(draft.blocks)
    yield from _files(draft)


def _files(draft: PartialConfig) -> Iterator[Finding]:
    """Files that a start reads or writes, beside certificates."""
    if draft.log is not None:
        yield from log_errors(draft.log)
    for block, kept in (("keys", draft.keys), ("sessions", draft.sessions)):
        if kept is not None and isinstance(kept.store, Path):
            yield from store_file_errors((block, "store"), kept.store)
    read: list[tuple[Loc, object]] = []
    if draft.jwt is not None:
        read += [(("jwt", "key"), draft.jwt.key), (("jwt", "jwks"), draft.jwt.jwks)]
    if draft.identity_token is not None:
        read.append((("identity_token", "key"), draft.identity_token.key))
    for loc, path in read:
        if isinstance(path, Path) and (finding := unreadable(loc, path)) is not None:
            yield finding


def warnings(config: Config) -> Iterator[Finding]:
    """What works, but is probably not what was meant."""
    now = datetime.now(UTC)
    if config.tls is not None:
        yield from listener_warnings(config.tls, now)
    used = {name for route in config.routes for name in services_of(route)}
    for name, service in config.services.items():
        if name not in used:
            yield Finding(("services", name), "no route leads to this service", at_key=True)
        yield from service_warnings(name, service, now)
    for index, network in enumerate(config.trusted_proxies):
        if network.prefixlen == 0:
            yield Finding(("trusted_proxies", index), f"{network} believes every client's X-Forwarded-* fields")
    yield from list_warnings(config)
    yield from guard_warnings(config)
    yield from header_warnings(config)
    yield from hedge_warnings(config, services_of)
    for index, route in enumerate(config.routes):
        for key, part in (route.compose or {}).items():
            if part.timeout is not None and part.timeout > route.timeout:
                loc = ("routes", index, "compose", key, "timeout")
                yield Finding(loc, f"longer than the route's timeout of {route.timeout:g}s, which ends it first")


def services_of(route: Route) -> list[str]:
    """The names of the services that a route asks."""
    asked = [route.forward_auth.service] if route.forward_auth is not None else []
    if route.compose is not None:
        return [part.service for part in route.compose.values()] + asked
    if route.login is not None:
        return [route.login.service]
    return ([route.service] if route.service is not None else []) + asked


def rules(config: Config) -> list[RouteRule]:
    """The routes as rules for :class:`passerelle.routing.router.Router`; a rule's value is its :class:`Route`."""
    return [rule_of(route) for route in config.routes]


def rule_of(route: Route) -> RouteRule:
    """One route as a rule."""
    return RouteRule(route.host.encode() if route.host is not None else None, route.accepted, route.path, route)


def table_finding(config: Config) -> Finding | None:
    """What makes the whole route table unusable although each route is right, or None."""
    try:
        Router(rules(config))
    except ValueError as error:
        return Finding(("routes",), str(error))
    return None


def _same_socket(one: Address, other: Address) -> bool:
    """Whether two sockets cannot be told apart (port 0 is a different one each time)."""
    if one.port != other.port or one.port == 0:
        return False
    return one.host == other.host or bool({one.host, other.host} & set(_WILDCARD_ADDRESSES))


def _addresses(draft: PartialConfig) -> Iterator[Finding]:
    if draft.listen is not None and draft.admin is not None and _same_socket(draft.listen, draft.admin):
        yield Finding(("admin",), f"found {draft.admin}, the address of listen; give it another port, or off")


def _service(name: str, service: Service, listen: Address | None) -> Iterator[Finding]:
    loc: Loc = ("services", name)
    if service.run is not None and not any("{port}" in word for word in service.run):
        found = " ".join(service.run)
        yield Finding((*loc, "run"), f"found no {{port}} in {found!r}; it says where to serve, such as --port {{port}}")
    if service.near is not None and service.zones is not None and service.near not in service.zones:
        zones = list(service.zones)
        yield Finding((*loc, "near"), f"found {service.near!r}; allowed: {', '.join(zones)}{hint(service.near, zones)}")
    yield from _idle_weights(name, service)
    places = [((*loc, "targets", index), target) for index, target in enumerate(service.targets or ())]
    for key, zone in (service.zones or {}).items():
        places += [((*loc, "zones", key, "targets", index), target) for index, target in enumerate(zone.targets)]
    for place, target in places:
        address = target.url
        if isinstance(address, Lookup):
            if importlib.util.find_spec("dns") is None:
                yield Finding(place, "dns+http needs dnspython: pip install 'passerelle[discovery]'")
        elif listen is not None and address is not None and calls_gateway(address, listen):
            yield Finding(place, f"found {address}, where the gateway itself listens: it would call itself")


def _idle_weights(name: str, service: Service) -> Iterator[Finding]:
    """Weights that ``round_robin`` would ignore. The weights of zones count under every policy."""
    if service.balance.policy != "round_robin":
        return
    loc: Loc = ("services", name)
    groups = [((*loc, "targets"), service.targets or ())]
    groups += [((*loc, "zones", key, "targets"), zone.targets) for key, zone in (service.zones or {}).items()]
    for place, targets in groups:
        for index, target in enumerate(targets):
            if target.weight != 1:
                message = f"found {target.weight}, which balance: round_robin ignores; write balance: weighted"
                yield Finding((*place, index, "weight"), message)


def calls_gateway(target: Address, listen: Address) -> bool:
    """Whether requests to ``target`` arrive at a gateway on this machine that listens on ``listen``."""
    if target.port != listen.port:
        return False
    return target.host == listen.host or (
        listen.host in (*_WILDCARD_ADDRESSES, *_LOOPBACK) and target.host in _LOOPBACK
    )


def _route(each: PartialRoute, services: dict[str, Service | None], blocks: frozenset[str]) -> Iterator[Finding]:
    loc: Loc = ("routes", each.index)
    route = each.route
    pattern = Pattern.parse(route.path) if "path" not in each.repaired else None
    if route.service is not None:
        yield from _reference((*loc, "service"), route.service, services)
        if route.rewrite is not None:
            yield from _template((*loc, "rewrite"), route.rewrite, pattern)
    for asking, asked in (("login", route.login), ("forward_auth", route.forward_auth)):
        if asked is not None:
            yield from _reference((*loc, asking, "service"), asked.service, services)
    yield from _part_cookies(loc, route.compose or {}, services)
    yield from _attempts(loc, route, each.repaired)
    yield from hedge_errors(loc, route, each.repaired, {name: services.get(name) for name in services_of(route)})
    for key, part in (route.compose or {}).items():
        yield from _part((*loc, "compose", key), part, pattern, services)
    if route.cache is not None:
        yield from _tags((*loc, "cache", "tags"), route.cache, pattern)
        for key in _NOT_OF_A_WHOLE if route.compose is not None else ():
            if key in route.cache.model_fields_set:
                yield Finding((*loc, "cache", key), "found beside compose; allowed with service, or in a part's cache")
        if route.methods is not None and "GET" not in route.methods:
            yield Finding((*loc, "cache"), "found on a route without GET, of which no answer is stored", at_key=True)
    if route.compose is not None and route.methods is not None:
        for index, method in enumerate(route.methods):
            if method not in ("GET", "HEAD"):
                yield Finding((*loc, "methods", index), f"found {method!r}; a composition answers GET and HEAD only")
    for index, method in enumerate(route.methods or ()):
        if method in (route.methods or ())[:index]:
            yield Finding((*loc, "methods", index), f"found {method!r} twice; once is enough")
    yield from route_guards(loc, route, each.repaired, blocks)
    yield from route_headers(loc, route, each.repaired)
    for place, names in parameter_values(route) if pattern is not None else ():
        yield from _parameters((*loc, "request_headers", *place), names, pattern)


def _attempts(loc: Loc, route: Route, touched: frozenset[str]) -> Iterator[Finding]:
    """A limit of one attempt that changes nothing."""
    limit = route.attempt_timeout
    if limit is None:
        return
    if route.attempts == 1:
        yield Finding((*loc, "attempt_timeout"), "found beside attempts: 1, where no other instance is tried")
    elif limit >= route.timeout and "timeout" not in touched:
        message = f"it is {duration_text(limit)}, no less than the route's timeout, {duration_text(route.timeout)}"
        yield Finding((*loc, "attempt_timeout"), message)


def _part_cookies(loc: Loc, parts: dict[str, Part], services: dict[str, Service | None]) -> Iterator[Finding]:
    """Services asked together whose sticky cookies overwrite each other."""
    seen: dict[str, str] = {}
    for key, part in parts.items():
        service = services.get(part.service)
        sticky = service.balance.sticky if service is not None else None
        other = seen.setdefault(sticky.cookie, part.service) if sticky is not None else part.service
        if sticky is not None and other != part.service:
            message = f"found {part.service!r}, whose sticky cookie {sticky.cookie!r} is also that of {other!r}"
            yield Finding((*loc, "compose", key, "service"), message)


# A composed answer is 200 or not stored, has its parts' lifetimes, and fails where a required part does.
_NOT_OF_A_WHOLE = ("statuses", "heuristic", "stale_if_disconnected")


def _part(loc: Loc, part: Part, pattern: Pattern | None, services: dict[str, Service | None]) -> Iterator[Finding]:
    yield from _reference((*loc, "service"), part.service, services)
    yield from _template((*loc, "path"), part.path, pattern)
    if part.cache is not None:
        yield from _tags((*loc, "cache", "tags"), part.cache, pattern)
    if part.pass_status and not part.required:
        yield Finding((*loc, "pass_status"), "found beside on_error; allowed for a required part only")


def _reference(loc: Loc, name: str, services: dict[str, Service | None]) -> Iterator[Finding]:
    if services and name not in services:
        names = list(services)
        more = f", … ({len(names)} services)" if len(names) > _MOST_NAMES else ""
        yield Finding(loc, f"found {name!r}; allowed: {', '.join(names[:_MOST_NAMES])}{more}{hint(name, names)}")


def _template(loc: Loc, text: str, pattern: Pattern | None) -> Iterator[Finding]:
    if pattern is None:
        return
    rest = frozenset(segment.text for segment in pattern.segments if segment.kind == REST)
    try:
        template = Template(text, rest)
    except PatternError as error:
        yield Finding(loc, str(error))
        return
    yield from _parameters(loc, template.names, pattern)


def _tags(loc: Loc, cache: RouteCache, pattern: Pattern | None) -> Iterator[Finding]:
    for index, tag in enumerate(cache.tags if pattern is not None else ()):
        yield from _parameters((*loc, index), _PARAMETER.findall(tag), pattern)


def _parameters(loc: Loc, names: Iterable[str], pattern: Pattern | None) -> Iterator[Finding]:
    """Parameters that the route's path does not have."""
    known = pattern.names if pattern is not None else ()
    for name in names:
        if name not in known:
            has = (
                f"the path has {', '.join(f'{{{known_name}}}' for known_name in known)}"
                if known
                else "the path has none"
            )
            yield Finding(loc, f"found the parameter {{{name}}}; {has}{hint(name, known)}")


def _duplicates(routes: list[PartialRoute]) -> Iterator[Finding]:
    """Routes that nothing could tell apart: same host, same path but for the names, same method."""
    seen: dict[tuple[str | None, str, str], Loc] = {}
    for each in routes:
        if each.repaired & {"path", "host", "methods"}:
            continue
        route = each.route
        shape = Pattern.parse(route.path).shape
        loc: Loc = ("routes", each.index)
        clashes: dict[Loc, list[str]] = {}
        for method in sorted(m.decode() for m in route.accepted) if route.accepted is not None else ["every method"]:
            first = seen.setdefault((route.host, shape, method), loc)
            if first != loc:
                clashes.setdefault(first, []).append(method)
        for first, methods in clashes.items():
            same = "host, path" if route.host else "path"
            yield Finding(
                (*loc, "path"), f"found the {same} and method ({', '.join(methods)}) of {key_of(first)} again"
            )

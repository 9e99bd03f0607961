"""Checks of the configuration as a whole: each value is valid, but the combination cannot work. Reports all findings.

A check receives a :class:`PartialConfig`: what could be built from the file, also if parts of it are invalid, so that
one run reports everything. The keys that had to be repaired for that are in ``repaired`` and are not checked again.

The file is longer than 400 lines because it holds the order of all checks.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from passerelle.config.checks import balance
from passerelle.config.checks.actions import action_errors, action_warnings
from passerelle.config.checks.alerts import alert_errors
from passerelle.config.checks.files import (
    account_errors,
    folder_errors,
    list_warnings,
    log_errors,
    page_errors,
    store_file_errors,
    unreadable,
)
from passerelle.config.checks.guards import (
    guard_warnings,
    jwt_errors,
    redis_errors,
    route_guards,
    session_errors,
    store_errors,
)
from passerelle.config.checks.headers import header_warnings, parameter_values, route_headers, trace_headers
from passerelle.config.checks.hedge import hedge_errors, hedge_warnings
from passerelle.config.checks.listeners import WILDCARD_ADDRESSES, listener_findings, listener_hints, same_socket
from passerelle.config.checks.match import match_warnings, route_order_errors
from passerelle.config.checks.oidc import oidc_errors
from passerelle.config.checks.passwords import basic_errors, basic_warnings, key_errors, key_warnings
from passerelle.config.checks.plugins import plugin_errors, plugin_warnings, route_plugins
from passerelle.config.checks.rollout import rollout_errors
from passerelle.config.checks.shadow import shadow_errors, shadow_warnings
from passerelle.config.checks.slashes import slash_errors, slash_warnings
from passerelle.config.checks.split import split_errors, split_places
from passerelle.config.checks.tls import (
    listener_errors,
    listener_warnings,
    order_errors,
    service_errors,
    service_warnings,
)
from passerelle.config.checks.upstream import probe_errors, rewriting_errors, target_errors
from passerelle.config.checks.versions import version_alert_errors, version_errors, version_route_errors
from passerelle.config.models.addresses import Address, Lookup
from passerelle.config.models.admin import AdminPort
from passerelle.config.models.alerts import AlertSettings
from passerelle.config.models.application import ONLY_WSGI
from passerelle.config.models.base import given
from passerelle.config.models.basic import Basic
from passerelle.config.models.config import Config, Part, Route, RouteCache, Service, Version
from passerelle.config.models.guards import Keys
from passerelle.config.models.identity_token import IdentityToken
from passerelle.config.models.jwt import Jwt
from passerelle.config.models.listeners import Listener, PassedSocket
from passerelle.config.models.oidc import Oidc
from passerelle.config.models.plugins import Plugin
from passerelle.config.models.sessions import Sessions
from passerelle.config.models.tls import ListenerTls
from passerelle.config.models.units import duration_text
from passerelle.config.problems import Finding, Loc
from passerelle.config.reading.wording import hint
from passerelle.config.route_rules import rules
from passerelle.config.versions import version_services
from passerelle.routing.paths import REST, Pattern, PatternError, Template
from passerelle.routing.router import Router

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_MOST_NAMES = 12
_PARAMETER = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class PartialRoute:
    """A route, its index in the list, and its keys that had to be left out."""

    index: int
    route: Route
    repaired: frozenset[str]


@dataclass(frozen=True, slots=True)
class PartialConfig:
    """The input of the checks. A service that could not be built is None; its name is still known."""

    listen: tuple[Listener, ...] | None
    admin: AdminPort | None
    services: dict[str, Service | None]
    routes: list[PartialRoute]
    blocks: frozenset[str]
    jwt: Jwt | None
    tls: ListenerTls | None
    sessions: Sessions | None
    keys: Keys | None
    basic: Basic | None
    oidc: Oidc | None
    identity_token: IdentityToken | None
    alerts: AlertSettings | None
    log: Path | None
    pages: Mapping[str, Path]
    account: tuple[str | None, str | None]
    plugins: Mapping[str, Plugin | None]

    @classmethod
    def of(cls, config: Config) -> PartialConfig:
        """Convert a valid configuration."""
        routes = [PartialRoute(index, route, frozenset()) for index, route in enumerate(config.routes)]
        blocks = frozenset(given(config))
        log = config.access_log if isinstance(config.access_log, Path) else None
        credentials = (config.jwt, config.tls, config.sessions, config.keys, config.basic, config.oidc)
        account = config.user, config.group
        of_file = (config.identity_token, config.alerts, log, config.errors, account, config.plugins)
        return cls(config.listen, config.admin, dict(config.services), routes, blocks, *credentials, *of_file)


def errors(partial: PartialConfig) -> Iterator[Finding]:
    """Find everything that cannot work."""
    yield from _addresses(partial)
    own = [each.address for each in partial.listen or ()]
    for name, service in partial.services.items():
        if service is not None:
            yield from _service(name, service, own)
            yield from balance.errors(name, service, partial.routes)
            yield from service_errors(name, service)
            yield from folder_errors(name, service)
            yield from version_errors(name, service, partial.services)
            yield from _versions(name, service, own)
            yield from probe_errors(name, service)
            yield from target_errors(name, service)
    # "tls" counts as a source of credentials only if clients present certificates.
    no_clients = partial.tls is not None and partial.tls.client_ca is None
    blocks = partial.blocks - {"tls"} if no_clients else partial.blocks
    for each in partial.routes:
        yield from _route(each, partial.services, blocks)
        if "plugins" not in each.repaired:
            yield from route_plugins(("routes", each.index), each.route, partial.plugins)
    yield from plugin_errors(partial.plugins)
    kept = [each for each in partial.routes if not each.repaired & {"path", "host", "methods", "match", "priority"}]
    yield from route_order_errors([(("routes", each.index), each.route) for each in kept])
    if partial.jwt is not None:
        yield from jwt_errors(partial.jwt)
    if partial.tls is not None:
        yield from listener_errors(partial.tls)
        yield from order_errors(partial.tls, list(_hosts(partial.routes)))
    if partial.sessions is not None:
        yield from session_errors(partial.sessions, partial.listen or ())
    if partial.keys is not None:
        yield from key_errors(partial.keys)
    if partial.oidc is not None:
        yield from oidc_errors(partial.oidc, partial.sessions, partial.blocks, [each.route for each in partial.routes])
    if partial.basic is not None:
        yield from basic_errors(partial.basic)
    for block, stored in (("keys", partial.keys), ("sessions", partial.sessions)):
        if stored is not None and (not isinstance(stored, Keys) or stored.has_store):
            yield from store_errors(block, stored.store, "store" in given(stored), partial.blocks)
    yield from redis_errors(partial.blocks)
    yield from alert_errors(partial.alerts, [each.route.label for each in partial.routes], partial.services)
    yield from version_alert_errors(partial.alerts, partial.services)
    yield from _files(partial)


def _hosts(routes: Sequence[PartialRoute]) -> Iterator[tuple[Loc, str]]:
    """Yield the place and the text of each host of the routes."""
    for each in routes:
        hosts = each.route.host or ()
        for number, host in enumerate(hosts):
            yield ("routes", each.index, "host", *((number,) if len(hosts) > 1 else ())), host


def _files(partial: PartialConfig) -> Iterator[Finding]:
    """Check the files that a start reads or writes, except certificates."""
    yield from account_errors(*partial.account)
    if partial.log is not None:
        yield from log_errors(partial.log)
    yield from page_errors(partial.pages)
    for block, kept in (("keys", partial.keys), ("sessions", partial.sessions)):
        if kept is not None and isinstance(kept.store, Path):
            yield from store_file_errors((block, "store"), kept.store)
    read: list[tuple[Loc, object]] = []
    if partial.jwt is not None:
        read += [(("jwt", "key"), partial.jwt.key), (("jwt", "jwks"), partial.jwt.jwks)]
    if partial.identity_token is not None:
        read.append((("identity_token", "key"), partial.identity_token.key))
    for loc, path in read:
        if isinstance(path, Path) and (finding := unreadable(loc, path)) is not None:
            yield finding


def warnings(config: Config) -> Iterator[Finding]:
    """Find what works but is probably a mistake."""
    now = datetime.now(UTC)
    if config.tls is not None:
        yield from listener_warnings(config.tls, now)
    yield from listener_hints(config)
    used = {name for route in config.routes for name in services_of(route)}
    for name, service in config.services.items():
        if name not in used:
            yield Finding(("services", name), "no route leads to this service", at_key=True)
        yield from service_warnings(name, service, now)
    for index, network in enumerate(config.trusted_proxies):
        if network.prefixlen == 0:
            yield Finding(("trusted_proxies", index), f"{network} trusts the X-Forwarded-* fields of every client")
    yield from list_warnings(config)
    yield from guard_warnings(config)
    yield from key_warnings(config)
    yield from basic_warnings(config)
    yield from header_warnings(config)
    yield from hedge_warnings(config, services_of)
    yield from slash_warnings(config)
    yield from shadow_warnings(config)
    yield from plugin_warnings(config)
    yield from action_warnings(config)
    yield from match_warnings(config)
    for index, route in enumerate(config.routes):
        for key, part in (route.compose or {}).items():
            if part.timeout is not None and part.timeout > route.timeout:
                loc = ("routes", index, "compose", key, "timeout")
                yield Finding(loc, f"longer than the route's timeout of {route.timeout:g}s, which ends it first")


def services_of(route: Route) -> list[str]:
    """Return the names of the services that a route sends requests to."""
    others = [route.forward_auth.service] if route.forward_auth is not None else []
    if route.shadow is not None:
        others.append(route.shadow.service)
    return route.destinations + others if route.login is None else route.destinations


def table_finding(config: Config) -> Finding | None:
    """Find what makes the route table unusable although each route is valid; None if nothing does."""
    try:
        Router(rules(config))
    except ValueError as error:
        return Finding(("routes",), str(error))
    return None


def _addresses(partial: PartialConfig) -> Iterator[Finding]:
    yield from listener_findings(partial.listen or (), partial.tls is not None or "tls" in partial.blocks)
    admin = partial.admin
    if admin is None:
        return
    if any(same_socket(each.address, admin.listen) for each in partial.listen or ()):
        yield Finding(("admin",), f"found {admin}, the address of listen; give it another port, or off")
    elif (exposed := exposed_admin(admin)) is not None:
        yield Finding(("admin",), exposed)


def exposed_admin(admin: AdminPort) -> str | None:
    """Return what is wrong with an admin port that other machines can reach without a token; None if nothing is."""
    if not admin.is_exposed:
        return None
    example = f"{{listen: '{admin.listen}', token: '${{file:admin-token}}'}}"
    return f"found {admin.listen}, which other machines can reach, without a token; write {example}, or use 127.0.0.1"


def _service(name: str, service: Service, listen: Sequence[Address]) -> Iterator[Finding]:
    loc: Loc = ("services", name)
    if service.run is not None and not any("{port}" in word for word in service.run):
        found = " ".join(service.run)
        yield Finding(
            (*loc, "run"), f"found no {{port}} in {found!r}; pass the port to the command, such as --port {{port}}"
        )
    for key in ONLY_WSGI if service.interface == "asgi" else ():
        if getattr(service, key) is not None:
            yield Finding((*loc, key), "found together with interface: asgi; allowed with wsgi only")
    if service.near is not None and service.zones is not None and service.near not in service.zones:
        zones = list(service.zones)
        yield Finding((*loc, "near"), f"found {service.near!r}; allowed: {', '.join(zones)}{hint(service.near, zones)}")
    yield from _ignored_weights(name, service)
    places = [((*loc, "targets", index), target) for index, target in enumerate(service.targets or ())]
    for key, zone in (service.zones or {}).items():
        places += [((*loc, "zones", key, "targets", index), target) for index, target in enumerate(zone.targets)]
    for place, target in places:
        address = target.url
        if isinstance(address, Lookup):
            if importlib.util.find_spec("dns") is None:
                yield Finding(place, "dns+http needs dnspython: pip install 'passerelle[discovery]'")
        elif address is not None and any(calls_gateway(address, each) for each in listen):
            yield Finding(place, f"found {address}, the gateway's own address; it would forward requests to itself")


def _versions(name: str, service: Service, listen: Sequence[Address]) -> Iterator[Finding]:
    """Check each version as the service that it becomes."""
    for version, made in version_services(service).items():
        for finding in (*_service(name, made, listen), *service_errors(name, made), *folder_errors(name, made)):
            if finding.loc[2:] and finding.loc[2] in Version.model_fields:
                yield Finding(
                    ("services", name, "versions", version, *finding.loc[2:]), finding.message, at_key=finding.at_key
                )


def _ignored_weights(name: str, service: Service) -> Iterator[Finding]:
    """Find weights that ``round_robin`` would ignore. Every policy uses the weights of zones."""
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
    """Return whether requests to ``target`` arrive at a gateway on this machine that listens on ``listen``."""
    if target.port != listen.port or isinstance(listen, PassedSocket):
        return False
    return target.host == listen.host or (listen.host in (*WILDCARD_ADDRESSES, *_LOOPBACK) and target.host in _LOOPBACK)


def _route(each: PartialRoute, services: dict[str, Service | None], blocks: frozenset[str]) -> Iterator[Finding]:
    loc: Loc = ("routes", each.index)
    route = each.route
    pattern = Pattern.parse(route.path) if "path" not in each.repaired else None
    if route.service is not None:
        yield from _reference((*loc, "service"), route.service, services)
    if route.rewrite is not None and (route.service is not None or route.static is not None):
        yield from _template((*loc, "rewrite"), route.rewrite, pattern)
    if pattern is not None:
        yield from slash_errors(loc, route, pattern)
    for key, block in (("login", route.login), ("forward_auth", route.forward_auth), ("shadow", route.shadow)):
        if block is not None:
            yield from _reference((*loc, key, "service"), block.service, services)
    yield from shadow_errors(loc, route)
    yield from split_errors(loc, route, blocks)
    yield from rollout_errors(loc, route)
    yield from version_route_errors(loc, route, services, blocks)
    for place, split in split_places(loc, route):
        for name in split.weights:
            yield from _reference((*place, "weights", name), name, services)
    yield from action_errors(loc, route)
    if route.redirect is not None and route.redirect.path is not None:
        yield from _template((*loc, "redirect", "path"), route.redirect.path, pattern)
    yield from rewriting_errors(loc, route, services)
    yield from _part_cookies(loc, route.compose or {}, services)
    yield from _attempts(loc, route, each.repaired)
    yield from hedge_errors(loc, route, each.repaired, {name: services.get(name) for name in services_of(route)})
    for key, part in (route.compose or {}).items():
        yield from _part((*loc, "compose", key), part, pattern, services)
    if route.cache is not None:
        yield from _tags((*loc, "cache", "tags"), route.cache, pattern)
        for key in _NOT_WITH_COMPOSE if route.compose is not None else ():
            if key in route.cache.model_fields_set:
                yield Finding(
                    (*loc, "cache", key), "found together with compose; allowed with service, or in a part's cache"
                )
        if route.methods is not None and "GET" not in route.methods:
            yield Finding(
                (*loc, "cache"), "found on a route without GET; only responses to GET are stored", at_key=True
            )
    if route.compose is not None and route.methods is not None:
        for index, method in enumerate(route.methods):
            if method not in ("GET", "HEAD"):
                yield Finding((*loc, "methods", index), f"found {method!r}; a composed route accepts GET and HEAD only")
    for index, host in enumerate(route.host or ()):
        if host in (route.host or ())[:index]:
            yield Finding((*loc, "host", index), f"found {host!r} twice; list it once")
    for index, method in enumerate(route.methods or ()):
        if method in (route.methods or ())[:index]:
            yield Finding((*loc, "methods", index), f"found {method!r} twice; list it once")
    yield from route_guards(loc, route, each.repaired, blocks)
    yield from route_headers(loc, route, each.repaired)
    if "tracing" in blocks:
        yield from trace_headers(loc, route)
    for place, names in parameter_values(route) if pattern is not None else ():
        yield from _parameters((*loc, "request_headers", *place), names, pattern)


def _attempts(loc: Loc, route: Route, repaired: frozenset[str]) -> Iterator[Finding]:
    """Find an ``attempt_timeout`` without an effect."""
    limit = route.attempt_timeout
    if limit is None:
        return
    if route.attempts == 1:
        yield Finding((*loc, "attempt_timeout"), "found together with attempts: 1, which tries no other instance")
    elif limit >= route.timeout and "timeout" not in repaired:
        message = f"it is {duration_text(limit)}; it must be less than timeout, {duration_text(route.timeout)}"
        yield Finding((*loc, "attempt_timeout"), message)


def _part_cookies(loc: Loc, parts: dict[str, Part], services: dict[str, Service | None]) -> Iterator[Finding]:
    """Find services of one composition whose sticky cookies overwrite each other."""
    seen: dict[str, tuple[str, str]] = {}
    for key, part in parts.items():
        for name in part.destinations:
            service = services.get(name)
            sticky = service.balance.sticky if service is not None else None
            place, other = seen.setdefault(sticky.cookie, (key, name)) if sticky is not None else (key, name)
            if sticky is not None and other != name and place != key:
                message = f"found {name!r}, whose sticky cookie {sticky.cookie!r} is also used by {other!r}"
                yield Finding((*loc, "compose", key, "service"), message)


# Not for composed responses: they are stored only with 200, live as long as their parts, and fail with a required part.
_NOT_WITH_COMPOSE = ("statuses", "ttl_by_status", "heuristic", "stale_if_disconnected")


def _part(loc: Loc, part: Part, pattern: Pattern | None, services: dict[str, Service | None]) -> Iterator[Finding]:
    yield from _reference((*loc, "service"), part.service, services)
    yield from _template((*loc, "path"), part.path, pattern)
    if part.cache is not None:
        yield from _tags((*loc, "cache", "tags"), part.cache, pattern)
    if part.pass_status and not part.required:
        yield Finding((*loc, "pass_status"), "found together with on_error; allowed for a required part only")


def _reference(loc: Loc, name: str, services: dict[str, Service | None]) -> Iterator[Finding]:
    if services and name not in services:
        names = list(services)
        if "://" in name:
            text = "the URL of a server belongs to targets of a service; allowed here is the name of that service"
            yield Finding(loc, f"found {name!r}; {text}: {', '.join(names[:_MOST_NAMES])}")
            return
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
    """Find parameters that the path of the route does not have."""
    known = pattern.names if pattern is not None else ()
    for name in names:
        if name not in known:
            has = (
                f"the path has {', '.join(f'{{{known_name}}}' for known_name in known)}"
                if known
                else "the path has none"
            )
            yield Finding(loc, f"found the parameter {{{name}}}; {has}{hint(name, known)}")

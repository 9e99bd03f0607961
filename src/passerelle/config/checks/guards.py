"""Checks of guards and credentials."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from urllib.parse import urlsplit

from passerelle.config.models.config import Config, Route
from passerelle.config.models.forward_auth import ForwardAuth
from passerelle.config.models.jwt import SECRET_OCTETS, Jwt
from passerelle.config.models.listeners import Listener
from passerelle.config.models.sessions import Sessions
from passerelle.config.models.values import SHARED
from passerelle.config.problems import Finding, Loc
from passerelle.routing.router import Router, RouteRule

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# The top-level key that configures each kind of credentials.
_BLOCKS = {"basic": "basic", "jwt": "jwt", "key": "keys", "mtls": "tls", "oidc": "oidc", "session": "sessions"}


def route_guards(loc: Loc, route: Route, repaired: frozenset[str], blocks: frozenset[str]) -> Iterator[Finding]:
    """Check the guards of the route at ``loc``, except for its ``repaired`` keys. ``blocks`` are the top-level keys."""
    clients = route.clients
    if clients is not None and "clients" not in repaired and not clients.allow and not clients.deny:
        yield Finding((*loc, "clients"), "found neither allow nor deny; at least one is needed")
    if "auth" in repaired:
        return
    for index, method in enumerate(route.auth):
        place = (*loc, "auth", index)
        if method in route.auth[:index]:
            yield Finding(place, f"found {method} twice; list it once")
        elif _BLOCKS[method] not in blocks:
            needed = "tls: with client_ca" if method == "mtls" else f"{_BLOCKS[method]}:"
            yield Finding(place, f"found {method}; it needs {needed} at the top level of the file")
    if route.require is not None and not route.auth:
        yield Finding((*loc, "require"), "found without auth; no client could meet it", at_key=True)
    if route.require is not None and route.require.roles is not None and "roles" in route.require.claims:
        yield Finding((*loc, "require", "roles"), "found together with claims.roles, which means the same", at_key=True)
    for kind in ("login", "logout"):
        if getattr(route, kind) is not None and "sessions" not in blocks:
            yield Finding((*loc, kind), f"found {kind}; it needs sessions: at the top level of the file", at_key=True)
    if route.oidc and "oidc" not in blocks:
        yield Finding((*loc, "oidc"), "found oidc; it needs oidc: at the top level of the file", at_key=True)
    if route.identity_token:
        named = (route.forward_auth is not None and route.forward_auth.consumer is not None) or route.plugins
        if "identity_token" not in blocks:
            message = "found identity_token; it needs identity_token: at the top level of the file"
            yield Finding((*loc, "identity_token"), message, at_key=True)
        if not route.auth and not named:
            yield Finding((*loc, "identity_token"), "found without auth; there is no identity to sign", at_key=True)
    if route.forward_auth is not None and "forward_auth" not in repaired:
        yield from _forward_auth((*loc, "forward_auth"), route.forward_auth, route)
    if "rate_limit" not in repaired:
        yield from _limits((*loc, "rate_limit"), route)


def _forward_auth(loc: Loc, settings: ForwardAuth, route: Route) -> Iterator[Finding]:
    """Check ``forward_auth``."""
    if settings.consumer is not None and route.auth:
        yield Finding((*loc, "consumer"), "found together with auth, which identifies the consumer", at_key=True)
    if settings.consumer is not None and settings.failure == "open":
        yield Finding(
            (*loc, "failure"), "found open together with consumer; after a failure there would be no consumer"
        )
    if settings.cache_by and settings.cache is None:
        yield Finding((*loc, "cache_by"), "found without cache; nothing is cached", at_key=True)
    sent = [name.lower() for name in settings.send_headers]
    for index, what in enumerate(settings.cache_by):
        kind, _, name = what.partition(":")
        if kind == "header" and name.lower() not in sent:
            found = f"found {what}; the service receives {', '.join(settings.send_headers)}"
            yield Finding((*loc, "cache_by", index), found)


def _limits(loc: Loc, route: Route) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for index, limit in enumerate(route.rate_limit):
        place = (*loc, index)
        if limit.cost > limit.size:
            yield Finding(
                (*place, "cost"),
                f"found {limit.cost}, more than the burst of {limit.size}; no request would be admitted",
            )
        named = (route.forward_auth is not None and route.forward_auth.consumer is not None) or route.plugins
        if limit.by == "consumer" and not route.auth and not named:
            yield Finding((*place, "by"), "found consumer without auth; only routes with auth identify consumers")
        if limit.by == "key" and "key" not in route.auth:
            yield Finding((*place, "by"), "found key; allowed on routes with auth: [key] only")
        first = seen.setdefault(limit.label, index)
        if first != index:
            yield Finding((*place, "rate"), f"found {limit.label} twice; list it once")


def jwt_errors(jwt: Jwt) -> Iterator[Finding]:
    """Check ``jwt``: each algorithm has its kind of key, and secrets are long enough."""
    for index, algorithm in enumerate(jwt.algorithms):
        place: Loc = ("jwt", "algorithms", index)
        least = SECRET_OCTETS.get(algorithm)
        if algorithm in jwt.algorithms[:index]:
            yield Finding(place, f"found {algorithm} twice; list it once")
        elif least is None:
            if jwt.secret is not None:
                yield Finding(place, f"found {algorithm} together with secret; it needs key or jwks")
        elif jwt.secret is None:
            yield Finding(place, f"found {algorithm} without secret; a public key must never be used as a secret")
        elif len(jwt.secret.encode()) < least:
            found = len(jwt.secret.encode())
            message = f"found {found} octets; {algorithm} needs at least {least} (RFC 7518 §3.2)"
            yield Finding(("jwt", "secret"), message, at_key=True)


def session_errors(sessions: Sessions, listen: Sequence[Listener]) -> Iterator[Finding]:
    """Check ``sessions``."""
    others = [each.address for each in listen if each.address.host not in _LOOPBACK and not each.address.is_socket]
    if sessions.insecure and others:
        message = (
            f"found true with listen on {others[0]}; without Secure, anyone on the network path can take over a session"
        )
        yield Finding(("sessions", "insecure"), message)
    if sessions.idle > sessions.absolute:
        yield Finding(("sessions", "idle"), "it is longer than absolute, which ends every session first")


def store_errors(block: str, store: object, explicit: bool, blocks: frozenset[str]) -> Iterator[Finding]:
    """Find a store in Redis without a Redis. ``explicit``: the file sets ``store: redis``."""
    if store != SHARED or "redis" in blocks:
        return
    if explicit:
        yield Finding((block, "store"), "found redis; it needs redis: at the top level of the file")
    else:
        message = f"found no store; add store: {block}.db, or redis: at the top level of the file"
        yield Finding((block,), message, at_key=True)


def redis_errors(blocks: frozenset[str]) -> Iterator[Finding]:
    """Find missing packages that ``redis`` needs."""
    missing = [name for name in ("redis", "hiredis") if find_spec(name) is None]
    if "redis" in blocks and missing:
        message = f"redis needs {' and '.join(missing)}: pip install 'passerelle[redis]'"
        yield Finding(("redis",), message, at_key=True)


def _session_warnings(config: Config) -> Iterator[Finding]:
    """Find sessions without a login, and routes that bypass the limits of a login."""
    logins = [(index, route.login) for index, route in enumerate(config.routes) if route.login is not None]
    if config.sessions is not None and not logins and config.oidc is None:
        yield Finding(("sessions",), "no route has login, so no client can get a session", at_key=True)
    for index, login in logins:
        path = login.path.encode()
        # Each route by itself: their precedence does not matter, since hosts and methods may differ.
        for route in config.routes:
            reaches = route.login is None and login.service in route.destinations and route.rewrite is None
            if (
                reaches
                and Router([RouteRule(None, None, route.path, route)]).match(b"", b"POST", path).value is not None
            ):
                message = f"the route {route.label} reaches the same path, so passwords can be guessed without a limit"
                yield Finding(("routes", index, "login", "path"), message)


def _token_warnings(config: Config) -> Iterator[Finding]:
    """Find a signed token that no route sends, or whose header also carries a claim of a JWT."""
    token = config.identity_token
    if token is None:
        return
    if not any(route.identity_token for route in config.routes):
        yield Finding(("identity_token",), "no route has identity_token: true", at_key=True)
    forwarded = config.jwt.forward if config.jwt is not None else {}
    if token.header.lower() in (name.lower() for name in forwarded.values()):
        yield Finding(("identity_token", "header"), f"jwt also forwards a claim in {token.header}")


def guard_warnings(config: Config) -> Iterator[Finding]:
    """Find settings of guards that are probably mistakes."""
    jwt = config.jwt
    if jwt is not None and jwt.secret is None and not jwt.audience:
        yield Finding(("jwt",), "no audience: tokens issued for other audiences are accepted", at_key=True)
    if jwt is not None and isinstance(jwt.jwks, str) and jwt.jwks.startswith("http:"):
        host = urlsplit(jwt.jwks).hostname
        if host not in _LOOPBACK:
            yield Finding(("jwt", "jwks"), "without https, anyone on the network path can replace the keys")
    limited = config.basic is not None or any(route.rate_limit or route.login for route in config.routes)
    kept = SHARED in config.stores.values()
    cached = any(route.is_cached for route in config.routes)
    if config.redis is not None and not (limited or kept or cached or config.splits):
        text = "no route has a rate_limit, a cache, a login or a split, so nothing is shared"
        yield Finding(("redis",), text, at_key=True)
    if config.limits.gateways is not None and (config.redis is None or not limited):
        yield Finding(("limits", "gateways"), "has no effect without redis and a rate_limit or login", at_key=True)
    yield from _session_warnings(config)
    yield from _token_warnings(config)
    used = {_BLOCKS[method] for route in config.routes for method in route.auth}
    if "oidc" in used:
        used.add("sessions")
    for block in ("basic", "jwt", "keys", "oidc", "sessions"):
        if getattr(config, block) is not None and block not in used:
            yield Finding((block,), "no route accepts these credentials", at_key=True)

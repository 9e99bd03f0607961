"""Builds the guards of routes, and the providers of credentials that they use.

The file is longer than 400 lines because it has one builder for each kind of guard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, ClassVar

from passerelle.access.api_keys import KeyProvider
from passerelle.access.basic import BasicProvider, BasicSettings
from passerelle.access.forward_auth import ForwardAuthSettings, forward_auth
from passerelle.access.interfaces import HandlerExchange
from passerelle.access.login import LoginHandler, LogoutHandler
from passerelle.access.sessions import SessionProvider
from passerelle.config.guards import GUARDS
from passerelle.config.models.basic import Basic
from passerelle.config.models.config import Config, Route
from passerelle.config.models.guards import RateLimit
from passerelle.config.models.identity_token import IdentityToken
from passerelle.config.models.sessions import Login
from passerelle.errors import CannotStart
from passerelle.gateway.assembly.credentials import (
    fixed_keys,
    key_fields,
    open_keys,
    open_oidc,
    open_sessions,
    read_tokens,
    redis_client,
)
from passerelle.gateway.assembly.plugins import PluginFactory
from passerelle.observability.metrics import PluginMetrics, RouteMetrics
from passerelle.observability.tracing.context import TRACEPARENT, TRACESTATE
from passerelle.security.addresses import AddressLists, Proxies, Subscribers
from passerelle.security.authorization import Require
from passerelle.security.cookies import HideCookies
from passerelle.security.credentials.authentication import (
    QUERY_KEY_FIELD,
    Authenticate,
    AuthenticationMethod,
)
from passerelle.security.credentials.basic import HideBasic
from passerelle.security.credentials.client_certificates import CertificateMethod
from passerelle.security.credentials.login_throttle import AttemptLimit, LoginThrottle
from passerelle.security.credentials.redis_login_throttle import RedisLoginThrottle
from passerelle.security.guard import Guard, GuardedCall
from passerelle.security.header_rules import WithheldFields
from passerelle.security.ratelimit.gcra import (
    SECOND,
    BucketTable,
    KeyOf,
    Rate,
    RateLimits,
    RouteRateLimit,
    SingleRateLimit,
    by_consumer,
    by_header,
    by_key,
)
from passerelle.security.ratelimit.redis import RedisLimit, RedisRateLimits
from passerelle.upstream.subrequest import Subrequest

if TYPE_CHECKING:
    from passerelle.access.jwt_keys import JwtProvider
    from passerelle.access.oidc.provider import OidcProvider
    from passerelle.access.oidc.renewal import Renewals
    from passerelle.access.redis_client import RedisClient
    from passerelle.security.jwt.issuer import Signer
    from passerelle.security.oidc.pending_login import LoginCookies


def _signer(config: Config) -> Signer | None:
    settings = config.identity_token
    if settings is None:
        return None
    # Imported only where a configuration has identity tokens: see credentials.py.
    from passerelle.security.jwt.issuer import signer_of_pem, signer_of_secret

    if settings.key is None:
        return signer_of_secret((settings.secret or "").encode())
    try:
        return signer_of_pem(settings.key.read_bytes())
    except OSError as error:
        raise CannotStart(f"identity_token: cannot read {error.filename}: {error.strerror}") from error
    except ValueError as error:
        raise CannotStart(f"identity_token: {settings.key}: {error}") from error


def _identity_guard(settings: IdentityToken, signer: Signer, route: Route) -> Guard:
    from passerelle.security.jwt.issuer import SendIdentity

    audience = sorted(route.destinations) if settings.audience is None else [settings.audience]
    return SendIdentity(signer, settings.header.encode("ascii"), settings.issuer, audience, settings.lifetime)


def copied_fields(config: Config, services: Iterable[str]) -> set[bytes]:
    """Return the fields (lower case) that ``forward_auth`` and plugins of any route add for ``services``."""
    wanted = set(services)
    return {
        name
        for route in config.routes
        if not wanted.isdisjoint(route.destinations)
        for name in added_fields(config, route)
    }


def added_fields(config: Config, route: Route) -> frozenset[bytes]:
    """Return the fields (lower case) that ``forward_auth`` and plugins of ``route`` add to requests for services."""
    names = list(route.forward_auth.copy_headers) if route.forward_auth is not None else []
    names += [name for plugin in route.plugins for name in config.plugins[plugin].sets]
    return frozenset(name.lower().encode("ascii") for name in names)


@dataclass(frozen=True, slots=True)
class RouteScope:
    """What a builder of guards receives: the route, its metrics, and the client of its ``forward_auth``."""

    route: Route
    metrics: RouteMetrics
    policy: Subrequest | None


class GuardFactory:
    """Builds the guards of the routes of ``config``.

    After a reload, what is configured as ``before`` is kept: key sets, keys, sessions, and the state of rate limits.

    :raises CannotStart: if a file or key that guards need cannot be used.
    """

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        plugin_metrics: Callable[[str], PluginMetrics],
        before: GuardFactory | None = None,
    ) -> None:
        self._config = config
        known_plugins = before.plugins if before is not None else None
        self.plugins: PluginFactory = PluginFactory(config, loop, plugin_metrics, known_plugins)
        self._proxies = Proxies(config.trusted_proxies)
        self._trace_fields = (TRACEPARENT, TRACESTATE) if config.tracing is not None else ()
        self._subscribers = Subscribers()
        self._tables: dict[tuple[str, str], BucketTable] = {}
        self._known_tables = before._tables if before is not None else {}
        self._redis: RedisClient | None = redis_client(config, loop, before._redis if before is not None else None)
        known_keys, known_sessions = (before._keys, before._sessions) if before is not None else (None, None)
        same_keys = before is not None and before._config.keys == config.keys
        self._keys: KeyProvider | None = open_keys(config, loop, self._redis, known_keys, same_keys)
        self._sessions: SessionProvider | None = open_sessions(config, loop, self._redis, known_sessions)
        self._methods: dict[str, AuthenticationMethod] = {"mtls": CertificateMethod()}
        if self._sessions is not None:
            self._methods["session"] = self._sessions.method
        if self._keys is not None and config.keys is not None:
            self._methods["key"] = self._keys.method
            if config.keys.fixed or config.keys.query is not None:
                in_query = QUERY_KEY_FIELD if config.keys.query is not None else None
                self._keys.method.extend(fixed_keys(config.keys), in_query)
        self._basic_throttle: LoginThrottle | RedisLoginThrottle | None = None  # for users kept from ``before``
        self._basic: BasicProvider | None = self._open_users(loop, before._basic if before is not None else None)
        if self._basic is not None:
            self._methods["basic"] = self._basic.method
        self._oidc: OidcProvider | None = open_oidc(config, loop, before._oidc if before is not None else None)
        self._login_cookies: LoginCookies | None = None
        self._renewals: Renewals | None = None
        if self._oidc is not None and self._sessions is not None and config.oidc is not None:
            from passerelle.security.oidc.pending_login import LoginCookies

            self._methods["oidc"] = self._sessions.method
            if self._oidc.settings.refresh < inf:
                from passerelle.access.oidc.renewal import Renewals, RenewedSessions

                self._renewals = Renewals(self._oidc, self._sessions)
                renewed = RenewedSessions(self._sessions.method, self._renewals)
                self._methods["oidc"] = self._methods["session"] = renewed
            self._login_cookies = LoginCookies(config.oidc.client_secret, secure=self._sessions.cookies.secure)
        self._signer = _signer(config)
        self._tokens: JwtProvider | None = read_tokens(config, loop, before._tokens if before is not None else None)
        if self._tokens is not None:
            self._methods["jwt"] = self._tokens.method

    def start(self, before: GuardFactory | None = None) -> None:
        """Start the background work of the providers, except of those shared with ``before``; put limits in force."""
        if self._basic is not None and self._basic_throttle is not None:
            self._basic.method.limit(self._basic_throttle)
        for part in self._background(before):
            part.start()
        self.plugins.host.start()

    def stop(self, after: GuardFactory | None = None, is_needed: Callable[[], bool] = lambda: False) -> None:
        """Stop the background work of the providers, except of those shared with ``after``.

        For ``is_needed`` see :meth:`passerelle.plugin_host.host.PluginHost.stop`.
        """
        for part in self._background(after):
            part.stop()
        self.plugins.host.stop(after.plugins.host if after is not None else None, is_needed)

    def _background(
        self, other: GuardFactory | None
    ) -> list[BasicProvider | KeyProvider | JwtProvider | OidcProvider | RedisClient | SessionProvider]:
        """Return the providers with background work that are not shared with ``other``."""
        shared = [] if other is None else other._background(None)
        parts = (self._basic, self._keys, self._tokens, self._oidc, self._redis, self._sessions)
        return [part for part in parts if part is not None and not any(part is each for each in shared)]

    def for_route(
        self, route: Route, metrics: RouteMetrics, policy: Subrequest | None
    ) -> tuple[tuple[Guard, ...], tuple[str, ...]]:
        """Make the guards of ``route`` in the order of :data:`GUARDS`, and return them with their names.

        ``policy`` sends the requests of its ``forward_auth``.
        """
        scope = RouteScope(route, metrics, policy)
        named = [(guard, entry.name) for entry in GUARDS for guard in self.BUILDERS[entry.name](self, scope)]
        return tuple(guard for guard, _ in named), tuple(name for _, name in named)

    def _address_lists(self, scope: RouteScope) -> list[Guard]:
        return self._lists(scope.route)

    def _limits_before_authentication(self, scope: RouteScope) -> list[Guard]:
        return self._limits(scope.route, scope.metrics, ("address", "header"))

    def _limits_after_authentication(self, scope: RouteScope) -> list[Guard]:
        return self._limits(scope.route, scope.metrics, ("consumer", "key"))

    def _cors(self, scope: RouteScope) -> list[Guard]:
        return []  # PreflightHandler responds to preflights; the guards of other requests do not change

    def _authentication(self, scope: RouteScope) -> list[Guard]:
        route = scope.route
        guards: list[Guard] = []
        if route.auth:
            keys = self._config.keys if "key" in route.auth else None
            hidden = key_fields(keys) if keys is not None else ()
            methods = [self._methods[name] for name in route.auth]
            if "oidc" in route.auth and self._oidc is not None and self._login_cookies is not None:
                from passerelle.access.oidc.guard import AuthenticateOrLogin

                guards.append(AuthenticateOrLogin(methods, hidden, self._oidc, self._login_cookies))
            else:
                guards.append(Authenticate(methods, hidden))
        if "basic" in route.auth:
            guards.append(HideBasic())
        if self._sessions is not None and {"oidc", "session"} & set(route.auth):
            # The session cookie is the gateway's own credential: no service receives it, whichever method succeeded.
            guards.append(HideCookies((self._sessions.cookies.name, self._sessions.cookies.token)))
        return guards

    def _authorization(self, scope: RouteScope) -> list[Guard]:
        required = scope.route.require
        if required is None:
            return []
        roles = {} if required.roles is None else {"roles": required.roles}
        return [Require(required.scopes, required.consumers, {**required.claims, **roles})]

    def _forward_auth(self, scope: RouteScope) -> list[Guard]:
        settings = scope.route.forward_auth
        if settings is None or scope.policy is None:
            return []
        values = ForwardAuthSettings(
            settings.service,
            settings.path,
            settings.send_headers,
            settings.copy_headers,
            settings.consumer,
            settings.failure == "open",
            settings.cache,
            settings.cache_by,
        )
        withheld = self.withheld([settings.service], scope.route, self._trace_fields)
        return [forward_auth(values, scope.policy, self._proxies, scope.route.label, scope.metrics.verdict, withheld)]

    def _plugin_guards(self, scope: RouteScope) -> list[Guard]:
        return self.plugins.guards(scope.route)

    def _request_filters(self, scope: RouteScope) -> list[Guard]:
        return self.plugins.request_filters(scope.route)

    def _identity_token(self, scope: RouteScope) -> list[Guard]:
        settings = self._config.identity_token
        if not scope.route.identity_token or settings is None or self._signer is None:
            return []
        return [_identity_guard(settings, self._signer, scope.route)]

    BUILDERS: ClassVar[dict[str, Callable[[GuardFactory, RouteScope], list[Guard]]]] = {
        "clients": _address_lists,
        "limits_before_authentication": _limits_before_authentication,
        "cors": _cors,
        "auth": _authentication,
        "require": _authorization,
        "forward_auth": _forward_auth,
        "plugin_guards": _plugin_guards,
        "limits_after_authentication": _limits_after_authentication,
        "identity_token": _identity_token,
        "request_filters": _request_filters,
    }
    """One builder for each entry of :data:`GUARDS`."""

    def withheld(self, services: Iterable[str], route: Route, others: Iterable[bytes] = ()) -> WithheldFields | None:
        """Return the fields of clients that ``services`` never receive on ``route``, with ``others``; or None.

        These are the gateway's own credentials, and the fields that ``forward_auth`` and plugins of any route add to
        requests for one of the services.
        """
        names = copied_fields(self._config, services).union(others)
        keys = self._config.keys
        header = keys.header.lower().encode("ascii") if keys is not None else None
        if header is not None and "key" in (route.auth or ()):
            names.add(header)
        if keys is not None and keys.query is not None:
            names.add(QUERY_KEY_FIELD)
        cookies: list[bytes] = []
        if self._sessions is not None:
            cookies += (self._sessions.cookies.name, self._sessions.cookies.token)
        if self._login_cookies is not None:
            cookies += self._login_cookies.names
        return WithheldFields(names, header, cookies) if names or header is not None or cookies else None

    def for_preflight(self, route: Route, metrics: RouteMetrics) -> tuple[Guard, ...]:
        """Build the guards of preflights for ``route``: those that depend on the client's address alone.

        A preflight has no credentials and no fields of the page (Fetch standard, "CORS-preflight fetch"). Its limits
        share their state with those of the route.
        """
        return (*self._lists(route), *self._limits(route, metrics, ("address",)))

    def _lists(self, route: Route) -> list[Guard]:
        return [AddressLists(route.clients.allow, route.clients.deny)] if route.clients is not None else []

    def handler(self, route: Route, policy: Subrequest | None) -> Callable[[HandlerExchange], None]:
        """Build the handler of a login route, where ``policy`` verifies passwords, or of a logout route."""
        sessions, login = self._sessions, route.login
        if sessions is None:
            raise CannotStart(f"sessions: {route.label} needs them, and they are not configured")
        if route.oidc and self._oidc is not None and self._login_cookies is not None:
            from passerelle.access.oidc.handlers import OidcHandler

            return OidcHandler(self._oidc, sessions, self._login_cookies, self._renewals)
        if login is None or policy is None:
            return LogoutHandler(sessions)
        logins = self._throttle(route.label, login)
        return LoginHandler(sessions, logins, policy, login.path.encode(), self._subscribers.of)

    def _open_users(self, loop: asyncio.AbstractEventLoop, before: BasicProvider | None) -> BasicProvider | None:
        basic = self._config.basic
        if basic is None:
            return None
        settings = BasicSettings(basic.file, basic.realm, basic.remember)
        throttle = self._throttle("basic", basic)  # no label of a route, which has a path
        if before is not None and before.settings == settings:
            self._basic_throttle = throttle  # applied by start(): until then this configuration may still fail
            return before
        try:
            return BasicProvider(settings, loop, throttle, self._subscribers.of)
        except OSError as error:
            raise CannotStart(f"basic: cannot read {basic.file}: {error.strerror}") from error
        except ValueError as error:
            raise CannotStart(f"basic: {basic.file}: {error}") from error

    def _throttle(self, scope: str, limits: Login | Basic) -> LoginThrottle | RedisLoginThrottle:
        """Return the limits on wrong passwords of ``scope``, with their counts from before a reload."""
        by_name = self._attempts(scope, "user name", limits.attempts, limits.forgiven)
        by_address = self._attempts(scope, "address", limits.address_attempts, limits.forgiven)
        if self._redis is None:
            return LoginThrottle(by_name, by_address)
        return RedisLoginThrottle(by_name, by_address, scope, self._redis, self._config.limits.gateways)

    def _attempts(self, scope: str, kind: str, number: int, forgiven: float) -> AttemptLimit:
        rate = Rate(1, int(forgiven * SECOND), number)
        name = scope, f"login by {kind}"
        table = self._tables[name] = self._known_tables.get(name, BucketTable())
        return AttemptLimit(rate if self._redis is not None else rate.share(self._config.workers), table)

    def _limits(self, route: Route, metrics: RouteMetrics, kinds: tuple[str, ...]) -> list[Guard]:
        chosen = [limit for limit in route.rate_limit if limit.by.partition(":")[0] in kinds]
        if not chosen:
            return []

        def would_refuse() -> None:
            metrics.would_refuse += 1

        if self._redis is None and len(chosen) == 1 and not chosen[0].dry_run:
            return [SingleRateLimit(self._limit(route, chosen[0], self._config.workers))]
        if self._redis is None:
            return [RateLimits([self._limit(route, limit, self._config.workers) for limit in chosen], would_refuse)]
        shared = [RedisLimit(self._limit(route, limit, 1), f"{route.label}\0{limit.label}") for limit in chosen]
        return [RedisRateLimits(shared, self._redis, would_refuse, self._config.limits.gateways)]

    def _limit(self, route: Route, settings: RateLimit, parts: int) -> RouteRateLimit:
        whole = Rate.of(settings.rate.number, settings.rate.seconds, settings.size)
        rate = whole.share(parts, settings.cost)
        name = route.label, settings.label
        if name not in self._tables:  # preflights share the limits of the requests that they precede
            self._tables[name] = self._known_tables.get(name, BucketTable())
        key_of = self._key_of(settings.by)
        return RouteRateLimit(
            settings.label, rate, key_of, cost=settings.cost, dry_run=settings.dry_run, table=self._tables[name]
        )

    def _key_of(self, by: str) -> KeyOf:
        if by == "address":
            return self._by_address
        if by == "consumer":
            return by_consumer
        return by_key if by == "key" else by_header(by.removeprefix("header:").lower().encode("ascii"))

    def _by_address(self, call: GuardedCall) -> bytes:
        return self._subscribers.of(call.address)

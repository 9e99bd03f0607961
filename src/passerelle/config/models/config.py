"""The models of the file, of services, and of routes: every key, its type and its default.

The descriptions are those of the published schema (``passerelle schema``) and of the reference. Keys without an effect
are errors, and so are unknown keys.

The file is longer than 400 lines because the keys of services, routes and the file are checked against each other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, JsonValue, PrivateAttr, model_validator

from passerelle.config.models import instance_source
from passerelle.config.models.access_log import AccessLog, LogFormat
from passerelle.config.models.actions import Redirect, Respond, Static
from passerelle.config.models.addresses import Address, Network, ServiceHost
from passerelle.config.models.admin import Admin, AdminPort
from passerelle.config.models.alerts import Alert, AlertSettings, Webhook
from passerelle.config.models.automatic_tls import STATE, AutomaticTls, ExternalAccount
from passerelle.config.models.backup import S3, Backup, Keep
from passerelle.config.models.balance import (
    Balance,
    Breaker,
    Eject,
    OptionalEject,
    Retries,
    Sticky,
)
from passerelle.config.models.base import Model, Takes, given, raise_first
from passerelle.config.models.basic import Basic
from passerelle.config.models.cache import Cache, RouteCache
from passerelle.config.models.compress import Compress
from passerelle.config.models.concurrency import Concurrency
from passerelle.config.models.debug import Debug
from passerelle.config.models.defaults import Defaults
from passerelle.config.models.discovery import Dns
from passerelle.config.models.error_pages import ErrorPages
from passerelle.config.models.forward_auth import ForwardAuth
from passerelle.config.models.guards import Clients, FixedKey, Keys, OneOrMore, RateLimit, Require
from passerelle.config.models.headers import (
    Cors,
    OptionalSecurityHeaders,
    RequestHeaders,
    RequestWhen,
    ResponseHeaders,
    ResponseWhen,
    SecurityHeaders,
)
from passerelle.config.models.health import Health
from passerelle.config.models.hedge import Hedge
from passerelle.config.models.identity_token import IdentityToken
from passerelle.config.models.instances import Instances
from passerelle.config.models.jwt import Jwt
from passerelle.config.models.limits import Limits
from passerelle.config.models.listeners import DEFAULT_LISTENERS, Listener, Listeners
from passerelle.config.models.match import Match
from passerelle.config.models.oidc import Oidc
from passerelle.config.models.plugins import Plugin
from passerelle.config.models.redis import OptionalRedis
from passerelle.config.models.rollout import Rollout, RolloutShadow, RolloutStep
from passerelle.config.models.sessions import Login, Sessions, Yes
from passerelle.config.models.shadow import Compare, Shadow
from passerelle.config.models.shapes import ACTIONS, route_shape, service_shape
from passerelle.config.models.split import Override, Split, SplitUsers
from passerelle.config.models.target import Target, Zone
from passerelle.config.models.tls import Certificate, ListenerTls, ServiceTls
from passerelle.config.models.tracing import Tracing
from passerelle.config.models.units import Duration, DurationOrOff, Percent
from passerelle.config.models.values import (
    File,
    Method,
    Name,
    PatternText,
    RouteHost,
    ServiceName,
    SystemName,
    TemplateText,
    Text,
    WholeNumber,
)
from passerelle.config.origins import Origins
from passerelle.config.reading.included import Included
from passerelle.routing.conditions import Condition, digest_of
from passerelle.routing.paths import Pattern

__all__ = [
    "S3",
    "AdminPort",
    "Alert",
    "AlertSettings",
    "AutomaticTls",
    "Backup",
    "Balance",
    "Basic",
    "Breaker",
    "Cache",
    "Certificate",
    "Clients",
    "Compare",
    "Compress",
    "Concurrency",
    "Config",
    "Cors",
    "Defaults",
    "Dns",
    "Eject",
    "ExternalAccount",
    "FixedKey",
    "ForwardAuth",
    "Health",
    "Hedge",
    "IdentityToken",
    "Instances",
    "Keep",
    "Limits",
    "Listener",
    "Login",
    "Match",
    "Model",
    "Oidc",
    "OnError",
    "Override",
    "Part",
    "Plugin",
    "RateLimit",
    "Redirect",
    "RequestHeaders",
    "RequestWhen",
    "Require",
    "Respond",
    "ResponseHeaders",
    "ResponseWhen",
    "Retries",
    "Rollout",
    "RolloutShadow",
    "RolloutStep",
    "Route",
    "RouteCache",
    "SecurityHeaders",
    "Service",
    "Sessions",
    "Shadow",
    "Split",
    "Static",
    "Sticky",
    "Target",
    "Version",
    "Webhook",
    "Zone",
]

_HEADER_RULES = Takes("[mapping](#request_headers-and-response_headers)")


class Version(instance_source.InstanceSource):
    """A version of a service: its instances. All other keys are those of the service."""

    @model_validator(mode="after")
    def _shape(self) -> Version:
        raise_first(service_shape(given(self)))
        return self


class Service(instance_source.InstanceSource):
    """An upstream service: instances that passerelle starts (`app`, `run`) or that already run (`targets`, `zones`)."""

    versions: Annotated[dict[Name, Version], Takes("mapping of names to [versions](#versions)")] | None = Field(
        default=None,
        min_length=1,
        max_length=2,
        description="Two versions with instances of their own: the one in use, and the one that takes its users over.",
    )
    rollout: Annotated[Rollout, Takes("[mapping](#rollout)")] | None = Field(
        default=None, description="How the users move to the second version; by default as `{}`. With `versions` only."
    )
    split_by: SplitUsers | None = Field(
        default=None,
        description="What identifies a user of the versions, as `by` of a [`split`](#split). With `versions` only.",
    )
    health: Health | None = Field(
        default=None,
        description="Active health check; by default an instance is up if it accepts a TCP connection.",
    )
    balance: Annotated[Balance, Takes("a policy, or [mapping](#balance)")] = Field(
        default=Balance.model_construct(), description="How an instance is picked."
    )
    eject: OptionalEject = Field(
        default=Eject.model_construct(),
        description="When an instance is ejected because requests to it fail, or `off`.",
    )
    slow_start: DurationOrOff = Field(
        default=10.0, description="How long the share of an instance grows after it comes up, or `off`."
    )
    panic: Percent = Field(
        default=0.0,
        description="If no more than this share of the instances is up, the others are used as well.",
    )
    breaker: Breaker | None = Field(default=None, description="Circuit breaker of the service; none by default.")
    retries: Retries = Field(default=Retries.model_construct(), description="Which requests are retried, and how many.")
    host: ServiceHost = Field(
        default="client",
        description="`Host` that instances receive: that of the `client`, the address of the instance (`upstream`), or "
        "a name.",
    )
    forwarding: Annotated[
        tuple[Literal["Forwarded", "X-Real-IP", "X-Forwarded-Port"], ...], OneOrMore, Takes("list of fields")
    ] = Field(
        default=(),
        description="Fields about the client that instances receive besides the usual ones: `Forwarded`, `X-Real-IP`, "
        "`X-Forwarded-Port`.",
    )
    tls: Annotated[ServiceTls, Takes("[mapping](#tls-of-a-service)")] | None = Field(
        default=None,
        description="TLS to `https://` targets; by default the authorities of the system are trusted.",
    )
    connect_timeout: Duration = Field(default=2.0, description="Time to connect to an instance.")
    max_connections: Annotated[int, WholeNumber(1, 100_000)] = Field(
        default=256,
        description="Maximum number of requests that wait for the response of an instance, per worker.",
    )
    max_streams: Annotated[int, WholeNumber(0, 100_000)] | None = Field(
        default=None,
        description="Maximum number of uploads and response bodies of an instance that do not count for "
        "`max_connections` because they last, per worker; by default `max_connections`.",
    )
    max_tunnels: Annotated[int, WholeNumber(0, 100_000)] = Field(
        default=1024,
        description="Maximum number of tunnels (WebSockets) of the service, per worker. Beyond it: 503.",
    )
    max_waiting: Annotated[int, WholeNumber(0, 100_000)] = Field(
        default=256,
        description="Maximum number of requests that wait for a connection, per instance and worker. Beyond it: 503.",
    )
    client_share: Percent = Field(
        default=0.5,
        description="Largest share of `max_streams`, of `max_tunnels` and of the last quarter of `max_connections` "
        "that one client address (IPv6: /64) may have.",
    )
    concurrency: Annotated[Concurrency, Takes("`adaptive`, or [mapping](#concurrency)")] | None = Field(
        default=None,
        description="`adaptive`: limit the requests in flight by the latency of responses.",
    )
    keepalive: Duration = Field(default=4.0, description="How long an idle connection to an instance stays open.")

    @property
    def source(self) -> Literal["app", "run", "targets", "zones"]:
        """The key that defines its instances."""
        if self.app is not None:
            return "app"
        if self.run is not None:
            return "run"
        return "targets" if self.targets is not None else "zones"

    @property
    def host_name(self) -> str | None:
        """The fixed `Host` that instances receive, if there is one."""
        return None if self.host in ("client", "upstream") else self.host

    @property
    def all_targets(self) -> tuple[Target, ...]:
        """All targets, including those of the zones."""
        return (self.targets or ()) + tuple(t for zone in (self.zones or {}).values() for t in zone.targets)

    @property
    def path(self) -> str:
        """The path of its targets, which begins that of each request; empty without one."""
        return next((target.url.path for target in self.all_targets if target.url is not None), "")

    @property
    def changes_requests(self) -> bool:
        """Whether requests to it differ from those to other services: in the Host, the path, or further fields."""
        return self.host != "client" or bool(self.forwarding) or bool(self.path)

    @property
    def is_local(self) -> bool:
        """Whether passerelle starts its instances."""
        return self.app is not None or self.run is not None

    @model_validator(mode="after")
    def _shape(self) -> Service:
        raise_first(service_shape(given(self)))
        return self


class OnError(Model):
    """The fallback for a failed part."""

    value: Annotated[JsonValue, Takes("any JSON")] = Field(description="Any JSON value, inserted in place of the part.")


class Part(Model):
    """A part of a composed response: a request to a service."""

    service: ServiceName = Field(description="The service of the part.")
    split: Annotated[Split, Takes("[mapping](#split)")] | None = Field(
        default=None, description="Splits the users between the service of the part and others."
    )
    path: TemplateText = Field(description="The path of the part, filled with the parameters of the route.")
    timeout: Duration | None = Field(default=None, description="Deadline of the part; by default that of the route.")
    pass_status: tuple[Annotated[int, WholeNumber(400, 599)], ...] = Field(
        default=(),
        description="Statuses of a required part that become that of the response, such as `[404]`; others become 502.",
    )
    on_error: Annotated[OnError | None, Takes("[mapping](#on_error) or `null`")] = Field(
        default=None,
        description="Fallback for a failed part: `null` or `{value: …}`. Without the key, the part is required.",
    )
    cache: Annotated[RouteCache, Takes("[mapping](#caching)")] | None = Field(
        default=None, description="How the responses of the part are cached, separately from routes; by default not."
    )

    @property
    def destinations(self) -> list[str]:
        """The services that receive requests for the part: its own, and the other sides of its split."""
        return [self.service, *(self.split.weights if self.split is not None else ())]

    @property
    def required(self) -> bool:
        """Whether its failure is the failure of the whole response."""
        return "on_error" not in self.model_fields_set

    @property
    def fallback(self) -> JsonValue:
        """The JSON value that replaces a failed optional part."""
        return self.on_error.value if self.on_error is not None else None


class _RouteKeys(Model):
    """The keys of a route that have no default for all routes."""

    path: PatternText = Field(description="Path pattern: `/literal/{one_segment}/{the_rest*}`.")
    host: Annotated[tuple[RouteHost, ...], OneOrMore] | None = Field(
        default=None, min_length=1, description="Matches these hosts only: names, or `*.example.com`."
    )
    methods: Annotated[tuple[Method, ...], OneOrMore, Takes("method, or list of methods")] | None = Field(
        default=None,
        min_length=1,
        description="Matches these methods only; `GET` includes `HEAD`. By default all (`compose`, `static`: `GET`).",
    )
    match: Annotated[Match, Takes("[mapping](#match)")] | None = Field(
        default=None, description="Matches requests only if their fields, query, cookies or clients meet conditions."
    )
    priority: Annotated[int, WholeNumber(-1000, 1000)] = Field(
        default=0, description="Decides among routes of the same host and path: the highest number comes first."
    )
    service: ServiceName | None = Field(default=None, description="The service that requests are forwarded to.")
    compose: Annotated[dict[Name, Part], Takes("mapping of keys to [parts](#a-part-of-a-composition)")] | None = Field(
        default=None, min_length=1, description="The parts of a composed response, a JSON object: key to part."
    )
    redirect: Annotated[Redirect, Takes("path, URL, or [mapping](#redirect)")] | None = Field(
        default=None, description="Where the gateway redirects clients."
    )
    respond: Annotated[Respond, Takes("status, or [mapping](#respond)")] | None = Field(
        default=None, description="A fixed response of the gateway."
    )
    static: Annotated[Static, Takes("folder, or [mapping](#static)")] | None = Field(
        default=None, description="A folder whose files are served."
    )
    login: Login | None = Field(default=None, description="Makes the route log users in.")
    logout: Yes | None = Field(default=None, description="`true`: the route ends the session of the client.")
    oidc: Yes | None = Field(
        default=None,
        description="`true`: the route handles logins with the provider of `oidc`; its path ends in `{step}`.",
    )
    rewrite: TemplateText | None = Field(
        default=None,
        description="The path that the service sees, or that is looked up in the folder, filled with the parameters.",
    )
    rewrite_response: Yes | None = Field(
        default=None,
        description="`true`: `Location`, `Content-Location`, and paths and domains of cookies in responses become "
        "[those that clients use](routing.md#responses-of-rewritten-requests). With `service` only.",
    )
    hedge: Hedge | None = Field(
        default=None, description="When a `GET` or `HEAD` is sent to a second instance as well."
    )
    shadow: Annotated[Shadow, Takes("[mapping](#shadow)")] | None = Field(
        default=None,
        description="A second service that receives a share of the requests, and whose responses are compared.",
    )
    split: Annotated[Split, Takes("[mapping](#split)")] | None = Field(
        default=None, description="Splits the users between the service of the route and others."
    )
    rollout: Annotated[Rollout, Takes("[mapping](#rollout)")] | None = Field(
        default=None,
        description="Moves the users to the other service of the `split`, step by step. `{}` for the defaults.",
    )
    cache: Annotated[RouteCache, Takes("[mapping](#caching)")] | None = Field(
        default=None,
        description="How responses are cached, with `compose` the joined ones; `{}` for RFC 9111 alone.",
    )
    security_headers: OptionalSecurityHeaders = Field(
        default=None, description="Replaces `security_headers` of the file: `true`, a mapping, or `off`."
    )


class Route(Defaults, _RouteKeys):
    """A route: which requests it matches, and what happens to them."""

    @property
    def accepted(self) -> frozenset[bytes] | None:
        """The methods for the router; None for all. Compositions and files accept GET (and HEAD), logins POST."""
        if self.methods is not None:
            return frozenset(method.encode() for method in self.methods)
        if self.login is not None or self.logout:
            return frozenset({b"POST"})
        if self.oidc:
            return frozenset({b"GET", b"POST"})
        return frozenset({b"GET"}) if self.compose is not None or self.static is not None else None

    @property
    def prefix(self) -> str:
        """The literal prefix of the path that the rewrite strips, or an empty string."""
        path = self.plain_path
        if self.rewrite is None or not path.endswith(self.rewrite):
            return ""
        prefix = path.removesuffix(self.rewrite)
        return "" if "{" in prefix else prefix

    @property
    def plain_path(self) -> str:
        """The path as a template: without stars, and without constraints of parameters."""
        return Pattern.parse(self.path).plain

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The conditions for the router."""
        return self.match.conditions if self.match is not None else ()

    @property
    def hosts(self) -> tuple[str | None, ...]:
        """The hosts for the router; None for any host."""
        return self.host if self.host is not None else (None,)

    @property
    def keeps_slashes(self) -> bool:
        """Whether paths with encoded slashes are forwarded."""
        return self.encoded_slashes == "keep"

    @property
    def is_action(self) -> bool:
        """Whether the gateway responds itself, without a service: the key is one of :data:`.shapes.ACTIONS`."""
        return any(getattr(self, key) is not None for key in ACTIONS)

    @property
    def is_cached(self) -> bool:
        """Whether responses of the route, or of a part of it, are stored."""
        return self.cache is not None or any(part.cache is not None for part in (self.compose or {}).values())

    @property
    def label(self) -> str:
        """The name in logs and metrics: methods, host and pattern, never the path of a request.

        A digest stands for the conditions, whose values may be secrets.
        """
        methods = ",".join(self.methods) + " " if self.methods else ""
        return f"{methods}{','.join(self.host or ())}{self.path}{digest_of(self.conditions)}"

    @property
    def destinations(self) -> list[str]:
        """The services that receive the requests of clients, with all sides of splits."""
        if self.compose is not None:
            return list(dict.fromkeys(name for part in self.compose.values() for name in part.destinations))
        named = [self.login.service] if self.login is not None else [self.service] if self.service is not None else []
        return [*named, *(self.split.weights if self.split is not None else ())]

    @property
    def splits(self) -> dict[str, tuple[str, Split]]:
        """The splits of the route and of its parts: name of the split to the first service and the settings."""
        found = {self.label: (self.service, self.split)} if self.service is not None else {}
        found |= {f"{self.label}#{name}": (part.service, part.split) for name, part in (self.compose or {}).items()}
        return {name: (service, split) for name, (service, split) in found.items() if split is not None}

    @model_validator(mode="after")
    def _shape(self) -> Route:
        raise_first(route_shape(given(self)))
        return self


class VersionPair(NamedTuple):
    """The versions of a service in a configuration in which each is a service: the names of these, and of the splits.

    ``new`` is None if there is one version.
    """

    old: str
    new: str | None
    rollout: Rollout
    splits: tuple[str, ...]


class Config(Model):
    """The whole file: listener and process, services, and routes."""

    listen: Listeners = Field(
        default=DEFAULT_LISTENERS,
        min_length=1,
        description="Address and port for clients, or several listeners; port 0 picks any free port.",
    )
    tls: Annotated[ListenerTls, Takes("`auto` or [mapping](#tls)")] | None = Field(
        default=None, description="TLS for clients; without it, the listener speaks plain HTTP."
    )
    admin: Admin = Field(
        default=AdminPort.model_construct(),
        description="Address of the admin port, which serves metrics, status and changes, or a mapping, or `off`.",
    )
    workers: Annotated[int, WholeNumber(1, 256)] = Field(
        default=1, description="Number of gateway processes that share the listener."
    )
    access_log: AccessLog = Field(
        default="stdout",
        description="Destination of the access log: `stdout`, `stderr`, `off`, a path, a syslog server or journald.",
    )
    access_log_format: LogFormat = Field(
        default="json", description="Format of a line of the access log: a name, or a template with fields in braces."
    )
    user: SystemName | None = Field(
        default=None,
        description="The user that all processes run as; started by root, they drop to it when the ports are bound.",
    )
    group: SystemName | None = Field(
        default=None, description="The group that all processes run as; by default that of `user`."
    )
    trusted_proxies: tuple[Network, ...] = Field(
        default=(), description="Address ranges of proxies whose `X-Forwarded-*` fields and `X-Request-Id` are trusted."
    )
    request_id_in_responses: bool = Field(
        default=False,
        description="`true`: the request id is in `X-Request-Id` of all responses, not only of errors of the gateway.",
    )
    tracing: Annotated[Tracing, Takes("[mapping](#tracing)")] | None = Field(
        default=None, description="Traces: which requests are recorded, and where their spans are sent."
    )
    debug: Annotated[Debug, Takes("[mapping](#debug)")] | None = Field(
        default=None, description="Which clients see where the time of their requests goes (`Server-Timing`)."
    )
    limits: Limits = Field(
        default=Limits.model_construct(), description="Limits on the requests and connections of clients."
    )
    security_headers: OptionalSecurityHeaders = Field(
        default=None, description="Security fields on all responses: `true` for the defaults, or a mapping."
    )
    errors: ErrorPages = Field(
        default={},
        min_length=1,
        description="HTML pages for errors of the gateway, by status such as `404`, `4xx` or `5xx`, for browsers.",
    )
    cache: Annotated[Cache, Takes("[mapping](#caching)")] = Field(
        default=Cache.model_construct(), description="Settings of the response cache, shared by all routes."
    )
    redis: OptionalRedis = Field(
        default=None,
        description="A Redis shared by workers and gateways: cache, invalidations, limits, sessions, API keys.",
    )
    state: File | None = Field(
        default=None,
        description="Folder for what is kept over restarts: splits, rollouts, and certificates that are ordered; by "
        "default `.passerelle` in the folder of the file.",
    )
    dns: Dns = Field(default=Dns.model_construct(), description="How the names of targets are resolved.")
    jwt: Jwt | None = Field(
        default=None, description="How JSON web tokens are verified, for routes with `auth: [jwt]`."
    )
    keys: Keys | None = Field(default=None, description="Where API keys are stored, for routes with `auth: [key]`.")
    basic: Annotated[Basic, Takes("[mapping](#basic)")] | None = Field(
        default=None, description="User names and passwords of a file, for routes with `auth: [basic]`."
    )
    sessions: Sessions | None = Field(
        default=None, description="Logins and session cookies, for routes with `auth: [session]`."
    )
    oidc: Annotated[Oidc, Takes("[mapping](#oidc)")] | None = Field(
        default=None, description="Login with an identity provider (OpenID Connect), for routes with `auth: [oidc]`."
    )
    alerts: Annotated[AlertSettings, Takes("[mapping](#alerts)")] | None = Field(
        default=None, description="Conditions on rates, latency, certificates and restarts, and a webhook for them."
    )
    backup: Annotated[Backup, Takes("[mapping](#backup)")] | None = Field(
        default=None, description="What `passerelle backup` saves, where, and for how long."
    )
    identity_token: IdentityToken | None = Field(
        default=None, description="A signed token that identifies the client to services."
    )
    plugins: Annotated[dict[Name, Plugin], Takes("mapping of names to [plugins](#plugins)")] = Field(
        default={},
        min_length=1,
        description="Python functions as guards and filters, by name.",
    )
    services: Annotated[dict[Name, Service], Takes("mapping of names to [services](#a-service)")] = Field(
        default={}, min_length=1, description="The upstream services, by name. Required if a route needs one."
    )
    routes: Annotated[tuple[Route, ...], Takes("list of [routes](#a-route)")] = Field(
        min_length=1, description="The route table; the order does not matter."
    )
    include: Annotated[tuple[Text, ...], OneOrMore, Takes("path, pattern, or [list](#include)")] | None = Field(
        default=None, min_length=1, description="Further files with services and routes, such as `routes/*.yaml`."
    )
    profiles: Annotated[dict[Name, JsonValue], Takes("mapping of names to [parts](#profiles)")] | None = Field(
        default=None,
        min_length=1,
        description="Values for one environment: those of the profile that `PASSERELLE_PROFILE` names apply.",
    )
    defaults: Annotated[Defaults, Takes("[mapping](#defaults)")] | None = Field(
        default=None, description="Keys that all routes have unless they set them themselves."
    )

    _origins: Origins = PrivateAttr(default_factory=Origins)
    _included: Included = PrivateAttr(default_factory=Included)

    @property
    def origins(self) -> Origins:
        """Where values come from besides the file itself."""
        return self._origins

    @property
    def included(self) -> Included:
        """The files that the file includes."""
        return self._included

    def with_origins(self, origins: Origins, included: Included) -> Config:
        """Return this configuration with the places that a loader has found."""
        found = self.model_copy()
        found._origins, found._included = origins, included
        return found

    _versions: dict[str, VersionPair] = PrivateAttr(default_factory=dict)

    def with_services(
        self, services: dict[str, Service], routes: tuple[Route, ...], versions: dict[str, VersionPair]
    ) -> Config:
        """Return this configuration with the services that versions have become."""
        found = self.model_copy(update={"services": services, "routes": routes})
        found._versions = versions
        return found

    @property
    def versions(self) -> dict[str, VersionPair]:
        """The services with versions, by name, as :mod:`passerelle.config.versions` has made services of them."""
        return self._versions

    @property
    def rollouts(self) -> dict[str, Rollout]:
        """The rollouts: name of a split, or of a service with versions, to the settings."""
        found = {route.label: route.rollout for route in self.routes if route.rollout is not None}
        return found | {
            name: pair.rollout for name, pair in self._versions.items() if pair.new is not None and pair.splits
        }

    @property
    def main_listener(self) -> Listener:
        """The first listener that forwards requests, where other programs reach the gateway."""
        return next((each for each in self.listen if each.https_redirect is None), self.listen[0])

    @property
    def address(self) -> Address:
        """The address of :attr:`main_listener`."""
        return self.main_listener.address

    def is_secure(self, listener: Listener) -> bool:
        """Whether the clients of ``listener`` use TLS."""
        return listener.is_secure(self.tls is not None)

    def redirect_port(self, listener: Listener) -> int:
        """The port to which ``listener`` redirects clients."""
        if listener.https_port is not None:
            return listener.https_port
        return next((each.address.port for each in self.listen if each.address.port and self.is_secure(each)), 443)

    @property
    def stores(self) -> dict[str, Literal["redis"] | Path]:
        """Where `keys` and `sessions` are stored, without those that are in the file alone."""
        found = {"keys": self.keys.store} if self.keys is not None and self.keys.has_store else {}
        return found | ({"sessions": self.sessions.store} if self.sessions is not None else {})

    @property
    def scheme(self) -> str:
        """The scheme of requests of clients."""
        return "https" if self.is_secure(self.main_listener) else "http"

    @property
    def ordered_names(self) -> tuple[str, ...]:
        """The names of the certificates that are ordered, in order."""
        if self.tls is None or self.tls.auto is None:
            return ()
        hosts = (host for route in self.routes for host in route.host or ())
        return self.tls.auto.ordered(hosts, {name for each in self.tls.certificates for name in each.names})

    @property
    def certificates_folder(self) -> Path:
        """The folder of the certificates that are ordered."""
        auto = self.tls.auto if self.tls is not None else None
        state = self.state if self.state is not None else auto.default_state if auto is not None else Path(STATE)
        return state / "certificates"

    @property
    def splits(self) -> dict[str, dict[str, int]]:
        """The splits of all routes and parts: name to the weights in per mille by service, the old one first."""
        return {name: split.sides(service) for route in self.routes for name, (service, split) in route.splits.items()}

    def body_limit(self, route: Route) -> int | None:
        """Return the largest request body on ``route`` in bytes, or None without a limit: no action reads a body."""
        if route.is_action:
            return None
        limit = self.limits.body if route.body is None else route.body
        return None if isinstance(limit, str) else limit

    def security_of(self, route: Route | None) -> SecurityHeaders | None:
        """Return the security headers of ``route`` (None: requests without a route): its own, or those of the file."""
        if route is not None and "security_headers" in route.model_fields_set:
            return route.security_headers
        return self.security_headers

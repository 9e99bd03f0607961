"""The configuration file as immutable models: every key, its type and its default.

The descriptions are the ones that ``passerelle schema`` prints. Nothing is accepted that does nothing: an unknown key
is an error.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

from passerelle.config.addresses import Address, Admin, Listen, Network, Url
from passerelle.config.units import Duration, Limit, Size
from passerelle.config.values import (
    AccessLog,
    App,
    Command,
    EnvName,
    FieldName,
    File,
    Flag,
    Method,
    Name,
    PatternText,
    PlainPath,
    RouteHost,
    TagText,
    TemplateText,
    Text,
    Whole,
)
from passerelle.config.words import describe

SOURCES = ("app", "run", "targets", "zones")
"""A service has exactly one of these."""


class Model(BaseModel):
    """A mapping of the file: immutable, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False)


class Limits(Model):
    """What a client may send."""

    head: Size = Field(
        default=32 * 1024, description="Largest head: request line and header fields. Beyond: 431 (414 for the target)."
    )
    headers: Annotated[int, Whole(1, 10_000)] = Field(
        default=100, description="Most header fields in a request. Beyond: 431."
    )
    body: Limit = Field(
        default=10 * 2**20, description="Largest request body, or `unlimited`. Beyond: 413. A route may override it."
    )
    head_timeout: Duration = Field(default=10.0, description="Time for a head to arrive completely. Beyond: 408.")
    idle_timeout: Duration = Field(
        default=75.0, description="How long an idle keep-alive connection of a client stays open."
    )
    body_timeout: Duration = Field(
        default=30.0, description="Longest time without any byte of a request body. Beyond: 408."
    )
    connections: Annotated[int, Whole(1, 1_000_000)] = Field(
        default=10_000, description="Most client connections of a worker at once."
    )


class Target(Model):
    """A running instance; in short form only its URL."""

    url: Url = Field(description="Where the instance listens: `http://host:port`; port 80 if there is none.")
    weight: Annotated[int, Whole(1, 1000)] = Field(
        default=1, description="Its share of the requests, relative to the others."
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, found: Any) -> Any:
        if isinstance(found, str):
            return {"url": found}
        if not isinstance(found, dict | Target):
            raise ValueError(f"found {describe(found)}; allowed is http://host:port or a mapping with url and weight")
        return found


class Zone(Model):
    """A group of instances that is balanced as one."""

    targets: tuple[Target, ...] = Field(min_length=1, description="The instances of the zone.")
    weight: Annotated[int, Whole(1, 1000)] = Field(
        default=1, description="Its share of the requests, relative to the other zones."
    )


class Health(Model):
    """The question that says whether an instance is up."""

    path: PlainPath = Field(description="Path to ask with GET; a 2xx answer means that the instance is up.")
    timeout: Duration = Field(default=1.0, description="How long one answer may take.")


class Service(Model):
    """A named upstream: instances that the runner starts (`app`, `run`) or that run already (`targets`, `zones`)."""

    app: App | None = Field(default=None, description="A WSGI or ASGI application to serve: `module:attribute`.")
    run: Command | None = Field(
        default=None, description="A command that serves on `{port}`: a list of words, or text split like a shell does."
    )
    targets: tuple[Target, ...] | None = Field(default=None, min_length=1, description="Instances that run already.")
    zones: dict[Name, Zone] | None = Field(
        default=None, min_length=1, description="Groups of running instances, balanced as groups."
    )
    interface: Literal["wsgi", "asgi"] | None = Field(
        default=None, description="What `app` is; detected if not given. With `app` only."
    )
    instances: Annotated[int, Whole(1, 1000)] = Field(
        default=1, description="How many processes to start. With `app` or `run` only."
    )
    env: dict[EnvName, Text] = Field(default={}, description="Environment variables to add. With `app` or `run` only.")
    cwd: File | None = Field(
        default=None,
        description="Folder to start in, relative to the file; by default the file's. With `app` or `run` only.",
    )
    health: Health | None = Field(
        default=None,
        description="How an instance is asked whether it is up; by default a TCP connection is enough.",
    )
    balance: Literal["round_robin", "weighted", "least_inflight", "p2c"] = Field(
        default="p2c", description="How an instance is picked: `round_robin`, `weighted`, `least_inflight` or `p2c`."
    )
    connect_timeout: Duration = Field(default=2.0, description="Time for a connection to an instance.")
    max_connections: Annotated[int, Whole(1, 100_000)] = Field(
        default=256, description="Most connections to an instance, per worker."
    )
    max_waiting: Annotated[int, Whole(0, 100_000)] = Field(
        default=256, description="Most requests that wait for a connection, per instance and worker. Beyond: 503."
    )
    keepalive: Duration = Field(default=4.0, description="How long an idle connection to an instance is kept.")

    @property
    def source(self) -> Literal["app", "run", "targets", "zones"]:
        """Which of the four it has."""
        if self.app is not None:
            return "app"
        if self.run is not None:
            return "run"
        return "targets" if self.targets is not None else "zones"

    @property
    def is_local(self) -> bool:
        """Whether the runner starts its instances."""
        return self.app is not None or self.run is not None

    @model_validator(mode="after")
    def _shape(self) -> Service:
        _raise_first(service_shape(_given(self)))
        return self


class OnError(Model):
    """What stands in for a part that failed."""

    value: JsonValue = Field(description="Any JSON value, put in the place of the part.")


class RouteCache(Model):
    """How the answers of a route, or of a part of a composition, are cached; empty: by RFC 9111 and no more."""

    ttl: Duration | None = Field(
        default=None, description="Lifetime from when an answer came, in place of its own, for `statuses`."
    )
    statuses: tuple[Annotated[int, Whole(200, 599)], ...] | None = Field(
        default=None, min_length=1, description="Statuses that `ttl` is for; by default 200, 203, 204, 300, 301, 308."
    )
    stale_while_revalidate: Duration | None = Field(
        default=None,
        description="How long a stale answer is used while it is revalidated; by default as the answer says.",
    )
    stale_if_error: Duration | None = Field(
        default=None, description="How long a stale answer is used for 500, 502, 503, 504; by default as it says."
    )
    stale_if_disconnected: Duration = Field(
        default=86400.0, description="How long a stale answer is used while no instance answers at all."
    )
    tags: tuple[TagText, ...] = Field(
        default=(), description="What its answers are purged by, filled with the route's parameters: `user:{user_id}`."
    )
    per_host: Flag = Field(default=True, description="Whether each host has answers of its own.")
    query: tuple[Text, ...] | None = Field(
        default=None, description="The query parameters that choose the answer, in any order; by default all, as sent."
    )
    vary_on: tuple[FieldName, ...] = Field(
        default=(), description="Request fields that choose the answer, beside those of its `Vary`."
    )
    identity: Literal["rule", "consumer", "shared"] = Field(
        default="rule",
        description="Answers to requests with an identity: by RFC 9111, for each consumer apart, or for all.",
    )
    ignore_client_directives: Flag = Field(
        default=False, description="Whether the `Cache-Control` of requests is passed over."
    )
    store_set_cookie: Flag = Field(default=False, description="Whether answers with `Set-Cookie` are stored, with it.")
    heuristic: Flag = Field(
        default=True, description="Whether answers without a lifetime get one from their `Last-Modified`."
    )
    max_body: Size = Field(default=8 * 2**20, description="Longest body that is stored.")


class Part(Model):
    """One part of a composed answer: a request to a service."""

    service: Text = Field(description="The service to ask.")
    path: TemplateText = Field(description="The path to ask for, filled with the route's parameters.")
    timeout: Duration | None = Field(default=None, description="The part's own deadline; by default the route's.")
    pass_status: tuple[Annotated[int, Whole(400, 599)], ...] = Field(
        default=(),
        description="Statuses of a required part that become the answer's, such as `[404]`; others become 502.",
    )
    on_error: OnError | None = Field(
        default=None,
        description="What to put in for a part that failed: `null` or `{value: …}`. Without the key it is required.",
    )
    cache: RouteCache | None = Field(
        default=None, description="How the part's answers are cached, apart from those of any route; none without it."
    )

    @property
    def required(self) -> bool:
        """Whether its failure is the failure of the whole."""
        return "on_error" not in self.model_fields_set

    @property
    def fallback(self) -> JsonValue:
        """The JSON value that stands in for an optional part."""
        return self.on_error.value if self.on_error is not None else None


class Route(Model):
    """What may be asked for, and how it is answered."""

    path: PatternText = Field(description="`/literal/{one_segment}/{the_rest*}`.")
    host: RouteHost | None = Field(default=None, description="Only requests for this host: a name, or `*.example.com`.")
    methods: tuple[Method, ...] | None = Field(
        default=None,
        min_length=1,
        description="Only these methods; `GET` brings `HEAD`. By default all (with `compose`: `GET`).",
    )
    service: Text | None = Field(default=None, description="The service that answers.")
    compose: dict[Name, Part] | None = Field(
        default=None, min_length=1, description="The parts of the answer, a JSON object: key to part."
    )
    rewrite: TemplateText | None = Field(
        default=None, description="The path that the service sees, filled with the parameters. With `service` only."
    )
    timeout: Duration = Field(
        default=30.0, description="The one deadline of the request, over all attempts. Beyond: 504."
    )
    body: Limit | None = Field(
        default=None, description="Largest request body, or `unlimited`; by default `limits.body`."
    )
    attempts: Annotated[int, Whole(1, 10)] = Field(
        default=2, description="Most attempts, the first included; `1` means no retry."
    )
    cache: RouteCache | None = Field(
        default=None, description="How the answers are cached, `{}` for RFC 9111 alone; none without it."
    )

    @property
    def accepted(self) -> frozenset[bytes] | None:
        """The methods for the router: None for all. A composition answers GET (and HEAD) only."""
        if self.methods is not None:
            return frozenset(method.encode() for method in self.methods)
        return frozenset({b"GET"}) if self.compose is not None else None

    @property
    def label(self) -> str:
        """A name for logs and metrics: methods, host and pattern, never a request's path."""
        methods = ",".join(self.methods) + " " if self.methods else ""
        return f"{methods}{self.host or ''}{self.path}"

    @model_validator(mode="after")
    def _shape(self) -> Route:
        _raise_first(route_shape(_given(self)))
        return self


class Cache(Model):
    """The cache that all cached routes of a worker share."""

    memory: Size = Field(default=128 * 2**20, description="Memory for stored answers, per worker, all of it counted.")


class Config(Model):
    """A gateway: where it listens, what is behind it, and which requests go where."""

    listen: Listen = Field(
        default=Address(host="127.0.0.1", port=8080), description="Where clients connect; port 0: any free one."
    )
    admin: Admin = Field(
        default=Address(host="127.0.0.1", port=9900), description="Where metrics and health are served, or `off`."
    )
    workers: Annotated[int, Whole(1, 256)] = Field(default=1, description="Gateway processes that share the port.")
    access_log: AccessLog = Field(
        default="stdout", description="Where one JSON line a request goes: `stdout`, `off` or a path."
    )
    trusted_proxies: tuple[Network, ...] = Field(
        default=(), description="Address ranges whose `X-Forwarded-*` fields are believed."
    )
    limits: Limits = Field(default=Limits(), description="What a client may send.")
    cache: Cache = Field(default=Cache(), description="The memory of cached routes.")
    services: dict[Name, Service] = Field(min_length=1, description="The upstreams, by name.")
    routes: tuple[Route, ...] = Field(min_length=1, description="The route table; its order means nothing.")

    def body_limit(self, route: Route) -> int | None:
        """The largest request body on ``route`` in bytes, or None for no limit."""
        limit = self.limits.body if route.body is None else route.body
        return None if isinstance(limit, str) else limit


Shape = list[tuple[str | None, str]]
"""Findings about which keys stand together: (key, or None for the mapping itself; message)."""


def service_shape(keys: set[str]) -> Shape:
    """What is wrong with a service that has exactly these ``keys``."""
    sources = [key for key in SOURCES if key in keys]
    if not sources:
        return [(None, f"a service needs one of {', '.join(SOURCES)}; found none of them")]
    if len(sources) > 1:
        return [(key, f"found beside {sources[0]}; allowed is one of {', '.join(SOURCES)}") for key in sources[1:]]
    source = sources[0]
    findings: Shape = []
    if source in ("targets", "zones"):
        wrong = [key for key in ("instances", "env", "cwd") if key in keys]
        findings += [(key, f"found beside {source}; allowed with app or run only") for key in wrong]
    if source != "app" and "interface" in keys:
        findings.append(("interface", f"found beside {source}; allowed with app only"))
    return findings


def route_shape(keys: set[str]) -> Shape:
    """What is wrong with a route that has exactly these ``keys``."""
    if "service" in keys and "compose" in keys:
        return [("compose", "found beside service; allowed is one of service, compose")]
    if "service" not in keys and "compose" not in keys:
        return [(None, "a route needs one of service, compose; found neither")]
    if "compose" in keys and "cache" in keys:
        return [("cache", "found beside compose; allowed with service only (each part has its own cache)")]
    if "compose" in keys and "rewrite" in keys:
        return [("rewrite", "found beside compose; allowed with service only (each part has its own path)")]
    return []


def _given(model: Model) -> set[str]:
    """The keys that were given a value."""
    return {key for key in model.model_fields_set if getattr(model, key) is not None}


def _raise_first(findings: Shape) -> None:
    """In Python the first finding is raised; the loader reports all of them itself and skips this type of error."""
    if findings:
        key, message = findings[0]
        raise PydanticCustomError("shape", "{message}", {"message": f"{key}: {message}" if key else message})

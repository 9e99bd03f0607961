"""Balancing of a service, and what happens when instances fail: sticky, eject, breaker, retries."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic.json_schema import WithJsonSchema

from passerelle.config.models.base import Model, Takes
from passerelle.config.models.units import Duration, Percent
from passerelle.config.models.values import METHODS, Method, Text, WholeNumber
from passerelle.config.reading.wording import describe, hint
from passerelle.http.messages import IDEMPOTENT_METHODS

PolicyName = Literal["round_robin", "weighted", "least_inflight", "p2c", "ewma", "hash"]
POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)
KEYLESS_POLICIES = tuple(name for name in POLICIES if name != "hash")
"""The policies that need no other key of the configuration."""

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+").fullmatch  # RFC 9110 §5.6.2
_SOURCES = ("header", "cookie", "param", "address")


@dataclass(frozen=True, slots=True)
class By:
    """The part of a request that the ``hash`` policy hashes. ``name`` is empty for ``address``."""

    source: Literal["header", "cookie", "param", "address"]
    name: str = ""

    def __str__(self) -> str:
        return f"{self.source}:{self.name}" if self.name else self.source


def parse_by(found: object) -> By:
    """Parse ``header:NAME``, ``cookie:NAME``, ``param:NAME`` or ``address``."""
    allowed = "allowed is header:NAME, cookie:NAME, param:NAME or address"
    if isinstance(found, By):
        return found
    if not isinstance(found, str):
        raise ValueError(f"found {describe(found)}; {allowed}")
    source, _, name = found.partition(":")
    if source == "address" and not name and found == "address":
        return By("address")
    if source in ("header", "cookie") and _TOKEN(name):
        return By("header" if source == "header" else "cookie", name.lower() if source == "header" else name)
    if source == "param" and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        return By("param", name)
    raise ValueError(f"found {describe(found)}; {allowed}{hint(source, _SOURCES) if source not in _SOURCES else ''}")


def _cookie_name(text: str) -> str:
    if not _TOKEN(text):
        raise ValueError(f"found {text!r}; the name of a cookie is a token, such as passerelle")
    return text


def _secret(text: str) -> str:
    if len(text.encode()) < 16:
        raise ValueError("a secret has at least 16 bytes (it is not shown)")
    return text


def _retried_method(text: str) -> str:
    if text.encode() not in IDEMPOTENT_METHODS:
        allowed = ", ".join(sorted(method.decode() for method in IDEMPOTENT_METHODS if method.decode() in METHODS))
        raise ValueError(f"found {text!r}, which is not idempotent; allowed: {allowed}")
    return text


def _off(found: object) -> object:
    """Convert ``off`` to None."""
    return None if found in ("off", False) else found


class Sticky(Model):
    """Session affinity: a cookie returns a client to the same instance."""

    cookie: Annotated[Text, AfterValidator(_cookie_name), Takes("name of a cookie")] = Field(
        description="Name of the cookie."
    )
    secret: Annotated[Text, AfterValidator(_secret)] = Field(
        description="Secret that the cookie values are derived from, at least 16 bytes; the same in all replicas."
    )


class Balance(Model):
    """How an instance is picked. The short form is the name of a policy."""

    policy: PolicyName = Field(
        default="p2c",
        description="The policy that picks an instance for each request.",
    )
    by: (
        Annotated[
            By,
            BeforeValidator(parse_by),
            WithJsonSchema({"type": "string", "pattern": "^(address|(header|cookie|param):.+)$"}),
            Takes("`header:NAME`, `cookie:NAME`, `param:NAME` or `address`"),
        ]
        | None
    ) = Field(
        default=None, description="What selects the instance for `hash`. Required with `hash`, not allowed otherwise."
    )
    sticky: Sticky | None = Field(default=None, description="Session affinity by cookie. Not with `hash`.")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, found: Any) -> Any:
        if isinstance(found, str):
            return {"policy": found}
        if not isinstance(found, dict | Balance):
            allowed = f"{', '.join(POLICIES)}, or a mapping with policy, by and sticky"
            raise ValueError(f"found {describe(found)}; allowed: {allowed}")
        return found

    @model_validator(mode="after")
    def _fits(self) -> Balance:
        if self.policy == "hash":
            if self.by is None:
                raise ValueError("hash needs by: header:NAME, cookie:NAME, param:NAME or address")
            if self.sticky is not None:
                raise ValueError("found sticky together with hash, which already selects the instance")
        elif self.by is not None:
            raise ValueError(f"found by together with {self.policy}; allowed with hash only")
        return self


class Eject(Model):
    """When an instance is ejected because requests to it fail, although it passes its health checks."""

    failures: Annotated[int, WholeNumber(1, 1000)] = Field(
        default=5,
        description="Number of consecutive failed requests: no connection, no or a malformed response, 5xx, timeout.",
    )
    time: Duration = Field(
        default=30.0, description="Duration of the first ejection; each further one is twice as long."
    )
    max_time: Duration = Field(default=300.0, description="Longest ejection.")
    at_most: Percent = Field(
        default=0.5, description="Largest share of the instances that may be ejected; never the last one that is up."
    )


class Breaker(Model):
    """The circuit breaker of a service: when requests are refused because most of them fail."""

    threshold: Percent = Field(default=0.5, description="Share of failed requests at which the breaker opens.")
    minimum: Annotated[int, WholeNumber(1, 1_000_000)] = Field(
        default=20, description="Minimum number of completed requests before the breaker may open."
    )
    window: Duration = Field(default=10.0, description="Period over which `threshold` and `minimum` are measured.")
    open: Duration = Field(
        default=5.0, description="How long the breaker stays open the first time; each further time is twice as long."
    )
    max_open: Duration = Field(default=60.0, description="Longest time that the breaker stays open.")
    probes: Annotated[int, WholeNumber(1, 1000)] = Field(
        default=3, description="Number of trial requests after the breaker was open; it closes if all of them succeed."
    )


class Retries(Model):
    """Which requests are retried, and how many. `attempts` of the route limits the retries of one request."""

    budget: Percent = Field(
        default=0.2,
        description="Maximum number of retries, as a share of the requests of the service in the last 5 s, per worker.",
    )
    floor: Annotated[int, WholeNumber(0, 100_000)] = Field(
        default=3, description="Retries per second that are always allowed."
    )
    backoff: Duration = Field(
        default=0.025, description="Upper bound of the random delay before a retry; it doubles for each further one."
    )
    max_backoff: Duration = Field(default=1.0, description="Largest upper bound of the delay before a retry.")
    methods: tuple[Annotated[Method, AfterValidator(_retried_method)], ...] | None = Field(
        default=None,
        min_length=1,
        description="Methods that may be retried after the request was sent; by default all idempotent ones.",
    )
    on_status: tuple[Annotated[int, WholeNumber(500, 599)], ...] = Field(
        default=(), description="Statuses that are retried like a failure, such as `[503]`; `Retry-After` is respected."
    )


OptionalEject = Annotated[Eject | None, BeforeValidator(_off), Takes("[mapping](#eject) or `off`")]

"""How the instances of a service with `app` serve the application."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from passerelle.config.models.base import Model
from passerelle.config.models.units import Duration
from passerelle.config.models.values import App, StartFunction, WholeNumber

ONLY_WITH_APP = (
    "interface",
    "transport",
    "threads",
    "streams",
    "max_requests",
    "max_requests_jitter",
    "worker_timeout",
    "on_start",
)
"""The keys that a service with `run`, `targets` or `zones` cannot have."""

ONLY_WSGI = ("threads", "streams")
"""Those that an ASGI application cannot have."""


class ApplicationKeys(Model):
    """The keys of the application server, with the names that gunicorn gives them where it has them."""

    app: App | None = Field(
        default=None, description="A WSGI or ASGI application to run: `module:attribute`, or `module:factory()`."
    )
    interface: Literal["wsgi", "asgi"] | None = Field(
        default=None, description="Interface of `app`; detected by default. With `app` only."
    )
    transport: Literal["unix", "tcp"] | None = Field(
        default=None,
        description="How the gateway connects to the instances: Unix sockets of this user alone (by default, with less "
        "CPU), or ports of 127.0.0.1, which other programs can use as well. With `app` only.",
    )
    threads: Annotated[int, WholeNumber(1, 256)] | None = Field(
        default=None,
        description="Number of requests that each instance of a WSGI `app` handles at once, besides "
        "[streams](running.md#streams-of-wsgi-applications); by default 4. With `app` only.",
    )
    streams: Annotated[int, WholeNumber(0, 768)] | None = Field(
        default=None,
        description="Maximum number of [streams](running.md#streams-of-wsgi-applications) of each instance of a WSGI "
        "`app`, event streams and WebSockets included; by default 3 for each of `threads`. With `app` only.",
    )
    max_requests: Annotated[int, WholeNumber(1, 1_000_000_000)] | None = Field(
        default=None,
        description="Number of requests after which an instance is replaced, without a failed request; by default "
        "never. With `app` only.",
    )
    max_requests_jitter: Annotated[int, WholeNumber(0, 1_000_000_000)] | None = Field(
        default=None,
        description="Largest random number that is added to `max_requests` for each instance; by default a tenth of "
        "it. With `max_requests` only.",
    )
    worker_timeout: Duration | None = Field(
        default=None,
        description="Time after which an instance is [hung](running.md#hung-instances), ended and started again: its "
        "event loop is blocked, or each of its threads is in one call. By default never. With `app` only.",
    )
    on_start: StartFunction | None = Field(
        default=None,
        description="A function, `module:function`, that each instance calls once before it accepts requests. With "
        "`app` only.",
    )

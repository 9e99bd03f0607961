"""The active health check of a service."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from passerelle.config.models.addresses import Authority
from passerelle.config.models.base import Model, Takes
from passerelle.config.models.guards import OneOrMore
from passerelle.config.models.headers import ProbeField, Value
from passerelle.config.models.units import Duration
from passerelle.config.models.values import PlainPath, Text, WholeNumber


class Health(Model):
    """The active health check of a service."""

    path: PlainPath = Field(description="Path of the probe; the status of the response decides, and `body`.")
    method: Literal["GET", "HEAD", "OPTIONS"] = Field(default="GET", description="Method of the probe.")
    port: Annotated[int, WholeNumber(1, 65535)] | None = Field(
        default=None,
        description="Port of the probe; by default that of the instance. With `targets` or `zones` only.",
    )
    interval: Duration = Field(default=3.0, description="Time between two probes of an instance.")
    timeout: Duration = Field(default=1.0, description="Time for one response.")
    rise: Annotated[int, WholeNumber(1, 100)] = Field(
        default=1, description="Number of successful probes in a row after which an instance is up."
    )
    fall: Annotated[int, WholeNumber(1, 100)] = Field(
        default=3, description="Number of failed probes in a row after which an instance is down."
    )
    host: Authority | None = Field(
        default=None,
        description="`Host` of the probe; by default the `host` of the service if that is a name, otherwise the "
        "address of the instance.",
    )
    headers: Annotated[dict[ProbeField, Value], Takes("mapping of fields to values")] = Field(
        default={}, min_length=1, description="Further header fields of the probe, such as `X-Forwarded-Proto: https`."
    )
    statuses: Annotated[tuple[Annotated[int, WholeNumber(200, 599)], ...], OneOrMore] | None = Field(
        default=None, min_length=1, description="Statuses that mean that the instance is up; by default any 2xx."
    )
    body: Text | None = Field(
        default=None,
        min_length=1,
        max_length=1024,
        description="Text that the first 64 KiB of the response body must contain. Not with `method: HEAD`.",
    )

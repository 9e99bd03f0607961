"""Limits on the requests and connections of clients."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from passerelle.config.models.base import Model
from passerelle.config.models.units import Duration, Limit, Size
from passerelle.config.models.values import WholeNumber


class Limits(Model):
    """Limits on the requests and connections of clients."""

    head: Size = Field(
        default=32 * 1024,
        description="Largest head: request line and header fields. Beyond it: 431 (414 for the target).",
    )
    headers: Annotated[int, WholeNumber(1, 10_000)] = Field(
        default=100, description="Maximum number of header fields of a request. Beyond it: 431."
    )
    body: Limit = Field(
        default=10 * 2**20, description="Largest request body, or `unlimited`; a route may override it. Beyond it: 413."
    )
    head_timeout: Duration = Field(default=10.0, description="Time for a complete head to arrive. Beyond it: 408.")
    idle_timeout: Duration = Field(
        default=75.0, description="How long an idle keep-alive connection of a client stays open."
    )
    body_timeout: Duration = Field(
        default=30.0, description="Longest time without any byte of a request body. Beyond it: 408."
    )
    body_rate: Size = Field(
        default=240,
        description="Lowest rate of a request body per second, averaged over each `body_timeout`; `0B` for "
        "none. Below it: 408.",
    )
    write_timeout: Duration = Field(
        default=60.0,
        description="Longest time in which a client reads nothing of its response. Beyond it, the connection is "
        "closed.",
    )
    connections: Annotated[int, WholeNumber(1, 1_000_000)] = Field(
        default=10_000, description="Maximum number of client connections of a worker."
    )
    connections_per_address: Annotated[int, WholeNumber(1, 1_000_000)] | None = Field(
        default=None,
        description="Maximum number of connections of one client address (IPv6: /64) to a worker. Beyond it: 429.",
    )
    gateways: Annotated[int, WholeNumber(1, 10_000)] | None = Field(
        default=None,
        description="Number of workers that divide each limit while `redis` is unavailable; by default those "
        "seen last.",
    )

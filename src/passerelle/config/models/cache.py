"""Caching: the shared cache, and the cache settings of a route."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from passerelle.config.models.base import Model, Takes
from passerelle.config.models.units import Duration, Size
from passerelle.config.models.values import FieldName, Flag, Name, TagText, Text, WholeNumber
from passerelle.http.messages import is_forwarding_field


def _selecting_field(text: str) -> str:
    if is_forwarding_field(text.lower().encode()):
        raise ValueError(f"found {text!r}; responses cannot vary on forwarding fields")
    return text


def _status(found: object) -> int:
    number = int(found) if isinstance(found, str) and found.isascii() and found.isdigit() and len(found) < 4 else found
    if type(number) is not int or not 200 <= number <= 599:
        raise ValueError(f"found {found!r}; allowed is a status from 200 to 599")
    return number


class Cache(Model):
    """The cache that all routes of a worker share."""

    memory: Size = Field(
        default=128 * 2**20, description="Memory for stored responses, per worker, everything counted."
    )
    refreshes: Annotated[int, WholeNumber(1, 100_000)] = Field(
        default=4, description="Maximum number of concurrent background revalidations of stale responses, per worker."
    )
    namespace: Name = Field(
        default="default", description="Gateways with the same `redis` and namespace share responses."
    )


class RouteCache(Model):
    """How the responses of a route, or of a part of a composition, are cached. `{}` applies RFC 9111 alone."""

    ttl: Duration | None = Field(
        default=None,
        description="Lifetime of responses with one of the `statuses`, from their arrival, in place of their own.",
    )
    statuses: tuple[Annotated[int, WholeNumber(200, 599)], ...] | None = Field(
        default=None,
        min_length=1,
        description="Statuses that `ttl` applies to; by default 200, 203, 204, 300, 301, 308.",
    )
    ttl_by_status: Annotated[
        dict[Annotated[int, BeforeValidator(_status)], Duration], Takes("mapping of statuses to durations")
    ] = Field(
        default={},
        min_length=1,
        description="Lifetimes for single statuses, such as `{404: 10s}`, in place of `ttl`. Not with `compose`.",
    )
    stale_while_revalidate: Duration | None = Field(
        default=None,
        description="How long a stale response is used while it is revalidated; by default as the response states.",
    )
    stale_if_error: Duration | None = Field(
        default=None,
        description="How long a stale response is used in place of 500, 502, 503, 504; by default as the "
        "response states.",
    )
    stale_if_disconnected: Duration = Field(
        default=86400.0, description="How long a stale response is used while no instance responds."
    )
    tags: tuple[TagText, ...] = Field(
        default=(), description="Tags for purging, filled with the parameters of the route: `user:{user_id}`."
    )
    per_host: Flag = Field(
        default=True,
        description="Whether each host has its own responses; otherwise all hosts of the route share them.",
    )
    query: Annotated[tuple[Text, ...], Takes("list of names")] | None = Field(
        default=None,
        description="Query parameters that are part of the cache key, in any order; by default all, as sent.",
    )
    vary_on: tuple[Annotated[FieldName, AfterValidator(_selecting_field)], ...] = Field(
        default=(), description="Request fields that select a response, in addition to those of `Vary`."
    )
    identity: Literal["rule", "consumer", "shared"] = Field(
        default="rule",
        description="How responses to requests with an identity are stored: by RFC 9111, for each consumer, or shared.",
    )
    ignore_client_directives: Flag = Field(
        default=False, description="Whether the `Cache-Control` of requests is ignored."
    )
    store_set_cookie: Flag = Field(
        default=False, description="Whether responses with `Set-Cookie` are stored, including the cookie."
    )
    heuristic: Flag = Field(
        default=True, description="Whether responses without a lifetime get one derived from `Last-Modified`."
    )
    max_body: Size = Field(default=8 * 2**20, description="Longest body that is stored.")

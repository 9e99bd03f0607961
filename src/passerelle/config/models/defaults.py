"""The keys of a route that may have a default for all routes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from passerelle.config.models.access_log import RouteLog
from passerelle.config.models.base import Model, Takes
from passerelle.config.models.compress import Compress
from passerelle.config.models.forward_auth import ForwardAuth
from passerelle.config.models.guards import Clients, OneOrMore, RateLimit, Require
from passerelle.config.models.headers import Cors, RequestHeaders, ResponseHeaders
from passerelle.config.models.sessions import Yes
from passerelle.config.models.units import Duration, DurationOrOff, Limit
from passerelle.config.models.values import Name, WholeNumber

CredentialKind = Literal["basic", "jwt", "key", "mtls", "oidc", "session"]
_HEADER_RULES = Takes("[mapping](#request_headers-and-response_headers)")


class Defaults(Model):
    """Keys that a route has unless it sets them itself."""

    encoded_slashes: Literal["refuse", "keep"] = Field(
        default="refuse",
        description="What happens to a path with `%2F`: 400, or it is forwarded as it is. With `service` only.",
    )
    timeout: Duration = Field(
        default=30.0,
        description="Deadline of the request over all attempts, until the response begins; the time of an upload does "
        "not count. Beyond it: 504.",
    )
    body: Limit | None = Field(
        default=None, description="Largest request body, or `unlimited`; by default `limits.body`."
    )
    attempts: Annotated[int, WholeNumber(1, 10)] = Field(
        default=2, description="Maximum number of attempts, including the first; `1` disables retries."
    )
    attempt_timeout: Duration | None = Field(
        default=None, description="How long an instance may take to begin its response before another one is tried."
    )
    stream_idle_timeout: DurationOrOff = Field(
        default=300.0,
        description="Longest time in which nothing of a response body arrives, or `off`. Beyond it, the response is "
        "truncated.",
    )
    tunnel_idle_timeout: DurationOrOff = Field(
        default=3600.0, description="Longest time in which a tunnel (WebSocket) is silent in both directions, or `off`."
    )
    tell_deadline: bool = Field(
        default=False, description="`true`: services receive the remaining time in `Passerelle-Timeout-Ms`."
    )
    log: RouteLog = Field(
        default="all",
        description="Which requests have a line in the access log: `all`, those with `errors` (a status of 400 or "
        "more, or a failure), or none (`off`).",
    )
    compress: Annotated[Compress, Takes("`true`, a list of codings, or [mapping](#compress)")] | None = Field(
        default=None, description="Which responses are compressed, `true` for the defaults; by default none."
    )
    cors: Cors | None = Field(
        default=None, description="Which pages of other origins may use the route; by default none."
    )
    request_headers: Annotated[RequestHeaders, _HEADER_RULES] | None = Field(
        default=None, description="Rules for the header fields that services receive."
    )
    response_headers: Annotated[ResponseHeaders, _HEADER_RULES] | None = Field(
        default=None, description="Rules for the header fields that clients receive."
    )
    clients: Clients | None = Field(
        default=None, description="Allowed client addresses, behind `trusted_proxies` the original ones. Others: 403."
    )
    auth: Annotated[tuple[CredentialKind, ...], Takes("list of kinds")] = Field(
        default=(),
        min_length=1,
        description="Accepted kinds of credentials: `basic`, `jwt`, `key`, `mtls`, `oidc`, `session`. Without a valid "
        "one: 401, or with `oidc` a login.",
    )
    require: Require | None = Field(
        default=None, description="What an authenticated client must have. Otherwise: 403. With `auth` only."
    )
    forward_auth: ForwardAuth | None = Field(
        default=None, description="A service that decides whether a request may pass."
    )
    identity_token: Yes | None = Field(
        default=None, description="`true`: services receive the signed token of `identity_token`."
    )
    plugins: Annotated[tuple[Name, ...], OneOrMore, Takes("name of a [plugin](#plugins), or a list")] = Field(
        default=(), min_length=1, description="Plugins that run for each request, in this order for each kind."
    )
    rate_limit: Annotated[tuple[RateLimit, ...], OneOrMore, Takes("[limit](#rate_limit) or a list")] = Field(
        default=(), description="One limit, or a list of limits that must all admit a request. Beyond it: 429."
    )

"""Failures of requests, and the one table that maps each kind of failure to a status.

A :class:`Failure` states *what* happened (:class:`Kind`), *which side* caused it (:class:`Side`), and whether a retry
is safe. Everything that ends a request early is a Failure; nothing else determines a status.
"""

from __future__ import annotations

import enum
from http import HTTPStatus


class Side(enum.Enum):
    """The side that caused a failure: logged, and used by passive health checks."""

    CLIENT = "client"
    GATEWAY = "gateway"
    UPSTREAM = "upstream"


class Kind(enum.Enum):
    """What happened. The value is the name in logs and metrics."""

    # Caused by the client.
    BAD_REQUEST = "bad_request"
    BAD_PATH = "bad_path"
    NO_ROUTE = "no_route"
    NO_FILE = "no_file"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    EXPECTATION_FAILED = "expectation_failed"
    HEAD_TOO_LARGE = "head_too_large"
    TARGET_TOO_LONG = "target_too_long"
    BODY_TOO_LARGE = "body_too_large"
    HEAD_TIMEOUT = "head_timeout"
    BODY_TIMEOUT = "body_timeout"
    VERSION_UNSUPPORTED = "version_unsupported"
    METHOD_UNKNOWN = "method_unknown"
    CODING_UNSUPPORTED = "coding_unsupported"
    NOT_CACHED = "not_cached"
    CLIENT_GONE = "client_gone"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    RATE_LIMITED = "rate_limited"
    # Caused by the gateway.
    INTERNAL = "internal"
    NO_INSTANCE = "no_instance"
    OVERLOADED = "overloaded"
    BREAKER_OPEN = "breaker_open"
    STOPPING = "stopping"
    MAINTENANCE = "maintenance"
    TUNNEL_IDLE = "tunnel_idle"
    UNVERIFIABLE = "unverifiable"
    PLUGIN_FAILED = "plugin_failed"
    PLUGIN_TIMEOUT = "plugin_timeout"
    # Caused by the upstream.
    CONNECT_FAILED = "connect_failed"
    CONNECT_TIMEOUT = "connect_timeout"
    UPSTREAM_CLOSED = "upstream_closed"
    UPSTREAM_RESET = "upstream_reset"
    BAD_RESPONSE = "bad_response"
    TRUNCATED = "truncated"
    TIMEOUT = "timeout"
    PART_FAILED = "part_failed"
    PART_TOO_LARGE = "part_too_large"


# The only table of statuses: kind -> (status, side, title for the client).
TABLE: dict[Kind, tuple[int, Side, str]] = {
    Kind.BAD_REQUEST: (400, Side.CLIENT, "The request is malformed"),
    Kind.BAD_PATH: (400, Side.CLIENT, "The path is not allowed"),
    Kind.NO_ROUTE: (404, Side.CLIENT, "No route matches"),
    Kind.NO_FILE: (404, Side.CLIENT, "No such file"),
    Kind.METHOD_NOT_ALLOWED: (405, Side.CLIENT, "The method is not allowed here"),
    Kind.EXPECTATION_FAILED: (417, Side.CLIENT, "The expectation cannot be met"),
    Kind.HEAD_TOO_LARGE: (431, Side.CLIENT, "The header section is too large"),
    Kind.TARGET_TOO_LONG: (414, Side.CLIENT, "The request target is too long"),
    Kind.BODY_TOO_LARGE: (413, Side.CLIENT, "The request body is too large"),
    Kind.HEAD_TIMEOUT: (408, Side.CLIENT, "The header section took too long"),
    Kind.BODY_TIMEOUT: (408, Side.CLIENT, "The request body took too long"),
    Kind.VERSION_UNSUPPORTED: (505, Side.CLIENT, "The HTTP version is not supported"),
    Kind.METHOD_UNKNOWN: (501, Side.CLIENT, "The method is not supported"),
    Kind.CODING_UNSUPPORTED: (501, Side.CLIENT, "The transfer coding is not supported"),
    Kind.NOT_CACHED: (504, Side.CLIENT, "The response is not in the cache, and the request wants no other"),
    Kind.CLIENT_GONE: (499, Side.CLIENT, "The client left"),
    Kind.UNAUTHENTICATED: (401, Side.CLIENT, "Valid credentials are needed"),
    Kind.FORBIDDEN: (403, Side.CLIENT, "Not allowed"),
    Kind.RATE_LIMITED: (429, Side.CLIENT, "Too many requests"),
    Kind.INTERNAL: (500, Side.GATEWAY, "The gateway failed"),
    Kind.NO_INSTANCE: (503, Side.GATEWAY, "The service is not available"),
    Kind.OVERLOADED: (503, Side.GATEWAY, "The service is overloaded"),
    Kind.BREAKER_OPEN: (503, Side.GATEWAY, "The service is not available"),
    Kind.TUNNEL_IDLE: (504, Side.GATEWAY, "Neither side of the tunnel said anything for too long"),
    Kind.STOPPING: (503, Side.GATEWAY, "The gateway is stopping"),
    Kind.MAINTENANCE: (503, Side.GATEWAY, "The service is in maintenance"),
    Kind.UNVERIFIABLE: (503, Side.GATEWAY, "Credentials cannot be verified now"),
    Kind.PLUGIN_FAILED: (500, Side.GATEWAY, "The gateway failed"),
    Kind.PLUGIN_TIMEOUT: (503, Side.GATEWAY, "The request cannot be processed now"),
    Kind.CONNECT_FAILED: (502, Side.UPSTREAM, "The service cannot be reached"),
    Kind.CONNECT_TIMEOUT: (504, Side.UPSTREAM, "The service did not accept in time"),
    Kind.UPSTREAM_CLOSED: (502, Side.UPSTREAM, "The service closed without a response"),
    Kind.UPSTREAM_RESET: (502, Side.UPSTREAM, "The service broke off"),
    Kind.BAD_RESPONSE: (502, Side.UPSTREAM, "The service sent a malformed response"),
    Kind.TRUNCATED: (502, Side.UPSTREAM, "The service's response was cut short"),
    Kind.TIMEOUT: (504, Side.UPSTREAM, "The service did not respond in time"),
    Kind.PART_FAILED: (502, Side.UPSTREAM, "A part of the response failed"),
    Kind.PART_TOO_LARGE: (502, Side.UPSTREAM, "A part exceeds a limit"),
}


class Failure(Exception):
    """The failure of a request, or of one attempt.

    ``detail`` is for the log. ``public``, if not empty, may be shown to the client; it never names the address of an
    upstream. ``retryable`` is True only if another attempt cannot repeat an effect (RFC 9110 §9.2.2). ``retry_after``
    is the Retry-After of a 503, in whole seconds. ``neutral``: the failure does not count against the instance.
    """

    __slots__ = ("detail", "kind", "neutral", "public", "retry_after", "retryable")

    def __init__(self, kind: Kind, detail: str = "", *, public: str = "", retryable: bool = False) -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail
        self.public = public
        self.retryable = retryable
        self.retry_after = 1
        self.neutral = kind is Kind.OVERLOADED  # a full instance is healthy

    @property
    def status(self) -> int:
        """The status code of the response to the client."""
        return TABLE[self.kind][0]

    @property
    def side(self) -> Side:
        """The side that caused the failure."""
        return TABLE[self.kind][1]

    @property
    def title(self) -> str:
        """One sentence for the client (the ``title`` of RFC 9457 problem details)."""
        return TABLE[self.kind][2]

    @property
    def type(self) -> str:
        """The problem type (RFC 9457 §3.1.1), a relative reference with its full path: the project has no domain.

        ``docs/reference/errors.md`` describes each.
        """
        return "/passerelle/problems/" + self.kind.value.replace("_", "-")

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.detail}" if self.detail else self.kind.value


def reason_phrase(status: int) -> bytes:
    """Return the reason phrase of a status, empty if none is registered (RFC 9112 §4)."""
    return _REASONS.get(status, b"")


_REASONS = {s.value: s.phrase.encode("ascii") for s in HTTPStatus} | {
    413: b"Content Too Large",
    422: b"Unprocessable Content",
    499: b"Client Closed Request",
}


class CannotStart(Exception):
    """A configuration that this machine cannot run, such as an unreadable file. The text is one line for the user."""

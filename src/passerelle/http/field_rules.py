"""Which header fields configurations and plugins may change, and which belong to the gateway."""

from __future__ import annotations

# Fields that frame or route a message or apply to one connection (RFC 9110 §7.6.1). No rule may change them.
FRAMING = frozenset(
    {
        *("connection", "content-length", "expect", "host", "http2-settings", "keep-alive", "proxy-authenticate"),
        *("proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
    }
)
# Fields that the gateway sets; services rely on them.
OWN_REQUEST = frozenset({"via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-request-id"})
OWN_REQUEST_PREFIXES = ("passerelle-", "x-consumer")
# Conditions and ranges (RFC 9110 §13, §14): the cache evaluates them, and sets its own.
_CONDITIONS = frozenset({"if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "range"})
# Response fields that the gateway sets, because they describe the body as sent or the path of the response.
_OWN_RESPONSE = frozenset(
    {
        *("age", "cache-status", "content-encoding", "content-range", "date", "ratelimit", "ratelimit-policy"),
        *("x-request-id",),
    }
)


def forbidden_request(name: str) -> str | None:
    """Return why no rule may set, add or remove the request field ``name``, or None if a rule may."""
    plain = name.lower().replace("_", "-")
    if plain == "host":
        return "it routes the message; use host of the service"
    if plain in FRAMING:
        return "it frames or routes the message, or applies to one connection"
    if plain in OWN_REQUEST or plain.startswith(OWN_REQUEST_PREFIXES):
        return "only the gateway sets it, and services rely on that"
    if plain == "forwarded":
        return "it states the address of each client, which no rule can; use forwarding of the service"
    if plain == "proxy":
        return "CGI programs take it for the proxy of their own requests"
    if plain in _CONDITIONS:
        return "conditions and ranges are set by clients and the cache"
    return None


def forbidden_response(name: str) -> str | None:
    """Return why no rule may set or remove the response field ``name``, or None if a rule may."""
    plain = name.lower()
    if plain in FRAMING:
        return "it frames the message, or applies to one connection"
    if plain in _OWN_RESPONSE or plain.startswith("passerelle-"):
        return "the gateway sets it"
    if plain.startswith("access-control-"):
        return "use cors of the route"
    return None

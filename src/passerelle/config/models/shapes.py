"""Rules about combinations of keys in a service and in a route."""

from __future__ import annotations

from passerelle.config.models.base import Shape

SOURCES = ("app", "run", "targets", "zones")
"""A service has exactly one of these."""

KINDS = ("service", "compose", "login", "logout")
"""A route has exactly one of these."""

# Keys about forwarded requests and about access. They do not apply to logins and logouts, which the gateway handles.
_UPSTREAM = (
    *(
        "methods",
        "rewrite",
        "rewrite_response",
        "encoded_slashes",
        "cache",
        "compress",
        "auth",
        "require",
        "attempt_timeout",
        "tell_deadline",
    ),
    *("hedge", "shadow", "split", "request_headers", "forward_auth", "identity_token"),
)
# Keys about streamed responses. The responses of parts and logins are buffered, within `timeout`.
_STREAMED = ("stream_idle_timeout", "tunnel_idle_timeout")


def service_shape(keys: set[str]) -> Shape:
    """Check which keys a service combines."""
    sources = [key for key in SOURCES if key in keys]
    if not sources:
        return [(None, f"a service needs one of {', '.join(SOURCES)}; found none of them")]
    if len(sources) > 1:
        return [
            (key, f"found together with {sources[0]}; allowed is one of {', '.join(SOURCES)}") for key in sources[1:]
        ]
    source = sources[0]
    findings: Shape = []
    if source in ("targets", "zones"):
        wrong = [key for key in ("instances", "env", "cwd") if key in keys]
        findings += [(key, f"found together with {source}; allowed with app or run only") for key in wrong]
    if source != "zones" and "near" in keys:
        findings.append(("near", f"found together with {source}; allowed with zones only"))
    if source != "app":
        for key in ("interface", "threads"):
            if key in keys:
                findings.append((key, f"found together with {source}; allowed with app only"))
    return findings


def route_shape(keys: set[str]) -> Shape:
    """Check which keys a route combines."""
    kinds = [key for key in KINDS if key in keys]
    if len(kinds) > 1:
        return [(key, f"found together with {kinds[0]}; allowed is one of {', '.join(KINDS)}") for key in kinds[1:]]
    if not kinds:
        return [(None, f"a route needs one of {', '.join(KINDS)}; found none of them")]
    if kinds[0] in ("login", "logout"):
        wrong = [key for key in (*_UPSTREAM, *_STREAMED) if key in keys]
        if kinds[0] == "logout":
            wrong += [key for key in ("timeout", "attempts") if key in keys]
        return [(key, f"found together with {kinds[0]}, which the gateway handles itself") for key in wrong]
    findings: Shape = []
    if "compose" in keys:
        if "rewrite" in keys:
            findings.append(
                ("rewrite", "found together with compose; allowed with service only (each part has its own path)")
            )
        if "rewrite_response" in keys:
            findings.append(("rewrite_response", "found together with compose; allowed with service only"))
        if "encoded_slashes" in keys:
            findings.append(("encoded_slashes", "found together with compose; allowed with service only"))
        if "split" in keys:
            findings.append(("split", "found together with compose; allowed with service, or in a part"))
        if "shadow" in keys:
            findings.append(("shadow", "found together with compose; allowed with service only"))
        wrong = [key for key in _STREAMED if key in keys]
        findings += [(key, "found together with compose, whose parts are buffered within the timeout") for key in wrong]
    return findings

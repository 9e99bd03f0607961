"""Rules about combinations of keys in a service and in a route."""

from __future__ import annotations

from passerelle.config.models.application import ONLY_WITH_APP
from passerelle.config.models.base import Shape

SOURCES = ("app", "run", "targets", "zones")
"""A service has exactly one of these."""

KINDS = ("service", "compose", "redirect", "respond", "static", "login", "logout", "oidc")
"""A route has exactly one of these."""

ACTIONS = ("redirect", "respond", "static")
"""The kinds of routes on which the gateway responds itself, without a service."""

# Keys of services whose instances passerelle starts.
_OF_PROCESSES = ("instances", "env", "cwd", "grace")

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
    *("hedge", "shadow", "split", "rollout", "request_headers", "forward_auth", "identity_token", "plugins"),
)
# Keys about requests to services, which no action sends.
_OF_SERVICES = (
    *("rewrite", "encoded_slashes", "timeout", "body", "attempts", "attempt_timeout", "hedge", "shadow", "split"),
    *("tell_deadline", "cache", "request_headers", "identity_token"),
)
# Keys about streamed responses. The responses of parts and logins are buffered, within `timeout`.
_STREAMED = ("stream_idle_timeout", "tunnel_idle_timeout")


def needs_services(routes: object) -> bool:
    """Whether one of ``routes``, as read from the file, sends requests to a service; so does a list that is missing."""
    items = routes if isinstance(routes, list) and routes else [{}]
    return not all(isinstance(item, dict) and {*ACTIONS} & item.keys() and "forward_auth" not in item for item in items)


def service_shape(keys: set[str]) -> Shape:
    """Check which keys a service combines."""
    if "versions" in keys:
        of_version = (*SOURCES, "near", *ONLY_WITH_APP, *_OF_PROCESSES)
        return [(key, "found together with versions; each version has its own") for key in of_version if key in keys]
    for key in ("rollout", "split_by"):
        if key in keys:
            return [(key, "found without versions")]
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
        wrong = [key for key in _OF_PROCESSES if key in keys]
        findings += [(key, f"found together with {source}; allowed with app or run only") for key in wrong]
    if source != "zones" and "near" in keys:
        findings.append(("near", f"found together with {source}; allowed with zones only"))
    if source != "app":
        for key in ONLY_WITH_APP:
            if key in keys:
                findings.append((key, f"found together with {source}; allowed with app only"))
    elif "max_requests_jitter" in keys and "max_requests" not in keys:
        findings.append(("max_requests_jitter", "found without max_requests, to which it is added"))
    return findings


def route_shape(keys: set[str]) -> Shape:
    """Check which keys a route combines."""
    kinds = [key for key in KINDS if key in keys]
    if len(kinds) > 1:
        return [(key, f"found together with {kinds[0]}; allowed is one of {', '.join(KINDS)}") for key in kinds[1:]]
    if not kinds:
        return [(None, f"a route needs one of {', '.join(KINDS)}; found none of them")]
    if kinds[0] in ("login", "logout", "oidc"):
        wrong = [key for key in (*_UPSTREAM, *_STREAMED) if key in keys]
        if kinds[0] != "login":
            wrong += [key for key in ("timeout", "attempts") if key in keys]
        return [(key, f"found together with {kinds[0]}, which the gateway handles itself") for key in wrong]
    if kinds[0] in ACTIONS:
        wrong = [key for key in (*_OF_SERVICES, *_STREAMED) if key in keys and (key, kinds[0]) != ("rewrite", "static")]
        wrong += ["compress"] if kinds[0] == "redirect" and "compress" in keys else []
        return [(key, f"found together with {kinds[0]}, which sends no request to a service") for key in wrong]
    findings: Shape = []
    if "rollout" in keys and "split" not in keys:
        findings.append(("rollout", "found without split, which names the service that users move to"))
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

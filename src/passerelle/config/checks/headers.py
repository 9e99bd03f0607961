"""Checks of header rules and CORS."""

from __future__ import annotations

import re
from collections.abc import Iterator

from passerelle.config.checks.methods import not_accepted
from passerelle.config.models.config import Config, Route
from passerelle.config.models.headers import Cors, RequestHeaders, ResponseHeaders
from passerelle.config.problems import Finding, Loc

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_TRACE_CONTEXT = ("traceparent", "tracestate")  # W3C Trace Context
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def parameter_values(route: Route) -> Iterator[tuple[tuple[str, str], list[str]]]:
    """Yield the values of request rules with path parameters: their keys, and the names of the parameters."""
    rules = route.request_headers
    for kind, fields in (("set", rules.set), ("add", rules.add)) if rules is not None else ():
        for name, value in fields.items():
            names = _PARAMETER.findall(value)
            if names:
                yield (kind, name), names


def route_headers(loc: Loc, route: Route, repaired: frozenset[str]) -> Iterator[Finding]:
    """Check the header rules and CORS of the route at ``loc``, except for its ``repaired`` keys."""
    if route.cors is not None and "cors" not in repaired:
        yield from _cors((*loc, "cors"), route.cors, route)
    if route.request_headers is not None and "request_headers" not in repaired:
        yield from _rules((*loc, "request_headers"), route.request_headers, aliases=True)
    if route.response_headers is not None and "response_headers" not in repaired:
        yield from _rules((*loc, "response_headers"), route.response_headers, aliases=False)


def trace_headers(loc: Loc, route: Route) -> Iterator[Finding]:
    """Find rules for the fields of the trace context, which the gateway sets while ``tracing`` is on."""
    places: list[tuple[str, Loc]] = []
    if (rules := route.request_headers) is not None:
        places += [(name, ("request_headers", "set", name)) for name in rules.set]
        places += [(name, ("request_headers", "add", name)) for name in rules.add]
        places += [(name, ("request_headers", "remove", index)) for index, name in enumerate(rules.remove)]
    if (block := route.forward_auth) is not None:
        places += [(name, ("forward_auth", "copy_headers", index)) for index, name in enumerate(block.copy_headers)]
    for name, place in places:
        if name.lower() in _TRACE_CONTEXT:
            message = f"found {name}, which the gateway sets, as tracing is on; remove the rule, or tracing"
            yield Finding((*loc, *place), message, at_key="set" in place or "add" in place)


def _cors(loc: Loc, cors: Cors, route: Route) -> Iterator[Finding]:
    for index, origin in enumerate(cors.origins):
        if origin in cors.origins[:index]:
            yield Finding((*loc, "origins", index), f"found {origin!r} twice; list it once")
        elif origin == "*" and len(cors.origins) > 1:
            yield Finding((*loc, "origins", index), "found '*' together with others; it includes them")
    if cors.credentials and "*" in cors.origins:
        message = "found true with origins: '*': any page could act as its visitor; list the allowed origins"
        yield Finding((*loc, "credentials"), message)
    if "*" in cors.headers and len(cors.headers) > 1:
        yield Finding((*loc, "headers", cors.headers.index("*")), "found '*' together with others; it includes them")
    yield from not_accepted((*loc, "methods"), cors.methods or (), route)


def _rules(loc: Loc, rules: RequestHeaders | ResponseHeaders, *, aliases: bool) -> Iterator[Finding]:
    """Find fields with two rules, whose order would be undefined, and empty sets of rules."""
    if not (rules.set or rules.add or rules.remove):
        yield Finding(loc, "found none of set, add, remove; at least one is needed")
    seen: dict[str, str] = {}
    places: list[tuple[str, Loc]] = [(name, ("set", name)) for name in rules.set]
    places += [(name, ("add", name)) for name in rules.add]
    places += [(name, ("remove", index)) for index, name in enumerate(rules.remove)]
    for name, place in places:
        plain = name.lower().replace("_", "-") if aliases else name.lower()
        if plain in seen:
            message = f"found {name}, which also has a rule in {seen[plain]}; a field has at most one"
            yield Finding((*loc, *place), message, at_key=True)
        seen.setdefault(plain, str(place[0]))


def header_warnings(config: Config) -> Iterator[Finding]:
    """Find origins that are probably too permissive."""
    for index, route in enumerate(config.routes):
        cors = route.cors
        if cors is None or not cors.credentials:
            continue
        for number, origin in enumerate(cors.origins):
            scheme, _, rest = origin.partition("://")
            if scheme == "http" and rest.rpartition(":")[0] not in _LOOPBACK and rest not in _LOOPBACK:
                message = f"{origin} with credentials: anyone on the network path to it can act as its visitors"
                yield Finding(("routes", index, "cors", "origins", number), message)

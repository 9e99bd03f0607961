"""Checks of header rules and CORS."""

from __future__ import annotations

import re
from collections.abc import Iterator

from passerelle.config.checks.methods import not_accepted
from passerelle.config.models.base import given
from passerelle.config.models.config import Config, Route
from passerelle.config.models.headers import (
    Cors,
    RequestChanges,
    RequestHeaders,
    RequestWhen,
    ResponseChanges,
    ResponseHeaders,
    ResponseWhen,
)
from passerelle.config.problems import Finding, Loc

# The kinds of rules that have values.
_VALUED = ("set", "add", "default")
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_TRACE_CONTEXT = ("traceparent", "tracestate")  # W3C Trace Context
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def parameter_values(route: Route) -> Iterator[tuple[Loc, list[str]]]:
    """Yield the values of request rules with path parameters: their keys, and the names of the parameters."""
    for place, rules in _blocks(route.request_headers):
        for kind in _VALUED:
            for name, value in getattr(rules, kind).items():
                names = _PARAMETER.findall(value)
                if names:
                    yield (*place, kind, name), names


def _blocks(rules: RequestHeaders | ResponseHeaders | None) -> Iterator[tuple[Loc, RequestChanges | ResponseChanges]]:
    """Yield the rules themselves, and the conditional ones in them, with their places."""
    if rules is not None:
        yield (), rules
        conditional: tuple[RequestChanges | ResponseChanges, ...] = rules.when
        for index, each in enumerate(conditional):
            yield ("when", index), each


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
    for place, rules in _blocks(route.request_headers):
        places += [(name, ("request_headers", *place, *key)) for name, key in _places(rules)]
    if (block := route.forward_auth) is not None:
        places += [(name, ("forward_auth", "copy_headers", index)) for index, name in enumerate(block.copy_headers)]
    for name, place in places:
        if name.lower() in _TRACE_CONTEXT:
            message = f"found {name}, which the gateway sets, as tracing is on; remove the rule, or tracing"
            yield Finding((*loc, *place), message, at_key=place[-2] in _VALUED)


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
    for where, block in _blocks(rules):
        conditional = isinstance(block, RequestWhen | ResponseWhen)
        if not (block.set or block.add or block.default or block.remove or (not conditional and rules.when)):
            needed = "set, add, default, remove" + ("" if conditional else ", when")
            yield Finding((*loc, *where), f"found none of {needed}; at least one is needed")
        if conditional and not given(block) - {"set", "add", "default", "remove"}:
            keys = "present, absent, content_type"
            keys = f"status, {keys}" if isinstance(block, ResponseWhen) else keys
            yield Finding((*loc, *where), f"found none of {keys}; at least one is needed")
        seen: dict[str, str] = {}
        for name, place in _places(block):
            plain = name.lower().replace("_", "-") if aliases else name.lower()
            if plain in seen:
                message = f"found {name}, which also has a rule in {seen[plain]}; a field has at most one"
                yield Finding((*loc, *where, *place), message, at_key=True)
            seen.setdefault(plain, str(place[0]))


def _places(rules: RequestChanges | ResponseChanges) -> list[tuple[str, Loc]]:
    """Return the fields that have rules, with the places of these."""
    places: list[tuple[str, Loc]] = [(name, (kind, name)) for kind in _VALUED for name in getattr(rules, kind)]
    return places + [(name, ("remove", index)) for index, name in enumerate(rules.remove)]


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

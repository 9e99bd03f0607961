"""What rules for header fields and for other origins cannot do as they are configured."""

from __future__ import annotations

import re
from collections.abc import Iterator

from passerelle.config.models.config import Config, Route
from passerelle.config.models.headers import Cors, RequestHeaders, ResponseHeaders, SecurityHeaders
from passerelle.config.problems import Finding, Loc

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def security_of(config: Config, route: Route | None) -> SecurityHeaders | None:
    """The security headers of ``route`` (None: of what no route takes): its own word, or else that of the file."""
    if route is not None and "security_headers" in route.model_fields_set:
        return route.security_headers
    return config.security_headers


def parameter_values(route: Route) -> Iterator[tuple[tuple[str, str], list[str]]]:
    """The values of request rules that name parameters of the path: where, and which."""
    rules = route.request_headers
    for kind, fields in (("set", rules.set), ("add", rules.add)) if rules is not None else ():
        for name, value in fields.items():
            names = _PARAMETER.findall(value)
            if names:
                yield (kind, name), names


def route_headers(loc: Loc, route: Route, touched: frozenset[str]) -> Iterator[Finding]:
    """Findings about the route at ``loc``, without its keys that could not be read."""
    if route.cors is not None and "cors" not in touched:
        yield from _cors((*loc, "cors"), route.cors, route)
    if route.request_headers is not None and "request_headers" not in touched:
        yield from _rules((*loc, "request_headers"), route.request_headers, aliases=True)
    if route.response_headers is not None and "response_headers" not in touched:
        yield from _rules((*loc, "response_headers"), route.response_headers, aliases=False)


def _cors(loc: Loc, cors: Cors, route: Route) -> Iterator[Finding]:
    for index, origin in enumerate(cors.origins):
        if origin in cors.origins[:index]:
            yield Finding((*loc, "origins", index), f"found {origin!r} twice; once is enough")
        elif origin == "*" and len(cors.origins) > 1:
            yield Finding((*loc, "origins", index), "found '*' together with others; it includes them")
    if cors.credentials and "*" in cors.origins:
        message = "found true with origins: '*': any page could act as its visitor; list the allowed origins"
        yield Finding((*loc, "credentials"), message)
    if "*" in cors.headers and len(cors.headers) > 1:
        yield Finding((*loc, "headers", cors.headers.index("*")), "found '*' together with others; it includes them")
    accepted = route.accepted
    for index, method in enumerate(cors.methods or ()):
        taken = accepted is None or method.encode() in accepted or (method == "HEAD" and b"GET" in accepted)
        if not taken:
            names = ", ".join(sorted(name.decode() for name in accepted or ()))
            yield Finding((*loc, "methods", index), f"found {method!r}; the route takes {names}")


def _rules(loc: Loc, rules: RequestHeaders | ResponseHeaders, *, aliases: bool) -> Iterator[Finding]:
    """A field that two rules are about: their order would decide, and none is written down."""
    if not (rules.set or rules.add or rules.remove):
        yield Finding(loc, "found none of set, add, remove; at least one is needed")
    seen: dict[str, str] = {}
    places: list[tuple[str, Loc]] = [(name, ("set", name)) for name in rules.set]
    places += [(name, ("add", name)) for name in rules.add]
    places += [(name, ("remove", index)) for index, name in enumerate(rules.remove)]
    for name, place in places:
        plain = name.lower().replace("_", "-") if aliases else name.lower()
        if plain in seen:
            message = f"found {name}, which {seen[plain]} has a rule for; a field has one rule"
            yield Finding((*loc, *place), message, at_key=True)
        seen.setdefault(plain, str(place[0]))


def header_warnings(config: Config) -> Iterator[Finding]:
    """What works, but lets in more than was probably meant."""
    for index, route in enumerate(config.routes):
        cors = route.cors
        if cors is None or not cors.credentials:
            continue
        for number, origin in enumerate(cors.origins):
            scheme, _, rest = origin.partition("://")
            if scheme == "http" and rest.rpartition(":")[0] not in _LOOPBACK and rest not in _LOOPBACK:
                message = f"{origin} with credentials: anyone on the network path to it can act as its visitors"
                yield Finding(("routes", index, "cors", "origins", number), message)

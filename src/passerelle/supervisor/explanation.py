"""Why a request matches a route, and the others do not: for ``passerelle explain`` and the dashboard.

The router of the gateway finds the route. The reasons are found by comparing the request with each route alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from passerelle.config import Config
    from passerelle.config.models.config import Route
    from passerelle.routing.conditions import Condition, RoutedRequest
    from passerelle.routing.router import RouteMatch, RouteRule


_METHOD = re.compile(r"[A-Z0-9!#$%&'*+.^_`|~-]+").fullmatch
_URL = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*))?(?P<path>[^?#]*)(?P<query>\?[^#]*)?"
).match


@dataclass(frozen=True, slots=True)
class ExplainedRequest:
    """The properties of a request that routing and splits use."""

    host: bytes
    method: bytes
    path: bytes
    query: bytes
    length: int | None
    fields: tuple[tuple[bytes, bytes], ...] = ()
    address: bytes | None = None
    consumer: str | None = None
    roles: tuple[str, ...] = ()

    def meets(self, condition: Condition) -> bool:
        """Return whether it meets a condition of a route."""
        return condition.holds(self._routed())

    def why_not(self, conditions: tuple[Condition, ...]) -> list[str]:
        """Return why it does not meet those of ``conditions`` that it does not meet."""
        request = self._routed()
        return [condition.why_not(request) for condition in conditions if not condition.holds(request)]

    def _routed(self) -> RoutedRequest:
        from passerelle.routing.conditions import RoutedRequest

        def named(name: bytes) -> list[bytes]:
            return [value for key, value in self.fields if key == name]

        return RoutedRequest(named, self.query[1:], lambda: self.address, self.path)


def parse_request(
    method: str,
    url: str,
    host: str = "",
    length: int | None = None,
    fields: Sequence[tuple[str, str]] = (),
    address: str | None = None,
    consumer: str | None = None,
    roles: Sequence[str] = (),
) -> ExplainedRequest:
    """Return the request ``method`` ``url``, with ``host`` as its Host if ``url`` has none.

    ``fields`` are its other header fields, ``address`` is that of the client. Guards establish ``consumer`` and
    ``roles``.

    :raises ValueError: if the method, the URL or the address is invalid.
    """
    if not _METHOD(method):
        upper = f"; did you mean {method.upper()}?" if _METHOD(method.upper()) else ""
        raise ValueError(f"found the method {method!r}; allowed is a method in upper case{upper}")
    parts = _URL(url)
    assert parts is not None
    if parts["scheme"] is not None and parts["scheme"].lower() not in ("http", "https"):
        raise ValueError(f"found the scheme {parts['scheme']!r}; allowed are http and https")
    if parts["path"] and not parts["path"].startswith("/"):
        raise ValueError(f"found {url!r}; allowed is a path such as /{url}, or http://host/path")
    path, query = _octets(parts["path"] or "/"), _octets(parts["query"] or "")
    lines = tuple((_octets(name.strip().lower()), _octets(value.strip())) for name, value in fields)
    try:
        client = str(ip_address(address)).encode() if address is not None else None
    except ValueError:
        raise ValueError(f"found the address {address!r}; allowed is an IPv4 or IPv6 address") from None
    of_url = _octets(host or parts["authority"] or ""), method.encode(), path, query
    return ExplainedRequest(*of_url, length, lines, client, consumer, tuple(roles))


def _octets(text: str) -> bytes:
    """Return the octets of an argument as given on the command line, which may not be UTF-8."""
    return text.encode("utf-8", "surrogateescape")


def _shown(octets: bytes) -> str:
    return octets.decode("utf-8", "backslashreplace")


def explanation(config: Config, request: ExplainedRequest) -> dict[str, Any]:
    """Explain a request, as JSON-able values. ``status`` is None unless the gateway rejects the request."""
    from passerelle.config import rules
    from passerelle.errors import Failure, Kind
    from passerelle.routing.router import EncodedSlashError, Router, canonical_path, normal_host

    result: dict[str, Any] = {
        "method": request.method.decode(),
        "host": _shown(normal_host(request.host)),
        "path": _shown(request.path),
        "canonical_path": None,
        "status": None,
        "reason": None,
        "route": None,
        "others": [],
    }
    router = Router(rules(config))
    try:
        try:
            canonical = canonical_path(request.path)
        except EncodedSlashError:
            canonical = router.path_with_slashes(request.host, request.method, request.path)
    except Failure as failure:
        return result | {"status": failure.status, "reason": f"{failure.title.lower()}: {failure.detail}"}
    result["canonical_path"] = canonical.decode()
    request = replace(request, path=canonical)  # as conditions see it
    match = router.match(request.host, request.method, canonical)
    if match.value is None and router.conditional:
        match = router.choose(request.host, request.method, canonical, request.meets)
        if b"%2F" in canonical and not router.keeps_slashes(match):
            slash = EncodedSlashError()
            return result | {"status": slash.status, "reason": f"{slash.title.lower()}: {slash.detail}"}
    if match.value is None:
        refusal = Failure(Kind.METHOD_NOT_ALLOWED if match.allowed else Kind.NO_ROUTE)
        result |= {"status": refusal.status, "reason": refusal.title.lower()}
        if match.allowed:
            result["reason"] += f" (Allow: {', '.join(method.decode() for method in match.allowed)})"
            result["allow"] = [method.decode() for method in match.allowed]
    else:
        index = next(index for index, route in enumerate(config.routes) if route is match.value)
        result["route"] = _route(config, index, request, canonical, match)
        limit = config.body_limit(config.routes[index])
        if limit is not None and request.length is not None and request.length > limit:
            refusal = Failure(Kind.BODY_TOO_LARGE)
            reason = f"{refusal.title.lower()}: {request.length} bytes, {limit} allowed"
            result |= {"status": refusal.status, "reason": reason}
    result["others"] = _others(config, match, request, canonical)
    return result


def _route(
    config: Config, index: int, request: ExplainedRequest, canonical: bytes, match: RouteMatch
) -> dict[str, Any]:
    from passerelle.config import describe
    from passerelle.http.messages import IDEMPOTENT_METHODS
    from passerelle.routing.paths import REST, Pattern, Template

    route = config.routes[index]
    rest = frozenset(s.text for s in Pattern.parse(route.path).segments if s.kind == REST)
    described: dict[str, Any] = {
        "key": f"routes[{index}]",
        "label": route.label,
        "params": {name: value.decode() for name, value in match.params.items()},
        "repeats": route.compose is not None or request.method in IDEMPOTENT_METHODS,
        "idle": describe.describe_idle_timeouts(route),
        "place": config.origins.routes.get(index),
        "defaults": dict(config.origins.defaults.get(index, {})),
        "profile": config.origins.profile,
        "action": route.is_action,
        **describe.describe_route(config, route),
    }
    sides = _sides(config, route, request)
    described["side"] = sides.get(route.label)
    services = described["services"]
    if route.service is not None:
        upstream = canonical if route.rewrite is None else Template(route.rewrite, rest).fill(match.params)
        described |= {"service": services[route.service], "upstream_path": _shown(upstream + request.query)}
        return described
    if route.login is not None:
        return described | {"upstream_path": route.login.path}
    described["parts"] = [
        {
            "key": key,
            "upstream_path": Template(part.path, rest).fill(match.params).decode(),
            **describe.describe_part(route, part),
            "side": sides.get(f"{route.label}#{key}"),
            "service": services[part.service],
        }
        for key, part in (route.compose or {}).items()
    ]
    return described


def _sides(config: Config, route: Route, request: ExplainedRequest) -> dict[str, dict[str, Any]]:
    """Return the side of the request for each split of ``route``."""
    if not route.splits:
        return {}
    from passerelle.supervisor.explained_split import SplitUser, explain_side

    user = SplitUser(request.fields, request.address, request.consumer, request.roles)
    return {name: explain_side(config, name, *found, user) for name, found in route.splits.items()}


def _others(config: Config, match: RouteMatch, request: ExplainedRequest, canonical: bytes) -> list[dict[str, str]]:
    """Return the other routes, each with the reason why it does not match, the closest to matching first."""
    from passerelle.config import rules_of
    from passerelle.routing.router import normal_host
    from passerelle.routing.rules import specificity

    host = normal_host(request.host)
    winner: RouteRule | None = None
    if match.value is not None:
        winner = min((rule for rule in rules_of(match.value) if _has_host(rule, host)), key=specificity)
    found: list[tuple[tuple[int, int], int, str]] = []
    for index, route in enumerate(config.routes):
        if route is not match.value:
            reasons = (why_not(rule, winner, request, canonical) for rule in rules_of(route))
            distance, reason = min(reasons, key=lambda pair: pair[0])
            found.append((distance, index, reason))
    return [
        {"key": f"routes[{index}]", "label": config.routes[index].label, "reason": reason}
        for _, index, reason in sorted(found)
    ]


def why_not(
    rule: RouteRule, winner: RouteRule | None, request: ExplainedRequest, path: bytes
) -> tuple[tuple[int, int], str]:
    """Return how far ``rule`` is from matching (a sort key), and why it does not; ``winner`` is the rule that does."""
    from passerelle.routing.router import normal_host
    from passerelle.routing.rules import specificity

    host = normal_host(request.host)
    if not _has_host(rule, host):
        assert rule.host is not None
        found = _shown(host) or "a request without host"
        return (3, 0), f"host: the route is for {rule.host.decode()}, not {found}"
    fitting, reason = _path_reason(rule.pattern, path)
    if reason:
        return (4, -fitting), f"path: {reason}"
    if rule.methods is not None and not _allows(rule.methods, request.method):
        return (2, 0), f"method: the route allows {', '.join(sorted(method.decode() for method in rule.methods))}"
    failed = request.why_not(rule.conditions)
    if failed:
        return (1, len(failed)), f"match: {', and '.join(failed)}"
    assert winner is not None
    names = ("host", "path", "priority", "method", "match")
    keys = zip(names, specificity(rule), specificity(winner), strict=False)
    decided = next((what for what, own, other in keys if own != other), "method")
    return (0, 0), f"{decided}: the route matches too, but is less specific"


def _has_host(rule: RouteRule, host: bytes) -> bool:
    return rule.host is None or rule.host == host or (rule.host.startswith(b"*.") and host.endswith(rule.host[1:]))


def _allows(methods: frozenset[bytes], method: bytes) -> bool:
    return method in methods or (method == b"HEAD" and b"GET" in methods)


def _path_reason(pattern: str, path: bytes) -> tuple[int, str | None]:
    """Return how many segments of ``path`` match ``pattern``, and the reason if not all do."""
    from passerelle.routing.paths import LITERAL, PARAMETER, Pattern

    segments = path.decode().split("/")[1:]
    wanted = Pattern.parse(pattern).segments
    for index, segment in enumerate(wanted):
        if segment.kind > PARAMETER:
            return index, None
        if index >= len(segments):
            return index, f"the path ends before {segment}"
        found = segments[index]
        if segment.kind == LITERAL and found != segment.text:
            return index, f"segment {index + 1} is {found!r}, not {segment.text!r}"
        if segment.kind == PARAMETER and not found:
            return index, f"segment {index + 1} is empty, but {segment} must not be"
        constraint = segment.pattern if segment.kind == PARAMETER else None
        if constraint is not None and not constraint.matches(found.encode()):
            return index, f"segment {index + 1} is {found!r}, which {segment} does not match"
    if len(segments) > len(wanted):
        return len(wanted), f"the path continues with {'/' + '/'.join(segments[len(wanted) :])!r}"
    return len(wanted), None

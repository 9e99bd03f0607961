"""``passerelle explain``: show which route a request matches, and why the others do not.

The router of the gateway finds the route. The reasons are found by comparing the request with each route alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from passerelle.cli.support import config_path, exit_negative, json_option, print_json, read_config

if TYPE_CHECKING:
    from passerelle.config import Config
    from passerelle.routing.router import RouteMatch, RouteRule

_MOST_OTHERS = 15
_METHOD = re.compile(r"[A-Z0-9!#$%&'*+.^_`|~-]+").fullmatch
_URL = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*))?(?P<path>[^?#]*)(?P<query>\?[^#]*)?"
).match


@dataclass(frozen=True, slots=True)
class ExplainedRequest:
    """The properties of a request that routing uses."""

    host: bytes
    method: bytes
    path: bytes
    query: bytes
    length: int | None


@click.command(options_metavar="[OPTIONS]", short_help="Show which route a request matches.")
@click.argument("arguments", nargs=-1, required=True, metavar="[CONFIG] METHOD URL")
@click.option(
    "-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A header field of the request."
)
@json_option
def explain(arguments: tuple[str, ...], headers: tuple[str, ...], as_json: bool) -> None:
    """Show which route the request METHOD URL matches, and why the others do not.

    URL is a path, or http://host/path. Of the header fields, only Host and Content-Length matter. Nothing is sent. The
    exit code is 0 if a route matches, and 1 if the gateway rejects the request.

    \b
    Examples:
      passerelle explain GET /user/42
      passerelle explain gateway.yaml PUT '/user/42?full=1' -H 'Host: api.example.com'
    """
    if len(arguments) not in (2, 3):
        number = f"{len(arguments)} argument{'' if len(arguments) == 1 else 's'}"
        raise click.UsageError(f"found {number}; allowed is [CONFIG] METHOD URL")
    path = config_path(arguments[0] if len(arguments) == 3 else None)
    request = _request(arguments[-2], arguments[-1], headers)
    result = explanation(read_config(path), request)
    if as_json:
        print_json(result)
    else:
        _print(result)
    if result["status"] is not None:
        exit_negative()


def _request(method: str, url: str, headers: tuple[str, ...]) -> ExplainedRequest:
    if not _METHOD(method):
        upper = f"; did you mean {method.upper()}?" if _METHOD(method.upper()) else ""
        raise click.UsageError(f"found the method {method!r}; allowed is a method in upper case{upper}")
    parts = _URL(url)
    assert parts is not None
    if parts["scheme"] is not None and parts["scheme"].lower() not in ("http", "https"):
        raise click.UsageError(f"found the scheme {parts['scheme']!r}; allowed are http and https")
    if parts["path"] and not parts["path"].startswith("/"):
        raise click.UsageError(f"found {url!r}; allowed is a path such as /{url}, or http://host/path")
    host, length = parts["authority"] or "", None
    for line in headers:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise click.UsageError(f"found the header {line!r}; allowed is 'Name: value'")
        if name.strip().lower() == "host":
            host = value.strip()
        elif name.strip().lower() == "content-length":
            if not value.strip().isdigit():
                raise click.UsageError(f"found the Content-Length {value.strip()!r}; allowed is a number")
            length = int(value)
    return ExplainedRequest(
        _octets(host), method.encode(), _octets(parts["path"] or "/"), _octets(parts["query"] or ""), length
    )


def _octets(text: str) -> bytes:
    """Return the octets of an argument as given on the command line, which may not be UTF-8."""
    return text.encode("utf-8", "surrogateescape")


def _shown(octets: bytes) -> str:
    return octets.decode("utf-8", "backslashreplace")


def explained(config: Config, method: str, url: str, headers: tuple[str, ...] = ()) -> dict[str, Any]:
    """Explain the request ``method url`` with ``headers``, each as `Name: value` (see :func:`explanation`)."""
    return explanation(config, _request(method, url, headers))


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
    table = rules(config)
    router = Router(table)
    try:
        try:
            canonical = canonical_path(request.path)
        except EncodedSlashError:
            canonical = router.path_with_slashes(request.host, request.method, request.path)
    except Failure as failure:
        return result | {"status": failure.status, "reason": f"{failure.title.lower()}: {failure.detail}"}
    result["canonical_path"] = canonical.decode()
    match = router.match(request.host, request.method, canonical)
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
    result["others"] = _others(config, table, match, request, canonical)
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
        **describe.describe_route(config, route),
    }
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
            "service": services[part.service],
        }
        for key, part in (route.compose or {}).items()
    ]
    return described


def _others(
    config: Config, table: list[RouteRule], match: RouteMatch, request: ExplainedRequest, canonical: bytes
) -> list[dict[str, str]]:
    """Return the other routes, each with the reason why it does not match, the closest to matching first."""
    winner = next((rule for rule in table if rule.value is match.value), None)
    found: list[tuple[tuple[int, int], int, str]] = []
    for index, rule in enumerate(table):
        if rule is not winner:
            distance, reason = why_not(rule, winner, request, canonical)
            found.append((distance, index, reason))
    return [
        {"key": f"routes[{index}]", "label": config.routes[index].label, "reason": reason}
        for _, index, reason in sorted(found)
    ]


def why_not(
    rule: RouteRule, winner: RouteRule | None, request: ExplainedRequest, path: bytes
) -> tuple[tuple[int, int], str]:
    """Return how far ``rule`` is from matching (a sort key), and why it does not; ``winner`` is the rule that does."""
    from passerelle.routing.router import normal_host, specificity

    host = normal_host(request.host)
    if rule.host is not None and rule.host != host:
        covered = rule.host.startswith(b"*.") and host.endswith(rule.host[1:])
        if not covered:
            return (
                2,
                0,
            ), f"host: the route is for {rule.host.decode()}, not {_shown(host) or 'a request without host'}"
    fitting, reason = _path_reason(rule.pattern, path)
    if reason:
        return (3, -fitting), f"path: {reason}"
    if rule.methods is not None and not _allows(rule.methods, request.method):
        return (1, 0), f"method: the route allows {', '.join(sorted(method.decode() for method in rule.methods))}"
    assert winner is not None
    keys = zip(("host", "path", "method"), specificity(rule), specificity(winner), strict=False)
    decided = next((what for what, own, other in keys if own != other), "method")
    return (0, 0), f"{decided}: the route matches too, but is less specific"


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
    if len(segments) > len(wanted):
        return len(wanted), f"the path continues with {'/' + '/'.join(segments[len(wanted) :])!r}"
    return len(wanted), None


def _print(result: dict[str, Any]) -> None:
    canonical, route = result["canonical_path"], result["route"]
    lines: list[tuple[str, str]] = []
    if result["host"]:
        lines.append(("host", result["host"]))
    if canonical is not None and canonical != result["path"]:
        lines.append(("path", f"{canonical} (canonical form of {result['path']})"))
    else:
        lines.append(("path", result["path"]))
    if result["status"] is not None:
        lines.append(("status", click.style(f"{result['status']} {result['reason']}", fg="red")))
    if route is not None:
        lines += _route_lines(result["method"], route)
    width = max(len(name) for name, _ in lines) + 2
    for name, text in lines:
        click.echo(f"{click.style(name.ljust(width), bold=True)}{text}")
    others = result["others"]
    if others:
        click.echo(click.style("\nother routes" if route is not None else "\nroutes", bold=True))
    shown = others[:_MOST_OTHERS]
    labels = max((len(other["label"]) for other in shown), default=0)
    keys = max((len(other["key"]) for other in shown), default=0)
    for other in shown:
        click.echo(f"  {other['key'].ljust(keys)}  {other['label'].ljust(labels)}  {other['reason']}")
    if len(others) > len(shown):
        click.echo(f"  … and {len(others) - len(shown)} more, less similar (--json lists all)")


def _route_lines(method: str, route: dict[str, Any]) -> list[tuple[str, str]]:
    from passerelle.config.models.units import duration_text, size_text

    lines = [("route", click.style(f"{route['key']}  {route['label']}", fg="green"))]
    if route["params"]:
        lines.append(("params", ", ".join(f"{name} = {value or '(empty)'}" for name, value in route["params"].items())))
    lines += [("guard", guard) for guard in route["guards"]]
    lines += [("headers", change) for change in route["headers"]]
    if "service" in route:
        lines.append(("service", _service_text(route["service"])))
        lines.append(("upstream", f"{method} {route['upstream_path']}"))
        if route["encoded_slashes"] == "keep":
            lines.append(("slashes", "%2F in a path is kept"))
    if route["login"] is not None:
        request = route["services"][route["login"]["service"]]
        lines.append(("login", f"POST {route['upstream_path']} of {_service_text(request)}"))
    if route["logout"]:
        lines.append(("logout", "ends the session"))
    for part in route.get("parts", ()):
        failure = "required" if part["required"] else f"on error {_json(part['fallback'])}"
        if part["pass_status"]:
            failure += f", passes {', '.join(map(str, part['pass_status']))}"
        text = f"{part['key']}: GET {part['upstream_path']} from {_service_text(part['service'])}"
        lines.append(("part", f"{text}, timeout {duration_text(part['timeout'])}, {failure}"))
        if part["cache"] is not None:
            lines.append(("cache", f"{part['key']}: {part['cache']}"))
    lines += [(key, route[key]) for key in ("cache", "compress", "hedge", "idle") if route[key] is not None]
    each = f", {duration_text(route['attempt_timeout'])} an attempt" if route["attempt_timeout"] is not None else ""
    known = ", services receive the remaining time" if route["tell_deadline"] else ""
    lines.append(("timeout", duration_text(route["timeout"]) + each + known))
    once = "" if route["repeats"] or route["attempts"] == 1 else f" ({method} is retried only if nothing was sent)"
    lines.append(("attempts", f"{route['attempts']}{once}"))
    lines.append(("body", f"at most {size_text(route['body'])}" if route["body"] is not None else "unlimited"))
    return lines


def _service_text(service: dict[str, Any]) -> str:
    count = service["instances"]
    most = service["max_instances"]
    number = f"{count} to {most}" if most is not None else f"{count}"
    texts = [f"{number} instance{'' if number == '1' else 's'}", service["balance"]]
    if service["by"] is not None:
        texts[-1] += f" by {service['by']}"
    if service["sticky"] is not None:
        texts.append(f"sticky by cookie {service['sticky']}")
    if service["concurrency"] is not None:
        least, most = service["concurrency"]
        texts.append(f"{least} to {most} concurrent requests")
    return f"{service['name']} ({', '.join(texts)})"


def _json(value: object) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)

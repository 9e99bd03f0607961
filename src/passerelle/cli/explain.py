"""``passerelle explain``: show which route a request matches, and why the others do not."""

from __future__ import annotations

from typing import Any

import click

from passerelle.cli.support import config_path, exit_negative, json_option, print_json, read_config
from passerelle.config.models.config import Config
from passerelle.supervisor.explanation import ExplainedRequest, explanation, parse_request

_MOST_OTHERS = 15


@click.command(options_metavar="[OPTIONS]", short_help="Show which route a request matches.")
@click.argument("arguments", nargs=-1, required=True, metavar="[CONFIG] METHOD URL")
@click.option(
    "-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A header field of the request."
)
@click.option("--cookie", "cookies", multiple=True, metavar="NAME=VALUE", help="A cookie of the request.")
@click.option("--from", "address", metavar="ADDRESS", help="The address of the client.")
@click.option("--as", "consumer", metavar="CONSUMER", help="The consumer that the guards establish, for a split.")
@click.option("--role", "roles", multiple=True, metavar="ROLE", help="A role of the consumer.")
@json_option
def explain(
    arguments: tuple[str, ...],
    headers: tuple[str, ...],
    cookies: tuple[str, ...],
    address: str | None,
    consumer: str | None,
    roles: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show which route the request METHOD URL matches, and why the others do not.

    URL is a path, or http://host/path. Of the header fields, Host, Content-Length and those in `match` and `split` of a
    route matter. Nothing is sent. The exit code is 0 if a route matches, and 1 if the gateway rejects the request.

    \b
    Examples:
      passerelle explain GET /user/42
      passerelle explain gateway.yaml PUT '/user/42?full=1' -H 'Host: api.example.com'
      passerelle explain GET /user/42 -H 'X-Version: 2' --cookie beta=1 --from 10.0.0.7
      passerelle explain GET /user/42 --as ada
    """
    if len(arguments) not in (2, 3):
        number = f"{len(arguments)} argument{'' if len(arguments) == 1 else 's'}"
        raise click.UsageError(f"found {number}; allowed is [CONFIG] METHOD URL")
    path = config_path(arguments[0] if len(arguments) == 3 else None)
    request = _request(arguments[-2], arguments[-1], headers, cookies, address, consumer, roles)
    result = explanation(read_config(path), request)
    if as_json:
        print_json(result)
    else:
        _print(result)
    if result["status"] is not None:
        exit_negative()


def _request(
    method: str,
    url: str,
    headers: tuple[str, ...],
    cookies: tuple[str, ...] = (),
    address: str | None = None,
    consumer: str | None = None,
    roles: tuple[str, ...] = (),
) -> ExplainedRequest:
    host, length = "", None
    fields: list[tuple[str, str]] = []
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
        else:
            fields.append((name, value))
    for cookie in cookies:
        if not cookie.partition("=")[0] or "=" not in cookie:
            raise click.UsageError(f"found the cookie {cookie!r}; allowed is NAME=VALUE")
        fields.append(("Cookie", cookie))
    try:
        return parse_request(method, url, host, length, fields, address, consumer, roles)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def explained(config: Config, method: str, url: str, headers: tuple[str, ...] = ()) -> dict[str, Any]:
    """Explain the request ``method url`` with ``headers``, each as `Name: value` (see :func:`.explanation`)."""
    return explanation(config, _request(method, url, headers))


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
    if route["place"] is not None:
        profile = f" (profile {route['profile']})" if route["profile"] is not None else ""
        lines.append(("file", route["place"] + profile))
    lines += [("match", condition) for condition in route["match"]]
    if route["priority"]:
        lines.append(("priority", str(route["priority"])))
    if route["params"]:
        lines.append(("params", ", ".join(f"{name} = {value or '(empty)'}" for name, value in route["params"].items())))
    lines += [("guard", guard) for guard in route["guards"]]
    lines += [("plugin", plugin) for plugin in route["plugins"]]
    lines += [("headers", change) for change in route["headers"]]
    if "service" in route:
        lines.append(("service", _service_text(route["service"])))
        lines.append(("upstream", f"{method} {route['upstream_path']}"))
        if route["rewrite_response"]:
            lines.append(("response", "Location, Content-Location and cookies become those of clients"))
        if route["encoded_slashes"] == "keep":
            lines.append(("slashes", "%2F in a path is kept"))
    if route["login"] is not None:
        request = route["services"][route["login"]["service"]]
        lines.append(("login", f"POST {route['upstream_path']} of {_service_text(request)}"))
    lines += [(key, route[key]) for key in ("redirect", "respond", "static") if route[key] is not None]
    if route["logout"]:
        lines.append(("logout", "ends the session"))
    if route["oidc"]:
        lines.append(("oidc", "begins and ends logins with the identity provider"))
    for part in route.get("parts", ()):
        failure = "required" if part["required"] else f"on error {_json(part['fallback'])}"
        if part["pass_status"]:
            failure += f", passes {', '.join(map(str, part['pass_status']))}"
        text = f"{part['key']}: GET {part['upstream_path']} from {_service_text(part['service'])}"
        lines.append(("part", f"{text}, timeout {duration_text(part['timeout'])}, {failure}"))
        lines += [(key, f"{part['key']}: {part[key]}") for key in ("cache", "split") if part[key] is not None]
        if part["side"] is not None:
            lines.append(("side", f"{part['key']}: {_side_text(part['side'])}"))
    keys = ("cache", "compress", "hedge", "shadow", "split")
    lines += [(key, route[key]) for key in keys if route[key] is not None]
    if route["side"] is not None:
        lines.append(("side", _side_text(route["side"])))
    lines += [(key, route[key]) for key in ("rollout", "idle") if route[key] is not None]
    if route["log"] != "all":
        lines.append(("log", route["log"]))
    if route["action"]:
        return lines
    each = f", {duration_text(route['attempt_timeout'])} an attempt" if route["attempt_timeout"] is not None else ""
    known = ", services receive the remaining time" if route["tell_deadline"] else ""
    lines.append(("timeout", duration_text(route["timeout"]) + each + known))
    once = "" if route["repeats"] or route["attempts"] == 1 else f" ({method} is retried only if nothing was sent)"
    lines.append(("attempts", f"{route['attempts']}{once}"))
    lines.append(("body", f"at most {size_text(route['body'])}" if route["body"] is not None else "unlimited"))
    if route["defaults"]:
        lines.append(("defaults", ", ".join(f"{key} ({place})" for key, place in route["defaults"].items())))
    return lines


def _side_text(found: dict[str, Any]) -> str:
    return f"{found['side'] or 'not known'}: {found['reason']}"


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
    if service["path"] is not None:
        texts.append(f"path {service['path']}")
    if service["host"] != "client":
        texts.append(f"host {service['host']}")
    if service["forwarding"]:
        texts.append(f"with {', '.join(service['forwarding'])}")
    return f"{service['name']} ({', '.join(texts)})"


def _json(value: object) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)

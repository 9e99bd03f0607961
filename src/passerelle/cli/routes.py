"""``passerelle routes``: print the route table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from passerelle.cli.support import config_argument, json_option, print_json, print_table, read_config

if TYPE_CHECKING:
    from passerelle.config import Config, Route


# Columns that a narrow terminal shows in any case, and the others, the least important first.
_ALWAYS = ("METHODS", "PATH", "SERVICE", "REWRITE")
_LEAST = ("KEY", "BODY", "ATTEMPTS", "TIMEOUT", "PRIORITY", "MATCH")


@click.command(short_help="Print the route table.")
@config_argument
@json_option
def routes(config: str | None, as_json: bool) -> None:
    """Print the route table of CONFIG, the most specific route first.

    If several routes match a request, the first of them in this table wins: with MATCH, the first whose conditions the
    request meets. The order in the file does not matter.

    \b
    Examples:
      passerelle routes
      passerelle routes gateway.yaml --json
    """
    from passerelle.config import rule_of
    from passerelle.config.models.units import duration_text, size_text
    from passerelle.routing.router import specificity

    found = read_config(config)
    order = sorted(enumerate(found.routes), key=lambda pair: specificity(rule_of(pair[1])))
    if as_json:
        print_json([_as_json(found, index, route) for index, route in order])
        return
    rows = []
    for index, route in order:
        accepted = route.accepted
        limits = (duration_text(route.timeout), str(route.attempts), size_text(found.body_limit(route)))
        rows.append(
            (
                ",".join(route.host or ("*",)),
                "*" if accepted is None else ",".join(route.methods or sorted(m.decode() for m in accepted)),
                route.path,
                "; ".join(map(str, route.conditions)),
                str(route.priority or ""),
                _services_text(route),
                route.rewrite or "",
                *(limits if not route.is_action else ("", "", "")),
                f"routes[{index}]",
            )
        )
    head = ("HOST", "METHODS", "PATH", "MATCH", "PRIORITY", "SERVICE", "REWRITE", "TIMEOUT", "ATTEMPTS", "BODY", "KEY")
    # Columns in which all routes have the default come first.
    same = [name for name, *cells in zip(head, *rows, strict=True) if len(set(cells)) == 1 and name not in _ALWAYS]
    print_table(head, rows, drop=[*same, *(name for name in _LEAST if name not in same)], wrap="SERVICE")


def _services_text(route: Route) -> str:
    from passerelle.config.describe import describe_action, split_shares

    if route.compose is not None:
        return " + ".join(f"{key}: {split_shares(part.service, part.split)}" for key, part in route.compose.items())
    if route.login is not None:
        return f"login: {route.login.service}"
    if route.service is not None:
        return split_shares(route.service, route.split)
    return describe_action(route) or ("oidc" if route.oidc else "logout")


def _as_json(config: Config, index: int, route: Route) -> dict[str, object]:
    from passerelle.config.describe import describe_part, describe_route

    accepted = route.accepted
    return {
        "index": index,
        "host": ",".join(route.host) if route.host is not None else None,
        "methods": None if accepted is None else sorted(method.decode() for method in accepted),
        "path": route.path,
        "service": route.service,
        "compose": {key: describe_part(route, part) for key, part in route.compose.items()} if route.compose else None,
        "rewrite": route.rewrite,
        **describe_route(config, route),
    }

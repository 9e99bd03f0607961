"""``passerelle split``: which share of the users each service of a route receives, of a running gateway."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import click

from passerelle.cli import completing
from passerelle.cli.admin_client import admin_option, read_admin, send_change
from passerelle.cli.support import json_option, print_json, print_table
from passerelle.config.models.addresses import Address


@click.command(short_help="Show or change how users are split among services.")
@click.argument("route", required=False, shell_complete=completing.routes)
@click.argument("weights", nargs=-1, metavar="[SERVICE=N]...", shell_complete=completing.services_to_set)
@click.option("--reason", default="", help="Why, for the events and the audit.")
@admin_option
@json_option
def split(route: str | None, weights: tuple[str, ...], reason: str, admin: Address | str | None, as_json: bool) -> None:
    """Show the splits of all routes, or of ROUTE, such as /user/{id}; or change the weights of ROUTE.

    Weights are in per mille of the users, such as users=100 monolith=900. Services that are left out receive nothing;
    the service of the route itself, if it is left out, receives the rest. The weights apply until they are changed
    again, or a reload finds others in the file than before.
    """
    if weights:
        query = {"route": route, "weights": ",".join(weights)} | ({"reason": reason} if reason else {})
        send_change(admin, f"/split?{urlencode(query)}", as_json)
        return
    if route is not None and "=" in route:
        raise click.UsageError(f"found {route!r} and no route; write passerelle split ROUTE {route}")
    routes: dict[str, Any] = read_admin(admin, "/split", route=route)["routes"]
    if as_json:
        print_json({"routes": routes})
    elif routes:
        rows = [_row(name, side, found) for name, found in routes.items() for side in found["weights"]]
        print_table(("ROUTE", "SERVICE", "USERS", "FILE", "REQUESTS", "FAILED", "P50"), rows)
    else:
        click.echo("no route has a split")


def _row(route: str, side: str, found: dict[str, Any]) -> tuple[str, ...]:
    counts = found["sides"][side]
    p50 = counts["p50"]
    shares = [f"{found[key][side] / 10:g}%" for key in ("weights", "file")]
    return (
        route,
        side,
        *shares,
        str(counts["requests"]),
        str(counts["failed"]),
        f"{p50 * 1000:.3g} ms" if p50 is not None else "",
    )

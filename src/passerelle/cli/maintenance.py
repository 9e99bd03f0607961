"""``passerelle maintenance``: switch routes of a running gateway to maintenance, and back."""

from __future__ import annotations

from urllib.parse import urlencode

import click

from passerelle.cli import completing
from passerelle.cli.admin_client import admin_option, read_admin, send_change
from passerelle.cli.support import json_option, print_json
from passerelle.config.models.addresses import Address


@click.command(short_help="Switch routes of a running gateway to maintenance, and back.")
@click.argument("state", required=False, type=click.Choice(["on", "off"]))
@click.argument("route", required=False, shell_complete=completing.routes)
@admin_option
@json_option
def maintenance(state: str | None, route: str | None, admin: Address | str | None, as_json: bool) -> None:
    """Respond with 503 on ROUTE, or on all routes, until maintenance is switched off.

    ROUTE is a route as `passerelle routes` lists it, such as /user/{id}, or with its methods and host. Requests in
    flight continue. Without on or off, print the routes in maintenance. A reload keeps them; after a restart of the
    gateway, all routes are served.

    \b
    Examples:
      passerelle maintenance on
      passerelle maintenance on '/orders/{rest*}'
      passerelle maintenance off
    """
    if state is not None:
        given = {"state": state} | ({"route": route} if route is not None else {})
        send_change(admin, f"/maintenance?{urlencode(given)}", as_json)
        return
    found = read_admin(admin, "/maintenance")
    if as_json:
        print_json(found)
    elif found["all"]:
        click.echo("all routes")
    else:
        for name in found["routes"]:
            click.echo(name)

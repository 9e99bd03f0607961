"""``passerelle scale``: set the number of instances of a service."""

from __future__ import annotations

from urllib.parse import urlencode

import click

from passerelle.cli import completing
from passerelle.cli.admin_client import admin_option, send_change
from passerelle.cli.support import json_option
from passerelle.config.models.addresses import Address


@click.command(short_help="Set the number of instances of a running service.")
@click.argument("wanted", metavar="SERVICE=N", shell_complete=completing.services_to_set)
@admin_option
@json_option
def scale(wanted: str, admin: Address | str | None, as_json: bool) -> None:
    """Set the number of instances of a service of a running `passerelle up`.

    The number applies until a reload finds another number in the file than before. A service whose `instances` are a
    range keeps the number; with SERVICE=auto it follows the load again.
    """
    service, equals, number = wanted.partition("=")
    if not equals or not service or not (number.isdecimal() or number == "auto"):
        raise click.UsageError(f"found {wanted!r}; allowed is SERVICE=N, such as user=8, or SERVICE=auto")
    send_change(admin, f"/scale?{urlencode({'service': service, 'instances': number})}", as_json)

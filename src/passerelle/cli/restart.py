"""``passerelle restart``: replace the instances of a service."""

from __future__ import annotations

from urllib.parse import urlencode

import click

from passerelle.cli import completing
from passerelle.cli.admin_client import admin_option, send_change
from passerelle.cli.support import json_option
from passerelle.config.models.addresses import Address


@click.command(short_help="Replace the instances of a service, one at a time.")
@click.argument("service", metavar="SERVICE", shell_complete=completing.services)
@admin_option
@json_option
def restart(service: str, admin: Address | str | None, as_json: bool) -> None:
    """Replace the instances of a service of a running `passerelle up`, one at a time.

    Each new instance is up before an old one is drained and stopped.
    """
    send_change(admin, f"/restart?{urlencode({'service': service})}", as_json)

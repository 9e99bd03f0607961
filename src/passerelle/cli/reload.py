"""``passerelle reload``: reload the configuration of a running gateway."""

from __future__ import annotations

import click

from passerelle.cli.admin_client import admin_option, send_change
from passerelle.cli.support import json_option
from passerelle.config.models.addresses import Address


@click.command(short_help="Reload the configuration of a running gateway.")
@admin_option
@json_option
def reload(admin: Address | str | None, as_json: bool) -> None:
    """Reload the configuration file of a running `passerelle up` or `gateway`.

    Nothing is interrupted: open connections and requests in flight continue, and later requests use the new
    configuration. A file with errors changes nothing.
    """
    send_change(admin, "/reload", as_json)

"""``passerelle cache``: manage the cache of a running gateway."""

from __future__ import annotations

from urllib.parse import urlencode

import click

from passerelle.cli.admin_client import admin_option, send_change
from passerelle.cli.support import Commands, json_option
from passerelle.config.models.addresses import Address
from passerelle.routing.paths import PatternError, purged_path


@click.group(cls=Commands, short_help="Manage the cache of a running gateway.")
def cache() -> None:
    """Manage the cache of a running gateway."""


@cache.command(short_help="Invalidate stored responses.")
@click.option("--tag", metavar="T", help="Responses with this tag, such as user:42.")
@click.option(
    "--path", metavar="P", help="Responses for this path, of any host and query; /a/* matches all paths below /a."
)
@click.option("--all", "everything", is_flag=True, help="All responses.")
@admin_option
@json_option
def purge(tag: str | None, path: str | None, everything: bool, admin: Address | str | None, as_json: bool) -> None:
    """Invalidate stored responses, selected by exactly one of --tag, --path and --all."""
    if (tag is not None) + (path is not None) + everything != 1 or "" in (tag, path):
        raise click.UsageError("exactly one of --tag T, --path P, --all is required")
    try:
        given = {"tag": tag} if tag is not None else {"path": purged_path(path)} if path is not None else {"all": "1"}
    except PatternError as error:
        raise click.UsageError(str(error)) from None
    send_change(admin, f"/cache/purge?{urlencode(given)}", as_json)

"""``passerelle cache``: what a running gateway keeps."""

from __future__ import annotations

from urllib.parse import urlencode

import click

from passerelle.cli.run import change, whom
from passerelle.cli.support import Commands, json_option
from passerelle.config.models.addresses import Address
from passerelle.routing.paths import PatternError, purged_path


@click.group(cls=Commands)
def cache() -> None:
    """Look after the cache of a running gateway."""


@cache.command(short_help="Let the cache go of answers.")
@click.option("--tag", metavar="T", help="What has this tag, such as user:42.")
@click.option("--path", metavar="P", help="What has this path, on any host and with any query; /a/* for all below.")
@click.option("--all", "everything", is_flag=True, help="Everything.")
@whom
@json_option
def purge(tag: str | None, path: str | None, everything: bool, admin: Address | str | None, as_json: bool) -> None:
    """Let the cache go of answers: exactly one of --tag, --path and --all says of which."""
    if (tag is not None) + (path is not None) + everything != 1 or "" in (tag, path):
        raise click.UsageError("exactly one of --tag T, --path P, --all is needed")
    try:
        asked = {"tag": tag} if tag is not None else {"path": purged_path(path)} if path is not None else {"all": "1"}
    except PatternError as error:
        raise click.UsageError(str(error)) from None
    change(admin, f"/cache/purge?{urlencode(asked)}", as_json)

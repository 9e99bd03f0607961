"""``passerelle cache``: what a running gateway keeps."""

from __future__ import annotations

from urllib.parse import quote

import click

from passerelle.cli_support import json_option, print_json
from passerelle.config.addresses import Address
from passerelle.runner.commands import ask_admin, running_option


@click.group()
def cache() -> None:
    """Look after the cache of a running gateway."""


@cache.command()
@click.option("--tag", metavar="T", help="What has this tag, such as user:42.")
@click.option("--path", metavar="P", help="What has this path, on any host and with any query; /a/* for all below.")
@click.option("--all", "everything", is_flag=True, help="Everything.")
@running_option
@json_option
def purge(tag: str | None, path: str | None, everything: bool, admin: Address | str | None, as_json: bool) -> None:
    """Let the cache go of answers: exactly one of --tag, --path and --all says of which."""
    if (tag is not None) + (path is not None) + everything != 1 or "" in (tag, path):
        raise click.UsageError("exactly one of --tag T, --path P, --all is needed")
    query = f"tag={quote(tag, safe='')}" if tag is not None else f"path={quote(path, safe='')}" if path else "all"
    answer = ask_admin(admin, "POST", f"/cache/purge?{query}")
    if as_json:
        print_json(answer)
    else:
        click.echo(f"purged {answer['purged']} in {answer['workers']} worker{'s' * (answer['workers'] != 1)}")

"""``passerelle cache``: what a running gateway keeps."""

from __future__ import annotations

from urllib.parse import urlencode

import click

from passerelle.cli_support import Commands, json_option
from passerelle.config.addresses import Address
from passerelle.runner.commands import change, whom


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
    if path is not None and not path.startswith("/"):
        raise click.UsageError(f"found the path {path!r}; a path begins with /, such as /{path}")
    asked = {"tag": tag} if tag is not None else {"path": path} if path is not None else {"all": "1"}
    change(admin, f"/cache/purge?{urlencode(asked)}", as_json)

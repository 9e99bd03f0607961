"""``passerelle rollout``: move users to a new service step by step, of a running gateway."""

from __future__ import annotations

import time
from typing import Any, Final
from urllib.parse import urlencode

import click

from passerelle.cli import completing
from passerelle.cli.admin_client import admin_option, read_admin, send_change
from passerelle.cli.support import json_option, print_json
from passerelle.config.models.addresses import Address

_CHANGES: Final = ("start", "pause", "resume", "skip", "abort")
_ACTIONS: Final = ("status", *_CHANGES)


@click.command(short_help="Move users to a new service, step by step.")
@click.argument(
    "words", nargs=-1, metavar="[ROUTE] [start|status|pause|resume|skip|abort]", shell_complete=completing.routes
)
@admin_option
@json_option
def rollout(words: tuple[str, ...], admin: Address | str | None, as_json: bool) -> None:
    """Show or change the rollout of ROUTE, such as /user/{id}.

    ROUTE may be left out if there is one rollout; `status` shows all of them. `start` begins with the first step,
    `skip` goes on to the next one at once, `abort` returns all users to the old service.

    `status` exits with 1 if a rollout was rolled back, or if its state cannot be kept.
    """
    *routes, action = words if words and words[-1] in _ACTIONS else (*words, "status")
    if len(routes) > 1:
        raise click.UsageError(f"found {routes[1]!r}; allowed is a route, and one of {', '.join(_ACTIONS)}")
    query = {"route": routes[0]} if routes else {}
    if action != "status":
        send_change(admin, f"/rollout?{urlencode({**query, 'action': action})}", as_json)
        return
    found = read_admin(admin, "/rollout", **query)
    if as_json:
        print_json(found)
    else:
        for each in found["routes"].values():
            _print(each)
        if not found["routes"]:
            click.echo("no route has a rollout")
    is_bad = any(each["status"] == "rolled_back" or each["problem"] for each in found["routes"].values())
    click.get_current_context().exit(1 if is_bad else 0)


def _print(status: dict[str, Any]) -> None:
    click.echo(status["text"])
    counts = status["counts"]
    if counts:
        minutes = max(0.0, time.time() - status["since"]) / 60
        click.echo(f"  for {minutes:.0f} minutes; the next step needs: {status['waits_for']}")
        if status["step"] < 0:
            click.echo(f"  {counts['comparisons']} comparisons, {counts['differences']} differ")
        else:
            for side in ("old", "new"):
                name, each = status[side], counts[side]
                click.echo(f"  {name}: {each['requests']} requests, {each['failed']} failed, {each['slow']} slow")
    if status["problem"]:
        click.echo(f"  {status['problem']}; shares stay as they are, and steps wait")

"""``passerelle events``: show what has happened in a running gateway, and what happens."""

from __future__ import annotations

import contextlib
import http.client
import time
from typing import Any
from urllib.parse import urlencode

import click
import orjson

from passerelle.cli.admin_client import (
    Destination,
    TokenRefused,
    admin_option,
    exit_unreachable,
    find_admin,
    request_admin,
)
from passerelle.cli.admin_messages import PAUSE, messages
from passerelle.cli.support import exit_negative
from passerelle.config.models.addresses import Address
from passerelle.observability.events import KINDS

_TRIES = 60  # times in a row that the stream is requested without success


def _kinds(ctx: click.Context, param: click.Parameter, kinds: tuple[str, ...]) -> tuple[str, ...]:
    for kind in kinds:
        if kind not in KINDS:
            raise click.BadParameter(f"found {kind!r}; allowed: {', '.join(KINDS)}", ctx, param)
    return kinds


@click.command(short_help="Show what has happened in a running gateway.")
@click.option("--follow", "-f", is_flag=True, help="Print further events as they happen, until Ctrl-C.")
@click.option("--since", metavar="SEQ", type=click.IntRange(0), help="Only events after the one with this number.")
@click.option("--kind", metavar="KIND", multiple=True, callback=_kinds, help="Only this kind; may be repeated.")
@admin_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of text.")
def events(follow: bool, since: int | None, kind: tuple[str, ...], admin: Address | str | None, as_json: bool) -> None:
    """Show the last events of a running gateway: starts, ends, ejections, reloads, changes, and so on.

    With `--follow`, a connection that is lost is opened again, and no event is missed.
    """
    query = {"kind": ",".join(kind)} if kind else {}
    found = request_admin(admin, "GET", f"/events?{urlencode({**query, 'since': since or 0})}")
    for event in found["events"]:
        _print(event, as_json)
    if follow:
        with contextlib.suppress(KeyboardInterrupt):
            _follow(find_admin(admin), query, found["last"], as_json)


def _follow(destination: Destination, query: dict[str, str], last: int, as_json: bool) -> None:
    failures = 0
    while True:
        try:
            for _, event in messages(destination, f"/events?{urlencode({**query, 'since': last})}"):
                failures, last = 0, event["seq"]
                _print(event, as_json)
        except TokenRefused as error:
            exit_unreachable(destination, error)
        except (OSError, http.client.HTTPException, ValueError) as error:
            failures += 1
            if failures > _TRIES:
                exit_unreachable(destination, error)
        time.sleep(PAUSE)


def _print(event: dict[str, Any], as_json: bool) -> None:
    try:
        if as_json:
            click.echo(orjson.dumps(event))
            return
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["time"]))
        worker = f" ({event['worker']})" if event["worker"] and event["service"] else ""
        click.echo(f"{when}  {event['kind']:<11}  {event['text']}{worker}")
    except BrokenPipeError:
        exit_negative()

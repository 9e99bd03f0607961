"""``passerelle status``: show the state of a running gateway."""

from __future__ import annotations

from typing import Any

import click

from passerelle.cli.admin_client import admin_option, request_admin
from passerelle.cli.support import json_option, print_json, print_parts, print_table
from passerelle.config.models.addresses import Address
from passerelle.supervisor.report import elapsed_text

_LEAST = ("pid", "uptime", "restarts")  # columns that a narrow terminal leaves out, in this order


@click.command(short_help="Show the state of a running gateway.")
@admin_option
@json_option
def status(admin: Address | str | None, as_json: bool) -> None:
    """Show the state of a running `passerelle up`, `proxy` or `gateway`."""
    found = request_admin(admin, "GET", "/status")
    if as_json:
        print_json(found)
    else:
        _print(found)


def _print(found: dict[str, Any]) -> None:
    listen = found["listen"]
    where = [
        listen if listen.startswith("unix:") else f"http://{listen}",
        f"pid {found['pid']}",
        f"up for {elapsed_text(found['uptime'])}",
    ]
    print_parts([f"passerelle {found['version']}", found["config"], found["state"], *where])
    click.echo()
    if found["config_problems"]:
        problems = "".join(f"  {problem}\n" for problem in found["config_problems"])
        click.echo(f"the current contents of {found['config']} are not in force:\n{problems}")
    members = [instance for service in found["services"].values() for instance in service["instances"]]
    members += [{"address": found["listen"], **worker} for worker in found["workers"]]
    head = ("name", "state", "address", "pid", "restarts", "in flight", "uptime", "")
    print_table(head, [_row(member) for member in members], drop=_LEAST, wrap="")
    for name, service in found["services"].items():
        if service["breaker"]:
            counts = ", ".join(f"{state} in {count}" for state, count in service["breaker"].items())
            click.echo(f"\ncircuit breaker of {name}: {counts} of {len(found['workers'])} workers")
        if service["concurrency"]:
            requests = service["concurrency"]
            counts = f"{requests['running']} of {requests['limit']} requests running, {requests['waiting']} waiting"
            click.echo(f"\nconcurrency limit of {name}: {counts}")
        if scaling := service.get("scaling"):
            number = f"{scaling['min']} to {scaling['max']} instances, {scaling['target_in_flight']} in flight each"
            why = f": {scaling['text']} ({scaling['reason']})" if scaling["text"] else ""
            click.echo(f"\nscaling of {name}: {number}{why}")
        if service["removed"]:
            click.echo(f"\nremoved from {name} at run time: {', '.join(service['removed'])}")


def _row(member: dict[str, Any]) -> tuple[str, ...]:
    def cell(key: str) -> str:
        value = member.get(key)
        return "-" if value is None else str(value)

    uptime = member.get("uptime")
    note = member.get("problem") or (member.get("last_end") if member["state"] == "waiting" else None) or ""
    if not note and member.get("origin") == "added":
        note = "added at run time"
    return (
        member["name"],
        member["state"],
        cell("address"),
        cell("pid"),
        cell("restarts"),
        cell("in_flight"),
        "-" if uptime is None else elapsed_text(uptime),
        note,
    )

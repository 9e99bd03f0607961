"""``passerelle instances``: list and change the instances of a running gateway."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

import click

from passerelle.cli import completing
from passerelle.cli.admin_client import CHANGE_LIMIT, admin_option, read_admin, request_admin, send_change
from passerelle.cli.support import Commands, json_option, print_json, print_table
from passerelle.config.models.addresses import Address
from passerelle.config.models.units import parse_duration


@click.group(cls=Commands, short_help="List and change the instances of a running gateway.")
def instances() -> None:
    """List, add, remove, drain and weight the instances of a running gateway.

    Changes are for services with `targets` or `zones`; `scale` and `restart` change those with `app` or `run`.
    INSTANCE is a name or an address. All workers apply a change. It persists over reloads until the file specifies
    something else for that instance, and ends with the gateway.
    """


def _seconds(ctx: click.Context, param: click.Parameter, text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


_service = click.argument("service", metavar="SERVICE", shell_complete=completing.services)
_instance = click.argument("instance", metavar="INSTANCE")
_limit = click.option(
    "--limit",
    metavar="TIME",
    default="30s",
    show_default=True,
    callback=_seconds,
    help="How long to wait for requests in flight, at most 1h.",
)
_force = click.option("--force", is_flag=True, help="Also if it is the last instance that is up.")


@instances.command("list")
@click.argument("service", metavar="[SERVICE]", required=False, shell_complete=completing.services)
@admin_option
@json_option
def list_(service: str | None, admin: Address | str | None, as_json: bool) -> None:
    """List the instances of a service, or of all services."""
    if service is None:
        found = request_admin(admin, "GET", "/status")["services"]
    else:
        found = {service: read_admin(admin, _path(service))}
    if as_json:
        print_json(found if service is None else found[service])
        return
    head = ("service", "name", "state", "address", "weight", "in flight", "from", "")
    rows = [_row(name, member) for name, status in found.items() for member in status["instances"]]
    print_table(head, rows, drop=("from", "weight"), wrap="")
    for name, status in found.items():
        if status["removed"]:
            click.echo(f"\nremoved from {name} at run time: {', '.join(status['removed'])}")


def _row(service: str, member: dict[str, Any]) -> tuple[str, ...]:
    weight = f"{member['weight']:g}" if "weight" in member else "-"
    cells = (str(member.get(key) or "-") for key in ("name", "state", "address"))
    origin = member.get("origin", "process")
    return (service, *cells, weight, str(member["in_flight"]), origin, member.get("problem") or "")


@instances.command(short_help="Add an instance to a service.")
@_service
@click.argument("url", metavar="URL")
@click.option("--weight", metavar="N", help="Its share of the requests, relative to the other instances; 1 by default.")
@click.option("--zone", metavar="ZONE", help="Its zone, if the service has zones.")
@admin_option
@json_option
def add(
    service: str, url: str, weight: str | None, zone: str | None, admin: Address | str | None, as_json: bool
) -> None:
    """Add the instance at URL to a service. It receives requests after its first successful probe."""
    options = {"url": url, "weight": weight, "zone": zone}
    _change(admin, "POST", _path(service), as_json, options)


@instances.command(short_help="Remove an instance.")
@_service
@_instance
@_limit
@_force
@admin_option
@json_option
def remove(service: str, instance: str, limit: float, force: bool, admin: Address | str | None, as_json: bool) -> None:
    """Drain an instance, then remove it. Requests that are left after the limit continue.

    An instance that was found by DNS or in a target list (`found` in `passerelle instances list`) cannot be removed,
    because it would be found again: remove it there, or `drain` it.
    """
    _change(admin, "DELETE", _path(service, instance), as_json, _drain_options(limit, force), limit)


@instances.command(short_help="Send no new requests to an instance, until `resume`.")
@_service
@_instance
@_limit
@_force
@admin_option
@json_option
def drain(service: str, instance: str, limit: float, force: bool, admin: Address | str | None, as_json: bool) -> None:
    """Send no new requests to an instance, and wait until none is in flight.

    The exit code is 1 if requests are still in flight after the limit. The instance stays drained until `resume`.
    """
    _change(admin, "PATCH", _path(service, instance), as_json, {"drain": "true", **_drain_options(limit, force)}, limit)


@instances.command(short_help="Revert `drain`.")
@_service
@_instance
@admin_option
@json_option
def resume(service: str, instance: str, admin: Address | str | None, as_json: bool) -> None:
    """Send requests to a drained instance again."""
    _change(admin, "PATCH", _path(service, instance), as_json, {"drain": "false"})


@instances.command(short_help="Set the weight of an instance.")
@_service
@_instance
@click.argument("weight", metavar="N")
@admin_option
@json_option
def weight(service: str, instance: str, weight: str, admin: Address | str | None, as_json: bool) -> None:
    """Set the weight of an instance, its share of the requests: a whole number from 1 to 1000."""
    _change(admin, "PATCH", _path(service, instance), as_json, {"weight": weight})


def _path(service: str, instance: str | None = None) -> str:
    path = f"/services/{quote(service, safe='')}/instances"
    return path if instance is None else f"{path}/{quote(instance, safe='')}"


def _drain_options(limit: float, force: bool) -> dict[str, str]:
    return {"limit": f"{limit:f}s", "force": "true" if force else "false"}


def _change(
    admin: Address | str | None,
    method: str,
    path: str,
    as_json: bool,
    options: dict[str, str] | dict[str, str | None],
    limit: float = 0.0,
) -> None:
    query = urlencode({key: value for key, value in options.items() if value is not None})
    send_change(admin, f"{path}?{query}", as_json, method, CHANGE_LIMIT + limit)

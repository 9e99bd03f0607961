"""``passerelle instances``: the instances of a running gateway's services, and changes to those of ``targets``."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

import click

from passerelle.cli.run import CHANGE_LIMIT, change, exit_refused, request_admin, whom
from passerelle.cli.support import Commands, json_option, print_json, print_table
from passerelle.config.models.addresses import Address
from passerelle.config.models.units import parse_duration


@click.group(cls=Commands, short_help="List and change the instances of a running gateway.")
def instances() -> None:
    """List, add, remove, drain and weigh instances of a running gateway.

    Services with `targets` or `zones` only: what `app` and `run` start is changed by `scale` and `restart`. An
    INSTANCE is its name or its address. A change is seen by all workers, lives through reloads until the file says
    something else of that instance, and ends with the gateway.
    """


def _seconds(ctx: click.Context, param: click.Parameter, text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


_service = click.argument("service", metavar="SERVICE")
_instance = click.argument("instance", metavar="INSTANCE")
_limit = click.option(
    "--limit",
    metavar="TIME",
    default="30s",
    show_default=True,
    callback=_seconds,
    help="How long to wait for what it has in flight, at most 1h.",
)
_force = click.option("--force", is_flag=True, help="Even if it is the last one that is up.")


@instances.command("list")
@click.argument("service", metavar="[SERVICE]", required=False)
@whom
@json_option
def list_(service: str | None, admin: Address | str | None, as_json: bool) -> None:
    """Show the instances of a service, or of all."""
    if service is None:
        found = request_admin(admin, "GET", "/status")["services"]
    else:
        answer = request_admin(admin, "GET", _of(service))
        if "problems" in answer:
            exit_refused(answer["problems"])
        found = {service: answer}
    if as_json:
        print_json(found if service is None else found[service])
        return
    head = ("service", "name", "state", "address", "weight", "in flight", "from", "")
    print_table(head, [_columns(name, member) for name, about in found.items() for member in about["instances"]])
    for name, about in found.items():
        if about["removed"]:
            click.echo(f"\nremoved from {name} at run time: {', '.join(about['removed'])}")


def _columns(service: str, member: dict[str, Any]) -> tuple[str, ...]:
    weight = f"{member['weight']:g}" if "weight" in member else "-"
    cells = (str(member.get(key) or "-") for key in ("name", "state", "address"))
    origin = member.get("origin", "process")
    return (service, *cells, weight, str(member["in_flight"]), origin, member.get("problem") or "")


@instances.command(short_help="Let a service have one more instance.")
@_service
@click.argument("url", metavar="URL")
@click.option("--weight", metavar="N", help="Its share of the requests, relative to the others; 1 by default.")
@click.option("--zone", metavar="ZONE", help="Where it belongs, in a service with zones.")
@whom
@json_option
def add(
    service: str, url: str, weight: str | None, zone: str | None, admin: Address | str | None, as_json: bool
) -> None:
    """Let a service have one more instance, at URL. It gets requests as soon as it passes a probe."""
    asked = {"url": url, "weight": weight, "zone": zone}
    _change(admin, "POST", _of(service), as_json, asked)


@instances.command(short_help="Take an instance away.")
@_service
@_instance
@_limit
@_force
@whom
@json_option
def remove(service: str, instance: str, limit: float, force: bool, admin: Address | str | None, as_json: bool) -> None:
    """Take an instance away: it gets nothing new and finishes what it has; what is left after the limit goes on.

    One that DNS or a list of targets has found would be found again, so it is refused: take it out there, or `drain`
    it. `passerelle instances list` says which are `found`.
    """
    _change(admin, "DELETE", _of(service, instance), as_json, _waiting(limit, force), limit)


@instances.command(short_help="Give an instance nothing new, until `resume`.")
@_service
@_instance
@_limit
@_force
@whom
@json_option
def drain(service: str, instance: str, limit: float, force: bool, admin: Address | str | None, as_json: bool) -> None:
    """Give an instance nothing new, and wait until it has nothing in flight: exit 1 if it has after the limit.

    It stays drained until `resume`.
    """
    _change(admin, "PATCH", _of(service, instance), as_json, {"drain": "true", **_waiting(limit, force)}, limit)


@instances.command()
@_service
@_instance
@whom
@json_option
def resume(service: str, instance: str, admin: Address | str | None, as_json: bool) -> None:
    """Let a drained instance have requests again."""
    _change(admin, "PATCH", _of(service, instance), as_json, {"drain": "false"})


@instances.command(short_help="Give an instance another share of the requests.")
@_service
@_instance
@click.argument("weight", metavar="N")
@whom
@json_option
def weight(service: str, instance: str, weight: str, admin: Address | str | None, as_json: bool) -> None:
    """Give an instance another share of the requests: a whole number from 1 to 1000."""
    _change(admin, "PATCH", _of(service, instance), as_json, {"weight": weight})


def _of(service: str, instance: str | None = None) -> str:
    path = f"/services/{quote(service, safe='')}/instances"
    return path if instance is None else f"{path}/{quote(instance, safe='')}"


def _waiting(limit: float, force: bool) -> dict[str, str]:
    return {"limit": f"{limit:f}s", "force": "true" if force else "false"}


def _change(
    admin: Address | str | None,
    method: str,
    path: str,
    as_json: bool,
    asked: dict[str, str] | dict[str, str | None],
    limit: float = 0.0,
) -> None:
    query = urlencode({key: value for key, value in asked.items() if value is not None})
    change(admin, f"{path}?{query}", as_json, method, CHANGE_LIMIT + limit)

"""``passerelle certs``: the certificates that a running gateway orders."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlencode

import click

from passerelle.cli.admin_client import admin_option, read_admin, send_change
from passerelle.cli.support import Commands, json_option, print_json, print_table
from passerelle.config.models.addresses import Address


@click.group(cls=Commands, short_help="Show and renew the certificates that a running gateway orders.")
def certs() -> None:
    """Show and renew the certificates that a running gateway orders (`tls: auto`)."""


@certs.command("list", short_help="Show all names, with the validity of their certificates.")
@admin_option
@json_option
def list_(admin: Address | str | None, as_json: bool) -> None:
    """Show each name with the issuer and the end of its certificate, the next order and the last error.

    Exits with 1 if a name has no certificate, or one that has expired.
    """
    found: list[dict[str, Any]] = read_admin(admin, "/certs")["certificates"]
    if as_json:
        print_json({"certificates": found})
    elif not found:
        click.echo("no certificates are ordered: the file has no tls.auto")
    else:
        rows = [
            (
                each["name"],
                each["issuer"] or "none yet",
                _time(each["not_after"]),
                _time(each["next_order"]),
                each["error"] or "",
            )
            for each in found
        ]
        print_table(
            ("NAME", "ISSUER", "VALID UNTIL", "NEXT ORDER", "LAST ERROR"), rows, drop=("ISSUER",), wrap="LAST ERROR"
        )
    now = time.time()
    is_bad = any(each["not_after"] is None or each["not_after"] <= now for each in found)
    click.get_current_context().exit(1 if is_bad else 0)


@certs.command(short_help="Order a new certificate for a name now.")
@click.argument("name")
@admin_option
@json_option
def renew(name: str, admin: Address | str | None, as_json: bool) -> None:
    """Order a new certificate for NAME now; clients get the one in use until it is there.

    Authorities limit the number of certificates for a name: do not use this for renewals, which need no command.
    """
    send_change(admin, f"/certs/renew?{urlencode({'name': name.lower()})}", as_json)


def _time(found: float | None) -> str:
    return "" if found is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(found))

"""What the commands that talk to a running gateway share: requests to its admin port."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Iterable
from typing import Any, NoReturn

import click
import orjson

from passerelle.cli.starting import parse_admin_word, parsed_by
from passerelle.cli.support import CONFIG_NAMES, exit_negative, print_json
from passerelle.config.loader import inspect
from passerelle.config.models.addresses import Address
from passerelle.config.models.config import Config

DEFAULT_ADMIN: Address = Config.model_fields["admin"].default
RESPONSE_LIMIT = 5.0  # seconds
CHANGE_LIMIT = 600.0  # seconds: a change waits until new instances are up and old ones have finished their requests

admin_option = click.option(
    "--admin",
    metavar="HOST:PORT",
    callback=parsed_by(parse_admin_word),
    envvar="PASSERELLE_ADMIN",
    show_envvar=True,
    help="Admin address of the running gateway; by default that of the file in this folder, or 127.0.0.1:9900.",
)


def request_admin(admin: Address | str | None, method: str, path: str, limit: float = RESPONSE_LIMIT) -> Any:
    """Send a request to the admin port and return the JSON of the response.

    ``admin`` is the address that was given; None is the default one. If there is no response within ``limit`` seconds,
    an error is printed and the command ends with 1.
    """
    origin = ""
    if admin is None:
        admin, origin = _default_admin()
    if not isinstance(admin, Address):
        raise click.UsageError("the admin port is off, so a running gateway cannot be reached")
    try:
        return _fetch(admin, method, path, limit)
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = ((error.strerror if isinstance(error, OSError) else None) or str(error)).lower()
        text = f"no response from a gateway at the admin address {admin}{origin}: {why}"
        click.echo(f"{text}; is the gateway running, or does it have another address (--admin)?", err=True)
        exit_negative()


def send_change(
    admin: Address | str | None, path: str, as_json: bool, method: str = "POST", limit: float = CHANGE_LIMIT
) -> None:
    """Request a change, which takes at most ``limit`` seconds, and print the result."""
    response = request_admin(admin, method, path, limit)
    if as_json:
        print_json(response)
    elif "problems" not in response:
        click.echo(response["message"])
    if "problems" in response:
        exit_refused(() if as_json else response["problems"])


def exit_refused(problems: Iterable[str]) -> NoReturn:
    """Print why a request was refused, and end the command with 1."""
    for problem in problems:
        click.echo(problem, err=True)
    exit_negative()


def _default_admin() -> tuple[Address | str, str]:
    """Return the admin address of the file in this folder, valid or not, or the default one; and its origin."""
    for name in CONFIG_NAMES:
        with contextlib.suppress(OSError):
            admin = inspect(name, elsewhere=True).admin or "off"
            return admin, " (the default)" if admin == DEFAULT_ADMIN else f" (of {name})"
    return DEFAULT_ADMIN, " (the default)"


def _fetch(address: Address, method: str, path: str, limit: float) -> Any:
    connection = http.client.HTTPConnection(address.host, address.port, timeout=limit)
    try:
        connection.request(method, path, headers={"Passerelle-Admin": "1"})
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    found = orjson.loads(body) if response.headers.get_content_type() == "application/json" else None
    if found is None or (response.status != 200 and "problems" not in found):
        raise ValueError(f"found status {response.status} {response.reason}")
    return found

"""What the commands that talk to a running gateway share: requests to its admin port."""

from __future__ import annotations

import contextlib
import http.client
import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urlencode

import click
import orjson

from passerelle.cli.options import admin_token, parse_admin_word, parsed_by, token_file_option
from passerelle.cli.support import CONFIG_NAMES, exit_negative, print_json
from passerelle.config.models.addresses import Address
from passerelle.config.models.admin import AdminPort, check_token

DEFAULT_ADMIN = AdminPort.model_construct()
_VARIABLE = "PASSERELLE_ADMIN_TOKEN"  # has a token itself
RESPONSE_LIMIT = 5.0  # seconds
CHANGE_LIMIT = 600.0  # seconds: a change waits until new instances are up and old ones have finished their requests

_admin_option = click.option(
    "--admin",
    metavar="HOST:PORT",
    callback=parsed_by(parse_admin_word),
    envvar="PASSERELLE_ADMIN",
    show_envvar=True,
    help="Admin address of the running gateway; by default that of the file in this folder, or 127.0.0.1:9900.",
)


def admin_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--admin`` as ``admin``, and ``--admin-token-file``."""
    return _admin_option(token_file_option(function))


class Destination(NamedTuple):
    """Where requests go: the address of the admin port, its token, and for messages where the address is from."""

    address: Address
    token: str | None
    origin: str = ""


class TokenRefused(ValueError):
    """The admin port responded 401."""


def request_admin(admin: Address | str | None, method: str, path: str, limit: float = RESPONSE_LIMIT) -> Any:
    """Send a request to the admin port and return the JSON of the response.

    ``admin`` is the address that was given; None is the default one. If there is no response within ``limit`` seconds,
    an error is printed and the command ends with 1.
    """
    destination = find_admin(admin)
    try:
        return _fetch(destination, method, path, limit)
    except (OSError, http.client.HTTPException, ValueError) as error:
        exit_unreachable(destination, error)


def read_admin(admin: Address | str | None, page: str, **query: str | None) -> Any:
    """Return the JSON of a page of the admin port, with those of ``query`` that are not None.

    If the page does not respond, or refuses, the reason is printed and the command ends with 1.
    """
    given = urlencode({name: value for name, value in query.items() if value is not None})
    found = request_admin(admin, "GET", f"{page}?{given}" if given else page)
    if "problems" in found:
        exit_refused(found["problems"])
    return found


def try_admin(admin: Address | str | None, path: str) -> Any:
    """Return the JSON at ``path`` of the admin port, or None if no gateway responds there."""
    if not isinstance(admin, Address):
        return None
    try:
        return _fetch(find_admin(admin), "GET", path, RESPONSE_LIMIT)
    except (OSError, http.client.HTTPException, ValueError):
        return None


def find_admin(admin: Address | str | None) -> Destination:
    """Return where the running gateway is: at ``admin``, or by default where the file in this folder states."""
    token, origin = admin_token() or _variable_token(), ""
    if admin is None:
        port, origin = _default_admin()
        if port is not None:
            admin, token = port.listen, token or port.token
    if not isinstance(admin, Address):
        raise click.UsageError("the admin port is off, so a running gateway cannot be reached")
    return Destination(admin, token, origin)


def _variable_token() -> str | None:
    given = os.environ.get(_VARIABLE)
    try:
        return check_token(given) if given else None
    except ValueError as error:
        raise click.UsageError(f"the variable {_VARIABLE}: {error}") from None


def exit_unreachable(destination: Destination, error: Exception) -> NoReturn:
    """Print why a request to the admin port failed, and end the command with 1."""
    if isinstance(error, TokenRefused):
        problem = "it refused the token" if destination.token is not None else "it needs a token"
        where = f"the admin port at {destination.address}{destination.origin}"
        click.echo(f"{where}: {problem}; give --admin-token-file or {_VARIABLE}", err=True)
        exit_negative()
    why = ((error.strerror if isinstance(error, OSError) else None) or str(error)).lower()
    text = f"no response from a gateway at the admin address {destination.address}{destination.origin}: {why}"
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


def _default_admin() -> tuple[AdminPort | None, str]:
    """Return the admin port of the file in this folder, valid or not, or the default one; and its origin."""
    for name in filter(os.path.isfile, CONFIG_NAMES):
        from passerelle.config.loader import inspect

        with contextlib.suppress(OSError):
            admin = inspect(name, elsewhere=True).admin
            is_default = admin is not None and admin.listen == DEFAULT_ADMIN.listen
            return admin, " (the default)" if is_default else f" (of {name})"
    return DEFAULT_ADMIN, " (the default)"


def connect(
    destination: Destination, method: str, path: str, limit: float, **fields: str
) -> http.client.HTTPConnection:
    """Send a request with the header ``fields``. Returns the connection, from which the response is to be read."""
    connection = http.client.HTTPConnection(destination.address.host, destination.address.port, timeout=limit)
    if destination.token is not None:
        fields["Authorization"] = f"Bearer {destination.token}"
    try:
        connection.request(method, path, headers={"Passerelle-Admin": "1", **fields})
    except BaseException:
        connection.close()
        raise
    return connection


def _fetch(destination: Destination, method: str, path: str, limit: float) -> Any:
    connection = connect(destination, method, path, limit)
    try:
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status == 401:
        raise TokenRefused
    found = orjson.loads(body) if response.headers.get_content_type() == "application/json" else None
    if found is None or (response.status != 200 and "problems" not in found):
        raise ValueError(f"found status {response.status} {response.reason}")
    return found

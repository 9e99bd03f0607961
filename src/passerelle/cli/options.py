"""The options that commands share, and how their words are parsed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from passerelle.config.models.addresses import parse_admin, parse_listen
from passerelle.config.models.admin import check_token
from passerelle.config.models.values import WholeNumber
from passerelle.config.reading.substitute import MAX_SECRET_BYTES


def parsed_by(parse: Callable[[object], object]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Return a click callback that converts a value, or each of several, by a parser of the configuration."""

    def one(ctx: click.Context, param: click.Parameter, word: str) -> object:
        try:
            # `off` stays a word, because None means that the option was not given.
            return parse(word) or "off"
        except ValueError as error:
            raise click.BadParameter(str(error), ctx, param) from None

    def callback(ctx: click.Context, param: click.Parameter, found: Any) -> Any:
        if isinstance(found, tuple):
            return tuple(one(ctx, param, word) for word in found)
        return None if found is None else one(ctx, param, found)

    return callback


def _parse_workers(found: object) -> object:
    """Convert a word of the command line to the number that the file would have."""
    return WholeNumber(1, 256).check(int(found) if isinstance(found, str) and found.isdecimal() else found)


def parse_admin_word(found: object) -> object:
    """Parse an admin address of the command line: also ``http://host:port``, and ``:port`` on this machine."""
    if not isinstance(found, str):
        return parse_admin(found)
    if found.startswith("https://"):
        raise ValueError(f"found {found!r}; the admin port speaks plain HTTP: write http://{found[8:]}")
    text = found.removeprefix("http://").removesuffix("/")
    local = text.startswith(":") or text.isdecimal()
    return parse_admin(f"127.0.0.1:{text.removeprefix(':')}" if local else text)


listen_option = click.option(
    "--listen",
    metavar="HOST:PORT",
    callback=parsed_by(parse_listen),
    help="Address for clients, such as 127.0.0.1:8080; with port 0 a free port is chosen.",
)
_META_KEY = "passerelle.admin_token"


def _read_token(ctx: click.Context, param: click.Parameter, path: str | None) -> None:
    """Keep the token of the option for :func:`admin_token`."""
    if path is None:
        return
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_SECRET_BYTES)
        ctx.meta[_META_KEY] = check_token(text.removesuffix("\n").removesuffix("\r"))
    except OSError as error:
        raise click.BadParameter(f"cannot read {path}: {(error.strerror or '').lower()}", ctx, param) from None
    except ValueError as error:
        why = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise click.BadParameter(f"{path}: {why}", ctx, param) from None


def admin_token() -> str | None:
    """Return the token in the file that ``--admin-token-file`` names, or None."""
    context = click.get_current_context(silent=True)
    return context.meta.get(_META_KEY) if context is not None else None


_address_option = click.option(
    "--admin",
    metavar="HOST:PORT|off",
    callback=parsed_by(parse_admin_word),
    help="Address of the admin port, which serves metrics, health and status.",
)
token_file_option = click.option(
    "--admin-token-file",
    metavar="FILE",
    type=click.Path(),
    callback=_read_token,
    expose_value=False,
    help="File with the token of the admin port.",
)


def admin_address_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--admin`` and ``--admin-token-file``, for a command that starts a gateway."""
    return _address_option(token_file_option(function))


workers_option = click.option(
    "--workers",
    metavar="N",
    callback=parsed_by(_parse_workers),
    help="Number of gateway processes that share the port, 1 to 256.",
)
watch_option = click.option(
    "--watch", is_flag=True, help="Reload the configuration whenever the file changes, as `passerelle reload` does."
)


log_format_option = click.option(
    "--log-format",
    type=click.Choice(("auto", "json", "text")),
    default="auto",
    show_default=True,
    help="Form of the access log on standard output; auto is text on a terminal and JSON elsewhere.",
)

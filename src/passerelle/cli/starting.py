"""What the commands that start a gateway share: their options, reading the file, running a supervisor."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from passerelle.cli.support import config_path, exit_negative, print_problems
from passerelle.config.loader import inspect, inspect_text
from passerelle.config.models.addresses import Address, parse_admin, parse_listen
from passerelle.config.models.admin import AdminPort, check_token
from passerelle.config.models.config import Config
from passerelle.config.models.values import WholeNumber
from passerelle.config.reading.substitute import MAX_SECRET_BYTES
from passerelle.supervisor import reaper
from passerelle.supervisor.fleet import Setup
from passerelle.supervisor.output import Output
from passerelle.supervisor.report import ConsoleReport, wants_colour
from passerelle.supervisor.supervisor import Supervisor
from passerelle.system import descriptors, startup


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


def read_for_start(given: str | None, watch: bool) -> tuple[str, str, Config]:
    """Return the path of the configuration, its text, and what it contains.

    If it cannot be used, every error is printed and the command ends with 1.
    """
    name = config_path(given)
    if watch and Path(name).exists() and not Path(name).is_file():
        raise click.UsageError(f"--watch needs a regular file, and {name} is not one")
    try:
        # Read only once: the workers must get the text that is checked here, even if the file changes a moment later.
        data = Path(name).read_bytes()
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text, report = "", inspect(name)  # which reports the place of the error
        else:
            report = inspect_text(text, name, folder=Path(name).parent)
    except OSError as error:
        raise click.UsageError(f"cannot read {name}: {(error.strerror or str(error)).lower()}") from None
    print_problems(report.warnings, "warning: ", err=True)
    if report.config is None:
        print_problems(report.errors, err=True)
        exit_negative()
    return name, text, report.config


def override(config: Config, listen: Address | None, admin: Address | str | None, workers: int | None) -> Config:
    """Return ``config`` with the values of the options that were given (those that are not None)."""
    changes: dict[str, Any] = {}
    if listen is not None:
        changes["listen"] = listen
    port, token = config.admin, admin_token()
    if admin is not None:
        port = (port or AdminPort()).model_copy(update={"listen": admin}) if isinstance(admin, Address) else None
    if port is not None and token is not None:
        port = port.model_copy(update={"token": token})
    if port is not None and port.is_exposed:
        raise click.UsageError(
            f"other machines can reach the admin port at {port}, and it has no token; give --admin-token-file"
        )
    if workers is not None:
        changes["workers"] = workers
    return config.model_copy(update={**changes, "admin": port})


def supervise(setup: Setup, log_format: str) -> NoReturn:
    """Run ``setup`` in a supervisor until it is stopped, and end the process.

    ``log_format`` is the form of the access log on standard output: ``auto``, ``json`` or ``text``.
    """
    startup.reset_signals()
    reaper.fork_reaper()
    descriptors.raise_limit()
    output = Output(1)
    terminal = sys.stdout.isatty()
    report = ConsoleReport(
        output,
        terminal=terminal,
        colour=wants_colour(sys.stdout),
        clock=time.monotonic,
        readable_log=log_format == "text" or (log_format == "auto" and terminal),
    )

    async def run() -> int:
        return await Supervisor(setup, report).run()

    try:
        code = asyncio.run(run())
    finally:
        output.close()
    sys.exit(code)

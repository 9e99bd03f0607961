"""What the commands that start a gateway share: reading the file, running a supervisor."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import click

from passerelle.cli.options import admin_token
from passerelle.cli.support import config_path, exit_negative, print_problems
from passerelle.config.loader import inspect, inspect_text
from passerelle.config.models.addresses import Address
from passerelle.config.models.admin import AdminPort
from passerelle.config.models.config import Config
from passerelle.config.models.listeners import listening_at
from passerelle.errors import CannotStart
from passerelle.supervisor import reaper
from passerelle.supervisor.fleet import Setup
from passerelle.supervisor.identity import Identity, wanted_identity
from passerelle.supervisor.output import Output
from passerelle.supervisor.report import ConsoleReport, wants_colour
from passerelle.supervisor.supervisor import Supervisor
from passerelle.system import descriptors, startup, systemd


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
        changes["listen"] = listening_at(listen)
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


def identity_of(config: Config) -> Identity | None:
    """Return what the file drops to (see :func:`.wanted_identity`). If that is impossible, the command ends with 1."""
    try:
        return wanted_identity(config)
    except CannotStart as error:
        click.echo(str(error), err=True)
        exit_negative()


def supervise(setup: Setup, log_format: str) -> NoReturn:
    """Run ``setup`` in a supervisor until it is stopped, and end the process.

    ``log_format`` is the form of the access log on standard output: ``auto``, ``json`` or ``text``.
    """
    startup.reset_signals()
    identity = identity_of(setup.config)
    passed, notifier = systemd.take()  # before the fork: systemd names this process, which the reaper becomes
    setup = replace(setup, identity=identity, passed=passed, notifier=notifier)
    reaper.fork_reaper((identity.uid, identity.gid) if identity is not None else None)
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

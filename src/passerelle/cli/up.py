"""``passerelle up``: run the services and the gateway."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import click

from passerelle.cli.options import (
    admin_address_option,
    admin_token,
    listen_option,
    log_format_option,
    watch_option,
    workers_option,
)
from passerelle.cli.starting import override, read_for_start, supervise
from passerelle.cli.support import config_argument
from passerelle.config.models.addresses import Address
from passerelle.supervisor.fleet import Setup


@click.command(short_help="Run the services and the gateway.")
@config_argument
@listen_option
@admin_address_option
@workers_option
@watch_option
@log_format_option
@click.option(
    "--reload-code",
    is_flag=True,
    help="For development: replace the instances of `app` services when a Python file in their folder changes.",
)
def up(
    config: str | None,
    listen: Address | None,
    admin: Address | str | None,
    workers: int | None,
    watch: bool,
    log_format: str,
    reload_code: bool,
) -> NoReturn:
    """Run the instances of all services, and the gateway. Ctrl-C stops everything; a second Ctrl-C kills everything.

    The options override the file.
    """
    name, text, loaded = read_for_start(config, watch)
    if reload_code and not watch and all(service.app is None for service in loaded.services.values()):
        raise click.UsageError("--reload-code needs a service with app")
    given = {"listen": listen, "admin": admin or admin_token(), "workers": workers}
    overrides = frozenset(key for key, value in given.items() if value is not None)
    folder = Path(name).resolve().parent
    # Symbolic links are not resolved: they may lead elsewhere when the file is reloaded.
    path = Path(name).absolute()
    config_in_force = override(loaded, listen, admin, workers)
    supervise(Setup(config_in_force, text, name, folder, path, overrides, watch, reload_code), log_format)

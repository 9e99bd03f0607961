"""``passerelle gateway``: run one gateway worker without a supervisor."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from passerelle.cli.options import admin_address_option, listen_option, watch_option
from passerelle.cli.starting import override, read_for_start
from passerelle.cli.support import config_argument, exit_negative
from passerelle.config.models.addresses import Address
from passerelle.system import descriptors, startup, systemd


@click.command(short_help="Run one gateway worker alone, for containers.")
@config_argument
@listen_option
@admin_address_option
@watch_option
def gateway(config: str | None, listen: Address | None, admin: Address | str | None, watch: bool) -> NoReturn:
    """Run one gateway worker alone, for containers. The services must run elsewhere (`targets`, `zones`)."""
    name, text, loaded = read_for_start(config, watch)
    local = [name for name, service in loaded.services.items() if service.is_local]
    if local:
        click.echo(
            f"{name}: `passerelle gateway` does not start services with app or run: {', '.join(local)};"
            " give them targets, or use `passerelle up`",
            err=True,
        )
        exit_negative()
    if loaded.workers > 1:
        click.echo(f"{name}: workers: {loaded.workers} applies to `passerelle up` only; this is one worker", err=True)
    from passerelle.supervisor import standalone
    from passerelle.supervisor import worker_main as worker

    startup.reset_signals()
    descriptors.raise_limit()
    passed, notifier = systemd.take()
    work = standalone.serve(
        override(loaded, listen, admin, None),
        text,
        name,
        follow=watch,
        overrides=frozenset({"listen"} if listen is not None else ()),
        passed=passed,
        notifier=notifier,
    )
    sys.exit(worker.run(work))

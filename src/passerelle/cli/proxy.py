"""``passerelle proxy``: put a gateway in front of running servers, without a file."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import click
import orjson

from passerelle.cli.options import (
    admin_address_option,
    listen_option,
    log_format_option,
    parsed_by,
    workers_option,
)
from passerelle.cli.starting import override, supervise
from passerelle.config.loader import inspect_text
from passerelle.config.models.addresses import Address, parse_url
from passerelle.config.models.balance import KEYLESS_POLICIES
from passerelle.supervisor.fleet import Setup


@click.command(short_help="Balance requests over running servers, without a file.")
@click.argument("urls", metavar="URL...", nargs=-1, required=True, callback=parsed_by(parse_url))
@listen_option
@admin_address_option
@workers_option
@log_format_option
@click.option(
    "--balance",
    type=click.Choice(KEYLESS_POLICIES),
    default="p2c",
    show_default=True,
    help="Policy that picks a target.",
)
def proxy(
    urls: tuple[Address, ...],
    listen: Address | None,
    admin: Address | str | None,
    workers: int | None,
    log_format: str,
    balance: str,
) -> NoReturn:
    """Balance requests over running servers, without a file: `passerelle proxy http://127.0.0.1:5000`."""
    # JSON is YAML (YAML 1.2 §1.3), so this is a configuration like any other.
    text = orjson.dumps(
        {
            "services": {"upstream": {"targets": [url.url for url in urls], "balance": balance}},
            # There is no guard that an encoded slash could lead past.
            "routes": [{"path": "/{rest*}", "service": "upstream", "encoded_slashes": "keep"}],
        }
    ).decode()
    name = "the command line"
    report = inspect_text(text, name)
    if report.config is None:
        raise click.UsageError("; ".join(problem.message for problem in report.errors))
    supervise(Setup(override(report.config, listen, admin, workers), text, name, Path.cwd()), log_format)

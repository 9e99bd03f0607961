"""``passerelle import``: a first configuration from the file of another gateway."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from passerelle.cli.support import Commands, exit_negative

if TYPE_CHECKING:
    from passerelle.importing.draft import Skipped

Importer = Callable[[str], "tuple[str, list[Skipped]]"]


@click.group(name="import", cls=Commands, short_help="Make a first file from that of another gateway.")
def import_() -> None:
    """Make a first gateway.yaml from the file of another gateway.

    What is not carried over is listed on stderr and at the top of the result, each with its line. The exit code is 0 if
    everything was carried over, and 1 if something was not. The result passes `passerelle check --elsewhere`; a route
    whose access rules were not carried over responds 501.
    """


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    force = click.option("--force", is_flag=True, help="With -o: replace a file.")
    output = click.option("-o", "--output", metavar="FILE", help="Write the configuration to FILE instead of stdout.")
    file = click.argument("file", metavar="FILE")
    for option in (force, output, file):
        function = option(function)
    return function


@import_.command(short_help="From a configuration of nginx.")
@_options
def nginx(file: str, output: str | None, force: bool) -> None:
    """Import FILE, the main file of nginx or one with server blocks, with the files that it includes.

    \b
    Example:
      passerelle import nginx /etc/nginx/nginx.conf -o gateway.yaml
    """
    from passerelle.importing.nginx import import_nginx

    _run(import_nginx, file, output, force)


@import_.command(short_help="From a configuration of Traefik.")
@_options
def traefik(file: str, output: str | None, force: bool) -> None:
    """Import FILE: a static or dynamic configuration in YAML or TOML, or a Compose file with labels.

    \b
    Example:
      passerelle import traefik dynamic.yaml -o gateway.yaml
    """
    from passerelle.importing.traefik import import_traefik

    _run(import_traefik, file, output, force)


@import_.command(short_help="From a declarative configuration of Kong.")
@_options
def kong(file: str, output: str | None, force: bool) -> None:
    """Import FILE, a declarative configuration of Kong.

    \b
    Example:
      passerelle import kong kong.yaml -o gateway.yaml
    """
    from passerelle.importing.kong import import_kong

    _run(import_kong, file, output, force)


def _run(importer: Importer, file: str, output: str | None, force: bool) -> None:
    from passerelle.importing.draft import ImportProblem

    if output is not None and os.path.exists(output) and not force:
        raise click.UsageError(f"{output} exists; --force replaces it")
    try:
        text, skipped = importer(file)
    except ImportProblem as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise click.UsageError(f"cannot read {file}: {(error.strerror or str(error)).lower()}") from None
    if output is None:
        click.echo(text, nl=False)
    else:
        try:
            with open(output, "w" if force else "x", encoding="utf-8") as target:
                target.write(text)
        except OSError as error:
            raise click.UsageError(f"cannot write {output}: {(error.strerror or str(error)).lower()}") from None
    for each in skipped:
        click.echo(str(each), err=True)
    if skipped:
        exit_negative()

"""``passerelle version``: print versions."""

from __future__ import annotations

import importlib.metadata
import platform
import re

import click

from passerelle import __version__
from passerelle.cli.support import json_option, print_json

_NAME = re.compile(r"[A-Za-z0-9._-]+").match


@click.command(short_help="Print versions.")
@json_option
def version(as_json: bool) -> None:
    """Print the versions of passerelle, Python and the required packages."""
    parts = {"passerelle": __version__, "python": platform.python_version()}
    for requirement in importlib.metadata.requires("passerelle") or ():
        found = _NAME(requirement)
        if found is not None and "extra ==" not in requirement:
            parts[found.group()] = _installed(found.group())
    if as_json:
        print_json(parts)
        return
    width = max(map(len, parts))
    for name, number in parts.items():
        click.echo(f"{name.ljust(width)}  {number}")


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"

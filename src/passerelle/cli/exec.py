"""``passerelle exec``: run a command with references of the configuration in its words and its environment."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

_NOT_EXECUTABLE, _NOT_FOUND = 126, 127  # as in a shell


@click.command(
    short_help="Run a command with secrets from files, for containers.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option("--env", multiple=True, metavar="NAME=TEXT", help="Set a variable; TEXT may contain references.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec(env: Sequence[str], command: Sequence[str]) -> NoReturn:
    """Run COMMAND in place of this process. Its words may contain the references of a configuration:
    `${VAR}`, `${VAR:-default}` and `${file:path}`; `$$` is a dollar sign.

    So a program that reads a password from its environment gets it from a file, and neither a configuration nor the
    list of processes shows it.

    \b
    Examples:
      passerelle exec --env 'DATABASE_URL=postgresql://shop:${file:/run/secrets/password}@db/shop' -- flask run
    """
    words = [_filled(word, f"word {number}") for number, word in enumerate(command, 1)]
    environ = dict(os.environ)
    for each in env:
        name, sign, text = each.partition("=")
        if not sign or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise click.UsageError(f"--env: found {name!r}; allowed is NAME=TEXT")
        environ[name] = _filled(text, f"the variable {name}")
    sys.stdout.flush()
    try:
        os.execvpe(words[0], words, environ)  # noqa: S606 - without a shell
    except FileNotFoundError:
        click.echo(f"passerelle: cannot run {words[0]}: no such file", err=True)
        sys.exit(_NOT_FOUND)
    except OSError as error:
        click.echo(f"passerelle: cannot run {words[0]}: {(error.strerror or str(error)).lower()}", err=True)
        sys.exit(_NOT_EXECUTABLE)


def _filled(text: str, place: str) -> str:
    """Return ``text`` with its references replaced. A value is never part of a message."""
    from passerelle.config.reading.substitute import substitute

    found = substitute(text, os.environ, Path.cwd())
    if found.problems:
        raise click.ClickException(f"{place}: {found.problems[0][1]}")
    if "\0" in found.text:
        raise click.ClickException(f"{place}: the value has a NUL octet (it is not shown)")
    return found.text

"""What the commands share: finding and reading the file, printing, and usage errors on one line."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from passerelle.config import Config, LoadReport, Problem

CONFIG_NAMES = ("gateway.yaml", "passerelle.yaml")
"""Where the configuration is looked for when no file is named, in this order."""


class Commands(click.Group):
    """A group that says which commands there are, and the nearest one, to who asks for another."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but with the names of the commands."""
        name, known = args[0], self.list_commands(ctx)
        if name not in known and not name.startswith("-") and not ctx.resilient_parsing:
            from passerelle.config.reading.wording import hint

            near = "; did you mean --help?" if name == "help" else hint(name, known)
            raise click.UsageError(f"no command {name!r}; allowed: {', '.join(known)}{near}", ctx)
        return super().resolve_command(ctx, args)


class LazyGroup(Commands):
    """A group whose commands are imported when they are used: ``lazy`` maps their names to ``module:attribute``."""

    def __init__(self, *args: Any, lazy: dict[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the order of ``lazy``."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command called ``cmd_name``, imported now."""
        if cmd_name not in self._lazy:
            return None
        module, _, attribute = self._lazy[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


def config_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """The optional ``CONFIG`` argument: a path, or None (see :func:`config_path`)."""
    return click.argument("config", required=False, type=click.Path())(function)


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """The ``--json`` flag, as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(function)


def config_path(given: str | None) -> str:
    """The file to read: the one that was named, or ``gateway.yaml`` or ``passerelle.yaml`` in the current folder."""
    if given is not None:
        return given
    for name in CONFIG_NAMES:
        if os.path.isfile(name):  # which answers in a folder too that may not be looked into
            return name
    raise click.UsageError(f"found neither {' nor '.join(CONFIG_NAMES)} in this folder; name the file")


def read_report(given: str | None, *, elsewhere: bool) -> tuple[str, LoadReport]:
    """The path of the file, and everything that can be said about it. A file that cannot be read is wrong usage.

    ``elsewhere``: files and folders that this machine lacks are warned of, and no errors.
    """
    from passerelle.config import inspect

    path = config_path(given)
    try:
        return path, inspect(path, elsewhere=elsewhere)
    except OSError as error:
        raise click.UsageError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None


def read_config(given: str | None) -> Config:
    """The configuration, for a command that starts nothing. Errors in it go to stderr and end the command with 1."""
    _, report = read_report(given, elsewhere=True)
    print_problems(report.warnings, "warning: ", err=True)
    if report.config is None:
        print_problems(report.errors, err=True)
        exit_negative()
    return report.config


def print_problems(problems: Sequence[Problem], prefix: str = "", *, err: bool = False) -> None:
    """One line a problem: ``file:line:column: key: message``."""
    for problem in problems:
        place = click.style(f"{problem.file}:{problem.line}:{problem.column}:", bold=True)
        key = click.style(f"{problem.key}:", fg="cyan") + " " if problem.key else ""
        tone = click.style(prefix, fg="yellow") if prefix else ""
        click.echo(f"{place} {key}{tone}{problem.message}", err=err)


def print_json(value: object) -> None:
    """``value`` as indented JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns of text, as wide as they need to be; a column without any text is left out."""
    used = [any(row[column] for row in rows) for column in range(len(head))]
    head, *rows = [[cell for cell, keep in zip(row, used, strict=True) if keep] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for number, row in enumerate((head, *rows)):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        click.echo(click.style(line, bold=True) if number == 0 else line)


def exit_negative() -> NoReturn:
    """End with 1: the command did its work, and the answer is no."""
    raise click.exceptions.Exit(1)


def use_colour() -> bool | None:
    """False with ``NO_COLOR`` in the environment (https://no-color.org); None lets click ask the terminal."""
    return False if os.environ.get("NO_COLOR") else None

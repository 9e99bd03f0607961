"""What the commands share: finding and reading the file, printing, groups of commands."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from keyword import iskeyword
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from passerelle.system.quick_import import import_uncollected

if TYPE_CHECKING:
    from collections.abc import Callable

    from passerelle.config import Config, LoadReport, Problem

_NARROWEST = 20  # columns of a wrapped cell

CONFIG_NAMES = ("gateway.yaml", "passerelle.yaml")
"""The names under which the configuration is looked for if no file is given, in this order."""


class Commands(click.Group):
    """A group that reports an unknown command with the known ones and the most similar one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve a command as click does, with another error for an unknown one."""
        name, known = args[0], self.list_commands(ctx)
        if name not in known and not name.startswith("-") and not ctx.resilient_parsing:
            from passerelle.config.reading.wording import hint

            near = "; did you mean --help?" if name == "help" else hint(name, known)
            raise click.UsageError(f"no command {name!r}; allowed: {', '.join(known)}{near}", ctx)
        return super().resolve_command(ctx, args)


class LazyGroup(Commands):
    """A group whose commands are imported when they are used.

    Each of ``names`` is a command in the module of ``package`` with the same name; one that is a keyword of Python has
    an underscore behind it there.
    """

    def __init__(self, *args: Any, package: str, names: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._package = package
        self._names = names

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all commands, in the order of ``names``."""
        return list(self._names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command ``cmd_name``."""
        if cmd_name not in self._names:
            return None
        name = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        command = getattr(import_uncollected(f"{self._package}.{name}"), name)
        assert isinstance(command, click.Command)
        return command


def config_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the optional ``CONFIG`` argument: a path, or None (see :func:`config_path`)."""
    return click.argument("config", required=False, type=click.Path())(function)


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the ``--json`` flag, as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(function)


def config_path(given: str | None) -> str:
    """Return the file to read: ``given``, or ``gateway.yaml`` or ``passerelle.yaml`` in the current folder."""
    if given is not None:
        return given
    for name in CONFIG_NAMES:
        if os.path.isfile(name):  # which does not raise if the folder is not accessible
            return name
    raise click.UsageError(f"found neither {' nor '.join(CONFIG_NAMES)} in this folder; give the path of the file")


def read_report(given: str | None, *, elsewhere: bool) -> tuple[str, LoadReport]:
    """Return the path of the configuration, and the report of its check.

    With ``elsewhere``, files and folders that are missing on this machine are warnings instead of errors.

    :raises click.UsageError: if the file cannot be read.
    """
    from passerelle.config import inspect

    path = config_path(given)
    try:
        return path, inspect(path, elsewhere=elsewhere)
    except OSError as error:
        raise click.UsageError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None


def read_config(given: str | None) -> Config:
    """Return the configuration, for a command that starts nothing.

    If it has errors, they are printed to stderr and the command ends with 1.
    """
    _, report = read_report(given, elsewhere=True)
    return _usable(report)


def read_text(given: str | None) -> tuple[str, str, Config]:
    """Return the path of the configuration, its text and what it contains, for a command that starts nothing.

    If it has errors, they are printed to stderr and the command ends with 1.

    :raises click.UsageError: if the file cannot be read.
    """
    from passerelle.config import inspect_bytes
    from passerelle.config.reading import yaml_tree

    path = config_path(given)
    try:
        with open(path, "rb") as file:
            data = file.read(yaml_tree.MAX_BYTES + 1)
        report = inspect_bytes(data, path, folder=Path(path).parent, elsewhere=True)
    except OSError as error:
        raise click.UsageError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    return path, data.decode("utf-8-sig", "replace"), _usable(report)


def _usable(report: LoadReport) -> Config:
    print_problems(report.warnings, "warning: ", err=True)
    if report.config is None:
        print_problems(report.errors, err=True)
        exit_negative()
    return report.config


def print_problems(problems: Sequence[Problem], prefix: str = "", *, err: bool = False) -> None:
    """Print ``problems``, one line each: ``file:line:column: key: message``."""
    for problem in problems:
        place = click.style(f"{problem.file}:{problem.line}:{problem.column}:", bold=True)
        key = click.style(f"{problem.key}:", fg="cyan") + " " if problem.key else ""
        tone = click.style(prefix, fg="yellow") if prefix else ""
        click.echo(f"{place} {key}{tone}{problem.message}", err=err)


def print_json(value: object) -> None:
    """Print ``value`` as indented JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def terminal_width() -> int | None:
    """Return the number of columns of the terminal that stdout is, or None if it is none: then nothing is shortened."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_parts(parts: Sequence[str]) -> None:
    """Print ``parts`` with `` · `` between them, on several lines where one is too narrow."""
    width, lines = terminal_width(), [parts[0]]
    for part in parts[1:]:
        joined = f"{lines[-1]} · {part}"
        if width is None or len(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(part)
    click.echo("\n".join(lines))


def print_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    drop: Sequence[str] = (),
    wrap: str | None = None,
    err: bool = False,
) -> None:
    """Print rows in aligned columns; a column without any text is left out.

    If the terminal is too narrow, columns of ``drop`` are left out, in this order, and named below the table, and cells
    of the column ``wrap`` continue on further lines.
    """
    used = [any(row[column] for row in rows) for column in range(len(head))]
    head, *rows = [[cell for cell, keep in zip(row, used, strict=True) if keep] for row in (head, *rows)]
    width = terminal_width()
    table = [list(row) for row in (head, *rows)]
    dropped: list[str] = []
    for name in drop:
        if width is None or _fits(table, width, wrap):
            break
        if name in table[0]:
            column = table[0].index(name)
            table = [row[:column] + row[column + 1 :] for row in table]
            dropped.append(name)
    if width is not None and wrap in table[0]:
        table = _wrapped(table, table[0].index(wrap), width)
    widths = _widths(table)
    for number, row in enumerate(table):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        click.echo(click.style(line, bold=True) if number == 0 else line, err=err)
    if dropped:
        click.echo(f"\nleft out (narrow terminal; --json has all): {', '.join(dropped)}", err=err)


def _widths(table: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*table, strict=True)]


def _fits(table: Sequence[Sequence[str]], width: int, wrap: str | None) -> bool:
    widths = _widths(table)
    if wrap in table[0]:
        column = table[0].index(wrap)
        widths[column] = min(widths[column], _NARROWEST)
    return sum(widths) + 2 * (len(widths) - 1) <= width


def _wrapped(table: Sequence[Sequence[str]], column: int, width: int) -> list[list[str]]:
    """Continue the cells of ``column`` on further rows, so that the table has ``width`` columns if possible."""
    widths = _widths(table)
    room = max(width - sum(widths) - 2 * (len(widths) - 1) + widths[column], _NARROWEST)
    rows: list[list[str]] = []
    for row in table:
        glued = row[column].replace(": ", ":\0")  # a name stays with what follows it
        pieces = textwrap.wrap(glued, room, break_long_words=False, break_on_hyphens=False) or [""]
        pieces = [piece.replace("\0", " ") for piece in pieces]
        rows.append([*row[:column], pieces[0], *row[column + 1 :]])
        rows += [[""] * column + [piece] + [""] * (len(row) - column - 1) for piece in pieces[1:]]
    return rows


def exit_negative() -> NoReturn:
    """End the command with 1: it has done its work, and the result is negative."""
    raise click.exceptions.Exit(1)


def use_colour() -> bool | None:
    """Return False if ``NO_COLOR`` is set (https://no-color.org), or None, with which click decides by the terminal."""
    return False if os.environ.get("NO_COLOR") else None

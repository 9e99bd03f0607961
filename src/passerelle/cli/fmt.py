"""``passerelle fmt``: write configuration files in their canonical form."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import click

from passerelle.cli.support import config_path, exit_negative


@click.command(short_help="Format configuration files.")
@click.argument("files", nargs=-1, metavar="[CONFIG]...", type=click.Path())
@click.option("--check", is_flag=True, help="Change nothing; list the files that are not formatted, and exit with 1.")
def fmt(files: tuple[str, ...], check: bool) -> None:
    """Write configuration files with their keys in the order of the reference, and one indentation and spelling.

    Comments stay where they belong. What a file means does not change: the command compares what it contains before and
    after. With - as CONFIG, it formats standard input to standard output.

    \b
    Examples:
      passerelle fmt
      passerelle fmt gateway.yaml routes/*.yaml
      passerelle fmt --check                  in a pipeline
      passerelle fmt - < old.yaml > new.yaml
    """
    from passerelle.config.formatting import CannotFormat, reformat
    from passerelle.config.reading.yaml_tree import MAX_BYTES, SyntaxProblem

    wrong = False
    for name in files or (config_path(None),):
        shown = "<stdin>" if name == "-" else name
        try:
            if name == "-":
                data = sys.stdin.buffer.read(MAX_BYTES + 1)
            else:
                with open(name, "rb") as file:
                    data = file.read(MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                raise click.UsageError(f"{shown} has more than {MAX_BYTES >> 20} MiB")
            text = data.decode("utf-8")
            made = reformat(text, folder=Path(name).parent)
        except OSError as error:
            raise click.UsageError(f"cannot read {name}: {(error.strerror or str(error)).lower()}") from None
        except UnicodeDecodeError:
            raise click.UsageError(f"{shown} is not UTF-8 text") from None
        except SyntaxProblem as problem:
            click.echo(f"{shown}:{problem.line}:{problem.column}: {problem.message}", err=True)
            wrong = True
            continue
        except CannotFormat as problem:
            click.echo(f"{shown}: {problem}", err=True)
            wrong = True
            continue
        if check:
            if made != text:
                click.echo(f"{shown} is not formatted")
                wrong = True
        elif name == "-":
            sys.stdout.write(made)
        elif made != text:
            _replace(name, made)
            click.echo(f"{name} formatted")
    if wrong:
        exit_negative()


def _replace(name: str, text: str) -> None:
    """Replace the file as a whole, with its permissions; behind a symbolic link, that to which it leads."""
    path = os.path.realpath(name)
    mode = os.stat(path).st_mode & 0o7777
    made = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", newline="", dir=os.path.dirname(path), delete=False
        ) as f:
            made = f.name
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(made, mode)
        os.replace(made, path)
    except OSError as error:
        if made is not None:
            os.unlink(made)
        raise click.ClickException(f"cannot write {name}: {(error.strerror or str(error)).lower()}") from None

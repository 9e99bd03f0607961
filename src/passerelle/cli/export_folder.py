"""Write the files of an export to a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import click

from passerelle.cli.support import exit_negative

MARK = "Exported by passerelle from "
"""What an exported file contains at its beginning."""


def write_folder(folder: Path, files: Mapping[str, str], config: str, *, force: bool, own: str = "") -> None:
    """Write files by their paths in ``folder``.

    Nothing is written if one would replace a file that was not exported, or ``config``, the configuration itself. Files
    below ``own`` belong to the user once they exist: they stay as they are.
    """
    kept = {name for name in files if own and name.startswith(own) and (folder / name).exists() and not force}
    for name in files.keys() - kept:
        _refuse_foreign(folder / name, config, force)
    for name, text in files.items():
        path = folder / name
        if name not in kept:
            _replace(path, text)
        click.echo(f"{'kept' if name in kept else 'wrote'} {path}", err=True)


def _refuse_foreign(path: Path, config: str, force: bool) -> None:
    """End the command if a file would be replaced that was not exported. The configuration never is."""
    try:
        if path.exists() and os.path.exists(config) and path.samefile(config):
            raise click.UsageError(f"{path} is the configuration itself; give another folder")
        if path.exists() and not force and not _was_exported(path):
            click.echo(f"{path} exists and was not exported by passerelle; --force replaces it", err=True)
            exit_negative()
    except OSError as error:
        raise _cannot_write(path, error) from None


def _replace(path: Path, text: str) -> None:
    """Write a file, all of it or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from None


def _cannot_write(path: Path, error: OSError) -> click.ClickException:
    return click.ClickException(f"cannot write {path}: {(error.strerror or str(error)).lower()}")


def _was_exported(path: Path) -> bool:
    with path.open("rb") as file:
        return MARK in file.read(1024).decode("utf-8", "replace")

"""Exports that consist of several files: write them to a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import click

from passerelle.cli.support import exit_negative

MARK = "Exported by passerelle from "
"""What the first line of an exported file contains."""


def write_folder(folder: Path, files: Mapping[str, str], *, force: bool, own: str = "") -> None:
    """Write files by their paths in ``folder``. Nothing is written if one would replace a file that was not exported.

    Files below ``own`` belong to the user once they exist: they stay as they are.
    """
    kept = {name for name in files if own and name.startswith(own) and (folder / name).exists() and not force}
    try:
        for name in files.keys() - kept:
            path = folder / name
            if path.exists() and not force and MARK not in _first_line(path):
                click.echo(f"{path} exists and was not exported by passerelle; --force replaces it", err=True)
                exit_negative()
        for name, text in files.items():
            path = folder / name
            if name in kept:
                click.echo(f"kept {path}", err=True)
                continue
            _replace(path, text)
            click.echo(f"wrote {path}", err=True)
    except OSError as error:
        where = error.filename or folder
        raise click.ClickException(f"cannot write {where}: {(error.strerror or str(error)).lower()}") from None


def _replace(path: Path, text: str) -> None:
    """Write a file, all of it or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _first_line(path: Path) -> str:
    with path.open("rb") as file:
        return file.readline(1024).decode("utf-8", "replace")

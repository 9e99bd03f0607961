"""What is wrong with the files and folders of this machine that a configuration names, and that a start needs.

A start makes a log and a store itself, but no folder for them. Certificates are judged in
:mod:`passerelle.config.checks.tls`, by what is in them too.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from passerelle.config.models.config import Config, Service
from passerelle.config.models.target import Target
from passerelle.config.problems import Finding, Loc

_EFFECTIVE = os.access in os.supports_effective_ids


def unreadable(loc: Loc, path: Path) -> Finding | None:
    """The finding about a file that a start reads, if it cannot."""
    try:
        with path.open("rb"):
            return None
    except OSError as error:
        return Finding(loc, f"cannot read {path}: {error.strerror}", here=True)


def log_errors(path: Path) -> Iterator[Finding]:
    """Findings about the file of ``access_log``."""
    why = _unwritable(path)
    if why is not None:
        yield Finding(("access_log",), f"cannot write {path}: {why}", here=True)


def store_file_errors(loc: Loc, path: Path) -> Iterator[Finding]:
    """Findings about an SQLite file at ``loc``.

    It is never opened: to close it again would take the locks away that SQLite has on it, where this process uses it
    (https://www.sqlite.org/howtocorrupt.html §2.2).
    """
    why = _unwritable(path)
    if why is None and os.path.exists(path):
        folder = _folder(path)
        if not _may(path, os.R_OK):
            why = "no permission to read it"
        elif not _may(folder, os.W_OK | os.X_OK):
            why = f"no permission to create files in {folder}, which SQLite needs"
    if why is not None:
        yield Finding(loc, f"cannot write {path}: {why}", here=True)


def folder_errors(name: str, service: Service) -> Iterator[Finding]:
    """The folder that a service is to start in."""
    if service.cwd is not None and not os.path.isdir(service.cwd):
        why = "it is not a folder" if os.path.exists(service.cwd) else "no such folder"
        yield Finding(("services", name, "cwd"), f"cannot start in {service.cwd}: {why}", here=True)


def list_warnings(config: Config) -> Iterator[Finding]:
    """Lists of targets that are not there yet: a start waits for them."""
    for name, service in config.services.items():
        yield from _lists(("services", name, "targets"), service.targets or ())
        for key, zone in (service.zones or {}).items():
            yield from _lists(("services", name, "zones", key, "targets"), zone.targets)


def _lists(loc: Loc, targets: Iterable[Target]) -> Iterator[Finding]:
    for index, target in enumerate(targets):
        if target.file is not None and not os.path.exists(target.file):
            yield Finding((*loc, index, "file"), "no such file; it provides no targets until it exists")


def _unwritable(path: Path) -> str | None:
    """Why nothing can be written at ``path``, which need not be there; None where it can."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return _no_room(_folder(path))
    except OSError as error:
        return (error.strerror or str(error)).lower()
    if stat.S_ISDIR(mode):
        return "it is a folder"
    return None if _may(path, os.W_OK) else "no permission to write it"


def _folder(path: Path) -> Path:
    """Where a file is made: through a link, even to nothing, that is where it leads."""
    return (path.resolve() if path.is_symlink() else path).parent


def _no_room(folder: Path) -> str | None:
    if not os.path.exists(folder):
        return f"the folder {folder} does not exist; create it first"
    if not os.path.isdir(folder):
        return f"{folder} is not a folder"
    return None if _may(folder, os.W_OK | os.X_OK) else f"no permission to create a file in {folder}"


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=_EFFECTIVE)

"""Checks of the files and folders that a configuration names and that a start needs on this machine.

A start creates logs and stores, but not their folders. :mod:`passerelle.config.checks.tls` checks certificates and
their content.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from passerelle.config.models.config import Config, Service
from passerelle.config.models.error_pages import MOST
from passerelle.config.models.target import Target
from passerelle.config.problems import Finding, Loc

_EFFECTIVE = os.access in os.supports_effective_ids


def unreadable(loc: Loc, path: Path) -> Finding | None:
    """Check a file that a start reads. Returns a finding if it cannot be read."""
    try:
        with path.open("rb"):
            return None
    except OSError as error:
        return Finding(loc, f"cannot read {path}: {error.strerror}", here=True)


def account_errors(user: str | None, group: str | None) -> Iterator[Finding]:
    """Check ``user`` and ``group``."""
    if group is not None and user is None:
        yield Finding(("group",), f"found {group} without user; set user as well", at_key=True)
    for key, name, find in (("user", user, pwd.getpwnam), ("group", group, grp.getgrnam)):
        if name is not None:
            try:
                find(name)
            except KeyError:
                yield Finding((key,), f"found {name!r}; there is no such {key} on this machine", here=True)


def log_errors(path: Path) -> Iterator[Finding]:
    """Check the file of ``access_log``."""
    why = _unwritable(path)
    if why is not None:
        yield Finding(("access_log",), f"cannot write {path}: {why}", here=True)


def store_file_errors(loc: Loc, path: Path) -> Iterator[Finding]:
    """Check the SQLite file of the key at ``loc``.

    The file is never opened: closing it would release the locks of SQLite, if this process uses the database
    (https://www.sqlite.org/howtocorrupt.html §2.2).
    """
    why = _unwritable(path)
    if why is None and os.path.exists(path):
        folder = _folder(path)
        if not _has_permission(path, os.R_OK):
            why = "no permission to read it"
        elif not _has_permission(folder, os.W_OK | os.X_OK):
            why = f"no permission to create files in {folder}, which SQLite needs"
    if why is not None:
        yield Finding(loc, f"cannot write {path}: {why}", here=True)


def folder_errors(name: str, service: Service) -> Iterator[Finding]:
    """Check the working directory of a service."""
    if service.cwd is not None and not os.path.isdir(service.cwd):
        why = "it is not a folder" if os.path.exists(service.cwd) else "no such folder"
        yield Finding(("services", name, "cwd"), f"cannot start in {service.cwd}: {why}", here=True)


def page_errors(pages: Mapping[str, Path]) -> Iterator[Finding]:
    """Check the files of ``errors``."""
    for status, path in pages.items():
        finding = unreadable(("errors", status), path)
        if finding is None and path.stat().st_size > MOST:
            finding = Finding(("errors", status), f"found a page of more than {MOST >> 20} MiB: {path}")
        if finding is not None:
            yield finding


def list_warnings(config: Config) -> Iterator[Finding]:
    """Find target lists that do not exist yet. A start does not fail without them."""
    for name, service in config.services.items():
        yield from _lists(("services", name, "targets"), service.targets or ())
        for key, zone in (service.zones or {}).items():
            yield from _lists(("services", name, "zones", key, "targets"), zone.targets)


def _lists(loc: Loc, targets: Iterable[Target]) -> Iterator[Finding]:
    for index, target in enumerate(targets):
        if target.file is not None and not os.path.exists(target.file):
            yield Finding((*loc, index, "file"), "no such file; it provides no targets until it exists")


def _unwritable(path: Path) -> str | None:
    """Return why ``path`` cannot be written, or None. The file need not exist."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return _cannot_create_in(_folder(path))
    except OSError as error:
        return (error.strerror or str(error)).lower()
    if stat.S_ISDIR(mode):
        return "it is a folder"
    return None if _has_permission(path, os.W_OK) else "no permission to write it"


def _folder(path: Path) -> Path:
    """Return the folder in which a file is created. A symbolic link is followed, even if its target does not exist."""
    return (path.resolve() if path.is_symlink() else path).parent


def _cannot_create_in(folder: Path) -> str | None:
    if not os.path.exists(folder):
        return f"the folder {folder} does not exist; create it first"
    if not os.path.isdir(folder):
        return f"{folder} is not a folder"
    return None if _has_permission(folder, os.W_OK | os.X_OK) else f"no permission to create a file in {folder}"


def _has_permission(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=_EFFECTIVE)

"""Restart the instances of ``app`` services when their Python files change, for development.

The files are polled: no system call reports changes in every kind of file system, such as a folder that is mounted into
a virtual machine. A scan of a thousand files takes about ten milliseconds, in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

from passerelle.supervisor.errors import ChangeRefused
from passerelle.supervisor.fleet import Fleet
from passerelle.supervisor.reconciler import Reconciler

INTERVAL = 0.5  # seconds between two scans
SETTLE = 0.1  # seconds without a change before instances are restarted, because an editor may still write
MOST_FILES = 20_000  # files in one folder that are watched at most

Stamps = dict[str, tuple[int, int]]
"""The modification time and the size of each file, by path."""

_LEFT_OUT = frozenset({"__pycache__", "node_modules", "site-packages"})
_UNCHECKED_BYTES = 1024 * 1024  # larger files are not compiled before the restart


class CodeWatch:
    """Watches the folders of the ``app`` services of ``fleet``, and restarts them through ``reconciler``."""

    def __init__(self, fleet: Fleet, reconciler: Reconciler) -> None:
        self._fleet = fleet
        self._reconciler = reconciler
        self._known: dict[Path, Stamps] = {}
        self._too_many: set[Path] = set()

    async def follow(self) -> NoReturn:
        """Watch until cancelled. Changes count from the first scan of a folder."""
        while True:
            await self.check()
            await asyncio.sleep(INTERVAL)

    async def check(self) -> None:
        """Scan all folders once, and restart the services whose files have changed."""
        services = self._folders()
        for folder in services.keys() - self._known.keys():
            self._known[folder] = await self._scan(folder)
        for folder in self._known.keys() - services.keys():
            del self._known[folder]
        for folder, names in services.items():
            if changed := await self._changed(folder):
                await self._restart(folder, names, changed)

    def _folders(self) -> dict[Path, list[str]]:
        """Return the folders of applications, each with the names of its services."""
        folders: dict[Path, list[str]] = {}
        for name, config in self._fleet.config.services.items():
            if config.app is not None:
                folders.setdefault(Path(config.cwd or self._fleet.folder).resolve(), []).append(name)
        return folders

    async def _scan(self, folder: Path) -> Stamps:
        stamps = await asyncio.to_thread(scan, folder)
        if len(stamps) >= MOST_FILES and folder not in self._too_many:
            self._too_many.add(folder)
            self._fleet.report.log(f"{folder} has more than {MOST_FILES} Python files; the others are not watched")
        return stamps

    async def _changed(self, folder: Path) -> list[str]:
        """Return the files that have changed since the last call, once they no longer change."""
        before, now = self._known[folder], await self._scan(folder)
        if now == before:
            return []
        while True:
            await asyncio.sleep(SETTLE)
            settled = await self._scan(folder)
            if settled == now:
                break
            now = settled
        self._known[folder] = now
        return differences(before, now)

    async def _restart(self, folder: Path, names: list[str], changed: list[str]) -> None:
        report, top = self._fleet.report, f"{folder}/"
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        what = f"{changed[0].removeprefix(top)}{more} changed"
        if problem := await asyncio.to_thread(syntax_problem, changed):
            report.log(f"{what}: {problem.removeprefix(top)}; the instances of {', '.join(names)} keep running")
            return
        report.log(f"{what}: restarting {', '.join(names)}")
        for name in names:
            with contextlib.suppress(ChangeRefused):  # which is reported
                await self._reconciler.restart(name)


def scan(folder: Path, most: int = MOST_FILES) -> Stamps:
    """Return the stamps of the Python files in ``folder`` and the folders below, at most ``most``.

    Hidden folders, ``__pycache__``, ``node_modules``, ``site-packages`` and virtual environments below are left out,
    and symbolic links to folders are not followed.
    """
    stamps: Stamps = {}
    top = os.fspath(folder)
    folders = [top]
    while folders:
        path = folders.pop()
        with contextlib.suppress(OSError), os.scandir(path) as entries:
            below = []
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if not entry.name.startswith(".") and entry.name not in _LEFT_OUT:
                        below.append(entry.path)
                elif entry.name == "pyvenv.cfg" and path != top:
                    break
                elif entry.name.endswith(".py") and not entry.name.startswith("."):
                    if len(stamps) >= most:
                        return stamps
                    with contextlib.suppress(OSError):  # removed since, or a link to nothing
                        status = entry.stat()
                        stamps[entry.path] = status.st_mtime_ns, status.st_size
            else:
                folders += below
    return stamps


def differences(before: Mapping[str, tuple[int, int]], now: Mapping[str, tuple[int, int]]) -> list[str]:
    """Return the files that were written, added or removed, in order."""
    return sorted(path for path in before.keys() | now.keys() if before.get(path) != now.get(path))


def syntax_problem(paths: Iterable[str]) -> str:
    """Return ``path:line: reason`` of the first file that cannot be compiled; empty if all can."""
    for path in paths:
        try:
            with open(path, "rb") as file:
                source = file.read(_UNCHECKED_BYTES + 1)
            if len(source) <= _UNCHECKED_BYTES:
                compile(source, path, "exec", dont_inherit=True)
        except SyntaxError as error:
            return f"{path}:{error.lineno or 1}: {error.msg}"
        except (OSError, ValueError, RecursionError, MemoryError):
            continue  # removed meanwhile, or a file that only the import can judge
    return ""

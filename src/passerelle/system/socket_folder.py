"""A folder for the Unix sockets of instances, which only this user and root may enter."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import tempfile

_MOST_OCTETS = 100  # of a path: unix(7) has room for 107
_PREFIX = "passerelle-"
_PLACES = ("/tmp", "/dev/shm")  # noqa: S108 - mkdir makes a new folder there, or fails
_ATTEMPTS = 10  # for a name that is free


class SocketFolder:
    """The folder, made when the first path is taken. ``places`` are tried in turn after that of temporary files."""

    def __init__(self, places: tuple[str, ...] = _PLACES) -> None:
        self._places = places
        self._numbers = itertools.count(1)
        self._folder = ""
        self._failed = False

    def path(self) -> str:
        """Return a new path for a socket; empty if no folder can be made."""
        if not self._folder and not self._failed:
            self._folder = self._make()
            self._failed = not self._folder
        return f"{self._folder}/{next(self._numbers)}" if self._folder else ""

    def _make(self) -> str:
        for place in (tempfile.gettempdir(), *self._places):
            if len(os.fsencode(place)) + len(_PREFIX) + 20 > _MOST_OCTETS:
                continue
            for _ in range(_ATTEMPTS):
                folder = f"{place}/{_PREFIX}{secrets.randbelow(10**8):08}"
                try:
                    os.mkdir(folder, 0o700)
                except FileExistsError:
                    continue
                except OSError:
                    break
                return folder
        return ""

    def remove(self) -> None:
        """Remove the folder and the sockets in it."""
        folder, self._folder = self._folder, ""
        if folder:
            shutil.rmtree(folder, ignore_errors=True)

"""The lock of the folder for state: one gateway at a time keeps the splits of a file there.

The kernel holds the lock (flock(2)) for the process, and drops it with the process, however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from passerelle.config.models.config import Config
from passerelle.errors import CannotStart
from passerelle.supervisor.store_choice import state_folder

NAME: Final = "lock"
_MOST_OCTETS: Final = 100  # of a lock file


class StateInUse(CannotStart):
    """Another process keeps its state in the same folder. The text is one line for the user."""


class StateLock:
    """The locks that this process has. ``folder`` is that of the configuration file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[Path, int] = {}  # by folder for state, with the descriptor

    def take(self, config: Config) -> None:
        """Take the lock that ``config`` needs: that of its folder, if it has splits and no Redis for them.

        A folder that cannot be written has no lock: the store of splits reports it.

        :raises StateInUse: if another process has it.
        """
        state = self._wanted(config)
        if state is None or state in self._held:
            return
        try:
            # As the store makes it, or as it is made before it is given to `user`.
            given = config.user is not None
            state.mkdir(mode=0o750 if given else 0o700, parents=given, exist_ok=True)
            descriptor = os.open(state / NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            since = datetime.now(UTC).isoformat(" ", "seconds").removesuffix("+00:00")
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()}, since {since} UTC\n".encode(), 0)
        except BlockingIOError:
            holder = os.pread(descriptor, _MOST_OCTETS, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise StateInUse(
                f"another gateway runs with the state in {state} ({holder or 'it is starting'}); stop that one, "
                "or give this one another folder with `state`"
            ) from None
        except OSError:  # no locks in this file system, or no space
            with contextlib.suppress(OSError):
                os.close(descriptor)
            return
        self._held[state] = descriptor

    def release(self, config: Config | None = None) -> None:
        """Release all locks but the one that ``config`` needs."""
        kept = self._wanted(config) if config is not None else None
        for state in self._held.keys() - {kept}:
            os.close(self._held.pop(state))

    def _wanted(self, config: Config) -> Path | None:
        return state_folder(config, self._folder).absolute() if config.splits and config.redis is None else None

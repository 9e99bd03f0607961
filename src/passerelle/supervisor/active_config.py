"""The configuration in force, and the file from which it is reloaded."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from passerelle.config.loader import inspect_bytes
from passerelle.config.models.config import Config
from passerelle.supervisor.errors import ChangeRefused
from passerelle.supervisor.file_watch import watch
from passerelle.supervisor.identity import dropped_to

# Keys that a reload does not change, because they belong to sockets and processes.
FIXED = ("admin", "workers", "access_log", "access_log_format", "user", "group")


_DENIED = os.strerror(errno.EACCES).lower()


def _why(denied: bool) -> list[str]:
    """Explain why a file that was read at the start is not readable now: root has read it."""
    user = dropped_to()
    if not denied or user is None:
        return []
    return [f"the gateway runs as {user} since its start as root; a restart reads files that only root can read"]


class Candidate(NamedTuple):
    """A valid configuration that was read from the file and is not applied yet.

    The keys in :data:`FIXED` have the values in force. ``after_restart`` lists those whose value in the file differs.
    """

    config: Config
    text: str
    after_restart: list[str]


class ActiveConfig:
    """The configuration in force: ``config``, which was read as ``text`` from ``file``.

    ``path`` is where the file is read again; None if there is no file. ``overrides`` are the keys that the command line
    replaced. ``problems`` are the reasons why the current contents of the file are not in force. ``included`` are the
    included files of the last reading, which may have been refused: a change of any of them is a reason to read again.
    """

    def __init__(
        self, config: Config, text: str, file: str, path: Path | None, overrides: frozenset[str] = frozenset()
    ) -> None:
        self.config = config
        self.text = text
        self.file = file
        self.problems: tuple[str, ...] = ()
        self._path = path
        self._overrides = overrides
        self.included = config.included

    def read(self) -> Candidate:
        """Read and check the file.

        :raises ChangeRefused: with every problem of the file, or if there is no file.
        """
        if self._path is None:
            raise ChangeRefused("there is no file to reload: this gateway was started without a configuration file")
        try:
            data = self._path.read_bytes()
        except OSError as error:
            raise ChangeRefused(
                f"cannot read {self.file}: {error.strerror}", *_why(error.errno == errno.EACCES)
            ) from error
        report = inspect_bytes(data, self.file, folder=Path(self.file).parent)
        self.included = report.included
        if report.config is None:
            listed = [str(problem) for problem in report.errors]
            raise ChangeRefused(*listed, *_why(any(_DENIED in text.lower() for text in listed)))
        found = report.config
        fixed = (*FIXED, "listen") if "listen" in self._overrides else FIXED
        differing = [key for key in fixed if getattr(found, key) != getattr(self.config, key)]
        kept = {key: getattr(self.config, key) for key in fixed}
        after_restart = [key for key in differing if key not in self._overrides]
        return Candidate(found.model_copy(update=kept), data.decode("utf-8-sig"), after_restart)

    def apply(self, candidate: Candidate) -> dict[str, Any]:
        """Put ``candidate`` in force. Returns the response of the admin port to the reload."""
        self.config = candidate.config
        self.text = candidate.text
        message = f"{self.file} reloaded"
        if candidate.after_restart:
            message += f"; restart to apply the new values of: {', '.join(candidate.after_restart)}"
        return {"message": message, "after_restart": candidate.after_restart}

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Record in ``problems`` whether the reload in the body of the ``with`` statement is refused.

        A refusal after :meth:`apply` is not a problem of the file.
        """
        before = self.config
        try:
            yield
        except ChangeRefused as refused:
            self.problems = refused.problems if self.config is before and self._path is not None else ()
            raise
        self.problems = ()

    async def follow(self, reload: Callable[[], Awaitable[None]]) -> None:
        """Await ``reload()`` whenever the file, or one that it includes, has changed, until cancelled.

        Does nothing if there is no file.
        """
        path = self._path
        if path is None:
            return

        async def on_change() -> None:
            with contextlib.suppress(OSError):
                same = path.read_bytes().decode("utf-8-sig", "replace") == self.text
                if not self.problems and same and self.included.is_current():
                    return
            await reload()

        await watch(path, on_change, others=lambda: [Path(name) for name in self.included.paths()])

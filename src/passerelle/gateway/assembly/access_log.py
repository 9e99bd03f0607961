"""The destination of the access log, in the format of the configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from passerelle.config.models.access_log import split_target
from passerelle.config.models.config import Config
from passerelle.observability.log_formats import converter, converting
from passerelle.observability.log_sink import LogSink
from passerelle.observability.log_targets import (
    QueuedSink,
    SocketTarget,
    host_and_pid,
    journal_message,
    syslog_message,
)


class Sink(Protocol):
    """What takes the lines over. See :class:`.log_sink.LogSink`."""

    def put(self, lines: list[bytes], size: int) -> None:
        """Take over complete lines of ``size`` bytes."""

    def reopen(self) -> None:
        """Open the destination again."""

    def counts(self) -> tuple[int, int]:
        """Return the number of lines written and of lines dropped."""

    def close(self, timeout: float) -> None:
        """Write what waits for at most ``timeout`` seconds, and close the destination."""


Put = Callable[[list[bytes], int], None]


def open_access_log(config: Config, stderr: int = 2) -> tuple[Sink, Put] | None:
    """Open the destination; return it, and what takes lines of JSON. None if there is no access log.

    ``stderr`` is the descriptor that ``access_log: stderr`` writes to.

    :raises OSError: if a file cannot be opened.
    """
    where, convert = config.access_log, converter(config.access_log_format)
    if where == "off":
        return None
    if isinstance(where, Path) or where in ("stdout", "stderr"):
        file = LogSink(where if isinstance(where, Path) else None, fd=stderr if where == "stderr" else 1)
        return file, file.put if convert is None else converting(file.put, convert)
    kind, host, port = split_target(where)
    if kind == "journald":
        encode = journal_message(convert)
    else:
        name, pid = host_and_pid()
        encode = syslog_message(convert, host=name, pid=pid)
    queued = QueuedSink(SocketTarget(kind, host, port), encode)
    return queued, queued.put

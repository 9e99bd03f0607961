"""The console output of ``passerelle up``: start report, progress, and the named output of each process."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

from passerelle.balancing.health import HealthChange, HealthState
from passerelle.observability.readable_log import ReadableLog
from passerelle.supervisor.line_budget import Admitted, LineBudget
from passerelle.supervisor.output import Output
from passerelle.supervisor.supervised import SupervisedProcess

OWN = "passerelle"

_PALETTE = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)  # SGR colours (ECMA-48 §8.3.117)
_PROGRESS_EVERY = 5.0  # seconds between two lines of progress if the output is not a terminal
_PROGRESS_AFTER = 1.0  # seconds until progress is shown
# Lines about health at once, and seconds until another one is allowed: a thousand targets may go down together.
_HEALTH_LINES = 20
_HEALTH_LINE_SECONDS = 1.0
_MANY = 10  # more instances of a service that are up than this are shown in one row


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One row of the start report. ``seconds`` is the start time of a process of a service, None for all others."""

    name: str
    service: str
    state: str
    address: str
    pid: int | None
    seconds: float | None
    problem: str = ""

    @property
    def is_up(self) -> bool:
        """Whether the process or target is up."""
        return self.state == "up"


def wants_colour(stream: IO[str], environ: dict[str, str] | os._Environ[str] = os.environ) -> bool:
    """Whether ``stream`` is a terminal with colours, and ``NO_COLOR`` is not set (https://no-color.org)."""
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


class ConsoleReport:
    """Writes to ``output``.

    With ``terminal``, progress is one line that is rewritten; with ``colour``, names have colours. With
    ``readable_log``, lines of the access log are converted from JSON to readable text.
    """

    def __init__(
        self,
        output: Output,
        *,
        terminal: bool,
        colour: bool,
        clock: Callable[[], float],
        readable_log: bool = False,
    ) -> None:
        self._output = output
        self._terminal = terminal
        self._colour = colour
        self._readable_log = readable_log
        self._clock = clock
        self._width = len(OWN)
        self._colours: dict[str, int] = {}
        self._progress = ""
        self._progress_since: float | None = None
        self._progress_shown = 0.0
        self._shown: dict[str, str] = {}  # by process name, the reason of the end for which its last lines were shown
        self._health_lines = LineBudget(_HEALTH_LINES, _HEALTH_LINE_SECONDS)
        self.started = False

    # Lines

    def set_names(self, names: Sequence[str]) -> None:
        """Set the names of all processes, which determine the width of the column of names."""
        self._width = max(map(len, (OWN, *names)))

    def line(self, name: str, text: bytes) -> None:
        """Write one line of the output of the process ``name``."""
        self._put(self._prefix(name) + text + (b"\x1b[0m\n" if self._colour and b"\x1b" in text else b"\n"))

    def access_log(self, name: str, data: bytes) -> None:
        """Write whole lines of the access log of the worker ``name``."""
        if not self._readable_log:
            self._put(data)
            return
        prefix = self._prefix(name)
        log = ReadableLog(_terminal_width() - self._width - len(" | "), colour=self._colour)
        self._put(b"".join(prefix + log.convert(line) + b"\n" for line in data.splitlines()))

    def log(self, text: str) -> None:
        """Write a line in the name of passerelle."""
        self.line(OWN, text.encode())

    def _prefix(self, name: str) -> bytes:
        padded = f"{name:<{self._width}}"
        return f"{self._paint(padded, self._colour_of(name))} {self._paint('|', 2)} ".encode()

    def _colour_of(self, name: str) -> int:
        if name == OWN:
            return 1
        service = name.rpartition("-")[0] or name
        return self._colours.setdefault(service, _PALETTE[len(self._colours) % len(_PALETTE)])

    def _paint(self, text: str, code: int) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text

    def _put(self, data: bytes) -> None:
        if self._progress and self._terminal:
            data = b"\r\x1b[K" + data + self._progress.encode()
        self._output.write(data)

    # Progress

    def progress(self, text: str) -> None:
        """Show what the supervisor waits for. Called repeatedly during the wait, and with an empty text at its end.

        Nothing is shown in the first second.
        """
        now = self._clock()
        if not text:
            if self._progress and self._terminal:
                self._output.write(b"\r\x1b[K")
            self._progress, self._progress_since = "", None
            return
        if self._progress_since is None:
            self._progress_since = now
            self._progress_shown = now + _PROGRESS_AFTER - _PROGRESS_EVERY
        waited = now - self._progress_since
        if waited < _PROGRESS_AFTER:
            return
        text = f"{text} ({waited:.0f} s)"
        if self._terminal:
            self._progress = text[: _terminal_width() - 1]
            self._put(b"")
        elif now - self._progress_shown >= _PROGRESS_EVERY:
            self._progress_shown = now
            self.log(text)

    # Events

    def up(self, member: SupervisedProcess) -> None:
        """Report that ``member`` is up for the first time since its start."""
        self._shown.pop(member.name, None)
        if self.started:
            pid = member.process.pid if member.process is not None else 0
            self.log(f"{member.name} is up (pid {pid}, start {member.starts})")

    def health(self, label: str, change: HealthChange, problem: str) -> None:
        """Report that an instance is down, ejected, or up again.

        The start report has the state before it. Drains are reported by the change that makes them.
        """
        if not self.started:
            return
        if change.after is HealthState.DOWN:
            text = self._paint(f"{label} is down", 31) + (f": {problem}" if problem else "")
        elif change.after is HealthState.EJECTED:
            text = self._paint(f"{label} is ejected", 31) + ": requests to it keep failing"
        elif change.after is HealthState.UP:
            text = f"{label} is up" + ("" if change.before is HealthState.JOINING else " again")
        else:
            return
        match self._health_lines.admit(self._clock()):
            case Admitted.YES:
                self.log(text)
            case Admitted.LAST:
                self.log(text)
                self.log("further changes of health are left out for a while; see passerelle status")

    def late(self, name: str, problem: str) -> None:
        """Report why a process that accepts connections is not up yet."""
        self.log(self._paint(f"{name} is not up yet", 33) + f": {problem}")

    def ended(
        self, member: SupervisedProcess, reason: str, after: float, again_in: float, tail: Sequence[bytes]
    ) -> None:
        """Report that ``member`` has ended or could not be started.

        Its last lines are repeated, unless its previous end had the same reason.
        """
        self.log(
            self._paint(f"{member.name} {reason}", 31) + f" after {elapsed_text(after)}; next start in {again_in:.1f} s"
        )
        if tail and self._shown.get(member.name) != reason:
            self._shown[member.name] = reason
            self.log(f"the last lines of {member.name}:")
            for text in tail:
                self.line(OWN, b"    " + text)

    # The start report

    def start(self, version: str, file: str, rows: Sequence[ReportRow], listen: str, admin: str | None) -> None:
        """Write the start report: all rows, and the addresses of the gateway and its admin port."""
        self.progress("")
        self.started = True
        shown = _summarized(rows)
        names = max((len(row.name) for row in shown), default=0)
        addresses = max((len(row.address) for row in shown), default=0)
        text = ["", f"{self._paint(OWN, 1)} {version} · {file}", ""]
        text += [self._row(row, names, addresses) for row in shown]
        for service in dict.fromkeys(row.service for row in rows if row.service):
            if not any(row.is_up for row in rows if row.service == service):
                text.append(self._paint(f"  {service}: no instance is up; requests to it get 503 until one is", 31))
        where = f"listening on {self._paint(listen, 1)}"
        text += ["", where + (f" · admin http://{admin}" if admin is not None else ""), ""]
        self._put("\n".join([*text, ""]).encode())

    def _row(self, row: ReportRow, names: int, addresses: int) -> str:
        state = self._paint(f"{row.state:<8}", 32 if row.is_up else 31)
        name = self._paint(f"{row.name:<{names}}", self._colour_of(row.name))
        pid = f"pid {row.pid}" if row.pid is not None else ""
        note = f"{elapsed_text(row.seconds):>7}" if row.is_up and row.seconds is not None else row.problem
        return f"  {name}  {state}  {row.address:<{addresses}}  {pid:<11}  {note}".rstrip()


def _summarized(rows: Sequence[ReportRow]) -> list[ReportRow]:
    """Return ``rows``, with one row in place of more than :data:`_MANY` instances of a service that are up."""
    shown: list[ReportRow] = []
    for service in dict.fromkeys(row.service for row in rows):
        mine = [row for row in rows if row.service == service]
        up = [row for row in mine if row.is_up]
        if len(up) > _MANY:
            slowest = max((row.seconds for row in up if row.seconds is not None), default=None)
            last = up[-1].name.rpartition("-")[2]
            shown.append(ReportRow(f"{up[0].name} … {last}", service, "up", f"{len(up)} instances", None, slowest))
            mine = [row for row in mine if not row.is_up]
        shown += mine
    return shown


def elapsed_text(value: float) -> str:
    """Format seconds for humans: ``0.31 s``, ``12.4 s``, ``1 h 04 min``."""
    if value < 10:
        return f"{value:.2f} s"
    if value < 100:
        return f"{value:.1f} s"
    minutes, rest = divmod(int(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def _terminal_width() -> int:
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80

"""Requests of an access log: ours as JSON, or the common and combined formats of Apache and nginx.

A log is read line by line in bounded memory. What cannot be read is counted, and the first such lines are listed.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Final, cast
from urllib.parse import urlsplit

import orjson

from passerelle.config.models.values import METHODS
from passerelle.errors import Failure
from passerelle.migration.found_routes import SourceError
from passerelle.routing.paths import canonical_path

MOST_LINE: Final = 65_536
"""Longest line, in bytes. Longer ones are not read."""
MOST_EXAMPLES: Final = 5

# No quantifier inside of a quantifier can match the same text: a hostile line takes linear time.
_COMBINED = re.compile(
    rb'(?P<client>\S{1,200}) [^\["]*\[(?P<time>[^\]]{20,32})\] "(?P<request>(?:[^"\\]|\\.)*)" (?P<status>\d{3}) \S+'
    rb'(?: "(?:[^"\\]|\\.)*" "(?P<agent>(?:[^"\\]|\\.)*)")?'
)
_METHODS = frozenset(method.encode() for method in METHODS)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_NUMBERS = {month: number for number, month in enumerate(_MONTHS, 1)}


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """A request of a log. ``client`` is a number for its address, consumer and user agent, ``at`` in seconds.

    ``host`` is empty where the log has none.
    """

    at: float
    client: int
    method: bytes
    path: bytes
    status: int
    host: bytes = b""


@dataclass(slots=True)
class LogSummary:
    """What was in the logs: lines, requests, and the lines that could not be read."""

    lines: int = 0
    requests: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add_unreadable(self, place: str, why: str) -> None:
        """Count a line that cannot be read. ``why`` is one of a few fixed texts."""
        self.unreadable[why] += 1
        if len(self.examples) < MOST_EXAMPLES:
            self.examples.append(f"{place}: {why}")


class _Unreadable(Exception):
    """A line is no request; the text is the reason."""


def read_log(path: Path, summary: LogSummary) -> Iterator[LoggedRequest]:
    """Yield the requests of the log at ``path``, which may be compressed (``.gz``), and count them in ``summary``.

    :raises SourceError: if the file cannot be read.
    """
    if path.exists() and not path.is_file():
        raise SourceError(f"cannot read {path}: it is not a file, and a log is read twice")
    parser = _Parser()
    number = 0
    try:
        with _opened(path) as file:
            for number, line in enumerate(_lines(file), 1):
                summary.lines += 1
                try:
                    request = parser.parse(line)
                except _Unreadable as why:
                    summary.add_unreadable(f"{path}:{number}", str(why))
                    continue
                summary.requests += 1
                yield request
    except (EOFError, zlib.error) as error:
        raise SourceError(f"{path}:{number + 1}: the compressed data is damaged: {error}") from None
    except OSError as error:
        raise SourceError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None


def _opened(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _lines(file: IO[bytes]) -> Iterator[bytes | None]:
    """Yield the lines of a file; None for one that is too long."""
    while line := file.readline(MOST_LINE + 1):
        if len(line) <= MOST_LINE or line.endswith(b"\n"):
            yield line
            continue
        while (more := file.readline(MOST_LINE)) and not more.endswith(b"\n"):
            pass
        yield None


class _Parser:
    """Parses lines of any of the formats. The last time is kept: most lines have the time of the line before."""

    __slots__ = ("_at", "_time")

    def __init__(self) -> None:
        self._time: str = ""
        self._at = 0.0

    def parse(self, line: bytes | None) -> LoggedRequest:
        """Parse a line; raise :class:`_Unreadable` if it is no request."""
        if line is None:
            raise _Unreadable("longer than 64 KiB")
        line = line.strip()
        if line.startswith(b"{"):
            return self._json(line)
        if not line:
            raise _Unreadable("empty")
        match = _COMBINED.match(line)
        if match is None:
            raise _Unreadable("neither JSON nor the common or combined format")
        words = match["request"].split(b" ")
        if len(words) not in (2, 3):
            raise _Unreadable("no request line")
        at = self._seconds(match["time"].decode("latin-1"), _iso)
        client = hash((match["client"], match["agent"]))
        return LoggedRequest(at, client, _method(words[0]), _path(words[1]), int(match["status"]))

    def _json(self, line: bytes) -> LoggedRequest:
        try:
            found = orjson.loads(line)
        except orjson.JSONDecodeError:
            raise _Unreadable("invalid JSON") from None
        try:
            time, method, target, status = found["time"], found["method"], found["target"], found["status"]
        except KeyError:
            raise _Unreadable("JSON without time, method, target and status") from None
        is_usable = isinstance(time, str) and isinstance(method, str) and isinstance(target, str)
        if not is_usable or not isinstance(status, int):
            raise _Unreadable("JSON with another type of time, method, target or status")
        client = hash((str(found.get("consumer") or found.get("client")), str(found.get("user_agent"))))
        host = str(found.get("host") or "").encode("latin-1", "replace")
        path = _path(target.encode("latin-1", "replace"))
        return LoggedRequest(self._seconds(time, str), client, _method(method.encode()), path, status, host)

    def _seconds(self, text: str, iso: Callable[[str], str]) -> float:
        if text != self._time:
            try:
                self._at = datetime.fromisoformat(iso(text)).timestamp()
            except (ValueError, KeyError, OverflowError, OSError):
                raise _Unreadable("no time") from None
            self._time = text
        return self._at


def _iso(text: str) -> str:
    """Return a time such as ``10/Oct/2000:13:55:36 -0700`` in ISO 8601: strptime takes ten times as long."""
    return f"{text[7:11]}-{_NUMBERS[text[3:6]]:02}-{text[:2]}T{text[12:20]}{text[21:]}"


def _method(method: bytes) -> bytes:
    if method not in _METHODS:
        raise _Unreadable("no known method")
    return method


def _path(target: bytes) -> bytes:
    if not target.startswith(b"/"):
        try:
            target = urlsplit(target).path or b"/"
        except ValueError:
            raise _Unreadable("no path") from None
    path = target.partition(b"?")[0]
    try:
        return canonical_path(path, keep_slashes=True)
    except Failure:
        raise _Unreadable("a path that the gateway refuses") from None

"""One line of JSON a request, made with one ``%`` on bytes and handed on in batches.

The fields, their order and their units are in ``docs/reference/access-log.md``. A line costs about 1.3 µs: a route's
fixed fields are in its template, the time is formatted once a millisecond, and one pass over the values finds out
whether anything needs escaping, which almost nothing does.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

from passerelle.errors import Failure
from passerelle.observability.redaction import redact

# A batch is handed on when it is this large or this old.
BATCH_BYTES = 64 * 1024
BATCH_SECONDS = 0.1

# A write of at most PIPE_BUF (4096 on Linux) bytes to a pipe is never torn apart by another process that writes to it
# (POSIX write()): workers that share one stdout do not break each other's lines. Longer lines are cut to fit.
LINE_BYTES = 4096
_TARGET_BYTES, _AGENT_BYTES, _WHY_BYTES, _OTHER_BYTES = 1536, 384, 384, 128
_ELLIPSIS = rb"\u2026"

# Every byte that may stand in a JSON string as it is maps to itself. In _PLAIN, "?" and "@" do not: the one starts a
# query, the other ends user information, and either may hold a secret.
_JSON = bytes(c if 0x20 <= c < 0x7F and c not in b'"\\' else c ^ 1 for c in range(256))
_PLAIN = _JSON.replace(b"?", b"\0").replace(b"@", b"\0")

_DYNAMIC = (
    b'{"time":"%b","request_id":"%b","client":"%b","method":"%b","target":"%b","host":"%b","user_agent":"%b",'
    b'"status":%d,"bytes_in":%d,"bytes_out":%d,"duration_ms":%.3f,"upstream_ms":%.3f,"attempts":%d,"instance":%b,'
)
# Whole characters of an escaped string: what is left of one that was cut in the middle of an escape.
_WHOLE = re.compile(rb"(?:[^\\]|\\u[0-9a-f]{4}|\\[^u])*")
_FAILURE = b',"failure":"%b","side":"%b","why":"%b"'

# Instances come and go; their quoted names are kept, up to this many.
_MOST_NAMES = 4096


class AccessLog:
    """Collects lines and hands them to ``put`` in batches.

    ``put`` takes a list of lines and their size in bytes, and must not block (see
    :class:`passerelle.observability.log_sink.LogSink`). ``call_later`` is the loop's. ``clock`` gives seconds since the
    epoch. Used from one thread.
    """

    def __init__(
        self,
        put: Callable[[list[bytes], int], None],
        call_later: Callable[[float, Callable[[], None]], object],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._put = put
        self._call_later = call_later
        self._clock = clock
        self._lines: list[bytes] = []
        self._size = 0
        self._armed = False
        self._stamp = b""
        self._stamp_from = self._stamp_until = 0.0
        self._names: dict[str | None, bytes] = {None: b"null"}

    def route(self, route: str, service: str | None) -> RouteLog:
        """What writes the lines of one route; ``service`` is None for one that no single service answers."""
        return RouteLog(self, route, service)

    def flush(self) -> None:
        """Hand on what there is."""
        self._armed = False
        if self._lines:
            lines, size = self._lines, self._size
            self._lines, self._size = [], 0
            self._put(lines, size)

    def _tick(self, now: float) -> None:
        millisecond = int(now * 1000)
        second, rest = divmod(millisecond, 1000)
        until_second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode("ascii")
        self._stamp = b"%b.%03dZ" % (until_second, rest)
        self._stamp_from, self._stamp_until = millisecond / 1000, (millisecond + 1) / 1000

    def _quote(self, name: str) -> bytes:
        if len(self._names) >= _MOST_NAMES:
            self._names = {None: b"null"}
        quoted = self._names[name] = json.dumps(name).encode("ascii")
        return quoted


class RouteLog:
    """Writes the lines of one route."""

    __slots__ = ("_failed", "_log", "_plain")

    def __init__(self, log: AccessLog, route: str, service: str | None) -> None:
        self._log = log
        fixed = f'"route":{json.dumps(route)},"service":{json.dumps(service)}'.encode("ascii").replace(b"%", b"%%")
        self._plain = _DYNAMIC + fixed + b"}\n"
        self._failed = _DYNAMIC + fixed + _FAILURE + b"}\n"

    def add(
        self,
        request_id: bytes,
        client: bytes,
        method: bytes,
        target: bytes,
        host: bytes,
        user_agent: bytes,
        status: int,
        bytes_in: int,
        bytes_out: int,
        seconds: float,
        upstream_seconds: float,
        attempts: int,
        instance: str | None,
        failure: Failure | None = None,
    ) -> None:
        """Log one finished request.

        The first six are as they came (any bytes; empty where there was none). ``bytes_in`` and ``bytes_out`` are the
        octets of the two bodies. ``seconds`` is the whole request, ``upstream_seconds`` its attempts alone (0 with
        none). ``instance`` is the one that answered, or the last one tried.
        """
        log = self._log
        now = log._clock()
        if not log._stamp_from <= now < log._stamp_until:
            log._tick(now)
        values = b"".join((request_id, client, method, host, user_agent, target))
        if values.translate(_PLAIN) != values:
            request_id, client, method = _checked(request_id), _checked(client), _checked(method)
            host, user_agent, target = _checked(host), _checked(user_agent), _clean(target)
        arguments = (
            log._stamp,
            request_id,
            client,
            method,
            target,
            host,
            user_agent,
            status,
            bytes_in,
            bytes_out,
            seconds * 1000.0,
            upstream_seconds * 1000.0,
            attempts,
            log._names.get(instance) or log._quote(instance or ""),
        )
        line = self._plain % arguments if failure is None else self._failed % (arguments + _told(failure))
        size = len(line)
        if size > LINE_BYTES:
            line = self._shorter(arguments, failure)
            size = len(line)
        log._lines.append(line)
        log._size += size
        if log._size >= BATCH_BYTES:
            log.flush()
        elif not log._armed:
            log._armed = True
            log._call_later(BATCH_SECONDS, log.flush)

    def _shorter(self, arguments: tuple[Any, ...], failure: Failure | None) -> bytes:
        stamp, request_id, client, method, target, host, user_agent, *numbers, instance = arguments
        request_id, client, method, host = (_cut(value, _OTHER_BYTES) for value in (request_id, client, method, host))
        target, user_agent = _cut(target, _TARGET_BYTES), _cut(user_agent, _AGENT_BYTES)
        arguments = (stamp, request_id, client, method, target, host, user_agent, *numbers, instance)
        if failure is None:
            return self._plain % arguments
        kind, side, why = _told(failure)
        return self._failed % (*arguments, kind, side, _cut(why, _WHY_BYTES))


def escape(value: bytes) -> bytes:
    """The inside of a JSON string for octets: each octet is the character with its number, as in Latin-1.

    So any octets make valid JSON, and what they were can be had back (``.encode("latin-1")`` in Python).
    """
    return json.dumps(value.decode("latin-1"))[1:-1].encode("ascii")


def _checked(value: bytes) -> bytes:
    return value if value.translate(_PLAIN) == value else escape(value)


def _clean(target: bytes) -> bytes:
    if 63 not in target and 64 not in target:
        return _checked(target)
    cleaned = redact(target, _TARGET_BYTES)
    if cleaned.translate(_JSON) != cleaned:
        cleaned = escape(cleaned)
    return cleaned if len(target) <= _TARGET_BYTES else cleaned + _ELLIPSIS


def _cut(escaped: bytes, most: int) -> bytes:
    if len(escaped) <= most:
        return escaped
    whole = _WHOLE.match(escaped[:most])
    return (whole[0] if whole else b"") + _ELLIPSIS


def _told(failure: Failure) -> tuple[bytes, bytes, bytes]:
    why = json.dumps(failure.detail or failure.title)[1:-1]
    return failure.kind.value.encode("ascii"), failure.side.value.encode("ascii"), why.encode("ascii")

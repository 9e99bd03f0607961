"""Access log: one JSON line per request, formatted with a single ``%`` on bytes and written in batches.

``docs/reference/access-log.md`` describes the fields, their order and their units. Parts that repeat from request to
request (the client, the outcome, the second) are formatted and escaped once and cached. The remaining values rarely
need escaping, so one check of the target suffices.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from math import floor

from passerelle.errors import Failure
from passerelle.observability.redaction import redact

# A batch is formatted and passed on when it has this many lines or is this old.
BATCH_LINES = 128
BATCH_SECONDS = 0.1

# A write of at most PIPE_BUF (4096 on Linux) bytes to a pipe is atomic (POSIX write()): workers that share one stdout
# do not interleave their lines. Longer lines are cut to fit.
LINE_BYTES = 4096
_TARGET_BYTES, _AGENT_BYTES, _WHY_BYTES, _OTHER_BYTES = 1536, 384, 384, 128
# A client with a longer user agent is not cached.
_KEY_BYTES = 1024
_ELLIPSIS = rb"\u2026"

# Bytes that need no escaping in a JSON string map to themselves. In _PLAIN, "?" and "@" do not: the first starts a
# query, the second ends user information, and either may contain a secret.
_JSON = bytes(c if 0x20 <= c < 0x7F and c not in b'"\\' else c ^ 1 for c in range(256))
_PLAIN = _JSON.replace(b"?", b"\0").replace(b"@", b"\0")

_LINE = (
    b'{"time":"%b","request_id":"%b",%b,"target":"%b",%b,"bytes_in":%d,"bytes_out":%d,"duration_us":%d,"upstream_us":%d'
    b"%b}\n"
)
# The line of a hit, which has no request body, no attempts and no failure.
_HIT_LINE = (
    b'{"time":"%b","request_id":"%b",%b,"target":"%b",%b,"bytes_in":0,"bytes_out":%d,'
    b'"duration_us":%d,"upstream_us":0}\n'
)
_WHO = b'"client":"%b","method":"%b","host":"%b","user_agent":"%b"'
_WHAT = '"status":{},"attempts":{},"instance":{},"route":{},"service":{},"cache":{}'
# Complete characters of an escaped string, used after a string was cut in the middle of an escape, or between the two
# of a surrogate pair (RFC 8259 §7).
_WHOLE = re.compile(rb"(?:[^\\]|\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}|\\u(?!d[89a-f])[0-9a-f]{4}|\\[^u])*")
_FAILURE = b',"failure":"%b","side":"%b","why":"%b"'

# The end of a time, by millisecond.
_THOUSANDTHS = [b"%03dZ" % millisecond for millisecond in range(1000)]

# Maximum number of cached parts: clients and instances come and go.
_MOST_KNOWN = 4096


class AccessLog:
    """Collects lines and passes them to ``put`` in batches.

    ``put`` takes a list of lines and their size in bytes, and must not block (see
    :class:`passerelle.observability.log_sink.LogSink`). ``call_later`` is the event loop's. ``clock`` gives seconds
    since the epoch. Not thread-safe.
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
        self._armed = False
        self._second = -1
        self._until_second = self._stamp = b""
        self._stamp_from = self._stamp_until = 0.0
        self._who: dict[tuple[bytes, bytes, bytes, bytes], bytes] = {}
        self._consumers: dict[str, bytes] = {}

    def route(self, route: str, service: str | None, *, errors_only: bool = False) -> RouteLog:
        """Return the writer for one route; ``service`` is None for a route that is not served by a single service."""
        return (ErrorLog if errors_only else RouteLog)(self, route, service)

    def flush(self) -> None:
        """Pass on all collected lines."""
        self._armed = False
        if self._lines:
            lines, self._lines = self._lines, []
            self._put(lines, sum(map(len, lines)))

    def _tick(self, now: float) -> None:
        millisecond = int(now * 1000)
        second, rest = divmod(millisecond, 1000)
        if second != self._second:
            self._second = second
            self._until_second = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second)).encode("ascii")
        self._stamp = self._until_second + _THOUSANDTHS[rest]
        self._stamp_from, self._stamp_until = millisecond / 1000, (millisecond + 1) / 1000

    def _client_part(self, client: bytes, method: bytes, host: bytes, user_agent: bytes) -> bytes:
        if len(self._who) >= _MOST_KNOWN:
            self._who.clear()
        made = _WHO % (
            _cut(escape(client), _OTHER_BYTES),
            _cut(escape(method), _OTHER_BYTES),
            _cut(escape(host), _OTHER_BYTES),
            _cut(escape(user_agent), _AGENT_BYTES),
        )
        if len(method) + len(host) + len(user_agent) <= _KEY_BYTES:
            self._who[client, method, host, user_agent] = made
        return made

    def _consumer_part(self, consumer: str) -> bytes:
        if len(self._consumers) >= _MOST_KNOWN:
            self._consumers.clear()
        made = b',"consumer":"%b"' % _cut(_escape_text(consumer), _OTHER_BYTES)
        if len(consumer) <= _KEY_BYTES:
            self._consumers[consumer] = made
        return made


class RouteLog:
    """Writes the lines of one route."""

    __slots__ = ("_hits", "_log", "_route", "_service", "_what")

    def __init__(self, log: AccessLog, route: str, service: str | None) -> None:
        self._log = log
        self._route = json.dumps(route)
        self._service = json.dumps(service)
        self._hits: dict[int, bytes] = {}  # by status, of which there are few
        self._what: dict[tuple[int, int, str | None, str | None], bytes] = {}

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
        cache: str | None = None,
        consumer: str | None = None,
        extra: bytes = b"",
    ) -> None:
        """Log a finished request.

        The first six arguments are as received (any bytes; empty if absent). ``bytes_in`` and ``bytes_out`` are the
        octets of the two bodies. ``seconds`` is the duration of the whole request, ``upstream_seconds`` of its attempts
        alone (0 without attempts). ``instance`` is the one that responded, or the last one tried. ``cache`` is the
        result of the cache, if it was involved. ``consumer`` is the authenticated consumer. ``extra`` has
        further members as JSON, each after a comma.
        """
        log = self._log
        now = log._clock()
        if not log._stamp_from <= now < log._stamp_until:
            log._tick(now)
        if request_id.translate(_PLAIN) != request_id:
            request_id = escape(request_id)
        if len(target) > _TARGET_BYTES or target.translate(_PLAIN) != target:
            target = _clean(target)
        # Client and outcome repeat from request to request: caching their text halves the cost of a line.
        who = log._who.get((client, method, host, user_agent)) or log._client_part(client, method, host, user_agent)
        known = self._what.get((status, attempts, instance, cache))
        what = known or self._outcome_part(status, attempts, instance, cache)
        more = b""
        if consumer is not None:
            more = log._consumers.get(consumer) or log._consumer_part(consumer)
        if extra:
            more += extra
        if failure is not None:
            more += _FAILURE % _failure_text(failure)
        log._lines.append(
            _LINE
            % (
                log._stamp,
                request_id,
                who,
                target,
                what,
                bytes_in,
                bytes_out,
                floor(seconds * 1e6),  # a third of the instructions of int()
                floor(upstream_seconds * 1e6),
                more,
            )
        )
        if not log._armed:
            log._armed = True
            log._call_later(BATCH_SECONDS, log.flush)
        elif len(log._lines) >= BATCH_LINES:
            log.flush()

    def add_hit(
        self,
        request_id: bytes,
        client: bytes,
        target: bytes,
        host: bytes,
        user_agent: bytes,
        status: int,
        bytes_out: int,
        seconds: float,
    ) -> None:
        """Log a GET without body that was served from a fresh stored response.

        The line is the one of :meth:`add` with the same values; a hit takes three quarters of its instructions here.
        """
        log = self._log
        now = log._clock()
        if not log._stamp_from <= now < log._stamp_until:
            log._tick(now)
        if request_id.translate(_PLAIN) != request_id:
            request_id = escape(request_id)
        if len(target) > _TARGET_BYTES or target.translate(_PLAIN) != target:
            target = _clean(target)
        who = log._who.get((client, b"GET", host, user_agent)) or log._client_part(client, b"GET", host, user_agent)
        what = self._hits.get(status) or self._hit_part(status)
        log._lines.append(_HIT_LINE % (log._stamp, request_id, who, target, what, bytes_out, floor(seconds * 1e6)))
        if not log._armed:
            log._armed = True
            log._call_later(BATCH_SECONDS, log.flush)
        elif len(log._lines) >= BATCH_LINES:
            log.flush()

    def _hit_part(self, status: int) -> bytes:
        made = self._hits[status] = self._outcome_part(status, 0, None, "hit")
        return made

    def _outcome_part(self, status: int, attempts: int, instance: str | None, cache: str | None) -> bytes:
        if len(self._what) >= _MOST_KNOWN:
            self._what.clear()
        named = json.dumps(instance), self._route, self._service, json.dumps(cache)
        made = _WHAT.format(status, attempts, *named).encode("ascii")
        self._what[status, attempts, instance, cache] = made
        return made


class ErrorLog(RouteLog):
    """Writes the lines of the requests of one route that have failed, or whose response has a status of at least 400.

    See :class:`RouteLog` for the arguments.
    """

    __slots__ = ()

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
        cache: str | None = None,
        consumer: str | None = None,
        extra: bytes = b"",
    ) -> None:
        """Log the request if it is an error."""
        if status >= 400 or failure is not None:
            sizes, times = (bytes_in, bytes_out), (seconds, upstream_seconds)
            who = (request_id, client, method, target, host, user_agent)
            super().add(*who, status, *sizes, *times, attempts, instance, failure, cache, consumer, extra)

    def add_hit(
        self,
        request_id: bytes,
        client: bytes,
        target: bytes,
        host: bytes,
        user_agent: bytes,
        status: int,
        bytes_out: int,
        seconds: float,
    ) -> None:
        """Log the hit if its status is an error: such responses are stored as well."""
        if status >= 400:
            super().add_hit(request_id, client, target, host, user_agent, status, bytes_out, seconds)


def escape(value: bytes) -> bytes:
    """Escape octets for a JSON string: each octet becomes the character with its number, as in Latin-1.

    Any octets thus yield valid JSON and can be recovered (``.encode("latin-1")`` in Python).
    """
    return json.dumps(value.decode("latin-1"))[1:-1].encode("ascii")


def _clean(target: bytes) -> bytes:
    cleaned = redact(target, _TARGET_BYTES) if 63 in target or 64 in target else target
    # Few queries have anything to escape, and finding that out takes a fifth of the instructions of escaping.
    plain = cleaned.translate(_JSON) == cleaned
    escaped = _cut(cleaned if plain else escape(cleaned), _TARGET_BYTES)
    return escaped if len(target) <= _TARGET_BYTES or escaped.endswith(_ELLIPSIS) else escaped + _ELLIPSIS


def _cut(escaped: bytes, most: int) -> bytes:
    if len(escaped) <= most:
        return escaped
    whole = _WHOLE.match(escaped[:most])
    return (whole[0] if whole else b"") + _ELLIPSIS


def _failure_text(failure: Failure) -> tuple[bytes, bytes, bytes]:
    why = _cut(_escape_text(failure.detail or failure.title), _WHY_BYTES)
    return failure.kind.value.encode("ascii"), failure.side.value.encode("ascii"), why


def _escape_text(text: str) -> bytes:
    """Return ``text`` as the inside of a JSON string; a lone surrogate, which JSON cannot hold, becomes ``?``."""
    return json.dumps(text.encode("utf-8", "replace").decode())[1:-1].encode("ascii")

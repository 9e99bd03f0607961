"""The export of spans: a bounded queue that requests fill, and a thread that sends it to a collector in batches.

Requests only append to the queue. If the collector is slow or down, the queue fills, and further spans are dropped and
counted. The thread encodes few spans at a time and then releases the interpreter, so that requests do not wait for it.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from random import random
from urllib.parse import urlsplit

import orjson

from passerelle.observability.tracing.otlp import encode, envelope
from passerelle.observability.tracing.trace import FinishedSpans

# The most spans that wait for the export: about 1 KiB each.
CAPACITY = 4096
# A batch is sent when it has this many spans or is this old (seconds).
BATCH_SPANS = 512
BATCH_SECONDS = 1.0
# The spans that are encoded without releasing the interpreter: about 100 µs.
_STEP = 16
# How long the collector may take to accept a connection or to send the next byte of a response (seconds).
TIMEOUT = 10.0
# Delays before a batch is sent again (seconds), and after how long it is dropped.
FIRST_DELAY, LAST_DELAY, GIVE_UP = 0.5, 30.0, 60.0
# OTLP/HTTP: the statuses after which a batch is sent again. All others mean that the collector refuses it.
_RETRYABLE = frozenset({429, 502, 503, 504})
_MOST_RESPONSE = 65_536

_log = logging.getLogger("passerelle")


@dataclass(frozen=True, slots=True)
class ExporterSettings:
    """Where spans are sent. ``resource`` describes the gateway; ``headers`` are added to each request."""

    endpoint: str
    headers: Mapping[str, str]
    resource: Mapping[str, str | int]
    version: str


class _Refused(Exception):
    """The collector does not take the batch, and would not take it later either."""


class _Later(Exception):
    """The batch can be sent again, after ``seconds`` if the collector states a time."""

    def __init__(self, reason: str, seconds: float | None = None) -> None:
        super().__init__(reason)
        self.seconds = seconds


class Exporter:
    """Sends spans to a collector. :meth:`put` is for the event loop; a thread of its own does the rest."""

    def __init__(self, settings: ExporterSettings) -> None:
        self.settings = settings
        self._before, self._after = envelope(settings.resource, settings.version)
        self._queue: deque[FinishedSpans] = deque()
        # Each of the counters is written by one thread only.
        self._added = self._taken = 0
        self._overflowed = self.exported = self._lost = 0
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._connection: HTTPConnection | None = None
        self._is_failing = False

    @property
    def waiting(self) -> int:
        """The number of spans in the queue."""
        return self._added - self._taken

    @property
    def dropped(self) -> int:
        """The number of spans that were dropped: the queue was full, or the collector did not take them."""
        return self._overflowed + self._lost

    @property
    def has_ended(self) -> bool:
        """Whether nothing is sent any more."""
        return self._stopping.is_set() and (self._thread is None or not self._thread.is_alive())

    def put(self, finished: FinishedSpans) -> None:
        """Queue spans for the export, or drop them if the queue is full. Does not block."""
        size = len(finished.spans)
        if self.waiting + size > CAPACITY or self._stopping.is_set():
            self._overflowed += size
            return
        self._added += size
        self._queue.append(finished)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
            self._thread.start()

    def close(self, seconds: float) -> None:
        """Send what is queued, once and without waiting longer than ``seconds``, then stop."""
        self._stopping.set()
        if self._thread is not None and seconds > 0.0:
            self._thread.join(seconds)

    # ---- the thread

    def _run(self) -> None:
        full = False
        while full or not self._stopping.wait(BATCH_SECONDS):
            full = self._export_batch()
        while self._queue and self._export_batch():
            pass
        self._disconnect()

    def _export_batch(self) -> bool:
        """Export one batch; return whether it was a full one."""
        spans: list[bytes] = []
        step = 0
        while self._queue and len(spans) < BATCH_SPANS:
            finished = self._queue.popleft()
            spans += encode(finished)
            self._taken += len(finished.spans)
            if len(spans) - step >= _STEP:
                step = len(spans)
                time.sleep(0)
        if spans:
            self._send(b"%b%b%b" % (self._before, b",".join(spans), self._after), len(spans))
        return len(spans) >= BATCH_SPANS

    def _send(self, body: bytes, count: int) -> None:
        """Send a batch of ``count`` spans, again if that can help, and count it as exported or dropped."""
        delay, until = FIRST_DELAY, time.monotonic() + GIVE_UP
        while True:
            try:
                rejected = min(self._post(body), count)
            except _Refused as refused:
                reason = str(refused)
                break
            except _Later as later:
                reason = str(later)
                wait = later.seconds if later.seconds is not None else delay * (0.5 + random())
                delay = min(2 * delay, LAST_DELAY)
                self._report_failing(reason)
                if time.monotonic() + wait > until or self._stopping.is_set():
                    break
                self._stopping.wait(wait)  # a stop ends the wait: one last try
            else:
                self._lost += rejected
                self.exported += count - rejected
                if self._is_failing:
                    self._is_failing = False
                    _log.warning("tracing: the collector accepts spans again")
                return
        self._report_failing(reason)
        self._lost += count

    def _report_failing(self, reason: str) -> None:
        if not self._is_failing:
            self._is_failing = True
            _log.warning("tracing: no spans could be exported to %s: %s", self._where, reason)

    @property
    def _where(self) -> str:
        return urlsplit(self.settings.endpoint).netloc

    def _post(self, body: bytes) -> int:
        """Send one request; return the number of spans that the collector has rejected."""
        kept = self._connection is not None
        try:
            response, content = self._exchange(body)
        except (HTTPException, OSError) as error:
            self._disconnect()
            if not kept or isinstance(error, TimeoutError):
                raise _Later(_reason(error)) from None
            try:  # a kept connection that the collector has closed meanwhile is no sign of a failure
                response, content = self._exchange(body)
            except (HTTPException, OSError) as second:
                self._disconnect()
                raise _Later(_reason(second)) from None
        status = response.status
        if status in _RETRYABLE:
            raise _Later(f"status {status}", _retry_after(response.getheader("Retry-After")))
        if not 200 <= status < 300:
            raise _Refused(f"status {status}")
        return _rejected(content)

    def _exchange(self, body: bytes) -> tuple[HTTPResponse, bytes]:
        parts = urlsplit(self.settings.endpoint)
        connection = self._connection
        if connection is None:
            host = parts.hostname or ""
            if parts.scheme == "https":
                connection = HTTPSConnection(host, parts.port, timeout=TIMEOUT, context=ssl.create_default_context())
            else:
                connection = HTTPConnection(host, parts.port, timeout=TIMEOUT)
            self._connection = connection
        connection.request(
            "POST",
            parts.path or "/",
            body,
            {"Content-Type": "application/json", "User-Agent": "passerelle", **self.settings.headers},
        )
        response = connection.getresponse()
        content = response.read(_MOST_RESPONSE)
        if not response.isclosed():  # more than a collector sends: the connection cannot be used again
            self._disconnect()
        return response, content

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _reason(error: Exception) -> str:
    return "no response in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__


def _retry_after(value: str | None) -> float | None:
    """Return the seconds of a Retry-After (RFC 9110 §10.2.3), or None if it is absent or malformed."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:9])
    with contextlib.suppress(ValueError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    return None


def _rejected(content: bytes) -> int:
    """Return the number of rejected spans of a partial success."""
    try:
        found = orjson.loads(content)
        return max(0, int(found["partialSuccess"]["rejectedSpans"]))
    except (ValueError, KeyError, TypeError):
        return 0

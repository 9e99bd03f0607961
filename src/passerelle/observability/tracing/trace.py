"""The trace of one request: its ids, and the spans that the gateway has recorded for it."""

from __future__ import annotations

from collections.abc import Callable
from random import getrandbits
from time import perf_counter
from typing import NamedTuple

from passerelle.observability.tracing.context import SAMPLED, RemoteContext, field_lines

# Kinds of spans, with the numbers of OTLP.
INTERNAL, SERVER, CLIENT = 1, 2, 3

# The most spans of one request: retries are bounded, but compositions may have any number of parts.
MOST_SPANS = 256

Attributes = dict[str, str | int]


class Span(NamedTuple):
    """One operation. ``start`` and ``end`` are of ``perf_counter``; ``error`` is empty for a success."""

    kind: int
    name: str
    span_id: bytes
    parent_id: bytes
    start: float
    end: float
    error: str
    attributes: Attributes


class FinishedSpans(NamedTuple):
    """Spans of one trace, ready for export. ``offset`` added to their times gives seconds since 1970."""

    trace_id: bytes
    state: bytes
    flags: int
    offset: float
    spans: list[Span]


class Attempt:
    """An attempt in progress, or one that has ended; times are of ``perf_counter``, and 0 until they are reached.

    ``queued_at`` is when the request began to wait for a place, ``number`` how many attempts came before, and
    ``connecting`` how long the connection took to open (seconds; 0 for one that was open).
    """

    __slots__ = (
        "connecting",
        "error",
        "instance",
        "number",
        "queued_at",
        "responded_at",
        "sent_at",
        "service",
        "span_id",
        "start",
        "status",
    )

    def __init__(self, service: str, number: int, queued_at: float = 0.0) -> None:
        self.span_id = new_span_id()
        self.service = service
        self.instance = ""
        self.number = number
        self.start = perf_counter()
        self.queued_at = queued_at or self.start
        self.connecting = 0.0
        self.sent_at = 0.0
        self.responded_at = 0.0
        self.status = 0
        self.error = ""


def new_span_id() -> bytes:
    """Return a random id of a span, in hexadecimal."""
    return b"%016x" % (getrandbits(64) or 1)


class Trace:
    """A sampled request. ``span_id`` is that of the span of the request, the parent of all others.

    ``put`` takes what is finished. Spans that end after the request, such as those of a revalidation in the background,
    are put one by one. Without a ``trace_id``, services learn nothing of the trace. ``attempts`` are all that have
    begun.
    """

    __slots__ = (
        "_finished",
        "_offset",
        "_put",
        "attempts",
        "flags",
        "parent_id",
        "span_id",
        "spans",
        "state",
        "trace_id",
    )

    def __init__(
        self, trace_id: bytes, remote: RemoteContext | None, put: Callable[[FinishedSpans], None], offset: float
    ) -> None:
        self.trace_id = trace_id
        self.parent_id = remote.parent_id if remote is not None else b""
        self.state = remote.state if remote is not None else b""
        self.flags = (remote.flags if remote is not None else 0) | SAMPLED
        self.span_id = new_span_id()
        self.spans: list[Span] = []
        self.attempts: list[Attempt] = []
        self._put = put
        self._offset = offset
        self._finished = False

    def lines(self, span_id: bytes) -> bytes:
        """Return the field lines of a request to a service, whose parent is the span ``span_id``."""
        return field_lines(self.trace_id, span_id, self.flags, self.state) if self.trace_id else b""

    def begin(self, attempt: Attempt) -> None:
        """Keep ``attempt``, which begins."""
        if len(self.attempts) < MOST_SPANS:
            self.attempts.append(attempt)

    def add(self, span: Span) -> None:
        """Record a finished span."""
        if self._finished:
            self._put(FinishedSpans(self.trace_id, self.state, self.flags, self._offset, [span]))
        elif len(self.spans) < MOST_SPANS:
            self.spans.append(span)

    def finish(self, span: Span) -> None:
        """Record the span of the request, and pass on all spans."""
        spans, self.spans = self.spans, []
        self._finished = True
        self._put(FinishedSpans(self.trace_id, self.state, self.flags, self._offset, [span, *spans]))

"""Requests of clients that see where the time goes: their responses have ``Server-Timing`` (W3C Server Timing).

Without ``debug`` in the configuration, nothing of this module is in use. With it, the response header rules of all
routes remove the ``Server-Timing`` of services (see :mod:`.response_headers`), and the requests of clients in
``debug.from`` take this way instead: they are recorded as sampled requests are. What was recorded until the response
begins becomes the field. With ``tracing``, their spans are exported as well.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from time import perf_counter

from passerelle.caching.entry import Entry
from passerelle.caching.request import RequestView
from passerelle.errors import Failure
from passerelle.gateway.context import Context
from passerelle.gateway.plans import ComposePlan
from passerelle.gateway.traced_exchange import SampledExchange, TracedHandler
from passerelle.http1.head import RequestHead
from passerelle.http1.interfaces import RequestHandler, ServerConnection
from passerelle.observability.tracing.trace import INTERNAL, Attempt, FinishedSpans, Span, Trace
from passerelle.security.addresses import AddressSet
from passerelle.upstream.request_headers import client_address

MOST_PARTS = 32  # parts of a composition in one field
_NOT_QUOTABLE = re.compile(rb"[^ !#-\[\]-~]")


class TimedHandler:
    """Handles the requests of ``clients`` with timing, and passes all others to ``handler``."""

    def __init__(self, handler: RequestHandler, context: Context, clients: AddressSet) -> None:
        self._handler = handler
        self._context = context
        self._clients = clients

    def on_request(self, connection: ServerConnection, method: bytes, target: bytes, head: RequestHead) -> None:
        """Handle a request."""
        if not self._sees_timing(connection, head):
            self._handler.on_request(connection, method, target, head)
            return
        handler, context = self._handler, self._context
        if isinstance(handler, TracedHandler):
            trace = handler.begin_trace(connection, head)
        else:
            trace = Trace(b"", None, _discard, context.clock.offset)
        exchange = TimedExchange(context, connection, method, target, head, trace)
        try:
            exchange.start()
        except Exception as error:
            exchange.on_defect(error)

    def on_refused(self, connection: ServerConnection, failure: Failure) -> bytes:
        """Count and log a message that is not a valid request; return the id given to it."""
        return self._handler.on_refused(connection, failure)

    def _sees_timing(self, connection: ServerConnection, head: RequestHead) -> bool:
        """Return whether the client is one of those that see timings.

        A proxy that is not trusted may forward requests of anyone: then the address of the client is not known.
        """
        peer, proxies = connection.peer, self._context.proxies
        if not head.forwarded:
            return self._clients.has(peer)
        return proxies.trusts(peer) and self._clients.has(client_address(head, peer, proxies))


class TimedExchange(SampledExchange):
    """A request whose response has ``Server-Timing``. It is exported if its trace has an id."""

    __slots__ = ("sees_timing",)

    def __init__(
        self,
        context: Context,
        client: ServerConnection,
        method: bytes,
        target: bytes,
        head: RequestHead,
        trace: Trace,
    ) -> None:
        super().__init__(context, client, method, target, head, trace)
        self.sees_timing = True

    def on_stored(self, view: RequestView, entry: Entry, status_line: bytes, added_lines: tuple[bytes, ...]) -> None:
        """See :meth:`.exchange.Exchange.on_stored`. The field of a stored response is about another request."""
        self.sees_timing = self.cache_outcome not in _WITHOUT_SERVICE
        super().on_stored(view, entry, status_line, added_lines)

    def _apply_response_rules(self, head: bytes) -> bytes:
        head = super()._apply_response_rules(head)
        return b"%bServer-Timing: %b\r\n" % (head, b", ".join(self._metrics()))

    def _metrics(self) -> list[bytes]:
        """Return the metrics of the field, from what has been recorded so far."""
        now = perf_counter()
        metrics = [_metric(b"total", now - self._started)]
        trace, source = self._trace, self._source
        guards = [span for span in trace.spans if "passerelle.guard" in span.attributes]
        if guards:
            metrics.append(_metric(b"guards", sum(span.end - span.start for span in guards)))
        if self.cache_outcome is not None:
            metrics.append(_metric(b"cache", None, self.cache_outcome))
        if isinstance(self._plan, ComposePlan):
            metrics += _of_parts(trace.spans)
        elif source is not None and source.attempts:
            metrics += _of_attempts(trace.attempts, now)
        return metrics


# The outcomes of lookups for which no service was requested.
_WITHOUT_SERVICE = frozenset({"hit", "stale", "coalesced"})


def _of_attempts(attempts: Sequence[Attempt], now: float) -> list[bytes]:
    """Return the metrics of a request to one service: ``queue`` and ``connect`` of all attempts, the last response."""
    sent = [attempt for attempt in attempts if attempt.sent_at]
    queue = sum((attempt.sent_at or now) - attempt.queued_at - attempt.connecting for attempt in attempts)
    metrics = [_metric(b"queue", max(0.0, queue)), _metric(b"connect", sum(each.connecting for each in attempts))]
    if sent:
        last = max(sent, key=lambda attempt: attempt.responded_at)
        name = b"first-byte" if last.responded_at else b"no-response"
        metrics.append(_metric(name, (last.responded_at or now) - last.sent_at, f"{last.service}/{last.instance}"))
    if len(attempts) > 1:
        metrics.append(_metric(b"attempts", None, str(len(attempts))))
    return metrics


def _of_parts(spans: Sequence[Span]) -> list[bytes]:
    """Return a metric for each part of a composition that has ended, with its service and the outcome of its cache."""
    metrics = []
    for span in spans:
        values = span.attributes
        if span.kind != INTERNAL or "passerelle.part" not in values:
            continue
        words = [values["passerelle.service"], values.get("passerelle.cache.outcome"), span.error]
        name = b"part-%b" % str(values["passerelle.part"]).encode("ascii", "replace")
        metrics.append(_metric(name, span.end - span.start, " ".join(str(word) for word in words if word)))
    return metrics[:MOST_PARTS]


def _metric(name: bytes, seconds: float | None, description: str = "") -> bytes:
    """Return one metric; durations are in milliseconds."""
    if description:
        text = _NOT_QUOTABLE.sub(b"?", description.encode("utf-8", "replace"))
        name = b'%b;desc="%b"' % (name, text)
    return name if seconds is None else b"%b;dur=%.2f" % (name, seconds * 1000.0)


def _discard(finished: FinishedSpans) -> None:
    """Drop the spans of a request that is not exported."""

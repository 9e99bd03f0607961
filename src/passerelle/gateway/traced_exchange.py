"""Requests while tracing is configured: the ones that are sampled, and the others, which only continue the trace.

Without ``tracing`` in the configuration, nothing of this module is in use: the listener hands requests to the gateway
itself. A request that was not sampled continues the trace with the sampled flag cleared, and is recorded only if it
fails. A sampled one has a span for itself, for each guard, for the cache, for each part of a composition and for each
attempt (OpenTelemetry semantic conventions for HTTP).

The file is longer than 400 lines because the handler and the classes of requests that it chooses from belong together.
"""

from __future__ import annotations

from binascii import hexlify
from dataclasses import replace
from math import log, log1p
from os import urandom
from random import getrandbits, random
from sys import maxsize
from time import perf_counter
from typing import Any

from passerelle.compose.traced_part import traced_composition
from passerelle.errors import Failure, Side
from passerelle.gateway.context import Context
from passerelle.gateway.exchange import Exchange
from passerelle.gateway.fast_hit import serve_fresh_hit
from passerelle.gateway.plans import ComposePlan, ForwardPlan, RoutePlan
from passerelle.http.messages import Response
from passerelle.http1.head import RequestHead
from passerelle.http1.interfaces import RequestHandler, ServerConnection
from passerelle.observability.access_log import RouteLog
from passerelle.observability.metrics import METHODS, UNMATCHED
from passerelle.observability.redaction import redact
from passerelle.observability.tracing.context import (
    SAMPLED,
    TRACEPARENT,
    TRACESTATE,
    RemoteContext,
    field_lines,
    parse,
)
from passerelle.observability.tracing.exporter import CAPACITY, Exporter
from passerelle.observability.tracing.otlp import MOST_TEXT
from passerelle.observability.tracing.trace import CLIENT, INTERNAL, SERVER, Attributes, Span, Trace, new_span_id
from passerelle.proxy_cache.cache import Cache
from passerelle.proxy_cache.request import CacheRequest
from passerelle.routing.conditions import path_of_label
from passerelle.routing.router import RouteMatch
from passerelle.security.guard import Guard, GuardedCall, PendingResult, TracedCall
from passerelle.security.header_rules import lines_of, without
from passerelle.upstream.request_headers import part_fields, upstream_fields
from passerelle.upstream.traced_request import split_authority, traced

# How many traces are begun at once, and how their member of the access log begins.
_TRACES = 256
_MEMBER = b',"trace_id":"'

# The places of the ids in the tail of a message.
_TRACE_ID, _SPAN_ID = slice(18, 50), slice(51, 67)

# The fields of a client are replaced by those of the gateway.
_TRACE_LINES = lines_of((TRACEPARENT, TRACESTATE))


class TracedHandler:
    """Handles the requests of the listener while tracing is configured.

    ``ratio`` is the part of requests that are sampled, from 0 to 1. The sampled flag of trusted proxies decides instead
    where they send one; with ``follow_clients``, that of any client.
    """

    def __init__(
        self, gateway: RequestHandler, context: Context, exporter: Exporter, ratio: float, follow_clients: bool
    ) -> None:
        self.exporter = exporter
        self._gateway = gateway
        self._context = context
        self._ratio = ratio
        self._follow_clients = follow_clients
        self._left = requests_between_samples(ratio)  # until the next request that is sampled
        # Traces that are not recorded: the first half of their ids is that of the worker, the second half is random.
        # A span id need be unique in its trace only: that of the worker serves for all.
        self._worker_id = b"%016x" % (getrandbits(64) or 1)
        self._span_id = new_span_id()
        self._new_traces: list[tuple[bytes, bytes]] = []

    def on_request(self, connection: ServerConnection, method: bytes, target: bytes, head: RequestHead) -> None:
        """Handle a request."""
        names = head.layout.at
        if TRACEPARENT in names or TRACESTATE in names:
            self._on_traced(connection, method, target, head)
            return
        context = self._context
        left = self._left
        if left:
            self._left = left - 1
            if context.cache is not None and self._serve_hit(context.cache, connection, method, target, head):
                return
            exchange: Exchange
            exchange = unsampled = UnsampledExchange(context, connection, method, target, head)
            unsampled.exporter = self.exporter
            try:
                unsampled.tail, unsampled.member = self._new_traces.pop()
            except IndexError:
                unsampled.tail, unsampled.member = self._new_trace()
        else:
            self._left = requests_between_samples(self._ratio)
            exchange = SampledExchange(context, connection, method, target, head, self._trace(None))
        try:
            exchange.start()
        except Exception as error:
            exchange.on_defect(error)

    def _new_trace(self) -> tuple[bytes, bytes]:
        """Begin a trace that is not recorded: return ``tail`` and ``member`` of :class:`UnsampledExchange`."""
        if not self._new_traces:
            # Many at once, without a step of the interpreter for each one.
            numbers = hexlify(urandom(8 * _TRACES), b"\0", 8)
            before, after = b"\r\ntraceparent: 00-" + self._worker_id, b"-%b-00\r\n\r\n" % self._span_id
            member = _MEMBER + self._worker_id
            tails = before + numbers.replace(b"\0", b"%b\0%b" % (after, before)) + after
            members = member + numbers.replace(b"\0", b'"\0%b' % member) + b'"'
            self._new_traces += zip(tails.split(b"\0"), members.split(b"\0"), strict=True)
        return self._new_traces.pop()

    def _on_traced(self, connection: ServerConnection, method: bytes, target: bytes, head: RequestHead) -> None:
        """Handle a request with trace context."""
        context = self._context
        remote = parse(head.fields)
        _withhold(head, context, connection)
        if remote is not None and (self._follow_clients or context.proxies.trusts(connection.peer)):
            sampled = remote.sampled
        else:
            sampled = random() < self._ratio
        if sampled:
            exchange: Exchange = SampledExchange(context, connection, method, target, head, self._trace(remote))
        else:
            if context.cache is not None and self._serve_hit(context.cache, connection, method, target, head):
                return
            exchange = unsampled = ContinuedExchange(context, connection, method, target, head)
            unsampled.exporter, unsampled.remote = self.exporter, remote
            if remote is None:
                unsampled.tail, unsampled.member = self._new_trace()
            else:
                lines = field_lines(remote.trace_id, new_span_id(), remote.flags & ~SAMPLED, remote.state)
                unsampled.tail, unsampled.member = b"\r\n%b\r\n" % lines, b'%b%b"' % (_MEMBER, remote.trace_id)
        try:
            exchange.start()
        except Exception as error:
            exchange.on_defect(error)

    def _serve_hit(
        self, cache: Cache, connection: ServerConnection, method: bytes, target: bytes, head: RequestHead
    ) -> bool:
        """Serve a fresh stored response, if there is one, as :meth:`.gateway.Gateway.on_request` does."""
        if method != b"GET" or not head.plain:
            return False
        origin = head.cache_origin
        return (origin is None or origin + target in cache.store.keys) and serve_fresh_hit(
            self._context, cache, connection, target, head
        )

    def on_refused(self, connection: ServerConnection, failure: Failure) -> bytes:
        """Count and log a message that is not a valid request; return the id given to it."""
        return self._gateway.on_refused(connection, failure)

    def begin_trace(self, connection: ServerConnection, head: RequestHead) -> Trace:
        """Return the trace of a request that is recorded whether or not it is in the sample."""
        remote = None
        if head.get(TRACEPARENT) is not None or head.get(TRACESTATE) is not None:
            remote = parse(head.fields)
            _withhold(head, self._context, connection)
        return self._trace(remote)

    def _trace(self, remote: RemoteContext | None) -> Trace:
        trace_id = remote.trace_id if remote is not None else b"%032x" % (getrandbits(128) or 1)
        return Trace(trace_id, remote, self.exporter.put, self._context.clock.offset)


def requests_between_samples(ratio: float) -> int:
    """Draw how many requests are not sampled before the next one that is, if each one is with probability ``ratio``.

    The number has the geometric distribution. So a request pays for the subtraction of 1, and not for a random number.
    """
    if ratio <= 0.0:
        return maxsize
    return 0 if ratio >= 1.0 else int(log(1.0 - random()) / log1p(-ratio))


def _withhold(head: RequestHead, context: Context, client: ServerConnection) -> None:
    """Remove the trace context of the client from the lines that services receive."""
    if head.upstream is None:
        head.upstream = without(upstream_fields(head, client.peer, context.proxies, client.scheme), _TRACE_LINES)
    if head.part_fields is None:
        head.part_fields = without(part_fields(head, client.peer, context.proxies, client.scheme), _TRACE_LINES)


class _TracedExchange(Exchange):
    """What both have."""

    __slots__ = ()

    make_call = TracedCall

    def _finish_trace(self, trace: Trace, status: int, failure: Failure | None) -> None:
        """Record the span of the request, and put the trace into the queue."""
        head, method = self._head, self._method.decode("latin-1")
        path, _, query = redact(self._target, MOST_TEXT).decode("latin-1").partition("?")
        host, port = split_authority(head.authority.decode("latin-1"), self._client.scheme == b"https")
        attributes: Attributes = {
            "http.request.method": method,
            "url.path": path,
            "url.scheme": "https" if self.secure else "http",
            "client.address": self._address().decode("latin-1"),
            "server.address": host,
            "server.port": port,
            "passerelle.request_id": self._request_id.decode("latin-1"),
        }
        if self._method not in METHODS:
            attributes["http.request.method"], attributes["http.request.method_original"] = "_OTHER", method
            method = "HTTP"
        if query:
            attributes["url.query"] = query
        if head.user_agent:
            attributes["user_agent.original"] = head.user_agent.decode("latin-1")
        if status:
            attributes["http.response.status_code"] = status
        if self._source is not None and self._source.attempts:
            attributes["passerelle.attempts"] = self._source.attempts
        error = _error(status, failure)
        if failure is not None:
            attributes["passerelle.failure"] = failure.kind.value
        if error:
            attributes["error.type"] = error
        name = method
        if route := _route_pattern(self._plan.metrics.route):
            attributes["http.route"] = route
            name = f"{method} {route}"
        now = perf_counter()
        trace.finish(Span(SERVER, name, trace.span_id, trace.parent_id, self._started, now, error, attributes))


class UnsampledExchange(_TracedExchange):
    """A request that continues the trace and is not recorded unless it fails.

    ``tail`` ends the message to a service: the end of a line, the field lines of the trace, the empty line. ``member``
    is the trace id as a member of the access log. Most requests are of this class: methods of the base class are called
    by its name, because ``super()`` takes three times as long (0.26 instead of 0.07 us in CPython 3.11).
    """

    __slots__ = ("exporter", "member", "tail", "trace_id", "trace_lines")

    exporter: Exporter
    member: bytes
    remote: RemoteContext | None = None
    tail: bytes

    def guarded_call(self) -> GuardedCall:
        """See :meth:`.exchange.Exchange.guarded_call`."""
        call = Exchange.guarded_call(self)
        if isinstance(call, TracedCall):
            call.trace_lines = self.tail[2:-2]
        return call

    def _message(self, plan: ForwardPlan, match: RouteMatch, end: bytes = b"\r\n\r\n") -> bytes:
        return Exchange._message(self, plan, match, self.tail)

    def _serve_composed(self, plan: ComposePlan, match: RouteMatch) -> None:
        self.trace_lines = self.tail[2:-2]
        Exchange._serve_composed(self, plan, match)

    def _write_log(
        self, log: RouteLog, status: int, seconds: float, failure: Failure | None, extra: bytes = b""
    ) -> None:
        Exchange._write_log(self, log, status, seconds, failure, self.member)

    def on_failure(self, failure: Failure) -> None:
        """See :meth:`.exchange.Exchange.on_failure`."""
        self.trace_id = self.tail[_TRACE_ID]
        super().on_failure(failure)

    def _count_failure(self, status: int, seconds: float, failure: Failure | None) -> None:
        """Record the request as well, unless its client caused the failure or the queue is half full."""
        if _error(status, failure) and self.exporter.waiting < CAPACITY // 2:
            trace = Trace(self.tail[_TRACE_ID], self.remote, self.exporter.put, self._context.clock.offset)
            trace.span_id = self.tail[_SPAN_ID]
            self._finish_trace(trace, status, failure)
        super()._count_failure(status, seconds, failure)


class ContinuedExchange(UnsampledExchange):
    """An unsampled request whose client has sent trace context."""

    __slots__ = ("remote",)

    remote: RemoteContext | None


class SampledExchange(_TracedExchange):
    """A request that is recorded."""

    __slots__ = ("_looked_up_at", "_trace", "_traced_plan", "trace_id")

    def __init__(
        self,
        context: Context,
        client: ServerConnection,
        method: bytes,
        target: bytes,
        head: RequestHead,
        trace: Trace,
    ) -> None:
        super().__init__(context, client, method, target, head)
        self._trace = trace
        self.trace_id = trace.trace_id
        self._traced_plan: RoutePlan | None = None
        self._looked_up_at = 0.0

    def guarded_call(self) -> GuardedCall:
        """See :meth:`.exchange.Exchange.guarded_call`."""
        is_new = self._call is None
        call = super().guarded_call()
        if is_new and isinstance(call, TracedCall):
            call.trace_lines = self._trace.lines(self._trace.span_id)
        return call

    def _run_from(self, plan: RoutePlan, match: RouteMatch, first: int) -> None:
        traced_plan = self._traced_plan
        if traced_plan is None:
            traced_plan = self._traced_plan = _traced(plan, self._trace)
        super()._run_from(traced_plan, match, first)

    def _run_side(self, side: RoutePlan, match: RouteMatch) -> None:
        self._plan = side
        Exchange._run_from(self, _traced(side, self._trace), match, 0)

    def _cache_request(self, plan: RoutePlan, *arguments: Any) -> CacheRequest:
        self._looked_up_at = perf_counter()
        # What is stored may refer to the plan of the route, but not to that of one request.
        return super()._cache_request(self._plan, *arguments)

    def _write_log(
        self, log: RouteLog, status: int, seconds: float, failure: Failure | None, extra: bytes = b""
    ) -> None:
        if self.trace_id:
            extra = b',"trace_id":"%b"' % self.trace_id
        super()._write_log(log, status, seconds, failure, extra)

    def finish(self, status: int, failure: Failure | None = None) -> None:
        """See :meth:`.exchange.Exchange.finish`."""
        if not self._finished:
            if self._looked_up_at and self.cache_outcome is not None:
                self._record_lookup(self.cache_outcome)
            if self.trace_id:
                self._plan.metrics.remember_exemplar(self.trace_id, perf_counter() - self._started)
                self._finish_trace(self._trace, status, failure)
        super().finish(status, failure)
        self._traced_plan = None

    def _record_lookup(self, outcome: str) -> None:
        """Record the lookup: until the first attempt, or until the response where there was none."""
        since = self._looked_up_at
        starts = [span.start for span in self._trace.spans if span.kind == CLIENT and span.start >= since]
        attributes: Attributes = {"passerelle.cache.outcome": outcome}
        end = min(starts, default=perf_counter())
        trace = self._trace
        trace.add(Span(INTERNAL, "cache lookup", new_span_id(), trace.span_id, since, end, "", attributes))


def _traced(plan: RoutePlan, trace: Trace) -> RoutePlan:
    """Return ``plan`` for one sampled request."""
    changes: dict[str, Any] = {}
    if plan.guards:
        named = zip(plan.guard_names, plan.guards, strict=True)
        changes["guards"] = tuple(_GuardSpan(name, guard, trace) for name, guard in named)
    if isinstance(plan, ForwardPlan):
        changes["policy"] = traced(plan.policy, trace, trace.span_id)
    elif isinstance(plan, ComposePlan):
        changes["composed"] = traced_composition(plan.composed, trace)
    return replace(plan, **changes) if changes else plan


class _GuardSpan:
    """A guard that is recorded, with the time that it waits. Its requests to services are children of its span."""

    __slots__ = ("_guard", "_name", "_span_id", "_started_at", "_trace")

    def __init__(self, name: str, guard: Guard, trace: Trace) -> None:
        self._name = name
        self._guard = guard
        self._trace = trace
        self._span_id = new_span_id()
        self._started_at = 0.0

    def __call__(self, call: GuardedCall) -> Response | PendingResult | None:
        if not self._started_at:
            self._started_at = perf_counter()
        if isinstance(call, TracedCall):
            call.trace_lines = self._trace.lines(self._span_id)
        try:
            result = self._guard(call)
        except Failure as failure:
            self._record(failure.kind.value)
            raise
        if result is None or isinstance(result, Response):
            self._record("")
        return result

    def _record(self, error: str) -> None:
        trace = self._trace
        attributes: Attributes = {"passerelle.guard": self._name}
        if error:
            attributes["passerelle.refused"] = error  # a refusal is a result of the guard, not its failure
        name = f"guard {self._name}"
        trace.add(Span(INTERNAL, name, self._span_id, trace.span_id, self._started_at, perf_counter(), "", attributes))


def _route_pattern(label: str) -> str:
    """Return the path pattern of a route by its label (see ``Route.label``); empty for no route."""
    return path_of_label(label[label.index("/") :]) if label != UNMATCHED else ""


def _error(status: int, failure: Failure | None) -> str:
    """Return the ``error.type`` of a request; empty where the server side has not failed."""
    if failure is not None and (failure.side is not Side.CLIENT or status >= 500):
        return failure.kind.value
    return str(status) if status >= 500 else ""

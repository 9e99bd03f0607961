"""Requests to a service whose attempts are recorded as spans: those of sampled requests.

Other requests use the classes without spans, at no extra cost. Each attempt is a client span of its own, so that the
spans of an instance are children of the attempt that it has received (OpenTelemetry, HTTP client semantic conventions).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from time import perf_counter
from typing import cast

from passerelle.balancing.instance import Instance
from passerelle.errors import Failure
from passerelle.http1.client.connection import UpstreamConnection
from passerelle.http1.head import ResponseHead
from passerelle.observability.redaction import redact
from passerelle.observability.tracing.otlp import MOST_TEXT
from passerelle.observability.tracing.trace import CLIENT, Attempt, Attributes, Span, Trace
from passerelle.upstream.addressed_request import AddressedRequest
from passerelle.upstream.guarded_request import GuardedRequest
from passerelle.upstream.hedge import Hedge
from passerelle.upstream.interfaces import ResponseReceiver
from passerelle.upstream.passing import PassingMaker
from passerelle.upstream.request import CallPolicy, RequestMaker, UpstreamRequest
from passerelle.upstream.request_body import RequestBody

# The error of an attempt that was abandoned because its response was not needed any more.
CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class TracedPolicy(CallPolicy):
    """The policy of one sampled request: its attempts are spans of ``trace``, children of the span ``parent_id``.

    ``name`` is that of the part of a composition.
    """

    trace: Trace | None = None
    parent_id: bytes = b""
    name: str = ""


def traced(policy: CallPolicy, trace: Trace, parent_id: bytes, name: str = "") -> TracedPolicy:
    """Return ``policy`` for one sampled request."""
    values = {name: getattr(policy, name) for name in _POLICY_FIELDS}
    values["make_request"] = _traced_maker(policy.make_request)
    return TracedPolicy(**values, trace=trace, parent_id=parent_id, name=name)


def _traced_maker(make: RequestMaker) -> RequestMaker:
    """Return what makes the requests that ``make`` makes, with spans. Shadow requests have none."""
    if isinstance(make, PassingMaker):
        return partial(make.make_with, _traced_maker(make.make))
    return _TRACED[cast(type[UpstreamRequest], make)]


def split_authority(authority: str, secure: bool) -> tuple[str, int]:
    """Return the host and the port of ``authority``, which has no port if that is the default."""
    host, colon, port = authority.rpartition(":")
    if not colon or not port.isdigit():
        return authority, 443 if secure else 80
    return host, int(port[:5])


class TracedRequest(UpstreamRequest):
    """A request whose attempts are recorded.

    The class has no slots, so that it can be combined with classes that have some.
    """

    def __init__(
        self,
        policy: CallPolicy,
        receiver: ResponseReceiver,
        method: bytes,
        message: bytes,
        body: RequestBody | None,
        now: float,
    ) -> None:
        super().__init__(policy, receiver, method, message, body, now)
        assert isinstance(policy, TracedPolicy) and policy.trace is not None
        self._trace = policy.trace
        self._parent_id = policy.parent_id
        self._target = message.split(b" ", 2)[1]
        self._open: Attempt | None = None
        self._queued_at = 0.0  # until the first attempt

    def start(self) -> None:
        """See :meth:`.request.UpstreamRequest.start`. The request may wait for the concurrency limit first."""
        self._queued_at = perf_counter()
        super().start()

    def _attempt(self) -> None:
        self._open = Attempt(self._service.name, self.attempts, self._queued_at)
        self._trace.begin(self._open)
        self._queued_at = 0.0
        super()._attempt()

    def _send(self, connection: UpstreamConnection) -> None:
        plain = self._message
        if self._open is not None:
            _mark_sent(self._open, connection, self.instance)
            self._message = self._with_trace(plain, self._open)
        super()._send(connection)
        self._message = plain

    def _with_trace(self, message: bytes, span: Attempt) -> bytes:
        return b"%b%b\r\n" % (message[:-2], self._trace.lines(span.span_id))

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """See :meth:`.request.UpstreamRequest.on_response`."""
        if self._open is not None:
            _mark_response(self._open, head)
        super().on_response(head, data, complete)

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """See :meth:`.request.UpstreamRequest.on_switch`."""
        if self._open is not None:
            _mark_response(self._open, head)
        super().on_switch(head, data)

    def on_failure(self, failure: Failure) -> None:
        """See :meth:`.request.UpstreamRequest.on_failure`."""
        if self._open is not None and not self._over:
            self._open.error = failure.kind.value
        super().on_failure(failure)

    def _abandon_attempt(self, failure: Failure) -> bool:
        span = self._open
        if span is not None:
            span.error = failure.kind.value
        abandoned = super()._abandon_attempt(failure)
        if span is not None and not abandoned:
            span.error = ""
        return abandoned

    def _retry(self, ok: bool | None, seconds: float, wait: float) -> None:
        self._close()
        super()._retry(ok, seconds, wait)

    def _await_health_report(self, failure: Failure) -> None:
        self._close()
        super()._await_health_report(failure)

    def _settle(self, status: int, latency: float | None = None) -> None:
        self._close()
        super()._settle(status, latency)

    def _fail(self, failure: Failure) -> None:
        self._close()
        super()._fail(failure)

    def _stop(self, failure: Failure | None) -> None:
        span = self._open
        if span is not None and not span.error:
            if failure is not None:
                span.error = failure.kind.value
            elif span.status != 101:
                span.error = CANCELLED
        self._close()
        super()._stop(failure)

    def _give_up(self, failure: Failure) -> None:
        self._open = None  # no instance was picked
        super()._give_up(failure)

    def _close(self) -> None:
        """Record the attempt in progress, if there is one."""
        span, self._open = self._open, None
        if span is not None:
            self._record(span, self.instance, {})

    def _record(self, span: Attempt, instance: Instance, added: Attributes) -> None:
        now = perf_counter()
        pool = instance.endpoint
        scheme = "https" if pool is not None and pool.secured else "http"
        authority = pool.authority.decode("ascii") if pool is not None else ""
        host, port = split_authority(authority, scheme == "https")
        method = self.method.decode("latin-1")
        attributes: Attributes = {
            "http.request.method": method,
            "server.address": host,
            "server.port": port,
            "url.full": f"{scheme}://{authority}{redact(self._target, MOST_TEXT).decode('latin-1')}",
            "network.protocol.version": "1.1",
            "passerelle.service": self._service.name,
            "passerelle.instance": instance.name,
            **added,
        }
        if span.number:
            attributes["http.request.resend_count"] = span.number
        if span.sent_at:
            attributes["passerelle.wait_us"] = int((span.sent_at - span.start) * 1e6)
        error = span.error
        if span.status:
            attributes["http.response.status_code"] = span.status
            if not error and span.status >= 400:
                error = str(span.status)
        if error:
            attributes["error.type"] = error
        if self._trace.trace_id:
            self._service.metrics.remember_exemplar(self._trace.trace_id, now - self._since)
        self._trace.add(Span(CLIENT, method, span.span_id, self._parent_id, span.start, now, error, attributes))


class TracedGuardedRequest(TracedRequest, GuardedRequest):
    """As :class:`TracedRequest`; a hedge is a span as well."""

    _hedge_open: Attempt | None = None

    def message_for(self, instance: Instance) -> bytes:
        """See :meth:`.guarded_request.GuardedRequest.message_for`."""
        message = super().message_for(instance)
        span, attempt = self._hedge_open, self._hedge.attempt if self._hedge is not None else None
        if span is None or attempt is None or attempt.instance is not instance:
            return message
        if attempt.connection is not None:
            _mark_sent(span, attempt.connection, instance)
        return self._with_trace(message, span)

    def launch_hedge(self) -> None:
        """See :meth:`.guarded_request.GuardedRequest.launch_hedge`."""
        self._hedge_open = attempt = Attempt(self._service.name, self.attempts)
        super().launch_hedge()
        if self._hedge is None or self._hedge.attempt is None:
            self._hedge_open = None  # it was not sent
        else:
            self._trace.begin(attempt)

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """See :meth:`TracedRequest.on_response`."""
        if head.status < 500:
            self._close_hedge("lost")
        super().on_response(head, data, complete)

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """See :meth:`TracedRequest.on_switch`."""
        self._close_hedge("lost")
        super().on_switch(head, data)

    def on_hedge_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """See :meth:`.guarded_request.GuardedRequest.on_hedge_response`."""
        if self._open is not None:
            self._open.error = CANCELLED
        self._close()
        self._open, self._hedge_open = self._hedge_open, None
        super().on_hedge_response(head, data, complete)

    def on_hedge_error(self, status: int) -> None:
        """See :meth:`.guarded_request.GuardedRequest.on_hedge_error`."""
        if self._hedge_open is not None:
            self._hedge_open.status = status
        self._close_hedge("failed")
        super().on_hedge_error(status)

    def on_hedge_failure(self, failure: Failure) -> None:
        """See :meth:`.guarded_request.GuardedRequest.on_hedge_failure`."""
        if self._hedge_open is not None:
            self._hedge_open.error = failure.kind.value
        self._close_hedge("failed")
        super().on_hedge_failure(failure)

    def _promote_hedge(self, hedge: Hedge, ok: bool | None, seconds: float) -> None:
        self._close()
        self._open, self._hedge_open = self._hedge_open, None
        super()._promote_hedge(hedge, ok, seconds)

    def _stop(self, failure: Failure | None) -> None:
        self._close_hedge(CANCELLED)
        super()._stop(failure)

    def _close_hedge(self, outcome: str) -> None:
        """Record the hedge, if one is in flight."""
        span, self._hedge_open = self._hedge_open, None
        attempt = self._hedge.attempt if self._hedge is not None else None
        if span is not None and attempt is not None:
            if not span.status and not span.error:
                span.error = CANCELLED
            self._record(span, attempt.instance, {"passerelle.hedge": outcome})


class TracedAddressedRequest(TracedGuardedRequest, AddressedRequest):
    """As :class:`TracedGuardedRequest`, with the Host of the service or of the instance."""


def _mark_sent(attempt: Attempt, connection: UpstreamConnection, instance: Instance) -> None:
    attempt.sent_at = perf_counter()
    attempt.instance = instance.name
    if connection.fresh:
        attempt.connecting = connection.connecting


def _mark_response(attempt: Attempt, head: ResponseHead) -> None:
    attempt.status = head.status
    attempt.responded_at = perf_counter()


_POLICY_FIELDS = tuple(field.name for field in fields(CallPolicy))
_TRACED: dict[type[UpstreamRequest], type[UpstreamRequest]] = {
    UpstreamRequest: TracedRequest,
    GuardedRequest: TracedGuardedRequest,
    AddressedRequest: TracedAddressedRequest,
}

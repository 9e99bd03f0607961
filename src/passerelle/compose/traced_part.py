"""Parts of compositions that are recorded as spans: those of sampled requests."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

from passerelle.caching.entry import Entry
from passerelle.caching.request import RequestView
from passerelle.compose.composition import Gather
from passerelle.compose.part import PartRequest
from passerelle.compose.plans import ComposedRoute, PartPlan
from passerelle.errors import Failure
from passerelle.http1.head import ResponseHead
from passerelle.observability.tracing.trace import INTERNAL, Attributes, Span, Trace, new_span_id
from passerelle.proxy_cache.request import CacheRequest
from passerelle.upstream.request import CallPolicy
from passerelle.upstream.traced_request import CANCELLED, TracedPolicy, traced


def traced_composition(composed: ComposedRoute, trace: Trace) -> ComposedRoute:
    """Return ``composed`` for one sampled request: each part is a span, and the parent of its attempts."""
    return replace(composed, parts=tuple(_traced_part(part, trace) for part in composed.parts))


def _traced_part(part: PartPlan, trace: Trace) -> PartPlan:
    return replace(part, policy=traced(part.policy, trace, new_span_id(), part.name), make_part=TracedPartRequest)


class TracedPartRequest(PartRequest):
    """The request for a part, which is recorded when the part is complete or has failed."""

    __slots__ = ("_name", "_policy", "_started_at", "_status")

    def __init__(
        self,
        gather: Gather,
        index: int,
        policy: CallPolicy,
        message: bytes,
        now: float,
        request: CacheRequest | None = None,
    ) -> None:
        super().__init__(gather, index, policy, message, now, request)
        assert isinstance(policy, TracedPolicy)
        self._policy: TracedPolicy | None = policy
        self._name = policy.name
        self._started_at = perf_counter()

    def cancel(self) -> None:
        """See :meth:`.part.PartRequest.cancel`."""
        super().cancel()
        self._record(0, CANCELLED)

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """See :meth:`.part.PartRequest.on_switch`."""
        self._record(head.status, str(head.status))
        super().on_switch(head, data)

    def on_stored(self, view: RequestView, entry: Entry, status_line: bytes, added_lines: tuple[bytes, ...]) -> None:
        """See :meth:`.part.PartRequest.on_stored`."""
        self._record(entry.status)
        super().on_stored(view, entry, status_line, added_lines)

    def on_failure(self, failure: Failure) -> None:
        """See :meth:`.part.PartRequest.on_failure`."""
        self._record(0, failure.kind.value)
        super().on_failure(failure)

    def _finish(self, body: bytes) -> None:
        self._record(self.response.status if self.response is not None else 0)
        super()._finish(body)

    def _too_large(self) -> None:
        self._record(self.response.status if self.response is not None else 0, "part_too_large")
        super()._too_large()

    def _record(self, status: int, error: str = "") -> None:
        policy, self._policy = self._policy, None
        if policy is None or policy.trace is None:
            return
        attributes: Attributes = {"passerelle.part": self._name, "passerelle.service": policy.service.name}
        if self.cache_outcome is not None:
            attributes["passerelle.cache.outcome"] = self.cache_outcome
        if status:
            attributes["http.response.status_code"] = status
            if status >= 400 and not error:
                error = str(status)
        if error:
            attributes["error.type"] = error
        name, parent = f"part {self._name}", policy.trace.span_id
        policy.trace.add(
            Span(INTERNAL, name, policy.parent_id, parent, self._started_at, perf_counter(), error, attributes)
        )

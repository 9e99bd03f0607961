"""A request to a service whose number of requests in flight is limited by what its latency says of its queue.

What counts is a request that waits for its answer to begin. An answer whose body is a stream, and a tunnel, count no
more: how long they last says nothing of how busy the service is, and ``max_connections`` bounds them.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from passerelle.errors import Failure, Kind
from passerelle.http1.head import ResponseHead
from passerelle.resilience.admission import Admission
from passerelle.upstream.guarded_request import TimedRequest
from passerelle.upstream.interfaces import ResponseReceiver
from passerelle.upstream.request import CallPolicy
from passerelle.upstream.request_body import RequestBody

if TYPE_CHECKING:
    from passerelle.upstream.concurrency_limiter import ConcurrencyLimiter


# What says that a service has too much to do: no answer in time, no room, and answers that say so themselves.
_OVERLOAD_KINDS = frozenset({Kind.TIMEOUT, Kind.CONNECT_TIMEOUT, Kind.OVERLOADED})
_BUSY = frozenset({503, 504})


class LimitedRequest(TimedRequest):
    """Has a place under the service's limit from its first attempt until its answer begins; waits for it, or is
    refused."""

    __slots__ = ("_admitted_at", "_limiter", "_queued")

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
        self._limiter: ConcurrencyLimiter | None = policy.service.limiter
        self._queued = False
        self._admitted_at = -1.0  # when it got its place; negative while it has none

    def start(self) -> None:
        """See :meth:`.request.UpstreamRequest.start`."""
        limiter = self._limiter
        if limiter is None:
            super().start()
            return
        admission = limiter.acquire(self)
        if admission is Admission.RUN:
            self.on_admitted()
        elif admission is Admission.WAIT:
            self._queued = True
            self._policy.deadlines.add(self, self._since)
        else:
            self._refuse_overload("as many as the service keeps up with are under way")

    def on_admitted(self) -> None:
        """There is a place."""
        self._queued = False
        self._admitted_at = perf_counter()
        super().start()

    def on_deadline(self) -> None:
        """See :meth:`.request.UpstreamRequest.on_deadline`."""
        if self._queued and self._limiter is not None:
            self._queued = False
            self._limiter.dequeue(self)
            self._refuse_overload("it waited for all of its time")
        else:
            super().on_deadline()

    def _refuse_overload(self, why: str) -> None:
        failure = Failure(Kind.OVERLOADED, why)
        if self._limiter is not None:
            failure.retry_after = self._limiter.retry_after(self._service.metrics.mean)
        self._service.metrics.limited += 1
        self._service.report_overload()
        self._give_up(failure)

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """See :meth:`.request.UpstreamRequest.on_response`."""
        super().on_response(head, data, complete)
        if self._responded and self._admitted_at >= 0.0:
            self._release_permit(_load_verdict(head.status))

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """See :meth:`.request.UpstreamRequest.on_switch`."""
        self._release_permit(True)
        super().on_switch(head, data)

    def _release_permit(self, ok: bool | None) -> None:
        """Give the place up, if there is one."""
        since, self._admitted_at = self._admitted_at, -1.0
        if since >= 0.0 and self._limiter is not None:
            now = perf_counter()
            # The time of several attempts is not that of one.
            self._limiter.release(now - since, None if ok and self.attempts > 1 else ok, now)

    def _settle(self, status: int) -> None:
        super()._settle(status)
        self._release_permit(_load_verdict(status))

    def _fail(self, failure: Failure) -> None:
        super()._fail(failure)  # first, so that the breaker knows before the next one asks it
        self._release_permit(False if failure.kind in _OVERLOAD_KINDS else None)

    def _give_up(self, failure: Failure) -> None:
        super()._give_up(failure)
        self._release_permit(False if failure.kind in _OVERLOAD_KINDS else None)

    def _stop(self, kind: Kind | None) -> None:
        if self._queued and self._limiter is not None:
            self._queued = False
            self._over = True
            self._limiter.dequeue(self)
            self._policy.deadlines.entries.pop(self, None)
            if self._body is not None:
                self._body.detach()
            return
        super()._stop(kind)
        self._release_permit(False if kind in _OVERLOAD_KINDS else None)


def _load_verdict(status: int) -> bool | None:
    """What an answer says of the load: other failures come too fast, or too late, for reasons of their own."""
    if status in _BUSY:
        return False
    return None if status >= 500 else True

"""The adaptive concurrency limit of a service, with the queue of requests that wait for a place."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from passerelle.http1.client.places import FairQueue
from passerelle.resilience.adaptive_limit import AdaptiveLimit
from passerelle.resilience.admission import Admission, AdmissionQueue, retry_after


class LimitedRequest(Protocol):
    """A request that may wait for a place under the limit."""

    def client_key(self) -> bytes | None:
        """The client that the request is counted for."""

    def on_displaced(self) -> None:
        """The request has lost its place in the queue to one of another client."""

    def on_admitted(self) -> None:
        """A place is free and now belongs to the request."""


class ConcurrencyLimiter:
    """The concurrency limit of one service in this worker. The limit is read from ``adaptive`` after each request."""

    __slots__ = ("_admitted_next", "_admitting", "_queue", "_waiting", "adaptive")

    def __init__(self, adaptive: AdaptiveLimit, max_waiting: int) -> None:
        self.adaptive = adaptive
        self._queue = AdmissionQueue(adaptive.limit, max_waiting)
        self._waiting: FairQueue[LimitedRequest] = FairQueue(max_waiting)
        self._admitted_next: deque[LimitedRequest] = deque()  # admitted, but not notified yet
        self._admitting = False

    def acquire(self, request: LimitedRequest) -> Admission:
        """Request a place for ``request``. With ``WAIT``, ``request.on_admitted`` is called when a place is free,
        unless :meth:`dequeue` removes the request before."""
        admission = self._queue.enter()
        if admission is Admission.RUN:
            return admission
        client = request.client_key()
        if admission is Admission.REFUSE:
            displaced = self._waiting.displace(client)
            if displaced is None:
                return admission
            self._waiting.add(client, request)
            displaced.on_displaced()
        else:
            self._waiting.add(client, request)
        return Admission.WAIT

    def dequeue(self, request: LimitedRequest) -> None:
        """Remove ``request``, which waits for a place or has not been notified of it yet."""
        if self._waiting.remove(request):
            self._queue.abandon()
        else:
            self._admitted_next.remove(request)
            self._admit_next()

    def release(self, seconds: float, ok: bool | None, now: float) -> None:
        """Release the place of a request; for the parameters see :meth:`AdaptiveLimit.observe`."""
        self.adaptive.observe(seconds, self._queue.running, ok, now)
        self._queue.limit = self.adaptive.limit
        self._admit_next()

    def suspend(self) -> None:
        """Release the place of a request that takes one again with :meth:`resume`."""
        self._admit_next()

    def resume(self) -> None:
        """Take a place for a request that has one suspended, even over the limit."""
        self._queue.running += 1

    def _admit_next(self) -> None:
        queue = self._queue
        moved = queue.leave()
        while moved:
            found = self._waiting.pop()
            assert found is not None  # the counters of both queues are the same
            self._admitted_next.append(found[1])
            moved = queue.promote()
        if self._admitting:
            return  # a request admitted by the loop below ended at once: the loop also admits its successor
        self._admitting = True
        try:
            while self._admitted_next:
                self._admitted_next.popleft().on_admitted()
        finally:
            self._admitting = False

    def retry_after(self, seconds: float) -> int:
        """Return the Retry-After of a refusal, in seconds, when one request takes ``seconds`` on average."""
        return retry_after(self._queue.waiting, self._queue.limit, seconds)

    def snapshot(self) -> dict[str, int]:
        """Return the limit and the numbers of running and waiting requests."""
        return {"limit": self._queue.limit, "running": self._queue.running, "waiting": self._queue.waiting}

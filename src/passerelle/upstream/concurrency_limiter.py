"""The adaptive limit of a service, and the queue in front of it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from passerelle.resilience.adaptive_limit import AdaptiveLimit
from passerelle.resilience.admission import Admission, AdmissionQueue, retry_after

if TYPE_CHECKING:
    from passerelle.upstream.limiting import LimitedRequest


class ConcurrencyLimiter:
    """The limit of one service in this worker, and who waits for it. ``limit`` is read again after each request."""

    __slots__ = ("_admitted_next", "_admitting", "_queue", "_waiting", "adaptive")

    def __init__(self, adaptive: AdaptiveLimit, max_waiting: int) -> None:
        self.adaptive = adaptive
        self._queue = AdmissionQueue(adaptive.limit, max_waiting)
        self._waiting: dict[LimitedRequest, None] = {}  # in their order
        self._admitted_next: deque[LimitedRequest] = deque()  # have a place and do not know it yet
        self._admitting = False

    def acquire(self, request: LimitedRequest) -> Admission:
        """``request`` wants a place. One that waits is told by ``on_admitted``, or takes itself away
        (:meth:`dequeue`)."""
        admission = self._queue.enter()
        if admission is Admission.WAIT:
            self._waiting[request] = None
        return admission

    def dequeue(self, request: LimitedRequest) -> None:
        """``request`` waits no more."""
        if request in self._waiting:
            del self._waiting[request]
            self._queue.abandon()
        else:
            self._admitted_next.remove(request)
            self._admit_next()

    def release(self, seconds: float, ok: bool | None, now: float) -> None:
        """One that had a place needs it no more; for the others see :meth:`AdaptiveLimit.observe`."""
        self.adaptive.observe(seconds, self._queue.running, ok, now)
        self._queue.limit = self.adaptive.limit
        self._admit_next()

    def _admit_next(self) -> None:
        queue = self._queue
        moved = queue.leave()
        while moved:
            request = next(iter(self._waiting))
            del self._waiting[request]
            self._admitted_next.append(request)
            moved = queue.promote()
        if self._admitting:
            return  # one that was just admitted has ended at once: its successor comes after it, not within it
        self._admitting = True
        try:
            while self._admitted_next:
                self._admitted_next.popleft().on_admitted()
        finally:
            self._admitting = False

    def retry_after(self, seconds: float) -> int:
        """For a refusal, when one request takes ``seconds``."""
        return retry_after(self._queue.waiting, self._queue.limit, seconds)

    def snapshot(self) -> dict[str, int]:
        """The limit, who has a place and who waits for one."""
        return {"limit": self._queue.limit, "running": self._queue.running, "waiting": self._queue.waiting}

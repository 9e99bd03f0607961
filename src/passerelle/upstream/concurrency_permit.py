"""The place of one request under the concurrency limit of a service."""

from __future__ import annotations

from time import perf_counter

from passerelle.resilience.admission import Admission
from passerelle.upstream.concurrency_limiter import ConcurrencyLimiter, LimitedRequest


class ConcurrencyPermit:
    """The place of one request under the concurrency limit of a service: requested, waited for, held, released.

    While the client sends the body, the place is suspended: another request may have it.
    """

    __slots__ = ("_admitted_at", "_limiter", "_suspended", "queued")

    def __init__(self, limiter: ConcurrencyLimiter) -> None:
        self._limiter = limiter
        self._admitted_at = -1.0  # negative unless the permit is held
        self._suspended = False
        self.queued = False

    def acquire(self, request: LimitedRequest) -> Admission:
        """Request a place for ``request``. With ``WAIT`` the request is queued, and its ``on_admitted`` is called
        later unless :meth:`dequeue` comes first."""
        admission = self._limiter.acquire(request)
        if admission is Admission.RUN:
            self.admit()
        elif admission is Admission.WAIT:
            self.queued = True
        return admission

    def admit(self) -> None:
        """Record that the request has got its place."""
        self.queued = False
        self._admitted_at = perf_counter()

    def suspend(self) -> None:
        """Give the place to another request until :meth:`resume`."""
        if self._admitted_at >= 0.0:
            self._admitted_at = -1.0
            self._suspended = True
            self._limiter.suspend()

    def resume(self) -> None:
        """Take a place again if it was suspended, even over the limit: the request cannot wait any more."""
        if self._suspended:
            self._suspended = False
            self._limiter.resume()
            self._admitted_at = perf_counter()

    def dequeue(self, request: LimitedRequest) -> None:
        """Remove ``request``, which is queued, from the queue."""
        self.queued = False
        self._limiter.dequeue(request)

    def release(self, ok: bool | None, attempts: int) -> None:
        """Release the place, if it is held, after ``attempts`` attempts.

        ``ok`` is False if the outcome is a sign of overload, and None if it does not depend on the load.
        """
        self._suspended = False
        since, self._admitted_at = self._admitted_at, -1.0
        if since >= 0.0:
            now = perf_counter()
            # The duration of several attempts is no measure of the latency of one.
            self._limiter.release(now - since, None if ok and attempts > 1 else ok, now)

    def retry_after(self, seconds: float) -> int:
        """Return the Retry-After of a refusal, in seconds, when one request takes ``seconds`` on average."""
        return self._limiter.retry_after(seconds)

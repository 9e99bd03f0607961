"""The permission of a circuit breaker for one request."""

from __future__ import annotations

from math import ceil
from time import perf_counter

from passerelle.resilience.circuit_breaker import BreakerState, CircuitBreaker


class BreakerPass:
    """The permission of a service's circuit breaker for one request, whatever its number of attempts."""

    __slots__ = ("_breaker", "_ticket")

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = breaker
        self._ticket: int | None = None

    def enter(self, now: float) -> bool:
        """Ask the breaker for permission at ``now`` (seconds, of ``perf_counter``). False if the request is refused."""
        self._ticket = self._breaker.acquire(now)
        return self._ticket is not None

    @property
    def is_probe(self) -> bool:
        """Whether the request holds one of the few places of a half-open breaker."""
        return self._ticket is not None and self._breaker.state is BreakerState.HALF_OPEN

    def retry_after(self, now: float) -> int:
        """Return the Retry-After of a refusal at ``now``, in seconds."""
        return max(1, ceil(self._breaker.retry_after(now)))

    def leave(self, ok: bool | None) -> None:
        """Report the outcome to the breaker, unless it was reported before.

        ``ok`` is None if the outcome does not depend on the service.
        """
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self._breaker.release(ticket, ok, perf_counter())

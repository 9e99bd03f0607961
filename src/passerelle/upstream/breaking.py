"""A request to a service that has a circuit breaker. The others use :class:`.request.UpstreamRequest` and pay
nothing."""

from __future__ import annotations

from math import ceil
from time import perf_counter

from passerelle.errors import Failure, Kind
from passerelle.http1.head import ResponseHead
from passerelle.resilience.circuit_breaker import CircuitBreaker
from passerelle.upstream.interfaces import ResponseReceiver
from passerelle.upstream.request import CallPolicy, UpstreamRequest
from passerelle.upstream.request_body import RequestBody

# What ends a request without saying anything of the service.
_NEUTRAL = frozenset({Kind.OVERLOADED, Kind.CLIENT_GONE, Kind.NO_INSTANCE})


class BreakerRequest(UpstreamRequest):
    """Asks the breaker before its first attempt and tells it of the end: one request, whatever its attempts."""

    __slots__ = ("_breaker", "_ticket")

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
        self._breaker: CircuitBreaker | None = policy.service.breaker
        self._ticket: int | None = None

    def start(self) -> None:
        """See :meth:`.request.UpstreamRequest.start`."""
        breaker = self._breaker
        if breaker is not None:
            self._ticket = breaker.acquire(self._since)
            if self._ticket is None:
                failure = Failure(Kind.BREAKER_OPEN, f"most requests to {self._service.name} fail")
                failure.retry_after = max(1, ceil(breaker.retry_after(self._since)))
                self._give_up(failure)
                return
        super().start()

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """A tunnel may last for days: that it came about is what the breaker asks."""
        self._release_breaker(True)
        super().on_switch(head, data)

    def _release_breaker(self, ok: bool | None) -> None:
        ticket, self._ticket = self._ticket, None
        if ticket is not None and self._breaker is not None:
            self._breaker.release(ticket, ok, perf_counter())

    def _settle(self, status: int) -> None:
        self._release_breaker(status < 500)
        super()._settle(status)

    def _fail(self, failure: Failure) -> None:
        self._release_breaker(None if failure.kind in _NEUTRAL else False)
        super()._fail(failure)

    def _give_up(self, failure: Failure) -> None:
        self._release_breaker(None if failure.kind in _NEUTRAL else False)
        super()._give_up(failure)

    def _stop(self, kind: Kind | None) -> None:
        self._release_breaker(None if kind is None else False)
        super()._stop(kind)

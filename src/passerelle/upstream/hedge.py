"""Hedging: a GET or HEAD is also sent to a second instance when the first response takes long.

A hedge is one more attempt, in parallel with the first one. The instance that responds first wins. A hedge is paid from
the retry budget of the service, and leaves half of the budget to retries. If the first attempt fails or gets a 5xx
response, the hedge takes its place. If the hedge fails, the first attempt continues. The connection of the loser is
closed, which does not count as a failure of its instance. A request has one hedge at most. A request that asks for a
protocol switch has none, because it is no read.
"""

from __future__ import annotations

from asyncio import TimerHandle, get_running_loop
from time import perf_counter
from typing import Protocol

from passerelle.balancing.instance import Instance
from passerelle.errors import Failure, Kind
from passerelle.http1.client.connection import UpstreamConnection
from passerelle.http1.client.pool import ConnectionPool, ConnectionWaiter
from passerelle.http1.head import ResponseHead
from passerelle.resilience.hedge_delay import HedgeDelay
from passerelle.upstream.service import Service

_READS = frozenset({b"GET", b"HEAD"})
_SWITCH = b"\r\nUpgrade: "  # as upstream/request_headers.py writes it; no header of a client can contain it


def is_hedgeable(method: bytes, message: bytes, service: Service) -> bool:
    """Whether a request without a body, whose head is ``message``, may be sent to two instances of ``service``."""
    return method in _READS and method in service.retries.methods and _SWITCH not in message


class PoolWaiter:
    """Waits for a connection of a pool on behalf of ``owner``.

    If the owner is removed, a connection that is made later is returned to the pool.
    """

    __slots__ = ("owner",)

    def __init__(self, owner: ConnectionWaiter) -> None:
        self.owner: ConnectionWaiter | None = owner

    def client_key(self) -> bytes | None:
        """Return the client of the owner."""
        return self.owner.client_key() if self.owner is not None else None

    def on_connection(self, connection: UpstreamConnection) -> None:
        """A connection is available."""
        owner, self.owner = self.owner, None  # the two would be a reference cycle
        if owner is not None:
            owner.on_connection(connection)
        elif connection.poll(0):
            connection.abort()
        else:
            connection.pool.release(connection)

    def on_no_connection(self, failure: Failure) -> None:
        """No connection could be made."""
        owner, self.owner = self.owner, None
        if owner is not None:
            owner.on_no_connection(failure)


class HedgedRequest(Protocol):
    """The request that a hedge belongs to."""

    method: bytes

    def client_key(self) -> bytes | None:
        """The client of the request."""

    def message_for(self, instance: Instance) -> bytes:
        """The head of the request as it is to be sent to ``instance`` now."""

    def launch_hedge(self) -> None:
        """The delay of the hedge has passed."""

    def on_hedge_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """The hedge gets a response below 500 before the first attempt gets one."""

    def on_hedge_error(self, status: int) -> None:
        """The hedge gets a 5xx response."""

    def on_hedge_failure(self, failure: Failure) -> None:
        """The hedge fails."""


class HedgeAttempt:
    """The second attempt, until one of the two attempts has won. Receives the response for ``request``."""

    __slots__ = ("_request", "connection", "instance", "method", "since", "waiter")

    def __init__(self, request: HedgedRequest, instance: Instance) -> None:
        self._request = request
        self.instance = instance
        self.method = request.method
        self.connection: UpstreamConnection | None = None
        self.waiter: PoolWaiter | None = None
        self.since = perf_counter()

    def start(self) -> None:
        """Send the request, or wait for a connection."""
        pool: ConnectionPool = self.instance.endpoint
        connection = pool.checkout()
        if connection is None:
            self.waiter = PoolWaiter(self)
            pool.request(self.waiter)
        else:
            self._send(connection)

    def client_key(self) -> bytes | None:
        """Return the client of the request."""
        return self._request.client_key()

    def on_connection(self, connection: UpstreamConnection) -> None:
        """Send the request over the connection that was waited for."""
        if connection.poll(0):
            connection.abort()
            self.on_no_connection(Failure(Kind.UPSTREAM_CLOSED, "closed before use", retryable=True))
        else:
            self._send(connection)

    def _send(self, connection: UpstreamConnection) -> None:
        self.connection = connection
        connection.send(self, self._request.message_for(self.instance), True)

    def on_no_connection(self, failure: Failure) -> None:
        """Report that no connection to the instance could be made."""
        self._request.on_hedge_failure(failure)

    def on_interim(self, head: ResponseHead) -> None:
        """Ignore a 1xx response: the client may get the one of the first attempt."""

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """Report the head of the response, or a 5xx status."""
        if head.status >= 500:
            if not complete and self.connection is not None:
                self.connection.detach()
            self._request.on_hedge_error(head.status)
        else:
            self._request.on_hedge_response(head, data, complete)

    def on_failure(self, failure: Failure) -> None:
        """Report that there will be no response."""
        self._request.on_hedge_failure(failure)

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """Treat a 101 response as a failure: a hedged request asks for no protocol switch."""
        if self.connection is not None:
            self.connection.detach()
        self._request.on_hedge_failure(Failure(Kind.BAD_RESPONSE, "unexpected 101 response"))

    # The request becomes the receiver when the response begins, and a hedged request has no body.

    def on_data(self, data: bytes) -> None:
        """Not called."""

    def on_end(self) -> None:
        """Not called."""

    def on_request_sent(self) -> None:
        """Not called: a hedged request is sent at once."""

    def on_upstream_paused(self) -> None:
        """Ignored: there is no request body to pause."""

    def on_upstream_resumed(self) -> None:
        """Ignored: there is no request body to resume."""


class Hedge:
    """The hedge of one request: its delay, its attempt while that is in flight, and its outcome."""

    __slots__ = ("_delay", "_service", "_timer", "attempt", "first_started", "outcome")

    def __init__(self, delay: HedgeDelay, service: Service) -> None:
        self._delay = delay
        self._service = service
        self._timer: TimerHandle | None = None
        self.attempt: HedgeAttempt | None = None
        self.first_started = 0.0
        """The start of the first attempt, of ``perf_counter``."""
        self.outcome: str | None = None
        """The label of the outcome in metrics and logs: ``won``, ``lost``, ``failed`` or ``cancelled``."""

    def schedule(self, request: HedgedRequest) -> None:
        """Start the delay: the first attempt of ``request`` begins now. An unknown delay means no hedge."""
        self.first_started = perf_counter()
        after = self._delay.delay
        if after is not None:
            self._timer = get_running_loop().call_later(after, self._launch, request)

    def _launch(self, request: HedgedRequest) -> None:
        self._timer = None
        request.launch_hedge()

    def disarm(self) -> None:
        """Stop the delay, if it is running."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def withdraw_budget(self) -> bool:
        """Pay for the hedge from the retry budget. False if the budget does not allow it, which is counted."""
        if self._service.may_hedge(perf_counter()):
            return True
        self._service.metrics.hedge("unaffordable")
        return False

    def start(self, request: HedgedRequest, instance: Instance) -> None:
        """Send ``request`` to ``instance`` as well."""
        self._service.node.acquire(instance)
        self.attempt = attempt = HedgeAttempt(request, instance)
        attempt.start()

    def observe_latency(self, now: float) -> None:
        """Record that the first attempt, if there was no other one before, has got its response at ``now``."""
        self._delay.observe(now - self.first_started)

    def finish(self, outcome: str) -> HedgeAttempt:
        """Record the outcome and return the attempt, which must be in flight; the hedge refers to it no longer."""
        attempt, self.attempt = self.attempt, None
        if attempt is None:
            raise RuntimeError("a hedge that was not sent")
        self.outcome = outcome
        self._service.metrics.hedge(outcome)
        return attempt

    def settle(self, attempt: HedgeAttempt, ok: bool | None) -> None:
        """Release the instance of a finished ``attempt``; ``ok`` as in :meth:`Instance.release`."""
        service = self._service
        service.node.release(attempt.instance, ok, perf_counter() - attempt.since)
        if ok is False:
            service.report_failure(attempt.instance)

    def cancel(self, outcome: str) -> None:
        """Stop the delay, and abort the attempt if one is in flight. That is no failure of its instance."""
        self.disarm()
        if self.attempt is not None:
            attempt = self.finish(outcome)
            detach_attempt(attempt.instance, attempt.connection, attempt.waiter)
            self.settle(attempt, None)


def detach_attempt(instance: Instance, connection: UpstreamConnection | None, waiter: PoolWaiter | None) -> None:
    """Abandon an attempt at ``instance`` that has ``connection``, or waits for one with ``waiter``."""
    if connection is not None:
        connection.detach()
    elif waiter is not None:
        waiter.owner = None
        instance.endpoint.withdraw(waiter)

"""A request with a circuit breaker, a concurrency limit, a time limit for each attempt, or a hedge.

Requests without any of them use :class:`.request.UpstreamRequest`, at no extra cost. Each of the four is an object of
its own, None where it is not configured. The order in which an event reaches them is written in one place, the method
of :class:`GuardedRequest` for that event. The file is longer than 400 lines because of that one class.
"""

from __future__ import annotations

from asyncio import get_running_loop
from time import perf_counter

from passerelle.balancing.instance import Instance
from passerelle.errors import Failure, Kind
from passerelle.http1.client.connection import UpstreamConnection
from passerelle.http1.client.pool import ConnectionPool, ConnectionWaiter
from passerelle.http1.head import ResponseHead
from passerelle.resilience.admission import Admission
from passerelle.upstream.attempt_timer import AttemptTimer
from passerelle.upstream.breaker_pass import BreakerPass
from passerelle.upstream.concurrency_permit import ConcurrencyPermit
from passerelle.upstream.hedge import Hedge, HedgeAttempt, PoolWaiter, detach_attempt, is_hedgeable
from passerelle.upstream.interfaces import NULL_RECEIVER, ResponseReceiver
from passerelle.upstream.request import CallPolicy, UpstreamRequest
from passerelle.upstream.request_body import PATIENCE, RequestBody

TIMEOUT_FIELD = b"Passerelle-Timeout-Ms"
"""The header with the milliseconds left for the response. Clients cannot send it: the prefix is reserved."""

# Failures that do not depend on the service.
_NEUTRAL = frozenset({Kind.CLIENT_GONE, Kind.NO_INSTANCE})
# Signs of overload: no response in time, no free connection, and 503 and 504 responses.
_OVERLOAD_KINDS = frozenset({Kind.TIMEOUT, Kind.CONNECT_TIMEOUT, Kind.OVERLOADED})
_OVERLOAD_STATUSES = frozenset({503, 504})
# Failures of a hedge before anything was sent: they do not count as attempts.
_UNSENT = frozenset({Kind.OVERLOADED, Kind.CONNECT_FAILED})


class GuardedRequest(UpstreamRequest):
    """A request that applies more of its policy than :class:`.request.UpstreamRequest` does.

    The request has one pass of the circuit breaker, whatever its number of attempts.

    The request has a place under the concurrency limit from its first attempt until the response begins, except while
    the client sends the body. Bodies and tunnels do not count: their duration is no measure of how busy the service is,
    and ``max_connections`` bounds them.

    An attempt that takes too long is abandoned for another instance where a retry is safe and affordable. Elsewhere
    (a method that is not idempotent, the last attempt, an empty retry budget) the attempt continues until the deadline
    of the route: giving up earlier would replace a late response by none.

    For the hedge see :mod:`.hedge`.
    """

    __slots__ = ("_attempt_timer", "_breaker", "_hedge", "_permit", "_pool_waiter")

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
        service = policy.service
        breaker, limiter, limit = service.breaker, service.limiter, policy.attempt_deadlines
        self._breaker = BreakerPass(breaker) if breaker is not None else None
        self._permit = ConcurrencyPermit(limiter) if limiter is not None and policy.limits_concurrency else None
        self._attempt_timer = AttemptTimer(limit) if limit is not None else None
        self._hedge: Hedge | None = None
        if policy.hedge is not None and body is None and is_hedgeable(method, message, service):
            self._hedge = Hedge(policy.hedge, service)
        self._pool_waiter: PoolWaiter | None = None

    @property
    def hedged(self) -> str | None:
        """The outcome of the hedge; None if there was none."""
        return self._hedge.outcome if self._hedge is not None else None

    # ---- admission

    def start(self) -> None:
        """See :meth:`.request.UpstreamRequest.start`. The request may be queued first, or refused."""
        permit = self._permit
        admission = permit.acquire(self) if permit is not None else Admission.RUN
        if admission is Admission.RUN:
            self._enter_breaker()
        elif admission is Admission.WAIT:
            self._policy.deadlines.add(self, self._since)
        else:
            self._refuse_overload("the concurrency limit of the service is reached")

    def on_admitted(self) -> None:
        """Start: the request has got its place under the concurrency limit."""
        if self._permit is not None:
            self._permit.admit()
        self._enter_breaker()

    def on_displaced(self) -> None:
        """Refuse the request: its client has most of the full queue, and another client needs room in it."""
        if self._permit is not None:
            self._permit.queued = False
        self._refuse_overload("the queue is full, and most of it is of the same client")

    def _enter_breaker(self) -> None:
        breaker = self._breaker
        if breaker is not None and not breaker.enter(self._since):
            failure = Failure(Kind.BREAKER_OPEN, f"most requests to {self._service.name} fail")
            failure.retry_after = breaker.retry_after(self._since)
            self._give_up(failure)
        else:
            super().start()

    def on_deadline(self) -> None:
        """See :meth:`.request.UpstreamRequest.on_deadline`."""
        permit = self._permit
        if permit is not None and permit.queued:
            permit.dequeue(self)
            self._refuse_overload("no place under the concurrency limit within the time limit")
        else:
            super().on_deadline()

    def _refuse_overload(self, why: str) -> None:
        failure = Failure(Kind.OVERLOADED, why)
        service = self._service
        if self._permit is not None:
            failure.retry_after = self._permit.retry_after(service.metrics.mean)
        service.metrics.limited += 1
        service.report_overload()
        self._give_up(failure)

    # ---- an attempt

    def _attempt(self) -> None:
        timer = self._attempt_timer
        if self._hedge is not None and self.attempts == 0:
            self._hedge.schedule(self)
        if timer is not None:
            timer.disarm()
        super()._attempt()
        if timer is not None and timer.request is None:
            waiting = self._connection is None and self._retry_timer is None and not self._over
            if waiting:  # in the queue for a connection
                timer.arm(self)

    def _wait_for_connection(self, pool: ConnectionPool) -> None:
        waiter: ConnectionWaiter = self
        if self._hedge is not None:
            waiter = self._pool_waiter = PoolWaiter(self)
        pool.request(waiter)
        if self._permit is not None and pool.is_queued(waiter):
            self._permit.suspend()  # the instance has nothing of the request yet; sending it resumes

    def _withdraw_from_pool(self) -> bool:
        if self._hedge is None:
            return super()._withdraw_from_pool()
        waiter = self._pool_waiter
        if waiter is None or not self.instance.endpoint.withdraw(waiter):
            return False
        waiter.owner = self._pool_waiter = None
        return True

    def _send(self, connection: UpstreamConnection) -> None:
        if self._attempt_timer is not None:
            self._attempt_timer.arm(self)
        if self._body is not None and not self._body.complete:
            self._expect_client(self._body)
        elif self._permit is not None:
            self._permit.resume()
        if self._policy.sends_deadline:
            plain, self._message = self._message, self.message_for(self.instance)
            super()._send(connection)
            self._message = plain
        else:
            super()._send(connection)

    def _expect_client(self, body: RequestBody) -> None:
        """Give up what the request holds of the service while the client sends ``body``."""
        if self._permit is not None:
            self._permit.suspend()
        if self._breaker is not None and self._breaker.is_probe:
            get_running_loop().call_later(PATIENCE, self._free_probe, body)

    def _free_probe(self, body: RequestBody) -> None:
        """Let another request probe the service: the client takes too long to send this one."""
        if self._breaker is not None and body.awaits_client:
            self._breaker.leave(None)

    def on_request_sent(self) -> None:
        """See :meth:`.request.UpstreamRequest.on_request_sent`."""
        super().on_request_sent()
        if self._permit is not None and self._body is not None and self._body.complete:
            self._permit.resume()

    def message_for(self, instance: Instance) -> bytes:
        """Return the head of the request for ``instance`` as of now: the header with the time left differs."""
        policy, plain = self._policy, self._message
        if not policy.sends_deadline:
            return plain
        left = max(0, int((policy.deadlines.limit - self._elapsed()) * 1000))
        return b"%b%b: %d\r\n\r\n" % (plain[:-2], TIMEOUT_FIELD, left)

    def on_attempt_deadline(self) -> None:
        """Abandon the attempt in progress for another one if that is possible: its time has expired."""
        timer = self._attempt_timer
        if timer is None or self._over or self._responded or self._retry_timer is not None:
            return
        if self._connection is not None and self._body is not None:
            since = self._body.limit_since(timer.since, timer.limit)
            if since is not None:
                timer.arm(self, since)  # the client was still sending: the delay is not the fault of the instance
                return
        unsent = self._connection is None
        if unsent and not self._withdraw_from_pool():
            return  # a connection is being made, with a time limit of its own; sending restarts the timer
        failure = Failure(Kind.TIMEOUT, f"no response to the attempt within {timer.limit:g} s", retryable=unsent)
        failure.neutral = unsent
        if not self._abandon_attempt(failure) and unsent:
            self._wait_for_connection(self.instance.endpoint)  # at the end of the queue: the place was given up

    # ---- the response to the attempt

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """See :meth:`.request.UpstreamRequest.on_response`. With a hedge in flight, a 5xx response ends the attempt."""
        hedge = self._hedge
        if hedge is not None:
            if hedge.attempt is not None and head.status >= 500:
                connection, self._connection = self._connection, None
                if connection is not None and not complete:
                    connection.detach()
                seconds = self._elapsed()
                self._service.count_error(self.instance, head.status, seconds)
                self._promote_hedge(hedge, False, seconds)
                return
            if not self._tried:
                hedge.observe_latency(perf_counter())
            hedge.cancel("lost")
        if self._attempt_timer is not None:
            self._attempt_timer.disarm()
        super().on_response(head, data, complete)
        if not complete and self._breaker is not None and self._responded and self._breaker.is_probe:
            self._breaker.leave(head.status < 500)  # the body may last as long as the client wants
        if self._permit is not None and self._responded:
            self._permit.release(_load_verdict(head.status), self.attempts)

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """See :meth:`.request.UpstreamRequest.on_switch`. A tunnel may last for days: its beginning is the success."""
        if self._hedge is not None:
            self._hedge.cancel("lost")
        if self._permit is not None:
            self._permit.release(True, self.attempts)
        if self._attempt_timer is not None:
            self._attempt_timer.disarm()
        if self._breaker is not None:
            self._breaker.leave(True)
        super().on_switch(head, data)

    def on_failure(self, failure: Failure) -> None:
        """See :meth:`.request.UpstreamRequest.on_failure`. A hedge in flight takes the place of the attempt."""
        hedge = self._hedge
        if hedge is not None and hedge.attempt is not None and not self._over and not self._responded:
            self._connection = None
            seconds = self._elapsed()
            self._service.count_failure(self.instance, failure.kind, seconds)
            self._promote_hedge(hedge, None if failure.neutral else False, seconds)
            return
        if self._attempt_timer is not None:
            self._attempt_timer.disarm()
        super().on_failure(failure)

    def _abandon_attempt(self, failure: Failure) -> bool:
        hedge = self._hedge
        if hedge is None or hedge.attempt is None:
            return super()._abandon_attempt(failure)
        self._drop_attempt()
        seconds = self._elapsed()
        self._service.count_failure(self.instance, failure.kind, seconds)
        self._promote_hedge(hedge, False, seconds)
        return True

    # ---- the hedge

    def launch_hedge(self) -> None:
        """Send the request to a second instance, if there is one and the retry budget allows it."""
        hedge = self._hedge
        if hedge is None or self._over or self._responded or self._retry_timer is not None:
            return  # between two attempts: the next one takes another instance anyway
        instance = self._service.node.pick((*self._tried, self.instance), self.key)
        if instance is not None and hedge.withdraw_budget():
            self.attempts += 1
            hedge.start(self, instance)

    def on_hedge_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """Let the hedge win: abandon the first attempt and deliver the response of the hedge."""
        hedge = self._hedge
        assert hedge is not None
        attempt = hedge.finish("won")
        self._drop_attempt()
        self._service.node.release(self.instance, None, perf_counter() - hedge.first_started)
        self._adopt_hedge(attempt)
        self._since = attempt.since  # durations from here on are those of the hedge
        if not complete and attempt.connection is not None:
            attempt.connection.set_receiver(self)
        self.on_response(head, data, complete)

    def on_hedge_error(self, status: int) -> None:
        """End the hedge, which got the 5xx ``status``: the first attempt may still do better."""
        attempt = self._finish_hedge()
        self._service.count_error(attempt.instance, status, perf_counter() - attempt.since)
        self._settle_hedge(attempt, False)
        self._counted_attempts = (*self._counted_attempts, attempt.instance)

    def on_hedge_failure(self, failure: Failure) -> None:
        """End the hedge, which failed: the first attempt continues alone."""
        attempt = self._finish_hedge()
        self._service.count_failure(attempt.instance, failure.kind, perf_counter() - attempt.since)
        self._settle_hedge(attempt, None if failure.neutral else False)
        if failure.kind not in _UNSENT:
            self._counted_attempts = (*self._counted_attempts, attempt.instance)

    def _finish_hedge(self) -> HedgeAttempt:
        assert self._hedge is not None
        return self._hedge.finish("failed")

    def _settle_hedge(self, attempt: HedgeAttempt, ok: bool | None) -> None:
        assert self._hedge is not None
        self._tried = (*self._tried, attempt.instance)
        self._hedge.settle(attempt, ok)

    def _promote_hedge(self, hedge: Hedge, ok: bool | None, seconds: float) -> None:
        """Make the hedge the attempt in progress: the first attempt is over after ``seconds``."""
        service = self._service
        service.node.release(self.instance, ok, seconds)
        if ok is False:
            service.report_failure(self.instance)
        self._tried = (*self._tried, self.instance)
        self._counted_attempts = (*self._counted_attempts, self.instance)
        attempt = hedge.finish("won")
        self._adopt_hedge(attempt)
        if attempt.connection is not None:
            attempt.connection.set_receiver(self)
        elif attempt.waiter is not None:
            attempt.waiter.owner = self
        if self._attempt_timer is not None:
            self._attempt_timer.arm(self)

    def _adopt_hedge(self, attempt: HedgeAttempt) -> None:
        self.instance = attempt.instance
        self._connection = attempt.connection
        self._pool_waiter = attempt.waiter

    def _drop_attempt(self) -> None:
        """Abandon the attempt in progress, or its wait for a connection."""
        connection, self._connection = self._connection, None
        waiter, self._pool_waiter = self._pool_waiter, None
        detach_attempt(self.instance, connection, waiter)

    # ---- the end

    def _settle(self, status: int, latency: float | None = None) -> None:
        if self._breaker is not None:
            self._breaker.leave(status < 500)
        super()._settle(status, latency)
        if self._permit is not None:
            self._permit.release(_load_verdict(status), self.attempts)

    def _fail(self, failure: Failure) -> None:
        if self._hedge is not None:
            self._hedge.disarm()
        if self._breaker is not None:
            self._breaker.leave(None if failure.neutral or failure.kind in _NEUTRAL else False)
        super()._fail(failure)
        if self._permit is not None:  # last: the next request is admitted at once and asks the breaker
            self._permit.release(False if failure.kind in _OVERLOAD_KINDS else None, self.attempts)

    def _give_up(self, failure: Failure) -> None:
        if self._hedge is not None:
            self._hedge.disarm()
        if self._breaker is not None:
            self._breaker.leave(None if failure.neutral or failure.kind in _NEUTRAL else False)
        super()._give_up(failure)
        if self._permit is not None:
            self._permit.release(False if failure.kind in _OVERLOAD_KINDS else None, self.attempts)

    def _stop(self, failure: Failure | None) -> None:
        permit = self._permit
        if self._hedge is not None:
            self._hedge.cancel("cancelled")
        if permit is not None and permit.queued:
            self._over = True
            self._receiver = NULL_RECEIVER
            permit.dequeue(self)
            self._policy.deadlines.entries.pop(self, None)
            if self._body is not None:
                self._body.detach()
            return
        if self._attempt_timer is not None:
            self._attempt_timer.disarm()
        if self._breaker is not None:
            self._breaker.leave(None if failure is None or failure.neutral else False)
        super()._stop(failure)
        if permit is not None:
            permit.release(False if failure is not None and failure.kind in _OVERLOAD_KINDS else None, self.attempts)


def _load_verdict(status: int) -> bool | None:
    """Return the ``ok`` of :meth:`ConcurrencyPermit.release` for a response with ``status``.

    Failures other than overload are faster or slower than usual for reasons that have nothing to do with the load.
    """
    if status in _OVERLOAD_STATUSES:
        return False
    return None if status >= 500 else True

"""A GET or HEAD that is also sent to a second instance when the first one takes long: who begins to answer first wins.

A hedge is one more attempt, beside the one under way and not after it. It is paid from the service's retry budget, of
which it leaves half to retries. If the first attempt fails, or is answered with 5xx, the hedge takes its place; if the
hedge fails, the first attempt goes on as it was. The loser's connection is closed, and that says nothing of its
instance. There is one hedge a request, and none where a protocol switch is asked for: that is no read.
"""

from __future__ import annotations

from asyncio import TimerHandle, get_running_loop
from time import perf_counter

from passerelle.balancing.instance import Instance
from passerelle.errors import Failure, Kind
from passerelle.http1.client.connection import UpstreamConnection
from passerelle.http1.client.pool import ConnectionPool, ConnectionWaiter
from passerelle.http1.head import ResponseHead
from passerelle.resilience.hedge_delay import HedgeDelay
from passerelle.upstream.interfaces import ResponseReceiver
from passerelle.upstream.limiting import LimitedRequest
from passerelle.upstream.request import CallPolicy
from passerelle.upstream.request_body import RequestBody

_READS = frozenset({b"GET", b"HEAD"})
_SWITCH = b"\r\nUpgrade: "  # as upstream/request_headers.py writes it, and no client's field can hold it
# Nothing was sent: that was no attempt.
_UNSENT = frozenset({Kind.OVERLOADED, Kind.CONNECT_FAILED})


class _PoolWaiter:
    """Waits for a connection in place of ``owner``, who may go elsewhere: what comes then goes back to the pool."""

    __slots__ = ("owner",)

    def __init__(self, owner: ConnectionWaiter) -> None:
        self.owner: ConnectionWaiter | None = owner

    def on_connection(self, connection: UpstreamConnection) -> None:
        """Here it is."""
        owner, self.owner = self.owner, None  # the two would be a cycle
        if owner is not None:
            owner.on_connection(connection)
        elif connection.poll(0):
            connection.abort()
        else:
            connection.pool.release(connection)

    def on_no_connection(self, failure: Failure) -> None:
        """There is none."""
        owner, self.owner = self.owner, None
        if owner is not None:
            owner.on_no_connection(failure)


class _Hedge:
    """The second attempt until one of the two has won. Receives what the instance says, for ``request``."""

    __slots__ = ("_request", "connection", "instance", "method", "since", "waiter")

    def __init__(self, request: HedgedRequest, instance: Instance) -> None:
        self._request = request
        self.instance = instance
        self.method = request.method
        self.connection: UpstreamConnection | None = None
        self.waiter: _PoolWaiter | None = None
        self.since = perf_counter()

    def start(self) -> None:
        """Send it, or wait for a connection."""
        pool: ConnectionPool = self.instance.endpoint
        connection = pool.checkout()
        if connection is None:
            self.waiter = _PoolWaiter(self)
            pool.request(self.waiter)
        else:
            self._send(connection)

    def on_connection(self, connection: UpstreamConnection) -> None:
        """A connection that was waited for."""
        if connection.poll(0):
            connection.abort()
            self.on_no_connection(Failure(Kind.UPSTREAM_CLOSED, "closed before use", retryable=True))
        else:
            self._send(connection)

    def _send(self, connection: UpstreamConnection) -> None:
        self.connection = connection
        connection.send(self, self._request.current_message(), True)

    def on_no_connection(self, failure: Failure) -> None:
        """The instance cannot be reached."""
        self._request.on_hedge_failure(failure)

    def on_interim(self, head: ResponseHead) -> None:
        """Not told: the other one may have told it, or may still."""

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """It answers first; well, or not."""
        if head.status >= 500:
            if not complete and self.connection is not None:
                self.connection.detach()
            self._request.on_hedge_error(head.status)
        else:
            self._request.on_hedge_response(head, data, complete)

    def on_failure(self, failure: Failure) -> None:
        """There will be no answer."""
        self._request.on_hedge_failure(failure)

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """101, for which nobody asked."""
        if self.connection is not None:
            self.connection.detach()
        self._request.on_hedge_failure(Failure(Kind.BAD_RESPONSE, "101 that nobody asked for"))

    # The answer's body is never this object's to hear, and a request that is hedged has none.
    def on_data(self, data: bytes) -> None: ...

    def on_end(self) -> None: ...

    def on_upstream_paused(self) -> None: ...

    def on_upstream_resumed(self) -> None: ...


class HedgedRequest(LimitedRequest):
    """Sends a second attempt after the route's delay; see the module."""

    __slots__ = ("_attempt_started", "_delay", "_hedge", "_hedge_timer", "_pool_waiter", "hedged")

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
        hedgeable = (
            method in _READS and method in policy.service.retries.methods and body is None and _SWITCH not in message
        )
        self._delay: HedgeDelay | None = policy.hedge if hedgeable else None
        self._attempt_started = now  # when the first attempt began
        self._hedge: _Hedge | None = None
        self._hedge_timer: TimerHandle | None = None
        self._pool_waiter: _PoolWaiter | None = None
        self.hedged: str | None = None

    # ---- the hedge

    def _attempt(self) -> None:
        if self.attempts == 0 and self._delay is not None:
            self._attempt_started = perf_counter()
            after = self._delay.delay
            if after is not None:
                self._hedge_timer = get_running_loop().call_later(after, self._launch)
        super()._attempt()

    def _launch(self) -> None:
        """The first attempt has had its time."""
        self._hedge_timer = None
        if self._over or self._responded or self._timer is not None:
            return  # between two attempts: the next one asks another instance anyway
        service = self._service
        instance = service.node.pick((*self._tried, self.instance), self.key)
        if instance is None:
            return
        if not service.may_hedge(perf_counter()):
            service.metrics.hedge("unaffordable")
            return
        self.attempts += 1
        service.node.acquire(instance)
        self._hedge = hedge = _Hedge(self, instance)
        hedge.start()

    def on_hedge_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """The hedge begins to answer, and wins."""
        hedge = self._take_hedge("won")
        now = perf_counter()
        self._drop_first()
        self._service.node.release(self.instance, None, now - self._attempt_started)
        self._observe_latency(now)
        self._adopt_hedge(hedge)
        self._since = hedge.since  # what is measured from here on is the hedge's
        if not complete and hedge.connection is not None:
            hedge.connection.set_receiver(self)
        super().on_response(head, data, complete)

    def on_hedge_error(self, status: int) -> None:
        """The hedge is answered with 5xx: the first attempt may still do better."""
        hedge = self._take_hedge("failed")
        self._service.metrics.observe(status, perf_counter() - hedge.since)
        self._settle_hedge(hedge, False)
        self._counted_attempts = (*self._counted_attempts, hedge.instance)

    def on_hedge_failure(self, failure: Failure) -> None:
        """The hedge comes to nothing: the first attempt goes on alone."""
        hedge = self._take_hedge("failed")
        self._service.metrics.count_failure(failure.kind, perf_counter() - hedge.since)
        self._settle_hedge(hedge, None if failure.kind is Kind.OVERLOADED else False)
        if failure.kind not in _UNSENT:
            self._counted_attempts = (*self._counted_attempts, hedge.instance)

    def _settle_hedge(self, hedge: _Hedge, ok: bool | None) -> None:
        self._tried = (*self._tried, hedge.instance)
        self._service.node.release(hedge.instance, ok, perf_counter() - hedge.since)
        if ok is False:
            self._service.report_failure(hedge.instance)

    def _take_hedge(self, outcome: str) -> _Hedge:
        hedge, self._hedge = self._hedge, None
        if hedge is None:
            raise RuntimeError("a hedge that was not sent")
        self.hedged = outcome
        self._service.metrics.hedge(outcome)
        return hedge

    def _drop_hedge(self, outcome: str) -> None:
        """End the hedge, if there is one, without saying anything of its instance."""
        self._disarm_hedge()
        if self._hedge is not None:
            hedge = self._take_hedge(outcome)
            _detach_attempt(hedge.instance, hedge.connection, hedge.waiter)
            self._service.node.release(hedge.instance, None, perf_counter() - hedge.since)

    def _disarm_hedge(self) -> None:
        if self._hedge_timer is not None:
            self._hedge_timer.cancel()
            self._hedge_timer = None

    # ---- the first attempt

    def _drop_first(self) -> None:
        """End it, or what stands for it, where it is."""
        connection, self._connection = self._connection, None
        waiter, self._pool_waiter = self._pool_waiter, None
        _detach_attempt(self.instance, connection, waiter)

    def _promote_hedge(self, ok: bool | None, seconds: float) -> None:
        """The first attempt is over: the hedge is the attempt under way."""
        service = self._service
        service.node.release(self.instance, ok, seconds)
        if ok is False:
            service.report_failure(self.instance)
        self._tried = (*self._tried, self.instance)
        self._counted_attempts = (*self._counted_attempts, self.instance)
        hedge = self._take_hedge("won")
        self._adopt_hedge(hedge)
        if hedge.connection is not None:
            hedge.connection.set_receiver(self)
        elif hedge.waiter is not None:
            hedge.waiter.owner = self
        self._disarm()
        self._arm()

    def _adopt_hedge(self, hedge: _Hedge) -> None:
        self.instance = hedge.instance
        self._connection = hedge.connection
        self._pool_waiter = hedge.waiter

    def _observe_latency(self, now: float) -> None:
        if self._delay is not None and not self._tried:
            self._delay.observe(now - self._attempt_started)

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """See :meth:`.request.UpstreamRequest.on_response`."""
        if self._hedge is not None and head.status >= 500:
            connection, self._connection = self._connection, None
            if connection is not None and not complete:
                connection.detach()
            seconds = perf_counter() - self._since
            self._service.metrics.observe(head.status, seconds)
            self._promote_hedge(False, seconds)
            return
        if self._delay is not None:
            self._observe_latency(perf_counter())
            self._drop_hedge("lost")
        super().on_response(head, data, complete)

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """See :meth:`.request.UpstreamRequest.on_switch`."""
        self._drop_hedge("lost")
        super().on_switch(head, data)

    def on_failure(self, failure: Failure) -> None:
        """See :meth:`.request.UpstreamRequest.on_failure`."""
        if self._hedge is None or self._over or self._responded:
            super().on_failure(failure)
            return
        self._connection = None
        seconds = perf_counter() - self._since
        self._service.metrics.count_failure(failure.kind, seconds)
        self._promote_hedge(None if failure.kind is Kind.OVERLOADED else False, seconds)

    def _abandon_attempt(self, failure: Failure) -> bool:
        if self._hedge is None:
            return super()._abandon_attempt(failure)
        self._drop_first()
        seconds = perf_counter() - self._since
        self._service.metrics.count_failure(failure.kind, seconds)
        self._promote_hedge(False, seconds)
        return True

    def _wait_for_connection(self, pool: ConnectionPool) -> None:
        self._pool_waiter = _PoolWaiter(self)
        pool.request(self._pool_waiter)

    def _withdraw_from_pool(self) -> bool:
        waiter = self._pool_waiter
        if waiter is None or not self.instance.endpoint.withdraw(waiter):
            return False
        waiter.owner = self._pool_waiter = None
        return True

    # ---- the end

    def _fail(self, failure: Failure) -> None:
        self._disarm_hedge()
        super()._fail(failure)

    def _give_up(self, failure: Failure) -> None:
        self._disarm_hedge()
        super()._give_up(failure)

    def _stop(self, kind: Kind | None) -> None:
        self._drop_hedge("cancelled")
        super()._stop(kind)


def _detach_attempt(instance: Instance, connection: UpstreamConnection | None, waiter: _PoolWaiter | None) -> None:
    """Want no (more) answer of ``instance``."""
    if connection is not None:
        connection.detach()
    elif waiter is not None:
        waiter.owner = None
        instance.endpoint.withdraw(waiter)

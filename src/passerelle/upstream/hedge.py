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
from passerelle.http1.client.pool import Pool, Waiter
from passerelle.http1.head import ResponseHead
from passerelle.resilience.hedge_delay import HedgeDelay
from passerelle.upstream.interfaces import Leg, Receiver
from passerelle.upstream.limiting import LimitedForward
from passerelle.upstream.request_body import RequestBody

_READS = frozenset({b"GET", b"HEAD"})
_SWITCH = b"\r\nUpgrade: "  # as upstream/request_headers.py writes it, and no client's field can hold it
# Nothing was sent: that was no attempt.
_UNSENT = frozenset({Kind.OVERLOADED, Kind.CONNECT_FAILED})


class _Place:
    """Waits for a connection in place of ``owner``, who may go elsewhere: what comes then goes back to the pool."""

    __slots__ = ("owner",)

    def __init__(self, owner: Waiter) -> None:
        self.owner: Waiter | None = owner

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
    """The second attempt until one of the two has won. Receives what the instance says, for ``forward``."""

    __slots__ = ("_forward", "connection", "instance", "method", "place", "since")

    def __init__(self, forward: HedgedForward, instance: Instance) -> None:
        self._forward = forward
        self.instance = instance
        self.method = forward.method
        self.connection: UpstreamConnection | None = None
        self.place: _Place | None = None
        self.since = perf_counter()

    def start(self) -> None:
        """Send it, or wait for a connection."""
        pool: Pool = self.instance.endpoint
        connection = pool.checkout()
        if connection is None:
            self.place = _Place(self)
            pool.request(self.place)
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
        connection.send(self, self._forward.outgoing(), True)

    def on_no_connection(self, failure: Failure) -> None:
        """The instance cannot be reached."""
        self._forward.on_hedge_failure(failure)

    def on_interim(self, head: ResponseHead) -> None:
        """Not told: the other one may have told it, or may still."""

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """It answers first; well, or not."""
        if head.status >= 500:
            if not complete and self.connection is not None:
                self.connection.detach()
            self._forward.on_hedge_error(head.status)
        else:
            self._forward.on_hedge_response(head, data, complete)

    def on_failure(self, failure: Failure) -> None:
        """There will be no answer."""
        self._forward.on_hedge_failure(failure)

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """101, for which nobody asked."""
        if self.connection is not None:
            self.connection.detach()
        self._forward.on_hedge_failure(Failure(Kind.BAD_RESPONSE, "101 that nobody asked for"))

    # The answer's body is never this object's to hear, and a request that is hedged has none.
    def on_data(self, data: bytes) -> None: ...

    def on_end(self) -> None: ...

    def on_upstream_paused(self) -> None: ...

    def on_upstream_resumed(self) -> None: ...


class HedgedForward(LimitedForward):
    """Sends a second attempt after the route's delay; see the module."""

    __slots__ = ("_begun", "_delay", "_hedge", "_hedging", "_place", "hedged")

    def __init__(
        self, leg: Leg, receiver: Receiver, method: bytes, message: bytes, body: RequestBody | None, now: float
    ) -> None:
        super().__init__(leg, receiver, method, message, body, now)
        read = method in _READS and method in leg.service.retries.methods and body is None and _SWITCH not in message
        self._delay: HedgeDelay | None = leg.hedge if read else None
        self._begun = now  # when the first attempt began
        self._hedge: _Hedge | None = None
        self._hedging: TimerHandle | None = None
        self._place: _Place | None = None
        self.hedged: str | None = None

    # ---- the hedge

    def _attempt(self) -> None:
        if self.attempts == 0 and self._delay is not None:
            self._begun = perf_counter()
            after = self._delay.after
            if after is not None:
                self._hedging = get_running_loop().call_later(after, self._launch)
        super()._attempt()

    def _launch(self) -> None:
        """The first attempt has had its time."""
        self._hedging = None
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
        self._service.node.release(self.instance, None, now - self._begun)
        self._learn(now)
        self._become(hedge)
        self._since = hedge.since  # what is measured from here on is the hedge's
        if not complete and hedge.connection is not None:
            hedge.connection.hand_over(self)
        super().on_response(head, data, complete)

    def on_hedge_error(self, status: int) -> None:
        """The hedge is answered with 5xx: the first attempt may still do better."""
        hedge = self._take_hedge("failed")
        self._service.metrics.observe(status, perf_counter() - hedge.since)
        self._settle_hedge(hedge, False)
        self._counted = (*self._counted, hedge.instance)

    def on_hedge_failure(self, failure: Failure) -> None:
        """The hedge comes to nothing: the first attempt goes on alone."""
        hedge = self._take_hedge("failed")
        self._service.metrics.failed(failure.kind, perf_counter() - hedge.since)
        self._settle_hedge(hedge, None if failure.kind is Kind.OVERLOADED else False)
        if failure.kind not in _UNSENT:
            self._counted = (*self._counted, hedge.instance)

    def _settle_hedge(self, hedge: _Hedge, ok: bool | None) -> None:
        self._tried = (*self._tried, hedge.instance)
        self._service.node.release(hedge.instance, ok, perf_counter() - hedge.since)
        if ok is False:
            self._service.failed(hedge.instance)

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
            _give_up(hedge.instance, hedge.connection, hedge.place)
            self._service.node.release(hedge.instance, None, perf_counter() - hedge.since)

    def _disarm_hedge(self) -> None:
        if self._hedging is not None:
            self._hedging.cancel()
            self._hedging = None

    # ---- the first attempt

    def _drop_first(self) -> None:
        """End it, or what stands for it, where it is."""
        connection, self._connection = self._connection, None
        place, self._place = self._place, None
        _give_up(self.instance, connection, place)

    def _hand_over(self, ok: bool | None, seconds: float) -> None:
        """The first attempt is over: the hedge is the attempt under way."""
        service = self._service
        service.node.release(self.instance, ok, seconds)
        if ok is False:
            service.failed(self.instance)
        self._tried = (*self._tried, self.instance)
        self._counted = (*self._counted, self.instance)
        hedge = self._take_hedge("won")
        self._become(hedge)
        if hedge.connection is not None:
            hedge.connection.hand_over(self)
        elif hedge.place is not None:
            hedge.place.owner = self
        self._disarm()
        self._arm()

    def _become(self, hedge: _Hedge) -> None:
        self.instance = hedge.instance
        self._connection = hedge.connection
        self._place = hedge.place

    def _learn(self, now: float) -> None:
        if self._delay is not None and not self._tried:
            self._delay.observe(now - self._begun)

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """See :meth:`.request.Forward.on_response`."""
        if self._hedge is not None and head.status >= 500:
            connection, self._connection = self._connection, None
            if connection is not None and not complete:
                connection.detach()
            seconds = perf_counter() - self._since
            self._service.metrics.observe(head.status, seconds)
            self._hand_over(False, seconds)
            return
        if self._delay is not None:
            self._learn(perf_counter())
            self._drop_hedge("lost")
        super().on_response(head, data, complete)

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """See :meth:`.request.Forward.on_switch`."""
        self._drop_hedge("lost")
        super().on_switch(head, data)

    def on_failure(self, failure: Failure) -> None:
        """See :meth:`.request.Forward.on_failure`."""
        if self._hedge is None or self._over or self._responded:
            super().on_failure(failure)
            return
        self._connection = None
        seconds = perf_counter() - self._since
        self._service.metrics.failed(failure.kind, seconds)
        self._hand_over(None if failure.kind is Kind.OVERLOADED else False, seconds)

    def _leave_for_another(self, failure: Failure) -> bool:
        if self._hedge is None:
            return super()._leave_for_another(failure)
        self._drop_first()
        seconds = perf_counter() - self._since
        self._service.metrics.failed(failure.kind, seconds)
        self._hand_over(False, seconds)
        return True

    def _wait(self, pool: Pool) -> None:
        self._place = _Place(self)
        pool.request(self._place)

    def _withdraw(self) -> bool:
        place = self._place
        if place is None or not self.instance.endpoint.withdraw(place):
            return False
        place.owner = self._place = None
        return True

    # ---- the end

    def _fail(self, failure: Failure) -> None:
        self._disarm_hedge()
        super()._fail(failure)

    def _end(self, failure: Failure) -> None:
        self._disarm_hedge()
        super()._end(failure)

    def _stop(self, kind: Kind | None) -> None:
        self._drop_hedge("cancelled")
        super()._stop(kind)


def _give_up(instance: Instance, connection: UpstreamConnection | None, place: _Place | None) -> None:
    """Want no (more) answer of ``instance``."""
    if connection is not None:
        connection.detach()
    elif place is not None:
        place.owner = None
        instance.endpoint.withdraw(place)

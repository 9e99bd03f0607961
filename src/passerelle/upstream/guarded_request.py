"""A request on a route that bounds each attempt, or tells services how much time is left. The others pay nothing."""

from __future__ import annotations

from time import perf_counter

from passerelle.errors import Failure, Kind
from passerelle.http1.client.connection import UpstreamConnection
from passerelle.http1.head import ResponseHead
from passerelle.upstream.breaking import BreakerRequest
from passerelle.upstream.interfaces import ResponseReceiver
from passerelle.upstream.request import CallPolicy
from passerelle.upstream.request_body import RequestBody

TIMEOUT_FIELD = b"Passerelle-Timeout-Ms"
"""Tells a service how many milliseconds are left for its answer. Clients cannot send it: the prefix is our own."""


class _AttemptTimer:
    """Stands for one attempt's time: the request itself may be in the same queue for all of its time."""

    __slots__ = ("_request",)

    def __init__(self, request: TimedRequest) -> None:
        self._request = request

    def on_deadline(self) -> None:
        """The attempt's time is up."""
        self._request.on_attempt_deadline()


class TimedRequest(BreakerRequest):
    """Leaves an instance that does not answer in time for another one, where that is safe and affordable.

    Where it is not (a method that is not idempotent, the last attempt, an empty retry budget), the attempt goes on to
    the route's deadline: to give up earlier would turn a late answer into none.
    """

    __slots__ = ("_attempt_timer",)

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
        self._attempt_timer: _AttemptTimer | None = None

    def _attempt(self) -> None:
        self._disarm()
        super()._attempt()
        if self._connection is None and self._attempt_timer is None and self._timer is None and not self._over:
            self._arm()  # it waits in the queue for a connection

    def _send(self, connection: UpstreamConnection) -> None:
        self._disarm()
        self._arm()
        plain, self._message = self._message, self.current_message()
        super()._send(connection)
        self._message = plain

    def current_message(self) -> bytes:
        """The request's head as it is sent now."""
        policy, plain = self._policy, self._message
        if not policy.sends_deadline:
            return plain
        left = max(0, int((policy.deadlines.limit - (perf_counter() - self._since)) * 1000))
        return b"%b%b: %d\r\n\r\n" % (plain[:-2], TIMEOUT_FIELD, left)

    def _arm(self) -> None:
        if (deadlines := self._policy.attempt_deadlines) is not None:
            self._attempt_timer = alarm = _AttemptTimer(self)
            deadlines.add(alarm, perf_counter())

    def _disarm(self) -> None:
        alarm, self._attempt_timer = self._attempt_timer, None
        if alarm is not None and (deadlines := self._policy.attempt_deadlines) is not None:
            deadlines.entries.pop(alarm, None)

    def on_attempt_deadline(self) -> None:
        """The attempt under way has had its time."""
        self._attempt_timer = None
        deadlines = self._policy.attempt_deadlines
        if self._over or self._responded or self._timer is not None or deadlines is None:
            return
        if self._connection is not None and self._body is not None and not self._body.complete:
            self._arm()  # the client still sends: that it takes time is not the instance's fault
            return
        unsent = self._connection is None
        if unsent and not self._withdraw_from_pool():
            return  # being connected, which has its own time limit; once it is sent its time begins anew
        failure = Failure(Kind.TIMEOUT, f"no answer to the attempt within {deadlines.limit:g} s", retryable=unsent)
        if not self._abandon_attempt(failure) and unsent:
            self._wait_for_connection(self.instance.endpoint)  # at the end of the queue, which is better than nowhere

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """See :meth:`.request.UpstreamRequest.on_response`."""
        self._disarm()
        super().on_response(head, data, complete)

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """See :meth:`.request.UpstreamRequest.on_switch`."""
        self._disarm()
        super().on_switch(head, data)

    def on_failure(self, failure: Failure) -> None:
        """See :meth:`.request.UpstreamRequest.on_failure`."""
        self._disarm()
        super().on_failure(failure)

    def _stop(self, kind: Kind | None) -> None:
        self._disarm()
        super()._stop(kind)

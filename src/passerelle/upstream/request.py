"""One request to one service: pick an instance, send, hear the answer, and try another instance where that is safe.

What may be tried again (RFC 9110 §9.2.2): anything of which not one byte was written, and idempotent methods as long as
no response head came and the body can be sent again byte for byte. A second attempt takes an instance not yet tried, if
there is one, and always a new connection: idle ones to one instance tend to die together.

A retry waits a random time and is paid from the service's budget, so that retries cannot keep a service down. Going on
to another instance at once because one refuses connections, or has its queue full, is neither: nothing was sent.
An attempt does not count either when its instance has left or is down by the time of the next one: so a client does not
notice when two instances die together. That needs another instance: one alone gets no request more often than allowed.
"""

from __future__ import annotations

from asyncio import TimerHandle, get_running_loop
from dataclasses import dataclass
from random import random
from time import perf_counter, time
from typing import cast

from passerelle.balancing.instance import Instance, Status
from passerelle.errors import Failure, Kind
from passerelle.http1.client.connection import UpstreamConnection
from passerelle.http1.client.pool import ConnectionPool
from passerelle.http1.head import ResponseHead
from passerelle.http1.interfaces import Tunnel
from passerelle.resilience import admission
from passerelle.resilience.hedge_delay import HedgeDelay
from passerelle.resilience.retry_budget import backoff, retry_after
from passerelle.upstream.deadlines import DeadlineQueue
from passerelle.upstream.interfaces import NO_INSTANCE, NULL_RECEIVER, ResponseReceiver
from passerelle.upstream.request_body import RequestBody
from passerelle.upstream.service import Service
from passerelle.upstream.stream_idle import STREAM_IDLE

# How long the supervisor is given to say that an instance is gone (seconds): it knows within milliseconds, unless the
# machine is very busy.
VERDICT = 0.1
# The most instances tried for one request, including those that do not count as attempts because they are gone or full.
MOST_TRIED = 8
# What a request sees of the death of its instance.
_CONNECTION_FAILURES = frozenset({Kind.UPSTREAM_CLOSED, Kind.UPSTREAM_RESET})


@dataclass(frozen=True, slots=True)
class CallPolicy:
    """How a request to one service is made: the service, the time limits, and the attempts.

    A call policy is also what the cache requests a response from (:class:`.interfaces.CacheOrigin`).
    """

    service: Service
    deadlines: DeadlineQueue
    """The time limit of the request, over all attempts."""
    attempts: int
    """The most attempts, the first one included."""
    make_request: type[UpstreamRequest]
    """The plainest class that applies this policy."""
    attempt_deadlines: DeadlineQueue | None = None
    """The time limit of one attempt as long as another one may follow; None for no limit."""
    hedge: HedgeDelay | None = None
    """The delay before a second instance is sent the request as well; None for never."""
    stream_idle: float = STREAM_IDLE
    """The longest time without a byte of a response body, in seconds."""
    sends_deadline: bool = False
    """Whether each attempt carries the remaining time in a header."""
    limits_concurrency: bool = True
    """Whether the concurrency limit of the service applies, if it has one."""

    def for_revalidation(self) -> CallPolicy:
        """Return this policy: a response of the service itself is never stale."""
        return self


class UpstreamRequest:
    """One request to one service.

    ``message`` is the head of the request with its empty line. ``now`` is the start of the request's time, as a value
    of ``perf_counter``.
    """

    __slots__ = (
        "_body",
        "_connection",
        "_counted_attempts",
        "_message",
        "_over",
        "_policy",
        "_receiver",
        "_responded",
        "_retry_timer",
        "_service",
        "_since",
        "_status",
        "_tried",
        "attempts",
        "instance",
        "key",
        "method",
        "progress",
        "seconds",
    )

    def __init__(
        self,
        policy: CallPolicy,
        receiver: ResponseReceiver,
        method: bytes,
        message: bytes,
        body: RequestBody | None,
        now: float,
    ) -> None:
        self._policy = policy
        self._service = policy.service
        self._receiver = receiver
        self._message = message
        self._body = body
        self._connection: UpstreamConnection | None = None
        self._counted_attempts: tuple[Instance, ...] = ()  # those of the tried that count as attempts
        self._retry_timer: TimerHandle | None = None
        self._tried: tuple[Instance, ...] = ()
        self._over = False
        self._responded = False
        self._since = now
        self._status = 0
        self.method = method
        self.attempts = 0
        self.instance: Instance = NO_INSTANCE
        self.key: bytes | None = None
        self.progress = 0
        self.seconds = 0.0

    @property
    def hedged(self) -> str | None:
        """What became of the hedge; here there is none."""
        return None

    def start(self) -> None:
        """Begin. The receiver hears of the end, whatever it is, exactly once."""
        deadlines = self._policy.deadlines  # its `add`, without the call
        deadlines.entries[self] = since = self._since
        if since < deadlines.newest:
            deadlines.disordered = True
        else:
            deadlines.newest = since
        self._service.started += 1
        self._attempt()

    def cancel(self) -> None:
        """Nobody wants the answer any more: free the instance and the connection at once."""
        if not self._over:
            self._stop(None)

    # ---- an attempt

    def _attempt(self) -> None:
        node = self._service.node
        instance = node.pick(self._tried, self.key)
        if instance is None and self._tried:
            instance = node.pick((), self.key)
        if instance is None:
            self._give_up(Failure(Kind.NO_INSTANCE, f"no instance of {self._service.name} is up"))
            return
        self.instance = instance
        self.attempts += 1
        node.acquire(instance)
        pool: ConnectionPool = instance.endpoint
        connection = pool.checkout() if not self._counted_attempts else None
        if connection is None:
            self._wait_for_connection(pool)
        else:
            self._send(connection)

    def _wait_for_connection(self, pool: ConnectionPool) -> None:
        """Ask for a connection, which may take time."""
        pool.request(self)

    def _withdraw_from_pool(self) -> bool:
        """Ask no more. False if a connection is being made: that one will be told of."""
        return bool(self.instance.endpoint.withdraw(self))

    def on_connection(self, connection: UpstreamConnection) -> None:
        """A connection that was waited for."""
        if connection.poll(0):
            connection.abort()
            self.on_no_connection(Failure(Kind.UPSTREAM_CLOSED, "closed before use", retryable=True))
        elif self._over:
            connection.pool.release(connection)
        else:
            self._send(connection)

    def _send(self, connection: UpstreamConnection) -> None:
        self._connection = connection
        body = self._body
        if body is None:
            connection.send(self, self._message, True)
        else:
            connection.send(self, self._message + body.attach(connection), body.complete)

    def on_no_connection(self, failure: Failure) -> None:
        """The picked instance cannot be reached; nothing was sent."""
        if not self._over:
            self.on_failure(failure)

    # ---- the answer

    def on_interim(self, head: ResponseHead) -> None:
        """A 1xx response."""
        self._receiver.on_interim(head)

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """The final response begins."""
        if head.status >= 500 and self._retry_response(head, complete):
            return
        self._responded = True
        receiver = self._receiver
        if complete:
            self._policy.deadlines.entries.pop(self, None)
            self._settle(head.status)
        else:
            if receiver.streams:
                self._policy.deadlines.entries.pop(self, None)
            self._status = head.status
            self._service.streaming.add(self)
        receiver.on_response(head, data, complete)

    def on_data(self, data: bytes) -> None:
        """More of the body."""
        self.progress += 1
        self._receiver.on_data(data)

    def on_end(self) -> None:
        """The body is complete."""
        self._policy.deadlines.entries.pop(self, None)
        self._service.streaming.discard(self)
        receiver = self._receiver
        self._settle(self._status)
        receiver.on_end()

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """101: from here on the connection is a tunnel, counted until :meth:`cancel`."""
        self._policy.deadlines.entries.pop(self, None)
        self._responded = True
        self._receiver.on_switch(head, data)

    def tunnel(self, other: Tunnel) -> UpstreamConnection:
        """Join the instance's side to ``other`` (after :meth:`on_switch`); gives that side."""
        connection = cast(UpstreamConnection, self._connection)
        connection.begin_tunnel(other)
        return connection

    def on_failure(self, failure: Failure) -> None:
        """The attempt failed: try again if that is safe, else tell."""
        if self._over:
            return
        self._connection = None
        if self._body is not None:
            self._body.detach()
        wait = None if self._responded else self._delay_before_retry(failure)
        if wait is None:
            if (
                failure.kind in _CONNECTION_FAILURES
                and self._service.supervised
                and not self._responded
                and self._would_retry_if_gone()
            ):
                self._await_health_verdict(failure)
            else:
                self._fail(failure)
        else:
            seconds = perf_counter() - self._since
            self._service.metrics.count_failure(failure.kind, seconds)
            if wait >= 0.0:
                self._counted_attempts = (*self._counted_attempts, self.instance)
            self._retry(None if failure.kind is Kind.OVERLOADED else False, seconds, wait)

    def on_instance_down(self) -> None:
        """The instance that has the request fails its probes: ask another one, if that is safe; else go on waiting."""
        if self._connection is None or self._responded or self._over:
            return
        self._abandon_attempt(Failure(Kind.TIMEOUT, "the instance went down before it answered"))

    def _abandon_attempt(self, failure: Failure) -> bool:
        """Give the attempt under way up if another one may be made; false: it is still to be waited for."""
        wait = self._delay_before_retry(failure)
        if wait is None:
            return False
        connection, self._connection = self._connection, None
        if self._body is not None:
            self._body.detach()
        if connection is not None:
            connection.detach()
        seconds = perf_counter() - self._since
        self._service.metrics.count_failure(failure.kind, seconds)
        self._counted_attempts = (*self._counted_attempts, self.instance)
        self._retry(False, seconds, wait)
        return True

    def _await_health_verdict(self, failure: Failure) -> None:
        """Attempts are used up, and the supervisor may be just about to say that their instances are gone."""
        seconds = perf_counter() - self._since
        service = self._service
        service.metrics.count_failure(failure.kind, seconds)
        service.node.release(self.instance, False, seconds)
        service.report_failure(self.instance)
        self._tried = (*self._tried, self.instance)
        self._counted_attempts = (*self._counted_attempts, self.instance)
        self._retry_timer = get_running_loop().call_later(VERDICT, self._on_health_verdict, failure)

    def _on_health_verdict(self, failure: Failure) -> None:
        self._retry_timer = None
        gone = sum(instance.status < Status.EJECTED for instance in self._counted_attempts)
        if len(self._counted_attempts) - gone < self._policy.attempts and self._service.may_retry(perf_counter()):
            self._service.metrics.retries += 1
            self._attempt()
        else:
            self._give_up(failure)

    def _retry(self, ok: bool | None, seconds: float, wait: float) -> None:
        """This attempt is over; the next one begins after ``wait`` seconds."""
        service = self._service
        instance = self.instance
        service.metrics.retries += 1
        service.node.release(instance, ok, seconds)
        if ok is False:
            service.report_failure(instance)
        self._tried = (*self._tried, instance)
        if wait > 0.0:
            self._retry_timer = get_running_loop().call_later(wait, self._attempt_after_delay)
        else:
            self._attempt()

    def _attempt_after_delay(self) -> None:
        self._retry_timer = None
        self._attempt()

    def _retry_response(self, head: ResponseHead, complete: bool) -> bool:
        """Whether another attempt takes the place of this answer (``retries.on_status``)."""
        service = self._service
        if head.status not in service.retries.statuses or not self._is_replayable():
            return False
        retry_delay = None
        if not self._has_untried_instance():
            # Nobody else did ask for a pause (RFC 9110 §10.2.3).
            value = head.get(b"retry-after")
            retry_delay = retry_after(value, time()) if value is not None else None
        wait = self._retry_delay(retry_delay)
        if wait is None:
            return False
        connection, self._connection = self._connection, None
        body = self._body
        if body is not None:
            body.detach()
        if connection is not None and not (complete and (body is None or body.complete)):
            connection.detach()  # the rest of the answer, or of the request, is not worth waiting for
        seconds = perf_counter() - self._since
        service.metrics.observe(head.status, seconds)
        self._counted_attempts = (*self._counted_attempts, self.instance)
        self._retry(False, seconds, wait)
        return True

    # ---- whether to retry

    def _would_retry_if_gone(self) -> bool:
        """Whether one more attempt would be made if the instance of this one turned out to be gone."""
        return (
            self._policy.attempts > 1
            and len(self._tried) < MOST_TRIED
            and self._is_replayable()
            and self._has_untried_instance()
        )

    def _delay_before_retry(self, failure: Failure) -> float | None:
        """How soon to try again (seconds), or None if that is not safe, not wanted, or not affordable.

        Negative is at once, at another instance, without counting as an attempt.
        """
        if failure.kind in (Kind.OVERLOADED, Kind.CONNECT_FAILED):
            # Nothing was sent and nobody is the busier for it: look at the others first.
            room = not self._tried if failure.kind is Kind.OVERLOADED else len(self._tried) < MOST_TRIED
            if room and self._policy.attempts > 1 and self._has_untried_instance():
                return -1.0
            if failure.kind is Kind.OVERLOADED:
                return None
        if not failure.retryable and not self._is_replayable():
            return None
        return self._retry_delay(None)

    def _has_untried_instance(self) -> bool:
        """Whether there is an instance that was not tried."""
        return self._service.node.pick((*self._tried, self.instance), self.key) is not None

    def _is_replayable(self) -> bool:
        """Whether what was sent may be sent again."""
        return self.method in self._service.retries.methods and (self._body is None or self._body.replayable)

    def _retry_delay(self, retry_after: float | None) -> float | None:
        """How soon (seconds), if there are attempts, time and budget left; ``retry_after`` is the instance's
        Retry-After."""
        tries = len(self._counted_attempts) + 1
        if tries >= self._policy.attempts:
            gone = sum(i.status < Status.EJECTED for i in (*self._counted_attempts, self.instance))
            enough = tries - gone >= self._policy.attempts or self._policy.attempts == 1
            if enough or len(self._tried) >= MOST_TRIED or not self._has_untried_instance():
                return None
        service = self._service
        now = perf_counter()
        left = self._policy.deadlines.limit - (now - self._since)
        rules = service.retries
        wait = backoff(tries, random, left=left, retry_after=retry_after, base=rules.base_delay, most=rules.max_delay)
        return wait if wait is not None and service.may_retry(now) else None

    # ---- called from outside

    def on_deadline(self) -> None:
        """The route's time is up, whatever attempt it is."""
        self.refuse(Failure(Kind.TIMEOUT, f"no answer within {self._policy.deadlines.limit:g} s"))

    @property
    def idle_timeout(self) -> float:
        """How long the body may stand still, in seconds."""
        return self._policy.stream_idle

    def on_idle_timeout(self) -> None:
        """No byte of the body came for too long."""
        if self._connection is None or self._connection.reading:  # else it is the client that takes nothing
            self.refuse(Failure(Kind.TIMEOUT, "the body stalled"))

    def refuse(self, failure: Failure) -> None:
        """Take no more of an answer that is at fault."""
        receiver = self._receiver
        self._stop(failure.kind)
        receiver.on_failure(failure)

    def on_upstream_paused(self) -> None:
        """The instance does not keep up: neither may the client."""
        if self._body is not None:
            self._body.pause()

    def on_upstream_resumed(self) -> None:
        """The instance keeps up again."""
        if self._body is not None:
            self._body.resume()

    def pause(self) -> None:
        """The client does not keep up: neither may the instance."""
        if self._connection is not None and not self._over:
            self._connection.pause_reading()

    def resume(self) -> None:
        """The client keeps up again."""
        if self._connection is not None and not self._over:
            self._connection.resume_reading()

    # ---- the end

    def _settle(self, status: int) -> None:
        """The instance has answered in full."""
        self._over = True
        self._receiver = NULL_RECEIVER
        self.seconds = seconds = perf_counter() - self._since
        service = self._service
        service.metrics.observe(status, seconds)
        ok = status < 500
        service.node.release(self.instance, ok, seconds)
        if not ok:
            service.report_failure(self.instance)

    def _fail(self, failure: Failure) -> None:
        """The last attempt failed."""
        self._over = True
        self._policy.deadlines.entries.pop(self, None)
        service = self._service
        service.streaming.discard(self)
        self.seconds = seconds = perf_counter() - self._since
        service.metrics.count_failure(failure.kind, seconds)
        instance = self.instance
        if failure.kind is Kind.OVERLOADED:
            # A full instance does its work: that is no reason to take it away from the others.
            service.node.release(instance, None, seconds)
            pool: ConnectionPool = instance.endpoint
            failure.retry_after = admission.retry_after(pool.waiting, pool.limit, service.metrics.mean)
            service.report_overload()
        else:
            service.node.release(instance, False, seconds)
            service.report_failure(instance)
        receiver, self._receiver = self._receiver, NULL_RECEIVER
        receiver.on_failure(failure)

    def _give_up(self, failure: Failure) -> None:
        """No instance could be picked, or none is to be: what was attempted is settled."""
        self._over = True
        self._policy.deadlines.entries.pop(self, None)
        receiver, self._receiver = self._receiver, NULL_RECEIVER
        receiver.on_failure(failure)

    def _stop(self, kind: Kind | None) -> None:
        """End the attempt under way from our side; ``kind`` when it is the instance's fault."""
        self._over = True
        self._receiver = NULL_RECEIVER
        self._policy.deadlines.entries.pop(self, None)
        service = self._service
        service.streaming.discard(self)
        self.seconds = seconds = perf_counter() - self._since
        instance = self.instance
        connection, self._connection = self._connection, None
        if self._body is not None:
            self._body.detach()
        if self._retry_timer is not None:
            self._retry_timer.cancel()  # between two attempts: the last one is settled, and the next has not begun
            self._retry_timer = None
            return
        if connection is not None:
            connection.detach()
        else:
            self._withdraw_from_pool()
        service.metrics.count_failure(kind or Kind.CLIENT_GONE, seconds)
        service.node.release(instance, None if kind is None else False, seconds)
        if kind is not None:
            service.report_failure(instance)

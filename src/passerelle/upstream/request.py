"""A request to one service: pick an instance, send, receive the response, and retry at another instance if it is safe.

A request may be retried (RFC 9110 §9.2.2) if not one byte of it was written. A request with an idempotent method may
also be retried until the head of a response is received, provided that its body can be sent again byte for byte. A
retry takes an untried instance if there is one, and always a new connection: the idle connections to one instance tend
to fail together.

A retry waits for a random time and is paid from the retry budget of the service, so that retries cannot keep a service
down. If an instance refuses connections or its queue is full, the request moves to another instance at once, without
delay and budget: nothing was sent. An attempt does not count either if its instance is removed or down by the time of
the next attempt, so that a client does not notice when two instances die together. This requires another instance: no
instance gets a request more often than ``attempts`` allows.

The module has over 400 lines because a request is one object: what the attempts did, whether another one may follow,
and the events of the connection depend on each other.

The file is longer than 400 lines because one class decides how attempts follow one another.
"""

from __future__ import annotations

from asyncio import TimerHandle, get_running_loop
from collections.abc import Callable
from dataclasses import dataclass
from random import random
from time import perf_counter, time
from typing import cast

from passerelle.balancing.instance import Instance, Status, count_failure
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
from passerelle.upstream.service import SERVER_ERROR, Service
from passerelle.upstream.stream_idle import STREAM_IDLE

# The time that the supervisor has to report that an instance is gone, in seconds. It takes milliseconds unless the
# machine is very busy.
HEALTH_REPORT_WAIT = 0.1
# The most instances tried for one request, including those that do not count as attempts because they are gone or full.
MAX_TRIED = 8
# The failures that a request sees when its instance dies.
_CONNECTION_FAILURES = frozenset({Kind.UPSTREAM_CLOSED, Kind.UPSTREAM_RESET})


RequestMaker = Callable[["CallPolicy", ResponseReceiver, bytes, bytes, "RequestBody | None", float], "UpstreamRequest"]


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
    make_request: RequestMaker
    """Makes a request: the simplest class of requests that applies this policy, or a shadow around it."""
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
    """A request to one service.

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
        self._counted_attempts: tuple[Instance, ...] = ()  # the part of `_tried` that counts as attempts
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
        """The outcome of the hedge; None without one."""
        return None

    def start(self) -> None:
        """Start the request. The receiver is notified of the end exactly once, unless :meth:`cancel` comes first."""
        deadlines = self._policy.deadlines  # DeadlineQueue.add, inlined
        deadlines.entries[self] = since = self._since
        if since < deadlines.newest:
            deadlines.disordered = True
        else:
            deadlines.newest = since
        self._service.started += 1
        self._attempt()

    def cancel(self) -> None:
        """Abandon the request, and release the instance and the connection at once."""
        if not self._over:
            self._stop(None)

    @property
    def is_over(self) -> bool:
        """Whether the request was cancelled, has failed, or has its whole response."""
        return self._over

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
        """Wait for a connection to the instance."""
        pool.request(self)

    def client_key(self) -> bytes | None:
        """Return the client that the request is counted for; None if it is of no single client."""
        return self._receiver.client_key()

    def _withdraw_from_pool(self) -> bool:
        """Stop waiting for a connection. False if one is being made: :meth:`on_connection` is then still called."""
        return bool(self.instance.endpoint.withdraw(self))

    def on_connection(self, connection: UpstreamConnection) -> None:
        """Send the request over the connection that was waited for."""
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
        """Handle that no connection to the instance could be made; nothing was sent."""
        if not self._over:
            self.on_failure(failure)

    # ---- the response

    def on_interim(self, head: ResponseHead) -> None:
        """Forward a 1xx response."""
        self._receiver.on_interim(head)

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """Forward the head of the final response, or retry if ``retries.on_status`` names its status."""
        if head.status >= 500 and self._retry_response(head, complete):
            return
        self._responded = True
        if self._service.samples_timing:
            self._service.sample_timing(head, self._elapsed())
        receiver = self._receiver
        if complete:
            self._policy.deadlines.entries.pop(self, None)
            self._settle(head.status)
        else:
            if receiver.streams:
                self._policy.deadlines.entries.pop(self, None)
            self._status = head.status
            self.seconds = self._elapsed()
            self._service.streaming.add(self)
        receiver.on_response(head, data, complete)

    def on_data(self, data: bytes) -> None:
        """Forward a piece of the body."""
        self.progress += 1
        self._receiver.on_data(data)

    def on_end(self) -> None:
        """End the request: the body is complete."""
        self._policy.deadlines.entries.pop(self, None)
        self._service.streaming.discard(self)
        receiver = self._receiver
        self._settle(self._status, self.seconds)
        receiver.on_end()

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """Handle a 101 response: the connection is a tunnel from here on, and in flight until :meth:`cancel`."""
        self._policy.deadlines.entries.pop(self, None)
        self._responded = True
        try:
            self._service.tunnels.add(self, self.client_key())
        except Failure as failure:  # others were faster since the check of the exchange
            self.refuse(failure)
        else:
            self._receiver.on_switch(head, data)

    def tunnel(self, other: Tunnel) -> UpstreamConnection:
        """Connect the tunnel to ``other``, after :meth:`on_switch`. Return the connection to the instance."""
        connection = cast(UpstreamConnection, self._connection)
        connection.begin_tunnel(other)
        return connection

    def on_failure(self, failure: Failure) -> None:
        """Retry after a failed attempt, or report the failure."""
        if self._over:
            return
        self._connection = None
        if self._body is not None:
            if failure.kind in _CONNECTION_FAILURES and self._body.client_is_slow:
                failure.neutral = True
            self._body.detach()
        wait = None if self._responded else self._delay_before_retry(failure)
        if wait is None:
            if (
                failure.kind in _CONNECTION_FAILURES
                and self._service.supervised
                and not self._responded
                and self._would_retry_if_gone()
            ):
                self._await_health_report(failure)
            else:
                self._fail(failure)
        else:
            seconds = self._elapsed()
            self._service.count_failure(self.instance, failure.kind, seconds)
            if wait >= 0.0:
                self._counted_attempts = (*self._counted_attempts, self.instance)
            self._retry(None if failure.neutral else False, seconds, wait)

    def on_instance_down(self) -> None:
        """Retry at another instance if possible, because this one fails its probes; otherwise keep waiting."""
        if self._connection is None or self._responded or self._over:
            return
        self._abandon_attempt(Failure(Kind.TIMEOUT, "the instance went down before it responded"))

    def _abandon_attempt(self, failure: Failure) -> bool:
        """Abandon the attempt in progress if another one may follow. False if the attempt continues."""
        wait = self._delay_before_retry(failure)
        if wait is None:
            return False
        connection, self._connection = self._connection, None
        if self._body is not None:
            self._body.detach()
        if connection is not None:
            connection.detach()
        seconds = self._elapsed()
        self._service.count_failure(self.instance, failure.kind, seconds)
        self._counted_attempts = (*self._counted_attempts, self.instance)
        self._retry(None if failure.neutral else False, seconds, wait)
        return True

    def _await_health_report(self, failure: Failure) -> None:
        """Wait for the supervisor, which may be about to report that the instances of the attempts are gone."""
        seconds = self._elapsed()
        service = self._service
        service.count_failure(self.instance, failure.kind, seconds)
        if failure.neutral:
            service.node.release(self.instance, None, seconds)
        else:
            service.node.release(self.instance, False, seconds)
            service.report_failure(self.instance)
        self._tried = (*self._tried, self.instance)
        self._counted_attempts = (*self._counted_attempts, self.instance)
        self._retry_timer = get_running_loop().call_later(HEALTH_REPORT_WAIT, self._on_health_report, failure)

    def _on_health_report(self, failure: Failure) -> None:
        self._retry_timer = None
        gone = sum(instance.status < Status.EJECTED for instance in self._counted_attempts)
        if len(self._counted_attempts) - gone < self._policy.attempts and self._service.may_retry(perf_counter()):
            self._service.metrics.retries += 1
            self._attempt()
        else:
            self._give_up(failure)

    def _retry(self, ok: bool | None, seconds: float, wait: float) -> None:
        """Settle the attempt, and start the next one after ``wait`` seconds."""
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
        """Retry instead of forwarding the response if that is configured (``retries.on_status``) and possible."""
        service = self._service
        if head.status not in service.retries.statuses or not self._is_replayable():
            return False
        retry_delay = None
        if not self._has_untried_instance():
            # Retry-After applies to the same instance only (RFC 9110 §10.2.3).
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
            connection.detach()  # the rest of the response, or of the request, is not worth waiting for
        seconds = self._elapsed()
        service.count_error(self.instance, head.status, seconds)
        self._counted_attempts = (*self._counted_attempts, self.instance)
        self._retry(False, seconds, wait)
        return True

    # ---- whether to retry

    def _would_retry_if_gone(self) -> bool:
        """Whether another attempt would be made if the instance of this one turned out to be gone."""
        return (
            self._policy.attempts > 1
            and len(self._tried) < MAX_TRIED
            and self._is_replayable()
            and self._has_untried_instance()
        )

    def _delay_before_retry(self, failure: Failure) -> float | None:
        """Return the delay before a retry in seconds, or None if a retry is unsafe, not wanted, or not affordable.

        A negative delay means: at once, at another instance, and this attempt does not count.
        """
        if failure.kind in (Kind.OVERLOADED, Kind.CONNECT_FAILED):
            # Nothing was sent, which adds no load: try the other instances first.
            room = not self._tried if failure.kind is Kind.OVERLOADED else len(self._tried) < MAX_TRIED
            if room and self._policy.attempts > 1 and self._has_untried_instance():
                return -1.0
            if failure.kind is Kind.OVERLOADED:
                return None
        if not failure.retryable and not self._is_replayable():
            return None
        return self._retry_delay(None)

    def _has_untried_instance(self) -> bool:
        """Whether there is an untried instance."""
        return self._service.node.pick((*self._tried, self.instance), self.key) is not None

    def _is_replayable(self) -> bool:
        """Whether the request may be sent again after it was sent."""
        return self.method in self._service.retries.methods and (self._body is None or self._body.replayable)

    def _retry_delay(self, retry_after: float | None) -> float | None:
        """Return the delay before a retry in seconds, or None if there are no attempts, no time or no budget left.

        ``retry_after`` is the Retry-After of the instance that the retry goes to, in seconds.
        """
        tries = len(self._counted_attempts) + 1
        if tries >= self._policy.attempts:
            gone = sum(i.status < Status.EJECTED for i in (*self._counted_attempts, self.instance))
            enough = tries - gone >= self._policy.attempts or self._policy.attempts == 1
            if enough or len(self._tried) >= MAX_TRIED or not self._has_untried_instance():
                return None
        service = self._service
        now = perf_counter()
        left = self._policy.deadlines.limit - self._elapsed()
        rules = service.retries
        wait = backoff(tries, random, left=left, retry_after=retry_after, base=rules.base_delay, most=rules.max_delay)
        return wait if wait is not None and service.may_retry(now) else None

    # ---- the time that the client takes to send the body

    def _elapsed(self) -> float:
        """Return the time that the service has taken so far, in seconds, without that of a client that still sends."""
        body = self._body
        return perf_counter() - (self._since if body is None else max(self._since, body.service_since))

    def on_request_sent(self) -> None:
        """Start the time of the service: the client has sent the whole body, or the service responds without it."""
        if self._body is not None:
            self._since = max(self._since, self._body.service_since)

    # ---- called from outside

    def on_deadline(self) -> None:
        """Fail: the time limit of the route has expired. The time in which only the client sends does not count."""
        deadlines = self._policy.deadlines
        since = self._body.limit_since(self._since, deadlines.limit) if self._body is not None else None
        if since is not None:
            deadlines.add(self, since)
            return
        failure = Failure(Kind.TIMEOUT, f"no response within {deadlines.limit:g} s")
        failure.neutral = self._connection is None  # it has waited for a place: nothing was sent
        self.refuse(failure)

    @property
    def idle_timeout(self) -> float:
        """The longest time without a byte of the body, in seconds."""
        return self._policy.stream_idle

    def on_idle_timeout(self) -> None:
        """Fail if the instance has sent no byte of the body for too long."""
        if self._body is not None and self._body.awaits_client:
            return
        if self._connection is None or self._connection.reading:  # otherwise the client does not read
            self.refuse(Failure(Kind.TIMEOUT, "the body stalled"))

    def refuse(self, failure: Failure) -> None:
        """Abort the request and report ``failure`` to the receiver."""
        receiver = self._receiver
        self._stop(failure)
        receiver.on_failure(failure)

    def on_upstream_paused(self) -> None:
        """Pause the body of the request: the instance does not keep up."""
        if self._body is not None:
            self._body.pause()

    def on_upstream_resumed(self) -> None:
        """Resume the body of the request: the instance keeps up again."""
        if self._body is not None:
            self._body.resume()

    def pause(self) -> None:
        """Pause the response: the receiver does not keep up."""
        if self._connection is not None and not self._over:
            self._connection.pause_reading()

    def resume(self) -> None:
        """Resume the response: the receiver keeps up again."""
        if self._connection is not None and not self._over:
            self._connection.resume_reading()

    # ---- the end

    def _settle(self, status: int, latency: float | None = None) -> None:
        """Record that the response is complete.

        ``latency`` is the time to its head where the body took longer (seconds): that may be the time of the client.
        """
        self._over = True
        self._receiver = NULL_RECEIVER
        self.seconds = seconds = perf_counter() - self._since
        service = self._service
        service.metrics.observe(status, seconds)
        ok = status < 500
        service.node.release(self.instance, ok, seconds if latency is None else latency)
        if not ok:
            count_failure(self.instance, SERVER_ERROR)
            service.report_failure(self.instance)

    def _fail(self, failure: Failure) -> None:
        """Record and report that the last attempt failed."""
        self._over = True
        self._policy.deadlines.entries.pop(self, None)
        service = self._service
        service.streaming.discard(self)
        self.seconds = seconds = self._elapsed()
        service.count_failure(self.instance, failure.kind, seconds)
        instance = self.instance
        if failure.kind is Kind.OVERLOADED:
            # A full instance works: that is no reason to eject it.
            service.node.release(instance, None, seconds)
            pool: ConnectionPool = instance.endpoint
            failure.retry_after = admission.retry_after(pool.waiting, pool.limit, service.metrics.mean)
            service.report_overload()
        elif failure.neutral:
            service.node.release(instance, None, seconds)
        else:
            service.node.release(instance, False, seconds)
            service.report_failure(instance)
        receiver, self._receiver = self._receiver, NULL_RECEIVER
        receiver.on_failure(failure)

    def _give_up(self, failure: Failure) -> None:
        """Report a failure without an attempt in progress: no instance could be picked, or none may be tried."""
        self._over = True
        self._policy.deadlines.entries.pop(self, None)
        receiver, self._receiver = self._receiver, NULL_RECEIVER
        receiver.on_failure(failure)

    def _stop(self, failure: Failure | None) -> None:
        """Abort the attempt in progress because of ``failure``; None if the client is gone."""
        self._over = True
        self._receiver = NULL_RECEIVER
        self._policy.deadlines.entries.pop(self, None)
        service = self._service
        service.streaming.discard(self)
        service.tunnels.discard(self)
        self.seconds = seconds = self._elapsed()
        instance = self.instance
        connection, self._connection = self._connection, None
        if self._body is not None:
            self._body.detach()
        if self._retry_timer is not None:
            self._retry_timer.cancel()  # between two attempts: the last one is settled, the next one has not started
            self._retry_timer = None
            return
        if connection is not None:
            connection.detach()
        else:
            self._withdraw_from_pool()
        service.count_failure(instance, failure.kind if failure is not None else Kind.CLIENT_GONE, seconds)
        neutral = failure is None or failure.neutral
        service.node.release(instance, None if neutral else False, seconds)
        if not neutral:
            service.report_failure(instance)

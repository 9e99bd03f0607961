"""The attempts of one request at a service, and the judgement whether another one is safe and affordable."""

from __future__ import annotations

from asyncio import TimerHandle
from random import random
from time import perf_counter

from passerelle.balancing.instance import Instance, Status
from passerelle.errors import Failure, Kind
from passerelle.http1.client.connection import UpstreamConnection
from passerelle.resilience.retry_budget import backoff
from passerelle.upstream.interfaces import NO_INSTANCE, CallPolicy, ResponseReceiver
from passerelle.upstream.request_body import RequestBody

# How many instances are tried at most, those too that do not count as attempts because they are gone or full.
MOST_TRIED = 8


class RetryState:
    """What is known of a request's attempts, and whether there may be another.

    ``message`` is the request's head with its empty line; ``now`` (of ``perf_counter``) is when its time began.
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
        "_service",
        "_since",
        "_status",
        "_timer",
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
        self._timer: TimerHandle | None = None
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

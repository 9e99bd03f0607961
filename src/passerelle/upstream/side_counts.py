"""Counts the requests of one side of a split by their outcome, for the verdict on the side.

Counted are requests that were forwarded, once each, with their outcome after retries. Responses from the cache are not:
the entries of a new side are few at first, and it would look worse than it is.
"""

from __future__ import annotations

import re
from math import inf
from time import perf_counter
from typing import Any, Final

from passerelle.crossing.evidence import FirstPerUser
from passerelle.crossing.latency import LatencyHistogram
from passerelle.errors import Failure, Side
from passerelle.http1.head import ResponseHead
from passerelle.upstream.interfaces import ResponseReceiver
from passerelle.upstream.request import CallPolicy, RequestMaker, UpstreamRequest
from passerelle.upstream.request_body import RequestBody

# The field by which guards pass the consumer. No client can forge it (see passerelle.security.identity).
_CONSUMER: Final = re.compile(rb"\r\nX-Consumer: ([^\r\n]+)\r\n")


class SideCounters:
    """The counts of one side in one worker. ``slow_after`` is in seconds until the first byte."""

    __slots__ = ("_failed_users", "_slow_users", "counts", "latency", "slow_after")

    def __init__(self) -> None:
        self.slow_after = inf
        self.latency = LatencyHistogram()
        self.counts = {"requests": 0, "failed": 0, "failed_users": 0, "slow_users": 0}
        self._failed_users = FirstPerUser()
        self._slow_users = FirstPerUser()

    def count_response(self, seconds: float, user: bytes, now: float, *, failed: bool) -> None:
        """Count a response of the side whose first byte came after ``seconds``."""
        self.counts["requests"] += 1
        self.latency.add(seconds)
        if failed:
            self._count_failed(user, now)
        elif seconds > self.slow_after and self._slow_users.is_first(user, now):
            self.counts["slow_users"] += 1

    def count_failure(self, user: bytes, now: float, *, counted: bool) -> None:
        """Count a request without a complete response; ``counted`` is whether the head of the response was counted."""
        if not counted:
            self.counts["requests"] += 1
        self._count_failed(user, now)

    def _count_failed(self, user: bytes, now: float) -> None:
        self.counts["failed"] += 1
        if self._failed_users.is_first(user, now):
            self.counts["failed_users"] += 1

    def snapshot(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return {**self.counts, "latency": list(self.latency.counts)}


class CountedRequests:
    """Makes the requests of one side. Stands in a call policy for the class of requests."""

    __slots__ = ("_counters", "make")

    def __init__(self, make: RequestMaker, counters: SideCounters) -> None:
        self.make = make
        self._counters = counters

    def __call__(
        self,
        policy: CallPolicy,
        receiver: ResponseReceiver,
        method: bytes,
        message: bytes,
        body: RequestBody | None,
        now: float,
    ) -> UpstreamRequest:
        """Make a request whose outcome is counted."""
        return self.make_with(self.make, policy, receiver, method, message, body, now)

    def make_with(
        self,
        make: RequestMaker,
        policy: CallPolicy,
        receiver: ResponseReceiver,
        method: bytes,
        message: bytes,
        body: RequestBody | None,
        now: float,
    ) -> UpstreamRequest:
        """As :meth:`__call__`, by ``make`` in place of the class of the policy."""
        return make(policy, _Observer(receiver, self._counters, message), method, message, body, now)


class _Observer:
    """Passes a response to its receiver, and counts its outcome."""

    __slots__ = ("_counters", "_has_failed", "_has_head", "_message", "_receiver", "_started", "streams")

    def __init__(self, receiver: ResponseReceiver, counters: SideCounters, message: bytes) -> None:
        self._receiver = receiver
        self._counters = counters
        self._message = message
        self._started = perf_counter()
        self._has_failed = self._has_head = False
        self.streams = receiver.streams

    def client_key(self) -> bytes | None:
        """Return the client that the request is counted for."""
        return self._receiver.client_key()

    def _user(self) -> bytes:
        """Return the consumer that a guard has established, or else the client's address."""
        found = _CONSUMER.search(self._message)
        return b"=" + found[1] if found is not None else self._receiver.client_key() or b""

    def _count(self, status: int) -> None:
        now = perf_counter()
        self._has_head = True
        self._has_failed = status >= 500
        seconds = now - self._started
        user = self._user() if self._has_failed or seconds > self._counters.slow_after else b""
        self._counters.count_response(seconds, user, now, failed=self._has_failed)

    def on_interim(self, head: ResponseHead) -> None:
        """Pass a 1xx response on."""
        self._receiver.on_interim(head)

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """Count a tunnel, and pass the 101 response on."""
        self._count(head.status)
        self._receiver.on_switch(head, data)

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """Count the response, and pass its head on."""
        self._count(head.status)
        self._receiver.on_response(head, data, complete)

    def on_data(self, data: bytes) -> None:
        """Pass a piece of the body on."""
        self._receiver.on_data(data)

    def on_end(self) -> None:
        """End the response."""
        self._receiver.on_end()

    def on_failure(self, failure: Failure) -> None:
        """Count the failure unless the client has caused it, and pass it on."""
        if failure.side is not Side.CLIENT and not self._has_failed:
            self._counters.count_failure(self._user(), perf_counter(), counted=self._has_head)
        self._receiver.on_failure(failure)

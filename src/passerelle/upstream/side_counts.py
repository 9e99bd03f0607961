"""Counts the requests of one side of a split by their outcome, for the verdict on the side.

Counted are requests that are forwarded, once each, with their outcome after retries. Responses from the cache are not:
the entries of a new side are few at first, and it would look worse than it is.
"""

from __future__ import annotations

import re
from asyncio import TimerHandle, get_running_loop
from collections.abc import Callable
from math import inf
from time import perf_counter
from typing import Any, Final

from passerelle.balancing.sticky import read_cookie
from passerelle.crossing.evidence import FirstPerUser
from passerelle.crossing.latency import LatencyHistogram
from passerelle.errors import Failure, Side
from passerelle.http1.head import ResponseHead
from passerelle.upstream.interfaces import ResponseReceiver
from passerelle.upstream.passing import PassingMaker, PassingReceiver
from passerelle.upstream.request import CallPolicy, RequestMaker, UpstreamRequest
from passerelle.upstream.request_body import RequestBody

UserIn = Callable[[bytes], bytes | None]
"""Returns what identifies the user in the head of a request to a service, or None where the head does not have it."""

# The field by which guards pass the consumer. No client can forge it (see passerelle.security.identity).
_CONSUMER: Final = re.compile(rb"\r\nX-Consumer: ([^\r\n]+)\r\n")


class SeenUsers:
    """The users of one split whose failed and slow requests have been counted in this minute."""

    __slots__ = ("failed", "slow")

    def __init__(self) -> None:
        self.failed = FirstPerUser()
        self.slow = FirstPerUser()


def consumer_in(message: bytes) -> bytes | None:
    """Return the consumer that a guard has established."""
    found = _CONSUMER.search(message)
    return found[1] if found is not None else None


def header_in(name: bytes) -> UserIn:
    """Return what reads the header ``name``."""
    pattern = re.compile(rb"\r\n(?i:%b):[ \t]*([^\r\n]*)" % re.escape(name))

    def user_in(message: bytes) -> bytes | None:
        found = pattern.search(message)
        return found[1] if found is not None else None

    return user_in


def cookie_in(name: bytes) -> UserIn:
    """Return what reads the cookie ``name``."""
    lines = re.compile(rb"\r\n(?i:cookie):([^\r\n]*)")
    return lambda message: read_cookie(lines.findall(message), name)


def address_in(message: bytes) -> bytes | None:
    """Return None: users are addresses."""
    return None


class SideCounters:
    """The counts of one side in one worker. ``slow_after`` is in seconds until the first byte."""

    __slots__ = ("_seen", "counts", "latency", "slow_after")

    def __init__(self, seen: SeenUsers) -> None:
        self.slow_after = inf
        self.latency = LatencyHistogram()
        self.counts = {"requests": 0, "failed": 0, "failed_users": 0, "slow_users": 0}
        self._seen = seen

    def count_failed(self, user: bytes, address: bytes, now: float) -> None:
        """Count a failed request of ``user`` from ``address``."""
        self.counts["failed"] += 1
        self.counts["failed_users"] += self._seen.failed.is_first(user, now, address)

    def count_slow(self, user: bytes, address: bytes, now: float) -> None:
        """Count a slow request of ``user`` from ``address``."""
        self.counts["slow_users"] += self._seen.slow.is_first(user, now, address)

    def snapshot(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return {**self.counts, "latency": list(self.latency.counts)}


class CountedRequests(PassingMaker):
    """Makes the requests of one side. Stands in a call policy for the class of requests."""

    __slots__ = ("_counters", "_user_in")

    def __init__(self, make: RequestMaker, counters: SideCounters, user_in: UserIn) -> None:
        super().__init__(make)
        self._counters = counters
        self._user_in = user_in

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
        """Make a request whose outcome is counted."""
        counters = self._counters
        counters.counts["requests"] += 1
        observer = _Observer(receiver, counters, self._user_in, message)
        request = make(policy, observer, method, message, body, now)
        if counters.slow_after != inf:
            observer.watch(request)
        return request


class _Observer(PassingReceiver):
    """Passes a response to its receiver, and counts its outcome.

    A request counts as slow when its time is over, and not when its response arrives: the client may leave before.
    """

    __slots__ = ("_counters", "_has_failed", "_message", "_started", "_timer", "_user_in")

    def __init__(self, receiver: ResponseReceiver, counters: SideCounters, user_in: UserIn, message: bytes) -> None:
        super().__init__(receiver)
        self._user_in = user_in
        self._counters = counters
        self._message = message
        self._started = perf_counter()
        self._has_failed = False
        self._timer: TimerHandle | None = None

    def watch(self, request: UpstreamRequest) -> None:
        """Count ``request`` as slow once its time is over, unless its response begins or its client leaves before."""
        self._timer = get_running_loop().call_later(self._counters.slow_after, self._on_slow, request)

    def _on_slow(self, request: UpstreamRequest) -> None:
        self._timer = None
        if not request.is_over:
            self._counters.count_slow(*self._user(), perf_counter())

    def _user(self) -> tuple[bytes, bytes]:
        """Return the user, by the address where the request has no other identity, and the address of the client."""
        user, address = self._user_in(self._message), self._receiver.client_key() or b""
        return (b"@" + address if user is None else user), address

    def _begin(self, status: int) -> None:
        """Count the beginning of a response."""
        now = perf_counter()
        self._counters.latency.add(now - self._started)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if status >= 500:
            self._fail(now)

    def _fail(self, now: float) -> None:
        if not self._has_failed:
            self._has_failed = True
            self._counters.count_failed(*self._user(), now)

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """Count a tunnel, and pass the 101 response on."""
        self._begin(head.status)
        super().on_switch(head, data)

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """Count the response, and pass its head on."""
        self._begin(head.status)
        super().on_response(head, data, complete)

    def on_failure(self, failure: Failure) -> None:
        """Count the failure unless the client has caused it, and pass it on."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if failure.side is not Side.CLIENT:
            self._fail(perf_counter())
        super().on_failure(failure)

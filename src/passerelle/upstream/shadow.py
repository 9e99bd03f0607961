"""Shadow requests: a sampled share of the requests of a route is sent to a second service too, and compared.

The client's response comes first. It is relayed as without a shadow, while a copy of it is kept up to a bound. The
shadow request starts when it is complete. Whatever the second service does then, no client waits for it. The number
of shadow requests in flight, their queue, the bytes kept for them and their time are bounded; what exceeds a bound is
dropped and counted.

For a share of the sampled requests, the first service is asked a second time (a control request): what differs between
its own two responses is noise (see :mod:`passerelle.crossing.ledger`).
"""

from __future__ import annotations

from asyncio import get_running_loop
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from random import random
from time import perf_counter
from typing import Any, Final

from passerelle.crossing.compare_json import Difference, Incomparable
from passerelle.crossing.compare_responses import CapturedResponse, ResponseComparer
from passerelle.crossing.latency import LatencyHistogram
from passerelle.crossing.ledger import Ledger
from passerelle.errors import Failure
from passerelle.http.messages import SAFE_METHODS
from passerelle.http1.head import ResponseHead
from passerelle.security.header_rules import lines_of
from passerelle.upstream.interfaces import ResponseReceiver
from passerelle.upstream.request import CallPolicy, RequestMaker, UpstreamRequest
from passerelle.upstream.request_body import RequestBody

MARK: Final = b"Passerelle-Shadow: 1\r\n"
"""The field by which a service recognizes a shadow request."""
QUEUE: Final = 64
"""Shadow requests that wait for one in flight to end; further ones are dropped."""
MOST_KEPT: Final = 16 << 20
"""Bytes of copies that one route keeps for shadow requests, in one worker; beyond, requests are dropped."""

CREDENTIALS: Final = (b"authorization", b"cookie", b"proxy-authorization")
"""The fields by which clients authenticate, besides those that the configuration names."""


@dataclass(frozen=True, slots=True)
class ShadowSettings:
    """Which requests are copied, and within which bounds.

    ``sample`` and ``control`` are shares from 0 to 1; ``control`` is that of the sampled requests. ``max_body`` is the
    longest response body that is compared, in bytes. ``concurrency`` is the most shadow requests of one worker.
    ``removed`` are the names of the fields that the shadow does not receive, in lower case.
    """

    sample: float
    methods: frozenset[bytes]
    control: float
    max_body: int
    concurrency: int
    removed: frozenset[bytes]


class ShadowResults:
    """What the shadow requests of one route found, in one worker."""

    __slots__ = ("_key", "dropped", "failed", "ledger", "new_latency", "old_latency", "sent")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.reset()

    def reset(self) -> None:
        """Begin to count again."""
        self.ledger = Ledger(self._key)
        self.sent = 0
        self.dropped: Counter[str] = Counter()  # by reason: overflow, too_large
        self.failed: Counter[str] = Counter()  # shadow requests without a response, by kind
        self.old_latency = LatencyHistogram()  # until the first byte of the response
        self.new_latency = LatencyHistogram()

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON object (see :mod:`passerelle.crossing.report`)."""
        return {
            "sent": self.sent,
            "dropped": dict(self.dropped),
            "failed": dict(self.failed),
            "old_latency": self.old_latency.counts,
            "new_latency": self.new_latency.counts,
            "ledger": self.ledger.to_json(),
        }


@dataclass(slots=True)
class _Copy:
    """A request that was answered by the first service, and its response."""

    method: bytes
    message: bytes
    body: bytes
    response: CapturedResponse
    seconds: float

    @property
    def size(self) -> int:
        return len(self.message) + len(self.body) + len(self.response.body)


class Shadow:
    """Makes the requests of a route, and the shadow requests. Stands in a call policy for the class of requests."""

    __slots__ = (
        "_comparer",
        "_in_flight",
        "_kept",
        "_old",
        "_policy",
        "_queue",
        "_removed",
        "_settings",
        "make",
        "results",
    )

    def __init__(
        self,
        old: CallPolicy,
        new: CallPolicy,
        settings: ShadowSettings,
        comparer: ResponseComparer,
        results: ShadowResults,
    ) -> None:
        self._old = old
        self.make = old.make_request
        self._policy = new
        self._settings = settings
        self._comparer = comparer
        self._removed = lines_of(settings.removed, aliases=True) if settings.removed else None
        self._queue: deque[_Copy] = deque()
        self._kept = 0
        self._in_flight = 0
        self.results = results

    def __call__(
        self,
        policy: CallPolicy,
        receiver: ResponseReceiver,
        method: bytes,
        message: bytes,
        body: RequestBody | None,
        now: float,
    ) -> UpstreamRequest:
        """Make the request of a client, with a copy of its response if it is sampled."""
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
        """As :meth:`__call__`, by ``make`` in place of the class of the old policy."""
        settings = self._settings
        if method in settings.methods and random() < settings.sample:
            receiver = _Tee(self, receiver, method, message, body)
        return make(policy, receiver, method, message, body, now)

    @property
    def max_body(self) -> int:
        """The longest response body that is compared, in bytes."""
        return self._settings.max_body

    def submit(self, copy: _Copy) -> None:
        """Send a shadow request for ``copy`` as soon as the bounds allow, or drop it."""
        if self._in_flight < self._settings.concurrency:
            self._in_flight += 1
            self._send(copy)
        elif len(self._queue) < QUEUE and self._kept + copy.size <= MOST_KEPT:
            self._queue.append(copy)
            self._kept += copy.size
        else:
            self.results.dropped["overflow"] += 1

    def _send(self, copy: _Copy) -> None:
        self.results.sent += 1
        head = copy.message[:-2]
        if self._removed is not None:
            head = self._removed.sub(b"", head)
        message = head + MARK + b"\r\n" + copy.body
        _Capture(self._policy, copy.method, message, self.max_body, lambda outcome: self._on_shadow(copy, outcome))

    def _on_shadow(self, copy: _Copy, outcome: _Outcome) -> None:
        results = self.results
        differences = None
        if isinstance(outcome, Failure):
            results.failed[outcome.kind.value] += 1
        else:
            response, seconds = outcome
            results.old_latency.add(copy.seconds)
            results.new_latency.add(seconds)
            differences = self._compare(copy.response, response)
            if differences is not None:
                results.ledger.add(differences)
        if copy.method in SAFE_METHODS and random() < self._settings.control:
            _Capture(
                self._old,
                copy.method,
                copy.message + copy.body,
                self.max_body,
                lambda again: self._on_control(copy, again),
            )
        else:
            self._end()

    def _on_control(self, copy: _Copy, outcome: _Outcome) -> None:
        if not isinstance(outcome, Failure):
            differences = self._compare(copy.response, outcome[0])
            if differences is not None:
                self.results.ledger.add_control(differences)
        self._end()

    def _compare(self, old: CapturedResponse, new: CapturedResponse) -> list[Difference] | None:
        try:
            return self._comparer.compare(old, new)
        except Incomparable as reason:
            self.results.ledger.add_incomparable(str(reason))
            return None

    def _end(self) -> None:
        self._in_flight -= 1
        if self._queue:
            copy = self._queue.popleft()
            self._kept -= copy.size
            self._in_flight += 1
            # Not at once: a service that refuses connections would make this a recursion.
            get_running_loop().call_soon(self._send, copy)


class _Body:
    """Collects the body of a response up to a bound."""

    __slots__ = ("_most", "_pieces", "_size", "complete")

    def __init__(self, most: int) -> None:
        self._most = most
        self._pieces: list[bytes] = []
        self._size = 0
        self.complete = True

    def add(self, data: bytes) -> bool:
        """Keep ``data``; return False, and keep nothing any more, if that is too much."""
        self._size += len(data)
        if self._size > self._most:
            self._pieces.clear()
            self.complete = False
            return False
        self._pieces.append(data)
        return True

    def response(self, head: ResponseHead) -> CapturedResponse:
        """Return the captured response."""
        return CapturedResponse(head.status, dict(reversed(head.fields)), b"".join(self._pieces), self.complete)


class _Tee:
    """Passes the response to its receiver, and keeps a copy of it."""

    __slots__ = (
        "_body",
        "_head",
        "_message",
        "_method",
        "_pieces",
        "_receiver",
        "_seconds",
        "_shadow",
        "_started",
        "streams",
    )

    def __init__(
        self, shadow: Shadow, receiver: ResponseReceiver, method: bytes, message: bytes, body: RequestBody | None
    ) -> None:
        self._shadow = shadow
        self._receiver = receiver
        self._method = method
        self._message = message
        self._body = body
        self._pieces: _Body | None = _Body(shadow.max_body)
        self._head: ResponseHead | None = None
        self._started = perf_counter()
        self._seconds = 0.0
        self.streams = receiver.streams

    def client_key(self) -> bytes | None:
        """Return the client that the request is counted for."""
        return self._receiver.client_key()

    def on_interim(self, head: ResponseHead) -> None:
        """Pass a 1xx response on."""
        self._receiver.on_interim(head)

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """Pass a 101 response on. A tunnel has no shadow."""
        self._pieces = None
        self._receiver.on_switch(head, data)

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """Pass the head of the response on."""
        self._seconds = perf_counter() - self._started
        self._receiver.on_response(head, data, complete)
        self._head = head
        self._keep(data)
        if complete:
            self._submit()

    def on_data(self, data: bytes) -> None:
        """Pass a piece of the body on."""
        self._receiver.on_data(data)
        self._keep(data)

    def on_end(self) -> None:
        """End the response, then send the shadow request."""
        self._receiver.on_end()
        self._submit()

    def on_failure(self, failure: Failure) -> None:
        """Pass the failure on. There is no response to compare."""
        self._pieces = None
        self._receiver.on_failure(failure)

    def _keep(self, data: bytes) -> None:
        if self._pieces is not None and not self._pieces.add(data):
            self._pieces = None
            self._shadow.results.dropped["too_large"] += 1

    def _submit(self) -> None:
        pieces, self._pieces = self._pieces, None
        if pieces is None or self._head is None:
            return
        body = b"" if self._body is None else self._body.whole()
        if body is None:
            self._shadow.results.dropped["too_large"] += 1
            return
        response = pieces.response(self._head)
        self._shadow.submit(_Copy(self._method, self._message, body, response, self._seconds))


_Outcome = tuple[CapturedResponse, float] | Failure


class _Capture:
    """A request whose response is kept whole, up to a bound. Calls ``proceed`` exactly once."""

    __slots__ = ("_body", "_head", "_proceed", "_request", "_seconds", "_started")

    streams = False

    def __init__(
        self, policy: CallPolicy, method: bytes, message: bytes, most: int, proceed: Callable[[_Outcome], None]
    ) -> None:
        self._body = _Body(most)
        self._head: ResponseHead | None = None
        self._proceed = proceed
        self._started = perf_counter()
        self._seconds = 0.0
        self._request: UpstreamRequest | None = policy.make_request(policy, self, method, message, None, self._started)
        self._request.start()

    def client_key(self) -> bytes | None:
        """Return None: the gateway itself makes the request."""
        return None

    def on_interim(self, head: ResponseHead) -> None:
        """Ignore a 1xx response."""

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """Treat a 101 response like one that is cut: no protocol switch was requested."""
        self._cut(head)

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """Keep the head, and the body if it is complete."""
        self._seconds = perf_counter() - self._started
        self._head = head
        self.on_data(data)
        if complete:
            self.on_end()

    def on_data(self, data: bytes) -> None:
        """Keep a piece of the body; give the response up if it is too long."""
        if not self._body.add(data) and self._head is not None:
            self._cut(self._head)

    def on_end(self) -> None:
        """Deliver the response."""
        if self._head is not None:
            self._end((self._body.response(self._head), self._seconds))

    def on_failure(self, failure: Failure) -> None:
        """Deliver the failure."""
        self._end(failure)

    def _cut(self, head: ResponseHead) -> None:
        request = self._request
        self._body.complete = False
        if request is not None:
            request.cancel()
            self._end((self._body.response(head), self._seconds))

    def _end(self, outcome: _Outcome) -> None:
        if self._request is not None:
            self._request = None  # the two would be a reference cycle
            self._proceed(outcome)

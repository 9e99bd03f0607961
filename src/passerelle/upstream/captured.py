"""Captures responses up to a bound: of a request that has a receiver of its own, or of a request of the gateway."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from passerelle.crossing.compare_responses import CapturedResponse
from passerelle.errors import Failure
from passerelle.http1.head import ResponseHead
from passerelle.upstream.interfaces import ResponseReceiver
from passerelle.upstream.passing import PassingReceiver
from passerelle.upstream.request import CallPolicy, UpstreamRequest

Outcome = tuple[CapturedResponse, float] | Failure
"""A captured response with the time until its first byte (seconds), or why there is none."""


class _Body:
    """Collects the body of a response up to a bound."""

    __slots__ = ("_pieces", "_size", "complete", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self._pieces: list[bytes] = []
        self._size = 0
        self.complete = True

    def add(self, data: bytes) -> bool:
        """Keep ``data``; return False, and keep nothing any more, if there is too much."""
        self._size += len(data)
        if self._size > self.most:
            self._pieces.clear()
            self.complete = False
            return False
        self._pieces.append(data)
        return True

    def response(self, head: ResponseHead) -> CapturedResponse:
        """Return the captured response."""
        return CapturedResponse(head.status, dict(reversed(head.fields)), b"".join(self._pieces), self.complete)


class Tee(PassingReceiver):
    """Passes a response to its receiver, and captures it. Calls ``proceed`` after the end of a complete response."""

    __slots__ = ("_head", "_pieces", "_proceed", "_seconds", "_started")

    def __init__(
        self, receiver: ResponseReceiver, most: int, proceed: Callable[[CapturedResponse, float], None]
    ) -> None:
        super().__init__(receiver)
        self._proceed = proceed
        self._pieces: _Body | None = _Body(most)
        self._head: ResponseHead | None = None
        self._started = perf_counter()
        self._seconds = 0.0

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """Pass a 101 response on. A tunnel has no shadow."""
        self._pieces = None
        super().on_switch(head, data)

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """Pass the head of the response on."""
        self._seconds = perf_counter() - self._started
        super().on_response(head, data, complete)
        self._head = head
        self._keep(data)
        if complete:
            self._submit()

    def on_data(self, data: bytes) -> None:
        """Pass a piece of the body on."""
        super().on_data(data)
        self._keep(data)

    def on_end(self) -> None:
        """End the response."""
        super().on_end()
        self._submit()

    def on_failure(self, failure: Failure) -> None:
        """Pass the failure on. There is no response to compare."""
        self._pieces = None
        super().on_failure(failure)

    def _keep(self, data: bytes) -> None:
        if self._pieces is not None:
            self._pieces.add(data)

    def _submit(self) -> None:
        pieces, self._pieces = self._pieces, None
        if pieces is not None and self._head is not None:
            self._proceed(pieces.response(self._head), self._seconds)


class Capture:
    """A request whose response is kept whole, up to a bound. Calls ``proceed`` exactly once."""

    __slots__ = ("_body", "_head", "_proceed", "_request", "_seconds", "_started")

    streams = False

    def __init__(
        self, policy: CallPolicy, method: bytes, message: bytes, most: int, proceed: Callable[[Outcome], None]
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
        if not complete and head.content_length > self._body.most:
            self._cut(head)  # without reading up to the bound: that would cost CPU for nothing
            return
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

    def _end(self, outcome: Outcome) -> None:
        if self._request is not None:
            self._request = None  # the two would be a reference cycle
            self._proceed(outcome)

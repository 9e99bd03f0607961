"""Requests that the gateway itself makes to a service, with a short response that is read as a whole."""

from __future__ import annotations

from collections.abc import Callable

from passerelle.errors import Failure, Kind
from passerelle.http1.head import ResponseHead
from passerelle.upstream.request import CallPolicy, UpstreamRequest

# The largest body of a response that the gateway reads for itself, in bytes.
MAX_BODY = 65_536


class Subrequest:
    """Makes requests of the gateway itself to one service."""

    __slots__ = ("_policy",)

    def __init__(self, policy: CallPolicy) -> None:
        self._policy = policy

    def request(
        self,
        message: bytes,
        now: float,
        on_success: ResponseCallback,
        on_error: Callable[[Failure], None],
        method: bytes = b"POST",
    ) -> UpstreamRequest:
        """Return a request with ``message``, a head and perhaps a body, ready to start.

        One of ``on_success`` and ``on_error`` is called at its end, unless the request is cancelled.
        """
        receiver = _BufferedResponse(on_success, on_error)
        policy = self._policy
        request = policy.make_request(policy, receiver, method, message, None, now)
        receiver.request = request
        return request


ResponseCallback = Callable[[ResponseHead, bytes], None]


class _BufferedResponse:
    """Collects a whole response."""

    streams = False

    __slots__ = ("_head", "_on_error", "_on_success", "_pieces", "_size", "request")

    def __init__(self, on_success: ResponseCallback, on_error: Callable[[Failure], None]) -> None:
        self._on_success = on_success
        self._on_error = on_error
        self._pieces: list[bytes] = []
        self._size = 0
        self._head: ResponseHead | None = None
        self.request: UpstreamRequest | None = None

    def client_key(self) -> bytes | None:
        """Return None: the gateway itself makes the request."""
        return None

    def on_interim(self, head: ResponseHead) -> None:
        """Ignore a 1xx response."""

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """Treat a 101 response as a failure: no protocol switch was requested."""
        self._abort("unexpected 101 response")

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """Keep the head, and the body if it is complete."""
        self._head = head
        self.on_data(data)
        if complete and self.request is not None:
            self.on_end()

    def on_data(self, data: bytes) -> None:
        """Keep a piece of the body."""
        self._size += len(data)
        if self._size > MAX_BODY:
            self._abort(f"more than {MAX_BODY} bytes")
        else:
            self._pieces.append(data)

    def on_end(self) -> None:
        """Deliver the response: its body is complete."""
        self._end(b"".join(self._pieces))

    def on_failure(self, failure: Failure) -> None:
        """Report that there is no response."""
        self.request = None
        self._on_error(failure)

    def _end(self, body: bytes) -> None:
        self.request = None  # the two would be a reference cycle
        if self._head is not None:
            self._on_success(self._head, body)

    def _abort(self, why: str) -> None:
        request, self.request = self.request, None
        if request is not None:
            request.cancel()
            self._on_error(Failure(Kind.BAD_RESPONSE, why))

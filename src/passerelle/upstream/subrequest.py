"""Whole messages for the gateway's own use: a client's short body, and a service's short answer."""

from __future__ import annotations

from collections.abc import Callable

from passerelle.errors import Failure, Kind
from passerelle.http1.head import ResponseHead
from passerelle.upstream.request import CallPolicy, UpstreamRequest

# The largest answer of a service that the gateway reads for itself, in bytes.
MAX_ANSWER = 65_536


class Subrequest:
    """A question that the gateway itself asks of a service."""

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
        """Ask with the whole ``message``; one of the two hears of the end, unless it is cancelled."""
        receiver = _BufferedResponse(on_success, on_error)
        policy = self._policy
        forward = policy.make_request(policy, receiver, method, message, None, now)
        receiver.forward = forward
        return forward


ResponseCallback = Callable[[ResponseHead, bytes], None]


class _BufferedResponse:
    """Collects an answer."""

    streams = False

    __slots__ = ("_head", "_on_error", "_on_success", "_pieces", "_size", "forward")

    def __init__(self, on_success: ResponseCallback, on_error: Callable[[Failure], None]) -> None:
        self._on_success = on_success
        self._on_error = on_error
        self._pieces: list[bytes] = []
        self._size = 0
        self._head: ResponseHead | None = None
        self.forward: UpstreamRequest | None = None

    def on_interim(self, head: ResponseHead) -> None:
        """Nothing to do: the whole answer is not there yet."""

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """Nobody asked for another protocol."""
        self._give_up("status 101")

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """The answer begins."""
        self._head = head
        if complete:
            self._end(data)
        else:
            self.on_data(data)

    def on_data(self, data: bytes) -> None:
        """More of it."""
        self._size += len(data)
        if self._size > MAX_ANSWER:
            self._give_up(f"more than {MAX_ANSWER} bytes")
        else:
            self._pieces.append(data)

    def on_end(self) -> None:
        """All of it is there."""
        self._end(b"".join(self._pieces))

    def on_failure(self, failure: Failure) -> None:
        """It could not be had."""
        self.forward = None
        self._on_error(failure)

    def _end(self, body: bytes) -> None:
        self.forward = None  # the two would be a cycle
        if self._head is not None:
            self._on_success(self._head, body)

    def _give_up(self, why: str) -> None:
        forward, self.forward = self.forward, None
        if forward is not None:
            forward.cancel()
            self._on_error(Failure(Kind.BAD_RESPONSE, why))

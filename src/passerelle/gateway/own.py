"""Whole messages for the gateway's own use: a client's short body, and a service's short answer."""

from __future__ import annotations

from collections.abc import Callable

from passerelle.balancing.hedging import HedgeDelay
from passerelle.errors import Failure, Kind
from passerelle.gateway.body import RequestBody
from passerelle.gateway.deadlines import Deadlines
from passerelle.gateway.forward import Forward
from passerelle.gateway.service import Service
from passerelle.gateway.times import STALL
from passerelle.http1.connection import ClientConnection
from passerelle.http1.head import ResponseHead

# The largest answer of a service that the gateway reads for itself, in bytes.
MAX_ANSWER = 65_536


class WholeBody(RequestBody):
    """A body that the gateway itself reads; ``limit`` is its most bytes, no more than a body that can be kept."""

    __slots__ = ("_then",)

    def __init__(self, client: ClientConnection, limit: int) -> None:
        super().__init__(client, limit, False)
        self._then: Callable[[bytes], None] | None = None

    def then(self, call: Callable[[bytes], None]) -> None:
        """Call ``call`` once with all of it, at once if it is there."""
        if self.complete:
            call(b"".join(self._kept))
        else:
            self._then = call

    def finish(self) -> None:
        """The client sent all of it."""
        self.complete = True
        then, self._then = self._then, None
        if then is not None:
            then(b"".join(self._kept))


class OwnLeg:
    """A question that the gateway itself asks of a service."""

    __slots__ = (
        "attempt_deadlines",
        "attempts",
        "deadlines",
        "forward",
        "hedge",
        "service",
        "stream_idle",
        "tells_deadline",
    )

    def __init__(self, service: Service, deadlines: Deadlines, attempts: int, forward: type[Forward]) -> None:
        self.service = service
        self.deadlines = deadlines
        self.attempts = attempts
        self.forward = forward
        self.attempt_deadlines: Deadlines | None = None
        self.hedge: HedgeDelay | None = None
        self.stream_idle = STALL
        self.tells_deadline = False

    def ask(
        self,
        message: bytes,
        now: float,
        answered: Answered,
        failed: Callable[[Failure], None],
        method: bytes = b"POST",
    ) -> Forward:
        """Ask with the whole ``message``; one of the two hears of the end, unless it is cancelled."""
        receiver = _WholeAnswer(answered, failed)
        forward = self.forward(self, receiver, method, message, None, now)
        receiver.forward = forward
        return forward


Answered = Callable[[ResponseHead, bytes], None]


class _WholeAnswer:
    """Collects an answer."""

    streams = False

    __slots__ = ("_answered", "_failed", "_head", "_pieces", "_size", "forward")

    def __init__(self, answered: Answered, failed: Callable[[Failure], None]) -> None:
        self._answered = answered
        self._failed = failed
        self._pieces: list[bytes] = []
        self._size = 0
        self._head: ResponseHead | None = None
        self.forward: Forward | None = None

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
        self._failed(failure)

    def _end(self, body: bytes) -> None:
        self.forward = None  # the two would be a cycle
        if self._head is not None:
            self._answered(self._head, body)

    def _give_up(self, why: str) -> None:
        forward, self.forward = self.forward, None
        if forward is not None:
            forward.cancel()
            self._failed(Failure(Kind.BAD_RESPONSE, why))

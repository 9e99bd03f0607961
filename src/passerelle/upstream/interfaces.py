"""What a :class:`.request.UpstreamRequest` is told of a request, and whom it tells of the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from passerelle.balancing.instance import Instance
from passerelle.errors import Failure
from passerelle.http1.head import ResponseHead
from passerelle.upstream.deadlines import DeadlineQueue

if TYPE_CHECKING:
    from passerelle.upstream.request_body import RequestBody


class ResponseReceiver(Protocol):
    """Who asked, and is told of the answer: the calls of :class:`passerelle.http1.interfaces.Receiver`, once each."""

    streams: bool
    """Whether the deadline is for the answer's head alone; else it is for all of the answer."""

    def on_interim(self, head: ResponseHead) -> None:
        """A 1xx response."""

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """The final response's head and the first bytes of its body."""

    def on_data(self, data: bytes) -> None:
        """More of the body."""

    def on_end(self) -> None:
        """The body is complete."""

    def on_failure(self, failure: Failure) -> None:
        """No attempt succeeded, or the answer broke off."""

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """101: the protocol changes."""


class _NullReceiver:
    """Nobody listens any more: what ended must not keep its asker alive (the two would be a cycle)."""

    streams = False

    def on_interim(self, head: ResponseHead) -> None: ...

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None: ...

    def on_data(self, data: bytes) -> None: ...

    def on_end(self) -> None: ...

    def on_failure(self, failure: Failure) -> None: ...

    def on_switch(self, head: ResponseHead, data: bytes) -> None: ...


NULL_RECEIVER = _NullReceiver()

# Stands for the instance before one is picked.
NO_INSTANCE = Instance("")


class ResponseSource(Protocol):
    """What brings an answer to its receiver, whole or piece by piece: a :class:`.request.UpstreamRequest`, or its
    like."""

    @property
    def instance(self) -> Instance:
        """Who is asked, if it is one."""

    @property
    def attempts(self) -> int:
        """How many attempts there were."""

    @property
    def seconds(self) -> float:
        """How long they took."""

    @property
    def hedged(self) -> str | None:
        """What became of the hedge, if there was one."""

    key: bytes | None
    """What the balancer picks by."""

    def start(self) -> None:
        """Begin."""

    def cancel(self) -> None:
        """Nobody wants the answer any more."""

    def pause(self) -> None:
        """The receiver does not keep up."""

    def resume(self) -> None:
        """It does again."""

    def refuse(self, failure: Failure) -> None:
        """Take no more of an answer that is at fault."""


class ResponseStream(Protocol):
    """A response whose body is in flight: the cache and the client aside, :mod:`.stream_idle` watches its progress."""

    progress: int
    """The number of pieces of the body received so far."""

    @property
    def idle_timeout(self) -> float:
        """The longest time without a byte of the body, in seconds."""

    def on_idle_timeout(self) -> None:
        """No byte of the body was received for longer than ``idle_timeout``."""


class CacheOrigin(Protocol):
    """Where the cache gets an answer from."""

    @property
    def deadlines(self) -> DeadlineQueue:
        """The time limit over all of it."""

    @property
    def make_request(
        self,
    ) -> Callable[[Any, ResponseReceiver, bytes, bytes, RequestBody | None, float], ResponseSource]:
        """What carries a request out: called with this origin, who is told, method, message, body and start."""

    def for_revalidation(self) -> CacheOrigin:
        """The same for a request in the background, which is to bring something new."""

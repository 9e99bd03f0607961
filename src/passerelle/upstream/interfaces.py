"""Interfaces between a request to a service, the receiver of the response, and the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from passerelle.balancing.instance import Instance
from passerelle.errors import Failure
from passerelle.http1.head import ResponseHead
from passerelle.http1.interfaces import ResponseEvents
from passerelle.upstream.deadlines import DeadlineQueue

if TYPE_CHECKING:
    from passerelle.upstream.request_body import RequestBody


class ResponseReceiver(ResponseEvents, Protocol):
    """Receives the response to a request to a service, whatever the number of its attempts."""

    streams: bool
    """Whether the deadline ends with the head of the response; otherwise it applies to the whole response."""

    def client_key(self) -> bytes | None:
        """Return the client that the request is counted for; None if it is of no single client."""


class _NullReceiver:
    """Ignores a response. It replaces the receiver of a request that is over: the two would be a reference cycle."""

    streams = False

    def client_key(self) -> bytes | None:
        return b""

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
    """Delivers a response to its receiver, at once or piece by piece: a request to a service, or a composition."""

    @property
    def instance(self) -> Instance:
        """The instance of the last attempt, if there is a single one."""

    @property
    def attempts(self) -> int:
        """The number of attempts."""

    @property
    def seconds(self) -> float:
        """The duration of the attempts, in seconds."""

    @property
    def hedged(self) -> str | None:
        """The outcome of the hedge; None if there was none."""

    key: bytes | None
    """The balancing key, if the service has one."""

    def start(self) -> None:
        """Start the request."""

    def cancel(self) -> None:
        """Abandon the response; the receiver is not notified."""

    def pause(self) -> None:
        """Pause the response: the receiver does not keep up."""

    def resume(self) -> None:
        """Resume the response: the receiver keeps up again."""

    def refuse(self, failure: Failure) -> None:
        """Abort the response, which is faulty, and report ``failure`` to the receiver."""


class ResponseStream(Protocol):
    """A response whose body is in flight, as :mod:`.stream_idle` sees it."""

    progress: int
    """The number of pieces of the body received so far."""

    @property
    def idle_timeout(self) -> float:
        """The longest time without a byte of the body, in seconds."""

    def on_idle_timeout(self) -> None:
        """No byte of the body was received for longer than ``idle_timeout``."""


class CacheOrigin(Protocol):
    """What the cache requests a response from."""

    @property
    def deadlines(self) -> DeadlineQueue:
        """The time limit of the whole request."""

    @property
    def make_request(
        self,
    ) -> Callable[[Any, ResponseReceiver, bytes, bytes, RequestBody | None, float], ResponseSource]:
        """Makes a request from this origin, the receiver, the method, the message, the body and the start time."""

    def for_revalidation(self) -> CacheOrigin:
        """Return the origin for a revalidation in the background, which must not use stale parts."""

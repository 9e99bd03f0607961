"""What stands between a route and its requests: makers of requests that do something besides, and their receivers."""

from __future__ import annotations

from abc import ABC, abstractmethod

from passerelle.errors import Failure
from passerelle.http1.head import ResponseHead
from passerelle.upstream.interfaces import ResponseReceiver
from passerelle.upstream.request import CallPolicy, RequestMaker, UpstreamRequest
from passerelle.upstream.request_body import RequestBody


class PassingMaker(ABC):
    """Makes the requests of a route by ``make``, and does something besides.

    An object stands in a call policy for the class of requests, which is its ``make``. Tracing uses another class, by
    :meth:`make_with`.
    """

    __slots__ = ("make",)

    def __init__(self, make: RequestMaker) -> None:
        self.make = make

    def __call__(
        self,
        policy: CallPolicy,
        receiver: ResponseReceiver,
        method: bytes,
        message: bytes,
        body: RequestBody | None,
        now: float,
    ) -> UpstreamRequest:
        """Make a request."""
        return self.make_with(self.make, policy, receiver, method, message, body, now)

    @abstractmethod
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
        """As :meth:`__call__`, by ``make`` in place of that of this object."""


class PassingReceiver:
    """Passes a response to another receiver. Subclasses do something besides."""

    __slots__ = ("_receiver", "streams")

    def __init__(self, receiver: ResponseReceiver) -> None:
        self._receiver = receiver
        self.streams = receiver.streams

    def client_key(self) -> bytes | None:
        """Return the client that the request is counted for."""
        return self._receiver.client_key()

    def on_interim(self, head: ResponseHead) -> None:
        """Pass a 1xx response on."""
        self._receiver.on_interim(head)

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """Pass a 101 response on."""
        self._receiver.on_switch(head, data)

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """Pass the head of the response on."""
        self._receiver.on_response(head, data, complete)

    def on_data(self, data: bytes) -> None:
        """Pass a piece of the body on."""
        self._receiver.on_data(data)

    def on_end(self) -> None:
        """End the response."""
        self._receiver.on_end()

    def on_failure(self, failure: Failure) -> None:
        """Pass the failure on."""
        self._receiver.on_failure(failure)

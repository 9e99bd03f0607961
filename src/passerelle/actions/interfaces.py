"""What actions use of the exchange that runs them, and of the encoder of its responses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from passerelle.errors import Failure
from passerelle.http.messages import Response
from passerelle.http1.head import RequestHead, ResponseHead
from passerelle.security.guard import GuardedCall


class BodyReceiver(Protocol):
    """Receives a response: its head, then the pieces of its body."""

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """Send the head and the first bytes of the body, or all of it if ``complete``."""

    def on_data(self, data: bytes) -> None:
        """Send a piece of the body."""

    def on_end(self) -> None:
        """End the response."""


class FileClient(Protocol):
    """The connection of a client that receives a file."""

    def begin_file(self) -> int | None:
        """Prepare for :meth:`send_file` (see :class:`passerelle.http1.interfaces.ServerConnection`)."""

    def send_file(self, connection: int, file: int, offset: int, most: int) -> int | None:
        """Have the kernel send a part of a file (see :class:`passerelle.http1.interfaces.ServerConnection`)."""

    def end_file(self) -> None:
        """End what :meth:`begin_file` has begun."""


class AttachedBody(Protocol):
    """What sends a response, as the exchange controls it."""

    def pause(self) -> None:
        """Stop sending."""

    def resume(self) -> None:
        """Continue."""

    def cancel(self) -> None:
        """End: no more is sent."""


class ActionExchange(BodyReceiver, Protocol):
    """One request on a route with an action."""

    @property
    def method(self) -> bytes:
        """The method of the request."""

    def guarded_call(self) -> GuardedCall:
        """The request as guards see it: the same object at each call."""

    def respond(self, response: Response) -> None:
        """Send ``response`` and finish the exchange. Does nothing after its end."""

    def send_whole(self, status: int, head: bytes, body: bytes) -> None:
        """Send a response and finish the exchange. ``head`` has all its lines but Date."""

    def attach_body(self, body: AttachedBody) -> FileClient:
        """Let ``body`` send the response, and return the connection of the client."""

    def on_failure(self, failure: Failure) -> None:
        """Send an error response, or cut off a response that has begun."""


Action = Callable[[ActionExchange, RequestHead, bytes, Mapping[str, bytes]], None]
"""Handles a request, given its head, its canonical path, and the parameters of the path.

It may raise a :class:`passerelle.errors.Failure`.
"""

Encoder = Callable[[ActionExchange], BodyReceiver]
"""Returns the receiver that compresses a response for the client of the exchange."""

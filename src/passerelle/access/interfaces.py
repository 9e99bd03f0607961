"""What the handlers of this package use of the exchange that runs them."""

from __future__ import annotations

from typing import Protocol

from passerelle.errors import Failure
from passerelle.http.messages import Response
from passerelle.security.guard import GuardedCall
from passerelle.upstream.request import UpstreamRequest
from passerelle.upstream.request_body import BufferedBody


class HandlerExchange(Protocol):
    """One request on a route that the gateway answers itself."""

    @property
    def origin(self) -> bytes | None:
        """The Origin header of the request, or None."""

    @property
    def request_id(self) -> bytes:
        """The id of the request."""

    @property
    def buffered_body(self) -> BufferedBody | None:
        """The request body, or None where there is none."""

    @property
    def finished(self) -> bool:
        """Whether the response was sent, or the client disconnected."""

    def guarded_call(self) -> GuardedCall:
        """The request as guards see it: the same object at each call."""

    def attach_request(self, request: UpstreamRequest) -> None:
        """Cancel ``request`` when the exchange ends first."""

    def respond(self, response: Response) -> None:
        """Send ``response`` and finish the exchange. Does nothing after its end."""

    def on_failure(self, failure: Failure) -> None:
        """Send the error response for ``failure`` and finish the exchange."""

"""Protocols between the two sides of HTTP/1.1 and the code that handles requests.

A :class:`RequestHandler` receives requests from a :class:`ServerConnection` and makes a :class:`ServerExchange` for
each. An :class:`UpstreamReceiver` receives the response to a request that was sent on an upstream connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from passerelle.errors import Failure
from passerelle.http.messages import Response
from passerelle.http1.head import RequestHead, ResponseHead


class UpstreamReceiver(Protocol):
    """Who asked, and is told of the answer."""

    method: bytes

    def on_interim(self, head: ResponseHead) -> None:
        """A 1xx response other than 101 (RFC 9110 §15.2)."""

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """The final response's head, with the first bytes of its body: all of it if ``complete``."""

    def on_data(self, data: bytes) -> None:
        """More of the response's body, not empty."""

    def on_end(self) -> None:
        """The response's body is complete."""

    def on_failure(self, failure: Failure) -> None:
        """There will be no (further) answer."""

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """101: the protocol changes; ``data`` are bytes of the new one that already came."""

    def on_upstream_paused(self) -> None:
        """The upstream does not keep up reading."""

    def on_upstream_resumed(self) -> None:
        """The upstream reads again."""


class ServerExchange(Protocol):
    """One request being carried out, as its connection sees it."""

    @property
    def wants_body(self) -> bool:
        """Whether someone still takes the request body after the response is out."""

    def on_body(self, data: bytes) -> None:
        """Payload of the request body, never empty."""

    def on_body_end(self) -> None:
        """The request body is complete."""

    def on_body_failure(self, failure: Failure) -> None:
        """The request body broke its framing or stalled; nothing more of it comes."""

    def on_body_discarded(self) -> None:
        """The response is out and the connection reads no more of the request body: free what waits for it."""

    def on_client_lost(self) -> None:
        """The client is gone: free everything."""

    def on_client_paused(self) -> None:
        """The client does not keep up reading."""

    def on_client_resumed(self) -> None:
        """The client reads again."""


class Tunnel(Protocol):
    """The other side of a connection after a protocol switch (RFC 9110 §7.8)."""

    def write(self, data: bytes) -> None:
        """Pass bytes on."""

    def write_eof(self) -> None:
        """This side sends no more."""

    def close(self) -> None:
        """This side is gone."""

    def pause_reading(self) -> None:
        """Stop the other side's bytes from coming."""

    def resume_reading(self) -> None:
        """Let them come again."""


class ServerConnection(Tunnel, Protocol):
    """One client's connection, as the listener and request handlers see it."""

    idled: bool
    peer: bytes
    sent: int

    @property
    def scheme(self) -> bytes:
        """``http`` or ``https``."""

    @property
    def local(self) -> bool:
        """Whether the client is on this machine."""

    @property
    def certificate(self) -> Mapping[str, Any] | None:
        """The client's verified TLS certificate, as :meth:`ssl.SSLSocket.getpeercert` returns it; None without one."""

    @property
    def response_started(self) -> bool:
        """Whether a byte of the final response was written."""

    @property
    def receiving(self) -> bool:
        """Whether the request body is still incomplete."""

    @property
    def ended(self) -> bool:
        """Whether the client has closed its sending side (half-close)."""

    def adopt(self, exchange: ServerExchange) -> None:
        """Deliver the events of the current request to ``exchange``. To be called before a response is sent."""

    def send(self, response: Response) -> None:
        """Send a complete response that the gateway made itself."""

    def send_made(self, head: bytes, body: bytes, counted: bool = True) -> None:
        """Send a complete response whose status line and field lines are serialized already (``head``).

        ``counted``: add Content-Length.
        """

    def send_ready(self, message: bytes, size: int) -> bool:
        """Send a complete message with a body of ``size`` bytes that was serialized for a persistent connection.

        Return False, and send nothing, if this connection needs other framing.
        """

    def send_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """Send a response's head with the first bytes of its body, or all of it if ``complete``."""

    def send_head(self, relay: bytes, head: ResponseHead, data: bytes, complete: bool) -> None:
        """Send a response as :meth:`send_response` does, with ``relay`` in place of the field lines of ``head``."""

    def send_body(self, data: bytes) -> None:
        """Send more of the response body; ``data`` is not empty."""

    def end_response(self) -> None:
        """Complete the response body."""

    def send_stored(self, head: bytes, body: bytes | memoryview) -> None:
        """Send a stored response; ``head`` is its status line and all its field lines."""

    def send_interim(self, relay: bytes) -> None:
        """Send a 1xx response (RFC 9110 §15.2)."""

    def send_switch(self, head: ResponseHead, added: bytes) -> None:
        """Send 101 (Switching Protocols) with the field lines ``added``."""

    def begin_tunnel(self, tunnel: Tunnel, idle: float) -> bytes:
        """Stop framing and pass bytes to ``tunnel`` from now on. Return the bytes already read (RFC 9110 §7.8).

        Both sides are closed when neither sends anything for ``idle`` seconds.
        """

    def cut_short(self) -> None:
        """End a response whose body cannot be completed, so that the client sees the truncation (RFC 9112 §8)."""

    def abort(self) -> None:
        """Close the connection at once; what was written and not yet sent is lost."""

    def drain(self) -> None:
        """Close the connection now if it is idle, else after the current request."""

    def check_time(self, now: float) -> None:
        """Enforce the time limits at ``now`` (monotonic seconds)."""

    def invalidate_head(self) -> None:
        """Forget the last request head and everything derived from it."""


class RequestHandler(Protocol):
    """Carries requests out."""

    def on_request(self, connection: ServerConnection, method: bytes, target: bytes, head: RequestHead) -> None:
        """A request's head is complete. Must answer, now or later, through ``connection``."""

    def on_refused(self, connection: ServerConnection, failure: Failure) -> bytes:
        """A message that is no request was refused; gives the request id that the answer carries."""

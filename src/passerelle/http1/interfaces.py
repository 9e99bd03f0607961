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
from passerelle.http1.websocket import FrameTracker


class ResponseEvents(Protocol):
    """The events of the response to one request, each of which occurs at most once, except data and 1xx responses."""

    def client_key(self) -> bytes | None:
        """Return the client that the request is counted for; None if it is of no single client."""

    def on_interim(self, head: ResponseHead) -> None:
        """Handle a 1xx response other than 101 (RFC 9110 §15.2)."""

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """Handle the final response's head and the first bytes of its body, or all of it if ``complete``."""

    def on_data(self, data: bytes) -> None:
        """Handle more of the response body; ``data`` is not empty."""

    def on_end(self) -> None:
        """Handle the end of the response body."""

    def on_failure(self, failure: Failure) -> None:
        """Handle a failure: no response, or no more of it, will arrive."""

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """Handle 101 (Switching Protocols).

        ``data`` holds the bytes of the new protocol that have already arrived.
        """


class UpstreamReceiver(ResponseEvents, Protocol):
    """Receiver of the response to a request that was sent on an upstream connection."""

    method: bytes

    def on_request_sent(self) -> None:
        """Start the time of the instance: it has the whole body, or has responded without it.

        Not called for a request that was sent at once.
        """

    def on_upstream_paused(self) -> None:
        """Stop sending body data: the instance reads more slowly than data arrives."""

    def on_upstream_resumed(self) -> None:
        """Resume sending body data."""


class ServerExchange(Protocol):
    """One request and its response, as the client's connection sees them."""

    @property
    def wants_body(self) -> bool:
        """Whether the request body is still needed once the response has been sent."""

    def on_body(self, data: bytes) -> None:
        """Handle payload of the request body; ``data`` is not empty."""

    def on_body_end(self) -> None:
        """Handle the end of the request body."""

    def on_body_failure(self, failure: Failure) -> None:
        """Handle a request body that is malformed or has stalled; no more of it arrives."""

    def on_body_discarded(self) -> None:
        """Release what waits for the request body.

        The response has been sent, and the connection reads no more of the body.
        """

    def on_client_lost(self) -> None:
        """Release everything: the client has disconnected."""

    def on_client_paused(self) -> None:
        """Stop sending: the client reads more slowly than data is sent."""

    def on_client_resumed(self) -> None:
        """Resume sending."""


class Tunnel(Protocol):
    """One side of a tunnel, as the other side sees it after a protocol switch (RFC 9110 §7.8)."""

    def write(self, data: bytes) -> None:
        """Send ``data``."""

    def write_eof(self) -> None:
        """Close the sending direction: the other side sends no more."""

    def close(self) -> None:
        """Close this side: the other side is gone."""

    def pause_reading(self) -> None:
        """Stop reading: the other side cannot take more data now."""

    def resume_reading(self) -> None:
        """Read again."""


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
    def local_address(self) -> object:
        """The address that the client has connected to, as :meth:`socket.socket.getsockname` returns it."""

    @property
    def certificate(self) -> Mapping[str, Any] | None:
        """The client's verified TLS certificate, as :meth:`ssl.SSLSocket.getpeercert` returns it; None without one."""

    @property
    def exchange(self) -> ServerExchange | None:
        """The exchange of the current request; None between requests."""

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

    def begin_file(self) -> int | None:
        """Prepare for :meth:`send_file`, before the head is sent; return the descriptor of the connection.

        Until :meth:`end_file`, the client counts as paused while any byte is unsent. Return None, and change nothing,
        if the kernel cannot send files to this client: over TLS.
        """

    def send_file(self, connection: int, file: int, offset: int, most: int) -> int | None:
        """Have the kernel send up to ``most`` bytes of the open ``file`` as a part of the response body.

        ``connection`` is what :meth:`begin_file` has returned. Return how many bytes the connection has accepted; 0 at
        the end of the file, and None if it accepts none now. Raise ``OSError`` if the kernel cannot send this file.
        """

    def end_file(self) -> None:
        """End what :meth:`begin_file` has begun."""

    def end_response(self) -> None:
        """Complete the response body."""

    def send_stored(self, head: bytes, body: bytes | memoryview) -> None:
        """Send a stored response; ``head`` is its status line and all its field lines."""

    def send_interim(self, relay: bytes) -> None:
        """Send a 1xx response (RFC 9110 §15.2)."""

    def send_switch(self, head: ResponseHead, added: bytes) -> None:
        """Send 101 (Switching Protocols) with the field lines ``added``."""

    def begin_tunnel(self, tunnel: Tunnel, idle: float, frames: FrameTracker | None) -> bytes:
        """Stop framing and pass bytes to ``tunnel`` from now on. Return the bytes already read (RFC 9110 §7.8).

        ``frames`` follows what is sent to the client, if the protocol is WebSocket.

        Both sides are closed when neither sends anything for ``idle`` seconds.
        """

    def cut_short(self) -> None:
        """End a response whose body cannot be completed, so that the client sees the truncation (RFC 9112 §8)."""

    def abort(self) -> None:
        """Close the connection at once; what was written and not yet sent is lost."""

    def end_stream(self) -> None:
        """End an event stream or a WebSocket in order, because the gateway stops; leave anything else unchanged."""

    def drain(self) -> None:
        """Close the connection now if it is idle, else after the current request."""

    def check_time(self, now: float) -> None:
        """Enforce the time limits at ``now`` (monotonic seconds)."""

    def invalidate_head(self) -> None:
        """Forget the last request head and everything derived from it."""


class RequestHandler(Protocol):
    """Handler of the requests that arrive on a listener's connections."""

    def on_request(self, connection: ServerConnection, method: bytes, target: bytes, head: RequestHead) -> None:
        """Handle a request whose head is complete; respond, now or later, through ``connection``."""

    def on_refused(self, connection: ServerConnection, failure: Failure) -> bytes:
        """Record that a malformed message was refused. Return the request ID for the error response."""

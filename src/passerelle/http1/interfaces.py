"""The contract between a connection to an instance and whoever sends a request on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from passerelle.errors import Failure
from passerelle.http1.head import RequestHead, ResponseHead

if TYPE_CHECKING:
    from passerelle.http1.server.connection import ClientConnection


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


class RequestHandler(Protocol):
    """Carries requests out."""

    def on_request(self, connection: ClientConnection, method: bytes, target: bytes, head: RequestHead) -> None:
        """A request's head is complete. Must answer, now or later, through ``connection``."""

    def on_refused(self, connection: ClientConnection, failure: Failure) -> bytes:
        """A message that is no request was refused; gives the request id that the answer carries."""

"""Long stored bodies, written at the speed of their clients."""

from __future__ import annotations

from typing import Protocol

from passerelle.errors import Failure

# A stored body longer than this is written in slices of this size: written data stays in memory until the client reads
# it, and TLS copies it. The size exceeds the 64 KiB at which a transport reports a slow client.
SLICE = 256 * 1024


class BodyClient(Protocol):
    """The connection that a body is written to."""

    @property
    def closing(self) -> bool:
        """Whether no further data reaches the client."""

    def send_slice(self, data: memoryview) -> None:
        """Write a part of the body."""

    def end_response(self) -> None:
        """Complete the response."""


class BodyWriter:
    """Rest of a long stored body, written at the speed of its client.

    It takes the place of the exchange until the body is sent; the next request waits. The body is not copied: its bytes
    stay in memory while the client reads them, even if the store evicts the entry.
    """

    __slots__ = ("_body", "_client", "_paused")

    wants_body = False

    def __init__(self, client: BodyClient, body: bytes | memoryview) -> None:
        self._client = client
        self._body = memoryview(body)
        self._paused = False

    def send(self) -> None:
        """Write slices until the client falls behind. After the last one, complete the response."""
        client = self._client
        while self._body and not self._paused:
            if client.closing:
                self._body = self._body[:0]
                break
            piece, self._body = self._body[:SLICE], self._body[SLICE:]
            client.send_slice(piece)
        if not self._body:
            client.end_response()

    def send_all(self) -> None:
        """Write the whole rest at once: no event will report that the client catches up."""
        body, self._body = self._body, self._body[:0]
        self._client.send_slice(body)

    def on_client_paused(self) -> None:
        """Stop writing: the client reads too slowly."""
        self._paused = True

    def on_client_resumed(self) -> None:
        """Resume writing."""
        self._paused = False
        self.send()

    def on_client_lost(self) -> None:
        """Discard the rest: the client has disconnected."""
        self._body = self._body[:0]

    def on_body(self, data: bytes) -> None:
        """Do nothing: no request body is left to read."""

    def on_body_end(self) -> None:
        """Do nothing: no request body is left to read."""

    def on_body_failure(self, failure: Failure) -> None:
        """Do nothing: no request body is left to read."""

    def on_body_discarded(self) -> None:
        """Do nothing: no request body is left to read."""

"""The end of a long stored answer, written as its client takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from passerelle.errors import Failure

if TYPE_CHECKING:
    from passerelle.http1.server.response_writer import ResponseWriter

# A stored body over this goes out in slices of this size: what is written at once is held until it is taken, and by TLS
# it is copied. Over the 64 KiB from which on a transport says that its client does not keep up.
SLICE = 256 * 1024


class BodyWriter:
    """What is left of a stored ``body``: the connection's exchange until it is out, and the next request waits for it.

    It is not copied. Its bytes stay for as long as a client takes them, though the store may have let go of them.
    """

    __slots__ = ("_body", "_client", "_paused")

    wants_body = False

    def __init__(self, client: ResponseWriter, body: bytes | memoryview) -> None:
        self._client = client
        self._body = memoryview(body)
        self._paused = False

    def send(self) -> None:
        """Write as much as the client keeps up with; behind the last of it the response is complete."""
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
        """Write all of it now: nobody will say when the client keeps up."""
        body, self._body = self._body, self._body[:0]
        self._client.send_slice(body)

    def on_client_paused(self) -> None:
        """The client does not keep up."""
        self._paused = True

    def on_client_resumed(self) -> None:
        """It does again."""
        self._paused = False
        self.send()

    def on_client_lost(self) -> None:
        """The client is gone."""
        self._body = self._body[:0]

    def on_body(self, data: bytes) -> None:
        """There is none."""

    def on_body_end(self) -> None:
        """There is none."""

    def on_body_failure(self, failure: Failure) -> None:
        """There is none."""

    def on_body_discarded(self) -> None:
        """There is none."""

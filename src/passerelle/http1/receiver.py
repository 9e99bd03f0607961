"""The contract between a connection to an instance and whoever sends a request on it."""

from __future__ import annotations

from typing import Protocol

from passerelle.errors import Failure
from passerelle.http1.head import ResponseHead


class Receiver(Protocol):
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

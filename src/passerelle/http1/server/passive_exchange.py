"""An exchange that ignores what happens on its connection."""

from __future__ import annotations

from passerelle.errors import Failure


class PassiveExchange:
    """Ignores the body of the request, and all other events of the connection.

    It suits requests that receive a small response at once: if the client is gone, the connection discards the
    response. Other exchanges derive from it, and handle the events that matter to them.
    """

    wants_body = False

    def on_body(self, data: bytes) -> None:
        """Ignore the body."""

    def on_body_end(self) -> None:
        """Ignore the end of the body."""

    def on_body_failure(self, failure: Failure) -> None:
        """Ignore that the body is malformed or incomplete."""

    def on_body_discarded(self) -> None:
        """Ignore that the rest of the body is not read."""

    def on_client_lost(self) -> None:
        """Ignore that the client is gone."""

    def on_client_paused(self) -> None:
        """Ignore that the client reads slowly."""

    def on_client_resumed(self) -> None:
        """Ignore that the client reads again."""

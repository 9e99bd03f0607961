"""The exchange of a request whose response does not depend on what follows on its connection."""

from __future__ import annotations

from passerelle.errors import Failure


class FinishedExchange:
    """Ignores the body of the request, and all other events of the connection.

    For responses that were sent at once and are small: the connection itself discards them when the client is gone.
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

"""The tunnels of a service: a bound for all of them, and for those of one client."""

from __future__ import annotations

from passerelle.errors import Failure, Kind
from passerelle.http1.client.places import CLIENT_SHARE, SharedPlaces, share_of


class Tunnels:
    """The tunnels of one service in this worker. They take no place of ``max_connections``.

    Each of them is known by the request that it came from.
    """

    __slots__ = ("_clients", "_places", "refused")

    def __init__(self, limit: int = 1024, share: float = CLIENT_SHARE) -> None:
        self._clients: dict[object, bytes | None] = {}
        self._places = SharedPlaces(limit, share_of(limit, share))
        self.refused = 0
        """Number of requests that were refused because there were too many tunnels."""

    def configure(self, limit: int, share: float) -> None:
        """Apply other bounds from now on; ``share`` is the part of ``limit`` that one client may have."""
        self._places.limit, self._places.most = limit, share_of(limit, share)

    def counts(self) -> tuple[int, int]:
        """Return the number of tunnels, and of refused requests."""
        return self._places.taken, self.refused

    def check(self, client: bytes | None) -> None:
        """Raise a Failure if ``client`` can have no further tunnel."""
        places = self._places
        if places.is_full_for(client):
            self.refused += 1
            whose = "the service" if places.taken >= places.limit else "one client"
            raise Failure(Kind.OVERLOADED, f"too many tunnels of {whose}", public=f"too many tunnels of {whose}")

    def add(self, request: object, client: bytes | None) -> None:
        """Count the tunnel of ``request``. Raises a Failure as :meth:`check` does."""
        self.check(client)
        self._places.take(client)
        self._clients[request] = client

    def discard(self, request: object) -> None:
        """Remove the tunnel of ``request``, if it has one."""
        if request in self._clients:
            self._places.give_back(self._clients.pop(request))

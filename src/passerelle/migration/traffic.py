"""How busy each route of a monolith is, and which routes clients use together, in bounded memory.

A visit is a run of requests of one client without a pause. Two routes are together in a visit that has requests for
both. The memory is bounded by the numbers of clients, routes of a visit, and pairs.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from passerelle.migration.access_log import LoggedRequest
from passerelle.migration.folding import NOT_ROUTES
from passerelle.migration.found_routes import FoundRoute
from passerelle.routing.router import Router, RouteRule

PAUSE: Final = 30.0
"""Seconds without a request after which a visit has ended."""
LONGEST_VISIT: Final = 600.0
"""Seconds after which a visit ends in any case: a client may be a program."""
MOST_CLIENTS: Final = 10_000
"""Clients whose visits are followed at the same time; the visit of the one seen longest ago ends early."""
MOST_TOGETHER: Final = 32
"""Routes of one visit."""
MOST_PAIRS: Final = 100_000
MOST_HOSTS: Final = 20


@dataclass(slots=True)
class _Visit:
    first: float
    last: float
    routes: set[int]


@dataclass(frozen=True, slots=True)
class Together:
    """Two routes, by their numbers: the visits with both, and their share of the visits of the rarer one."""

    first: int
    second: int
    visits: int
    share: float


class Traffic:
    """Counts requests by route. ``routes`` are numbered in their order."""

    def __init__(self, routes: Sequence[FoundRoute]) -> None:
        """Build the table.

        :raises ValueError: if the gateway cannot have it.
        """
        self._router = Router(
            RouteRule(
                route.host.encode() if route.host is not None else None,
                frozenset(method.encode() for method in route.methods) or None,
                route.path,
                number,
                keeps_slashes=True,
            )
            for number, route in enumerate(routes)
        )
        # For logs without hosts. No more are tried for a request.
        hosts = dict.fromkeys(route.host.encode() for route in routes if route.host is not None)
        self._hosts = (b"", *list(hosts)[:MOST_HOSTS])
        self.requests: Counter[int] = Counter()
        self.visits: Counter[int] = Counter()
        self.unmatched = 0
        """Requests that the monolith has served and that match no route."""
        self.not_found = 0
        """Requests that match no route, and that the monolith has refused as well."""
        self.further_pairs = 0
        self._pairs: Counter[tuple[int, int]] = Counter()
        self._clients: OrderedDict[int, _Visit] = OrderedDict()

    def add(self, request: LoggedRequest) -> None:
        """Count a request."""
        number = self._match(request)
        if number is None:
            if request.status in NOT_ROUTES:
                self.not_found += 1
            else:
                self.unmatched += 1
            return
        self.requests[number] += 1
        visit = self._clients.get(request.client)
        if visit is not None:
            # The lines of several workers are not quite in order, so a time may go back.
            pause, length = abs(request.at - visit.last), abs(request.at - visit.first)
            if pause > PAUSE or length > LONGEST_VISIT or len(visit.routes) >= MOST_TOGETHER:
                self._end(self._clients.pop(request.client))
                visit = None
        if visit is None:
            if len(self._clients) >= MOST_CLIENTS:
                self._end(self._clients.popitem(last=False)[1])
            self._clients[request.client] = _Visit(request.at, request.at, {number})
            return
        visit.last = request.at
        visit.routes.add(number)
        self._clients.move_to_end(request.client)

    def _match(self, request: LoggedRequest) -> int | None:
        for host in (request.host,) if request.host else self._hosts:
            found = self._router.match(host, request.method, request.path).value
            if isinstance(found, int):
                return found
        return None

    def _end(self, visit: _Visit) -> None:
        self.visits.update(visit.routes)
        for pair in combinations(sorted(visit.routes), 2):
            if pair in self._pairs or len(self._pairs) < MOST_PAIRS:
                self._pairs[pair] += 1
            else:
                self.further_pairs += 1

    def finish(self) -> list[Together]:
        """End all visits, and return the pairs, those most often together first."""
        while self._clients:
            self._end(self._clients.popitem()[1])
        pairs = [
            Together(first, second, visits, visits / min(self.visits[first], self.visits[second]))
            for (first, second), visits in self._pairs.items()
        ]
        return sorted(pairs, key=lambda each: (-each.visits, -each.share, each.first, each.second))

    def renumber(self, place: dict[int, int]) -> None:
        """Give the routes of the counts other numbers. No request can be added afterwards."""
        self.requests = Counter({place[number]: count for number, count in self.requests.items()})
        self.visits = Counter({place[number]: count for number, count in self.visits.items()})
